"""Scores of detected obstructions over many frames: what is found, what is missed, how far off are place and severity?

    record = {"row": row, **match_detections(detections, targets, known)}      # one a frame
    metrics = summarise_detections(records, table)
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data.cass import SEGMENTS
from data.obstructions import GRADES, grade_of
from utils.bootstrap import bootstrap_counts, ratio, with_intervals
from utils.obstructions.matching import DETECTION_FIELDS, ERRORS, FALSE_POSITIVE, IGNORED, KINDS, TARGET_FIELDS

ARTERIES = tuple(dict.fromkeys(segment.artery for segment in SEGMENTS.values()))


def summarise_detections(
    records: Sequence[Mapping], table, threshold: float | None = None
) -> dict[str, object]:
    """Return the scores of all frames, flat, each with `<name>_ci95` = [low, high] over whole patients.

    records: of `match_detections`, with `row`; table: data frame with `patient_id` and `phase` of each row.
    threshold: detections of at least this score count. None: that at which F1 at IoU 0.5 of these very frames
    is highest (of several the highest). It was chosen on these frames then: scores at it are somewhat
    optimistic, and other frames should be scored with the `threshold` returned. Intervals hold it fixed.

    At the threshold: `f1_iou50`, `precision_iou50`, `recall_iou50`, `fp_per_frame_iou50`; by point
    `f1_point`, `precision_point`, `sensitivity_point`, `fp_per_frame` (false positives),
    `fp_per_frame_without_target` (in frames that have none) and `fp_per_frame_final` (in those among them
    whose phase is FINAL); `sensitivity_<stratum>` by point, the strata being `grade_<name>`, `artery_<name>`
    and `segment_<number>` (CASS, of segments that have a target); of hits by point
    `mld_point_error_mm_median`, `mld_point_error_px_median`, `ds_mae_points` and `ds_bias_points` (predicted
    - true). At all thresholds: `detections_per_frame`; `ap_iou50`, the area under the interpolated
    precision-recall curve, all points (VOC 2010 and later); `sensitivity_at_1fp` by point and
    `sensitivity_at_1fp_iou50`, the highest with at most one false positive a frame on average. Without
    interval: `threshold`, `n_targets`, `n_targets_<stratum>`, `n_frames`, `n_patients`.

    nan where a score is not defined: F1, recall, sensitivity and AP without a target, precision and errors
    without a detection; where there is nothing to choose the threshold by, it too, and the false positives of
    frames that all have no target. Raises ValueError for no record, records that are incomplete or do not fit
    the table, and a threshold outside [0, 1].
    """
    if threshold is not None:
        _check_threshold(threshold)
    pool, patients = _pool(records), _column(records, table, "patient_id")
    chosen = _best_threshold(pool, *_hit_curve(pool, "iou50")) if threshold is None else float(threshold)
    score = _scorer(pool, chosen, np.array(_column(records, table, "phase")) == "FINAL")
    frames = np.eye(pool.frames)  # counts of which the sums say how often each frame was drawn
    metrics = with_intervals(
        list(score(frames[:1])), frames, patients, lambda drawn: np.stack([*score(drawn).values()], axis=1)
    )
    numbers = {f"n_targets_{name}": int(members.sum()) for name, members in _strata(pool).items()}
    return {
        **metrics, "threshold": chosen, "n_targets": len(pool.target_frame), **numbers,
        "n_frames": pool.frames, "n_patients": len({str(patient) for patient in patients}),
    }


def detection_scorer(
    records: Sequence[Mapping], table, threshold: float
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Return a function that gives the scores of `summarise_detections` by name, (R,) each, of records drawn
    so many times, (R, n): for resampling the same patients under several conditions.

    Arguments and errors as there.
    """
    _check_threshold(threshold)
    return _scorer(_pool(records), float(threshold), np.array(_column(records, table, "phase")) == "FINAL")


