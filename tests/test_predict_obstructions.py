"""predict.py with weights of stage 3: what is reported of an obstruction, in one frame and over those of a cine."""

import json
import math

import cv2
import numpy as np
import pytest
import torch

import predict
from data.obstructions import obstruction_of_row
from data.schema import load_table
from tests.csv_fixture import write_tiny_dataset
from tests.segment_fixture import BORDER, CLASSES, SIZE, VESSEL, bar_prediction
from tests.test_predict import call, exit_code, input_files
from tests.tiny_checkpoint import write_tiny_cass_checkpoint, write_tiny_checkpoint, write_tiny_obstruction_checkpoint
from utils.checkpoint import CheckpointError
from utils.obstructions.matching import Detection
from utils.obstructions.report import (
    estimated_stenoses, obstruction_crops, obstruction_legend, obstruction_marks, obstruction_words, score_obstructions,
)
from utils.obstructions.search import ObstructionFindings, ScoreThreshold, filled_stretch, names_near, wanted_by
from utils.obstructions.tracking import Lesion, Sighting
from utils.prediction import shipped_checkpoints
from utils.reports.frame_answer import FrameAnswer, load_answer, load_answers, uses_of

CPU = torch.device("cpu")
IN_MID_LAD, IN_PROXIMAL_LAD, OFF_VESSEL = (120.0, 53.0), (40.0, 53.0), (60.0, 110.0)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    return {1: write_tiny_checkpoint(folder / "vessels.pth"), 2: write_tiny_cass_checkpoint(folder / "names.pth"),
            3: write_tiny_obstruction_checkpoint(folder / "obstructions.pth", metrics={"threshold": 0.4})}


def detection(place, score, stenosis_pct=60.0):
    x, y = place
    return Detection(score, (x - 8, y - 6, x + 8, y + 6), place, stenosis_pct)


@pytest.fixture
def sees(monkeypatch):
    """Makes the checkpoints given answer with what is listed for each frame, told by its first pixel."""
    def by_frame(found, *, empty=(), vessels=bar_prediction().vessel_probability):
        def load(paths, **how):
            checkpoints = load_answers(paths, **how)[1]
            names = bar_prediction() if "phase2_cass" in [one["stage"] for one in checkpoints] else None

            def answer(frame, view_deg):
                index = int(frame[0, 0, 0])
                return FrameAnswer(vessel_probability=vessels * (index not in empty), segments=names,
                                   obstructions=list(found.get(index, ())))
            return answer, checkpoints
        monkeypatch.setattr(predict, "load_answers", load)
    return by_frame


def write_picture(folder):
    picture = np.full(SIZE, 120, np.uint8)
    picture[0, 0] = 0
    cv2.imwrite(str(folder / "frame.png"), picture)
    return folder / "frame.png"


def write_cine(folder, frames=9):
    cine = np.full((frames, *SIZE), 120, np.uint8)
    cine[:, VESSEL[0], VESSEL[1]] = 60
    cine[:, 0, 0] = np.arange(frames)
    np.save(folder / "frame.npy", cine)
    return folder / "frame.npy"


def predicted(tmp_path, source, *checkpoints, flags=()):
    out = tmp_path / "out"
    arguments = [source, *flags, "--out", out, "--device", "cpu", "--checkpoint", *checkpoints]
    assert exit_code(predict.main, arguments) == 0
    return json.loads((out / f"{source.stem}.json").read_text(encoding="utf-8"))


