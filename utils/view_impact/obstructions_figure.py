"""The figure of phase 3 from the measurements of `utils.view_impact.obstructions`."""

from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
from matplotlib.figure import Figure

from models.view_encoder import BIN_CENTRES_DEG
from utils.drawing import GREEN, SKY_BLUE, VERMILION, legend_patches, thumbnail
from utils.obstructions.drawing import mark_of, mark_overlay
from utils.obstructions.matching import Detection
from utils.reports.records import view_text
from utils.view_impact.obstructions import METRICS, SAME_MARKS
from utils.view_impact.obstructions_words import counted, lesions_in_frames
from utils.view_impact.vessels_figure import EXAMPLE_LEGEND, draw_conditions, draw_grid_similarity, draw_heat

TITLES = {"annotated": "Against the annotation", "truth": "Against every true lesion"}
_PANEL_INCHES, _TITLE_INCHES, _EXAMPLE_INCHES = 4.2, 0.35, 6.0
_WORDS_PER_LINE, _VERDICT_PER_LINE = 215, 165


def draw_obstructions_impact(
    similarity: Mapping, summary: Mapping, example: Mapping, sentences: Sequence[str], title: str
) -> Figure:
    """Return the figure: scores by the angles given, a row each yardstick; what changes; the most changed case.

    similarity: of `describe_similarity`; summary: of `summarise_impact`; example: of `measure_obstructions`.
    """
    lines = [fill(sentence, _WORDS_PER_LINE, subsequent_indent="    ") for sentence in sentences[1:]]
    verdict = fill(sentences[0], _VERDICT_PER_LINE)
    verdict_inches = 0.26 + 0.22 * verdict.count("\n")
    words_inches = 0.3 + verdict_inches + 0.2 * sum(line.count("\n") + 1 for line in lines)
    kinds = list(summary["detections"])
    heights = [*[_PANEL_INCHES + _TITLE_INCHES for _ in kinds], _PANEL_INCHES, _EXAMPLE_INCHES, words_inches]
    figure = Figure(figsize=(21, sum(heights) + 0.4), layout="constrained")
    figure.suptitle(title, fontsize=14)
    *yardsticks, changes, pictures, words = figure.subfigures(len(heights), 1, height_ratios=heights)
    for cell, kind in zip(yardsticks, kinds, strict=True):
        _draw_yardstick(cell, kind, summary)
    _draw_changes(changes, summary)
    _draw_example_row(pictures, example, similarity)
    words.text(0.01, 1 - 0.1 / words_inches, verdict, va="top", fontsize=12, fontweight="bold")
    words.text(0.01, 1 - (0.16 + verdict_inches) / words_inches, "\n".join(lines), va="top", fontsize=10.5)
    return figure


def _draw_yardstick(figure, kind: str, summary: Mapping) -> None:
    figure.suptitle(f"{TITLES[kind]}: {lesions_in_frames(summary['counts'][kind])}", fontsize=12)
    for axis, (name, words) in zip(figure.subplots(1, len(METRICS)), METRICS.items(), strict=True):
        draw_conditions(axis, summary["detections"][kind][name], words, digits=3)
        axis.margins(x=0.15)  # for the texts


def _draw_changes(figure, summary: Mapping) -> None:
    marks, vessels, by_marks, by_vessels = figure.subplots(1, 4)
    draw_conditions(marks, summary["changes"][SAME_MARKS], "share of the same marks", digits=3)
    draw_conditions(vessels, summary["changes"]["own"], "vessel mask, Dice to true angles")
    for axis in (marks, vessels):
        axis.margins(x=0.15)
    side, frames = len(BIN_CENTRES_DEG), counted(summary["grid"]["n_frames"], "frame")
    for axis, name, words in ((by_marks, SAME_MARKS, "same marks"), (by_vessels, "dice", "vessel mask, Dice")):
        by_view = np.array(summary["grid"][f"by_view_{name}"], np.float64).reshape(side, side)
        draw_heat(axis, by_view, f"{words}, {frames} told this angle", "viridis")


def _draw_example_row(figure, example: Mapping, similarity: Mapping) -> None:
    own, other, embeddings = figure.subplots(1, 3)
    same = example["pairs"]
    draw_marks(own, example["frame"], example["own"], [mark for _, mark in same], SKY_BLUE)
    own.set_title(f"most changed case at its own view, {view_text(example['view_deg'])}", fontsize=11)
    draw_marks(other, example["frame"], example["other"], [mark for mark, _ in same], VERMILION)
    other.set_title(f"the same frame, told {view_text(example['other_view_deg'])}: "
                    f"{example['share']:.0%} of the marks are the same", fontsize=11)
    own.legend(handles=legend_patches(EXAMPLE_LEGEND), loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=3,
               fontsize=8, frameon=False)
    draw_grid_similarity(embeddings, similarity["grid"])


def draw_marks(
    axis, frame: np.ndarray, marks: Sequence[Detection], same: Sequence[Detection], color: tuple[int, int, int]
) -> None:
    """Draw detections on a frame, uint8 (H, W, 3): green those that are among `same`, else in `color`."""
    drawn = [mark_of(mark)._replace(color=GREEN if mark in same else color) for mark in marks]
    axis.imshow(thumbnail(mark_overlay(frame, drawn), _EXAMPLE_INCHES))
    axis.set_axis_off()
