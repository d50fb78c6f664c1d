"""Contours of one analysed segment as Medis QCA exports them, in JSON.

Points are (x, y) in pixels of the cine frame, x right, y down, from proximal to distal.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.errors import DataError
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

STENOSIS_DISAGREES_POINTS = 1.5  # %DS is often printed as a whole number
LARGEST_CATHETER_MM = 4.0  # 12 F, larger than any coronary catheter
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
    frame_num: int
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
        mld, rvd, stenosis, area = (self.measurements[name] for name in MEASUREMENTS[:4])
        expected = 100 * (1 - mld / rvd) if rvd else math.nan
        if abs(stenosis - expected) > STENOSIS_DISAGREES_POINTS:
            said.append(f"diameter stenosis {stenosis:.1f} %, but 1 - MLD / RVD gives {expected:.1f} %")
        expected_area = 100 * (1 - (mld / rvd) ** 2) if rvd else math.nan
        if abs(area - expected_area) > STENOSIS_DISAGREES_POINTS:
            said.append(f"area stenosis {area:.1f} %, but 1 - (MLD / RVD)^2 gives {expected_area:.1f} %")
        return said + self._calibration_contradictions()

    def _calibration_contradictions(self) -> list[str]:
        said, catheter = [], self.calibration.get("catheter_diameter_mm")
        if isinstance(catheter, (int, float)) and catheter > LARGEST_CATHETER_MM:
            said.append(f"catheter_diameter_mm {catheter:g} must be French size ({catheter / 3:.2f} mm)")
        scale, spacing = self.calibration.get("scale_factor"), self.calibration.get("imager_pixel_spacing_mm")
        if isinstance(scale, (int, float)) and isinstance(spacing, list) and len(spacing) == 2:
            # At the detector a pixel is larger than in the patient: by the magnification, about 1.1 to 1.7.
            magnification = scale * float(np.mean(spacing))
            if not 1.0 <= magnification <= LARGEST_MAGNIFICATION:
                said.append(
                    f"scale_factor {scale:g} px/mm and imager spacing {spacing} mm mean a magnification of "
                    f"{magnification:.2f}; 1.0 to {LARGEST_MAGNIFICATION:g} is possible"
                )
        return said


def read_contours(path: str | Path) -> Contours:
    """Read a contours file; DataError, naming file and key, when it is unreadable or incomplete."""
    content = _read_json(path)
    missing = [key for key in NEEDED_KEYS if key not in content]
    for part, keys in (("measurements", NEEDED_MEASUREMENTS), ("calibration", ("scale_factor",))):
        if part in content:
            missing += [f"{part}.{key}" for key in keys if key not in _section(content, part, path)]
    if missing:
        raise DataError(f"{path}: keys missing: {', '.join(missing)}; export the contours with all of them")
    given = content["measurements"]
    return Contours(
        segment_name=str(content["segment_name"]), frame_num=content["frame_num"],
        **{name: _points(content[name], name, path) for name in POLYLINES},
        measurements={name: _number(given.get(name), name, path) for name in MEASUREMENTS},
        calibration=content["calibration"], view_angles=_section(content, "view_angles", path),
        analyst=content.get("analyst"), analysis_date=content.get("analysis_date"),
    )


def _read_json(path: str | Path) -> dict:
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error})") from error
    try:
        content = json.loads(decode_text(raw))
    except ValueError as error:
        raise DataError(f"{path}: truncated or not JSON ({error}); export it again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__}; allowed: one JSON object")
    return content


def _section(content: dict, name: str, path: str | Path) -> dict:
    section = content.get(name) or {}
    if not isinstance(section, dict):
        raise DataError(f"{path}: {name} is {section!r}; allowed: a JSON object with its own keys")
    return section


def _points(values: object, name: str, path: str | Path) -> np.ndarray:
    try:
        points = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        points = np.empty(0)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 2 or not np.isfinite(points).all():
        seen = f"shape {list(points.shape)}" if points.size else repr(values)[:60]
        raise DataError(f"{path}: {name} is no line ({seen}); allowed: two or more points [[x, y], ...]")
    return points


def _number(value: object, name: str, path: str | Path) -> float:
    if value is None:
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: measurements.{name} is {value!r}; allowed: a number or null") from error
