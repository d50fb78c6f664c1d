"""What `test_model_during_training.py` shows of stage 1: label, prediction and agreement of a few frames."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from data.cine import read_frame
from data.masks import read_frame_masks
from utils.drawing import GREEN, SKY_BLUE, VERMILION, agreement_overlay, mask_overlay, thumbnail
from utils.metrics import dice
from utils.prediction import THRESHOLD
from utils.reports.records import view_text

# Titles and fields of the history; scores against labels and against truth are never in one panel.
PANELS = {"loss": ("train_loss", "val_loss"), "Dice against labels": ("train_dice", "val_dice_deepsa"),
          "Dice against truth": ("val_dice_truth", "val_deepsa_dice_truth")}
_LEGEND = {"both": GREEN, "only prediction": VERMILION, "only label, or only truth": SKY_BLUE}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One frame with its prediction: frame uint8 (H, W, 3); label, truth, prediction bool (H, W)."""
    title: str
    frame: np.ndarray
    label: np.ndarray
    truth: np.ndarray | None
    prediction: np.ndarray
    dice_deepsa: float
    dice_truth: float | None


def predict_case(row: pd.Series, answer: Callable, checkpoint: Mapping) -> Case:
    """Predict one row's analysed frame and score it at the frame's own size; answer, checkpoint: of `load_answer`."""
    frame = read_frame(row["cine_path"], int(row["frame_index"]))
    view_deg = (float(row["primary_angle"]), float(row["secondary_angle"]))
    prediction = answer(frame, view_deg=view_deg).vessel_probability >= THRESHOLD
    masks = read_frame_masks(row, frame.shape[:2])
    label, truth = masks["deepsa"], masks.get("truth")
    return Case(
        title=f"{row['patient_id']}  {row['vessel_pattern']}\n{view_text(view_deg)}",
        frame=frame,
        label=label,
        truth=truth,
        prediction=prediction,
        dice_deepsa=dice(prediction, label),
        dice_truth=None if truth is None else dice(prediction, truth),
    )


def order(cases: Sequence[Case]) -> tuple[list[Case], str]:
    """Return the cases, worst first by the better yardstick that every case has, and the order in words."""
    by_truth = all(case.dice_truth is not None for case in cases)
    worst_first = sorted(cases, key=lambda case: case.dice_truth if by_truth else case.dice_deepsa)
    return worst_first, f"worst first by Dice against {'truth' if by_truth else 'labels'}"


def arrange(cases: Sequence[Case]) -> dict:
    """Return `rows`, `column_titles`, `captions` and `legend` for a gallery, one row a case."""
    with_truth = any(case.truth is not None for case in cases)
    columns = ["frame", "DeepSA label", "prediction", "prediction against label"]
    columns += ["prediction against truth"] * with_truth
    return {"rows": [_pictures(case, with_truth) for case in cases], "column_titles": columns,
            "captions": [_captions(case, with_truth) for case in cases], "legend": _LEGEND}


def _pictures(case: Case, with_truth: bool) -> list[np.ndarray | None]:
    frame = thumbnail(case.frame)
    pictures = [frame, mask_overlay(case.frame, case.label, SKY_BLUE),
                mask_overlay(case.frame, case.prediction, VERMILION),
                agreement_overlay(case.frame, case.label, case.prediction)]
    if with_truth:
        pictures.append(
            None if case.truth is None else agreement_overlay(case.frame, case.truth, case.prediction)
        )
    return pictures


def _captions(case: Case, with_truth: bool) -> list[str]:
    truth = "no true mask" if case.dice_truth is None else f"Dice {case.dice_truth:.3f} against truth"
    return ["", "", "", f"Dice {case.dice_deepsa:.3f} against label"] + ([truth] if with_truth else [])


def describe(cases: Sequence[Case]) -> str:
    """Return the scores of these cases in words."""
    line = f"mean Dice against labels {np.mean([case.dice_deepsa for case in cases]):.3f}"
    truths = [case.dice_truth for case in cases if case.dice_truth is not None]
    return line + (f", against truth {np.mean(truths):.3f} ({len(truths)} cases)" if truths else "")
