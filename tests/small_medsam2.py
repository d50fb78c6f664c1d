"""SAM 2.1 Hiera with fewer and narrower blocks, of the same classes and under the same names, for fast tests.

    with small_medsam2():
        model = build_medsam2(image_size=128)
    predictor = package_predictor(128)      # the same by the package's own way
    predictor = write_released(path, 128)   # a file in the layout of MedSAM2's own, and the predictor that it is of
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hydra import initialize_config_module

from models import medsam2

TRUNK = {"embed_dim": 24, "stages": [1, 1, 2, 1], "global_att_blocks": [3]}
CHANNELS = [192, 96, 48, 24]
SMALL = {
    "image_encoder": {"trunk": TRUNK, "neck": {"backbone_channel_list": CHANNELS}},
    "memory_attention": {"num_layers": 1, "layer": {"dim_feedforward": 64}},
}
SMALL_OVERRIDES = [
    *(f"model.image_encoder.trunk.{name}={value}" for name, value in TRUNK.items()),
    f"model.image_encoder.neck.backbone_channel_list={CHANNELS}",
    "model.memory_attention.num_layers=1",
    "model.memory_attention.layer.dim_feedforward=64",
]


@contextlib.contextmanager
def small_medsam2() -> Iterator[None]:
    """Within it, `build_medsam2` builds the small one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(medsam2, "SETTINGS", medsam2.SETTINGS | SMALL)
        yield


def package_predictor(image_size: int, overrides: list[str] = SMALL_OVERRIDES) -> torch.nn.Module:
    """The video predictor as the package builds it, through Hydra, with the overrides of MedSAM2's configuration."""
    cells = [image_size // 16] * 2
    size = [f"++model.image_size={image_size}", *(
        f"model.memory_attention.layer.{kind}_attention.feat_sizes={cells}" for kind in ("self", "cross"))]
    with initialize_config_module("sam2", version_base="1.2"):
        from sam2.build_sam import build_sam2_video_predictor

        return build_sam2_video_predictor(
            medsam2.CONFIG, device="cpu", hydra_overrides_extra=[*overrides, *size])


def write_released(path: Path, image_size: int) -> torch.nn.Module:
    """Write random weights of the small one in the layout of MedSAM2_latest.pt; the package's predictor with them."""
    torch.manual_seed(0)
    predictor = package_predictor(image_size)
    with torch.no_grad():
        for parameter in predictor.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))  # those that start at zero too
        # Else the package's own video predictor takes the object to be out of sight, and all masks are empty.
        predictor.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(10.0)
    torch.save({"model": predictor.state_dict()}, path)
    return predictor
