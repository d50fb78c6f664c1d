"""One process per GPU (or several on a CPU): start them, let them talk, and end them all when one fails.

    launch(run, (args, tables), world_size=2, backend="gloo", default_port=12355)

calls `run(ranks, args, tables)` in this process when `world_size` is 1, in spawned processes otherwise. Under
torchrun (RANK, WORLD_SIZE and LOCAL_RANK are set) this process joins that group instead, on as many machines as it has.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as torch_multiprocessing
from tqdm import tqdm

from utils.interrupt import SAME_REQUEST_S, STOP_SIGNALS, Interrupted, exit_code_of

LOCALHOST = "127.0.0.1"
# A rank that sits in a collective cannot answer SIGTERM; after this many seconds it is killed.
GRACE_S = 3.0
# After one rank's death the others may be about to report the same; what they say within this time is collected.
COLLECT_S = 1.0
# How a rank that stopped as asked, after saving, leaves.
STOP_EXIT_CODES = tuple(exit_code_of(number) for number in STOP_SIGNALS)


class RankError(RuntimeError):
    """A training process failed; the text has the first cause on top. `exit_code` is what this process should return."""

    exit_code = 1


@dataclass(frozen=True)
class Ranks:
    """This process among all: `rank` of `world_size`, `local_rank` on this machine. Made by `launch`."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sum of each number over all ranks, in float64; every rank gets the same."""
        if self.world_size == 1:
            return [float(value) for value in values]
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        total = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return total.tolist()

    def gather(self, value: Any) -> list[Any]:
        """`value` of every rank, in the order of ranks, on every rank."""
        if self.world_size == 1:
            return [value]
        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, value)
        return gathered


def launch(
    worker: Callable[..., None],
    arguments: tuple = (),
    *,
    world_size: int | None = None,
    backend: str = "gloo",
    default_port: int = 12355,
    port: int | None = None,
) -> None:
    """Call `worker(ranks, *arguments)` on every rank and return when all are done.

    worker: a function of a module, and arguments that pickle. world_size: None is one per GPU, else 1. port: None is
    `default_port`, or a free one if that is taken.
    Raises RankError when a spawned rank failed (the others are ended first), Interrupted when they were asked to
    stop, OSError when `port` was given and is taken; in one process whatever the worker raises.
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        _join_torchrun(worker, arguments, backend)
        return
    world_size = choose_world_size(world_size)
    if world_size == 1:
        worker(Ranks(), *arguments)
        return
    _spawn(worker, arguments, world_size, backend, choose_port(port, default_port))


def choose_world_size(world_size: int | None) -> int:
    """As given, else torchrun's, else one process per GPU, else 1."""
    if "WORLD_SIZE" in os.environ and "RANK" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    return world_size or max(1, torch.cuda.device_count())


def choose_port(port: int | None, default_port: int) -> int:
    """`port` if it is free, OSError if not; without one `default_port`, or any free port, which is said."""
    wanted = default_port if port is None else port
    if _port_is_free(wanted):
        return wanted
    if port is not None:
        raise OSError(f"--master-port {port} is taken by another program; leave the flag out to have a free one chosen")
    with socket.socket() as probe:
        probe.bind((LOCALHOST, 0))
        free = probe.getsockname()[1]
    print(f"port {wanted} is taken (another training run?); using {free}", flush=True)
    return free


def wrap_model(model: torch.nn.Module, ranks: Ranks, device: torch.device) -> torch.nn.Module:
    """`model` with its gradients averaged over ranks during backward; itself on one rank.

    Buffers are not broadcast: they are computed alike everywhere, and older gloo builds cannot send complex ones.
    Gradients live in the buckets, which saves a copy of them. `find_unused_parameters` stays off, because it costs a
    walk over the graph each step; `engine.check_all_take_part` says which parameters would need it.
    """
    if ranks.world_size == 1:
        return model
    with warnings.catch_warnings():
        # Newer torch wants another name, under which complex buffers would be sent once after all.
        warnings.filterwarnings("ignore", message=".*broadcast_buffers.*", category=FutureWarning)
        return torch.nn.parallel.DistributedDataParallel(
            model,
            device_ids=[device.index] if device.type == "cuda" else None,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
            find_unused_parameters=False,
        )


def unwrap_model(model: torch.nn.Module) -> torch.nn.Module:
    """The model inside `wrap_model`'s wrapper; its names carry no `module.`."""
    return model.module if isinstance(model, torch.nn.parallel.DistributedDataParallel) else model


def _join_torchrun(worker, arguments, backend: str) -> None:
    ranks = Ranks(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_RANK", 0)))
    _share_threads(int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    _initialise(ranks, backend)
    worker(ranks, *arguments)
    # Only after success: a rank that failed must not wait for the others here.
    dist.destroy_process_group()


def _initialise(ranks: Ranks, backend: str) -> None:
    if sys.platform == "win32":
        os.environ["USE_LIBUV"] = "0"  # torch's Windows builds come without libuv, which the store would ask for
    if torch.cuda.is_available():
        torch.cuda.set_device(ranks.local_rank % torch.cuda.device_count())
    if ranks.world_size > 1:
        dist.init_process_group(backend, rank=ranks.rank, world_size=ranks.world_size)


def _share_threads(processes: int) -> None:
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))


def _port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        if sys.platform != "win32":  # there it would let two programs share a port; here it only skips TIME_WAIT
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOCALHOST, port))
        except OSError:
            return False
    return True


