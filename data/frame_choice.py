"""Which frame of a cine to read: the one in which the vessels are best filled with contrast.

    choice = choose_frame(source.read, source.frames)
    choice.frame_index, choice.reason

Contrast makes vessels dark, narrow and connected. So each frame is shrunk, its attenuation (minus the
logarithm of the grey value) is cleared of everything wider than a vessel (a top hat), and what rises above
the frame's own noise in large enough connected pieces is summed. Ribs, catheter and spine contribute about
the same to every frame and do not decide; noise is measured in each frame, so a noisy one gains little by it.
"""
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d
from skimage.measure import label, regionprops_table
from tqdm import tqdm

from data.masks import resize_picture

# Lengths are for frames shrunk to 256 pixels. The widest vessel (left main, 4.5 mm: Dodge et al., 1992) is
# 5.4 mm on the detector at magnification 1.2, 8 pixels of a 175 mm field; the top hat is a bit wider.
_SIDE_PX = 256
_WIDEST_VESSEL_PX = 11
_SMOOTH_PX = 1.0
_SMALLEST_PIECE_PX = 40          # a vessel 2 px wide and 20 px long; specks of noise are far smaller
_NOISE_FACTOR = 4.0
_DARKEST_GREY = 8.0              # collimator and overexposed edges: their logarithm says nothing
_SMOOTH_FRAMES = 1.0             # at 15 frames/s a fifth of a heart beat: less than contrast takes to arrive
_PLATEAU = 0.9                   # of the way from the emptiest to the fullest frame counts as full


@dataclass(frozen=True)
class FrameChoice:
    """frame_index, 0-based; reason, in words; filling: float64 (frames,), the contrast amount, any unit."""
    frame_index: int
    reason: str
    filling: np.ndarray


def vessel_amount(frame: np.ndarray) -> float:
    """Return how much contrast-filled vessel a frame shows: summed attenuation of its thin dark parts.

    frame: uint8 (H, W, 3) or (H, W). Comparable between frames of one cine only.
    """
    grey = frame if frame.ndim == 2 else frame[..., 0]
    scale = _SIDE_PX / max(grey.shape)
    grey = resize_picture(grey, tuple(max(8, round(side * scale)) for side in grey.shape))
    attenuation = -np.log(np.maximum(grey.astype(np.float32), _DARKEST_GREY))
    noise = _noise(attenuation)
    smooth = cv2.GaussianBlur(attenuation, (0, 0), _SMOOTH_PX)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (_WIDEST_VESSEL_PX, _WIDEST_VESSEL_PX))
    depth = cv2.morphologyEx(smooth, cv2.MORPH_TOPHAT, kernel)
    # A top hat is never negative: pure noise gives it a floor, which the median measures.
    pieces = label(depth > np.median(depth) + _NOISE_FACTOR * noise, connectivity=2)
    if pieces.max() == 0:
        return 0.0
    table = regionprops_table(pieces, depth, properties=("area", "intensity_mean"))
    vessels = table["area"] >= _SMALLEST_PIECE_PX
    return float((table["area"] * table["intensity_mean"])[vessels].sum())


def _noise(attenuation: np.ndarray) -> float:
    """Return the SD of the noise of `attenuation` after smoothing, from the median absolute residual."""
    residual = attenuation - cv2.GaussianBlur(attenuation, (0, 0), 2 * _SMOOTH_PX)
    residual = cv2.GaussianBlur(residual, (0, 0), _SMOOTH_PX)
    return float(np.median(np.abs(residual)) / 0.6745)     # the median of |N(0, 1)|


def choose_frame(read: Callable[[int], np.ndarray], frames: int, *, progress: bool = False) -> FrameChoice:
    """Return the best-filled frame of a cine.

    read: frame index to uint8 (H, W, 3) or (H, W); frames: how many, at least 1; progress: show a bar.
    It is the fullest frame of the plateau, the stretch around the top of the smoothed filling curve: a frame
    that sticks out alone (a flash, an injection artefact) is not taken.
    """
    if frames == 1:
        return FrameChoice(0, "only frame", np.zeros(1))
    indices = tqdm(range(frames), desc="contrast filling", unit="frame", leave=False, disable=not progress)
    filling = np.array([vessel_amount(read(index)) for index in indices])
    return FrameChoice(*_best_frame(filling), filling)


def _best_frame(filling: np.ndarray) -> tuple[int, str]:
    """Return (frame index, reason) for a filling curve, float64 (frames,), at least two frames."""
    smooth = gaussian_filter1d(filling, _SMOOTH_FRAMES, mode="nearest")
    low, high = smooth.min(), smooth.max()
    if high <= 0:
        return len(filling) // 2, "no vessel found in any frame: the middle one"
    plateau = label(smooth >= low + _PLATEAU * (high - low))
    candidates = np.flatnonzero(plateau == plateau[np.argmax(smooth)])
    best = int(candidates[np.argmax(filling[candidates])])
    return best, (f"contrast filling: fullest of the plateau, frames {candidates[0]} to {candidates[-1]} "
                  f"of 0 to {len(filling) - 1}")
