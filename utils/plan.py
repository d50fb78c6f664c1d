"""--plan: what a step of training takes in memory, which settings fit a card, and what ranks exchange.

    print(plan_stage(stage, args, tables["train"], adapt))

Nothing is trained and no weights are read: see utils/memory.py.
"""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from tqdm import tqdm

from data.dataset import collate
from utils.arguments import BACKBONES, choose_amp, choose_device
from utils.memory import GIB, StepMemory, fewest_checkpointed, measure_step, usable_bytes
from utils.ranks.distributed import choose_world_size
from utils.ranks.exchange import BYTES_PER_NUMBER, NETWORKS_GBIT_PER_S, exchange_bytes, exchange_seconds

BATCHES = (1, 2, 4, 8)
# A checkpointed block's forward pass is done twice, and it is a third of its forward and backward pass.
SECOND_FORWARD = 1 / 3


class Fit(NamedTuple):
    """What a card can do: side of the picture, with LoRA or not, samples a pass, passes a step, blocks to checkpoint,
    and whether it fits at all."""

    image_size: int
    lora: bool
    batch_size: int
    accum_steps: int
    checkpointed: int
    peak: int
    fits: bool


def plan_stage(stage, args: argparse.Namespace, table, adapt: Callable) -> str:
    """The whole answer to --plan. table: rows, of which one is read. adapt: `utils.stage.adapt`, for LoRA."""
    device = choose_device(args.device)
    # Without a GPU the plan is for one, which multiplies bf16.
    amp = choose_amp(args.amp, device)[0] if device.type == "cuda" else args.amp or "bf16"
    ranks, card_bytes = choose_world_size(args.world_size, args.device), card_bytes_of(args)
    fits, asked, trained = [], "", 0
    sizes, sides = batches(args), image_sizes(args)
    with tqdm(total=2 * len(sides) * len(sizes), desc="planning", unit="setting") as bar:
        for side in sides:
            for model, sample, lora in built_models(stage, args, table, side, adapt):
                measure = functools.partial(measure_stage, stage, model, sample, args, amp, ranks)
                if (side, lora) == (args.image_size, args.lora):
                    asked = describe_memory(measure(args.batch_size, args.checkpoint_blocks), card_bytes)
                    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
                for batch_size in sizes:
                    fits.append(fit_batch(measure, args, side, lora, batch_size, usable_bytes(card_bytes)))
                    bar.update()
    return "\n".join([asked, "", *fit_table(fits, args), "", *exchange_table(trained, max(2, ranks))])


def plan_run(stage, model: torch.nn.Module, sample: Mapping, args: argparse.Namespace, *, amp: str, ranks: int) -> str:
    """The plan of a run that is about to start, on samples like this one, in a line; or why there is none."""
    try:
        memory = measure_stage(stage, model, sample, args, amp, ranks, args.batch_size, args.checkpoint_blocks)
    except Exception as error:  # a loss may ask for values, which shapes do not tell, and be trained all the same
        return f"memory: not planned ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
    return describe_memory(memory, card_bytes_of(args))


def card_bytes_of(args: argparse.Namespace) -> float:
    """Memory of the card to plan for: --card-gib, else that of this machine's, else a common card's 24 GiB."""
    if args.card_gib is not None:
        return args.card_gib * GIB
    device = choose_device(args.device)
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 24 * GIB


def describe_memory(memory: StepMemory, card_bytes: float) -> str:
    """The plan of one setting, in a line; a warning where it does not fit."""
    usable = usable_bytes(card_bytes)
    parts = ", ".join(f"{name} {getattr(memory, name) / GIB:.2f}" for name in StepMemory._fields if name != "peak")
    line = (f"memory: {memory.peak / GIB:.2f} GiB at the peak of a step, planned ({parts}); of {card_bytes / GIB:.1f} "
            f"GiB {usable / GIB:.1f} can be used")
    if memory.peak > usable:
        line += "\nWARNING: that does not fit; --plan says what does (--checkpoint-blocks, --batch-size, --lora)"
    return line


