"""One process per GPU (or several on a CPU): start them, let them talk, and end them all when one fails.

    launch(run, (args, tables), world_size=2, backend="gloo", default_port=12355)

calls `run(ranks, args, tables)` in this process when `world_size` is 1, in spawned processes otherwise. Under
torchrun (RANK, WORLD_SIZE and LOCAL_RANK are set) this process joins that group instead, over all machines.
"""

from __future__ import annotations

import os
import socket
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from utils.spawn import spawn_ranks

LOCALHOST = "127.0.0.1"


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

    worker: a function of a module, and arguments that pickle. world_size: None is one per GPU, else 1. port:
    None is `default_port`, or a free one if that is taken. Raises RankError when a spawned rank failed (the
    others are ended first), Interrupted when they were asked to stop, OSError when `port` was given and is
    taken; in one process whatever the worker raises.
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        _join_torchrun(worker, arguments, backend)
        return
    world_size = choose_world_size(world_size)
    if world_size == 1:
        worker(Ranks(), *arguments)
        return
    setting = (worker, arguments, world_size, backend, choose_port(port, default_port))
    spawn_ranks(_run_rank, setting, processes=world_size)


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
        raise OSError(f"--master-port {port} is taken by another program; leave it out to use a free one")
    with socket.socket() as probe:
        probe.bind((LOCALHOST, 0))
        free = probe.getsockname()[1]
    print(f"port {wanted} is taken (another training run?); using {free}", flush=True)
    return free


def wrap_model(model: torch.nn.Module, ranks: Ranks, device: torch.device) -> torch.nn.Module:
    """`model` with its gradients averaged over ranks during backward; itself on one rank.

    Buffers are not broadcast: they are computed alike everywhere, and older gloo builds cannot send complex
    ones. Gradients live in the buckets, which saves a copy of them. `find_unused_parameters` stays off,
    because it costs a walk over the graph each step; `engine.check_all_take_part` says which parameters would
    need it.
    """
    if ranks.world_size == 1:
        return model
    # Said of 1 x 1 convolutions in channels-last models, where the strides that differ are of sides of length
    # 1.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
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
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    ranks = Ranks(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), local_rank)
    _share_threads(int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    _initialise(ranks, backend)
    worker(ranks, *arguments)
    # Only after success: a rank that failed must not wait for the others here.
    if ranks.world_size > 1:
        dist.destroy_process_group()


def _initialise(ranks: Ranks, backend: str) -> None:
    if sys.platform == "win32":
        os.environ["USE_LIBUV"] = "0"  # torch's Windows builds come without libuv, which its store asks for
    if torch.cuda.is_available():
        torch.cuda.set_device(ranks.local_rank % torch.cuda.device_count())
    if ranks.world_size > 1:
        dist.init_process_group(backend, rank=ranks.rank, world_size=ranks.world_size)


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


def _run_rank(rank: int, worker, arguments: tuple, world_size: int, backend: str, port: int) -> None:
    """What each spawned process does."""
    os.environ.update(MASTER_ADDR=LOCALHOST, MASTER_PORT=str(port))
    _share_threads(world_size)
    ranks = Ranks(rank, world_size, rank)
    _initialise(ranks, backend)
    worker(ranks, *arguments)
    dist.destroy_process_group()
