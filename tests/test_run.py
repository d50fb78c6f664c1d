"""run.py and utils/demo.py with steps and commands that cost nothing: what is done again, and what is not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import run
from utils import demo

METRICS = {"dice_truth": 0.8, "dice_deepsa": 0.7, "deepsa_dice_truth": 0.75, "n_patients": 3}
SEGMENT_METRICS = {name: 0.5 for name in demo.SEGMENT_SCORES} | {
    f"{name}_ci95": [0.4, 0.6] for name in demo.SEGMENT_SCORES}
OBSTRUCTION_METRICS = {name: 0.3 for name in demo.OBSTRUCTION_SCORES} | {
    f"{name}_ci95": [0.2, 0.4] for name in demo.OBSTRUCTION_SCORES} | {"ds_mae_points": None}

LUMEN_METRICS = {name: 0.9 for name in demo.LUMEN_SCORES} | {
    f"{name}_ci95": [0.8, 1.0] for name in demo.LUMEN_SCORES}


def fake_step(title, folder, *, writes, files=None, status=0):
    """A step that adds a line to log.txt, writes `files` (path -> text) and ends with `status`."""
    code = (
        f"import pathlib, sys; folder = pathlib.Path({str(folder)!r}); log = (folder / 'log.txt').open('a')\n"
        f"print({title!r}, file=log)\n"
        f"for name, text in {files or {}!r}.items():\n"
        "    (folder / name).parent.mkdir(exist_ok=True); (folder / name).open('a').write(text)\n"
        f"sys.exit({status})"
    )
    return demo.Step(title, ["-c", code], writes)


@pytest.fixture
def steps(tmp_path, monkeypatch):
    """Six steps; a test may put others in their place."""
    folder = tmp_path / "demo"
    chosen = [
        fake_step("data", folder, writes="phantom", files={"phantom/dataset.csv": "rows\n"}),
        fake_step("train", folder, writes="checkpoints",
                  files={"checkpoints/phase1_deepsa_history.jsonl": '{"epoch": 1}\n'}),
        fake_step("evaluate", folder, writes="evaluation",
                  files={"evaluation/phase1_deepsa_metrics.json": json.dumps(METRICS)}),
        fake_step("name", folder, writes="phase2_evaluation",
                  files={"phase2_evaluation/phase2_cass_metrics.json": json.dumps(SEGMENT_METRICS)}),
        fake_step("find", folder, writes="phase3_evaluation",
                  files={"phase3_evaluation/phase3_obstruction_metrics.json": json.dumps(OBSTRUCTION_METRICS)}),
        fake_step("measure", folder, writes="phase4_evaluation",
                  files={"phase4_evaluation/phase4_quantitative_metrics.json": json.dumps(LUMEN_METRICS)}),
    ]
    monkeypatch.setattr(demo, "build_steps", lambda folder: chosen)
    return chosen


def run_demo(tmp_path, **changes):
    return demo.run_demo(**{"fresh": False, "demo": tmp_path / "demo"} | changes)


def log(tmp_path):
    return (tmp_path / "demo" / "log.txt").read_text().split()


def test_finished_demo_is_not_done_again_and_its_summary_has_the_figures(steps, tmp_path, capsys):
    assert run_demo(tmp_path) == 0
    assert run_demo(tmp_path) == 0
    assert log(tmp_path) == ["data", "train", "evaluate", "name", "find", "measure"]
    summary = json.loads((tmp_path / "demo" / "summary.json").read_text())
    assert (summary["val_dice_truth"], summary["val_dice_deepsa"], summary["deepsa_dice_truth"]) == (
        0.8,
        0.7,
        0.75,
    )
    assert (summary["phase2_top1_pointed"], summary["phase2_dice_truth"]) == (0.5, 0.5)
    assert (summary["phase3_f1_iou50"], summary["phase3_ds_mae_points"]) == (0.3, None)
    assert summary["phase4_mld_mae_mm_lesions"] == 0.9
    assert summary["epochs"] == 1 and summary["seconds"] > 0 and len(summary["steps"]) == 6
    said = capsys.readouterr().out
    assert "done before" in said and "0.300  (0.200 to 0.400)" in said and "not defined" in said


def test_changed_step_is_done_again_from_the_start_with_all_that_follow(steps, tmp_path):
    run_demo(tmp_path)
    steps[1] = demo.Step("train", [*steps[1].command, "--changed"], "checkpoints")
    assert run_demo(tmp_path) == 0
    later = ["train", "evaluate", "name", "find", "measure"]
    assert log(tmp_path) == ["data", *later, *later]
    history = (tmp_path / "demo" / "checkpoints" / "phase1_deepsa_history.jsonl").read_text()
    assert history.count("epoch") == 1      # nothing of the first training was there to go on with


def test_changed_data_take_the_training_on_them_along(steps, tmp_path):
    run_demo(tmp_path)
    steps[0] = demo.Step("data", ["-c", "import sys; sys.exit(5)"], "phantom")
    assert run_demo(tmp_path) == 5
    assert not (tmp_path / "demo" / "checkpoints").exists() and not (tmp_path / "demo" / "phantom").exists()


def test_interrupted_step_is_gone_on_with_and_its_time_counts(steps, tmp_path, monkeypatch, capsys):
    clock = iter([0, 1, 10, 30, 40, 45, 50, 51, 60, 62, 70, 73, 80, 84])  # start and end; train comes twice
    monkeypatch.setattr(demo.time, "monotonic", lambda: next(clock))
    answers = {"first": 130}
    real = run.run_and_wait

    def interrupted_once(command):
        status = real(command)
        return answers.pop("first", status) if "'train'" in command[-1] else status
    monkeypatch.setattr(demo, "run_and_wait", interrupted_once)
    assert run_demo(tmp_path) == 130
    assert "goes on from here" in capsys.readouterr().out
    assert run_demo(tmp_path) == 0
    assert log(tmp_path) == ["data", "train", "train", "evaluate", "name", "find", "measure"]
    seconds = [step["seconds"] for step in json.loads((tmp_path / "demo" / "steps.json").read_text())]
    assert seconds == [1, 25, 1, 2, 3, 4]
    history = (tmp_path / "demo" / "checkpoints" / "phase1_deepsa_history.jsonl").read_text()
    assert history.count("epoch") == 2      # its folder was left as it was


def test_fresh_starts_over(steps, tmp_path):
    run_demo(tmp_path)
    assert run_demo(tmp_path, fresh=True) == 0
    assert log(tmp_path) == ["data", "train", "evaluate", "name", "find", "measure"]


def test_every_command_of_the_demo_is_understood_by_its_script(tmp_path):
    for step in demo.build_steps(tmp_path):
        script = step.command[1] if step.command[0] == "-m" else step.command[0]
        assert (
            run.ROOT / (script.replace(".", "/") + ".py" if step.command[0] == "-m" else script)
        ).is_file()


@pytest.mark.parametrize("argv, expected", [
    (["test", "-k", "dicom", "-x"], ["-m", "pytest", "-k", "dicom", "-x"]), (["demo"], ["-m", "utils.demo"]),
    (["demo", "--fresh"], ["-m", "utils.demo", "--fresh"])])
def test_arguments_reach_the_command(monkeypatch, argv, expected):
    called = []
    monkeypatch.setattr(run, "run_and_wait", lambda command: called.append(command) or 3)
    assert run.main(["--here", *argv]) == 3
    assert called == [[sys.executable, *expected]]


def test_unknown_argument_of_the_demo_is_refused(capsys):
    with pytest.raises(SystemExit):
        run.main(["--here", "demo", "--frehs"])
    assert "--frehs" in capsys.readouterr().err


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """A project without .venv; `environment(*statuses)` answers commands so and returns their list."""
    monkeypatch.setattr(run, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(run, "REQUIREMENTS", tmp_path / "requirements.txt")
    monkeypatch.setattr(run, "warn_without_cuda", lambda python: None)
    (tmp_path / "requirements.txt").write_text("numpy\n")

    def answer(*statuses):
        called, left = [], iter(statuses)

        def fake(command, **options):
            called.append(command[1:3])
            run.VENV.mkdir(exist_ok=True)
            return subprocess.CompletedProcess(command, next(left))
        monkeypatch.setattr(run.subprocess, "run", fake)
        return called
    return answer


def test_half_made_environment_is_made_again(environment):
    python = run.VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    python.parent.mkdir(parents=True)
    python.touch()                          # as an interrupted `python -m venv` leaves it: no pip yet
    called = environment(0, 0)
    assert run.prepare_environment() == python
    assert called == [["-m", "venv"], ["-m", "pip"]]
    called = environment()
    assert run.prepare_environment() == python and called == []     # complete now


@pytest.mark.parametrize(
    "statuses, said", [((1,), "apt install python3-venv"), ((0, 1), "pip could not install")]
)
def test_failed_installation_says_what_to_do_and_is_tried_again(environment, statuses, said):
    environment(*statuses)
    with pytest.raises(SystemExit, match=said):
        run.prepare_environment()
    assert len(environment(0, 0)) == 0 and run.prepare_environment().parent.parent == run.VENV


@pytest.mark.parametrize("free, said", [(3e9, "Only 3.0 GB are free"), (50e9, "")])
def test_a_disk_with_little_room_is_told_before_the_installation(environment, monkeypatch, capsys, free, said):
    monkeypatch.setattr(run.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    called = environment(0, 0)
    run.prepare_environment()
    printed = capsys.readouterr().out
    assert said in printed and ("GB are free" in printed) == bool(said) and len(called) == 2


def test_old_python_reads_why_it_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(run.sys, "version_info", (3, 9, 1))
    assert run.main(["test"]) == 2
    assert "Python 3.11 or newer" in capsys.readouterr().out


@pytest.mark.skipif(
    os.name == "nt", reason="on Windows SIGTERM ends a process at once and cannot be passed on"
)
def test_sigterm_is_passed_on_and_waited_for(tmp_path):
    child = ("import pathlib, signal, sys, time; folder = pathlib.Path(sys.argv[1])\n"
             "def save(*_): (folder / 'saved').touch(); sys.exit(0)\n"
             "signal.signal(signal.SIGTERM, save); (folder / 'ready').touch(); time.sleep(60)")
    code = (
        f"import sys, run; sys.exit(run.run_and_wait([sys.executable, '-c', {child!r}, {str(tmp_path)!r}]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(run.__file__).parent)
    for _ in range(600):
        if (tmp_path / "ready").exists():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 143
    assert (tmp_path / "saved").exists()


def test_status_of_a_command_comes_back():
    assert run.run_and_wait([sys.executable, "-c", "import sys; sys.exit(7)"]) == 7


def test_all_tests_run_in_parallel_and_chosen_ones_in_one_process():
    def command(*given):
        return run.test_command(run.parse_arguments(["test", *given]))

    assert command() == ["-m", "pytest", *run.IN_PARALLEL] and "-n" in run.IN_PARALLEL
    assert command("-k", "dicom") == ["-m", "pytest", "-k", "dicom"]
