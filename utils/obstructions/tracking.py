"""The same obstruction in several frames of a cine: detections are linked from frame to frame, lesions come out.

    indices = frames_around(frame_index, source.frames, 5, filling)
    looks = [Look(index, sightings, motion_picture(frame, vessel_probability)) for index in indices]
    for lesion in link_lesions(looks):                      # best first
        print(lesion.score, lesion.best.frame_index, lesion.seen(least_score=0.2))

The heart moves: within a beat a lesion travels tens of px, farther than the next lesion is away. So where a lesion
goes from one frame to the next is read from the vessels themselves (optical flow), and a detection is looked for
there. A lesion that a frame does not show goes on with the vessels and is met again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment

from data.masks import resize_picture
from utils.obstructions.matching import Detection

# Lengths are shares of the frame's longer side. Measured 2026-11-22 on the phantom, 12 cines at 15 frames/s and 512
# px, 2367 steps of vessel points from frame to frame at any time of the beat: they move 15.8 px or more in a tenth of
# the steps, 26 px in a fiftieth. Without flow these are the errors; with it 2.0 and 5.7 px. Flow of the bare frames:
# 2.8 and 8.4 px, because ribs and spine stand still. A detection jumps along its lesion by some px more.
GATE_SHARE = 0.04
_AROUND_SHARE = 0.02  # vessel so near a point moves with it
_FLOW_SIDE_PX = 512  # larger frames are shrunk: the flow gets no better, only slower
_LEAST_FLOW_SIDE_PX = 32  # smaller pictures have no room for the flow's patches
_NAMES_WEIGHT = 0.5  # of the gate: what two names cost that have nothing in common; alone they forbid nothing
_FORBIDDEN = 1e6


@dataclass(frozen=True)
class Sighting:
    """A detection in a frame; name_probs: float64 (K,), probability of each segment's name there, None = not asked."""

    frame_index: int
    detection: Detection
    name_probs: np.ndarray | None = None


@dataclass(frozen=True)
class Look:
    """What was found in one frame; motion: of `motion_picture`, all of one size."""

    frame_index: int
    sightings: Sequence[Sighting]
    motion: np.ndarray


@dataclass(frozen=True)
class Lesion:
    """One obstruction, once for the whole cine; sightings best first, at most one a frame; of so many frames."""

    sightings: tuple[Sighting, ...]
    of_frames: int

    @property
    def score(self) -> float:
        """Mean over all frames that were looked at, 0 where the lesion was not found.

        A lesion that lasts keeps the score of its frames, so the threshold for a single frame fits; noise and overlap
        come and go, and what shows in one of five frames has a fifth. The highest score would grow with the number of
        frames, also that of a false alarm.
        """
        # Measured 2026-11-22, sam3-tiny after 4 epochs, 40 stretches of 5 phantom frames at 15 frames/s, 57 lesions,
        # hits by point: AP 0.66, best F1 0.67 at score 0.50 (one frame alone: 0.59, 0.59 at 0.46; the highest score of
        # the five: 0.62, 0.60 at 0.70). Of the detections above 0.51 in some frame, those of a mean above it were true
        # in 72 %, the others in 18 %.
        return sum(one.detection.score for one in self.sightings) / self.of_frames

    @property
    def best(self) -> Sighting:
        """Of the frame that shows it best."""
        return self.sightings[0]

    @property
    def stenosis_pct(self) -> float:
        """The detector's estimate in all its frames, weighted with their scores; nan where it made none."""
        scores, stenoses = np.array([(one.detection.score, one.detection.stenosis_pct) for one in self.sightings]).T
        made = ~np.isnan(stenoses)
        return float(np.average(stenoses[made], weights=scores[made] + 1e-9)) if made.any() else float("nan")

    @property
    def name_probs(self) -> np.ndarray | None:
        """Mean over its frames of the probability of each name, float64 (K,); None where no frame was asked."""
        asked = [one.name_probs for one in self.sightings if one.name_probs is not None]
        return np.mean(asked, axis=0) if asked else None

    def seen(self, least_score: float) -> tuple[Sighting, ...]:
        """Its sightings of at least that score, best first."""
        return tuple(one for one in self.sightings if one.detection.score >= least_score)


def frames_around(
    frame_index: int, frames: int, count: int, filling: np.ndarray | None = None
) -> list[int]:
    """Up to `count` frames of a cine in a row, `frame_index` among them, in the order of time.

    filling: float (frames,), contrast in each (`data.frame_choice`): the stretch with the most is taken. Without it
    the one with `frame_index` in its middle. In a row, because from one frame to the next vessels move little.
    """
    count = min(count, frames)
    starts = np.arange(max(0, frame_index - count + 1), min(frame_index, frames - count) + 1)
    amount = np.zeros(len(starts)) if filling is None else np.array([filling[s : s + count].sum() for s in starts])
    off_middle = np.abs(starts + (count - 1) / 2 - frame_index)
    best = int(starts[np.lexsort((off_middle, -amount))[0]])
    return list(range(best, best + count))


