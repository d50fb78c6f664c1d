"""What each step of the chain from a frame to its numbers costs: the same lesions, measured with more and more given.

    records = [chain_of_row(row, answer, draw_lumen, threshold) for row in rows]
    summary = summarise_chain(records, patients)

Four ways to measure one lesion. The box (with the segment's ends) and the lumen are each either true, of the Medis
contours, or predicted: the box by stages 2 and 3 from the frame alone, the lumen by stage 4. All are held against what
Medis recorded; rows whose lesion was not found have no predicted box, and the ways are compared on the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from data.cine import read_frame
from data.contours import Contours, read_contours
from data.lumen_crops import lumen_maps
from data.lumen_dataset import Section, section_of
from data.obstructions import obstruction_of
from qca.errors import QcaError
from qca.placing import nearest_lesion
from utils.lumens.evaluation import QUANTITIES, compare_measurement, scale_of, summarise_agreement
from utils.lumens.prediction import EDGE, PredictedLumen, measure_predicted
from utils.lumens.quantify import request_for
from utils.obstructions.matching import Detection
from utils.segments.report import find_segments

WAYS = {
    "true_box_true_lumen": "true box, true lumen",
    "predicted_box_true_lumen": "predicted box, true lumen",
    "true_box_predicted_lumen": "true box, predicted lumen",
    "predicted_box_predicted_lumen": "predicted box, predicted lumen",
}
WHOLE_CHAIN = "predicted_box_predicted_lumen"
LEAST_POINTS = 10  # of a section in a box: less is no stretch of vessel


def chain_of_row(
    row: Mapping, answer: Callable, draw_lumen: Callable[..., PredictedLumen], score: float, vessel_threshold: float
) -> dict:
    """The record of a row of `data.schema.load_table`: by way, what `compare_measurement` gives, and `found`.

    answer: of `frame_answer.load_answers`, with stage 3 and perhaps 2; score: from which an obstruction is reported.
    Ways without a predicted box are not there where the lesion was not found.
    """
    frame, contours = read_frame(row["cine_path"], int(row["frame_index"])), read_contours(row["contours_path"])
    view_deg = (float(row["primary_angle"]), float(row["secondary_angle"]))
    section = section_of(contours)
    lumen = draw_lumen(frame, tuple(section.box_px.tolist()), view_deg=view_deg, ends_px=section.ends_px)
    record = {"found": False, "true_box_true_lumen": _compared(true_lumen(section, lumen), contours, None),
              "true_box_predicted_lumen": _compared(lumen, contours, None)}
    found = answer(frame=frame, view_deg=view_deg)
    detection = _hit(found.obstructions, contours, frame.shape[:2], score)
    if detection is None:
        return record
    names = None if found.segments is None else find_segments(found.segments, threshold=vessel_threshold).names
    asked = request_for(detection, names, frame.shape[:2])
    lumen = draw_lumen(frame, asked.box_px, ends_px=asked.ends_px, view_deg=view_deg)
    return record | {
        "found": True, "predicted_box_true_lumen": _compared(true_lumen(section, lumen), contours, detection),
        WHOLE_CHAIN: _compared(lumen, contours, detection),
    }


def true_lumen(section: Section, predicted: PredictedLumen) -> PredictedLumen:
    """What an exact model would have answered in place of `predicted`: the lumen as Medis drew it, of the stretch that
    lies in the box."""
    crop, box = predicted.crop, np.array(predicted.box_px)
    middle = (section.left + section.right) / 2
    inside = np.flatnonzero(((middle >= box[:2]) & (middle <= box[2:])).all(axis=1))
    longest = max(np.split(inside, np.flatnonzero(np.diff(inside) > 1) + 1), key=len)
    share = np.zeros_like(predicted.share)
    if len(longest) >= LEAST_POINTS:
        part = slice(longest[0], longest[-1] + 1)
        maps = lumen_maps(crop.to_crop(section.left[part]), crop.to_crop(section.right[part]), crop.side_px)
        share = np.where(maps.coverage > 0, np.clip(maps.distance + EDGE, 0, 1), 0).astype(np.float32)
    return replace(predicted, share=share)


def _hit(
    detections: Sequence[Detection], contours: Contours, size: tuple[int, int], score: float
) -> Detection | None:
    """The surest obstruction whose point lies in the lesion's box; None where none is sure enough."""
    x0, y0, x1, y1 = obstruction_of(contours, size).box_px
    hits = (one for one in detections
            if one.score >= score and x0 <= one.point_px[0] <= x1 and y0 <= one.point_px[1] <= y1)
    return max(hits, key=lambda one: one.score, default=None)


