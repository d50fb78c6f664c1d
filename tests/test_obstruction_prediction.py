"""From maps of scores to a ranked list of obstructions."""

import pytest
import torch

from models.obstruction_model import ObstructionOutput
from utils.obstructions.prediction import LEAST_SCORE, MOST, detections


def output_with(peaks, side=64):
    """Peaks as (x, y) cell: (score, half side of the box in cells, stenosis)."""
    cells = side // 4
    maps = {"score": torch.full((1, 1, cells, cells), -9.0), "sides": torch.ones(1, 4, cells, cells),
            "stenosis": torch.zeros(1, 1, cells, cells), "offset": torch.zeros(1, 2, cells, cells)}
    for (x, y), (score, half, stenosis) in peaks.items():
        maps["score"][0, 0, y, x] = torch.logit(torch.tensor(score))
        maps["sides"][0, :, y, x] = half
        maps["stenosis"][0, 0, y, x] = stenosis
        maps["offset"][0, :, y, x] = torch.tensor([0.25, 0.0])
    return ObstructionOutput(torch.zeros(1, 1, side, side), maps["score"], maps["offset"], maps["sides"], maps["stenosis"])


def test_peaks_become_obstructions_best_first_in_px_of_the_frame():
    found = detections(output_with({(3, 4): (0.6, 2.0, 0.55), (12, 10): (0.9, 1.0, 0.8)}), 0, (128, 192))
    assert [round(one.score, 3) for one in found] == [0.9, 0.6]
    best = found[0]
    # 16 cells are 192 px wide and 128 px high: a cell is 12 by 8 px.
    assert best.point_px == pytest.approx(((12.25 + 0.5) * 12 - 0.5, 10.5 * 8 - 0.5))
    assert best.box_px == pytest.approx((11.5 * 12 - 0.5, 9.5 * 8 - 0.5, 13.5 * 12 - 0.5, 11.5 * 8 - 0.5))
    assert best.stenosis_pct == pytest.approx(80, abs=1e-3)


def test_a_lesion_is_listed_once():
    """Beside the best peak: a lower neighbour, one whose box overlaps, one whose point lies in its box."""
    peaks = {(6, 6): (0.9, 3.0, 0.7), (7, 6): (0.8, 3.0, 0.7), (8, 7): (0.7, 3.0, 0.6), (4, 4): (0.5, 0.5, 0.6),
             (13, 13): (0.4, 1.0, 0.5)}
    assert [round(one.score, 3) for one in detections(output_with(peaks), 0, (64, 64))] == [0.9, 0.4]


def test_boxes_stay_in_the_frame_and_faint_scores_out_of_the_list():
    found = detections(output_with({(0, 0): (0.9, 4.0, 0.7), (9, 9): (0.5 * LEAST_SCORE, 1.0, 0.7)}), 0, (64, 64))
    assert len(found) == 1 and found[0].box_px[:2] == (0, 0)


def test_nothing_found_is_an_empty_list_and_many_are_cut():
    assert detections(output_with({}), 0, (64, 64)) == []
    many = {(x, y): (0.5 + 0.001 * x + 0.01 * y, 0.6, 0.5) for x in range(1, 32, 3) for y in range(1, 32, 3)}
    found = detections(output_with(many, side=128), 0, (128, 128))
    assert len(found) == MOST
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
