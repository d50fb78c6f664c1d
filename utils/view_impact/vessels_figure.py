"""One figure and a verdict in words from the measurements of `utils.view_impact.vessels`."""
from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
from matplotlib.figure import Figure

from models.view_encoder import BIN_CENTRES_DEG
from utils.drawing import BLUE, GREEN, SKY_BLUE, VERMILION, agreement_overlay, legend_patches
from utils.reports.records import view_text

# Thresholds of the verdict. Dice 0.99: the two masks differ in one pixel of a hundred, less than two
# annotators' outlines do. 0.95: a difference that shows in an overlay. A gain of 0.01 is a tenth of what
# separates the systems of the published table from each other (0.83 to 0.93), so anything smaller would not
# be worth a parameter.
NEARLY_BLIND_DICE, SENSITIVE_DICE = 0.99, 0.95
WORTHWHILE_GAIN = 0.01
APART_COSINE = 0.5
LABEL_TITLES = {"truth": "Dice against truth", "deepsa": "Dice against DeepSA labels"}
EXAMPLE_LEGEND = {"both": GREEN, "only at the other angle": VERMILION, "only at the true angle": SKY_BLUE}
TICKS = [f"{angle:+.0f}" if angle else "0" for angle in BIN_CENTRES_DEG]


def judge(figures: Mapping, grid: Mapping[str, np.ndarray], summary: Mapping) -> dict:
    """Return the verdict in words, with the measured numbers and the thresholds that it follows from.

    Keys: `level` (`nearly blind`, `slightly sensitive`, `sensitive`), `true_angles` (what they are worth),
    `sentences`.

    figures: of `describe_similarity`; grid: `dice`, `change`, float64 (frames, 9, 9); summary: of
    `summarise_conditions`.
    """
    overlap = float(grid["dice"].mean())
    level = ("nearly blind" if overlap >= NEARLY_BLIND_DICE
             else "slightly sensitive" if overlap >= SENSITIVE_DICE else "sensitive")
    gain = _judge_gain(summary)
    if level == "nearly blind":
        conclusion = (
            "Verdict: predictions are nearly blind to the view angles, as is to be expected of phase 1: "
            "a vessel looks like a vessel from every side."
        )
    else:
        conclusion = f"Verdict: predictions are {level} to the view angles; {gain['meaning']}."
    return {
        "level": level,
        "true_angles": gain["meaning"],
        "sentences": [
            conclusion,
            _judge_predictions(overlap, grid),
            gain["sentence"],
            judge_embeddings(figures),
        ],
    }


def _judge_predictions(overlap: float, grid: Mapping[str, np.ndarray]) -> str:
    return (f"Masks at the 81 angles agree with that at the true angle with Dice {overlap:.5f} on average, "
            f"{grid['dice'].min():.4f} at worst ({NEARLY_BLIND_DICE} or more is called nearly blind, below "
            f"{SENSITIVE_DICE} sensitive); probabilities change by {grid['change'].mean():.5f} on average.")


def _judge_gain(summary: Mapping) -> dict[str, str]:
    name = "truth" if "truth" in summary else "deepsa"
    shuffled = summary[name]["shuffled"]
    gain, (low, high) = -shuffled["minus_true"], sorted(-value for value in shuffled["minus_true_ci95"])
    if low > 0:
        size = "worthwhile" if gain >= WORTHWHILE_GAIN else f"too small to matter (below {WORTHWHILE_GAIN})"
        meaning = f"the true angles help, and the gain is {size}"
    elif high < 0:
        meaning = "other patients' angles do better than the true ones: check the angles in the data"
    else:
        meaning = "no use of the true angles can be measured"
    sentence = (
        f"True angles against those of other patients: {LABEL_TITLES[name]} {gain:+.4f} (95 % interval "
        f"{low:+.4f} to {high:+.4f}, over patients): {meaning}."
    )
    return {"meaning": meaning, "sentence": sentence}


def judge_embeddings(figures: Mapping) -> str:
    """Return in words whether the view encoder tells angles apart; figures: of `describe_similarity`."""
    mean = figures["mean_between_views"]
    apart = "tells the angles apart" if mean < APART_COSINE else "hardly tells the angles apart"
    return (
        f"The view encoder {apart}: the cosine between different views is {mean:.2f} on average (below "
        f"{APART_COSINE} is called apart), between neighbouring bins {figures['neighbours_primary']:.2f} "
        "(primary) "
        f"and {figures['neighbours_secondary']:.2f} (secondary)."
    )


