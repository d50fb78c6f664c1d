"""A run that was cut off and resumed ends with the same bits as one that was not."""

import functools
import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from tests import tiny_cass, tiny_lumen, tiny_obstruction
from tests.csv_fixture import write_tiny_dataset
from tests.tiny_cass import stage2
from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.tiny_lumen import stage4
from tests.tiny_obstruction import stage3
from tests.tiny_training import STAGE, compute_loss, options, run, score_batch
from utils.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from utils.files import write_text_atomic
from utils.history import TIME_FIELDS, read_history
from utils.ranks.distributed import Ranks
from utils.run_files import RunFiles

SIZE = dict(rows=7, epochs=3, batch_size=2, accum_steps=2, save_every=1)
PASSES = 3 * 4  # forward passes of such a run


class PowerCut(Exception):
    """Stands for SIGKILL where a process would only cost time: of the run only its files survive."""


def after(count, function):
    """`function`, which fails in call number `count`."""
    calls = iter(range(1, 10**6))

    def call(*arguments):
        if next(calls) == count:
            raise PowerCut
        return function(*arguments)

    return call


def train_tiny(folder, csv_path=None, *, resume=False, cut_loss=None, cut_score=None):
    """The tiny model's run, cut off in the forward pass of training or validation of that number."""
    losses = dict(loss=after(cut_loss, compute_loss), score=after(cut_score, score_batch))
    run(Ranks(), options(folder=folder, resume=resume, **SIZE), **losses)


def train_stage(tiny_run, run_stage, folder, csv_path, *, resume=False, cut_loss=None, cut_score=None):
    """Likewise a stage's: two epochs of two steps, of two samples and of one, saved after each."""
    flags = ["--epochs", 2, "--accum-steps", 2, "--save-every", 1, *(["--resume"] if resume else [])]
    args, tables = tiny_run(csv_path, folder, *flags)
    cuts = dict(loss=functools.partial(after, cut_loss), score=functools.partial(after, cut_score))
    run_stage(Ranks(), args, tables, **cuts)


TRAINERS = {
    STAGE: train_tiny,
    stage2.STAGE: functools.partial(train_stage, tiny_cass.tiny_run, tiny_cass.run_cass),
    stage3.STAGE: functools.partial(train_stage, tiny_obstruction.tiny_run, tiny_obstruction.run_obstruction),
    stage4.STAGE: functools.partial(train_stage, tiny_lumen.tiny_run, tiny_lumen.run_lumen),
}
LATER_STAGES = (stage2.STAGE, stage3.STAGE, stage4.STAGE)


def outcome(folder, stage=STAGE):
    """All that two equal runs share: weights, optimizer, random numbers, best, history without times."""
    files = RunFiles(folder, stage)
    latest, best = load_checkpoint(files.latest), load_checkpoint(files.best)
    history = [
        {k: v for k, v in line.items() if k not in TIME_FIELDS} for line in read_history(files.history)
    ]
    for line in latest["progress"]["history"]:
        for name in TIME_FIELDS:
            line.pop(name)
    latest["config"].pop("command", None)
    keys = (
        "model",
        "optimizer",
        "scheduler",
        "rng",
        "sampler",
        "progress",
        "metrics",
        "epoch",
        "global_step",
        "parent",
    )
    return {"latest": {key: latest[key] for key in keys}, "best": best["model"], "history": history}


