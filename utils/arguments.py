"""Flags that mean the same in every script, and what follows from them: device, precision, path maps."""

from __future__ import annotations

import argparse
import math
import os
from argparse import BooleanOptionalAction
from collections.abc import Sequence
from pathlib import Path

import torch

# 14-pixel patches in windows of 24 x 24: other sides would need padding that the pretrained model never saw.
IMAGE_SIZE_STEP = 336
# The backbones there are, and SAM 3's own size; models/backbone.py builds them.
DEFAULT_IMAGE_SIZE = {"sam3": 1008, "sam3-tiny": 336}


class HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps a docstring's lines as they are and shows every default."""


def add_data_arguments(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """--data-csv, --data-root, --path-map."""
    add = parser.add_argument_group("data").add_argument
    default = argparse.SUPPRESS if required else None
    add("--data-csv", type=Path, required=required, default=default,
        help="table of angiograms, one row a frame; check it alone with: python -m data.schema CSV")
    add("--data-root", type=Path, default=None,
        help="folder that relative paths in the CSV start from; without it the CSV's own folder")
    add("--path-map", action="append", default=[], metavar="OLD=NEW",
        help=r"replace a path prefix of the CSV, for example E:\AngiographyData=/mnt/angio; repeatable")


def add_model_arguments(
    parser: argparse.ArgumentParser, *, backbones: Sequence[str] = tuple(DEFAULT_IMAGE_SIZE)
) -> None:
    """--backbone, --sam3-checkpoint, --random-init, --image-size, --use-view."""
    add = parser.add_argument_group("model").add_argument
    add("--backbone", choices=backbones, default="sam3",
        help="sam3: the full vision path, 454 M parameters, for GPUs; sam3-tiny: the same parts, small, "
             "trains on a CPU")
    add("--sam3-checkpoint", type=Path, default=None,
        help="SAM 3's released weights (sam3.pt), the start of --backbone sam3")
    add("--random-init", action=BooleanOptionalAction, default=False,
        help="train the full-size backbone from random weights, without sam3.pt")
    add("--image-size", type=int, default=None,
        help="side of the square that the model sees, in pixels, a multiple of 336; without it 1008 for "
             "sam3 and 336 for sam3-tiny")
    add("--use-view", action=BooleanOptionalAction, default=True,
        help="condition the features on the C-arm's angles (FiLM)")


def add_training_arguments(
    parser: argparse.ArgumentParser,
    *,
    epochs: int = 50,
    batch_size: int = 4,
    lr: float = 1e-4,
    backbone_lr_scale: float = 0.1,
    master_port: int = 12355,
) -> None:
    """Everything about how training runs; the keywords are the stage's defaults."""
    _add_optimisation_arguments(parser, epochs, batch_size, lr, backbone_lr_scale)
    _add_run_arguments(parser)
    _add_machine_arguments(parser, master_port)


def add_device_argument(parser: argparse._ActionsContainer, *, default: str = "auto") -> None:
    """--device auto|cpu|cuda."""
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default=default,
                        help="auto takes CUDA where there is one, else the CPU")


def choose_image_size(backbone: str, image_size: int | None) -> int:
    """The side asked for, in pixels, or the backbone's own; ValueError unless a multiple of 336."""
    check_backbone(backbone)
    size = DEFAULT_IMAGE_SIZE[backbone] if image_size is None else image_size
    check_image_size(size)
    return size


def check_backbone(name: str) -> None:
    """ValueError for a name that no backbone has."""
    if name not in DEFAULT_IMAGE_SIZE:
        raise ValueError(f"--backbone {name!r} is not known; allowed: {', '.join(DEFAULT_IMAGE_SIZE)}")


def check_image_size(size: int) -> None:
    """ValueError unless a side of `size` pixels suits the backbones."""
    if size < IMAGE_SIZE_STEP or size % IMAGE_SIZE_STEP:
        raise ValueError(f"--image-size {size}: allowed is a multiple of {IMAGE_SIZE_STEP} (336, 672, 1008)")


