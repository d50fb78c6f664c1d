"""From the stage 2 model's output to the answers for one frame, at the frame's own size.

    prediction = predict_cass(model, frame, view_deg=(31.3, 0.1), image_size=336, device=device)
    prediction.class_probs                            # blind: which segment was analysed? (pooled head)
    blind_probs_of_map(prediction)                    # the same question to the map
    region = region_of_point(prediction, (x, y))
    pointed_probs(prediction, region)                 # pointed: which segment is this one?

All probabilities of names run over `prediction.classes`, CASS numbers in the order of the model's channels.
"""
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import nn

from data.dataset import box_of
from data.masks import resize_picture
from models.cass_model import CassOutput
from utils.prediction import THRESHOLD, logits_at_size, network_image, sigmoid, view_tensor

POINT_RADIUS_SHARE = 0.012  # of the frame's longer side, 6 px of 512: half a wide vessel, a careless click
_NO_PROBABILITY = 1e-6      # below this the analysed part of a frame is taken to be absent


@dataclass(frozen=True)
class FramePrediction:
    """What the model says of one frame of H x W px; K classes.

    vessel_probability: float32 (H, W), in [0, 1]. name_log_probs: float32 (K + 1, H, W), logarithms of the
    probability of each name for a vessel at that pixel; the last channel is for vessels of none of the
    classes. analysed_probability: float32 (H, W): does the pixel belong to the analysed segment? class_probs:
    float32 (K,), the pooled head's answer to the blind question; box: float32 (4,), its x_center, y_center,
    width, height as shares of the sides. classes: CASS numbers in channel order.
    """
    vessel_probability: np.ndarray
    name_log_probs: np.ndarray
    analysed_probability: np.ndarray
    class_probs: np.ndarray
    box: np.ndarray
    classes: tuple[int, ...]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the frame in px."""
        return self.vessel_probability.shape


def frame_prediction(output: CassOutput, index: int, size: tuple[int, int],
                     classes: Sequence[int]) -> FramePrediction:
    """Return the answers for frame `index` of a batch at `size` = (height, width) px of that frame.

    Logits, not probabilities, are interpolated. Raises ValueError when `classes` does not fit the output's
    channels.
    """
    if len(classes) != output.class_logits.shape[1]:
        raise ValueError(f"{len(classes)} classes {tuple(classes)} for a model of "
                         f"{output.class_logits.shape[1]}; take the classes that the checkpoint names")
    names = output.name_logits[index].detach().float().cpu().numpy()
    return FramePrediction(
        vessel_probability=sigmoid(logits_at_size(output.vessel_logits[index, 0].detach(), size)),
        name_log_probs=_log_softmax(_channels_at_size(names, size)),
        analysed_probability=sigmoid(logits_at_size(output.analysed_logits[index, 0].detach(), size)),
        class_probs=output.class_logits[index].detach().float().softmax(dim=0).cpu().numpy(),
        box=output.box[index].detach().float().cpu().numpy(),
        classes=tuple(int(cass_id) for cass_id in classes),
    )


@torch.inference_mode()
def predict_cass(model: nn.Module, frame: np.ndarray, *, view_deg: Sequence[float], image_size: int,
                 device: torch.device, classes: Sequence[int] | None = None) -> FramePrediction:
    """Return the answers of a stage 2 model in eval mode for a frame, uint8 (H, W, 3).

    view_deg: (primary, secondary), LAO and cranial positive, nan = unknown; classes: `model.classes` unless
    given.
    """
    view = view_tensor(view_deg, device)
    output = model(network_image(frame, image_size)[None].to(device), view)
    return frame_prediction(output, 0, frame.shape[:2], model.classes if classes is None else classes)


def pointed_probs(prediction: FramePrediction, region: np.ndarray) -> np.ndarray:
    """Return the answer to "which segment is this one?" for a bool (H, W) region: float64 (K,), sum 1.

    The pixels vote with the mean of their log probabilities. Raises ValueError for an empty region or another
    size.
    """
    if region.dtype != bool or region.shape != prediction.size:
        raise ValueError(f"the region is {region.dtype} {region.shape}, the frame bool {prediction.size}")
    if not region.any():
        raise ValueError("the region that is pointed at has no pixel; point at a place inside the frame")
    mean = prediction.name_log_probs[:-1, region].mean(axis=1, dtype=np.float64)
    return _normalised(np.exp(mean - mean.max()))


def region_of_box(prediction: FramePrediction, box_px: Sequence[float]) -> np.ndarray:
    """Return the predicted vessel pixels in the box (x0, y0, x1, y1) px, bool (H, W).

    All pixels of the box if there are none. Corners are pixel centres and belong to the box. Raises
    ValueError when no pixel lies in the box.
    """
    x0, y0, x1, y1 = box_px
    rows, columns = np.ogrid[:prediction.size[0], :prediction.size[1]]
    box = (columns >= x0) & (columns <= x1) & (rows >= y0) & (rows <= y1)
    if not box.any():
        raise ValueError(f"the box {tuple(box_px)} (x0, y0, x1, y1) holds no pixel of the frame of "
                         f"{prediction.size[1]} x {prediction.size[0]} px")
    vessel = box & (prediction.vessel_probability >= THRESHOLD)
    return vessel if vessel.any() else box


def region_of_point(prediction: FramePrediction, point_px: Sequence[float]) -> np.ndarray:
    """Return the predicted vessel pixels within a few px of the point (x, y), bool (H, W).

    If there are none, the vessel pixel nearest to the point; in a frame without any vessel the pixel at the
    point. Raises ValueError for a point outside the frame.
    """
    (x, y), (height, width) = point_px, prediction.size
    if not (-0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5):
        raise ValueError(f"the point ({x}, {y}) lies outside the frame of {width} x {height} px")
    rows, columns = np.ogrid[:height, :width]
    distance = np.hypot(columns - x, rows - y)
    vessel = prediction.vessel_probability >= THRESHOLD
    if not vessel.any():
        vessel = np.ones_like(vessel)
    distance = np.where(vessel, distance, np.inf)
    return distance <= max(POINT_RADIUS_SHARE * max(height, width), distance.min())


def blind_probs_of_map(prediction: FramePrediction) -> np.ndarray:
    """Return the map's answer to "which segment was analysed?": float64 (K,), sum 1.

    Names of the pixels, weighted by the probability that the pixel is of the analysed segment (of a vessel
    where no pixel is of the analysed segment).
    """
    weights = prediction.analysed_probability
    if weights.max() < _NO_PROBABILITY:
        weights = np.maximum(prediction.vessel_probability, _NO_PROBABILITY)
    near = weights > 0.05 * weights.max()  # the rest changes nothing and would cost most of the time
    probs = np.exp(prediction.name_log_probs[:-1, near], dtype=np.float64) @ weights[near].astype(np.float64)
    return _normalised(probs)


def blind_box_of_map(prediction: FramePrediction) -> np.ndarray:
    """Return the box of the map's analysed segment: float32 (x_center, y_center, width, height), in shares.

    Around the connected piece with the largest sum of probability among pixels of at least half the frame's
    highest (or of `THRESHOLD`, where that is lower).
    """
    probability = prediction.analysed_probability
    if probability.max() < _NO_PROBABILITY:
        return np.array([0.5, 0.5, 1, 1], np.float32)
    region = (probability >= min(THRESHOLD, 0.5 * probability.max())).astype(np.uint8)
    _, pieces = cv2.connectedComponents(region, connectivity=8)
    mass = np.bincount(pieces.ravel(), weights=probability.ravel())
    return box_of(pieces == 1 + mass[1:].argmax())


def _channels_at_size(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return float32 (C, h, w) as (C, `size`)."""
    return np.stack([resize_picture(channel, size) for channel in logits])


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return logits (C, H, W) less the logarithm of their summed exponentials over C; in place."""
    return torch.from_numpy(logits).log_softmax(dim=0).numpy()


def _normalised(probs: np.ndarray) -> np.ndarray:
    return probs / max(probs.sum(), np.finfo(np.float64).tiny)
