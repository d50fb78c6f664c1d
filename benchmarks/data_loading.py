"""Do reading, loading and validation keep up with training? Figures of this machine, without a GPU.

    python -m benchmarks.data_loading                                    # makes its own data: phantom, 1016 px
    python -m benchmarks.data_loading --data-csv data.csv --images 96
    python -m benchmarks.data_loading --skip reading validation          # the loader alone

- reading: a frame of a cine of 66 x 1016 x 1016 x 3 against loading the cine, see benchmarks/cine_reading.py.
- loader: images a second of the training loader of stage 1 (augmented, --image-size, batches of four) in the training
  process and from one and two worker processes, nothing else to do; processor time an image, which a busy machine
  disturbs least, and what of it goes where. "others": cores that other programs had meanwhile.
- validation: processor time a sample of validation and of training, stage 1 with the small checkpoint that ships:
  reading and resizing, the model, the scores one by one; and validation's share of an epoch of this CSV.

Prints tables and writes data_loading.json to --out.
"""

from __future__ import annotations

import argparse
import cProfile
import functools
import json
import platform
import pstats
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import psutil
import torch

import make_phantom_dataset as phantom
from benchmarks.cine_reading import compare
from data.dataset import AngiogramDataset, collate
from data.schema import load_table, select_split
from models.loading import load_model
from train_stage1_deepsa import compute_loss, score_batch
from utils import metrics
from utils.arguments import HelpFormatter, positive_int
from utils.files import write_text_atomic
from utils.loader import build_loader
from utils.prediction import logits_at_size
from utils.sampler import TrainingSampler
from utils.stage import describe_row
from utils.training_state import build_optimizer

PARTS = ("reading", "loader", "validation")
CHECKPOINT = Path(__file__).resolve().parents[1] / "checkpoints" / "phase1_deepsa_tiny.pth"
CPU = torch.device("cpu")
BATCH_SIZE = 4
WORKERS = (0, 1, 2)
SAMPLES = 8  # that validation and training are timed on
# Functions that share no time, and what they do.
STEPS = {"read_frame": "read the frame", "read_mask": "read the label", "resize_picture": "resize",
         "augment": "augment"}
SCORES = ("dice", "iou", "cldice", "hd95_px")


def make_data(folder: Path) -> Path:
    """A phantom data set at 1016 px, as small as two splits and some patients allow; the path of its CSV."""
    given = ["--patients", "8", "--rows", "20", "--image-size", "1016", "--frames", "3", "--seed", "3"]
    phantom.run(phantom.parse_arguments(["--out", str(folder), *given]))
    return folder / "dataset.csv"


def time_loader(table: pd.DataFrame, image_size: int, workers: int, images: int) -> dict[str, float]:
    """Images a second after a first epoch, processor time an image of all processes, and cores that others had."""
    dataset = AngiogramDataset(table, image_size=image_size, augment=True)
    sampler = TrainingSampler(len(table), batch_size=BATCH_SIZE)
    loader = build_loader(dataset, sampler, collate=collate, describe=functools.partial(describe_row, table),
                          num_workers=workers, device=CPU)
    read_epoch(loader, 0)  # starts the workers and fills the system's cache
    done, epoch = 0, 1
    began, own, all_ = time.perf_counter(), own_seconds(), busy_seconds()
    while done < images:
        done += read_epoch(loader, epoch)
        epoch += 1
    wall, own, all_ = time.perf_counter() - began, own_seconds() - own, busy_seconds() - all_
    return {"images_per_s": done / wall, "cpu_ms_per_image": 1000 * own / done, "others": max(0.0, all_ - own) / wall}


def read_epoch(loader, epoch: int) -> int:
    """Samples of an epoch."""
    loader.batch_sampler.start(epoch)
    return sum(len(batch["row"]) for batch in loader)


def own_seconds() -> float:
    """Processor time of this process and of those that it started."""
    process = psutil.Process()
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def busy_seconds() -> float:
    """Processor time of the whole machine."""
    times = psutil.cpu_times()
    return times.user + times.system


