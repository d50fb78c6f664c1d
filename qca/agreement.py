"""How well two ways to measure the same thing agree: bias, spread, limits of agreement, and their picture.

Bland and Altman, Lancet 1986;327:307-310: of the differences d, bias is their mean, and 95 % of them are expected
within bias +- 1.96 SD. Shrout and Fleiss, Psychol Bull 1979;86:420-428: ICC(2,1) is the share of the variance that is
between lesions, not between the two ways to measure or left over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from utils.drawing import BLUE, DPI, VERMILION

LIMIT_SDS = 1.96
# Of `agreement_scores`, in its order: whether each has the unit of what is measured.
AGREEMENT_SCORES = {"bias": True, "sd": True, "mae": True, "loa_low": True, "loa_high": True, "icc": False}


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


def agreement_counts(recorded: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """What each pair adds to the sums that `agreement_scores` needs, (n, 8) of pairs (n,) each; 0 for one with nan."""
    x, y = np.asarray(recorded, float), np.asarray(measured, float)
    known = np.isfinite(x) & np.isfinite(y)
    x, y = np.where(known, x, 0), np.where(known, y, 0)
    difference = y - x
    return np.stack([known, difference, np.abs(difference), difference**2, x, y, (x + y) ** 2, x**2 + y**2], axis=1)


def agreement_scores(sums: np.ndarray) -> np.ndarray:
    """The scores of `AGREEMENT_SCORES`, (R, 6), of R sums (R, 8) of `agreement_counts`; nan where they are not
    defined, so that whole patients can be resampled (`utils.bootstrap`)."""
    n, difference, absolute, squared, x, y, of_pairs, of_values = np.asarray(sums, float).T
    with np.errstate(divide="ignore", invalid="ignore"):
        bias, mae = difference / n, absolute / n
        sd = np.sqrt(np.maximum(squared - n * bias**2, 0) / np.where(n > 1, n - 1, np.nan))
        mean = (x + y) / (2 * n)
        between = (of_pairs / 2 - 2 * n * mean**2) / (n - 1)  # mean squares: of lesions, of the two ways, of the rest
        ways = (x**2 + y**2) / n - 2 * n * mean**2
        rest = (of_values - 2 * n * mean**2 - (n - 1) * between - ways) / (n - 1)
        icc = (between - rest) / (between + rest + 2 * (ways - rest) / n)
    found = np.stack([bias, sd, mae, bias - LIMIT_SDS * sd, bias + LIMIT_SDS * sd, icc], axis=1)
    return np.where(np.isfinite(found), found, np.nan)


def agreement_figure(
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]], *, title: str = "", units: Sequence[str] | None = None,
    names: tuple[str, str] = ("recorded", "measured"), spreads: Sequence[float] | None = None,
) -> Figure:
    """A row for each quantity: its pairs against the line of identity, and their differences by their means.

    pairs: what it is -> (recorded (n,), measured (n,)); units: one for each; spreads: SD between two observers, one
    for each, whose limits of agreement are shaded. Points with nan are left out.
    """
    figure = Figure(figsize=(9.5, 3.6 * len(pairs)), dpi=DPI, layout="constrained")
    axes = figure.subplots(len(pairs), 2, squeeze=False)
    of_each = zip(axes, pairs.items(), units or [""] * len(pairs), spreads or [None] * len(pairs), strict=True)
    for (scatter, bland), (what, (recorded, measured)), unit, spread in of_each:
        if spread is not None:
            bland.axhspan(-LIMIT_SDS * spread, LIMIT_SDS * spread, color="0.92", zorder=0, label="two observers")
            bland.legend(loc="upper right", fontsize=7, frameon=False)
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
