"""The scripts as a newcomer meets them: `--help`, and the shipped checkpoint on a data set that was just made."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared" / "real"
SCRIPTS = sorted(path.name for path in ROOT.glob("*.py") if path.name != "engine.py")
MODULES = ["data.schema", "utils.export", "utils.demo"]


def run_python(*arguments, timeout=240):
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True,
                          timeout=timeout)


@pytest.mark.parametrize("command", [[name] for name in SCRIPTS] + [["-m", name] for name in MODULES], ids=" ".join)
def test_help_shows_a_command_to_copy(command):
    done = run_python(*command, "--help")
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout and "python " in done.stdout


def test_shipped_checkpoint_finds_the_vessels_of_new_patients(tmp_path):
    """Other patients than it was trained on (another seed); Dice as in the README, with room for four frames."""
    made = run_python("make_phantom_dataset.py", "--out", tmp_path / "data", "--patients", 2, "--frames", 2,
                      "--seed", 1001, "--workers", 1)
    assert made.returncode == 0, made.stderr
    done = run_python("predict.py", "--data-csv", tmp_path / "data" / "dataset.csv", "--split", "all", "--limit", 4,
                      "--out", tmp_path / "out", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    records = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["inputs"]
    assert len(records) == 4 and (tmp_path / "out" / "predictions.png").stat().st_size > 10_000
    scores = [record["scores"]["dice_truth"] for record in records]
    assert sum(scores) / len(scores) > 0.72, scores


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real angiograms in {REAL}")
def test_shipped_checkpoint_draws_a_tree_on_real_angiograms(tmp_path):
    """No true masks of them are known: the test asks for a tree's size and coherence; the rest is for eyes."""
    done = run_python("predict.py", REAL / "angiograms", REAL / "arcade", "--out", tmp_path, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    records = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["inputs"]
    assert len(records) == 8
    for record in records:
        assert 0.02 < record["vessel"]["area_share_of_frame"] < 0.15, record["input"]
        assert record["vessel"]["largest_fragment_share"] > 0.25, record["input"]
