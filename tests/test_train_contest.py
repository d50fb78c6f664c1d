"""train_contest.py and contest/training.py: equal time for everybody, exact steps, one table, going on."""

import json
from pathlib import Path

import pandas as pd
import pytest

import train_contest
from contest import training
from data.errors import DataError
from tests.csv_fixture import write_tiny_dataset
from tests.stage_script import flags, run_main
from utils.checkpoint import load_checkpoint
from utils.history import read_history
from utils.prediction import STAGE
from utils.run_files import RunFiles


@pytest.fixture
def csv_path(tmp_path):
    return write_tiny_dataset(tmp_path / "data", patients=4, rows_per_patient=1)


def test_steps_follow_from_the_rate_and_an_earlier_contest_is_not_mixed_up(csv_path, tmp_path, monkeypatch):
    commands = []

    def run_step(command):
        """Each rank takes 1 s of the processor for a step when it is measured, and 1.1 s in the contest."""
        commands.append(command)
        if command[0] == "-m":
            folder = Path(command[command.index("--checkpoint-dir") + 1])
            folder.mkdir(parents=True, exist_ok=True)
            for rank in (0, 1):
                seconds = 5.0 if "rates" in folder.parts else 5.5
                (folder / f"steps_{rank}.json").write_text(json.dumps([5, seconds]), encoding="utf-8")

    monkeypatch.setattr(train_contest, "run_step", run_step)
    given = ["--data-csv", csv_path, "--contestants", "sam3-tiny", "unet", "--minutes", 1, "--device", "cpu", "--out",
             tmp_path / "out", "--batch-size", 2, "--world-size", 2]
    said, code = run_main(train_contest, *given)
    assert code == 0, said
    # Two ranks at 1 s each are 2 s a step, so thirty of them fill a minute of the processor.
    trained = {Path(command[command.index("--checkpoint-dir") + 1]): command for command in commands[:-1]}
    steps = {folder.name: int(command[command.index("--steps") + 1])
             for folder, command in trained.items() if "rates" not in folder.parts}
    assert steps == {"sam3-tiny": 30, "unet": 30}
    assert "30 steps, each of 3 rows 40.0 times" in said
    assert json.loads((tmp_path / "out" / "rates.json").read_text(encoding="utf-8")) == {"sam3-tiny": 2.0, "unet": 2.0}
    for folder, command in trained.items():
        assert command[command.index("--world-size") + 1] == "2" and "--resume" in command
        assert ("--val-rows" in command) == ("rates" in folder.parts)  # who is measured is not scored
    assert commands[-1][0] == "compare_models.py" and "frangi" in commands[-1]
    assert any(part.startswith("unet, tuned=") for part in commands[-1])
    assert "unet trained 1.10 min of the processor, 30 steps of 4 rows" in said
    said, code = run_main(train_contest, *given)
    assert code == 1 and "holds an earlier contest" in said
    commands.clear()
    assert run_main(train_contest, *given, "--resume")[1] == 0
    assert not any("rates" in Path(command[command.index("--checkpoint-dir") + 1]).parts for command in commands[:-1])


def test_who_cannot_take_a_step_in_time_takes_one(csv_path, tmp_path):
    given = ["--data-csv", str(csv_path), "--contestants", "unet", "--minutes", "1", "--out", str(tmp_path)]
    args = train_contest.build_parser().parse_args(given)
    assert [train_contest.plan(args, "unet", 3, step_s=seconds) for seconds in (7.0, 59.0, 600.0)] == [9, 1, 1]


@pytest.mark.parametrize("samples", [2, 3, 7])
def test_rows_recur_alike(samples):
    table = pd.DataFrame({"patient_id": ["a", "b", "c"]}, index=[4, 5, 6])
    rows = training.rows_for(table, samples, seed=1)
    counts = rows["patient_id"].value_counts().reindex(["a", "b", "c"], fill_value=0)
    assert len(rows) == samples and counts.max() - counts.min() <= 1 and list(rows.index) == list(range(samples))
    pd.testing.assert_frame_equal(rows, training.rows_for(table, samples, seed=1))


def test_time_between_steps_is_noted_without_the_first_and_added_to(tmp_path, monkeypatch):
    clock = iter([0.0, 50.0, 60.0, 61.0, 63.0, 7.0, 8.0, 9.0, 12.0])
    monkeypatch.setattr(training.time, "process_time", lambda: next(clock))
    for steps in (5, 4):  # of a run and of what goes on with it
        loss = training.TimedLoss(tmp_path)
        for _ in range(steps):
            loss.note(on_gpu=False)
    assert json.loads((tmp_path / "steps_0.json").read_text(encoding="utf-8")) == [3, 6.0]
    (tmp_path / "steps_1.json").write_text("[2, 8.0]", encoding="utf-8")
    assert training.seconds_per_step(tmp_path, on_gpu=False) == 2.0 + 4.0
    assert training.seconds_per_step(tmp_path, on_gpu=True) == 4.0  # ranks run at the same time
    with pytest.raises(DataError, match="no times of steps"):
        training.seconds_per_step(tmp_path / "none", on_gpu=False)


def test_a_contestant_takes_exactly_its_steps_and_its_rate_ends_at_zero(csv_path, tmp_path):
    """Five steps of two of three rows: more than an epoch, less than two."""
    said, code = run_main(training, *flags(csv_path, tmp_path, "--backbone", "unet", "--image-size", 64, "--epochs", 9,
                                           "--steps", 5, "--val-rows", 1))
    assert code == 0, said
    files = RunFiles(tmp_path, STAGE)
    (line,) = read_history(files.history)
    assert line["global_step"] == 5 and line["train_samples"] == 10 and line["val_n_frames"] == 1
    schedule = load_checkpoint(files.latest)["scheduler"]
    assert schedule["last_epoch"] == 5 and max(schedule["_last_lr"]) < 1e-9
    steps, seconds = json.loads((tmp_path / "steps_0.json").read_text(encoding="utf-8"))
    assert steps == 2 and seconds > 0
    before = files.latest.read_bytes()
    assert run_main(training, *flags(csv_path, tmp_path, "--backbone", "unet", "--image-size", 64, "--steps", 5,
                                     "--val-rows", 1, "--resume"))[1] == 0
    assert files.latest.read_bytes() == before


@pytest.mark.slow
def test_two_models_are_trained_and_compared(csv_path, tmp_path):
    said, code = run_main(
        train_contest, "--data-csv", csv_path, "--contestants", "sam3-tiny", "unet", "--minutes", 0.1, "--device",
        "cpu", "--batch-size", 1, "--limit", 1, "--out", tmp_path / "out",
    )
    assert code == 0, said
    report = json.loads((tmp_path / "out" / "comparison" / "contest.json").read_text(encoding="utf-8"))
    assert {row["contestant"] for row in report["table"]} == {"sam3-tiny, tuned", "unet, tuned", "frangi"}
