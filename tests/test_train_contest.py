"""train_contest.py: equal time for everybody, one table, going on where it stopped."""

import json

import pandas as pd
import pytest

import train_contest
from tests.csv_fixture import write_tiny_dataset
from tests.stage_script import run_main


@pytest.fixture
def csv_path(tmp_path):
    return write_tiny_dataset(tmp_path / "data", patients=4, rows_per_patient=1)


def test_epochs_follow_from_the_rate_and_an_earlier_contest_is_not_mixed_up(csv_path, tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(train_contest, "run_step", lambda command: commands.append(command))
    history = [{"train_samples_per_second": 0.5, "train_seconds": 90.0, "train_samples": 3}]
    monkeypatch.setattr(train_contest, "read_history", lambda path: history)
    given = ["--data-csv", csv_path, "--contestants", "sam3-tiny", "unet", "--minutes", 1, "--device", "cpu", "--out",
             tmp_path / "out", "--batch-size", 2, "--world-size", 2]
    said, code = run_main(train_contest, *given)
    assert code == 0, said
    # Three training rows at 2 s each are 6 s an epoch, so ten of them fill a minute.
    by_folder = {command[command.index("--checkpoint-dir") + 1]: command for command in commands[:-1]}
    epochs = {folder.split("/")[-1].split("\\")[-1]: command[command.index("--epochs") + 1]
              for folder, command in by_folder.items() if "rates" not in folder}
    assert epochs == {"sam3-tiny": "10", "unet": "10"}
    assert json.loads((tmp_path / "out" / "rates.json").read_text(encoding="utf-8")) == {"sam3-tiny": 2.0, "unet": 2.0}
    for command in commands[:-1]:
        assert command[command.index("--world-size") + 1] == "2" and "--resume" in command
    assert commands[-1][0] == "compare_models.py" and "frangi" in commands[-1]
    assert any(part.startswith("unet, tuned=") for part in commands[-1])
    assert "unet trained 1.5 min" in said
    said, code = run_main(train_contest, *given)
    assert code == 1 and "holds an earlier contest" in said
    commands.clear()
    assert run_main(train_contest, *given, "--resume")[1] == 0
    assert not any("rates" in command[command.index("--checkpoint-dir") + 1] for command in commands[:-1])


def test_who_is_too_slow_for_an_epoch_gets_fewer_rows(csv_path, tmp_path):
    args = train_contest.build_parser().parse_args(
        ["--data-csv", str(csv_path), "--contestants", "unet", "--minutes", "1", "--out", str(tmp_path)]
    )
    assert train_contest.plan(args, "unet", 3, row_s=10.0) == (2, csv_path)
    epochs, few = train_contest.plan(args, "unet", 3, row_s=29.0)
    assert epochs == 1 and pd.read_csv(few)["split"].value_counts().to_dict() == {"train": 2, "val": 1}


@pytest.mark.slow
def test_two_models_are_trained_and_compared(csv_path, tmp_path):
    said, code = run_main(
        train_contest, "--data-csv", csv_path, "--contestants", "sam3-tiny", "unet", "--minutes", 0.1, "--device",
        "cpu", "--batch-size", 1, "--limit", 1, "--out", tmp_path / "out",
    )
    assert code == 0, said
    report = json.loads((tmp_path / "out" / "comparison" / "contest.json").read_text(encoding="utf-8"))
    assert {row["contestant"] for row in report["table"]} == {"sam3-tiny, tuned", "unet, tuned", "frangi"}
