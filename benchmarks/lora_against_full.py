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
import multiprocessing
import platform
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import torch
from tqdm import tqdm

from models.deepsa_model import build_deepsa_model
from models.lora import ENCODER, add_lora
from train_stage1_deepsa import compute_loss
from utils.arguments import (
    BACKBONES, HelpFormatter, add_device_argument, choose_amp, choose_device, choose_image_size, non_negative_int,
    positive_int,
)
from utils.files import write_text_atomic
from utils.training_state import build_optimizer

METHODS = ("full", "lora")
WARM_UP_STEPS = 2
RATES = dict(lr=1e-4, backbone_lr_scale=0.1, weight_decay=0.01)
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
    peak = torch.cuda.max_memory_allocated(device) if on_gpu else peak_resident_bytes()
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


def time_steps(
    options: argparse.Namespace, model: torch.nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> dict[str, float]:
    """Median time of a training step, and bytes of its gradients."""
    amp, _ = choose_amp(options.amp, device)
    batch, seconds, cpu_seconds = made_up_batch(options, device), [], []
    for _ in range(WARM_UP_STEPS + options.steps):
        began, began_cpu = time.perf_counter(), time.process_time()
        with torch.autocast(device.type, torch.bfloat16, enabled=amp == "bf16"):
            loss = compute_loss(model, batch)["loss"].mean()
        loss.backward()
        optimizer.step()
        gradients = bytes_of(parameter.grad for parameter in model.parameters() if parameter.grad is not None)
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
        cpu_seconds.append(time.process_time() - began_cpu)
    return {
        "gradients_bytes": gradients, "step_seconds": float(np.median(seconds[WARM_UP_STEPS:])),
        "step_cpu_seconds": float(np.median(cpu_seconds[WARM_UP_STEPS:])),
    }


def made_up_batch(options: argparse.Namespace, device: torch.device) -> dict[str, torch.Tensor]:
    """Pictures (B, 3, S, S) of noise, angles, and masks (B, 1, S, S) of a tenth of the pixels."""
    size, samples = options.image_size, options.batch_size
    batch = {
        "image": torch.rand(samples, 3, size, size), "view_deg": torch.tensor([[30.0, -20.0]]).expand(samples, 2),
        "deepsa_mask": (torch.rand(samples, 1, size, size) < 0.1).float(),
    }
    return {name: value.to(device) for name, value in batch.items()}


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


def bytes_of(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def peak_resident_bytes() -> int:
    """The most memory that this process has held."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else 1024 * largest  # Linux counts in KiB


def run(options: argparse.Namespace) -> dict:
    """Measure, write, print; returns the content of the JSON file."""
    rounds: dict[str, list[dict]] = {method: [] for method in METHODS}
    turns = [method for _ in range(options.rounds) for method in METHODS]
    fresh = dict(mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1)
    with ProcessPoolExecutor(1, **fresh) as pool:
        for method in tqdm(turns, "measuring", disable=None):
            rounds[method].append(pool.submit(measure, options, method).result())
    figures = {
        method: {name: float(np.median([one[name] for one in rounds[method]])) for name in SHOWN} for method in METHODS
    }
    ratio = {name: round(figures["lora"][name] / figures["full"][name], 4) for name in SHOWN}
    device = choose_device(options.device)
    setting = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    setting |= {
        "amp": choose_amp(options.amp, device)[0], "threads": torch.get_num_threads(), "torch": torch.__version__,
        "machine": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
    }
    content = {"setting": setting, **figures, "lora_by_full": ratio}
    write_text_atomic(options.out / "lora_against_full.json", json.dumps(content, indent=1) + "\n")
    print(report(content))
    return content


def report(content: dict) -> str:
    """A line for each figure: full fine-tuning, LoRA, and their ratio."""
    setting = content["setting"]
    lines = [
        f"{setting['backbone']} at {setting['image_size']} px, batch {setting['batch_size']}, LoRA rank "
        f"{setting['lora_rank']}, {setting['machine']}, amp {setting['amp']}, {setting['threads']} threads",
        f"{'':30}{'full':>12}{'LoRA':>12}      LoRA / full",
    ]
    for name, (unit, divisor) in SHOWN.items():
        full, lora = (content[method][name] / divisor for method in METHODS)
        label = f"{name.removesuffix('_bytes').removesuffix('_seconds').replace('_', ' ')} ({unit})"
        lines.append(f"{label:30}{full:12.3f}{lora:12.3f}{100 * content['lora_by_full'][name]:12.1f} %")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lora_against_full", description=__doc__,
                                     formatter_class=HelpFormatter)
    parser.add_argument("--backbone", choices=tuple(BACKBONES), default="sam3-tiny", help="with random weights")
    parser.add_argument("--image-size", type=int, default=None, help="side in pixels; without it the backbone's own")
    parser.add_argument("--batch-size", type=positive_int, default=2, help="samples a step")
    parser.add_argument("--steps", type=positive_int, default=10, help=f"timed, after {WARM_UP_STEPS} that are not")
    parser.add_argument("--rounds", type=positive_int, default=3, help="processes of each method, in turn")
    parser.add_argument("--lora-rank", type=positive_int, default=16, help="width of the adapters")
    parser.add_argument("--amp", choices=("bf16", "off"), default=None, help="as in training")
    parser.add_argument("--seed", type=non_negative_int, default=0, help="of weights and pictures")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks"), help="folder to write to")
    add_device_argument(parser)
    options = parser.parse_args(arguments)
    try:
        options.image_size = choose_image_size(options.backbone, options.image_size)
    except ValueError as error:
        parser.error(str(error))
    run(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
