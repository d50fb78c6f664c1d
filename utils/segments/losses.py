"""Losses of stage 2, one value a sample (B,): names of vessel pixels from partial labels, and boxes.

Of a frame one segment is annotated. Inside its mask the name is known; outside it that name is known to be wrong, since
a CASS segment occurs once in a tree; and one injection fills one coronary artery, so the names of the other are wrong
everywhere. What else a vessel outside the mask is called is unknown and costs nothing. (Sums of probabilities over what
is allowed: the exclusion and marginal losses of Shi et al., Medical Image Analysis 2021;70:101979.) Of a drawn tree all
names are known.
"""

import torch
import torch.nn.functional as F
from torchvision.ops import box_convert, generalized_box_iou_loss


def name_loss(name_logits: torch.Tensor, class_index: torch.Tensor, inside: torch.Tensor, outside: torch.Tensor,
              other_artery: torch.Tensor) -> torch.Tensor:
    """Loss (B,) of the names of vessel pixels: inside the annotated mask, and outside it.

    Args:
        name_logits: (B, K + 1, h, w); channel K is for vessels of none of the classes.
        class_index: int64 (B,), of the annotated segment.
        inside: (B, 1, h, w) in [0, 1], weight of each pixel as one of the annotated segment.
        outside: (B, 1, h, w) in [0, 1], weight of each pixel as vessel that is surely not of that segment.
        other_artery: bool (K, K); [i, j] is true where class j belongs to the artery that i's injection does not fill.
    """
    log_probs = F.log_softmax(name_logits.float(), dim=1)
    own = class_index[:, None, None, None].expand(-1, 1, *name_logits.shape[2:])
    known = -log_probs.gather(1, own)
    # What cannot be here: the annotated name itself, and all names of the artery that is not filled.
    excluded = other_artery[class_index].scatter(1, class_index[:, None], True)
    excluded = F.pad(excluded, (0, 1))[:, :, None, None]
    # The sum of what may be here, in logarithms: its gradient stays where the model is sure of what is wrong.
    absent = -log_probs.masked_fill(excluded, -torch.inf).logsumexp(dim=1, keepdim=True)
    return weighted_mean(known, inside) + weighted_mean(absent, outside)


def drawn_name_loss(name_logits: torch.Tensor, names: torch.Tensor, vessels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy (M,) of the names of drawn trees, of which all are known.

    name_logits: (M, K + 1, h, w); names: int64 (M, h, w), channels; vessels: (M, 1, H, W) in [0, 1], H a multiple of h.
    """
    cross_entropy = F.cross_entropy(name_logits.float(), names, reduction="none")
    return weighted_mean(cross_entropy, F.adaptive_avg_pool2d(vessels, names.shape[-2:])[:, 0])


def weighted_mean(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean (B,) over all but the first axis; 0 where the weights are all 0."""
    values, weights = values.flatten(1), weights.flatten(1)
    return (values * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1e-6)


def box_loss(box: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """L1 + generalised IoU loss (B,) of boxes (B, 4) of (x_center, y_center, width, height): DETR's two terms, equal.

    0 where the target is nan: nothing of the segment is in the picture.
    """
    known = ~target.isnan().any(dim=1)
    target = torch.where(known[:, None], target, box.detach())
    corners = [box_convert(each, "cxcywh", "xyxy") for each in (box, target)]
    loss = (box - target).abs().sum(dim=1) + generalized_box_iou_loss(*corners)
    return torch.where(known, loss, 0.0 * loss)
