"""From the stage 3 model's output to a ranked list of obstructions of a frame, at the frame's own size.

    vessel_probability, obstructions = predict_obstructions(
        model, frame, view_deg=(31.3, 0.1), image_size=336, device=device)
    for found in obstructions:
        print(found.score, found.point_px, found.box_px, found.stenosis_pct)
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import nms

from models.obstruction_head import STRIDE
from models.obstruction_model import ObstructionOutput
from utils.obstructions.matching import Detection
from utils.prediction import logits_at_size, network_image, sigmoid, view_tensor

MOST = 20  # obstructions of a frame; trees have a handful
LEAST_SCORE = 0.01
SAME_IOU = 0.3  # boxes that overlap so much mark one lesion: two lesions of a vessel hardly share a third


def detections(output: ObstructionOutput, index: int, size: tuple[int, int]) -> list[Detection]:
    """Return the obstructions of frame `index` of a batch, best first, in px of a frame of `size` = (height, width).

    Peaks of the score: no cell beside one has a higher score. Of two peaks that mark the same lesion, since their boxes
    overlap or the point of one lies in the box of the other, the better one stays.
    """
    scores = output.score_logits[index].detach().float().sigmoid()
    is_peak = (scores == F.max_pool2d(scores, 3, stride=1, padding=1)) & (scores >= LEAST_SCORE)
    y, x = torch.nonzero(is_peak[0], as_tuple=True)
    order = scores[0, y, x].argsort(descending=True, stable=True)
    y, x = y[order], x[order]
    cells = torch.stack([x, y], dim=1).float()
    points = cells + output.offset[index, :, y, x].detach().float().T
    sides = output.sides[index, :, y, x].detach().float().T
    boxes = torch.cat([cells - sides[:, :2], cells + sides[:, 2:]], dim=1)
    kept = _one_a_lesion(boxes, points, scores[0, y, x])[:MOST]
    height, width = size
    to_px = torch.tensor([width, height], device=cells.device) / torch.tensor(
        [scores.shape[2], scores.shape[1]], device=cells.device)
    found = []
    for number in kept:
        point = ((points[number] + 0.5) * to_px - 0.5).tolist()
        box = ((boxes[number].reshape(2, 2) + 0.5) * to_px - 0.5).flatten().tolist()
        low, high = np.clip(box[:2], 0, [width - 1, height - 1]), np.clip(box[2:], 0, [width - 1, height - 1])
        found.append(Detection(
            score=float(scores[0, y[number], x[number]]), box_px=(*low.tolist(), *high.tolist()), point_px=tuple(point),
            stenosis_pct=100 * float(output.stenosis[index, 0, y[number], x[number]]),
        ))
    return found


def _one_a_lesion(boxes: torch.Tensor, points: torch.Tensor, scores: torch.Tensor) -> list[int]:
    """Numbers of the boxes (n, 4) that stay, best first; points (n, 2)."""
    kept: list[int] = []
    for number in nms(boxes, scores, SAME_IOU).tolist():
        better = boxes[kept]
        inside = ((points[number] >= better[:, :2]) & (points[number] <= better[:, 2:])).all(dim=1)
        if not inside.any():
            kept.append(number)
    return kept


@torch.inference_mode()
def predict_obstructions(model: nn.Module, frame: np.ndarray, *, view_deg: Sequence[float], image_size: int,
                         device: torch.device) -> tuple[np.ndarray, list[Detection]]:
    """Return vessel probability, float32 (H, W), and obstructions of a frame, uint8 (H, W, 3), by a stage 3 model in
    eval mode.

    view_deg: (primary, secondary), LAO and cranial positive, nan = unknown.
    """
    output = model(network_image(frame, image_size)[None].to(device), view_tensor(view_deg, device))
    size = frame.shape[:2]
    return sigmoid(logits_at_size(output.vessel_logits[0, 0], size)), detections(output, 0, size)


def to_cells(points_px: torch.Tensor) -> torch.Tensor:
    """(x, y) px of the network's picture, pixel centres at integers, to cells of its grid of S / 4, likewise."""
    return (points_px + 0.5) / STRIDE - 0.5
