"""test_model_during_training.py, the tool: fixed cases, one line of figures, drawn again when it is new."""
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import test_model_during_training as viewer
from tests.csv_fixture import write_tiny_dataset
from tests.segment_fixture import bar_prediction
from tests.tiny_checkpoint import write_tiny_cass_checkpoint, write_tiny_checkpoint
from utils import preview_vessels
from utils.cases import choose_cases
from utils.checkpoint import CheckpointError
from utils.history import write_history
from utils.prediction import CASS_STAGE, STAGE
from utils.run_files import RunFiles
from utils.segments import preview as preview_segments
from utils.segments.report import find_segments


def files_of(folder):
    return RunFiles(folder, STAGE)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run in progress: a checkpoint that says which data it is of, and two epochs of history."""
    folder = tmp_path_factory.mktemp("run")
    csv_path = write_tiny_dataset(folder / "data", patients=3, val_patients=2)
    write_tiny_checkpoint(
        files_of(folder).latest, epoch=2, data_csv=str(csv_path), data_root=None, path_map=[]
    )
    write_history(files_of(folder).history, [{"epoch": 1, "train_loss": 0.9, "val_dice_truth": None},
                                            {"epoch": 2, "train_loss": 0.7, "val_dice_truth": 0.4}])
    return folder


def test_preview_needs_nothing_but_the_folder(run_folder, capsys):
    assert viewer.main(["--checkpoint-dir", str(run_folder), "--cases", "2"]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith(
        "phase1_deepsa, epoch 2, step 20: on these 2 cases mean Dice against labels 0."
    )
    assert "against truth 0." in lines[0]
    assert (run_folder / "phase1_deepsa_preview.png").stat().st_size > 10_000


@pytest.mark.parametrize("flags, names", [
    ([], ["phase1_deepsa_latest.pth", "phase2_cass_latest.pth"]),
    (["--stage", "phase2_cass"], ["no phase2_cass_latest.pth"])])
def test_missing_checkpoint_is_named(tmp_path, capsys, flags, names):
    with pytest.raises(SystemExit) as left:
        viewer.main(["--checkpoint-dir", str(tmp_path), *flags])
    errors = capsys.readouterr().err
    assert left.value.code == 1 and all(name in errors for name in names)


def test_the_newer_of_two_runs_is_shown_unless_a_stage_is_asked_for(tmp_path):
    older, newer = files_of(tmp_path).latest, RunFiles(tmp_path, CASS_STAGE).latest
    for path, stamp in ((older, 1000), (newer, 2000)):
        path.touch()
        os.utime(path, (stamp, stamp))
    assert viewer.newest_run(tmp_path, None).stage == CASS_STAGE
    assert viewer.newest_run(tmp_path, STAGE).stage == STAGE
    os.utime(older, (3000, 3000))
    assert viewer.newest_run(tmp_path, None).stage == STAGE


def test_segments_are_shown_with_both_answers(tmp_path, capsys):
    csv_path = write_tiny_dataset(tmp_path / "data", patients=2, rows_per_patient=1)
    files = RunFiles(tmp_path, CASS_STAGE)
    write_tiny_cass_checkpoint(files.latest, epoch=1, data_csv=str(csv_path), data_root=None, path_map=[])
    write_history(files.history, [{"epoch": 1, "train_loss": 2.0, "val_top1_pointed": 0.3}])
    assert viewer.main(["--checkpoint-dir", str(tmp_path), "--cases", "1"]) == 0
    line = capsys.readouterr().out.strip()
    # The tiny data has no true map to say more of.
    assert re.match(r"phase2_cass, epoch 1, step 10: on these 1 cases pointed [01] right, "
                    r"blind [01] \(pooled head\) and [01] \(map\); ", line)
    assert files.picture("preview").stat().st_size > 10_000


def test_watch_draws_only_when_the_checkpoint_is_new(run_folder, monkeypatch, capsys):
    drawn, sleeps = [], iter([None, "new", None, KeyboardInterrupt])
    monkeypatch.setattr(viewer, "preview", lambda args, files, rows: drawn.append(1))

    def sleep(seconds):
        event = next(sleeps)
        if event is KeyboardInterrupt:
            raise KeyboardInterrupt
        if event == "new":
            shutil.copy2(files_of(run_folder).latest, run_folder / "copy.pth")
            (files_of(run_folder).latest).touch()
    monkeypatch.setattr(viewer.time, "sleep", sleep)
    assert viewer.main(["--checkpoint-dir", str(run_folder), "--watch", "5"]) == 0
    assert len(drawn) == 2


def test_watch_waits_for_the_first_checkpoint(tmp_path, monkeypatch, capsys):
    def sleep(seconds):
        raise KeyboardInterrupt
    monkeypatch.setattr(viewer.time, "sleep", sleep)
    assert viewer.main(["--checkpoint-dir", str(tmp_path), "--watch", "5"]) == 0
    assert "looking again every 5 s" in capsys.readouterr().out


def test_file_held_by_windows_is_tried_again(monkeypatch):
    answers = iter([PermissionError("held"), None])

    def load(path, *, device):
        if (answer := next(answers)) is not None:
            raise CheckpointError("cannot be read") from answer
        return "answer", {}
    monkeypatch.setattr(viewer, "load_answer", load)
    monkeypatch.setattr(viewer.time, "sleep", lambda seconds: None)
    assert viewer.load_latest(RunFiles(Path(), "phase1_deepsa"), "cpu") == ("answer", {})


def test_damaged_checkpoint_is_not_tried_again(monkeypatch):
    def load(path, *, device):
        raise CheckpointError("damaged") from ValueError()
    monkeypatch.setattr(viewer, "load_answer", load)
    monkeypatch.setattr(viewer.time, "sleep", lambda seconds: pytest.fail("tried again"))
    with pytest.raises(CheckpointError):
        viewer.load_latest(RunFiles(Path(), "phase1_deepsa"), "cpu")


def case(dice_deepsa, dice_truth):
    frame, mask = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), bool)
    return preview_vessels.Case(
        title="",
        frame=frame,
        label=mask,
        truth=None if dice_truth is None else mask,
        prediction=mask,
        dice_deepsa=dice_deepsa,
        dice_truth=dice_truth,
    )


def test_scores_against_labels_and_truth_are_never_mixed():
    line = preview_vessels.describe([case(0.2, 0.9), case(0.4, None)])
    assert "against labels 0.300" in line and "against truth 0.900 (1 cases)" in line
    assert "truth" not in preview_vessels.describe([case(0.2, None)])
    for fields in preview_vessels.PANELS.values():
        against_truth = ["truth" in field for field in fields]
        assert all(against_truth) or not any(against_truth)


def test_worst_case_is_on_top_by_truth_where_every_case_has_it():
    by_truth, _ = preview_vessels.order([case(0.1, 0.9), case(0.5, 0.3)])
    by_label, _ = preview_vessels.order([case(0.5, 0.3), case(0.1, None)])
    assert [one.dice_truth for one in by_truth] == [0.3, 0.9]
    assert [one.dice_deepsa for one in by_label] == [0.1, 0.5]


def test_pointed_and_blind_are_never_in_one_panel():
    for fields in preview_segments.PANELS.values():
        assert not (any("pointed" in field for field in fields) and any("blind" in field for field in fields))


def named_case(cass_id, pointed, head, names_right=np.nan):
    """A case of the classes 12 and 13 whose answers give 13 these probabilities."""
    prediction = bar_prediction()
    guesses = {"pointed": np.array([1 - pointed, pointed]), "head": np.array([1 - head, head]),
               "map": np.array([0.6, 0.4])}
    mask = prediction.vessel_probability > 0.5
    return preview_segments.Case(
        title="", frame=np.zeros((*mask.shape, 3), np.uint8), segment=mask, cass_id=cass_id, guesses=guesses,
        findings=find_segments(prediction, threshold=0.5), cass_map=None, names_right=names_right)


def test_answers_are_counted_and_judged_by_question():
    cases = [named_case(13, 0.9, 0.2, 0.5), named_case(12, 0.8, 0.3, 0.7), named_case(21, 0.9, 0.9)]
    line = preview_segments.describe(cases)
    assert line == ("pointed 1 right, blind 1 (pooled head) and 1 (map), "
                    "names right on 60% of the vessel pixels")
    captions = preview_segments.arrange(cases)["captions"]
    assert captions[0] == ["truth: 13 Mid LAD", "pointed: 13 Mid LAD (0.90), right",
                           "head: 12 Proximal LAD (0.80), wrong\nmap: 12 Proximal LAD (0.60), wrong"]
    worst_first, _ = preview_segments.order(cases)
    assert [one.cass_id for one in worst_first] == [21, 12, 13]     # 21 is none of the model's classes


def test_cases_are_the_same_every_time_and_one_per_patient_first():
    table = pd.DataFrame({"patient_id": ["a"] * 5 + ["b"] * 5 + ["c"]})
    chosen = choose_cases(table, 3, seed=1)
    assert chosen == choose_cases(table, 3, seed=1) == sorted(chosen)
    assert set(table["patient_id"].iloc[chosen]) == {"a", "b", "c"}
    assert len(choose_cases(table, 100)) == 11
