"""How well two ways to measure the same thing agree: bias, spread, limits of agreement, and their picture.

Bland and Altman, Lancet 1986;327:307-310: of the differences d, bias is their mean, and 95 % of them are expected
within bias +- 1.96 SD.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from utils.drawing import BLUE, DPI, VERMILION

LIMIT_SDS = 1.96


class Agreement(NamedTuple):
    """Of n pairs: mean, SD (n - 1) and mean absolute value of the differences, and the limits of agreement."""

    n: int
    bias: float
    sd: float
    mae: float
    low: float
    high: float


def agreement_of(recorded: np.ndarray, measured: np.ndarray) -> Agreement:
    """Of measured less recorded, (n,) each; pairs with nan are left out. All nan without pairs."""
    differences = np.asarray(measured, float) - np.asarray(recorded, float)
    differences = differences[np.isfinite(differences)]
    if len(differences) == 0:
        return Agreement(0, *[np.nan] * 5)
    bias, sd = float(differences.mean()), float(differences.std(ddof=1)) if len(differences) > 1 else np.nan
    mae = float(np.abs(differences).mean())
    return Agreement(len(differences), bias, sd, mae, bias - LIMIT_SDS * sd, bias + LIMIT_SDS * sd)


def agreement_figure(
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]], *, title: str = "", units: Sequence[str] | None = None,
    names: tuple[str, str] = ("recorded", "measured"),
) -> Figure:
    """A row for each quantity: its pairs against the line of identity, and their differences by their means.

    pairs: what it is -> (recorded (n,), measured (n,)); units: one for each. Points with nan are left out.
    """
    figure = Figure(figsize=(9.5, 3.6 * len(pairs)), dpi=DPI, layout="constrained")
    axes = figure.subplots(len(pairs), 2, squeeze=False)
    for (scatter, bland), (what, (recorded, measured)), unit in zip(
        axes, pairs.items(), units or [""] * len(pairs), strict=True
    ):
        known = np.isfinite(recorded) & np.isfinite(measured)
        _draw_pair(scatter, bland, np.asarray(recorded)[known], np.asarray(measured)[known], what, unit, names)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _draw_pair(scatter, bland, recorded, measured, what: str, unit: str, names: tuple[str, str]) -> None:
    blue, red = (np.asarray(color) / 255 for color in (BLUE, VERMILION))
    scatter.scatter(recorded, measured, s=9, color=blue, alpha=0.5, linewidths=0)
    if len(recorded):
        ends = [min(recorded.min(), measured.min()), max(recorded.max(), measured.max())]
        scatter.plot(ends, ends, color="0.3", linewidth=0.8)
    scatter.set_xlabel(f"{what}, {names[0]} ({unit})")
    scatter.set_ylabel(f"{names[1]} ({unit})")
    found = agreement_of(recorded, measured)
    bland.scatter((recorded + measured) / 2, measured - recorded, s=9, color=blue, alpha=0.5, linewidths=0)
    for value, style in ((found.bias, "-"), (found.low, "--"), (found.high, "--")):
        if np.isfinite(value):
            bland.axhline(value, color=red, linestyle=style, linewidth=1)
    bland.set_title(f"n = {found.n}, bias {found.bias:+.3f}, SD {found.sd:.3f} {unit}", fontsize=9)
    bland.set_xlabel(f"mean of both ({unit})")
    bland.set_ylabel(f"{names[1]} - {names[0]} ({unit})")
