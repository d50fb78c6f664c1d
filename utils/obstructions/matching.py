"""Which detected obstructions are true, which are false, and what is missed, in one frame.

    record = {"row": row, **match_detections(detections, targets, known)}

There are two kinds of hit: `iou50`, the IoU of the boxes is at least 0.5 (as in VOC and COCO), and `point`,
the detection's point lies in the target's box (the usual hit of FROC). Of either kind, the surest detection
of a frame chooses first, and a target is hit once: a second detection of it is a false positive.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torchvision.ops import box_iou

from data.cass import SEGMENTS

KINDS = ("iou50", "point")
MATCH_IOU = 0.5
FALSE_POSITIVE, IGNORED = -1, -2  # in place of the index of the target that a detection hits
ERRORS = ("point_error_px", "point_error_mm", "stenosis_error_points")
DETECTION_FIELDS = tuple(f"detection_{name}" for name in ("score", *KINDS, *ERRORS))
TARGET_FIELDS = ("target_stenosis_pct", "target_cass_id")


@dataclass(frozen=True)
class Detection:
    """A predicted obstruction: score in [0, 1]; box_px (x0, y0, x1, y1); point_px (x, y), the place of the
    smallest diameter; stenosis_pct, nan = not predicted. Raises ValueError for anything else."""

    score: float
    box_px: tuple[float, float, float, float]
    point_px: tuple[float, float]
    stenosis_pct: float

    def __post_init__(self) -> None:
        _check(self, "score", 0 <= self.score <= 1, "a number from 0 to 1")
        _check(self, "box_px", _is_box(self.box_px), "finite (x0, y0, x1, y1), x0 <= x1 and y0 <= y1")
        _check(self, "point_px", _is_point(self.point_px, math.isfinite), "finite (x, y)")
        _check(self, "stenosis_pct", not math.isinf(self.stenosis_pct), "percent, or nan: not predicted")


@dataclass(frozen=True)
class Target:
    """A true obstruction: box_px (x0, y0, x1, y1); point_px (x, y), (nan, nan) = not known; stenosis_pct, nan
    = not measured; cass_id, 0 = unknown segment; px_per_mm, nan = unknown. ValueError for anything else."""

    box_px: tuple[float, float, float, float]
    point_px: tuple[float, float]
    stenosis_pct: float
    cass_id: int
    px_per_mm: float

    def __post_init__(self) -> None:
        is_point = _is_point(self.point_px, math.isfinite) or _is_point(self.point_px, math.isnan)
        is_scale = math.isnan(self.px_per_mm) or 0 < self.px_per_mm < math.inf
        _check(self, "box_px", _is_box(self.box_px), "finite (x0, y0, x1, y1), x0 <= x1 and y0 <= y1")
        _check(self, "point_px", is_point, "finite (x, y), or (nan, nan): not known")
        _check(self, "stenosis_pct", not math.isinf(self.stenosis_pct), "percent, or nan: not measured")
        _check(self, "cass_id", self.cass_id in (0, *SEGMENTS), "a CASS number, or 0: unknown")
        _check(self, "px_per_mm", is_scale, "a number above 0, or nan: unknown")


def match_detections(
    detections: Sequence[Detection], targets: Sequence[Target], known: np.ndarray | None = None
) -> dict[str, list]:
    """Return one frame's record: lists of numbers by name, those of detections from the surest down.

    targets: those severe enough to be found; it is for the caller to leave out others. known: bool (H, W),
    where it is known whether there is an obstruction (None: everywhere); a detection that hits nothing and
    whose point lies elsewhere is neither true nor false. Of equal scores, the first in the list chooses
    first.

    `detection_score`. `detection_iou50`, `detection_point`: index of the target that it hits (of those left,
    that with the largest IoU, or with the nearest point), or `FALSE_POSITIVE`, or `IGNORED`. Of a hit by
    point, else nan: `detection_point_error_px` and `_mm`, from its point to the target's, and
    `detection_stenosis_error_points`, predicted - true %DS. `target_stenosis_pct`, `target_cass_id`. Raises
    ValueError for a `known` that is no mask.
    """
    if known is not None and (known.dtype != bool or known.ndim != 2 or known.size == 0):
        raise ValueError(f"known is {known.dtype} {known.shape}; allowed: bool (H, W), or None: everywhere")
    ranked = sorted(detections, key=lambda detection: -detection.score)
    boxes, points = _places(ranked)
    target_boxes, target_points = _places(targets)
    # A box without area has no IoU with another one: 0 / 0.
    overlap = np.nan_to_num(box_iou(torch.from_numpy(boxes), torch.from_numpy(target_boxes)).numpy())
    low, high = target_boxes[:, :2], target_boxes[:, 2:]
    inside = ((points[:, None] >= low) & (points[:, None] <= high)).all(axis=2)
    away_px = np.linalg.norm(points[:, None] - target_points, axis=2)
    # Where a target's point is not known, the middle of its box stands for it in the choice of the nearest.
    from_middle = np.linalg.norm(points[:, None] - (low + high) / 2, axis=2)
    distance = np.where(np.isnan(away_px), from_middle, away_px)
    hits = {"iou50": _match(np.where(overlap >= MATCH_IOU, overlap, -np.inf)),
            "point": _match(np.where(inside, -distance, -np.inf))}
    errors = np.full((len(ranked), len(ERRORS)), np.nan)
    for rank, index in enumerate(hits["point"]):
        if index >= 0:
            px, target = away_px[rank, index], targets[index]
            errors[rank] = px, px / target.px_per_mm, ranked[rank].stenosis_pct - target.stenosis_pct
    if known is not None:
        column, row = np.clip(np.rint(points), 0, np.array(known.shape[::-1]) - 1).astype(int).T
        for hit in hits.values():
            hit[(hit == FALSE_POSITIVE) & ~known[row, column]] = IGNORED
    scores = [float(detection.score) for detection in ranked]
    columns = [scores, *(hits[kind].tolist() for kind in KINDS), *errors.T.tolist()]
    true = [float(target.stenosis_pct) for target in targets], [int(target.cass_id) for target in targets]
    return dict(zip((*DETECTION_FIELDS, *TARGET_FIELDS), (*columns, *true), strict=True))


def _match(fit: np.ndarray) -> np.ndarray:
    """The target that each detection takes, int (D,), in their order: of those left the one that fits best.

    fit: (D, T), -inf where the two do not belong together.
    """
    fit, taken = fit.copy(), np.full(len(fit), FALSE_POSITIVE)
    for rank, row in enumerate(fit):
        if row.max(initial=-np.inf) > -np.inf:
            taken[rank] = row.argmax()
            fit[:, taken[rank]] = -np.inf
    return taken


def _places(objects: Sequence[Detection] | Sequence[Target]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, 4) and points (n, 2), float64."""
    boxes, points = [one.box_px for one in objects], [one.point_px for one in objects]
    return np.array(boxes, np.float64).reshape(-1, 4), np.array(points, np.float64).reshape(-1, 2)


def _check(owner: Detection | Target, name: str, is_right: bool, allowed: str) -> None:
    if not is_right:
        raise ValueError(f"{type(owner).__name__}: {name} is {getattr(owner, name)}; allowed: {allowed}")


def _is_box(box: Sequence[float]) -> bool:
    return len(box) == 4 and all(map(math.isfinite, box)) and box[0] <= box[2] and box[1] <= box[3]


def _is_point(point: Sequence[float], is_right: Callable[[float], bool]) -> bool:
    return len(point) == 2 and all(map(is_right, point))
