"""How much the names of segments depend on the view angles: phase 2's measurements of
`test_view_angle_impact.py`.

Two questions, never mixed. Pointed: "which segment is this one?", its mask is given. Blind: "which segment
did the analyst analyse in this frame?", answered by the pooled head and by the map.

An analyst films a segment from its usual views, so angles also give away which segment is likely to be the
analysed one. Where a row has a true CASS map, every vessel pixel of it is scored as well: there that habit
helps little.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from data.cass import SEGMENTS
from data.cine import read_frame
from data.masks import read_label_map, read_mask
from models.view_encoder import BIN_CENTRES_DEG
from utils.segments.prediction import blind_probs_of_map, frame_prediction, pointed_probs
from utils.view_impact.probe import pool_pyramid
from utils.view_impact.vessels import (
    CONDITIONS,
    EncodedFrame,
    condition_views,
    draw_other_views,
    grid_views,
    known_views,
    split_conditions,
)

ANSWERS = {
    "top1_pointed": "pointed (mask given)",
    "top1_blind_pooled": "blind (pooled head)",
    "top1_blind_map": "blind (map)",
}
PIXELS = "pixel_accuracy_map"
MEASURES = {**ANSWERS, PIXELS: "every vessel pixel (map)"}
# Angles of the other artery are often impossible for this one; of the same artery they are merely wrong.
SAME_ARTERY = "shuffled, same artery"
CASS_CONDITIONS = (*CONDITIONS[:2], SAME_ARTERY, *CONDITIONS[2:])


@dataclass(frozen=True)
class NamingModel:
    """A stage 2 model in eval mode, the side in px of the picture that it sees, and the device it is on."""

    model: nn.Module
    image_size: int
    device: torch.device

    def encode(self, frame: np.ndarray) -> EncodedFrame:
        """Return a frame, uint8 (H, W, 3), ready to be decoded at any angles."""
        return EncodedFrame(self.model, frame, image_size=self.image_size, device=self.device)

    def read(
        self, encoded: EncodedFrame, views: np.ndarray, region: np.ndarray, cass_map: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Return what is read from the frame at views (N, 2) degrees.

        region: bool (H, W), the analysed segment, pointed at; cass_map: uint8 (H, W), true CASS numbers.
        Returns for each of `ANSWERS` the CASS number given, int (N,), and with a map under `PIXELS` the share
        of its pixels of the model's classes that are named right, float64 (N,).
        """
        classes = np.array((*self.model.classes, 0))
        known = None if cass_map is None else np.isin(cass_map, classes[:-1])
        found = {answer: [] for answer in ANSWERS}
        if known is not None and known.any():
            found[PIXELS] = []
        for output in encoded.outputs(views):
            for index in range(len(output.class_logits)):
                prediction = frame_prediction(output, index, encoded.size, self.model.classes)
                found["top1_pointed"].append(classes[pointed_probs(prediction, region).argmax()])
                found["top1_blind_pooled"].append(classes[prediction.class_probs.argmax()])
                found["top1_blind_map"].append(classes[blind_probs_of_map(prediction).argmax()])
                if PIXELS in found:
                    names = classes[prediction.name_log_probs[:, known].argmax(axis=0)]
                    found[PIXELS].append((names == cass_map[known]).mean())
        return {name: np.array(values) for name, values in found.items()}


def side_of(cass_id: int) -> str:
    """Return "left" or "right": the coronary artery whose injection fills the segment."""
    return SEGMENTS[int(cass_id)].side


