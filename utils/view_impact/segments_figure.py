"""The figure of phase 2 from the measurements of `utils.view_impact.segments` and `utils.view_impact.probe`."""

from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from data.cass import SEGMENTS
from models.view_encoder import BIN_CENTRES_DEG
from utils.drawing import BLUE, SKY_BLUE, VERMILION, mask_overlay, thumbnail
from utils.reports.records import view_text
from utils.view_impact.probe import AXES
from utils.view_impact.segments import MEASURES
from utils.view_impact.vessels_figure import TICKS, draw_conditions, draw_grid_similarity

CASES_PER_ROW, MOST_CASES = 2, 6
CASE_GRIDS = {
    "top1_pointed": "pointed: which segment is this one?",
    "top1_blind_pooled": "blind: which one was analysed?",
}
_CASE_INCHES, _PANEL_INCHES = 3.9, 4.2
_WORDS_PER_LINE, _VERDICT_PER_LINE = 215, 165
_SIDE_COLOURS = {"left": BLUE, "right": VERMILION}


def draw_names_impact(
    similarity: Mapping,
    summary: Mapping,
    cases: Sequence[Mapping],
    probe: Mapping | None,
    sentences: Sequence[str],
    title: str,
) -> Figure:
    """Return the figure.

    similarity: of `describe_similarity`; summary: of `summarise_names`; cases: of `measure_frames`, the first
    `MOST_CASES` are shown; probe: of `probe_views`, None without one.
    """
    cases = cases[:MOST_CASES]
    rows = -(-len(cases) // CASES_PER_ROW)
    lines = [fill(sentence, _WORDS_PER_LINE, subsequent_indent="    ") for sentence in sentences[1:]]
    verdict = fill(sentences[0], _VERDICT_PER_LINE)
    verdict_inches = 0.26 + 0.22 * verdict.count("\n")
    words_inches = 0.3 + verdict_inches + 0.2 * sum(line.count("\n") + 1 for line in lines)
    heights = [_PANEL_INCHES, _PANEL_INCHES, rows * _CASE_INCHES, words_inches]
    figure = Figure(figsize=(21, sum(heights) + 0.4), layout="constrained")
    figure.suptitle(title, fontsize=14)
    conditions, details, pictures, words = figure.subfigures(4, 1, height_ratios=heights)
    _draw_measures(conditions, summary["conditions"])
    _draw_details(details, summary, probe, similarity)
    for cell, case in zip(np.ravel(pictures.subfigures(rows, CASES_PER_ROW)), cases):
        draw_case(cell, case)
    words.text(0.01, 1 - 0.1 / words_inches, verdict, va="top", fontsize=12, fontweight="bold")
    words.text(0.01, 1 - (0.16 + verdict_inches) / words_inches, "\n".join(lines), va="top", fontsize=10.5)
    return figure


def _draw_measures(figure, conditions: Mapping) -> None:
    names = [name for name in MEASURES if name in conditions]
    for axis, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names):
        draw_conditions(axis, conditions[name], MEASURES[name], digits=3)
        axis.set(xlim=(-0.12, 1.12), xticks=np.arange(0, 1.01, 0.2))  # room for the texts of 0 and 1


def _draw_details(figure, summary: Mapping, probe: Mapping | None, similarity: Mapping) -> None:
    axes = figure.subplots(1, 4 if probe else 2, width_ratios=[1.9, 1, 1, 1] if probe else [1.9, 1])
    _draw_losses(axes[0], summary["by_segment"])
    if probe:
        for axis, name in zip(axes[1:3], AXES):
            _draw_probe(axis, name, probe[name])
    draw_grid_similarity(axes[-1], similarity["grid"])


def _draw_losses(axis, by_segment: Mapping) -> None:
    """Draw the pointed answer of each segment, with the true angles and with another patient's."""
    for position, measured in enumerate(by_segment.values()):
        true, shuffled = measured["top1_pointed"]["true"], measured["top1_pointed"]["shuffled"]
        # One entry in the legend is enough.
        true_label, shuffled_label = ("true angles", "another patient's") if position == 0 else (None, None)
        axis.bar(position, true, width=0.75, color=np.array(SKY_BLUE) / 255, label=true_label)
        axis.bar(position, shuffled, width=0.4, color=np.array(VERMILION) / 255, label=shuffled_label)
        axis.annotate(
            f"n {measured['n_frames']}", (position, max(true, shuffled)), ha="center", va="bottom", fontsize=8
        )
    axis.set_xticks(
        range(len(by_segment)),
        [_short_name(cass_id) for cass_id in by_segment],
        rotation=40,
        ha="right",
        fontsize=8,
    )
    axis.set(title="pointed top-1 by segment", ylim=(0, 1.18), ylabel="share right")
    axis.grid(axis="y", alpha=0.3)
    axis.legend(fontsize=8, loc="upper right", ncols=2)


