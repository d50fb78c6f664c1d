"""How much a model's predictions depend on the view angles: the measurements of `test_view_angle_impact.py`.

The backbone does not see the angles, so every frame is encoded once and only decoded again for other angles.
Angles are pairs (primary, secondary) in degrees, LAO and cranial positive, nan = unknown.
"""
import math
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from data.cine import read_frame
from data.masks import read_frame_masks
from models.view_encoder import BIN_CENTRES_DEG
from utils.metrics import bootstrap_ci, dice
from utils.prediction import THRESHOLD, logits_at_size, network_image, sigmoid

SHUFFLES = 3  # draws of another patient's angles per frame: their mean is steadier than one draw
_VIEWS_PER_BATCH = 9        # one row of the grid at a time keeps a full-size decode within a GPU's memory
CONDITIONS = ("true", "shuffled", "primary only", "secondary only", "unknown")


def grid_views() -> np.ndarray:
    """Return the 9x9 grid of bin centres, float64 (81, 2): primary varies slowest."""
    primary, secondary = np.meshgrid(BIN_CENTRES_DEG, BIN_CENTRES_DEG, indexing="ij")
    return np.stack([primary.ravel(), secondary.ravel()], axis=1)


@torch.inference_mode()
def embedding_similarity(view_encoder: nn.Module, views: np.ndarray, device: torch.device) -> np.ndarray:
    """Return the cosine similarity of the embeddings of views (N, 2), float64 (N, N)."""
    embeddings = view_encoder(torch.tensor(views, dtype=torch.float32, device=device))
    unit = functional.normalize(embeddings.double(), dim=1)
    return (unit @ unit.T).cpu().numpy()


def axis_views(axis: int) -> np.ndarray:
    """Return the nine bins of one axis and unknown, with the other axis at 0 degrees: float64 (10, 2)."""
    views = np.zeros((len(BIN_CENTRES_DEG) + 1, 2))
    views[:, axis] = [*BIN_CENTRES_DEG, math.nan]
    return views


def describe_similarity(view_encoder: nn.Module, device: torch.device) -> dict:
    """Return matrices of cosine similarity (`grid` 81x81, `primary`, `secondary` 10x10) and figures."""
    grid = embedding_similarity(view_encoder, grid_views(), device)
    primary, secondary = (embedding_similarity(view_encoder, axis_views(axis), device) for axis in (0, 1))
    apart = ~np.eye(len(grid), dtype=bool)
    unknown = [float(matrix[-1, :-1].mean()) for matrix in (primary, secondary)]
    neighbours = [float(np.diag(matrix[:-1, :-1], 1).mean()) for matrix in (primary, secondary)]
    figures = {"mean_between_views": float(grid[apart].mean()), "least_between_views": float(grid.min()),
               "neighbours_primary": neighbours[0], "neighbours_secondary": neighbours[1],
               "unknown_to_known_primary": unknown[0], "unknown_to_known_secondary": unknown[1]}
    return {"grid": grid, "primary": primary, "secondary": secondary, "figures": figures}


class EncodedFrame:
    """A frame that has passed the backbone, ready to be decoded at any angles.

    model: with `encode_image` and `decode`, in eval mode; frame: uint8 (H, W, 3). `size` is (H, W),
    `features` what the model's `encode_image` gives for a batch of this one frame.
    """

    def __init__(self, model: nn.Module, frame: np.ndarray, *, image_size: int, device: torch.device):
        self._model, self._device, self.size = model, device, frame.shape[:2]
        with torch.inference_mode():
            self.features = model.encode_image(network_image(frame, image_size)[None].to(device))

    @torch.inference_mode()
    def outputs(self, views: np.ndarray) -> Iterator:
        """Yield what the model's `decode` gives for views (N, 2), a few views at a time, in their order."""
        for start in range(0, len(views), _VIEWS_PER_BATCH):
            batch = torch.tensor(
                views[start : start + _VIEWS_PER_BATCH], dtype=torch.float32, device=self._device
            )
            yield self._model.decode(_repeated(self.features, len(batch)), batch)

    def probabilities(self, views: np.ndarray) -> np.ndarray:
        """Return vessel probabilities at the frame's size for views (N, 2): float32 (N, H, W)."""
        return np.stack([sigmoid(logits_at_size(one, self.size))
                         for logits in self.outputs(views) for one in logits[:, 0]])


