"""Training on a disk that fills up, as a program: what it says and leaves, as JSON, for `tests/test_full_disk.py`.

    python -m tests.full_disk save FOLDER           # FOLDER: an empty disk of a few MB
    python -m tests.full_disk train FOLDER CSV      # ... of some hundred MB
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import torch

from utils.checkpoint import load_checkpoint, save_checkpoint

LEFT = 2**20  # bytes that other files leave free


def fill(folder: Path) -> Path:
    """A file that takes all of the disk but `LEFT`."""
    ballast = folder / "ballast.bin"
    with ballast.open("wb") as file:
        while shutil.disk_usage(folder).free > LEFT:
            file.write(bytes(min(2**20, shutil.disk_usage(folder).free - LEFT)))
            file.flush()
            os.fsync(file.fileno())
    return ballast


def checkpoint(epoch: int, numbers: int) -> dict:
    """A checkpoint of so many numbers, four bytes each."""
    return {"stage": "s", "epoch": epoch, "global_step": epoch, "model": {"w": torch.full((numbers,), float(epoch))},
            "config": {}}


def save(folder: Path) -> dict:
    """A checkpoint over an older one where the disk has no room for both."""
    path = folder / "a.pth"
    save_checkpoint(path, checkpoint(7, 2**18))
    old = path.read_bytes()
    ballast = fill(folder)
    try:
        save_checkpoint(path, checkpoint(8, 2**19))
        said = ""
    except OSError as error:
        said = str(error)
    left = dict(files=sorted(os.listdir(folder)), intact=path.read_bytes() == old, epoch=load_checkpoint(path)["epoch"])
    ballast.unlink()
    save_checkpoint(path, checkpoint(8, 2**18))
    return {"said": said, **left, "epoch_with_room": load_checkpoint(path)["epoch"]}


def train(folder: Path, csv_path: str) -> dict:
    """An epoch of stage 1 by its script, another on a full disk, and that again with room."""
    import train_stage1_deepsa as stage1
    from tests.stage_script import flags, run_main
    from utils.run_files import RunFiles

    def epochs(number: int, *more) -> tuple[str, int]:
        return run_main(stage1, *flags(csv_path, folder, "--epochs", number, "--random-init", *more))

    files = RunFiles(folder, stage1.STAGE)
    first = epochs(1)
    if first[1]:
        raise SystemExit(f"the first epoch failed: {first[0]}")
    old = files.latest.read_bytes()
    ballast = fill(folder)
    said, code = epochs(2, "--resume")
    left = dict(files=sorted(os.listdir(folder)), intact=files.latest.read_bytes() == old)
    ballast.unlink()
    said_with_room, code_with_room = epochs(2, "--resume")
    return {"said": said, "code": code, **left, "said_with_room": said_with_room, "code_with_room": code_with_room,
            "epoch_with_room": load_checkpoint(files.latest)["epoch"]}


if __name__ == "__main__":
    answer = {"save": save, "train": train}[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
    print("ANSWER" + json.dumps(answer))
