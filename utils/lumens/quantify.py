"""Measure an obstruction that was found: from its detection to a lumen and its QCA.

    one = quantify(measure_model, frame, detection, names=names, view_deg=view_deg, calibration=calibration)
    one.measured.mm.mld, one.measured.stenosis_pct          # measured is None where it failed: one.failure says why
    one.warnings                                            # what its numbers stand on that is unsure, in words

The box that the lumen is asked for in, and the ends that say which vessel is meant, are those of the CASS segment the
obstruction lies in (stage 2), an end beside the obstruction moved on past it; where no segment is named there, it is
the obstruction's own box with as much vessel again to either side. `quantify_box` measures what is in a box that
somebody has drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

from data.errors import DataError
from models.loading import load_model
from qca.calibration import Calibration
from qca.errors import QcaError
from qca.measure import Measurement
from qca.placing import nearest_lesion
from utils.checkpoint import CheckpointError
from utils.lumens.prediction import PredictedLumen, measure_predicted, predict_lumen
from utils.obstructions.matching import Detection
from utils.prediction import LUMEN_STAGE
from utils.segments.naming import BRIDGE_SHARE
from utils.segments.vessel_tree import centreline_of

AROUND = 1.0  # of the obstruction's longer side, to every side of its box: healthy vessel for the reference
NEAR_SHARE = 0.03  # of the frame's longer side: so far from the obstruction's point its segment may begin
END_SHARE = 0.75  # of the obstruction's longer side: nearer to an end, the name may have stopped at the lesion
ELSEWHERE_SHARE = 0.5  # of the obstruction's longer side: a measured lesion farther off is another one
MOST_DISAGREEMENT = 20.0  # points of %DS between measurement and detector, three times the detector's mean error


class Request(NamedTuple):
    """Where a lumen is asked for: box_px (x0, y0, x1, y1); ends_px (2, 2), about where its segment begins and ends,
    None = not known; and what both were made of, in words."""

    box_px: tuple[float, float, float, float]
    ends_px: np.ndarray | None
    made_of: str


@dataclass(frozen=True, kw_only=True)
class QuantifiedLesion:
    """An obstruction of a frame with its lumen and measurement, px of the frame; measured: its first lesion is the
    obstruction's; None with `failure`, why it could not be measured. asked_by: what the box was made of, in words.
    detection: None where a box was given, whose worst lesion is the first one then."""

    detection: Detection | None
    asked_by: str
    lumen: PredictedLumen
    measured: Measurement | None
    failure: str | None
    warnings: tuple[str, ...]


def load_lumen_model(
    path: str | Path, *, device: torch.device
) -> tuple[Callable[..., PredictedLumen], dict]:
    """Return `predict_lumen` with the model of a stage 4 checkpoint bound to it, (frame, box_px, view_deg=...) ->
    PredictedLumen, and the checkpoint's dict. CheckpointError for another stage."""
    model, checkpoint = load_model(path, device)
    if checkpoint["stage"] != LUMEN_STAGE:
        raise CheckpointError(f"{path}: of stage {checkpoint['stage']!r}; lumens are drawn by {LUMEN_STAGE!r}")
    return partial(predict_lumen, model, image_size=checkpoint["config"]["image_size"], device=device), checkpoint


def quantify(
    draw_lumen: Callable[..., PredictedLumen], frame: np.ndarray, detection: Detection, *, names: np.ndarray | None,
    view_deg: Sequence[float], calibration: Calibration | None,
) -> QuantifiedLesion:
    """Measure an obstruction of a frame, uint8 (H, W, 3).

    draw_lumen: of `load_lumen_model`; names: uint8 (H, W), CASS number of each pixel, 0 = none, None without stage 2;
    calibration: of the frame, None = only px and ratios.
    """
    asked = request_for(detection, names, frame.shape[:2])
    lumen = draw_lumen(frame, asked.box_px, ends_px=asked.ends_px, view_deg=view_deg)
    return _measured(lumen, detection, asked.made_of, calibration)


def quantify_box(
    draw_lumen: Callable[..., PredictedLumen], frame: np.ndarray, box_px: Sequence[float], *,
    view_deg: Sequence[float], calibration: Calibration | None,
) -> QuantifiedLesion:
    """Measure the vessel in a box (x0, y0, x1, y1) px of a frame, uint8 (H, W, 3), as `quantify` an obstruction.

    Raises DataError for a box that holds no pixel of the frame.
    """
    height, width = frame.shape[:2]
    low, high = np.maximum(box_px[:2], 0), np.minimum(box_px[2:], (width - 1, height - 1))
    if (low > high).any():
        raise DataError(f"the box {tuple(box_px)} holds no pixel of the frame of {width} x {height} px")
    lumen = draw_lumen(frame, (*low.tolist(), *high.tolist()), view_deg=view_deg)
    return _measured(lumen, None, "the box given", calibration)