def test_what_is_said_of_an_obstruction(tmp_path, weights, sees):
    sees({0: [detection(IN_MID_LAD, 0.91, 78.26), detection(IN_PROXIMAL_LAD, 0.41, 55.0), detection((60, 53), 0.39)]})
    written = predicted(tmp_path, write_picture(tmp_path), weights[2], weights[3])
    first, second = written["obstructions"]
    assert (first["rank"], first["score"], first["estimated_stenosis_pct"], first["grade"]) == (1, 0.91, 78.3, "severe")
    assert first["point_px"] == [120, 53] and first["box_px"] == [112, 47, 128, 59]
    segment = first["segment"]
    assert (segment["cass_id"], segment["name"], segment["snomed_ct"]) == (13, "Mid LAD", "91748002")
    assert segment["probability"] == pytest.approx(0.9, abs=0.01)
    assert first["seen_in"] == {"frames": 1, "of": 1} and first["best_frame_index"] == 0
    assert first["frames"] == [{"frame_index": 0, "score": 0.91, "point_px": [120, 53], "box_px": [112, 47, 128, 59],
                                "estimated_stenosis_pct": 78.3, "grade": "severe"}]
    assert (second["rank"], second["segment"]["cass_id"], second["grade"]) == (2, 12, "moderate")
    assert written["obstructions_less_sure"] == []
    search = written["obstruction_search"]
    assert search["frames_looked_at"] == [0] and "not measured" in search["note"]
    assert search["score_threshold"] == 0.4
    assert search["score_threshold_source"] == "best F1 in the checkpoint's validation"
    assert [(one["stage"], one["used_for"]) for one in written["checkpoints"]] == [
        ("phase2_cass", ["vessels", "segments"]), ("phase3_obstruction", ["obstructions"])]
    assert written["segments"] and written["analysed"]


def test_what_is_not_known_is_null(tmp_path, weights, sees):
    """Without stage 2 no segment; far from any vessel none either; no severity that was not estimated."""
    sees({0: [detection(IN_MID_LAD, 0.9, math.nan), detection(OFF_VESSEL, 0.8)]})
    source = write_picture(tmp_path)
    alone = predicted(tmp_path, source, weights[3])
    assert [one["segment"] for one in alone["obstructions"]] == [None, None]
    assert alone["obstructions"][0]["estimated_stenosis_pct"] is None and alone["obstructions"][0]["grade"] is None
    assert "segments" not in alone and alone["vessel"]["area_px"] == 7 * 140
    with_names = predicted(tmp_path, source, weights[3], weights[2])["obstructions"]
    assert with_names[0]["segment"]["cass_id"] == 13 and with_names[1]["segment"] is None


def test_without_stage_3_nothing_is_said_of_obstructions(tmp_path, weights):
    written = predicted(tmp_path, write_picture(tmp_path), weights[1])
    assert not [name for name in written if "obstruction" in name]


def test_same_lesion_in_the_frames_of_a_cine_is_reported_once(tmp_path, weights, sees):
    moved = {4: (114.0, 53.0), 5: (117.0, 54.0), 6: (120.0, 53.0), 7: (123.0, 52.0), 8: (126.0, 53.0)}
    scores = {4: 0.5, 5: 0.6, 6: 0.7, 7: 0.9, 8: 0.3}
    found = {index: [detection(place, scores[index], 70 + index)] for index, place in moved.items()}
    found[0] = [detection(IN_PROXIMAL_LAD, 0.99)]  # in a frame that is not looked at
    sees(found)
    written = predicted(tmp_path, write_cine(tmp_path), weights[2], weights[3], flags=["--frame", 6])
    assert written["obstruction_search"]["frames_looked_at"] == [4, 5, 6, 7, 8] and written["frame_index"] == 6
    (lesion,) = written["obstructions"]
    assert lesion["score"] == pytest.approx(0.6) and lesion["seen_in"] == {"frames": 5, "of": 5}
    assert [one["frame_index"] for one in lesion["frames"]] == [7, 6, 5, 4, 8] and lesion["best_frame_index"] == 7
    assert lesion["point_px"] == [120, 53]  # of the frame that is drawn
    assert lesion["frames"][0]["point_px"] == [123, 52] and lesion["frames"][0]["estimated_stenosis_pct"] == 77
    mean = sum(scores[index] * (70 + index) for index in scores) / sum(scores.values())
    assert lesion["estimated_stenosis_pct"] == pytest.approx(mean, abs=0.06)
    assert lesion["segment"]["cass_id"] == 13