def measure_stage(
    stage, model: torch.nn.Module, sample: Mapping, args: argparse.Namespace, amp: str, ranks: int, batch_size: int,
    checkpointed: int | None,
) -> StepMemory:
    """Memory of a step of `stage` on `batch_size` such samples, with so many checkpointed blocks."""
    model.backbone.trade_memory(checkpointed_blocks=checkpointed, compiled=False)
    keeps_gradients = ranks > 1 or effective_batch(args) > batch_size
    batch = collate([sample] * batch_size)
    return measure_step(model, batch, stage.compute_loss, amp=amp, keeps_gradients=keeps_gradients)


def image_sizes(args: argparse.Namespace) -> list[int]:
    """The side asked for, and the next smaller one that the backbone takes, if it is of use."""
    step = BACKBONES[args.backbone].step_px
    smaller = args.image_size * 2 // 3 // step * step
    return [args.image_size, *([smaller] if smaller >= step else [])]


def batches(args: argparse.Namespace) -> list[int]:
    """Samples a pass that are looked at."""
    return sorted({*BATCHES, args.batch_size})


def effective_batch(args: argparse.Namespace) -> int:
    """Samples of an optimizer step on one rank."""
    return args.batch_size * args.accum_steps


def built_models(stage, args, table, image_size: int, adapt) -> Iterator[tuple[torch.nn.Module, Mapping, bool]]:
    """(model, sample, whether with LoRA), first in full, then the same with adapters."""
    setting = argparse.Namespace(**{**vars(args), "image_size": image_size, "lora": True})
    dataset = stage.dataset_class(table, image_size=image_size, augment=args.augment, seed=args.seed, **stage.dataset)
    sample = dataset[0]
    model, _ = stage.build_model(setting, True)
    yield model, sample, False
    adapt(stage, model, setting, is_pretrained=True)
    yield model, sample, True


def fit_batch(
    measure: Callable[[int, int], StepMemory], args, image_size: int, lora: bool, batch_size: int, usable: float
) -> Fit:
    """The fastest way to do batches of so many on the card."""
    blocks = BACKBONES[args.backbone].blocks
    number, peak = fewest_checkpointed(lambda count: measure(batch_size, count).peak, blocks, usable)
    accum_steps = math.ceil(effective_batch(args) / batch_size)
    return Fit(image_size, lora, batch_size, accum_steps, number, peak, peak <= usable)


def fit_table(fits: list[Fit], args: argparse.Namespace) -> list[str]:
    """The lines that say what fits."""
    blocks = BACKBONES[args.backbone].blocks
    lines = [
        f"what fits, for steps of {effective_batch(args)} samples a process at least (extra time: of checkpointing)",
        f"  {'training':9}{'--image-size':>13}{'--batch-size':>13}{'--accum-steps':>14}{'--checkpoint-blocks':>20}"
        f"{'extra time':>11}{'peak GiB':>10}",
    ]
    for fit in fits:
        extra = f"{100 * SECOND_FORWARD * fit.checkpointed / blocks:.0f} %" if blocks else "0 %"
        number = str(fit.checkpointed) if blocks else "-"
        lines.append(
            f"  {'LoRA' if fit.lora else 'full':9}{fit.image_size:13}{fit.batch_size:13}{fit.accum_steps:14}"
            f"{number:>20}{extra:>11}{fit.peak / GIB:10.1f}" + ("" if fit.fits else "  does not fit")
        )
    return lines


def exchange_table(trained: int, ranks: int) -> list[str]:
    """The lines that say what an exchange of gradients costs."""
    lines = [f"exchange of {trained / 1e6:.1f} M gradients between {ranks} processes: seconds at best, by Gbit/s",
             f"  {'--grad-exchange':17}{'MB sent':>9}" + "".join(f"{speed:>9}" for speed in NETWORKS_GBIT_PER_S)]
    for name in ("fp32", "bf16"):
        size = BYTES_PER_NUMBER[name]
        seconds = (exchange_seconds(trained, ranks, size, speed) for speed in NETWORKS_GBIT_PER_S)
        sent = exchange_bytes(trained, ranks, size) / 1e6
        lines.append(f"  {name:17}{sent:9.0f}" + "".join(f"{value:9.2f}" for value in seconds))
    return lines
