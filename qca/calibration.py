"""Pixels per millimetre in the plane of the vessel: from the analyst, the catheter or the C-arm's geometry.

    calibration = choose_calibration(contours.calibration)                     # of a contours file
    calibration = choose_calibration({"imager_pixel_spacing_mm": [0.2, 0.2]}, sid_mm=1100, sod_mm=760)

Without one, `choose_calibration` returns None, and only pixels and ratios can be told.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from data.contours import LARGEST_CATHETER_MM, LARGEST_MAGNIFICATION
from qca.errors import QcaError

FRENCH_MM = 1 / 3  # the French size of a catheter is three times its diameter in mm
# Two ways to calibrate agree to a few percent (a catheter's edges, the vessel's depth); 5 % of a 3 mm reference is
# 0.15 mm, as much as a QCA system's own error (0.14 to 0.24 mm).
DISAGREES = 0.05
SQUARE = 0.01  # how far rows and columns may differ before a pixel is no square


@dataclass(frozen=True)
class Calibration:
    """px_per_mm: in the vessel's plane; source: where from, in words; notes: what is odd, in words."""

    px_per_mm: float
    source: str
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        if not (math.isfinite(self.px_per_mm) and self.px_per_mm > 0):
            raise QcaError(
                f"calibration of {self.px_per_mm} px per mm by the {self.source}; allowed: a number above 0. "
                "Correct it, or leave it out to measure in pixels"
            )


def catheter_mm(size: float) -> float:
    """Outer diameter in mm of a catheter given in mm or, above `LARGEST_CATHETER_MM`, in French (8 F = 2.67 mm)."""
    _check("catheter_diameter_mm", size)
    return size * FRENCH_MM if size > LARGEST_CATHETER_MM else size


def from_catheter(width_px: float, size: float) -> Calibration:
    """From the catheter's width as measured in the frame, px, and its size, mm or French."""
    _check("width of the catheter in px", width_px)
    diameter_mm = catheter_mm(size)
    is_french = diameter_mm != size
    notes = (f"catheter_diameter_mm {size:g} is taken for French size ({diameter_mm:.2f} mm)",) if is_french else ()
    return Calibration(width_px / diameter_mm, "catheter", notes)


def from_geometry(spacing_mm: float | tuple[float, float] | list[float], sid_mm: float, sod_mm: float) -> Calibration:
    """From the detector's pixel spacing, a number or [row, column], and the distances from the X-ray source to the
    detector (SID, DICOM 0018,1110) and to the patient (SOD, 0018,1111), all mm.

    It holds for what lies at the distance SOD; 20 mm nearer or farther is 2.6 % of 760 mm.
    """
    for name, value in (("sid_mm", sid_mm), ("sod_mm", sod_mm)):
        _check(name, value)
    if not 1 <= sid_mm / sod_mm <= LARGEST_MAGNIFICATION:
        raise QcaError(
            f"source to detector {sid_mm:g} mm by source to patient {sod_mm:g} mm is a magnification of "
            f"{sid_mm / sod_mm:.2f}; allowed: 1.0 to {LARGEST_MAGNIFICATION:g}. Are the two swapped?"
        )
    spacing, notes = mean_spacing_mm(spacing_mm)
    return Calibration(sid_mm / sod_mm / spacing, "geometry", notes)


def mean_spacing_mm(spacing_mm: float | tuple[float, float] | list[float]) -> tuple[float, tuple[str, ...]]:
    """The mean of [row, column] spacing in mm, and a note when its pixels are not square."""
    pair = [spacing_mm] * 2 if isinstance(spacing_mm, (int, float)) else list(spacing_mm)
    if len(pair) != 2:
        raise QcaError(f"imager_pixel_spacing_mm is {spacing_mm}; allowed: one number or [row, column]")
    for value in pair:
        _check("imager_pixel_spacing_mm", value)
    mean = sum(pair) / 2
    is_square = abs(pair[0] - pair[1]) <= SQUARE * mean
    return mean, () if is_square else (f"pixels are {pair[0]:g} x {pair[1]:g} mm, not square: their mean is used",)


def choose_calibration(
    given: Mapping, *, sid_mm: float | None = None, sod_mm: float | None = None, catheter_px: float | None = None
) -> Calibration | None:
    """The calibration to measure with, from all that is known; None when nothing is.

    given: the keys of a contours file's `calibration`: `scale_factor` (px per mm), `imager_pixel_spacing_mm`,
    `catheter_diameter_mm`; each may be absent or None. catheter_px: the catheter's width as measured in the frame.
    The analyst's scale factor is preferred, for the measurements to compare with were made with it; then the
    catheter, which is in the frame itself; then the geometry. Whatever disagrees by more than `DISAGREES` is said in
    `notes`, as is a scale factor that no C-arm's magnification explains. QcaError for impossible values.
    """
    found = []
    if given.get("scale_factor") is not None:
        found.append(Calibration(float(given["scale_factor"]), "scale factor"))
    if catheter_px is not None and given.get("catheter_diameter_mm") is not None:
        found.append(from_catheter(catheter_px, given["catheter_diameter_mm"]))
    spacing = given.get("imager_pixel_spacing_mm")
    if None not in (spacing, sid_mm, sod_mm):
        found.append(from_geometry(spacing, sid_mm, sod_mm))
    if not found:
        return None
    chosen, *others = found
    notes = [note for one in found for note in one.notes]
    notes += [_disagreement(chosen, one) for one in others if abs(one.px_per_mm / chosen.px_per_mm - 1) > DISAGREES]
    if spacing is not None and sid_mm is None:
        notes += _magnification_notes(chosen, spacing)
    return Calibration(chosen.px_per_mm, chosen.source, tuple(notes))


def _disagreement(chosen: Calibration, other: Calibration) -> str:
    return (
        f"calibrations disagree: {chosen.px_per_mm:.3f} px/mm by the {chosen.source}, which is used, and "
        f"{other.px_per_mm:.3f} px/mm by the {other.source} ({100 * (other.px_per_mm / chosen.px_per_mm - 1):+.0f} %)"
    )


def _magnification_notes(chosen: Calibration, spacing_mm) -> list[str]:
    """Without distances, spacing and scale can only be asked whether a C-arm could have made both."""
    spacing, notes = mean_spacing_mm(spacing_mm)
    magnification = chosen.px_per_mm * spacing
    if 1 <= magnification <= LARGEST_MAGNIFICATION:
        return list(notes)
    text = (
        f"calibrations disagree: {chosen.px_per_mm:.3f} px/mm by the {chosen.source}, which is used, and pixels of "
        f"{spacing:g} mm mean a magnification of {magnification:.2f}; 1.0 to {LARGEST_MAGNIFICATION:g} is possible"
    )
    return [*notes, text]


def _check(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (math.isfinite(value) and value > 0):
        raise QcaError(f"{name} is {value!r}; allowed: a number above 0, or none at all")
