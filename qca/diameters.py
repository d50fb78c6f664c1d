"""How wide a vessel is along its course, from its two edges."""

from __future__ import annotations

import numpy as np

from data.obstructions import cut_across

ASKEW = 0.3  # of the width: as far along the vessel a shorter way across is looked for, a normal 17 degrees askew

# Pairs of edge points are the analyst's diameters where nearly all of them are square to the course (the sine of 20
# degrees) and the course runs between them.
PAIRED_SHARE, PAIRED_SINE, PAIRED_BESIDE = 0.9, 0.34, 0.3


def diameters_across(
    left: np.ndarray, right: np.ndarray, step_px: float, inner: np.ndarray | None = None
) -> np.ndarray:
    """The shortest way across (N,) px at each of N points of edges (N, 2) that lie opposite each other.

    At a point it is the distance of the two, or from either one to the other edge a little before or behind: where
    the course runs askew, the normal through it measures too much. step_px: between points. inner: bool (N,), where a
    shorter way is looked for, all without it; at its ends a vessel's edges run into each other.
    """
    shortest = np.linalg.norm(left - right, axis=1)
    inner = np.ones(len(left), bool) if inner is None else inner
    reach = min(len(left) - 1, int(ASKEW * np.median(shortest) / step_px))
    for shift in range(1, reach + 1):
        forth = np.linalg.norm(left[:-shift] - right[shift:], axis=1)
        back = np.linalg.norm(left[shift:] - right[:-shift], axis=1)
        way = np.where(inner[:-shift] & inner[shift:], np.minimum(forth, back), np.inf)
        shortest[:-shift] = np.minimum(shortest[:-shift], way)
        shortest[shift:] = np.minimum(shortest[shift:], way)
    return shortest


def match_edges(
    line: np.ndarray, left_edge: np.ndarray, right_edge: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges (M, 2) and (K, 2) beside each of N points of a line (N, 2): left (N, 2), right (N, 2), and the diameter
    there (N,), px.

    Edges whose points lie opposite each other, as many as the line's and square to it, are taken as they are: each pair
    is the analyst's own diameter. Others were traced with points of their own: each belongs to the nearest point of the
    line, and the diameter is the shortest way across.
    """
    if len(line) == len(left_edge) == len(right_edge):
        across = right_edge - left_edge
        width = np.maximum(np.linalg.norm(across, axis=1), 1e-9)
        along = np.gradient(line, axis=0)
        along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
        askew = np.abs((across * along).sum(axis=1)) / width
        beside = np.linalg.norm((left_edge + right_edge) / 2 - line, axis=1) / width
        if np.quantile(askew, PAIRED_SHARE) < PAIRED_SINE and np.quantile(beside, PAIRED_SHARE) < PAIRED_BESIDE:
            return left_edge, right_edge, np.linalg.norm(across, axis=1)
    return cut_across(line, left_edge, right_edge)