def draw_impact(similarity: Mapping, grid: Mapping[str, np.ndarray], summary: Mapping, example: Mapping,
                sentences: Sequence[str], title: str) -> Figure:
    """Return the figure. example: of `measure_masks`; the others as for `judge`."""
    figure = Figure(figsize=(16, 11.5), layout="constrained")
    figure.suptitle(title, fontsize=14)
    panels, words = figure.subfigures(2, 1, height_ratios=[10, 1.5])
    cells = panels.subfigures(2, 3)
    draw_grid_similarity(cells[0][0].subplots(), similarity["grid"])
    _draw_axis_similarity(cells[0][1].subplots(2, 1), similarity)
    _draw_example(cells[0][2].subplots(), example)
    draw_heat(
        cells[1][0].subplots(),
        grid["dice"].mean(axis=0),
        "mask at this angle against the true one, Dice",
        "viridis",
    )
    draw_heat(cells[1][1].subplots(), grid["change"].mean(axis=0), "mean |change of probability|",
               "viridis_r")
    labels = [name for name in LABEL_TITLES if name in summary]
    for axis, name in zip(np.atleast_1d(cells[1][2].subplots(len(labels), 1)), labels):
        draw_conditions(axis, summary[name], LABEL_TITLES[name])
    words.text(0.02, 0.98, sentences[0], va="top", fontsize=12, fontweight="bold")
    words.text(
        0.02, 0.80, "\n".join(fill(sentence, 180) for sentence in sentences[1:]), va="top", fontsize=11
    )
    return figure


def draw_grid_similarity(axis, matrix: np.ndarray) -> None:
    """Draw the cosine similarities of the 81 views, float64 (81, 81)."""
    image = axis.imshow(matrix, vmin=-1, vmax=1, cmap="cividis", interpolation="nearest")
    axis.set_title("similarity of embeddings, 9 × 9 views")
    middles = np.arange(len(TICKS)) * len(TICKS) + len(TICKS) // 2
    axis.set_xticks(middles, TICKS, fontsize=8)
    axis.set_yticks(middles, TICKS, fontsize=8)
    axis.set_xlabel("primary angle, ° (in each block: secondary)")
    axis.set_ylabel("primary angle, °")
    axis.figure.colorbar(image, ax=axis, label="cosine", shrink=0.8)


def _draw_axis_similarity(axes, similarity: Mapping) -> None:
    """Draw for each axis how alike the bin of 0°, and the unknown bin, are to the others."""
    for axis, name in zip(axes, ("primary", "secondary")):
        matrix, middle = similarity[name], len(BIN_CENTRES_DEG) // 2
        positions = np.arange(len(matrix))
        axis.plot(positions, matrix[middle], "o-", color=np.array(BLUE) / 255, label="to the bin of 0°")
        axis.plot(positions, matrix[-1], "s--", color=np.array(VERMILION) / 255, label="to the unknown bin")
        axis.set_xticks(positions, [*TICKS, "unknown"], fontsize=8)
        axis.set(title=f"{name} angle alone", xlabel=f"{name} angle, °", ylabel="cosine", ylim=(-1.05, 1.05))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)


def _draw_example(axis, example: Mapping) -> None:
    """Draw the mask at the true angle against that at the angle that changes it most."""
    axis.imshow(agreement_overlay(example["frame"], example["own"], example["other"]))
    against = f"against {view_text(example['other_view_deg'])}, Dice {example['dice']:.4f}"
    axis.set_title(f"most changed case: {view_text(example['view_deg'])} (true)\n{against}", fontsize=11)
    axis.set_axis_off()
    axis.legend(handles=legend_patches(EXAMPLE_LEGEND), loc="upper center", bbox_to_anchor=(0.5, 0.0),
                ncols=3, fontsize=8, frameon=False)


def draw_heat(axis, values: np.ndarray, title: str, colors: str) -> None:
    """Draw 9x9 values, rows primary; the texts are those of the colour bar, so that close values stay readable."""
    image = axis.imshow(values, cmap=colors, origin="lower")
    axis.set_title(title)
    axis.set_xticks(range(len(TICKS)), TICKS)
    axis.set_yticks(range(len(TICKS)), TICKS)
    axis.set(xlabel="secondary angle, ° (cranial +)", ylabel="primary angle, ° (LAO +)")
    bar = axis.figure.colorbar(image, ax=axis, shrink=0.8)
    bar.formatter.set_useOffset(False)


def draw_conditions(axis, conditions: Mapping, title: str, *, digits: int = 4) -> None:
    """Draw mean and interval of each condition; conditions: of one label of `summarise_conditions`."""
    rows = np.arange(len(conditions))[::-1]
    for row, (name, measured) in zip(rows, conditions.items()):
        mean, color = measured["mean"], np.array(BLUE if name == "true" else VERMILION) / 255
        axis.plot(measured["ci95"], [row, row], color=color, linewidth=2)
        axis.plot(mean, row, "o", color=color)
        if np.isfinite(mean):
            text = f"{mean:.{digits}f} ({measured['minus_true']:+.{digits}f})"
            axis.annotate(text, (mean, row), xytext=(0, 6), textcoords="offset points", ha="center",
                          fontsize=8)
    axis.set_yticks(rows, list(conditions))
    axis.set(title=f"{title}, by angles given", ylim=(-0.6, len(conditions) - 0.3),
             xlabel="mean and 95 % interval (in brackets: minus true)")
    axis.ticklabel_format(axis="x", useOffset=False)
    axis.grid(axis="x", alpha=0.3)
