"""Pseudo-labels as wrong as DeepSA's: a vessel mask with the faults of a segmentation network.

What it imitates (seen in DeepSA's published examples; Dice 0.828 on 40 expert-labelled frames, 0.755 on XCAD,
Sci Rep 2024): thin branches missing whole or from some point on, gaps at lesions and along faint vessels,
borders that wander and are too wide or too narrow over a whole frame, some of the guide catheter taken for
vessel, pieces of ribs, diaphragm or heart border taken for vessel, now and then a small misalignment. What it
does not imitate: faults that depend on the exact picture in ways only the network knows. Most of the error is
drawn anew for each frame, so that it averages out over many frames; the loss of thin branches does not, it
rises as they get thinner.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d
from skimage.morphology import remove_small_objects

from data.masks import fill_tube
from phantom.carm import CArm
from phantom.masks import at_least
from phantom.rendering import outline
from phantom.tree import Tree

LABEL_PX = 512
MAIN_VESSEL_PX = 350  # LAD, LCX and RCA are longer than this in most views, other branches shorter


@dataclass(frozen=True)
class Skill:
    """How well the imagined network does on one frame; px of a 512 px frame."""

    lost_below_px: float
    bias_px: float
    ragged_px: float
    gaps_per_100_px: float
    false_pieces: float
    catheter_px: float
    shift_px: tuple[float, float]


def draw_skill(rng: np.random.Generator) -> Skill:
    """A frame's skill; ranges calibrated for a mean Dice of 0.79 (150 frames, measured 2026-11-22)."""
    shifted = rng.random() < 0.45
    return Skill(
        lost_below_px=rng.normal(4.1, 1.0),
        bias_px=rng.normal(0.0, 0.9),
        ragged_px=rng.uniform(0.4, 1.1),
        gaps_per_100_px=rng.gamma(2.0, 0.5),
        false_pieces=rng.gamma(1.5, 1.8),
        catheter_px=rng.exponential(75) if rng.random() < 0.65 else 0.0,
        shift_px=tuple(rng.normal(0, 1.1, 2) * shifted),
    )


def deepsa_label(
    tree: Tree,
    carm: CArm,
    catheter_px: np.ndarray,
    catheter_width_px: float,
    false_edges: list[np.ndarray],
    rng: np.random.Generator,
) -> np.ndarray:
    """(512, 512) bool. carm, catheter_px (n, 2): in px of a 512 px frame. false_edges: shares of the side."""
    skill = draw_skill(rng)
    label = np.zeros((LABEL_PX, LABEL_PX), np.uint8)
    _draw_vessels(label, tree, carm, skill, rng)
    _draw_catheter(label, catheter_px, catheter_width_px, skill, rng)
    for _ in range(rng.poisson(skill.false_pieces) if false_edges else 0):
        curve = false_edges[rng.integers(len(false_edges))] * LABEL_PX
        _draw_piece(label, curve, rng.uniform(20, 90), rng.uniform(2, 5), rng)
    shift = np.float32([[1, 0, skill.shift_px[0]], [0, 1, skill.shift_px[1]]])
    soft = cv2.GaussianBlur(cv2.warpAffine(label.astype(np.float32), shift, label.shape[::-1]), (0, 0), 0.8)
    return remove_small_objects(soft > 0.45, max_size=14)


def _draw_vessels(label: np.ndarray, tree: Tree, carm: CArm, skill: Skill, rng: np.random.Generator) -> None:
    _, scale = carm.project(tree.center_mm)
    fine = tree.resample(1.0 / scale.mean())
    left, right = outline(fine.center_mm, fine.lumen_mm / 2, fine.line, carm)
    width = np.linalg.norm(right - left, axis=1)
    for line in np.unique(fine.line):
        own = np.flatnonzero(fine.line == line)
        if len(own) < 4:
            continue
        kept = _kept(width[own], skill, rng)
        edges = _ragged(*at_least(left[own], right[own], 0.7), skill, rng)
        for run in np.split(np.arange(len(own)), np.flatnonzero(np.diff(kept.astype(int))) + 1):
            if kept[run[0]] and len(run) > 2:
                fill_tube(label, edges[0][run], edges[1][run], 1)


