"""A model of any stage from its checkpoint."""

from pathlib import Path

import torch

from models.cass_model import build_cass_model
from models.deepsa_model import SAM3DeepSAModel, build_deepsa_model
from models.lora import plain_weights
from models.lumen_model import build_lumen_model
from models.obstruction_model import build_obstruction_model
from utils.checkpoint import CheckpointError, load_checkpoint, load_weights

STAGES = ("phase1_deepsa", "phase2_cass", "phase3_obstruction", "phase4_quantitative")


def load_model(path: str | Path, device: str | torch.device = "cpu") -> tuple[SAM3DeepSAModel, dict]:
    """Return the model of a checkpoint in eval mode, and the checkpoint's dict; its `stage` says what it answers.

    The adapters of a LoRA run are merged, so the model is a plain one. That of stage 2, `SAM3CASSModel`, has `classes`:
    the CASS numbers of its channels.

    Raises:
        CheckpointError: no such file, unreadable, or of a stage that this version does not know.
        MissingWeights: of --backbone litemedsam, whose package is not installed; says how to get it.
    """
    checkpoint = load_checkpoint(path)
    stage, config = checkpoint["stage"], checkpoint["config"]
    if stage not in STAGES:
        raise CheckpointError(f"{path}: a checkpoint of stage {stage!r}; known are {', '.join(STAGES)}")
    wanted = ("backbone", "image_size", "use_view")
    if absent := [name for name in wanted if name not in config]:
        raise CheckpointError(f"{path}: its config does not say {', '.join(absent)}, so its model cannot be built")
    parts = dict(**{name: config[name] for name in wanted}, random_init=True)
    if stage == "phase1_deepsa":
        model = build_deepsa_model(**parts)
    elif stage == "phase2_cass":
        model = build_cass_model(**parts, classes=tuple(checkpoint["classes"]))
    elif stage == "phase3_obstruction":
        model = build_obstruction_model(**parts)
    else:
        model = build_lumen_model(**parts)
    load_weights(model, plain_weights(checkpoint, source=path), source=path)
    return model.to(device).eval(), checkpoint
