"""The heads of stage 2: one answer a frame from pooled features, and maps that name every vessel pixel."""

import torch
import torch.nn.functional as F
from torch import nn

from data.drawn_trees import NAMES_STRIDE, VESSELS_PX
from models.segmentation_head import conv_block, resize_to

TOKEN_STRIDE = 3  # of the map of names: patches of 12 px
MAX_PATCHES = 256  # of 28 x 28 that are read, the likeliest to hold vessel; full trees have about 200
LEAST_PROBABILITY = 0.05  # of the likeliest vessel pixel in a patch that is read
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
    """The CASS name of every vessel pixel, read from the shape of the vessel tree and the view alone.

    Proximal, mid and distal parts of an artery look alike; where the branches leave tells them apart, and grey values
    do not help. So it is the predicted vessel mask that is read, as a whole: patches of it that hold vessel, with their
    places and the view, pass a small transformer. As it needs no X-ray picture, it also learns from drawn trees
    (`data/drawn_trees.py`), and as it always reads `VESSELS_PX` pixels, it does not depend on backbone or image size.

    Input: vessel probability (B, 1, S, S) and view embedding (B, `view_dim`), None without views.
    Output: `name_logits` (B, `num_classes` + 1, NAMES_PX, NAMES_PX), the last channel for vessels of none of the
    classes, and what they were made from, (B, `channels`, NAMES_PX, NAMES_PX).
    """

    def __init__(self, *, num_classes: int, view_dim: int | None, channels: int = 32, dim: int = 128, depth: int = 4,
                 num_heads: int = 4):
        super().__init__()
        self.channels = channels
        self.fine = nn.Sequential(conv_block(NAMES_STRIDE**2, channels), conv_block(channels, channels))
        self.embed_patches = nn.Conv2d(channels, dim, TOKEN_STRIDE, stride=TOKEN_STRIDE)
        self.embed_view = None if view_dim is None else nn.Linear(view_dim, dim)
        self.start = nn.Parameter(torch.zeros(dim))  # the token of the view; without one, of the frame as a whole
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, num_heads, 4 * dim, dropout=0.0, activation="gelu", batch_first=True,
                                       norm_first=True) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.to_fine = nn.Conv2d(dim, channels, 1)
        self.merge = conv_block(2 * channels, channels)
        self.names = nn.Conv2d(channels, num_classes + 1, 1)

    def forward(self, vessel_probability: torch.Tensor, view_embedding: torch.Tensor | None):
        vessels = vessel_probability.float()
        if vessels.shape[-1] != VESSELS_PX:
            vessels = F.interpolate(vessels, (VESSELS_PX, VESSELS_PX), mode="bilinear", antialias=True)
        fine = self.fine(F.pixel_unshuffle(vessels, NAMES_STRIDE))
        grid = self.embed_patches(fine)
        grid = grid + place_encoding(grid)
        fullest = F.max_pool2d(vessels, NAMES_STRIDE * TOKEN_STRIDE).flatten(1).topk(MAX_PATCHES, dim=1)
        empty, cells = fullest.values < LEAST_PROBABILITY, fullest.indices[..., None].expand(-1, -1, grid.shape[1])
        first = self.start.expand(len(grid), 1, -1)
        if self.embed_view is not None:
            first = first + self.embed_view(view_embedding)[:, None]
        tokens = torch.cat([first.to(grid.dtype), grid.flatten(2).transpose(1, 2).gather(1, cells)], dim=1)
        ignored = F.pad(empty, (1, 0))
        for layer in self.layers:
            tokens = layer(tokens, src_key_padding_mask=ignored)
        read = self.norm(tokens)[:, 1:].masked_fill(empty[..., None], 0)
        context = torch.zeros_like(grid.flatten(2).transpose(1, 2), dtype=read.dtype).scatter(1, cells, read)
        context = self.to_fine(context.transpose(1, 2).reshape(grid.shape))
        merged = self.merge(torch.cat([fine, resize_to(context, fine)], dim=1))
        return self.names(merged), merged


class AnalysedMapHead(nn.Module):
    """Which pixels belong to the segment that was analysed?

    Unlike its name, this shows in the picture: analysts look at the lesion. So the fine features of the segmentation
    head, (B, `fine_channels`, h, w), join those of the map of names, (B, `shape_channels`, NAMES_PX, NAMES_PX).
    Output: logits (B, 1, NAMES_PX, NAMES_PX).
    """

    def __init__(self, *, fine_channels: int, shape_channels: int):
        super().__init__()
        self.merge = conv_block(fine_channels + shape_channels, shape_channels)
        self.analysed = nn.Conv2d(shape_channels, 1, 1)

    def forward(self, fine: torch.Tensor, shape: torch.Tensor) -> torch.Tensor:
        fine = F.adaptive_avg_pool2d(fine, shape.shape[-2:])
        return self.analysed(self.merge(torch.cat([fine, shape], dim=1)))


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
