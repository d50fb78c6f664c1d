"""One process per GPU (or several on a CPU): start them, let them talk, and end them all when one fails or hangs.

    launch(run, (args, tables), world_size=2, backend="gloo", default_port=12355)

calls `run(ranks, args, tables)` in this process when `world_size` is 1, in spawned processes otherwise. Under
torchrun (RANK, WORLD_SIZE and LOCAL_RANK are set) this process joins that group instead, over all machines.
Who hangs is found by the ranks themselves (utils/ranks/watchdog.py), wherever they were started.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from utils.interrupt import Interrupted
from utils.loader import explain_loader_death
from utils.ranks import torchrun
from utils.ranks.exchange import halve_exchange
from utils.ranks.share import share_from_main
from utils.ranks.spawn import leave_hung, spawn_ranks
from utils.ranks.watchdog import DEFAULT_LIMIT_S, Watchdog, connect

LOCALHOST = "127.0.0.1"
# torch's Windows builds come without libuv, which its store asks for.
USE_LIBUV = sys.platform != "win32"


@dataclass(frozen=True)
class Ranks:
    """This process among all: `rank` of `world_size`, `local_rank` on this machine. Made by `launch`."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    watchdog: Watchdog | None = field(default=None, compare=False, repr=False)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    @contextlib.contextmanager
    def at_work(self, busy: bool = True) -> Iterator[None]:
        """While in it this rank is expected to use its processor, or with busy=False may wait for a disk instead."""
        if self.watchdog is None:
            yield
            return
        before, self.watchdog.at_work = self.watchdog.at_work, busy
        try:
            yield
        finally:
            self.watchdog.at_work = before

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

    def share(self, value: Any) -> Any:
        """Rank 0's `value`, nested dicts, lists and tuples of CPU tensors and plain values, on every rank.

        What other ranks give is not looked at. Tensors travel one by one, so that gigabytes need no second copy.
        """
        if self.world_size == 1:
            return value
        return share_from_main(value, self.rank)


def launch(
    worker: Callable[..., None],
    arguments: tuple = (),
    *,
    world_size: int | None = None,
    backend: str = "gloo",
    default_port: int = 12355,
    port: int | None = None,
    hang_timeout: float = DEFAULT_LIMIT_S,
) -> None:
    """Call `worker(ranks, *arguments)` on every rank and return when all are done.

    worker: a function of a module, and arguments that pickle. world_size: None is one per GPU, else 1. port:
    None is `default_port`, or a free one if that is taken. hang_timeout: seconds without a sign of life after which
    a run of several ranks is ended; 0 waits for ever. Raises RankError when a spawned rank failed or hung (the
    others are ended first), Interrupted when they were asked to stop, OSError when `port` was given and is
    taken; in one process whatever the worker raises.
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        _join_torchrun(worker, arguments, backend, hang_timeout)
        return
    world_size = choose_world_size(world_size)
    if world_size == 1:
        with explain_loader_death():
            worker(Ranks(), *arguments)
        return
    port = choose_port(port, default_port)
    # Here and not in rank 0: its death must not take the place along where the others learn of it.
    store = dist.TCPStore(LOCALHOST, port, is_master=True, wait_for_workers=False, use_libuv=USE_LIBUV)
    setting = (worker, arguments, world_size, backend, port, hang_timeout)
    spawn_ranks(_run_rank, setting, processes=world_size)
    del store


def choose_world_size(world_size: int | None, device: str = "auto") -> int:
    """torchrun's, else as given, else one process per GPU, else 1; device: as in --device, where "cpu" has no GPU."""
    if "WORLD_SIZE" in os.environ and "RANK" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    return world_size or (1 if device == "cpu" else max(1, torch.cuda.device_count()))


def choose_port(port: int | None, default_port: int) -> int:
    """`port` if it is free, OSError if not; without one `default_port`, or any free port, which is said."""
    wanted = default_port if port is None else port
    if _port_is_free(wanted):
        return wanted
    if port is not None:
        raise OSError(f"--master-port {port} is taken by another program; leave it out to use a free one")
    with socket.socket() as probe:
        probe.bind((LOCALHOST, 0))
        free = probe.getsockname()[1]
    print(f"port {wanted} is taken (another training run?); using {free}", flush=True)
    return free


