"""What is said of measured obstructions: records for JSON, lines for `measurements.csv`, words for pictures.

    record = measurement_record(one, lumen_file="IM1_lumen.png")        # one: utils.lumens.quantify.QuantifiedLesion
    record["mld_mm"], record["stenosis_pct"], record["failure"]         # null where unknown, never guessed

Every record has the same keys; without a calibration those in mm are null, after a failure all numbers are.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence

import numpy as np

from data.contours import read_contours
from data.obstructions import obstruction_of_row
from qca.measure import Measurement
from utils.lumens.quantify import QuantifiedLesion
from utils.obstructions.matching import Detection, Target, match_detections

NUMBERS = (
    "stenosis_pct", "area_stenosis_pct", "mld_mm", "rvd_mm", "lesion_length_mm", "mld_px", "rvd_px", "lesion_length_px",
)
# Name in a record -> measurement of a contours file.
RECORDED = {
    "mld_mm": "MLD_mm", "rvd_mm": "interpolated_RVD_mm", "stenosis_pct": "diameter_stenosis_pct",
    "area_stenosis_pct": "area_stenosis_pct", "lesion_length_mm": "lesion_length_mm",
}
PLACES = ("mld_point_px", "lesion_start_px", "lesion_end_px")
LINES = {"centreline_px": "line_px", "left_edge_px": "left_px", "right_edge_px": "right_px"}
CSV_COLUMNS = (
    "name", "input", "frame_index", "number", "cass_id", "segment", *NUMBERS[:5], "mld_px", "rvd_px",
    "lesion_length_px", "mld_x_px", "mld_y_px", "view", "px_per_mm", "calibration", "detector_score",
    "detector_stenosis_pct", "failure", "warnings",
)
BOX_NUMBER = "box"  # in place of an obstruction's number, for what was pointed at


def measurement_record(one: QuantifiedLesion, *, lumen_file: str, recorded: dict | None = None) -> dict:
    """Everything about one measured obstruction, for JSON.

    recorded: of `recorded_numbers`, where the obstruction is the annotated one. `curve`: along the measured vessel,
    proximal to distal, in `unit`; its points are those of `centreline_px` and of both edges, px of the frame.
    """
    measured, box = one.measured, one.lumen.box_px
    numbers = dict.fromkeys((*NUMBERS, *PLACES, "curve")) if measured is None else _numbers(measured)
    return {
        **numbers, "asked_for": {"box_px": _rounded(box, 1), "by": one.asked_by},
        "lumen": {"file": lumen_file, "area_px": int(one.lumen.mask_in_frame().sum())},
        "recorded": recorded, "warnings": list(one.warnings), "failure": one.failure,
    }


def _numbers(measured: Measurement) -> dict:
    worst, mm = measured.worst, measured.mm
    in_mm = [None] * 3 if mm is None else [_rounded(value, 3) for value in (mm.mld, mm.rvd, mm.lesion_length)]
    in_px = [_rounded(value, 2) for value in (worst.mld_px, worst.reference_px, worst.length_px)]
    percent = [_rounded(value, 1) for value in (measured.stenosis_pct, measured.area_stenosis_pct)]
    places = [_rounded(measured.line_px[at], 1) for at in (worst.mld, worst.start, worst.end)]
    named = dict(zip((*NUMBERS, *PLACES), (*percent, *in_mm, *in_px, *places), strict=True))
    return named | {"curve": _curve(measured)}


def _curve(measured: Measurement) -> dict:
    scale = 1.0 if measured.calibration is None else measured.calibration.px_per_mm
    lengths = {"arc": measured.arc_px, "diameter": measured.diameter_px, "reference": measured.reference_px}
    worst = measured.worst
    return {
        "unit": measured.unit, **{name: _rounded(values / scale, 3) for name, values in lengths.items()},
        "lesion_start_index": worst.start, "mld_index": worst.mld, "lesion_end_index": worst.end,
        **{name: _rounded(getattr(measured, field), 2) for name, field in LINES.items()},
    }


def _rounded(values, digits: int):
    """A number or an array as plain rounded floats."""
    return np.round(np.asarray(values, np.float64), digits).tolist()


def measurement_of(measurements: Sequence[QuantifiedLesion], detection: Detection | None) -> QuantifiedLesion | None:
    """The measurement of a detection, or, for None, of the box that was given; None where there is none."""
    return next((one for one in measurements if one.detection is detection), None)


def annotated_among(detections: Sequence[Detection], row: Mapping) -> Detection | None:
    """The detection of the obstruction that a row of a data set has annotated, however severe; None: not found, no row.

    It is the annotated one as in FROC: its point lies in the annotation's box, and of several it is the nearest.
    """
    if not len(row):
        return None
    label = obstruction_of_row(row)
    target = Target(label.box_px, label.mld_px, label.stenosis_pct, int(row["cass_segment"]), math.nan)
    ranked = sorted(detections, key=lambda one: -one.score)  # the order of the answer
    hits = match_detections(ranked, [target])["detection_point"]
    return next((one for one, hit in zip(ranked, hits, strict=True) if hit == 0), None)


def recorded_numbers(row: Mapping) -> dict:
    """What the contours file of a row has measured, by the names of a record; null where the file has none."""
    given = read_contours(row["contours_path"]).measurements
    numbers = {name: None if math.isnan(given[field]) else given[field] for name, field in RECORDED.items()}
    return {"source": str(row["contours_path"]), **numbers}


def measurement_words(record: Mapping) -> str:
    """The numbers in a line, `62 %DS, MLD 1.21 mm, RVD 3.18 mm, 12.4 mm long`, or that there are none."""
    if record["failure"] is not None:
        return "not measured"
    unit, digits = ("px", 1) if record["mld_mm"] is None else ("mm", 2)
    mld, rvd, length = (record[f"{name}_{unit}"] for name in ("mld", "rvd", "lesion_length"))
    diameters = f"MLD {mld:.{digits}f} {unit}, RVD {rvd:.{digits}f} {unit}"
    return f"{record['stenosis_pct']:.0f} %DS, {diameters}, {length:.1f} {unit} long"


def measured_obstructions(record: Mapping) -> list[tuple[int | str, Mapping, Mapping]]:
    """(number, obstruction, measurement) of a prediction's record: those measured, then the box (no obstruction)."""
    found = [(one["rank"], one, one["measurement"]) for one in record.get("obstructions", ()) if one.get("measurement")]
    box = record.get("measured_box")
    return found + ([(BOX_NUMBER, {}, box)] if box else [])


def csv_of(records: Sequence[Mapping]) -> str:
    """The text of `measurements.csv`: one line per obstruction that was measured, or could not be; empty = unknown."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for record in records:
        for number, obstruction, measurement in measured_obstructions(record):
            writer.writerow(_csv_row(record, number, obstruction, measurement))
    return text.getvalue()


def _csv_row(record: Mapping, number: int | str, obstruction: Mapping, measurement: Mapping) -> dict:
    segment, point = obstruction.get("segment") or {}, measurement["mld_point_px"] or (None, None)
    scale = record["calibration"]
    return {
        **{name: measurement[name] for name in NUMBERS}, "name": record["name"], "input": record["input"],
        "frame_index": record["frame_index"], "number": number, "cass_id": segment.get("cass_id"),
        "segment": segment.get("name"), "mld_x_px": point[0], "mld_y_px": point[1], "view": record["view"]["text"],
        "px_per_mm": scale["px_per_mm"], "calibration": scale["source"], "detector_score": obstruction.get("score"),
        "detector_stenosis_pct": obstruction.get("estimated_stenosis_pct"), "failure": measurement["failure"],
        "warnings": "; ".join(measurement["warnings"]),
    }
