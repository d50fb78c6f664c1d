"""The tiny run of tests/tiny_training.py, in which one rank comes to grief, or is only slow, as told.

    python -m tests.tiny_failures --folder DIR --how stopped --world-size 2 --hang-timeout 3
"""

from __future__ import annotations

import argparse
import functools
import os
import signal
import time
from pathlib import Path
from unittest import mock

from tests import tiny_training
from tests.tiny_training import TinyData, compute_loss, options, run, score_batch
from utils.entry import clean_exit
from utils.ranks.distributed import Ranks, launch

STEP = 3
FOR_EVER = 10**6


class FailingData(TinyData):
    """The eighth picture does not come, or ends the loader process that reads it."""

    def __init__(self, *arguments, how: str, **more) -> None:
        super().__init__(*arguments, **more)
        self.how, self.loaded = how, 0  # not of the class: it is sent to the loader's process

    def __getitem__(self, key) -> dict:
        self.loaded += 1
        if self.loaded == 8:
            if self.how == "stuck loader":
                time.sleep(FOR_EVER)
            if self.how == "killed loader":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "stopped loader":
                os.kill(os.getpid(), signal.SIGSTOP)
        return super().__getitem__(key)


def work_for(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sum(range(10_000))


def failing_run(ranks: Ranks, how: str, guilty: int, folder: Path, slow_s: float) -> None:
    """One rank's part of a run of 30 rows: `guilty` does `how` in its third step, validation or save."""
    data = functools.partial(FailingData, how=how)
    steps = 0
    mine = ranks.rank == guilty

    def loss(model, batch):
        nonlocal steps
        steps += 1
        if mine and steps == STEP:
            print("now", flush=True)
            if how == "stopped":
                os.kill(os.getpid(), signal.SIGSTOP)
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "fails":
                raise ArithmeticError("planted failure")
            if how == "slow step":
                work_for(slow_s)
        losses = compute_loss(model, batch)
        if mine and how == "nan" and steps == STEP:
            losses["loss"] = losses["loss"] * float("nan")
        return losses

    def score(model, batch):
        if mine and how == "slow validation":
            work_for(slow_s)
        return score_batch(model, batch)

    def save(files, *arguments):
        if how == "slow save" and ranks.is_main:
            time.sleep(slow_s)
        return plain_save(files, *arguments)

    plain_save = tiny_training.RunFiles.save_latest
    args = options(
        folder=folder, rows=30, epochs=1, save_every=4, num_workers=1 if how.endswith("ed loader") else 0
    )
    with (
        mock.patch("tests.tiny_training.TinyData", data if how.endswith("loader") and mine else TinyData),
        mock.patch.object(tiny_training.RunFiles, "save_latest", save),
        mock.patch("utils.run_files.save_curves"),
    ):
        run(ranks, args, loss, score)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--how", required=True)
    parser.add_argument("--guilty", type=int, default=1)
    parser.add_argument("--world-size", type=int, default=2)
    parser.add_argument("--slow-seconds", type=float, default=6.0)
    parser.add_argument("--hang-timeout", type=float, default=3.0)
    args = parser.parse_args()
    with clean_exit():
        launch(
            failing_run, (args.how, args.guilty, args.folder, args.slow_seconds), world_size=args.world_size,
            default_port=12396, hang_timeout=args.hang_timeout,
        )


if __name__ == "__main__":
    main()
