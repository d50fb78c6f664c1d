"""Confidence intervals of scores that are computed from counts: ratios of sums, F1, macro-F1.

`utils.metrics.bootstrap_ci` is for means of one value a frame. Here a frame has many counts, and a resample
of patients sums the counts of all their frames before the score is computed.
"""
from collections.abc import Callable, Sequence

import numpy as np

from utils.metrics import BOOTSTRAP_RESAMPLES, BOOTSTRAP_SEED


def bootstrap_counts(
    counts: np.ndarray, patients: Sequence, score: Callable[[np.ndarray], np.ndarray], *,
    resamples: int = BOOTSTRAP_RESAMPLES, seed: int = BOOTSTRAP_SEED,
) -> tuple[np.ndarray, np.ndarray]:
    """Return (value (S,), interval (S, 2)): S scores of all frames, with 95 % intervals over patients.

    counts: (n, F), those of each frame; patients: (n,), whose frame it is; score: (R, F) sums of counts to
    (R, S) scores, nan where a score is not defined (and not counted in its interval). Same input, same
    interval. Raises ValueError without a frame.
    """
    counts = np.asarray(counts, dtype=np.float64)
    if len(counts) == 0 or len(counts) != len(patients):
        raise ValueError(f"{len(counts)} frames with counts and {len(patients)} patients; "
                         "at least one frame, and one patient a frame, are needed")
    names, group = np.unique(np.asarray(patients).astype(str), return_inverse=True)
    of_patient = np.zeros((len(names), counts.shape[1]))
    np.add.at(of_patient, group, counts)
    drawn = np.random.default_rng(seed).integers(0, len(names), size=(resamples, len(names)))
    times = np.stack([np.bincount(row, minlength=len(names)) for row in drawn])
    scores = score(times @ of_patient)
    interval = np.full((scores.shape[1], 2), np.nan)
    defined = ~np.isnan(scores).all(axis=0)
    if defined.any():
        interval[defined] = np.nanpercentile(scores[:, defined], (2.5, 97.5), axis=0).T
    return score(counts.sum(axis=0, keepdims=True))[0], interval


def with_intervals(names: Sequence[str], counts: np.ndarray, patients: Sequence,
                   score: Callable[[np.ndarray], np.ndarray]) -> dict[str, object]:
    """Return {name: value, name_ci95: [low, high]} of `bootstrap_counts`, `names` in the scores' order."""
    values, intervals = bootstrap_counts(counts, patients, score)
    named: dict[str, object] = {}
    for name, value, interval in zip(names, values, intervals, strict=True):
        named |= {name: float(value), f"{name}_ci95": [float(end) for end in interval]}
    return named


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return numerator / denominator, nan where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=denominator > 0)
