"""COCO annotations: what is read of them, in which px, and what is said of those that cannot be used."""

import json
import math
import re

import cv2
import numpy as np
import pytest

from data.coco import coco_result, load_coco
from data.errors import DataError

CATEGORIES = [{"id": 1, "name": "1"}, {"id": 2, "name": "12a"}, {"id": 26, "name": "Stenosis"}]
BAR = [10.0, 20.0, 30.0, 20.0, 30.0, 26.0, 10.0, 26.0]  # px of COCO: columns 10 to 29, rows 20 to 25


def picture(number, name, height=64, width=96, **more):
    return {"id": number, "file_name": name, "height": height, "width": width, **more}


def region(number, image_id, polygon=BAR, category_id=26, **more):
    return {"id": number, "image_id": image_id, "category_id": category_id, "segmentation": [polygon], **more}


@pytest.fixture
def folder(tmp_path):
    """Two pictures, 96 x 64 px: a grey one and one in colour."""
    cv2.imwrite(str(tmp_path / "a.png"), np.full((64, 96), 120, np.uint8))
    cv2.imwrite(str(tmp_path / "b.png"), np.full((64, 96, 3), (10, 20, 30), np.uint8))  # OpenCV's BGR
    return tmp_path


def load(folder, images=None, annotations=None, categories=CATEGORIES, category=None, **more):
    content = {"images": [picture(7, "a.png"), picture(8, "b.png")] if images is None else images,
               "annotations": [region(1, 7)] if annotations is None else annotations, "categories": categories, **more}
    path = folder / "some.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return load_coco(path, folder, category)


def refusal(*arguments, **how):
    with pytest.raises(DataError) as refused:
        load(*arguments, **how)
    return str(refused.value)


def test_pictures_regions_and_px(folder):
    regions = load(folder, annotations=[region(1, 8), region(2, 8, category_id=1)])
    grey, color = regions.images
    assert (grey.image_id, color.image_id) == (7, 8) and grey.objects == () and regions.objects == 1
    assert regions.categories == {26: "Stenosis"} and regions.notes == ()
    assert grey.read().shape == (64, 96, 3) and color.read()[0, 0].tolist() == [30, 20, 10]
    assert all(math.isnan(angle) for angle in grey.view_deg)
    found = color.objects[0]
    # From the corner of the first pixel to its centre: half a pixel less.
    assert found.box_px == (9.5, 19.5, 29.5, 25.5)
    mask = found.mask((64, 96))
    assert mask.dtype == bool and mask.shape == (64, 96) and mask.sum() == 20 * 6
    assert mask[20:26, 10:30].all()


def test_results_are_in_px_of_the_annotations(folder):
    found = load(folder, annotations=[region(1, 7, bbox=[10, 20, 20, 6])]).images[0].objects[0]
    result = coco_result(7, 26, found.box_px, 0.5)
    assert result == {"image_id": 7, "category_id": 26, "bbox": [10, 20, 20, 6], "score": 0.5}


def test_several_polygons_are_one_region(folder):
    other = [40.0, 40.0, 44.0, 40.0, 44.0, 44.0, 40.0, 44.0]
    entry = region(1, 7) | {"segmentation": [BAR, other]}
    found = load(folder, annotations=[entry]).images[0].objects[0]
    assert found.box_px == (9.5, 19.5, 43.5, 43.5) and found.mask((64, 96)).sum() == 120 + 16


def test_bbox_that_is_not_the_polygons_is_noted_and_theirs_taken(folder):
    regions = load(folder, annotations=[region(5, 7, bbox=[10, 20, 20, 9]), region(6, 7, bbox=[11, 20, 20, 7])])
    assert [one.box_px for one in regions.images[0].objects] == [(9.5, 19.5, 29.5, 25.5)] * 2
    assert len(regions.notes) == 1 and "annotation 5 (image id 7): bbox [10, 20, 20, 9]" in regions.notes[0]


def test_bbox_alone_is_taken_for_the_region_and_noted(folder):
    regions = load(folder, annotations=[region(5, 7, bbox=[10, 20, 20, 6]) | {"segmentation": []}])
    found = regions.images[0].objects[0]
    assert found.box_px == (9.5, 19.5, 29.5, 25.5) and found.mask((64, 96)).sum() == 120
    assert "annotation 5 (image id 7): has no polygon" in regions.notes[0]


@pytest.mark.parametrize("category, expected", [
    (None, {26: "Stenosis"}), ("stenosis", {26: "Stenosis"}), ("26", {26: "Stenosis"}),
    ("1", {1: "1"}), ("2", {2: "12a"}), ("12a", {2: "12a"})])
def test_category_by_name_then_by_id(folder, category, expected):
    annotations = [region(number, 7, category_id=number) for number in (1, 2, 26)]
    assert load(folder, annotations=annotations, category=category).categories == expected


def test_all_categories_called_stenosis_are_taken(folder):
    categories = [{"id": 3, "name": "stenosis 50-70"}, {"id": 4, "name": "severe stenosis"}, {"id": 5, "name": "stent"}]
    annotations = [region(number, 7, category_id=number) for number in (3, 4, 5)]
    regions = load(folder, annotations=annotations, categories=categories)
    assert set(regions.categories) == {3, 4} and regions.objects == 2


