"""The record of a run: one JSON object per epoch, and curves of it as a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from utils.files import save_figure_atomic, write_text_atomic

# Fields of a line that differ between two runs of the same bits.
TIME_FIELDS = ("train_seconds", "train_samples_per_second", "finished_at")


def write_history(path: str | Path, lines: Sequence[Mapping]) -> None:
    """Write all epochs, one JSON object a line; values that are not finite become null."""
    write_text_atomic(path, "".join(to_json(line) + "\n" for line in lines))


def read_history(path: str | Path) -> list[dict]:
    """The epochs in `path`, in order; empty without the file. ValueError names a damaged line."""
    path = Path(path)
    if not path.is_file():
        return []
    lines = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error}); delete that line") from error
    return lines


def to_json(value: Mapping, *, indent: int | None = None) -> str:
    """Strict JSON of plain values; nan and infinity become null, which every reader knows."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def readable_json(value: Mapping) -> str:
    """As `to_json`, a key a line, but what is a list of numbers, or of points, on one line."""
    return _laid_out(_finite(value), "") + "\n"


def _laid_out(value, margin: str) -> str:
    inner = margin + "  "
    if isinstance(value, dict) and value:
        lines = [f"{inner}{json.dumps(key)}: {_laid_out(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{margin}}}"
    if isinstance(value, list) and any(isinstance(item, (dict, str)) for item in value):
        return "[\n" + ",\n".join(inner + _laid_out(item, inner) for item in value) + f"\n{margin}]"
    return json.dumps(value, allow_nan=False)


def save_curves(path: str | Path, lines: Sequence[Mapping], *, panels: Mapping[str, Sequence[str]]) -> None:
    """Draw fields of the history against the epoch: `panels` maps a panel's title to the fields it shows.

    A field that no epoch has is left out; an epoch without a field leaves a gap.
    """
    figure = Figure(figsize=(4.6 * len(panels), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes_row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, fields) in zip(axes_row, panels.items(), strict=True):
        _plot_panel(axes, title, fields, lines)
    save_figure_atomic(figure, path)


def _plot_panel(axes, title: str, fields: Sequence[str], lines: Sequence[Mapping]) -> None:
    for field in fields:
        points = [(line["epoch"], line[field]) for line in lines if _is_number(line.get(field))]
        if points:
            marker = "o" if len(points) < 15 else ""
            axes.plot(*zip(*points, strict=True), marker=marker, markersize=3, label=field)
    axes.set(title=title, xlabel="epoch")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize=8)


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _finite(value):
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
