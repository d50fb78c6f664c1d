"""Scores of detections: every metric against plain loops and by hand; frames without things."""

import json
import math

import cv2
import numpy as np
import pandas as pd
import pytest

from data.cass import SEGMENTS
from data.obstructions import GRADES
from tests.obstruction_objects import NAN, detection, drawn_objects, target
from utils.history import to_json
from utils.metrics import BOOTSTRAP_RESAMPLES, BOOTSTRAP_SEED
from utils.obstructions.froc import save_froc
from utils.obstructions.matching import FALSE_POSITIVE, match_detections
from utils.obstructions.scores import froc_curve, froc_interval, summarise_detections

GRADE_NAMES = ("minimal", "mild", "moderate", "severe", "subtotal")


def drawn_records(seed, frames=9, patients=5):
    """Records of frames in order, and their table: some without targets, some detections ignored."""
    rng = np.random.default_rng(seed)
    known = rng.random((90, 90)) > 0.2
    records = [{"row": row, **match_detections(*drawn_objects(rng), known)} for row in range(frames)]
    table = pd.DataFrame({
        "patient_id": [f"p{number}" for number in rng.integers(0, patients, frames)],
        "phase": rng.choice(["PRE", "FINAL", "EVENT"], frames),
    })
    return records, table


def over(part, whole):
    return part / whole if whole else NAN


def naive_counts(records, kind, threshold):
    true = false = 0
    for record in records:
        for score, hit in zip(record["detection_score"], record[f"detection_{kind}"], strict=True):
            true += score >= threshold and hit >= 0
            false += score >= threshold and hit == FALSE_POSITIVE
    return true, false


def scores_of(records):
    return sorted({score for record in records for score in record["detection_score"]}, reverse=True)


def number_of_targets(records):
    return sum(len(record["target_cass_id"]) for record in records)


def naive_f1(records, kind, threshold):
    true, false = naive_counts(records, kind, threshold)
    missed = number_of_targets(records) - true
    return over(2 * true, 2 * true + false + missed) if true + missed else NAN


def naive_threshold(records):
    """The score with the best F1; the first, so the highest, of equal ones."""
    return max(scores_of(records), key=lambda score: naive_f1(records, "iou50", score))


def naive_ap(records):
    points, total = [], number_of_targets(records)
    for score in scores_of(records):
        true, false = naive_counts(records, "iou50", score)
        points.append((over(true, total), over(true, true + false)))
    area, reached = 0.0, 0.0
    for recall, _ in points:
        precisions = [own for at, own in points if at >= recall and not math.isnan(own)]
        area += (recall - reached) * max(precisions, default=0)
        reached = recall
    return area if total else NAN


def naive_sensitivity(records, kind, rate):
    """The highest sensitivity with at most so many false positives a frame."""
    counts = [naive_counts(records, kind, score) for score in [2.0, *scores_of(records)]]
    found = max(true for true, false in counts if false <= rate * len(records))
    return over(found, number_of_targets(records))


def naive_errors(records, name, threshold):
    return [error for record in records
            for score, error in zip(record["detection_score"], record[f"detection_{name}"], strict=True)
            if score >= threshold and not math.isnan(error)]


def naive_stratum(records, threshold, belongs):
    """Sensitivity by point among the targets that belong by %DS and CASS number, and how many they are."""
    found = of = 0
    for record in records:
        hits = [hit for hit, score in zip(record["detection_point"], record["detection_score"], strict=True)
                if score >= threshold]
        targets = zip(record["target_stenosis_pct"], record["target_cass_id"], strict=True)
        for index, values in enumerate(targets):
            of += belongs(*values)
            found += belongs(*values) and index in hits
    return over(found, of), of