def check_weights_arguments(backbone: str, sam3_checkpoint: str | Path | None, random_init: bool) -> None:
    """ValueError for flags about the first weights that contradict each other."""
    if sam3_checkpoint is None:
        return
    if backbone != "sam3":
        raise ValueError(f"--sam3-checkpoint is for --backbone sam3, not for {backbone}")
    if random_init:
        raise ValueError("--random-init trains without --sam3-checkpoint; give one of the two")


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """The device of this process; ranks of a machine share its GPUs in turn. ValueError without CUDA."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ValueError("--device cuda: torch finds no GPU. Use --device cpu, or a CUDA build of torch.")
    if name == "cpu" or not available:
        return torch.device("cpu")
    return torch.device("cuda", local_rank % torch.cuda.device_count())


def choose_amp(name: str | None, device: torch.device) -> tuple[str, str]:
    """("bf16" or "off", the reason): as asked, else bf16 where the hardware multiplies it natively.

    On a CPU without such instructions bf16 is slower than float32, so it stays off there unless asked for.
    """
    if name is not None:
        return name, "as asked with --amp"
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = cpu_multiplies_bf16()
    return ("bf16", "the device multiplies bf16") if native else ("off", "the device has no fast bf16")


def cpu_multiplies_bf16() -> bool:
    """Whether this processor has AVX512-BF16 or AMX, asked of torch (False where torch cannot tell)."""
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        question = getattr(torch.cpu, name, None)
        if question is not None and question():
            return True
    return False


def _add_optimisation_arguments(parser, epochs, batch_size, lr, backbone_lr_scale) -> None:
    add = parser.add_argument_group("optimisation").add_argument
    add("--epochs", type=positive_int, default=epochs, help="passes over the training rows")
    add("--batch-size", type=positive_int, default=batch_size, help="samples per process and forward pass")
    add("--accum-steps", type=positive_int, default=1,
        help="forward passes per optimizer step; more of them and a smaller --batch-size need less memory")
    add("--lr", type=positive_float, default=lr, help="peak learning rate of everything but the backbone")
    add("--backbone-lr-scale", type=non_negative_float, default=backbone_lr_scale,
        help="the backbone learns at this multiple of --lr")
    add("--weight-decay", type=non_negative_float, default=0.01,
        help="AdamW's decoupled weight decay")
    add("--warmup-steps", type=non_negative_int, default=None,
        help="optimizer steps of linear warm-up before the cosine; without it 5 %% of all, at most 200")
    add("--clip", type=non_negative_float, default=1.0,
        help="largest norm of the gradient; 0 turns clipping off")
    add("--amp", choices=("bf16", "off"), default=None,
        help="mixed precision; without it bf16 where the hardware multiplies it natively")
    add("--augment", action=BooleanOptionalAction, default=True,
        help="vary the training pictures (never a flip: it would swap LAO and RAO)")
    add("--seed", type=non_negative_int, default=0,
        help="of weights, order and augmentation; same seed, same run")


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("run").add_argument
    add("--checkpoint-dir", type=Path, default=Path("checkpoints"), help="where everything is written")
    add("--init-from", type=Path, default=None,
        help="start from the weights of this checkpoint; all must fit")
    add("--resume", action=BooleanOptionalAction, default=False,
        help="go on from the very step of the latest checkpoint in --checkpoint-dir; start if there is none")
    add("--save-every", type=positive_int, default=50,
        help="also save every so many optimizer steps; a killed run loses at most these")
    add("--eval-every", type=positive_int, default=1,
        help="validate every so many epochs, and after the last")
    add("--dry-run", action=BooleanOptionalAction, default=False,
        help="two steps of training and two batches of validation, then out; writes nothing")
    add("--eval-only", action=BooleanOptionalAction, default=False,
        help="validate --init-from on --eval-split, write the metrics and stop")
    add("--eval-split", choices=("val", "train", "all"), default="val", help="rows for --eval-only")


def _add_machine_arguments(parser: argparse.ArgumentParser, master_port: int) -> None:
    group = parser.add_argument_group("machine")
    add_device_argument(group)
    add = group.add_argument
    add("--num-workers", type=non_negative_int, default=None,
        help="processes per rank that load pictures; without it the cores to spare, at most 4; 0 loads in "
             "the training process")
    add("--world-size", type=positive_int, default=None,
        help="training processes; without it one per GPU, one on a CPU")
    add("--master-port", type=positive_int, default=None,
        help=f"TCP port where the processes meet; without it {master_port}, or a free one if that is taken")
    add("--ddp-backend", choices=("gloo", "nccl"), default="gloo",
        help="how gradients travel; gloo works everywhere, Windows too; nccl is faster on Linux GPUs")


def positive_int(text: str) -> int:
    """argparse type: an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


def non_negative_int(text: str) -> int:
    """argparse type: an integer of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is below 0")
    return value


def positive_float(text: str) -> float:
    """argparse type: a finite number above 0."""
    value = non_negative_float(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def non_negative_float(text: str) -> float:
    """argparse type: a finite number of at least 0."""
    value = float(text)
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 0")
    return value


def choose_num_workers(given: int | None, world_size: int) -> int:
    """Loader processes per rank: as given, else the cores that this machine's ranks leave, at most 4.

    Two cores or fewer: none, the training process loads its own pictures.
    """
    if given is not None:
        return given
    world_size = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))  # torchrun's, over several machines
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return min(4, max(0, cores // world_size - 1)) if cores > 2 else 0
