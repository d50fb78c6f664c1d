"""From the stage 4 model's output to a lumen that can be measured, and to its measurement in px of the frame.

    lumen = predict_lumen(model, frame, box_px, view_deg=(31.3, 0.1), image_size=336, device=device)
    measured = measure_predicted(lumen, calibration)        # a qca.measure.Measurement; QcaError where there is none
    measured.mm.mld, measured.stenosis_pct, measured.flags
    mask = lumen.mask_in_frame()
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import nn

from data.lumen_crops import Crop, crop_around, cut_out
from models.lumen_model import LumenOutput
from qca.calibration import Calibration
from qca.measure import Measurement, measure_lumen
from qca.placing import calibration_in, placed_in_frame
from utils.prediction import view_tensor

EDGE = 0.5  # of a share of lumen


@dataclass(frozen=True, kw_only=True)
class PredictedLumen:
    """share: float32 (S, S) in [0, 1], how much of each pixel of the crop is lumen; box_px: what was asked for, x0, y0,
    x1, y1 px of the frame, whose size is (height, width)."""

    share: np.ndarray
    crop: Crop
    box_px: tuple[float, float, float, float]
    frame_size: tuple[int, int]

    def mask_in_frame(self) -> np.ndarray:
        """Bool (H, W): at least half of the pixel is lumen."""
        back = cv2.invertAffineTransform(self.crop.matrix)
        # Of a magnified crop several pixels fall into one of the frame: their mean is its share.
        sigma = max(0.0, self.crop.zoom / 2 - 0.5)
        share = cv2.GaussianBlur(self.share, (0, 0), sigma) if sigma > 0.2 else self.share
        return cv2.warpAffine(share, back, self.frame_size[::-1]) >= EDGE


def share_of_lumen(output: LumenOutput, index: int) -> np.ndarray:
    """How much of each pixel is lumen, float32 (S, S) in [0, 1], of crop `index` of a batch.

    A straight edge at a distance d px from a pixel's centre leaves about 0.5 + d of the pixel inside.
    """
    return (output.distance[index, 0].detach().float() + EDGE).clamp(0, 1).cpu().numpy()


def predicted_of_batch(output: LumenOutput, index: int, batch: Mapping) -> PredictedLumen:
    """The lumen of sample `index` of a validation's batch of `data.lumen_dataset.LumenDataset`."""
    crop = batch["frame_crop"][index]
    box = crop.to_frame(batch["box"][index].cpu().numpy().reshape(2, 2)).ravel()
    return PredictedLumen(
        share=share_of_lumen(output, index), crop=crop, box_px=tuple(box.tolist()),
        frame_size=batch["frame_size"][index],
    )


@torch.inference_mode()
def predict_lumen(
    model: nn.Module, frame: np.ndarray, box_px: Sequence[float], *, view_deg: Sequence[float], image_size: int,
    device: torch.device,
) -> PredictedLumen:
    """The lumen of the segment in a box (x0, y0, x1, y1) px of a frame, uint8 (H, W, 3), by a stage 4 model in eval
    mode; view_deg: (primary, secondary), LAO and cranial positive, nan = unknown."""
    crop = crop_around(np.array(box_px), side_px=image_size, frame_side_px=max(frame.shape))
    picture = cut_out(frame, crop).astype(np.float32) / np.float32(255)
    image = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))[None].to(device)
    box = torch.from_numpy(crop.to_crop(np.reshape(box_px, (2, 2))).astype(np.float32).ravel())[None].to(device)
    output = model(image, view_tensor(view_deg, device), box)
    return PredictedLumen(
        share=share_of_lumen(output, 0), crop=crop, box_px=tuple(map(float, box_px)), frame_size=frame.shape[:2]
    )


def measure_predicted(
    lumen: PredictedLumen, calibration: Calibration | None, *, proximal_px: tuple[float, float] | None = None
) -> Measurement:
    """The segment's measurement in px of the frame, and in mm with a calibration of the frame; QcaError where there is
    nothing to measure. proximal_px: as for `qca.measure.measure_lumen`, in px of the frame."""
    crop = lumen.crop
    near = None if proximal_px is None else tuple(crop.to_crop(np.array(proximal_px)))
    measured = measure_lumen(lumen.share, calibration_in(crop, calibration), proximal_px=near)
    return placed_in_frame(measured, crop, calibration)
