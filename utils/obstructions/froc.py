"""A picture of detections at all thresholds: FROC curves and, beside them, precision against recall."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from utils.bootstrap import ratio
from utils.drawing import BLUE, DPI, VERMILION
from utils.files import save_figure_atomic
from utils.obstructions.scores import froc_curve, froc_interval, summarise_detections

# Of false positives a frame: logarithmic, by twos, as is usual for FROC.
TICKS = {1 / 16: "1/16", 1 / 8: "1/8", 1 / 4: "1/4", 1 / 2: "1/2", 1: "1", 2: "2", 4: "4", 8: "8"}
LEAST, MOST = min(TICKS), max(TICKS)
_BAND_POINTS = 113  # 16 to an octave
# Kind of hit -> colour, name, and metrics: sensitivity at one false positive a frame, operating point (x, y).
_CURVES = {
    "point": (BLUE, "by point", "sensitivity_at_1fp", ("fp_per_frame", "sensitivity_point")),
    "iou50": (VERMILION, "by IoU 0.5", "sensitivity_at_1fp_iou50", ("fp_per_frame_iou50", "recall_iou50")),
}
_F1_LINES = (0.2, 0.4, 0.6, 0.8)
_OPERATING = dict(marker="o", markersize=8, markeredgecolor="black", linestyle="none", zorder=4)


def save_froc(
    path: str | Path, records: Sequence[Mapping], table, *, title: str, threshold: float | None = None,
    groups: str = "patients",
) -> None:
    """Write a picture: FROC curves by both kinds of hit with 95 % bands over groups, the operating point
    and a mark at one false positive a frame; precision against recall at IoU 0.5 with the average precision.

    groups: what the table's `patient_id` tells apart, in words.

    Other arguments and errors as in `summarise_detections`; OSError when it cannot be written.
    """
    metrics = summarise_detections(records, table, threshold)
    figure = Figure(figsize=(12, 6), dpi=DPI, layout="constrained")
    of = f"{metrics['n_targets']} targets in {metrics['n_frames']} frames of {metrics['n_patients']} {groups}"
    figure.suptitle(f"{title}: {of}", fontsize=11)
    froc, precision_recall = figure.subplots(1, 2, width_ratios=[1.25, 1])
    _draw_froc(froc, records, table, metrics, groups)
    _draw_precision_recall(precision_recall, records, metrics)
    for axes in (froc, precision_recall):
        axes.set_ylim(0, 1.02)
        axes.grid(alpha=0.3)
        # Below, since a curve may be anywhere.
        axes.legend(fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.11), frameon=False)
        if metrics["n_targets"] == 0:
            axes.text(0.5, 0.5, "no target in these frames", ha="center", transform=axes.transAxes)
    save_figure_atomic(figure, path, dpi=DPI)


def _draw_froc(axes, records: Sequence[Mapping], table, metrics: Mapping, groups: str) -> None:
    for kind, (rgb, name, at_one, operating) in _CURVES.items():
        colour = np.array(rgb) / 255
        rate, sensitivity = froc_curve(records, kind)
        grid = np.geomspace(LEAST, np.clip(rate[-1], LEAST, MOST), _BAND_POINTS)
        low, high = froc_interval(records, table, kind, grid).T
        axes.fill_between(grid, low, high, color=colour, alpha=0.16, linewidth=0)
        # A rate of 0 has no place on this axis: left of its end.
        axes.step(np.maximum(rate, LEAST / 2), sensitivity, where="post", color=colour,
                  label=f"{name}: {_with_interval(metrics, at_one)} at 1 a frame")
        if rate[-1] < MOST:  # no detection is left
            axes.hlines(sensitivity[-1], max(rate[-1], LEAST), MOST, color=colour, linestyles=":", lw=1)
        now, sensitivity_now = (metrics[score] for score in operating)
        axes.plot(np.clip(now, LEAST, MOST), sensitivity_now, color=colour, clip_on=False, **_OPERATING)
    axes.axvline(1, color="grey", linestyle="--", linewidth=1)
    if np.isfinite(metrics["threshold"]):
        label = f"operating point: score ≥ {metrics['threshold']:.3g}"
        axes.plot([], [], color="white", label=label, **_OPERATING)
    axes.set_xscale("log")
    axes.set_xticks(list(TICKS), list(TICKS.values()))
    axes.minorticks_off()
    axes.set(xlim=(LEAST, MOST), xlabel="false positives a frame (mean)", ylabel="sensitivity")
    axes.set_title(f"FROC; bands and intervals: 95 % over {groups}", fontsize=10)


def _draw_precision_recall(axes, records: Sequence[Mapping], metrics: Mapping) -> None:
    colour = np.array(_CURVES["iou50"][0]) / 255
    rate, recall = froc_curve(records, "iou50")
    true, false = np.nan_to_num(recall) * metrics["n_targets"], rate * metrics["n_frames"]
    precision = ratio(true, true + false)[1:]
    interpolated = np.maximum.accumulate(np.nan_to_num(precision)[::-1])[::-1]
    _draw_f1_lines(axes)
    axes.fill_between(recall, np.append(interpolated, 0), step="post", color=colour, alpha=0.16, linewidth=0,
                      label=f"area: AP {_with_interval(metrics, 'ap_iou50')}")
    axes.plot(recall[1:], precision, color=colour, label="precision at each score")
    axes.plot(metrics["recall_iou50"], metrics["precision_iou50"], color=colour, clip_on=False, **_OPERATING,
              label=f"operating point: F1 {_with_interval(metrics, 'f1_iou50')}")
    axes.set(xlim=(0, 1), xlabel="recall", ylabel="precision")
    axes.set_title("precision and recall by IoU 0.5", fontsize=10)


def _draw_f1_lines(axes) -> None:
    """Draw where F1 is the same."""
    for f1 in _F1_LINES:
        recall = np.linspace(f1 / (2 - f1), 1, 300)
        axes.plot(recall, f1 * recall / (2 * recall - f1), color="grey", linewidth=0.7, alpha=0.6)
        axes.annotate(f"F1 {f1}", (1, f1 / (2 - f1)), xytext=(4, 0), textcoords="offset points", va="center",
                      fontsize=8, color="grey", annotation_clip=False)


def _with_interval(metrics: Mapping, name: str) -> str:
    if np.isnan(metrics[name]):
        return "not defined"
    low, high = metrics[f"{name}_ci95"]
    return f"{metrics[name]:.2f} ({low:.2f}-{high:.2f})"