def test_lesion_that_the_drawn_frame_does_not_show_is_listed(tmp_path, weights, sees):
    sees({index: [detection(IN_MID_LAD, 0.9)] for index in (3, 4, 5, 6)} | {2: [detection(IN_MID_LAD, 0.05)]})
    written = predicted(tmp_path, write_cine(tmp_path), weights[3], flags=["--frame", 2, "--cine-frames", 9])
    (lesion,) = written["obstructions"]
    assert written["obstruction_search"]["frames_looked_at"] == list(range(9))
    assert lesion["point_px"] is None and lesion["box_px"] is None and lesion["best_frame_index"] in (3, 4, 5, 6)
    assert lesion["seen_in"] == {"frames": 4, "of": 9}
    assert lesion["score"] == pytest.approx((4 * 0.9 + 0.05) / 9, abs=1e-4)


def test_lesion_of_a_single_frame_among_many_is_less_sure(tmp_path, weights, sees):
    sees({index: [detection(IN_MID_LAD, 0.8)] for index in range(9)} | {
        4: [detection(IN_MID_LAD, 0.8), detection(IN_PROXIMAL_LAD, 0.95)]})
    source = write_cine(tmp_path)
    written = predicted(tmp_path, source, weights[3], flags=["--frame", 4])
    assert [one["point_px"] for one in written["obstructions"]] == [[120, 53]]
    (less_sure,) = written["obstructions_less_sure"]
    assert less_sure["seen_in"] == {"frames": 1, "of": 5} and less_sure["score"] == pytest.approx(0.95 / 5)
    assert less_sure["rank"] is None and less_sure["point_px"] == [40, 53]
    one_frame = predicted(tmp_path, source, weights[3], flags=["--frame", 4, "--cine-frames", 1])
    assert [one["score"] for one in one_frame["obstructions"]] == [0.95, 0.8]
    assert one_frame["obstruction_search"]["frames_looked_at"] == [4]


def test_frames_before_the_contrast_do_not_count_against_a_lesion(tmp_path, weights, sees):
    sees({index: [detection(IN_MID_LAD, 0.6)] for index in (4, 5, 6)}, empty=(0, 1, 2, 3))
    written = predicted(tmp_path, write_cine(tmp_path), weights[3], flags=["--frame", 4])
    assert written["obstruction_search"]["frames_looked_at"] == [4, 5, 6]
    assert written["obstructions"][0]["score"] == 0.6


@pytest.mark.parametrize("vessel_px, expected", [
    ({3: 100, 4: 100, 5: 100}, [3, 4, 5]), ({3: 69, 4: 100, 5: 71}, [4, 5]), ({3: 90, 4: 100, 5: 10, 6: 90}, [3, 4]),
    ({1: 90, 2: 10, 3: 10, 4: 100}, [4]), ({4: 0}, [4])])
def test_stretch_of_filled_frames_ends_at_the_first_empty_one(vessel_px, expected):
    assert filled_stretch(vessel_px, 4) == expected


@pytest.mark.parametrize("metrics, given, score, source", [
    ({"threshold": 0.37, "threshold_truth": 0.9}, None, 0.37, "validation"), ({"threshold": 0.37}, 0.2, 0.2, "--obstr"),
    ({"threshold": math.nan}, None, 0.5, "default"), ({"threshold_truth": 0.9}, None, 0.5, "default"),
    ({}, None, 0.5, "default"), (None, None, 0.5, "default")])
def test_threshold_and_where_it_is_from(metrics, given, score, source):
    checkpoint = {"stage": "phase3_obstruction", "metrics": metrics, "config": {"threshold_pct": 40.0}}
    wanted = wanted_by([{"stage": "phase2_cass", "metrics": {"threshold": 0.1}, "config": {}}, checkpoint], given)
    assert wanted.threshold.score == score and source in wanted.threshold.source and wanted.from_pct == 40
    assert wanted_by([{"stage": "phase2_cass"}], given) is None


def test_threshold_of_the_command_line_reaches_the_list(tmp_path, weights, sees):
    sees({0: [detection(IN_MID_LAD, 0.91), detection(IN_PROXIMAL_LAD, 0.3)]})
    written = predicted(tmp_path, write_picture(tmp_path), weights[3], flags=["--obstruction-score", "0.25"])
    assert [one["score"] for one in written["obstructions"]] == [0.91, 0.3]
    assert written["obstruction_search"]["score_threshold_source"] == "--obstruction-score"


