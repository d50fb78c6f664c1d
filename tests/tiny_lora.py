"""A LoRA run of stage 1 on the real classes of SAM 3, tinier than `sam3-tiny`.

    with small_and_plain():
        run, said = train_lora(csv_path, write_start(folder / "start.pth"), folder)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import train_stage1_deepsa as stage1
from models import backbone
from models.deepsa_model import build_deepsa_model
from models.lora import LORA_B, add_lora
from tests.stage_script import flags, run_main
from utils.checkpoint import save_checkpoint
from utils.run_files import RunFiles

SMALL = dict(embed_dim=32, depth=2, num_heads=2, mlp_ratio=2.0, window_size=12, global_att_blocks=(1,),
             scale_factors=(2.0, 1.0, 0.5), drop_path_rate=0.0, use_act_checkpoint=False)
LORA = ("--lora", "--lora-rank", 4, "--lora-alpha", 8, "--lora-dropout", 0.1, "--lr", 0.01)
# Of `write_tiny_dataset`: three training rows and one of validation.
ROWS = dict(patients=4, rows_per_patient=1, size=96)


@contextlib.contextmanager
def small_and_plain() -> Iterator[None]:
    """Within it `sam3-tiny` is tinier, no curves are drawn, which is slow and not asked about, and there is one thread.

    Same bits need the same number of threads.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbone.ARCHITECTURES, "sam3-tiny", SMALL)
        patch.setattr("utils.run_files.save_curves", lambda path, lines, panels: None)
        yield
    torch.set_num_threads(threads)


def write_start(path: Path) -> Path:
    """A checkpoint of stage 1 to start from."""
    torch.manual_seed(5)
    save_checkpoint(path, {
        "stage": "phase1_deepsa", "epoch": 1, "global_step": 1, "model": build_tiny().state_dict(), "metrics": {},
        "classes": ["vessel"], "parent": None,
        "config": {"backbone": "sam3-tiny", "image_size": 336, "use_view": True}})
    return path


def train_lora(csv_path: Path, start: Path, folder: Path) -> tuple[RunFiles, str]:
    """Files of a LoRA run of stage 1 by its own script, and what it said."""
    said, code = run_main(stage1, *flags(csv_path, folder, "--init-from", start, *LORA))
    assert code == 0, said
    return RunFiles(folder, stage1.STAGE), said


def build_tiny() -> nn.Module:
    return build_deepsa_model(backbone="sam3-tiny", image_size=336)


def picture() -> tuple[torch.Tensor, torch.Tensor]:
    """An image and its view, one angle of which is unknown."""
    torch.manual_seed(1)
    return torch.rand(1, 3, 336, 336), torch.tensor([[30.0, float("nan")]])


def with_adapters(model: nn.Module, *, rank: int = 4, alpha: float = 8.0, **more) -> nn.Module:
    """`model` with adapters that are not zero."""
    add_lora(model.backbone, rank=rank, alpha=alpha, **more)
    for name, parameter in model.named_parameters():
        if name.endswith(LORA_B):
            nn.init.normal_(parameter, std=0.05)
    return model
