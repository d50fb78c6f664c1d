"""How much the obstructions that are found depend on the view angles: phase 3's measurements of
`test_view_angle_impact.py`.

Two yardsticks, never mixed. Annotated: the one segment that was measured. Truth: every lesion of the frame, which
only the phantom knows. Beside them what needs no label: do the marks stay where they are when the angles change?
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from data.cine import read_frame
from data.contours import read_contours
from utils.bootstrap import bootstrap_counts, ratio
from utils.metrics import dice
from utils.obstructions.comparison import compare_detections
from utils.obstructions.evaluation import KINDS, frame_of_row, match_frame
from utils.obstructions.matching import Detection, Target, match_detections
from utils.obstructions.prediction import detections
from utils.obstructions.search import Wanted, wanted_by
from utils.prediction import THRESHOLD, logits_at_size, sigmoid
from utils.view_impact.vessels import (
    CONDITIONS,
    EncodedFrame,
    condition_views,
    draw_other_views,
    grid_views,
    known_views,
    score_maps,
    split_conditions,
    summarise_conditions,
)

# Of `summarise_detections`, and what they are called.
METRICS = {
    "sensitivity_point": "sensitivity (point in the box)",
    "f1_iou50": "F1 at box IoU 0.5",
    "ap_iou50": "AP at box IoU 0.5",
    "ds_mae_points": "|%DS error| of hits (points)",
}
SAME_MARKS, SCORE_CHANGE, STENOSIS_CHANGE = "same_marks", "score_change", "stenosis_change_points"
_COUNTS = ("paired", "marks", "stenosis_points")


class Seen(NamedTuple):
    """A frame at N views: vessels float32 (N, H, W), probabilities; scores float32 (N, h, w), of the model's cells;
    found: N lists of detections, the surest first, down to scores that hardly mean anything."""

    vessels: np.ndarray
    scores: np.ndarray
    found: list[list[Detection]]


@dataclass(frozen=True)
class DetectingModel:
    """A stage 3 model in eval mode, the side in px of the picture that it sees, the device it is on, and from which
    score and which %DS on lesions count."""

    model: nn.Module
    image_size: int
    device: torch.device
    wanted: Wanted

    @classmethod
    def of_checkpoint(cls, model: nn.Module, checkpoint: Mapping, device: torch.device) -> "DetectingModel":
        """Return the model of a checkpoint, both as `load_model` gives them."""
        return cls(model, checkpoint["config"]["image_size"], device, wanted_by([checkpoint], score=None))

    def encode(self, frame: np.ndarray) -> EncodedFrame:
        """Return a frame, uint8 (H, W, 3), ready to be decoded at any angles."""
        return EncodedFrame(self.model, frame, image_size=self.image_size, device=self.device)

    def look(self, encoded: EncodedFrame, views: np.ndarray) -> Seen:
        """Return what is seen in the frame at views (N, 2) degrees."""
        vessels, scores, found = [], [], []
        for output in encoded.outputs(views):
            for index, logits in enumerate(output.vessel_logits[:, 0]):
                vessels.append(sigmoid(logits_at_size(logits, encoded.size)))
                scores.append(output.score_logits[index, 0].float().sigmoid().cpu().numpy())
                found.append(detections(output, index, encoded.size))
        return Seen(np.stack(vessels), np.stack(scores), found)

    def marks(self, found: Sequence[Detection]) -> list[Detection]:
        """Return the detections that count."""
        return [one for one in found if one.score >= self.wanted.threshold.score]


def measure_obstructions(detector: DetectingModel, table: pd.DataFrame, *, grid_frames: int, seed: int) -> dict:
    """Measure every row of `table`, each frame passing the backbone once, `grid_frames` of them over the grid.

    Returns `records`: {condition: records as of `match_frame`, with `row`}, as many of each row as the condition has
    views; `scores`, one of `score_changes` a row; `counts`, of `count_marks`, (rows, 5, 3); `grid`, of
    `compare_over_grid`, (frames, 81, 3) and (frames, 81); `example`, of `find_most_changed`, of the frame whose marks
    change most.
    """
    views = known_views(table)
    others = draw_other_views(views, table["patient_id"], seed=seed)
    grid_rows = choose_grid_rows(table, grid_frames, detector.wanted.from_pct)
    records, scores, counts, grids, examples = {condition: [] for condition in CONDITIONS}, [], [], [], []
    for position, row in tqdm(table.iterrows(), total=len(table), desc="angles", unit="frame"):
        frame, labels = read_frame(row["cine_path"], int(row["frame_index"])), frame_of_row(row)
        encoded = detector.encode(frame)
        seen = split_seen(condition_views(views[position], others[position]), detector, encoded)
        for condition, at in seen.items():
            records[condition] += record_matches(at.found, labels, position, detector.wanted.from_pct)
        scores.append(score_changes(detector, seen, labels))
        counts.append(count_marks(detector, seen))
        if position in grid_rows:
            over_grid = detector.look(encoded, np.vstack([[views[position]], grid_views()]))
            grids.append(compare_over_grid(detector, over_grid))
            changed = find_most_changed(detector, over_grid, grids[-1])
            examples.append({"frame": frame, "view_deg": views[position], **changed})
    grid = {name: np.stack([one[name] for one in grids]) for name in ("counts", "dice")}
    example = min(examples, key=lambda one: one["share"])
    return {"records": records, "scores": scores, "counts": np.stack(counts), "grid": grid, "example": example}


def choose_grid_rows(table: pd.DataFrame, count: int, threshold_pct: float) -> list[int]:
    """Return the first `count` positions in `table`, those first whose segment was measured so severe."""
    stenoses = [read_contours(path).measurements["diameter_stenosis_pct"] for path in table["contours_path"]]
    return sorted(range(len(table)), key=lambda position: not stenoses[position] >= threshold_pct)[:count]


def split_seen(views: Mapping[str, np.ndarray], detector: DetectingModel, encoded: EncodedFrame) -> dict[str, Seen]:
    """Return what is seen at the views of each condition, decoding them together."""
    seen = detector.look(encoded, np.vstack(list(views.values())))
    places = split_conditions(views, np.arange(len(seen.found)))
    return {condition: Seen(seen.vessels[at], seen.scores[at], [seen.found[place] for place in at])
            for condition, at in places.items()}


def detect_at_true_angles(detector: DetectingModel, table: pd.DataFrame) -> list[dict]:
    """Return the records that `measure_obstructions` does for the condition `true`, alone."""
    views, records = known_views(table), []
    for position, row in tqdm(table.iterrows(), total=len(table), desc="other model", unit="frame"):
        encoded = detector.encode(read_frame(row["cine_path"], int(row["frame_index"])))
        found = detector.look(encoded, views[position : position + 1]).found
        records += record_matches(found, frame_of_row(row), position, detector.wanted.from_pct)
    return records


def record_matches(
    found: Sequence[Sequence[Detection]], labels: Mapping, row: int, threshold_pct: float
) -> list[dict]:
    """Return one record of `match_frame` for each view, with `row`; labels: of `frame_of_row`."""
    return [{"row": row, **match_frame(of_view, labels, threshold_pct)} for of_view in found]


def compare_marks(marks: Sequence[Detection], own: Sequence[Detection]) -> tuple[float, float, float]:
    """Compare the marks of a frame with those at its own view: how many `paired` marks, how many `marks` (of both), and
    the sum of |difference| of %DS over the paired ones, in `stenosis_points`. Sums of them make shares."""
    pairs = pair_marks(marks, own)
    changes = [abs(mark.stenosis_pct - other.stenosis_pct) for mark, other in pairs]
    return 2.0 * len(pairs), float(len(marks) + len(own)), 2 * float(sum(changes))


def pair_marks(marks: Sequence[Detection], own: Sequence[Detection]) -> list[tuple[Detection, Detection]]:
    """Return the marks that are the same, each with its one of `own`, in whose box its point lies."""
    targets = [Target(one.box_px, one.point_px, one.stenosis_pct, 0, float("nan")) for one in own]
    ranked = sorted(marks, key=lambda mark: -mark.score)  # as in the record
    hits = match_detections(ranked, targets)["detection_point"]
    return [(mark, own[hit]) for mark, hit in zip(ranked, hits, strict=True) if hit >= 0]


def score_changes(detector: DetectingModel, seen: Mapping[str, Seen], labels: Mapping) -> dict[str, dict]:
    """Return by condition what `score_maps` does of the vessels and, of the obstructions against those at the true
    view, means over the condition's views: `SCORE_CHANGE`, the largest |difference of score| of any cell."""
    masks = {name: labels[f"frame_{name}_mask"] for name in ("deepsa", "truth") if f"frame_{name}_mask" in labels}
    scores = score_maps({condition: at.vessels for condition, at in seen.items()}, masks)
    for condition, at in seen.items():
        change = np.abs(at.scores - seen["true"].scores[0]).max(axis=(1, 2))
        scores[condition][SCORE_CHANGE] = float(change.mean())
    return scores


