"""The shift between a tree and a segment: planted shifts are found, unseen directions are called unseen."""

import cv2
import numpy as np
import pytest
from skimage.draw import polygon2mask

from data.alignment import estimate_shift

SIDE = 256


def _tube(centerline: np.ndarray, half_width: float) -> np.ndarray:
    tangent = np.gradient(centerline, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    offset = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1) * half_width
    outline = np.concatenate([centerline + offset, (centerline - offset)[::-1]])
    return polygon2mask((SIDE, SIDE), outline[:, ::-1])


def _arc(bend: float) -> np.ndarray:
    """(200, 2) points from upper left to lower right; `bend` 0 is straight."""
    t = np.linspace(0, 1, 200)[:, None]
    start, end, middle = np.array([50.0, 40.0]), np.array([190.0, 210.0]), np.array([120.0, 125.0])
    middle = middle + bend * np.array([170.0, -140.0]) / 220
    return (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end


def _case(shift, bend, tree_half_width=6.0):
    """A tree (the vessel, longer than the segment, and a side branch) moved by `shift`, and the segment."""
    line = _arc(bend)
    tree = _tube(line, tree_half_width)
    tree |= _tube(np.linspace(line[90], line[90] + [80.0, -10.0], 50), 3.0)
    move = np.float32([[1, 0, shift[0]], [0, 1, shift[1]]])
    moved = cv2.warpAffine(tree.astype(np.float32), move, (SIDE, SIDE))
    return moved, _tube(line[30:170], 6.0), line[30:170]


@pytest.mark.parametrize("shift", [(7, -4), (-5.5, 2.25), (0, 0), (0.4, 0.3)])
@pytest.mark.parametrize("tree_half_width", [4.5, 6.0, 8.0])
def test_shift_of_a_curved_vessel_is_found_to_a_fraction_of_a_pixel(shift, tree_half_width):
    found = estimate_shift(*_case(shift, bend=80, tree_half_width=tree_half_width))
    assert found.found and found.known_both
    np.testing.assert_allclose(found.shift, shift, atol=0.35)
    np.testing.assert_allclose(found.width_ratio, tree_half_width / 6, rtol=0.1)


@pytest.mark.parametrize("shift", [(7, -4), (3, 8), (0, 0)])
def test_along_a_straight_vessel_the_shift_is_not_known_and_across_it_is(shift):
    found = estimate_shift(*_case(shift, bend=0))
    assert found.found and not found.known_both
    across = np.array([170.0, -140.0]) / np.hypot(170, 140)
    np.testing.assert_allclose(abs(found.across @ across), 1, atol=1e-3)
    np.testing.assert_allclose(found.across_px, np.dot(shift, found.across), atol=0.3)
    assert found.sd_px[0] < 0.3 and found.sd_px[1] > 5


def test_gaps_and_ragged_edges_leave_the_shift_within_a_pixel():
    tree, segment, line = _case((7, -4), bend=80)
    rng = np.random.default_rng(0)
    noise = cv2.GaussianBlur(rng.standard_normal(tree.shape), (0, 0), 3)
    tree = (cv2.GaussianBlur(tree, (0, 0), 1.5) + 0.25 * noise / noise.std() >= 0.5).astype(np.float32)
    tree[120:140] = 0
    np.testing.assert_allclose(estimate_shift(tree, segment, line).shift, (7, -4), atol=1.0)


def test_no_vessel_near_the_segment_means_nothing_found():
    tree, segment, line = _case((0, 0), bend=80)
    for absent in (np.zeros_like(tree), np.roll(tree, 128, axis=1) * (np.arange(SIDE) > 230)):
        found = estimate_shift(absent.astype(np.float32), segment, line)
        assert not found.found and np.isnan(found.shift).all() and found.seen < 0.3
