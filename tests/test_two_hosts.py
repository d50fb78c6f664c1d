"""Two machines: two network namespaces of this one, which share no network but a virtual cable.

Each has its own torchrun and its own checkpoint folder. Needs Linux, root and `ip`.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import time

import psutil
import pytest

from tests.csv_fixture import write_tiny_dataset
from tests.test_resume import assert_equal, outcome
from utils.ranks.spawn import kill_children

STAGE = "phase1_deepsa"
HOSTS = ("host0", "host1")
ADDRESSES = ("10.77.0.1", "10.77.0.2")
IP = shutil.which("ip", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin")))
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def can_make_namespaces() -> bool:
    if sys.platform != "linux" or IP is None or os.geteuid() != 0:
        return False
    made = subprocess.run([IP, "netns", "add", "probe-ranks"], capture_output=True).returncode == 0
    if made:
        subprocess.run([IP, "netns", "del", "probe-ranks"], check=True)
    return made


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not can_make_namespaces(), reason="needs Linux, root and network namespaces (ip netns)"),
]


def ip(*words):
    subprocess.run([IP, *words], check=True, capture_output=True, text=True)


@pytest.fixture
def cable():
    """Two namespaces with an address each and a cable between them."""
    for host in HOSTS:
        ip("netns", "add", host)
    try:
        ip("link", "add", "end0", "netns", HOSTS[0], "type", "veth", "peer", "name", "end1", "netns", HOSTS[1])
        for host, end, address in zip(HOSTS, ("end0", "end1"), ADDRESSES, strict=True):
            ip("-n", host, "addr", "add", f"{address}/24", "dev", end)
            ip("-n", host, "link", "set", end, "up")
            ip("-n", host, "link", "set", "lo", "up")
        yield
    finally:
        for host in HOSTS:
            ip("netns", "del", host)


@pytest.fixture(scope="module")
def csv_path(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("data"), patients=5, rows_per_patient=2)


def training(csv_path, folder, *more):
    return [str(part) for part in (
        "train_stage1_deepsa.py", "--data-csv", csv_path, "--backbone", "sam3-tiny", "--epochs", 3, "--batch-size", 1,
        "--save-every", 1, "--device", "cpu", "--amp", "off", "--num-workers", 0, "--checkpoint-dir", folder,
        "--resume", *more,
    )]


@pytest.fixture(scope="module")
def one_host(csv_path, tmp_path_factory):
    """The outcome of the same run of two ranks on one host, which nothing cuts off."""
    folder = tmp_path_factory.mktemp("one")
    command = [sys.executable, *training(csv_path, folder, "--world-size", 2)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=550, env=ONE_THREAD)
    assert done.returncode == 0, done.stderr[-3000:]
    return outcome(folder, STAGE)


def start_both(csv_path, folder, restarts):
    """torchrun on each host, as README says; what they say goes to files, returned with the processes."""
    started = []
    for number, host in enumerate(HOSTS):
        command = [
            IP, "netns", "exec", host, sys.executable, "-m", "torch.distributed.run", "--nnodes", 2,
            "--nproc-per-node", 1, "--max-restarts", restarts, "--rdzv-backend", "c10d", "--rdzv-endpoint",
            f"{ADDRESSES[0]}:29400", "--rdzv-id", "run", "--rdzv-conf", f"is_host={int(number == 0)}",
            "--local-addr", ADDRESSES[number], *training(csv_path, folder / host),
        ]
        said = folder / f"{host}.txt"
        with open(said, "w", encoding="utf-8") as handle:
            process = subprocess.Popen(
                [str(part) for part in command], stdout=handle, stderr=subprocess.STDOUT, env=ONE_THREAD
            )
        started.append((process, said))
    return started


def texts_of(started):
    return [said.read_text(encoding="utf-8") for _, said in started]


def wait_until(seen, started, what, seconds=240):
    until = time.monotonic() + seconds
    while not seen():
        if time.monotonic() > until:
            texts = "\n".join(text[-3000:] for text in texts_of(started))
            pytest.fail(f"waited in vain: {what}\n{texts}")
        time.sleep(0.2)


def end(started):
    """Whatever of torchrun and its ranks is left."""
    for process, _ in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            kill_children(process.pid)
            process.kill()
        process.wait()


@pytest.mark.parametrize("restarts", [0, 3])
def test_a_cable_that_is_cut_and_mended(tmp_path, cable, csv_path, one_host, restarts):
    """Both hosts end; torchrun starts them again, or somebody does; then the bits are those of one host never cut."""
    started = start_both(csv_path, tmp_path, restarts)
    try:
        wait_until((tmp_path / HOSTS[0] / f"{STAGE}_best.pth").exists, started, "the first epoch")
        ip("-n", HOSTS[0], "link", "set", "end0", "down")
        wait_until(lambda: all("error: rank" in text for text in texts_of(started)), started, "errors")
        texts = texts_of(started)
        assert "rank 1 has given no sign of life" in texts[0] and "the network is cut" in texts[1]
        ip("-n", HOSTS[0], "link", "set", "end0", "up")
        if restarts == 0:
            end(started)
            started = start_both(csv_path, tmp_path, 0)
        wait_until(lambda: all(process.poll() is not None for process, _ in started), started, "the end")
        assert [process.returncode for process, _ in started] == [0, 0], texts_of(started)[0][-3000:]
        assert "going on from" in texts_of(started)[0]
    finally:
        end(started)
    assert_equal(outcome(tmp_path / HOSTS[0], STAGE), one_host)
    assert not (tmp_path / HOSTS[1]).exists()  # it resumed from what rank 0 sent