def motion_picture(frame: np.ndarray, vessel_probability: np.ndarray) -> np.ndarray:
    """What motion is read from, uint8 (h, w): the frame's darkness where a vessel is, nothing that stands still.

    frame: uint8 (H, W, 3); vessel_probability: float (H, W) in [0, 1].
    """
    dark = (255 - frame[..., 0].astype(np.float32)) * vessel_probability
    scale = min(1.0, _FLOW_SIDE_PX / max(dark.shape))
    size = tuple(max(1, round(side * scale)) for side in dark.shape)
    return np.rint(np.clip(resize_picture(dark, size), 0, 255)).astype(np.uint8)


def moved_points(
    points_px: np.ndarray, before: np.ndarray, after: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """Where points (n, 2), (x, y) px of a frame of `size` = (height, width), are one frame later, float64 (n, 2).

    before, after: `motion_picture` of the two frames. A point moves as the vessels around it do on average; one
    without a vessel around it stays.
    """
    points_px = np.asarray(points_px, np.float64).reshape(-1, 2)
    if min(before.shape) < _LEAST_FLOW_SIDE_PX or not len(points_px):
        return points_px
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(before, after, None)
    scale = np.array(before.shape[::-1]) / np.array(size[::-1])  # of px of the frame in px of the pictures
    reach = max(1, round(_AROUND_SHARE * max(before.shape)))
    moved = points_px.copy()
    for point, (x, y) in zip(moved, np.rint((points_px + 0.5) * scale - 0.5).astype(int), strict=True):
        around = np.s_[max(y - reach, 0) : max(y + reach + 1, 0), max(x - reach, 0) : max(x + reach + 1, 0)]
        weights = before[around].astype(np.float64)
        if weights.sum() > 0:
            point += np.average(flow[around].reshape(-1, 2), axis=0, weights=weights.ravel()) / scale
    return moved


@dataclass(frozen=True)
class _Track:
    """A lesion on its way: where it should be in the frame at hand, and where it was seen until now."""

    place_px: np.ndarray
    sightings: tuple[Sighting, ...]


def link_lesions(looks: Sequence[Look], size: tuple[int, int]) -> list[Lesion]:
    """The lesions of a cine, by score; looks: consecutive frames of `size` = (height, width), in the order of time.

    From each frame to the next, lesions and detections are paired so that the sum of distances is smallest, none
    beyond `GATE_SHARE` of the frame's longer side. Names of segments, where they are known, weigh in and decide
    nothing alone. A detection that is left over begins a lesion.
    """
    tracks: list[_Track] = []
    for number, look in enumerate(looks):
        if number:
            places = moved_points([track.place_px for track in tracks], looks[number - 1].motion, look.motion, size)
            tracks = [replace(track, place_px=place) for track, place in zip(tracks, places, strict=True)]
        tracks = _joined(tracks, look.sightings, gate_px=GATE_SHARE * max(size))
    lesions = [
        Lesion(tuple(sorted(track.sightings, key=lambda one: -one.detection.score)), len(looks)) for track in tracks
    ]
    return sorted(lesions, key=lambda lesion: -lesion.score)


def _joined(tracks: Sequence[_Track], sightings: Sequence[Sighting], gate_px: float) -> list[_Track]:
    costs = np.array([[_cost(track, one, gate_px) for one in sightings] for track in tracks])
    pairs = dict(zip(*linear_sum_assignment(costs), strict=True)) if costs.size else {}
    pairs = {track: one for track, one in pairs.items() if costs[track, one] < _FORBIDDEN}
    going_on = [
        _Track(np.array(sightings[pairs[number]].detection.point_px), (*track.sightings, sightings[pairs[number]]))
        if number in pairs else track
        for number, track in enumerate(tracks)
    ]
    left = [one for number, one in enumerate(sightings) if number not in pairs.values()]
    return going_on + [_Track(np.array(one.detection.point_px), (one,)) for one in left]


def _cost(track: _Track, one: Sighting, gate_px: float) -> float:
    """Of taking a detection for the track's lesion, from 0."""
    distance = float(np.linalg.norm(np.subtract(one.detection.point_px, track.place_px))) / gate_px
    if distance > 1:
        return _FORBIDDEN
    known = track.sightings[-1].name_probs, one.name_probs
    if any(probs is None for probs in known):
        return distance
    return distance + _NAMES_WEIGHT * (1 - float(np.minimum(*known).sum()))