def naive_scores(records, phases, threshold):
    """Every score of `summarise_detections` but `threshold`, by loops; phases: of each record."""
    total, scores = number_of_targets(records), {}
    for kind, recall, rate in (("iou50", "recall_iou50", "fp_per_frame_iou50"),
                               ("point", "sensitivity_point", "fp_per_frame")):
        true, false = naive_counts(records, kind, threshold)
        scores |= {f"f1_{kind}": naive_f1(records, kind, threshold), recall: over(true, total),
                   f"precision_{kind}": over(true, true + false), rate: false / len(records)}
    pairs = list(zip(records, phases, strict=True))
    empty = [record for record, _ in pairs if not record["target_cass_id"]]
    final = [record for record, phase in pairs if not record["target_cass_id"] and phase == "FINAL"]
    for name, chosen in (("without_target", empty), ("final", final)):
        scores[f"fp_per_frame_{name}"] = over(naive_counts(chosen, "point", threshold)[1], len(chosen))
    for unit in ("mm", "px"):
        errors = naive_errors(records, f"point_error_{unit}", threshold)
        scores[f"mld_point_error_{unit}_median"] = np.median(errors) if errors else NAN
    errors = naive_errors(records, "stenosis_error_points", threshold)
    scores |= {"ds_mae_points": over(sum(map(abs, errors)), len(errors)),
               "ds_bias_points": over(sum(errors), len(errors)),
               "ap_iou50": naive_ap(records),
               "sensitivity_at_1fp": naive_sensitivity(records, "point", 1),
               "sensitivity_at_1fp_iou50": naive_sensitivity(records, "iou50", 1),
               "detections_per_frame": sum(len(one["detection_score"]) for one in records) / len(records)}
    ends = [*(grade.from_pct for grade in GRADES[1:]), math.inf]
    strata = {f"grade_{name}": lambda stenosis, _, low=grade.from_pct, high=high: low <= stenosis < high
              for name, grade, high in zip(GRADE_NAMES, GRADES, ends, strict=True)}
    strata |= {f"artery_{own}": lambda _, cass_id, own=own: cass_id > 0 and SEGMENTS[cass_id].artery == own
               for own in ("RCA", "LM", "LAD", "LCX", "Ramus")}
    strata |= {f"segment_{own}": lambda _, cass_id, own=own: cass_id == own for own in (2, 11, 13, 19)}
    for name, belongs in strata.items():
        found, of = naive_stratum(records, threshold, belongs)
        scores |= {f"sensitivity_{name}": found, f"n_targets_{name}": of}
    return scores


@pytest.mark.parametrize("seed", range(12))
def test_every_score_is_that_of_plain_loops(seed):
    records, table = drawn_records(seed, frames=40, patients=12)
    chosen = naive_threshold(records)
    for threshold in (None, 0.35, 1.0, 0.0):
        summary = summarise_detections(records, table, threshold)
        assert summary["threshold"] == (chosen if threshold is None else threshold)
        expected = naive_scores(records, table["phase"], summary["threshold"])
        extra = {"threshold", "n_targets", "n_frames", "n_patients"}
        assert {name for name in summary if not name.endswith("_ci95")} - extra == set(expected)
        for name, value in expected.items():
            assert summary[name] == pytest.approx(value, nan_ok=True), name
    assert summary["n_targets"] == number_of_targets(records) and summary["n_frames"] == 40
    assert summary["n_patients"] == table["patient_id"].nunique()


def test_intervals_are_those_of_really_resampled_patients():
    records, table = drawn_records(seed=3)
    summary = summarise_detections(records, table)
    names = [name.removesuffix("_ci95") for name in summary if name.endswith("_ci95")]
    patients = np.unique(table["patient_id"])
    of_patient = {name: [record for record in records if table["patient_id"][record["row"]] == name]
                  for name in patients}
    rng, draws = np.random.default_rng(BOOTSTRAP_SEED), []
    for drawn in rng.integers(0, len(patients), size=(BOOTSTRAP_RESAMPLES, len(patients))):
        resample = [record for number in drawn for record in of_patient[patients[number]]]
        phases = [table["phase"][record["row"]] for record in resample]
        draws.append(naive_scores(resample, phases, summary["threshold"]))
    for name in names:
        values = np.array([draw[name] for draw in draws])
        expected = np.nanpercentile(values, (2.5, 97.5)) if not np.isnan(values).all() else [NAN, NAN]
        assert summary[f"{name}_ci95"] == pytest.approx(list(expected), nan_ok=True), name
    assert summary["ap_iou50_ci95"][0] < summary["ap_iou50"] < summary["ap_iou50_ci95"][1]
    rates = [0.0, 0.5, 1.0]
    band = froc_interval(records, table, "point", rates)
    assert band[2].tolist() == summary["sensitivity_at_1fp_ci95"]
    assert (np.diff(band, axis=0) >= 0).all()


