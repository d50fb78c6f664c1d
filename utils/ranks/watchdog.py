"""Notices a run that hangs: each rank tells the others once a second that it lives, through the group's store.

Slow work must not be taken for a hang. Two things never happen in slow work:

- A rank is silent. Its beats come from a thread of their own, which goes on through the longest step, validation or
  save; they end only with a stopped process, a machine that is gone or a network that is cut.
- All ranks stand still. A rank that works uses the processor, or its loader processes do (waiting for a GPU, torch
  spins, so that counts too). When in the loops of training and validation none of them does, one waits for what never
  comes (a picture from a dead network drive, a loader process that is stuck) and the others wait for that one. A rank
  that saves or draws is excused: writing 5 GB to a slow disk needs no processor.

So a loop that spins for ever and a kernel that hangs on a GPU are not noticed.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import psutil
import torch.distributed as dist

DEFAULT_LIMIT_S = 20.0
BEAT_S = 1.0
# A rank that uses less than this share of one core stands still: waiting threads wake up now and then.
IDLE_SHARE = 0.01
# Asking the system for a process's children costs milliseconds, so it is done so many times within the limit.
LOOKS_AT_CHILDREN = 5
# A judge that was itself stopped for longer than this (Ctrl-Z, a suspended machine) has missed the others' beats.
PAUSE_S = 5 * BEAT_S
# What other ranks have after one failed, to say the same themselves, before they are ended.
FOLLOW_S = 3.0
# Ranks that load their programs from a busy disk come one by one.
STORE_TIMEOUT = timedelta(minutes=10)
PROJECT = Path(__file__).resolve().parents[2]


@dataclass
class Beat:
    """What a rank says of itself. work_s: processor time used so far, its loader processes' included. at_work: it is in
    a loop of training or validation. waits: for other ranks. where: place in the project that its main thread is at."""

    number: int = 0
    work_s: float = 0.0
    at_work: bool = False
    waits: bool = False
    where: str = "start"
    finished: bool = False


class Watchdog:
    """The watch of one rank over all. `on_hang(text)` is called from a thread of this class, and should not return.

    store: a connection of its own, for one that is shared is locked while the group waits in it. limit_s: seconds
    without any sign after which a run hangs.
    """

    def __init__(
        self, store: dist.Store, rank: int, world_size: int, *, limit_s: float, on_hang: Callable[[str], None]
    ) -> None:
        self.store, self.rank, self.world_size = store, rank, world_size
        self.limit_s, self.on_hang = limit_s, on_hang
        self.at_work = False
        self._own, self._judge = Beat(), Judge(world_size, limit_s)
        self._main_thread = threading.main_thread().ident
        self._children_s = 0.0
        self._ended = threading.Event()
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin; all ranks must have been constructed and must call it."""
        self._tell()
        for body in (self._talk, self._watch):
            threading.Thread(target=body, name=f"watchdog{body.__name__}", daemon=True).start()

    def finish(self) -> None:
        """This rank is done and may leave; the others are not to miss it."""
        self._own.finished = True
        self._ended.set()
        with self._lock:
            self._tell()

    def report_failure(self, text: str) -> str:
        """Tell all ranks why this one fails; returns the first such text of the run, which may be another's."""
        number = self.store.add("failures", 1)
        self.store.set(f"failure/{number}", text)
        return text if number == 1 else self.first_failure() or text

    def first_failure(self) -> str | None:
        """What the first rank to fail said, if one has said anything."""
        if not self.store.check(["failure/1"]):
            return None
        return self.store.get("failure/1").decode()

    def _talk(self) -> None:
        # Apart from `_watch`, because a store whose machine is gone does not answer, not even after its timeout.
        while not self._ended.wait(BEAT_S):
            try:
                with self._lock:
                    if not self._own.finished:
                        self._tell()
                heard = self.store.multi_get([f"beat/{rank}" for rank in range(self.world_size)])
                self._judge.hear([Beat(**json.loads(text)) for text in heard], time.monotonic())
                failure = self.first_failure()
            except (dist.DistError, RuntimeError):
                return  # `_watch` says so when its time has come: the run may just have ended
            if failure is not None and not self._ended.wait(FOLLOW_S):
                self.on_hang(failure)

    def _watch(self) -> None:
        looked_at = time.monotonic()
        while not self._ended.wait(BEAT_S):
            now = time.monotonic()
            if now - looked_at > PAUSE_S:
                self._judge.forgive(now)
            looked_at = now
            verdict = self._judge.verdict(self.rank, now)
            if verdict is not None and not self._ended.is_set():
                self.on_hang(verdict)

    def _tell(self) -> None:
        own = self._own
        own.number += 1
        own.at_work = self.at_work
        own.where, own.waits = self._position()
        if own.number % max(1, int(self.limit_s / LOOKS_AT_CHILDREN)) == 0:
            self._children_s = max(self._children_s, _children_seconds())
        # What this thread itself uses says nothing about the work.
        own.work_s = time.process_time() - time.thread_time() + self._children_s
        self.store.set(f"beat/{self.rank}", json.dumps(asdict(own)))

    def _position(self) -> tuple[str, bool]:
        """Innermost line of the project that the main thread is in, and whether it waits for other ranks there."""
        frame = sys._current_frames()[self._main_thread]
        # Without the text of the lines: the program may lie on the very drive that does not answer.
        stack = traceback.StackSummary.extract(traceback.walk_stack(frame), lookup_lines=False)
        files = [Path(frame.filename) for frame in stack]
        waits = any("distributed" in file.parts and "torch" in file.parts for file in files)
        waits = waits or stack[0].name == "_engine_run_backward"  # the exchange of gradients ends within it
        for frame, file in zip(stack, files, strict=True):
            if PROJECT in file.parents and "site-packages" not in file.parts:
                return f"{file.relative_to(PROJECT).as_posix()}, line {frame.lineno}, in {frame.name}", waits
        return f"{files[0].name}, line {stack[0].lineno}, in {stack[0].name}", waits


