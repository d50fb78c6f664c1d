"""The lumen of one segment at full resolution: a mask, and how far each pixel is from the vessel's wall.

A mask's loss is about area: it hardly moves when an edge is a third of a pixel off all along, which is what a diameter
is made of. The distance to the edge is that third of a pixel, at every pixel near it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from data.lumen_crops import FARTHEST_PX
from models.obstruction_head import dilated_block
from models.segmentation_head import conv_block, local_contrast, resize_to

DILATIONS = (1, 2, 4, 8, 16)  # together 63 of the 84 cells of a crop: whose vessel this is shows far away
PRIOR = 0.08  # the share of a crop that is lumen; of the phantom's crops 7 to 9 %
PROMPT_CHANNELS = 4
END_SHARE = 0.03  # of the side: how far about an end that is pointed at it is said
DISTANCE_UNIT_PX = 4.0  # what the network calls 1


class LumenHead(nn.Module):
    """Fine features (B, `fine_channels`, S / 4, S / 4), vessel logits (B, 1, S, S), image (B, 3, S, S) in [0, 1], box
    (B, 4) and ends (B, 2, 2) px, nan = not given, to lumen logits and distance to the wall, both (B, 1, S, S), the
    latter in px, positive inside."""

    def __init__(self, *, fine_channels: int, channels: int = 64, half_channels: int = 24):
        super().__init__()
        # At half resolution four pixels are four channels: of the vessel logits, and twice that of the picture.
        self.detail = nn.Sequential(conv_block(4 + 2 * 4, half_channels), conv_block(half_channels, half_channels))
        self.stem = conv_block(fine_channels + half_channels + PROMPT_CHANNELS, channels)
        self.blocks = nn.ModuleList(dilated_block(channels, dilation) for dilation in DILATIONS)
        self.to_half = nn.Conv2d(channels, half_channels, 1)
        self.merge = nn.Sequential(
            conv_block(2 * half_channels, half_channels), conv_block(half_channels, half_channels)
        )
        self.answer = nn.Conv2d(half_channels, 2 * 4, 3, padding=1)
        with torch.no_grad():
            nothing = [math.log(PRIOR / (1 - PRIOR))] * 4 + [-FARTHEST_PX / DISTANCE_UNIT_PX] * 4
            self.answer.bias.copy_(torch.tensor(nothing))

    def forward(self, fine, vessel_logits: torch.Tensor, image: torch.Tensor, box: torch.Tensor, ends: torch.Tensor):
        picture = F.pixel_unshuffle(local_contrast(image), 2)
        vessels = F.pixel_unshuffle(vessel_logits, 2)
        half = self.detail(torch.cat([picture.to(vessels.dtype), vessels], dim=1))
        quarter = F.avg_pool2d(half, 2)
        asked = prompt_channels(box, ends, quarter.shape[-1], image.shape[-1]).to(fine.dtype)
        features = self.stem(torch.cat([fine, quarter, asked], dim=1))
        for block in self.blocks:
            features = features + block(features)
        half = self.merge(torch.cat([half, resize_to(self.to_half(features), half)], dim=1))
        logits, distance = F.pixel_shuffle(self.answer(half), 2).float().split(1, dim=1)
        return logits, DISTANCE_UNIT_PX * distance


def prompt_channels(box: torch.Tensor, ends: torch.Tensor, cells: int, side: int) -> torch.Tensor:
    """What is asked for, as a picture: boxes (B, 4), x0, y0, x1, y1, and ends (B, 2, 2) px of a picture of `side` px,
    to float32 (B, 4, cells, cells): 1 inside the box; where each cell is in it, x and y, -1 to 1 from end to end, at most
    2; and how near an end is, 0 to 1, 0 where none was given."""
    place = (torch.arange(cells, device=box.device) + 0.5) * side / cells - 0.5
    corners = box.float()[:, :, None]
    middle, half = (corners[:, :2] + corners[:, 2:]) / 2, ((corners[:, 2:] - corners[:, :2]) / 2).clamp_min(1)
    x, y = ((place - middle) / half).clamp(-2, 2).unbind(dim=1)  # (B, cells) each
    x, y = x[:, None, :].expand(-1, cells, -1), y[:, :, None].expand(-1, -1, cells)
    inside = ((x.abs() <= 1) & (y.abs() <= 1)).float()
    away = ends.float().nan_to_num(-10 * side)[..., None] - place  # (B, 2 ends, 2 axes, cells)
    near = torch.exp(-away.square() / (2 * (END_SHARE * side) ** 2))
    near = (near[:, :, 1, :, None] * near[:, :, 0, None, :]).amax(dim=1)
    return torch.stack([inside, x, y, near], dim=1)
