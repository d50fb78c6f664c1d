"""The checkpoint in `tests/data` that later versions must go on from: a tiny run, stopped in its second epoch.

    python -m tests.stored_checkpoint           # writes tests/data/format_N.pth for the format N of this version

To be run once, when `utils.checkpoint.FORMAT` is raised; files of earlier formats stay as they are.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from tests.tiny_training import STAGE, compute_loss, options, run
from utils.checkpoint import FORMAT
from utils.ranks.distributed import Ranks
from utils.run_files import RunFiles

FOLDER = Path(__file__).parent / "data"
SIZE = dict(rows=9, epochs=3, batch_size=2, accum_steps=1, save_every=1)
STOPPED_IN_PASS = 8  # of five an epoch


class Stopped(Exception):
    """Ends the run as a power cut would: of it only its files survive."""


def write_checkpoint(path: Path) -> None:
    """Train until the third batch of the second epoch, and keep the last save as `path`."""
    passes = 0

    def loss(model, batch):
        nonlocal passes
        passes += 1
        if passes == STOPPED_IN_PASS:
            raise Stopped
        return compute_loss(model, batch)

    with tempfile.TemporaryDirectory() as folder:
        try:
            run(Ranks(), options(folder=Path(folder), **SIZE), loss=loss)
        except Stopped:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(RunFiles(Path(folder), STAGE).latest, path)


if __name__ == "__main__":
    write_checkpoint(FOLDER / f"format_{FORMAT}.pth")
