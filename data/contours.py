"""Contours of one analysed segment as Medis QCA exports them, in JSON.

Points are (x, y) in pixels of the cine frame, x right, y down, from proximal to distal.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.errors import DataError, shown
from data.input_files import MOST_JSON_BYTES, parse_json, read_bytes
from data.text import decode_text

POLYLINES = ("centerline", "left_edge", "right_edge", "ideal_left_edge", "ideal_right_edge")
MEASUREMENTS = (
    "MLD_mm", "interpolated_RVD_mm", "diameter_stenosis_pct", "area_stenosis_pct", "MLD_x_coord",
    "MLD_y_coord", "MLD_centerline_index", "lesion_length_mm", "lesion_start_x_coord", "lesion_start_y_coord",
    "lesion_end_x_coord", "lesion_end_y_coord", "proximal_normal_diameter_mm", "distal_normal_diameter_mm",
    "segment_length_mm", "obstruction_position_mm",
)
# Without these nothing can be measured; the other measurements are only reported when they are missing.
NEEDED_MEASUREMENTS = MEASUREMENTS[:3]
NEEDED_KEYS = ("segment_name", "frame_num", *POLYLINES, "measurements", "calibration")
# 0 is allowed for the smallest diameter: a total occlusion measures so.
NEVER_NEGATIVE = (
    "MLD_mm", "lesion_length_mm", "proximal_normal_diameter_mm", "distal_normal_diameter_mm",
    "segment_length_mm",
)
LEAST_POINTS = 10  # Medis writes 300 to 400; fewer than this outline no vessel
MOST_POINTS = 5000  # edges are matched point by point, which takes the square of it in memory

STENOSIS_DISAGREES_POINTS = 1.5  # %DS is often printed as a whole number
LARGEST_CATHETER_MM = 4.0  # 12 F, larger than any coronary catheter
LARGEST_NUMBER = 1e9  # no measurement comes near; keeps infinity and endless digits out
LARGEST_MAGNIFICATION = 1.8  # source-detector 1200 mm over source-patient 720 mm is 1.67


@dataclass(frozen=True)
class Contours:
    """One contours file. Lines are float64 (N, 2); measurements that are null or absent are nan.

    `calibration` is as in the file: `scale_factor` in pixels per mm, `imager_pixel_spacing_mm` [row, col],
    and `catheter_diameter_mm`, which is mostly French size in spite of its name (8.0 is 8 F = 2.67 mm).
    `view_angles` is as in the file, numbers or text; `data.angles.parse_angle` reads it. `frame_num` is kept
    for the record only: its base is not stated, the CSV's `frame_index` decides.
    """

    segment_name: str
    frame_num: int | None
    centerline: np.ndarray
    left_edge: np.ndarray
    right_edge: np.ndarray
    ideal_left_edge: np.ndarray
    ideal_right_edge: np.ndarray
    measurements: dict[str, float]
    calibration: dict
    view_angles: dict
    analyst: str | None
    analysis_date: str | None

    @property
    def missing_measurements(self) -> list[str]:
        return [name for name in MEASUREMENTS if math.isnan(self.measurements[name])]

    def contradictions(self) -> list[str]:
        """What does not fit together in the file, in words; the traps that real files are known for."""
        said = []
        if self.missing_measurements:
            said.append(f"measurements missing or null: {', '.join(self.missing_measurements)}")
        return said + self.stenosis_contradictions() + self._calibration_contradictions()

    def stenosis_contradictions(self) -> list[str]:
        """Diameter and area stenosis against the diameters that they are made of, in words."""
        said = []
        mld, rvd, stenosis, area = (self.measurements[name] for name in MEASUREMENTS[:4])
        ratio = mld / rvd
        expected = 100 * (1 - ratio)
        if abs(stenosis - expected) > STENOSIS_DISAGREES_POINTS:
            said.append(f"diameter stenosis {stenosis:.1f} %, but 1 - MLD / RVD gives {expected:.1f} %")
        expected_area = 100 * (1 - ratio * ratio)
        if abs(area - expected_area) > STENOSIS_DISAGREES_POINTS:
            said.append(f"area stenosis {area:.1f} %, but 1 - (MLD / RVD)^2 gives {expected_area:.1f} %")
        return said

    def _calibration_contradictions(self) -> list[str]:
        said, catheter = [], self.calibration.get("catheter_diameter_mm")
        if catheter is not None and catheter > LARGEST_CATHETER_MM:
            said.append(f"catheter_diameter_mm {catheter:g} must be French size ({catheter / 3:.2f} mm)")
        scale, spacing = self.calibration["scale_factor"], self.calibration.get("imager_pixel_spacing_mm")
        if spacing is not None:
            # At the detector a pixel is larger than in the patient: by the magnification, about 1.1 to 1.7.
            magnification = scale * sum(spacing) / 2
            if not 1.0 <= magnification <= LARGEST_MAGNIFICATION:
                said.append(
                    f"scale_factor {scale:g} px/mm and imager spacing {spacing} mm mean a magnification of "
                    f"{magnification:.2f}; 1.0 to {LARGEST_MAGNIFICATION:g} is possible"
                )
        return said


def read_contours(path: str | Path) -> Contours:
    """Read a contours file; DataError, naming file and every bad key, when it is unreadable or untrue."""
    content = _read_json(path)
    problems = _find_missing(content)
    if problems:
        raise DataError(f"{path}: {'; '.join(problems)}; export the contours with all of them")
    given, calibration = content["measurements"], content["calibration"]
    lines = {name: _points(content[name]) for name in POLYLINES}
    problems = [f"{name} is no line ({shown(content[name])}); allowed: {LEAST_POINTS} to {MOST_POINTS} "
                "points [[x, y], ...]" for name, points in lines.items() if points is None]
    problems += _check_words(content) + _check_calibration(calibration) + _check_measurements(given)
    if lines["centerline"] is not None:
        problems += _check_index(given.get("MLD_centerline_index"), len(lines["centerline"]))
    if problems:
        raise DataError(f"{path}: {'; '.join(problems)}. Correct the file, or export it again")
    return Contours(
        segment_name=content["segment_name"], frame_num=content["frame_num"], **lines,
        measurements={name: _number(given.get(name)) for name in MEASUREMENTS},
        calibration=calibration, view_angles=content.get("view_angles") or {},
        analyst=content.get("analyst"), analysis_date=content.get("analysis_date"),
    )


def _read_json(path: str | Path) -> dict:
    content = parse_json(decode_text(read_bytes(path, MOST_JSON_BYTES)), path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__}; allowed: one JSON object")
    return content


def _find_missing(content: dict) -> list[str]:
    """Keys that are not there, and sections that are no JSON objects."""
    problems, missing = [], [key for key in NEEDED_KEYS if key not in content]
    sections = {"measurements": NEEDED_MEASUREMENTS, "calibration": ("scale_factor",), "view_angles": ()}
    for part, keys in sections.items():
        section = content.get(part) or {}
        if not isinstance(section, dict):
            problems.append(f"{part} is {shown(section)}; allowed: a JSON object with its own keys")
        elif part in content:
            missing += [f"{part}.{key}" for key in keys if key not in section]
    return problems + ([f"keys missing: {', '.join(missing)}"] if missing else [])


def _check_words(content: dict) -> list[str]:
    problems, frame_num = [], content["frame_num"]
    for key in ("segment_name", "analyst", "analysis_date"):
        value = content.get(key)
        if not isinstance(value, str) and (value is not None or key in NEEDED_KEYS):
            problems.append(f"{key} is {shown(value)}; allowed: text")
    if frame_num is not None and not (_is_number(frame_num) and float(frame_num).is_integer()):
        problems.append(f"frame_num is {shown(frame_num)}; allowed: a whole number or null")
    return problems


def _check_calibration(calibration: dict) -> list[str]:
    problems = []
    if not _is_number(calibration["scale_factor"]) or calibration["scale_factor"] <= 0:
        seen = shown(calibration["scale_factor"])
        problems.append(f"calibration.scale_factor is {seen}; allowed: a number above 0 (pixels per mm)")
    catheter, spacing = (calibration.get(key) for key in ("catheter_diameter_mm", "imager_pixel_spacing_mm"))
    if catheter is not None and not (_is_number(catheter) and catheter > 0):
        seen = shown(catheter)
        problems.append(f"calibration.catheter_diameter_mm is {seen}; allowed: a number above 0, or null")
    is_pair = isinstance(spacing, list) and len(spacing) == 2
    if spacing is not None and not (is_pair and all(_is_number(step) and step > 0 for step in spacing)):
        seen = shown(spacing)
        problems.append(f"calibration.imager_pixel_spacing_mm is {seen}; allowed: [row, column], or null")
    return problems


def _check_measurements(given: dict) -> list[str]:
    """What cannot be true of one measurement alone; what two of them say together is a contradiction."""
    problems = []
    for name in MEASUREMENTS:
        value, is_needed = given.get(name), name in NEEDED_MEASUREMENTS
        kind = "a number" if is_needed else "a number or null"
        if value is None or _is_nan(value):
            wrong = is_needed
        elif not _is_number(value):
            wrong = True
        elif name == "interpolated_RVD_mm":
            kind, wrong = "a number above 0", value <= 0
        elif name in NEVER_NEGATIVE:
            kind, wrong = f"{kind}, not below 0", value < 0
        else:
            wrong = name in ("diameter_stenosis_pct", "area_stenosis_pct") and value > 100
            kind = f"{kind}, at most 100" if wrong else kind
        if wrong:
            problems.append(f"measurements.{name} is {shown(value)}; allowed: {kind}")
    return problems


def _check_index(index: object, points: int) -> list[str]:
    if not _is_number(index) or (float(index).is_integer() and 0 <= index < points):
        return []  # no number at all is said of it elsewhere
    allowed = f"0 to {points - 1}, as the centreline has {points} points"
    return [f"measurements.MLD_centerline_index is {shown(index)}; allowed: {allowed}"]


def _points(values: object) -> np.ndarray | None:
    """float64 (N, 2), or None when these are no points."""
    try:
        points = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    is_line = points.ndim == 2 and points.shape[1] == 2 and LEAST_POINTS <= len(points) <= MOST_POINTS
    return points if is_line and (np.abs(points) < LARGEST_NUMBER).all() else None  # False for nan too


def _is_number(value: object) -> bool:
    """Whether JSON gave a finite number; true and false are none, and neither is a number in quotes."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < LARGEST_NUMBER


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
