"""One patient's left and right tree: main vessels, the branches that CASS numbers, then the small ones."""

from __future__ import annotations

import numpy as np

from phantom.anatomy import LEFT, RIGHT, Body, vary_anatomy
from phantom.branches import add_small_branches
from phantom.builder import Course, TreeBuilder, course_of
from phantom.tree import Tree

LAD = ("left main", "proximal LAD", "mid LAD", "distal LAD")
RCA = ("proximal RCA", "mid RCA", "distal RCA")
MAIN_TORTUOSITY = 0.45  # of the branches'; main vessels are stiffer
# name -> (parent vessel, share of patients who have it, mm grown beyond the table's last point, which is
# halfway)
BRANCHES = {
    LEFT: {
        "first diagonal": ("LAD", 0.97, 34),
        "second diagonal": ("LAD", 0.85, 28),
        "third diagonal": ("LAD", 0.5, 22),
        "first septal": ("LAD", 0.95, 10),
        "second septal": ("LAD", 0.8, 8),
        "ramus intermedius": ("LAD", 0.25, 30),
        "first obtuse marginal": ("LCX", 0.97, 34),
        "second obtuse marginal": ("LCX", 0.85, 24),
        "third obtuse marginal": ("LCX", 0.4, 18),
    },
    RIGHT: {
        "right posterior descending": ("RCA", 1.0, 24),
        "first right posterolateral": ("RPAV", 0.9, 22),
        "second right posterolateral": ("RPAV", 0.7, 16),
    },
}
ATTACH_SPREAD_MM = 2.5
# Left dominance: the LCX goes on to the crux (CASS 23) and gives the posterior descending (27). Between the
# table's last LCX point and its crux (R3d, RDp, RDm), by eye; mm, diameters as of the right-dominant
# counterparts.
CONTINUATION = Course(
    np.array([[12.0, -51.0, -27.5], [0.0, -57.0, -23.5], [-11.0, -62.0, -16.5]]),
    np.array([2.2, 2.1, 2.0]),
    np.full(3, 23),
)
LEFT_PDA = Course(
    np.array([[-11.0, -62.0, -16.5], [-6.0, -69.5, -6.0], [18.1, -73.7, 3.2]]),
    np.array([1.9, 1.8, 1.5]),
    np.full(3, 27),
)


def build_tree(
    side: str,
    rng: np.random.Generator,
    *,
    needed: frozenset[int] = frozenset(),
    left_dominant: bool = False,
    body: Body | None = None,
) -> Tree:
    """One patient's tree without lesions. side: "left" or "right"; needed: CASS segments it must have.

    body: the same for both sides of a patient; without it one is drawn.
    """
    builder = TreeBuilder(vary_anatomy(side, rng, body), rng)
    if side == LEFT:
        _add_lad_and_lcx(builder, left_dominant)
    else:
        _add_rca(builder, left_dominant)
    for name in BRANCHES[side]:
        _add_branch(builder, side, name, needed)
    add_small_branches(builder, side)
    return builder.tree()


def _add_lad_and_lcx(builder: TreeBuilder, left_dominant: bool) -> None:
    segments = builder.anatomy.segments
    builder.add("LAD", _from_ostium(course_of(*[segments[name] for name in LAD])), tortuosity=MAIN_TORTUOSITY)
    lcx = course_of(segments["proximal LCX"], segments["mid/distal LCX"])
    lcx.diameter_mm[0] = lcx.diameter_mm[1]  # the table gives the left main's width where the LCX leaves it
    if left_dominant:
        lcx.diameter_mm[-3:] = np.maximum(lcx.diameter_mm[-3:], CONTINUATION.diameter_mm[0])
        lcx = Course(*(np.concatenate(parts) for parts in zip(lcx, CONTINUATION)))
    else:
        lcx = builder.extended(lcx, 18.0)
    builder.add(
        "LCX", lcx, parent="LAD", at=builder.nearest("LAD", lcx.points_mm[0]), tortuosity=MAIN_TORTUOSITY
    )
    if left_dominant:
        crux = builder.nearest("LCX", LEFT_PDA.points_mm[0])
        builder.add("left PDA", builder.extended(LEFT_PDA, 24.0), parent="LCX", at=crux)


def _add_rca(builder: TreeBuilder, left_dominant: bool) -> None:
    segments = builder.anatomy.segments
    rca = builder.add(
        "RCA", _from_ostium(course_of(*[segments[name] for name in RCA])), tortuosity=MAIN_TORTUOSITY
    )
    if left_dominant:  # a small right coronary that ends before the crux
        rca.diameter_mm *= np.linspace(0.85, 0.55, len(rca.diameter_mm))
        return
    last = builder.extended(course_of(segments["right posterior atrioventricular"]), 12.0)
    builder.add("RPAV", last, parent="RCA", at=len(rca.points_mm) - 1)


def _add_branch(builder: TreeBuilder, side: str, name: str, needed: frozenset[int]) -> None:
    parent, share, extra_mm = BRANCHES[side][name]
    segment = builder.anatomy.segments[name]
    wanted = builder.rng.random() < share or segment.cass_id in needed
    if not wanted or parent not in builder.lines or (parent == "RCA" and "RPAV" not in builder.lines):
        return  # absent in this patient, or supplied by the left side
    at = builder.nearest(parent, segment.points_mm[0], ATTACH_SPREAD_MM)
    course = builder.extended(course_of(segment), extra_mm * builder.rng.uniform(0.6, 1.3))
    builder.add(name, course, parent=parent, at=at)


def _from_ostium(course: Course) -> Course:
    """The table's first point lies a few millimetres inside the vessel; the ostium is the origin."""
    return Course(
        np.concatenate([np.zeros((1, 3)), course.points_mm]),
        np.append(course.diameter_mm[0], course.diameter_mm),
        np.append(course.cass_id[0], course.cass_id),
    )
