"""Losses of stage 3, one value a sample (B,), on the grid of S / 4.

Of a frame one segment is annotated. Other vessels may be obstructed too, nobody said; there the score costs nothing.
"""

import torch
import torch.nn.functional as F
from torchvision.ops import generalized_box_iou_loss

PEAK_CELLS = 1.5  # standard deviation of the target around the point: an analyst's click is not exact to a cell
NEAR_CELLS = 1.5  # box, offset and severity are learned so near to the point
HARD_POWER, NEAR_POWER = 2.0, 4.0  # of the focal loss, as in CornerNet (Law and Deng, ECCV 2018)


def peak_target(point: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """exp(-d^2 / 2 s^2) of the distance of each cell to the point, exactly 1 in its own cell; 0 without a point.

    point: (B, 2), (x, y) in cells, cell centres at integers, nan = none. Returns float32 (B, 1, h, w).
    """
    y, x = torch.meshgrid(*(torch.arange(n, device=point.device) for n in size), indexing="ij")
    nearest = point.nan_to_num(-1e4).round()
    squared = (x - nearest[:, :1, None]) ** 2 + (y - nearest[:, 1:, None]) ** 2
    return torch.exp(-squared / (2 * PEAK_CELLS**2))[:, None]


def focal_score_loss(score_logits: torch.Tensor, target: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Focal loss (B,) of scores with soft surroundings of the peaks, summed over known cells.

    A sample has one peak or none, so the sum is what CornerNet's division by the number of objects gives. target:
    (B, 1, h, w) of `peak_target`; known: (B, 1, h, w) in [0, 1].
    """
    log_p, log_not = F.logsigmoid(score_logits.float()), F.logsigmoid(-score_logits.float())
    probability = score_logits.float().sigmoid()
    at_peak = -((1 - probability) ** HARD_POWER) * log_p
    elsewhere = -((1 - target) ** NEAR_POWER) * probability**HARD_POWER * log_not
    return (known * torch.where(target == 1, at_peak, elsewhere)).flatten(1).sum(dim=1)


def shape_losses(offset: torch.Tensor, sides: torch.Tensor, stenosis: torch.Tensor, point: torch.Tensor,
                 box: torch.Tensor, stenosis_target: torch.Tensor) -> dict[str, torch.Tensor]:
    """Losses (B,) near the point: `offset` L1 in cells, `box` 1 - generalised IoU, `stenosis` L1 of shares.

    offset (B, 2, h, w), sides (B, 4, h, w), stenosis (B, 1, h, w): of `ObstructionOutput`. point (B, 2) and box (B, 4),
    x0, y0, x1, y1, in cells; stenosis_target (B,), 0 to 1. Where one of them is nan, its loss is 0.
    """
    y, x = torch.meshgrid(*(torch.arange(n, device=point.device) for n in offset.shape[2:]), indexing="ij")
    cells = torch.stack([x, y]).float()[None]  # (1, 2, h, w)
    away = point.nan_to_num(-1e4)[:, :, None, None] - cells
    near = (away.square().sum(dim=1) <= NEAR_CELLS**2).float()  # (B, h, w)
    count = near.flatten(1).sum(dim=1).clamp_min(1)

    def mean_near(values: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        return torch.where(known, (near * values).flatten(1).sum(dim=1) / count, 0.0)

    corners = torch.cat([cells - sides[:, :2], cells + sides[:, 2:]], dim=1).permute(0, 2, 3, 1)
    has_box = ~box.isnan().any(dim=1)
    wanted = box.nan_to_num(0)[:, None, None].expand_as(corners) + torch.tensor([0, 0, 1e-3, 1e-3], device=box.device)
    giou = generalized_box_iou_loss(corners, wanted)
    stenosis_error = (stenosis[:, 0] - stenosis_target.nan_to_num(0)[:, None, None]).abs()
    return {
        "offset": mean_near((offset - away).abs().sum(dim=1), ~point.isnan().any(dim=1)),
        "box": mean_near(giou, has_box),
        "stenosis": mean_near(stenosis_error, ~stenosis_target.isnan()),
    }
