"""The guide catheter, a guide wire in the vessel, and a guide's blush of contrast in the aortic root."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline

from phantom.carm import CArm
from phantom.growth import unit
from phantom.rendering import path_length
from phantom.tree import Tree

FRENCH_MM = 1 / 3
WALL_SHARE = 0.80  # inner by outer diameter; a 6 F guide has a lumen of 1.8 mm in 2.0 mm, older ones less
# Waypoints of a guide from the ostium back to the descending or subclavian side, mm from the ostium.
WAYPOINTS = {"left": ((-9, 4, -3), (-26, 8, -6), (-31, 30, -8), (-24, 62, -12), (-8, 100, -24), (4, 150, -40)),
             "right": ((5, 4, -3), (14, 16, -8), (16, 40, -12), (12, 70, -16), (2, 105, -26), (-4, 150, -40))}


@dataclass(frozen=True)
class Catheter:
    """A guide's course (n, 3) in mm, tip first, its outer diameter, and opacities (per mm) of wall and filling."""

    points_mm: np.ndarray
    outer_mm: float
    french: int
    wall_opacity: float
    filled: bool


def draw_catheter(tree: Tree, side: str, rng: np.random.Generator) -> Catheter:
    """A guide in the ostium, 5 to 8 F, with a course that varies: femoral or radial, deep or shallow bends."""
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
    return Catheter(CubicSpline(knots, points)(fine), french * FRENCH_MM, french, rng.uniform(0.15, 0.45),
                    bool(rng.random() < 0.75))


def catheter_opacity(catheter: Catheter, carm: CArm, contrast_opacity: float, concentration: float,
                     shift_mm: np.ndarray) -> np.ndarray:
    """Opacity (natural log) that a guide adds to each ray: wall, and contrast inside. (size, size) float32."""
    points = catheter.points_mm + shift_mm
    _, px_per_mm = carm.project(points)
    points = _resampled(points, 0.7 / px_per_mm.mean())
    line, ones = np.zeros(len(points), int), np.ones(len(points))
    outer = path_length(points, ones * catheter.outer_mm / 2, line, ones, carm)
    inner = path_length(points, ones * catheter.outer_mm * WALL_SHARE / 2, line, ones, carm)
    filling = contrast_opacity * concentration if catheter.filled else 0.0
    return catheter.wall_opacity * (outer - inner) + (0.12 * catheter.wall_opacity + filling) * inner


def root_blush(carm: CArm, side: str, rng: np.random.Generator) -> np.ndarray:
    """A soft cloud of contrast that leaks back into the aortic root, peak 1. (size, size) float32."""
    home = np.array([-9.0, 3.0, -3.0]) if side == "left" else np.array([6.0, 4.0, -3.0])
    y, x = np.mgrid[0:carm.size_px, 0:carm.size_px].astype(np.float32)
    cloud = np.zeros_like(x)
    for _ in range(int(rng.integers(2, 6))):
        (place,), (scale,) = carm.project((home + rng.normal(0, 4.5, 3))[None])
        sx, sy = rng.uniform(1.5, 6.0, 2) * scale
        cloud += rng.uniform(0.3, 1) * np.exp(-((x - place[0]) / sx) ** 2 - ((y - place[1]) / sy) ** 2)
    return cloud / max(float(cloud.max()), 1e-6)


def wire_path(tree: Tree, cass_id: int, rng: np.random.Generator) -> np.ndarray:
    """A guide wire along the line that carries the segment, from its start to near its tip: (n, 3) mm."""
    own = np.flatnonzero(tree.line == tree.line[tree.segment(cass_id)[0]])
    own = own[:max(8, int(len(own) * rng.uniform(0.7, 0.98)))]
    return tree.center_mm[own] + 0.25 * unit(tree.center_mm[own] - tree.heart_mm) * tree.lumen_mm[own, None]


def _resampled(points: np.ndarray, step_mm: float) -> np.ndarray:
    arc = np.append(0, np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1)))
    where = np.linspace(0, arc[-1], max(2, int(arc[-1] / step_mm)))
    return np.stack([np.interp(where, arc, axis) for axis in points.T], axis=1)
