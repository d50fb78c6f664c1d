"""True masks: which pixels lie inside which vessel, and which vessels a reader could see at all."""

from __future__ import annotations

import numpy as np

from data.masks import fill_tube
from phantom.carm import CArm
from phantom.rendering import outline
from phantom.tree import Tree, neighbours

LEAST_HALF_WIDTH_PX = 0.6  # a thinner vessel still darkens about one pixel
# A reader sees a thing from a signal-to-noise ratio of about 5 on (A. Rose, "The sensitivity performance of
# the human eye on an absolute scale", J. Opt. Soc. Am. 1948;38:196-208), here over a piece of vessel three
# widths long.
LEAST_ROSE, PIECE_WIDTHS = 5.0, 3.0
# The tissue's own texture hides vessels as noise does, and no larger area averages it out: SD of its layer
# with hills as wide as small vessels (`phantom.thorax.TEXTURE`, measured on real frames), share of the light.
CLUTTER = 0.016
LEAST_DARKENING = 0.04  # of the light behind it, whatever the noise; by eye on frames made here
LEAST_SEEN_MM = 3.0  # shorter pieces are specks


def at_least(
    left_px: np.ndarray, right_px: np.ndarray, half_width_px: float
) -> tuple[np.ndarray, np.ndarray]:
    """Edges moved apart where they are closer than two half widths. Each (n, 2)."""
    middle, half = (left_px + right_px) / 2, (right_px - left_px) / 2
    width = np.linalg.norm(half, axis=1, keepdims=True)
    half = half * np.maximum(half_width_px / np.maximum(width, 1e-6), 1)
    return middle - half, middle + half


def visible_samples(
    tree: Tree,
    carm: CArm,
    opacity_per_mm: float,
    concentration: np.ndarray,
    *,
    blur_px: float,
    veil: float,
    noise: float,
    grain_px: float,
) -> np.ndarray:
    """Which samples can be seen, (P,) bool: on each line, all up to the last piece that stands out enough.

    veil: share of scattered light; noise: its SD by the light there; grain_px: sigma of the blur that made
    it, of which 4 pi sigma^2 px vary as one. The darkening of a vessel of width w px under a blur of sigma
    s px is about w / sqrt(w^2 + (2 s)^2) of its own. A piece stands out where it darkens the picture enough
    and passes Rose's criterion: its darkening by the SD of the mean over as many pixels without a vessel.
    """
    _, px_per_mm = carm.project(tree.center_mm)
    width_px = tree.lumen_mm * px_per_mm
    darkening = (1 - veil) * (1 - np.exp(-opacity_per_mm * concentration * tree.lumen_mm))
    darkening *= width_px / np.hypot(width_px, 2 * blur_px)
    pixels = PIECE_WIDTHS * width_px**2 / max(1.0, 4 * np.pi * grain_px**2)
    unsure = np.sqrt(noise**2 / pixels + CLUTTER**2)
    seen = (darkening > LEAST_DARKENING) & (darkening > LEAST_ROSE * unsure)
    seen = _without_specks(seen, tree)
    index = np.arange(len(seen))
    last = np.full(tree.line.max() + 1, -1)
    np.maximum.at(last, tree.line[seen], index[seen])
    return index <= last[tree.line]


def _without_specks(seen: np.ndarray, tree: Tree) -> np.ndarray:
    """`seen` (P,) bool less the stretches of a line that are shorter than LEAST_SEEN_MM."""
    arc, new = tree.arc_mm(), np.flatnonzero((np.diff(seen) != 0) | (np.diff(tree.line) != 0)) + 1
    first, last = np.append(0, new), np.append(new, len(seen)) - 1
    return seen & np.repeat(arc[last] - arc[first] >= LEAST_SEEN_MM, last - first + 1)


def vessel_maps(tree: Tree, carm: CArm) -> tuple[np.ndarray, np.ndarray]:
    """True vessel mask (H, W) bool and CASS map (H, W) uint8 of all vessels in `tree`, see `visible_samples`.

    Thick vessels lie over thin ones and numbered over unnumbered ones, whichever segment is analysed.
    """
    fine = tree.resample(1.0 / carm.project(tree.center_mm)[1].mean())
    left, right = outline(fine.center_mm, fine.lumen_mm / 2, fine.line, carm)
    left, right = at_least(left, right, LEAST_HALF_WIDTH_PX)
    mask, cass_map = np.zeros((carm.size_px,) * 2, bool), np.zeros((carm.size_px,) * 2, np.uint8)
    for run in _painting_order(fine):
        fill_tube(mask, left[run], right[run], True)
        fill_tube(cass_map, left[run], right[run], fine.cass_id[run[0]])
    return mask, cass_map


def _painting_order(tree: Tree) -> list[np.ndarray]:
    """Runs of samples of one line and one segment, in the order in which they are painted."""
    new = np.flatnonzero((np.diff(tree.line) != 0) | (np.diff(tree.cass_id) != 0)) + 1
    runs = np.split(np.arange(len(tree.line)), new)
    _, after = neighbours(tree.line)
    # A run takes in the next segment's first sample, so that no gap opens between two segments of one line.
    runs = [np.unique(np.append(run, after[run[-1]])) for run in runs]

    def rank(run: np.ndarray) -> tuple[bool, float]:
        return tree.cass_id[run[0]] > 0, tree.lumen_mm[run].mean()

    return sorted(runs, key=rank)
