"""The edges of a lumen beside its course, to a fraction of a pixel: found, bridged at side branches, smoothed."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from scipy.linalg import solveh_banded
from scipy.ndimage import binary_dilation, gaussian_filter1d, grey_opening, label, median_filter
from scipy.signal import savgol_coeffs
from scipy.spatial import cKDTree

from qca.centerline import STEP_PX, bending_cost, inner_part, normals, share_at
from qca.lumen import LEVEL, MASK_NOISE_PX, Lumen
from qca.reference import fit_taper

PROFILE_STEP_PX = 0.25
END_WIDTHS = 0.4  # at either end, where a cut that is not square to the course changes the diameter
REACH = 1.8  # of the largest half width; an edge farther off is that of a side branch
# A lumen of about a pixel never fills its pixels: its profile's peak stays below this, where both edges meet. Its width
# is the profile's area, which no blur changes.
FULL_SHARE = 0.75
AREA_PX, CLEAR_SHARE = 1.75, 0.1  # beside an edge, and how far the profile may be from 1 and 0 there
THIN_REACH_PX, THIN_REACH_BLURS = 3.0, 3.0  # from the course: all of such a profile
SLOPE_PX, MOST_BLUR_PX = 0.5, 2.5  # to either side of an edge, for its steepness; what blurs more hides lesions
# A side branch is where an edge stands out by more than these beyond the edge on both sides of it.
BULGE_PX, BULGE_SHARE, BULGE_FLANK_PX = 0.75, 0.15, 0.3
JUMP = 2.5  # px sideways a px along the vessel: steeper than the shoulders of nearly all lesions
FALL = 0.15  # likewise: what falls less is no longer the flank of a mouth
OSTIUM_WIDTHS = 2.5  # how long a branch's mouth may be along the vessel, in the vessel's widths
SHORT_WIDTHS, ONE_SIDED = 1.0, 0.5  # a shorter bulge is a mouth where the other edge stands out less than half as far
BEND_DEG = 60.0  # between the directions before and after a mouth; more is a bend
BESIDE_PX = 2.0  # beside a mouth: what the ends of a bridge are averaged over
CORNER_NOISE_PX = 0.24  # SD of an edge's points at a bridge's end, by the choice of the end
LEAST_HALF_PX = 0.1  # from the course to a bridge
LEAST_INSIDE = 0.25  # of the width: so far the course is from either edge
# Half windows in px along the vessel, and how many standard errors two of them may differ. Windows of fewer px than the
# noise, or the blur, times these tell nothing.
WINDOWS_PX = (1.0, 1.5, 2.0, 3.0, 4.5, 6.5, 9.0, 13.0)
AGREEMENT = 1.0
WINDOW_BY_NOISE, WINDOW_BY_BLUR = 5.0, 1.7
# Fit to a mask's pixels: those so near to the edge; how gradually a pixel's side is believed; the cost of a bend. By
# trial on the lesions of benchmarks/qca_accuracy.py, seeds 3000-3479; half or twice as much changes little.
NEAR_SHARE, NEAR_PX, SHARPNESS_PX, STIFFNESS, NEWTON_STEPS = 0.01, 1.2, 0.12, 60.0, 6


class Offsets(NamedTuple):
    """Distances (N,) in px from the course to both edges along its normals, and where a branch was bridged.

    Before `bridge`, an edge that is not known is nan. blur_px: sigma of what blurs the edges in the lumen's field.
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


def middle_of(offsets: Offsets) -> np.ndarray:
    """How far the middle between both edges lies to the right of the course (N,) px; side branches do not move it.

    It is a median along the vessel, over what may be a branch's mouth and as much beside it.
    """
    known = np.isfinite(offsets.left + offsets.right)
    if not known.any():
        return np.zeros(len(known))
    width = float(np.median((offsets.left + offsets.right)[known]))
    askew = _across((offsets.right - offsets.left) / 2, ~known)
    half = max(1, int(OSTIUM_WIDTHS * width / STEP_PX / 2))
    # Beyond its ends it goes on as it came, or a course that runs askew there would stay so.
    padded = np.pad(askew, half, mode="reflect", reflect_type="odd")
    middle = median_filter(padded, 2 * half + 1)[half:-half]
    # But a lesion of one wall may lie where the middle is beside it: the course stays inside the lumen.
    left, right = (_across(own, ~known) for own in (offsets.left, offsets.right))
    margin = LEAST_INSIDE * np.minimum(left + right, opened(left + right, 2 * half + 1, half))
    return np.clip(middle, margin - left, right - margin)


