"""Losses of stage 4, one value a sample (B,): the lumen's area, and where its edge is."""

from __future__ import annotations

import torch

from utils.losses import vessel_losses

AREA_WEIGHTS = dict(bce=0.5, dice=0.5)
EDGE_BAND_PX = 3.0  # of the crop, about a pixel and a half of a frame: what says where the edge is
FAR_WEIGHT = 0.02  # of pixels beyond, so that no edge appears where none is


def lumen_losses(
    lumen_logits: torch.Tensor, distance: torch.Tensor, lumen: torch.Tensor, true_distance: torch.Tensor,
    weight: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """`area` (B,), cross-entropy and Dice against shares of lumen (B, 1, S, S) in [0, 1], and `edge` (B,), the mean
    absolute error of the distance in px, near the wall, weighted by `weight`, see `data.lumen_crops.LumenMaps`, all
    (B, 1, S, S); and `dice`, without gradient.

    Absolute, not squared: where an edge is unsure the median of where it may be is wanted.
    """
    area = vessel_losses(lumen_logits, lumen, **AREA_WEIGHTS)
    error = (distance - true_distance).abs()
    weight = weight * torch.where(true_distance.abs() <= EDGE_BAND_PX, 1.0, FAR_WEIGHT)
    edge = (weight * error).flatten(1).sum(dim=1) / weight.flatten(1).sum(dim=1).clamp_min(1)
    return {"area": area["loss"], "edge": edge, "dice": area["dice"]}
