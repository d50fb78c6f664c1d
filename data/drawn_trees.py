"""Pictures of virtual coronary trees in which every vessel has its name.

One segment of a frame is annotated, and which one goes with the view: an analyst looks at the mid LAD in cranial views
and at the LCX in caudal ones. From such labels alone a model learns to read the view, and names nothing that is never
analysed in it. But what an artery looks like from which angle, anatomy knows. So the map of names also learns from
drawn trees: virtual patients (`data/virtual_trees.py`) seen from the angles of the training rows, drawn as a perfect
segmentation would show them, with gaps, a catheter and faint far ends as real ones have. There is no X-ray picture: the
map of names sees vessels, not grey values.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from data.anatomy import image_axes
from data.virtual_trees import Vessel, virtual_tree

VESSELS_PX = 336  # side of the picture of vessels that names are read from, at any image size: a pixel is 0.3 mm
NAMES_STRIDE = 4
NAMES_PX = VESSELS_PX // NAMES_STRIDE  # side of the map of names
FIELD_MM = (88.0, 135.0)  # of the patient that the picture shows, from side to side
ROOM = (1.0, 1.5)  # field by the extent of the large vessels
LARGE_MM = 1.2
PAN_SPREAD, OSTIUM_MARGIN = 0.05, 0.06  # of the side
ROLL_DEG = 4.0
SOURCE_MM = (700.0, 820.0)  # from the middle of the tree
FAINT_MM = (0.5, 1.1)  # vessels thinner than this are not seen; of one picture, drawn between the two
CATHETER_SHARE, CATHETER_MM = 0.9, (1.6, 2.4)
GAPS, GAP_MM = 3.0, ((1.0, 5.0), (0.7, 3.0))  # mean number; half axes of an ellipse
BLUR_PX = (0.4, 1.2)
_SHIFT = 2  # OpenCV draws at fractions of 1 / 2**_SHIFT px
_RUN = 4  # points of a vessel that are drawn with one width


class DrawnTree(NamedTuple):
    """vessels: uint8 (VESSELS_PX, VESSELS_PX), 255 = vessel. names: uint8 (NAMES_PX, NAMES_PX), the channel of the name
    in `classes`, len(classes) for others; it says nothing where there is no vessel.
    """

    vessels: np.ndarray
    names: np.ndarray


def draw_tree(
    side: str, view_deg: Sequence[float], classes: Sequence[int], rng: np.random.Generator
) -> DrawnTree:
    """A virtual patient's "left" or "right" tree from `view_deg` (primary, secondary), with names of `classes`."""
    vessels = _projected(virtual_tree(side, rng), view_deg, rng)
    channels = {cass_id: channel for channel, cass_id in enumerate(classes)}
    names = np.zeros((VESSELS_PX, VESSELS_PX), np.uint8)  # channel + 1
    thinnest_px = rng.uniform(*FAINT_MM) * vessels.px_per_mm
    # The wide ones last: where two cross, the eye follows the wider.
    for cass_id, points, width in sorted(vessels.lines, key=lambda line: line[2].mean()):
        _draw(names, points, width, thinnest_px, channels.get(cass_id, len(classes)) + 1)
    if rng.random() < CATHETER_SHARE:
        catheter = np.zeros_like(names)
        points = _catheter(vessels.lines[0][1][0], rng)
        _draw(catheter, points, np.full(len(points), rng.uniform(*CATHETER_MM) * vessels.px_per_mm), 0.0, 1)
        names[(catheter > 0) & (names == 0)] = len(classes) + 1
    return DrawnTree(_as_segmented(names > 0, vessels.px_per_mm, rng), _names_on_map(names, len(classes)))


class _Projected(NamedTuple):
    lines: list[tuple[int, np.ndarray, np.ndarray]]  # CASS number, points (n, 2) px, widths (n,) px
    px_per_mm: float


