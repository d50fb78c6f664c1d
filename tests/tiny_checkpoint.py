"""Checkpoints of an untrained `sam3-tiny`, for tests of the tools that read one.

    path = write_tiny_checkpoint(tmp_path / "phase1_deepsa_latest.pth")
    path = write_tiny_cass_checkpoint(tmp_path / "phase2_cass_latest.pth")
    path = write_tiny_obstruction_checkpoint(tmp_path / "phase3_obstruction_latest.pth", metrics={"threshold": 0.4})
    path = write_tiny_lumen_checkpoint(tmp_path / "phase4_quantitative_latest.pth")
"""
from pathlib import Path

import torch

from data.cass import CLASS_IDS
from models.cass_model import build_cass_model
from models.deepsa_model import build_deepsa_model
from models.lumen_model import build_lumen_model
from models.obstruction_model import build_obstruction_model
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


def write_tiny_cass_checkpoint(path: Path, *, epoch: int = 0, **config) -> Path:
    """Write a stage 2 checkpoint of the design's classes, always with the same weights; `config` as above."""
    torch.manual_seed(0)
    model = build_cass_model(backbone="sam3-tiny", image_size=IMAGE_SIZE, classes=CLASS_IDS, random_init=True)
    save_checkpoint(path, {
        "stage": "phase2_cass", "epoch": epoch, "global_step": 10 * epoch, "model": model.state_dict(),
        "metrics": {"top1_pointed": 0.5}, "classes": list(CLASS_IDS), "parent": None,
        "config": {"backbone": "sam3-tiny", "image_size": IMAGE_SIZE, "use_view": True, **config}})
    return path


def write_tiny_obstruction_checkpoint(path: Path, *, epoch: int = 0, metrics: dict | None = None, **config) -> Path:
    """Write a stage 3 checkpoint, always with the same weights; `config` as above, `metrics` of its validation."""
    torch.manual_seed(0)
    model = build_obstruction_model(backbone="sam3-tiny", image_size=IMAGE_SIZE, random_init=True)
    save_checkpoint(path, {
        "stage": "phase3_obstruction", "epoch": epoch, "global_step": 10 * epoch, "model": model.state_dict(),
        "metrics": metrics or {}, "classes": [], "parent": None,
        "config": {"backbone": "sam3-tiny", "image_size": IMAGE_SIZE, "use_view": True, **config}})
    return path


def write_tiny_lumen_checkpoint(path: Path, *, epoch: int = 0, **config) -> Path:
    """Write a stage 4 checkpoint, always with the same weights; `config` as above."""
    torch.manual_seed(0)
    model = build_lumen_model(backbone="sam3-tiny", image_size=IMAGE_SIZE, random_init=True)
    save_checkpoint(path, {
        "stage": "phase4_quantitative", "epoch": epoch, "global_step": 10 * epoch, "model": model.state_dict(),
        "metrics": {}, "classes": [], "parent": None,
        "config": {"backbone": "sam3-tiny", "image_size": IMAGE_SIZE, "use_view": True, **config}})
    return path


def write_tiny_chain(folder: Path) -> list[Path]:
    """Checkpoints of stages 2, 3 (threshold 0.4) and 4 in `folder`."""
    return [write_tiny_cass_checkpoint(folder / "names.pth"),
            write_tiny_obstruction_checkpoint(folder / "obstructions.pth", metrics={"threshold": 0.4}),
            write_tiny_lumen_checkpoint(folder / "lumens.pth")]
