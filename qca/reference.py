"""The diameter that the vessel would have without its lesions, from its healthy parts."""

from __future__ import annotations

import numpy as np

# Normal segments vary by a few percent in diameter beside their taper; what is farther off is diseased or a branch.
HEALTHY_SHARE = 0.06
ROUNDS = 12
START_QUANTILE = 0.75  # lesions pull the diameters down more often than branches pull them up
# A segment changes by about a fifth of its diameter from end to end: so much is believed without data.
TAPER_SPREAD, TAPER_WEIGHT = 0.2, 0.02
LOCAL_WIDTHS = 1.0  # sigma of the mean along the vessel beside a lesion, in the vessel's widths
MOST_ABOVE = 0.2  # a vessel bends about its straight taper by so much
BESIDE_LENGTHS = 0.75  # of a lesion's length, to either side of it: what its reference is laid on


def fit_taper(arc: np.ndarray, diameter: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """A straight taper (N,) through the healthy vessel, unmoved by lesions and by what widens it locally.

    arc, diameter: (N,) px; usable: bool (N,), false where the diameter is not to be believed (ends, branches).
    Weights fall to zero `3 * HEALTHY_SHARE` from the line (Tukey's biweight), starting from the upper quartile.
    """
    x = 2 * (arc - arc[0]) / max(arc[-1] - arc[0], 1e-9) - 1
    if not usable.any():
        usable = np.ones(len(arc), bool)
    level = np.quantile(diameter[usable], START_QUANTILE)
    line, weight = np.full(len(arc), level), np.zeros(len(arc))
    for number in range(ROUNDS):
        off = (diameter - line) / np.maximum(line, 1e-9)
        if number < ROUNDS // 2:  # a quantile's line: points above it count three times those below
            weight = np.where(off > 0, START_QUANTILE, 1 - START_QUANTILE) / np.maximum(np.abs(off), 0.01)
        else:
            weight = np.clip(1 - (off / (3 * HEALTHY_SHARE)) ** 2, 0, None) ** 2
        weight = weight * usable
        if weight.sum() < 1e-6:
            break
        line = _weighted_line(x, diameter, weight / weight.sum(), level)
    return np.maximum(line, 1e-6)


def _weighted_line(x: np.ndarray, diameter: np.ndarray, weight: np.ndarray, level: float) -> np.ndarray:
    """Least squares with weights that sum to one, the slope drawn a little towards none."""
    mean_x, mean = weight @ x, weight @ diameter
    around = x - mean_x
    prior = TAPER_WEIGHT * (HEALTHY_SHARE / TAPER_SPREAD) ** 2
    slope = (weight * around) @ (diameter - mean) / ((weight * around) @ around + prior)
    return mean + slope * around


def falling_envelope(diameter: np.ndarray, taper: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """The narrowest course (N,) px that never widens distally and that the vessel nowhere exceeds.

    A vessel does not widen from proximal to distal: what is narrower than some place beyond it is narrowed, and what
    never recovers is its taper, be it straight or not. No more than `MOST_ABOVE` over the straight taper, so that one
    dilated place does not make a lesion of all before it. diameter, taper: (N,) px; usable: bool (N,).
    """
    seen = np.where(usable, np.minimum(diameter, (1 + MOST_ABOVE) * taper), 0.0)
    envelope = np.maximum.accumulate(seen[::-1])[::-1]
    # The distal end, where nothing is usable any more: as it is.
    return np.where(envelope > 0, envelope, np.minimum(diameter, taper))


def bridge_reference(
    arc: np.ndarray, diameter: np.ndarray, reference: np.ndarray, start: int, mld: int, end: int, usable: np.ndarray
) -> np.ndarray:
    """The reference (N,) px raised, across one lesion, to the straight line that rests on the vessel on both sides.

    Below an envelope that is level across a lesion, the near side of a tapering vessel would count as healthy until
    deep into the lesion. The line is the edge over `mld` of the upper convex hull of the diameters around the lesion,
    `BESIDE_LENGTHS` of its length to either side.
    """
    reach = BESIDE_LENGTHS * (arc[end] - arc[start])
    is_near = (arc >= arc[start] - reach) & (arc <= arc[end] + reach)
    hull = upper_hull(arc, diameter, np.flatnonzero(is_near & (usable | (np.arange(len(arc)) == mld))))
    before, after = [at for at in hull if at < mld], [at for at in hull if at > mld]
    if not before or not after:
        return reference
    part = slice(before[-1], after[0] + 1)
    ends = [before[-1], after[0]]
    raised = reference.copy()
    raised[part] = np.maximum(reference[part], np.interp(arc[part], arc[ends], diameter[ends]))
    return raised


def upper_hull(arc: np.ndarray, diameter: np.ndarray, points: np.ndarray) -> list[int]:
    """The corners of the line that rests on all of `points`, ascending indices (n,) into arc and diameter (N,)."""
    hull: list[int] = []
    for point in points:
        while len(hull) > 1 and _is_below(arc, diameter, hull[-2], hull[-1], point):
            hull.pop()
        hull.append(int(point))
    return hull


def _is_below(arc: np.ndarray, diameter: np.ndarray, first: int, middle: int, last: int) -> bool:
    """Whether a point lies on or below the straight line between two others."""
    rise = (diameter[last] - diameter[first]) * (arc[middle] - arc[first])
    return bool((diameter[middle] - diameter[first]) * (arc[last] - arc[first]) <= rise)


def interpolate_reference(
    arc: np.ndarray, diameter: np.ndarray, envelope: np.ndarray, taper: np.ndarray, healthy: np.ndarray
) -> np.ndarray:
    """The reference (N,) px: the healthy vessel's own diameter, and across what is not healthy a straight line
    between the healthy diameters on both sides; beyond the last healthy part the straight taper goes on.

    envelope: see `falling_envelope`; healthy: bool (N,). Diameters are averaged by their ratio to the envelope, which
    takes the taper out, over about the vessel's own width.
    """
    own = np.flatnonzero(healthy)
    if len(own) == 0:
        return taper
    sigma = LOCAL_WIDTHS * float(np.median(taper))
    kernel = np.exp(-0.5 * ((arc[own][:, None] - arc[own]) / sigma) ** 2)
    smooth = envelope[own] * (kernel @ (diameter[own] / envelope[own])) / kernel.sum(axis=1)
    reference = np.interp(arc, arc[own], smooth)
    reference[: own[0]] = smooth[0] * taper[: own[0]] / taper[own[0]]
    reference[own[-1] + 1 :] = smooth[-1] * taper[own[-1] + 1 :] / taper[own[-1]]
    return reference
