"""Ctrl-C and SIGTERM: the first saves at the next step, the second leaves at once; then --resume goes on."""

import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.tiny_training import STAGE
from utils.checkpoint import load_checkpoint
from utils.interrupt import StopRequest
from utils.run_files import RunFiles

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="Windows has no signals to send between processes"
)


def start(folder, *more):
    command = [
        sys.executable,
        "-m",
        "tests.tiny_training",
        "--folder",
        folder,
        "--save-every",
        1000,
        "--epochs",
        1000,
        *more,
    ]
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for(process, text):
    for line in process.stdout:
        if text in line:
            return
    pytest.fail(f"the run ended before it said {text!r}")


def end(process):
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    output = process.stdout.read()
    process.wait()
    watchdog.cancel()
    return output


def test_sigterm_saves_at_the_next_step(tmp_path):
    process = start(tmp_path, "--step-seconds", 0.1, "--rows", 200)
    wait_for(process, "pass 3\n")
    process.send_signal(signal.SIGTERM)
    output = end(process)
    assert process.returncode == 143, output
    assert "saving at the next step" in output and "--resume" in output
    checkpoint = load_checkpoint(RunFiles(tmp_path, STAGE).latest)
    passes = output.count("pass ") + 3
    assert checkpoint["global_step"] == passes and checkpoint["sampler"]["samples_done"] == 2 * passes


def test_ctrl_c_on_the_parent_stops_both_ranks_at_one_step(tmp_path):
    process = start(tmp_path, "--step-seconds", 0.1, "--rows", 400, "--world-size", 2)
    wait_for(process, "pass 3\n")
    process.send_signal(signal.SIGINT)
    output = end(process)
    assert process.returncode == 130, output
    checkpoint = load_checkpoint(RunFiles(tmp_path, STAGE).latest)
    assert checkpoint["global_step"] >= 3 and len(checkpoint["rng"]) == 2
    assert checkpoint["sampler"]["samples_done"] == 4 * checkpoint["global_step"]


def test_a_second_request_leaves_at_once(tmp_path):
    process = start(tmp_path, "--step-seconds", 600)
    wait_for(process, "pass 1\n")
    process.send_signal(signal.SIGINT)
    wait_for(process, "asked to stop")
    time.sleep(1.1)  # what arrives sooner counts as the same request
    process.send_signal(signal.SIGINT)
    end(process)
    assert process.returncode == 130
    assert not RunFiles(tmp_path, STAGE).latest.exists()


def test_stop_in_validation_saves_too(tmp_path):
    import os

    from tests.tiny_training import options, run, score_batch
    from utils.ranks.distributed import Ranks
    from utils.interrupt import Interrupted

    def score(model, batch):
        os.kill(os.getpid(), signal.SIGTERM)
        return score_batch(model, batch)

    with pytest.raises(Interrupted, match="validation.*--resume") as caught:
        run(Ranks(), options(folder=tmp_path, save_every=1000), score=score)
    assert caught.value.exit_code == 143
    checkpoint = load_checkpoint(RunFiles(tmp_path, STAGE).latest)
    assert checkpoint["epoch"] == 0 and checkpoint["sampler"]["samples_done"] == 9


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest(announce=False) as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # the same request, as a terminal and a parent both send it
        assert stop.signal_number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


def test_outside_the_main_thread_nothing_is_installed():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def body():
        with StopRequest() as stop:
            seen.append((stop.signal_number, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [(None, before)]
