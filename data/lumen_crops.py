"""Crops of a frame around one segment at full detail, and the lumen that an analyst drew in them.

    crop = crop_around(box_px, side_px=336)
    picture = cut_out(frame, crop)                       # uint8 (336, 336, 3)
    left, right = crop.to_crop(contours.left_edge), crop.to_crop(contours.right_edge)
    maps = lumen_maps(left, right, 336)                  # maps.coverage, maps.distance

A 3 mm artery is 10 to 15 px wide and 0.1 mm is half a pixel: what is measured must not be drawn coarser than the
frame. Unlike a whole frame, a crop is never stretched: a pixel is as wide as high.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from data.masks import fill_tube

MARGIN_SHARE = 0.15  # of the box's longer side, left around it: the vessel before and behind, and room for a wrong box
# Of the frame's longer side, about 40 mm: short segments magnified to fill the crop would be vessels five times as wide
# as long ones, which no network that has to learn both draws well (measured, see LOG.md).
LEAST_SIDE_SHARE = 0.3
FINE_SIDE_PX = 1008  # of the picture that maps are drawn in, at least: an edge is then known to a tenth of a pixel
BEYOND_WIDTHS = 2.0  # of the lumen at its end: how far the vessel goes on that was not drawn, about
FARTHEST_PX = 6.0  # of an edge: farther off, how far does not say where the edge is
MOST_WEIGHT = 4.0  # of a place that is narrow for its vessel: the narrowest one is measured, and seen worst


class Crop(NamedTuple):
    """A square cut out of a frame: matrix float64 (2, 3) takes (x, y) px of the frame to (x, y) px of the crop, whose
    sides have `side_px`; zoom: px of the crop per px of the frame. Without mirroring; it may be turned."""

    matrix: np.ndarray
    side_px: int

    @property
    def zoom(self) -> float:
        return float(np.sqrt(np.linalg.det(self.matrix[:, :2])))

    def to_crop(self, points_px: np.ndarray) -> np.ndarray:
        """Points (..., 2) of the frame in the crop."""
        return np.asarray(points_px, float) @ self.matrix[:, :2].T + self.matrix[:, 2]

    def to_frame(self, points_px: np.ndarray) -> np.ndarray:
        """Points (..., 2) of the crop in the frame."""
        return (np.asarray(points_px, float) - self.matrix[:, 2]) @ np.linalg.inv(self.matrix[:, :2]).T


def crop_around(
    box_px: np.ndarray, *, side_px: int, frame_side_px: int, zoom: float = 1.0, shift: tuple[float, float] = (0, 0),
    turn: np.ndarray | None = None,
) -> Crop:
    """The square around a box (x0, y0, x1, y1) px with its margin.

    frame_side_px: the frame's longer side. zoom: magnifies about the centre; shift: moves the crop, in shares of its
    side; turn: a matrix (2, 3) that turns the frame first, the box being of the turned frame.
    """
    box = np.asarray(box_px, float)
    centre, size = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]).max()
    side = max(size * (1 + 2 * MARGIN_SHARE), LEAST_SIDE_SHARE * frame_side_px) / zoom
    scale = side_px / side
    corner = centre + np.asarray(shift) * side - side / 2
    # Pixel centres are at integers: the crop's border, half a pixel outside, falls on the square's.
    matrix = np.array([[scale, 0, -scale * corner[0] - 0.5], [0, scale, -scale * corner[1] - 0.5]])
    if turn is not None:
        matrix = np.concatenate([matrix[:, :2] @ turn[:, :2], (matrix[:, :2] @ turn[:, 2] + matrix[:, 2])[:, None]], 1)
    return Crop(matrix, side_px)


def box_around(*lines_px: np.ndarray) -> np.ndarray:
    """The box (x0, y0, x1, y1) px around lines (n, 2)."""
    points = np.concatenate(lines_px)
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


def cut_out(frame: np.ndarray, crop: Crop) -> np.ndarray:
    """The crop of a frame, uint8 (H, W, 3), as uint8 (side, side, 3); black where the frame ends."""
    size = (crop.side_px, crop.side_px)
    if crop.zoom >= 1:
        return cv2.warpAffine(frame, crop.matrix, size, flags=cv2.INTER_CUBIC)
    # Of a larger frame the pixels between must count too, not only those that a point of the crop falls on.
    double = crop.matrix * 2
    double[:, 2] += 0.5
    large = cv2.warpAffine(frame, double, (2 * size[0], 2 * size[1]), flags=cv2.INTER_CUBIC)
    return cv2.resize(large, size, interpolation=cv2.INTER_AREA)


class LumenMaps(NamedTuple):
    """The lumen of a square of S px, float32 (S, S) each. coverage: the share of each pixel that is lumen. distance: from
    its centre to the nearest wall, in px, positive inside, within `FARTHEST_PX`; where a segment was cut off from the
    vessel that goes on there is no wall. weight: how much that distance matters: 1, at narrow places more, as often as
    the vessel is usually wider, at most `MOST_WEIGHT`; 0 beyond the cuts, where nobody drew a wall."""

    coverage: np.ndarray
    distance: np.ndarray
    weight: np.ndarray


def lumen_maps(left_px: np.ndarray, right_px: np.ndarray, side_px: int) -> LumenMaps:
    """The lumen between two edges (n, 2) px, opposite each other, in a square of `side_px`."""
    fine = max(2, round(FINE_SIDE_PX / side_px))
    mask, longer = (np.zeros((side_px * fine,) * 2, bool) for _ in range(2))
    # A mask's pixel counts when its centre is inside, so pixel centres go to centres.
    left, right = ((np.asarray(edge, float) + 0.5) * fine - 0.5 for edge in (left_px, right_px))
    fill_tube(mask, left, right, True)
    cuts = [_beyond(left[::way], right[::way]) for way in (-1, 1)]
    longer |= mask
    for end in cuts:
        fill_tube(longer, *end, True)
    size = (side_px, side_px)
    coverage = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    distance = cv2.resize(_signed_distance(longer, FARTHEST_PX * fine) / fine, size, interpolation=cv2.INTER_AREA)
    weight = _narrowness(np.asarray(left_px, float), np.asarray(right_px, float), side_px)
    for end_left, end_right in cuts:
        weight[_is_beyond((end_left + 0.5) / fine - 0.5, (end_right + 0.5) / fine - 0.5, side_px)] = 0
    return LumenMaps(coverage, distance, weight)


def _narrowness(left: np.ndarray, right: np.ndarray, side_px: int) -> np.ndarray:
    """By how much the lumen between two edges (n, 2) px is narrower in a place than usually, 1 to `MOST_WEIGHT`, in and
    beside it, float32 (S, S)."""
    middle, width = (left + right) / 2, np.linalg.norm(right - left, axis=1)
    factor = np.clip(np.median(width) / np.maximum(width, 1e-9), 1, MOST_WEIGHT)
    weight = np.ones((side_px, side_px), np.float32)
    for at in np.argsort(factor):  # the narrowest last, over the others
        if factor[at] > 1:
            centre = tuple(int(round(value)) for value in middle[at])
            cv2.circle(weight, centre, int(np.ceil(width[at] / 2 + FARTHEST_PX)), float(factor[at]), -1)
    return weight


def _beyond(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges (2, 2) of the vessel beyond the last points of two edges (n, 2): straight on, as wide as there."""
    middle, across = (left + right) / 2, right[-1] - left[-1]
    width = np.linalg.norm(across)
    before = np.flatnonzero(np.linalg.norm(middle - middle[-1], axis=1) >= width / 2)
    along = middle[-1] - middle[before[-1] if len(before) else 0]
    along = along / max(np.linalg.norm(along), 1e-9) * BEYOND_WIDTHS * width
    return np.stack([left[-1], left[-1] + along]), np.stack([right[-1], right[-1] + along])


