"""Narrowings along a vessel: how many, from where to where, and how severe."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.signal import find_peaks

from qca.reference import upper_hull

LEAST_NARROWING = 0.08  # of the reference; less is within what a healthy vessel and its edges vary
RECOVERY = 0.35  # two narrowings are one lesion unless between them less than this share of the smaller is left
# A smooth wall leaves the healthy one as a parabola does, so the root of the narrowing goes straight to zero at the
# border. The line is laid through this part of the depth: less is noise, more is no longer near the border.
FOOT = (0.08, 0.45)
FARTHEST = 0.9  # beyond that part, by its own length; a cosine-shaped stenosis ends at 0.65


class Span(NamedTuple):
    """A lesion: indices into the course, start < end and the narrowest point between them."""

    start: int
    mld: int
    end: int


def find_lesions(
    arc: np.ndarray, diameter: np.ndarray, reference: np.ndarray, usable: np.ndarray
) -> list[Span]:
    """All lesions of a vessel, the most severe first; where there is none, the narrowest place alone.

    arc, diameter, reference: (N,) px; usable: bool (N,), where a lesion's narrowest point may lie.
    """
    narrowing = 1 - diameter / reference
    seen = np.where(usable, narrowing, -1.0)
    peaks, _ = find_peaks(np.pad(seen, 1, constant_values=-1), height=LEAST_NARROWING, prominence=LEAST_NARROWING / 2)
    peaks = _merge([int(peak) - 1 for peak in peaks], narrowing)
    if not peaks:
        peaks = [_narrowest(arc, diameter, usable)]
    # Between two lesions the border of either lies before the widest place.
    cuts = [0, *(a + int(narrowing[a : b + 1].argmin()) for a, b in zip(peaks, peaks[1:])), len(arc) - 1]
    spans = [
        Span(_foot(arc, narrowing, peak, low, -1), peak, _foot(arc, narrowing, peak, high, 1))
        for peak, low, high in zip(peaks, cuts, cuts[1:])
    ]
    return sorted(spans, key=lambda span: -narrowing[span.mld])


def _narrowest(arc: np.ndarray, diameter: np.ndarray, usable: np.ndarray) -> int:
    """Where a vessel without a lesion is narrowest: by the straight lines that rest on it, which take its taper out."""
    points = np.flatnonzero(usable)
    if len(points) == 0:
        return int(diameter.argmin())
    hull = upper_hull(arc, diameter, points)
    resting = np.interp(arc, arc[hull], diameter[hull])
    return int(np.where(usable, 1 - diameter / resting, -np.inf).argmax())


def _merge(peaks: list[int], narrowing: np.ndarray) -> list[int]:
    """Narrowest points without those that no healthy vessel separates from a deeper one."""
    kept: list[int] = []
    for peak in peaks:
        while kept:
            left_over = narrowing[kept[-1] : peak + 1].min()
            if left_over < RECOVERY * min(narrowing[kept[-1]], narrowing[peak]):
                break
            if narrowing[kept[-1]] >= narrowing[peak]:
                peak = kept[-1]
            kept.pop()
        kept.append(peak)
    return kept


def _foot(arc: np.ndarray, narrowing: np.ndarray, peak: int, limit: int, side: int) -> int:
    """The index of a lesion's border on one side (-1 or 1) of its narrowest point, at most at `limit`."""
    walk = np.arange(peak, limit + side, side)
    depth = narrowing[peak]
    if depth <= 0 or len(walk) < 3:
        return int(limit if depth > 0 else peak)
    part = narrowing[walk] / depth
    healthy = np.flatnonzero(part <= 0)
    last = int(healthy[0]) if len(healthy) else len(walk) - 1
    below = np.flatnonzero(part[: last + 1] < FOOT[0])
    outer = int(below[0]) if len(below) else last
    upper = np.flatnonzero(part[:outer] > FOOT[1])
    inner = int(upper[-1]) + 1 if len(upper) else 0
    if outer - inner < 3:
        return int(walk[outer])
    away = np.abs(arc[walk] - arc[peak])
    slope, level = np.polyfit(away[inner:outer], np.sqrt(np.maximum(part[inner:outer], 0)), 1)
    if slope >= 0:
        return int(walk[outer])
    farthest = away[outer] + FARTHEST * (away[outer] - away[inner])
    reached = int(np.searchsorted(away, min(-level / slope, farthest)))
    return int(walk[np.clip(reached, outer, last)])