def bridge(line: np.ndarray, offsets: Offsets) -> Offsets:
    """Both edges drawn across the mouths of side branches, parallel to the other edge.

    line: (N, 2) px, the course, proximal to distal. Across a mouth an edge is the other one mirrored about the course:
    a lesion narrows a vessel from both sides more often than from one, and the course runs through its middle. But a
    bridge makes the vessel no wider than straight edges would, for where a branch draws the course aside both edges are
    too far off. Where the other edge is not known either, it is straight.
    """
    left, right = offsets.left, offsets.right
    mouths = _find_mouths(left, right, line)
    if any(mouth.all() for mouth in mouths):  # nothing to draw from
        half = np.full(len(left), np.nanmedian([left, right]) if np.isfinite([left, right]).any() else 0.5)
        return offsets._replace(left=half, right=half.copy(), bridged=np.ones(len(left), bool))
    straight = [_across(own, mouth) for own, mouth in zip((left, right), mouths)]
    either = mouths[0] | mouths[1]
    askew, widest = straight[0] - straight[1], straight[0] + straight[1]
    if not either.all():
        askew, widest = (_across(_mean_beside(values, either), either) for values in (askew, widest))
    found = [
        np.where(mouth, np.maximum(np.minimum(other + sign * askew, widest - other), LEAST_HALF_PX), own)
        for own, other, mouth, sign in zip(straight, straight[::-1], mouths, (1, -1))
    ]
    return offsets._replace(left=found[0], right=found[1], bridged=either)


def _across(values: np.ndarray, mouth: np.ndarray) -> np.ndarray:
    """Values (N,) drawn straight across where `mouth` (N,) is true."""
    index = np.arange(len(values))
    return np.interp(index, index[~mouth], values[~mouth])


def _mean_beside(values: np.ndarray, mouth: np.ndarray) -> np.ndarray:
    """Local means of values (N,) without those of mouths: a bridge hangs on single points at either end of it."""
    sigma = BESIDE_PX / STEP_PX
    share = gaussian_filter1d(np.where(mouth, 0.0, 1.0), sigma)
    return gaussian_filter1d(np.where(mouth, 0.0, values), sigma) / np.maximum(share, 1e-9)


