"""Losses of a vessel mask, one value a sample, so that the engine can weigh samples exactly."""

from __future__ import annotations

import torch
import torch.nn.functional as F

# Keeps the Dice of an empty picture defined; far below one pixel, as in monai.losses.DiceLoss, whose values a
# test compares. MONAI itself would add four seconds of imports to every rank and loader process (measured
# 2026-11-21).
SMOOTH = 1e-5


def bce_loss(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy (B,), mean over pixels, of logits (B, ...) against a mask in [0, 1]."""
    loss = F.binary_cross_entropy_with_logits(logits.float(), mask, reduction="none")
    return loss.flatten(1).mean(dim=1)


def soft_dice_loss(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """1 - Dice of probabilities (B,), of logits (B, ...) against a mask in [0, 1]; in float32."""
    probs, mask = logits.float().sigmoid().flatten(1), mask.flatten(1)
    overlap = (probs * mask).sum(dim=1)
    return 1 - (2 * overlap + SMOOTH) / (probs.sum(dim=1) + mask.sum(dim=1) + SMOOTH)


def vessel_losses(logits: torch.Tensor, mask: torch.Tensor, *, bce: float, dice: float) -> dict[str, torch.Tensor]:
    """Losses (B,) of vessel logits (B, 1, H, W) against a mask (B, 1, H, W) of 0 and 1, in float32.

    bce, dice: weights of the two in `loss`. Also `bce`, and `dice`, the soft Dice that is reached; without gradient.
    """
    bce_part, dice_part = bce_loss(logits, mask), soft_dice_loss(logits, mask)
    loss = bce * bce_part + dice * dice_part
    return {"loss": loss, "bce": bce_part.detach(), "dice": 1 - dice_part.detach()}