def profile_samples(table: pd.DataFrame, image_size: int, count: int) -> dict[str, float]:
    """Milliseconds of processor time of a training sample by what they are for."""
    dataset = AngiogramDataset(table, image_size=image_size, augment=True)
    samples = [dataset[index % len(table)] for index in range(BATCH_SIZE)]
    profile = cProfile.Profile(time.process_time)
    profile.enable()
    for number in range(count):
        dataset[(number % len(table), 1 + number // len(table))]
    profile.disable()
    stats, sums = pstats.Stats(profile), dict.fromkeys(STEPS.values(), 0.0)
    for (_, _, name), (_, _, _, seconds, _) in stats.stats.items():
        if name in STEPS:
            sums[STEPS[name]] += seconds
    figures = {what: 1000 * seconds / count for what, seconds in sums.items()}
    figures["the rest"] = 1000 * stats.total_tt / count - sum(figures.values())
    return figures | {"make a batch": 1000 * cpu_seconds(lambda: collate(samples)) / BATCH_SIZE}


def cpu_seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Median processor time of `work`, after a first call that is not counted."""
    seconds = []
    for _ in range(repeats + 1):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return float(np.median(seconds[1:]))


def time_validation(train: pd.DataFrame, val: pd.DataFrame) -> dict[str, object]:
    """Milliseconds of processor time a sample, by what they are for, and validation's share of an epoch."""
    model, checkpoint = load_model(CHECKPOINT)
    image_size = checkpoint["config"]["image_size"]
    training = AngiogramDataset(train, image_size=image_size, augment=True)
    validation = AngiogramDataset(val, image_size=image_size, frame_masks=True)
    count = min(SAMPLES, len(train), len(val)) // BATCH_SIZE * BATCH_SIZE or 1
    batches = {name: [collate([dataset[row] for row in range(first, min(first + BATCH_SIZE, count))])
                      for first in range(0, count, BATCH_SIZE)]
               for name, dataset in (("train", training), ("val", validation))}
    groups = model.parameter_groups(lr=1e-6, backbone_lr_scale=0.1, weight_decay=0.0)  # hardly changes what it sees
    optimizer = build_optimizer(groups, CPU)

    def learn() -> None:
        for batch in batches["train"]:
            compute_loss(model, batch)["loss"].mean().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def predict() -> None:
        for batch in batches["val"]:
            model(batch["image"], batch["view_deg"])

    @torch.no_grad()
    def validate() -> None:
        for batch in batches["val"]:
            score_batch(model, batch)

    figures = {
        "training: load": cpu_seconds(lambda: [training[row] for row in range(count)], 2),
        "training: step": cpu_seconds(learn, 2),
        "validation: load": cpu_seconds(lambda: [validation[row] for row in range(count)], 2),
        "validation: model": cpu_seconds(predict, 2), "validation: model and scores": cpu_seconds(validate, 2),
        **time_scores(model, batches["val"]),
    }
    figures = {what: 1000 * seconds / count for what, seconds in figures.items()}
    epoch = len(train) * (figures["training: load"] + figures["training: step"])
    own = len(val) * (figures["validation: load"] + figures["validation: model and scores"])
    return {
        "image_size": image_size, "rows": {"train": len(train), "val": len(val)}, "cpu_ms_per_sample": figures,
        "share_of_epoch": own / (own + epoch), "share_of_rows": len(val) / (len(val) + len(train)),
        "scores_share_of_validation": 1 - (figures["validation: load"] + figures["validation: model"]) / (
            figures["validation: load"] + figures["validation: model and scores"]),
    }


@torch.no_grad()
def time_scores(model: torch.nn.Module, batches: list[dict]) -> dict[str, float]:
    """Seconds of each score over all frames of the batches, against the label alone."""
    pairs = []
    for batch in batches:
        for logits, label in zip(model(batch["image"], batch["view_deg"]), batch["frame_deepsa_mask"], strict=True):
            pairs.append((logits_at_size(logits[0], label.shape) >= 0, label))
    return {f"score: {name}": cpu_seconds(lambda: [getattr(metrics, name)(*pair) for pair in pairs])
            for name in SCORES}


def run(options: argparse.Namespace, folder: Path) -> dict:
    """Measure what was asked for; the content of the JSON file."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    content: dict[str, object] = {
        "command": f"python -m benchmarks.data_loading {shlex.join(sys.argv[1:])}".rstrip(),
        "date": date.today().isoformat(), "machine": describe_machine(), "image_size": options.image_size,
        "batch_size": BATCH_SIZE,
    }
    if "reading" not in options.skip:
        content["reading"] = compare(folder)
    if {"loader", "validation"} <= set(options.skip):
        return content
    table = load_table(options.data_csv or make_data(folder / "phantom"), progress=False)
    train, val = select_split(table, "train"), select_split(table, "val")
    if "loader" not in options.skip:
        content["loader"] = {
            "workers": {workers: time_loader(train, options.image_size, workers, options.images)
                        for workers in WORKERS},
            "cpu_ms_per_image": profile_samples(train, options.image_size, options.images),
        }
    if "validation" not in options.skip:
        content["validation"] = time_validation(train, val)
    return content


def describe_machine() -> str:
    """Processor, cores and versions that matter."""
    return (f"{platform.system()} {platform.machine()}, {psutil.cpu_count()} cores, no GPU used; torch "
            f"{torch.__version__}, OpenCV {cv2.__version__}, numpy {np.__version__}")


def report(content: dict) -> str:
    """The tables."""
    lines = [f"{content['date']}, {content['machine']}"]
    for name, one in content.get("reading", {}).items():
        lines.append(f"{name} ({one['file_bytes'] / 1e6:.0f} MB): the cine costs a frame's "
                     + ", ".join(f"{what} x {times:g}" for what, times in one["times_cheaper"].items()))
        for way in ("frame", "cine"):
            cold = one[way]["cold_s"]
            lines.append(f"  {way:6} warm {1e3 * one[way]['warm_s']:8.2f} ms, cold "
                         f"{'not measured' if cold is None else f'{1e3 * cold:8.2f} ms'}, peak "
                         f"{one[way]['peak_bytes'] / 1e6:6.1f} MB")
    for workers, one in content.get("loader", {}).get("workers", {}).items():
        lines.append(f"loader, {workers} workers: {one['images_per_s']:6.1f} images/s, {one['cpu_ms_per_image']:5.1f} "
                     f"ms of a core an image (others had {one['others']:.1f} cores)")
    for what, value in content.get("loader", {}).get("cpu_ms_per_image", {}).items():
        lines.append(f"  {what:16} {value:6.1f} ms")
    if "validation" in content:
        one = content["validation"]
        lines += [f"  {what:28} {value:8.1f} ms a sample" for what, value in one["cpu_ms_per_sample"].items()]
        lines.append(f"validation: {100 * one['share_of_epoch']:.0f} % of an epoch's processor time, "
                     f"{100 * one['share_of_rows']:.0f} % of its rows; scores are "
                     f"{100 * one['scores_share_of_validation']:.0f} % of validation")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data_loading", description=__doc__,
                                     formatter_class=HelpFormatter)
    parser.add_argument("--data-csv", type=Path, default=None, help="without it a phantom data set is made for this")
    parser.add_argument("--image-size", type=positive_int, default=1008, help="side of the loader's pictures")
    parser.add_argument("--images", type=positive_int, default=64, help="that the loader is timed on")
    parser.add_argument("--skip", nargs="+", choices=PARTS, default=[], help="what is not to be measured")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks"), help="folder to write to")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="data_loading-") as folder:
        content = run(options, Path(folder))
    write_text_atomic(options.out / "data_loading.json", json.dumps(content, indent=1) + "\n")
    print(report(content))
    return 0


if __name__ == "__main__":
    sys.exit(main())
