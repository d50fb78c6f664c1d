"""Image encoders with one contract: a square picture in, a pyramid of 256-channel feature maps out."""

from pathlib import Path

import torch
from torch import nn

from models.sam3_package import build_vision_backbone
from models.sam3_weights import HOW_TO_GET, LoadReport, load_sam3_vision_weights
from utils.arguments import DEFAULT_IMAGE_SIZE, check_backbone, check_image_size, check_weights_arguments

# Full size: `sam3.model_builder._create_vit_backbone` of sam3 0.1.4, 454 M parameters with the neck.
SAM3 = dict(embed_dim=1024, depth=32, num_heads=16, mlp_ratio=4.625, window_size=24,
            global_att_blocks=(7, 15, 23, 31), scale_factors=(4.0, 2.0, 1.0, 0.5), drop_path_rate=0.1,
            use_act_checkpoint=True)
# The same classes for CPUs and tests. Without the finest level, whose convolution alone took a third of a training
# step on a CPU (2026-11-21), and without stochastic depth, which would make two ranks differ from one.
SAM3_TINY = dict(embed_dim=128, depth=4, num_heads=4, mlp_ratio=4.0, window_size=12,
                 global_att_blocks=(1, 3), scale_factors=(2.0, 1.0, 0.5), drop_path_rate=0.0,
                 use_act_checkpoint=False)
ARCHITECTURES = dict(zip(DEFAULT_IMAGE_SIZE, (SAM3, SAM3_TINY), strict=True))


class Sam3Backbone(nn.Module):
    """The vision path of SAM 3: ViT trunk and feature pyramid neck.

    Input: image (B, 3, S, S), float, in [0, 1], S = `image_size`. It is normalised here, as SAM 3 wants it.
    Output: `num_levels` maps (B, 256, s, s), finest first: s = S / 3.5, S / 7, S / 14, S / 28 for sam3, the last
    three of these for sam3-tiny. `load_report` says what became of a weights file; None without one.
    """

    channels = 256

    def __init__(self, *, vision_backbone: nn.Module, image_size: int, load_report: LoadReport | None = None):
        super().__init__()
        self.vision_backbone = vision_backbone
        self.image_size = image_size
        self.load_report = load_report
        self.num_levels = len(vision_backbone.convs)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        if image.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(f"image is {tuple(image.shape)}; this backbone was built for "
                             f"(B, 3, {self.image_size}, {self.image_size})")
        # Mean 0.5 and standard deviation 0.5 on [0, 1] are SAM 3's own normalisation.
        trunk_features = self.vision_backbone.trunk((image - 0.5) / 0.5)[-1]
        # The neck's own forward would also compute position encodings, which nothing here reads.
        return [conv(trunk_features) for conv in self.vision_backbone.convs]


def build_backbone(name: str, *, image_size: int, sam3_checkpoint: str | Path | None = None,
                   random_init: bool = False) -> Sam3Backbone:
    """Build the backbone `name` ("sam3" or "sam3-tiny") for square images of `image_size` pixels.

    "sam3" wants the user's weights (`sam3_checkpoint`), or `random_init=True` said aloud.

    Raises:
        ValueError: unknown name, an image size that does not work, or flags that contradict each other.
        FileNotFoundError: no weights given or found; says how to get them.
        CheckpointError: `sam3_checkpoint` does not match; names the tensors.
    """
    check_backbone(name)
    check_image_size(image_size)
    check_weights_arguments(name, sam3_checkpoint, random_init)
    if name == "sam3" and sam3_checkpoint is None and not random_init:
        raise FileNotFoundError(f"--backbone sam3 needs weights. {HOW_TO_GET}")
    vision_backbone = build_vision_backbone(image_size=image_size, **ARCHITECTURES[name])
    report = None if sam3_checkpoint is None else load_sam3_vision_weights(vision_backbone, sam3_checkpoint)
    return Sam3Backbone(vision_backbone=vision_backbone, image_size=image_size, load_report=report)
