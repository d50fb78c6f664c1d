"""One frame in, what a model of any stage says of it out.

    answer, checkpoint = load_answer("checkpoints/phase2_cass_tiny.pth", device=device)
    vessel_probability, named = answer(frame, view_deg=(31.3, 0.1))     # named: None for a model of stage 1
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from models.loading import load_model
from utils.cass_prediction import FramePrediction, predict_cass
from utils.prediction import CASS_STAGE, predict_vessels


def load_answer(
    path: str | Path, *, device: torch.device, scales: Sequence[float] = (1.0,)
) -> tuple[Callable[..., tuple[np.ndarray, FramePrediction | None]], dict]:
    """Return `answer_frame` with the model of a checkpoint bound to it, and the checkpoint's dict.

    Raises CheckpointError as `models.loading.load_model` does.
    """
    model, checkpoint = load_model(path, device)
    how = dict(image_size=checkpoint["config"]["image_size"], device=device, scales=scales)
    return partial(answer_frame, model, names_segments=checkpoint["stage"] == CASS_STAGE, **how), checkpoint


def answer_frame(
    model: nn.Module, frame: np.ndarray, *, view_deg: Sequence[float], names_segments: bool, image_size: int,
    device: torch.device, scales: Sequence[float] = (1.0,),
) -> tuple[np.ndarray, FramePrediction | None]:
    """Return the vessel probability, float32 (H, W), and, of a stage 2 model, all its answers.

    frame: uint8 (H, W, 3); scales: magnifications to average over, as in `predict_vessels`; they
    improve the vessels only.
    """
    how = dict(view_deg=view_deg, image_size=image_size, device=device)
    if not names_segments:
        return predict_vessels(model, frame, scales=scales, **how), None
    named = predict_cass(model, frame, **how)
    if tuple(scales) != (1.0,):
        named = replace(named, vessel_probability=predict_vessels(model, frame, scales=scales, **how))
    return named.vessel_probability, named
