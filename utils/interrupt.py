"""Ctrl-C and SIGTERM: the first asks for a stop at the next step, a second leaves at once.

Leaving at once does no damage, because every file is written in one step (utils/files.py).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

# A terminal sends Ctrl-C to every process of the job and the parent forwards it too; both arrive within this
# time.
SAME_REQUEST_S = 1.0
# How long a loader process goes on serving after SIGTERM, so that its training process can reach the next
# step.
WORKER_GRACE_S = 20.0

# SIGBREAK (Ctrl-Break) is what Windows has beside SIGINT; its SIGTERM cannot be caught.
STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)
)


class Interrupted(Exception):
    """Training stopped because it was asked to, after saving."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class StopRequest:
    """`with StopRequest() as stop:` — `stop.signal_number` is None until the first signal arrives.

    Outside the main thread Python cannot catch signals; then nothing is installed and nothing is ever asked.
    """

    def __init__(self, *, announce: bool = True) -> None:
        self.signal_number: int | None = None
        self._announce = announce
        self._first_at = 0.0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _receive(self, number: int, frame) -> None:
        now = time.monotonic()
        if self.signal_number is None:
            self.signal_number, self._first_at = number, now
            if self._announce:
                _say("asked to stop: saving at the next step (once more to leave at once, without saving)")
        elif now - self._first_at >= SAME_REQUEST_S:
            os._exit(exit_code_of(number))


def exit_code_of(signal_number: int) -> int:
    """What a shell reports for a process that a signal ended: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + int(signal_number)


def prepare_loader_process() -> None:
    """Signal handling of a data-loading process: its training process decides when it ends.

    Ctrl-C is ignored. SIGTERM ends it after a grace period, or at once when it comes twice.
    """
    if hasattr(signal, "SIGBREAK"):
        signal.signal(signal.SIGBREAK, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    terminations: list[int] = []

    def end_soon(number: int, frame) -> None:
        terminations.append(number)
        if len(terminations) > 1:
            os._exit(exit_code_of(number))
        timer = threading.Timer(WORKER_GRACE_S, os._exit, args=(exit_code_of(number),))
        timer.daemon = True
        timer.start()

    signal.signal(signal.SIGTERM, end_soon)


def _say(text: str) -> None:
    # A write through sys.stderr could re-enter a print that the signal cut in two; the descriptor cannot.
    try:
        os.write(sys.__stderr__.fileno(), f"\n{text}\n".encode())
    except (OSError, AttributeError, ValueError):
        return  # no terminal to tell (pythonw, a closed pipe): stopping matters more than saying so
