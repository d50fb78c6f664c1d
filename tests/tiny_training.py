"""A training run that takes milliseconds a step: the real engine and utils on a two-layer model and made-up
pictures.

    python -m tests.tiny_training --folder DIR --epochs 3 --world-size 2

Tests import `run` for one process, and start this file as a program to kill it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset, default_collate

from engine import evaluate, train_one_epoch
from utils.checkpoint import load_checkpoint
from utils.entry import clean_exit
from utils.interrupt import StopRequest
from utils.loader import build_loader
from utils.losses import bce_loss, soft_dice_loss
from utils.metrics import summarise_records
from utils.ranks.distributed import Ranks, launch, wrap_model
from utils.run_files import RunFiles
from utils.sampler import EvaluationSampler, TrainingSampler
from utils.training_state import TrainingState, build_optimizer, build_schedule

STAGE = "tiny"
CPU = torch.device("cpu")


class TinyModel(nn.Module):
    """Image (B, 3, H, W) to logits (B, 1, H, W); dropout makes it depend on the random numbers."""

    def __init__(self, *, dropout: float = 0.2, spare: bool = False) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 1, 3, padding=1)
        self.drop = nn.Dropout(dropout)
        if spare:
            self.spare = nn.Linear(2, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.last(self.drop(self.first(image).relu()))


class TinyData(Dataset):
    """Row n is a picture made from n and the epoch; some can be bad."""

    def __init__(self, rows: int, *, nan_row: int | None = None, broken_row: int | None = None) -> None:
        self.rows, self.nan_row, self.broken_row = rows, nan_row, broken_row

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, key) -> dict:
        index, epoch = key if isinstance(key, tuple) else (key, 0)
        if index == self.broken_row:
            raise OSError("disk on fire")
        generator = torch.Generator().manual_seed(1000 * epoch + index)
        image = torch.rand(3, 12, 12, generator=generator)
        if index == self.nan_row:
            image[0, 0, 0] = float("nan")
        return {"image": image, "mask": (image.mean(0, keepdim=True) > 0.5).float(), "row": index}


def compute_loss(model: nn.Module, batch: dict) -> dict[str, torch.Tensor]:
    """Per-sample losses of the tiny model."""
    logits = model(batch["image"])
    bce, dice_loss = bce_loss(logits, batch["mask"]), soft_dice_loss(logits, batch["mask"])
    return {"loss": 0.5 * bce + 0.5 * dice_loss, "dice": 1 - dice_loss.detach()}


def score_batch(model: nn.Module, batch: dict) -> list[dict[str, float]]:
    """One record a row."""
    losses = compute_loss(model, batch)
    columns = (batch["row"].tolist(), losses["loss"].tolist(), losses["dice"].tolist())
    return [dict(zip(("row", "loss", "dice"), values, strict=True)) for values in zip(*columns, strict=True)]


def options(**given) -> argparse.Namespace:
    """Options of a run, all of `parse_options` with those given instead of the defaults."""
    return argparse.Namespace(**{**vars(parse_options(["--folder", "."])), **given})


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    for name, value in dict(
        rows=9, epochs=2, batch_size=2, accum_steps=1, world_size=1, seed=0, save_every=2, num_workers=0
    ).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument(
        "--step-seconds", type=float, default=0.0, help="sleep in each forward pass, to be killed in"
    )
    parser.add_argument("--nan-row", type=int, default=None)
    parser.add_argument("--broken-row", type=int, default=None)
    parser.add_argument(
        "--fail-rank", type=int, default=None, help="this rank raises in its second forward pass"
    )
    parser.add_argument("--hard", action="store_true", help="... or dies without a word")
    parser.add_argument("--resume", action="store_true")
    return parser.parse_args(arguments)


def build_run(ranks: Ranks, args: argparse.Namespace) -> tuple[TrainingState, dict, RunFiles]:
    """State, loaders and files of a run, as a stage script builds them."""
    torch.manual_seed(args.seed)
    model = TinyModel(dropout=args.dropout)
    deal = dict(batch_size=args.batch_size, rank=ranks.rank, world_size=ranks.world_size)
    sampler = TrainingSampler(args.rows, accum_steps=args.accum_steps, seed=args.seed, **deal)
    samplers = {"train": sampler, "val": EvaluationSampler(5, **deal)}
    loaders = {
        split: build_loader(
            TinyData(samplers[split].rows, nan_row=args.nan_row, broken_row=args.broken_row),
            samplers[split],
            collate=default_collate,
            describe=describe,
            num_workers=args.num_workers,
            device=CPU,
        )
        for split in samplers
    }
    optimizer = build_optimizer(
        [{"params": list(model.parameters()), "lr": args.lr, "weight_decay": 0.01}], CPU
    )
    schedule = build_schedule(optimizer, steps=args.epochs * sampler.steps_per_epoch, warmup_steps=1)
    files = RunFiles(args.folder, STAGE)
    config = {key: getattr(args, key) for key in ("lr", "dropout", "epochs", "batch_size", "seed")}
    state = TrainingState(
        stage=STAGE,
        model=wrap_model(model, ranks, CPU),
        optimizer=optimizer,
        scheduler=schedule,
        sampler=sampler,
        config=config,
        classes=["vessel"],
        # A continuation is not told where the run came from: it must know by itself.
        parent=None if args.resume and files.latest.exists() else {"path": "start.pth"},
    )
    torch.manual_seed(args.seed + 1 + ranks.rank)
    return state, loaders, files


def describe(row: int) -> str:
    return f"picture {row}"


def run(ranks: Ranks, args: argparse.Namespace, loss=compute_loss, score=score_batch) -> TrainingState:
    """Train as a stage script does; returns the final state."""
    state, loaders, files = build_run(ranks, args)
    if args.resume and files.latest.exists():
        state.restore(load_checkpoint(files.latest), ranks, source=str(files.latest))
    with StopRequest(announce=ranks.is_main) as stop:
        setting = dict(
            ranks=ranks, device=CPU, amp="off", stop=stop, save=lambda: files.save_latest(state, ranks)
        )
        while state.progress.epoch < args.epochs:
            train_one_epoch(
                state, loaders["train"], loss, describe=describe, save_every=args.save_every, **setting
            )
            records = evaluate(state.model, loaders["val"], score, **setting)
            is_best = state.finish_epoch(summarise_records(records, "aabbc"), best_metric="dice")
            files.save_epoch(state, ranks, is_best=is_best, panels={"loss": ("train_loss", "val_loss")})
    return state


def watched_run(ranks: Ranks, args: argparse.Namespace) -> None:
    """`run` as a program: says each forward pass, and fails or dawdles as told."""
    passes = 0

    def loss(model, batch):
        nonlocal passes
        passes += 1
        print(f"pass {passes}", flush=True)
        time.sleep(args.step_seconds)
        if ranks.rank == args.fail_rank and passes == 2:
            if args.hard:
                import os

                os._exit(77)
            raise ArithmeticError("planted failure")
        return compute_loss(model, batch)

    def score(model, batch):
        time.sleep(args.step_seconds)
        return score_batch(model, batch)

    run(ranks, args, loss, score)


def main() -> None:
    args = parse_options()
    with clean_exit():
        launch(watched_run, (args,), world_size=args.world_size, default_port=12399)


if __name__ == "__main__":
    main()