def test_pictures_show_the_lesion_in_its_best_frames(tmp_path, weights, sees):
    sees({index: [detection(IN_MID_LAD, 0.9)] for index in range(9)})
    source = write_cine(tmp_path)
    predicted(tmp_path, source, weights[2], weights[3], flags=["--frame", 4])
    with_lesion = cv2.imread(str(tmp_path / "out" / "frame_overlay.png"))
    assert cv2.imread(str(tmp_path / "out" / "predictions.png")) is not None
    sees({})
    written = predicted(tmp_path, source, weights[2], weights[3], flags=["--frame", 4])
    without = cv2.imread(str(tmp_path / "out" / "frame_overlay.png"))
    assert written["obstructions"] == [] and with_lesion.shape[0] > 1.5 * without.shape[0]


def findings_of(*lesions, frame_index=4, looked_at=(3, 4, 5), classes=CLASSES, score=0.4):
    return ObstructionFindings(lesions=lesions, less_sure=[], threshold=ScoreThreshold(score, ""),
                               frame_index=frame_index, looked_at=looked_at, classes=classes)


def lesion_of(found, names=None, of_frames=3):
    sightings = [Sighting(index, one, names) for index, one in found.items()]
    return Lesion(tuple(sorted(sightings, key=lambda one: -one.detection.score)), of_frames)


def test_only_what_the_drawn_frame_shows_is_drawn_and_the_rest_is_said():
    found = {3: detection(IN_MID_LAD, 0.9, 78.0), 4: detection((121.0, 53.0), 0.6, 78.0)}
    here = lesion_of(found, np.array([0.2, 0.8]))
    elsewhere = lesion_of({3: detection(IN_PROXIMAL_LAD, 0.9, 55.0), 4: detection(IN_PROXIMAL_LAD, 0.1, 55.0)})
    findings = findings_of(here, elsewhere)
    (mark,) = obstruction_marks(findings)
    assert mark.point_px == (121, 53) and mark.text == "1: 78 % (0.50) 2/3"
    assert obstruction_words(findings) == "2 obstructions, worst 78 % in 13 Mid LAD (1 not in this frame)"
    assert list(obstruction_legend(estimated_stenoses(findings))) == [
        "obstruction: moderate, from 50 %DS", "obstruction: severe, from 70 %DS"]
    assert obstruction_words(findings_of()) == "no obstruction found"
    alone = lesion_of({4: detection(IN_MID_LAD, 0.9, math.nan)}, of_frames=1)
    assert obstruction_words(findings_of(alone, looked_at=(4,), classes=None)) == "1 obstruction"
    assert obstruction_marks(findings_of(alone, looked_at=(4,)))[0].text == "1: (0.90)"


def test_crops_hold_the_lesion_in_its_middle_best_frame_first():
    """The lesion is the only bright place, in each frame with a grey of its own."""
    def read(index):
        frame = np.zeros((*SIZE, 3), np.uint8)
        frame[50:57, 2:9] = 50 * index
        return frame
    lesion = lesion_of({3: detection((5.0, 53.0), 0.5), 5: detection((5.0, 53.0), 0.9), 4: detection((5.0, 53.0), 0.1)})
    rows, captions = obstruction_crops(findings_of(lesion), read, width=3, most_rows=2)
    (first, second, nothing), = rows
    assert nothing is None and captions[0][2] == ""
    assert "best in frame 5, score 0.90" in captions[0][0] and captions[0][1] == "frame 3, score 0.50"
    for crop, grey in ((first, 250), (second, 150)):
        middle = crop[len(crop) // 2 - 2 : len(crop) // 2 + 3, crop.shape[1] // 2 - 2 : crop.shape[1] // 2 + 3]
        assert (np.abs(middle.astype(int) - grey) <= 3).all()
    flat = [lesion_of({0: detection(IN_MID_LAD, score)}, of_frames=1) for score in (0.9, 0.8, 0.7)]
    rows, captions = obstruction_crops(findings_of(*flat, frame_index=0, looked_at=(0,)), read, width=2, most_rows=5)
    assert [[cell is not None for cell in row] for row in rows] == [[True, True], [True, False]]
    assert [words.split(":")[0] for row in captions for words in row] == ["1", "2", "3", ""]


def test_name_is_that_of_the_vessel_near_the_point():
    prediction = bar_prediction()
    for place, best in ((IN_PROXIMAL_LAD, 0), (IN_MID_LAD, 1), ((120.0, 59.5), 1), ((-3.0, 53.0), None)):
        probs = names_near(prediction, place)
        assert (None if probs is None else int(probs.argmax())) == best
    assert names_near(prediction, OFF_VESSEL) is None and names_near(None, IN_MID_LAD) is None
    at_border = names_near(prediction, (float(BORDER), 53.0))
    assert at_border.sum() == pytest.approx(1) and 0.2 < at_border[1] < 0.9


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("data"), patients=2, rows_per_patient=1)


