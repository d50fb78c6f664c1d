"""Lesions: narrowings of known length, severity and eccentricity, put on a tree for each examination."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from data.anatomy import unit
from phantom.tree import Tree

WORST_DS, MILD_DS, RESIDUAL_DS, EVENT_DS = (50.0, 88.0), (12.0, 42.0), (3.0, 22.0), (45.0, 82.0)  # %DS ranges
LESION_MM = (6.0, 22.0)
LARGEST_SHARE = 0.45  # of its segment's length
EVENT_MM = (3.0, 14.0)  # shorter, to find room beside the treated lesion
MOST_OTHERS = 3  # milder lesions elsewhere in a tree
EVENT_TRIES = 80  # draws of a new lesion until one lies clear of the treated one
LESION_SEGMENTS = (
    1,
    2,
    3,
    4,
    11,
    12,
    13,
    14,
    15,
    16,
    18,
    19,
    20,
    21,
    28,
)  # where the other lesions of a tree may lie


@dataclass(frozen=True)
class Lesion:
    """A narrowing of one segment. middle: sample index in the tree; length_mm along the vessel, bell-shaped.

    stenosis_pct: diameter stenosis at the middle, 0-100. eccentricity: 0 (concentric) to 1 (one wall stays in
    place). side_deg: direction of the plaque around the vessel.
    """

    cass_id: int
    middle: int
    length_mm: float
    stenosis_pct: float
    eccentricity: float
    side_deg: float


def draw_lesion(
    tree: Tree,
    cass_id: int,
    ds_range: tuple[float, float],
    rng: np.random.Generator,
    *,
    length_mm: tuple[float, float] = LESION_MM,
) -> Lesion:
    """A random lesion that lies inside its segment, healthy ends included."""
    own = tree.segment(cass_id)
    arc = tree.arc_mm()[own] - tree.arc_mm()[own[0]]
    length = min(rng.uniform(*length_mm), LARGEST_SHARE * arc[-1])
    middle = rng.uniform(length / 2 + 0.08 * arc[-1], arc[-1] * 0.92 - length / 2)
    return Lesion(
        cass_id,
        int(own[np.abs(arc - middle).argmin()]),
        float(length),
        float(rng.uniform(*ds_range)),
        float(rng.beta(1.2, 1.6)),
        float(rng.uniform(0, 360)),
    )


def draw_disease(
    tree: Tree, cass_id: int, rng: np.random.Generator, *, severe_others: float = 0.0
) -> tuple[Lesion, tuple[Lesion, ...]]:
    """Before treatment: the worst lesion, in the analysed segment, and milder ones elsewhere in the tree.

    severe_others: the probability that one more, in a segment without any, is as severe as the analysed one is.
    """
    worst = draw_lesion(tree, cass_id, WORST_DS, rng)
    others = sorted((set(tree.cass_id.tolist()) & set(LESION_SEGMENTS)) - {cass_id})
    chosen = rng.permutation(others)[: rng.integers(0, MOST_OTHERS + 1)] if others else []
    limit = min(MILD_DS[1], worst.stenosis_pct - 8)
    found = [draw_lesion(tree, int(segment), (MILD_DS[0], limit), rng) for segment in chosen]
    healthy = sorted(set(others) - set(map(int, chosen)))
    if severe_others and healthy and rng.random() < severe_others:  # without them, the same draws as ever
        found.append(draw_lesion(tree, int(rng.choice(healthy)), WORST_DS, rng))
    return worst, tuple(found)


def phase_lesions(
    tree: Tree, cass_id: int, phase: str, worst: Lesion, others: tuple[Lesion, ...], rng: np.random.Generator
) -> tuple[Lesion, ...]:
    """Lesions of an examination, the analysed one first: as found, treated (FINAL), or a new one (EVENT).

    An EVENT keeps the treated lesion, second in the list.
    """
    if phase == "PRE":
        return worst, *others
    treated = replace(worst, stenosis_pct=float(rng.uniform(*RESIDUAL_DS)), eccentricity=0.2)
    if phase == "FINAL":
        return treated, *others
    return _draw_clear_of(tree, treated, rng), treated, *others


def gap_mm(tree: Tree, first: Lesion, second: Lesion) -> float:
    """Healthy vessel between two lesions of one line, mm along it; negative where they overlap."""
    arc = tree.arc_mm()
    return abs(float(arc[first.middle] - arc[second.middle])) - (first.length_mm + second.length_mm) / 2


def _draw_clear_of(tree: Tree, treated: Lesion, rng: np.random.Generator) -> Lesion:
    """A new lesion of the treated segment beside the treated one; the farthest draw where none is clear."""
    best, best_gap = None, -np.inf
    for _ in range(EVENT_TRIES):
        drawn = draw_lesion(tree, treated.cass_id, EVENT_DS, rng, length_mm=EVENT_MM)
        gap = gap_mm(tree, drawn, treated)
        if gap > best_gap:
            best, best_gap = drawn, gap
        if gap >= 0:
            break
    return best


def with_lesions(tree: Tree, lesions: tuple[Lesion, ...]) -> Tree:
    """A healthy tree with narrowed lumens, and the healthy wall beside them, so both are known everywhere.

    The healthy wall runs evenly from one end of a lesion to the other, so that it is what quantitative
    analysis reconstructs there.
    """
    arc, healthy = tree.arc_mm(), tree.healthy_mm.copy()
    for lesion in lesions:  # lesions end inside their segment, so a sample of the line follows at either end
        inside = np.flatnonzero(lesion_profile(tree, lesion, arc) > 0)
        ends = [inside[0] - 1, inside[-1] + 1]
        healthy[inside] = np.interp(arc[inside], arc[ends], healthy[ends])
    lumen, center = healthy.copy(), tree.center_mm.copy()
    for lesion in lesions:
        bell = lesion_profile(tree, lesion, arc)
        narrowed = healthy * (1 - lesion.stenosis_pct / 100 * bell)
        shift = lesion.eccentricity * (healthy - narrowed) / 2
        center += np.where(narrowed < lumen, shift, 0)[:, None] * _plaque_direction(tree, lesion)
        lumen = np.minimum(lumen, narrowed)
    return replace(tree, lumen_mm=lumen, healthy_mm=healthy, center_mm=center)


def lesion_samples(tree: Tree, lesion: Lesion, share: float = 1.0) -> np.ndarray:
    """Samples of the tree within the middle `share` of a lesion's length. (n,) int"""
    away = np.abs(tree.arc_mm() - tree.arc_mm()[lesion.middle])
    return np.flatnonzero((tree.line == tree.line[lesion.middle]) & (away <= share * lesion.length_mm / 2))


def lesion_profile(tree: Tree, lesion: Lesion, arc_mm: np.ndarray) -> np.ndarray:
    """Share of the full narrowing at every sample: 1 at the middle, 0 from half a length away. (P,)"""
    away = np.abs(arc_mm - arc_mm[lesion.middle]) / (lesion.length_mm / 2)
    same_line = tree.line == tree.line[lesion.middle]
    return np.where(same_line & (away < 1), 0.5 + 0.5 * np.cos(np.pi * np.minimum(away, 1)), 0.0)


def _plaque_direction(tree: Tree, lesion: Lesion) -> np.ndarray:
    """Unit vector across the vessel at each sample, at the lesion's angle around it. (P, 3)"""
    step = np.gradient(tree.wall_mm, axis=0)
    tangent = unit(step)
    first = unit(np.cross(tangent, tree.wall_mm - tree.heart_mm))
    angle = np.radians(lesion.side_deg)
    return np.cos(angle) * first + np.sin(angle) * np.cross(tangent, first)
