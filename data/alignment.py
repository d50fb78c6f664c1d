"""How far a mask of all vessels is shifted against a mask of one segment, to a fraction of a pixel.

The segment is a part of the tree, so correlating the two masks as a whole measures the rest of the tree.
Instead:

1. coarse: the segment's centreline is laid over the tree's, at every whole-pixel shift within reach, and the
   mean distance between them is taken (chamfer matching; distances are cut off, so gaps count little);
2. fine: across the segment's centreline, at many points, the middle of the tree's vessel is found and
   compared with the middle of the segment's own mask; one shift is fitted to all these displacements,
   robustly, and the step is repeated from there.

A displacement is only seen across the vessel. Along a straight vessel a shift cannot be seen at all (the
aperture problem); the fit's own covariance says in which direction, and how badly, the shift is not known.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import map_coordinates
from scipy.optimize import least_squares
from scipy.signal import correlate
from skimage.morphology import skeletonize

REACH = 0.06  # largest shift looked for, of the longer side of the frame
LEAST_REACH_PX = 12
POINTS = 120  # cross-sections along the segment
NEARNESS_WEIGHT = 0.02  # px that the distance must shrink for a shift larger by one px
SEEN_SHARE = 0.3  # of the cross-sections must show one vessel by itself, or there is nothing to align with
# Masks are pixels: the middle of a run is known to about a quarter of one, however well the residuals look.
LEAST_SD_PX = 0.25
KNOWN_SD_PX = 1.0  # a direction in which the shift's standard deviation is larger counts as not known


@dataclass(frozen=True)
class Shift:
    """The tree's shift against the segment, in pixels; `found` is False when there was nothing to align with.

    shift: (x, y), x right, y down. known_both: whether it is known in every direction; if not, only the part
    across the vessel is: `across_px` along the unit vector `across`; (0, 0) along the vessel was assumed.
    sd_px: standard deviation in the best and in the worst known direction. seen: share of the segment's
    cross-sections that show one vessel of the tree by itself (no gap, no crossing). width_ratio: median of
    how wide the tree's vessel is there, in widths of the segment's own mask.
    """

    found: bool
    shift: np.ndarray
    known_both: bool
    across: np.ndarray
    across_px: float
    sd_px: tuple[float, float]
    seen: float
    width_ratio: float


def estimate_shift(tree: np.ndarray, segment: np.ndarray, centerline: np.ndarray) -> Shift:
    """Shift of `tree` against `segment`.

    tree: the mask of all vessels in the frame's pixels, float (H, W) in [0, 1], the share of each pixel that
        is covered; segment: bool (H, W); centerline: float (N, 2), (x, y) along the segment.
    """
    points = _resample(centerline, POINTS)
    normals = _normals(points)
    half_width = max(1.0, segment.sum() / _length(points) / 2)
    offsets = np.arange(-2.0 * half_width - 1, 2.0 * half_width + 1.01, 0.25)
    own_middle, own_width = _middles(segment.astype(np.float32), points, normals, offsets)
    has_own = own_width > 0
    points, normals, own_middle, own_width = (a[has_own] for a in (points, normals, own_middle, own_width))
    if len(points) < 8 or not (tree >= 0.5).any():
        return _not_found(0.0)
    points = points + normals * own_middle[:, None]  # from here on: the middle of the mask itself
    points = np.clip(points, 0, np.array(tree.shape[::-1]) - 1)
    reach = max(LEAST_REACH_PX, round(REACH * max(tree.shape)))
    shift = _coarse_shift(tree, points, reach, 2 * half_width)
    return _fine_shift(tree, points, normals, offsets, shift, own_width)


def _coarse_shift(tree: np.ndarray, points: np.ndarray, reach: int, far_px: float) -> np.ndarray:
    """The whole-pixel shift (x, y) at which the points lie nearest to the tree's centrelines."""
    margin = reach + int(np.ceil(far_px))
    pixels = np.rint(points).astype(int)
    (left, top), (right, bottom) = pixels.min(axis=0), pixels.max(axis=0) + 1
    near = np.pad(tree >= 0.5, margin)[top : bottom + 2 * margin, left : right + 2 * margin]
    skeleton = skeletonize(near).astype(np.uint8)
    distance = cv2.distanceTransform(1 - skeleton, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    inner = slice(margin - reach, reach - margin or None)
    distance = np.minimum(distance, far_px)[inner, inner]
    line = np.zeros((bottom - top, right - left))
    np.add.at(line, (pixels[:, 1] - top, pixels[:, 0] - left), 1 / len(pixels))
    cost = correlate(distance, line, mode="valid", method="fft")  # mean distance at every shift within reach
    steps = np.arange(-reach, reach + 1)
    cost += NEARNESS_WEIGHT * np.hypot(steps[:, None], steps[None])
    row, column = np.unravel_index(cost.argmin(), cost.shape)
    return np.array([steps[column], steps[row]], dtype=float)


def _fine_shift(tree, points, normals, offsets, shift, own_width) -> Shift:
    independent = _length(points) / own_width.mean()
    for _ in range(12):
        displacement, width = _middles(tree, points + shift, normals, offsets)
        seen = width > 0
        if seen.mean() < SEEN_SHARE:
            return _not_found(float(seen.mean()))
        step, covariance = _fit_step(normals[seen], displacement[seen], independent)
        shift = shift + step
        if np.hypot(*step) < 0.01:
            break
    variance, directions = np.linalg.eigh(covariance)
    across = directions[:, 0] * np.sign(directions[:, 0][np.abs(directions[:, 0]).argmax()])
    return Shift(
        found=True, shift=shift, known_both=bool(variance[1] <= KNOWN_SD_PX**2), across=across,
        across_px=float(shift @ across), sd_px=tuple(np.sqrt(variance)), seen=float(seen.mean()),
        width_ratio=float(np.median(width[seen] / own_width[seen])),
    )


def _fit_step(normals: np.ndarray, displacement: np.ndarray, independent: float):
    """The step d (2,) with normals @ d = displacement, robust against branches, and its covariance (2, 2).

    Neighbouring cross-sections share their errors: only about one for each vessel width is independent. Where
    the vessel is straight the step is the shortest one, so nothing is invented along it.
    """
    weak = 1e-3 * np.sqrt(len(normals)) * np.eye(2)  # pulls the unseen direction to zero, and no other
    residual = lambda step: np.concatenate([normals @ step - displacement, weak @ step])  # noqa: E731
    step = least_squares(residual, np.zeros(2), loss="soft_l1", f_scale=0.5).x
    spread = 1.4826 * np.median(np.abs(normals @ step - displacement))
    information = normals.T @ normals / len(normals) * max(min(independent, len(normals)), 2.0)
    return step, max(spread, LEAST_SD_PX) ** 2 * np.linalg.inv(information + 1e-6 * np.eye(2))


def _middles(mask, points, normals, offsets) -> tuple[np.ndarray, np.ndarray]:
    """Where the middle of the vessel at each point lies along the normal, and its width there, in pixels.

    The vessel is the run of covered samples nearest to the point; width 0 where there is none in `offsets`.
    """
    samples = points[:, None] + normals[:, None] * offsets[None, :, None]
    covered = map_coordinates(mask, [samples[..., 1], samples[..., 0]], order=1, cval=0.0)
    inside = covered >= 0.5
    nearest = np.where(inside, np.abs(offsets), np.inf).argmin(axis=1)
    column = np.arange(len(offsets))
    before = np.where(~inside & (column < nearest[:, None]), column, -1).max(axis=1)
    after = np.where(~inside & (column > nearest[:, None]), column, len(offsets)).min(axis=1)
    run = inside.any(axis=1) & (before >= 0) & (after < len(offsets))
    middle, width = np.zeros(len(points)), np.zeros(len(points))
    for i in np.flatnonzero(run):
        start = np.interp(0.5, covered[i, [before[i], before[i] + 1]], offsets[[before[i], before[i] + 1]])
        end = np.interp(0.5, covered[i, [after[i], after[i] - 1]], offsets[[after[i], after[i] - 1]])
        middle[i], width[i] = (start + end) / 2, end - start
    return middle, width


def _length(points: np.ndarray) -> float:
    return float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())


def _resample(line: np.ndarray, count: int) -> np.ndarray:
    """`count` points at equal distances along the line, ends left out."""
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    at = np.linspace(0, along[-1], count + 2)[1:-1]
    return np.stack([np.interp(at, along, line[:, axis]) for axis in (0, 1)], axis=1)


def _normals(points: np.ndarray) -> np.ndarray:
    tangent = np.gradient(points, axis=0)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-9)
    return np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)


def _not_found(seen: float) -> Shift:
    nothing = np.full(2, np.nan)
    return Shift(False, nothing, False, nothing, np.nan, (np.nan, np.nan), seen, np.nan)
