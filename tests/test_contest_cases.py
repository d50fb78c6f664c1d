"""What contestants are asked about: cases of a CSV, of folders of any modality, and the prompts made of them."""

import json

import cv2
import nibabel
import numpy as np
import pytest

from contest.cases import cases_of_coco, cases_of_folders, cases_of_table
from contest.contestant import Prompt
from contest.prompts import Asked, main_mask, prompts_of
from data.coco import load_coco
from data.contours import read_contours
from data.errors import DataError
from data.schema import load_table
from tests.csv_fixture import write_tiny_dataset
from tests.test_dicom import write_xa

PLACES = {"box", "points"}


def write_png(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", values)[1].tobytes())
    return path


def disc(size=(40, 60), centre=(25, 18), radius=6):
    y, x = np.ogrid[: size[0], : size[1]]
    return ((x - centre[0]) ** 2 + (y - centre[1]) ** 2 <= radius**2).astype(np.uint8)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return load_table(write_tiny_dataset(tmp_path_factory.mktemp("data")))


def test_a_row_is_a_case_at_its_own_frame_with_all_its_masks(table):
    case = cases_of_table(table)[3]
    frame, masks = case.read()
    assert frame.shape == (96, 96, 3) and frame.dtype == np.uint8
    assert set(masks) == {"segment", "deepsa", "truth"} and all(mask.dtype == bool for mask in masks.values())
    assert masks["segment"].any() and masks["truth"][masks["segment"]].mean() > 0.9
    assert case.patient == table.iloc[3]["patient_id"] and case.view_deg[0] == table.iloc[3]["primary_angle"]
    np.testing.assert_array_equal(case.read_course(), read_contours(table.iloc[3]["contours_path"]).centerline)
    assert len({one.name for one in cases_of_table(table)}) == len(table)


def test_prompts_are_on_the_segment_and_the_same_again(table):
    case = cases_of_table(table)[0]
    _, masks = case.read()
    prompts = prompts_of(case, masks["segment"], ["box", "points", "text", "none"], seed=3)
    x0, y0, x1, y1 = prompts["box"].box_px
    rows, columns = np.nonzero(masks["segment"])
    margin = 5 * 96 / 512
    assert (x0, y1) == pytest.approx((columns.min() - margin, rows.max() + margin))
    assert (y0, x1) == pytest.approx((rows.min() - margin, columns.max() + margin))
    for x, y in prompts["points"].points_px:
        assert masks["segment"][round(y), round(x)]
    assert len(prompts["points"].points_px) == 3 and prompts["points"].point_labels == (1, 1, 1)
    assert prompts["text"].text == "coronary artery" and prompts["none"].kinds == {"none"}
    assert prompts_of(case, masks["segment"], ["points"], seed=3)["points"] == prompts["points"]


def test_jitter_moves_boxes_and_points_by_so_much_and_by_itself(table):
    case = cases_of_table(table)[0]
    _, masks = case.read()
    exact = prompts_of(case, masks["segment"], PLACES, Asked())
    moved = [prompts_of(case, masks["segment"], PLACES, Asked(jitter_px=2.0), seed=seed) for seed in range(200)]
    off = np.array([np.subtract(one["box"].box_px, exact["box"].box_px) for one in moved])
    assert off.std() == pytest.approx(2.0, rel=0.1) and abs(off.mean()) < 0.2
    off = np.array([np.subtract(one["points"].points_px, exact["points"].points_px) for one in moved])
    assert off.std() == pytest.approx(2.0, rel=0.1)
    # Asked alone or with others, moved alike.
    alone = prompts_of(case, masks["segment"], ["points"], Asked(jitter_px=2.0), seed=7)
    assert alone["points"] == moved[7]["points"]
    far = [prompts_of(case, masks["segment"], ["box"], Asked(jitter_px=200.0), seed=seed)["box"] for seed in range(50)]
    assert all(0 <= x0 < x1 <= 95 and 0 <= y0 < y1 <= 95 for x0, y0, x1, y1 in (one.box_px for one in far))


def test_points_without_a_course_lie_in_the_mask_and_an_empty_mask_is_refused(tmp_path):
    write_png(tmp_path / "i" / "a.png", 100 * disc())
    write_png(tmp_path / "m" / "a.png", disc())
    case = cases_of_folders(tmp_path / "i", tmp_path / "m")[0]
    _, masks = case.read()
    for x, y in prompts_of(case, masks["segment"], ["points"])["points"].points_px:
        assert masks["segment"][round(y), round(x)]
    assert main_mask("text", masks) == main_mask("box", masks) == "segment"
    assert main_mask("text", {"segment": 0, "deepsa": 0}) == "deepsa"
    with pytest.raises(ValueError, match="empty"):
        prompts_of(case, np.zeros_like(masks["segment"]), ["box"])


def test_a_prompt_says_of_what_kind_it_is():
    assert Prompt(box_px=(0, 0, 1, 1)).kinds == {"box"} and Prompt(text="a").kinds == {"text"}
    with pytest.raises(ValueError, match="2 points with 1 labels"):
        Prompt(points_px=((0, 0), (1, 1)), point_labels=(1,))


def test_pictures_dicoms_and_volumes_of_a_folder(tmp_path):
    images, masks = tmp_path / "Bilder ä", tmp_path / "masks"
    write_png(images / "one.png", 90 * disc())
    write_png(masks / "one_mask.png", 255 * disc())
    write_xa(images / "two.dcm", (80 * disc() + 20)[None], PositionerPrimaryAngle=30, PositionerSecondaryAngle=-10)
    write_png(masks / "two.png", disc())
    volume = np.zeros((60, 40, 4), np.int16)
    volume[..., 1], volume[..., 2] = disc().T, 2 * disc(centre=(40, 20)).T
    for folder, values in ((images, 500 * volume + 3), (masks, volume)):
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / "three.nii.gz")
    cases = {case.name: case for case in cases_of_folders(images, masks)}
    assert list(cases) == ["one", "three_slice1", "three_slice2", "two"]
    for name, centre in (("one", (25, 18)), ("two", (25, 18)), ("three_slice1", (25, 18)), ("three_slice2", (40, 20))):
        frame, found = cases[name].read()
        assert frame.shape == (40, 60, 3) and frame.dtype == np.uint8
        np.testing.assert_array_equal(found["segment"], disc(centre=centre) > 0)
        assert frame[found["segment"]].mean() > frame[~found["segment"]].mean()
    assert cases["two"].view_deg == (30, -10) and cases["three_slice1"].patient == "three"
    assert [case.name for case in cases_of_folders(images, masks, label=2)] == ["one", "three_slice2", "two"]


