"""Crops around a segment, and the lumen drawn in them: where pixels and edges come to lie."""

import cv2
import numpy as np
import pytest

from data.lumen_crops import (
    FARTHEST_PX, LEAST_SIDE_SHARE, MARGIN_SHARE, MOST_WEIGHT, crop_around, cut_out, lumen_maps,
)
from tests.qca_shapes import draw_tubes, edges_of, narrowed, sine_line, straight_line

TURN = cv2.getRotationMatrix2D((79.5, 79.5), 12.0, 1.0)


def smooth_picture():
    y, x = np.mgrid[:160, :160]
    grey = 128 + 60 * np.sin(x / 9) * np.cos(y / 7)
    return np.repeat(np.rint(grey).astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize("side, turn", [(64, None), (336, None), (336, TURN), (40, TURN)])
def test_a_point_of_the_frame_is_where_the_crop_shows_it(side, turn):
    frame = smooth_picture()
    box = (40, 50, 110, 90)
    crop = crop_around(box, side_px=side, frame_side_px=160, turn=turn)
    picture = cut_out(frame, crop)
    rng = np.random.default_rng(0)
    points = rng.uniform((62, 62), (90, 78), (200, 2))
    inside = crop.to_crop(points)
    seen = cv2.remap(picture, *(inside.astype(np.float32)[None, :, axis] for axis in (0, 1)), cv2.INTER_LINEAR)[0, :, 0]
    there = cv2.remap(frame, *(points.astype(np.float32)[None, :, axis] for axis in (0, 1)), cv2.INTER_LINEAR)[0, :, 0]
    assert np.abs(seen.astype(float) - there).mean() < 1.5
    np.testing.assert_allclose(crop.to_frame(inside), points, atol=1e-9)


def test_the_box_lies_in_the_middle_with_its_margin_and_is_not_stretched():
    crop = crop_around((40, 50, 140, 90), side_px=260, frame_side_px=300)
    corners = crop.to_crop(np.array([[40, 50], [140, 90]]))
    assert crop.zoom == pytest.approx(260 / (100 * (1 + 2 * MARGIN_SHARE)))
    np.testing.assert_allclose((corners[0] + corners[1]) / 2, (129.5, 129.5), atol=crop.zoom)
    np.testing.assert_allclose(corners[1] - corners[0], (100 * crop.zoom, 40 * crop.zoom))


def test_a_tiny_box_has_a_crop_that_shows_something():
    crop = crop_around((40, 40, 41, 41), side_px=100, frame_side_px=500)
    assert 100 / crop.zoom == pytest.approx(LEAST_SIDE_SHARE * 500)


def test_beyond_the_frame_a_crop_is_black():
    picture = cut_out(np.full((50, 50, 3), 200, np.uint8), crop_around((0, 0, 40, 40), side_px=80, frame_side_px=50))
    assert picture[0, 0].max() == 0 and picture[40, 40].min() == 200


@pytest.mark.parametrize("side", [160, 400])
@pytest.mark.parametrize("line", [straight_line(), sine_line()], ids=["straight", "winding"])
def test_the_lumen_is_that_of_a_drawing_eight_times_as_fine(line, side):
    left, right = edges_of(line, narrowed(line, 11.0, 60, 30))
    zoom = side / 160
    coverage, distance, _ = lumen_maps((left + 0.5) * zoom - 0.5, (right + 0.5) * zoom - 0.5, side)
    expected, _ = draw_tubes([(left, right)])
    if side == 160:
        assert np.abs(coverage - expected).max() < 0.1
    assert coverage.sum() / zoom**2 == pytest.approx(expected.sum(), rel=0.005)
    assert coverage.dtype == distance.dtype == np.float32


def test_the_distance_is_that_to_the_edge_and_ends_where_it_says_nothing():
    line = straight_line(angle_deg=0.0, length_px=120)
    _, distance, weight = lumen_maps(*edges_of(line, 9.0), 160)
    column = distance[:, 80]
    inside = np.abs(np.arange(160) - 79.6)  # from the course, which runs at y 79.6
    expected = np.clip(4.5 - inside, -FARTHEST_PX, FARTHEST_PX)
    assert np.abs(column - expected)[np.abs(expected) < FARTHEST_PX].max() < 0.3
    assert np.abs(column - expected)[np.abs(expected) < 2].max() < 0.1
    assert distance.min() == -FARTHEST_PX
    # Where the segment was cut off at x 20 and 140 there is no wall, and beyond nobody drew one.
    assert distance[80, 21] > 4 and distance[80, 139] > 4
    assert weight[80, 22:139].all() and not weight[75:85, 2:19].any() and not weight[75:85, 142:158].any()
    assert (weight[50] == 1).all() and (weight[110] == 1).all()


def test_narrow_places_weigh_as_often_as_the_vessel_is_wider():
    line = straight_line(angle_deg=0.0, length_px=120)
    weight = lumen_maps(*edges_of(line, narrowed(line, 9.0, 60, 30)), 160).weight
    assert weight[80, 80] == pytest.approx(2.5, abs=0.05) and weight[84, 80] == pytest.approx(2.5, abs=0.05)
    assert weight[80, 40] == pytest.approx(1, abs=0.05) and weight[100, 80] == 1
    assert lumen_maps(*edges_of(line, narrowed(line, 9.0, 99, 30)), 160).weight.max() == MOST_WEIGHT


def test_edges_outside_of_the_crop_leave_it_empty():
    coverage, distance, weight = lumen_maps(*edges_of(straight_line(middle=(500, 500)), 8.0), 100)
    assert coverage.max() == 0 and distance.max() == -FARTHEST_PX and weight.min() == 1


def test_a_vessel_that_crosses_itself_has_no_edge_inside():
    t = np.linspace(0.0, 2 * np.pi, 800)
    line = np.stack([80 + 45 * np.sin(t), 80 + 30 * np.sin(2 * t)], axis=1)  # an eight, which crosses in its middle
    coverage, distance, _ = lumen_maps(*edges_of(line, 10.0), 160)
    assert coverage[80, 80] == 1 and distance[80, 80] > 2
