"""Pixels per millimetre of a frame, from all that is known of it: flags, the contours of a CSV's row, the DICOM header.

    scale = calibrate(source.geometry, row, GivenScale(px_per_mm=5.0, said_by="--px-per-mm"))
    scale.calibration, scale.given_by                       # a qca.calibration.Calibration or None, and where from

Which of several is used, and what is said where they disagree: `qca.calibration.choose_calibration`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from data.contours import read_contours
from qca.calibration import Calibration, choose_calibration
from qca.errors import QcaError

CONTOURS = "contours file"
UNKNOWN = "no calibration: pixels and ratios only"  # as `qca.measure` says it, so that a page says it once


@dataclass(frozen=True, kw_only=True)
class GivenScale:
    """What somebody says of a frame's scale; said_by: where, in words. catheter_size: mm or French, as
    `qca.calibration.catheter_mm`; catheter_px: its width in the frame."""

    px_per_mm: float | None = None
    catheter_size: float | None = None
    catheter_px: float | None = None
    said_by: str = "command line"


@dataclass(frozen=True, kw_only=True)
class FrameScale:
    """calibration: None = unknown; given_by: which file or flag it is from; warnings: what to mind, in words."""

    calibration: Calibration | None
    given_by: str | None
    warnings: tuple[str, ...]


def calibrate(geometry: Mapping, row: Mapping, given: GivenScale) -> FrameScale:
    """The scale of a frame.

    geometry: of `data.frame_source.FrameSource`; row: of a data set, whose contours file is calibrated, empty for a
    file. A header whose distances are impossible is left out, with a warning. Raises DataError for a contours file
    that cannot be read.
    """
    path = row.get("contours_path")
    contours = read_contours(path).calibration if isinstance(path, str) and path else {}
    known = {"scale_factor": given.px_per_mm, "catheter_diameter_mm": given.catheter_size}
    known = {name: contours.get(name) if value is None else value for name, value in known.items()}
    spacing = geometry.get("imager_pixel_spacing_mm") or contours.get("imager_pixel_spacing_mm")
    try:
        calibration = choose_calibration(
            known | {"imager_pixel_spacing_mm": spacing}, sid_mm=geometry.get("source_detector_mm"),
            sod_mm=geometry.get("source_patient_mm"), catheter_px=given.catheter_px,
        )
        odd = ()
    except QcaError as error:  # all else has been checked where it was read
        calibration = choose_calibration(known, catheter_px=given.catheter_px)
        odd = (f"the geometry in the file is not used: {error}",)
    if calibration is None:
        return FrameScale(calibration=None, given_by=None, warnings=(*odd, UNKNOWN))
    said_by = {"geometry": "DICOM header", "catheter": given.said_by,
               "scale factor": CONTOURS if given.px_per_mm is None else given.said_by}
    return FrameScale(calibration=calibration, given_by=said_by[calibration.source], warnings=odd + calibration.notes)


def scale_record(scale: FrameScale) -> dict:
    """A frame's scale for JSON."""
    calibration = scale.calibration
    px_per_mm = None if calibration is None else calibration.px_per_mm
    return {
        "px_per_mm": px_per_mm, "mm_per_px": None if px_per_mm is None else 1 / px_per_mm,
        "source": None if calibration is None else calibration.source, "given_by": scale.given_by,
        "warnings": list(scale.warnings),
    }


def scale_words(scale: Mapping) -> str:
    """A `scale_record` as a line: `0.224 mm per px (scale factor, contours file)`."""
    if scale["px_per_mm"] is None:
        return "none: px and percentages only"
    return f"{scale['mm_per_px']:.3f} mm per px ({scale['source']}, {scale['given_by']})"
