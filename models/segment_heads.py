"""The two heads of stage 2: one answer a frame from pooled features, and a map that names every vessel pixel."""

import torch
import torch.nn.functional as F
from torch import nn

from models.segmentation_head import conv_block, resize_to

TOKEN_STRIDE = 14  # the patch of the backbone, so that its tokens and those of the vessel mask lie on each other
START_BOX = (0.5, 0.5, 0.35, 0.35)  # centre and size of the phantom's mean segment, in shares of the side


class PooledSegmentHead(nn.Module):
    """Which segment did the analyst analyse, and where is it? One answer a frame, from globally pooled features.

    Pyramid [(B, `channels`, h, w), ...] and view embedding (B, `view_dim`), None without views, to class logits
    (B, `num_classes`) and box (B, 4): x_center, y_center, width, height as shares of the side.
    """

    def __init__(self, *, channels: int, num_levels: int, num_classes: int, view_dim: int | None, hidden: int = 128):
        super().__init__()
        self.norm = nn.LayerNorm(2 * channels)
        # The coarsest two levels hold what there is at a distance; finer ones, pooled, say little more.
        self.levels = tuple(range(max(num_levels - 2, 0), num_levels))
        self.shared = nn.Sequential(nn.Linear(2 * channels + (view_dim or 0), hidden), nn.GELU(), nn.Dropout(0.1))
        self.classify = nn.Linear(hidden, num_classes)
        self.locate = nn.Linear(hidden, 4)
        nn.init.zeros_(self.locate.weight)
        with torch.no_grad():
            self.locate.bias.copy_(torch.logit(torch.tensor(START_BOX)))

    def forward(self, pyramid: list[torch.Tensor], view_embedding: torch.Tensor | None):
        means = [pyramid[level].mean(dim=(2, 3)) for level in self.levels]
        maxima = [pyramid[level].amax(dim=(2, 3)) for level in self.levels]
        pooled = self.norm(torch.cat([sum(means), sum(maxima)], dim=1) / len(self.levels))
        if view_embedding is not None:
            pooled = torch.cat([pooled, view_embedding], dim=1)
        hidden = self.shared(pooled)
        return self.classify(hidden), self.locate(hidden).float().sigmoid()


class SegmentMapHead(nn.Module):
    """The CASS name of every vessel pixel: it reads the vessel tree that stage 1 sees, as a whole.

    Proximal, mid and distal parts of an artery look alike; where the branches leave tells them apart. So patches of the
    vessel probability and of the pyramid, with their places and the view, pass a small transformer, and only then are
    joined with the fine features of the segmentation head.

    Input: pyramid, vessel logits (B, 1, S, S), fine features (B, `fine_channels`, S / 4, S / 4), view embedding or None.
    Output: `name_logits` (B, `num_classes` + 1, S / 4, S / 4), the last channel for vessels of none of the classes, and
    `analysed_logits` (B, 1, S / 4, S / 4): is this pixel of the segment that was analysed?
    """

    def __init__(self, *, channels: int, num_levels: int, fine_channels: int, num_classes: int, view_dim: int | None,
                 dim: int = 128, depth: int = 3, num_heads: int = 4):
        super().__init__()
        self.dim = dim
        self.project_levels = nn.ModuleList(nn.Conv2d(channels, dim, 1) for _ in range(num_levels))
        self.embed_vessels = nn.Conv2d(1, dim, TOKEN_STRIDE, stride=TOKEN_STRIDE)
        self.embed_view = None if view_dim is None else nn.Linear(view_dim, dim)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, num_heads, 4 * dim, dropout=0.0, activation="gelu", batch_first=True,
                                       norm_first=True) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.to_fine = nn.Conv2d(dim, fine_channels, 1)
        self.merge = conv_block(2 * fine_channels, fine_channels)
        self.names = nn.Conv2d(fine_channels, num_classes + 1, 1)
        self.analysed = nn.Conv2d(fine_channels, 1, 1)

    def forward(self, pyramid: list[torch.Tensor], vessel_logits: torch.Tensor, fine: torch.Tensor,
                view_embedding: torch.Tensor | None):
        # Detached: the names must not bend the vessel mask to what is easy to name.
        vessels = self.embed_vessels(vessel_logits.detach().sigmoid())
        grid = vessels + sum(resize_to(project(level), vessels)
                             for project, level in zip(self.project_levels, pyramid, strict=True))
        grid = grid + place_encoding(grid)
        tokens = grid.flatten(2).transpose(1, 2)
        if self.embed_view is not None:
            tokens = torch.cat([self.embed_view(view_embedding)[:, None], tokens], dim=1)
        for layer in self.layers:
            tokens = layer(tokens)
        context = self.norm(tokens[:, -grid.shape[2] * grid.shape[3]:]).transpose(1, 2).reshape(grid.shape)
        merged = self.merge(torch.cat([fine, resize_to(self.to_fine(context), fine)], dim=1))
        return self.names(merged), self.analysed(merged)


def place_encoding(grid: torch.Tensor) -> torch.Tensor:
    """Return sines and cosines of the place of each cell of `grid` (B, C, h, w): (1, C, h, w), C a multiple of 4.

    As in "Attention Is All You Need" for each axis, over shares of the side, so that another image size sees the same.
    """
    channels, height, width = grid.shape[1:]
    frequencies = torch.pi * 2.0 ** torch.linspace(0, 6, channels // 4, device=grid.device)
    y, x = ((torch.arange(n, device=grid.device) + 0.5) / n for n in (height, width))
    rows = (frequencies[:, None] * y)[:, :, None].expand(-1, -1, width)
    columns = (frequencies[:, None] * x)[:, None, :].expand(-1, height, -1)
    return torch.cat([rows.sin(), rows.cos(), columns.sin(), columns.cos()])[None].to(grid.dtype)
