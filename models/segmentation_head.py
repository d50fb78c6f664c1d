"""From a feature pyramid and the picture itself to vessel logits at full resolution.

A distal vessel is two to four pixels wide, and the finest map of the pyramid has one cell for 3.5 pixels. The head
therefore reads the picture a second time through a few convolutions at half, quarter and eighth resolution, and meets
the pyramid on the way up.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

DETAIL_CHANNELS = (32, 64, 96)
VESSEL_SHARE = 0.07  # of the pixels of a frame; measured on the phantom's true masks, 2026-11-21
CONTRAST_WINDOW = 1 / 12  # of the image side: wider than any vessel, narrower than a lung field


def local_contrast(image: torch.Tensor) -> torch.Tensor:
    """Return grey value and locally normalised grey value, so that a vessel looks alike before lung and spine.

    Args:
        image: (B, 3, H, W), float, in [0, 1].
    Returns:
        (B, 2, H, W), float32: grey in [-1, 1], and (grey - local mean) / local standard deviation, clipped to [-4, 4].
    """
    grey = image.float().mean(dim=1, keepdim=True)
    small = F.avg_pool2d(grey, 4)
    window = 2 * round(CONTRAST_WINDOW * small.shape[-1] / 2) + 1
    pool = dict(kernel_size=window, stride=1, padding=window // 2, count_include_pad=False)
    mean = F.avg_pool2d(small, **pool)
    variance = F.avg_pool2d((small - mean).square(), **pool)
    mean, variance = (F.interpolate(x, size=grey.shape[-2:], mode="bilinear", align_corners=False)
                      for x in (mean, variance))
    # 0.02 of the grey range is below the noise of an angiogram: flat regions must not be blown up.
    normalised = (grey - mean) / (variance.sqrt() + 0.02)
    return torch.cat([2 * grey - 1, normalised.clamp(-4, 4)], dim=1)


def conv_block(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    """3 x 3 convolution, group norm (which, unlike batch norm, does not care how a batch is dealt to ranks), GELU."""
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
                         nn.GroupNorm(8, out_channels), nn.GELU())


class VesselSegmentationHead(nn.Module):
    """Pyramid [(B, `channels`, h, w), ...], finest first, and image (B, 3, H, W) in [0, 1] to logits (B, 1, H, W).

    H and W are multiples of 8.
    """

    def __init__(self, *, channels: int = 256, num_levels: int = 4, detail_channels: tuple[int, ...] = DETAIL_CHANNELS):
        super().__init__()
        half, quarter, eighth = detail_channels
        self.quarter_channels = quarter
        self.detail_half = nn.Sequential(conv_block(2 * 4, half), conv_block(half, half))
        self.detail_quarter = nn.Sequential(conv_block(half, quarter, stride=2), conv_block(quarter, quarter))
        self.detail_eighth = nn.Sequential(conv_block(quarter, eighth, stride=2), conv_block(eighth, eighth))
        self.project_levels = nn.ModuleList(nn.Conv2d(channels, eighth, 1) for _ in range(num_levels))
        self.project_finest = nn.Conv2d(channels, quarter, 1)
        self.merge_eighth = conv_block(2 * eighth, eighth)
        self.to_quarter = nn.Conv2d(eighth, quarter, 1)
        self.merge_quarter = conv_block(2 * quarter, quarter)
        self.to_half = nn.Conv2d(quarter, half, 1)
        self.merge_half = conv_block(2 * half, half)
        self.logits = nn.Conv2d(half, 4, 3, padding=1)
        # Start from the share of vessel pixels (Lin et al., ICCV 2017), not from half the picture.
        nn.init.constant_(self.logits.bias, math.log(VESSEL_SHARE / (1 - VESSEL_SHARE)))

    def forward(self, features: list[torch.Tensor], image: torch.Tensor) -> torch.Tensor:
        return self.decode(features, image)[0]

    def decode(self, features: list[torch.Tensor], image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits and the features (B, `quarter_channels`, H / 4, W / 4) that they were made from."""
        half = self.detail_half(F.pixel_unshuffle(local_contrast(image), 2))
        quarter = self.detail_quarter(half)
        eighth = self.detail_eighth(quarter)
        context = sum(resize_to(project(feature), eighth)
                      for project, feature in zip(self.project_levels, features, strict=True))
        eighth = self.merge_eighth(torch.cat([eighth, context], dim=1))
        context = resize_to(self.to_quarter(eighth), quarter) + resize_to(self.project_finest(features[0]), quarter)
        quarter = self.merge_quarter(torch.cat([quarter, context], dim=1))
        half = self.merge_half(torch.cat([half, resize_to(self.to_half(quarter), half)], dim=1))
        # Four logits for the four pixels of each half-resolution cell: full resolution at a quarter of the cost.
        return F.pixel_shuffle(self.logits(half), 2), quarter


def resize_to(feature: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Resize `feature` (B, C, h, w) bilinearly to the height and width of `reference`."""
    return F.interpolate(feature, size=reference.shape[-2:], mode="bilinear", align_corners=False)
