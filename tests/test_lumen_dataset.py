"""Samples of stage 4: crop, box and lumen of the analysed segment, and how they vary in training."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from data.contours import read_contours
from data.dataset import collate
from data.errors import DataError
from data.lumen_crops import crop_around, lumen_maps
from data.lumen_dataset import LEAST_PART, LumenDataset, Section, _part_of, section_of
from data.schema import load_table
from tests.csv_fixture import write_tiny_dataset

SIDE = 112


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return load_table(write_tiny_dataset(tmp_path_factory.mktemp("data"), patients=4, rows_per_patient=1))


def equal(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(torch.as_tensor(first[key]).nan_to_num(-999), torch.as_tensor(second[key]).nan_to_num(-999))
        for key in first)


def test_a_validation_sample_shows_the_segment_in_its_box(table):
    sample = LumenDataset(table, image_size=SIDE, frame_masks=True)[0]
    assert sample["image"].shape == (3, SIDE, SIDE)
    assert sample["lumen"].shape == sample["distance"].shape == (1, SIDE, SIDE)
    assert 0 <= sample["image"].min() and sample["image"].max() <= 1
    x0, y0, x1, y1 = sample["box"].tolist()
    rows, columns = np.nonzero(sample["lumen"][0].numpy() > 0.5)
    assert abs(columns.min() - x0) < 1.5 and abs(rows.min() - y0) < 1.5
    assert abs(columns.max() - x1) < 1.5 and abs(rows.max() - y1) < 1.5
    # The vessel is dark and its surroundings bright: picture and label lie on each other.
    grey, inside, outside = sample["image"].mean(0), sample["distance"][0] > 2, sample["distance"][0] < -5
    assert grey[inside].mean() < grey[outside].mean() - 0.1
    contours, crop = sample["frame_contours"], sample["frame_crop"]
    area_px = sample["lumen"].sum().item() / crop.zoom**2
    widths = np.linalg.norm(contours.left_edge - contours.right_edge, axis=1)
    length = np.linalg.norm(np.diff(contours.centerline, axis=0), axis=1).sum()
    assert area_px == pytest.approx(widths.mean() * length, rel=0.03)
    assert sample["frame_size"] == (96, 96)
    for end, point in zip(sample["ends"].numpy(), contours.centerline[[0, -1]], strict=True):
        np.testing.assert_allclose(end, crop.to_crop(point), atol=0.5)


def test_training_samples_are_a_function_of_seed_epoch_and_row(table):
    how = dict(image_size=SIDE, augment=True, view_dropout=0.5)
    first, again = LumenDataset(table, seed=3, **how), LumenDataset(table, seed=3, **how)
    assert equal(first[1, 2], again[1, 2])
    assert not equal(first[1, 2], first[1, 3]) and not equal(first[1, 2], LumenDataset(table, seed=4, **how)[1, 2])


def test_boxes_and_asked_parts_vary_and_stay_about_the_lumen(table):
    dataset = LumenDataset(table, image_size=SIDE, augment=True, seed=0)
    areas, offs, pointed = [], [], []
    for epoch in range(40):
        sample = dataset[0, epoch]
        rows, columns = np.nonzero(sample["lumen"][0].numpy() > 0.5)
        x0, y0, x1, y1 = sample["box"].tolist()
        size = max(x1 - x0, y1 - y0)
        offs.append(np.array([columns.min() - x0, rows.min() - y0, columns.max() - x1, rows.max() - y1]) / size)
        areas.append((sample["lumen"] > 0.5).float().mean().item())
        assert x1 > x0 and y1 > y0
        pointed.append(not sample["ends"].isnan().any())
    assert 20 <= sum(pointed) <= 36  # of 40
    offs = np.abs(offs)
    assert 0.02 < offs.mean() < 0.1 and offs.max() < 0.35
    assert min(areas) > 0.01 and max(areas) > 1.5 * min(areas)


def test_a_part_is_a_stretch_of_the_segment_and_the_rest_is_no_lumen(table):
    section = section_of(read_contours(table.iloc[0]["contours_path"]))
    points, rng, lengths = len(section.left), np.random.default_rng(0), []
    for _ in range(50):
        part = _part_of(section, rng)
        first = int(np.flatnonzero((section.left == part.left[0]).all(axis=1))[0])
        np.testing.assert_array_equal(part.right, section.right[first : first + len(part.left)])
        lengths.append(len(part.left) / points)
    assert LEAST_PART - 0.01 <= min(lengths) < 0.6 and 0.9 < max(lengths) <= 1
    half = Section(section.left[: points // 2], section.right[: points // 2])
    crop = crop_around(section.box_px, side_px=SIDE, frame_side_px=96)
    coverage, _, _ = lumen_maps(crop.to_crop(half.left), crop.to_crop(half.right), SIDE)
    x, y = np.rint(crop.to_crop((section.left + section.right)[[points // 4, 3 * points // 4]] / 2)).astype(int).T
    assert coverage[y[0], x[0]] == 1 and coverage[y[1], x[1]] == 0


def test_a_batch_keeps_what_belongs_to_frames_as_lists(table):
    dataset = LumenDataset(table, image_size=SIDE, frame_masks=True)
    batch = collate([dataset[0], dataset[1]])
    assert batch["box"].shape == (2, 4) and len(batch["frame_crop"]) == 2 and batch["row"].tolist() == [0, 1]
    assert torch.isnan(batch["view_deg"][1]).all()


def test_edges_with_points_of_their_own_are_matched(table, tmp_path):
    row = table.iloc[0]
    content = json.loads(open(row["contours_path"], encoding="utf-8").read())
    content["left_edge"], content["right_edge"] = content["left_edge"][::2], content["right_edge"][::3]
    path = tmp_path / "contours.json"
    path.write_text(json.dumps(content))
    changed = pd.DataFrame([{**row, "contours_path": str(path)}])
    how = dict(image_size=SIDE, frame_masks=True)
    first, again = LumenDataset(table, **how)[0]["lumen"], LumenDataset(changed, **how)[0]["lumen"]
    assert (first - again).abs().mean() < 0.004


def test_wrong_use_and_missing_files_are_said(table, tmp_path):
    with pytest.raises(ValueError, match="augment or frame_masks"):
        LumenDataset(table, image_size=SIDE, augment=True, frame_masks=True)
    with pytest.raises(ValueError, match="no rows"):
        LumenDataset(table.iloc[:0], image_size=SIDE)
    gone = pd.DataFrame([{**table.iloc[0], "contours_path": str(tmp_path / "gone.json")}])
    with pytest.raises(DataError, match="gone.json"):
        LumenDataset(gone, image_size=SIDE)[0]
