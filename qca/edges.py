"""The edges of a lumen beside its course, to a fraction of a pixel: found, bridged at side branches, smoothed."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from scipy.ndimage import grey_opening, label
from scipy.signal import savgol_coeffs

from qca.centerline import STEP_PX, inner_part, normals, share_at
from qca.lumen import LEVEL, Lumen
from qca.reference import fit_taper

PROFILE_STEP_PX = 0.25
END_WIDTHS = 0.4  # at either end, where a cut that is not square to the course changes the diameter
REACH = 1.8  # of the largest half width; an edge farther off is that of a side branch
# A lumen of about a pixel never fills its pixels: its profile's peak stays below this, where both edges meet. Its width
# is the profile's area, which no blur changes.
FULL_SHARE = 0.75
AREA_PX, CLEAR_SHARE = 1.75, 0.1  # beside an edge, and how far the profile may be from 1 and 0 there
THIN_REACH_PX = 3.0  # from the course: all of such a profile
# A side branch is where an edge stands out by more than these beyond the edge on both sides of it.
BULGE_PX, BULGE_SHARE, BULGE_FLANK_PX = 0.75, 0.15, 0.3
JUMP = 2.5  # px sideways a px along the vessel: steeper than the shoulders of nearly all lesions
OSTIUM_WIDTHS = 2.5  # how long a branch's mouth may be along the vessel, in the vessel's widths
# Half windows in px along the vessel, and how many standard errors two of them may differ.
WINDOWS_PX = (2.0, 3.0, 4.5, 6.5, 9.0, 13.0)
AGREEMENT = 1.0


class Offsets(NamedTuple):
    """Distances (N,) in px from the course to both edges along its normals, and where a branch was bridged."""

    left: np.ndarray
    right: np.ndarray
    bridged: np.ndarray


def find_offsets(line: np.ndarray, lumen: Lumen, step_px: float = PROFILE_STEP_PX) -> Offsets:
    """The edges where the share of lumen first passes `LEVEL` as seen from the course (N, 2), see `_edge_of`.

    left, right: positive on their own side, as seen along the course (right: `normals`). step_px: of the profiles.
    """
    reach = REACH * share_at(lumen.radius_px, line).max() + THIN_REACH_PX
    steps = int(np.ceil(reach / step_px))
    t = np.arange(-steps, steps + 1) * step_px
    profiles = share_at(lumen.field, line[:, None] + t[:, None] * normals(line)[:, None])
    right, left = (_edge_of(half, step_px) for half in (profiles[:, steps:], profiles[:, steps::-1]))
    near = np.abs(t) <= THIN_REACH_PX
    is_thin = (profiles[:, np.abs(t) <= 1].max(axis=1) < FULL_SHARE) | (profiles[:, steps] < LEVEL)
    if is_thin.any():
        thin = profiles[is_thin][:, near]
        area = thin.sum(axis=1)
        middle = thin @ t[near] / np.maximum(area, 1e-9)
        half = area * step_px / 2
        right[is_thin], left[is_thin] = middle + half, half - middle
    return bridge(left, right)


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


def bridge(left: np.ndarray, right: np.ndarray) -> Offsets:
    """Both edges drawn straight across the mouths of side branches.

    left, right: (N,) px, proximal to distal. A mouth is where an edge stands out beyond what it is on both sides
    within `OSTIUM_WIDTHS`, and where the vessel is wider than its healthy taper and than it is anywhere proximally:
    between two narrowings it also stands out, but is only healthy. At a lesion a mouth need not be wider than that;
    there it is told by the jump of the edge where the branch begins or ends.
    """
    total = left + right
    known, index = np.isfinite(total), np.arange(len(total))
    width = float(np.median(total[known])) if known.any() else 1.0
    filled = np.where(known, total, 2 * width)
    inner = np.flatnonzero(inner_part(index * STEP_PX, np.where(known, total, width), END_WIDTHS))
    part = slice(inner[0], inner[-1] + 1)
    size, near = max(3, int(OSTIUM_WIDTHS * width / STEP_PX) | 1), int(width / STEP_PX)
    healthy = fit_taper(index * STEP_PX, filled, known)
    healthy[part] = np.maximum(healthy[part], np.maximum.accumulate(opened(filled[part], size, near)))
    found, bridged = [], np.zeros(len(left), bool)
    for own in (left, right):
        edge, beyond = np.where(np.isfinite(own), own, 2 * width), np.zeros(len(own))
        beyond[part] = edge[part] - opened(edge[part], size, near)
        large = beyond > max(BULGE_PX, BULGE_SHARE * width / 2)
        bulges, count = label(beyond > BULGE_FLANK_PX)
        is_mouth = np.zeros(count + 1, bool)
        is_mouth[bulges[large & (filled > (1 + BULGE_SHARE / 2) * healthy)]] = True
        steep = np.abs(np.gradient(edge)) > JUMP * STEP_PX
        is_mouth[np.intersect1d(bulges[large], bulges[steep])] = True
        is_mouth[0] = False
        mouth = is_mouth[bulges]
        mouth |= ~np.isfinite(own)
        # All of it a mouth: nothing to draw a bridge from.
        found.append(np.interp(index, index[~mouth], own[~mouth]) if not mouth.all() else filled / 2)
        bridged |= mouth
    return Offsets(*found, bridged)


def opened(values: np.ndarray, size: int, near: int) -> np.ndarray:
    """Values (N,) along a course without what stands out over less than `size` points.

    What reaches an end of the course, within `near` points, does not stand out: nobody knows how it goes on.
    """
    near = max(1, near)
    padded = np.pad(values, size, constant_values=(values[:near].max(), values[-near:].max()))
    return grey_opening(padded, size)[size:-size]


def smooth_offsets(offsets: Offsets, least_noise_px: float) -> Offsets:
    """Both edges without the noise of single points, narrowings kept.

    Local parabolas over the largest window that the data do not contradict (intersection of confidence intervals,
    Goldenshluger and Nemirovski, Math. Methods Stat. 1997;6:135-170): a plain mean over a window would fill the
    bottom of a narrowing, and the smallest of many noisy diameters is too small. least_noise_px: the SD that a single
    point has at least, see `Lumen`.
    """
    left, right = (_smooth(offset, least_noise_px) for offset in (offsets.left, offsets.right))
    return Offsets(left, right, offsets.bridged)


def _smooth(offset: np.ndarray, least_noise_px: float) -> np.ndarray:
    halves = [max(2, int(round(half / STEP_PX))) for half in WINDOWS_PX]
    halves = [half for half in halves if 2 * half + 1 <= len(offset)]
    if not halves:
        return offset
    # Beyond its ends an edge goes on as it came, turned about its last point.
    padded = np.pad(offset, halves[-1], mode="reflect", reflect_type="odd")
    fits = [np.convolve(padded[halves[-1] - half : len(padded) - halves[-1] + half], _parabola(half), "valid")
            for half in halves]
    noise = max(least_noise_px, _noise(offset))
    low, high = np.full(len(offset), -np.inf), np.full(len(offset), np.inf)
    best, is_open = fits[0].copy(), np.ones(len(offset), bool)
    for half, fit in zip(halves, fits):
        # A parabola's value in the middle of n independent points has 9 / (4 n) of their variance.
        error = AGREEMENT * noise * np.sqrt(2.25 / max(2.25, (2 * half + 1) * STEP_PX))
        low, high = np.maximum(low, fit - error), np.minimum(high, fit + error)
        is_open &= low <= high
        best = np.where(is_open, fit, best)
    return best


@functools.cache
def _parabola(half: int) -> np.ndarray:
    """Weights (2 half + 1,) of a local parabola's value in the middle of its window."""
    return savgol_coeffs(2 * half + 1, 2)


def _noise(offset: np.ndarray) -> float:
    """SD of single points about a smooth edge, by what three points a pixel apart are off a line."""
    step = max(1, int(round(1 / STEP_PX)))
    bend = offset[2 * step :] - 2 * offset[step:-step] + offset[: -2 * step]
    return float(1.4826 * np.median(np.abs(bend)) / np.sqrt(6)) if len(bend) else 0.0


def edge_points(line: np.ndarray, offsets: Offsets) -> tuple[np.ndarray, np.ndarray]:
    """Left and right edge as points (N, 2) px of the same picture as the line."""
    across = normals(line)
    return line - offsets.left[:, None] * across, line + offsets.right[:, None] * across
