"""Matching detections with targets, against plain loops and by hand."""

import math

import numpy as np
import pytest

from tests.obstruction_objects import NAN, detection, drawn_objects, target
from utils.obstructions.matching import FALSE_POSITIVE, IGNORED, match_detections


def naive_iou(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return common / (sum(areas) - common)


def naive_match(detections, targets, known):
    """Lists as in a record, by loops over detections and targets."""
    record = {f"detection_{name}": [] for name in
              ("score", "iou50", "point", "point_error_px", "point_error_mm", "stenosis_error_points")}
    taken = {"iou50": set(), "point": set()}
    for index in sorted(range(len(detections)), key=lambda index: (-detections[index].score, index)):
        one = detections[index]
        x, y = one.point_px
        is_known = known[min(max(round(y), 0), 89)][min(max(round(x), 0), 89)]
        for kind in taken:
            best, choice = -math.inf, FALSE_POSITIVE if is_known else IGNORED
            for number, other in enumerate(targets):
                left, top, right, bottom = other.box_px
                place = other.point_px
                if math.isnan(place[0]):
                    place = (left + right) / 2, (top + bottom) / 2
                if kind == "iou50":
                    fit = naive_iou(one.box_px, other.box_px)
                    belongs = fit >= 0.5
                else:
                    fit = -math.dist(place, one.point_px)
                    belongs = left <= x <= right and top <= y <= bottom
                if belongs and number not in taken[kind] and fit > best:
                    best, choice = fit, number
            taken[kind].add(choice)
            record[f"detection_{kind}"].append(choice)
        true = targets[choice] if choice >= 0 else target(point=(NAN, NAN), stenosis_pct=NAN)
        px = math.dist(one.point_px, true.point_px)
        record["detection_score"].append(one.score)
        record["detection_point_error_px"].append(px)
        record["detection_point_error_mm"].append(px / true.px_per_mm)
        record["detection_stenosis_error_points"].append(one.stenosis_pct - true.stenosis_pct)
    return record


@pytest.mark.parametrize("seed", range(30))
def test_matching_is_that_of_plain_loops(seed):
    rng = np.random.default_rng(seed)
    detections, targets = drawn_objects(rng, count=12, score_steps=6)
    known = rng.random((90, 90)) > 0.3
    record = match_detections(detections, targets, known)
    expected = naive_match(detections, targets, known)
    for name, values in expected.items():
        assert record[name] == pytest.approx(values, nan_ok=True), name
    assert record["target_stenosis_pct"] == pytest.approx([one.stenosis_pct for one in targets], nan_ok=True)
    assert record["target_cass_id"] == [one.cass_id for one in targets]
    assert all(type(value) in (int, float) for values in record.values() for value in values)


def test_the_surest_detection_chooses_first_and_a_target_is_hit_once():
    worse, better = detection(0.9, (10, 10, 30, 24), (12, 12)), detection(0.4)
    record = match_detections([better, worse], [target()])
    assert record["detection_score"] == [0.9, 0.4]
    assert record["detection_iou50"] == record["detection_point"] == [0, FALSE_POSITIVE]
    assert record["detection_point_error_px"][0] == pytest.approx(math.hypot(8, 8))
    assert record["detection_point_error_mm"][0] == pytest.approx(math.hypot(8, 8) / 5)
    assert math.isnan(record["detection_point_error_px"][1])


def test_of_equal_scores_the_first_chooses():
    far, near = detection(0.5, point=(12, 20)), detection(0.5, point=(20, 21))
    assert match_detections([far, near], [target()])["detection_point_error_px"][0] == pytest.approx(8)
    assert match_detections([near, far], [target()])["detection_point_error_px"][0] == pytest.approx(1)


def test_a_detection_between_two_targets_takes_the_nearer_one_and_what_is_left_goes_on():
    left, right = target((10, 10, 30, 30), (14, 20)), target((20, 10, 40, 30), (36, 20))
    between = detection(0.9, (17, 10, 37, 30), (27, 20))  # IoU 13 / 27 and 17 / 23; 13 and 9 px away
    record = match_detections([between], [left, right])
    assert record["detection_iou50"] == record["detection_point"] == [1]
    second = detection(0.8, (19, 10, 39, 30), (28, 20))  # IoU 11 / 29 with the left box; its point is in both
    record = match_detections([between, second], [left, right])
    assert record["detection_iou50"] == [1, FALSE_POSITIVE] and record["detection_point"] == [1, 0]
    unknown = [target((10, 10, 30, 30), (NAN, NAN)), target((20, 10, 40, 30), (NAN, NAN))]
    record = match_detections([between], unknown)
    assert record["detection_point"] == [1]  # the middles of the boxes are 7 and 3 px away
    assert math.isnan(record["detection_point_error_px"][0])


def test_where_nothing_is_known_a_miss_is_ignored_but_a_hit_counts():
    known = np.zeros((64, 64), bool)
    known[:, 40:] = True
    hit, elsewhere = detection(0.9), detection(0.8, (1, 1, 5, 5), (3, 3))
    wrong = detection(0.7, (50, 5, 60, 9), (55, 7))
    by_point_only = detection(0.6, (25, 50, 29, 54), (27, 52))
    targets = [target(), target((26, 40, 60, 60), (50, 50))]
    record = match_detections([hit, elsewhere, wrong, by_point_only], targets, known)
    assert record["detection_iou50"] == [0, IGNORED, FALSE_POSITIVE, IGNORED]
    assert record["detection_point"] == [0, IGNORED, FALSE_POSITIVE, 1]
    everywhere = match_detections([hit, elsewhere, wrong], targets)
    assert everywhere["detection_iou50"] == [0, FALSE_POSITIVE, FALSE_POSITIVE]
    # A point beyond the frame, and one between pixels, belong to the nearest pixel.
    points = [(99, -7), (39.4, 5), (39.6, 5)]
    beyond = [detection(0.9 - place / 10, point=point) for place, point in enumerate(points)]
    assert match_detections(beyond, [], known)["detection_point"] == [FALSE_POSITIVE, IGNORED, FALSE_POSITIVE]


def test_a_box_without_area_hits_no_box_and_edges_are_inside():
    line = (10, 10, 10, 30)
    record = match_detections([detection(0.9, line, (10, 30))], [target(line, (10, 10)), target()])
    assert record["detection_iou50"] == [FALSE_POSITIVE] and record["detection_point"] == [1]


def test_objects_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"score is 1\.5; allowed: a number from 0 to 1"):
        detection(1.5)
    with pytest.raises(ValueError, match="score is nan"):
        detection(NAN)
    with pytest.raises(ValueError, match="x0 <= x1"):
        detection(0.5, (30, 10, 10, 30))
    with pytest.raises(ValueError, match=r"Detection: point_px is \(nan, 3\); allowed: finite"):
        detection(0.5, point=(NAN, 3))
    with pytest.raises(ValueError, match="Target: point_px"):
        target(point=(NAN, 3))
    with pytest.raises(ValueError, match="stenosis_pct is inf"):
        target(stenosis_pct=math.inf)
    with pytest.raises(ValueError, match="cass_id is 30; allowed: a CASS number, or 0"):
        target(cass_id=30)
    with pytest.raises(ValueError, match="px_per_mm is 0; allowed: a number above 0"):
        target(px_per_mm=0)
    with pytest.raises(ValueError, match=r"known is uint8 \(9, 9\); allowed: bool"):
        match_detections([], [], np.ones((9, 9), np.uint8))
