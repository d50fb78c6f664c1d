"""test_view_angle_impact.py with a phase 2 checkpoint: what names owe to angles, to habit, to the image."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

import test_view_angle_impact as tool
from data.cass import CLASS_IDS
from models.cass_model import CassOutput, build_cass_model
from models.view_encoder import CategoricalViewEncoder, angle_bins
from tests.csv_fixture import write_tiny_dataset
from utils.view_impact.probe import name_by_habit, pool_pyramid, probe_views
from utils.view_impact.segments import (
    ANSWERS,
    CASS_CONDITIONS,
    PIXELS,
    SAME_ARTERY,
    NamingModel,
    choose_grid_rows,
    name_over_grid,
    score_names,
)
from utils.view_impact.segments_summary import compare_grids, compare_models, shuffled_loss
from utils.view_impact.segments_words import describe_probe, judge_level

CPU = torch.device("cpu")
CLASSES = (2, 12, 13, 19)
# The segment that the fixture films at each primary bin: -38.5, RAO 28, LAO 20, 35 degrees.
SEGMENT_AT_BIN = {0: 2, 1: 13, 6: 19, 8: 12}


class FakeNamer(torch.nn.Module):
    """Points by the primary angle's bin as the fixture films, and blindly always answers 13."""

    def __init__(self, *, reads_angle=True, use_view=True, classes=CLASSES):
        super().__init__()
        self.view_encoder = CategoricalViewEncoder() if use_view else None
        self.reads_angle, self.classes, self.encoded = reads_angle, classes, 0

    def encode_image(self, image):
        self.encoded += len(image)
        return {"image": image, "pyramid": [image, image[..., ::2, ::2]]}

    def decode(self, features, view_deg):
        count, channels = len(view_deg), len(self.classes)
        bins = angle_bins(view_deg)[:, 0].tolist()
        named = [SEGMENT_AT_BIN.get(one, 2) if self.reads_angle else 13 for one in bins]
        name_logits = torch.zeros(count, channels + 1, 8, 8)
        for index, cass_id in enumerate(named):
            name_logits[index, self.classes.index(cass_id)] = 9.0
        blind = torch.zeros(count, channels)
        blind[:, self.classes.index(13)] = 9.0
        box, vessels = torch.full((count, 4), 0.5), torch.zeros(count, 1, 32, 32)
        return CassOutput(vessels, blind, box, name_logits, torch.zeros(count, 1, 8, 8))


@pytest.fixture(scope="module")
def csv_path(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("data"), patients=24, val_patients=8, size=64, frames=1)


def run_tool(csv_path, tmp_path, monkeypatch, model, *arguments, other=None, other_stage="phase2_cass"):
    def load_model(path, device):
        chosen, stage = (other, other_stage) if path.name == "other.pth" else (model, "phase2_cass")
        return chosen.eval(), {"stage": stage, "config": {"image_size": 32, "backbone": "fake"}}

    (tmp_path / "weights.pth").write_bytes(b"weights")
    monkeypatch.setattr(tool, "load_model", load_model)
    tool.main(
        [
            "--data-csv",
            str(csv_path),
            "--checkpoint",
            str(tmp_path / "weights.pth"),
            "--grid-frames",
            "2",
            "--out",
            str(tmp_path / "out"),
            *arguments,
        ]
    )
    return json.loads((tmp_path / "out" / "view_angle_impact.json").read_text(encoding="utf-8"))


