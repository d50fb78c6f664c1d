"""test_view_angle_impact.py, the tool: a blind model is called blind, one that uses the angle is not."""
import json
import math

import numpy as np
import pytest
import torch

import test_view_angle_impact as tool
from models.view_encoder import CategoricalViewEncoder
from tests.csv_fixture import write_tiny_dataset
from tests.tiny_checkpoint import write_tiny_checkpoint
from utils.view_impact.vessels import (
    CONDITIONS,
    EncodedFrame,
    compare_over_grid,
    condition_views,
    describe_similarity,
    draw_other_views,
    grid_views,
    score_conditions,
    summarise_conditions,
)

CPU = torch.device("cpu")


class FakeModel(torch.nn.Module):
    """Finds what is darker than half grey; `gain` says how far the primary angle moves that border."""

    def __init__(self, gain=0.0, use_view=True):
        super().__init__()
        torch.manual_seed(0)
        self.view_encoder = CategoricalViewEncoder() if use_view else None
        self.gain, self.encoded, self.decoded = gain, 0, 0

    def encode_image(self, image):
        self.encoded += len(image)
        return {"image": image, "pyramid": [image, image]}

    def decode(self, features, view_deg):
        assert all(len(level) == len(view_deg) for level in features["pyramid"])
        self.decoded += len(view_deg)
        border = 0.5 + self.gain * torch.nan_to_num(view_deg[:, 0]) / 40
        return 50 * (border[:, None, None, None] - features["image"].mean(dim=1, keepdim=True))


def run_tool(tmp_path, monkeypatch, model, *arguments):
    csv_path = write_tiny_dataset(tmp_path / "data", patients=5, val_patients=4, size=64)
    (tmp_path / "weights.pth").write_bytes(b"weights")
    config = {"image_size": 32, "backbone": "fake", "use_view": model.view_encoder is not None}
    checkpoint = {"stage": "phase1_deepsa", "config": config}
    monkeypatch.setattr(tool, "load_model", lambda path, device: (model.eval(), checkpoint))
    tool.main(["--data-csv", str(csv_path), "--checkpoint", str(tmp_path / "weights.pth"),
               "--out", str(tmp_path / "out"), "--grid-frames", "2", *arguments])
    return json.loads((tmp_path / "out" / "view_angle_impact.json").read_text(encoding="utf-8"))


def test_blind_model_is_called_nearly_blind(tmp_path, monkeypatch, capsys):
    model = FakeModel(gain=0.0)
    record = run_tool(tmp_path, monkeypatch, model)
    assert record["verdict"]["level"] == "nearly blind"
    assert record["grid"]["least_dice"] == 1 and max(record["grid"]["mean_change"]) < 1e-6
    for condition in CONDITIONS:
        assert record["conditions"]["truth"][condition]["minus_true"] == pytest.approx(0, abs=1e-6)
    assert "nearly blind" in capsys.readouterr().out
    assert (tmp_path / "out" / "view_angle_impact.png").stat().st_size > 10_000
    assert record["rows_without_angles"] > 0                       # the fixture leaves some out on purpose
    assert model.encoded == record["n_frames"]  # each frame once, whatever the number of angles


def test_model_that_lives_on_the_angle_is_called_sensitive(tmp_path, monkeypatch):
    record = run_tool(tmp_path, monkeypatch, FakeModel(gain=0.4))
    assert record["verdict"]["level"] == "sensitive"
    assert record["grid"]["least_dice"] < 0.8
    own = record["conditions"]["own"]
    assert (
        own["secondary only"]["mean"] < own["primary only"]["mean"] == 1
    )  # it looks at the primary angle only


def test_model_without_view_is_said_to_be_blind(tmp_path, monkeypatch, capsys):
    record = run_tool(tmp_path, monkeypatch, FakeModel(use_view=False))
    assert record["verdict"]["level"] == "blind" and record["uses_view"] is False
    assert "trained without view angles" in capsys.readouterr().out


def test_one_patient_cannot_be_shuffled(tmp_path, monkeypatch, capsys):
    csv_path = write_tiny_dataset(tmp_path / "data", patients=2, val_patients=1, size=64)
    checkpoint = write_tiny_checkpoint(tmp_path / "tiny.pth")
    with pytest.raises(SystemExit) as stopped:
        tool.main(["--data-csv", str(csv_path), "--checkpoint", str(checkpoint), "--out", str(tmp_path)])
    assert stopped.value.code == 1
    assert "takes two or more" in capsys.readouterr().err


