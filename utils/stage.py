"""What the stage scripts share: from a `Stage`, in which a script says what it means, to a run.

A script gives its model, its losses, its scores and what "best" is; ranks, loaders, checkpoints, resuming,
evaluation and the files of a run are the same for all of them, and are here.
"""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from data.dataset import AngiogramDataset, collate
from data.paths import parse_path_maps
from data.schema import load_table, select_split
from engine import DRY_RUN_BATCHES, ComputeLoss, ScoreBatch, evaluate, train_one_epoch
from models.lora import ENCODER, add_lora
from utils.arguments import (
    HelpFormatter,
    add_data_arguments,
    add_lora_arguments,
    add_model_arguments,
    add_training_arguments,
    check_memory_arguments,
    check_weights_arguments,
    choose_amp,
    choose_device,
    choose_image_size,
    choose_num_workers,
    weights_arguments,
)
from utils.checkpoint import CheckpointError
from utils.entry import command_line, describe_epoch, describe_start, describe_weights
from utils.interrupt import StopRequest
from utils.loader import build_loader
from utils.metrics import format_summary
from utils.plan import plan_run, plan_stage
from utils.ranks.distributed import Ranks, choose_world_size, launch, wrap_model
from utils.run_files import RunFiles
from utils.sampler import EvaluationSampler, TrainingSampler
from utils.training_state import (
    TrainingState, build_optimizer, build_schedule, check_same_everywhere, digest_of_rows,
)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of training, as its script describes it. It is sent to the ranks, so its functions are named ones.

    build_model(args, resumes) -> (model, parent): the model with its first weights, and the facts of the checkpoint
    of this project that they came from (`describe_parent`), if any; resumes: they will come from the latest
    checkpoint, so no file need be read for them. compute_loss, score_batch: see engine.py. summarise(records, table)
    -> the metrics of a validation, flat; of best_metric the highest value is best, or with lower_is_better the lowest.
    draw(records, table, files): pictures of a validation. dataset_class: of the samples, made with the common keywords
    and those of `dataset`. own_rates: learning rates of parts of the model that --lr does not set, by
    the start of their parameters' names. facts: plain values for the checkpoint's config that are not flags.
    """

    name: str
    classes: Sequence
    master_port: int
    best_metric: str
    lower_is_better: bool = False
    shown: Sequence[str]
    curves: Mapping[str, Sequence[str]]
    build_model: Callable[[argparse.Namespace, bool], tuple[torch.nn.Module, dict | None]]
    compute_loss: ComputeLoss
    score_batch: ScoreBatch
    summarise: Callable[[Sequence[Mapping], object], dict]
    draw: Callable[[Sequence[Mapping], object, RunFiles], None] | None = None
    dataset_class: type = AngiogramDataset
    dataset: Mapping[str, object] = field(default_factory=dict)
    own_rates: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, object] = field(default_factory=dict)


def stage_parser(description: str, **defaults) -> argparse.ArgumentParser:
    """The flags that every stage has; `defaults` as in `add_training_arguments`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=HelpFormatter)
    add_data_arguments(parser)
    add_model_arguments(parser)
    add_lora_arguments(parser)
    add_training_arguments(parser, **defaults)
    return parser


