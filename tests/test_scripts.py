"""The scripts as a newcomer meets them: `--help`, and the shipped checkpoint on a data set that was just made."""

import json
import runpy
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared" / "real"
SCRIPTS = sorted(path.name for path in ROOT.glob("*.py") if path.name != "engine.py")
COMMANDS = [[name] for name in SCRIPTS] + [["-m", name] for name in ("data.schema", "utils.export", "utils.demo")]
STARTED = ("predict.py", "run.py", "train_stage1_deepsa.py")  # as programs by default too; the others with -m slow


def run_python(*arguments, timeout=240):
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True,
                          timeout=timeout)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_shows_a_command_to_copy(command, capsys, monkeypatch):
    """In this process, which has the libraries that each of them would import for seconds."""
    monkeypatch.setattr(sys, "argv", [*command, "--help"])
    with pytest.raises(SystemExit) as left, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a module that is imported already is run once more
        if command[0] == "-m":
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(str(ROOT / command[0]), run_name="__main__")
    check_help(left.value.code, capsys.readouterr().out)


@pytest.mark.parametrize("command", [
    pytest.param(one, marks=[] if one[0] in STARTED else pytest.mark.slow, id=" ".join(one)) for one in COMMANDS])
def test_help_from_a_terminal(command):
    """As a program: what it imports is in no wrong order, whatever came before in the other test."""
    done = run_python(*command, "--help")
    assert done.returncode == 0, done.stderr
    check_help(done.returncode, done.stdout)


def check_help(code, said):
    assert not code and "usage:" in said and "python " in said


def test_shipped_checkpoint_finds_the_vessels_of_new_patients(tmp_path):
    """Other patients than it was trained on (another seed); Dice as in the README, with room for four frames."""
    made = run_python("make_phantom_dataset.py", "--out", tmp_path / "data", "--patients", 2, "--rows", 4,
                      "--frames", 2, "--seed", 1001, "--workers", 1)
    assert made.returncode == 0, made.stderr
    done = run_python("predict.py", "--data-csv", tmp_path / "data" / "dataset.csv", "--split", "all", "--limit", 4,
                      "--out", tmp_path / "out", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    records = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["inputs"]
    assert len(records) == 4 and (tmp_path / "out" / "predictions.png").stat().st_size > 10_000
    scores = [record["scores"]["dice_truth"] for record in records]
    assert sum(scores) / len(scores) > 0.72, scores


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real angiograms in {REAL}")
@pytest.mark.parametrize("folder, pictures", [
    ("angiograms", 3), pytest.param("arcade", 5, marks=pytest.mark.slow)])
def test_shipped_checkpoint_draws_a_tree_on_real_angiograms(tmp_path, folder, pictures):
    """No true masks of them are known: the test asks for a tree's size and coherence; the rest is for eyes."""
    done = run_python("predict.py", REAL / folder, "--out", tmp_path, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    records = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["inputs"]
    assert len(records) == pictures
    for record in records:
        assert 0.02 < record["vessel"]["area_share_of_frame"] < 0.15, record["input"]
        assert record["vessel"]["largest_fragment_share"] > 0.25, record["input"]
