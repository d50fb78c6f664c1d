"""A plain U-Net, the baseline that every other model of stage 1 must beat: small, from random weights, no tricks.

The network is that of `segmentation-models-pytorch` with a ResNet-18 encoder. Its batch norms are group norms here, as
in all heads of this project: how a batch is dealt to ranks does not matter to them.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from models.backbone import Backbone
from models.segmentation_head import VESSEL_SHARE

ENCODER = "resnet18"
DECODER_CHANNELS = (256, 128, 64, 32, 16)  # the package's own
GROUPS = 8  # divides every width of encoder and decoder


class UnetBackbone(Backbone):
    """All of the U-Net but its last layer; contract as in `models.backbone.Backbone`: one map of 16 channels, as large
    as the picture."""

    channels = DECODER_CHANNELS[-1]

    def __init__(self, *, image_size: int):
        from segmentation_models_pytorch import Unet  # takes seconds, which other backbones need not wait

        super().__init__(image_size=image_size, num_levels=1)
        unet = Unet(ENCODER, encoder_weights=None, decoder_channels=DECODER_CHANNELS)
        self.encoder, self.decoder = unet.encoder, unet.decoder
        use_group_norm(self)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        self.check_size(image)
        return [self.decoder(self.encoder((image - 0.5) / 0.5))]


def use_group_norm(module: nn.Module) -> None:
    """Put a group norm in the place of every batch norm, in place."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.GroupNorm(GROUPS, child.num_features))
        else:
            use_group_norm(child)


class PixelHead(nn.Module):
    """Maps [(B, `channels`, S, S)] to logits (B, 1, S, S); the image (B, 3, S, S) is not looked at again."""

    def __init__(self, *, channels: int):
        super().__init__()
        self.logits = nn.Conv2d(channels, 1, 3, padding=1)
        nn.init.constant_(self.logits.bias, math.log(VESSEL_SHARE / (1 - VESSEL_SHARE)))

    def forward(self, features: list[torch.Tensor], image: torch.Tensor) -> torch.Tensor:
        return self.logits(features[0])