def _spawn(worker, arguments, world_size: int, backend: str, port: int) -> None:
    with tempfile.TemporaryDirectory(prefix="ranks-") as reports:
        context = torch_multiprocessing.spawn(
            _rank_main, args=(worker, arguments, world_size, backend, port, reports), nprocs=world_size, join=False
        )
        with _Forwarder(context.processes) as forwarder:
            _wait_for_all(context.processes, forwarder)
        if any(forwarder.exit_codes.values()) or forwarder.kill_at is not None:
            raise _explain(forwarder, Path(reports))


def _rank_main(rank: int, worker, arguments, world_size: int, backend: str, port: int, reports: str) -> None:
    """Body of a spawned process. Its exit code says how it ended, a file in `reports` why."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    tqdm.set_lock(threading.RLock())  # its own would be a semaphore that a killed process leaves behind
    os.environ.update(MASTER_ADDR=LOCALHOST, MASTER_PORT=str(port))
    try:
        _share_threads(world_size)
        ranks = Ranks(rank, world_size, rank)
        _initialise(ranks, backend)
        worker(ranks, *arguments)
        dist.destroy_process_group()
    except Interrupted as interrupted:
        _leave(interrupted.exit_code)
    except KeyboardInterrupt:
        _leave(exit_code_of(signal.SIGINT))
    except BaseException as error:
        # Written before this process drops its connections, so that no other rank can report an earlier time.
        report = f"{time.time_ns()}\n{type(error).__name__}: {error}\n\n{traceback.format_exc()}"
        (Path(reports) / f"{rank}.txt").write_text(report, encoding="utf-8")
        _leave(1)


def _end_with_parent() -> None:
    """Without its parent a rank would train on unseen, and write over the run that resumed it."""
    connection.wait([parent_process().sentinel])
    os._exit(1)


def _leave(exit_code: int) -> None:
    # Not sys.exit: destroying a process group whose other ranks are gone or stuck can block.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


class _Forwarder:
    """Passes stop signals on to the ranks while the parent waits; a second one has them killed."""

    def __init__(self, processes) -> None:
        self.processes = processes
        self.exit_codes: dict[int, int] = {}
        self.asked: int | None = None
        self.kill_at: float | None = None
        self._first_at = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> _Forwarder:
        for number in STOP_SIGNALS:
            self._previous[number] = signal.signal(number, self._forward)
        return self

    def __exit__(self, *exception) -> None:
        for process in self.processes:
            if process.is_alive():
                process.kill()
            process.join()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _forward(self, number: int, frame) -> None:
        now = time.monotonic()
        if self.asked is None:
            self.asked, self._first_at = number, now
        elif now - self._first_at >= SAME_REQUEST_S:
            self.kill_at = now + GRACE_S
        if sys.platform == "win32":
            return  # the console has sent Ctrl-C to the ranks already, and nothing softer than killing can be sent
        for process in self.processes:
            if process.is_alive():
                os.kill(process.pid, number)


def _wait_for_all(processes, forwarder: _Forwarder) -> None:
    """Return when all ranks ended well, or soon after the first that did not; fills `forwarder.exit_codes`."""
    running = dict(enumerate(processes))
    give_up_at = float("inf")
    while running and time.monotonic() < give_up_at:
        connection.wait([process.sentinel for process in running.values()], timeout=0.2)
        for rank, process in list(running.items()):
            if process.exitcode is not None:
                forwarder.exit_codes[rank] = process.exitcode
                del running[rank]
        if any(code not in (0, *STOP_EXIT_CODES) for code in forwarder.exit_codes.values()):
            give_up_at = min(give_up_at, time.monotonic() + COLLECT_S)
        if forwarder.kill_at is not None:
            give_up_at = min(give_up_at, forwarder.kill_at)


def _explain(forwarder: _Forwarder, reports: Path) -> Exception:
    """The exception that says what ended the ranks: a death by signal first, then the earliest report."""
    killed_as_asked = [-number for number in STOP_SIGNALS] if forwarder.asked else []
    stops = (0, *STOP_EXIT_CODES, *killed_as_asked)
    failures = {rank: code for rank, code in forwarder.exit_codes.items() if code not in stops}
    if not failures or forwarder.kill_at is not None:
        return Interrupted("stopped as asked", exit_code=exit_code_of(forwarder.asked or signal.SIGTERM))
    silent = [rank for rank in failures if not (reports / f"{rank}.txt").exists()]
    if silent:
        death = _describe_death(failures[silent[0]])
        return RankError(f"rank {silent[0]} died without a word: {death}. The other ranks were ended.")
    written = {rank: (reports / f"{rank}.txt").read_text(encoding="utf-8").split("\n", 1) for rank in failures}
    first = min(written, key=lambda rank: int(written[rank][0]))
    others = ", ".join(str(rank) for rank in sorted(written) if rank != first)
    also = f"\n(after it failed rank {others})" if others else ""
    ranks = len(forwarder.processes)
    return RankError(f"rank {first} of {ranks} failed, so all were ended. {written[first][1]}{also}")


def _describe_death(exit_code: int) -> str:
    if exit_code >= 0:
        return f"exit code {exit_code}"
    name = signal.Signals(-exit_code).name
    hint = " (often the system, out of memory: try a smaller --batch-size)" if name == "SIGKILL" else ""
    return f"killed by {name}{hint}"