def _projected(tree: list[Vessel], view_deg: Sequence[float], rng: np.random.Generator) -> _Projected:
    """The tree in the picture: the large vessels about the middle, the ostium inside."""
    axes = image_axes(*view_deg)
    large = np.concatenate([vessel.points_mm[vessel.diameter_mm > LARGE_MM] for vessel in tree])
    low, high = np.percentile(large @ axes[:2].T, [3, 97], axis=0)
    px_per_mm = VESSELS_PX / float(np.clip((high - low).max() * rng.uniform(*ROOM), *FIELD_MM))
    middle = np.append((low + high) / 2, large.mean(axis=0) @ axes[2])
    source_mm, roll = rng.uniform(*SOURCE_MM), np.radians(rng.normal(0, ROLL_DEG))
    turn = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
    place = VESSELS_PX * (0.5 + rng.normal(0, PAN_SPREAD, 2))
    lines = []
    for vessel in tree:
        right, down, toward = (vessel.points_mm @ axes.T - middle).T
        nearness = px_per_mm / (1 + toward / source_mm)  # what is nearer to the detector is smaller
        points = (np.stack([right, down], axis=1) * nearness[:, None]) @ turn.T + place
        lines.append((vessel.cass_id, points, vessel.diameter_mm * nearness))
    ostium, margin = lines[0][1][0], OSTIUM_MARGIN * VESSELS_PX
    inward = np.maximum(margin - ostium, 0) - np.maximum(ostium - (VESSELS_PX - margin), 0)
    return _Projected([(cass_id, points + inward, width) for cass_id, points, width in lines], px_per_mm)


def _draw(canvas: np.ndarray, points: np.ndarray, width_px: np.ndarray, thinnest_px: float, value: int) -> None:
    """Draw a vessel as far as it is wide enough to be seen."""
    seen = len(points) if (width_px >= thinnest_px).all() else int((width_px < thinnest_px).argmax())
    fixed = np.rint(points[:seen] * 2**_SHIFT).astype(np.int32)[:, None]
    for start in range(0, seen - 1, _RUN):
        thickness = max(1, round(float(width_px[start])))
        cv2.polylines(canvas, [fixed[start : start + _RUN + 1]], False, value, thickness, cv2.LINE_8, _SHIFT)


def _catheter(ostium: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A curve (n, 2) px that comes to the ostium from above."""
    angle, length_px = rng.uniform(-np.pi, 0), VESSELS_PX * rng.uniform(0.05, 0.7) * rng.random()
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    share = np.linspace(0, 1, 30)[:, None]
    return ostium + length_px * (share * along + rng.normal(0, 0.4) * share**2 * across)


def _as_segmented(vessels: np.ndarray, px_per_mm: float, rng: np.random.Generator) -> np.ndarray:
    """The mask, bool, with gaps and soft edges, as uint8."""
    mask = 255 * vessels.astype(np.uint8)
    for _ in range(rng.poisson(GAPS)):
        place = tuple(int(value) for value in rng.uniform(0, VESSELS_PX, 2))
        axes = tuple(round(rng.uniform(*half) * px_per_mm) for half in GAP_MM)
        cv2.ellipse(mask, place, axes, rng.uniform(0, 180), 0, 360, 0, -1)
    return cv2.GaussianBlur(mask, (0, 0), rng.uniform(*BLUR_PX))


def _names_on_map(names: np.ndarray, count: int) -> np.ndarray:
    """The channel that has most pixels of each cell of the map; `names` holds channel + 1, 0 = no vessel."""
    cells = names.reshape(NAMES_PX, NAMES_STRIDE, NAMES_PX, NAMES_STRIDE).transpose(0, 2, 1, 3)
    cells = cells.reshape(NAMES_PX**2, -1).astype(np.int64)
    values = count + 2
    pixels = np.bincount((cells + values * np.arange(len(cells))[:, None]).ravel(), minlength=values * len(cells))
    return pixels.reshape(len(cells), values)[:, 1:].argmax(axis=1).astype(np.uint8).reshape(NAMES_PX, NAMES_PX)