def count_marks(detector: DetectingModel, seen: Mapping[str, Seen]) -> np.ndarray:
    """Return for each of `CONDITIONS` means over its views of what `compare_marks` counts, float64 (5, 3)."""
    own = detector.marks(seen["true"].found[0])
    return np.array([np.mean([compare_marks(detector.marks(found), own) for found in seen[condition].found], axis=0)
                     for condition in CONDITIONS])


def compare_over_grid(detector: DetectingModel, seen: Seen) -> dict[str, np.ndarray]:
    """Compare what is seen at the views of the grid with what is at the own view, which comes first in `seen`.

    Returns `counts` of `compare_marks`, float64 (81, 3), and `dice` of the vessel masks, float64 (81,).
    """
    own_mask, own_marks = seen.vessels[0] >= THRESHOLD, detector.marks(seen.found[0])
    overlap = [dice(vessels >= THRESHOLD, own_mask) for vessels in seen.vessels[1:]]
    counts = [compare_marks(detector.marks(found), own_marks) for found in seen.found[1:]]
    return {"counts": np.array(counts), "dice": np.array(overlap)}


def find_most_changed(detector: DetectingModel, seen: Seen, grid: Mapping[str, np.ndarray]) -> dict:
    """Return the marks `own` and `other` at the own view and at `other_view_deg`, that of the grid where the least
    `share` of them is the same, and `pairs` of the two; grid: of `compare_over_grid`, seen as there."""
    paired, marks, _ = grid["counts"].T
    share = np.where(marks > 0, paired / np.maximum(marks, 1), 1.0)  # nothing at both views is the same
    own, other = (detector.marks(seen.found[number]) for number in (0, 1 + int(share.argmin())))
    return {"own": own, "other": other, "pairs": pair_marks(other, own), "share": float(share.min()),
            "other_view_deg": grid_views()[share.argmin()]}


