"""The same frames found through in several ways: scores of each, and their differences, paired by patient.

    compared = compare_detections({"true": records, "shuffled": others}, table, thresholds=0.3, reference="true")
    compared["f1_iou50"]["shuffled"]            # mean, ci95, minus_true, minus_true_ci95
"""

from collections.abc import Mapping, Sequence

import numpy as np

from utils.bootstrap import bootstrap_counts
from utils.obstructions.scores import detection_scorer


def compare_detections(
    groups: Mapping[str, Sequence[Mapping]], table, *, thresholds: float | Mapping[str, float], reference: str,
    names: Sequence[str],
) -> dict[str, dict[str, dict]]:
    """Return {score: {group: {mean, ci95, minus_<reference>, minus_<reference>_ci95}}}, 95 % intervals over patients.

    groups: records as of `match_detections`, with `row`, by group; a row may have several of them in a group, but
    each group has the same rows, and as many records of one row as of any other. thresholds: the score from which
    detections count, one for all groups or one for each. names: of the scores of
    `utils.obstructions.scores.summarise_detections`; nan where a score is not defined. A difference is that of the
    two scores over the same resampled patients. Raises ValueError for groups of other rows, and as
    `detection_scorer`.
    """
    rows = sorted({int(record["row"]) for record in groups[reference]})
    scorers, positions = {}, {}
    for group, records in groups.items():
        own = [int(record["row"]) for record in records]
        if sorted(set(own)) != rows:
            raise ValueError(f"{group} has {len(set(own))} rows, {reference} {len(rows)}; allowed: the same rows")
        threshold = thresholds[group] if isinstance(thresholds, Mapping) else thresholds
        scorers[group] = detection_scorer(records, table, threshold)
        positions[group] = np.searchsorted(rows, own)

    def score(drawn: np.ndarray) -> np.ndarray:
        """Scores, then differences to the reference, (R, 2 x groups x names), of rows drawn so many times (R, n)."""
        found = {group: scorers[group](drawn[:, positions[group]]) for group in groups}
        values = np.stack([np.stack([found[group][name] for name in names], axis=1) for group in groups], axis=1)
        differences = values - values[:, [list(groups).index(reference)]]
        return np.concatenate([values, differences], axis=1).reshape(len(drawn), -1)

    patients = [str(table["patient_id"].iloc[row]) for row in rows]
    values, intervals = bootstrap_counts(np.eye(len(rows)), patients, score)
    values, intervals = values.reshape(2, len(groups), -1), intervals.reshape(2, len(groups), len(names), 2)
    return {
        name: {
            group: {
                "mean": float(values[0, g, n]), "ci95": intervals[0, g, n].tolist(),
                f"minus_{reference}": float(values[1, g, n]),
                f"minus_{reference}_ci95": intervals[1, g, n].tolist(),
            } for g, group in enumerate(groups)
        } for n, name in enumerate(names)
    }