def test_annotated_regions_are_cases(tmp_path):
    write_png(tmp_path / "images" / "a.png", 100 * disc())
    annotations = {
        "images": [{"id": 7, "file_name": "a.png", "height": 40, "width": 60}],
        "categories": [{"id": 26, "name": "stenosis"}],
        "annotations": [
            {"id": number, "image_id": 7, "category_id": 26, "iscrowd": 0, "area": 200, "bbox": [x, 10, 10, 20],
             "segmentation": [[x, 10, x + 10, 10, x + 10, 30, x, 30]]}
            for number, x in ((1, 5), (2, 30))
        ],
    }
    (tmp_path / "set.json").write_text(json.dumps(annotations), encoding="utf-8")
    cases = cases_of_coco(load_coco(tmp_path / "set.json", tmp_path / "images"))
    assert [case.name for case in cases] == ["a_1", "a_2"] and {case.patient for case in cases} == {"7"}
    frame, masks = cases[1].read()
    assert frame.shape == (40, 60, 3) and masks["segment"][20, 35] and not masks["segment"][20, 10]
    assert masks["segment"].sum() == 200


def test_folders_that_do_not_fit_are_refused_by_name(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such folder"):
        cases_of_folders(tmp_path / "nowhere", tmp_path)
    write_png(tmp_path / "i" / "a.png", disc())
    (tmp_path / "m").mkdir()
    with pytest.raises(DataError, match="a.png: no mask in"):
        cases_of_folders(tmp_path / "i", tmp_path / "m")
    write_png(tmp_path / "m" / "a.png", disc(size=(40, 61)))
    with pytest.raises(DataError, match="61 x 40 px, its picture 60 x 40"):
        cases_of_folders(tmp_path / "i", tmp_path / "m")[0].read()
    (tmp_path / "i" / "b.nii").write_bytes(b"no volume")
    (tmp_path / "m" / "b.nii").write_bytes(b"no volume")
    with pytest.raises(DataError, match="b.nii: truncated or not a NIfTI"):
        cases_of_folders(tmp_path / "i", tmp_path / "m")
    with pytest.raises(DataError, match="no pictures"):
        cases_of_folders(tmp_path, tmp_path / "m")
