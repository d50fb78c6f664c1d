"""The edges of a mask, to less than its stairs: where they best part its pixels inside from those outside."""

from __future__ import annotations

import numpy as np
from scipy.linalg import solveh_banded
from scipy.spatial import cKDTree

from qca.centerline import STEP_PX, bending_cost, normals
from qca.edges import Offsets
from qca.lumen import Lumen

# Fit to a mask's pixels: those so near to the edge; how gradually a pixel's side is believed; the cost of a bend. By
# trial on the lesions of benchmarks/qca_accuracy.py, seeds 3000-3479; half or twice as much changes little.
NEAR_SHARE, NEAR_PX, SHARPNESS_PX, STIFFNESS, NEWTON_STEPS = 0.01, 1.2, 0.12, 60.0, 6


def fit_to_pixels(line: np.ndarray, offsets: Offsets, lumen: Lumen) -> Offsets:
    """The edges of a mask moved to where they best part its pixels inside from those outside.

    A mask says of each pixel's centre on which side of the edge it is. Over many pixels that is more than the stairs of
    its outline say: a straight edge of n pixels is known to about 1 / n px, the mean of its stairs to 1 / sqrt(n) px.
    """
    rows, columns = np.nonzero((lumen.field > NEAR_SHARE) & (lumen.field < 1 - NEAR_SHARE))
    centres = np.stack([columns, rows], axis=1).astype(float)
    _, nearest = cKDTree(line).query(centres)
    across = normals(line)[nearest]
    away = centres - line[nearest]
    # Along the course in its points, and to the right of it in px; where it bends, good enough beside an edge.
    along = nearest + (away[:, 0] * across[:, 1] - away[:, 1] * across[:, 0]) / STEP_PX
    aside = (away * across).sum(axis=1)
    is_inside = lumen.region[rows, columns]
    beside = (along >= 0) & (along <= len(line) - 1) & ~offsets.bridged[nearest]
    fitted = []
    for offset, side in ((offsets.left, -1), (offsets.right, 1)):
        room = np.interp(along, np.arange(len(line)), offset) - side * aside
        near = beside & (np.abs(room) < NEAR_PX)
        fitted.append(offset + _shift_between(along[near], room[near], is_inside[near], len(line)))
    return offsets._replace(left=fitted[0], right=fitted[1])


def _shift_between(along: np.ndarray, room: np.ndarray, is_inside: np.ndarray, count: int) -> np.ndarray:
    """How far (count,) px an edge is to move outwards so that pixels inside have room and those outside have none.

    along (P,): in points of the course; room (P,): px from a pixel's centre out to the edge; is_inside: bool (P,).
    Logistic regression by Newton's method; what is fitted is a line with a knot a pixel that resists bending.
    """
    knots = int((count - 1) * STEP_PX) + 2
    first = np.minimum((along * STEP_PX).astype(int), knots - 2)
    later = along * STEP_PX - first
    sooner, stiff = 1 - later, STIFFNESS * bending_cost(knots)
    stiff[2] += 1e-3  # where no pixel tells anything
    shift = np.zeros(knots)
    for _ in range(NEWTON_STEPS):
        known = (room + sooner * shift[first] + later * shift[first + 1]) / SHARPNESS_PX
        is_in = 1 / (1 + np.exp(-np.clip(known, -30, 30)))
        pull, hold = (is_in - is_inside) / SHARPNESS_PX, np.maximum(is_in * (1 - is_in), 0.01) / SHARPNESS_PX**2
        slope = np.bincount(first, pull * sooner, knots) + np.bincount(first + 1, pull * later, knots)
        curve = stiff.copy()
        curve[2] += np.bincount(first, hold * sooner**2, knots) + np.bincount(first + 1, hold * later**2, knots)
        curve[1] += np.bincount(first + 1, hold * sooner * later, knots)
        shift -= np.clip(solveh_banded(curve, slope + _times(stiff, shift)), -0.5, 0.5)
    return np.interp(np.arange(count) * STEP_PX, np.arange(knots), shift)


def _times(bands: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A symmetric matrix of upper bands (3, n) by values (n,)."""
    product = bands[2] * values
    for row, offset in ((1, 1), (0, 2)):
        product[:-offset] += bands[row, offset:] * values[offset:]
        product[offset:] += bands[row, offset:] * values[:-offset]
    return product
