"""A measurement made in a magnified crop, as one of the frame that the crop is of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from data.lumen_crops import Crop
from qca.calibration import Calibration
from qca.measure import Measurement


def calibration_in(crop: Crop, calibration: Calibration | None) -> Calibration | None:
    """The calibration of a frame for its crop, whose pixels are smaller."""
    return None if calibration is None else replace(calibration, px_per_mm=calibration.px_per_mm * crop.zoom)


def placed_in_frame(measured: Measurement, crop: Crop, calibration: Calibration | None) -> Measurement:
    """The measurement of a crop in px of the frame; calibration: the frame's own, which it was made with."""
    zoom = crop.zoom
    lines = {name: crop.to_frame(getattr(measured, name)) for name in ("line_px", "left_px", "right_px")}
    lengths = {name: getattr(measured, name) / zoom for name in ("arc_px", "diameter_px", "reference_px")}
    lesions = tuple(
        replace(one, mld_px=one.mld_px / zoom, reference_px=one.reference_px / zoom, length_px=one.length_px / zoom)
        for one in measured.lesions
    )
    return replace(measured, **lines, **lengths, lesions=lesions, calibration=calibration)


def nearest_lesion(measured: Measurement, point_px: tuple[float, float]) -> Measurement:
    """The same measurement with the lesion first whose narrowest point is nearest to a point of the frame."""
    places = np.array([measured.line_px[one.mld] for one in measured.lesions])
    first = int(np.linalg.norm(places - np.asarray(point_px, float), axis=1).argmin())
    others = [one for number, one in enumerate(measured.lesions) if number != first]
    return replace(measured, lesions=(measured.lesions[first], *others))
