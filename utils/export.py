"""Make a small file of a checkpoint, to send or to ship: weights alone, in half precision.

    python -m utils.export checkpoints/phase1_deepsa_best.pth checkpoints/phase1_deepsa_tiny.pth

Every script that reads checkpoints reads it; training cannot be resumed from it, but started (`--init-from`).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from utils.checkpoint import CheckpointError, load_checkpoint, save_checkpoint

# What only going on with the very same run needs: entries that every checkpoint has, if only as None, and
# those that a checkpoint of weights does without.
EMPTIED = ("optimizer", "scheduler", "rng", "sampler")
DROPPED = ("progress",)


def export_checkpoint(source: Path, target: Path) -> None:
    """Write the weights of `source` to `target` as float16; they are read back into float32.

    Raises CheckpointError when `source` is no checkpoint of this project, or has a weight that float16 cannot hold;
    ValueError when both are one file; OSError when `target` cannot be written.
    """
    if source.resolve() == target.resolve():
        raise ValueError(f"{source} would be overwritten, and its optimizer lost: give another target")
    checkpoint = load_checkpoint(source)
    model = {name: tensor.half() if tensor.is_floating_point() else tensor
             for name, tensor in checkpoint["model"].items()}
    beyond = [name for name, tensor in model.items()
              if tensor.is_floating_point() and not torch.isfinite(tensor).all()]
    if beyond:
        raise CheckpointError(f"{source}: float16 holds numbers up to 65504; {', '.join(beyond[:5])} have larger ones")
    kept = {key: value for key, value in checkpoint.items() if key not in DROPPED}
    save_checkpoint(target, {**kept, **dict.fromkeys(EMPTIED), "model": model})


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a checkpoint that training wrote")
    parser.add_argument("target", type=Path, help="the file to write")
    args = parser.parse_args(arguments)
    try:
        export_checkpoint(args.source, args.target)
    except (CheckpointError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{args.target}: {args.target.stat().st_size / 1e6:.1f} MB, from {args.source.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
