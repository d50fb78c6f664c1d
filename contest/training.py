"""One contestant of train_contest.py: stage 1's training for a given number of optimizer steps, and what they took.

    python -m contest.training --steps 264 --data-csv data.csv --backbone unet ...     # and more of stage 1's flags

The training rows recur as often as the steps need them, in one epoch: each is seen as often as any other, or once more
(or fewer rows than there are, drawn at random), and the learning rate's cosine ends with the last step. Writes the
files of stage 1, and beside them steps_RANK.json: how many steps took how many seconds. Neither the start nor
validation is part of them, nor what processes that only load pictures do. They are the processor's, all its cores and
all ranks together; on a GPU the clock's.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist

from data.errors import DataError
from train_stage1_deepsa import STAGE_1, compute_loss, parse_arguments
from utils.arguments import HelpFormatter, positive_int
from utils.entry import clean_exit
from utils.files import write_text_atomic
from utils.ranks.distributed import choose_world_size
from utils.stage import launch_stage, load_tables

WARM_UP_STEPS = 2  # after a start; they take longer than the others and say little of them


class StepTimes(NamedTuple):
    """Intervals between steps, and the seconds of all of them."""

    steps: int
    seconds: float


def read_times(path: Path) -> StepTimes:
    return StepTimes(*json.loads(path.read_text(encoding="utf-8")))


class TimedLoss:
    """Stage 1's `compute_loss`, which is called once a step on each rank (without accumulation), and notes when.

    The first steps after a start count as the others do on average. A run that goes on adds to what is noted.
    """

    def __init__(self, folder: Path):
        self.folder, self.earlier, self.times = folder, None, []

    def __call__(self, model: torch.nn.Module, batch: dict) -> dict[str, torch.Tensor]:
        self.note(on_gpu=batch["image"].is_cuda)
        return compute_loss(model, batch)

    def note(self, *, on_gpu: bool) -> None:
        """A step begins, and the one before has ended."""
        path = self.folder / f"steps_{dist.get_rank() if dist.is_initialized() else 0}.json"
        if self.earlier is None:
            self.earlier = read_times(path) if path.exists() else StepTimes(0, 0.0)
        self.times.append(time.perf_counter() if on_gpu else time.process_time())
        counted = self.times[WARM_UP_STEPS:]
        if len(counted) > 1:
            steps = StepTimes(self.earlier.steps + len(counted) - 1, self.earlier.seconds + counted[-1] - counted[0])
            write_text_atomic(path, json.dumps(steps))


def seconds_per_step(folder: Path, *, on_gpu: bool) -> float:
    """Of what `TimedLoss` noted: the sum over ranks of processor time, or on a GPU the clock's. DataError without."""
    ranks = [read_times(path) for path in sorted(folder.glob("steps_*.json"))]
    if not ranks:
        raise DataError(f"{folder}: no times of steps; delete the folder and start the contest again")
    means = [times.seconds / times.steps for times in ranks]
    return max(means) if on_gpu else sum(means)


def rows_for(table: pd.DataFrame, samples: int, seed: int) -> pd.DataFrame:
    """`samples` rows of a table, each as often as any other or once more; which, is drawn with `seed`."""
    passes, rest = divmod(samples, len(table))
    more = np.random.default_rng(seed).permutation(len(table))[:rest]
    return table.iloc[np.concatenate([np.tile(np.arange(len(table)), passes), more])].reset_index(drop=True)


def samples_per_step(args: argparse.Namespace) -> int:
    """Of all ranks together, without accumulation; args: stage 1's, or train_contest.py's."""
    return choose_world_size(args.world_size, args.device) * args.batch_size


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m contest.training", description=__doc__,
                                     formatter_class=HelpFormatter)
    parser.add_argument("--steps", type=positive_int, required=True, help="optimizer steps, all in one epoch")
    parser.add_argument("--val-rows", type=positive_int, default=None, help="validate on the first so many rows only")
    own, rest = parser.parse_known_args()
    args = parse_arguments([*rest, "--epochs", "1"])
    with clean_exit("stopped; the same command goes on, with --resume"):
        tables = load_tables(args)
        tables["train"] = rows_for(tables["train"], own.steps * samples_per_step(args) * args.accum_steps, args.seed)
        tables["val"] = tables["val"].head(own.val_rows)
        launch_stage(dataclasses.replace(STAGE_1, compute_loss=TimedLoss(args.checkpoint_dir)), args, tables)


if __name__ == "__main__":
    main()
