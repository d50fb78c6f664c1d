"""Edges without the noise of their single points, narrowings kept."""

from __future__ import annotations

import functools

import numpy as np
from scipy.ndimage import binary_dilation
from scipy.signal import savgol_coeffs

from qca.centerline import STEP_PX
from qca.edges import Offsets
from qca.lumen import MASK_NOISE_PX
from qca.mouths import BESIDE_PX, JUMP

CORNER_NOISE_PX = 0.24  # SD of an edge's points at a bridge's end, by the choice of the end
# Half windows in px along the vessel, and how many standard errors two of them may differ. Windows of fewer px than the
# noise, or the blur, times these tell nothing.
WINDOWS_PX = (1.0, 1.5, 2.0, 3.0, 4.5, 6.5, 9.0, 13.0)
AGREEMENT = 1.0
WINDOW_BY_NOISE, WINDOW_BY_BLUR = 5.0, 1.7


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
