"""The model of stage 3: vessels as in stage 1, and where they are obstructed."""

from typing import NamedTuple

import torch
from torch import nn

from models.backbone import build_backbone
from models.deepsa_model import SAM3DeepSAModel
from models.fusion import ViewConditionedFeatureFusion
from models.obstruction_head import ObstructionHead
from models.segmentation_head import VesselSegmentationHead
from models.view_encoder import CategoricalViewEncoder

NEW_PARTS = ("obstruction_head.",)  # what a checkpoint of stage 1 or 2 does not have
LEFT_BEHIND = ("pooled_head.", "map_head.", "analysed_head.")  # of stage 2, what this stage has no use for


class ObstructionOutput(NamedTuple):
    """What the stage 3 model says of frames (B, 3, S, S), on a grid of S / 4 (h, w); sides and cells as there.

    vessel_logits (B, 1, S, S): vessel or not. score_logits (B, 1, h, w): does an obstruction have its smallest diameter
    in this cell? offset (B, 2, h, w): from the cell's centre to that point, (x, y) in cells. sides (B, 4, h, w): from
    the cell's centre to the left, top, right and bottom of the obstruction's box, in cells. stenosis (B, 1, h, w):
    diameter stenosis there, 0 to 1.
    """

    vessel_logits: torch.Tensor
    score_logits: torch.Tensor
    offset: torch.Tensor
    sides: torch.Tensor
    stenosis: torch.Tensor


class SAM3ObstructionModel(SAM3DeepSAModel):
    """Image (B, 3, S, S) in [0, 1] and view angles (B, 2) in degrees (nan = unknown) to `ObstructionOutput`."""

    def __init__(self, *, obstruction_head: nn.Module, **parts: nn.Module | None):
        super().__init__(**parts)
        self.obstruction_head = obstruction_head

    def decode(self, features: dict, view_deg: torch.Tensor) -> ObstructionOutput:
        """Return the `ObstructionOutput` for `features` of `encode_image` seen from `view_deg` (B, 2)."""
        pyramid = features["pyramid"]
        if self.view_encoder is not None:
            pyramid = self.fusion(pyramid, self.view_encoder(view_deg))
        vessel_logits, fine = self.segmentation_head.decode(pyramid, features["image"])
        return ObstructionOutput(vessel_logits, *self.obstruction_head(fine, vessel_logits))


def build_obstruction_model(*, backbone: str, image_size: int, use_view: bool = True,
                            random_init: bool = False) -> SAM3ObstructionModel:
    """Build the stage 3 model, to be filled from a checkpoint.

    Arguments and errors as in `models.backbone.build_backbone`.
    """
    encoder = build_backbone(backbone, image_size=image_size, random_init=random_init)
    pyramid = dict(channels=encoder.channels, num_levels=encoder.num_levels)
    segmentation_head = VesselSegmentationHead(**pyramid)
    return SAM3ObstructionModel(
        backbone=encoder,
        view_encoder=CategoricalViewEncoder() if use_view else None,
        fusion=ViewConditionedFeatureFusion(**pyramid) if use_view else None,
        segmentation_head=segmentation_head,
        obstruction_head=ObstructionHead(fine_channels=segmentation_head.quarter_channels),
    )