def _find_mouths(left: np.ndarray, right: np.ndarray, line: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where a side branch opens in either edge, bool (N,), or an edge is not known.

    A mouth is where an edge stands out beyond what it is on both sides within `OSTIUM_WIDTHS`, and where the vessel is
    wider than its healthy taper and than it is anywhere proximally: between two narrowings it also stands out, but is
    only healthy. At a lesion a mouth need not be wider than that; there it is told by the jump of the edge where the
    branch begins or ends, or by being short and on one side only. In a sharp bend the outer edge stands out by itself.
    """
    total = left + right
    known, index = np.isfinite(total), np.arange(len(total))
    width = float(np.median(total[known])) if known.any() else 1.0
    filled = np.where(known, total, 2 * width)
    inner = np.flatnonzero(inner_part(index * STEP_PX, np.where(known, total, width), END_WIDTHS))
    part = slice(inner[0], inner[-1] + 1)
    size, near = max(3, int(OSTIUM_WIDTHS * width / STEP_PX) | 1), int(width / STEP_PX)
    healthy = fit_taper(index * STEP_PX, filled, known)
    # Healthy vessel before a first lesion may be short, so less is opened here than a mouth may be long.
    short = max(3, int(SHORT_WIDTHS * width / STEP_PX) | 1)
    healthy[part] = np.maximum(healthy[part], np.maximum.accumulate(opened(filled[part], short, near)))
    is_wide = filled > (1 + BULGE_SHARE / 2) * healthy
    edges = [np.where(np.isfinite(own), own, 2 * width) for own in (left, right)]
    beyond, wider = np.zeros((2, len(total))), np.zeros(len(total))
    for own, edge in zip((*beyond, wider), (*edges, filled)):
        own[part] = edge[part] - opened(edge[part], size, near)
    found = []
    for own, other, edge in zip(beyond, beyond[::-1], edges):
        mouth = np.zeros(len(edge), bool)
        bulges, count = label(own > BULGE_FLANK_PX)
        for at in (np.flatnonzero(bulges == bulge) for bulge in range(1, count + 1)):
            large = own[at] > max(BULGE_PX, BULGE_SHARE * width / 2)
            if not large.any() or _turn_deg(line, at[0], at[-1]) > BEND_DEG:
                continue
            is_steep = np.abs(np.gradient(edge)[at]).max() > JUMP * STEP_PX
            # Where the course is off the middle one edge stands out as well, but the vessel is no wider.
            is_alone = other[at].max() < ONE_SIDED * own[at].max() < wider[at].max()
            is_short = len(at) * STEP_PX < SHORT_WIDTHS * width
            if is_steep or (is_alone and (is_short or is_wide[at][large].any())):
                mouth[_mouth_of(own, at)] = True
        found.append(mouth)
    return found[0] | ~np.isfinite(left), found[1] | ~np.isfinite(right)


def _mouth_of(beyond: np.ndarray, at: np.ndarray) -> slice:
    """Of a bulge, what belongs to its peak: to either side as far as the edge keeps falling.

    beyond: (N,) px by which an edge stands out; at: indices of the bulge, one after another. Beside a branch the vessel
    may have recovered from a lesion, and then stands out as well.
    """
    ahead = int(BESIDE_PX / STEP_PX)
    core = at[beyond[at] > beyond[at].max() / 2]
    ends = []
    for end, last, side in ((core[0], at[0], -1), (core[-1], at[-1], 1)):
        while end != last and beyond[end] - beyond[np.clip(end + side * ahead, at[0], at[-1])] > FALL * BESIDE_PX:
            end += side
        ends.append(end)
    return slice(ends[0], ends[1] + 1)


def _turn_deg(line: np.ndarray, first: int, last: int) -> float:
    """By how much the direction of a line (N, 2) differs before and after two of its points."""
    reach = int(BESIDE_PX / STEP_PX)
    before = line[max(first, 1)] - line[max(first - 2 * reach, 0)]
    after = line[min(last + 2 * reach, len(line) - 1)] - line[min(last, len(line) - 2)]
    cosine = before @ after / max(np.linalg.norm(before) * np.linalg.norm(after), 1e-9)
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


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
    bottom of a narrowing, and the smallest of many noisy diameters is too small. A blur moves an edge that bends by
    half its variance times the bend: that is taken back. least_noise_px: the SD that a single point has at least, see
    `Lumen`.
    """
    # A mask's points are too noisy to tell bends; its edges are fitted to its pixels instead, see `fit_to_pixels`.
    blur_px = round(offsets.blur_px, 2) if least_noise_px < MASK_NOISE_PX else 0.0
    smooth = []
    for offset in (offsets.left, offsets.right):
        # At a bridge's ends, and where an edge jumps, there are corners that no blur has made.
        corner = offsets.bridged | (np.abs(np.gradient(offset)) > JUMP * STEP_PX)
        corner = binary_dilation(corner, iterations=int(BESIDE_PX / STEP_PX))
        plain = _smooth(offset, max(CORNER_NOISE_PX, least_noise_px), 0.0)
        sharp = _smooth(offset, least_noise_px, blur_px)
        smooth.append(np.where(corner, plain, sharp))
    return offsets._replace(left=smooth[0], right=smooth[1])


def _smooth(offset: np.ndarray, least_noise_px: float, blur_px: float) -> np.ndarray:
    least = max(WINDOW_BY_NOISE * least_noise_px, WINDOW_BY_BLUR * blur_px)
    halves = [max(2, int(round(half / STEP_PX))) for half in WINDOWS_PX if half >= least]
    halves = [half for half in halves if 2 * half + 1 <= len(offset)]
    if not halves:
        return offset
    # Beyond its ends an edge goes on as it came, turned about its last point.
    padded = np.pad(offset, halves[-1], mode="reflect", reflect_type="odd")
    fits = [
        np.convolve(padded[halves[-1] - half : len(padded) - halves[-1] + half], _parabola(half, blur_px), "valid")
        for half in halves
    ]
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


@functools.cache
def _parabola(half: int, blur_px: float) -> np.ndarray:
    """Weights (2 half + 1,) of a local parabola's value in the middle of its window, before a blur of `blur_px`."""
    bend = savgol_coeffs(2 * half + 1, 2, deriv=2, delta=STEP_PX, use="dot")
    return savgol_coeffs(2 * half + 1, 2, use="dot") - blur_px**2 / 2 * bend


def _noise(offset: np.ndarray) -> float:
    """SD of single points about a smooth edge, by what three points a pixel apart are off a line."""
    step = max(1, int(round(1 / STEP_PX)))
    bend = offset[2 * step :] - 2 * offset[step:-step] + offset[: -2 * step]
    return float(1.4826 * np.median(np.abs(bend)) / np.sqrt(6)) if len(bend) else 0.0


def edge_points(line: np.ndarray, offsets: Offsets) -> tuple[np.ndarray, np.ndarray]:
    """Left and right edge as points (N, 2) px of the same picture as the line."""
    across = normals(line)
    return line - offsets.left[:, None] * across, line + offsets.right[:, None] * across
