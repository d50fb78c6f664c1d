"""Training steps of stage 1, measured: what the programs share that ask how long a step takes and what it needs.

Each method is measured in a process of its own, in turn, so that its peak of memory is its own and a machine that is
busy for a while is busy for all of them.
"""

import argparse
import multiprocessing
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.cine_reading import peak_resident_bytes
from train_stage1_deepsa import compute_loss
from utils.arguments import (
    BACKBONES, HelpFormatter, add_device_argument, choose_amp, choose_device, choose_image_size, non_negative_int,
    positive_int,
)

WARM_UP_STEPS = 2
RATES = dict(lr=1e-4, backbone_lr_scale=0.1, weight_decay=0.01)


def step_parser(name: str, description: str) -> argparse.ArgumentParser:
    """The flags that these programs have in common."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=description, formatter_class=HelpFormatter
    )
    add = parser.add_argument
    add("--backbone", choices=tuple(BACKBONES), default="sam3-tiny", help="with random weights")
    add("--image-size", type=int, default=None, help="side in pixels; without it the backbone's own")
    add("--batch-size", type=positive_int, default=2, help="samples a step")
    add("--steps", type=positive_int, default=10, help=f"timed, after {WARM_UP_STEPS} that are not")
    add("--rounds", type=positive_int, default=3, help="processes of each method, in turn")
    add("--amp", choices=("bf16", "off"), default=None, help="as in training")
    add("--seed", type=non_negative_int, default=0, help="of weights and pictures")
    add("--out", type=Path, default=Path("outputs/benchmarks"), help="folder to write to")
    add_device_argument(parser)
    return parser


def parse_steps(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse, and leave with a usage error for an image size that the backbone does not take."""
    options = parser.parse_args(arguments)
    try:
        options.image_size = choose_image_size(options.backbone, options.image_size)
    except ValueError as error:
        parser.error(str(error))
    return options


def made_up_batch(options: argparse.Namespace, device: torch.device) -> dict[str, torch.Tensor]:
    """Pictures (B, 3, S, S) of noise, angles, and masks (B, 1, S, S) of a tenth of the pixels."""
    size, samples = options.image_size, options.batch_size
    batch = {
        "image": torch.rand(samples, 3, size, size), "view_deg": torch.tensor([[30.0, -20.0]]).expand(samples, 2),
        "deepsa_mask": (torch.rand(samples, 1, size, size) < 0.1).float(),
    }
    return {name: value.to(device) for name, value in batch.items()}


def time_steps(
    options: argparse.Namespace, model: torch.nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> dict[str, float]:
    """Median time of a training step by the clock and by the processor, and bytes of its gradients."""
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


def measure_rounds(
    measure: Callable[[argparse.Namespace, str], dict[str, float]], options: argparse.Namespace, methods: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Median of each figure of `measure(options, method)` over --rounds fresh processes."""
    rounds: dict[str, list[dict]] = {method: [] for method in methods}
    turns = [method for _ in range(options.rounds) for method in methods]
    fresh = dict(mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1)
    with ProcessPoolExecutor(1, **fresh) as pool:
        for method in tqdm(turns, "measuring", disable=None):
            rounds[method].append(pool.submit(measure, options, method).result())
    return {
        method: {name: float(np.median([one[name] for one in rounds[method]])) for name in rounds[method][0]}
        for method in methods
    }


def setting_of(options: argparse.Namespace) -> dict:
    """What was measured, on what and when, for the JSON file."""
    device = choose_device(options.device)
    setting = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    return setting | {
        "amp": choose_amp(options.amp, device)[0], "threads": torch.get_num_threads(), "torch": torch.__version__,
        "machine": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "date": date.today().isoformat(),
    }


def describe_setting(setting: dict) -> str:
    """The same in a line."""
    return (
        f"{setting['backbone']} at {setting['image_size']} px, batch {setting['batch_size']}, {setting['machine']}, "
        f"amp {setting['amp']}, {setting['threads']} threads, {setting['date']}"
    )


def bytes_of(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def peak_bytes(device: torch.device) -> int:
    """The most memory that this process has held: of a GPU what torch allocated, else its resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_resident_bytes()
