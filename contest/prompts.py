"""Prompts made from what is known of a case: the same ones for every contestant.

    prompts_of(case, masks["segment"], kinds=("box", "points"), jitter_px=5, seed=0)["box"].box_px
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.ndimage import distance_transform_edt
from skimage.morphology import skeletonize

from contest.cases import DEEPSA, SEGMENT, TRUTH, Case
from contest.contestant import Prompt

KINDS = ("text", "box", "points", "none")
TEXT = "coronary artery"
MARGIN_PX = 5.0  # around the mask, of a frame of 512 px: a person leaves about so much
MARGIN_OF_PX = 512
POINTS = 3
# Which mask an answer is held against first: a pointed-at segment, or all that is vessel. Without a mask of all
# vessels, as in folders of pairs, it is the one there is.
ALL_VESSELS = (TRUTH, DEEPSA, SEGMENT)
MAIN_MASKS = {"box": (SEGMENT,), "points": (SEGMENT,), "text": ALL_VESSELS, "none": ALL_VESSELS}


class Asked(NamedTuple):
    """How the prompts of a contest are made. margin_px: around the mask, in a frame of 512 px; jitter_px: SD by which
    each side of a box and each point is off, px of the frame."""

    text: str = TEXT
    margin_px: float = MARGIN_PX
    points: int = POINTS
    jitter_px: float = 0.0


def prompts_of(
    case: Case, segment: np.ndarray, kinds: Sequence[str], asked: Asked = Asked(), *, seed: int = 0
) -> dict[str, Prompt]:
    """The prompts of a case by their kinds; the same seed makes the same ones, whatever other kinds are asked for.

    segment: bool (H, W), of which the box is drawn and on which the points lie. ValueError where it is empty.
    """
    if not segment.any():
        raise ValueError(f"{case.name}: its mask is empty, nothing can be pointed at")
    makers = {
        "text": lambda rng: Prompt(text=asked.text), "none": lambda rng: Prompt(),
        "box": lambda rng: Prompt(box_px=_box_px(segment, asked, rng)),
        "points": lambda rng: _points(segment, case.read_course(), asked, rng),
    }
    return {kind: makers[kind](np.random.default_rng([seed, KINDS.index(kind)])) for kind in kinds}


def main_mask(kind: str, masks: dict[str, np.ndarray]) -> str:
    """The name of the mask that answers to a prompt of this kind are held against first."""
    return next(name for name in MAIN_MASKS[kind] if name in masks)


def _box_px(segment: np.ndarray, asked: Asked, rng: np.random.Generator) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(segment.any(axis=1)), np.flatnonzero(segment.any(axis=0))
    margin = asked.margin_px * max(segment.shape) / MARGIN_OF_PX
    box = np.array([columns[0], rows[0], columns[-1], rows[-1]]) + margin * np.array([-1, -1, 1, 1])
    box = box + rng.normal(0, asked.jitter_px, 4) if asked.jitter_px else box
    low, high = np.minimum(box[:2], box[2:]), np.maximum(box[:2], box[2:])
    limit = np.array(segment.shape[::-1]) - 1.0
    # Never thinner than a pixel, also where it was moved out of the picture.
    low = np.clip(low, 0, limit - 1)
    return tuple(np.concatenate([low, np.clip(high, low + 1, limit)]).tolist())


def _points(segment: np.ndarray, course_px: np.ndarray | None, asked: Asked, rng: np.random.Generator) -> Prompt:
    """Evenly along the course, none at its ends; each moved to the nearest pixel of the mask's middle line first."""
    line = course_px if course_px is not None else _middle_line(segment)
    at = np.rint((np.arange(asked.points) + 0.5) / asked.points * (len(line) - 1)).astype(int)
    points = np.asarray(line, float)[at]
    points = points + rng.normal(0, asked.jitter_px, points.shape) if asked.jitter_px else points
    points = np.clip(points, 0, np.array(segment.shape[::-1]) - 1.0)
    return Prompt(points_px=tuple(map(tuple, points.tolist())), point_labels=(1,) * len(points))


def _middle_line(mask: np.ndarray) -> np.ndarray:
    """Points (n, 2) of (x, y) px in the middle of a mask, from its one side to the other along its longer axis."""
    middle = skeletonize(mask)
    if not middle.any():
        middle = distance_transform_edt(mask) == distance_transform_edt(mask).max()
    points = np.argwhere(middle)[:, ::-1].astype(float)
    _, _, axes = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
    return points[np.argsort(points @ axes[0], kind="stable")]
