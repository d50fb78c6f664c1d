"""A stage 1 checkpoint of an untrained `sam3-tiny`, for tests of the tools that read one.

    path = write_tiny_checkpoint(tmp_path / "phase1_deepsa_latest.pth")
"""
from pathlib import Path

import torch

from models.deepsa_model import build_deepsa_model
from utils.checkpoint import save_checkpoint

IMAGE_SIZE = 336


def write_tiny_checkpoint(path: Path, *, use_view: bool = True, epoch: int = 0, **config) -> Path:
    """Write the checkpoint, always with the same weights; `config` is added to what is needed to build the model."""
    torch.manual_seed(0)
    model = build_deepsa_model(backbone="sam3-tiny", image_size=IMAGE_SIZE, use_view=use_view)
    save_checkpoint(path, {
        "stage": "phase1_deepsa", "epoch": epoch, "global_step": 10 * epoch, "model": model.state_dict(),
        "metrics": {"dice_deepsa": 0.5}, "classes": ["vessel"], "parent": None,
        "config": {"backbone": "sam3-tiny", "image_size": IMAGE_SIZE, "use_view": use_view, **config}})
    return path
