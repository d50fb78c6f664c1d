"""Coronary trees of simulated patients: the mean tree of `anatomy.csv`, varied, extended and given small branches.

anatomy.csv: mean 3D positions and lumen diameters of 83 normal angiograms (Dodge et al., Circulation 1992;86:232-246,
by way of a public transcription; sign faults of R3d, RDo, RDp and R4p mended so that the path is smooth, RIp replaced
by the midpoint of its neighbours). Spread of diameters and share of right dominance: the same study.
"""
from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.interpolate import CubicSpline, PchipInterpolator
from scipy.spatial.transform import Rotation

from phantom.growth import grow, unit, wiggle
from phantom.tree import Tree

TABLE = Path(__file__).with_name("anatomy.csv")
SAMPLE_MM = 0.5
LEFT, RIGHT = "left", "right"
DIAMETER_SPREAD = {LEFT: 0.11, RIGHT: 0.15}  # SD by mean: LM 0.5 of 4.5 mm, LAD 0.4 of 3.7; RCA 0.6 of 3.9
WOMEN_SMALLER = 0.91
MAIN_LINES = {"LAD": ("left main", "proximal LAD", "mid LAD", "distal LAD"), "LCX": ("proximal LCX", "mid/distal LCX"),
              "RCA": ("proximal RCA", "mid RCA", "distal RCA"),
              "RPAV": ("right posterior atrioventricular",)}
# name -> (parent line, share of patients, extra length grown beyond the table's last point in mm)
BRANCHES = {
    LEFT: {"first diagonal": ("LAD", 0.97, 34), "second diagonal": ("LAD", 0.85, 28),
           "third diagonal": ("LAD", 0.5, 22), "first septal": ("LAD", 0.95, 10), "second septal": ("LAD", 0.8, 8),
           "ramus intermedius": ("LAD", 0.25, 30), "first obtuse marginal": ("LCX", 0.97, 34),
           "second obtuse marginal": ("LCX", 0.85, 24), "third obtuse marginal": ("LCX", 0.4, 18)},
    RIGHT: {"right posterior descending": ("RCA", 1.0, 24), "first right posterolateral": ("RPAV", 0.9, 22),
            "second right posterolateral": ("RPAV", 0.7, 16)}}
CONTINUATION = np.array([[12.0, -51.0, -27.5], [0.0, -57.0, -23.5], [-11.0, -62.0, -16.5]])  # LCX to the crux, mm
LEFT_PDA = np.array([[-11.0, -62.0, -16.5], [-6.0, -69.5, -6.0], [18.1, -73.7, 3.2]])


@dataclass
class Line:
    """One vessel while a tree is being built; `straight_mm` is the course before tortuosity, for attaching branches."""

    name: str
    points_mm: np.ndarray
    straight_mm: np.ndarray
    diameter_mm: np.ndarray
    cass_id: np.ndarray
    reach_mm: float


