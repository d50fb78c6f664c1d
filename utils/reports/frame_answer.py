"""One frame in, what the models say of it out: of one checkpoint, or of several of different stages.

    answer, checkpoint = load_answer("checkpoints/phase2_cass_tiny.pth", device=device)
    answer, checkpoints = load_answers([names_path, obstructions_path], device=device)
    found = answer(frame, view_deg=(31.3, 0.1))
    found.vessel_probability                     # every stage
    found.segments                               # stage 2: names, else None
    found.obstructions                           # stage 3: a ranked list, else None
    found.draw_lumen                             # stage 4: draws the lumen in a box (utils.lumens.quantify), else None
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from models.loading import load_model
from utils.checkpoint import CheckpointError
from utils.lumens.prediction import PredictedLumen, predict_lumen
from utils.obstructions.matching import Detection
from utils.obstructions.prediction import predict_obstructions
from utils.prediction import CASS_STAGE, LUMEN_STAGE, OBSTRUCTION_STAGE, STAGE, predict_vessels
from utils.segments.prediction import FramePrediction, predict_cass

# Whose vessels are taken: those that the names are of, so that both fit; else those of the earlier stage.
_DRAWS_VESSELS = (CASS_STAGE, STAGE, OBSTRUCTION_STAGE)


@dataclass(frozen=True, kw_only=True)
class FrameAnswer:
    """vessel_probability: float32 (H, W), None where no model but one of stage 4 was asked; segments: of a stage 2
    model; obstructions: of a stage 3 model, best first, down to scores that hardly mean anything: the reader chooses a
    threshold. draw_lumen: of a stage 4 model, `utils.lumens.prediction.predict_lumen` without the model: it answers
    nothing until a box is asked for."""

    vessel_probability: np.ndarray | None
    segments: FramePrediction | None = None
    obstructions: list[Detection] | None = None
    draw_lumen: Callable[..., PredictedLumen] | None = None


def load_answer(
    path: str | Path, *, device: torch.device, scales: Sequence[float] = (1.0,)
) -> tuple[Callable[..., FrameAnswer], dict]:
    """Return `answer_frame` with the model of a checkpoint bound to it, and the checkpoint's dict.

    Raises CheckpointError as `models.loading.load_model` does, and for one of stage 4.
    """
    model, checkpoint = load_model(path, device)
    if checkpoint["stage"] == LUMEN_STAGE:
        raise CheckpointError(f"{path}: of {LUMEN_STAGE}, which draws the lumen in a box and answers no whole frame; "
                              "give a checkpoint of stage 1, 2 or 3")
    return _bound(model, checkpoint, device, scales), checkpoint


def _bound(model: nn.Module, checkpoint: Mapping, device: torch.device, scales: Sequence[float] = (1.0,)) -> Callable:
    """`answer_frame` with a model, or, of stage 4, `predict_lumen`."""
    how = dict(image_size=checkpoint["config"]["image_size"], device=device)
    if checkpoint["stage"] == LUMEN_STAGE:
        return partial(predict_lumen, model, **how)
    return partial(answer_frame, model, stage=checkpoint["stage"], scales=scales, **how)


def load_answers(
    paths: Sequence[str | Path], *, device: torch.device, scales: Sequence[float] = (1.0,)
) -> tuple[Callable[..., FrameAnswer], list[dict]]:
    """Return one function (frame, view_deg) -> FrameAnswer of all checkpoints, and their dicts in the order given.

    scales: as for `answer_frame`, used by the model that draws the vessels (see `uses_of`); one that has no use is
    not asked. Raises CheckpointError as `load_answer`, and for two checkpoints of one stage.
    """
    loaded = [load_model(path, device) for path in paths]
    stages = [checkpoint["stage"] for _, checkpoint in loaded]
    for number, stage in enumerate(stages):
        if stage in stages[:number]:
            raise CheckpointError(f"{paths[stages.index(stage)]} and {paths[number]} are both of {stage}: give one of "
                                  "each stage, or call twice")
    uses = uses_of(stages)
    asked = {checkpoint["stage"]: _bound(model, checkpoint, device) for model, checkpoint in loaded
             if uses[checkpoint["stage"]]}
    draw_lumen = asked.pop(LUMEN_STAGE, None)
    draws = next((stage for stage in asked if "vessels" in uses[stage]), None)
    if draws is not None:
        asked[draws] = partial(asked[draws], scales=scales)
    return partial(_answer_of_all, asked, draws, draw_lumen), [checkpoint for _, checkpoint in loaded]


def uses_of(stages: Sequence[str]) -> dict[str, list[str]]:
    """What each of these stages is asked for: "vessels", "segments", "obstructions", "measurements"; stage 1 beside 2
    nothing."""
    draws = next((stage for stage in _DRAWS_VESSELS if stage in stages), None)
    own = {CASS_STAGE: ["segments"], OBSTRUCTION_STAGE: ["obstructions"], LUMEN_STAGE: ["measurements"]}
    return {stage: ["vessels"] * (stage == draws) + own.get(stage, []) for stage in stages}


def _answer_of_all(
    asked: Mapping[str, Callable[..., FrameAnswer]], draws: str | None, draw_lumen: Callable | None,
    frame: np.ndarray, view_deg: Sequence[float],
) -> FrameAnswer:
    """asked: by stage, without stage 4; draws: the stage that the vessels are of; draw_lumen: of stage 4."""
    found = {stage: answer(frame, view_deg=view_deg) for stage, answer in asked.items()}
    return FrameAnswer(
        vessel_probability=None if draws is None else found[draws].vessel_probability,
        segments=found[CASS_STAGE].segments if CASS_STAGE in found else None,
        obstructions=found[OBSTRUCTION_STAGE].obstructions if OBSTRUCTION_STAGE in found else None,
        draw_lumen=draw_lumen,
    )


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
