"""Small branches that CASS does not number, and a few that it does (acute marginal, septals)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.anatomy import unit
from phantom.builder import Course, TreeBuilder
from phantom.growth import grow

OUT, IN, SIDE = "out", "in", "side"  # away from the heart's middle, into the septum, along the surface


@dataclass(frozen=True)
class Kind:
    """Branches of one kind on one parent: how many, where along it (0-1), how thick and long, which way."""

    parent: str
    count: tuple[int, int]
    place: tuple[float, float]
    diameter_mm: tuple[float, float]
    length_mm: tuple[float, float]
    way: str
    cass_id: int = 0
    twigs: int = 0
    aim: tuple[float, float, float] | None = None  # left, superior, anterior


# Counts and sizes: as seen in eight real frames and in textbooks of coronary anatomy; no table gives them.
KINDS = {
    "left": (
        Kind("LAD", (4, 8), (0.22, 0.75), (0.6, 1.15), (14, 34), IN, twigs=1, aim=(-0.35, -0.85, 0.35)),
        Kind("LAD", (1, 4), (0.2, 0.95), (0.6, 1.1), (12, 34), SIDE, twigs=1),
        Kind("LAD", (1, 3), (0.15, 0.7), (0.5, 0.9), (10, 24), SIDE, aim=(-0.9, -0.1, 0.4)),
        Kind("LCX", (1, 3), (0.1, 0.7), (0.6, 1.1), (14, 34), SIDE, aim=(0.0, 0.6, -0.8)),
        Kind("LCX", (1, 3), (0.15, 0.85), (0.6, 1.1), (12, 30), SIDE, twigs=1, aim=(0.5, -0.8, 0.2)),
        Kind("first diagonal", (1, 4), (0.25, 0.9), (0.5, 0.95), (8, 24), SIDE),
        Kind("second diagonal", (1, 3), (0.25, 0.9), (0.5, 0.95), (8, 22), SIDE),
        Kind("third diagonal", (0, 2), (0.25, 0.9), (0.5, 0.8), (8, 18), SIDE),
        Kind("ramus intermedius", (1, 4), (0.25, 0.9), (0.5, 0.95), (8, 24), SIDE),
        Kind("first obtuse marginal", (1, 4), (0.25, 0.9), (0.5, 0.95), (8, 26), SIDE),
        Kind("second obtuse marginal", (1, 3), (0.25, 0.9), (0.5, 0.95), (8, 22), SIDE),
        Kind("third obtuse marginal", (0, 2), (0.25, 0.9), (0.5, 0.8), (8, 18), SIDE),
    ),
    "right": (
        Kind("RCA", (1, 1), (0.05, 0.1), (0.7, 1.2), (25, 45), SIDE, twigs=2, aim=(0.6, 0.35, 0.8)),  # conus
        Kind(
            "RCA", (1, 1), (0.06, 0.14), (0.7, 1.1), (25, 45), SIDE, twigs=2, aim=(-0.3, 0.7, -0.7)
        ),  # sinus node
        Kind(
            "RCA", (1, 3), (0.2, 0.55), (0.7, 1.2), (22, 48), SIDE, twigs=2, aim=(0.7, -0.4, 0.6)
        ),  # RV marginals
        Kind(
            "RCA", (1, 1), (0.55, 0.75), (1.2, 1.7), (40, 62), SIDE, 10, 3, aim=(0.8, -0.5, 0.5)
        ),  # acute marginal
        Kind("RCA", (0, 2), (0.45, 0.9), (0.5, 0.9), (14, 30), SIDE, aim=(0.0, 0.5, -0.8)),  # atrial
        Kind(
            "right posterior descending",
            (3, 6),
            (0.15, 0.85),
            (0.5, 0.9),
            (9, 22),
            IN,
            9,
            aim=(0.2, 0.8, 0.4),
        ),
        Kind("right posterior descending", (1, 3), (0.3, 0.9), (0.5, 0.8), (8, 20), SIDE),
        Kind("RPAV", (1, 2), (0.3, 0.9), (0.6, 1.2), (14, 34), SIDE, twigs=1),
        Kind("first right posterolateral", (1, 3), (0.2, 0.9), (0.5, 0.9), (8, 20), SIDE),
        Kind("second right posterolateral", (1, 3), (0.2, 0.9), (0.5, 0.9), (8, 20), SIDE),
    ),
}


def add_small_branches(builder: TreeBuilder, side: str) -> None:
    """Grow all small branches of one side's tree, by the builder's random generator."""
    rng = builder.rng
    abundance = rng.uniform(0.7, 1.6)  # some trees show few branches, some many
    for kind in KINDS[side]:
        if kind.parent not in builder.lines:
            continue
        low, high = kind.count
        count = low if low == high == 1 else int(round(rng.integers(low, high + 1) * abundance))
        for _ in range(count):
            _add_branch(builder, kind, rng)


def _add_branch(builder: TreeBuilder, kind: Kind, rng: np.random.Generator) -> None:
    trunk = builder.lines[kind.parent]
    at = int(np.clip(rng.uniform(*kind.place) * len(trunk.points_mm), 4, len(trunk.points_mm) - 5))
    diameter = min(rng.uniform(*kind.diameter_mm) * builder.anatomy.caliber, 0.75 * trunk.diameter_mm[at])
    name = _add_grown(builder, kind, at, diameter, rng.uniform(*kind.length_mm), rng)
    for _ in range(rng.integers(0, kind.twigs + 1)):
        twig = Kind(name, (1, 1), (0.2, 0.85), (0.5, 0.5), (7, 20), SIDE, cass_id=0)
        own = builder.lines[name]
        spot = int(np.clip(rng.uniform(*twig.place) * len(own.points_mm), 2, len(own.points_mm) - 3))
        _add_grown(builder, twig, spot, 0.75 * own.diameter_mm[spot], rng.uniform(*twig.length_mm), rng)


def _add_grown(
    builder: TreeBuilder, kind: Kind, at: int, diameter: float, length: float, rng: np.random.Generator
) -> str:
    trunk, heart = builder.lines[kind.parent], builder.anatomy.heart_mm
    start = trunk.points_mm[at]
    along = trunk.direction(at, 3)
    path = grow(
        start,
        _heading(kind, start, along, heart, rng),
        length,
        heart,
        rng,
        toward=_aim(kind, start, builder, rng),
        pull=0.05,
        wander=0.18,
        surface=0.0 if kind.way == IN else 0.6,
    )
    path = np.concatenate([path[:1], path[2::2]])
    taper = np.linspace(diameter, max(0.4, 0.5 * diameter), len(path))
    name = f"{kind.parent} branch {len(builder.lines)}"
    course = Course(path, taper, np.full(len(path), kind.cass_id))
    builder.add(name, course, parent=kind.parent, at=at, tortuosity=1.6)
    return name


def _heading(kind: Kind, start, along, heart, rng: np.random.Generator) -> np.ndarray:
    """First direction: 35-75 degrees off the parent."""
    if kind.aim is not None:
        across = np.asarray(kind.aim) + rng.normal(0, 0.15, 3)
    else:
        across = np.cross(along, start - heart) * rng.choice([-1, 1])
    across = unit(across - np.dot(unit(across), along) * along * np.linalg.norm(across))
    angle = np.radians(rng.uniform(35, 75))
    return np.cos(angle) * along + np.sin(angle) * across


def _aim(kind: Kind, start, builder: TreeBuilder, rng: np.random.Generator) -> np.ndarray:
    if kind.aim is not None:
        return np.asarray(kind.aim) + rng.normal(0, 0.2, 3)
    return builder.anatomy.apex_mm - start + rng.normal(0, 15, 3)
