"""Usual views of each CASS segment, C-arm positions drawn from them, and how likely each position is.

Angles: the usual views by site in the interventional literature. Distances: source-detector 860-1200 mm,
source-patient 720-810 mm, as in clinical DICOM headers. The headers' detector pixels, 0.18-0.39 mm, hold for
512 px frames; larger frames are binned finer with the same field of view (at 1016 px 0.106-0.19 mm).
Positive: LAO, cranial.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.special import ndtr

from phantom.carm import CArm
from phantom.tree import Tree, arc_length

LAD_CRANIAL = ((-10, -5), (35, 45))
LAD_DIAGONAL = ((30, 45), (25, 35))
PROXIMAL_LEFT = ((-45, -30), (-40, -30))
LCX_RAO, LCX_LAO = ((-33, -15), (-41, -25)), ((15, 33), (-41, -25))
SPIDER = ((40, 50), (-40, -25))
RCA_LAO, RCA_RAO, LATERAL = ((30, 45), (25, 35)), ((-45, -35), (-3, 3)), ((85, 92), (-3, 3))
CRUX_LAO, CRUX_AP = ((35, 52), (27, 41)), ((-10, -5), (35, 45))
USUAL_VIEWS = {
    11: (((34, 40), (19, 25)), SPIDER),
    12: (PROXIMAL_LEFT, SPIDER),
    13: (LAD_CRANIAL,),
    14: (LAD_CRANIAL, LAD_DIAGONAL),
    15: (LAD_DIAGONAL,),
    16: (LAD_DIAGONAL,),
    18: (PROXIMAL_LEFT, SPIDER),
    19: (LCX_RAO, LCX_LAO),
    20: (LCX_RAO, LCX_LAO),
    21: (LCX_RAO, LCX_LAO),
    28: (LCX_RAO, LCX_LAO),
    1: (RCA_LAO,),
    2: (RCA_RAO, LATERAL),
    3: (CRUX_LAO, CRUX_AP),
    4: (CRUX_LAO, CRUX_AP),
}
SCATTER_DEG = 5.0
TRIES = 16
LEAST_VISIBLE_LENGTH = (
    0.62  # projected by true length of the analysed segment; analysts avoid foreshortened views
)
OVERLAP_COST = 0.5  # of the least visible length, where a lesion is covered from end to end; by eye
COVERING_MM = 1.0  # thinner vessels hide no lesion
SAME_COURSE_MM = 10.0  # of one vessel: nearer along it, it is the same piece, not another over it
FIELD_AT_ISOCENTRE_MM = (94.0, 126.0)  # left mains of 19-25 px in eight real 512 px frames, 4.5 mm each
LARGE_MM = 1.2  # the vessels that are centred, by their healthy diameter
PAN_SPREAD, MARGIN = 0.035, (0.07, 0.15)  # of the side: scatter of the middle, room at the border; by eye
PAN_BLUR = 0.01  # of the side: how closely two pans are told apart when their density is estimated


def draw_carm(
    tree: Tree, cass_id: int, size_px: int, rng: np.random.Generator, lesion: np.ndarray | None = None
) -> CArm:
    """A C-arm at a usual view of the segment with the tree in view, the best of a few draws.

    Best is long in the image, with as little as possible of the `lesion` (its samples, (n,) int) under other
    vessels: an analyst picks such a view.
    """
    best, best_score = None, -np.inf
    for _ in range(TRIES):
        carm = draw_position(tree, cass_id, size_px, rng)
        score = score_view(tree, cass_id, carm, lesion)
        if score > best_score:
            best, best_score = carm, score
        if score >= 1:
            break
    return _pan(best, tree, cass_id, rng)


def score_view(tree: Tree, cass_id: int, carm: CArm, lesion: np.ndarray | None) -> float:
    """How good a view of the segment and its lesion is; 1 is as good as any, an analyst looks no further."""
    covered = 0.0 if lesion is None else covered_share(tree, lesion, carm)
    return view_score(visible_length(tree, cass_id, carm), covered)


def view_score(visible: float, covered: float | np.ndarray) -> float | np.ndarray:
    """The score of a view from the segment's visible length and the covered share of its lesion."""
    return min(visible / LEAST_VISIBLE_LENGTH, 1) - OVERLAP_COST * covered


def covered_share(tree: Tree, samples: np.ndarray, carm: CArm) -> float:
    """Share of `samples` (n,) int whose lumen another vessel of COVERING_MM or more covers in the image."""
    return float(covered_samples(tree, samples, carm).mean())


def covered_samples(tree: Tree, samples: np.ndarray, carm: CArm) -> np.ndarray:
    """Which of `samples` (n,) int are covered, (n,) bool.

    Vessels that touch in space do not count: there the one is a branch of the other.
    """
    image_px, px_per_mm = carm.project(tree.center_mm)
    others = np.flatnonzero(tree.healthy_mm >= COVERING_MM)
    apart = np.linalg.norm(tree.center_mm[samples][:, None] - tree.center_mm[others], axis=2)
    touching = apart < (tree.healthy_mm[samples][:, None] + tree.healthy_mm[others]) / 2
    near_px = np.linalg.norm(image_px[samples][:, None] - image_px[others], axis=2)
    reach_px = ((tree.lumen_mm * px_per_mm)[samples][:, None] + (tree.lumen_mm * px_per_mm)[others]) / 2
    same_course = (tree.line[samples][:, None] == tree.line[others]) & (
        abs(tree.arc_mm()[samples][:, None] - tree.arc_mm()[others]) < SAME_COURSE_MM
    )
    return ((near_px < reach_px) & ~touching & ~same_course).any(axis=1)


