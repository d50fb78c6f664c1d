"""Can the image alone give the view away? A probe: linear models from pooled image features to the angles.

The backbone never sees the angles. Where its features tell them, a model can do without being told. A probe
gives a lower bound: what ridge regression does not find, a deeper reader may. It is fitted on rows of the
training patients and judged on others, against guessing the median angle of the artery that is injected.
Anyone sees which one that is, so the probe is told as well.

Angles are cut to the centres of the end bins: the view encoder takes everything beyond for the same.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import StandardScaler
from torch import nn
from tqdm import tqdm

from data.cass import SEGMENTS
from data.cine import read_frame
from models.view_encoder import BIN_CENTRES_DEG, angle_bins
from utils.metrics import bootstrap_ci
from utils.prediction import network_image

AXES = ("primary", "secondary")
LEAST_TRAIN_ROWS = 20  # two for each bin of an axis; fewer would say nothing about the features
FREE = 1e4  # scale of the artery among the features: so large that the penalty does not reach it
PENALTIES = np.logspace(0, 5, 11)  # of standardised features; leave-one-out on the training rows chooses


def pool_pyramid(pyramid: list[torch.Tensor]) -> np.ndarray:
    """Return mean and standard deviation over the map of every channel of every level.

    pyramid: [(B, C, h, w), ...]. Returns float32 (B, 2 * C * levels).
    """
    parts = [
        statistic(level.float(), dim=(2, 3)) for level in pyramid for statistic in (torch.mean, torch.std)
    ]
    return torch.cat(parts, dim=1).cpu().numpy()


@torch.inference_mode()
def encode_rows(
    model: nn.Module, table: pd.DataFrame, *, image_size: int, device: torch.device
) -> np.ndarray:
    """Return the pooled features of every row's frame, float32 (rows, F)."""
    features = []
    for _, row in tqdm(table.iterrows(), total=len(table), desc="probe", unit="frame"):
        frame = read_frame(row["cine_path"], int(row["frame_index"]))
        image = network_image(frame, image_size)[None].to(device)
        features.append(pool_pyramid(model.encode_image(image)["pyramid"])[0])
    return np.stack(features)


def probe_backbone(
    model: nn.Module,
    tables: Mapping[str, pd.DataFrame],
    val_features: np.ndarray,
    *,
    image_size: int,
    device: torch.device,
) -> dict:
    """Return `probe_views` of a model's image features; val_features: of the rows of val, already there."""
    train_features = encode_rows(model, tables["train"], image_size=image_size, device=device)
    return probe_views({"train": train_features, "val": val_features}, tables)


def probe_views(features: Mapping[str, np.ndarray], tables: Mapping[str, pd.DataFrame]) -> dict:
    """Fit on `train`, judge on `val`; features: float32 (rows, F) of each, tables with both angles known.

    Returns for "primary" and "secondary", over the rows of val, of the probe and, with `artery_` before the
    name, of guessing the median training angle of the same artery: `mae_deg`, the mean absolute error, and
    `within_one_bin`, the share at most one bin of ten degrees off. `gain_deg` is how much smaller the probe's
    error is; those of the probe with `_ci95`. `median_mae_deg`: guessing the median of all training rows.
    `by_side`: the same for each artery. `points`: true angle, guess and artery of every row. Raises
    ValueError when `train` has fewer than `LEAST_TRAIN_ROWS` rows.
    """
    if len(tables["train"]) < LEAST_TRAIN_ROWS:
        raise ValueError(
            f"{len(tables['train'])} training rows with both angles; a probe takes {LEAST_TRAIN_ROWS}"
        )
    return {axis: _probe_axis(axis, features, tables) for axis in AXES}


def _probe_axis(axis: str, features: Mapping, tables: Mapping) -> dict:
    angles = {split: _cut_angles(table, axis) for split, table in tables.items()}
    sides = {split: _sides(table) for split, table in tables.items()}
    scaler = StandardScaler().fit(features["train"])
    seen = {
        split: np.c_[scaler.transform(features[split]), FREE * (sides[split] == "left")] for split in tables
    }
    guess = RidgeCV(PENALTIES).fit(seen["train"], angles["train"]).predict(seen["val"])
    by_artery = _median_of_side(angles["train"], sides["train"], sides["val"])
    guesses = {"": np.clip(guess, BIN_CENTRES_DEG[0], BIN_CENTRES_DEG[-1]), "artery_": by_artery}
    patients = tables["val"]["patient_id"].to_numpy()
    described = _describe_guesses(angles["val"], guesses, patients)
    described["median_mae_deg"] = float(abs(np.median(angles["train"]) - angles["val"]).mean())
    described["by_side"] = {}
    for side in sorted(set(sides["val"])):
        chosen = sides["val"] == side
        of_side = {name: values[chosen] for name, values in guesses.items()}
        described["by_side"][side] = _describe_guesses(angles["val"][chosen], of_side, patients[chosen])
    described["points"] = {
        "true_deg": angles["val"].tolist(),
        "guess_deg": guesses[""].tolist(),
        "side": sides["val"].tolist(),
    }
    return described


