"""One frame of a cine, `data.cine.read_frame`, beside loading the cine, `np.load`: seconds and memory.

    python -m benchmarks.cine_reading CINE.npy frame        # one way in a fresh process, figures as JSON
    python -m benchmarks.data_loading                       # all of it, as a table

The peak of memory is that of the process, less what it held before: pages of the file that are mapped count. Seconds
are of a file that the system has in its cache ("warm"), and of one that was taken out of it ("cold"; Linux only).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil

from data.cine import cine_shape, read_frame

FRAMES, SIDE_PX = 66, 1016
WAYS = ("frame", "cine")
REPEATS = 5


def write_cines(folder: Path, shape: tuple[int, int] = (FRAMES, SIDE_PX)) -> Iterator[tuple[str, Path]]:
    """A cine of `shape` = (frames, side) as uint8 in C order, as uint8 in Fortran order and as float32, three channels:
    (name, path), one at a time."""
    rng, path = np.random.default_rng(0), folder / "cine.npy"
    cine = rng.integers(0, 256, (*shape, shape[1], 1), dtype=np.uint8).repeat(3, axis=3)
    for name in ("uint8", "uint8, Fortran order", "float32"):
        with open(path, "wb") as file:
            if name == "float32":
                header = {"descr": "<f4", "fortran_order": False, "shape": cine.shape}
                np.lib.format.write_array_header_2_0(file, header)
                for frame in cine:  # frame by frame, not to hold a gigabyte
                    file.write((frame.astype(np.float32) / np.float32(255)).tobytes())
            else:
                np.save(file, cine if name == "uint8" else np.asfortranarray(cine), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())  # what is not on the disk cannot be taken out of the cache
        yield name, path
    path.unlink()


def read(path: Path, way: str, frame_index: int) -> np.ndarray:
    """A frame by `read_frame`, or out of the whole cine."""
    return read_frame(path, frame_index) if way == "frame" else np.load(path, allow_pickle=False)[frame_index]


def forget(path: Path) -> bool:
    """Take a file out of the system's cache; whether that can be done here."""
    if not hasattr(os, "posix_fadvise"):
        return False
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def timed(path: Path, way: str, frame_index: int) -> float:
    """Seconds of one reading."""
    began = time.perf_counter()
    read(path, way, frame_index)
    return time.perf_counter() - began


def measure(path: Path, way: str) -> dict[str, float | None]:
    """Seconds and bytes of one way, in this process, which must not have read anything before."""
    held = psutil.Process().memory_info().rss
    frames = np.linspace(0, cine_shape(path)[0] - 1, REPEATS).astype(int).tolist()
    first = timed(path, way, frames[0])
    peak = peak_resident_bytes() - held
    # The least: what a busy machine adds is no part of reading.
    warm = min(first, *(timed(path, way, number) for number in frames))
    cold = [timed(path, way, number) for number in frames if forget(path)]
    return {"warm_s": warm, "cold_s": min(cold, default=None), "peak_bytes": peak}


def peak_resident_bytes() -> int:
    """The most memory that this process has held."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    if sys.platform == "linux":  # where a started process takes over its parent's `ru_maxrss`
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure_afresh(path: Path, way: str) -> dict[str, float | None]:
    """`measure` in a process of its own, with few imports."""
    command = [sys.executable, "-m", "benchmarks.cine_reading", str(path), way]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def compare(folder: Path, shape: tuple[int, int] = (FRAMES, SIDE_PX)) -> dict[str, dict]:
    """For each kind of cine both ways, and how many times cheaper one frame is."""
    figures = {}
    for name, path in write_cines(folder, shape):
        ways = {way: measure_afresh(path, way) for way in WAYS}
        ratio = {figure.rsplit("_", 1)[0]: round(ways["cine"][figure] / ways["frame"][figure], 1)
                 for figure in ways["frame"] if ways["frame"][figure] is not None}
        figures[name] = {"file_bytes": path.stat().st_size, **ways, "times_cheaper": ratio}
    return figures


def main() -> int:
    path, way = sys.argv[1:] if len(sys.argv) == 3 else (None, None)
    if way not in WAYS:
        print(__doc__, file=sys.stderr)
        return 2
    print(json.dumps(measure(Path(path), way)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