def test_view_angles_where_the_file_has_them(folder):
    image = load(folder, images=[picture(7, "a.png", primary_angle="RAO 30", secondary_angle=25)]).images[0]
    assert image.view_deg == (-30, 25)
    assert "image 7: primary angle 'CRA 3'" in refusal(folder, [picture(7, "a.png", primary_angle="CRA 3")])


def test_file_names_with_folders_of_any_system(folder):
    (folder / "sub").mkdir()
    cv2.imwrite(str(folder / "sub" / "c.png"), np.full((64, 96), 9, np.uint8))
    images = [picture(7, "sub\\c.png"), picture(8, "images/test/a.png")]
    found = load(folder, images=images).images
    assert found[0].path == folder / "sub" / "c.png" and found[1].path == folder / "a.png"


def test_truncated_json_names_the_file_and_its_length(folder):
    load(folder)
    path = folder / "some.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(DataError, match=re.escape(f"{path}: truncated or not JSON")) as refused:
        load_coco(path, folder)
    assert "100 characters" in str(refused.value) and "download it again" in str(refused.value)


def test_missing_file_list_of_results_and_other_json(folder):
    with pytest.raises(DataError, match="absent.json: cannot be read"):
        load_coco(folder / "absent.json", folder)
    (folder / "list.json").write_text("[]")
    with pytest.raises(DataError, match="list.json: holds a list.*results"):
        load_coco(folder / "list.json", folder)
    (folder / "other.json").write_text('{"info": 1}')
    with pytest.raises(DataError, match='other.json: has no list "images" of objects; it has info'):
        load_coco(folder / "other.json", folder)


def test_pictures_that_are_not_there_are_counted_and_named(folder):
    images = [picture(number, f"{number}.png") for number in range(1, 8)] + [picture(9, "a.png")]
    said = refusal(folder, images, [region(1, 9)])
    assert "7 of the 8 pictures" in said and "1.png, 2.png, 3.png, 4.png, 5.png and 2 more" in said
    assert "--images" in said and str(folder) in said


def test_size_that_disagrees_is_said_when_the_picture_is_read(folder):
    image = load(folder, images=[picture(7, "a.png", height=512, width=512)]).images[0]
    with pytest.raises(DataError, match=r"a\.png: 96 x 64 px, annotated as 512 x 512 \(image id 7\)"):
        image.read()


def test_picture_that_is_none_is_named(folder):
    (folder / "a.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"a\.png: truncated or not a picture"):
        load(folder).images[0].read()


@pytest.mark.parametrize("images, said", [
    ([picture(7, "a.png"), picture(7, "b.png")], "two entries of images have id 7"),
    ([picture(7, "a.png"), picture(8, "a.png")], "images 7 and 8 are both a.png"),
    ([picture("7", "a.png")], "images[0] has id '7'"),
    ([picture(7, None)], "image 7 has file_name None"),
    ([picture(7, "a.png", height=0)], "image 7 has height 0 and width 96"),
    ([{"id": 7, "file_name": "a.png"}], "image 7 has height None and width None"),
    ([], "the list \"images\" is empty")])
def test_entries_of_images_that_cannot_be_used(folder, images, said):
    annotations = [region(1, 7)] if images else []
    assert said in refusal(folder, images, annotations)


@pytest.mark.parametrize("change, said", [
    ({"image_id": 99}, "annotation 4 is of image_id 99, which no entry"),
    ({"category_id": "26"}, "annotation 4 has category_id '26'"),
    ({"segmentation": {"counts": "abc", "size": [64, 96]}}, "is a run-length mask (RLE); allowed: polygons"),
    ({"segmentation": BAR}, "has the polygon 10.0; allowed"),
    ({"segmentation": [[1, 2, 3, 4]]}, "has the polygon [1, 2, 3, 4]; allowed"),
    ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "at least three points"),
    ({"segmentation": [[1, 2, 3, 4, 5, math.nan]]}, "has the polygon"),
    ({"segmentation": "x"}, "has a str as segmentation"),
    ({"segmentation": None}, "neither polygons nor a bbox"),
    ({"bbox": [1, 2, 3]}, "has bbox [1, 2, 3]; allowed: [x, y, width, height]"),
    ({"iscrowd": 1}, "has iscrowd 1"),
    ({"segmentation": [[5, 5, 5, 9, 5, 12]]}, "has a box without area"),
    ({"segmentation": [[200, 5, 220, 9, 210, 12]]}, "outside its picture of 96 x 64 px")])
def test_annotations_that_cannot_be_used_are_named(folder, change, said):
    text = refusal(folder, annotations=[region(3, 7), region(4, 7) | change])
    assert said in text and "some.json: annotation 4" in text


def test_two_annotations_of_one_id(folder):
    assert "two entries of annotations have id 3" in refusal(folder, annotations=[region(3, 7), region(3, 8)])


def test_no_category_called_so_lists_what_there_is(folder):
    said = refusal(folder, categories=CATEGORIES[:2], annotations=[region(1, 7, category_id=1)])
    assert 'no category called like "stenosis"; there are 1 "1", 2 "12a"' in said and "--category" in said
    assert "with name or id 'stent'" in refusal(folder, category="stent")


def test_annotations_of_segments_only_are_told_from_stenoses(folder):
    """ARCADE's syntax set lists the category, too, but has none of it."""
    said = refusal(folder, annotations=[region(1, 7, category_id=1), region(2, 7, category_id=1)])
    assert 'no annotation of category 26 "Stenosis"' in said and "{1: 2}" in said and "stenosis, not syntax" in said
