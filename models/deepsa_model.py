"""The model of stage 1: vessel segmentation, conditioned on the view."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from models.backbone import Backbone, build_backbone
from models.fusion import ViewConditionedFeatureFusion
from models.segmentation_head import VesselSegmentationHead
from models.unet import PixelHead
from models.view_encoder import CategoricalViewEncoder


class SAM3DeepSAModel(nn.Module):
    """Image (B, 3, S, S) in [0, 1] and view angles (B, 2) in degrees (nan = unknown) to vessel logits (B, 1, S, S)."""

    def __init__(self, *, backbone: nn.Module, view_encoder: nn.Module | None, fusion: nn.Module | None,
                 segmentation_head: nn.Module):
        super().__init__()
        self.backbone = backbone
        self.view_encoder = view_encoder
        self.fusion = fusion
        self.segmentation_head = segmentation_head

    def forward(self, image: torch.Tensor, view_deg: torch.Tensor) -> torch.Tensor:
        return self.decode(self.encode_image(image), view_deg)

    def encode_image(self, image: torch.Tensor) -> dict:
        """Return what does not depend on the view: `{"image": ..., "pyramid": [...]}`, to decode at several views."""
        return {"image": image, "pyramid": self.backbone(image)}

    def decode(self, features: dict, view_deg: torch.Tensor) -> torch.Tensor:
        """Return vessel logits (B, 1, S, S) for `features` of `encode_image` seen from `view_deg` (B, 2)."""
        pyramid = features["pyramid"]
        if self.view_encoder is not None:
            pyramid = self.fusion(pyramid, self.view_encoder(view_deg))
        return self.segmentation_head(pyramid, features["image"])

    def parameter_groups(self, *, lr: float, backbone_lr_scale: float, weight_decay: float,
                         own_rates: Mapping[str, float] | None = None) -> list[dict]:
        """Return optimizer groups: the backbone at `lr * backbone_lr_scale`; vectors (biases, norms) do not decay.

        own_rates: learning rates of parts with one of their own, by the start of their parameters' names.
        """
        rates = {"": lr, "backbone.": lr * backbone_lr_scale, **(own_rates or {})}
        groups = {}
        for name, parameter in self.named_parameters():
            if not parameter.requires_grad:
                continue
            part = max((start for start in rates if name.startswith(start)), key=len)
            decays = parameter.ndim > 1 and "embed" not in name
            group = groups.setdefault((part, decays), {
                "name": (part.rstrip(".") or "new") + ("" if decays else " without decay"),
                "params": [], "lr": rates[part], "weight_decay": weight_decay if decays else 0.0})
            group["params"].append(parameter)
        return list(groups.values())


def build_deepsa_model(*, backbone: str, image_size: int, use_view: bool = True, random_init: bool = False,
                       **checkpoints: str | Path | None) -> SAM3DeepSAModel:
    """Build the stage 1 model; arguments and errors as in `models.backbone.build_backbone`."""
    encoder = build_backbone(backbone, image_size=image_size, random_init=random_init, **checkpoints)
    return SAM3DeepSAModel(
        backbone=encoder,
        view_encoder=CategoricalViewEncoder() if use_view else None,
        fusion=ViewConditionedFeatureFusion(channels=encoder.channels, num_levels=encoder.num_levels) if use_view else None,
        segmentation_head=build_segmentation_head(encoder),
    )


def build_segmentation_head(encoder: Backbone) -> nn.Module:
    """The head that makes vessel logits of an encoder's maps; a U-Net's needs no more than a last layer."""
    if encoder.num_levels == 1:
        return PixelHead(channels=encoder.channels)
    return VesselSegmentationHead(channels=encoder.channels, num_levels=encoder.num_levels)
