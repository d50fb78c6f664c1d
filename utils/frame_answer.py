"""One frame in, what a model of any stage says of it out.

    answer, checkpoint = load_answer("checkpoints/phase2_cass_tiny.pth", device=device)
    found = answer(frame, view_deg=(31.3, 0.1))
    found.vessel_probability                     # every stage
    found.segments                               # stage 2: names, else None
    found.obstructions                           # stage 3: a ranked list, else None
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from models.loading import load_model
from utils.cass_prediction import FramePrediction, predict_cass
from utils.obstruction_prediction import predict_obstructions
from utils.obstruction_scores import Detection
from utils.prediction import CASS_STAGE, OBSTRUCTION_STAGE, predict_vessels


@dataclass(frozen=True, kw_only=True)
class FrameAnswer:
    """vessel_probability: float32 (H, W); segments: of a stage 2 model; obstructions: of a stage 3 model, best first,
    down to scores that hardly mean anything: the reader chooses a threshold."""

    vessel_probability: np.ndarray
    segments: FramePrediction | None = None
    obstructions: list[Detection] | None = None


def load_answer(
    path: str | Path, *, device: torch.device, scales: Sequence[float] = (1.0,)
) -> tuple[Callable[..., FrameAnswer], dict]:
    """Return `answer_frame` with the model of a checkpoint bound to it, and the checkpoint's dict.

    Raises CheckpointError as `models.loading.load_model` does.
    """
    model, checkpoint = load_model(path, device)
    how = dict(image_size=checkpoint["config"]["image_size"], device=device, scales=scales)
    return partial(answer_frame, model, stage=checkpoint["stage"], **how), checkpoint


def answer_frame(
    model: nn.Module, frame: np.ndarray, *, view_deg: Sequence[float], stage: str, image_size: int,
    device: torch.device, scales: Sequence[float] = (1.0,),
) -> FrameAnswer:
    """Return the answers of a model of `stage` for a frame, uint8 (H, W, 3).

    scales: magnifications to average over, as in `predict_vessels`; they improve the vessels only.
    """
    how = dict(view_deg=view_deg, image_size=image_size, device=device)
    if stage == CASS_STAGE:
        segments = predict_cass(model, frame, **how)
        answer = FrameAnswer(vessel_probability=segments.vessel_probability, segments=segments)
    elif stage == OBSTRUCTION_STAGE:
        vessel_probability, obstructions = predict_obstructions(model, frame, **how)
        answer = FrameAnswer(vessel_probability=vessel_probability, obstructions=obstructions)
    else:
        return FrameAnswer(vessel_probability=predict_vessels(model, frame, scales=scales, **how))
    if tuple(scales) == (1.0,):
        return answer
    averaged = predict_vessels(model, frame, scales=scales, **how)
    segments = None if answer.segments is None else replace(answer.segments, vessel_probability=averaged)
    return replace(answer, vessel_probability=averaged, segments=segments)