def _is_beyond(left: np.ndarray, right: np.ndarray, side_px: int) -> np.ndarray:
    """Bool (S, S): beside and in a piece of vessel (2, 2) from a cut on, as far as its walls are asked for."""
    start, along = (left[0] + right[0]) / 2, left[1] - left[0]
    length, width = max(np.linalg.norm(along), 1e-9), np.linalg.norm(right[0] - left[0])
    along = along / length
    y, x = np.mgrid[:side_px, :side_px]
    offset = np.stack([x - start[0], y - start[1]], axis=-1)
    ahead, aside = offset @ along, np.abs(offset @ np.array([-along[1], along[0]]))
    return (ahead > 0) & (ahead < length + FARTHEST_PX) & (aside < width / 2 + FARTHEST_PX)


def _signed_distance(mask: np.ndarray, farthest: float) -> np.ndarray:
    """Distance of each pixel's centre to the border of a mask, positive inside, float32; `farthest` without one."""
    inside, outside = (cv2.distanceTransform(part.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
                       for part in (mask, ~mask))
    signed = np.where(mask, inside - 0.5, 0.5 - outside)  # the border lies half a pixel before the first one beyond
    return np.clip(signed, -farthest, farthest).astype(np.float32) if mask.any() else np.full(
        mask.shape, -farthest, np.float32)
