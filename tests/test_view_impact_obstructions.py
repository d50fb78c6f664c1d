"""test_view_angle_impact.py with a phase 3 checkpoint: how far what is found depends on the angles, and how sure."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

import test_view_angle_impact as tool
from data.cine import read_frame
from data.obstructions import obstruction_of_row
from data.schema import load_table
from models.loading import STAGES
from models.obstruction_model import ObstructionOutput, build_obstruction_model
from models.view_encoder import CategoricalViewEncoder
from tests.obstruction_fixture import STENOSIS_PCT, write_obstruction_dataset
from utils.obstructions.comparison import compare_detections
from utils.obstructions.matching import Detection, Target, match_detections
from utils.obstructions.scores import summarise_detections
from utils.obstructions.search import ScoreThreshold, Wanted
from utils.prediction import network_image
from utils.view_impact.obstructions import (
    SAME_MARKS,
    STENOSIS_CHANGE,
    DetectingModel,
    compare_marks,
    find_most_changed,
    summarise_marks,
)
from utils.view_impact.obstructions_words import certainty, judge_level, lesions_in_frames
from utils.view_impact.vessels import CONDITIONS

CPU = torch.device("cpu")
SIDE = 32  # px of the network's picture, 8 x 8 cells
FOUND_PCT = STENOSIS_PCT + 5


@pytest.fixture(scope="module")
def csv_path(tmp_path_factory):
    shape = dict(patients=7, val_patients=6, rows_per_patient=2, size=64, frames=1)
    return write_obstruction_dataset(tmp_path_factory.mktemp("data"), **shape)


class FakeDetector(torch.nn.Module):
    """Knows the frames by their mean grey and finds the annotated lesion of each with `score`.

    reads_angle: only when it is told the frame's own primary angle; told another one, or none, it finds something in
    the upper right corner instead. vessels: everything, or with reads_angle only at the own angle.
    """

    def __init__(self, csv_path, *, reads_angle, use_view=True, score=0.6, finds=True):
        super().__init__()
        self.view_encoder = CategoricalViewEncoder() if use_view else None
        self.reads_angle, self.score, self.finds, self.encoded = reads_angle, score, finds, 0
        rows = [row for _, row in load_table(csv_path, None, [], "val").iterrows()]
        frames = [read_frame(row["cine_path"], row["frame_index"]) for row in rows]
        self.greys = torch.stack([network_image(frame, SIDE).mean() for frame in frames])
        self.known = [(obstruction_of_row(row), row["primary_angle"]) for row in rows]

    def encode_image(self, image):
        self.encoded += len(image)
        return {"image": image, "pyramid": [image]}

    def decode(self, features, view_deg):
        assert len(features["image"]) == len(view_deg)
        cells, count = SIDE // 4, len(view_deg)
        scores, places = torch.full((count, 1, cells, cells), -20.0), torch.zeros(count, 6, cells, cells)
        vessels = torch.full((count, 1, SIDE, SIDE), 9.0)
        for index, (image, view) in enumerate(zip(features["image"], view_deg, strict=True)):
            label, own_deg = self.known[int((self.greys - image.mean()).abs().argmin())]
            told = not self.reads_angle or abs(float(view[0]) - own_deg) < 1
            point, box = (np.array(label.mld_px), np.array(label.box_px)) if told else (
                np.array([56.0, 8.0]), np.array([52.0, 4.0, 60.0, 12.0]))
            (x, y), corners = (point + 0.5) / 8 - 0.5, (box + 0.5) / 8 - 0.5  # 8 px of the frame a cell
            column, row = round(x), round(y)
            if self.finds:
                scores[index, 0, row, column] = math.log(self.score / (1 - self.score))
            sides = column - corners[0], row - corners[1], corners[2] - column, corners[3] - row
            places[index, :, row, column] = torch.tensor([x - column, y - row, *sides])
            vessels[index] *= 1 if told else -1
        stenosis = torch.full((count, 1, cells, cells), FOUND_PCT / 100)
        return ObstructionOutput(vessels, scores, places[:, :2], places[:, 2:], stenosis)


def run_tool(csv_path, tmp_path, monkeypatch, model, *flags, other=None, metrics=None, other_of=None, draw=False):
    """What the tool writes as JSON; without draw it makes no figure, which takes seconds."""
    def load_model(path, device):
        is_other = path.name == "other.pth"
        checkpoint = {"stage": "phase3_obstruction", "metrics": {"threshold": 0.5} if metrics is None else metrics,
                      "config": {"image_size": SIDE, "backbone": "fake", "threshold_pct": 30.0}}
        if is_other and other_of:
            checkpoint |= other_of
        return (other if is_other else model).eval(), checkpoint

    (tmp_path / "weights.pth").write_bytes(b"weights")
    monkeypatch.setattr(tool, "load_model", load_model)
    if not draw:
        monkeypatch.setattr(tool, "draw_obstructions_impact", lambda *_: None)
        monkeypatch.setattr(tool, "save_figure_atomic", lambda *_: None)
    tool.main(["--data-csv", str(csv_path), "--checkpoint", str(tmp_path / "weights.pth"), "--grid-frames", "2",
               "--out", str(tmp_path / "out"), *flags])
    return json.loads((tmp_path / "out" / "view_angle_impact.json").read_text(encoding="utf-8"))


def test_detector_that_ignores_the_angles_differs_by_exactly_nothing(csv_path, tmp_path, monkeypatch, capsys):
    model = FakeDetector(csv_path, reads_angle=False)
    record = run_tool(csv_path, tmp_path, monkeypatch, model, draw=True)
    assert record["verdict"]["level"] == "nearly blind"
    for kind in ("annotated", "truth"):
        for name, conditions in record["detections"][kind].items():
            for condition in CONDITIONS:
                assert conditions[condition]["minus_true"] == 0, (kind, name, condition)
                assert conditions[condition]["minus_true_ci95"] == [0, 0]
    annotated = record["detections"]["annotated"]
    assert annotated["sensitivity_point"]["true"]["mean"] == annotated["f1_iou50"]["true"]["mean"] == 1
    assert annotated["ds_mae_points"]["shuffled"]["mean"] == pytest.approx(5, abs=1e-3)
    # Of the two true lesions of a frame one is annotated.
    assert record["detections"]["truth"]["sensitivity_point"]["true"]["mean"] == 0.5
    assert record["counts"]["truth"]["n_targets"] == 2 * record["counts"]["annotated"]["n_targets"]
    assert {one["mean"] for one in record["changes"][SAME_MARKS].values()} == {1}
    assert record["changes"]["own"]["shuffled"]["mean"] == 1 and record["grid"][f"least_{SAME_MARKS}"] == 1
    assert record["score_threshold"] == 0.5 and record["threshold_pct"] == 30
    said = capsys.readouterr().out
    assert "nearly blind to the view angles" in said and "no difference at all" in said
    assert "better with the true angles" not in said
    assert (tmp_path / "out" / "view_angle_impact.png").stat().st_size > 50_000
    assert model.encoded == record["n_frames"]  # each frame once, however many angles


def test_detector_that_lives_on_the_angle_is_caught(csv_path, tmp_path, monkeypatch, capsys):
    record = run_tool(csv_path, tmp_path, monkeypatch, FakeDetector(csv_path, reads_angle=True))
    found = record["detections"]["annotated"]["sensitivity_point"]
    assert record["verdict"]["level"] == "sensitive"
    assert found["true"]["mean"] == found["primary only"]["mean"] == 1 > found["shuffled"]["mean"]
    assert found["secondary only"]["mean"] == found["unknown"]["mean"] == 0
    assert found["shuffled"]["minus_true"] == pytest.approx(found["shuffled"]["mean"] - 1)
    assert found["shuffled"]["minus_true_ci95"][1] < 0
    shares, errors = record["changes"][SAME_MARKS], record["detections"]["annotated"]["ds_mae_points"]
    assert shares["true"]["mean"] == 1 > shares["shuffled"]["mean"] and shares["unknown"]["mean"] == 0
    assert errors["unknown"]["mean"] is None  # nothing hit, so no error
    assert record["changes"]["own"]["unknown"]["mean"] == 0  # the vessel masks are turned inside out
    assert record["grid"][f"least_{SAME_MARKS}"] == 0
    said = capsys.readouterr().out
    assert "Verdict: what is found is sensitive to the view angles; the true angles change F1" in said
    assert "better with the true angles" in said


def test_score_that_is_never_reached_is_said(csv_path, tmp_path, monkeypatch, capsys):
    """Without a validation 0.5 counts; the detector reaches 0.4."""
    model = FakeDetector(csv_path, reads_angle=True, score=0.4)
    record = run_tool(csv_path, tmp_path, monkeypatch, model, metrics={}, draw=True)  # of nan, too
    assert record["verdict"]["level"] == "nothing found" and record["score_threshold"] == 0.5
    assert "No detection reaches the score" in capsys.readouterr().out
    again = run_tool(csv_path, tmp_path, monkeypatch, model, metrics={"threshold": 0.3})
    assert again["verdict"]["level"] == "sensitive"


def test_detector_without_view_is_said_to_be_blind(csv_path, tmp_path, monkeypatch):
    record = run_tool(csv_path, tmp_path, monkeypatch, FakeDetector(csv_path, reads_angle=False, use_view=False))
    assert record["verdict"]["level"] == "blind" and "detections" not in record


def test_models_with_and_without_view_are_compared(csv_path, tmp_path, monkeypatch, capsys):
    other = FakeDetector(csv_path, reads_angle=False, use_view=False, finds=False)
    record = run_tool(csv_path, tmp_path, monkeypatch, FakeDetector(csv_path, reads_angle=True), "--compare",
                      str(tmp_path / "other.pth"), other=other)
    compared = record["compared"]["annotated"]["sensitivity_point"]
    assert (compared["this"]["mean"], compared["other"]["mean"], compared["this"]["minus_other"]) == (1, 0, 1)
    assert compared["this"]["minus_other_ci95"] == [1, 1] and set(record["compared"]) == {"annotated", "truth"}
    assert "sensitivity 1.000 and 0.000" in (said := capsys.readouterr().out) and "this one is better" in said


@pytest.mark.parametrize("other_of, says", [
    ({"stage": "phase2_cass"}, "allowed is 'phase3_obstruction'"),
    ({"config": {"image_size": SIDE, "threshold_pct": 70.0}}, "from 70 %DS on"),
])
def test_models_that_cannot_be_compared_are_refused(csv_path, tmp_path, monkeypatch, capsys, other_of, says):
    model = FakeDetector(csv_path, reads_angle=False)
    with pytest.raises(SystemExit) as stopped:
        run_tool(csv_path, tmp_path, monkeypatch, model, "--compare", str(tmp_path / "other.pth"), other=model,
                 other_of=other_of)
    assert stopped.value.code == 1 and says in capsys.readouterr().err


def test_every_stage_that_names_or_finds_can_be_measured():
    assert set(tool.RUN_STAGE) == set(tool.DEFAULT_LIMIT) == set(STAGES) - {"phase4_quantitative"}


def test_real_model_is_looked_at_several_views():
    """Its fusion is the identity at the start, so that it sees the same at all of them."""
    torch.manual_seed(0)
    model = build_obstruction_model(backbone="sam3-tiny", image_size=336, random_init=True).eval()
    detector = DetectingModel(model, 336, CPU, Wanted(ScoreThreshold(0.01, "test"), 50.0))
    frame = np.random.default_rng(0).integers(0, 255, (40, 48, 3), np.uint8)
    seen = detector.look(detector.encode(frame), np.array([(0, 0), (math.nan, 30)]))
    assert seen.vessels.shape == (2, 40, 48) and seen.scores.shape == (2, 84, 84) and len(seen.found) == 2
    np.testing.assert_allclose(seen.scores[0], seen.scores[1], atol=1e-6)


def mark(x, score=0.9, stenosis_pct=60.0):
    return Detection(score, (x - 5, 0, x + 5, 10), (x, 5), stenosis_pct)


def test_marks_are_the_same_where_they_lie_in_each_others_box():
    own = [mark(20), mark(60), mark(90)]
    assert compare_marks([mark(23, 0.4, 70.0), mark(130)], own) == (2, 5, 20)  # one pair, 10 points apart, both marks
    assert compare_marks([], []) == (0, 0, 0) and compare_marks([], own) == (0, 3, 0)
    assert compare_marks(own, own) == (6, 6, 0)


def test_shares_of_marks_are_those_of_all_frames_together():
    counts = np.zeros((3, len(CONDITIONS), 3))
    counts[:, CONDITIONS.index("true")] = (4, 4, 0), (2, 2, 0), (0, 0, 0)
    counts[:, CONDITIONS.index("shuffled")] = (4, 4, 8), (0, 1, 0), (0, 3, 0)  # the last frame had none of its own
    summary = summarise_marks(counts, ["a", "b", "c"])
    assert summary[SAME_MARKS]["true"]["mean"] == 1 and summary[SAME_MARKS]["shuffled"]["mean"] == 0.5
    assert summary[SAME_MARKS]["shuffled"]["minus_true"] == -0.5
    assert summary[STENOSIS_CHANGE]["shuffled"]["mean"] == 2
    assert math.isnan(summary[SAME_MARKS]["unknown"]["mean"])


def test_most_changed_view_is_found():
    from utils.view_impact.vessels import grid_views
    from utils.view_impact.obstructions import Seen, compare_over_grid
    detector = DetectingModel(None, SIDE, CPU, Wanted(ScoreThreshold(0.5, "test"), 50.0))
    found = [[mark(20)] for _ in range(82)]
    found[1 + 30] = [mark(80), mark(20, score=0.3)]  # the faint one does not count
    seen = Seen(np.ones((82, 4, 4), np.float32), np.zeros((82, 1, 1), np.float32), found)
    grid = compare_over_grid(detector, seen)
    changed = find_most_changed(detector, seen, grid)
    assert changed["share"] == 0 and changed["other_view_deg"].tolist() == grid_views()[30].tolist()
    assert changed["own"] == [mark(20)] and changed["other"] == [mark(80)] and changed["pairs"] == []


TARGET = Target((0, 0, 10, 10), (5, 5), 60.0, 13, 4.0)
HIT, MISS = [Detection(0.9, (0, 0, 10, 10), (5, 5), 65.0)], []


def record(row, hits):
    return {"row": row, **match_detections(HIT if hits else MISS, [TARGET])}


@pytest.fixture
def table():
    return pd.DataFrame({"patient_id": [f"p{row // 2}" for row in range(12)], "phase": "PRE"})


def test_scores_of_a_group_are_those_of_the_summary(table):
    table = table.assign(patient_id=[*5 * ["a"], *3 * ["b"], *2 * ["c"], "d", "e"])
    records = [record(row, row in (0, 1, 2, 3, 6, 11)) for row in range(12)]
    names = ["sensitivity_point", "f1_iou50", "ap_iou50", "ds_mae_points"]
    groups = {"true": records, "thrice": [one for one in records for _ in range(3)]}
    compared = compare_detections(groups, table, thresholds=0.5, reference="true", names=names)
    summary = summarise_detections(records, table, 0.5)
    for name in names:
        for group in groups:
            assert compared[name][group]["mean"] == pytest.approx(summary[name])
            assert compared[name][group]["ci95"] == pytest.approx(summary[f"{name}_ci95"])
        assert compared[name]["thrice"]["minus_true"] == pytest.approx(0)


def test_differences_are_paired_by_patient(table):
    """Each patient has two lesions. The one way finds one more than the other in each: that is certain, though how
    many are found is not."""
    one_more = [record(row, row % 2 == 0 or row < 6) for row in range(12)]
    fewer = [record(row, row % 2 == 0 and row < 6) for row in range(12)]
    compared = compare_detections({"true": one_more, "shuffled": fewer}, table, thresholds=0.5, reference="true",
                                  names=["sensitivity_point"])["sensitivity_point"]
    low, high = compared["shuffled"]["ci95"]
    assert high - low > 0.2
    assert compared["shuffled"]["minus_true"] == -0.5
    assert compared["shuffled"]["minus_true_ci95"] == pytest.approx([-0.5, -0.5])


def test_each_group_has_its_own_threshold(table):
    groups = {"this": [record(row, True) for row in range(4)], "other": [record(row, True) for row in range(4)]}
    compared = compare_detections(groups, table, thresholds={"this": 0.5, "other": 0.95}, reference="other",
                                  names=["sensitivity_point"])["sensitivity_point"]
    assert compared["this"]["minus_other"] == 1 and compared["other"]["mean"] == 0


def test_groups_of_other_rows_are_refused(table):
    with pytest.raises(ValueError, match="the same rows"):
        compare_detections({"true": [record(0, True)], "shuffled": [record(1, True)]}, table, thresholds=0.5,
                           reference="true", names=["f1_iou50"])


@pytest.mark.parametrize("gain, interval, less_is_better, says", [
    (0.1, (0.02, 0.2), False, "better with the true angles"),
    (-0.1, (-0.2, -0.02), False, "worse with the true angles"),
    (-3.0, (-5.0, -1.0), True, "better with the true angles"), (3.0, (1.0, 5.0), True, "worse with the true angles"),
    (0.1, (-0.02, 0.2), False, "not distinguishable from zero"), (0.0, (0.0, 0.0), False, "no difference at all"),
    (0.0, (0.0, 0.1), False, "not distinguishable from zero"), (math.nan, (math.nan, math.nan), False, "not defined"),
])
def test_words_say_how_sure_a_difference_is(gain, interval, less_is_better, says):
    assert certainty(gain, interval, less_is_better=less_is_better) == says


def test_one_frame_is_not_called_frames():
    assert lesions_in_frames({"n_targets": 1, "n_frames": 1}) == "1 lesion in 1 frame"
    assert lesions_in_frames({"n_targets": 0, "n_frames": 12}) == "0 lesions in 12 frames"


@pytest.mark.parametrize("share, level", [(1.0, "nearly blind"), (0.9, "slightly sensitive"), (0.5, "sensitive"),
                                          (math.nan, "nothing found")])
def test_level_follows_the_share_of_marks_that_stay(share, level):
    assert judge_level(share) == level