def test_names_by_the_angle_are_called_sensitive(csv_path, tmp_path, monkeypatch, capsys):
    model, other = FakeNamer(), FakeNamer(use_view=False, reads_angle=False)
    record = run_tool(
        csv_path, tmp_path, monkeypatch, model, "--compare", str(tmp_path / "other.pth"), other=other
    )
    pointed, blind = (record["conditions"][f"top1_{name}"] for name in ("pointed", "blind_pooled"))
    assert record["verdict"]["level"] == "sensitive"
    assert pointed["true"]["mean"] == pointed["primary only"]["mean"] == 1 > pointed["shuffled"]["mean"]
    assert pointed["secondary only"]["mean"] == pointed["unknown"]["mean"] < 0.5
    assert pointed["shuffled"]["minus_true_ci95"][1] < 0
    # The blind question has an answer of its own: always 13, whatever the angles.
    assert {condition["mean"] for condition in blind.values()} == {
        record["by_segment"]["13"]["n_frames"] / 13
    }
    assert record["n_frames"] == 13 and len(record["cases"]) == 2
    assert set(record["by_side"]) == {"left", "right"} and set(record["by_segment"]) == {
        "2",
        "12",
        "13",
        "19",
    }
    assert record["compared"]["top1_pointed"]["gain"] == pytest.approx(1 - blind["true"]["mean"])
    assert record["compared"]["top1_blind_pooled"]["gain"] == 0
    assert record["habit"]["angles"] == 1 > record["habit"]["artery"]  # each segment has its own view
    assert record["rows_of_other_segments"] > 0 == record["rows_without_angles"]  # segment 1 is no class here
    assert {"primary", "secondary"} == set(record["probe"]) == set(record["other_probe"])
    assert (tmp_path / "out" / "view_angle_impact.png").stat().st_size > 50_000
    said = capsys.readouterr().out
    assert "names are sensitive" in said and "Habit:" in said and "against the other" in said
    assert model.encoded == record["n_frames"] + 25  # frames and training rows once, however many angles


def test_names_that_ignore_the_angle_are_called_nearly_blind(csv_path, tmp_path, monkeypatch):
    record = run_tool(
        csv_path, tmp_path, monkeypatch, FakeNamer(reads_angle=False), "--no-probe", "--limit", "6"
    )
    assert record["verdict"]["level"] == "nearly blind" and record["n_frames"] == 6
    assert record["grid_agreement"]["top1_pointed"] == 1 and record["no_probe"] == "--no-probe"
    assert "probe" not in record and "habit" not in record


def test_probe_needs_rows_that_it_was_not_fitted_on():
    args = tool.build_parser().parse_args(["--data-csv", "x.csv", "--split", "train"])
    train, reason = tool.choose_probe_rows(views_table(30, 0, VIEW_OF_SEGMENT).assign(split="train"), args)
    assert train is None and "cannot be judged on --split train" in reason


@pytest.mark.parametrize(
    "other, stage, says",
    [
        (FakeNamer(classes=(13, 2)), "phase2_cass", "compare models of the same --classes"),
        (FakeNamer(), "phase1_deepsa", "allowed is 'phase2_cass'"),
    ],
)
def test_models_that_cannot_be_compared_are_refused(
    csv_path, tmp_path, monkeypatch, capsys, other, stage, says
):
    with pytest.raises(SystemExit) as stopped:
        run_tool(
            csv_path,
            tmp_path,
            monkeypatch,
            FakeNamer(),
            "--compare",
            str(tmp_path / "other.pth"),
            other=other,
            other_stage=stage,
        )
    assert stopped.value.code == 1 and says in capsys.readouterr().err


def encode(model):
    frame = np.random.default_rng(0).integers(0, 255, (40, 48, 3), np.uint8)
    naming = NamingModel(model.eval(), 336 if hasattr(model, "backbone") else 32, CPU)
    return naming, naming.encode(frame), np.pad(np.ones((4, 5), bool), ((30, 6), (20, 23)))


def test_pixels_are_scored_against_the_true_map():
    naming, encoded, region = encode(FakeNamer())
    cass_map = np.zeros((40, 48), np.uint8)
    cass_map[:10], cass_map[10:15], cass_map[15:20] = 13, 12, 11  # 11, left main, is none of the classes
    views = {"true": np.array([(-28.0, 35.0)]), "shuffled": np.array([(35.0, 0.0), (-28.0, 0.0)])}
    scores = score_names(naming, encoded, views, {"region": region, "cass_id": 13, "cass_map": cass_map})
    assert scores["true"][PIXELS] == pytest.approx(2 / 3) and scores["shuffled"][PIXELS] == pytest.approx(
        1 / 2
    )
    assert scores["true"]["top1_pointed"] == 1 and scores["shuffled"]["top1_pointed"] == 0.5
    without = score_names(naming, encoded, views, {"region": region, "cass_id": 13, "cass_map": None})
    assert PIXELS not in without["true"]


