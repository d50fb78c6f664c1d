"""The mean coronary tree and its variation between patients.

Means: data/anatomy.py. Spread of diameters: the same study (Dodge et al., Circulation 1992;86:232-246).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from data.anatomy import load_anatomy, sphere_center, unit

LEFT, RIGHT = "left", "right"
DIAMETER_SPREAD = {LEFT: 0.11, RIGHT: 0.15}  # SD by mean: LM 0.5 of 4.5 mm, LAD 0.4 of 3.7; RCA 0.6 of 3.9
WOMEN_SMALLER, WOMEN = 0.91, 0.35
SEGMENT_SPREAD = 0.06  # of one segment's diameter beyond the patient's own scale
TURN_DEG, SIZE_SPREAD = 8.0, 0.07  # how hearts lie and how large they are; set by eye, no table gives them
BEND_MM, BEND_WAVES, BEND_WAVE_MM = 2.2, 5, (60, 160)


@dataclass(frozen=True)
class Segment:
    """A segment of the table: CASS number, control points (n, 3) in mm, lumen diameters (n,) in mm."""

    cass_id: int
    points_mm: np.ndarray
    diameter_mm: np.ndarray


@dataclass(frozen=True)
class Anatomy:
    """One patient's vessels before branching: segments by name, the heart's middle and apex (3,) in mm."""

    segments: dict[str, Segment]
    heart_mm: np.ndarray
    apex_mm: np.ndarray
    caliber: float


@dataclass(frozen=True)
class Body:
    """A patient: sex, vessels' width in SDs from the mean, turn (Euler angles) and size of the heart."""

    woman: bool
    width: float
    turn_deg: tuple[float, float, float]
    size: float


def draw_body(rng: np.random.Generator) -> Body:
    """What both coronary trees of a patient have in common."""
    return Body(
        bool(rng.random() < WOMEN),
        float(rng.normal()),
        tuple(rng.normal(0, TURN_DEG, 3)),
        float(rng.normal(1.0, SIZE_SPREAD)),
    )


def vary_anatomy(side: str, rng: np.random.Generator, body: Body | None = None) -> Anatomy:
    """Another patient: the body's size, turn and diameters (a drawn body's without one), and bends of space
    that move neighbouring vessels alike.
    """
    body = draw_body(rng) if body is None else body
    caliber = float(np.clip(1 + body.width * DIAMETER_SPREAD[side], 0.75, 1.3))
    caliber *= WOMEN_SMALLER if body.woman else 1.0
    turn = Rotation.from_euler("xyz", body.turn_deg, degrees=True).as_matrix() * body.size
    waves = unit(rng.normal(0, 1, (BEND_WAVES, 3))) * (
        2 * np.pi / rng.uniform(*BEND_WAVE_MM, (BEND_WAVES, 1))
    )
    phases, sizes = rng.uniform(0, 2 * np.pi, BEND_WAVES), rng.normal(0, BEND_MM, (BEND_WAVES, 3))

    def moved(points: np.ndarray) -> np.ndarray:
        bend = (np.sin(points @ waves.T + phases) - np.sin(phases)) @ sizes  # zero at the ostium
        return (points + bend) @ turn.T

    segments = {
        name: Segment(
            mean.cass_id, moved(mean.points_mm), mean.diameter_mm * caliber * rng.normal(1, SEGMENT_SPREAD)
        )
        for name, mean in load_anatomy().items()
    }
    heart = sphere_center(np.concatenate([segment.points_mm for segment in segments.values()]))
    return Anatomy(segments, heart, segments["distal LAD"].points_mm[-2], caliber)