def wrap_model(
    model: torch.nn.Module, ranks: Ranks, device: torch.device, *, exchange: str = "fp32"
) -> torch.nn.Module:
    """`model` with its gradients averaged over ranks during backward; itself on one rank.

    exchange: how gradients travel, one of `utils.ranks.exchange.EXCHANGES`. Buffers are not broadcast: they are
    computed alike everywhere, and older gloo builds cannot send complex ones. Gradients live in the buckets, which
    saves a copy of them. `find_unused_parameters` stays off, because it costs a walk over the graph each step;
    `engine.check_all_take_part` says which parameters would need it.
    """
    if ranks.world_size == 1:
        return model
    # Said of 1 x 1 convolutions in channels-last models, where the strides that differ are of sides of length
    # 1.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    with warnings.catch_warnings():
        # Newer torch wants another name, under which complex buffers would be sent once after all.
        warnings.filterwarnings("ignore", message=".*broadcast_buffers.*", category=FutureWarning)
        wrapped = torch.nn.parallel.DistributedDataParallel(
            model,
            device_ids=[device.index] if device.type == "cuda" else None,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
            find_unused_parameters=False,
        )
    halve_exchange(wrapped, exchange)
    return wrapped


def unwrap_model(model: torch.nn.Module) -> torch.nn.Module:
    """The model inside `wrap_model`'s wrapper; its names carry no `module.`."""
    return model.module if isinstance(model, torch.nn.parallel.DistributedDataParallel) else model


def _join_torchrun(worker, arguments, backend: str, hang_timeout: float) -> None:
    local_rank, local_world_size = (int(os.environ.get(name, default)) for name, default in
                                    (("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1)))
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    _share_threads(local_world_size)
    if world_size == 1:
        _choose_gpu(local_rank)
        with explain_loader_death():
            worker(Ranks(rank, world_size, local_rank), *arguments)
        return
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if local_world_size < world_size and backend == "gloo":
        torchrun.choose_interface(host, port)
    store, own_store = torchrun.meet(host, port, rank, world_size, use_libuv=USE_LIBUV)
    ranks = _initialise(
        rank, world_size, local_rank, backend, hang_timeout, store, own_store, on_hang=torchrun.leave_hung
    )
    try:
        _work(ranks, worker, arguments)
    except Interrupted:
        raise
    except Exception as error:
        explained = torchrun.explain_to_all(ranks.watchdog, rank, error)
        if explained is error:
            raise
        raise explained from error


def _run_rank(
    rank: int, worker, arguments: tuple, world_size: int, backend: str, port: int, hang_timeout: float
) -> None:
    """What each spawned process does."""
    _share_threads(world_size)
    store, own_store = (connect(LOCALHOST, port, use_libuv=USE_LIBUV) for _ in range(2))
    ranks = _initialise(rank, world_size, rank, backend, hang_timeout, store, own_store, on_hang=leave_hung)
    _work(ranks, worker, arguments)


def _initialise(
    rank: int, world_size: int, local_rank: int, backend: str, hang_timeout: float, store: dist.Store,
    own_store: dist.Store, *, on_hang: Callable[[str], None],
) -> Ranks:
    """Join the group over `store`, and start to watch it over `own_store`, another connection to the same."""
    _choose_gpu(local_rank)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size)
    watchdog = None
    if hang_timeout:
        watchdog = Watchdog(
            dist.PrefixStore("watchdog", own_store), rank, world_size, limit_s=hang_timeout, on_hang=on_hang
        )
        watchdog.start()
    return Ranks(rank, world_size, local_rank, watchdog)


def _work(ranks: Ranks, worker, arguments: tuple) -> None:
    with explain_loader_death():
        worker(ranks, *arguments)
    if ranks.watchdog is not None:
        ranks.watchdog.finish()
    # Only after success: a rank that failed must not wait for the others here.
    dist.destroy_process_group()


def _choose_gpu(local_rank: int) -> None:
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank % torch.cuda.device_count())


def _share_threads(processes: int) -> None:
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))


def _port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        if sys.platform != "win32":  # where two programs could then share a port
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOCALHOST, port))
        except OSError:
            return False
    return True
