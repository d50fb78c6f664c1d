"""Contours of a straight vessel and of a bend, whose plaque is known to the pixel, and ways to spoil them."""

import math
from dataclasses import replace

import numpy as np

from data.contours import MEASUREMENTS, Contours

EDGES = ("left_edge", "right_edge", "ideal_left_edge", "ideal_right_edge")
SCALE = 5.0  # px per mm
HALF = 10.5  # px from the centreline to the healthy wall
FIRST, LAST = 119, 241  # the straight vessel's lesion, of 401 points half a pixel apart: x from 79.5 to 140.5
MLD = (FIRST + LAST) // 2


def plaque_depth(x, deepest=6.6):
    """How far the plaque reaches into the straight vessel: a ramp up to x = 110 and down again. px"""
    return deepest * np.clip(1 - np.abs(np.asarray(x) - 110) / 30.5, 0, None)


def make_contours(
    line, left, right, ideal_left, ideal_right, *, start=FIRST, end=LAST, mld=MLD, mld_mm, rvd_mm
) -> Contours:
    """Contours without a contradiction: the places are points of the centreline, the length is its own."""
    arc_mm = np.append(0, np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))) / SCALE
    values = dict.fromkeys(MEASUREMENTS, math.nan) | {
        "MLD_mm": mld_mm, "interpolated_RVD_mm": rvd_mm, "diameter_stenosis_pct": 100 * (1 - mld_mm / rvd_mm),
        "area_stenosis_pct": 100 * (1 - (mld_mm / rvd_mm) ** 2), "MLD_centerline_index": float(mld),
        "lesion_length_mm": arc_mm[end] - arc_mm[start],
    }
    for name, index in (("MLD", mld), ("lesion_start", start), ("lesion_end", end)):
        values |= {f"{name}_x_coord": line[index, 0], f"{name}_y_coord": line[index, 1]}
    return Contours("Mid LAD", 0, line, left, right, ideal_left, ideal_right, values,
                    {"scale_factor": SCALE}, {}, None, None)


def straight(depth_left=plaque_depth, depth_right=plaque_depth) -> Contours:
    """Along y = 60 from x = 20 to 220; left of the flow is up. Each wall has the plaque of its `depth`."""
    x = np.linspace(20, 220, 401)
    at = lambda y: np.stack([x, np.broadcast_to(y, x.shape)], axis=1)  # noqa: E731
    left, right = 60 - HALF + depth_left(x), 60 + HALF - depth_right(x)
    return make_contours(at(60.0), at(left), at(right), at(60 - HALF), at(60 + HALF),
                         mld_mm=(right - left).min() / SCALE, rvd_mm=2 * HALF / SCALE)


def none(x):
    return np.zeros_like(x)


def bent(deepest=7.0) -> Contours:
    """Straight down for 60 px, then a bend of 180 degrees about (100, 80) with radius 40 px; plaque outside.

    The lesion is the part of the bend from 40 to 140 degrees, MLD at 90.
    """
    angle = np.radians(np.linspace(0, 180, 252)[1:])
    straight_y = np.linspace(20, 80, 121)

    def offset(px):
        """The line at so many px to the outside of the bend, left of the flow."""
        inside = np.broadcast_to(px, 121 + len(angle))
        head = np.stack([140 + inside[:121], straight_y], axis=1)
        around = (40 + inside[121:])[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return np.concatenate([head, [100, 80] + around])

    plaque = np.append(np.zeros(121), deepest * np.clip(1 - np.abs(np.degrees(angle) - 90) / 50, 0, None))
    start, end, mld = (121 + int(np.abs(np.degrees(angle) - at).argmin()) for at in (40, 140, 90))
    return make_contours(
        offset(0), offset(HALF - plaque), offset(-HALF), offset(HALF), offset(-HALF), start=start, end=end,
        mld=mld, mld_mm=(2 * HALF - deepest) / SCALE, rvd_mm=2 * HALF / SCALE,
    )


def changed(contours: Contours, **values) -> Contours:
    return replace(contours, measurements=contours.measurements | values)


def without(contours: Contours, *names) -> Contours:
    """As if Medis had left out the points of these names."""
    return changed(contours, **{f"{name}_{axis}_coord": math.nan for name in names for axis in "xy"})


def moved(contours: Contours, name: str, point) -> Contours:
    return changed(contours, **{f"{name}_x_coord": float(point[0]), f"{name}_y_coord": float(point[1])})