def test_annotated_obstruction_is_found_missed_or_not_there(data_set):
    row = load_table(data_set).iloc[0]
    label = obstruction_of_row(row)
    right = lesion_of({4: detection(label.mld_px, 0.9)})
    wrong = lesion_of({4: detection(tuple(np.add(label.box_px[2:], 30)), 0.95)})
    other_frame = lesion_of({3: detection(label.mld_px, 0.9)})
    below, above = label.stenosis_pct - 1, label.stenosis_pct + 1
    assert score_obstructions(findings_of(wrong, right), row, below) == {"obstruction_found": True}
    assert score_obstructions(findings_of(wrong, other_frame), row, below) == {"obstruction_found": False}
    assert score_obstructions(findings_of(right), row, above) == {"obstruction_found": None}


def test_rows_of_a_data_set_say_how_many_were_found(tmp_path, data_set, weights, monkeypatch, capsys):
    """Both rows have an obstruction to find, in each frame the first one's is pointed at."""
    labels = [obstruction_of_row(row) for _, row in load_table(data_set).iterrows()]
    low = min(label.stenosis_pct for label in labels) - 1
    checkpoint = write_tiny_obstruction_checkpoint(tmp_path / "low.pth", threshold_pct=low)
    answers = FrameAnswer(vessel_probability=np.ones((96, 96), np.float32),
                          obstructions=[detection(labels[0].mld_px, 0.9)])
    monkeypatch.setattr(predict, "load_answers", lambda paths, **how: (
        lambda frame, view_deg: answers, load_answers(paths, **how)[1]))
    assert call(checkpoint, tmp_path / "out", "--data-csv", data_set, "--split", "all") == 0
    found = {path.name[:8]: json.loads(path.read_text(encoding="utf-8"))["scores"]["obstruction_found"]
             for path in input_files(tmp_path / "out")}
    x, y = labels[0].mld_px
    x0, y0, x1, y1 = labels[1].box_px
    second = x0 <= x <= x1 and y0 <= y <= y1
    assert found == {"101-0001": True, "101-0002": second}
    assert f"found {1 + second} of 2 annotated obstructions" in capsys.readouterr().out


def test_models_answer_together_as_they_do_alone(weights):
    frame = np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)
    alone = {stage: load_answer(path, device=CPU)[0](frame, view_deg=(10, 20)) for stage, path in weights.items()}
    for stages, draws in (((3, 2), 2), ((3, 1), 1), ((3,), 3), ((1, 2, 3), 2)):
        answer, checkpoints = load_answers([weights[stage] for stage in stages], device=CPU)
        found = answer(frame=frame, view_deg=(10, 20))
        assert [int(checkpoint["stage"][5]) for checkpoint in checkpoints] == list(stages)
        assert np.array_equal(found.vessel_probability, alone[draws].vessel_probability)
        assert found.obstructions == alone[3].obstructions
        assert (found.segments is None) == (2 not in stages)
        if 2 in stages:
            assert np.array_equal(found.segments.name_log_probs, alone[2].segments.name_log_probs)