def _measured(
    lumen: PredictedLumen, detection: Detection | None, asked_by: str, calibration: Calibration | None
) -> QuantifiedLesion:
    found = dict(detection=detection, asked_by=asked_by, lumen=lumen)
    try:
        measured = measure_predicted(lumen, calibration)
    except QcaError as error:
        return QuantifiedLesion(**found, measured=None, failure=str(error), warnings=())
    if detection is None:
        return QuantifiedLesion(**found, measured=measured, failure=None, warnings=measured.flags)
    measured = nearest_lesion(measured, detection.point_px)
    return QuantifiedLesion(**found, measured=measured, failure=None, warnings=_warnings(measured, detection))


def request_for(detection: Detection, names: np.ndarray | None, size: tuple[int, int]) -> Request:
    """Where the lumen of an obstruction's segment is asked for, in a frame of `size`; names: as for `quantify`."""
    own = np.array(detection.box_px, float)
    around = AROUND * (own[2:] - own[:2]).max()
    box, ends, made_of = own + np.array([-1, -1, 1, 1]) * around, None, "the obstruction's box and its surroundings"
    segment = None if names is None else _segment_near(names, detection.point_px)
    if segment is not None:
        rows, columns = np.flatnonzero(segment.any(axis=1)), np.flatnonzero(segment.any(axis=0))
        low, high = (columns[0], rows[0]), (columns[-1], rows[-1])
        box = np.concatenate([np.minimum(own[:2], low), np.maximum(own[2:], high)])
        ends = _ends_around(centreline_of(segment, BRIDGE_SHARE * max(size))[[0, -1]], names, detection)
        box = np.concatenate([np.minimum(box[:2], ends.min(axis=0)), np.maximum(box[2:], ends.max(axis=0))])
        made_of = "the box of its CASS segment"
    corner = np.array(size[::-1]) - 1
    box = np.concatenate([np.clip(box[:2], 0, corner), np.clip(box[2:], 0, corner)])
    return Request(tuple(box.tolist()), ends, made_of)


def _ends_around(ends_px: np.ndarray, names: np.ndarray, detection: Detection) -> np.ndarray:
    """The ends (2, 2) px of a segment; where one lies beside the obstruction, moved on along the vessels behind it.

    A tight lesion is often where a segment's name stops: asked for up to there, a lumen would end in the lesion, and
    the healthy vessel that it is held against would be missing.
    """
    own, point = np.array(detection.box_px, float), np.array(detection.point_px, float)
    side = (own[2:] - own[:2]).max()
    away = np.linalg.norm(ends_px - point, axis=1)
    near = int(away.argmin())
    if away[near] > END_SHARE * side:
        return ends_px
    outward = point - ends_px[1 - near]
    outward /= max(np.linalg.norm(outward), 1e-9)
    vessels = np.argwhere(names > 0)[:, ::-1].astype(float)
    around = ((vessels >= own[:2] - AROUND * side) & (vessels <= own[2:] + AROUND * side)).all(axis=1)
    ahead = np.where(around, (vessels - point) @ outward, -np.inf)
    if ahead.max() <= (ends_px[near] - point) @ outward + 2:  # nothing is named behind it
        return ends_px
    moved = np.array(ends_px, float)
    moved[near] = vessels[ahead.argmax()]
    return moved


def _segment_near(names: np.ndarray, point_px: Sequence[float]) -> np.ndarray | None:
    """The pieces, bool (H, W), of the segment whose name is nearest to a point; None where none is near."""
    rows, columns = np.nonzero(names)
    if not len(rows):
        return None
    away = np.hypot(columns - point_px[0], rows - point_px[1])
    nearest = int(away.argmin())
    if away[nearest] > NEAR_SHARE * max(names.shape):
        return None
    same = (names == names[rows[nearest], columns[nearest]]).astype(np.uint8)
    # A tight lesion may cut the mask in two: pieces so near to each other are one vessel.
    reach = 2 * round(NEAR_SHARE * max(names.shape) / 2) + 1
    _, pieces = cv2.connectedComponents(cv2.dilate(same, np.ones((reach, reach), np.uint8)))
    return (same > 0) & (pieces == pieces[rows[nearest], columns[nearest]])


def _warnings(measured: Measurement, detection: Detection) -> tuple[str, ...]:
    said = list(measured.flags)
    away = float(np.hypot(*(measured.line_px[measured.worst.mld] - detection.point_px)))
    box = np.array(detection.box_px)
    if away > ELSEWHERE_SHARE * max((box[2:] - box[:2]).max(), 1):
        said.append(f"the narrowest place that was measured lies {away:.0f} px from where the obstruction was found")
    difference = measured.stenosis_pct - detection.stenosis_pct
    if abs(difference) > MOST_DISAGREEMENT:
        said.append(f"measured {measured.stenosis_pct:.0f} %DS, but the detector estimates "
                    f"{detection.stenosis_pct:.0f} % from the picture")
    return tuple(said)