def _describe_guesses(truth: np.ndarray, guesses: Mapping[str, np.ndarray], patients: np.ndarray) -> dict:
    """The figures of the probe (guess "") and of the guess by artery ("artery_"), see `probe_views`."""
    errors = {name: abs(guess - truth) for name, guess in guesses.items()}
    near = {name: abs(_bins(guess) - _bins(truth)) <= 1 for name, guess in guesses.items()}
    described = {"n_frames": len(truth)}
    for name, values in (
        ("mae_deg", errors[""]),
        ("gain_deg", errors["artery_"] - errors[""]),
        ("within_one_bin", near[""]),
    ):
        described |= {name: float(values.mean()), f"{name}_ci95": bootstrap_ci(values, patients)}
    return described | {
        "artery_mae_deg": float(errors["artery_"].mean()),
        "artery_within_one_bin": float(near["artery_"].mean()),
    }


def name_by_habit(train: pd.DataFrame, val: pd.DataFrame) -> dict:
    """How often do the angles, without the picture, name the analysed segment?

    The guess is the most frequent training segment: of the same `artery`; of the same pair of bins (`angles`;
    of all rows where training has none); of both (`artery_and_angles`; of the artery where training has
    none). What they reach is habit: the views from which a segment is usually filmed. Shares of the rows of
    `val`, with `_ci95`.
    """
    train, rows = _binned(train), _binned(val)
    by_artery = _usual_segment(train, rows, ["side"])
    guesses = {
        "artery": by_artery,
        "angles": _usual_segment(train, rows, list(AXES)).fillna(train["cass_segment"].mode()[0]),
        "artery_and_angles": _usual_segment(train, rows, ["side", *AXES]).fillna(by_artery),
    }
    habits = {}
    for name, guess in guesses.items():
        right = (guess == rows["cass_segment"]).to_numpy()
        interval = bootstrap_ci(right, val["patient_id"].to_numpy())
        habits |= {name: float(right.mean()), f"{name}_ci95": interval}
    return habits


def _binned(table: pd.DataFrame) -> pd.DataFrame:
    """Artery, bins of both angles, and segment of every row."""
    bins = {axis: _bins(_cut_angles(table, axis)) for axis in AXES}
    return pd.DataFrame({"side": _sides(table), **bins, "cass_segment": table["cass_segment"].to_numpy()})


def _usual_segment(train: pd.DataFrame, rows: pd.DataFrame, keys: list[str]) -> pd.Series:
    """The most frequent training segment with the same `keys` as each of `rows`; nan where there is none."""
    usual = train.groupby(keys)["cass_segment"].agg(lambda segments: segments.mode()[0]).rename("usual")
    return rows.join(usual, on=keys)["usual"]


def _cut_angles(table: pd.DataFrame, axis: str) -> np.ndarray:
    """The angles of one axis in degrees, float64 (rows,), cut to the centres of the end bins."""
    return np.clip(table[f"{axis}_angle"].to_numpy(dtype=np.float64), BIN_CENTRES_DEG[0], BIN_CENTRES_DEG[-1])


def _bins(angles_deg: np.ndarray) -> np.ndarray:
    return angle_bins(torch.from_numpy(angles_deg)).numpy()


def _sides(table: pd.DataFrame) -> np.ndarray:
    return np.array([SEGMENTS[int(cass_id)].side for cass_id in table["cass_segment"]])


def _median_of_side(angles_deg: np.ndarray, sides: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The median training angle of each of `wanted` sides; of all rows where training lacks the side."""
    medians = {side: np.median(angles_deg[sides == side]) for side in set(sides)}
    return np.array([medians.get(side, np.median(angles_deg)) for side in wanted])
