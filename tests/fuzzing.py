"""Damaged files for the readers, and a process of its own to read them in.

    run_fuzz(damaged_bytes(valid), check, examples=60)      # a strategy of hypothesis
    with ReadingProcess() as reader:
        reader.read("npy", path)                            # "read" or "refused: ..."; ReadingFailed for all else

What damages a format by its structure is in `tests/damaged_*.py`, and what is read in `tests/fuzzed_files.py`.
"""

from __future__ import annotations

import multiprocessing
import time
import traceback
import warnings
from pathlib import Path

import psutil
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.errors import DataError
from utils.checkpoint import CheckpointError

PROJECT_ERRORS = (DataError, CheckpointError)
DEADLINE_S = 60.0  # the slowest of the inputs that were tried takes below a second
MOST_GROWTH = 512 * 2**20  # bytes that reading one damaged file may add to a process
LONGEST_ERROR = 20_000  # characters: an error is there to be read
SAMPLE_S = 0.005

EDITS = st.sampled_from((1, 1, 1, 2, 3))  # few, so that damage also gets past the first check
SOMETIMES = st.sampled_from((False, False, False, False, True))
HEADER_BYTES = 400  # damage there says the most different things
WORDS = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\xff\xff", b"\0", b"(", b"'", b"\n")


class ReadingFailed(AssertionError):
    """A file was answered with something else than the project's own error, or with too much time or memory."""


def run_fuzz(strategy: st.SearchStrategy, check, examples: int) -> None:
    """Call `check(value)` with `examples` values of `strategy`, the same ones each time."""

    @settings(max_examples=examples, derandomize=True, database=None, deadline=None,
              suppress_health_check=list(HealthCheck))
    @given(strategy)
    def examine(value):
        check(value)

    examine()


@st.composite
def damaged_bytes(draw, data: bytes) -> bytes:
    """`data` after one to four edits: bits flipped, words put over it, cut, parts removed, added or repeated."""
    damaged = bytearray(data)
    for _ in range(draw(EDITS)):
        kind = draw(st.sampled_from(("flip", "overwrite", "truncate", "insert", "remove", "repeat")))
        start = draw(st.integers(0, HEADER_BYTES) | st.integers(0, len(damaged))) % max(1, len(damaged))
        length = draw(st.integers(1, 64))
        if kind == "flip" and damaged:
            damaged[start] ^= 1 << draw(st.integers(0, 7))
        elif kind == "overwrite":
            word = draw(st.sampled_from(WORDS))
            damaged[start:start + len(word)] = word
        elif kind == "truncate":
            del damaged[start:]
        elif kind == "insert":
            damaged[start:start] = draw(st.binary(min_size=1, max_size=16))
        elif kind == "remove":
            del damaged[start:start + length]
        else:
            damaged[start:start] = damaged[start:start + length] * draw(st.integers(1, 8))
    return bytes(damaged)


def answer(read, path: Path) -> str:
    """"read" or "refused: ..."; ReadingFailed, with the traceback, for any error but the project's own.

    An error must name the file, and be short enough to be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(path)
    except PROJECT_ERRORS as error:
        text = str(error)
        if path.name not in text or len(text) > LONGEST_ERROR:
            raise ReadingFailed(f"{len(text)} characters, to name {path.name}: {text[:500]}") from error
        return f"refused: {text}"
    except Exception as error:
        raise ReadingFailed(traceback.format_exc()) from error
    return "read"


class ReadingProcess:
    """A process that reads files when asked; a hang, a death or too much memory there fails here."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)

    def __enter__(self) -> ReadingProcess:
        self._process.start()
        self._usage = psutil.Process(self._process.pid)
        assert self._connection.poll(300), "the reading process did not start"
        self._connection.recv()
        return self

    def __exit__(self, *exception) -> None:
        self._process.kill()
        self._process.join()

    def read(self, name: str, path: Path) -> str:
        """What `answer` says of reading `path` with the reader `name` of `tests.fuzzed_files`."""
        before, give_up_at = self._usage.memory_info().rss, time.monotonic() + DEADLINE_S
        peak = before
        self._connection.send((name, str(path)))
        while not self._connection.poll(SAMPLE_S):
            if not self._process.is_alive():
                raise ReadingFailed(f"{name}: the process died of {path} with exit code {self._process.exitcode}")
            if time.monotonic() > give_up_at:
                raise ReadingFailed(f"{name}: {path} is still being read after {DEADLINE_S:.0f} s")
            peak = max(peak, self._usage.memory_info().rss)
            if peak - before > MOST_GROWTH:
                raise ReadingFailed(f"{name}: reading {path} took {(peak - before) / 2**20:.0f} MiB and more")
        failure, said = self._connection.recv()
        if failure:
            raise ReadingFailed(f"{name}: {said}")
        return said


def _serve(connection) -> None:
    """Answer (name, path) with (whether it failed, text) until the other side has gone."""
    from tests.fuzzed_files import READERS

    connection.send("ready")
    while True:
        try:
            name, path = connection.recv()
        except EOFError:
            return
        try:
            connection.send((False, answer(READERS[name], Path(path))))
        except ReadingFailed as failure:
            connection.send((True, str(failure)))
