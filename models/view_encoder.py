"""C-arm view angles as categories, embedded to 256 dimensions."""

import torch
from torch import nn

# Nine bins of ten degrees centred on -40 ... +40, and one more for a missing angle.
BIN_CENTRES_DEG = (-40.0, -30.0, -20.0, -10.0, 0.0, 10.0, 20.0, 30.0, 40.0)
BIN_WIDTH_DEG = 10.0
UNKNOWN_BIN = len(BIN_CENTRES_DEG)


def angle_bins(angle_deg: torch.Tensor) -> torch.Tensor:
    """Return the bin of each angle: nearest centre, the end bin beyond the ends, `UNKNOWN_BIN` for nan.

    Args:
        angle_deg: any shape, float, degrees; LAO and cranial positive, nan where unknown.
    Returns:
        int64, the same shape, 0 ... 9.
    """
    unknown = torch.isnan(angle_deg)
    position = (torch.nan_to_num(angle_deg) - BIN_CENTRES_DEG[0]) / BIN_WIDTH_DEG
    bins = torch.floor(position + 0.5).clamp(0, UNKNOWN_BIN - 1).long()
    return bins.masked_fill(unknown, UNKNOWN_BIN)


class CategoricalViewEncoder(nn.Module):
    """View angles (B, 2) in degrees (primary, secondary; nan = unknown) to a view embedding (B, `embed_dim`)."""

    def __init__(self, embed_dim: int = 256):
        super().__init__()
        self.primary_embedding = nn.Embedding(UNKNOWN_BIN + 1, embed_dim // 2)
        self.secondary_embedding = nn.Embedding(UNKNOWN_BIN + 1, embed_dim // 2)
        self.project = nn.Sequential(nn.Linear(embed_dim, embed_dim), nn.GELU(), nn.Linear(embed_dim, embed_dim),
                                     nn.LayerNorm(embed_dim))

    def forward(self, view_deg: torch.Tensor) -> torch.Tensor:
        bins = angle_bins(view_deg)
        primary = self.primary_embedding(bins[:, 0])
        secondary = self.secondary_embedding(bins[:, 1])
        return self.project(torch.cat([primary, secondary], dim=1))