def test_grid_has_primary_angles_as_rows():
    naming, encoded, region = encode(FakeNamer())
    case = name_over_grid(naming, encoded, (35.0, 0.0), region)
    assert case["own"]["top1_pointed"] == 12
    assert (case["grid"]["top1_pointed"][8] == 12).all() and (case["grid"]["top1_pointed"][1] == 13).all()


def test_real_model_is_read_at_several_views():
    torch.manual_seed(0)
    model = build_cass_model(backbone="sam3-tiny", image_size=336, classes=CLASS_IDS)
    naming, encoded, region = encode(model)
    found = naming.read(encoded, np.array([(0, 0), (math.nan, 30)]), region)
    assert all(values.shape == (2,) and set(values.tolist()) <= set(CLASS_IDS) for values in found.values())


def test_grids_are_compared_with_the_own_name_and_with_each_other():
    rows = np.repeat(np.arange(9)[:, None], 9, axis=1)
    cases = [
        {"own": dict.fromkeys(ANSWERS, own), "grid": dict.fromkeys(ANSWERS, grid)}
        for own, grid in ((4, rows), (7, np.where(rows < 3, rows, 7)))
    ]
    compared = compare_grids(cases)
    assert compared["grid_agreement"]["top1_pointed"] == pytest.approx((1 / 9 + 6 / 9) / 2)
    assert compared["grid_likeness"]["top1_pointed"] == pytest.approx(4 / 9)  # rows 0, 1, 2 and 7
    assert math.isnan(compare_grids(cases[:1])["grid_likeness"]["top1_pointed"])


def test_cases_are_of_different_segments_first():
    table = pd.DataFrame({"cass_segment": [13, 13, 13, 2, 12, 13]})
    chosen = choose_grid_rows(table, 3, seed=1)
    assert sorted(table["cass_segment"][chosen]) == [2, 12, 13] and chosen == choose_grid_rows(
        table, 3, seed=1
    )


def frame_scores(true, shuffled):
    measures = ("top1_pointed", "top1_blind_pooled", "top1_blind_map")
    given = {"true": true, "shuffled": shuffled}
    return {
        condition: dict.fromkeys(measures, given.get(condition, 0.0))
        for condition in CASS_CONDITIONS
        if condition != SAME_ARTERY
    }


def test_loss_by_group_is_that_of_its_frames():
    scores = [frame_scores(1, 1), frame_scores(1, 0), frame_scores(0, 0)]
    loss = shuffled_loss(scores, ["a", "b", "c"], ["left", "right", "right"])
    assert loss["left"]["top1_pointed"]["loss"] == 0 and loss["left"]["n_patients"] == 1
    assert loss["right"]["top1_pointed"] | {"loss_ci95": None} == {
        "true": 0.5,
        "shuffled": 0,
        "loss": 0.5,
        "loss_ci95": None,
    }


def test_models_are_compared_frame_by_frame():
    scores = [frame_scores(1, 0), frame_scores(0, 0)]
    compared = compare_models(scores, [frame_scores(0, 0), frame_scores(0, 0)], ["a", "b"])
    assert compared["top1_pointed"]["gain"] == 0.5 and compared["top1_pointed"]["other"] == 0
    assert PIXELS not in compared


@pytest.mark.parametrize(
    "loss, interval, level",
    [
        (0.30, (0.2, 0.4), "sensitive"),
        (0.05, (0.03, 0.07), "slightly sensitive"),
        (0.01, (0.005, 0.015), "nearly blind"),
        (0.30, (-0.1, 0.6), "nearly blind"),
    ],
)
def test_level_follows_loss_and_interval(loss, interval, level):
    assert judge_level({"minus_true": -loss, "minus_true_ci95": (-interval[1], -interval[0])}) == level


