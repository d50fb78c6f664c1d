"""Coronary trees of patients who do not exist: the mean anatomy, varied as far as patients differ.

    for vessel in virtual_tree("left", np.random.default_rng(0)):
        print(vessel.cass_id, vessel.points_mm.shape)

They teach names to the map of stage 2 (`data/drawn_trees.py`) and are not the phantom's patients: both start from the
same table of means, but how patients differ is drawn here by rules of its own and more widely, since real patients
will not keep to any of them. Shares of patients with a branch, and sizes of the small ones, are by textbooks.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation

from data.anatomy import arc_length, load_anatomy, sphere_center, unit
from data.cass import SEGMENTS

LEFT_DOMINANT = 0.12
# Branches that leave the side of a vessel: share of patients who have it.
BRANCHES = {
    "first diagonal": 0.95, "second diagonal": 0.85, "third diagonal": 0.5, "first septal": 0.9, "second septal": 0.8,
    "ramus intermedius": 0.25, "first obtuse marginal": 0.95, "second obtuse marginal": 0.8,
    "third obtuse marginal": 0.4, "right posterior descending": 1.0, "first right posterolateral": 0.9,
    "second right posterolateral": 0.7,
}
ORIGIN_SPREAD_MM = 3.0  # of a branch, along its parent
# The table ends halfway down these segments; so much of the heart's surface lies beyond on average (by eye), in mm.
BEYOND_TABLE_MM = {4: 24, 5: 12, 6: 20, 7: 16, 15: 30, 16: 26, 17: 8, 19: 18, 20: 32, 21: 22, 22: 16, 28: 28, 29: 20}
BEYOND_SHARE = (0.4, 1.5)
TURN_DEG, SIZE_SPREAD, WIDTH_SPREAD, SEGMENT_WIDTH_SPREAD = 9.0, 0.08, 0.15, 0.1
BEND_MM, BEND_WAVES, BEND_WAVE_MM = 2.3, 6, (50, 160)  # moves neighbouring vessels alike
# Waves of a vessel about its course: standard deviation by wavelength; branches wind more than main vessels.
WINDING, BRANCH_WINDING, WINDING_WAVES_MM = 0.014, 0.03, ((9, 16), (16, 30), (30, 60))
STRAIGHT_MM = 14.0  # no waves before a vessel's start, nor before the end of one that goes on
STEP_MM, TWIG_STEP_MM = 1.0, 2.0
TWIGS_PER_MM, TWIG_LENGTH_MM, TWIG_WIDTH_MM = (0.017, 0.072), (8, 38), (0.5, 1.25)
# Small right branches with a direction of their own: CASS number, the segment that they leave and where along it,
# length, width, and direction.
RIGHT_BRANCHES = (
    (0, 1, (0.1, 0.4), (25, 45), 1.0, (0.6, 0.35, 0.8)),  # conus
    (0, 1, (0.1, 0.5), (25, 45), 0.9, (-0.3, 0.7, -0.7)),  # sinus node
    (10, 2, (0.3, 0.95), (35, 62), 1.5, (0.8, -0.5, 0.5)),  # acute marginal
)


@dataclass(frozen=True)
class Vessel:
    """A segment or small branch: CASS number, 0 for what CASS does not number; centreline (n, 3) in mm, proximal to
    distal; lumen diameters (n,) in mm. Axes as in `data.anatomy`.
    """

    cass_id: int
    points_mm: np.ndarray
    diameter_mm: np.ndarray
    is_branch: bool = True


def virtual_tree(side: str, rng: np.random.Generator) -> list[Vessel]:
    """One patient's "left" or "right" tree without lesions; the first vessel starts at the ostium."""
    heart = sphere_center(np.concatenate([segment.points_mm for segment in load_anatomy().values()]))
    width = float(np.clip(rng.normal(0.95, WIDTH_SPREAD), 0.6, 1.4))
    vessels = _numbered(side, rng, heart, width)
    vessels += _twigs(vessels, side, heart, width, rng)
    turn = Rotation.from_euler("xyz", rng.normal(0, TURN_DEG, 3), degrees=True).as_matrix()
    size = float(np.clip(rng.normal(1, SIZE_SPREAD), 0.75, 1.3))
    waves = unit(rng.normal(0, 1, (BEND_WAVES, 3))) * (2 * np.pi / rng.uniform(*BEND_WAVE_MM, (BEND_WAVES, 1)))
    phases, bends = rng.uniform(0, 2 * np.pi, BEND_WAVES), rng.normal(0, BEND_MM, (BEND_WAVES, 3))

    def moved(points: np.ndarray) -> np.ndarray:
        return size * (points + (np.sin(points @ waves.T + phases) - np.sin(phases)) @ bends) @ turn.T

    return [replace(vessel, points_mm=moved(vessel.points_mm)) for vessel in vessels]


