"""test_model_during_training.py, the tool: fixed cases, one line of figures, drawn again when it is new."""
import shutil

import numpy as np
import pandas as pd
import pytest

import test_model_during_training as viewer
from tests.csv_fixture import write_tiny_dataset
from tests.tiny_checkpoint import write_tiny_checkpoint
from utils.cases import choose_cases
from utils.checkpoint import CheckpointError
from utils.history import write_history
from utils.prediction import STAGE
from utils.run_files import RunFiles


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
        "epoch 2, step 20: on these 2 cases mean Dice against labels 0."
    )
    assert "against truth 0." in lines[0]
    assert (run_folder / viewer.PREVIEW).stat().st_size > 10_000


def test_missing_checkpoint_is_named(tmp_path, capsys):
    assert viewer.main(["--checkpoint-dir", str(tmp_path)]) == 2
    assert files_of(tmp_path).latest.name in capsys.readouterr().err


def test_watch_draws_only_when_the_checkpoint_is_new(run_folder, monkeypatch, capsys):
    drawn, sleeps = [], iter([None, "new", None, KeyboardInterrupt])
    monkeypatch.setattr(viewer, "preview", lambda args, rows: drawn.append(1))

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
    assert "not there yet" in capsys.readouterr().out


def test_file_held_by_windows_is_tried_again(monkeypatch):
    answers = iter([PermissionError("held"), None])

    def load(path, device):
        if (answer := next(answers)) is not None:
            raise CheckpointError("cannot be read") from answer
        return "model", {}
    monkeypatch.setattr(viewer, "load_deepsa_model", load)
    monkeypatch.setattr(viewer.time, "sleep", lambda seconds: None)
    assert viewer.load_latest("latest.pth", "cpu") == ("model", {})


def test_damaged_checkpoint_is_not_tried_again(monkeypatch):
    def load(path, device):
        raise CheckpointError("damaged") from ValueError()
    monkeypatch.setattr(viewer, "load_deepsa_model", load)
    monkeypatch.setattr(viewer.time, "sleep", lambda seconds: pytest.fail("tried again"))
    with pytest.raises(CheckpointError):
        viewer.load_latest("latest.pth", "cpu")


def case(dice_deepsa, dice_truth):
    frame, mask = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), bool)
    return viewer.Case(
        title="",
        frame=frame,
        label=mask,
        truth=None if dice_truth is None else mask,
        prediction=mask,
        dice_deepsa=dice_deepsa,
        dice_truth=dice_truth,
    )


def test_scores_against_labels_and_truth_are_never_mixed():
    line = viewer.describe([case(0.2, 0.9), case(0.4, None)], {"epoch": 3, "global_step": 7})
    assert "against labels 0.300" in line and "against truth 0.900 (1 cases)" in line
    assert "truth" not in viewer.describe([case(0.2, None)], {"epoch": 3, "global_step": 7})
    for fields in viewer.PANELS.values():
        against_truth = ["truth" in field for field in fields]
        assert all(against_truth) or not any(against_truth)


def test_cases_are_the_same_every_time_and_one_per_patient_first():
    table = pd.DataFrame({"patient_id": ["a"] * 5 + ["b"] * 5 + ["c"]})
    chosen = choose_cases(table, 3, seed=1)
    assert chosen == choose_cases(table, 3, seed=1) == sorted(chosen)
    assert set(table["patient_id"].iloc[chosen]) == {"a", "b", "c"}
    assert len(choose_cases(table, 100)) == 11
