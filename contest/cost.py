"""What an answer costs: seconds, and the most memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

import psutil
import torch

T = TypeVar("T")
SAMPLE_S = 0.02  # how often memory is looked at


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What `work` gives, and its seconds, all work of a GPU included."""
    start = time.perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result, time.perf_counter() - start


class PeakMemory:
    """The most memory that this process has held since it began: on a GPU the card's, else the machine's."""

    def __init__(self):
        self._process, self._stop, self._most = psutil.Process(), threading.Event(), 0
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)

    def __enter__(self) -> PeakMemory:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._thread.join()

    def peak_mib(self) -> float:
        """MiB so far."""
        self._look()
        if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
            return torch.cuda.max_memory_allocated() / 2**20
        return self._most / 2**20

    def _look(self) -> None:
        self._most = max(self._most, self._process.memory_info().rss)

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            self._look()
