"""From a frame to its vessel probabilities at the frame's own size, the way the data set feeds the model.

    probability = predict_vessels(model, frame, view_deg=(31.3, 0.1), image_size=336, device=device)
    vessel_mask = probability >= 0.5
"""
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from data.masks import resize_picture

STAGE = "phase1_deepsa"         # as its files in the checkpoint folder are called
CASS_STAGE = "phase2_cass"
OBSTRUCTION_STAGE = "phase3_obstruction"
LUMEN_STAGE = "phase4_quantitative"
THRESHOLD = 0.5                 # probability from which a pixel is vessel

_CHECKPOINTS = Path(__file__).resolve().parents[1] / "checkpoints"


def shipped_checkpoints(folder: Path = _CHECKPOINTS) -> tuple[Path, ...]:
    """Return the weights that came with this copy of the project: of stage 2, else 1, of stage 3 if there, and of
    stage 4, which measures what stage 3 finds, if both are.

    The first names the most of the vessels. That of stage 1 is returned even where it is missing: whoever
    opens it is told so.
    """
    stages = (CASS_STAGE, STAGE, OBSTRUCTION_STAGE, LUMEN_STAGE)
    names, vessels, obstructions, lumens = (folder / f"{stage}_tiny.pth" for stage in stages)
    first = names if names.is_file() else vessels
    if not obstructions.is_file():
        return (first,)
    return (first, obstructions, lumens) if lumens.is_file() else (first, obstructions)


SHIPPED_CHECKPOINTS = shipped_checkpoints()
SHIPPED_CHECKPOINT = SHIPPED_CHECKPOINTS[0]     # for tools that take one


def network_image(frame: np.ndarray, image_size: int) -> torch.Tensor:
    """Return a frame, uint8 (H, W, 3), as the data set gives it to the model: float32 (3, S, S) in [0, 1].

    A frame that is not square is stretched, as in training.
    """
    square = resize_picture(frame, (image_size, image_size)).astype(np.float32) / np.float32(255)
    return torch.from_numpy(np.ascontiguousarray(square.transpose(2, 0, 1)))


def logits_at_size(logits: np.ndarray | torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """Return logits (S, S) as float32 at `size` = (height, width).

    Logits, not probabilities, are interpolated: their zero crossing, the vessel's edge, moves less.
    """
    logits = logits.float().cpu().numpy() if isinstance(logits, torch.Tensor) else logits.astype(np.float32)
    return np.ascontiguousarray(resize_picture(logits, size))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-logits)) as float32, without overflow."""
    return (0.5 * (1 + np.tanh(0.5 * logits.astype(np.float32)))).astype(np.float32)


def view_tensor(view_deg: Sequence[float], device: torch.device) -> torch.Tensor:
    """Return one pair of angles as the models take them: float32 (1, 2)."""
    return torch.tensor([list(view_deg)], dtype=torch.float32, device=device)


@torch.inference_mode()
def predict_vessels(model: nn.Module, frame: np.ndarray, *, view_deg: Sequence[float], image_size: int,
                    device: torch.device, scales: Sequence[float] = (1.0,)) -> np.ndarray:
    """Return the vessel probability of each pixel of a frame, float32 (H, W) in [0, 1].

    model: of any stage; frame: uint8 (H, W, 3); view_deg: (primary, secondary), LAO and cranial positive,
    nan = unknown; scales: the picture is seen at each of these magnifications about its centre, and the
    logits are averaged where it is seen. Raises ValueError when none of them shows the whole picture (1 or
    less).
    """
    if min(scales) > 1:
        raise ValueError(
            f"scales are {tuple(scales)}; at least one must be 1 or less to show the whole picture"
        )
    image = network_image(frame, image_size)
    views = view_tensor(view_deg, device)
    total = np.zeros((image_size, image_size), np.float32)
    seen = np.zeros_like(total)
    for scale in scales:
        zoom = _zoom(image_size, scale)
        batch = torch.from_numpy(_warped(image.numpy(), zoom))[None].to(device)
        output = model(batch, views)     # of stage 1 the logits, of later stages a tuple that names them
        logits = getattr(output, "vessel_logits", output)[0, 0].float().cpu().numpy()
        total += cv2.warpAffine(logits, cv2.invertAffineTransform(zoom), logits.shape[::-1])
        seen += cv2.warpAffine(np.ones_like(logits), cv2.invertAffineTransform(zoom), logits.shape[::-1])
    return sigmoid(logits_at_size(total / np.maximum(seen, 1e-3), frame.shape[:2]))


def _zoom(side: int, scale: float) -> np.ndarray:
    """Return the 2x3 matrix that magnifies by `scale` about the centre of a square of `side` px."""
    shift = (1 - scale) * (side - 1) / 2
    return np.array([[scale, 0, shift], [0, scale, shift]])


def _warped(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return float32 (3, S, S) moved by a 2x3 matrix; what comes from outside repeats the border."""
    if np.array_equal(matrix, np.eye(2, 3)):
        return image
    moved = cv2.warpAffine(image.transpose(1, 2, 0), matrix, image.shape[:0:-1], flags=cv2.INTER_LINEAR,
                           borderMode=cv2.BORDER_REPLICATE)
    return np.ascontiguousarray(moved.transpose(2, 0, 1))