def visible_length(tree: Tree, cass_id: int, carm: CArm) -> float:
    """Projected length of a segment by its true length, 1 where it lies parallel to the detector."""
    own = tree.segment(cass_id)
    image, px_per_mm = carm.project(tree.center_mm[own])
    line = np.zeros(len(own), int)
    return arc_length(image, line)[-1] / px_per_mm.mean() / arc_length(tree.center_mm[own], line)[-1]


def draw_position(tree: Tree, cass_id: int, size_px: int, rng: np.random.Generator) -> CArm:
    """One C-arm at a usual view of the segment, before panning and whatever it shows."""
    views = USUAL_VIEWS[cass_id]
    (low_a, high_a), (low_b, high_b) = views[rng.integers(len(views))]
    primary = rng.uniform(low_a, high_a) + rng.normal(0, SCATTER_DEG / 2)
    secondary = rng.uniform(low_b, high_b) + rng.normal(0, SCATTER_DEG / 2)
    sid, sod = rng.uniform(900, 1150), rng.uniform(730, 800)
    carm = CArm(round(float(primary), 1), round(float(secondary), 1), sid, sod, 1.0, size_px)
    large = tree.center_mm[tree.healthy_mm > LARGE_MM] @ carm.axes()[:2].T
    extent_mm = (np.percentile(large, 97, axis=0) - np.percentile(large, 3, axis=0)).max()
    field_mm = np.clip(extent_mm * rng.uniform(1.0, 1.5), *FIELD_AT_ISOCENTRE_MM)
    return replace(
        carm, spacing_mm=float(field_mm * sid / sod / size_px), isocentre_mm=tuple(rng.normal(0, 5, 3))
    )


def _pan(carm: CArm, tree: Tree, cass_id: int, rng: np.random.Generator) -> CArm:
    """Centre the larger vessels, with scatter, then bring ostium and analysed segment inside."""
    large, _ = carm.project(tree.center_mm[tree.healthy_mm > LARGE_MM])
    middle = (np.percentile(large, 3, axis=0) + np.percentile(large, 97, axis=0)) / 2
    target = carm.size_px * (0.5 + rng.normal(0, PAN_SPREAD, 2))
    carm = carm.panned(target - middle)
    for wanted in (tree.center_mm[:1], tree.center_mm[tree.segment(cass_id)]):
        carm = carm.panned(_inward(carm, wanted, rng.uniform(*MARGIN) * carm.size_px))
    return carm


def _inward(carm: CArm, points_mm: np.ndarray, margin_px: float) -> np.ndarray:
    """Shift in px that brings points into the frame."""
    image, _ = carm.project(points_mm)
    return np.maximum(margin_px - image.min(axis=0), 0) - np.maximum(
        image.max(axis=0) - (carm.size_px - margin_px), 0
    )


def angle_density(cass_id: int, carm: CArm) -> float:
    """Density of `draw_position`'s angles for a segment at those of a C-arm, per square degree; exact."""
    angles = (carm.primary_deg, carm.secondary_deg)
    views = [[_blurred_box(angle, *box) for angle, box in zip(angles, view)] for view in USUAL_VIEWS[cass_id]]
    return float(np.mean(np.prod(views, axis=1)))


def _blurred_box(value: float, low: float, high: float) -> float:
    """Density of an even draw from low..high plus the scatter of the angles."""
    sigma = SCATTER_DEG / 2
    return float(ndtr((value - low) / sigma) - ndtr((value - high) / sigma)) / (high - low)


def choice_weight(score: float, drawn: np.ndarray) -> float:
    """By how much choosing the best of TRIES draws raises the density of a position of this `score`.

    drawn: (n,) scores of plain draws. As they are few, the shares of draws that are not good enough and that
    are no better are taken as even between 0 and 1 before, so this is the expected weight.
    """
    if score >= 1:  # the first that is good enough is taken: so many draws before it were not
        poor = np.count_nonzero(drawn < 1)
        return sum(_all_among(poor, len(drawn), before) for before in range(TRIES))
    return TRIES * _all_among(np.count_nonzero(drawn <= score), len(drawn), TRIES - 1)


def _all_among(count: int, drawn: int, further: int) -> float:
    """Probability that all of so many further draws are of a kind that `count` of `drawn` were of."""
    step = np.arange(further)
    return float(np.prod((count + 1 + step) / (drawn + 2 + step)))


def pan_density(tree: Tree, cass_id: int, carm: CArm, rng: np.random.Generator, draws: int = 2000) -> float:
    """Density of the panned place of the tree when `cass_id` is analysed, by random pans; sides squared."""
    image = (carm.project(tree.center_mm)[0] + 0.5) / carm.size_px
    large = image[tree.healthy_mm > LARGE_MM]
    middle = (np.percentile(large, 3, axis=0) + np.percentile(large, 97, axis=0)) / 2
    place = 0.5 + rng.normal(0, PAN_SPREAD, (draws, 2))
    for wanted in (image[:1], image[tree.segment(cass_id)]):
        margin = rng.uniform(*MARGIN, (draws, 1))
        low, high = place + wanted.min(axis=0) - middle, place + wanted.max(axis=0) - middle
        place = place + np.maximum(margin - low, 0) - np.maximum(high - (1 - margin), 0)
    near = np.exp(-(((place - middle) / PAN_BLUR) ** 2).sum(axis=1) / 2)
    return float(near.mean()) / (2 * np.pi * PAN_BLUR**2)
