"""Scores of one answer a frame: which segment is it, and where is its box?

Answers are channels, 0 ... K - 1: places in `classes`, which are CASS numbers.
"""
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, confusion_matrix, precision_recall_fscore_support
from torchvision.ops import box_convert
from torchvision.ops import box_iou as iou_of_corners

from data.cass import SEGMENTS
from utils.bootstrap import ratio, with_intervals
from utils.drawing import DPI
from utils.files import save_figure_atomic

_CELL_INCHES = 0.46


def summarise_classification(truth: Sequence[int], predicted: Sequence[int], patients: Sequence,
                             classes: Sequence[int], suffix: str) -> dict[str, object]:
    """Return `top1_<suffix>` and `macro_f1_<suffix>`, each with `_ci95` = [low, high] over whole patients.

    truth, predicted: channels (n,); patients: (n,), whose frame it is. Macro-F1 is the mean over the classes
    that have a true row: the others have no recall. Raises ValueError for no row, for lengths that differ and
    for channels that `classes` has not.
    """
    truth, predicted = _checked(truth, predicted, len(classes))
    cells = np.zeros((len(truth), len(classes) ** 2))
    cells[np.arange(len(truth)), truth * len(classes) + predicted] = 1
    names = (f"top1_{suffix}", f"macro_f1_{suffix}")
    return with_intervals(names, cells, patients, lambda sums: _top1_and_macro_f1(sums, len(classes)))


def _top1_and_macro_f1(sums: np.ndarray, count: int) -> np.ndarray:
    """Confusion matrices (R, K * K), truth by row, to (R, 2)."""
    matrix = sums.reshape(-1, count, count)
    right = np.diagonal(matrix, axis1=1, axis2=2)
    support, named = matrix.sum(axis=2), matrix.sum(axis=1)
    f1 = np.where(support > 0, ratio(2 * right, support + named), np.nan)
    return np.stack([ratio(right.sum(axis=1), support.sum(axis=1)), np.nanmean(f1, axis=1)], axis=1)


def per_class_table(truth: Sequence[int], predicted: Sequence[int], classes: Sequence[int]) -> str:
    """Return a table in text: for each class its true rows, precision, recall and F1 (- where there is none).

    Arguments and errors as in `summarise_classification`.
    """
    truth, predicted = _checked(truth, predicted, len(classes))
    labels = range(len(classes))
    scores = precision_recall_fscore_support(truth, predicted, labels=labels, zero_division=np.nan)
    lines = [f"{'CASS':>4}  {'segment':<40} {'rows':>5} {'precision':>9} {'recall':>7} {'F1':>6}"]
    for cass_id, precision, recall, f1, support in zip(classes, *scores, strict=True):
        numbers = [f"{'-' if np.isnan(value) else format(value, '.3f'):>{width}}"
                   for value, width in ((precision, 9), (recall, 7), (f1, 6))]
        lines.append(f"{cass_id:>4}  {SEGMENTS[cass_id].name:<40} {support:>5} " + " ".join(numbers))
    return "\n".join(lines)


def save_confusion_matrix(path: str | Path, truth: Sequence[int], predicted: Sequence[int],
                          classes: Sequence[int], title: str) -> None:
    """Write a picture: a row for each true class, coloured by the share of its rows, with counts written in.

    Arguments and errors as in `summarise_classification`.
    """
    truth, predicted = _checked(truth, predicted, len(classes))
    counts = confusion_matrix(truth, predicted, labels=range(len(classes)))
    shares = ratio(counts.astype(np.float64), counts.sum(axis=1, keepdims=True) + np.zeros_like(counts))
    side = _CELL_INCHES * len(classes)
    figure = Figure(figsize=(side + 4.2, side + 1.2), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(np.nan_to_num(shares), cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
    rows = [f"{cass_id} {SEGMENTS[cass_id].name} ({total})"
            for cass_id, total in zip(classes, counts.sum(axis=1), strict=True)]
    axes.set_yticks(range(len(classes)), rows, fontsize=8)
    axes.set_xticks(range(len(classes)), [str(cass_id) for cass_id in classes], fontsize=8)
    axes.set(xlabel="named (CASS number)", ylabel="true segment (frames)")
    axes.set_title(title, fontsize=10, loc="right")
    figure.colorbar(picture, ax=axes, shrink=0.6, label="share of the true segment's frames")
    save_figure_atomic(figure, path, dpi=DPI)


def box_iou(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the IoU of two boxes (x_center, y_center, width, height); nan where one of them has a nan."""
    boxes = torch.as_tensor(np.array([one, other]), dtype=torch.float64)
    if boxes.isnan().any():
        return float("nan")
    corners = box_convert(boxes, "cxcywh", "xyxy")
    return float(iou_of_corners(corners[:1], corners[1:]).nan_to_num())


def ap50(scores: Sequence[float], matches: Sequence[bool]) -> float:
    """Return the average precision of one scored box a frame, in a data set with one true box a frame.

    matches: the box's class is right and its IoU with the true box is at least 0.5. As in COCO, boxes are
    taken from the highest score down and precision is averaged over recall, but over the steps of recall
    themselves, without interpolation, and over the boxes of all classes at once: a class with three rows has
    no curve of its own. Raises ValueError for lengths that differ; nan without a frame.
    """
    scores, matches = np.asarray(scores, np.float64), np.asarray(matches, bool)
    if scores.shape != matches.shape:
        raise ValueError(f"{len(scores)} scores and {len(matches)} matches; one of each a frame is needed")
    if len(matches) == 0:
        return float("nan")
    if not matches.any():
        return 0.0
    # sklearn's recall ends at 1 with the last match; here it ends at the share of true boxes that were found.
    return float(average_precision_score(matches, scores) * matches.mean())


def _checked(truth: Sequence[int], predicted: Sequence[int], count: int) -> tuple[np.ndarray, np.ndarray]:
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.shape != predicted.shape or truth.ndim != 1 or len(truth) == 0:
        raise ValueError(f"true and named channels have shapes {truth.shape} and {predicted.shape}; "
                         "one of each a frame is needed, and at least one frame")
    values = np.concatenate([truth, predicted])
    if values.dtype.kind not in "iu" or values.min() < 0 or values.max() >= count:
        raise ValueError(f"channels {np.unique(values).tolist()}; allowed: whole numbers 0 to {count - 1}, "
                         "places in the tuple of classes")
    return truth.astype(np.int64), predicted.astype(np.int64)
