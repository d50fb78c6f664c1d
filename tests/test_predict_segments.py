"""predict.py with weights of stage 2: what is said of a vessel whose names are known, and both questions."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

import predict
from tests.csv_fixture import write_tiny_dataset
from tests.segment_fixture import BORDER, SIZE, VESSEL, bar_prediction
from tests.test_dicom import write_xa
from tests.test_predict import call, input_files
from tests.tiny_checkpoint import write_tiny_cass_checkpoint, write_tiny_checkpoint
from utils.reports.frame_answer import FrameAnswer
from utils.segments.report import box_px, find_segments, length_mm, score_row


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_tiny_cass_checkpoint(tmp_path_factory.mktemp("weights") / "cass.pth")


@pytest.fixture
def knows_the_bar(monkeypatch, checkpoint):
    """Weights that always answer with the bar: the file is read, its answers replaced."""
    load_answers = predict.load_answers

    def load(paths, **how):
        prediction = bar_prediction()
        answer = FrameAnswer(vessel_probability=prediction.vessel_probability, segments=prediction)
        return lambda frame, view_deg: answer, load_answers(paths, **how)[1]
    monkeypatch.setattr(predict, "load_answers", load)


def picture_of(folder, name="frame"):
    path = folder / f"{name}.png"
    cv2.imwrite(str(path), np.full(SIZE, 120, np.uint8))
    return path


def record_of(out, name="frame"):
    return json.loads((out / f"{name}.json").read_text(encoding="utf-8"))


def test_every_visible_segment_is_described(tmp_path, checkpoint, knows_the_bar):
    out = tmp_path / "out"
    assert call(checkpoint, out, picture_of(tmp_path)) == 0
    written = record_of(out)
    first, second = written["segments"]
    assert (first["cass_id"], first["name"], first["snomed_ct"]) == (12, "Proximal LAD", "68787002")
    assert (second["cass_id"], second["name"], second["snomed_ct"]) == (13, "Mid LAD", "91748002")
    # Short pieces of vessel are named as one, so the border may lie a few pixels off.
    assert first["box_px"] == pytest.approx([10, 50, 79, 56], abs=4)
    assert second["box_px"] == pytest.approx([80, 50, 149, 56], abs=4)
    assert first["area_px"] + second["area_px"] == 980
    assert first["probability"] == pytest.approx(0.9, abs=0.02)
    assert first["centreline_length_px"] == pytest.approx(70, abs=8) and first["centreline_length_mm"] is None
    assert written["pixel_size"] is None and written["pointed"] is None
    labels = cv2.imread(str(out / first["mask"]["file"]), cv2.IMREAD_UNCHANGED)
    assert labels.dtype == np.uint8
    assert (labels[VESSEL][:, :60] == 12).all() and (labels[VESSEL][:, -60:] == 13).all()
    for segment in (first, second):
        assert (labels == segment["mask"]["value"]).sum() == segment["area_px"]


def test_blind_guess_is_of_pooled_head_and_map_and_never_called_pointed(tmp_path, checkpoint, knows_the_bar):
    assert call(checkpoint, tmp_path / "out", picture_of(tmp_path)) == 0
    analysed = record_of(tmp_path / "out")["analysed"]
    assert "(blind)" in analysed["question"] and analysed["pooled_head"]["cass_id"] == 13
    assert analysed["pooled_head"]["probability"] == 0.7 and analysed["map"]["cass_id"] == 13
    for guess in (analysed["pooled_head"], analysed["map"]):
        assert guess["box_px"] == pytest.approx([80, 50, 149, 56], abs=0.1)
        assert sum(guess["probabilities"].values()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("flag, place, cass_id, vessel_px, distance_px", [
    ("--point", "40,53", 12, None, 0), ("--point", "120,50", 13, None, 0), ("--point", "40,100", 12, 1, 44),
    ("--box", "90,40,140,60", 13, 51 * 7, 0), ("--box", "20,90,60,110", 12, 0, 0)])
def test_pointed_question_is_answered_where_it_points(
    tmp_path, checkpoint, knows_the_bar, capsys, flag, place, cass_id, vessel_px, distance_px
):
    assert call(checkpoint, tmp_path / "out", picture_of(tmp_path), flag, place) == 0
    pointed, printed = record_of(tmp_path / "out")["pointed"], capsys.readouterr().out
    assert pointed["cass_id"] == cass_id and "(pointed)" in pointed["question"]
    assert pointed[f"{flag[2:]}_px"] == [float(number) for number in place.split(",")]
    assert [name["cass_id"] for name in pointed["top"]] == [cass_id, 25 - cass_id]
    assert pointed["distance_px"] == distance_px and vessel_px in (None, pointed["vessel_px"])
    assert f"which segment is at {flag[2:]} {place.replace(',', ', ')}?" in printed
    assert ("no vessel was found there" in printed) == (vessel_px == 0)
    assert ("nearest vessel, 44 px away" in printed) == (distance_px == 44)


@pytest.mark.parametrize("flags, message", [
    (["--point", "500,5"], "outside the frame of 160 x 120 px"),
    (["--box", "300,0,400,9"], "holds no pixel of the frame of 160 x 120 px")])
def test_pointing_outside_the_frame_is_said(tmp_path, checkpoint, knows_the_bar, capsys, flags, message):
    assert call(checkpoint, tmp_path / "out", picture_of(tmp_path), *flags) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("flags", [
    ["--point", "1"], ["--point", "a,b"], ["--point", "nan,2"], ["--box", "1,2,3"], ["--box", "9,0,1,5"],
    ["--point", "1,2", "--box", "0,0,5,5"]])
def test_malformed_place_is_a_wrong_command_line(tmp_path, checkpoint, capsys, flags):
    assert call(checkpoint, tmp_path / "out", "frame.png", *flags) == 2
    assert flags[0] in capsys.readouterr().err


def test_place_in_two_inputs_is_refused(tmp_path, checkpoint, capsys):
    inputs = [picture_of(tmp_path, name) for name in ("a", "b")]
    assert call(checkpoint, tmp_path / "out", *inputs, "--point", "4,4") == 1
    assert "one frame, given are 2 inputs" in capsys.readouterr().err


def test_stage_1_names_nothing_and_says_so_when_asked(tmp_path, capsys):
    weights = write_tiny_checkpoint(tmp_path / "vessels.pth")
    assert call(weights, tmp_path / "out", picture_of(tmp_path), "--point", "4,4") == 1
    assert "vessels.pth is of phase1_deepsa" in capsys.readouterr().err
    assert call(weights, tmp_path / "out", picture_of(tmp_path)) == 0
    assert "segments" not in record_of(tmp_path / "out")
    assert not list((tmp_path / "out").glob("*_segments.png"))


def test_lengths_in_mm_where_the_header_knows_the_size_of_a_pixel(tmp_path, checkpoint, knows_the_bar):
    write_xa(tmp_path / "IM1.dcm", np.full((1, *SIZE), 120, np.uint8), DistanceSourceToDetector="1000",
             DistanceSourceToPatient="750", ImagerPixelSpacing=[0.4, 0.2])      # row, column
    assert call(checkpoint, tmp_path / "out", tmp_path / "IM1.dcm") == 0
    written = record_of(tmp_path / "out", "IM1")
    assert written["pixel_size"]["mm"] == pytest.approx([0.3, 0.15])
    assert "isocentre" in written["pixel_size"]["source"]
    for segment in written["segments"]:     # horizontal: the column's spacing counts
        expected_mm = 0.15 * segment["centreline_length_px"]
        assert segment["centreline_length_mm"] == pytest.approx(expected_mm, rel=0.02)


def test_length_in_mm_of_a_slanted_line():
    line_px = np.stack([np.arange(0, 31), np.arange(0, 31)], axis=1).astype(float)
    assert length_mm(line_px, (0.4, 0.3)) == pytest.approx(30 * 0.5)
    assert length_mm(line_px, None) is None


def test_rows_are_scored_by_question_and_lengths_calibrated_by_their_contours(tmp_path, checkpoint, capsys):
    csv_path = write_tiny_dataset(tmp_path / "data", patients=2, rows_per_patient=1)
    assert call(checkpoint, tmp_path / "out", "--data-csv", csv_path, "--split", "all") == 0
    for path in input_files(tmp_path / "out"):
        written = json.loads(path.read_text(encoding="utf-8"))
        assert {"top1_pointed", "top1_blind", "top1_blind_map", "dice_truth"} <= written["scores"].keys()
        assert written["pixel_size"] == {"mm": [0.25, 0.25], "source": "scale_factor of the contours file"}
    printed = capsys.readouterr().out
    assert "mean top1_pointed over 2 frames" in printed and "mean top1_blind over 2 frames" in printed


@pytest.mark.parametrize("cass_id, expected", [
    (13, {"top1_pointed": 1, "top1_blind": 1, "top1_blind_map": 1}),
    (12, {"top1_pointed": 0, "top1_blind": 0, "top1_blind_map": 0}), (21, {})])
def test_a_row_of_another_class_is_not_scored(tmp_path, cass_id, expected):
    mask = np.zeros(SIZE, np.uint8)
    mask[50:57, BORDER + 5:140] = 1
    np.save(tmp_path / "mask.npy", mask)
    row = {"cass_segment": cass_id, "vessel_mask_actual_path": str(tmp_path / "mask.npy")}
    assert score_row(bar_prediction(), row) == expected


def test_magnified_copies_reach_the_names_through_the_vessels(tmp_path, checkpoint):
    source = picture_of(tmp_path)
    assert call(checkpoint, tmp_path / "out", source, "--tta", "--threshold", "0.3") == 0
    assert record_of(tmp_path / "out")["threshold"] == 0.3


def test_frame_without_a_vessel_has_no_segments():
    empty = replace(bar_prediction(), vessel_probability=np.zeros(SIZE, np.float32))
    findings = find_segments(empty, threshold=0.5)
    assert not findings.segments and not findings.names.any()


def test_box_of_shares_becomes_outermost_pixel_centres():
    assert box_px(np.array([0.5, 0.5, 1, 1]), (100, 200)) == [0, 0, 199, 99]
