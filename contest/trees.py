"""Contestants that draw the whole vessel tree, or a lumen in a box: this project's checkpoints, the Frangi filter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from skimage.filters import frangi

from contest.cases import DEEPSA, SEGMENT, Case
from contest.contestant import NO_VIEW, Answer, Contestant, Prompt
from models.loading import load_model
from utils.lumens.prediction import predict_lumen
from utils.metrics import dice
from utils.prediction import LUMEN_STAGE, THRESHOLD, predict_vessels

# Of a frame of 512 px. An artery of 1 to 4 mm is 3 to 16 px wide there, and the filter answers best where sigma is half
# that; with 1.5 px for the thinnest, noise costs more than they bring (Dice 0.38, not 0.45, on phantoms, 2026-11-22).
FRANGI_SIGMAS_PX = (2.0, 3.0, 4.0, 5.0)
FRANGI_OF_PX = 512
FRANGI_THRESHOLDS = tuple(np.round(np.geomspace(0.02, 0.6, 24), 4).tolist())
# Best mean Dice against DeepSA-like labels, 0.43, on 12 training frames of the phantom, 2026-11-22; where there are
# training rows, theirs is taken.
FRANGI_THRESHOLD = 0.065


class Tree(NamedTuple):
    """How likely each pixel is vessel, float32 (H, W) in [0, 1], and from which value on it counts."""

    probability: np.ndarray
    threshold: float


class TreeContestant(Contestant):
    """One that has no prompts: asked with a box it gives what it found inside of it."""

    prompts = frozenset({"none", "box"})

    def answer(self, encoded: Tree, prompt: Prompt) -> Answer:
        self.check_prompt(prompt)
        mask = encoded.probability >= encoded.threshold
        if prompt.box_px is not None:
            mask = mask & inside_box(mask.shape, prompt.box_px)
        return Answer(mask, float(encoded.probability[mask].mean()) if mask.any() else 0.0)


def inside_box(size: tuple[int, int], box_px: Sequence[float]) -> np.ndarray:
    """Bool (H, W): pixels whose centres lie in a box (x0, y0, x1, y1) px."""
    y, x = np.ogrid[: size[0], : size[1]]
    x0, y0, x1, y1 = box_px
    return (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)


class VesselContestant(TreeContestant):
    """A checkpoint of stages 1 to 3: its vessel mask."""

    def __init__(self, model: torch.nn.Module, checkpoint: dict, *, name: str, device: torch.device):
        self.model, self.device, self.name = model, device, name
        self.image_size = checkpoint["config"]["image_size"]
        self.about = describe_own(checkpoint)

    def encode(self, frame: np.ndarray, view_deg: Sequence[float] = NO_VIEW) -> Tree:
        probability = predict_vessels(
            self.model, frame, view_deg=view_deg, image_size=self.image_size, device=self.device
        )
        return Tree(probability, THRESHOLD)


class LumenContestant(Contestant):
    """A checkpoint of stage 4: the lumen of the segment in a box."""

    prompts = frozenset({"box"})

    def __init__(self, model: torch.nn.Module, checkpoint: dict, *, name: str, device: torch.device):
        self.model, self.device, self.name = model, device, name
        self.image_size = checkpoint["config"]["image_size"]
        self.about = describe_own(checkpoint)

    def encode(self, frame: np.ndarray, view_deg: Sequence[float] = NO_VIEW) -> tuple[np.ndarray, Sequence[float]]:
        return frame, view_deg  # it looks at a crop around the box, so nothing can be done before the box is known

    def answer(self, encoded: tuple[np.ndarray, Sequence[float]], prompt: Prompt) -> Answer:
        self.check_prompt(prompt)
        frame, view_deg = encoded
        lumen = predict_lumen(self.model, frame, prompt.box_px, view_deg=view_deg, image_size=self.image_size,
                              device=self.device)
        inside = lumen.share[lumen.share >= THRESHOLD]
        return Answer(lumen.mask_in_frame(), float(inside.mean()) if inside.size else 0.0)


def load_own(path: str | Path, device: torch.device, *, name: str = "") -> Contestant:
    """The contestant of one of this project's checkpoints, called as its file unless `name` says otherwise.
    CheckpointError as `models.loading.load_model`."""
    model, checkpoint = load_model(path, device)
    kind = LumenContestant if checkpoint["stage"] == LUMEN_STAGE else VesselContestant
    return kind(model, checkpoint, name=name or Path(path).stem, device=device)


def describe_own(checkpoint: dict) -> str:
    config = checkpoint["config"]
    return f"{checkpoint['stage']}, {config['backbone']} at {config['image_size']} px, epoch {checkpoint['epoch']}"


class FrangiContestant(TreeContestant):
    """Frangi's vesselness (MICCAI 1998) of dark ridges, by scikit-image, from a threshold on."""

    def __init__(self, threshold: float = FRANGI_THRESHOLD, source: str = "as on the phantom"):
        self.name, self.threshold = "frangi", threshold
        self.about = f"Frangi filter of scikit-image, threshold {threshold:g} ({source})"

    def encode(self, frame: np.ndarray, view_deg: Sequence[float] = NO_VIEW) -> Tree:
        return Tree(vesselness(frame), self.threshold)


def vesselness(frame: np.ndarray) -> np.ndarray:
    """Of a frame, uint8 RGB (H, W, 3), as float32 (H, W) in [0, 1]: 1 is the strongest but a thousandth of it."""
    scale = max(frame.shape) / FRANGI_OF_PX
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    found = frangi(grey, sigmas=[scale * sigma for sigma in FRANGI_SIGMAS_PX], black_ridges=True, mode="reflect")
    return np.clip(found / max(np.quantile(found, 0.999), 1e-12), 0, 1).astype(np.float32)


def fitted_frangi(cases: Sequence[Case]) -> FrangiContestant:
    """The filter with the threshold that is best on training cases: by mean Dice against their vessels."""
    scores = np.zeros(len(FRANGI_THRESHOLDS))
    for case in cases:
        frame, masks = case.read()
        found, label = vesselness(frame), masks.get(DEEPSA, masks[SEGMENT])
        scores += [dice(found >= threshold, label) for threshold in FRANGI_THRESHOLDS]
    return FrangiContestant(FRANGI_THRESHOLDS[int(scores.argmax())], f"best on {len(cases)} training frames")