def test_real_model_starts_blind_because_film_starts_at_identity(tmp_path):
    from models.loading import load_model
    model, checkpoint = load_model(write_tiny_checkpoint(tmp_path / "tiny.pth"))
    frame = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    encoded = EncodedFrame(model, frame, image_size=checkpoint["config"]["image_size"], device=CPU)
    maps = encoded.probabilities(np.array([(0, 0), (40, -40), (math.nan, math.nan)]))
    assert maps.shape == (3, 64, 64) and np.allclose(maps, maps[0], atol=1e-6)


def encode(gain):
    frame = np.tile(np.linspace(0, 255, 32).astype(np.uint8)[None, :, None], (32, 1, 3))
    return EncodedFrame(FakeModel(gain), frame, image_size=32, device=CPU)


def test_grid_compares_with_the_prediction_at_the_true_angle():
    grid = compare_over_grid(encode(0.4), (40.0, 0.0))
    assert grid["dice"].shape == grid["change"].shape == (9, 9)
    assert (grid["dice"][-1] == 1).all() and (grid["change"][-1] == 0).all()  # primary +40, any secondary
    assert (np.diff(grid["dice"][:, 0]) > 0).all() and (np.diff(grid["change"][:, 0]) < 0).all()


def test_scores_of_one_frame():
    label = np.zeros((32, 32), bool)
    label[:, :16] = True  # what is darker than half grey, the border at 0 degrees
    views = condition_views((0.0, 20.0), np.array([(40.0, 0.0), (-40.0, 0.0), (0.0, 0.0)]))
    scores = score_conditions(encode(0.4), views, {"truth": label})
    assert scores["true"]["truth"] == 1 and scores["true"]["change"] == 0
    assert scores["shuffled"]["truth"] < 1 and scores["unknown"]["own"] == 1


def test_angles_are_drawn_from_other_patients_only():
    patients = ["a", "a", "b", "b", "c"]
    views = np.array([(1, 0), (1, 0), (2, 0), (2, 0), (3, 0)], float)
    drawn = draw_other_views(views, patients, seed=3)
    assert [one.shape for one in drawn] == 5 * [(3, 2)]
    assert all((drawn[index][:, 0] != views[index, 0]).all() for index in range(5))
    assert np.array_equal(drawn, draw_other_views(views, patients, seed=3))


def test_angles_are_drawn_from_the_same_group_where_another_patient_has_one():
    views = np.array([(1, 0), (2, 0), (3, 0), (4, 0)], float)
    drawn = draw_other_views(views, ["a", "b", "c", "c"], seed=3, groups=["left", "left", "left", "right"])
    assert set(drawn[0][:, 0]) <= {2, 3} and set(drawn[2][:, 0]) <= {1, 2}
    assert drawn[3].shape == (0, 2)  # no other patient's right artery was filmed


def test_summary_leaves_out_frames_without_a_condition():
    scores = [{name: {"truth": 0.5} for name in CONDITIONS} for _ in range(2)]
    scores[0]["same"] = {"truth": 0.1}
    summary = summarise_conditions(scores, ["a", "b"], (*CONDITIONS, "same", "never"))["truth"]
    assert summary["same"]["mean"] == 0.1 and summary["same"]["minus_true"] == pytest.approx(-0.4)
    assert math.isnan(summary["never"]["mean"])


def test_summary_is_paired_and_leaves_frames_without_truth_out():
    def frame(true, shuffled, name):
        return {condition: {name: shuffled if condition == "shuffled" else true} for condition in CONDITIONS}
    scores = [frame(0.8, 0.7, "truth"), frame(0.6, 0.5, "truth")]
    summary = summarise_conditions(scores, ["a", "b"])
    assert summary["truth"]["true"]["mean"] == pytest.approx(0.7)
    assert summary["truth"]["shuffled"]["minus_true"] == pytest.approx(-0.1)
    assert summary["truth"]["shuffled"]["minus_true_ci95"] == pytest.approx(
        (-0.1, -0.1)
    )  # the same in both patients


def test_similarity_of_embeddings():
    similarity = describe_similarity(CategoricalViewEncoder(), CPU)
    grid = similarity["grid"]
    assert grid.shape == (81, 81) and similarity["primary"].shape == (10, 10)
    assert np.allclose(np.diag(grid), 1) and np.allclose(grid, grid.T)
    assert similarity["figures"]["mean_between_views"] == pytest.approx((grid.sum() - 81) / (81 * 80))


def test_grid_of_views_has_primary_slowest():
    views = grid_views()
    assert (
        views[0].tolist() == [-40, -40]
        and views[1].tolist() == [-40, -30]
        and views[9].tolist() == [-30, -40]
    )
