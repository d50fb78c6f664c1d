"""What does LoRA save? A training step with adapters beside one of all weights, on this machine.

    OMP_NUM_THREADS=1 python -m benchmarks.lora_against_full
    python -m benchmarks.lora_against_full --backbone sam3 --image-size 336 --batch-size 1 --steps 5
    python -m benchmarks.lora_against_full --backbone sam3 --device cuda --amp bf16

Stage 1's model (random weights, made-up pictures), its loss and optimizer; each method in a process of its own, in
turn, --rounds times. Counted: bytes of parameters, gradients and optimizer state, and how much of the last is the
backbone's, where LoRA is to need less than 5 %. Measured: the median time of a step, by the clock and by the
processor, which a busy machine disturbs least; and the peak of memory: on a GPU what torch allocated, on a CPU the
largest resident set of the process, also without what it held before there was a model (imports, for both those of
`peft` too). Prints a table and writes lora_against_full.json to --out.
"""

import argparse
import json
import sys

import psutil
import torch

from benchmarks.steps import (
    RATES, bytes_of, describe_setting, measure_rounds, parse_steps, peak_bytes, setting_of, step_parser, time_steps,
)
from models.deepsa_model import build_deepsa_model
from models.lora import ENCODER, add_lora
from utils.arguments import choose_device, positive_int
from utils.files import write_text_atomic
from utils.training_state import build_optimizer

METHODS = ("full", "lora")
MB = 1e6
# Figure: its unit, and by what it is divided.
SHOWN = {
    "trained": ("M", 1e6), "encoder_trained": ("M", 1e6), "parameters_bytes": ("MB", MB), "gradients_bytes": ("MB", MB),
    "optimizer_bytes": ("MB", MB), "encoder_optimizer_bytes": ("MB", MB), "peak_bytes": ("MB", MB),
    "peak_without_imports_bytes": ("MB", MB), "step_seconds": ("s", 1.0), "step_cpu_seconds": ("s", 1.0),
}


def measure(options: argparse.Namespace, method: str) -> dict[str, float]:
    """The figures of `SHOWN` for one method; in a fresh process, whose peak of memory is this method's then."""
    import peft  # noqa: F401 - counts as an import's memory, and the same for both

    device = choose_device(options.device)
    on_gpu = device.type == "cuda"
    held_before = 0 if on_gpu else psutil.Process().memory_info().rss
    torch.manual_seed(options.seed)
    model, optimizer = build_run(options, method, device)
    figures = time_steps(options, model, optimizer, device)
    peak = peak_bytes(device)
    return figures | optimizer_figures(model, optimizer) | {
        "parameters_bytes": bytes_of(model.parameters()), "peak_bytes": peak,
        "peak_without_imports_bytes": peak - held_before,
    }


def build_run(
    options: argparse.Namespace, method: str, device: torch.device
) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """Model and optimizer as a run of stage 1 has them."""
    model = build_deepsa_model(backbone=options.backbone, image_size=options.image_size, random_init=True)
    own_rates = None
    if method == "lora":
        add_lora(model.backbone, rank=options.lora_rank, alpha=2.0 * options.lora_rank)
        own_rates = {ENCODER: RATES["lr"]}
    model.to(device).train()
    return model, build_optimizer(model.parameter_groups(**RATES, own_rates=own_rates), device)


def optimizer_figures(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, int]:
    """Numbers that are trained and bytes of the optimizer's state, of the model and of its backbone alone."""
    figures = dict.fromkeys(("trained", "encoder_trained", "optimizer_bytes", "encoder_optimizer_bytes"), 0)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        state = bytes_of(optimizer.state[parameter].values())
        for prefix in ("", "encoder_") if name.startswith(ENCODER) else ("",):
            figures[f"{prefix}trained"] += parameter.numel()
            figures[f"{prefix}optimizer_bytes"] += state
    return figures


def run(options: argparse.Namespace) -> dict:
    """Measure, write, print; returns the content of the JSON file."""
    figures = measure_rounds(measure, options, METHODS)
    ratio = {name: round(figures["lora"][name] / figures["full"][name], 4) for name in SHOWN}
    content = {"setting": setting_of(options), **figures, "lora_by_full": ratio}
    write_text_atomic(options.out / "lora_against_full.json", json.dumps(content, indent=1) + "\n")
    print(report(content))
    return content


def report(content: dict) -> str:
    """A line for each figure: full fine-tuning, LoRA, and their ratio."""
    setting = content["setting"]
    lines = [
        f"{describe_setting(setting)}, LoRA rank {setting['lora_rank']}",
        f"{'':30}{'full':>12}{'LoRA':>12}      LoRA / full",
    ]
    for name, (unit, divisor) in SHOWN.items():
        full, lora = (content[method][name] / divisor for method in METHODS)
        label = f"{name.removesuffix('_bytes').removesuffix('_seconds').replace('_', ' ')} ({unit})"
        lines.append(f"{label:30}{full:12.3f}{lora:12.3f}{100 * content['lora_by_full'][name]:12.1f} %")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = step_parser("lora_against_full", __doc__)
    parser.add_argument("--lora-rank", type=positive_int, default=16, help="width of the adapters")
    run(parse_steps(parser, arguments))
    return 0


if __name__ == "__main__":
    sys.exit(main())
