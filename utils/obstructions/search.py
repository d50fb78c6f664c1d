"""Look for obstructions in a frame, or in a stretch of a cine around it.

    threshold = wanted_by(checkpoints, score=None).threshold
    findings = search_obstructions(answer, source.read, Chosen(12, frame, found), [10, 11, 12, 13, 14],
                                   view_deg=view_deg, threshold=threshold)
    findings.lesions                                        # each once, best first
    findings.here(findings.lesions[0])                      # in the chosen frame; None where it does not show it
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from data.obstructions import POSITIVE_FROM_PCT
from utils.obstructions.matching import Detection
from utils.obstructions.tracking import Lesion, Look, Sighting, link_lesions, motion_picture
from utils.prediction import OBSTRUCTION_STAGE, THRESHOLD
from utils.reports.frame_answer import FrameAnswer
from utils.segments.prediction import FramePrediction, pointed_probs, region_of_point

DEFAULT_SCORE = 0.5
# Of the threshold: where other frames vouch for a lesion, so faint a detection still says where it is.
FAINT_SHARE = 0.5
FILLED_SHARE = 0.7  # of the chosen frame's vessel; frames of a full tree differ by less, as vessels cover each other
# Of the frame's longer side, 15 px of 512: as far as an occluded vessel may have vanished about the point.
NAME_REACH_SHARE = 0.03


class ScoreThreshold(NamedTuple):
    """The score from which an obstruction is reported, and where it is from, in words."""

    score: float
    source: str


class Wanted(NamedTuple):
    """What is to be found: from which score on, and, where there are annotations, from which %DS on."""

    threshold: ScoreThreshold
    from_pct: float


class Chosen(NamedTuple):
    """The frame that is drawn: its index in the cine, uint8 (H, W, 3), and what the models say of it."""

    frame_index: int
    frame: np.ndarray
    found: FrameAnswer


@dataclass(frozen=True, kw_only=True)
class ObstructionFindings:
    """The obstructions of the frames `looked_at`, each once, best first.

    lesions: of a `score` from the threshold on; less_sure: others, of which one frame or more alone would have passed
    it. frame_index: the frame that is drawn. classes: CASS numbers that the sightings' names run over, None = no names.
    """

    lesions: Sequence[Lesion]
    less_sure: Sequence[Lesion]
    threshold: ScoreThreshold
    frame_index: int
    looked_at: Sequence[int]
    classes: tuple[int, ...] | None = None

    def seen(self, lesion: Lesion) -> tuple[Sighting, ...]:
        """The frames that show a lesion, those that show it best first."""
        return lesion.seen(FAINT_SHARE * self.threshold.score)

    def here(self, lesion: Lesion) -> Detection | None:
        """A lesion in the frame that is drawn; None where that does not show it."""
        return next((one.detection for one in self.seen(lesion) if one.frame_index == self.frame_index), None)


def wanted_by(checkpoints: Sequence[Mapping], score: float | None) -> Wanted | None:
    """What the stage 3 checkpoint among these was trained to find; score: overrides its own. None without such a one.

    Its own is the score of best F1 in its validation against annotations (against truth only the phantom has one),
    `DEFAULT_SCORE` where it has none.
    """
    checkpoint = next((one for one in checkpoints if one["stage"] == OBSTRUCTION_STAGE), None)
    if checkpoint is None:
        return None
    chosen = validated_score(checkpoint, "threshold")
    threshold = ScoreThreshold(DEFAULT_SCORE, "default: the checkpoint's validation chose none")
    if score is not None:
        threshold = ScoreThreshold(score, "--obstruction-score")
    elif chosen is not None:
        threshold = ScoreThreshold(chosen, "best F1 in the checkpoint's validation")
    return Wanted(threshold, checkpoint["config"].get("threshold_pct", POSITIVE_FROM_PCT))


def validated_score(checkpoint: Mapping, name: str) -> float | None:
    """The score of best F1 in a stage 3 checkpoint's own validation, None where it has none.

    name: in its metrics, `threshold` against annotations, `threshold_truth` against every lesion of the frames.
    """
    score = (checkpoint.get("metrics") or {}).get(name)
    return float(score) if isinstance(score, (int, float)) and 0 <= score <= 1 else None


def search_obstructions(
    answer: Callable[..., FrameAnswer], read: Callable[[int], np.ndarray], chosen: Chosen, near: Sequence[int], *,
    view_deg: Sequence[float], threshold: ScoreThreshold,
) -> ObstructionFindings:
    """The obstructions of the chosen frame and of its neighbours `near`: indices of frames in a row, it among them.

    Neighbours are left out from the first one on, to either side, that has less vessel than `FILLED_SHARE` of the
    chosen frame's: before contrast has come a lesion cannot be seen. answer: of `frame_answer.load_answers`, with a
    stage 3 model; read: a frame of the cine by its index.
    """
    looks, vessel_px = [], {}
    for index in tqdm(near, desc="obstructions", unit="frame", leave=False, disable=len(near) == 1):
        frame, found = chosen.frame, chosen.found
        if index != chosen.frame_index:
            frame = read(index)
            found = answer(frame=frame, view_deg=view_deg)
        sightings = [Sighting(index, one, names_near(found.segments, one.point_px)) for one in found.obstructions]
        looks.append(Look(index, sightings, motion_picture(frame, found.vessel_probability)))
        vessel_px[index] = int((found.vessel_probability >= THRESHOLD).sum())
    filled = filled_stretch(vessel_px, chosen.frame_index)
    lesions = link_lesions([look for look in looks if look.frame_index in filled], chosen.frame.shape[:2])
    return ObstructionFindings(
        lesions=[one for one in lesions if one.score >= threshold.score],
        less_sure=[one for one in lesions if one.score < threshold.score <= one.best.detection.score],
        threshold=threshold, frame_index=chosen.frame_index, looked_at=filled,
        classes=None if chosen.found.segments is None else chosen.found.segments.classes,
    )


def filled_stretch(vessel_px: Mapping[int, int], frame_index: int) -> list[int]:
    """The frames in a row about `frame_index` that have at least `FILLED_SHARE` of its vessel pixels.

    vessel_px: by frame index, of frames in a row.
    """
    empty = [index for index, px in vessel_px.items() if px < FILLED_SHARE * vessel_px[frame_index]]
    first = max((index for index in empty if index < frame_index), default=min(vessel_px) - 1) + 1
    last = min((index for index in empty if index > frame_index), default=max(vessel_px) + 1) - 1
    return list(range(first, last + 1))


def names_near(segments: FramePrediction | None, point_px: Sequence[float]) -> np.ndarray | None:
    """Probability of each name for the vessel near a point (x, y) px, float64 (K,).

    None without names, and where no vessel is near enough for the point to be on it.
    """
    if segments is None:
        return None
    corner = np.array(segments.size[::-1]) - 1
    x, y = np.clip(point_px, 0, corner)
    region = region_of_point(segments, (x, y)) & (segments.vessel_probability >= THRESHOLD)
    rows, columns = np.nonzero(region)
    if not len(rows) or np.hypot(columns - x, rows - y).min() > NAME_REACH_SHARE * max(segments.size):
        return None
    return pointed_probs(segments, region)
