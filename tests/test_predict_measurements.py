"""predict.py with weights of stage 4: what is measured of an obstruction, in which unit, and what is said of it."""

import csv
import json
import math

import cv2
import numpy as np
import pytest
import torch

import predict
from data.errors import DataError
from data.frame_source import open_frames
from data.obstructions import obstruction_of_row
from data.schema import load_table
from tests.csv_fixture import write_tiny_dataset
from tests.measured_vessel import (
    LENGTH_PX, MIDDLE, STENOSIS_PCT, WIDTH_PX, answers_with, detection, draw_nothing, draw_true_lumen, sees_vessel,
    write_frame,
)
from tests.test_dicom import write_xa
from tests.test_predict import exit_code
from tests.tiny_checkpoint import (
    write_tiny_cass_checkpoint, write_tiny_checkpoint, write_tiny_lumen_checkpoint, write_tiny_obstruction_checkpoint,
)
from utils.checkpoint import CheckpointError
from utils.lumens.quantify import quantify, quantify_box
from utils.lumens.report import CSV_COLUMNS, NUMBERS
from utils.prediction import shipped_checkpoints
from utils.reports.frame_answer import FrameAnswer, load_answer, load_answers, uses_of
from utils.reports.frame_calibration import GivenScale, calibrate

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    return {1: write_tiny_checkpoint(folder / "vessels.pth"), 2: write_tiny_cass_checkpoint(folder / "names.pth"),
            3: write_tiny_obstruction_checkpoint(folder / "obstructions.pth", metrics={"threshold": 0.4}),
            4: write_tiny_lumen_checkpoint(folder / "lumens.pth")}


def run(tmp_path, weights, stages, source, *flags):
    arguments = [*([source] if source else []), *flags, "--out", tmp_path / "out", "--device", "cpu", "--checkpoint",
                 *(weights[stage] for stage in stages)]
    return exit_code(predict.main, arguments)


def measured(tmp_path, weights, source, *flags, stages=(2, 3, 4)):
    assert run(tmp_path, weights, stages, source, *flags) == 0
    return json.loads((tmp_path / "out" / f"{source.stem}.json").read_text(encoding="utf-8"))


def test_obstruction_is_measured_in_mm(tmp_path, weights, monkeypatch):
    sees_vessel(monkeypatch, [detection()])
    record = measured(tmp_path, weights, write_frame(tmp_path), "--px-per-mm", 4)
    (obstruction,) = record["obstructions"]
    one = obstruction["measurement"]
    assert one["failure"] is None and one["recorded"] is None
    assert one["stenosis_pct"] == pytest.approx(STENOSIS_PCT, abs=3)
    assert one["area_stenosis_pct"] == pytest.approx(100 * (1 - (1 - one["stenosis_pct"] / 100) ** 2), abs=0.2)
    assert one["mld_px"] == pytest.approx(WIDTH_PX / 2, abs=0.4) and one["rvd_px"] == pytest.approx(WIDTH_PX, abs=0.4)
    assert one["lesion_length_px"] == pytest.approx(LENGTH_PX, abs=8)
    for name in ("mld", "rvd", "lesion_length"):
        assert one[f"{name}_mm"] == pytest.approx(one[f"{name}_px"] / 4, abs=0.01)
    assert one["mld_point_px"] == pytest.approx(MIDDLE, abs=2)
    ends = np.array([one["lesion_start_px"], one["lesion_end_px"]])
    assert np.hypot(*(ends[1] - ends[0])) == pytest.approx(one["lesion_length_px"], abs=1)
    assert one["asked_for"]["by"] == "the box of its CASS segment"
    lumen = cv2.imread(str(tmp_path / "out" / one["lumen"]["file"]), cv2.IMREAD_UNCHANGED)
    assert lumen.dtype == np.uint8 and set(np.unique(lumen)) == {0, 255}
    assert (lumen == 255).sum() == one["lumen"]["area_px"]
    assert record["calibration"]["px_per_mm"] == 4 and record["calibration"]["given_by"] == "command line"
    assert obstruction["estimated_stenosis_pct"] == 55 and record["measured_box"] is None
    check_curve(one)


