"""benchmarks/data_loading.py on small data: what it reads is right, and every figure is there."""

import json
import math

import numpy as np
import pytest

from benchmarks import cine_reading, data_loading
from tests.csv_fixture import write_tiny_dataset

SHAPE = (4, 40)


def test_the_three_cines_are_one_and_both_ways_read_the_same_frame(tmp_path):
    frames = {}
    for name, path in cine_reading.write_cines(tmp_path, SHAPE):
        cine = np.load(path, allow_pickle=False)
        assert cine.shape == (4, 40, 40, 3) and np.isfortran(cine) == ("Fortran" in name)
        frame, whole = (cine_reading.read(path, way, 2) for way in cine_reading.WAYS)
        np.testing.assert_array_equal(frame, np.rint(whole * 255) if name == "float32" else whole)
        frames[name] = frame
    assert len(frames) == 3 and not list(tmp_path.iterdir())
    assert all(np.array_equal(frame, frames["uint8"]) for frame in frames.values())


def test_both_ways_are_measured_in_processes_of_their_own(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(cine_reading, "measure_afresh", lambda path, way: asked.append(way) or {
        "frame": {"warm_s": 1.0, "cold_s": None, "peak_bytes": 10}, "cine": {"warm_s": 60.0, "cold_s": None,
                                                                              "peak_bytes": 25}}[way])
    figures = cine_reading.compare(tmp_path, SHAPE)
    assert asked == ["frame", "cine"] * 3
    assert figures["uint8"]["times_cheaper"] == {"warm": 60.0, "peak": 2.5}


def test_a_fresh_process_says_what_one_way_takes(tmp_path):
    path = tmp_path / "cine.npy"
    np.save(path, np.zeros((3, 30, 30, 3), np.uint8))
    figures = cine_reading.measure_afresh(path, "frame")
    assert figures.keys() == {"warm_s", "cold_s", "peak_bytes"} and figures["warm_s"] > 0
    # What numpy and this project take to import is not in it.
    assert 0 <= figures["peak_bytes"] < 20e6


def test_every_figure_of_loader_and_validation_is_there(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(data_loading, "WORKERS", (0,))
    monkeypatch.setattr(data_loading, "SAMPLES", 1)
    monkeypatch.setattr(data_loading.torch, "set_num_threads", lambda count: None)  # this process keeps its own
    monkeypatch.setattr(data_loading.cv2, "setNumThreads", lambda count: None)
    csv_path = write_tiny_dataset(tmp_path / "data", patients=3, rows_per_patient=2)
    given = ["--data-csv", csv_path, "--image-size", 64, "--images", 4, "--skip", "reading", "--out", tmp_path / "out"]
    assert data_loading.main([str(part) for part in given]) == 0
    content = json.loads((tmp_path / "out" / "data_loading.json").read_text(encoding="utf-8"))
    assert content["loader"]["workers"].keys() == {"0"} and "reading" not in content
    assert all(one["images_per_s"] > 0 for one in content["loader"]["workers"].values())
    parts = content["loader"]["cpu_ms_per_image"]
    steps = set(data_loading.STEPS.values())
    assert steps < parts.keys() and all(parts[name] > 0 for name in steps)
    validation = content["validation"]
    assert validation["rows"] == {"train": 4, "val": 2} and validation["share_of_rows"] == pytest.approx(1 / 3)
    assert 0 < validation["share_of_epoch"] < 1 and math.isfinite(validation["scores_share_of_validation"])
    said = capsys.readouterr().out
    assert "loader, 0 workers" in said and "score: cldice" in said
