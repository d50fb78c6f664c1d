"""Scores of a map of CASS names: hand-counted frames, sums over frames, intervals over patients."""

import numpy as np
import pytest

from utils.bootstrap import bootstrap_counts
from utils.metrics import bootstrap_ci
from utils.segments.scores import LEAST_PX_OF_512, score_segments, summarise_segment_scores

CLASSES = (1, 2, 13)
SIDE = 512


def frame():
    """True map: 400 px of 1, 300 px of 2, 200 px of 7, which is none of the classes."""
    true = np.zeros((SIDE, SIDE), np.uint8)
    true[0, :400], true[1, :300], true[2, :200] = 1, 2, 7
    return true


def record(names, true, vessel=None, row=0):
    vessel = (names > 0) | (true > 0) if vessel is None else vessel
    return {"row": row, **score_segments(names, true, vessel, CLASSES)}


def counts_of(counted, level, cass_id):
    return tuple(counted[f"{level}_{kind}_{cass_id}"] for kind in ("tp", "fp", "fn"))


def test_the_truth_itself_is_right():
    true = frame()
    names = np.where(true == 7, 0, true)
    counted = record(names, true)
    assert [counted[f"segments_{total}_px"] for total in ("true", "found", "right")] == [700, 700, 700]
    for level in ("segments", "segments_iou50"):
        assert counts_of(counted, level, 1) == counts_of(counted, level, 2) == (1, 0, 0)
        assert counts_of(counted, level, 13) == (0, 0, 0)
    assert counts_of(counted, "segments_pixel", 1) == (400, 0, 0)
    assert all(type(value) is int for value in counted.values())


def test_pixels_are_counted_by_name():
    true = frame()
    names = np.zeros_like(true)
    names[0, :300], names[1, :300], names[2, :200] = 1, 13, 13
    counted = record(names, true)
    assert counts_of(counted, "segments_pixel", 1) == (300, 0, 100)
    assert counts_of(counted, "segments_pixel", 2) == (0, 0, 300)
    assert counts_of(counted, "segments_pixel", 13) == (0, 500, 0)
    assert counted["segments_right_px"] == 300


def test_a_segment_is_found_when_most_of_its_predicted_vessel_carries_its_name():
    true = frame()
    names = np.zeros_like(true)
    names[0, :120] = 1
    vessel = np.zeros_like(true, bool)
    vessel[0, :220] = True  # 120 of the 220 predicted pixels of 1 carry its name, 120 of its 400 in all
    counted = record(names, true, vessel)
    assert counted["segments_found_px"] == 220
    assert counts_of(counted, "segments", 1) == (1, 0, 0)
    assert counts_of(counted, "segments_iou50", 1) == (0, 1, 1)
    vessel[0, :240] = True  # exactly half of them: not most
    assert counts_of(record(names, true, vessel), "segments", 1) == (0, 0, 1)


def test_a_segment_that_the_vessel_mask_has_not_is_missed():
    true = frame()
    counted = record(np.zeros_like(true), true, np.zeros_like(true, bool))
    assert counts_of(counted, "segments", 1) == counts_of(counted, "segments_iou50", 2) == (0, 0, 1)


def test_a_name_given_mostly_to_something_else_is_a_false_alarm():
    true = frame()
    names = np.zeros_like(true)
    names[0, :400], names[1, :300], names[2, :200] = 1, 1, 0
    names[0, 400:510] = 1  # 400 of 810 are right: it is found, but most of what is called so is not it
    assert counts_of(record(names, true), "segments", 1) == (1, 1, 0)
    assert counts_of(record(names, true), "segments_iou50", 1) == (0, 1, 1)


def test_iou_of_a_half_is_enough():
    true = frame()
    names = np.zeros_like(true)
    names[0, :200] = 1
    assert counts_of(record(names, true), "segments_iou50", 1) == (1, 0, 0)
    names[0, 199] = 0
    assert counts_of(record(names, true), "segments_iou50", 1) == (0, 1, 1)


def test_stubs_are_not_segments_and_what_a_stub_is_grows_with_the_frame():
    true = np.zeros((SIDE, SIDE), np.uint8)
    true[0, : LEAST_PX_OF_512 - 1] = 1
    names = np.zeros_like(true)
    names[5, : LEAST_PX_OF_512 - 1] = 2
    counted = record(names, true)
    assert counts_of(counted, "segments", 1) == counts_of(counted, "segments", 2) == (0, 0, 0)
    assert counts_of(counted, "segments_pixel", 1) == (0, 0, LEAST_PX_OF_512 - 1)
    small = true[:256, :256].copy()
    assert counts_of(record(np.zeros_like(small), small), "segments", 1) == (0, 0, 1)


def test_maps_of_different_sizes_are_refused():
    true = frame()
    with pytest.raises(ValueError, match="differ in size"):
        score_segments(true[:10], true, true > 0, CLASSES)


def test_counts_are_summed_before_scores_are_computed():
    true, half = frame(), frame()
    names = np.where(true == 7, 0, true)
    wrong = names.copy()
    wrong[0, :400] = 2
    records = [record(names, true, row=3), record(wrong, half, row=0), {"row": 1, "loss": 0.5}]
    summary = summarise_segment_scores(records, ["a", "b", "c", "d"], CLASSES)
    assert summary["pixel_accuracy_map"] == pytest.approx(1000 / 1400)
    assert summary["pixel_accuracy_map_found"] == pytest.approx(1000 / 1400)
    # Segments: first frame 2 TP; second: 1 missed, 2 found, and 2 named where most pixels are not it.
    assert summary["segment_f1_map"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert summary["segment_f1_1"] == pytest.approx(2 / 3)
    assert summary["f1_pixel_2"] == pytest.approx(2 * 600 / (2 * 600 + 400))
    assert np.isnan(summary["segment_f1_13"])
    low, high = summary["segment_f1_map_ci95"]
    assert low == pytest.approx(2 / 4) and high == 1  # of one patient only, or of the other only
    assert summary["segment_f1_map_iou50"] < summary["segment_f1_map"]
    assert all(isinstance(summary[f"{name}_ci95"], list) for name in summary if not name.endswith("_ci95"))


def test_without_a_true_map_there_are_no_scores():
    assert summarise_segment_scores([{"row": 0, "loss": 1.0}], ["a"], CLASSES) == {}


def test_the_interval_of_a_mean_is_that_of_the_metrics():
    rng = np.random.default_rng(1)
    right, patients = rng.random(60) > 0.3, rng.integers(0, 12, 60)
    counts = np.stack([right, np.ones(60)], axis=1)
    value, interval = bootstrap_counts(counts, patients, lambda sums: sums[:, :1] / sums[:, 1:])
    assert value[0] == pytest.approx(right.mean())
    np.testing.assert_allclose(interval[0], bootstrap_ci(right, patients))


def test_counts_without_patients_are_refused():
    with pytest.raises(ValueError, match="2 frames with counts and 1 patients"):
        bootstrap_counts(np.ones((2, 3)), ["a"], lambda sums: sums)
