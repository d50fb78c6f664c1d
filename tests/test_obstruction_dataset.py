"""The obstruction of the analysed segment in the samples of stage 3, and the phantom's true lesions."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from data.augment import draw_change
from data.dataset import AngiogramDataset, box_of, collate
from data.errors import DataError
from data.masks import mask_coverage
from data.obstructions import known_pixels, obstruction_of_row
from data.schema import load_table
from data.true_lesions import TrueLesion, read_true_lesions
from tests.csv_fixture import write_tiny_dataset

LESION = {"cass_segment": 13, "diameter_stenosis_pct": 64.5, "position_px": [40.0, 30.5], "box_px": [30, 20, 50, 40],
          "px_per_mm": 4.0, "overlapped": False, "in_frame": True, "MLD_mm": 1.0}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return load_table(write_tiny_dataset(tmp_path_factory.mktemp("tiny")))


def test_a_sample_has_the_obstruction_in_px_of_its_picture(table):
    sample, label = AngiogramDataset(table, image_size=192, obstructions=True)[0], obstruction_of_row(table.iloc[0])
    assert {"segment_mask", "obstruction_box", "obstruction_point", "stenosis_pct", "known"} <= set(sample)
    assert "class_index" not in sample
    # Twice as large as the frame: px p of the frame is 2 p + 0.5.
    np.testing.assert_allclose(sample["obstruction_point"], 2 * np.array(label.mld_px) + 0.5, atol=1e-4)
    np.testing.assert_allclose(sample["obstruction_box"], 2 * np.array(label.box_px) + 0.5, atol=4)
    assert float(sample["stenosis_pct"]) == pytest.approx(label.stenosis_pct)
    x0, y0, x1, y1 = sample["obstruction_box"].tolist()
    x, y = sample["obstruction_point"].tolist()
    assert x0 < x < x1 and y0 < y < y1


def test_point_and_box_go_with_the_augmented_picture(table):
    """The point stays where the picture moved it: in the segment, and in the box."""
    dataset, seen = AngiogramDataset(table, image_size=96, augment=True, obstructions=True), 0
    for epoch in range(12):
        sample = dataset[(0, epoch)]
        if sample["obstruction_point"].isnan().any():
            continue
        seen += 1
        x, y = sample["obstruction_point"].round().int().tolist()
        assert sample["segment_mask"][0, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].any()
        x0, y0, x1, y1 = sample["obstruction_box"].tolist()
        assert x0 - 1 <= x <= x1 + 1 and y0 - 1 <= y <= y1 + 1
    assert seen > 6


def test_what_is_not_in_the_picture_is_nan(table, monkeypatch):
    away = replace(draw_change(np.random.default_rng(0)), angle_deg=0.0, scale=1.0, shift=(2.0, 0.0))
    monkeypatch.setattr("data.dataset.draw_change", lambda rng: away)
    sample = AngiogramDataset(table, image_size=96, augment=True, obstructions=True)[0]
    assert sample["obstruction_point"].isnan().all() and sample["obstruction_box"].isnan().all()


def test_other_vessels_are_unknown_in_the_picture(table):
    sample = AngiogramDataset(table, image_size=96, obstructions=True)[0]
    segment, vessels = sample["segment_mask"][0].bool().numpy(), sample["deepsa_mask"][0].bool().numpy()
    segment |= mask_coverage(obstruction_of_row(table.iloc[0]).section, (96, 96)) > 0  # the plaque is known too
    np.testing.assert_array_equal(sample["known"][0].bool().numpy(), known_pixels(segment, vessels))
    assert (sample["known"][0].numpy()[segment] == 1).all() and (sample["known"] == 0).any()


def test_obstructions_do_not_change_the_augmented_picture(table):
    plain, more = (AngiogramDataset(table, image_size=96, augment=True, obstructions=o)[(1, 3)] for o in (False, True))
    assert torch.equal(plain["image"], more["image"]) and torch.equal(plain["deepsa_mask"], more["deepsa_mask"])


def test_for_validation_label_and_truth_come_at_the_frames_own_size(table, tmp_path):
    path = tmp_path / "lesions.json"
    path.write_text(json.dumps([LESION]))
    rows = table.copy()
    rows["true_lesions_path"] = [str(path), *[None] * (len(rows) - 1)]
    dataset = AngiogramDataset(rows, image_size=48, frame_masks=True, obstructions=True)
    sample, without = dataset[0], dataset[1]
    label = obstruction_of_row(rows.iloc[0])
    assert sample["frame_obstruction"].box_px == label.box_px
    assert sample["frame_known"].shape == (96, 96) and sample["frame_known"].dtype == bool
    assert sample["frame_cass_id"] == 13 and sample["frame_px_per_mm"] > 0
    assert sample["frame_lesions"] == read_true_lesions(path) and "frame_lesions" not in without
    batch = collate([sample, without])
    assert batch["frame_lesions"][1] is None and batch["obstruction_box"].shape == (2, 4)
    np.testing.assert_allclose(box_of(label.section)[:2] * 96 - 0.5, np.array(label.box_px).reshape(2, 2).mean(0), atol=1)


def test_true_lesions_are_read_as_they_were_written(tmp_path):
    path = tmp_path / "lesions.json"
    path.write_text(json.dumps([LESION, LESION | {"cass_segment": 2}]))
    first, second = read_true_lesions(path)
    assert first == TrueLesion(13, 64.5, (40.0, 30.5), (30.0, 20.0, 50.0, 40.0), 4.0, False, True)
    assert second.cass_id == 2


@pytest.mark.parametrize(
    "text",
    ["", "[{", "{}x", json.dumps([{}]), json.dumps([LESION | {"box_px": [1, 2]}]), json.dumps([LESION | {"cass_segment": 77}]),
     json.dumps([LESION | {"px_per_mm": None}]), json.dumps(7)],
)
def test_a_bad_file_of_lesions_is_named(tmp_path, text):
    path = tmp_path / "lesions.json"
    path.write_text(text)
    with pytest.raises(DataError, match="lesions.json"):
        read_true_lesions(path)
    with pytest.raises(DataError, match="cannot be opened"):
        read_true_lesions(tmp_path / "none.json")
