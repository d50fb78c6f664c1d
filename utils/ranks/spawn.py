"""Start processes, pass stop signals on, and end all as soon as one fails, with the first cause on top."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Any

import psutil
import torch.multiprocessing
from tqdm import tqdm

from utils.interrupt import SAME_REQUEST_S, STOP_SIGNALS, Interrupted, exit_code_of

# A rank that sits in a collective cannot answer a signal; after a second request and these seconds it is
# killed.
GRACE_S = 3.0
# After one rank's death the others may be about to report the same; what they say within this time is
# collected.
COLLECT_S = 1.0
# How a rank that stopped as asked, after saving, leaves.
STOP_EXIT_CODES = tuple(exit_code_of(number) for number in STOP_SIGNALS)


# Where this process, one of `spawn_ranks`, says why it failed.
_report_file: Path | None = None
HANG = "HangError"


class RankError(RuntimeError):
    """A process failed; the text has the first cause on top."""


def spawn_ranks(body: Callable[..., None], arguments: tuple, *, processes: int) -> None:
    """Call `body(rank, *arguments)` in `processes` new processes and return when all have ended well.

    Raises RankError when one failed (the others are ended first), Interrupted when they were asked to stop.
    """
    with tempfile.TemporaryDirectory(prefix="ranks-") as reports:
        context = torch.multiprocessing.spawn(
            _rank_main, args=(body, arguments, reports), nprocs=processes, join=False
        )
        with _Watch(context.processes) as watch:
            watch.wait_for_all()
        if any(watch.exit_codes.values()) or watch.kill_at is not None:
            raise _explain(watch, Path(reports))


def _rank_main(rank: int, body, arguments: tuple, reports: str) -> None:
    """What runs in a spawned process. Its exit code says how it ended, a file in `reports` why."""
    global _report_file
    _report_file = Path(reports) / f"{rank}.txt"
    threading.Thread(target=_end_with_parent, daemon=True).start()
    tqdm.set_lock(threading.RLock())  # its own would be a semaphore that a killed process leaves behind
    try:
        body(rank, *arguments)
    except Interrupted as interrupted:
        _leave(interrupted.exit_code)
    except KeyboardInterrupt:
        _leave(exit_code_of(signal.SIGINT))
    except BaseException as error:
        # Written before this process drops its connections, so that no other rank can report an earlier time.
        _write_report(f"{type(error).__name__}: {error}\n\n{traceback.format_exc()}")
        _leave(1)


def leave_hung(cause: str) -> None:
    """End this rank at once, from any thread of it, because the run hangs; `cause` is what is said of it."""
    _write_report(f"{HANG}: {cause}")
    kill_children()
    os._exit(1)  # what the main thread holds, standard output too, it may never let go of


def kill_children(pid: int | None = None, *, spare: int | None = None) -> None:
    """Kill what process `pid`, by default this one, has started, but not `spare`: a stopped one cannot end itself."""
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return
    for child in (child for child in children if child.pid != spare):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def _write_report(text: str) -> None:
    _report_file.write_text(f"{time.time_ns()}\n{text}", encoding="utf-8")


def _end_with_parent() -> None:
    """Without its parent a rank would train on unseen, and write over the run that resumed it."""
    connection.wait([parent_process().sentinel])
    os._exit(1)


def _leave(exit_code: int) -> None:
    # Not sys.exit: destroying a process group whose other ranks are gone or stuck can block.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


class _Watch:
    """The parent's side: waits for the ranks and passes stop signals on; a second one has them killed."""

    def __init__(self, processes) -> None:
        self.processes = processes
        self.exit_codes: dict[int, int] = {}
        self.asked: int | None = None
        self.kill_at: float | None = None
        self._first_at = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> _Watch:
        for number in STOP_SIGNALS:
            self._previous[number] = signal.signal(number, self._forward)
        return self

    def __exit__(self, *exception) -> None:
        for process in self.processes:
            if process.is_alive():
                kill_children(process.pid)
                process.kill()
            process.join()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def wait_for_all(self) -> None:
        """Return when all ranks ended well, or soon after the first that did not; fills `exit_codes`."""
        running = dict(enumerate(self.processes))
        give_up_at = float("inf")
        while running and time.monotonic() < give_up_at:
            connection.wait([process.sentinel for process in running.values()], timeout=0.2)
            for rank, process in list(running.items()):
                if process.exitcode is not None:
                    self.exit_codes[rank] = process.exitcode
                    del running[rank]
            if any(code not in (0, *STOP_EXIT_CODES) for code in self.exit_codes.values()):
                give_up_at = min(give_up_at, time.monotonic() + COLLECT_S)
            if self.kill_at is not None:
                give_up_at = min(give_up_at, self.kill_at)

    def _forward(self, number: int, frame) -> None:
        now = time.monotonic()
        if self.asked is None:
            self.asked, self._first_at = number, now
        elif now - self._first_at >= SAME_REQUEST_S:
            self.kill_at = now + GRACE_S
        if sys.platform == "win32":
            return  # the console has sent Ctrl-C to the ranks already, and only killing could be added
        for process in self.processes:
            if process.is_alive():
                os.kill(process.pid, number)


def _explain(watch: _Watch, reports: Path) -> Exception:
    """The exception that says what ended the ranks: a death by signal first, then the earliest report."""
    killed_as_asked = [-number for number in STOP_SIGNALS] if watch.asked else []
    stops = (0, *STOP_EXIT_CODES, *killed_as_asked)
    failures = {rank: code for rank, code in watch.exit_codes.items() if code not in stops}
    if not failures or watch.kill_at is not None:
        return Interrupted(
            "stopped as asked; --resume goes on from the last save",
            exit_code=exit_code_of(watch.asked or signal.SIGTERM),
        )
    silent = [rank for rank in failures if not (reports / f"{rank}.txt").exists()]
    if silent:
        death = _describe_death(failures[silent[0]])
        return RankError(f"rank {silent[0]} died without a word: {death}. The other ranks were ended.")
    texts = {rank: (reports / f"{rank}.txt").read_text(encoding="utf-8") for rank in failures}
    written = {rank: text.split("\n", 1) for rank, text in texts.items()}
    first = min(written, key=lambda rank: int(written[rank][0]))
    cause = written[first][1]
    if cause.startswith(HANG):
        return RankError(f"{cause.removeprefix(f'{HANG}: ')}\n(noticed by rank {first}; all were ended)")
    others = ", ".join(str(rank) for rank in sorted(written) if rank != first)
    also = f"\n(after it failed rank {others})" if others else ""
    ranks = len(watch.processes)
    return RankError(f"rank {first} of {ranks} failed, so all were ended. {cause}{also}")


def _describe_death(exit_code: int) -> str:
    if exit_code >= 0:
        return f"exit code {exit_code}"
    name = signal.Signals(-exit_code).name
    hint = " (often the system, out of memory: try a smaller --batch-size)" if name == "SIGKILL" else ""
    return f"killed by {name}{hint}"
