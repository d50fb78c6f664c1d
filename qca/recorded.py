"""A contours file's own measurements, computed again from its own edges.

    again = recompute(contours)
    again.at_places["MLD_mm"], again.found["MLD_mm"], contours.measurements["MLD_mm"]
    disagreements(contours, again)

Two questions that must not be mixed. `at_places`: with the lesion's start, end and MLD where the file has them, do the
edges give the numbers that stand beside them? A difference is a fault of the file, of its scale, or of this
arithmetic. `found`: does this package, from the edges alone, put the lesion where the analyst did?
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from data.contours import Contours
from data.obstructions import obstruction_of
from qca.calibration import Calibration
from qca.measure import Measurement, measure_edges, with_lesion

# What writing numbers to the file may change: mm have two decimals, percentages sometimes none, points a few digits.
# A file has one scale, but a normal diameter lies nearer to the X-ray source or farther from it than the MLD: 1 % of a
# diameter for 8 mm (phantom: up to 0.03 mm in 200 files).
ROUNDING = {
    "MLD_mm": 0.02, "interpolated_RVD_mm": 0.02, "diameter_stenosis_pct": 0.6, "area_stenosis_pct": 0.6,
    "MLD_x_coord": 0.5, "MLD_y_coord": 0.5, "MLD_centerline_index": 1, "lesion_length_mm": 0.1,
    "lesion_start_x_coord": 0.5, "lesion_start_y_coord": 0.5, "lesion_end_x_coord": 0.5, "lesion_end_y_coord": 0.5,
    "proximal_normal_diameter_mm": 0.05, "distal_normal_diameter_mm": 0.05, "segment_length_mm": 0.1,
    "obstruction_position_mm": 0.1,
}


@dataclass(frozen=True)
class Recomputed:
    """Measurements by their names in the file: with the file's places, and with those found from the edges."""

    at_places: dict[str, float]
    found: dict[str, float]
    measured: Measurement


def recompute(contours: Contours) -> Recomputed:
    """Every measurement of `data.contours.MEASUREMENTS` again; DataError when the edges cannot be measured."""
    scale = Calibration(float(contours.calibration["scale_factor"]), "scale factor")
    found = measure_edges(
        contours.centerline, contours.left_edge, contours.right_edge, scale,
        ideal_left_px=contours.ideal_left_edge, ideal_right_px=contours.ideal_right_edge,
    )
    # Missing places are found there in their own way, places off the vessel left out; the frame's size is not asked.
    label = obstruction_of(contours, (1, 1))
    given = contours.measurements["MLD_centerline_index"]
    mld = label.mld_index if math.isnan(given) else int(given)
    at_places = with_lesion(found, label.start_index, mld, label.end_index)
    return Recomputed(named_measurements(at_places), named_measurements(found), found)


def named_measurements(measured: Measurement) -> dict[str, float]:
    """A measurement in mm under the names of a contours file's `measurements`."""
    mm, worst, line = measured.mm, measured.worst, measured.line_px
    points = {"MLD": worst.mld, "lesion_start": worst.start, "lesion_end": worst.end}
    places = {f"{name}_{axis}_coord": float(line[at, k]) for name, at in points.items() for k, axis in enumerate("xy")}
    return places | {
        "MLD_mm": mm.mld, "interpolated_RVD_mm": mm.rvd, "diameter_stenosis_pct": measured.stenosis_pct,
        "area_stenosis_pct": measured.area_stenosis_pct, "MLD_centerline_index": float(worst.mld),
        "lesion_length_mm": mm.lesion_length, "proximal_normal_diameter_mm": mm.proximal_normal_diameter,
        "distal_normal_diameter_mm": mm.distal_normal_diameter, "segment_length_mm": mm.segment_length,
        "obstruction_position_mm": mm.mld_position,
    }


def disagreements(contours: Contours, again: Recomputed) -> dict[str, float]:
    """Recomputed less recorded of each measurement that differs by more than `ROUNDING`; missing ones do not."""
    differences = {name: again.at_places[name] - contours.measurements[name] for name in ROUNDING}
    return {name: value for name, value in differences.items() if np.abs(value) > ROUNDING[name]}
