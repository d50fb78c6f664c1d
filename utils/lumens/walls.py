"""The two walls of one vessel between its known ends, and the lumen between them.

    walls = walls_between(probability, distance, ends_px)          # None where there is no vessel
    share = lumen_between(walls, 336)

The course is the likeliest way from end to end. Each wall beside it is a minimum-cost contour, as QCA has found edges
since Reiber et al., Circulation 1985;71:280-288: it keeps to where the predicted distance to the wall is zero, and goes
straight on where there is no such place, across the mouths of side branches, crossing vessels and short gaps. The
lumen between them is one piece without branches, unless no vessel is to be seen over a long stretch.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy.ndimage import binary_opening, gaussian_filter1d, map_coordinates
from skimage.graph import route_through_array

from data.lumen_crops import FINE_SIDE_PX
from data.masks import fill_tube
from qca.centerline import even_line, normals, smooth_line

WAY_CELLS, LEAST_PROBABILITY = 170, 0.02  # a way along a lumen: on so many cells a side; what a gap costs at least
FAINT = 0.2  # probability from which a place next to surer ones belongs to the lumen: a tight lesion is hardly seen
STEP_PX = 1.0  # of the course
REFINEMENTS = 3  # of the course by the middle of its walls
MIDDLE_PX = 2.0  # sigma along the course of what it is moved by
# A profile from the course outwards is in steps of a share of the vessel's width, so that wide vessels may have walls
# as steep as narrow ones have: how many to a width, and how far out, in widths and px.
STEPS_A_WIDTH, LEAST_STEP_PX, REACH_WIDTHS, REACH_PX = 55, 0.12, 0.9, 4.0
# What a wall costs a px of the course: how far off it is (px, at most), less steep than a wall (half of what is
# missing of 1), and for each step aside, squared; MOST_ASIDE steps at most.
MOST_OFF_PX, FLAT_COST, ASIDE_COST, MOST_ASIDE = 2.0, 0.5, 0.04, 6
OUTSIDE_PX, OUTSIDE_COST = 0.5, 0.5  # so far outside of a wall another vessel begins, if any
NEAR_PX = 0.75  # from the contour: so near the distance's own zero is taken
CLOSED_PX = 0.5  # where the distance is nowhere so far inside, the vessel is tight or unsure: as wide as is expected
LEAST_WIDTH_PX = 2.0  # of a vessel that runs on: what is narrower, a model does not tell from closed (LOG.md)
NEAREST_PX = 6.0  # from the course, or half of the vessel's usual width: whose probability is summed there
MOST_GAP_WIDTHS = 2.0  # over a longer stretch without lumen nobody knows that the vessel runs on
# At either end of the course, in the vessel's widths: what is not believed, and how far it may go on from there.
CORNER_WIDTHS, ONWARD_WIDTHS, LIKELY = 0.5, 2.5, 0.5
WIDTH_QUANTILES = (0.75, 0.9)  # of the widths along the way: its usual one, its largest


def walls_between(
    probability: np.ndarray, distance: np.ndarray, ends_px: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Left and right wall (N, 2) px, opposite each other, of the vessel from one end to the other, as seen along it.

    probability, distance: float (S, S), of lumen, and to its wall in px, positive inside. ends_px: (2, 2). Where the
    way begins or ends outside of what may be lumen, it is shortened; None where nothing is left of it. Where no vessel
    is to be seen over more than `MOST_GAP_WIDTHS` widths, the walls meet.
    """
    way = likeliest_way(probability, np.clip(ends_px, 0, len(probability) - 1))
    seen = np.flatnonzero(_at(probability, way) >= FAINT)
    if len(seen) == 0 or seen[-1] - seen[0] < 3:
        return None
    way = way[seen[0] : seen[-1] + 1]
    widths = _widths_along(way, probability, distance)
    usual, largest = np.maximum(np.quantile(widths, WIDTH_QUANTILES), 4)
    step_px = max(usual / STEPS_A_WIDTH, LEAST_STEP_PX)
    out = np.arange(int((REACH_WIDTHS * largest + REACH_PX) / step_px) + 1) * step_px
    line = smooth_line(way, np.full(len(way), usual))
    for _ in range(REFINEMENTS):
        line = even_line(line, STEP_PX)
        right, left = _contours(_profiles(distance, line, out), step_px)
        middle = gaussian_filter1d((right - left) / 2, MIDDLE_PX / STEP_PX, mode="nearest")
        line = smooth_line(line + middle[:, None] * normals(line), np.maximum(left + right, 1))
    line = _with_straight_ends(even_line(line, STEP_PX), probability, usual)
    profiles = _profiles(distance, line, out)
    right, left = _contours(profiles, step_px)
    expected = _profiles(probability, line, out[out <= max(usual / 2, NEAREST_PX)]).sum(axis=(0, 2)) * step_px
    inside = profiles[:, :, out <= 1].max(axis=(0, 2))
    wider = (_believed(left + right, expected, inside, usual) - left - right)[:, None] / 2
    across = normals(line)
    return line - (left[:, None] + wider) * across, line + (right[:, None] + wider) * across


