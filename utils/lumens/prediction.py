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
from skimage.filters import apply_hysteresis_threshold
from skimage.measure import label
from skimage.morphology import remove_small_holes
from torch import nn

from data.lumen_crops import Crop, crop_around, cut_out
from models.lumen_model import LumenOutput
from qca.calibration import Calibration
from qca.measure import Measurement, measure_lumen
from qca.placing import calibration_in, placed_in_frame
from utils.lumens.walls import FAINT, lumen_between, walls_between
from utils.prediction import view_tensor

EDGE = 0.5  # of a share of lumen, and of its probability
LEAST_PIECE = 0.1  # of the largest piece of a lumen: smaller ones are of other vessels, where its ends are not known
HOLE_SHARE = 0.05  # of the side: the width of a hole in a lumen that is doubt, not a loop of the vessel


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


def share_of_lumen(output: LumenOutput, index: int, ends_px: np.ndarray | None = None) -> np.ndarray:
    """How much of each pixel is lumen, float32 (S, S) in [0, 1], of crop `index` of a batch.

    ends_px: (2, 2) px of the crop, where the vessel begins and ends, in any order; nan or None = not known. Known, it
    is what lies between the walls of this one vessel, see `utils.lumens.walls`. Else its probability says where the
    lumen runs and ends, and the distance where its walls are: a straight wall d px from a pixel's centre leaves about
    0.5 + d of it inside.
    """
    probability = output.lumen_logits[index, 0].detach().float().sigmoid().cpu().numpy()
    distance = output.distance[index, 0].detach().float().cpu().numpy()
    if ends_px is not None and not np.isnan(ends_px).any():
        walls = walls_between(probability, distance, ends_px)
        share = np.zeros_like(probability) if walls is None else lumen_between(walls, len(probability))
    else:
        share = np.where(pieces_of_lumen(probability), np.clip(distance + EDGE, 0, 1), 0).astype(np.float32)
    inside = share >= EDGE
    holes = remove_small_holes(inside, max_size=round((HOLE_SHARE * len(share)) ** 2)) & ~inside
    return np.where(holes, np.float32(1), share)


def pieces_of_lumen(probability: np.ndarray) -> np.ndarray:
    """What is probably lumen, bool (S, S), without pieces much smaller than the largest: they are of other vessels."""
    region = apply_hysteresis_threshold(probability, FAINT, EDGE)
    pieces, count = label(region, return_num=True, connectivity=2)
    if count == 0:
        return region
    sizes = np.bincount(pieces.ravel())[1:]
    return np.isin(pieces, 1 + np.flatnonzero(sizes >= LEAST_PIECE * sizes.max()))


def predicted_of_batch(output: LumenOutput, index: int, batch: Mapping) -> PredictedLumen:
    """The lumen of sample `index` of a validation's batch of `data.lumen_dataset.LumenDataset`."""
    crop = batch["frame_crop"][index]
    box = crop.to_frame(batch["box"][index].cpu().numpy().reshape(2, 2)).ravel()
    return PredictedLumen(
        share=share_of_lumen(output, index, batch["ends"][index].cpu().numpy()), crop=crop, box_px=tuple(box.tolist()),
        frame_size=batch["frame_size"][index],
    )


@torch.inference_mode()
def predict_lumen(
    model: nn.Module, frame: np.ndarray, box_px: Sequence[float], *, view_deg: Sequence[float], image_size: int,
    device: torch.device, ends_px: np.ndarray | None = None,
) -> PredictedLumen:
    """The lumen of the segment in a box (x0, y0, x1, y1) px of a frame, uint8 (H, W, 3), by a stage 4 model in eval
    mode; view_deg: (primary, secondary), LAO and cranial positive, nan = unknown; ends_px: (2, 2), about where the
    segment begins and ends, in any order, where that is known: where vessels cross it says which one is meant."""
    crop = crop_around(np.array(box_px), side_px=image_size, frame_side_px=max(frame.shape))
    picture = cut_out(frame, crop).astype(np.float32) / np.float32(255)
    image = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))[None].to(device)
    box = torch.from_numpy(crop.to_crop(np.reshape(box_px, (2, 2))).astype(np.float32).ravel())[None].to(device)
    ends = np.full((2, 2), np.nan) if ends_px is None else crop.to_crop(ends_px)
    asked = torch.from_numpy(ends.astype(np.float32))[None].to(device)
    output = model(image, view_tensor(view_deg, device), box, asked)
    return PredictedLumen(
        share=share_of_lumen(output, 0, ends), crop=crop, box_px=tuple(map(float, box_px)), frame_size=frame.shape[:2]
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