def measure_frames(naming: NamingModel, table: pd.DataFrame, *, grid_rows: Sequence[int], seed: int) -> dict:
    """Measure every row of `table`, each frame passing the backbone once.

    Returns `scores`, one of `score_names` a row, for `CASS_CONDITIONS` (without `SAME_ARTERY` where no other
    patient's frame shows it); `cases`, one of `name_over_grid` and `read_truth` for each of `grid_rows`, with
    its `frame` and `row`; and `features`, float32 (rows, F) of `pool_pyramid`.
    """
    views = known_views(table)
    sides = [side_of(cass_id) for cass_id in table["cass_segment"]]
    others = draw_other_views(views, table["patient_id"], seed=seed)
    same_artery = draw_other_views(views, table["patient_id"], seed=seed, groups=sides)
    scores, cases, features = [], [], []
    for position, row in tqdm(table.iterrows(), total=len(table), desc="angles", unit="frame"):
        frame, truth = read_frame(row["cine_path"], int(row["frame_index"])), read_truth(row)
        encoded = naming.encode(frame)
        features.append(pool_pyramid(encoded.features["pyramid"])[0])
        at = condition_views(views[position], others[position])
        if len(same_artery[position]):
            at[SAME_ARTERY] = same_artery[position]
        scores.append(score_names(naming, encoded, at, truth))
        if position in grid_rows:
            case = name_over_grid(naming, encoded, views[position], truth["region"])
            cases.append({**truth, **case, "frame": frame, "row": position})
    return {"scores": scores, "cases": cases, "features": np.stack(features)}


def measure_at_true_angles(naming: NamingModel, table: pd.DataFrame) -> dict:
    """Return `scores` and `features` as `measure_frames` does, with the condition `true` alone."""
    views, scores, features = known_views(table), [], []
    for position, row in tqdm(table.iterrows(), total=len(table), desc="other model", unit="frame"):
        encoded = naming.encode(read_frame(row["cine_path"], int(row["frame_index"])))
        features.append(pool_pyramid(encoded.features["pyramid"])[0])
        scores.append(score_names(naming, encoded, {"true": views[position : position + 1]}, read_truth(row)))
    return {"scores": scores, "features": np.stack(features)}


def read_truth(row: pd.Series) -> dict:
    """Return `cass_id`, `region` bool (H, W), `cass_map` uint8 (H, W) or None of a row of the table."""
    path = row.get("true_cass_map_path")
    return {
        "cass_id": int(row["cass_segment"]),
        "region": read_mask(row["vessel_mask_actual_path"]),
        "cass_map": read_label_map(path) if isinstance(path, str) and path else None,
    }


def score_names(
    naming: NamingModel, encoded: EncodedFrame, views: Mapping[str, np.ndarray], truth: Mapping
) -> dict[str, dict[str, float]]:
    """Return {condition: {measure: mean over its views}} for one frame; truth: of `read_truth`.

    The measures: for `ANSWERS` whether the name is right, for `PIXELS` the share of pixels.
    """
    found = naming.read(encoded, np.vstack(list(views.values())), truth["region"], truth["cass_map"])
    scores = {condition: {} for condition in views}
    for name, values in found.items():
        right = values == truth["cass_id"] if name in ANSWERS else values
        for condition, part in split_conditions(views, right).items():
            scores[condition][name] = float(part.mean())
    return scores


def name_over_grid(
    naming: NamingModel, encoded: EncodedFrame, view_deg: Sequence[float], region: np.ndarray
) -> dict:
    """Name one frame at its own view and at each of the 9 x 9 angles.

    Returns `view_deg`, `own` ({answer: CASS number at its own view}) and `grid` ({answer: int (9, 9)}, rows
    primary, columns secondary).
    """
    names, side = naming.read(encoded, np.vstack([[view_deg], grid_views()]), region), len(BIN_CENTRES_DEG)
    return {
        "view_deg": [float(angle) for angle in view_deg],
        "own": {answer: int(given[0]) for answer, given in names.items()},
        "grid": {answer: given[1:].reshape(side, side) for answer, given in names.items()},
    }


def describe_case(case: Mapping, table: pd.DataFrame) -> dict:
    """Return a case of `measure_frames` as plain values: its frame of `table`, its names over the grid."""
    row = table.iloc[case["row"]]
    return {
        "cine_path": row["cine_path"],
        "frame_index": int(row["frame_index"]),
        "cass_segment": case["cass_id"],
        "view_deg": case["view_deg"],
        "own": case["own"],
        "grid": {answer: names.tolist() for answer, names in case["grid"].items()},
    }


def choose_grid_rows(table: pd.DataFrame, count: int, *, seed: int) -> list[int]:
    """Return up to `count` positions in `table`, of different segments first, drawn from `seed`."""
    segments = table.reset_index(drop=True)["cass_segment"].sample(frac=1, random_state=seed)
    turn = segments.groupby(segments).cumcount()
    return [int(position) for position in turn.sort_values(kind="stable").index[:count]]
