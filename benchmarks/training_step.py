"""How lean and how fast is a training step, beside a plain loop over the package's own modules?

    OMP_NUM_THREADS=1 python -m benchmarks.training_step                             # sam3-tiny, on a CPU: ratios
    python -m benchmarks.training_step --backbone sam3 --batch-size 4 --device cuda  # what it is for

Stage 1, random weights, made-up pictures. Methods: `plain`, the package's ViT and neck as they come, bf16 autocast,
every block checkpointed, torch's AdamW; `full`, this project's step, all blocks checkpointed; `fewer`, the same with
as few checkpointed blocks as the card (or --card-gib) needs by the plan; `compiled`, that with torch.compile (only with
--compiled); `lora`. Each in a process of its own, in turn, --rounds times.

Told for each: samples a second and its ratio to `plain`; the arithmetic of the model (multiplications and additions of
matrices and convolutions, without what is computed twice) a second, as a share of what this device does in a plain
matrix product; the peak of memory, and the planned one. Writes training_step.json to --out.
"""

import argparse
import json
import sys
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.steps import (
    RATES, describe_setting, made_up_batch, measure_rounds, parse_steps, peak_bytes, setting_of, step_parser,
    time_steps,
)
from models.backbone import ARCHITECTURES
from models.deepsa_model import build_deepsa_model
from models.lora import ENCODER, add_lora
from models.sam3_package import TRUNK_SETTINGS, import_vision_modules
from train_stage1_deepsa import compute_loss
from utils.arguments import BACKBONES, choose_amp, choose_device, positive_float
from utils.files import write_text_atomic
from utils.memory import GIB, fewest_checkpointed, measure_step, usable_bytes
from utils.plan import card_bytes_of
from utils.training_state import build_optimizer

MATRIX_SIDE = {"cuda": 8192, "cpu": 1024}


class PlainBackbone(torch.nn.Module):
    """The package's own vision path around the weights of a `Sam3Backbone`, called as the package calls it."""

    def __init__(self, backbone: torch.nn.Module, architecture: dict):
        super().__init__()
        neck, trunk = backbone.vision_backbone, backbone.vision_backbone.trunk
        settings = {name: value for name, value in architecture.items() if name != "scale_factors"}
        neck.trunk = import_vision_modules().vitdet.ViT(
            img_size=backbone.image_size, **TRUNK_SETTINGS, **{**settings, "use_act_checkpoint": True},
        )
        neck.trunk.load_state_dict(trunk.state_dict(), strict=False)  # but for the rotary tables
        self.neck = neck

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        return self.neck((image - 0.5) / 0.5)[0]


def measure(options: argparse.Namespace, method: str) -> dict[str, float]:
    """The figures of one method, in a fresh process."""
    device = choose_device(options.device)
    torch.manual_seed(options.seed)
    model = build_deepsa_model(backbone=options.backbone, image_size=options.image_size, random_init=True)
    checkpointed = checkpointed_of(options, method, model)
    arithmetic = arithmetic_of(options, model)
    own_rates = None
    if method == "lora":
        add_lora(model.backbone, rank=16, alpha=32.0)
        own_rates = {ENCODER: RATES["lr"]}
    planned = plan(options, model, checkpointed)
    model.backbone.trade_memory(checkpointed_blocks=checkpointed, compiled=method == "compiled")
    if method == "plain":
        model.backbone = PlainBackbone(model.backbone, ARCHITECTURES[options.backbone])
    model.to(device).train()
    if method == "plain":
        optimizer = torch.optim.AdamW(model.parameters(), lr=RATES["lr"])
    else:
        optimizer = build_optimizer(model.parameter_groups(**RATES, own_rates=own_rates), device)
    figures = time_steps(options, model, optimizer, device)
    peak = peak_bytes(device)
    # By the processor on a CPU: other programs disturb it least, and with one thread it is the same.
    seconds = figures["step_seconds" if device.type == "cuda" else "step_cpu_seconds"]
    return {
        "samples_per_second": options.batch_size / seconds, "step_seconds": seconds,
        "checkpointed_blocks": checkpointed, "peak_gib": peak / GIB, "planned_gib": planned / GIB,
        "tflop_per_second": arithmetic / seconds / 1e12, "matrix_tflop_per_second": matrix_rate(options, device) / 1e12,
    }


