"""The model of stage 2: vessels, the analysed CASS segment, and a CASS name for every vessel pixel."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from models.backbone import build_backbone
from models.deepsa_model import SAM3DeepSAModel
from models.fusion import ViewConditionedFeatureFusion
from models.segment_heads import AnalysedMapHead, PooledSegmentHead, SegmentMapHead
from models.segmentation_head import VesselSegmentationHead
from models.view_encoder import CategoricalViewEncoder

VIEW_DIM = 256
NEW_PARTS = ("pooled_head.", "map_head.", "analysed_head.")  # what a stage 1 checkpoint does not have


class CassOutput(NamedTuple):
    """What the stage 2 model says of frames (B, 3, S, S); K classes.

    vessel_logits (B, 1, S, S): vessel or not. class_logits (B, K) and box (B, 4), x_center, y_center, width, height as
    shares of the side: the pooled head's guess at the analysed segment. name_logits (B, K + 1, 84, 84): which segment
    a vessel pixel belongs to, the last channel for none of the classes. analysed_logits (B, 1, 84, 84): whether a pixel
    belongs to the analysed segment. drawn_name_logits (M, K + 1, 84, 84): of the drawn trees, where there are any.
    """

    vessel_logits: torch.Tensor
    class_logits: torch.Tensor
    box: torch.Tensor
    name_logits: torch.Tensor
    analysed_logits: torch.Tensor
    drawn_name_logits: torch.Tensor | None = None


class SAM3CASSModel(SAM3DeepSAModel):
    """Image (B, 3, S, S) in [0, 1] and view angles (B, 2) in degrees (nan = unknown) to `CassOutput`."""

    def __init__(self, *, pooled_head: nn.Module, map_head: nn.Module, analysed_head: nn.Module,
                 classes: Sequence[int], **parts: nn.Module | None):
        super().__init__(**parts)
        self.classes = tuple(classes)  # CASS numbers, in the order of the channels
        self.pooled_head = pooled_head
        self.map_head = map_head
        self.analysed_head = analysed_head

    def forward(self, image: torch.Tensor, view_deg: torch.Tensor,
                drawn: tuple[torch.Tensor, torch.Tensor] | None = None) -> CassOutput:
        """Return the answers for frames and, in training, the names of M drawn trees.

        drawn: their vessels (M, 1, 336, 336) in [0, 1] and view angles (M, 2). In one call, so that one backward pass
        of DistributedDataParallel has all gradients.
        """
        output = super().forward(image, view_deg)
        if drawn is None:
            return output
        vessels, drawn_view_deg = drawn
        view_embedding = None if self.view_encoder is None else self.view_encoder(drawn_view_deg)
        return output._replace(drawn_name_logits=self.map_head(vessels, view_embedding)[0])

    def decode(self, features: dict, view_deg: torch.Tensor) -> CassOutput:
        """Return the `CassOutput` for `features` of `encode_image` seen from `view_deg` (B, 2)."""
        pyramid, view_embedding = features["pyramid"], None
        if self.view_encoder is not None:
            view_embedding = self.view_encoder(view_deg)
            pyramid = self.fusion(pyramid, view_embedding)
        vessel_logits, fine = self.segmentation_head.decode(pyramid, features["image"])
        class_logits, box = self.pooled_head(pyramid, view_embedding)
        # Detached: the names must not bend the vessel mask to what is easy to name.
        name_logits, shape = self.map_head(vessel_logits.detach().float().sigmoid(), view_embedding)
        analysed_logits = self.analysed_head(fine, shape)
        return CassOutput(vessel_logits, class_logits, box, name_logits, analysed_logits)


def build_cass_model(*, backbone: str, image_size: int, classes: Sequence[int], use_view: bool = True,
                     random_init: bool = False) -> SAM3CASSModel:
    """Build the stage 2 model for the CASS numbers `classes`, to be filled from a checkpoint.

    Other arguments and errors as in `models.backbone.build_backbone`.
    """
    encoder = build_backbone(backbone, image_size=image_size, random_init=random_init)
    num_classes = len(classes)
    pyramid = dict(channels=encoder.channels, num_levels=encoder.num_levels)
    view_dim = VIEW_DIM if use_view else None
    segmentation_head = VesselSegmentationHead(**pyramid)
    map_head = SegmentMapHead(num_classes=num_classes, view_dim=view_dim)
    return SAM3CASSModel(
        backbone=encoder,
        view_encoder=CategoricalViewEncoder(VIEW_DIM) if use_view else None,
        fusion=ViewConditionedFeatureFusion(**pyramid, view_dim=VIEW_DIM) if use_view else None,
        segmentation_head=segmentation_head,
        pooled_head=PooledSegmentHead(**pyramid, num_classes=num_classes, view_dim=view_dim),
        classes=classes,
        map_head=map_head,
        analysed_head=AnalysedMapHead(fine_channels=segmentation_head.quarter_channels,
                                      shape_channels=map_head.channels),
    )
