"""Pictures of a measured lumen: its edges, its narrowest place and the ends of its lesion."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from data.lumen_crops import Crop
from qca.measure import Measurement
from utils.drawing import GREEN, VERMILION, YELLOW

_FINE = 4  # binary digits of a pixel: an edge is drawn where it is, not at the nearest pixel


def draw_line(picture: np.ndarray, points_px: np.ndarray, color: Sequence[int], thickness: int = 1) -> None:
    """Draw a line (n, 2) of (x, y) px into a uint8 (H, W, 3) picture, in place."""
    points = np.rint(np.asarray(points_px) * 2**_FINE).astype(np.int32)
    cv2.polylines(picture, [points[:, None]], False, tuple(color), thickness, cv2.LINE_AA, _FINE)


def draw_measurement(picture: np.ndarray, measured: Measurement, crop: Crop) -> None:
    """Draw a measurement, in px of the frame, into the picture of a crop of it, in place: both edges, and across the
    lumen its first lesion's ends and narrowest place."""
    left, right = crop.to_crop(measured.left_px), crop.to_crop(measured.right_px)
    for edge in (left, right):
        draw_line(picture, edge, GREEN)
    worst = measured.worst
    for index, color in ((worst.start, YELLOW), (worst.end, YELLOW), (worst.mld, VERMILION)):
        draw_line(picture, np.stack([left[index], right[index]]), color, 2)