def checkpointed_of(options: argparse.Namespace, method: str, model: torch.nn.Module) -> int:
    """All blocks; for `fewer` and `compiled` as few as the card needs."""
    blocks = BACKBONES[options.backbone].blocks
    if method not in ("fewer", "compiled"):
        return blocks
    usable = usable_bytes(card_bytes_of(options))
    return fewest_checkpointed(lambda number: plan(options, model, number), blocks, usable)[0]


def plan(options: argparse.Namespace, model: torch.nn.Module, checkpointed: int) -> int:
    """The planned peak in bytes."""
    model.backbone.trade_memory(checkpointed_blocks=checkpointed, compiled=False)
    amp, _ = choose_amp(options.amp, choose_device(options.device))
    batch = made_up_batch(options, torch.device("cpu"))
    return measure_step(model, batch, compute_loss, amp=amp, keeps_gradients=False).peak


def arithmetic_of(options: argparse.Namespace, model: torch.nn.Module) -> int:
    """Multiplications and additions of a step's matrix products and convolutions, nothing computed twice."""
    model.backbone.trade_memory(checkpointed_blocks=0, compiled=False)
    batch = made_up_batch(options, torch.device("cpu"))
    with FlopCounterMode(display=False) as counter:
        measure_step(model, batch, compute_loss, amp="bf16", keeps_gradients=False)
    return counter.get_total_flops()


def matrix_rate(options: argparse.Namespace, device: torch.device) -> float:
    """Multiplications and additions a second of a product of two square matrices, the best of ten."""
    side = MATRIX_SIDE[device.type]
    kind = torch.bfloat16 if choose_amp(options.amp, device)[0] == "bf16" else torch.float32
    left, right = (torch.rand(side, side, device=device, dtype=kind) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        clock = time.perf_counter if device.type == "cuda" else time.process_time
        began = clock()
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, clock() - began)
    return 2 * side**3 / best


def run(options: argparse.Namespace) -> dict:
    """Measure, write, print; returns the content of the JSON file."""
    methods = ["plain", "full", "fewer", *(["compiled"] if options.compiled else []), "lora"]
    content = {"setting": setting_of(options), **measure_rounds(measure, options, methods)}
    write_text_atomic(options.out / "training_step.json", json.dumps(content, indent=1) + "\n")
    print(report(content, methods))
    return content


def report(content: dict, methods: list[str]) -> str:
    """A line for each method."""
    plain = content["plain"]["samples_per_second"]
    lines = [describe_setting(content["setting"]),
             f"{'method':10}{'checkpointed':>13}{'samples/s':>11}{'to plain':>10}{'of matrix rate':>16}{'peak GiB':>10}"
             f"{'planned':>9}"]
    for method in methods:
        figures = content[method]
        share = figures["tflop_per_second"] / figures["matrix_tflop_per_second"]
        lines.append(
            f"{method:10}{figures['checkpointed_blocks']:13.0f}{figures['samples_per_second']:11.3f}"
            f"{figures['samples_per_second'] / plain:10.2f}{100 * share:14.1f} %{figures['peak_gib']:10.2f}"
            f"{figures['planned_gib']:9.2f}"
        )
    lines.append(f"matrix rate: {content['plain']['matrix_tflop_per_second']:.3f} TFLOP/s. Peaks on a CPU are of the "
                 "whole process, imports too; the plan is of tensors, on a GPU.")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = step_parser("training_step", __doc__)
    parser.add_argument("--compiled", action="store_true", help="measure torch.compile too, which takes minutes")
    parser.add_argument("--card-gib", type=positive_float, default=None, help="memory to plan `fewer` for; without it "
                        "the card's own, or 24")
    options = parse_steps(parser, arguments)
    if not BACKBONES[options.backbone].blocks:
        parser.error(f"--backbone {options.backbone}: the plain loop is over sam3's modules; give sam3 or sam3-tiny")
    run(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
