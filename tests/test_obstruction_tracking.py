"""The same obstruction over the frames of a cine: followed as the vessels move, reported once, two stay two."""

import cv2
import numpy as np
import pytest

from utils.obstructions import tracking as obstruction_tracking
from utils.obstructions.matching import Detection
from utils.obstructions.tracking import Look, Sighting, frames_around, link_lesions, motion_picture, moved_points

SIZE = (256, 320)


def sighting(frame_index, x, y, score=0.8, stenosis_pct=60.0, names=None):
    found = Detection(score, (x - 6, y - 4, x + 6, y + 4), (x, y), stenosis_pct)
    return Sighting(frame_index, found, None if names is None else np.array(names))


def look(frame_index, *sightings, motion=None):
    return Look(frame_index, sightings, np.zeros(SIZE, np.uint8) if motion is None else motion)


def vessel_frame(*bends):
    """Dark branched vessels on a bright ground, each moved by its (x, y) px; the frame and the vessels' probability."""
    vessels = np.zeros(SIZE, np.float32)
    for row, (dx, dy) in bends:
        x = np.arange(-60, SIZE[1] + 60, 4)
        y = row + 9 * np.sin(x / 17)  # a winding course: along a straight vessel nobody sees motion
        branches = np.array([[150, row], [170, row - 25]]), np.array([[90, row], [80, row + 24]])
        for line in (np.stack([x, y], 1), *branches):
            points = np.rint(8 * (line + (dx, dy))).astype(np.int32)
            cv2.polylines(vessels, [points], False, 1.0, 5, cv2.LINE_AA, shift=3)
    vessels = np.minimum(vessels, 1)
    frame = np.rint(170 - 100 * vessels)
    frame[::16] = 60  # ribs, which stand still, darker than any vessel
    return np.repeat(frame.astype(np.uint8)[..., None], 3, axis=2), vessels


def picture_of(*bends):
    return motion_picture(*vessel_frame(*bends))


def places(lesion):
    return {one.frame_index: one.detection.point_px for one in lesion.sightings}


@pytest.mark.parametrize("step", [(14, 3), (-11, 8)])
def test_points_go_where_the_vessels_go_and_ribs_do_not_hold_them(step):
    before, after = picture_of((120, (0, 0))), picture_of((120, step))
    points = np.array([[100.0, 120 + 9 * np.sin(100 / 17)], [200.0, 120 + 9 * np.sin(200 / 17)]])
    moved = moved_points(points, before, after, SIZE)
    assert np.abs(moved - points - step).max() < 1.5
    assert np.array_equal(moved_points([[10.0, 20.0]], before, after, SIZE), [[10.0, 20.0]])  # no vessel there


def test_motion_is_in_px_of_the_frame_also_where_its_picture_is_smaller():
    before, after = picture_of((120, (0, 0))), picture_of((120, (10, 0)))
    point = np.array([[100.0, 120 + 9 * np.sin(100 / 17)]])
    in_large = 4 * (point + 0.5) - 0.5
    moved = moved_points(in_large, before, after, (4 * SIZE[0], 4 * SIZE[1]))
    assert moved - in_large == pytest.approx(np.array([[40.0, 0.0]]), abs=5)
    frame, vessels = vessel_frame((120, (0, 0)))
    large = motion_picture(*(cv2.resize(picture, None, fx=4, fy=4) for picture in (frame, vessels)))
    assert large.dtype == np.uint8 and large.shape == (410, 512)


def test_a_lesion_that_moves_farther_than_the_gate_is_one_lesion():
    """Forty px in four steps on a frame of 320, and each step more than the gate: only the flow can follow."""
    step = 1.1 * obstruction_tracking.GATE_SHARE * max(SIZE)
    looks, y = [], 120 + 9 * np.sin(150 / 17)
    for number in range(5):
        motion = picture_of((120, (number * step, 0)))
        looks.append(look(30 + number, sighting(30 + number, 150 + number * step, y), motion=motion))
    assert len(link_lesions(looks, SIZE)) == 1
    still = [look(one.frame_index, *one.sightings) for one in looks]
    assert len(link_lesions(still, SIZE)) == 5


def test_two_lesions_that_pass_each_other_stay_two():
    """On vessels that move in opposite directions; in the second frame each is nearest to where the other was."""
    looks, truth = [], {"right": {}, "left": {}}
    for number in range(4):
        shift = 9.0 * number
        motion = picture_of((100, (shift, 0)), (172, (-shift, 0)))
        truth["right"][number] = (140 + shift, 118.0)
        truth["left"][number] = (154 - shift, 154.0)
        found = [sighting(number, *truth["right"][number], 0.9), sighting(number, *truth["left"][number], 0.6)]
        looks.append(look(number, *found[:: -1 if number % 2 else 1], motion=motion))
    lesions = link_lesions(looks, SIZE)
    assert [places(one) for one in lesions] == [truth["right"], truth["left"]]