def _kept(width_px: np.ndarray, skill: Skill, rng: np.random.Generator) -> np.ndarray:
    """Which samples of a vessel the label keeps, (n,) bool: branches, far ends and short pieces get lost."""
    lost = 0.06 + 0.94 / (1 + np.exp((np.percentile(width_px, 70) - skill.lost_below_px) / 0.55))
    lost *= len(width_px) < MAIN_VESSEL_PX  # a main trunk is never missed whole
    if rng.random() < lost:
        return np.zeros(len(width_px), bool)
    cut = skill.lost_below_px - 0.6 + 0.5 * rng.normal()
    kept = np.ones(len(width_px), bool)
    thin = np.flatnonzero(gaussian_filter1d(width_px, 6, mode="nearest") < cut)
    if len(thin):
        kept[thin[0] + int(rng.exponential(15)) :] = False
    thinness = np.clip(6.0 / np.maximum(width_px, 1), 0.15, 2.5)
    for _ in range(rng.poisson(skill.gaps_per_100_px * thinness.mean() * len(width_px) / 100)):
        place = int(rng.choice(len(width_px), p=thinness / thinness.sum()))
        half = int(rng.uniform(3, 14) * np.clip(thinness[place], 0.4, 1.4))
        kept[max(place - half, 0) : place + half] = False
    return kept


def _ragged(
    left: np.ndarray, right: np.ndarray, skill: Skill, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Edges (n, 2) moved by smooth random amounts, the frame's bias and a slow sideways drift."""
    middle, half = (left + right) / 2, (right - left) / 2
    width = np.maximum(np.linalg.norm(half, axis=1), 1e-6)
    normal = half / width[:, None]
    noise = [skill.ragged_px * _smooth_walk(len(left), 5, rng) for _ in range(2)]
    drift = 0.35 * _smooth_walk(len(left), 20, rng)
    reach = [np.maximum(width + skill.bias_px + one, 0.35) for one in noise]
    return middle - (reach[0] - drift)[:, None] * normal, middle + (reach[1] + drift)[:, None] * normal


def _smooth_walk(count: int, length_px: float, rng: np.random.Generator) -> np.ndarray:
    """A random curve with SD 1 that changes over about `length_px` samples. (count,)"""
    return gaussian_filter1d(rng.standard_normal(count), length_px, mode="nearest") * np.sqrt(
        2 * length_px * np.sqrt(np.pi)
    )


def _draw_catheter(
    label: np.ndarray, course_px: np.ndarray, width_px: float, skill: Skill, rng: np.random.Generator
) -> None:
    """The guide from its tip outwards, as far as the network takes it for a coronary artery."""
    arc = np.append(0, np.cumsum(np.linalg.norm(np.diff(course_px, axis=0), axis=1)))
    piece = course_px[arc < skill.catheter_px]
    if len(piece) > 3:
        _draw_band(label, piece, max(width_px + 2 * skill.bias_px, 2), rng)


def _draw_piece(
    label: np.ndarray, curve_px: np.ndarray, length_px: float, width_px: float, rng: np.random.Generator
) -> None:
    """A random stretch of a curve, as a band."""
    arc = np.append(0, np.cumsum(np.linalg.norm(np.diff(curve_px, axis=0), axis=1)))
    start = rng.uniform(0, max(arc[-1] - length_px, 1))
    where = np.arange(start, min(start + length_px, arc[-1]), 2.0)
    if len(where) > 3:
        _draw_band(
            label, np.stack([np.interp(where, arc, axis) for axis in curve_px.T], axis=1), width_px, rng
        )


def _draw_band(label: np.ndarray, course_px: np.ndarray, width_px: float, rng: np.random.Generator) -> None:
    along = np.gradient(course_px, axis=0)
    normal = (
        np.stack([-along[:, 1], along[:, 0]], axis=1)
        / np.maximum(np.linalg.norm(along, axis=1), 1e-6)[:, None]
    )
    half = np.maximum(width_px / 2 + 0.5 * _smooth_walk(len(course_px), 4, rng), 0.5)[:, None]
    fill_tube(label, course_px - half * normal, course_px + half * normal, 1)