def load_anatomy() -> dict[str, tuple[int, np.ndarray, np.ndarray]]:
    """The table as segment name -> (CASS id, points (n, 3) in mm, diameters (n,) in mm)."""
    rows: dict[str, list[dict]] = {}
    with open(TABLE, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            rows.setdefault(row["segment"], []).append(row)
    columns = ("left_mm", "superior_mm", "anterior_mm")
    return {name: (int(own[0]["cass_id"]), np.array([[float(r[c]) for c in columns] for r in own]),
                   np.array([float(r["diameter_mm"]) for r in own])) for name, own in rows.items()}


class TreeBuilder:
    """Builds one patient's left or right tree line by line; `tree()` gives the result."""

    def __init__(self, side: str, rng: np.random.Generator, *, needed: frozenset[int] = frozenset(),
                 left_dominant: bool = False):
        self.rng, self.side, self.needed, self.left_dominant = rng, side, needed, left_dominant
        self.lines: dict[str, Line] = {}
        self.tortuosity = rng.gamma(3.0, 0.33)
        woman = rng.random() < 0.35
        self.caliber = float(np.clip(rng.normal(1, DIAMETER_SPREAD[side]), 0.75, 1.3)) * (WOMEN_SMALLER if woman else 1)
        self.anatomy = self._vary(load_anatomy())
        self.heart_mm = _sphere_center(np.concatenate([points for _, points, _ in self.anatomy.values()]))
        self.apex_mm = self.anatomy["distal LAD"][1][-2]

    def build(self) -> Tree:
        """Main vessels, numbered branches, then the small ones without a number."""
        if self.side == LEFT:
            self._add_left()
        else:
            self._add_right()
        from phantom.branches import add_small_branches
        add_small_branches(self)
        return self.tree()

    def tree(self) -> Tree:
        """All lines so far as one `Tree`."""
        lines = list(self.lines.values())
        joined = {k: np.concatenate([getattr(one, k) for one in lines]) for k in ("points_mm", "diameter_mm", "cass_id")}
        reach = [one.reach_mm + _arc(one.points_mm) for one in lines]
        number = np.repeat(np.arange(len(lines)), [len(one.points_mm) for one in lines])
        return Tree(joined["points_mm"], joined["points_mm"].copy(), joined["diameter_mm"],
                    joined["diameter_mm"].copy(), joined["cass_id"], number, np.concatenate(reach), self.heart_mm,
                    tuple(self.lines))

    def add(self, name: str, points_mm: np.ndarray, diameter_mm: np.ndarray, cass_id: np.ndarray, *,
            parent: str | None = None, at: int = 0, tortuosity: float = 1.0) -> Line:
        """Add a vessel through control points (k, 3); cass_id (k,) holds from each point to the next.

        With a parent, the vessel starts at the parent's sample `at` and leaves along the parent's direction.
        """
        start_reach = 0.0
        if parent is not None:
            trunk = self.lines[parent]
            start_reach = trunk.reach_mm + _arc(trunk.points_mm)[at]
            points_mm, diameter_mm, cass_id = self._leave(trunk, at, points_mm, diameter_mm, cass_id)
        straight, diameter, cass = _smooth(points_mm, diameter_mm, cass_id)
        arc = _arc(straight)
        points = straight + wiggle(straight, arc, self.heart_mm, self.tortuosity * tortuosity, self.rng)
        line = Line(name, points, straight, diameter, cass, start_reach)
        self.lines[name] = line
        return line

    def nearest(self, parent: str, point_mm: np.ndarray, jitter_mm: float = 0.0) -> int:
        """The parent's sample nearest to a point, moved along the parent by a random amount."""
        straight = self.lines[parent].straight_mm
        index = np.linalg.norm(straight - point_mm, axis=1).argmin() + self.rng.normal(0, jitter_mm) / SAMPLE_MM
        return int(np.clip(index, 4, len(straight) - 5))

    def _vary(self, anatomy: dict) -> dict:
        """Another heart: size, turn, and smooth bends of space that move neighbouring vessels alike."""
        rng = self.rng
        turn = Rotation.from_euler("xyz", rng.normal(0, 8, 3), degrees=True).as_matrix() * rng.normal(1.0, 0.07)
        waves, phases = unit(rng.normal(0, 1, (5, 3))) * (2 * np.pi / rng.uniform(60, 160, (5, 1))), rng.uniform(0, 6.28, 5)
        sizes = rng.normal(0, 2.2, (5, 3))

        def moved(points: np.ndarray) -> np.ndarray:
            bend = (np.sin(points @ waves.T + phases) - np.sin(phases)) @ sizes
            return (points + bend) @ turn.T

        return {n: (cass, moved(points), d * self.caliber * rng.normal(1, 0.06)) for n, (cass, points, d) in anatomy.items()}

    def _main(self, name: str, parts: tuple[str, ...], *, ostium: bool) -> None:
        points, diameters, cass = [], [], []
        for part in parts:
            cass_id, own_points, own_diameters = self.anatomy[part]
            points.append(own_points[1:] if points else own_points)
            diameters.append(own_diameters[1:] if diameters else own_diameters)
            cass.append(np.full(len(points[-1]), cass_id))
            if len(cass) > 1:
                cass[-2][-1] = cass_id  # the shared point starts the next segment
        points, diameters, cass = np.concatenate(points), np.concatenate(diameters), np.concatenate(cass)
        if ostium:
            points = np.concatenate([[[0.0, 0.0, 0.0]], points])
            diameters, cass = np.append(diameters[0], diameters), np.append(cass[0], cass)
        self.add(name, points, diameters, cass, tortuosity=0.45)

    def _add_left(self) -> None:
        self._main("LAD", MAIN_LINES["LAD"], ostium=True)
        prox, distal = self.anatomy["proximal LCX"], self.anatomy["mid/distal LCX"]
        points, diameters = np.concatenate([prox[1], distal[1][1:]]), np.concatenate([prox[2], distal[2][1:]])
        diameters[0] = diameters[1]
        cass = np.array([18] * (len(prox[1]) - 1) + [19] * len(distal[1]))
        if self.left_dominant:
            diameters[-3:] = np.maximum(diameters[-3:], 2.3 * self.caliber)
            points = np.concatenate([points, CONTINUATION])
            diameters, cass = np.append(diameters, [2.2, 2.1, 2.0]), np.append(cass, [23] * 3)
            cass[-4] = 23
        else:
            points, diameters, cass = self._extended(points, diameters, cass, 18.0)
        self.add("LCX", points, diameters, cass, parent="LAD",
                 at=self.nearest("LAD", self.anatomy["proximal LCX"][1][0]), tortuosity=0.5)
        if self.left_dominant:
            crux = self.nearest("LCX", LEFT_PDA[0])
            points, diameters, cass = self._extended(LEFT_PDA, np.array([1.9, 1.8, 1.5]), np.full(3, 27), 24.0)
            self.add("left PDA", points, diameters, cass, parent="LCX", at=crux)
        self._add_branches()

    def _add_right(self) -> None:
        if self.left_dominant:
            self._main("RCA", MAIN_LINES["RCA"], ostium=True)
            self.lines["RCA"].diameter_mm *= np.linspace(0.85, 0.55, len(self.lines["RCA"].diameter_mm))
            return
        self._main("RCA", MAIN_LINES["RCA"], ostium=True)
        crux = self.nearest("RCA", self.anatomy["distal RCA"][1][-1])
        points, diameters, cass = self._extended(*self._control("right posterior atrioventricular"), 12.0)
        self.add("RPAV", points, diameters, cass, parent="RCA", at=len(self.lines["RCA"].points_mm) - 1)
        self._add_branches(first_at={"right posterior descending": crux})

    def _add_branches(self, first_at: dict[str, int] = {}) -> None:
        for name, (parent, share, extra_mm) in BRANCHES[self.side].items():
            cass_id = self.anatomy[name][0]
            if self.rng.random() > share and cass_id not in self.needed:
                continue
            at = first_at.get(name, self.nearest(parent, self.anatomy[name][1][0], 2.5))
            extra = extra_mm * self.rng.uniform(0.6, 1.3)
            self.add(name, *self._extended(*self._control(name), extra), parent=parent, at=at)

    def _control(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        cass_id, points, diameters = self.anatomy[name]
        return points, diameters, np.full(len(points), cass_id)

    def _extended(self, points, diameters, cass, extra_mm: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Control points with a grown far end that tapers to a thin tip."""
        path = grow(points[-1], points[-1] - points[-2], extra_mm, self.heart_mm, self.rng,
                    toward=self.apex_mm - points[-1], wander=0.10)[3::4]
        tip = self.rng.uniform(0.55, 0.85)
        taper = np.linspace(diameters[-1], tip, len(path) + 1)[1:] if len(path) else []
        return np.concatenate([points, path]), np.append(diameters, taper), np.append(cass, [cass[-1]] * len(path))

    def _leave(self, trunk: Line, at: int, points, diameters, cass):
        """Control points moved onto the trunk, with a first step that leans along the trunk's direction."""
        points = points + (trunk.points_mm[at] - points[0])
        along = unit(trunk.points_mm[min(at + 4, len(trunk.points_mm) - 1)] - trunk.points_mm[max(at - 4, 0)])
        first = points[0] + 2.5 * unit(0.55 * along + unit(points[1] - points[0]))
        limit = 0.92 * trunk.diameter_mm[at]
        diameters = np.minimum(diameters, limit)
        return (np.insert(points, 1, first, axis=0), np.insert(diameters, 1, diameters[0]),
                np.insert(cass, 1, cass[0]))


def build_tree(side: str, rng: np.random.Generator, *, needed: frozenset[int] = frozenset(),
               left_dominant: bool = False) -> Tree:
    """One patient's tree without lesions. side: "left" or "right"; needed: CASS segments that must be present."""
    return TreeBuilder(side, rng, needed=needed, left_dominant=left_dominant).build()


def _arc(points: np.ndarray) -> np.ndarray:
    return np.append(0, np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1)))


def _smooth(points: np.ndarray, diameters: np.ndarray, cass: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A smooth curve through control points, sampled about every 0.5 mm; chord-length spacing avoids overshoot."""
    steps = np.maximum(np.linalg.norm(np.diff(points, axis=0), axis=1), 0.3)
    knots = np.append(0, np.cumsum(np.sqrt(steps)))
    fine = np.linspace(0, knots[-1], int(steps.sum() / 0.1))
    curve = CubicSpline(knots, points, bc_type="natural")(fine)
    arc = _arc(curve)
    where = np.interp(np.linspace(0, arc[-1], max(8, int(arc[-1] / SAMPLE_MM))), arc, fine)
    which = np.clip(np.searchsorted(knots, where, side="right") - 1, 0, len(cass) - 1)
    return CubicSpline(knots, points, bc_type="natural")(where), PchipInterpolator(knots, diameters)(where), cass[which]


def _sphere_center(points: np.ndarray) -> np.ndarray:
    """Least-squares centre of the sphere that the vessels lie on: the middle of the heart."""
    matrix = np.column_stack([2 * points, np.ones(len(points))])
    return np.linalg.lstsq(matrix, (points**2).sum(axis=1), rcond=None)[0][:3]
