"""A CASS name for every vessel pixel of a frame, and the segments that are visible in it.

    names, probability = name_map(prediction)            # prediction: utils.segments.prediction.FramePrediction
    for segment in visible_segments(names, probability):
        print(segment.cass_id, segment.name, segment.box_px, segment.length_px)
"""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.cass import SEGMENTS
from utils.prediction import THRESHOLD
from utils.segments.prediction import FramePrediction
from utils.segments.rules import fill_one_artery, name_beads, switch_costs
from utils.segments.vessel_tree import Beads, centreline_of, thread_beads

RULES = ("one_artery", "agreement", "touching", "one_place")
# one_place forbids more right names than wrong ones: on names with simulated errors, 50 phantom frames, the
# segment F1 went from 0.800 to 0.793 at its best gap (2026-11-22).
DEFAULT_RULES = RULES[:3]

# Lengths as shares of the frame's longer side.
BEAD_SHARE = 0.012          # 6 px of 512, a branch's width; 0.010 and 0.016 do as well, 0.024 worse
GAP_SHARE = 0.20            # of one_place; 0.05 % of the phantom's true segments lie farther from their rest
BRIDGE_SHARE = 0.06         # 31 px of 512: a gap that a centreline steps over
LEAST_LENGTH_SHARE = 0.02   # 10 px of 512: a shorter piece of centreline is no segment to list
_LEAST_LOG_PROB = -8.0      # one pixel that is very sure must not outvote its bead


@dataclass(frozen=True)
class VisibleSegment:
    """One segment in a frame of H x W px.

    cass_id, name, snomed_ct (None where the table has none): from `data.cass.SEGMENTS`. probability: mean
    over its pixels, in [0, 1]. box_px: (x0, y0, x1, y1), the outermost pixel centres. mask: bool (H, W).
    centreline_px: float64 (n, 2) of (x, y), ordered along the vessel, n >= 1. length_px: of that line.
    """
    cass_id: int
    name: str
    snomed_ct: str | None
    probability: float
    box_px: tuple[int, int, int, int]
    mask: np.ndarray
    centreline_px: np.ndarray
    length_px: float


def name_map(prediction: FramePrediction, threshold: float = THRESHOLD,
             rules: Sequence[str] = DEFAULT_RULES) -> tuple[np.ndarray, np.ndarray]:
    """Return (names uint8 (H, W), probability float32 (H, W)).

    names: the CASS number on predicted vessel pixels; 0 = no vessel, or a vessel of none of the classes.
    probability: of that name, 0 where there is none. rules: which of the anatomy's rules are applied, () for
    none, so that the gain of each can be measured:

    one_artery: an injection fills the left or the right coronary artery; names of the other are ruled out.
    agreement: short pieces of vessel (`thread_beads`) are named as one, and neighbours pay to differ.
    touching: two neighbours pay more to differ when their segments do not touch in the coronary tree.
    one_place: a segment is in one place; pieces far from the rest of it get another name.

    Raises ValueError for a rule of another name.
    """
    if unknown := set(rules) - set(RULES):
        raise ValueError(f"rules {sorted(unknown)} do not exist; allowed: {', '.join(RULES)}")
    vessel = prediction.vessel_probability >= threshold
    names, probability = np.zeros(prediction.size, np.uint8), np.zeros(prediction.size, np.float32)
    if not vessel.any():
        return names, probability
    log_probs = prediction.name_log_probs[:, vessel]
    if "one_artery" in rules:
        log_probs = fill_one_artery(log_probs, prediction.classes)
    channel, certainty = log_probs.argmax(axis=0), np.exp(log_probs.max(axis=0))
    if {"agreement", "touching", "one_place"} & set(rules):
        channel, certainty = _name_by_beads(log_probs, vessel, prediction.classes, rules)
    names[vessel] = np.array((*prediction.classes, 0), np.uint8)[channel]
    probability[vessel] = np.where(names[vessel] > 0, certainty, 0)
    return names, probability


def _name_by_beads(log_probs: np.ndarray, vessel: np.ndarray, classes: tuple[int, ...],
                   rules: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Channel (N,) and probability (N,) of each vessel pixel, all pixels of a bead alike."""
    side = max(vessel.shape)
    beads = thread_beads(vessel, BEAD_SHARE * side)
    pooled = pool_log_probs(log_probs, beads)
    weight = beads.length_px / (BEAD_SHARE * side)
    switch = switch_costs(classes)
    if "touching" not in rules:
        switch = np.minimum(switch, switch_costs(classes).min(where=switch > 0, initial=np.inf))
    if not {"agreement", "touching"} & set(rules):
        switch = np.zeros_like(switch)
    gap_px = GAP_SHARE * side if "one_place" in rules else None
    channel = name_beads(-pooled * weight[:, None], beads, switch, gap_px)
    certainty = np.exp(pooled[np.arange(len(pooled)), channel])
    return channel[beads.of_pixel], certainty[beads.of_pixel]


def pool_log_probs(log_probs: np.ndarray, beads: Beads) -> np.ndarray:
    """Return the log probabilities (B, C) of each bead: the mean of its pixels' (C, N), with sum 1 again."""
    pixels = np.maximum(np.bincount(beads.of_pixel, minlength=len(beads.length_px)), 1)
    clipped = np.maximum(log_probs, _LEAST_LOG_PROB)
    sums = [np.bincount(beads.of_pixel, weights=channel, minlength=len(pixels)) for channel in clipped]
    means = np.stack(sums, axis=1) / pixels[:, None]
    return means - np.logaddexp.reduce(means, axis=1, keepdims=True)


def visible_segments(names: np.ndarray, probability: np.ndarray,
                     min_length_px: float | None = None) -> list[VisibleSegment]:
    """Return the segments of a map of `name_map` by CASS number, none shorter than `min_length_px`.

    min_length_px: of its centreline; default `LEAST_LENGTH_SHARE` of the frame's longer side.
    """
    side = max(names.shape)
    least = LEAST_LENGTH_SHARE * side if min_length_px is None else min_length_px
    segments = []
    for cass_id in np.unique(names[names > 0]).tolist():
        mask = names == cass_id
        line = centreline_of(mask, BRIDGE_SHARE * side)
        length_px = line_length(line)
        if length_px >= least:
            certainty, (_, name, snomed_ct, *_) = float(probability[mask].mean()), SEGMENTS[cass_id]
            segments.append(VisibleSegment(cass_id, name, snomed_ct, certainty, box_around(mask), mask, line,
                                           length_px))
    return segments


def line_length(line: np.ndarray) -> float:
    """Return the length in px of a line (n, 2) of pixels in a row.

    Each point is first replaced by the mean of itself and its two neighbours: the staircase of pixel centres
    is up to 8 % longer than the vessel.
    """
    smooth = line.copy()
    smooth[1:-1] = (line[:-2] + line[1:-1] + line[2:]) / 3
    return float(np.hypot(*np.diff(smooth, axis=0).T).sum())


def box_around(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Return (x0, y0, x1, y1), the outermost pixel centres of a bool (H, W) mask, not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])
