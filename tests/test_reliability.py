"""A rank that dies, hangs or meets a NaN ends the run everywhere, the first cause on top; one that is slow does not."""

import re
import signal
import subprocess
import sys

import psutil
import pytest

from tests.tiny_failures import failing_run
from utils.ranks.distributed import launch
from utils.ranks.spawn import RankError

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no signals to stop and kill with")

# How one rank comes to grief: what is said first.
SUDDEN = {
    "nan": "NonFiniteError: a loss is not finite",
    "killed": "rank 1 died without a word: killed by SIGKILL",
}
LOADERS = {"killed loader": "ChildProcessError: a process that loads pictures ended: .*fewer --num-workers"}
HANGS = {
    "stopped": "rank 1 has given no sign of life for 8 s",
    "stuck loader": "rank 1 hangs: for 8 s no rank has done anything",
    "stopped loader": "rank 1 hangs: for 8 s no rank has done anything",
}
SLOW = ("slow step", "slow validation", "slow save")
HANG_TIMEOUT_S = 8.0


def start(how, folder, *, guilty=1, slow_s=0.0):
    arguments = (how, guilty, folder, slow_s)
    launch(failing_run, arguments, world_size=2, default_port=12390, hang_timeout=HANG_TIMEOUT_S)


def first_line_of_failure(how, folder, **more):
    with pytest.raises(RankError) as caught:
        start(how, folder, **more)
    assert not psutil.Process().children(recursive=True) or all(
        "resource_tracker" in " ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)
    )
    return str(caught.value).splitlines()[0]


@pytest.mark.parametrize("how", SUDDEN)
def test_a_sudden_end_on_one_rank_ends_both(tmp_path, how):
    assert re.search(SUDDEN[how], first_line_of_failure(how, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("how", [*LOADERS, *HANGS])
def test_a_loader_that_is_killed_and_what_hangs_end_both_ranks(tmp_path, how):
    assert re.search((LOADERS | HANGS)[how], first_line_of_failure(how, tmp_path))


@pytest.mark.slow
def test_the_rank_that_writes_may_hang_too(tmp_path):
    assert "rank 0 has given no sign of life" in first_line_of_failure("stopped", tmp_path, guilty=0)


@pytest.mark.slow
@pytest.mark.parametrize("how", SLOW)
def test_slow_work_is_no_hang(tmp_path, how):
    start(how, tmp_path, guilty=0, slow_s=3 * HANG_TIMEOUT_S)
    assert (tmp_path / "tiny_best.pth").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "how, said",
    [
        ("fails", "ArithmeticError: planted failure"),
        ("nan", "a loss is not finite"),
        ("killed", "Signal 9 (SIGKILL)"),
        ("stopped", "rank 1 has given no sign of life for 8 s"),
        ("stuck loader", "rank 1 hangs: for 8 s no rank has done anything"),
        ("killed loader", "a process that loads pictures ended"),
    ],
)
def test_torchrun_ends_with_the_first_cause_on_top(tmp_path, how, said):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "12389",
        "-m", "tests.tiny_failures", "--how", how, "--folder", str(tmp_path), "--hang-timeout", str(HANG_TIMEOUT_S),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    if how == "killed":  # which only torchrun sees
        assert said in done.stderr.split("Root Cause")[1], done.stderr[-6000:]
        return
    errors = [line for line in done.stderr.splitlines() if "error: " in line.lower() and "E1" not in line[:2]]
    assert said in errors[0], done.stderr[-6000:]