def _repeated(features, count: int):
    """Return the features of one image as those of `count` equal images, without copying them."""
    if isinstance(features, torch.Tensor):
        return features.expand(count, *features.shape[1:])
    if isinstance(features, dict):
        return {name: _repeated(value, count) for name, value in features.items()}
    return [_repeated(value, count) for value in features]


def compare_over_grid(encoded: EncodedFrame, view_deg: Sequence[float]) -> dict[str, np.ndarray]:
    """Compare the prediction at every view of the grid with that at the frame's own view.

    Returns `change`, mean |difference of probability| over the frame, and `dice`, of the two masks: float64
    (9, 9), rows primary, columns secondary.
    """
    maps = encoded.probabilities(np.vstack([[view_deg], grid_views()]))
    own, side = maps[0], len(BIN_CENTRES_DEG)
    change = [float(np.abs(other - own).mean()) for other in maps[1:]]
    overlap = [dice(other >= THRESHOLD, own >= THRESHOLD) for other in maps[1:]]
    return {"change": np.reshape(change, (side, side)), "dice": np.reshape(overlap, (side, side))}


def draw_other_views(
    views: np.ndarray, patients: Sequence, *, seed: int, groups: Sequence | None = None
) -> list[np.ndarray]:
    """Return for each frame the views of frames of other patients: float64 (SHUFFLES, 2) each.

    views: float64 (N, 2). groups (N,): draw only frames of the same group; (0, 2) where no other patient has
    one. Raises ValueError when there is only one patient.
    """
    patients, rng = np.asarray(patients).astype(str), np.random.default_rng(seed)
    groups = np.zeros(len(views)) if groups is None else np.asarray(groups)
    if len(np.unique(patients)) < 2:
        raise ValueError("angles can be shuffled between patients only where there are two of them or more")
    drawn = []
    for patient, group in zip(patients, groups):
        others = np.flatnonzero((patients != patient) & (groups == group))
        drawn.append(views[rng.choice(others, SHUFFLES)] if len(others) else np.empty((0, 2)))
    return drawn


def measure_masks(model: nn.Module, table: pd.DataFrame, *, image_size: int, grid_frames: int, seed: int,
                  device: torch.device) -> dict:
    """Measure the vessel masks of every row of `table`, the first `grid_frames` of them over the grid.

    Returns `scores` (of `score_conditions`, one per frame), `grid` (`dice`, `change`, (frames, 9, 9)) and the
    `example`, the frame whose mask changes most over the grid (`find_most_changed`).
    """
    views = known_views(table)
    others = draw_other_views(views, table["patient_id"], seed=seed)
    scores, grids, example = [], [], None
    for position, row in tqdm(table.iterrows(), total=len(table), desc="angles", unit="frame"):
        frame = read_frame(row["cine_path"], int(row["frame_index"]))
        encoded = EncodedFrame(model, frame, image_size=image_size, device=device)
        labels = read_frame_masks(row, frame.shape[:2])
        scores.append(score_conditions(encoded, condition_views(views[position], others[position]), labels))
        if len(grids) < grid_frames:
            grids.append(compare_over_grid(encoded, views[position]))
            if grids[-1]["dice"].min() <= min(grid["dice"].min() for grid in grids):
                example = {"frame": frame, **find_most_changed(encoded, views[position], grids[-1]["dice"])}
    grid = {name: np.stack([one[name] for one in grids]) for name in ("dice", "change")}
    return {"scores": scores, "grid": grid, "example": example}