def check_curve(one):
    """It is that of the numbers."""
    curve = one["curve"]
    points = len(curve["arc"])
    assert all(len(curve[name]) == points for name in (
        "diameter", "reference", "centreline_px", "left_edge_px", "right_edge_px"))
    at = curve["mld_index"]
    assert curve["unit"] == "mm" and curve["lesion_start_index"] < at < curve["lesion_end_index"]
    assert curve["diameter"][at] == pytest.approx(one["mld_mm"], abs=0.001)
    assert curve["reference"][at] == pytest.approx(one["rvd_mm"], abs=0.001)
    span = curve["arc"][curve["lesion_end_index"]] - curve["arc"][curve["lesion_start_index"]]
    assert span == pytest.approx(one["lesion_length_mm"], abs=0.01)
    assert curve["centreline_px"][at] == pytest.approx(one["mld_point_px"], abs=0.06)


def test_without_calibration_never_mm(tmp_path, weights, monkeypatch):
    sees_vessel(monkeypatch, [detection()])
    record = measured(tmp_path, weights, write_frame(tmp_path))
    one = record["obstructions"][0]["measurement"]
    assert [one[f"{name}_mm"] for name in ("mld", "rvd", "lesion_length")] == [None] * 3
    assert one["mld_px"] == pytest.approx(WIDTH_PX / 2, abs=0.4) and one["curve"]["unit"] == "px"
    assert record["calibration"]["px_per_mm"] is None and "no calibration" in record["calibration"]["warnings"][0]
    assert any("no calibration" in warning for warning in one["warnings"])
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "6.0 px" in page or "5.9 px" in page or "6.1 px" in page
    assert " mm</" not in page


def test_failure_is_said_and_nothing_is_guessed(tmp_path, weights, monkeypatch):
    sees_vessel(monkeypatch, [detection()], draw_lumen=draw_nothing)
    record = measured(tmp_path, weights, write_frame(tmp_path), "--px-per-mm", 4)
    one = record["obstructions"][0]["measurement"]
    assert "empty" in one["failure"] and all(one[name] is None for name in (*NUMBERS, "curve", "mld_point_px"))
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert f"could not be measured: {one['failure']}" in page and "1 could not be" in page
    (line,) = csv.DictReader((tmp_path / "out" / "measurements.csv").open(encoding="utf-8"))
    assert line["mld_mm"] == "" and line["failure"] == one["failure"]


def test_measurement_far_from_the_detectors_estimate_is_warned_of():
    frame, how = np.zeros((160, 160, 3), np.uint8), dict(names=None, view_deg=(0, 0), calibration=None)
    near, far = (quantify(draw_true_lumen, frame, detection(stenosis_pct=pct), **how) for pct in (55.0, 95.0))
    assert not any("estimates" in warning for warning in near.warnings)
    assert any("but the detector estimates 95 %" in warning for warning in far.warnings)
    assert near.asked_by == "the obstruction's box and its surroundings"


def test_obstruction_that_the_frame_does_not_show_is_not_measured(tmp_path, weights, monkeypatch):
    """It is seen in the frames around the chosen one, told by the first pixel, which is darkest in that."""
    cine = np.stack([np.repeat(cv2.imread(str(write_frame(tmp_path)))[..., :1], 3, axis=2)] * 3)
    cine[:, 0, 0] = np.array([10, 0, 10])[:, None]
    np.save(tmp_path / "cine.npy", cine)

    answers_with(monkeypatch, lambda frame, stages: FrameAnswer(
        vessel_probability=np.ones((160, 160), np.float32), draw_lumen=draw_true_lumen,
        obstructions=[detection()] if frame[0, 0, 0] else []))
    record = measured(tmp_path, weights, tmp_path / "cine.npy", "--frame", 1, "--cine-frames", 3, stages=(3, 4))
    (obstruction,) = record["obstructions"]
    assert obstruction["point_px"] is None and obstruction["measurement"] is None
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "the chosen frame does not show it, so it was not measured" in page


def test_box_is_measured_without_stage_3(tmp_path, weights, monkeypatch):
    sees_vessel(monkeypatch, [])
    record = measured(tmp_path, weights, write_frame(tmp_path), "--box", "20,40,140,120", stages=(2, 4))
    box = record["measured_box"]
    assert box["stenosis_pct"] == pytest.approx(STENOSIS_PCT, abs=3)
    assert box["asked_for"] == {"box_px": [20, 40, 140, 120], "by": "the box given"}
    assert record["pointed"]["cass_id"] == 13  # what the flag has always asked
    assert "obstructions" not in record and "Box given" in (tmp_path / "out" / "report.html").read_text("utf-8")


