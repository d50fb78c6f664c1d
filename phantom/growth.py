"""Vessels grown step by step over the heart's surface: far parts and small branches that no table gives."""

from __future__ import annotations

import math

import numpy as np
from scipy.ndimage import gaussian_filter1d

from data.anatomy import unit

STEP_MM = 1.5


def grow(
    start: np.ndarray,
    direction: np.ndarray,
    length_mm: float,
    heart_mm: np.ndarray,
    rng: np.random.Generator,
    *,
    toward: np.ndarray | None = None,
    pull: float = 0.06,
    wander: float = 0.16,
    surface: float = 0.6,
) -> np.ndarray:
    """A path (n, 3) that leaves `start` along `direction` and bends towards the direction `toward`.

    wander: random bend a step. surface: how much of the component away from or into the heart is taken out of
    each step (1: stays on a sphere around `heart_mm`; 0: free, as septal branches are).
    """
    steps = max(3, int(round(length_mm / STEP_MM)))
    bends = gaussian_filter1d(rng.normal(0, 1, (steps, 3)), 1.5, axis=0) * 2.0
    path, heading = [np.asarray(start, float)], unit(np.asarray(direction, float))
    aim = np.zeros(3) if toward is None else unit(np.asarray(toward, float))
    for bend in bends:
        heading = heading + pull * aim + wander * bend
        outward = path[-1] - heart_mm
        heading = heading - surface * (heading @ outward) / (outward @ outward) * outward
        heading = heading / math.sqrt(heading @ heading)
        path.append(path[-1] + STEP_MM * heading)
    return np.array(path)


def wiggle(
    points: np.ndarray, arc_mm: np.ndarray, heart_mm: np.ndarray, amount: float, rng: np.random.Generator
) -> np.ndarray:
    """Tortuosity: waves sideways along a vessel, zero at its origin. points (n, 3) -> displacement (n, 3)."""
    tangent = unit(np.gradient(points, axis=0))
    outward = unit(points - heart_mm)
    # Smoothed, because a vessel that runs towards the heart's middle has no sideways direction of its own.
    sideways = unit(gaussian_filter1d(np.cross(tangent, outward), 8, axis=0, mode="nearest"))
    shift = np.zeros_like(points)
    for axis, share in ((sideways, 1.0), (np.cross(tangent, sideways), 0.6)):
        for wavelength in rng.uniform([9, 16, 30], [16, 30, 60]):
            phase, size = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.030 * wavelength * amount * share)
            shift += size * np.sin(2 * np.pi * arc_mm / wavelength + phase)[:, None] * axis
    return shift * np.minimum(arc_mm / 14, 1)[:, None] ** 1.5
