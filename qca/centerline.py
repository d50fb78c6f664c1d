"""The course of a lumen: from the skeleton of its mask to a smooth line from one end to the other."""

from __future__ import annotations

import numpy as np
from scipy.linalg import solveh_banded
from scipy.ndimage import map_coordinates
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra
from skimage.morphology import skeletonize

from data.anatomy import arc_length
from qca.errors import QcaError
from qca.lumen import LEVEL, Lumen

STEP_PX = 0.5  # between points of the line: finer than any edge is known
# A course does not wind within its own width: such bends are those of one wall, or a skeleton's way from pixel to
# pixel.
COURSE_WIDTHS, LEAST_COURSE_PX = 0.4, 2.0
LEAST_ASPECT = 1.5  # length by width; a rounder mask has no course
DIRECTION = 1.5  # half widths over which a line's direction at its end is taken
CORNER = 1.5  # half widths from the middle of an end to its corner, and a little more
MOST_ENDS = 40  # of a skeleton; beyond, only the farthest apart are looked at


def find_course(lumen: Lumen) -> np.ndarray:
    """The course of the lumen as a smooth line (N, 2) of (x, y) px of `lumen.field`, `STEP_PX` apart, end to end.

    Which end comes first is not told. Of the skeleton's paths it is the one with the most volume: a stub of a
    side branch can be longer than the stretch beside it, but is thinner. QcaError for a lumen without a course.
    """
    path, radius = _widest_path(lumen)
    length, width = arc_length(path)[-1], 2 * float(np.median(radius))
    line = _without_corners(path, radius)
    if len(line) < 4 or length < LEAST_ASPECT * width:
        raise QcaError(
            f"the lumen is {length:.0f} px long and {width:.0f} px wide: a blob has no course. A segment must be "
            f"at least {LEAST_ASPECT:g} times as long as wide"
        )
    even = even_line(line)
    return extend_to_ends(smooth_line(even, 2 * share_at(lumen.radius_px, even)), lumen)


def smooth_line(points: np.ndarray, width_px: np.ndarray) -> np.ndarray:
    """A line (n, 2) of evenly spaced points as one that winds no faster than a vessel of widths (n,) px does. (N, 2)

    Minimises the squares of what the points are off and of the line's bends, so that waves 2 pi times as long as
    `COURSE_WIDTHS` widths are halved. Its points are again about `STEP_PX` apart.
    """
    reach_px = np.maximum(COURSE_WIDTHS * width_px, LEAST_COURSE_PX)
    step_px = max(arc_length(points)[-1], 1e-9) / (len(points) - 1)
    weight = (step_px / reach_px) ** 4
    bands = bending_cost(len(points))
    bands[2] += weight
    return even_line(solveh_banded(bands, points * weight[:, None]))


def bending_cost(count: int) -> np.ndarray:
    """The sum of the squares of a series' second differences, a quadratic form, as its upper bands (3, count)."""
    bands = np.zeros((3, count))
    for first, weight in enumerate((1, 4, 1)):  # of each second difference's square, by 1, -2 and 1
        bands[2, first : count - 2 + first] += weight
    bands[1, 1 : count - 1] -= 2
    bands[1, 2:] -= 2
    bands[0, 2:] += 1
    return bands


def even_line(points: np.ndarray, step_px: float = STEP_PX) -> np.ndarray:
    """The same line with evenly spaced points, about `step_px` apart. (N, 2)"""
    arc = arc_length(points)
    where = np.linspace(0, arc[-1], max(2, int(round(arc[-1] / step_px)) + 1))
    return np.stack([np.interp(where, arc, points[:, axis]) for axis in (0, 1)], axis=1)


