"""One JSON line an epoch, and the curves."""

import json

import cv2
import pytest

from utils.history import read_history, save_curves, write_history


def test_lines_come_back_and_nan_becomes_null(tmp_path):
    path = tmp_path / "h.jsonl"
    write_history(
        path, [{"epoch": 1, "loss": 0.5, "ci": [0.1, float("nan")]}, {"epoch": 2, "loss": float("inf")}]
    )
    assert read_history(path) == [{"epoch": 1, "loss": 0.5, "ci": [0.1, None]}, {"epoch": 2, "loss": None}]
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_no_file_is_no_history_and_a_damaged_line_is_named(tmp_path):
    assert read_history(tmp_path / "absent.jsonl") == []
    (tmp_path / "h.jsonl").write_text('{"epoch": 1}\n{"epo\n')
    with pytest.raises(ValueError, match="line 2"):
        read_history(tmp_path / "h.jsonl")


def test_curves_draw_what_there_is(tmp_path):
    lines = [
        {"epoch": 1, "train_loss": 0.6, "val_loss": 0.7},
        {"epoch": 2, "train_loss": 0.4},
        {"epoch": 3, "val_loss": None},
    ]
    save_curves(
        tmp_path / "c.png", lines, panels={"loss": ("train_loss", "val_loss"), "nothing": ("absent",)}
    )
    drawn = cv2.imread(str(tmp_path / "c.png"))
    save_curves(tmp_path / "e.png", [], panels={"loss": ("train_loss", "val_loss"), "nothing": ("absent",)})
    assert drawn.shape[1] > drawn.shape[0] > 200
    assert (drawn != cv2.imread(str(tmp_path / "e.png"))).any()