def test_box_outside_the_frame_is_refused():
    with pytest.raises(DataError, match="holds no pixel of the frame of 160 x 120 px"):
        quantify_box(draw_true_lumen, np.zeros((120, 160, 3), np.uint8), (500, 500, 600, 600), view_deg=(0, 0),
                     calibration=None)


def test_stage_4_alone_with_a_box_says_nothing_of_vessels(tmp_path, weights):
    """Real weights, of which nobody has learned anything: measured or not, the files are whole."""
    record = measured(tmp_path, weights, write_frame(tmp_path), "--box", "20,40,140,120", stages=(4,))
    assert record["vessel"] is None and not (tmp_path / "out" / "frame_mask.png").exists()
    assert (record["measured_box"]["failure"] is None) == (record["measured_box"]["mld_px"] is not None)
    assert (tmp_path / "out" / "frame_overlay.png").stat().st_size > 0
    assert record["checkpoints"][0]["used_for"] == ["measurements"]


def test_stage_4_without_anything_to_measure_is_refused(tmp_path, weights, capsys):
    source = write_frame(tmp_path)
    assert run(tmp_path, weights, (2, 4), source) == 1
    errors = capsys.readouterr().err
    assert "add weights of stage 3" in errors and "--box" in errors and "lumens.pth is of phase4" in errors
    assert run(tmp_path, weights, (3, 4), source, "--point", "4,4") == 1
    assert "--point asks for a segment's name" in capsys.readouterr().err


def test_chain_of_real_models_leaves_whole_files(tmp_path, weights):
    """Untrained weights of stages 2, 3 and 4, and a score from which two obstructions are reported, measured or not."""
    source = write_frame(tmp_path)
    frame = np.repeat(cv2.imread(str(source), cv2.IMREAD_GRAYSCALE)[..., None], 3, axis=2)
    found = load_answer(weights[3], device=CPU)[0](frame, view_deg=(math.nan, math.nan)).obstructions
    record = measured(tmp_path, weights, source, "--px-per-mm", 4, "--obstruction-score", found[:2][-1].score)
    assert record["obstructions"] and all(one["measurement"] for one in record["obstructions"])
    for one in record["obstructions"]:
        numbers = [one["measurement"][name] for name in NUMBERS]
        assert (one["measurement"]["failure"] is None) == all(number is not None for number in numbers)
    whole = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert whole["failures"] == [] and [one["stage"] for one in whole["checkpoints"]] == [
        "phase2_cass", "phase3_obstruction", "phase4_quantitative"]
    same = {name: value for name, value in record.items() if name not in ("checkpoints", "software")}
    assert whole["inputs"] == [same]
    lines = list(csv.reader((tmp_path / "out" / "measurements.csv").open(encoding="utf-8")))
    assert lines[0] == list(CSV_COLUMNS) and len(lines) == 1 + len(record["obstructions"])