def extend_to_ends(line: np.ndarray, lumen: Lumen) -> np.ndarray:
    """The line lengthened straight on, or cut, to where it leaves the lumen at either end. (N, 2)"""
    for _ in range(2):
        line = line[::-1]
        radius = share_at(lumen.radius_px, line[-len(line) // 3 :]).max()
        start = max(0, len(line) - 1 - max(2, int(DIRECTION * radius / STEP_PX)))
        along = line[-1] - line[start]
        along /= max(np.linalg.norm(along), 1e-9)
        line = np.concatenate([line, line[-1] + np.arange(STEP_PX, 3 * radius + 4, STEP_PX)[:, None] * along])
        # From a little before the old end on: the thinnest part of a lesion may be fainter than the edge's level.
        near_end = max(start, len(line) - int((4 * radius + 4) / STEP_PX))
        inside = np.flatnonzero(share_at(lumen.field, line[near_end:]) >= LEVEL)
        if len(inside):
            first = near_end + inside[0]
            outside = np.flatnonzero(share_at(lumen.field, line[first:]) < LEVEL)
            if len(outside):
                line = _ending_at_level(line[: first + outside[0] + 1], lumen)
    return even_line(line)


def turned(line: np.ndarray, lumen: Lumen, proximal_px: tuple[float, float] | None) -> bool:
    """Whether a line (N, 2) px of `lumen.field` runs from distal to proximal.

    proximal_px: (x, y) px of the picture, nearer to the proximal end than to the distal one; without it, the wider
    half is the proximal one.
    """
    if proximal_px is None:
        radius, half = share_at(lumen.radius_px, line), len(line) // 2
        # The upper quartile, because a lesion of one half must not decide.
        return bool(np.quantile(radius[:half], 0.75) < np.quantile(radius[half:], 0.75))
    first, last = np.linalg.norm(line[[0, -1]] + lumen.corner - np.asarray(proximal_px, float), axis=1)
    return bool(last < first)


def inner_part(arc: np.ndarray, width: np.ndarray, end_widths: float) -> np.ndarray:
    """Bool (N,): what lies farther than so many widths from either end. arc, width: (N,) px along the course."""
    near = 2 * float(np.median(width))
    first = end_widths * width[arc <= near].max()
    last = end_widths * width[arc[-1] - arc <= near].max()
    inner = (arc > first) & (arc[-1] - arc > last)
    return inner if inner.sum() > 10 else np.ones(len(arc), bool)


def normals(line: np.ndarray) -> np.ndarray:
    """Unit vectors across a line (N, 2), to the right of its direction as seen in the picture (y down). (N, 2)"""
    along = np.gradient(line, axis=0)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    return np.stack([-along[:, 1], along[:, 0]], axis=1)


def share_at(field: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The share of lumen at points (..., 2) of (x, y) px, interpolated between pixel centres; 0 outside."""
    flat = points.reshape(-1, 2)[:, ::-1].T
    return map_coordinates(field, flat, order=1, mode="constant").reshape(points.shape[:-1])


def _ending_at_level(line: np.ndarray, lumen: Lumen) -> np.ndarray:
    """A line whose last point is the first one outside, ended where the share passes `LEVEL`."""
    inner, outer = share_at(lumen.field, line[-2:])
    if inner <= LEVEL or outer >= LEVEL:
        return line
    part = (inner - LEVEL) / (inner - outer)
    return np.concatenate([line[:-1], [line[-2] + part * (line[-1] - line[-2])]])


def _widest_path(lumen: Lumen) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, 2) of (x, y) px along the skeleton, and the distance to the wall there (n,)."""
    rows, columns = np.nonzero(skeletonize(lumen.region))
    if len(rows) < 2:
        raise QcaError("the lumen is a blob of a few pixels without a course; a segment must be longer than wide")
    graph = _neighbour_graph(rows, columns, lumen.region.shape)
    ends = np.flatnonzero((graph > 0).sum(axis=1) == 1)
    if len(ends) < 2:
        raise QcaError("the lumen runs in a loop: its course has no two ends. Cut it where it closes")
    radius = lumen.radius_px[rows, columns]
    away, before = dijkstra(graph, directed=False, indices=ends[:MOST_ENDS], return_predecessors=True)
    best, best_volume = [], -1.0
    for first in range(min(len(ends), MOST_ENDS)):
        for last in ends[first + 1 :]:
            if not np.isfinite(away[first, last]):
                continue
            path = _walk(before[first], int(last))
            volume = float((radius[path] ** 2).sum())
            if volume > best_volume:
                best, best_volume = path, volume
    return np.stack([columns[best], rows[best]], axis=1).astype(float), radius[best]


def _neighbour_graph(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]):
    """Distances between skeleton pixels that touch, sparse (n, n); a corner cut beside two steps is left out."""
    number = np.full((shape[0] + 2, shape[1] + 2), -1)
    number[rows + 1, columns + 1] = np.arange(len(rows))
    pairs, lengths = [], []
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        other = number[rows + 1 + down, columns + 1 + right]
        joined = other >= 0
        if down and right:
            joined &= (number[rows + 1 + down, columns + 1] < 0) & (number[rows + 1, columns + 1 + right] < 0)
        pairs.append(np.stack([np.flatnonzero(joined), other[joined]]))
        lengths.append(np.full(joined.sum(), np.hypot(down, right)))
    (start, end), length = np.concatenate(pairs, axis=1), np.concatenate(lengths)
    both = (np.concatenate([start, end]), np.concatenate([end, start]))
    return coo_array((np.tile(length, 2), both), shape=(len(rows),) * 2).tocsr()


def _walk(before: np.ndarray, last: int) -> list[int]:
    path = [last]
    while before[path[-1]] >= 0:
        path.append(int(before[path[-1]]))
    return path


def _without_corners(path: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """The path without its last stretches, where it leaves the middle for a corner of the lumen's end.

    It does so a half width before a straight end, and from there to the corner are root 2 half widths.
    """
    arc = arc_length(path)
    first = np.flatnonzero(arc <= CORNER * radius).max(initial=0)
    last = np.flatnonzero(arc[-1] - arc <= CORNER * radius).min(initial=len(path) - 1)
    return path[first : last + 1]
