"""How well anybody could guess which segment was analysed: Bayes' rule on the phantom's own sampler.

A frame without a severe lesion seldom says what the analyst measured, so a blind guess has a ceiling below 1.
The guesser here knows how the phantom draws its rows, and sees one frame but not the phase it was taken in.
The ceiling of the frame is the largest of its posterior probabilities over the segments that may have been
analysed; over many frames their mean is the accuracy of that guesser.

Exact: rows by segment and phase; the angles given the segment; the lesions seen, their segments and their %DS
given segment and phase; which vessel holds a guide wire; branches and dominance that an analysis demands.
Approximate, from random draws: the choice of the best of several positions, which depends on the lesion that
may not be seen; where the table was moved so that the segment lies in the frame.
On the optimistic side, so that a score above the ceiling means a leak: the whole tree is known to the last
branch and named without error, and every lesion from VISIBLE_DS_PCT on is seen and measured without error.
Left out: length, place and eccentricity of lesions, and what other analyses of the same patient show.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import comb

import numpy as np

from phantom.anatomy import LEFT, RIGHT
from phantom.catheter import WIRE_LEFT
from phantom.lesions import (
    EVENT_DS,
    LESION_SEGMENTS,
    MILD_DS,
    MOST_OTHERS,
    RESIDUAL_DS,
    WORST_DS,
    Lesion,
    draw_lesion,
    lesion_samples,
)
from phantom.patient import BRANCHES
from phantom.plan import Analysis
from phantom.scene import CRUX_SEGMENTS, LEFT_DOMINANT, Scene
from phantom.tree import Tree
from phantom.views import (
    angle_density,
    choice_weight,
    covered_samples,
    draw_position,
    pan_density,
    view_score,
    visible_length,
)

# Twice the SD of %DS between two observers of one frame, 5.25 points in published comparisons of quantitative
# analyses: a milder narrowing cannot be told from a healthy wall.
VISIBLE_DS_PCT = 10.5
# A candidate's random positions and unseen lesions. Four times and twice as many change the mean ceiling of
# 136 FINAL rows from 0.958 to 0.957, that of one row by 0.012 on average (2026-11-22).
DRAWS, HIDDEN_LESIONS = 24, 12
COVER_STEP = 2  # every so many samples, 1 mm
NEGLIGIBLE = 1e-4  # of the likeliest candidate's weight; the choice among positions moves it 16 times at most
RowCounts = Mapping[tuple[int, str], int]
SeenLesion = tuple[int, float]  # CASS id, %DS


def row_counts(plan: Sequence[Analysis]) -> RowCounts:
    """Rows of a data set by (CASS id, phase): what a guesser expects before seeing a frame."""
    return Counter((one.cass_id, phase) for one in plan for phase in one.phases)


def blind_ceiling(
    scene: Scene, counts: RowCounts, rng: np.random.Generator, severe_others: float = 0.0
) -> float:
    """The probability that the best possible guess of the analysed segment is right, in (0, 1]."""
    return max(blind_posterior(scene, counts, rng, severe_others).values())


def blind_posterior(
    scene: Scene, counts: RowCounts, rng: np.random.Generator, severe_others: float = 0.0
) -> dict[int, float]:
    """Probability of each segment to be the analysed one, given what the scene shows; they sum to 1.

    Of the scene it uses nothing that depends on the analysed segment otherwise than visibly.
    """
    tree, carm = scene.tree, scene.carm
    seen = [(one.cass_id, one.stenosis_pct) for one in scene.lesions if one.stenosis_pct >= VISIBLE_DS_PCT]
    weights = {
        cass_id: _weight_before_view(scene, cass_id, seen, counts, severe_others)
        for cass_id in candidates(tree, counts)
    }
    seed = int(rng.integers(2**31))  # the same random pans for every candidate, so that their noise cancels
    for cass_id in _open(weights, 0.0):
        weights[cass_id] *= angle_density(cass_id, carm)
        weights[cass_id] *= pan_density(tree, cass_id, carm, np.random.default_rng(seed))
    for cass_id in _open(weights, NEGLIGIBLE):
        weights[cass_id] *= _choice_factor(scene, cass_id, rng)
    total = sum(weights.values())
    return {cass_id: weight / total for cass_id, weight in weights.items()}


def candidates(tree: Tree, counts: RowCounts) -> list[int]:
    """The segments of this tree that analysts choose; not the far ones of a small right coronary."""
    there = set(tree.cass_id.tolist()) & {cass_id for cass_id, _ in counts}
    if tree_side(tree) == RIGHT and "RPAV" not in tree.line_names:
        there -= CRUX_SEGMENTS
    return sorted(there)


def tree_side(tree: Tree) -> str:
    """Which artery a tree is: "left" or "right"."""
    return LEFT if "LAD" in tree.line_names else RIGHT


def lesion_likelihood(
    cass_id: int, phase: str, seen: Sequence[SeenLesion], places: int, visible_pct: float = VISIBLE_DS_PCT,
    severe_others: float = 0.0,
) -> float:
    """Density of the lesions seen in a tree when `cass_id` was analysed in this phase, per point of %DS each.

    seen: every lesion of the tree from `visible_pct` on. places: segments of the tree that may have lesions.
    severe_others: see `lesions.draw_disease`.
    """
    own = sorted((ds for segment, ds in seen if segment == cass_id), reverse=True)
    elsewhere = [ds for segment, ds in seen if segment != cass_id]
    others = _others_likelihood(elsewhere, places - 1, visible_pct, severe_others)
    if phase == "PRE":
        return others * (_density(own[0], WORST_DS) if len(own) == 1 else 0.0)
    new = 1.0
    if phase == "EVENT":  # a new lesion beside the treated one
        new, own = (_density(own[0], EVENT_DS), own[1:]) if own else (0.0, own)
    low, high = RESIDUAL_DS
    hidden = (min(max(visible_pct, low), high) - low) / (high - low)
    treated = hidden if not own else _density(own[0], RESIDUAL_DS) if len(own) == 1 else 0.0
    return others * new * treated


def _others_likelihood(seen: list[float], places: int, visible_pct: float, severe_others: float) -> float:
    """Density of the lesions seen elsewhere: up to MOST_OTHERS mild ones, each in another segment, then, with the
    probability `severe_others`, a severe one in a segment without any."""
    low, high = MILD_DS
    hidden = (min(max(visible_pct, low), high) - low) / (high - low)
    mild = [ds for ds in seen if ds <= high]
    severe = [ds for ds in seen if ds > high]
    total, many = 0.0, len(mild)
    for drawn in range(MOST_OTHERS + 1):
        count = min(drawn, places)
        left = places - count  # segments that may get the severe one
        if severe:
            more = severe_others * _density(severe[0], WORST_DS) / left if left and len(severe) == 1 else 0.0
        else:
            more = 1 - severe_others if left else 1.0
        free = places - many - len(severe)  # may hold mild ones that are too mild to be seen
        if count >= many and free >= 0:  # of all choices of places, those that hold the ones seen
            total += more * comb(free, count - many) / comb(places, count) * hidden ** (count - many)
    return total / (MOST_OTHERS + 1) * float(np.prod([_density(ds, MILD_DS) for ds in mild]))


def _density(value: float, ends: tuple[float, float]) -> float:
    return 1 / (ends[1] - ends[0]) if ends[0] <= value <= ends[1] else 0.0


def _weight_before_view(
    scene: Scene, cass_id: int, seen: list[SeenLesion], counts: RowCounts, severe_others: float
) -> float:
    """Rows expected of a segment, times the likelihood of lesions, wire and branches; phases added up."""
    tree = scene.tree
    places = len(set(tree.cass_id.tolist()) & set(LESION_SEGMENTS))
    weight = 0.0
    for (segment, phase), count in counts.items():
        if segment == cass_id:
            wire = wire_likelihood(tree, cass_id, phase, scene.wire)
            lesions = lesion_likelihood(cass_id, phase, seen, places, severe_others=severe_others)
            weight += count * wire * lesions
    return weight * branch_factor(tree, cass_id)


def wire_likelihood(tree: Tree, cass_id: int, phase: str, wire: np.ndarray) -> float:
    """Probability of the wire seen (samples of the tree), or of none; how deep it lies says nothing."""
    left = 0.0 if phase == "PRE" else WIRE_LEFT
    if len(wire) == 0:
        return 1 - left
    return left if tree.line[wire[0]] == tree.line[tree.segment(cass_id)[0]] else 0.0


def branch_factor(tree: Tree, cass_id: int) -> float:
    """By how much an analysis of the segment, which makes its vessel sure to be there, favours this tree."""
    if cass_id in CRUX_SEGMENTS:
        return 1 / (1 - LEFT_DOMINANT)
    name = tree.line_names[tree.line[tree.segment(cass_id)[0]]]
    _, share, _ = BRANCHES[tree_side(tree)].get(name, (None, 1.0, None))
    return 1 / share


def _choice_factor(scene: Scene, cass_id: int, rng: np.random.Generator) -> float:
    """By how much the choice of the best of several positions favours the one seen; lesions averaged."""
    tree, carm = scene.tree, scene.carm
    positions = [carm, *(draw_position(tree, cass_id, carm.size_px, rng) for _ in range(DRAWS))]
    visible = [visible_length(tree, cass_id, position) for position in positions]
    own = tree.segment(cass_id)[::COVER_STEP]
    covered = np.stack([covered_samples(tree, own, position) for position in positions])
    weights = []
    for lesion in _possible_lesions(scene, cass_id, rng):
        there = np.isin(own, lesion_samples(tree, lesion))
        share = covered[:, there].mean(axis=1) if there.any() else np.zeros(len(covered))
        scores = np.array([view_score(*pair) for pair in zip(visible, share)])
        weights.append(choice_weight(scores[0], scores[1:]))
    return float(np.mean(weights))


def _possible_lesions(scene: Scene, cass_id: int, rng: np.random.Generator) -> list[Lesion]:
    """The lesion for which the view was chosen if this segment was analysed: the one seen, or random ones."""
    own = [one for one in scene.lesions if one.cass_id == cass_id and one.stenosis_pct >= VISIBLE_DS_PCT]
    if own:
        return [max(own, key=lambda one: one.stenosis_pct)]
    return [draw_lesion(scene.tree, cass_id, RESIDUAL_DS, rng) for _ in range(HIDDEN_LESIONS)]


def _open(weights: dict[int, float], least: float) -> list[int]:
    """The candidates above a share `least` of the likeliest; none when that leaves one, so all is decided."""
    limit = least * max(weights.values())
    found = [cass_id for cass_id, weight in weights.items() if weight > limit]
    return found if len(found) > 1 else []
