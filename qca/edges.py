"""The edges of a lumen beside its course, to a fraction of a pixel, as its profiles across the course show them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qca.centerline import normals, share_at
from qca.lumen import LEVEL, Lumen

PROFILE_STEP_PX = 0.25
REACH = 1.8  # of the largest half width; an edge farther off is that of a side branch
# A lumen of about a pixel never fills its pixels: its profile's peak stays below this, where both edges meet. Its width
# is the profile's area, which no blur changes.
FULL_SHARE = 0.75
AREA_PX, CLEAR_SHARE = 1.75, 0.1  # beside an edge, and how far the profile may be from 1 and 0 there
THIN_REACH_PX, THIN_REACH_BLURS = 3.0, 3.0  # from the course: all of such a profile
SLOPE_PX, MOST_BLUR_PX = 0.5, 2.5  # to either side of an edge, for its steepness; what blurs more hides lesions


class Offsets(NamedTuple):
    """Distances (N,) in px from the course to both edges along its normals, and where a branch was bridged.

    Before `qca.mouths.bridge`, an edge that is not known is nan. blur_px: sigma of what blurs the edges in the lumen's
    field.
    """

    left: np.ndarray
    right: np.ndarray
    bridged: np.ndarray
    blur_px: float = 0.0


def find_offsets(line: np.ndarray, lumen: Lumen, step_px: float = PROFILE_STEP_PX) -> Offsets:
    """The edges where the share of lumen first passes `LEVEL` as seen from the course (N, 2), see `_edge_of`.

    left, right: positive on their own side, as seen along the course (right: `normals`). step_px: of the profiles. The
    mouths of side branches are not bridged yet.
    """
    reach = REACH * share_at(lumen.radius_px, line).max() + THIN_REACH_PX
    steps = int(np.ceil(reach / step_px))
    t = np.arange(-steps, steps + 1) * step_px
    profiles = share_at(lumen.field, line[:, None] + t[:, None] * normals(line)[:, None])
    halves = profiles[:, steps:], profiles[:, steps::-1]
    right, left = (_edge_of(half, step_px) for half in halves)
    blur_px = _blur_of(np.concatenate(halves), step_px)
    near = np.abs(t) <= max(THIN_REACH_PX, THIN_REACH_BLURS * blur_px)
    is_thin = (profiles[:, np.abs(t) <= 1].max(axis=1) < FULL_SHARE) | (profiles[:, steps] < LEVEL)
    if is_thin.any():
        thin = profiles[is_thin][:, near]
        area = thin.sum(axis=1)
        middle = thin @ t[near] / np.maximum(area, 1e-9)
        half = area * step_px / 2
        right[is_thin], left[is_thin] = middle + half, half - middle
    return Offsets(left, right, ~(np.isfinite(left) & np.isfinite(right)), blur_px)


def _blur_of(profiles: np.ndarray, step_px: float) -> float:
    """Sigma in px of the blur of an edge by the steepness of profiles (N, T) from inside to outside; 0 if not known.

    A straight edge blurred by a Gaussian falls by 1 / (sqrt(2 pi) sigma) a px where it passes `LEVEL`.
    """
    crossing = _first_crossing(profiles)
    whole = np.flatnonzero(np.isfinite(crossing) & (profiles[:, 0] > 1 - CLEAR_SHARE))
    if not len(whole):
        return 0.0
    reach = SLOPE_PX / step_px
    inner, outer = (np.clip(crossing[whole] + side * reach, 0, profiles.shape[1] - 1) for side in (-1, 1))
    fall = np.median((_at(profiles[whole], inner) - _at(profiles[whole], outer)) / np.maximum(outer - inner, 1e-9))
    return float(min(step_px / (np.sqrt(2 * np.pi) * max(fall, 1e-9)), MOST_BLUR_PX))


def _edge_of(profiles: np.ndarray, step_px: float) -> np.ndarray:
    """Where the edge is on profiles (N, T) that start inside, px from their start; nan where there is none.

    Between two pixel centres, interpolation finds the crossing of `LEVEL` to 0.1 px only. The area under the profile
    around it, of lumen by pixels' covered shares, is exact; it is taken where the profile runs from inside to outside
    within `AREA_PX` to both sides, as it does unless a branch or a soft map's shoulder is there.
    """
    crossing = _first_crossing(profiles) * step_px
    area = np.pad(np.cumsum((profiles[:, 1:] + profiles[:, :-1]) / 2, axis=1), ((0, 0), (1, 0))) * step_px
    known = np.nan_to_num(crossing)
    start = np.maximum(known - AREA_PX, 0)
    end = np.minimum(known + AREA_PX, (profiles.shape[1] - 1) * step_px)
    inner, outer = (_at(profiles, place / step_px) for place in (start, end))
    by_area = start + _at(area, end / step_px) - _at(area, start / step_px)
    is_clear = ((inner > 1 - CLEAR_SHARE) | (start == 0)) & (outer < CLEAR_SHARE)
    return np.where(is_clear & np.isfinite(crossing), by_area, crossing)


def _at(rows: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Each row (N, T) at a fractional index (N,), interpolated. (N,)"""
    before = np.clip(place.astype(int), 0, rows.shape[1] - 2)
    number, part = np.arange(len(rows)), place - before
    return rows[number, before] * (1 - part) + rows[number, before + 1] * part


def _first_crossing(profiles: np.ndarray) -> np.ndarray:
    """Where profiles (N, T) that start inside first fall below `LEVEL`, in steps from their start; nan where never."""
    below = profiles < LEVEL
    first = np.maximum(below.argmax(axis=1), 1)
    rows = np.arange(len(profiles))
    inner, outer = profiles[rows, first - 1], profiles[rows, first]
    part = (inner - LEVEL) / np.maximum(inner - outer, 1e-9)
    return np.where(below.any(axis=1), first - 1 + np.clip(part, 0, 1), np.nan)


def edge_points(line: np.ndarray, offsets: Offsets) -> tuple[np.ndarray, np.ndarray]:
    """Left and right edge as points (N, 2) px of the same picture as the line."""
    across = normals(line)
    return line - offsets.left[:, None] * across, line + offsets.right[:, None] * across
