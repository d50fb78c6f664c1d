"""Stage 1: SAM 3 learns to segment coronary vessels from DeepSA pseudo-labels.

    python train_stage1_deepsa.py --data-csv data.csv --sam3-checkpoint sam3.pt         # the mission's run
    python train_stage1_deepsa.py --data-csv data.csv --backbone medsam2 --medsam2-checkpoint MedSAM2_latest.pt
    python train_stage1_deepsa.py --data-csv data.csv --backbone sam3-tiny --epochs 5   # on a CPU
    python train_stage1_deepsa.py --data-csv data.csv --backbone sam3-tiny --dry-run    # does it all work?
    python train_stage1_deepsa.py ... --resume                                          # go on from there
    python train_stage1_deepsa.py ... --lora                                            # train small adapters only
    python train_stage1_deepsa.py ... --eval-only --init-from checkpoints/phase1_deepsa_best.pth
    torchrun --nproc-per-node 2 train_stage1_deepsa.py ...                              # as torchrun says

Windows: the script starts its processes itself. For torchrun there, `set USE_LIBUV=0` before it.

Ctrl-C or SIGTERM saves at the next step and leaves. In --checkpoint-dir: phase1_deepsa_latest.pth (to go on),
_best.pth (best validation Dice against the labels; with --lora also _adapter.pth, without the frozen backbone),
_history.jsonl, _curves.png, _metrics.json
(--eval-split train or all: _metrics_train.json, _metrics_all.json).
"""

from __future__ import annotations

import argparse

import torch

from models.deepsa_model import build_deepsa_model
from models.lora import plain_weights
from utils.arguments import weights_arguments
from utils.checkpoint import CheckpointError, load_checkpoint, load_weights
from utils.entry import clean_exit
from utils.losses import vessel_losses
from utils.metrics import dice, mask_scores, summarise_records
from utils.prediction import logits_at_size
from utils.stage import (
    Stage, check_image_size_of, describe_parent, launch_stage, load_tables, parse_stage_arguments, stage_parser,
)

STAGE = "phase1_deepsa"
MASTER_PORT = 12355
LOSS_WEIGHTS = dict(bce=0.5, dice=0.5)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = stage_parser(
        __doc__, epochs=50, batch_size=4, lr=1e-4, backbone_lr_scale=0.1, master_port=MASTER_PORT
    )
    return parse_stage_arguments(parser, arguments)


def build_model(args: argparse.Namespace, resumes: bool) -> tuple[torch.nn.Module, dict | None]:
    """The model from its backbone's released weights, at random, or from a stage 1 checkpoint (--init-from)."""
    source = None if resumes else args.init_from
    from_released = not resumes and source is None
    model = build_deepsa_model(
        backbone=args.backbone, image_size=args.image_size, use_view=args.use_view,
        random_init=args.random_init or not from_released, **(weights_arguments(args) if from_released else {}),
    )
    if source is None:
        return model, None
    checkpoint = load_checkpoint(source)
    if (stage := checkpoint["stage"]) != STAGE:
        raise CheckpointError(f"{source}: of stage {stage!r}; stage 1 starts from {STAGE!r} or from released weights")
    check_image_size_of(checkpoint, args)
    load_weights(model, plain_weights(checkpoint, source=source), source=source)
    return model, describe_parent(source, checkpoint)


def compute_loss(model: torch.nn.Module, batch: dict) -> dict[str, torch.Tensor]:
    """Per-sample losses (B,): `loss` = 0.5 BCE + 0.5 Dice, its parts, and the soft `dice` that they leave."""
    vessel_logits = model(batch["image"], batch["view_deg"])
    return vessel_losses(vessel_logits, batch["deepsa_mask"], **LOSS_WEIGHTS)


def score_batch(model: torch.nn.Module, batch: dict) -> list[dict[str, float]]:
    """One record a frame, scored at its own size against DeepSA's label and, if there is one, the truth."""
    vessel_logits = model(batch["image"], batch["view_deg"]).float()
    losses = vessel_losses(vessel_logits, batch["deepsa_mask"], **LOSS_WEIGHTS)["loss"].tolist()
    truths = batch.get("frame_truth_mask", [None] * len(losses))
    records = []
    labels, rows = batch["frame_deepsa_mask"], batch["row"].tolist()
    for row, loss, logits, label, truth in zip(rows, losses, vessel_logits, labels, truths, strict=True):
        prediction = logits_at_size(logits[0], label.shape) >= 0
        record = {"row": row, "loss": loss, **mask_scores(prediction, label, "deepsa")}
        if truth is not None:
            record |= mask_scores(prediction, truth, "truth") | {"deepsa_dice_truth": dice(label, truth)}
        records.append(record)
    return records


def summarise(records: list[dict], table) -> dict:
    """Means over frames, intervals over patients."""
    return summarise_records(records, table["patient_id"].tolist())


STAGE_1 = Stage(
    name=STAGE,
    classes=("vessel",),
    master_port=MASTER_PORT,
    best_metric="dice_deepsa",
    shown=(
        "train_loss", "train_dice", "val_loss", "val_dice_deepsa", "val_dice_truth", "val_deepsa_dice_truth",
    ),
    curves={
        "loss": ("train_loss", "val_loss"),
        "Dice against DeepSA": ("train_dice", "val_dice_deepsa"),
        "Dice against truth": ("val_dice_truth", "val_deepsa_dice_truth"),
        "learning rate": ("lr",),
    },
    build_model=build_model,
    compute_loss=compute_loss,
    score_batch=score_batch,
    summarise=summarise,
)


def main() -> None:
    args = parse_arguments()
    with clean_exit():
        launch_stage(STAGE_1, args, load_tables(args))


if __name__ == "__main__":
    main()