def find_most_changed(encoded: EncodedFrame, view_deg: np.ndarray, grid_dice: np.ndarray) -> dict:
    """Return the masks `own` and `other`, bool (H, W), at `view_deg` and at `other_view_deg`, least alike of
    the grid.

    grid_dice: float64 (9, 9) of `compare_over_grid`; the least is returned as `dice`.
    """
    worst = grid_views()[np.argmin(grid_dice)]
    own, other = encoded.probabilities(np.array([view_deg, worst])) >= THRESHOLD
    found = {"own": own, "other": other, "view_deg": view_deg, "other_view_deg": worst}
    return found | {"dice": grid_dice.min()}


def known_views(table: pd.DataFrame) -> np.ndarray:
    """Return primary and secondary angle in degrees, float64 (rows, 2)."""
    return table[["primary_angle", "secondary_angle"]].to_numpy(dtype=np.float64)


def condition_views(view_deg: Sequence[float], other_views: np.ndarray) -> dict[str, np.ndarray]:
    """Return the views (n, 2) at which each condition of `CONDITIONS` decodes a frame."""
    primary, secondary = view_deg
    singles = {"true": (primary, secondary), "primary only": (primary, math.nan),
               "secondary only": (math.nan, secondary), "unknown": (math.nan, math.nan)}
    return {"shuffled": other_views, **{name: np.array([view]) for name, view in singles.items()}}


def split_conditions(views: dict[str, np.ndarray], together: np.ndarray) -> dict[str, np.ndarray]:
    """Return by condition what was found at the views of all conditions, one after the other."""
    ends = np.cumsum([len(of_condition) for of_condition in views.values()])
    return dict(zip(views, np.split(together, ends[:-1])))


def score_conditions(
    encoded: EncodedFrame, views: dict[str, np.ndarray], labels: dict[str, np.ndarray]
) -> dict:
    """Score one frame at the views of every condition.

    labels: name to bool (H, W). Returns {condition: {label name: mean Dice, "own": mean Dice with the
    prediction at the true view, "change": mean |difference of probability| from it}}.
    """
    together = encoded.probabilities(np.vstack(list(views.values())))
    return score_maps(split_conditions(views, together), labels)


def score_maps(maps: dict[str, np.ndarray], labels: dict[str, np.ndarray]) -> dict:
    """Score the vessel probabilities of each condition, float32 (n, H, W); else as `score_conditions`."""
    own = maps["true"][0]
    labels = {**labels, "own": own >= THRESHOLD}
    scores = {}
    for name, predictions in maps.items():
        scores[name] = {label_name: float(np.mean([dice(one >= THRESHOLD, label) for one in predictions]))
                        for label_name, label in labels.items()}
        scores[name]["change"] = float(np.abs(predictions - own).mean())
    return scores


def summarise_conditions(
    scores: Sequence[dict], patients: Sequence, conditions: Sequence[str] = CONDITIONS
) -> dict:
    """Return {label name: {condition: {mean, ci95, minus_true, minus_true_ci95}}} over frames.

    scores: one result of `score_conditions` per frame; intervals are of bootstrap over patients,
    `minus_true` is paired frame by frame. A label that no frame has is left out; a frame without it is left
    out of that label, and one without a condition out of that condition.
    """
    names = sorted({name for frame in scores for name in frame["true"]})
    summary = {}
    for name in names:
        kept = [index for index, frame in enumerate(scores) if name in frame["true"]]
        groups = [patients[index] for index in kept]
        true = np.array([scores[index]["true"][name] for index in kept])
        summary[name] = {}
        for condition in conditions:
            values = np.array([scores[index].get(condition, {}).get(name, math.nan) for index in kept])
            summary[name][condition] = {
                "mean": mean_of_known(values),
                "ci95": bootstrap_ci(values, groups),
                "minus_true": mean_of_known(values - true),
                "minus_true_ci95": bootstrap_ci(values - true, groups),
            }
    return summary


def mean_of_known(values: np.ndarray) -> float:
    """Return the mean of what is not nan; nan where nothing is known."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan
