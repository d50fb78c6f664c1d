"""The model of stage 4: the lumen of one segment, asked for with a box, in a crop around it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from models.backbone import build_backbone
from models.deepsa_model import SAM3DeepSAModel
from models.fusion import ViewConditionedFeatureFusion
from models.lumen_head import LumenHead
from models.segmentation_head import VesselSegmentationHead
from models.view_encoder import CategoricalViewEncoder

NEW_PARTS = ("lumen_head.",)  # what a checkpoint of stage 1, 2 or 3 does not have
LEFT_BEHIND = ("pooled_head.", "map_head.", "analysed_head.", "obstruction_head.")  # what this stage has no use for


class LumenOutput(NamedTuple):
    """What the stage 4 model says of crops (B, 3, S, S).

    lumen_logits (B, 1, S, S): lumen of the segment that was asked for, or not. distance (B, 1, S, S): to its wall in px
    of the crop, positive inside; meant near the wall, where it was learned.
    """

    lumen_logits: torch.Tensor
    distance: torch.Tensor


class SAM3LumenModel(SAM3DeepSAModel):
    """Crop (B, 3, S, S) in [0, 1], view angles (B, 2) in degrees (nan = unknown), box (B, 4), x0, y0, x1, y1 px of the
    crop, and the segment's two ends (B, 2, 2) px, all nan = not given, to `LumenOutput`."""

    def __init__(self, *, lumen_head: nn.Module, **parts: nn.Module | None):
        super().__init__(**parts)
        self.lumen_head = lumen_head

    def forward(
        self, image: torch.Tensor, view_deg: torch.Tensor, box: torch.Tensor, ends: torch.Tensor
    ) -> LumenOutput:
        return self.decode(self.encode_image(image) | {"box": box, "ends": ends}, view_deg)

    def decode(self, features: dict, view_deg: torch.Tensor) -> LumenOutput:
        """Return the `LumenOutput` for `features` of `encode_image`, with `box` and `ends`, seen from `view_deg` (B, 2)."""
        pyramid, image = features["pyramid"], features["image"]
        if self.view_encoder is not None:
            pyramid = self.fusion(pyramid, self.view_encoder(view_deg))
        vessel_logits, fine = self.segmentation_head.decode(pyramid, image)
        return LumenOutput(*self.lumen_head(fine, vessel_logits, image, features["box"], features["ends"]))


def build_lumen_model(*, backbone: str, image_size: int, use_view: bool = True,
                      random_init: bool = False) -> SAM3LumenModel:
    """Build the stage 4 model, to be filled from a checkpoint.

    Arguments and errors as in `models.backbone.build_backbone`.
    """
    encoder = build_backbone(backbone, image_size=image_size, random_init=random_init)
    pyramid = dict(channels=encoder.channels, num_levels=encoder.num_levels)
    segmentation_head = VesselSegmentationHead(**pyramid)
    return SAM3LumenModel(
        backbone=encoder,
        view_encoder=CategoricalViewEncoder() if use_view else None,
        fusion=ViewConditionedFeatureFusion(**pyramid) if use_view else None,
        segmentation_head=segmentation_head,
        lumen_head=LumenHead(fine_channels=segmentation_head.quarter_channels),
    )
