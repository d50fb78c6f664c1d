"""What does the exchange of gradients cost? Two processes beside one, and the exchange beside the backward pass.

    OMP_NUM_THREADS=1 python -m benchmarks.gradient_exchange
    OMP_NUM_THREADS=1 python -m benchmarks.gradient_exchange --backbone sam3 --image-size 336 --batch-size 1 \\
        --exchange fp32 --steps 2 --rounds 1                          # the whole model: 20 GB of memory

Stage 1's model (random weights, made-up pictures), its loss and optimizer, as one process and as two that talk over
gloo on this machine, with gradients in fp32, bf16 and fp16. Each process keeps to as many threads as OMP_NUM_THREADS
says, so that two processes have twice the processors of one: with as many cores free, efficiency is the time of a step
alone over that of two together. Without any exchange ("none": DDP's no_sync) the two only disturb each other in
memory, caches and by what else runs here; what they lose then no network can give back.

Hidden is the share of the exchange during which the backward pass was still working: from the moments at which DDP
gives a bucket away and has it back, and at which the last bucket is ready. Processor seconds are those of one process,
its exchange included, which other programs disturb less than the clock. Prints a table, and the seconds that an
exchange at full size takes over networks; writes gradient_exchange.json to --out.
"""

import argparse
import contextlib
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from benchmarks.steps import RATES, WARM_UP_STEPS, made_up_batch
from models.deepsa_model import build_deepsa_model
from train_stage1_deepsa import compute_loss
from utils.arguments import BACKBONES, HelpFormatter, choose_image_size, positive_int
from utils.files import write_text_atomic
from utils.ranks.distributed import Ranks, launch, wrap_model
from utils.ranks.exchange import (
    BYTES_PER_NUMBER, EXCHANGES, NETWORKS_GBIT_PER_S, HalvedExchange, exchange_bytes, exchange_seconds,
)
from utils.training_state import build_optimizer

# Trained numbers of the full-size model: all of its encoder, and with LoRA of rank 16 (LOG.md, 2026-11-22).
FULL_SIZE = {"full": 454_000_000, "LoRA 16": 9_040_000}
NONE = "none"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--backbone", choices=tuple(BACKBONES), default="sam3-tiny")
    parser.add_argument("--image-size", type=int, default=None)
    parser.add_argument("--batch-size", type=positive_int, default=2, help="samples per process")
    parser.add_argument("--steps", type=positive_int, default=10, help="measured steps of each way and round")
    parser.add_argument("--rounds", type=positive_int, default=3, help="times that all ways are measured in turn")
    parser.add_argument("--exchange", nargs="+", choices=tuple(EXCHANGES), default=list(EXCHANGES), metavar="WAY",
                        help=f"ways that are measured beside {NONE!r}, of {', '.join(EXCHANGES)}")
    parser.add_argument("--out", type=Path, default=Path("outputs/gradient_exchange"))
    options = parser.parse_args()
    options.image_size = choose_image_size(options.backbone, options.image_size)
    options.seed = 0
    return options


def measure(ranks: Ranks, options: argparse.Namespace, folder: Path) -> None:
    """Times of all ways of exchange on this rank; those of rank 0 are written to `folder`."""
    device = torch.device("cpu")
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    model = build_deepsa_model(backbone=options.backbone, image_size=options.image_size, random_init=True).train()
    optimizer = build_optimizer(model.parameter_groups(**RATES, own_rates=None), device)
    batch = made_up_batch(options, device)
    ways = [NONE] if ranks.world_size == 1 else [NONE, *options.exchange]
    names = ("step_seconds", "cpu_seconds", "backward_seconds", "exchange_seconds", "hidden")
    found = {way: {name: [] for name in names} for way in ways}
    for _ in range(options.rounds):
        for way in ways:
            times = []
            wrapped = model
            if ranks.world_size > 1:
                wrapped = wrap_model(model, ranks, device)
                wrapped.register_comm_hook(None, watched_hook(way, times))
            run_steps(options, wrapped, optimizer, batch, times, found[way], way, ranks)
            del wrapped
    if ranks.is_main:
        found["trained"] = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        (folder / f"{ranks.world_size}.json").write_text(json.dumps(found), encoding="utf-8")