def _believed(width: np.ndarray, expected: np.ndarray, inside: np.ndarray, usual: float) -> np.ndarray:
    """Widths (N,) px by the walls, or by the sum of the probability across where the distance is hardly inside; 0 where
    there is a gap. inside: (N,), the largest distance near the course; usual: the vessel's width."""
    width = np.maximum(np.where(inside < CLOSED_PX, np.maximum(expected, width), width), LEAST_WIDTH_PX)
    unseen = (expected < LEAST_WIDTH_PX / 2) & (inside < 0)
    return np.where(binary_opening(unseen, np.ones(int(MOST_GAP_WIDTHS * usual / STEP_PX))), 0, width)


def lumen_between(walls: tuple[np.ndarray, np.ndarray], side_px: int) -> np.ndarray:
    """The share of each pixel between two walls (N, 2) px, opposite each other, float32 (S, S)."""
    fine = max(2, round(FINE_SIDE_PX / side_px))
    mask = np.zeros((side_px * fine,) * 2, bool)
    fill_tube(mask, *((wall + 0.5) * fine - 0.5 for wall in walls), True)
    return cv2.resize(mask.astype(np.float32), (side_px, side_px), interpolation=cv2.INTER_AREA)


def likeliest_way(probability: np.ndarray, ends_px: np.ndarray) -> np.ndarray:
    """The way (n, 2), (x, y) px, from one end (2, 2) to the other on which lumen is likeliest, evenly spaced."""
    step = max(1, -(-len(probability) // WAY_CELLS))  # a coarse way does
    coarse = cv2.resize(probability, None, fx=1 / step, fy=1 / step, interpolation=cv2.INTER_AREA)
    cells = np.clip(np.rint((np.asarray(ends_px) + 0.5) / step - 0.5), 0, len(coarse) - 1).astype(int)
    steps, _ = route_through_array(1 / (coarse + LEAST_PROBABILITY), *cells[:, ::-1], fully_connected=True)
    way = (np.array(steps, float)[:, ::-1] + 0.5) * step - 0.5
    way[0], way[-1] = ends_px
    return even_line(way, STEP_PX)


def _with_straight_ends(line: np.ndarray, probability: np.ndarray, width: float) -> np.ndarray:
    """A course (N, 2) in steps of `STEP_PX` without its last `CORNER_WIDTHS`, where it may run to a corner of the lumen
    or to an end that somebody gave a little wrong, straight on from there as far as lumen is likely."""
    corner = int(CORNER_WIDTHS * width / STEP_PX)
    if len(line) > 6 * corner:
        line = line[corner : len(line) - corner]
    for _ in range(2):
        before = line[-min(len(line), 2 * corner + 2)]
        along = (line[-1] - before) / max(np.linalg.norm(line[-1] - before), 1e-9)
        ahead = line[-1] + np.arange(1, int(ONWARD_WIDTHS * width / STEP_PX) + 1)[:, None] * STEP_PX * along
        outside = np.flatnonzero(_at(probability, ahead) < LIKELY)
        line = np.concatenate([line, ahead[: outside[0]] if len(outside) else ahead])[::-1]
    return line


def _widths_along(way: np.ndarray, probability: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """About how wide (n,) px the lumen is along a way (n, 2) that runs anywhere in it."""
    region = (distance >= 0) | (probability >= 0.5)
    radius = cv2.distanceTransform(region.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return 2 * _at(radius, way)


def _profiles(field: np.ndarray, line: np.ndarray, out: np.ndarray) -> np.ndarray:
    """A map's values (2, N, R) to the right and to the left of a line (N, 2), at distances (R,) px from it."""
    across = normals(line)[:, None]
    return np.stack([_at(field, line[:, None] + side * out[:, None] * across) for side in (1, -1)])


def _at(field: np.ndarray, points: np.ndarray) -> np.ndarray:
    flat = points.reshape(-1, 2)[:, ::-1].T
    return map_coordinates(field, flat, order=1, mode="nearest").reshape(points.shape[:-1])


def _contours(profiles: np.ndarray, step_px: float) -> np.ndarray:
    """How far out (2, N) px the walls are, by profiles (2, N, R) of the distance to the wall, `step_px` apart."""
    cost = np.minimum(np.abs(profiles), MOST_OFF_PX)
    cost += FLAT_COST * np.clip(1 + np.gradient(profiles, step_px, axis=2), 0, 1)
    outside = np.zeros(profiles.shape, bool)
    outside[:, :, 1:] = np.maximum.accumulate(profiles < -OUTSIDE_PX, axis=2)[:, :, :-1]
    cost = np.where(outside, np.maximum(cost, MOST_OFF_PX + OUTSIDE_COST), cost)
    return _crossing_near(profiles, cheapest_paths(cost, ASIDE_COST, MOST_ASIDE), step_px)


def cheapest_paths(cost: np.ndarray, aside_cost: float, most_aside: int) -> np.ndarray:
    """For each of K pictures (K, N, R) the column (K, N) of each row on the cheapest path from its first row to its
    last; a step aside by k <= `most_aside` columns costs `aside_cost` times k squared. By dynamic programming."""
    count, rows, columns = cost.shape
    moves = np.arange(-most_aside, most_aside + 1)
    came_from = np.zeros((rows, count, columns), int)
    total = cost[:, 0]
    for row in range(1, rows):
        padded = np.pad(total, ((0, 0), (most_aside, most_aside)), constant_values=np.inf)
        before = np.lib.stride_tricks.sliding_window_view(padded, len(moves), axis=1) + aside_cost * moves**2
        best = before.argmin(axis=2)
        came_from[row] = np.arange(columns) + moves[best]
        total = np.take_along_axis(before, best[..., None], axis=2)[..., 0] + cost[:, row]
    path = np.empty((count, rows), int)
    path[:, -1] = total.argmin(axis=1)
    for row in range(rows - 1, 0, -1):
        path[:, row - 1] = came_from[row, np.arange(count), path[:, row]]
    return path


def _crossing_near(profiles: np.ndarray, path: np.ndarray, step_px: float) -> np.ndarray:
    """The places (2, N) px where profiles (2, N, R) fall below zero nearest to a path (2, N), in steps; the path's own
    where none is near."""
    reach, last = max(1, int(NEAR_PX / step_px)), profiles.shape[2] - 2
    found = path * step_px
    for move in sorted(range(-reach, reach), key=abs, reverse=True):  # the nearest overwrites
        at = np.clip(path + move, 0, last)
        inner, outer = (np.take_along_axis(profiles, (at + k)[..., None], axis=2)[..., 0] for k in (0, 1))
        falls = (inner >= 0) & (outer < 0)
        found = np.where(falls, (at + inner / np.where(falls, inner - outer, 1)) * step_px, found)
    return found
