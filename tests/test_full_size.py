"""Full-size SAM 3 from a random start on a CPU: minutes, 8 GB of disk, 16 GB of memory.

    python run.py test -m slow -k full_size
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.loading import load_model
from tests.csv_fixture import write_tiny_dataset
from utils.checkpoint import load_checkpoint

MEMORY_GIB = 24  # what the whole run may take
ROOT = Path(__file__).resolve().parents[1]


def peak_memory_of_children() -> int:
    """Bytes of the largest process that this one has waited for (POSIX)."""
    import resource

    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return largest if sys.platform == "darwin" else 1024 * largest  # Linux counts in KiB


@pytest.mark.slow
def test_two_steps_at_full_size_and_the_checkpoint_loads_again(tmp_path):
    csv_path = write_tiny_dataset(tmp_path / "data", patients=3, rows_per_patient=1, size=128)
    flags = "--backbone sam3 --random-init --image-size 336 --batch-size 1 --epochs 1 --num-workers 0 --device cpu"
    command = [sys.executable, "train_stage1_deepsa.py", "--data-csv", str(csv_path), *flags.split(),
               "--checkpoint-dir", str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr
    if sys.platform != "win32":
        peak = peak_memory_of_children() / 2**30
        print(f"\npeak memory of two steps at full size: {peak:.1f} GiB")
        assert peak < MEMORY_GIB
    assert load_checkpoint(tmp_path / "run" / "phase1_deepsa_latest.pth")["global_step"] == 2
    model, checkpoint = load_model(tmp_path / "run" / "phase1_deepsa_best.pth")
    assert sum(parameter.numel() for parameter in model.backbone.parameters()) > 453e6
    weights = model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in checkpoint["model"].items())
