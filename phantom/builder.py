"""Builds a tree vessel by vessel: smooth courses, tortuosity, tangential branches, tapered far ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.interpolate import CubicSpline, PchipInterpolator

from data.anatomy import arc_length, unit
from phantom.anatomy import Anatomy, Segment
from phantom.growth import grow, wiggle
from phantom.tree import Tree

SAMPLE_MM = 0.5
FIRST_STEP_MM, LEAN = 2.5, 0.55  # a branch's first step, and how much of it follows the parent's direction
WIDEST_BRANCH = 0.92  # of the parent's diameter where it leaves
TIP_MM = (0.55, 0.85)  # diameter at which a numbered branch fades from sight


class Course(NamedTuple):
    """Control points of a vessel: (k, 3) mm, diameters (k,) mm, CASS id (k,) from each point to the next."""

    points_mm: np.ndarray
    diameter_mm: np.ndarray
    cass_id: np.ndarray


@dataclass
class Line:
    """One vessel; `straight_mm` is its course before tortuosity, which tells where branches attach."""

    name: str
    points_mm: np.ndarray
    straight_mm: np.ndarray
    diameter_mm: np.ndarray
    cass_id: np.ndarray
    reach_mm: float

    def direction(self, at: int, reach: int = 4) -> np.ndarray:
        """Unit vector along the vessel at a sample. (3,)"""
        last = len(self.points_mm) - 1
        return unit(self.points_mm[min(at + reach, last)] - self.points_mm[max(at - reach, 0)])


class TreeBuilder:
    """Collects a patient's vessels; `tree()` gives the result."""

    def __init__(self, anatomy: Anatomy, rng: np.random.Generator):
        self.anatomy, self.rng = anatomy, rng
        self.tortuosity = min(rng.gamma(3.0, 0.33), 2.2)  # of this patient; mean 1
        self.lines: dict[str, Line] = {}

    def add(
        self, name: str, course: Course, *, parent: str | None = None, at: int = 0, tortuosity: float = 1.0
    ) -> Line:
        """Add a vessel; with a parent, at the parent's sample `at` and leaving along its direction."""
        reach_mm = 0.0
        if parent is not None:
            trunk = self.lines[parent]
            reach_mm = trunk.reach_mm + arc_length(trunk.points_mm)[at]
            course = _leaving(trunk, at, course)
        straight, diameter, cass_id = _smooth(course)
        amount = self.tortuosity * tortuosity
        points = straight + wiggle(straight, arc_length(straight), self.anatomy.heart_mm, amount, self.rng)
        self.lines[name] = Line(name, points, straight, diameter, cass_id, reach_mm)
        return self.lines[name]

    def nearest(self, parent: str, point_mm: np.ndarray, jitter_mm: float = 0.0) -> int:
        """The parent's sample nearest to a point, moved along the parent by a random amount."""
        straight = self.lines[parent].straight_mm
        index = (
            np.linalg.norm(straight - point_mm, axis=1).argmin() + self.rng.normal(0, jitter_mm) / SAMPLE_MM
        )
        return int(np.clip(index, 4, len(straight) - 5))

    def extended(self, course: Course, extra_mm: float) -> Course:
        """A course with a grown far end towards the apex, tapering to a thin tip."""
        points, diameter, cass_id = course
        path = grow(
            points[-1],
            points[-1] - points[-2],
            extra_mm,
            self.anatomy.heart_mm,
            self.rng,
            toward=self.anatomy.apex_mm - points[-1],
            wander=0.10,
        )[3::4]
        taper = np.linspace(diameter[-1], self.rng.uniform(*TIP_MM), len(path) + 1)[1:]
        return Course(
            np.concatenate([points, path]),
            np.append(diameter, taper),
            np.append(cass_id, [cass_id[-1]] * len(path)),
        )

    def tree(self) -> Tree:
        """All vessels so far as one `Tree` without lesions."""
        lines = list(self.lines.values())
        points, diameter, cass_id = (
            np.concatenate([getattr(line, name) for line in lines])
            for name in ("points_mm", "diameter_mm", "cass_id")
        )
        reach = np.concatenate([line.reach_mm + arc_length(line.points_mm) for line in lines])
        number = np.repeat(np.arange(len(lines)), [len(line.points_mm) for line in lines])
        return Tree(
            points,
            points.copy(),
            diameter,
            diameter.copy(),
            cass_id,
            number,
            reach,
            self.anatomy.heart_mm,
            tuple(self.lines),
        )


def course_of(*segments: Segment) -> Course:
    """Segments of one vessel as one course; a shared point belongs to the segment that it starts."""
    points = [s.points_mm if i == 0 else s.points_mm[1:] for i, s in enumerate(segments)]
    diameter = [s.diameter_mm if i == 0 else s.diameter_mm[1:] for i, s in enumerate(segments)]
    cass_id = np.concatenate([np.full(len(s.points_mm) - 1, s.cass_id) for s in segments])
    return Course(np.concatenate(points), np.concatenate(diameter), np.append(cass_id, cass_id[-1]))


def _leaving(trunk: Line, at: int, course: Course) -> Course:
    """A course moved onto the trunk, with a first step that leans along the trunk's direction."""
    points = course.points_mm + (trunk.points_mm[at] - course.points_mm[0])
    first = points[0] + FIRST_STEP_MM * unit(LEAN * trunk.direction(at) + unit(points[1] - points[0]))
    diameter = np.minimum(course.diameter_mm, WIDEST_BRANCH * trunk.diameter_mm[at])
    return Course(
        np.insert(points, 1, first, axis=0),
        np.insert(diameter, 1, diameter[0]),
        np.insert(course.cass_id, 1, course.cass_id[0]),
    )


def _smooth(course: Course) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A smooth curve through the control points, sampled about every 0.5 mm: points, diameters, CASS ids.

    Knots spaced by the root of the distance (centripetal) keep the curve from overshooting between uneven
    points.
    """
    steps = np.maximum(np.linalg.norm(np.diff(course.points_mm, axis=0), axis=1), 0.3)
    knots = np.append(0, np.cumsum(np.sqrt(steps)))
    curve = CubicSpline(knots, course.points_mm, bc_type="natural")
    fine = np.linspace(0, knots[-1], int(steps.sum() / 0.1))
    arc = arc_length(curve(fine))
    where = np.interp(np.linspace(0, arc[-1], max(8, int(arc[-1] / SAMPLE_MM))), arc, fine)
    which = np.clip(np.searchsorted(knots, where, side="right") - 1, 0, len(course.cass_id) - 1)
    return curve(where), PchipInterpolator(knots, course.diameter_mm)(where), course.cass_id[which]