def test_crossing_points_are_told_apart_by_the_motion_of_their_vessels(monkeypatch):
    """Two points on one line, which change places: the flow, given here, says which is which."""
    monkeypatch.setattr(obstruction_tracking, "moved_points",
                        lambda points, before, after, size: np.add(points, [[6, 0], [-6, 0]]))
    looks = [look(0, sighting(0, 100, 80, 0.9), sighting(0, 109, 80, 0.5)),
             look(1, sighting(1, 106, 80, 0.9), sighting(1, 103, 80, 0.5))]
    first, second = link_lesions(looks, SIZE)
    assert places(first) == {0: (100, 80), 1: (106, 80)} and places(second) == {0: (109, 80), 1: (103, 80)}


@pytest.mark.parametrize("order", [1, -1])
def test_pairs_are_best_together_not_one_after_the_other(order):
    """A detection lies nearest to the second lesion, but the first has nowhere else to go."""
    before = [sighting(0, 100, 80), sighting(0, 110, 80)][::order]
    lesions = link_lesions([look(0, *before), look(1, sighting(1, 106, 80), sighting(1, 119, 80))], SIZE)
    assert sorted((places(one)[0][0], places(one)[1][0]) for one in lesions) == [(100, 106), (110, 119)]


def test_names_weigh_in_but_do_not_decide_alone():
    lad, lcx = [0.9, 0.1], [0.1, 0.9]
    first = look(0, sighting(0, 100, 80, 0.9, names=lad), sighting(0, 104, 80, 0.5, names=lcx))
    swapped = look(1, sighting(1, 101, 80, 0.9, names=lcx), sighting(1, 103, 80, 0.5, names=lad))
    assert places(link_lesions([first, swapped], SIZE)[0])[0] == (100, 80)
    by_name = {one.detection.point_px: other for lesion in link_lesions([first, swapped], SIZE)
               for one, other in [sorted(lesion.sightings, key=lambda s: s.frame_index)]}
    assert by_name[(100, 80)].detection.point_px == (103, 80)
    alone = look(1, sighting(1, 101, 80, names=lcx))
    assert len(link_lesions([look(0, sighting(0, 100, 80, names=lad)), alone], SIZE)) == 1
    far = look(1, sighting(1, 160, 80, names=lad))
    assert len(link_lesions([look(0, sighting(0, 100, 80, names=lad)), far], SIZE)) == 2


def test_a_frame_without_the_lesion_is_bridged_and_counts_as_nothing():
    y = 120 + 9 * np.sin(150 / 17)
    looks = [look(n, *([] if n == 1 else [sighting(n, 150 + 11 * n, y, score, stenosis)]),
                  motion=picture_of((120, (11 * n, 0))))
             for n, score, stenosis in ((0, 0.4, 50.0), (1, 0, 0), (2, 0.8, 80.0))]
    (lesion,) = link_lesions(looks, SIZE)
    assert lesion.score == pytest.approx((0.4 + 0.8) / 3) and lesion.of_frames == 3
    assert [one.frame_index for one in lesion.sightings] == [2, 0] and lesion.best.frame_index == 2
    assert lesion.stenosis_pct == pytest.approx((0.4 * 50 + 0.8 * 80) / 1.2)
    assert [one.frame_index for one in lesion.seen(0.5)] == [2]


def test_lasting_lesions_come_before_one_bright_flash():
    looks = [look(n, sighting(n, 50, 60, 0.6), *([sighting(n, 200, 90, 0.99)] if n == 2 else [])) for n in range(5)]
    lasting, flash = link_lesions(looks, SIZE)
    assert lasting.score == pytest.approx(0.6) and flash.score == pytest.approx(0.99 / 5)


def test_estimates_that_were_not_made_are_left_out():
    looks = [look(0, sighting(0, 50, 60, 0.9, np.nan)), look(1, sighting(1, 50, 60, 0.3, 40.0, names=[0.2, 0.8]))]
    (lesion,) = link_lesions(looks, SIZE)
    assert lesion.stenosis_pct == 40 and lesion.name_probs.tolist() == [0.2, 0.8]
    (nothing,) = link_lesions(looks[:1], SIZE)
    assert np.isnan(nothing.stenosis_pct) and nothing.name_probs is None


def test_nothing_found_is_no_lesion():
    assert link_lesions([look(0), look(1)], SIZE) == []


@pytest.mark.parametrize("frame_index, frames, count, expected", [
    (10, 40, 5, [8, 9, 10, 11, 12]), (0, 40, 5, [0, 1, 2, 3, 4]), (39, 40, 3, [37, 38, 39]), (1, 3, 5, [0, 1, 2]),
    (4, 9, 1, [4]), (0, 1, 5, [0])])
def test_frames_in_a_row_around_the_one_given(frame_index, frames, count, expected):
    assert frames_around(frame_index, frames, count) == expected


def test_of_the_stretches_with_the_frame_the_fullest_is_taken():
    filling = np.array([0, 0, 1, 5, 9, 9, 9, 9, 2, 0.0])
    assert frames_around(4, 10, 4, filling) == [4, 5, 6, 7]
    assert frames_around(8, 10, 3, filling) == [6, 7, 8]