def froc_curve(records: Sequence[Mapping], kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Return false positives a frame and sensitivity, float64 (k,) each, from (0, 0), above the highest
    score, down to the lowest; equal scores come together.

    records: of `match_detections`; kind: one of `KINDS`. Sensitivity is nan without a target. ValueError as
    `summarise_detections`.
    """
    _check_kind(kind)
    pool = _pool(records)
    order = np.argsort(-pool.score, kind="stable")
    hit, last = pool.hit[kind][order], np.flatnonzero(np.diff(pool.score[order], append=-1))  # of each score
    true, false = (np.insert(np.cumsum(counted)[last], 0, 0) for counted in (hit >= 0, hit == FALSE_POSITIVE))
    return false / pool.frames, ratio(true, len(pool.target_frame))


def froc_interval(records: Sequence[Mapping], table, kind: str, fp_per_frame: Sequence[float]) -> np.ndarray:
    """Return the 95 % interval (k, 2) over patients of the highest sensitivity with at most so many false
    positives a frame (k,); nan without a target. Other arguments and errors as in `summarise_detections` and
    `froc_curve`.
    """
    _check_kind(kind)
    pool, patients = _pool(records), _column(records, table, "patient_id")
    if len(pool.target_frame) == 0:
        return np.full((len(fp_per_frame), 2), np.nan)
    curve = _hit_curve(pool, kind)
    return bootstrap_counts(np.eye(pool.frames), patients,
                            lambda drawn: _sensitivity_at(pool, fp_per_frame, *curve[1:], drawn))[1]


@dataclass(frozen=True)
class _Pool:
    """The D detections and T targets of all n frames; `frame` and `target_frame` count as the records do.

    hit: {kind: int (D,)}, as in a record; errors: {name: float (D,)}; found_at: (T,), the score of the
    detection that hits the target by point, -inf without one.
    """

    frames: int
    frame: np.ndarray
    score: np.ndarray
    hit: dict[str, np.ndarray]
    errors: dict[str, np.ndarray]
    target_frame: np.ndarray
    stenosis_pct: np.ndarray
    cass_id: np.ndarray
    found_at: np.ndarray

    def detections(self, chosen: np.ndarray | slice, values: np.ndarray | None = None) -> np.ndarray:
        """How many of the chosen detections each frame has, or the sums of their values (D,), (n,)."""
        return np.bincount(self.frame[chosen], None if values is None else values[chosen], self.frames)

    def targets(self, chosen: np.ndarray | slice = np.s_[:]) -> np.ndarray:
        """How many targets, all or the chosen ones, each frame has, (n,)."""
        return np.bincount(self.target_frame[chosen], minlength=self.frames)


def _pool(records: Sequence[Mapping]) -> _Pool:
    if not records:
        raise ValueError("no record; allowed: one of match_detections for each frame, and at least one frame")
    found_at = [_found_at(record) for record in records]

    def gather(name: str, dtype: type = np.float64) -> np.ndarray:  # None, null in JSON, becomes nan
        return np.concatenate([np.asarray(record[name], dtype) for record in records])

    def frame_of(name: str) -> np.ndarray:
        return np.repeat(np.arange(len(records)), [len(record[name]) for record in records])

    return _Pool(
        frames=len(records), frame=frame_of("detection_score"), score=gather("detection_score"),
        hit={kind: gather(f"detection_{kind}", int) for kind in KINDS},
        errors={name: gather(f"detection_{name}") for name in ERRORS},
        target_frame=frame_of("target_cass_id"), stenosis_pct=gather("target_stenosis_pct"),
        cass_id=gather("target_cass_id", int), found_at=np.concatenate(found_at),
    )


def _found_at(record: Mapping) -> np.ndarray:
    """Check a record; return the scores at which its targets are found by point, -inf for the others."""
    missing = [name for name in (*DETECTION_FIELDS, *TARGET_FIELDS) if name not in record]
    if missing:
        raise ValueError(f"a record has no {', '.join(missing)}; allowed: those of match_detections")
    for names in (DETECTION_FIELDS, TARGET_FIELDS):
        lengths = {name: len(record[name]) for name in names}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"lists of a record have lengths {lengths}; allowed: one length")
    scores, count = record["detection_score"], len(record["target_cass_id"])
    if not all(0 <= score <= 1 for score in scores):
        raise ValueError(f"detection_score is {scores}; allowed: numbers from 0 to 1")
    for kind in KINDS:
        hits = [hit for hit in record[f"detection_{kind}"] if hit not in (FALSE_POSITIVE, IGNORED)]
        if len(set(hits)) < len(hits) or not set(hits) <= set(range(count)):
            raise ValueError(f"detection_{kind} is {record[f'detection_{kind}']}; allowed: {FALSE_POSITIVE}, "
                             f"{IGNORED}, and the index of each of the {count} targets once")
    found = dict(zip(record["detection_point"], scores, strict=True))
    return np.array([found.get(index, -math.inf) for index in range(count)], np.float64)


def _column(records: Sequence[Mapping], table, name: str) -> list:
    """A column of the table, a value for each record."""
    if name not in table:
        raise ValueError(f"the table has no column {name}; allowed: the table whose rows the records name")
    values, rows = table[name].tolist(), [record.get("row") for record in records]
    strange = [row for row in rows if row not in range(len(values))]
    if strange:
        raise ValueError(f"row {strange[0]} of a record; allowed: 0 to {len(values) - 1}, rows of the table")
    return [values[int(row)] for row in rows]


def _scorer(pool: _Pool, threshold: float, final: np.ndarray) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """See `detection_scorer`; final: bool (n,), the phase."""
    curves, shares = {kind: _hit_curve(pool, kind) for kind in KINDS}, _shares(pool, threshold, final)

    def score(drawn: np.ndarray) -> dict[str, np.ndarray]:
        """Scores (R,) by name, of frames drawn so many times (R, n)."""
        scores = {name: ratio(drawn @ part, drawn @ whole) for name, (part, whole) in shares.items()}
        without = drawn @ pool.targets() == 0
        for kind in KINDS:
            scores[f"f1_{kind}"][without] = np.nan  # a false positive alone would make it 0
        return _curve_scores(pool, curves, drawn) | _medians(pool, threshold, drawn) | scores

    return score


def _hit_curve(pool: _Pool, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores (G,) of detections that hit, from the highest down, and how many true and false positives (n, G)
    each frame has from each of these scores on.

    At no other score do recall and F1 rise, and hits are few beside detections: sums over any draw of frames
    are products of small matrices.
    """
    hit = pool.hit[kind]
    steps = np.unique(pool.score[hit >= 0])[::-1]
    step = np.searchsorted(-steps, -pool.score)  # the first one at which a detection counts
    counts = np.zeros((2, pool.frames, len(steps) + 1))
    for count, counted in zip(counts, (hit >= 0, hit == FALSE_POSITIVE), strict=True):
        np.add.at(count, (pool.frame[counted], step[counted]), 1)
    true, false = counts.cumsum(axis=2)[..., :-1]
    return steps, true, false


def _best_threshold(pool: _Pool, steps: np.ndarray, true: np.ndarray, false: np.ndarray) -> float:
    targets = len(pool.target_frame)
    if targets == 0 or len(pool.score) == 0:
        return math.nan
    if len(steps) == 0:
        return float(pool.score.max())  # F1 is 0 at every score
    tp, fp = true.sum(axis=0), false.sum(axis=0)
    return float(steps[np.argmax(2 * tp / (tp + fp + targets))])


def _shares(pool: _Pool, threshold: float, final: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return {name: (part, whole)}, (n,) each; a score at the threshold is sum of parts / sum of wholes.

    final: bool (n,), the phase.
    """
    above, targets, shares = pool.score >= threshold, pool.targets(), {}
    undecided = math.isnan(threshold) and len(pool.score) > 0  # no target to choose a threshold by
    frames = np.full(pool.frames, not undecided)
    for kind, recall, rate in (("iou50", "recall_iou50", "fp_per_frame_iou50"),
                               ("point", "sensitivity_point", "fp_per_frame")):
        tp = pool.detections(above & (pool.hit[kind] >= 0))
        fp = pool.detections(above & (pool.hit[kind] == FALSE_POSITIVE))
        shares |= {f"f1_{kind}": (2 * tp, tp + fp + targets), f"precision_{kind}": (tp, tp + fp),
                   recall: (tp, targets), rate: (fp, frames)}
    empty = frames & (targets == 0)
    shares |= {f"fp_per_frame_{name}": (fp * chosen, chosen)  # by point, the last kind
               for name, chosen in (("without_target", empty), ("final", empty & final))}
    error = pool.errors["stenosis_error_points"]
    measured = above & ~np.isnan(error)
    shares |= {name: (pool.detections(measured, values), pool.detections(measured))
               for name, values in (("ds_mae_points", np.abs(error)), ("ds_bias_points", error))}
    found = pool.found_at >= threshold
    return shares | {f"sensitivity_{name}": (pool.targets(found & members), pool.targets(members))
                     for name, members in _strata(pool).items()}


def _strata(pool: _Pool) -> dict[str, np.ndarray]:
    """The targets, bool (T,), of each grade, each artery, and each segment that has any."""
    grades = np.array([grade_of(stenosis) for stenosis in pool.stenosis_pct], int)
    arteries = np.array([SEGMENTS[one].artery if one else "" for one in pool.cass_id.tolist()], str)
    names = [re.sub("[^a-z]", "", grade.name.lower()) for grade in GRADES]
    segments = np.unique(pool.cass_id[pool.cass_id > 0]).tolist()
    return {
        **{f"grade_{name}": grades == index for index, name in enumerate(names)},
        **{f"artery_{artery}": arteries == artery for artery in ARTERIES},
        **{f"segment_{cass_id}": pool.cass_id == cass_id for cass_id in segments},
    }


def _medians(pool: _Pool, threshold: float, drawn: np.ndarray) -> dict[str, np.ndarray]:
    """Medians (R,) of distances of the hits at the threshold, each as often as its frame was drawn (R, n)."""
    medians = {}
    for unit in ("mm", "px"):
        error = pool.errors[f"point_error_{unit}"]
        order = np.argsort(error, kind="stable")
        order = order[((pool.score >= threshold) & ~np.isnan(error))[order]]
        # An end that is never reached, so that the middle of nothing is nan.
        ordered = np.append(error[order], np.nan)
        total = drawn @ pool.detections(order)
        seen = np.column_stack([drawn[:, pool.frame[order]].cumsum(axis=1), np.full(len(drawn), np.inf)])
        middle = [(seen > place[:, None]).argmax(axis=1) for place in ((total - 1) // 2, total // 2)]
        medians[f"mld_point_error_{unit}_median"] = np.mean([ordered[place] for place in middle], axis=0)
    return medians


def _curve_scores(pool: _Pool, curves: Mapping[str, tuple], drawn: np.ndarray) -> dict[str, np.ndarray]:
    """Scores (R,) over all thresholds, of frames drawn so many times (R, n); curves: of `_hit_curve`."""
    _, true, false = curves["iou50"]
    hits = drawn @ true
    precision = np.nan_to_num(ratio(hits, hits + drawn @ false))
    interpolated = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    area = (np.diff(hits, axis=1, prepend=0) * interpolated).sum(axis=1)
    return {
        "detections_per_frame": drawn @ pool.detections(np.s_[:]) / drawn.sum(axis=1),
        "ap_iou50": ratio(area, drawn @ pool.targets()),
        "sensitivity_at_1fp": _sensitivity_at(pool, [1], *curves["point"][1:], drawn)[:, 0],
        "sensitivity_at_1fp_iou50": _sensitivity_at(pool, [1], true, false, drawn)[:, 0],
    }


def _sensitivity_at(
    pool: _Pool, rates: Sequence[float], true: np.ndarray, false: np.ndarray, drawn: np.ndarray
) -> np.ndarray:
    """The highest sensitivity (R, k) with at most so many false positives a frame (k,); rest as above."""
    hits, per_frame = drawn @ true, drawn @ false / drawn.sum(axis=1, keepdims=True)
    best = [np.where(per_frame <= rate, hits, 0).max(axis=1, initial=0) for rate in rates]
    return ratio(np.stack(best, axis=1), (drawn @ pool.targets())[:, None])


def _check_threshold(threshold: float) -> None:
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold {threshold}; allowed: a score from 0 to 1, or None: choose it here")


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind of hit {kind!r}; allowed: {', '.join(KINDS)}")