def watched_hook(way: str, times: list):
    """DDP's exchange in the `way`, noting when each bucket leaves and when it is back."""
    halved = None if EXCHANGES.get(way) is None else HalvedExchange(EXCHANGES[way])

    def hook(_, bucket):
        left = time.perf_counter()
        if halved is not None:
            future = halved.average(bucket)
        else:
            buffer = bucket.buffer().div_(dist.get_world_size())
            future = dist.all_reduce(buffer, async_op=True).get_future().then(lambda done: done.value()[0])

        def back(done):
            times.append((left, time.perf_counter()))
            return done.value()

        return future.then(back)

    return hook


def run_steps(options, model, optimizer, batch, times: list, found: dict, way: str, ranks: Ranks) -> None:
    """Add the seconds of each measured step to `found`."""
    for step in range(WARM_UP_STEPS + options.steps):
        if ranks.world_size > 1:
            dist.barrier()
        times.clear()
        began, began_cpu = time.perf_counter(), time.process_time()
        with model.no_sync() if way == NONE and ranks.world_size > 1 else contextlib.nullcontext():
            compute_loss(model, batch)["loss"].mean().backward()
        computed = time.perf_counter()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ended = time.perf_counter()
        if step < WARM_UP_STEPS:
            continue
        found["step_seconds"].append(ended - began)
        found["cpu_seconds"].append(time.process_time() - began_cpu)
        found["backward_seconds"].append(computed - began)
        if times:
            busy, last_left = union_seconds(times), max(left for left, _ in times)
            after = union_seconds([(max(left, last_left), back) for left, back in times if back > last_left])
            found["exchange_seconds"].append(busy)
            found["hidden"].append(1 - after / busy)


def union_seconds(spans: list[tuple[float, float]]) -> float:
    """Length of the union of spans (begin, end)."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def summarise(alone: dict, together: dict, ways: Sequence[str]) -> list[dict]:
    """A row a way: medians, and efficiency against one process alone."""
    one, one_cpu = (float(np.median(alone[NONE][name])) for name in ("step_seconds", "cpu_seconds"))
    rows = [{"processes": 1, "exchange": NONE, "step_seconds": one, "cpu_seconds": one_cpu}]
    for way in (NONE, *ways):
        medians = {name: float(np.median(values)) for name, values in together[way].items() if values}
        rows.append({"processes": 2, "exchange": way, "efficiency": one / medians["step_seconds"],
                     "efficiency_cpu": one_cpu / medians["cpu_seconds"], **medians})
    return rows


def network_table() -> list[dict]:
    """Megabytes that each of two ranks sends a step, and seconds over networks, at full size."""
    return [
        {
            "training": training, "exchange": way, "megabytes": exchange_bytes(numbers, 2, BYTES_PER_NUMBER[way]) / 1e6,
            **{f"seconds_{speed}_gbit": exchange_seconds(numbers, 2, BYTES_PER_NUMBER[way], speed)
               for speed in NETWORKS_GBIT_PER_S},
        }
        for training, numbers in FULL_SIZE.items() for way in EXCHANGES
    ]


def print_rows(rows: list[dict]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    print("  ".join(f"{name:>16}" for name in names))
    for row in rows:
        cells = (row.get(name, "") for name in names)
        print("  ".join(f"{cell:16.3f}" if isinstance(cell, float) else f"{cell!s:>16}" for cell in cells))
    print()


def main() -> None:
    options = parse_arguments()
    options.threads = torch.get_num_threads()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for world_size in (1, 2):
            launch(measure, (options, Path(folder)), world_size=world_size, default_port=12391)
            found[world_size] = json.loads((Path(folder) / f"{world_size}.json").read_text(encoding="utf-8"))
    rows, networks = summarise(found[1], found[2], options.exchange), network_table()
    print_rows(rows)
    print_rows(networks)
    settings = {name: getattr(options, name) for name in ("backbone", "image_size", "batch_size", "steps", "rounds")}
    report = {
        "date": time.strftime("%Y-%m-%d"),
        "command": shlex.join(["python", "-m", "benchmarks.gradient_exchange", *sys.argv[1:]]),
        "device": f"CPU {platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__, "threads_per_process": options.threads, **settings,
        "trained_numbers": found[1]["trained"], "steps": rows, "networks": networks,
    }
    path = options.out / "gradient_exchange.json"
    write_text_atomic(path, json.dumps(report, indent=2) + "\n")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
