"""What a rank that torchrun started does more than one that this project started: nobody else explains its end."""

from __future__ import annotations

import os
import socket
import sys
import time

import psutil
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from utils.ranks.spawn import RankError, kill_children
from utils.ranks.watchdog import STORE_TIMEOUT, Watchdog, connect

# How long a rank that only lost a connection waits to learn why.
ASK_S = 3.0
# gloo and nccl have no exception of their own for it in every torch.
LOST_CONNECTION = ("connection closed", "connection reset", "broken pipe", "connection refused", "timed out waiting")


def meet(host: str, port: int, rank: int, world_size: int, *, use_libuv: bool) -> tuple[dist.Store, dist.Store]:
    """Two connections to torchrun's store at `host`:`port`, to a part of it that only the ranks of this start use.

    It outlives the ranks, and each torchrun counts its own restarts, so these do not agree on a name: ranks of a new
    start would read where those of the last one listened. So rank 0 makes a name up, and answers each rank that says
    hello with it; a hello that was left behind is answered too, and heard by nobody. Raises RankError when some do not
    come within `STORE_TIMEOUT`.
    """
    hosts_it = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    store = dist.TCPStore(
        host, port, is_master=hosts_it, wait_for_workers=False, timeout=STORE_TIMEOUT, use_libuv=use_libuv
    )

    def connect_both(name: str) -> tuple[dist.Store, dist.Store]:
        second = connect(host, port, use_libuv=use_libuv)
        return dist.PrefixStore(f"ranks/{name}", store), dist.PrefixStore(f"ranks/{name}", second)

    own, until = os.urandom(8).hex(), time.monotonic() + STORE_TIMEOUT.total_seconds()
    others = range(1, world_size)
    if rank != 0:
        store.set(f"hello/{rank}", own)
    while time.monotonic() < until:
        if rank != 0 and store.check([f"welcome/{own}"]):
            name = store.get(f"welcome/{own}").decode()
            store.set(f"met/{name}/{rank}", "")
            return connect_both(name)
        if rank == 0:
            for other in (other for other in others if store.check([f"hello/{other}"])):
                store.set(f"welcome/{store.get(f'hello/{other}').decode()}", own)
            if store.check([f"met/{own}/{other}" for other in others]):
                return connect_both(own)
        time.sleep(0.1)
    raise RankError(
        f"rank {rank} of {world_size} waited {STORE_TIMEOUT} at {host}, port {port}, for the others. Does every "
        "machine run torchrun with the same --rdzv-endpoint, and can it reach that address?"
    )


def explain_to_all(watchdog: Watchdog | None, rank: int, error: Exception) -> Exception:
    """Tell torchrun and the other ranks why `rank` fails; what to raise instead: the first cause of the run."""
    own = f"rank {rank} failed, so all end. {type(error).__name__}: {error}"
    lost = is_lost_connection(error)
    if lost:
        first = _ask_for_failure(watchdog)
        failure = RankError(first or (
            f"rank {rank} lost the connection to another rank, which ended without a word (killed? often by the "
            f"system, out of memory) or is cut off. Its machine's torchrun says how it ended. Here: {error}"
        ))
    else:
        first = None if watchdog is None else watchdog.report_failure(own)
        failure = error if first in (None, own) else RankError(f"{first}\n(after it failed rank {rank})")
    if not lost:
        record(failure)
    return failure


def leave_hung(cause: str) -> None:
    """End this process at once, from any thread of it, because the run hangs or another rank has failed."""
    print(f"error: {cause}", file=sys.stderr, flush=True)
    record(RankError(cause))
    kill_children()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # torchrun would first ask them to stop, and wait half a minute for one that is stopped and cannot answer.
        kill_children(os.getppid(), spare=os.getpid())
    os._exit(1)


def record(error: Exception) -> None:
    """Write `error` where torchrun looks for the cause that it names in the end."""
    if "TORCHELASTIC_ERROR_FILE" not in os.environ:
        return
    try:
        raise error
    except Exception as raised:  # only of one that is being handled torch shows the text
        get_error_handler().record_exception(raised)


def is_lost_connection(error: Exception) -> bool:
    """Whether `error` only says that another rank or the network is gone."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        isinstance(error, dist.DistNetworkError) or any(words in text for words in LOST_CONNECTION)
    )


def choose_interface(host: str, port: int) -> None:
    """Have gloo use the network interface that leads to `host`, unless GLOO_SOCKET_IFNAME names one.

    By itself it takes the one that this machine's name resolves to, which on many systems is the loopback: then the
    ranks of other machines are told to look for this one on their own. Where `host` itself, which torchrun found
    likewise, is the loopback, that is said.
    """
    name = interface_towards(host, port)
    if name is None:
        print(
            f"warning: the ranks are to meet at {host}, which is this machine's loopback: those of other machines "
            "cannot come. Give torchrun --local-addr with the machine's address in the network.",
            file=sys.stderr, flush=True,
        )
    elif sys.platform != "win32":  # where gloo takes no interface's name
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def interface_towards(host: str, port: int) -> str | None:
    """Name of the interface from which packets to `host` leave, or that has this address; None for the loopback."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)  # of a datagram: sends nothing
        own = probe.getsockname()[0]
    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address.split("%")[0] == own for entry in addresses):
            return None if own.startswith("127.") or own == "::1" else name
    return None


def _ask_for_failure(watchdog: Watchdog | None) -> str | None:
    if watchdog is None:
        return None
    until = time.monotonic() + ASK_S
    while (first := watchdog.first_failure()) is None and time.monotonic() < until:
        time.sleep(0.2)
    return first
