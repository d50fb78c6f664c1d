"""One job of `predict.py`, from frame choice to numbers.

    prediction = predict_job(job, asked, answer, wanted)    # a utils.reports.records.Prediction

Whatever is written, drawn or exported of an input takes its `Prediction`: frame, findings and measurements together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from data.frame_choice import choose_frame
from data.frame_source import FrameSource, open_frames
from data.masks import read_frame_masks
from utils.lumens.quantify import QuantifiedLesion, quantify, quantify_box
from utils.metrics import dice
from utils.obstructions.report import score_obstructions
from utils.obstructions.search import Chosen, ObstructionFindings, Wanted, search_obstructions
from utils.obstructions.tracking import frames_around
from utils.reports.frame_answer import FrameAnswer
from utils.reports.frame_calibration import FrameScale, calibrate
from utils.reports.jobs import Job, check_frame_index, merge_view
from utils.reports.records import Prediction, pixel_size
from utils.segments.report import Pointer, SegmentFindings, find_segments, pointed_record, score_row


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked of every input. threshold: probability from which a pixel is vessel; cine_frames: to search for
    obstructions; pointer: a place that is asked about, None = none."""

    threshold: float
    cine_frames: int
    pointer: Pointer | None = None


def predict_job(
    job: Job, asked: Asked, answer: Callable[..., FrameAnswer], wanted: Wanted | None
) -> Prediction:
    """Read, choose the frame, predict, measure. answer: of `frame_answer.load_answers`; wanted: None = no model finds
    obstructions. Raises DataError and ValueError for what cannot be read or asked."""
    source = open_frames(job.path)
    check_frame_index(job, source)
    frame_index, reason, filling = job.frame_index, "given", None
    if frame_index is None:
        choice = choose_frame(source.read, source.frames, progress=True)
        frame_index, reason, filling = choice.frame_index, choice.reason, choice.filling
    frame = source.read(frame_index)
    view_deg, view_source = merge_view(job, source)
    scale = calibrate(source.geometry, job.row, job.scale)
    found = answer(frame=frame, view_deg=view_deg)
    mask = None if found.vessel_probability is None else found.vessel_probability >= asked.threshold
    scores = _vessel_scores(mask, job.row)
    added = {} if found.segments is None else _name_segments(job, asked, source, scale, found, scores)
    if wanted is not None:
        near = frames_around(frame_index, source.frames, asked.cine_frames, filling)
        obstructions = search_obstructions(answer, source.read, Chosen(frame_index, frame, found), near,
                                           view_deg=view_deg, threshold=wanted.threshold)
        scores |= score_obstructions(obstructions, job.row, wanted.from_pct) if len(job.row) else {}
        added["obstructions"] = obstructions
    if found.draw_lumen is not None:
        added["measurements"] = measure(found.draw_lumen, frame, added.get("obstructions"), added.get("findings"),
                                        asked.pointer, view_deg=view_deg, scale=scale)
    return Prediction(name=job.name, source=source, frame_index=frame_index, frame_reason=reason, frame=frame,
                      view_deg=view_deg, view_source=view_source, probability=found.vessel_probability,
                      mask=mask, threshold=asked.threshold, scores=scores, scale=scale, row=job.row, **added)


def _vessel_scores(mask: np.ndarray | None, row: Mapping) -> dict:
    """Dice with each mask that the row of a data set has of the vessels."""
    if mask is None:
        return {}
    return {f"dice_{name}": dice(mask, other) for name, other in read_frame_masks(row, mask.shape).items()}


def _name_segments(
    job: Job, asked: Asked, source: FrameSource, scale: FrameScale, found: FrameAnswer, scores: dict
) -> dict:
    """The fields of a `Prediction` that stage 2 adds; a row of a data set adds its `scores`."""
    if len(job.row):
        scores |= score_row(found.segments, job.row)
    pixel_mm, pixel_mm_source = pixel_size(source, scale)
    pointed = None
    if asked.pointer:
        pointed = pointed_record(found.segments, asked.pointer, threshold=asked.threshold)
    return {"findings": find_segments(found.segments, threshold=asked.threshold), "pixel_mm": pixel_mm,
            "pixel_mm_source": pixel_mm_source, "pointed": pointed}


def measure(
    draw_lumen: Callable, frame: np.ndarray, obstructions: ObstructionFindings | None,
    segments: SegmentFindings | None, pointer: Pointer | None, *, view_deg: tuple[float, float], scale: FrameScale,
) -> list[QuantifiedLesion]:
    """Every obstruction that the frame shows, in their order, and the box that was given, last."""
    how = dict(view_deg=view_deg, calibration=scale.calibration)
    names = None if segments is None else segments.names
    lesions = () if obstructions is None else obstructions.lesions
    here = [detection for lesion in lesions if (detection := obstructions.here(lesion)) is not None]
    measured = [quantify(draw_lumen, frame, detection, names=names, **how) for detection in here]
    if pointer is not None and pointer.kind == "box":
        measured.append(quantify_box(draw_lumen, frame, pointer.px, **how))
    return measured