def assert_equal(one, other, where="run"):
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_equal(*pair, f"{where}[{index}]")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other or (one != one and other != other), where  # nan: no true row of a class


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Same bits need the same number of threads; and these models are too small for two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def plain_curves():
    """A file in the picture's place, written alike: drawing it is most of such a run's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "utils.run_files.save_curves",
            lambda path, lines, panels: write_text_atomic(path, str(len(lines))),
        )
        yield


@pytest.fixture(scope="module")
def csv_path(tmp_path_factory):
    """Three training rows and one of validation."""
    folder = tmp_path_factory.mktemp("data")
    return write_tiny_dataset(folder, patients=4, rows_per_patient=1, cass_truth=True)


@pytest.fixture(scope="module")
def unbroken_of(tmp_path_factory, csv_path):
    """Of a stage: the outcome of its run when nothing cuts it off, run once."""

    @functools.cache
    def unbroken_of(stage):
        folder = tmp_path_factory.mktemp("unbroken")
        TRAINERS[stage](folder, csv_path)
        return outcome(folder, stage)

    return unbroken_of


@pytest.fixture(scope="module")
def unbroken(unbroken_of):
    return unbroken_of(STAGE)


def cut_and_resume(stage, folder, csv_path, **cut):
    """The outcome of a run that was cut off and resumed."""
    train = TRAINERS[stage]
    with pytest.raises(PowerCut):
        train(folder, csv_path, **cut)
    torch.manual_seed(99)
    train(folder, csv_path, resume=True)
    return outcome(folder, stage)


# Of stages 2 to 4 the pass that begins the second step of epoch 2, in whose middle they then go on.
PASSES_OF = [*((STAGE, number) for number in range(1, PASSES + 1)),
             *((stage, 6) for stage in LATER_STAGES)]


@pytest.mark.parametrize("stage, number", PASSES_OF)
def test_cut_off_in_any_forward_pass(tmp_path, csv_path, unbroken_of, stage, number):
    assert_equal(cut_and_resume(stage, tmp_path, csv_path, cut_loss=number), unbroken_of(stage))


@pytest.mark.parametrize("stage, number", [(STAGE, 1), (STAGE, 5), *((stage, 2) for stage in LATER_STAGES)])
def test_cut_off_in_validation(tmp_path, csv_path, unbroken_of, stage, number):
    assert_equal(cut_and_resume(stage, tmp_path, csv_path, cut_score=number), unbroken_of(stage))


@pytest.mark.parametrize("number", [1, 3, 5, 8, 12])
def test_cut_off_before_any_file_takes_its_name(tmp_path, unbroken, monkeypatch, number):
    from utils import files

    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(files, "replace_with_retries", after(number, files.replace_with_retries))
        run(Ranks(), options(folder=tmp_path, **SIZE))
    run(Ranks(), options(folder=tmp_path, resume=True, **SIZE))
    assert_equal(outcome(tmp_path), unbroken)


def test_cut_off_again_and_again(tmp_path, unbroken):
    for number in (3, 2, 4, 1, 5):
        with pytest.raises(PowerCut):
            run(Ranks(), options(folder=tmp_path, resume=True, **SIZE), loss=after(number, compute_loss))
    run(Ranks(), options(folder=tmp_path, resume=True, **SIZE))
    assert_equal(outcome(tmp_path), unbroken)


def refuse(monkeypatch, *endings):
    """`os.replace` refuses targets of these endings, as Windows does while a program has them open."""
    real_replace = os.replace

    def replace(source, target):
        if str(target).endswith(endings):
            raise PermissionError(13, "in use")
        real_replace(source, target)

    monkeypatch.setattr("utils.files.os.replace", replace)
    monkeypatch.setattr("utils.files.REPLACE_WAIT_S", 0)


def test_curves_open_in_a_viewer_do_not_end_the_run(tmp_path, unbroken, monkeypatch):
    files = RunFiles(tmp_path, STAGE)
    files.curves.write_bytes(b"old")
    with monkeypatch.context() as patch:
        refuse(patch, "_curves.png", "_metrics.json")
        with pytest.warns(UserWarning, match=r"_curves\.png.*Close the program.*Training goes on"):
            run(Ranks(), options(folder=tmp_path, **SIZE))
    assert files.curves.read_bytes() == b"old" and not files.metrics.exists()
    assert_equal(outcome(tmp_path), unbroken)


def test_a_latest_checkpoint_that_cannot_be_written_ends_the_run(tmp_path, monkeypatch):
    refuse(monkeypatch, "_latest.pth")
    with pytest.raises(OSError, match=r"could not write .*_latest\.pth"):
        run(Ranks(), options(folder=tmp_path, **SIZE))


def test_resuming_a_finished_run_changes_nothing(tmp_path, unbroken):
    for resume in (False, True):
        run(Ranks(), options(folder=tmp_path, resume=resume, **SIZE))
    assert_equal(outcome(tmp_path), unbroken)


def test_other_settings_are_refused_with_both_values(tmp_path):
    run(Ranks(), options(folder=tmp_path, rows=4, epochs=1))
    with pytest.raises(CheckpointError, match=r"--lr: saved 0\.01, given 0\.5"):
        run(Ranks(), options(folder=tmp_path, rows=4, epochs=1, lr=0.5, resume=True))


def test_other_numbers_of_ranks_go_on_and_it_is_said(tmp_path):
    from tests.tiny_training import build_run

    run(Ranks(), options(folder=tmp_path, **{**SIZE, "epochs": 1}))
    state, _, files = build_run(
        Ranks(rank=0, world_size=1), options(folder=tmp_path, **{**SIZE, "batch_size": 1})
    )
    notes = state.restore(load_checkpoint(files.latest), Ranks(), source="x")
    assert "batch size 2 -> 1" in notes and "epochs 1 -> 3" in notes
    assert (
        state.scheduler.last_epoch == state.sampler.steps_per_epoch
    )  # one epoch is done, in steps of the new size


def test_checkpoints_that_cannot_be_resumed_say_why(tmp_path):
    run(Ranks(), options(folder=tmp_path, rows=4, epochs=1))
    files = RunFiles(tmp_path, STAGE)
    checkpoint = load_checkpoint(files.latest)
    files.latest.write_bytes(files.best.read_bytes())
    with pytest.raises(CheckpointError, match="weights only, to start from with --init-from"):
        run(Ranks(), options(folder=tmp_path, rows=4, epochs=1, resume=True))
    save_checkpoint(files.latest, {**checkpoint, "stage": "phase9"})
    with pytest.raises(CheckpointError, match="stage 'phase9', not of 'tiny'"):
        run(Ranks(), options(folder=tmp_path, rows=4, epochs=1, resume=True))
    files.latest.write_bytes(files.latest.read_bytes()[:-500])
    with pytest.raises(CheckpointError, match="cannot be read"):
        run(Ranks(), options(folder=tmp_path, rows=4, epochs=1, resume=True))


KILLS = 10
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def start(command):
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=ONE_THREAD,
    )


def finish(command):
    done = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, timeout=600, env=ONE_THREAD
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def start_training(command):
    """Start a stage script and return when its first step is near: imports and checks are over."""
    process = start(command)
    for line in process.stdout:
        if line.startswith("training:"):
            return process
    pytest.fail(f"it ended with {process.wait()} before training")


def tiny_command(folder, *more):
    sizes = [part for name, value in SIZE.items() for part in (f"--{name.replace('_', '-')}", value)]
    return ["-m", "tests.tiny_training", "--folder", folder, *sizes, *more]


def kill_at(moment, command):
    """SIGKILL `command` when it has said `moment`; returns when it and all its ranks are gone."""
    process = start(command)
    for line in process.stdout:
        if moment in line:
            break
    process.kill()
    process.wait()
    process.stdout.read()  # ends when the last rank has gone with its parent


@pytest.mark.parametrize("number", [2, 7, PASSES])
def test_a_real_kill(tmp_path, unbroken, number):
    kill_at(f"pass {number}\n", tiny_command(tmp_path, "--step-seconds", 0.02))
    run(Ranks(), options(folder=tmp_path, resume=True, **SIZE))
    assert_equal(outcome(tmp_path), unbroken)


@pytest.mark.slow
def test_a_real_kill_on_two_ranks(tmp_path):
    kill_at("pass 5\n", tiny_command(tmp_path / "killed", "--step-seconds", 0.05, "--world-size", 2))
    finish(tiny_command(tmp_path / "killed", "--resume", "--world-size", 2))
    finish(tiny_command(tmp_path / "whole", "--world-size", 2))
    assert_equal(outcome(tmp_path / "killed"), outcome(tmp_path / "whole"))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize(
    "script, stage",
    [("train_stage1_deepsa.py", "phase1_deepsa"), ("train_stage2_cass_segments.py", "phase2_cass"),
     ("train_stage3_obstructions.py", "phase3_obstruction"),
     ("train_stage4_quantitative.py", "phase4_quantitative")],
)
def test_ten_kills_at_random_moments_of_the_real_script(tmp_path, script, stage, world_size):
    """SIGKILL the real script ten times at random moments, resuming each time; then let it end."""
    csv_path = write_tiny_dataset(tmp_path / "data", patients=5, rows_per_patient=2)
    start = write_tiny_checkpoint(tmp_path / "start.pth")
    start_from = [] if stage == "phase1_deepsa" else ["--init-from", start]

    def command(folder):
        return [
            script,
            *start_from,
            "--data-csv",
            csv_path,
            "--backbone",
            "sam3-tiny",
            "--epochs",
            6,
            "--batch-size",
            1,
            "--accum-steps",
            2,
            "--save-every",
            1,
            "--world-size",
            world_size,
            "--device",
            "cpu",
            "--checkpoint-dir",
            folder,
            "--resume",
        ]

    process, began = start_training(command(tmp_path / "whole")), time.monotonic()
    said = process.stdout.read()
    assert process.wait() == 0, said[-3000:]
    seconds = time.monotonic() - began
    # Ten such moments are less than a whole run, so that none of the ten rounds can come to its end.
    moments, longest = random.Random(7), seconds / KILLS
    for number in range(KILLS):
        process = start_training(command(tmp_path / "killed"))
        timer = threading.Timer(moments.uniform(0.0, longest), process.kill)
        timer.start()
        said = process.stdout.read()
        assert process.wait() == -signal.SIGKILL, f"round {number} ended before its kill:\n{said[-3000:]}"
        timer.cancel()
    finish(command(tmp_path / "killed"))
    assert_equal(outcome(tmp_path / "killed", stage), outcome(tmp_path / "whole", stage))