@pytest.mark.parametrize("kind", ["iou50", "point"])
def test_the_froc_curve_is_that_of_plain_loops(kind):
    records, _ = drawn_records(seed=5, frames=30)
    rate, sensitivity = froc_curve(records, kind)
    expected = [naive_counts(records, kind, score) for score in [2.0, *scores_of(records)]]
    assert rate == pytest.approx([false / 30 for _, false in expected])
    assert sensitivity == pytest.approx([true / number_of_targets(records) for true, _ in expected])


def test_the_order_of_records_does_not_matter():
    records, table = drawn_records(seed=8, frames=20)
    summary, shuffled = (summarise_detections(some, table) for some in (records, records[::-1]))
    assert list(summary) == list(shuffled)
    for name, value in summary.items():
        assert shuffled[name] == pytest.approx(value, nan_ok=True), name
    np.testing.assert_array_equal(froc_curve(records, "point"), froc_curve(records[::-1], "point"))


def by_hand():
    """Four frames of three patients, with three targets of two segments:

    a, PRE: targets of 55 %DS (CASS 13) and 80 %DS (CASS 2), hit by box and point at 0.9 and 0.6; a false one
    at 0.7. b, PRE: a target of 99 %DS (segment unknown), hit by point alone at 0.8: by box, a false one.
    b, FINAL: a false one at 0.7. c, FINAL: nothing.
    """
    one, other = target(stenosis_pct=55.0), target((40, 40, 60, 60), (50, 50), 80.0, 2, NAN)
    first = [detection(0.9, point=(23, 24), stenosis_pct=65), detection(0.7, (1, 1, 3, 3), (2, 2)),
             detection(0.6, (40, 40, 60, 60), (51, 50), 76)]
    third = target(stenosis_pct=99.0, cass_id=0, px_per_mm=2.0)
    frames = [(first, [one, other]), ([detection(0.8, (18, 18, 22, 22), (20, 17), 99)], [third]),
              ([detection(0.7, (1, 1, 3, 3), (2, 2))], []), ([], [])]
    records = [{"row": row, **match_detections(*frame)} for row, frame in enumerate(frames)]
    table = pd.DataFrame({"patient_id": ["a", "b", "b", "c"], "phase": ["PRE", "PRE", "FINAL", "FINAL"]})
    return records, table


