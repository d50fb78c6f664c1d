"""Where does the time of a training step go, and how near is each part to what the device can do?

    OMP_NUM_THREADS=1 python -m benchmarks.roofline                                      # sam3-tiny, on a CPU
    python -m benchmarks.roofline --backbone sam3 --batch-size 4 --device cuda --blocks  # block by block

Stage 1, random weights, made-up pictures, no block checkpointed (--checkpointed to have all so: a block's second
forward pass then counts as its backward pass). Of each part: its matrix arithmetic, that of the forward pass three times
(the backward pass has two products for each of its), as a share of the step's; the time of both; and its rate as a share
of that of a plain matrix product. A part with much time, little arithmetic and a low rate waits for memory or for its
many small kernels, not for arithmetic. The device is made to finish before and after each part, so the sum is a little
longer than a step is. Writes roofline.json to --out.
"""

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.steps import (
    RATES, WARM_UP_STEPS, describe_setting, made_up_batch, parse_steps, setting_of, step_parser,
)
from benchmarks.training_step import matrix_rate
from models.deepsa_model import build_deepsa_model
from train_stage1_deepsa import compute_loss
from utils.arguments import BACKBONES, choose_amp, choose_device
from utils.files import write_text_atomic
from utils.training_state import build_optimizer

TRUNK = "backbone.vision_backbone.trunk"
REST = "view, loss, rest"


def parts_of(model: torch.nn.Module, block_by_block: bool) -> dict[str, str]:
    """Name of a module to the part that it belongs to; no module lies in another."""
    trunk = model.get_submodule(TRUNK)
    parts = {f"{TRUNK}.patch_embed": "patches"}
    for number, block in enumerate(trunk.blocks):
        kind = "windowed" if block.window_size else "global"
        parts[f"{TRUNK}.blocks.{number}"] = f"block {number} ({kind})" if block_by_block else f"{kind} blocks"
    for number in range(len(model.backbone.vision_backbone.convs)):
        parts[f"backbone.vision_backbone.convs.{number}"] = f"neck, level {number}"
    return parts | {"segmentation_head": "head"}


class Stopwatch:
    """Seconds of each part's forward and backward pass, by hooks on its modules."""

    def __init__(self, model: torch.nn.Module, parts: dict[str, str], device: torch.device):
        self.device, self.seconds = device, defaultdict(float)
        self._began: dict[tuple[str, str], float] = {}
        for name, part in parts.items():
            module = model.get_submodule(name)
            module.register_forward_pre_hook(lambda *_, at=(name, "forward"): self._start(at))
            module.register_forward_hook(lambda *_, at=(name, "forward"), part=part: self._stop(at, part))
            module.register_full_backward_pre_hook(lambda *_, at=(name, "backward"): self._start(at))
            module.register_full_backward_hook(lambda *_, at=(name, "backward"), part=part: self._stop(at, part))

    def now(self) -> float:
        """The clock, when the device has done all it was given; on a CPU the processor's time, which others disturb
        least."""
        if self.device.type != "cuda":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _start(self, at: tuple[str, str]) -> None:
        self._began[at] = self.now()

    def _stop(self, at: tuple[str, str], part: str) -> None:
        self.seconds[part, at[1]] += self.now() - self._began.pop(at)


def arithmetic_of(model: torch.nn.Module, batch: dict, parts: dict[str, str], amp: str, device) -> dict[str, float]:
    """Multiplications and additions of each part, forward and backward pass."""
    # Of the forward pass alone: the counter cannot tell whose backward pass it sees.
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        loss_of(model, batch, amp, device)
    counted, root = counter.get_flop_counts(), type(model).__name__
    arithmetic: dict[str, float] = defaultdict(float)
    for name, part in parts.items():
        arithmetic[part] += 3 * sum(counted.get(f"{root}.{name}", {}).values())
    arithmetic[REST] = max(0, 3 * counter.get_total_flops() - sum(arithmetic.values()))
    return arithmetic