def _short_name(cass_id: int) -> str:
    return f"{cass_id} {SEGMENTS[int(cass_id)].name.replace(' (PDA)', '').replace('descending', 'desc.')}"


def _draw_probe(axis, name: str, measured: Mapping) -> None:
    """Draw the angle that the probe guesses from the image against the true one."""
    points, limits = measured["points"], (BIN_CENTRES_DEG[0] - 6, BIN_CENTRES_DEG[-1] + 6)
    sides = np.array(points["side"])
    axis.plot(limits, limits, color="grey", linewidth=1)
    for side, color in _SIDE_COLOURS.items():
        chosen = sides == side
        axis.plot(
            np.array(points["true_deg"])[chosen],
            np.array(points["guess_deg"])[chosen],
            ".",
            alpha=0.6,
            color=np.array(color) / 255,
            label=f"{side} artery",
        )
    title = (
        f"{name} angle from the image alone: {measured['mae_deg']:.1f}° off,\n"
        f"guessing the artery's median {measured['artery_mae_deg']:.1f}°"
    )
    axis.set(
        title=title,
        xlim=limits,
        ylim=limits,
        xlabel=f"true {name} angle, °",
        ylabel="probe's guess, °",
        aspect="equal",
    )
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="upper left")


def draw_case(figure, case: Mapping) -> None:
    """Draw a frame with its analysed segment, and the names that it is given at each of the 9 x 9 angles."""
    axes = figure.subplots(1, 1 + len(CASE_GRIDS))
    segment = SEGMENTS[case["cass_id"]]
    axes[0].imshow(thumbnail(mask_overlay(case["frame"], case["region"], segment.colour), _CASE_INCHES))
    title = f"analysed: {segment.cass_id} {segment.name}\n{view_text(case['view_deg'])}"
    axes[0].set_title(title, fontsize=10)
    axes[0].set_axis_off()
    for axis, (answer, question) in zip(axes[1:], CASE_GRIDS.items()):
        verdict = "right" if case["own"][answer] == case["cass_id"] else "wrong"
        axis.set_title(f"{question}\nat its own view: {case['own'][answer]}, {verdict}", fontsize=10)
        draw_name_grid(axis, case["grid"][answer], case["view_deg"])


def draw_name_grid(axis, grid: np.ndarray, view_deg: Sequence[float]) -> None:
    """Draw CASS numbers, int (9, 9), rows primary, in their colours, with the cell of `view_deg` framed."""
    colours = np.array([[SEGMENTS[int(cass_id)].colour for cass_id in row] for row in grid], np.uint8)
    axis.imshow(colours, origin="lower", interpolation="nearest")
    for row, column in np.ndindex(grid.shape):
        axis.text(
            column,
            row,
            int(grid[row, column]),
            ha="center",
            va="center",
            fontsize=8,
            color=_readable_on(colours[row, column]),
        )
    # Nearest centre, the end bin beyond the ends, as the view encoder takes it.
    primary, secondary = (int(np.abs(np.array(BIN_CENTRES_DEG) - angle).argmin()) for angle in view_deg)
    for colour, width in (("white", 5), ("black", 2.5)):
        axis.add_patch(
            Rectangle(
                (secondary - 0.5, primary - 0.5),
                1,
                1,
                fill=False,
                edgecolor=colour,
                linewidth=width,
                zorder=3,
            )
        )
    axis.set_xticks(range(len(TICKS)), TICKS, fontsize=7)
    axis.set_yticks(range(len(TICKS)), TICKS, fontsize=7)
    axis.set_xlabel("secondary angle, ° (cranial +)", fontsize=8)
    axis.set_ylabel("primary angle, ° (LAO +)", fontsize=8)


def _readable_on(colour: np.ndarray) -> str:
    """Black or white, whichever stands out; luma of ITU-R BT.601."""
    return "black" if colour @ np.array([0.299, 0.587, 0.114]) > 140 else "white"