def test_each_model_has_its_use():
    assert uses_of(["phase1_deepsa"]) == {"phase1_deepsa": ["vessels"]}
    assert uses_of(["phase3_obstruction", "phase1_deepsa", "phase2_cass"]) == {
        "phase3_obstruction": ["obstructions"], "phase1_deepsa": [], "phase2_cass": ["vessels", "segments"]}
    assert uses_of(["phase3_obstruction"]) == {"phase3_obstruction": ["vessels", "obstructions"]}


def test_magnified_copies_are_averaged_by_the_model_that_draws_the_vessels(weights):
    frame = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8), (0, 0), 3)
    scales = (1.0, 1.2)
    answer, _ = load_answers([weights[3], weights[2]], device=CPU, scales=scales)
    alone = load_answer(weights[2], device=CPU, scales=scales)[0](frame, view_deg=(0, 0))
    assert np.array_equal(answer(frame, view_deg=(0, 0)).vessel_probability, alone.vessel_probability)
    plain = load_answer(weights[2], device=CPU)[0](frame, view_deg=(0, 0))
    assert not np.array_equal(alone.vessel_probability, plain.vessel_probability)


def test_two_checkpoints_of_one_stage_are_refused(tmp_path, weights, capsys):
    other = write_tiny_obstruction_checkpoint(tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="obstructions.pth and .*other.pth are both of phase3_obstruction"):
        load_answers([weights[3], weights[1], other], device=CPU)
    arguments = [write_picture(tmp_path), "--out", tmp_path / "out", "--device", "cpu",
                 "--checkpoint", weights[3], other]
    assert exit_code(predict.main, arguments) == 1
    assert "are both of phase3_obstruction" in capsys.readouterr().err


@pytest.mark.parametrize("stages, flags, message", [
    ((1, 3), ["--point", "4,4"], "which weights of stage 2 know; "),
    ((1, 2), ["--obstruction-score", "0.3"], "which weights of stage 3 find; ")])
def test_flags_that_no_model_given_answers_are_refused(tmp_path, weights, capsys, stages, flags, message):
    arguments = [write_picture(tmp_path), *flags, "--out", tmp_path / "out", "--device", "cpu",
                 "--checkpoint", *(weights[stage] for stage in stages)]
    assert exit_code(predict.main, arguments) == 1
    errors = capsys.readouterr().err
    assert message in errors and all(weights[stage].name in errors for stage in stages)


def test_point_is_asked_of_stage_2_among_several(tmp_path, weights, sees, capsys):
    sees({})
    written = predicted(tmp_path, write_picture(tmp_path), weights[3], weights[2], flags=["--point", "120,53"])
    assert written["pointed"]["cass_id"] == 13 and "13 Mid LAD" in capsys.readouterr().out


def test_grade_is_that_of_the_number_written(tmp_path, weights, sees):
    sees({0: [detection(IN_MID_LAD, 0.9, 69.96)]})
    (lesion,) = predicted(tmp_path, write_picture(tmp_path), weights[3])["obstructions"]
    assert (lesion["estimated_stenosis_pct"], lesion["grade"]) == (70.0, "severe")


def test_inputs_taken_for_weights_are_explained(tmp_path, weights, capsys):
    """--checkpoint takes all that follows it, inputs too."""
    assert exit_code(predict.main, ["--checkpoint", weights[3], write_picture(tmp_path)]) == 2
    assert "inputs before --checkpoint" in capsys.readouterr().err


def test_shipped_weights_are_those_that_are_there(tmp_path):
    paths = {number: tmp_path / f"{stage}_tiny.pth"
             for number, stage in ((1, "phase1_deepsa"), (2, "phase2_cass"), (3, "phase3_obstruction"))}
    assert shipped_checkpoints(tmp_path) == (paths[1],)
    for present, expected in (((1,), (1,)), ((1, 3), (1, 3)), ((1, 2, 3), (2, 3)), ((2,), (2,))):
        for number, path in paths.items():
            path.unlink(missing_ok=True)
            if number in present:
                path.touch()
        assert shipped_checkpoints(tmp_path) == tuple(paths[number] for number in expected)
