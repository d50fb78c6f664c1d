"""Stage 1: SAM 3 learns to segment coronary vessels from DeepSA pseudo-labels.

    python train_stage1_deepsa.py --data-csv data.csv --sam3-checkpoint sam3.pt         # the mission's run
    python train_stage1_deepsa.py --data-csv data.csv --backbone sam3-tiny --epochs 5   # on a CPU
    python train_stage1_deepsa.py --data-csv data.csv --backbone sam3-tiny --dry-run    # does it all work?
    python train_stage1_deepsa.py ... --resume                                          # go on from there
    python train_stage1_deepsa.py ... --eval-only --init-from checkpoints/phase1_deepsa_best.pth
    torchrun --nproc-per-node 2 train_stage1_deepsa.py ...                              # as torchrun says

Windows: the script starts its processes itself. For torchrun there, `set USE_LIBUV=0` before it.

Ctrl-C or SIGTERM saves at the next step and leaves. In --checkpoint-dir: phase1_deepsa_latest.pth (to go on),
_best.pth (best validation Dice against the labels), _history.jsonl, _curves.png, _metrics.json
(--eval-split train or all: _metrics_train.json, _metrics_all.json).
"""

from __future__ import annotations

import argparse
import functools
import os

import torch

from data.dataset import AngiogramDataset, collate
from data.paths import parse_path_maps
from data.schema import load_table, select_split
from engine import DRY_RUN_BATCHES, evaluate, train_one_epoch
from models.deepsa_model import build_deepsa_model
from utils.arguments import (
    HelpFormatter,
    add_data_arguments,
    add_model_arguments,
    add_training_arguments,
    check_weights_arguments,
    choose_amp,
    choose_device,
    choose_image_size,
    choose_num_workers,
)
from utils.checkpoint import CheckpointError, load_checkpoint, load_weights
from utils.distributed import Ranks, launch, wrap_model
from utils.entry import clean_exit, command_line, describe_epoch, describe_start, describe_weights
from utils.interrupt import StopRequest
from utils.loader import build_loader
from utils.losses import bce_loss, soft_dice_loss
from utils.metrics import dice, format_summary, mask_scores, summarise_records
from utils.prediction import logits_at_size
from utils.run_files import RunFiles
from utils.sampler import EvaluationSampler, TrainingSampler
from utils.training_state import TrainingState, build_optimizer, build_schedule, digest_of_rows

STAGE = "phase1_deepsa"
CLASSES = ("vessel",)
MASTER_PORT = 12355
BCE_WEIGHT, DICE_WEIGHT = 0.5, 0.5
BEST_METRIC = "dice_deepsa"
SHOWN = (
    "train_loss", "train_dice", "val_loss", "val_dice_deepsa", "val_dice_truth", "val_deepsa_dice_truth",
)
CURVES = {
    "loss": ("train_loss", "val_loss"),
    "Dice against DeepSA": ("train_dice", "val_dice_deepsa"),
    "Dice against truth": ("val_dice_truth", "val_deepsa_dice_truth"),
    "learning rate": ("lr",),
}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add_data_arguments(parser)
    add_model_arguments(parser)
    add_training_arguments(
        parser, epochs=50, batch_size=4, lr=1e-4, backbone_lr_scale=0.1, master_port=MASTER_PORT
    )
    args = parser.parse_args(arguments)
    try:
        args.image_size = choose_image_size(args.backbone, args.image_size)
        parse_path_maps(args.path_map)
        check_weights_arguments(args.backbone, args.sam3_checkpoint, args.random_init)
        choose_device(args.device)
    except ValueError as error:
        parser.error(str(error))
    if args.eval_only and args.init_from is None:
        parser.error("--eval-only needs --init-from, the checkpoint to validate")
    if args.eval_only and args.resume:
        parser.error("--eval-only validates --init-from and trains nothing: leave --resume out")
    return args


def build_data(args: argparse.Namespace) -> dict:
    """Check the whole CSV; the tables of this run by split: train and val, or --eval-split as val."""
    shows_progress = int(os.environ.get("RANK", 0)) == 0
    table = load_table(args.data_csv, args.data_root, parse_path_maps(args.path_map), progress=shows_progress)
    if args.eval_only:
        return {"val": table if args.eval_split == "all" else select_split(table, args.eval_split)}
    return {split: select_split(table, split) for split in ("train", "val")}