def test_a_case_by_hand():
    records, table = by_hand()
    summary = summarise_detections(records, table)
    # By box, true and false from each score on: 0.9: 1, 0; 0.8: 1, 1; 0.7: 1, 3; 0.6: 2, 3; of three targets.
    # F1: 2/4, 2/5, 2/7, 4/8; of the two best scores the higher is chosen.
    assert summary["threshold"] == 0.9
    assert summary["f1_iou50"] == summary["f1_point"] == pytest.approx(0.5)
    assert summary["precision_iou50"] == 1 and summary["recall_iou50"] == pytest.approx(1 / 3)
    assert summary["ap_iou50"] == pytest.approx(1 / 3 * 1 + 1 / 3 * 2 / 5)
    assert summary["fp_per_frame"] == summary["fp_per_frame_iou50"] == 0
    assert summary["mld_point_error_px_median"] == pytest.approx(5)
    assert summary["sensitivity_at_1fp"] == 1  # two false ones in four frames
    assert summary["sensitivity_at_1fp_iou50"] == pytest.approx(2 / 3)  # three
    summary = summarise_detections(records, table, threshold=0.65)
    assert summary["f1_iou50"] == pytest.approx(2 / 7) and summary["f1_point"] == pytest.approx(4 / 7)
    assert summary["precision_iou50"] == pytest.approx(1 / 4)
    assert summary["precision_point"] == pytest.approx(2 / 4)
    assert summary["sensitivity_point"] == pytest.approx(2 / 3)
    assert summary["fp_per_frame"] == pytest.approx(2 / 4)
    assert summary["fp_per_frame_iou50"] == pytest.approx(3 / 4)
    assert summary["fp_per_frame_without_target"] == summary["fp_per_frame_final"] == pytest.approx(1 / 2)
    assert summary["mld_point_error_px_median"] == pytest.approx((5 + 3) / 2)
    assert summary["mld_point_error_mm_median"] == pytest.approx((5 / 5 + 3 / 2) / 2)
    assert summary["ds_mae_points"] == summary["ds_bias_points"] == pytest.approx((10 + 0) / 2)
    grades = [summary[f"sensitivity_grade_{name}"] for name in GRADE_NAMES]
    assert grades == pytest.approx([NAN, NAN, 1, 0, 1], nan_ok=True)
    assert [summary[f"n_targets_grade_{name}"] for name in GRADE_NAMES] == [0, 0, 1, 1, 1]
    assert (summary["sensitivity_artery_LAD"], summary["sensitivity_artery_RCA"]) == (1, 0)
    assert (summary["sensitivity_segment_13"], summary["sensitivity_segment_2"]) == (1, 0)
    assert {name for name in summary if name.startswith("n_targets_segment")} == {
        "n_targets_segment_13", "n_targets_segment_2"}
    summary = summarise_detections(records, table, threshold=0.6)
    assert summary["sensitivity_point"] == 1
    assert summary["ds_mae_points"] == pytest.approx((10 + 0 + 4) / 3)
    assert summary["ds_bias_points"] == pytest.approx((10 + 0 - 4) / 3)
    assert summary["mld_point_error_mm_median"] == pytest.approx(1.25)  # the third hit's scale is unknown
    assert summary["mld_point_error_px_median"] == pytest.approx(3)
    assert (summary["n_targets"], summary["n_frames"], summary["n_patients"]) == (3, 4, 3)
    rate, sensitivity = froc_curve(records, "point")
    assert rate == pytest.approx([0, 0, 0, 0.5, 0.5])
    assert sensitivity == pytest.approx([0, 1 / 3, 2 / 3, 2 / 3, 1])


def test_equal_scores_come_together_whatever_their_order():
    wrong = detection(0.5, (50, 50, 60, 60), (55, 55))
    for frames in ([[detection(0.5)], [wrong]], [[wrong], [detection(0.5)]]):
        records = [{"row": row, **match_detections(found, [target()])} for row, found in enumerate(frames)]
        table = pd.DataFrame({"patient_id": ["a", "b"], "phase": ["PRE", "PRE"]})
        assert summarise_detections(records, table)["ap_iou50"] == pytest.approx(1 / 2 * 1 / 2)
        assert froc_curve(records, "iou50")[0].tolist() == [0, 0.5]


def test_records_survive_json():
    records, table = by_hand()
    summary, again = (summarise_detections(some, table) for some in (
        records, [json.loads(to_json(record)) for record in records]))  # nan becomes null
    for name, value in summary.items():
        assert again[name] == pytest.approx(value, nan_ok=True), name


def frames_of(*frames):
    records = [{"row": row, **match_detections(*frame)} for row, frame in enumerate(frames)]
    return records, pd.DataFrame({"patient_id": range(len(frames)), "phase": ["FINAL"] * len(frames)})


def test_without_a_target_what_needs_one_is_not_defined(tmp_path):
    records, table = frames_of(([detection(0.9)], []), ([], []))
    summary = summarise_detections(records, table)
    defined = {name for name, value in summary.items() if np.isfinite(value).all()}
    assert {name for name in defined if not name.startswith("n_")} == {
        "detections_per_frame", "detections_per_frame_ci95"}
    assert summary["n_targets"] == 0
    summary = summarise_detections(records, table, threshold=0.5)
    assert math.isnan(summary["f1_iou50"]) and math.isnan(summary["ap_iou50"])
    assert summary["fp_per_frame"] == summary["fp_per_frame_final"] == 0.5 and summary["precision_iou50"] == 0
    assert np.isnan(froc_curve(records, "point")[1]).all()
    assert np.isnan(froc_interval(records, table, "point", [0.5, 1])).all()
    save_froc(tmp_path / "froc.png", records, table, title="none")
    assert cv2.imread(str(tmp_path / "froc.png")) is not None