def test_annotated_obstruction_has_the_recorded_numbers_beside_it(tmp_path, weights, monkeypatch):
    """Of two obstructions the one in the annotation's box; the other one is nobody's."""
    csv_path = write_tiny_dataset(tmp_path / "data", patients=1, rows_per_patient=1, val_patients=1)
    row = load_table(csv_path).iloc[0]
    label = obstruction_of_row(row)
    elsewhere = tuple(np.add(label.box_px[2:], 25).tolist())
    found = [detection(elsewhere, 0.95), detection(label.mld_px, 0.9)]
    answers_with(monkeypatch, lambda frame, stages: FrameAnswer(
        vessel_probability=np.ones((96, 96), np.float32), obstructions=found, draw_lumen=draw_true_lumen))
    assert run(tmp_path, weights, (3, 4), None, "--data-csv", csv_path) == 0
    (record,) = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["inputs"]
    other, annotated = (one["measurement"] for one in record["obstructions"])
    assert other["recorded"] is None
    assert annotated["recorded"]["mld_mm"] == pytest.approx(label.mld_mm)
    assert annotated["recorded"]["stenosis_pct"] == 35 and annotated["recorded"]["source"] == row["contours_path"]
    assert record["calibration"]["given_by"] == "contours file" and record["calibration"]["px_per_mm"] == 4
    assert "Medis" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_dicom_geometry_calibrates_and_a_flag_that_contradicts_it_is_said(tmp_path, weights, monkeypatch):
    sees_vessel(monkeypatch, [detection()])
    frame = cv2.imread(str(write_frame(tmp_path)), cv2.IMREAD_GRAYSCALE)
    write_xa(tmp_path / "IM1.dcm", frame[None], DistanceSourceToDetector="1000", DistanceSourceToPatient="800",
             ImagerPixelSpacing=[0.25, 0.25])
    scale = calibrate(open_frames(tmp_path / "IM1.dcm").geometry, {}, GivenScale())
    assert scale.calibration.px_per_mm == pytest.approx(5) and not scale.warnings
    assert (scale.calibration.source, scale.given_by) == ("geometry", "DICOM header")
    record = measured(tmp_path, weights, tmp_path / "IM1.dcm", "--catheter-size", "6F", "--catheter-px", 8)
    assert record["calibration"]["px_per_mm"] == pytest.approx(4) and record["calibration"]["source"] == "catheter"
    assert record["obstructions"][0]["measurement"]["mld_mm"] == pytest.approx(1.5, abs=0.1)
    assert record["pixel_size"]["mm"] == pytest.approx([0.25, 0.25])  # of the lengths of segments too
    (warning,) = record["calibration"]["warnings"]
    assert warning.startswith("calibrations disagree: 4.000 px/mm by the catheter") and "5.000 px/mm" in warning
    assert warning in record["obstructions"][0]["measurement"]["warnings"]
    assert warning in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_impossible_geometry_is_left_out_and_said():
    swapped = {"imager_pixel_spacing_mm": [0.2, 0.2], "source_detector_mm": 700.0, "source_patient_mm": 1000.0}
    scale = calibrate(swapped, {}, GivenScale())
    assert scale.calibration is None and "Are the two swapped?" in scale.warnings[0]
    given = calibrate(swapped, {}, GivenScale(px_per_mm=4.0))
    assert given.calibration.px_per_mm == 4 and len(given.warnings) == 1
    french = calibrate({}, {}, GivenScale(catheter_size=6.0, catheter_px=8.0))
    assert french.calibration.px_per_mm == pytest.approx(4) and "French" in french.warnings[0]


@pytest.mark.parametrize("flags, message", [
    (["--px-per-mm", "0"], "--px-per-mm"), (["--px-per-mm", "nan"], "--px-per-mm"),
    (["--catheter-size", "6F"], "go together"), (["--catheter-px", "8"], "go together"),
    (["--catheter-size", "big", "--catheter-px", "8"], "--catheter-size"),
    (["--batch", "list.csv"], "one of the three")])
def test_wrong_flags_are_explained(tmp_path, weights, capsys, flags, message):
    assert run(tmp_path, weights, (2, 3, 4), tmp_path / "frame.png", *flags) == 2
    assert message in capsys.readouterr().err


def test_stage_4_measures_and_answers_no_frame(weights):
    assert uses_of(["phase3_obstruction", "phase4_quantitative"]) == {
        "phase3_obstruction": ["vessels", "obstructions"], "phase4_quantitative": ["measurements"]}
    with pytest.raises(CheckpointError, match="answers no whole frame"):
        load_answer(weights[4], device=CPU)
    answer, checkpoints = load_answers([weights[4], weights[3]], device=CPU)
    frame = np.full((96, 128, 3), 120, np.uint8)
    found = answer(frame=frame, view_deg=(math.nan, math.nan))
    assert [one["stage"] for one in checkpoints] == ["phase4_quantitative", "phase3_obstruction"]
    assert found.obstructions is not None and found.vessel_probability.shape == (96, 128)
    lumen = found.draw_lumen(frame, (10, 10, 60, 60), view_deg=(0, 0))
    assert lumen.share.shape == (336, 336) and lumen.mask_in_frame().shape == (96, 128)


def test_shipped_weights_of_stage_4_need_those_of_stage_3(tmp_path):
    names = [f"{stage}_tiny.pth" for stage in ("phase2_cass", "phase3_obstruction", "phase4_quantitative")]
    for name in (names[0], names[2]):
        (tmp_path / name).touch()
    assert [path.name for path in shipped_checkpoints(tmp_path)] == names[:1]
    (tmp_path / names[1]).touch()
    assert [path.name for path in shipped_checkpoints(tmp_path)] == names