class Judge:
    """Decides from beats and a clock whether a run hangs; knows no threads and no network."""

    def __init__(self, world_size: int, limit_s: float) -> None:
        self.limit_s = limit_s
        self._beats = [Beat() for _ in range(world_size)]
        self._work_s = [0.0] * world_size
        self._heard_at: list[float] = []
        self._worked_at: list[float] = []
        self._answered_at: float | None = None

    def hear(self, beats: list[Beat], now: float) -> None:
        """Take in what the store holds at `now`, seconds of a steady clock; `beats` by rank."""
        if not self._heard_at:
            self.forgive(now)
        self._answered_at = now
        for rank, beat in enumerate(beats):
            if beat.number != self._beats[rank].number:
                self._heard_at[rank] = now
            used_s = beat.work_s - self._work_s[rank]
            if used_s < 0 or used_s >= IDLE_SHARE * self.limit_s or not beat.at_work:
                self._work_s[rank], self._worked_at[rank] = beat.work_s, now
            self._beats[rank] = beat

    def forgive(self, now: float) -> None:
        """Count everybody's silence from `now` on."""
        self._heard_at = [now] * len(self._beats)
        self._worked_at = [now] * len(self._beats)
        if self._answered_at is not None:
            self._answered_at = now

    def verdict(self, own_rank: int, now: float) -> str | None:
        """Why the run hangs, the cause first; None while it does not."""
        if self._answered_at is None:
            return None
        if now - self._answered_at > self.limit_s:
            return (
                f"rank {own_rank} has had no answer for {self.limit_s:g} s from the machine where the ranks meet: the "
                "network is cut, or that machine or its torchrun is gone"
            )
        others = [rank for rank, beat in enumerate(self._beats) if rank != own_rank and not beat.finished]
        silent = [rank for rank in others if now - self._heard_at[rank] > self.limit_s]
        if silent:
            return (
                f"rank {silent[0]} has given no sign of life for {self.limit_s:g} s: its process is stopped, or its "
                f"machine or the network to it is gone. It was last at {self._beats[silent[0]].where}."
            )
        return self._standstill(now)

    def _standstill(self, now: float) -> str | None:
        if any(now - worked_at <= self.limit_s for worked_at in self._worked_at):
            return None
        guilty = [rank for rank, beat in enumerate(self._beats) if not beat.waits] or list(range(len(self._beats)))
        order = sorted(range(len(self._beats)), key=lambda rank: rank not in guilty)
        places = "\n".join(
            f"  rank {rank}{' waits for the others' if self._beats[rank].waits else ''} at {self._beats[rank].where}"
            for rank in order
        )
        return (
            f"rank {guilty[0]} hangs: for {self.limit_s:g} s no rank has done anything\n{places}\n"
            "In the loader it waits for pictures: is the drive or share that they lie on still there? If it is only "
            "slow, give a longer --hang-timeout."
        )


def connect(host: str, port: int, *, use_libuv: bool) -> dist.Store:
    """A connection of its own to the store at `host`:`port`."""
    return dist.TCPStore(
        host, port, is_master=False, wait_for_workers=False, timeout=STORE_TIMEOUT, use_libuv=use_libuv
    )


def _children_seconds() -> float:
    """Processor time that the living children of this process have used."""
    total = 0.0
    for child in psutil.Process().children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.Error:
            continue  # it has just ended
        total += times.user + times.system
    return total
