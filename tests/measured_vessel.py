"""A frame with one vessel whose narrowing is known, and models that answer with the truth of it.

    path = write_frame(tmp_path)                            # a picture; 12 px wide, 50 % narrowed at its middle
    sees_vessel(monkeypatch, [detection()])                 # predict.py's models then find these, and draw its lumen
"""

from __future__ import annotations

import cv2
import numpy as np

import predict
from data.lumen_crops import crop_around, lumen_maps
from tests.qca_shapes import draw_tubes, edges_of, narrowed, straight_line
from utils.checkpoint import load_checkpoint
from utils.lumens.prediction import PredictedLumen
from utils.obstructions.matching import Detection
from utils.reports.frame_answer import FrameAnswer
from utils.segments.prediction import FramePrediction

SIZE = (160, 160)
WIDTH_PX, STENOSIS_PCT, LENGTH_PX = 12.0, 50.0, 36.0
MIDDLE = (80.3, 79.6)
LINE = straight_line(middle=MIDDLE, length_px=130)
EDGES = edges_of(LINE, narrowed(LINE, WIDTH_PX, STENOSIS_PCT, LENGTH_PX))
CLASSES = (12, 13)


def write_frame(folder, name="frame.png"):
    """The vessel, dark on grey."""
    coverage, _ = draw_tubes([EDGES], SIZE)
    path = folder / name
    path.write_bytes(cv2.imencode(".png", (150 - 90 * coverage).astype(np.uint8))[1].tobytes())
    return path


def detection(place=MIDDLE, score=0.9, stenosis_pct=55.0) -> Detection:
    x, y = place
    return Detection(score, (x - 18, y - 12, x + 18, y + 12), place, stenosis_pct)


def draw_true_lumen(frame, box_px, *, view_deg, ends_px=None) -> PredictedLumen:
    """As `utils.lumens.prediction.predict_lumen`, by a model that is always right."""
    crop = crop_around(np.array(box_px), side_px=336, frame_side_px=max(frame.shape))
    share = lumen_maps(*(crop.to_crop(edge) for edge in EDGES), 336).coverage
    return PredictedLumen(share=share, crop=crop, box_px=tuple(map(float, box_px)), frame_size=frame.shape[:2])


def draw_nothing(frame, box_px, *, view_deg, ends_px=None) -> PredictedLumen:
    """As `draw_true_lumen`, by a model that sees no vessel."""
    crop = crop_around(np.array(box_px), side_px=336, frame_side_px=max(frame.shape))
    share = np.zeros((336, 336), np.float32)
    return PredictedLumen(share=share, crop=crop, box_px=tuple(map(float, box_px)), frame_size=frame.shape[:2])


def vessel_names() -> FramePrediction:
    """All of the vessel is mid LAD."""
    _, mask = draw_tubes([EDGES], SIZE)
    names = np.full((3, *SIZE), 0.01, np.float32)
    names[1] = 0.98
    return FramePrediction(
        vessel_probability=np.where(mask, 0.95, 0).astype(np.float32), name_log_probs=np.log(names),
        analysed_probability=np.zeros(SIZE, np.float32), class_probs=np.array([0.1, 0.9], np.float32),
        box=np.array([0.5, 0.5, 0.5, 0.5], np.float32), classes=CLASSES,
    )


def sees_vessel(monkeypatch, obstructions, *, draw_lumen=draw_true_lumen) -> None:
    """The checkpoints given are answered for: the vessel, all mid LAD, these obstructions, its lumen."""
    names = vessel_names()
    answers_with(monkeypatch, lambda frame, stages: FrameAnswer(
        vessel_probability=names.vessel_probability,
        segments=names if "phase2_cass" in stages else None,
        obstructions=list(obstructions) if "phase3_obstruction" in stages else None,
        draw_lumen=draw_lumen if "phase4_quantitative" in stages else None,
    ))


def answers_with(monkeypatch, answer) -> None:
    """predict.py reads the checkpoints given and builds no model: answer(frame, stages) -> FrameAnswer."""
    def load(paths, **how):
        checkpoints = [load_checkpoint(path) for path in paths]
        stages = [checkpoint["stage"] for checkpoint in checkpoints]
        return lambda frame, view_deg: answer(frame, stages), checkpoints
    monkeypatch.setattr(predict, "load_answers", load)
