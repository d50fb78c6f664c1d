"""Conditioning of image features on the view: feature-wise linear modulation (FiLM, Perez et al., AAAI 2018)."""

import torch
from torch import nn


class ViewConditionedFeatureFusion(nn.Module):
    """Scale and shift each channel of each pyramid level by what the view embedding says.

    Input: maps [(B, C, h, w), ...] of `num_levels` levels and view embedding (B, `view_dim`). Output: maps of the same
    shapes. The last layer starts at zero, so that a pretrained pyramid passes unchanged until training moves it.
    """

    def __init__(self, *, channels: int = 256, view_dim: int = 256, num_levels: int = 4):
        super().__init__()
        self.films = nn.ModuleList(nn.Linear(view_dim, 2 * channels) for _ in range(num_levels))
        for film in self.films:
            nn.init.zeros_(film.weight)
            nn.init.zeros_(film.bias)

    def forward(self, features: list[torch.Tensor], view_embedding: torch.Tensor) -> list[torch.Tensor]:
        fused = []
        for feature, film in zip(features, self.films, strict=True):
            scale, shift = film(view_embedding)[:, :, None, None].chunk(2, dim=1)
            fused.append(feature * (1 + scale) + shift)
        return fused
