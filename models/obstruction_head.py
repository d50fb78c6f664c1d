"""Where vessels are obstructed: for each cell of S / 4 a score, the point, the box and the severity of an obstruction.

Points as objects, without anchors and without a list of proposals (Zhou et al., "Objects as Points", 2019): the smallest
diameter is a point that contours give exactly, and a lesion has one of it.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from models.segmentation_head import conv_block

STRIDE = 4
DILATIONS = (1, 2, 4, 8)  # together 31 cells, 40 mm of the patient: a lesion with healthy vessel on both sides
PRIOR = 0.01  # of a cell to be an obstruction's, so that training does not start with thousands of false ones
START_SIDE = 3.0  # cells; half the side of the phantom's mean box


class ObstructionHead(nn.Module):
    """Fine features (B, `fine_channels`, S / 4, S / 4) and vessel logits (B, 1, S, S) to what `ObstructionOutput` has.

    The vessel mask is read at full resolution, four by four pixels a cell: an obstruction is a change of its width.
    """

    def __init__(self, *, fine_channels: int, channels: int = 64):
        super().__init__()
        self.stem = conv_block(fine_channels + STRIDE**2, channels)
        self.blocks = nn.ModuleList(dilated_block(channels, dilation) for dilation in DILATIONS)
        self.score = nn.Conv2d(channels, 1, 1)
        self.shape = nn.Conv2d(channels, 2 + 4 + 1, 1)
        nn.init.constant_(self.score.bias, math.log(PRIOR / (1 - PRIOR)))
        nn.init.zeros_(self.shape.weight)
        with torch.no_grad():
            self.shape.bias.copy_(torch.tensor([0.0, 0.0, *[math.log(math.expm1(START_SIDE))] * 4, 0.0]))

    def forward(self, fine: torch.Tensor, vessel_logits: torch.Tensor):
        # Detached: the mask must not bend to what is easy to grade.
        vessels = F.pixel_unshuffle(vessel_logits.detach().float().sigmoid(), STRIDE)
        features = self.stem(torch.cat([fine, vessels.to(fine.dtype)], dim=1))
        for block in self.blocks:
            features = features + block(features)
        offset, sides, stenosis = self.shape(features).float().split((2, 4, 1), dim=1)
        return self.score(features).float(), offset, F.softplus(sides), stenosis.sigmoid()


def dilated_block(channels: int, dilation: int) -> nn.Sequential:
    """Group norm, GELU and a 3 x 3 convolution with holes, for a residual connection."""
    return nn.Sequential(
        nn.GroupNorm(8, channels), nn.GELU(),
        nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False),
        nn.GroupNorm(8, channels), nn.GELU(), nn.Conv2d(channels, channels, 1),
    )
