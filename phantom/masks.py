"""True masks: which pixels lie inside which vessel, and which vessels a reader could see at all."""
from __future__ import annotations

import numpy as np
from skimage.draw import polygon

from phantom.carm import CArm
from phantom.rendering import outline
from phantom.tree import Tree

CHUNK = 12  # samples a polygon: short enough that the outline of a bend does not cross itself
LEAST_HALF_WIDTH_PX = 0.6  # a thinner vessel still darkens about one pixel
LEAST_DARKENING = 0.035  # of the light behind it; about the noise of the frames made here (see detector.py)


def fill_tube(target: np.ndarray, left_px: np.ndarray, right_px: np.ndarray, value: int) -> None:
    """Set the pixels of `target` (H, W) whose centres lie between two edges (n, 2) of (x, y) px."""
    for start in range(0, len(left_px) - 1, CHUNK):
        end = start + CHUNK + 1
        loop = np.concatenate([left_px[start:end], right_px[start:end][::-1]])
        rows, columns = polygon(loop[:, 1], loop[:, 0], target.shape)
        target[rows, columns] = value


def at_least(left_px: np.ndarray, right_px: np.ndarray, half_width_px: float) -> tuple[np.ndarray, np.ndarray]:
    """Edges moved apart where they are closer than two half widths. Each (n, 2)."""
    middle, half = (left_px + right_px) / 2, (right_px - left_px) / 2
    width = np.linalg.norm(half, axis=1, keepdims=True)
    half = half * np.maximum(half_width_px / np.maximum(width, 1e-6), 1)
    return middle - half, middle + half


def visible_samples(tree: Tree, carm: CArm, opacity_per_mm: float, concentration: np.ndarray, blur_px: float,
                    veil: float) -> np.ndarray:
    """Which samples darken the picture enough to be seen, (P,) bool; nothing beyond a line's last visible sample.

    veil: share of scattered light. The darkening of a vessel of width w px under a blur of sigma s px is about w / sqrt(w^2 + (2 s)^2) of its own.
    """
    _, px_per_mm = carm.project(tree.center_mm)
    width_px = tree.lumen_mm * px_per_mm
    darkening = (1 - veil) * (1 - np.exp(-opacity_per_mm * concentration * tree.lumen_mm))
    seen = darkening * width_px / np.hypot(width_px, 2 * blur_px) > LEAST_DARKENING
    index = np.arange(len(seen))
    last = np.full(tree.line.max() + 1, -1)
    np.maximum.at(last, tree.line[seen], index[seen])
    return index <= last[tree.line]


def vessel_maps(tree: Tree, visible: np.ndarray, carm: CArm, analysed: int) -> tuple[np.ndarray, np.ndarray]:
    """True vessel mask (H, W) bool and CASS map (H, W) uint8; thick vessels over thin, the analysed segment on top."""
    fine_visible = tree.resample(1.0 / carm.project(tree.center_mm)[1].mean())
    shown = np.interp(fine_visible.reach_mm + 1e4 * fine_visible.line, tree.reach_mm + 1e4 * tree.line, visible) > 0.5
    left, right = outline(fine_visible.center_mm, fine_visible.lumen_mm / 2, fine_visible.line, carm)
    left, right = at_least(left, right, LEAST_HALF_WIDTH_PX)
    mask, cass_map = np.zeros((carm.size_px,) * 2, bool), np.zeros((carm.size_px,) * 2, np.uint8)
    for samples in _painting_order(fine_visible, shown, analysed):
        fill_tube(mask, left[samples], right[samples], True)
        fill_tube(cass_map, left[samples], right[samples], fine_visible.cass_id[samples[0]])
    return mask, cass_map


def _painting_order(tree: Tree, shown: np.ndarray, analysed: int) -> list[np.ndarray]:
    """Runs of samples of one line and one segment: unnumbered first, then by width, the analysed segment last."""
    index = np.flatnonzero(shown)
    if len(index) == 0:
        return []
    new = (np.diff(index) > 1) | (np.diff(tree.line[index]) != 0) | (np.diff(tree.cass_id[index]) != 0)
    runs = np.split(index, np.flatnonzero(new) + 1)
    # A run borrows the next segment's first sample, so that no gap opens between two segments of one line.
    runs = [np.append(r, r[-1] + 1) if r[-1] + 1 < len(shown) and tree.line[r[-1] + 1] == tree.line[r[0]] else r
            for r in runs]

    def rank(run: np.ndarray) -> tuple:
        cass_id = tree.cass_id[run[0]]
        return cass_id == analysed, cass_id > 0, tree.lumen_mm[run].mean()

    return sorted((r for r in runs if len(r) > 1), key=rank)