def _numbered(side: str, rng: np.random.Generator, heart: np.ndarray, width: float) -> list[Vessel]:
    """The segments of the table that this patient has, and the left continuation in left dominance."""
    left_dominant, found = rng.random() < LEFT_DOMINANT, {}
    for name, mean in load_anatomy().items():
        is_branch = name in BRANCHES
        absent = rng.random() >= BRANCHES.get(name, 1.0) or (mean.parent != "" and mean.parent not in found)
        # A right coronary that leaves the crux to the left one ends before it.
        if SEGMENTS[mean.cass_id].side != side or absent or (left_dominant and mean.cass_id in (4, 5)):
            continue
        points = _prolonged(mean.points_mm, heart, BEYOND_TABLE_MM.get(mean.cass_id, 0) * rng.uniform(*BEYOND_SHARE))
        tip = np.linspace(mean.diameter_mm[-1], rng.uniform(0.5, 0.9), len(points) - len(mean.points_mm) + 1)
        diameter = np.append(mean.diameter_mm, tip[1:])
        if mean.parent:
            points, diameter = _attached(points, diameter, found[mean.parent], is_branch, rng)
        diameter = diameter * width * rng.normal(1, SEGMENT_WIDTH_SPREAD)
        found[name] = _wound(_smooth(mean.cass_id, points, diameter, is_branch), heart, rng)
    vessels = list(found.values())
    if left_dominant and side == "left":
        vessels += [_wound(vessel, heart, rng) for vessel in _left_continuation(found["mid/distal LCX"], heart, width)]
    return vessels


def _attached(points, diameter, parent: Vessel, is_branch: bool, rng: np.random.Generator):
    """The course moved to where it leaves its parent; a vessel that goes on starts at the parent's nearest point."""
    at = int(np.linalg.norm(parent.points_mm - points[0], axis=1).argmin())
    last = len(parent.points_mm) - 1
    if is_branch:
        at = int(np.clip(at + rng.normal(0, ORIGIN_SPREAD_MM) / STEP_MM, min(2, last), max(last - 2, 0)))
        points = points + (parent.points_mm[at] - points[0])
        return points, np.minimum(diameter, 0.9 * parent.diameter_mm[at])
    if np.linalg.norm(parent.points_mm[at] - points[0]) < 0.3:
        return points, diameter
    return np.concatenate([parent.points_mm[at : at + 1], points]), np.append(diameter[0], diameter)


def _left_continuation(lcx: Vessel, heart: np.ndarray, width: float) -> list[Vessel]:
    """Left dominance: the LCX goes on along the groove (CASS 23) to the crux, where the right one's PDA starts (27)."""
    pda = load_anatomy()["right posterior descending"].points_mm
    way = np.linspace(lcx.points_mm[-1], pda[0], 5)
    radius = np.linspace(*(np.linalg.norm(end - heart) for end in (lcx.points_mm[-1], pda[0])), len(way))
    way = heart + unit(way - heart) * radius[:, None]
    pda = _prolonged(pda, heart, BEYOND_TABLE_MM[4])
    return [
        _smooth(23, way, np.full(len(way), 2.0 * width), False),
        _smooth(27, pda, np.linspace(1.9, 0.7, len(pda)) * width, True),
    ]


def _prolonged(line: np.ndarray, heart: np.ndarray, length_mm: float) -> np.ndarray:
    """A line (n, 3) that goes on in its last direction for `length_mm`, as far from the heart's middle as it ends."""
    points, step = list(line), line[-1] - line[-2]
    radius = np.linalg.norm(line[-1] - heart)
    for _ in range(round(length_mm / TWIG_STEP_MM)):
        outward = unit(points[-1] - heart)
        step = step - outward * (step @ outward)
        points.append(heart + radius * unit(points[-1] + TWIG_STEP_MM * unit(step) - heart))
    return np.array(points)


def _smooth(cass_id: int, points: np.ndarray, diameter: np.ndarray, is_branch: bool) -> Vessel:
    """A smooth vessel through control points; knots by the root of the distance keep it from overshooting."""
    steps = np.maximum(np.linalg.norm(np.diff(points, axis=0), axis=1), 0.3)
    knots = np.append(0, np.cumsum(np.sqrt(steps)))
    fine = np.linspace(0, knots[-1], 12 * len(points))
    line, width = CubicSpline(knots, points, bc_type="natural")(fine), np.interp(fine, knots, diameter)
    arc = arc_length(line)
    where = np.linspace(0, arc[-1], max(3, round(arc[-1] / STEP_MM) + 1))
    line = np.stack([np.interp(where, arc, column) for column in line.T], axis=1)
    return Vessel(cass_id, line, np.interp(where, arc, width), is_branch)


