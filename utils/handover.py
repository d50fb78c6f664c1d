"""How a stage after the first one starts: from a checkpoint of an earlier stage, or from one of its own."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence

import torch

from models.lora import plain_weights
from utils.arguments import BASELINE, WEIGHTS_ARGUMENTS
from utils.checkpoint import CheckpointError, load_checkpoint, load_part_of_weights, load_weights
from utils.run_files import RunFiles
from utils.stage import check_image_size_of, describe_parent, parse_stage_arguments

VIEW_PARTS = ("view_encoder.", "fusion.")  # what a model trained with --no-use-view leaves behind


def add_view_dropout(parser: argparse.ArgumentParser) -> None:
    """Add --view-dropout, read by the data set."""
    parser.add_argument(
        "--view-dropout", type=float, default=0.1, metavar="P",
        help="hide each angle of a training row with this probability, so that the model learns to do without",
    )


def parse_later_stage(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None, parents: Sequence[str]
) -> argparse.Namespace:
    """`parse_stage_arguments` for a stage that starts from the best checkpoint of one of `parents`, first come first.

    Without --init-from it is the first of them that is in --checkpoint-dir; where none is, the last one's name, for
    `check_parent` to miss.
    """
    args = parse_stage_arguments(parser, arguments)
    if args.backbone == BASELINE:
        parser.error(f"--backbone {BASELINE} is a baseline of stage 1, without features for later stages")
    if not 0 <= args.view_dropout < 1:
        parser.error(f"--view-dropout {args.view_dropout}: allowed is 0 to below 1")
    for flag in (*WEIGHTS_ARGUMENTS, "random_init"):
        if getattr(args, flag):
            parser.error(f"--{flag.replace('_', '-')} is for stage 1; this stage starts from a checkpoint of "
                         f"{' or '.join(parents)}, --init-from")
    if args.init_from is None:
        bests = [RunFiles(args.checkpoint_dir, stage).best for stage in parents]
        args.init_from = next((best for best in bests if best.exists()), bests[-1])
    return args


def check_parent(args: argparse.Namespace, stage: str, parents: Sequence[str]) -> None:
    """CheckpointError, before anything slow, when there is no checkpoint to start from or to go on with.

    A plan (--plan) needs none.
    """
    if args.plan:
        return
    resumes = args.resume and RunFiles(args.checkpoint_dir, stage).latest.exists()
    if not (args.init_from.exists() or resumes):
        raise CheckpointError(
            f"{args.init_from}: no such checkpoint. Train stage 1 first (train_stage1_deepsa.py), or give a "
            f"checkpoint of {' or '.join(parents)} with --init-from"
        )


def hand_over(
    model: torch.nn.Module, args: argparse.Namespace, *, stage: str, parents: Sequence[str], new: tuple[str, ...],
    left_behind: tuple[str, ...] = (), check_own: Callable[[Mapping], None] | None = None,
) -> dict:
    """Fill `model` from --init-from: all of it from a checkpoint of `stage`, else all but its `new` parts.

    new, left_behind: as in `load_part_of_weights`; check_own(checkpoint) may refuse one of `stage`. The adapters of a
    LoRA run are merged. Returns the facts of `describe_parent`, with `handed_over`, what came from an earlier stage, in
    words. CheckpointError where the checkpoint does not fit.
    """
    source, checkpoint = args.init_from, load_checkpoint(args.init_from)
    found, backbone = checkpoint["stage"], checkpoint["config"]["backbone"]
    if found not in (*parents, stage):
        raise CheckpointError(f"{source}: of stage {found!r}; {stage!r} starts from {' or '.join(map(repr, parents))}")
    if backbone != args.backbone:
        raise CheckpointError(f"{source} has --backbone {backbone}, given is {args.backbone}: give its own")
    if args.eval_only and found != stage:
        raise CheckpointError(f"{source}: of stage {found!r}; --eval-only here is for {stage!r}")
    check_image_size_of(checkpoint, args)
    parent, weights = describe_parent(source, checkpoint), plain_weights(checkpoint, source=source)
    if found == stage:
        if check_own is not None:
            check_own(checkpoint)
        load_weights(model, weights, source=source)
        return parent
    left = left_behind if args.use_view else (*left_behind, *VIEW_PARTS)
    words = load_part_of_weights(model, weights, source=source, new=new, left_behind=left)
    return {**parent, "handed_over": words}
