"""What `predict.py` says of the CASS segments of a frame: their names, the blind guess, the pointed answer.

    findings = find_segments(prediction, threshold=0.5)          # prediction: cass_prediction.FramePrediction
    record = segments_record(findings, pixel_mm=[0.2, 0.2], mask_file="IM1_segments.png")

Two questions, never mixed: *blind*, which segment did the analyst analyse in this frame? and *pointed*, which
segment is this one?
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from data.cass import SEGMENTS
from data.masks import read_mask
from utils.drawing import segment_name
from utils.segments.naming import VisibleSegment, line_length, name_map, visible_segments
from utils.segments.prediction import (
    FramePrediction,
    blind_box_of_map,
    blind_probs_of_map,
    pointed_probs,
    region_of_box,
    region_of_point,
)

_TOP = 3                        # names in an answer


class Pointer(NamedTuple):
    """Where a question points, in px of the frame: (x, y) of a "point" or (x0, y0, x1, y1) of a "box"."""

    kind: str
    px: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class SegmentFindings:
    """The named segments of a frame; names: uint8 (H, W), the CASS number where one of them is, else 0."""

    prediction: FramePrediction
    segments: Sequence[VisibleSegment]
    names: np.ndarray


def find_segments(prediction: FramePrediction, *, threshold: float) -> SegmentFindings:
    """Return the visible segments of a frame; threshold: probability from which a pixel is vessel."""
    named, probability = name_map(prediction, threshold)
    segments = visible_segments(named, probability)
    names = np.zeros_like(named)
    for segment in segments:
        names[segment.mask] = segment.cass_id
    return SegmentFindings(prediction=prediction, segments=segments, names=names)


def segments_record(
    findings: SegmentFindings, *, pixel_mm: Sequence[float] | None, mask_file: str
) -> list[dict]:
    """Return the visible segments for JSON; pixel_mm: (row, column) mm per pixel, None = no lengths in mm.

    `box_px`: outermost pixel centres (x0, y0, x1, y1). `mask`: the value of its pixels in `mask_file`.
    """
    return [
        {**name_record(segment.cass_id), "probability": round(float(segment.probability), 4),
         "box_px": [int(side) for side in segment.box_px], "area_px": int(segment.mask.sum()),
         "centreline_length_px": round(float(segment.length_px), 1),
         "centreline_length_mm": length_mm(segment.centreline_px, pixel_mm),
         "mask": {"file": mask_file, "value": segment.cass_id}}
        for segment in findings.segments
    ]


def name_record(cass_id: int) -> dict:
    """Return number, name and SNOMED CT code of a segment; the code is None where the table has none."""
    return {"cass_id": int(cass_id), "name": SEGMENTS[cass_id].name, "snomed_ct": SEGMENTS[cass_id].snomed_ct}


def length_mm(line_px: np.ndarray, pixel_mm: Sequence[float] | None) -> float | None:
    """Return the length in mm of a line of points (x, y) px; pixel_mm: (row, column) mm per pixel."""
    if pixel_mm is None:
        return None
    return round(line_length(line_px * np.asarray(pixel_mm)[::-1]), 2)


def analysed_record(prediction: FramePrediction) -> dict:
    """Return the blind guesses, of the pooled head and of the map, each with its box, for JSON."""
    classes, size = prediction.classes, prediction.size
    head = _ranked(classes, prediction.class_probs) | {"box_px": box_px(prediction.box, size)}
    of_map = _ranked(classes, blind_probs_of_map(prediction))
    of_map |= {"box_px": box_px(blind_box_of_map(prediction), size)}
    return {"question": "which segment did the analyst analyse in this frame? (blind)", "pooled_head": head,
            "map": of_map}


def box_px(box: np.ndarray, size: tuple[int, int]) -> list[float]:
    """Return a box (x_center, y_center, width, height) in shares of the sides as outermost pixel centres."""
    half, sides = np.asarray(box[2:], np.float64) / 2, np.array(size[::-1])
    low, high = (box[:2] - half) * sides, (box[:2] + half) * sides - 1
    return [round(float(side), 1) for side in (*low, *high)]


def pointed_record(prediction: FramePrediction, pointer: Pointer, *, threshold: float) -> dict:
    """Return the answer to "which segment is this one?" for JSON.

    `vessel_px` says on how many predicted vessel pixels the answer rests, `distance_px` how far the nearest
    pixel that was asked lies from the point or the box. Raises ValueError for a place outside the frame.
    """
    region = (region_of_point if len(pointer.px) == 2 else region_of_box)(prediction, pointer.px)
    low, high = np.array(pointer.px[:2]), np.array(pointer.px[-2:])
    pixels = np.argwhere(region)[:, ::-1]
    outside = np.maximum(np.maximum(low - pixels, pixels - high), 0)
    vessel_px = int((region & (prediction.vessel_probability >= threshold)).sum())
    return {"question": "which segment is this one? (pointed)", f"{pointer.kind}_px": list(pointer.px),
            "vessel_px": vessel_px, "distance_px": round(float(np.hypot(*outside.T).min()), 1),
            **_ranked(prediction.classes, pointed_probs(prediction, region))}


def describe_pointed(record: Mapping) -> str:
    """Return the pointed answer of a `pointed_record` as lines for the terminal."""
    kind = "point" if "point_px" in record else "box"
    place = ", ".join(f"{number:g}" for number in record[f"{kind}_px"])
    lines = [f"which segment is at {kind} {place}?"]
    lines += [f"  {name['probability']:.2f}  {segment_name(name['cass_id'])}" for name in record["top"]]
    if record["vessel_px"] == 0:
        lines.append("  no vessel was found there: the answer is a guess from the place alone")
    elif record["distance_px"] >= 1:
        lines.append(f"  of the nearest vessel, {record['distance_px']:.0f} px away")
    return "\n".join(lines)


def _ranked(classes: Sequence[int], probs: np.ndarray) -> dict:
    """Return the likeliest name and its rivals: the first's fields, `top` three, `probabilities` of all."""
    order = np.argsort(-probs, kind="stable")
    top = [name_record(classes[k]) | {"probability": round(float(probs[k]), 4)} for k in order[:_TOP]]
    probabilities = {str(cass_id): round(float(prob), 4) for cass_id, prob in zip(classes, probs)}
    return {**top[0], "top": top, "probabilities": probabilities}


def score_row(prediction: FramePrediction, row: Mapping) -> dict[str, float]:
    """Return whether the segment of a row was named, 1 or 0; empty when it is none of the model's classes.

    `top1_pointed`: with its mask given; `top1_blind`, `top1_blind_map`: which was analysed?
    """
    cass_id, classes = int(row["cass_segment"]), prediction.classes
    if cass_id not in classes:
        return {}
    answers = {"top1_blind": prediction.class_probs, "top1_blind_map": blind_probs_of_map(prediction)}
    mask = read_mask(row["vessel_mask_actual_path"])
    if mask.any():
        answers["top1_pointed"] = pointed_probs(prediction, mask)
    return {name: float(classes[int(np.argmax(probs))] == cass_id) for name, probs in answers.items()}