def parse_stage_arguments(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> argparse.Namespace:
    """Parse, and leave with a usage error where flags contradict each other or what there is here."""
    args = parser.parse_args(arguments)
    try:
        args.image_size = choose_image_size(args.backbone, args.image_size)
        parse_path_maps(args.path_map)
        check_weights_arguments(args.backbone, weights_arguments(args), args.random_init)
        check_memory_arguments(args.backbone, args.checkpoint_blocks, args.compile)
        choose_device(args.device)
    except ValueError as error:
        parser.error(str(error))
    if args.eval_only and args.init_from is None:
        parser.error("--eval-only needs --init-from, the checkpoint to validate")
    if args.eval_only and args.dry_run:
        parser.error("--eval-only writes the scores of all rows, --dry-run writes nothing: give one of the two")
    if args.eval_only and args.resume:
        parser.error("--eval-only validates --init-from and trains nothing: leave --resume out")
    return args


def load_tables(args: argparse.Namespace) -> dict:
    """Check the whole CSV; the tables of this run by split: train and val, or --eval-split as val."""
    shows_progress = int(os.environ.get("RANK", 0)) == 0
    table = load_table(args.data_csv, args.data_root, parse_path_maps(args.path_map), progress=shows_progress)
    if args.eval_only:
        return {"val": table if args.eval_split == "all" else select_split(table, args.eval_split)}
    return {split: select_split(table, split) for split in ("train", "val")}


def launch_stage(stage: Stage, args: argparse.Namespace, tables: dict) -> None:
    """Run `stage` on as many processes as asked for, or only plan it; refuses to write over another run."""
    if args.plan:
        print(plan_stage(stage, args, next(iter(tables.values())), adapt), flush=True)
        return
    if not (args.resume or args.dry_run or args.eval_only):
        RunFiles(args.checkpoint_dir, stage.name).refuse_overwriting()
    launch(
        run_stage, (stage, args, tables), world_size=choose_world_size(args.world_size, args.device),
        backend=args.ddp_backend, port=args.master_port, default_port=stage.master_port,
        hang_timeout=args.hang_timeout,
    )


def describe_parent(path: str | Path, checkpoint: Mapping) -> dict:
    """What a run remembers of the checkpoint that it started from."""
    facts = {key: checkpoint[key] for key in ("stage", "epoch", "global_step")}
    merged = {"merged_lora": True} if checkpoint["config"].get("lora") else {}
    return {"path": str(path), **facts, "image_size": checkpoint["config"].get("image_size"), **merged}


def check_image_size_of(checkpoint: Mapping, args: argparse.Namespace) -> None:
    """CheckpointError when --eval-only would score a checkpoint at a size that it was not trained at."""
    trained_at = checkpoint["config"].get("image_size")
    if args.eval_only and trained_at != args.image_size:
        raise CheckpointError(
            f"{args.init_from} was trained at --image-size {trained_at}, given is {args.image_size}: its scores "
            f"at another size would not be its own. Add --image-size {trained_at}."
        )


def build_loaders(
    stage: Stage, args: argparse.Namespace, tables: dict, ranks: Ranks, device: torch.device
) -> dict:
    """A DataLoader a table: augmented and resumable for training, with masks at frame size for validation."""
    deal = dict(batch_size=args.batch_size, rank=ranks.rank, world_size=ranks.world_size)
    limit = DRY_RUN_BATCHES if args.dry_run else None
    loaders = {}
    for split, table in tables.items():
        if split == "train":
            variation = dict(augment=args.augment, seed=args.seed)
            sampler = TrainingSampler(len(table), accum_steps=args.accum_steps, seed=args.seed, **deal)
        else:
            variation = dict(frame_masks=True)
            sampler = EvaluationSampler(len(table), limit=limit, **deal)
        dataset = stage.dataset_class(table, image_size=args.image_size, **variation, **stage.dataset)
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


def adapt(
    stage: Stage, model: torch.nn.Module, args: argparse.Namespace, *, is_pretrained: bool
) -> tuple[dict[str, float], str]:
    """With --lora, put adapters into `model`, in place; returns learning rates like `own_rates`, and what was done."""
    if not args.lora:
        return dict(stage.own_rates), ""
    words = add_lora(
        model.backbone, rank=args.lora_rank, alpha=args.lora_alpha, dropout=args.lora_dropout,
        targets=args.lora_targets,
    )
    if not is_pretrained:
        words += "\nWARNING: the backbone has random weights, and with --lora keeps them: adapters are for trained ones"
    # All that is trained of the backbone now is new.
    return {ENCODER: args.lr, **stage.own_rates}, words


def run_stage(ranks: Ranks, stage: Stage, args: argparse.Namespace, tables: dict) -> None:
    """Train, or only validate, as one of `ranks`."""
    device = choose_device(args.device, ranks.local_rank)
    amp, amp_reason = choose_amp(args.amp, device)
    files = RunFiles(args.checkpoint_dir, stage.name)
    say = print if ranks.is_main else lambda *_, **__: None
    torch.manual_seed(args.seed)
    with StopRequest(announce=ranks.is_main) as stop:
        resumes = ranks.share(args.resume and files.latest.exists())
        model, parent = stage.build_model(args, resumes)
        model.to(device)
        loaders = build_loaders(stage, args, tables, ranks, device)
        setting = dict(ranks=ranks, device=device, amp=amp, stop=stop)
        if args.eval_only:
            evaluate_only(stage, model, loaders["val"], tables["val"], args, parent, files, setting)
            return
        is_pretrained = resumes or parent is not None or model.backbone.load_report is not None
        own_rates, lora = adapt(stage, model, args, is_pretrained=is_pretrained)
        if device.type == "cuda" and ranks.is_main:
            say(plan_run(stage, model, loaders["train"].dataset[0], args, amp=amp, ranks=ranks.world_size), flush=True)
        model.backbone.trade_memory(checkpointed_blocks=args.checkpoint_blocks, compiled=args.compile)
        sampler = loaders["train"].batch_sampler
        groups = model.parameter_groups(
            lr=args.lr, backbone_lr_scale=args.backbone_lr_scale, weight_decay=args.weight_decay,
            own_rates=own_rates,
        )
        optimizer = build_optimizer(groups, device)
        steps = args.epochs * sampler.steps_per_epoch
        facts = {"amp": amp, "command": command_line(), "training_rows": digest_of_rows(tables["train"])}
        check_same_everywhere({**vars(args), **facts}, ranks)
        state = TrainingState(
            stage=stage.name, model=wrap_model(model, ranks, device, exchange=args.grad_exchange),
            optimizer=optimizer, sampler=sampler,
            scheduler=build_schedule(optimizer, steps=steps, warmup_steps=args.warmup_steps),
            config={**vars(args), **facts, **stage.facts}, classes=stage.classes, parent=parent,
        )
        torch.manual_seed(args.seed + 1 + ranks.rank)  # ranks must not drop the same paths
        weights = describe_weights(model.backbone.load_report, parent, args.image_size)
        weights = "\n".join(words for words in (weights, lora) if words)
        say(describe_start(state, ranks, device, amp, amp_reason, tables, args.epochs, weights), flush=True)
        if args.resume:
            say(files.resume(state, ranks), flush=True)
        if state.progress.epoch >= args.epochs:
            say(f"all {args.epochs} epochs are done; give more --epochs to train on", flush=True)
        train(stage, args, state, loaders, tables, files, setting, say)


def train(
    stage: Stage, args, state: TrainingState, loaders: dict, tables: dict, files: RunFiles, setting: dict, say
) -> None:
    """Epochs of training and validation, each leaving its files; a dry run leaves none, after two batches."""
    ranks, number = setting["ranks"], state.progress.epoch
    save = None if args.dry_run else functools.partial(files.save_latest, state, ranks)
    describe = functools.partial(describe_row, tables["train"])
    max_steps = DRY_RUN_BATCHES if args.dry_run else None
    while number < args.epochs:
        train_one_epoch(
            state, loaders["train"], stage.compute_loss, clip=args.clip, save=save,
            save_every=args.save_every, max_steps=max_steps, describe=describe, **setting,
        )
        number, metrics, records = number + 1, None, None
        if number % args.eval_every == 0 or number == args.epochs or args.dry_run:
            records = evaluate(state.model, loaders["val"], stage.score_batch, save=save, **setting)
            metrics = stage.summarise(records, tables["val"])
        best = dict(best_metric=stage.best_metric, lower_is_better=stage.lower_is_better)
        is_best = state.finish_epoch(metrics, **best)
        say(describe_epoch(state.progress.history[-1], stage.shown, is_best), flush=True)
        if args.dry_run:
            say("dry run: training and validation work; nothing was written", flush=True)
            return
        files.save_epoch(state, ranks, is_best=is_best, panels=stage.curves)
        if records and stage.draw and ranks.is_main:
            files.draw(functools.partial(stage.draw, records, tables["val"], files))


def evaluate_only(
    stage: Stage, model, loader, table, args, parent: dict, files: RunFiles, setting: dict
) -> None:
    """Validate the checkpoint `parent` on --eval-split; write, draw and print what comes of it."""
    records = evaluate(model, loader, stage.score_batch, **setting)
    if not setting["ranks"].is_main:
        return
    split, metrics = args.eval_split, stage.summarise(records, table)
    of = {"checkpoint": parent["path"], "epoch": parent["epoch"], "global_step": parent["global_step"]}
    path = files.save_metrics({"split": split, **of, **metrics}, split=split)
    if stage.draw:
        # Pictures of other rows must not take the place of the run's own.
        own = files if split == "val" else RunFiles(files.folder, f"{files.stage}_{split}")
        files.draw(functools.partial(stage.draw, records, table, own))
    print(f"{parent['path']} on {split}: {format_summary(metrics)}\nwritten to {path}", flush=True)
