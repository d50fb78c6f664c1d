"""Which rank sees which sample when: a pure function of seed, epoch and position, so that a run can be
resumed.

An epoch's permutation is dealt into global batches of `world_size * batch_size * accum_steps` samples, one
per optimizer step. Within it every rank gets the same number of micro-batches; where a rank has no real
sample left it gets one padding sample of weight 0, so that no rank waits for another for ever. Nothing is
dropped or seen twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass of one rank.

    indices: rows of the data set. real: False for a padding batch, whose loss counts nothing.
    step_samples: real samples of the optimizer step on all ranks together, what its loss is divided by.
    closes_step: the optimizer steps after it.
    """

    indices: tuple[int, ...]
    real: bool
    step_samples: int
    closes_step: bool


class TrainingSampler:
    """Batch sampler of one rank, for `DataLoader(batch_sampler=...)`: yields lists of `(index, epoch)` keys.

    Call `start(epoch, samples_done)` before each pass: samples that the epoch has seen are skipped without
    being loaded, whatever the number of ranks that saw them.
    """

    def __init__(
        self,
        rows: int,
        *,
        batch_size: int,
        accum_steps: int = 1,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
    ) -> None:
        if rows < 1:
            raise ValueError("the training split has no rows; check the CSV's split column")
        self.rows, self.seed = rows, seed
        self.batch_size, self.accum_steps = batch_size, accum_steps
        self.rank, self.world_size = rank, world_size
        self.epoch, self.samples_done = 0, 0

    @property
    def samples_per_step(self) -> int:
        """Samples of a full optimizer step over all ranks: the effective batch."""
        return self.world_size * self.batch_size * self.accum_steps

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of a whole epoch, the last of which may be smaller."""
        return math.ceil(self.rows / self.samples_per_step)

    def start(self, epoch: int, samples_done: int = 0) -> None:
        """Set the epoch, and how many samples of its permutation are done already."""
        self.epoch, self.samples_done = epoch, samples_done

    def micro_batches(self) -> Iterator[MicroBatch]:
        """This rank's share of what is left of the epoch, in order."""
        order = epoch_permutation(self.rows, seed=self.seed, epoch=self.epoch)[self.samples_done :]
        for begin in range(0, len(order), self.samples_per_step):
            yield from self._deal(order[begin : begin + self.samples_per_step])

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for micro_batch in self.micro_batches():
            yield [(index, self.epoch) for index in micro_batch.indices]

    def __len__(self) -> int:
        return sum(1 for _ in self.micro_batches())

    def _deal(self, step_order: np.ndarray) -> Iterator[MicroBatch]:
        width = self.world_size * self.batch_size
        chunks = [step_order[begin : begin + width] for begin in range(0, len(step_order), width)]
        for number, chunk in enumerate(chunks):
            mine = chunk[self.rank :: self.world_size]
            padded = mine if len(mine) else chunk[:1]
            yield MicroBatch(
                indices=tuple(int(index) for index in padded),
                real=len(mine) > 0,
                step_samples=len(step_order),
                closes_step=number == len(chunks) - 1,
            )


class EvaluationSampler:
    """Batch sampler of one rank for validation: every row exactly once over all ranks.

    Whole batches are dealt in turn, so that a batch has the same rows whatever the number of ranks. `limit`
    keeps the first batches of each rank only (a dry run).
    """

    def __init__(
        self, rows: int, *, batch_size: int, rank: int = 0, world_size: int = 1, limit: int | None = None
    ) -> None:
        batches = [list(range(begin, min(begin + batch_size, rows))) for begin in range(0, rows, batch_size)]
        self.rows, self.complete = rows, limit is None
        self._batches = batches[rank::world_size][:limit]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)


def epoch_permutation(rows: int, *, seed: int, epoch: int) -> np.ndarray:
    """Order of `rows` rows in an epoch, int64 (rows,): the same on every rank and machine."""
    return np.random.default_rng(np.random.SeedSequence([seed, epoch])).permutation(rows)