def test_without_a_detection_all_is_missed(tmp_path):
    records, table = frames_of(([], [target()]), ([], []))
    summary = summarise_detections(records, table)
    zero = ("f1_iou50", "recall_iou50", "ap_iou50", "f1_point", "sensitivity_at_1fp", "fp_per_frame_final",
            "sensitivity_artery_LAD", "sensitivity_grade_moderate", "detections_per_frame")
    assert [summary[name] for name in zero] == [0] * len(zero)
    undefined = ("threshold", "precision_iou50", "ds_mae_points", "mld_point_error_px_median")
    assert all(math.isnan(summary[name]) for name in undefined)
    assert [curve.tolist() for curve in froc_curve(records, "iou50")] == [[0], [0]]
    save_froc(tmp_path / "froc.png", records, table, title="none")
    assert cv2.imread(str(tmp_path / "froc.png")) is not None


def test_with_neither_nothing_is_found_and_nothing_is_false():
    summary = summarise_detections(*frames_of(([], []), ([], [])))
    assert summary["fp_per_frame"] == summary["detections_per_frame"] == 0
    assert math.isnan(summary["f1_iou50"]) and math.isnan(summary["threshold"])


def test_without_a_hit_the_surest_detection_is_the_threshold():
    summary = summarise_detections(*frames_of(([detection(0.3, (1, 1, 3, 3), (2, 2))], [target()]), ([], [])))
    assert (summary["threshold"], summary["f1_iou50"], summary["ap_iou50"]) == (0.3, 0, 0)
    assert summary["fp_per_frame"] == 0.5


def test_records_that_do_not_fit_are_refused():
    records, table = by_hand()
    with pytest.raises(ValueError, match="at least one frame"):
        summarise_detections([], table)
    with pytest.raises(ValueError, match=r"threshold nan; allowed: a score from 0 to 1"):
        summarise_detections(records, table, threshold=NAN)
    with pytest.raises(ValueError, match="no column phase"):
        summarise_detections(records, table[["patient_id"]])
    for row in (4, -1, None, 0.5):
        with pytest.raises(ValueError, match=f"row {row} of a record; allowed: 0 to 3"):
            summarise_detections([{**records[0], "row": row}], table)
    with pytest.raises(ValueError, match="has no target_cass_id"):
        froc_curve([{name: value for name, value in records[0].items() if name != "target_cass_id"}], "point")
    with pytest.raises(ValueError, match="allowed: one length"):
        froc_curve([{**records[0], "detection_score": [0.5]}], "point")
    for hits in ([0, 0, -1], [0, 2, -1], [0, -3, 1]):
        with pytest.raises(ValueError, match=r"allowed: -1, -2, and the index of each of the 2 targets once"):
            froc_curve([{**records[0], "detection_point": hits}], "point")
    with pytest.raises(ValueError, match="detection_score is .*; allowed: numbers from 0 to 1"):
        froc_curve([{**records[0], "detection_score": [0.9, NAN, 0.6]}], "point")
    with pytest.raises(ValueError, match="kind of hit 'iou'; allowed: iou50, point"):
        froc_curve(records, "iou")


def test_the_picture_shows_the_curves_and_the_threshold(tmp_path):
    records, table = drawn_records(seed=2, frames=20)
    pictures = []
    for threshold in (0.9, 0.1):
        save_froc(tmp_path / "froc.png", records, table, title="validation", threshold=threshold)
        pictures.append(cv2.imread(str(tmp_path / "froc.png")))
    assert min(pictures[0].shape[:2]) > 500 and pictures[0].std() > 10
    assert not np.array_equal(*pictures)
    assert [path.name for path in tmp_path.iterdir()] == ["froc.png"]
