"""Side branches: where they open in an edge, the edge drawn across their mouths, the vessel's middle beside them."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter1d, grey_opening, label, median_filter

from qca.centerline import STEP_PX, inner_part
from qca.edges import Offsets
from qca.reference import fit_taper

END_WIDTHS = 0.4  # at either end, where a cut that is not square to the course changes the diameter
# A side branch is where an edge stands out by more than these beyond the edge on both sides of it.
BULGE_PX, BULGE_SHARE, BULGE_FLANK_PX = 0.75, 0.15, 0.3
JUMP = 2.5  # px sideways a px along the vessel: steeper than the shoulders of nearly all lesions
FALL = 0.15  # likewise: what falls less is no longer the flank of a mouth
OSTIUM_WIDTHS = 2.5  # how long a branch's mouth may be along the vessel, in the vessel's widths
SHORT_WIDTHS, ONE_SIDED = 1.0, 0.5  # a shorter bulge is a mouth where the other edge stands out less than half as far
BEND_DEG = 60.0  # between the directions before and after a mouth; more is a bend
BESIDE_PX = 2.0  # beside a mouth: what the ends of a bridge are averaged over
LEAST_HALF_PX = 0.1  # from the course to a bridge
LEAST_INSIDE = 0.25  # of the width: so far the course is from either edge


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
