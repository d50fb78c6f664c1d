"""A hundred SIGKILLs of a run on two ranks: nothing is lost but the step in progress, and no file is ever half written.

The ranks are forked from a process that has torch already, because starting torch a hundred times is most of the time
that this would take; tests/test_resume.py kills runs that start as usual.
"""

import functools
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from unittest import mock

import psutil
import pytest
import torch

from tests import tiny_training
from tests.test_resume import assert_equal, outcome
from tests.tiny_training import STAGE, compute_loss, options, run, score_batch
from utils.checkpoint import load_checkpoint
from utils.files import write_text_atomic
from utils.history import read_history
from utils.ranks.distributed import launch
from utils.run_files import RunFiles

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks processes that have torch"),
]

KILLS = 100
BETWEEN = 0
TRAINING, VALIDATION, SAVING = MOMENTS = (1, 2, 3)
# Two steps and a validation an epoch; more epochs than a hundred rounds can do.
SIZE = dict(rows=7, epochs=120, batch_size=2, save_every=1)
VICTIMS = ("both ranks' parent", "rank 0", "rank 1")


def one_rank(ranks, folder, moment):
    """A run that says in `moment`, shared memory, what rank 0 is doing."""

    def say(number, function):
        def call(*arguments):
            before = moment.value
            if ranks.is_main:
                moment.value = number
            try:
                return function(*arguments)
            finally:
                if ranks.is_main:
                    moment.value = before

        return call

    files = tiny_training.RunFiles
    with (
        mock.patch.object(files, "save_latest", say(SAVING, files.save_latest)),
        mock.patch.object(files, "_save_best", say(SAVING, files._save_best)),
        mock.patch("utils.run_files.save_curves", lambda path, lines, panels: write_text_atomic(path, str(len(lines)))),
    ):
        args = options(folder=folder, resume=True, **SIZE)
        run(ranks, args, say(TRAINING, compute_loss), say(VALIDATION, score_batch))


def train(folder, moment):
    """The program: two ranks, forked."""
    torch.set_num_threads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # progress bars, and what dying ranks say of each other
    fork = functools.partial(torch.multiprocessing.start_processes, start_method="fork")
    with mock.patch("torch.multiprocessing.spawn", fork):
        launch(one_rank, (folder, moment), world_size=2, default_port=12392)


def start(folder):
    fork = multiprocessing.get_context("fork")
    moment = fork.Value("i", 0, lock=False)
    process = fork.Process(target=train, args=(folder, moment))
    process.start()
    return process, moment


def wait_for(moment, wanted, times, process):
    """Return as soon as `moment` has become `wanted` for the time of that number."""
    before = 0
    until = time.monotonic() + 120
    while time.monotonic() < until and process.is_alive():
        now = moment.value
        if now == wanted and before != wanted:
            times -= 1
            if times == 0:
                return
        before = now
        time.sleep(1e-4)
    pytest.fail("the run ended, or did not come as far, before its kill")


def kill(process, victim):
    """SIGKILL the parent or one of its ranks; returns when all have gone."""
    ranks = psutil.Process(process.pid).children()
    assert len(ranks) == 2
    os.kill((process.pid, *sorted(rank.pid for rank in ranks))[victim], signal.SIGKILL)
    process.join(60)
    assert process.exitcode not in (0, None)
    _, alive = psutil.wait_procs(ranks, timeout=30)
    assert not alive


def check_files(folder):
    """Every file under its final name can be read whole; returns the steps that the latest checkpoint has."""
    files, steps = RunFiles(folder, STAGE), 0
    for path in folder.iterdir() if folder.exists() else ():  # not yet made by the first run
        if path.name.startswith("."):
            continue  # not under its final name
        if path.suffix == ".pth":
            checkpoint = load_checkpoint(path)
            steps = checkpoint["global_step"] if path == files.latest else steps
        elif path == files.history:
            read_history(path)
        elif path == files.metrics:
            json.loads(path.read_text(encoding="utf-8"))
        else:
            assert path == files.curves and int(path.read_text(encoding="utf-8")) > 0
    return steps


def test_a_hundred_kills_of_two_ranks(tmp_path, capsys):
    process, _ = start(tmp_path / "whole")
    process.join(550)
    assert process.exitcode == 0
    choose, hit, steps = random.Random(100), dict.fromkeys((BETWEEN, *MOMENTS), 0), 0
    for number in range(KILLS):
        process, moment = start(tmp_path / "killed")
        wanted = MOMENTS[number % len(MOMENTS)]
        wait_for(moment, wanted, choose.randint(1, 3 if wanted != VALIDATION else 2), process)
        time.sleep(choose.choice((0, choose.uniform(0, 0.005))))  # a fast machine has left the moment by then
        hit[moment.value] += 1
        kill(process, choose.randrange(len(VICTIMS)))
        now = check_files(tmp_path / "killed")
        assert now >= steps, f"kill {number} lost saved steps"
        steps = now
    assert min(hit[number] for number in MOMENTS) >= KILLS // 10, hit
    process, _ = start(tmp_path / "killed")
    process.join(550)
    assert process.exitcode == 0
    assert_equal(outcome(tmp_path / "killed"), outcome(tmp_path / "whole"))
    with capsys.disabled():
        print(f" kills between, in training, validation, saving: {list(hit.values())}; {steps} steps saved by them")