def build_loaders(args: argparse.Namespace, tables: dict, ranks: Ranks, device: torch.device) -> dict:
    """A DataLoader a table: augmented and resumable for training, with masks at frame size for validation."""
    deal = dict(batch_size=args.batch_size, rank=ranks.rank, world_size=ranks.world_size)
    limit = DRY_RUN_BATCHES if args.dry_run else None
    loaders = {}
    for split, table in tables.items():
        if split == "train":
            variation = dict(augment=args.augment, seed=args.seed)
            dataset = AngiogramDataset(table, image_size=args.image_size, **variation)
            sampler = TrainingSampler(len(table), accum_steps=args.accum_steps, seed=args.seed, **deal)
        else:
            dataset = AngiogramDataset(table, image_size=args.image_size, frame_masks=True)
            sampler = EvaluationSampler(len(table), limit=limit, **deal)
        loaders[split] = build_loader(
            dataset, sampler, collate=collate, describe=functools.partial(describe_row, table), device=device,
            num_workers=choose_num_workers(args.num_workers, ranks.world_size),
        )
    return loaders


def describe_row(table, index: int) -> str:
    """Row `index` of a table in words: line of the CSV, cine and frame."""
    row = table.iloc[index]
    where = f"patient {row['patient_id']}, {row['cine_path']}, frame {row['frame_index']}"
    return f"CSV row {row['csv_line']} ({where})"


def build_model(args: argparse.Namespace, *, resumes: bool = False) -> tuple[torch.nn.Module, dict | None]:
    """The model with its first weights, and the checkpoint of this project that they came from, if any.

    resumes: they will come from the latest checkpoint, so no file is read for them here.
    """
    source = None if resumes else args.init_from
    from_sam3 = not resumes and source is None
    model = build_deepsa_model(
        backbone=args.backbone, image_size=args.image_size, use_view=args.use_view,
        sam3_checkpoint=args.sam3_checkpoint if from_sam3 else None,
        random_init=args.random_init or not from_sam3,
    )
    if source is None:
        return model, None
    checkpoint = load_checkpoint(source)
    if (stage := checkpoint["stage"]) != STAGE:
        raise CheckpointError(f"{source}: of stage {stage!r}; stage 1 starts from {STAGE!r} or from SAM 3")
    trained_at = checkpoint["config"].get("image_size")
    if args.eval_only and trained_at != args.image_size:
        raise CheckpointError(
            f"{source} was trained at --image-size {trained_at}, given is {args.image_size}: its scores at "
            f"another size would not be its own. Add --image-size {trained_at}."
        )
    load_weights(model, checkpoint["model"], source=source)
    facts = {key: checkpoint[key] for key in ("stage", "epoch", "global_step")}
    return model, {"path": str(source), **facts, "image_size": trained_at}


def compute_loss(model: torch.nn.Module, batch: dict) -> dict[str, torch.Tensor]:
    """Per-sample losses (B,): `loss` = 0.5 BCE + 0.5 Dice, its parts, and the soft `dice` that they leave."""
    vessel_logits = model(batch["image"], batch["view_deg"])
    return vessel_losses(vessel_logits, batch["deepsa_mask"])


