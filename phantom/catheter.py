"""The guide catheter, the blush of contrast that leaks from it into the aortic root, and guide wires."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.interpolate import CubicSpline

from data.anatomy import unit
from phantom.carm import CArm
from phantom.rendering import STEP_PX, path_length
from phantom.tree import Tree

FRENCH_MM = 1 / 3
LUMEN_SHARE = (
    0.80  # inner by outer diameter; a 6 F guide has a lumen of 1.8 mm in 2.0 mm, diagnostic ones less
)
LUMEN_CLEARS = (
    0.88  # the rest of the wall's opacity is there across the lumen too, as blur and braid make it look
)
WIRE_MM = 0.36  # 0.014 inch
WIRE_BODY, WIRE_TIP = 0.25, 1.2  # opacity per mm, steel and platinum, as displayed
WIRE_LEFT = 0.2  # share of FINAL and EVENT frames with the wire still in place
# Waypoints of a guide from the ostium back to the descending or subclavian side, mm from the ostium.
WAYPOINTS = {
    "left": ((-9, 4, -3), (-26, 8, -6), (-31, 30, -8), (-24, 62, -12), (-8, 100, -24), (4, 150, -40)),
    "right": ((5, 4, -3), (14, 16, -8), (16, 40, -12), (12, 70, -16), (2, 105, -26), (-4, 150, -40)),
}


@dataclass(frozen=True)
class Catheter:
    """A guide: course (n, 3) in mm, tip first; diameter; wall's opacity per mm; contrast inside or not."""

    points_mm: np.ndarray
    outer_mm: float
    french: int
    wall_opacity: float
    filled: bool


def draw_catheter(tree: Tree, side: str, rng: np.random.Generator) -> Catheter:
    """A guide in the ostium, 5 to 8 F, on a varied course: femoral or radial, deep or shallow bends."""
    french = int(rng.choice([5, 6, 6, 6, 7, 8]))
    depth = int(rng.integers(4, 12))
    tip = tree.wall_mm[depth]
    spread = np.array([1.5, 4, 6, 9, 15, 25])[:, None]
    way = np.array(WAYPOINTS[side], float) * rng.uniform(0.75, 1.2) + rng.normal(0, 1, (6, 3)) * spread
    if rng.random() < 0.3:  # radial access or a short course: straight up and out to one side
        way[2:, 0] += rng.normal(0, 45) * np.array([0.3, 0.7, 1.2, 1.8])
    points = np.concatenate([[tip, tree.wall_mm[0]], way])
    knots = np.append(0, np.cumsum(np.sqrt(np.linalg.norm(np.diff(points, axis=0), axis=1))))
    fine = np.linspace(0, knots[-1], 500)
    return Catheter(
        CubicSpline(knots, points)(fine),
        french * FRENCH_MM,
        french,
        rng.uniform(0.15, 0.45),
        bool(rng.random() < 0.75),
    )


class GuideOpacity(NamedTuple):
    """Opacity of a guide, (size, size) float32 each: its wall, and its filling at full contrast."""

    wall: np.ndarray
    filling: np.ndarray


def catheter_opacity(catheter: Catheter, carm: CArm, opacity_per_mm: float) -> GuideOpacity:
    """Light that a guide takes from each ray, natural log; rims are darker, its wall is edge-on there."""
    _, px_per_mm = carm.project(catheter.points_mm)
    points = _resampled(catheter.points_mm, STEP_PX / px_per_mm.mean())
    line, ones = np.zeros(len(points), int), np.ones(len(points))
    outer, inner = (
        path_length(points, ones * width / 2, line, ones, carm)
        for width in (catheter.outer_mm, catheter.outer_mm * LUMEN_SHARE)
    )
    return GuideOpacity(
        catheter.wall_opacity * (outer - LUMEN_CLEARS * inner), catheter.filled * opacity_per_mm * inner
    )


def root_blush(carm: CArm, tree: Tree, rng: np.random.Generator) -> np.ndarray:
    """A soft cloud of contrast that leaks into the aortic root, often none. (size, size) float32 opacity."""
    y, x = np.mgrid[0 : carm.size_px, 0 : carm.size_px].astype(np.float32)
    cloud = np.zeros_like(x)
    strength = float(rng.choice([0.0, rng.uniform(0.05, 0.5)]))
    home = tree.wall_mm[0] - 9 * unit(tree.wall_mm[12] - tree.wall_mm[0])
    if strength == 0:
        return cloud
    for _ in range(int(rng.integers(2, 6))):
        (place,), (scale,) = carm.project((home + rng.normal(0, 4.5, 3))[None])
        wide, high = rng.uniform(1.5, 6.0, 2) * scale
        cloud += rng.uniform(0.3, 1) * np.exp(-(((x - place[0]) / wide) ** 2) - ((y - place[1]) / high) ** 2)
    return strength * cloud / max(float(cloud.max()), 1e-6)


def draw_wire(tree: Tree, cass_id: int, phase: str, rng: np.random.Generator) -> np.ndarray:
    """Samples that a guide wire follows, sometimes left in place after treatment; else none. (n,) int"""
    if phase == "PRE" or rng.random() > WIRE_LEFT:
        return np.zeros(0, int)
    own = np.flatnonzero(tree.line == tree.line[tree.segment(cass_id)[0]])
    return own[: max(10, int(len(own) * rng.uniform(0.7, 0.98)))]


def wire_opacity(points_mm: np.ndarray, carm: CArm) -> np.ndarray:
    """Opacity of a wire along (n, 3) points 0.5 mm apart, its last 3 cm denser. (size, size) float32."""
    density = np.where(np.arange(len(points_mm))[::-1] < 60, WIRE_TIP, WIRE_BODY)
    line, radius = np.zeros(len(points_mm), int), np.full(len(points_mm), WIRE_MM / 2)
    return path_length(points_mm, radius, line, density, carm)


def _resampled(points: np.ndarray, step_mm: float) -> np.ndarray:
    arc = np.append(0, np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1)))
    where = np.linspace(0, arc[-1], max(2, int(arc[-1] / step_mm)))
    return np.stack([np.interp(where, arc, axis) for axis in points.T], axis=1)