def views_table(rows, seed, view_of_segment):
    """Rows whose angles scatter by a degree about those of their segment."""
    rng = np.random.default_rng(seed)
    segments = rng.choice(list(view_of_segment), rows)
    angles = np.array([view_of_segment[segment] for segment in segments]) + rng.normal(0, 1, (rows, 2))
    return pd.DataFrame(
        {
            "cass_segment": segments,
            "primary_angle": angles[:, 0],
            "secondary_angle": angles[:, 1],
            "patient_id": [f"{seed}-{row}" for row in range(rows)],
        }
    )


VIEW_OF_SEGMENT = {12: (-30, -20), 13: (20, 20), 1: (10, 0), 2: (-10, 0)}


def test_probe_finds_angles_that_are_in_the_features_and_none_in_noise():
    tables = {"train": views_table(120, 1, VIEW_OF_SEGMENT), "val": views_table(60, 2, VIEW_OF_SEGMENT)}
    noise = {
        split: np.random.default_rng(len(table)).normal(size=(len(table), 12))
        for split, table in tables.items()
    }
    with_angles = {
        split: np.c_[values, tables[split][["primary_angle", "secondary_angle"]]]
        for split, values in noise.items()
    }
    found, missed = probe_views(with_angles, tables), probe_views(noise, tables)
    assert found["primary"]["mae_deg"] < 3 < 10 < missed["primary"]["mae_deg"]
    assert found["primary"]["gain_deg_ci95"][0] > 5 and found["primary"]["within_one_bin"] == 1
    assert missed["secondary"]["gain_deg"] < 1
    assert found["secondary"]["by_side"]["right"]["artery_mae_deg"] < 3  # both right segments lie at 0 there


def test_words_follow_how_much_the_probe_adds():
    def probe(mae_deg, least_gain_deg=1.0):
        sides = {"left": {"gain_deg": 20 - mae_deg}}
        figures = {
            "mae_deg": mae_deg,
            "artery_mae_deg": 20.0,
            "gain_deg": 20 - mae_deg,
            "gain_deg_ci95": (least_gain_deg, 30.0),
        }
        return figures | {"within_one_bin": 0.5, "artery_within_one_bin": 0.4, "by_side": sides}

    said = [describe_probe({"primary": probe(20), "secondary": probe(mae)}, "x") for mae in (19, 15, 5)]
    assert ["gives the view hardly" in said[0], "partly" in said[1], "largely" in said[2]] == [True] * 3
    assert "left artery +15.0°" in said[2]
    uncertain = {axis: probe(5, least_gain_deg=-1.0) for axis in ("primary", "secondary")}
    assert "gives the view hardly" in describe_probe(uncertain, "x")


def test_angles_beyond_the_last_bin_are_one_to_the_probe():
    table = views_table(40, 3, {1: (88, 0), 12: (-30, 0)})
    features = table[["primary_angle"]].to_numpy()
    probed = probe_views({"train": features, "val": features}, {"train": table, "val": table})
    assert max(probed["primary"]["points"]["true_deg"]) == 40


def test_habit_is_what_angles_and_artery_tell_without_the_picture():
    train, val = views_table(200, 4, VIEW_OF_SEGMENT), views_table(80, 5, VIEW_OF_SEGMENT)
    habit = name_by_habit(train, val)
    assert habit["artery_and_angles"] > 0.95 and 0.3 < habit["artery"] < 0.7
    strange = val.assign(primary_angle=0.0, secondary_angle=-40.0)  # a view that training never had
    assert name_by_habit(train, strange)["artery_and_angles"] == habit["artery"]


def test_probe_of_too_few_rows_is_refused():
    table = views_table(19, 6, VIEW_OF_SEGMENT)
    with pytest.raises(ValueError, match="19 training rows"):
        probe_views({"train": np.ones((19, 2))}, {"train": table})


def test_features_are_pooled_over_the_map():
    level = torch.tensor([[[[1.0, 3.0], [1.0, 3.0]]]])
    assert pool_pyramid([level, 2 * level])[0].tolist() == pytest.approx([2, 4 / 3**0.5 / 2, 4, 4 / 3**0.5])
