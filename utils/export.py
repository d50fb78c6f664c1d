"""Make a small file of a checkpoint, to send or to ship: weights alone, in half precision; of a LoRA run a plain one.

    python -m utils.export checkpoints/phase1_deepsa_best.pth checkpoints/phase1_deepsa_tiny.pth
    python -m utils.export checkpoints/phase1_deepsa_best.pth plain.pth --merge-lora
    python -m utils.export checkpoints/phase1_deepsa_adapter.pth plain.pth --merge-lora --sam3-checkpoint sam3.pt
    python -m utils.export checkpoints/phase2_cass_adapter.pth plain.pth --merge-lora \\
        --base checkpoints/phase1_deepsa_best.pth

Every script that reads checkpoints reads it; training cannot be resumed from it, but started (`--init-from`). They read
that of a LoRA run too, and merge its adapters themselves each time. Its `_adapter.pth` is without the backbone that the
run started from, which is joined to it here, and must be that one bit for bit.
"""

from __future__ import annotations

import argparse
import sys
from argparse import BooleanOptionalAction
from collections.abc import Mapping
from pathlib import Path

import torch

from models.backbone import build_backbone
from models.lora import ENCODER, join_base, plain_weights
from utils.arguments import WEIGHTS_ARGUMENTS, weights_arguments
from utils.checkpoint import CheckpointError, load_checkpoint, save_checkpoint

# What only going on with the very same run needs: entries that every checkpoint has, if only as None, and
# those that a checkpoint of weights does without.
EMPTIED = ("optimizer", "scheduler", "rng", "sampler")
DROPPED = ("progress",)


def export_checkpoint(
    source: Path, target: Path, *, half: bool = True, merge: bool = False, base: Path | None = None,
    released: Mapping[str, Path | None] | None = None,
) -> None:
    """Write the weights of `source` to `target`, with `half` as float16, which is read back into float32.

    merge: those of a LoRA run without adapters. base, released: the backbone for a file of adapters alone, of another
    checkpoint or, by the name of its argument, of its released file.

    Raises CheckpointError when `source` is no checkpoint of this project, or has a weight that float16 cannot hold, or
    the backbone is another than the adapters'; ValueError when a file would be overwritten, or arguments do not go with
    `source`; OSError when `target` cannot be written.
    """
    for path in (source, base):
        if path is not None and path.resolve() == target.resolve():
            raise ValueError(f"{path} would be overwritten, and what only it has be lost: give another target")
    checkpoint = load_checkpoint(source)
    if (encoder := read_encoder(checkpoint, base, released or {})) is not None:
        weights, file = encoder
        checkpoint = join_base(checkpoint, weights, source=file)
    if merge:
        checkpoint = merge_checkpoint(checkpoint, source)
    model = to_half(checkpoint["model"], source) if half else checkpoint["model"]
    kept = {key: value for key, value in checkpoint.items() if key not in DROPPED}
    save_checkpoint(target, {**kept, **dict.fromkeys(EMPTIED), "model": model})


def read_encoder(
    checkpoint: Mapping, base: Path | None, released: Mapping[str, Path | None]
) -> tuple[Mapping[str, torch.Tensor], Path] | None:
    """Weights of the backbone that was given for `checkpoint`, and their file; None when none was.

    Raises ValueError when it has its own, CheckpointError and FileNotFoundError for files that cannot be read.
    """
    given = {name: path for name, path in released.items() if path is not None}
    if base is None and not given:
        return None
    if checkpoint.get("base") is None:
        raise ValueError("a backbone is given, but the checkpoint has its own: leave it out")
    if base is not None:
        return plain_weights(load_checkpoint(base), source=base), base
    config = checkpoint["config"]
    backbone = build_backbone(config["backbone"], image_size=config["image_size"], **given)
    weights = {ENCODER + name: tensor for name, tensor in backbone.state_dict().items()}
    return weights, next(iter(given.values()))


def merge_checkpoint(checkpoint: Mapping, source: Path) -> dict:
    """`checkpoint` of a LoRA run, of the file `source`, with its adapters merged; ValueError for another one."""
    if not checkpoint["config"].get("lora"):
        raise ValueError(f"{source} is not of a LoRA run: there is nothing to merge, leave --merge-lora out")
    weights = plain_weights(checkpoint, source=source)
    return {**checkpoint, "model": weights, "config": {**checkpoint["config"], "lora": False}}


def to_half(state: Mapping[str, torch.Tensor], source: Path) -> dict[str, torch.Tensor]:
    """`state` with its numbers as float16; CheckpointError naming weights that are too large for it."""
    halved = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    beyond = [name for name, tensor in halved.items()
              if tensor.is_floating_point() and not torch.isfinite(tensor).all()]
    if beyond:
        raise CheckpointError(f"{source}: float16 holds numbers up to 65504; {', '.join(beyond[:5])} have larger ones")
    return halved


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a checkpoint that training wrote")
    parser.add_argument("target", type=Path, help="the file to write")
    parser.add_argument("--merge-lora", action=BooleanOptionalAction, default=False,
                        help="add the adapters of a LoRA run to the weights that they are beside: a plain checkpoint, "
                             "with the same output to 1e-5")
    parser.add_argument("--half", action=BooleanOptionalAction, default=None,
                        help="16 bits a weight; without it so, but 32 with --merge-lora, whose output is to stay")
    encoder = parser.add_mutually_exclusive_group()
    encoder.add_argument("--base", type=Path, default=None, metavar="CHECKPOINT",
                         help="for a file of adapters: a checkpoint with the backbone that they were trained beside")
    for name in WEIGHTS_ARGUMENTS:
        encoder.add_argument("--" + name.replace("_", "-"), type=Path, default=None,
                             help="likewise: the released weights that the run started from")
    args = parser.parse_args(arguments)
    half = not args.merge_lora if args.half is None else args.half
    try:
        export_checkpoint(args.source, args.target, half=half, merge=args.merge_lora, base=args.base,
                          released=weights_arguments(args))
    except (CheckpointError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{args.target}: {args.target.stat().st_size / 1e6:.1f} MB, from {args.source.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