def _compared(lumen: PredictedLumen, contours: Contours, detection: Detection | None) -> dict:
    """detection: whose lesion is asked for; None = the worst of the lumen."""
    try:
        measured = measure_predicted(lumen, scale_of(contours))
    except QcaError as error:
        return compare_measurement(None, contours) | {"failure": str(error)}
    return compare_measurement(
        measured if detection is None else nearest_lesion(measured, detection.point_px), contours
    )


def summarise_chain(records: Sequence[Mapping], patients: Sequence) -> dict:
    """Metrics of each way, named `WAY_SCORE`, over the rows whose lesion was found, so that the ways can be compared;
    of the true box's ways also over all rows, `..._all_rows`. `found_share`: how many rows were found."""
    found = [number for number, record in enumerate(records) if record["found"]]
    metrics: dict = {"n_rows": len(records), "n_patients": len(set(patients)), "n_found": len(found),
                     "found_share": len(found) / len(records)}
    for way in WAYS:
        for ending, numbers in (("", found), ("_all_rows", range(len(records)))):
            if ending and way.startswith("predicted") or not len(numbers):
                continue
            scores = summarise_agreement(
                [records[number][way] for number in numbers], [patients[number] for number in numbers]
            )
            metrics |= {f"{way}_{name.removesuffix('_ci95')}{ending}{'_ci95' * name.endswith('_ci95')}": value
                        for name, value in scores.items() if "_lesions" not in name}
    return metrics


def describe_chain(metrics: Mapping, from_pct: float) -> str:
    """The table in words: a line for each way and quantity."""
    lines = [f"{metrics['n_found']} of {metrics['n_rows']} lesions from {from_pct:g} %DS on were found from the frame "
             f"alone ({metrics['n_patients']} patients). Of these, against Medis (95 % intervals over patients):"]
    header = f"  {'':<34}{'could be':>9}{'MLD':>24}{'reference':>24}{'%DS':>24}{'length':>24}{'MLD off':>9}"
    lines += [header, f"  {'':<34}{'measured':>9}{'mm':>24}{'mm':>24}{'points':>24}{'mm':>24}{'px':>9}"]
    for way, words in WAYS.items():
        if f"{way}_measured_share" in metrics:
            lines.append(f"  {words:<34}" + _line(metrics, way, ""))
    if "true_box_predicted_lumen_measured_share_all_rows" in metrics:
        lines.append("Of all rows, found or not:")
        for way in ("true_box_true_lumen", "true_box_predicted_lumen"):
            lines.append(f"  {WAYS[way]:<34}" + _line(metrics, way, "_all_rows"))
    lines.append("mean absolute error, and in brackets bias +- SD")
    return "\n".join(lines)


def _line(metrics: Mapping, way: str, ending: str) -> str:
    cells = [f"{metrics[f'{way}_measured_share{ending}']:>9.0%}"]
    for name, (unit, _, _) in QUANTITIES.items():
        mae, bias, sd = (metrics[f"{way}_{name}_{score}_{unit}{ending}"] for score in ("mae", "bias", "sd"))
        cells.append(f"{f'{mae:.2f} ({bias:+.2f} +- {sd:.2f})':>24}")
    return "".join(cells) + f"{metrics[f'{way}_mld_position_mae_px{ending}']:>9.1f}"
