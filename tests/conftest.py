"""How `python run.py test` shares the tests out over processes (pytest-xdist); by hand, pytest runs in one."""

import os
from pathlib import Path

import psutil
import pytest

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
WORKER_BYTES = 4e9  # the most that a process held, 2026-11-22: 3.4 GB
MOST_WORKERS = 8  # each imports every file of tests first; and a container may have fewer cores than it sees
# Begun first, so that at the end no process is left alone with one of them.
LONGEST = ("test_distributed", "test_memory", "test_scripts", "test_compare_models", "test_train_stage1", "test_train_stage2",
           "test_phantom_ceiling", "test_backbones", "test_view_impact_obstructions")
# They start programs that meet at the same TCP port, so one after another.
MEET_AT_A_PORT = ("test_distributed", "test_resume", "test_interrupt")

if WORKERS > 1:
    # Before torch and OpenCV are imported, here and in programs that tests start: else each process takes all cores.
    for variable in ("OMP_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"):
        os.environ.setdefault(variable, str(max(1, CORES // WORKERS)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config) -> int:
    """What `-n auto` means: a process for each core that may be used, where there is memory for it."""
    return max(1, min(CORES, MOST_WORKERS, int(psutil.virtual_memory().total / WORKER_BYTES)))


def pytest_collection_modifyitems(items) -> None:
    """In a process of several: a file's tests, which share what is made once, stay together; the longest come first."""
    if WORKERS == 1:
        return
    for item in items:
        item.add_marker(pytest.mark.xdist_group("port" if item.path.stem in MEET_AT_A_PORT else item.path.stem))
    items.sort(key=lambda item: place(item.path))


def place(path: Path) -> int:
    """Of a file of tests in the order in which they begin."""
    return LONGEST.index(path.stem) if path.stem in LONGEST else len(LONGEST)