def vessel_losses(vessel_logits: torch.Tensor, vessel_mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """Losses (B,) of logits (B, 1, H, W) against a mask (B, 1, H, W) of 0 and 1; in float32."""
    bce, dice_loss = bce_loss(vessel_logits, vessel_mask), soft_dice_loss(vessel_logits, vessel_mask)
    loss = BCE_WEIGHT * bce + DICE_WEIGHT * dice_loss
    return {"loss": loss, "bce": bce.detach(), "dice": 1 - dice_loss.detach()}


def score_batch(model: torch.nn.Module, batch: dict) -> list[dict[str, float]]:
    """One record a frame, scored at its own size against DeepSA's label and, if there is one, the truth."""
    vessel_logits = model(batch["image"], batch["view_deg"]).float()
    losses = vessel_losses(vessel_logits, batch["deepsa_mask"])["loss"].tolist()
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


def report_evaluation(metrics: dict, split: str, parent: dict, files: RunFiles) -> None:
    """Write and print the `metrics` of the checkpoint `parent` on `split`."""
    of = {"checkpoint": parent["path"], "epoch": parent["epoch"], "global_step": parent["global_step"]}
    path = files.save_metrics({"split": split, **of, **metrics}, split=split)
    print(f"{parent['path']} on {split}: {format_summary(metrics)}\nwritten to {path}", flush=True)


def run(ranks: Ranks, args: argparse.Namespace, tables: dict) -> None:
    """Train, or only validate, as one of `ranks`."""
    device = choose_device(args.device, ranks.local_rank)
    amp, amp_reason = choose_amp(args.amp, device)
    files = RunFiles(args.checkpoint_dir, STAGE)
    say = print if ranks.is_main else lambda *_, **__: None
    torch.manual_seed(args.seed)
    with StopRequest(announce=ranks.is_main) as stop:
        model, parent = build_model(args, resumes=args.resume and files.latest.exists())
        model.to(device)
        loaders = build_loaders(args, tables, ranks, device)
        setting = dict(ranks=ranks, device=device, amp=amp, stop=stop)
        if args.eval_only:
            metrics = validate(model, loaders["val"], tables["val"], **setting)
            if ranks.is_main:
                report_evaluation(metrics, args.eval_split, parent, files)
            return
        sampler = loaders["train"].batch_sampler
        groups = model.parameter_groups(
            lr=args.lr, backbone_lr_scale=args.backbone_lr_scale, weight_decay=args.weight_decay
        )
        optimizer = build_optimizer(groups, device)
        steps = args.epochs * sampler.steps_per_epoch
        facts = {"amp": amp, "command": command_line(), "training_rows": digest_of_rows(tables["train"])}
        state = TrainingState(
            stage=STAGE, model=wrap_model(model, ranks, device), optimizer=optimizer, sampler=sampler,
            scheduler=build_schedule(optimizer, steps=steps, warmup_steps=args.warmup_steps),
            config={**vars(args), **facts}, classes=CLASSES, parent=parent,
        )
        torch.manual_seed(args.seed + 1 + ranks.rank)  # ranks must not drop the same paths
        weights = describe_weights(model.backbone.load_report, parent, args.image_size)
        say(describe_start(state, ranks, device, amp, amp_reason, tables, args.epochs, weights), flush=True)
        if args.resume:
            say(files.resume(state, ranks), flush=True)
        if state.progress.epoch >= args.epochs:
            say(f"all {args.epochs} epochs are done; give more --epochs to train on", flush=True)
        train(args, state, loaders, tables, files, setting, say)


def train(args, state: TrainingState, loaders: dict, tables: dict, files: RunFiles, setting: dict, say):
    """Epochs of training and validation, each leaving its files; a dry run leaves none, after two batches."""
    ranks, number = setting["ranks"], state.progress.epoch
    save = None if args.dry_run else functools.partial(files.save_latest, state, ranks)
    describe = functools.partial(describe_row, tables["train"])
    max_steps = DRY_RUN_BATCHES if args.dry_run else None
    while number < args.epochs:
        train_one_epoch(
            state, loaders["train"], compute_loss, clip=args.clip, save=save, save_every=args.save_every,
            max_steps=max_steps, describe=describe, **setting,
        )
        number, metrics = number + 1, None
        if number % args.eval_every == 0 or number == args.epochs or args.dry_run:
            metrics = validate(state.model, loaders["val"], tables["val"], save=save, **setting)
        is_best = state.finish_epoch(metrics, best_metric=BEST_METRIC)
        say(describe_epoch(state.progress.history[-1], SHOWN, is_best), flush=True)
        if args.dry_run:
            say("dry run: training and validation work; nothing was written", flush=True)
            return
        files.save_epoch(state, ranks, is_best=is_best, panels=CURVES)


def validate(model: torch.nn.Module, loader, table, **setting) -> dict:
    """Metrics of `model` on every row of `table`, the same on all ranks."""
    records = evaluate(model, loader, score_batch, **setting)
    return summarise_records(records, table["patient_id"].tolist())


def main() -> None:
    args = parse_arguments()
    with clean_exit():
        if not (args.resume or args.dry_run or args.eval_only):
            RunFiles(args.checkpoint_dir, STAGE).refuse_overwriting()
        world_size = 1 if args.device == "cpu" and args.world_size is None else args.world_size
        launch(
            run, (args, build_data(args)), world_size=world_size, backend=args.ddp_backend,
            port=args.master_port, default_port=MASTER_PORT,
        )


if __name__ == "__main__":
    main()