def summarise_impact(found: Mapping, table: pd.DataFrame, threshold: float) -> dict:
    """Return all figures of one model as plain values; found: of `measure_obstructions` of the rows of `table`.

    Keys: `detections`: {yardstick: {metric of `METRICS`: of `compare_detections` by condition}}, `counts`:
    {yardstick: {n_targets, n_frames}}; `changes`: of `summarise_conditions` and `summarise_marks`; `grid`: `SAME_MARKS`
    and vessel `dice` by view, their mean over the views and the least of them.
    """
    records, compared, counts = found["records"], {}, {}
    for kind in KINDS:
        groups = _of_yardstick(records, kind)
        if not groups["true"]:
            continue
        compared[kind] = compare_detections(groups, table, thresholds=threshold, reference="true", names=list(METRICS))
        counts[kind] = {"n_targets": sum(len(one["target_cass_id"]) for one in groups["true"]),
                        "n_frames": len(groups["true"])}
    patients = table["patient_id"].tolist()
    changes = summarise_conditions(found["scores"], patients) | summarise_marks(found["counts"], patients)
    return {"detections": compared, "counts": counts, "changes": changes, "grid": summarise_grid(found["grid"])}


def summarise_marks(counts: np.ndarray, patients: Sequence) -> dict[str, dict[str, dict]]:
    """Return `SAME_MARKS`, the share of marks that are paired, and `STENOSIS_CHANGE`, mean |difference of %DS| of the
    paired ones in points, by condition as `summarise_conditions` does; nan without a mark, or a pair.

    counts: of `count_marks`, (rows, 5, 3).
    """
    def score(sums: np.ndarray) -> np.ndarray:
        """(R, 2 x 2 x 5): values, then their differences to the true views, of sums (R, 15)."""
        paired, marks, points = np.moveaxis(sums.reshape(len(sums), len(CONDITIONS), len(_COUNTS)), 2, 0)
        values = np.stack([ratio(paired, marks), ratio(points, paired)], axis=1)
        true = values[..., [CONDITIONS.index("true")]]
        return np.stack([values, values - true], axis=1).reshape(len(sums), -1)

    values, intervals = bootstrap_counts(counts.reshape(len(counts), -1), patients, score)
    values, intervals = values.reshape(2, 2, -1), intervals.reshape(2, 2, len(CONDITIONS), 2)
    return {
        name: {
            condition: {"mean": float(values[0, n, c]), "ci95": intervals[0, n, c].tolist(),
                        "minus_true": float(values[1, n, c]), "minus_true_ci95": intervals[1, n, c].tolist()}
            for c, condition in enumerate(CONDITIONS)
        } for n, name in enumerate((SAME_MARKS, STENOSIS_CHANGE))
    }


def summarise_grid(grid: Mapping[str, np.ndarray]) -> dict:
    """Return plain values of the grid of `measure_obstructions`, see `summarise_impact`."""
    paired, marks, _ = grid["counts"].sum(axis=0).T
    by_view = {SAME_MARKS: ratio(paired, marks), "dice": grid["dice"].mean(axis=0)}
    mean = {SAME_MARKS: float(ratio(paired.sum(), marks.sum())), "dice": float(grid["dice"].mean())}
    summary = {"n_frames": len(grid["dice"]), "views_deg": grid_views().tolist()}
    for name, values in by_view.items():
        summary |= {f"mean_{name}": mean[name], f"least_{name}": float(np.fmin.reduce(values)),
                    f"by_view_{name}": values.tolist()}
    return summary


def compare_detectors(
    records: Sequence[Mapping], others: Sequence[Mapping], table: pd.DataFrame, thresholds: Mapping[str, float]
) -> dict:
    """Return {yardstick: {metric: {"this", "other": of `compare_detections`}}} at the true angles, each model from
    its own score on; thresholds: of "this" and "other"."""
    compared = {}
    for kind in KINDS:
        groups = _of_yardstick({"this": records, "other": others}, kind)
        if groups["this"]:
            compared[kind] = compare_detections(groups, table, thresholds=thresholds, reference="other",
                                                names=list(METRICS))
    return compared


def _of_yardstick(records: Mapping[str, Sequence[Mapping]], kind: str) -> dict[str, list[dict]]:
    return {group: [{"row": record["row"], **record[kind]} for record in some if kind in record]
            for group, some in records.items()}