def _wound(vessel: Vessel, heart: np.ndarray, rng: np.random.Generator) -> Vessel:
    """The vessel with waves sideways, mostly along the heart's surface; its start stays, and its end if it goes on."""
    arc = arc_length(vessel.points_mm)
    along = unit(np.gradient(vessel.points_mm, axis=0))
    across = unit(np.cross(along, unit(vessel.points_mm - heart)))
    shift, amount = np.zeros_like(vessel.points_mm), BRANCH_WINDING if vessel.is_branch else WINDING
    for axis, share in ((across, 1.0), (np.cross(along, across), 0.6)):
        for low, high in WINDING_WAVES_MM:
            wave_mm, phase = rng.uniform(low, high), rng.uniform(0, 2 * np.pi)
            size = share * rng.normal(0, amount * wave_mm)
            shift += size * np.sin(2 * np.pi * arc / wave_mm + phase)[:, None] * axis
    window = np.minimum(arc / STRAIGHT_MM, 1)
    if not vessel.is_branch:
        window = window * np.minimum((arc[-1] - arc) / STRAIGHT_MM, 1)
    return replace(vessel, points_mm=vessel.points_mm + shift * window[:, None])


def _twigs(vessels: list[Vessel], side: str, heart: np.ndarray, width: float, rng: np.random.Generator) -> list[Vessel]:
    """The small branches, most of which CASS does not number, grown all at once."""
    starts = []  # (CASS number, origin, direction, length, diameter, how closely it keeps to the heart's surface)
    per_mm = rng.uniform(*TWIGS_PER_MM)
    for vessel in vessels:
        if vessel.cass_id == 11:
            continue
        last = len(vessel.points_mm) - 1
        for at in rng.integers(0, last + 1, rng.poisson(per_mm * last * STEP_MM)):
            along = unit(vessel.points_mm[min(at + 2, last)] - vessel.points_mm[max(at - 2, 0)])
            outward = unit(vessel.points_mm[at] - heart)
            aside = np.cross(along, outward) * rng.choice([-1, 1])
            into_the_wall = rng.random() < 0.3
            if into_the_wall:
                aside = unit(aside * rng.normal(0, 0.7) - outward)
            angle = np.radians(rng.uniform(35, 80))
            heading = np.cos(angle) * along + np.sin(angle) * aside
            thickness = min(rng.uniform(*TWIG_WIDTH_MM) * width, 0.75 * vessel.diameter_mm[at])
            surface = 0.0 if into_the_wall else 0.6
            starts.append((0, vessel.points_mm[at], heading, rng.uniform(*TWIG_LENGTH_MM), thickness, surface))
    for cass_id, parent_id, place, length, thickness, heading in RIGHT_BRANCHES if side == "right" else ():
        parent = next(vessel for vessel in vessels if vessel.cass_id == parent_id)
        origin = parent.points_mm[int(rng.uniform(*place) * len(parent.points_mm))]
        heading = unit(np.array(heading) + rng.normal(0, 0.25, 3))
        thickness = thickness * width * rng.uniform(0.7, 1.2)
        starts.append((cass_id, origin, heading, rng.uniform(*length), thickness, 0.6))
    if not starts:
        return []
    numbers, origins, headings, lengths, thicknesses, surfaces = (np.array(column) for column in zip(*starts))
    paths = _grown(origins, headings, surfaces[:, None], int(lengths.max() / TWIG_STEP_MM) + 1, heart, rng)
    counts = np.maximum(lengths // TWIG_STEP_MM, 3).astype(int)
    tapers = [np.linspace(wide, max(0.4, 0.5 * wide), n) for wide, n in zip(thicknesses, counts)]
    return [Vessel(int(number), path[:n], taper) for number, path, n, taper in zip(numbers, paths, counts, tapers)]


def _grown(origins, headings, surfaces, steps: int, heart, rng: np.random.Generator) -> np.ndarray:
    """Paths (twigs, steps + 1, 3) that wander; `surfaces` (twigs, 1): how much of each step away from or into the
    heart is taken out."""
    bends = rng.normal(0, 1, (steps + 2, len(origins), 3))
    bends = (bends[:-2] + bends[1:-1] + bends[2:]) / np.sqrt(3)
    aims, path = unit(rng.normal(0, 1, origins.shape)), [origins]
    for bend in bends:
        outward = unit(path[-1] - heart)
        headings = headings + 0.18 * bend + 0.05 * aims
        headings = unit(headings - surfaces * (headings * outward).sum(axis=1, keepdims=True) * outward)
        path.append(path[-1] + TWIG_STEP_MM * headings)
    return np.stack(path, axis=1)