def loss_of(model: torch.nn.Module, batch: dict, amp: str, device: torch.device) -> torch.Tensor:
    with torch.autocast(device.type, torch.bfloat16, enabled=amp == "bf16"):
        return compute_loss(model, batch)["loss"].mean()


def measure(options: argparse.Namespace) -> Iterator[dict]:
    """A dict a part: `part`, `share_of_arithmetic`, `forward_ms`, `backward_ms`, `rate` (share of the matrix rate)."""
    device = choose_device(options.device)
    amp, _ = choose_amp(options.amp, device)
    torch.manual_seed(options.seed)
    model = build_deepsa_model(backbone=options.backbone, image_size=options.image_size, random_init=True)
    blocks = BACKBONES[options.backbone].blocks if options.checkpointed else 0
    model.backbone.trade_memory(checkpointed_blocks=blocks, compiled=False)
    model.to(device).train()
    batch, parts = made_up_batch(options, device), parts_of(model, options.blocks)
    batch["image"].requires_grad_()  # or the first module's backward pass has no end that a hook could see
    arithmetic = arithmetic_of(model, batch, parts, amp, device)
    optimizer = build_optimizer(model.parameter_groups(**RATES), device)
    watch, steps = Stopwatch(model, parts, device), []
    for _ in range(WARM_UP_STEPS + options.steps):
        watch.seconds.clear()
        began = watch.now()
        loss_of(model, batch, amp, device).backward()
        passed = watch.now()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds = dict(watch.seconds)
        seconds["optimizer", "forward"] = watch.now() - passed
        seconds[REST, "forward"] = max(0.0, passed - began - sum(watch.seconds.values()))
        steps.append(seconds)
    total, rate = sum(arithmetic.values()), matrix_rate(options, device)
    for part in [*dict.fromkeys(parts.values()), REST, "optimizer"]:
        forward, backward = (
            float(np.median([step.get((part, way), 0.0) for step in steps[WARM_UP_STEPS:]]))
            for way in ("forward", "backward")
        )
        done = arithmetic.get(part, 0.0)
        yield {
            "part": part, "share_of_arithmetic": done / total, "forward_ms": 1000 * forward,
            "backward_ms": 1000 * backward, "rate": done / max(forward + backward, 1e-9) / rate,
        }


def report(content: dict) -> str:
    """A line a part."""
    rows = content["parts"]
    total = sum(row["forward_ms"] + row["backward_ms"] for row in rows)
    lines = [describe_setting(content["setting"]),
             f"{'part':22}{'arithmetic':>11}{'time':>8}{'forward ms':>12}{'backward ms':>13}{'of matrix rate':>16}"]
    for row in rows:
        share = (row["forward_ms"] + row["backward_ms"]) / total
        lines.append(
            f"{row['part']:22}{100 * row['share_of_arithmetic']:9.1f} %{100 * share:6.1f} %{row['forward_ms']:12.1f}"
            f"{row['backward_ms']:13.1f}{100 * row['rate']:14.1f} %"
        )
    return "\n".join([*lines, f"sum: {total:.0f} ms a step"])


def main(arguments: list[str] | None = None) -> int:
    parser = step_parser("roofline", __doc__)
    parser.add_argument("--blocks", action="store_true", help="a line for each block of the transformer")
    parser.add_argument("--checkpointed", action="store_true", help="with all blocks checkpointed")
    options = parse_steps(parser, arguments)
    if not BACKBONES[options.backbone].blocks:
        parser.error(f"--backbone {options.backbone}: give sam3 or sam3-tiny")
    content = {"setting": setting_of(options), "parts": list(measure(options))}
    write_text_atomic(options.out / "roofline.json", json.dumps(content, indent=1) + "\n")
    print(report(content))
    return 0


if __name__ == "__main__":
    sys.exit(main())
