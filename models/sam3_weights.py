"""Load an official `sam3.pt`, its vision path or the whole of it: every tensor is accounted for, or nothing is loaded.

    report = load_sam3_vision_weights(vision_backbone, "sam3.pt")
    report = load_sam3_image_weights(model, "sam3.pt")

The package's own loader is `strict=False`: keys that do not match are dropped and random weights stay, unnoticed.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from utils.checkpoint import CheckpointError, describe_error, load_weights
from utils.torch_files import read_torch_file

VISION_PREFIX = "detector.backbone.vision_backbone."
# Tensors of the vision path that the image model does not use: the second neck, of the tracker, and the rotary
# tables, which are rebuilt for the image size.
UNUSED_PREFIX = "sam2_convs."
REBUILT_SUFFIX = ".freqs_cis"

# Where the parts of the file belong in a `Sam3Image` with its interactive predictor.
IMAGE_MODEL_PREFIXES = {"detector.": "", "tracker.": "inst_interactive_predictor.model."}

WHERE_TO_GET = (
    "SAM 3 weights are gated: ask for access at https://huggingface.co/facebook/sam3, download `sam3.pt`, and pass "
    "`--sam3-checkpoint PATH/sam3.pt`"
)
HOW_TO_GET = f"{WHERE_TO_GET}; `--backbone sam3-tiny` or an explicit `--random-init` work without it."


@dataclass(frozen=True)
class LoadReport:
    """What became of each tensor of the `part` of a checkpoint; unused: of the tracker's neck, left in the file."""

    matched: int
    rebuilt: int
    unused: int
    part: str = "vision path"

    def __str__(self) -> str:
        return (f"SAM 3 {self.part}: {self.matched} tensors matched, 0 missing, 0 unexpected "
                f"({self.rebuilt} rotary tables rebuilt, {self.unused} of the tracker's neck not used)")


def load_sam3_vision_weights(vision_backbone: torch.nn.Module, path: str | Path) -> LoadReport:
    """Copy the vision path of the official checkpoint at `path` into `vision_backbone`.

    Args:
        vision_backbone: a `Sam3DualViTDetNeck`, as `models.sam3_package.build_vision_backbone` makes it.
        path: a file that holds a dict of tensors named `detector.backbone.vision_backbone....`, as it is or under the
            key "model".

    Raises:
        FileNotFoundError: there is no such file; says how to get it.
        CheckpointError: not a readable checkpoint, or tensors are missing, unexpected or of another shape; names them,
            and `vision_backbone` is unchanged.
    """
    tensors = read_vision_tensors(path)
    rebuilt = [name for name in tensors if name.endswith(REBUILT_SUFFIX)]
    unused = [name for name in tensors if name.startswith(UNUSED_PREFIX)]
    offered = {name: tensor for name, tensor in tensors.items() if name not in {*rebuilt, *unused}}
    load_weights(vision_backbone, offered, source=path)
    return LoadReport(matched=len(offered), rebuilt=len(rebuilt), unused=len(unused))


def load_sam3_image_weights(model: torch.nn.Module, path: str | Path) -> LoadReport:
    """Copy the whole official checkpoint at `path`, image model and tracker, into `model`.

    Args:
        model: a `Sam3Image` with its interactive predictor, as `models.sam3_image_model` composes it.
        path: a file that holds a dict of tensors named `detector....` and `tracker....`, as it is or under the key
            "model". Only rotary tables are left out: the model has its own, for its image size.

    Raises:
        FileNotFoundError: there is no such file; says how to get it.
        CheckpointError: not a readable checkpoint, or tensors are missing, unexpected or of another shape; names them
            as the model does (`IMAGE_MODEL_PREFIXES`), and `model` is unchanged.
    """
    checkpoint = read_checkpoint(path)
    wanted = {name: tensor for name, tensor in checkpoint.items() if not name.endswith(REBUILT_SUFFIX)}
    offered: dict[str, torch.Tensor] = {}
    for name, tensor in wanted.items():
        in_model = _name_in_image_model(name)
        # Under its own name what would take another's place: it is then reported as unexpected.
        offered[name if in_model in offered else in_model] = tensor
    load_weights(model, offered, source=path)
    return LoadReport(matched=len(offered), rebuilt=len(checkpoint) - len(wanted), unused=0,
                      part="image model and tracker")


def _name_in_image_model(name: str) -> str:
    for prefix, replacement in IMAGE_MODEL_PREFIXES.items():
        if name.startswith(prefix):
            return replacement + name[len(prefix):]
    return f"{name} (neither {' nor '.join(IMAGE_MODEL_PREFIXES)})"


def read_vision_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Return the tensors of the vision path in the checkpoint at `path`, named as the vision backbone names them."""
    checkpoint = read_checkpoint(path)
    tensors = {name[len(VISION_PREFIX):]: tensor for name, tensor in checkpoint.items()
               if name.startswith(VISION_PREFIX)}
    if not tensors:
        raise CheckpointError(f"{path}: holds no tensor named {VISION_PREFIX}*; its first names are "
                              f"{[name[:80] for name in list(checkpoint)[:5]]}. {HOW_TO_GET}")
    return tensors


def read_checkpoint(path: str | Path) -> dict[str, torch.Tensor]:
    """Return what the checkpoint at `path` holds, by name, as it is or under the key "model", mapped into memory.

    Raises FileNotFoundError and CheckpointError as `load_sam3_image_weights`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such SAM 3 checkpoint. {HOW_TO_GET}")
    try:
        checkpoint = read_torch_file(path, mmap=True)
    except Exception as error:  # torch raises many types here: zip, pickle, EOF, runtime ...
        raise CheckpointError(f"{path}: not a readable PyTorch checkpoint ({describe_error(error)}); is the download "
                              "complete?") from error
    if isinstance(checkpoint, dict) and isinstance(checkpoint.get("model"), dict):
        checkpoint = checkpoint["model"]
    return {str(name): value for name, value in checkpoint.items()} if isinstance(checkpoint, dict) else {}
