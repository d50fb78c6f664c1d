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
from scipy.spatial import cKDTree
from skimage.filters import apply_hysteresis_threshold
from skimage.graph import route_through_array
from skimage.measure import label
from skimage.morphology import remove_small_holes
from torch import nn

from data.lumen_crops import Crop, crop_around, cut_out
from models.lumen_model import LumenOutput
from qca.calibration import Calibration
from qca.measure import Measurement, measure_lumen
from qca.placing import calibration_in, placed_in_frame
from utils.prediction import view_tensor

EDGE = 0.5  # of a share of lumen, and of its probability
LEAST_PIECE = 0.1  # of the largest piece of a lumen: smaller ones are of other vessels, where its ends are not known
WAY_CELLS, LEAST_PROBABILITY = 170, 0.02  # a way along a lumen: on so many cells a side; what a gap costs at least
BESIDE_SHARE = 0.02  # of the side: half as far as a main artery is wide, beside such a way
# Of the vessel's radius, which is looked for so far along the way, of the side: what is farther off is a side branch.
ARM_RADII, REACH_SHARE = 2.2, 0.015
HOLE_SHARE = 0.05  # of the side: the width of a hole in a lumen that is doubt, not a loop of the vessel
CLOSED_SHARE = 0.012  # of the side: around a place on the way that the distance calls closed and the probability open
FAINT = 0.2  # probability from which a place next to surer ones belongs to the lumen: a tight lesion is hardly seen


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

    Where the lumen runs and ends is what its probability says, also through places where that is faint; where its walls
    are is what the distance says: a straight wall d px from a pixel's centre leaves about 0.5 + d of it inside. Of a very
    narrow lumen the distance may say that it is closed; where it runs on in all probability, that is believed.
    ends_px: (2, 2) px of the crop, nan or None = not known, as for `course_of_lumen`.
    """
    probability = output.lumen_logits[index, 0].detach().float().sigmoid().cpu().numpy()
    share = (output.distance[index, 0].detach().float() + EDGE).clamp(0, 1).cpu().numpy()
    way = None
    if ends_px is not None and not np.isnan(ends_px).any():
        way = _likeliest_way(probability, ends_px)
        share = _open_along(way, probability, share)
    share = np.where(course_of_lumen(probability, share, ends_px, way), share, 0).astype(np.float32)
    inside = share >= EDGE
    holes = remove_small_holes(inside, max_size=round((HOLE_SHARE * len(share)) ** 2)) & ~inside
    return np.where(holes, np.float32(1), share)


def course_of_lumen(
    probability: np.ndarray, share: np.ndarray, ends_px: np.ndarray | None, way: np.ndarray | None = None
) -> np.ndarray:
    """Where one vessel runs, bool (S, S), among what is probably lumen; other pieces are of vessels beside it.

    ends_px: (2, 2), where the vessel begins and ends. Its pieces are those on the likeliest way from the one to the
    other, without side branches; beside this way the walls are believed also where it was not sure that this is the
    vessel, as in a tight lesion or under another vessel. Where the ends are not known, pieces much smaller than the
    largest are left out. way: `_likeliest_way` between the ends, for who has it.
    """
    region = apply_hysteresis_threshold(probability, FAINT, EDGE)
    pieces, count = label(region, return_num=True, connectivity=2)
    if count == 0:
        return region
    if ends_px is None or np.isnan(ends_px).any():
        sizes = np.bincount(pieces.ravel())[1:]
        return np.isin(pieces, 1 + np.flatnonzero(sizes >= LEAST_PIECE * sizes.max()))
    way = _likeliest_way(probability, ends_px) if way is None else way
    met = np.setdiff1d(pieces[way], 0)
    beside = cv2.dilate(way.astype(np.uint8), np.ones((2 * round(BESIDE_SHARE * len(way)) + 1,) * 2, np.uint8)) > 0
    between = beside & (share >= EDGE)
    return _without_arms(np.isin(pieces, met) | between, way, ends_px) if len(met) else region


def _open_along(way: np.ndarray, probability: np.ndarray, share: np.ndarray) -> np.ndarray:
    """The share, (S, S), and around places of the way where it closes and the probability does not the larger of both."""
    closed = way & (share < EDGE) & (probability >= EDGE)
    size = 2 * round(CLOSED_SHARE * len(way)) + 1
    around = cv2.dilate(closed.astype(np.uint8), np.ones((size, size), np.uint8)) > 0
    return np.where(around, np.maximum(share, probability), share)


def _without_arms(region: np.ndarray, way: np.ndarray, ends_px: np.ndarray) -> np.ndarray:
    """A region less what lies farther from the way along it, bool (S, S) each, than the vessel is wide there, and less
    what lies beyond the ends of the way, (2, 2) px."""
    steps, places = np.argwhere(way), np.argwhere(region)
    radius = cv2.distanceTransform(region.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # The way runs anywhere in the lumen: its middle, the largest radius, is nearby.
    reach = 2 * round(REACH_SHARE * len(region)) + 1
    widest = cv2.dilate(radius, np.ones((reach, reach), np.uint8))[way]
    away, nearest = cKDTree(steps).query(places)
    _, at_an_end = cKDTree(steps).query(np.asarray(ends_px)[:, ::-1])
    allowed = np.where(np.isin(nearest, at_an_end), 1.0, ARM_RADII)
    kept = np.zeros_like(region)
    kept[tuple(places[away <= allowed * widest[nearest] + 1].T)] = True
    return kept


def _likeliest_way(probability: np.ndarray, ends_px: np.ndarray) -> np.ndarray:
    """The pixels, bool (S, S), of the way (2, 2) from end to end on which lumen is likeliest."""
    step = max(1, -(-len(probability) // WAY_CELLS))  # a coarse way does
    coarse = cv2.resize(probability, None, fx=1 / step, fy=1 / step, interpolation=cv2.INTER_AREA)
    cells = np.clip(np.rint((np.asarray(ends_px) + 0.5) / step - 0.5), 0, len(coarse) - 1).astype(int)
    steps, _ = route_through_array(1 / (coarse + LEAST_PROBABILITY), *cells[:, ::-1], fully_connected=True)
    way = np.zeros(probability.shape, np.uint8)
    points = np.clip(np.array(steps)[:, ::-1] * step + step // 2, 0, len(way) - 1).astype(np.int32)
    return cv2.polylines(way, [points[:, None]], False, 1) > 0


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
