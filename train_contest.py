"""Fine-tune several models under equal conditions, then put them into one table: which one learns best in the time?

    python train_contest.py --data-csv data.csv --minutes 240 --contestants sam3 medsam2 unet \\
        --sam3-checkpoint sam3.pt --medsam2-checkpoint MedSAM2_latest.pt
    python train_contest.py --data-csv data.csv --minutes 15 --contestants sam3-tiny litemedsam unet   # on a CPU
    python train_contest.py --data-csv data.csv --minutes 240 --contestants sam3 sam3+lora --sam3-checkpoint sam3.pt
    python train_contest.py ... --resume                                       # goes on where it was interrupted

Each contestant, a backbone of train_stage1_deepsa.py, `+lora` after it for adapters, learns the same labels with the
same engine, batch and augmentation for --minutes of training: a first short run of it measures its optimizer step, and
it gets as many steps as fit, whole epochs or not, with its learning rate's cosine ending at the last one; who is too
slow to see every row in that time sees as many as fit, drawn at random. Minutes are the processor's, of all cores
together, so that other programs do not matter: on two cores two of them pass in a minute. On a GPU they are the
clock's. Validation does not count. What each took in the end is reported. Then compare_models.py asks all of them, the
Frangi filter with a threshold chosen on training rows, and those of --also, about --limit validation cases.

Writes to --out: a folder for each contestant, as its training does; rates.json: seconds a step; comparison/, see
compare_models.py.
Not a medical device: for research only.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

from contest.training import samples_per_step, seconds_per_step
from data.errors import DataError
from data.paths import parse_path_maps
from data.schema import load_table, select_split
from run import run_and_wait
from utils.arguments import (
    BACKBONES, BASELINE, HelpFormatter, add_data_arguments, choose_device, positive_float, positive_int,
)
from utils.entry import clean_exit
from utils.files import write_text_atomic
from utils.history import readable_json
from utils.prediction import STAGE
from utils.run_files import RunFiles

RATE_STEPS = 8  # of the short run that measures a step
LORA = "+lora"


class Recipe(NamedTuple):
    """Peak learning rate, and the backbone's as a multiple of it."""

    lr: float
    backbone_lr_scale: float


# Pretrained backbones learn slowly, so as not to forget; those from a random start as fast as their heads. sam3's are
# the mission's, sam3-tiny's the demo's.
RECIPES = {
    "sam3": Recipe(1e-4, 0.1), "medsam2": Recipe(1e-4, 0.1), "litemedsam": Recipe(1e-3, 0.1),
    "sam3-tiny": Recipe(2e-3, 0.5), "unet": Recipe(1e-3, 1.0),
}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add_data_arguments(parser)
    names = [*BACKBONES, *(f"{name}{LORA}" for name in BACKBONES if name != BASELINE)]
    parser.add_argument("--contestants", nargs="+", choices=names, required=True, metavar="NAME",
                        help=f"of {', '.join(names)}")
    parser.add_argument("--minutes", type=positive_float, required=True,
                        help="of training for each: of the processor, all cores together; on a GPU of the clock")
    parser.add_argument("--also", nargs="*", default=["frangi"], metavar="NAME",
                        help="contestants of compare_models.py that are only asked: sam3, medsam2, litemedsam as "
                             "released, frangi, checkpoints")
    parser.add_argument("--sam3-checkpoint", type=Path, default=None, help="SAM 3's released weights (sam3.pt)")
    parser.add_argument("--medsam2-checkpoint", type=Path, default=None,
                        help="MedSAM2's released weights (MedSAM2_latest.pt)")
    parser.add_argument("--batch-size", type=positive_int, default=4, help="samples per process, for everybody")
    parser.add_argument("--world-size", type=positive_int, default=None,
                        help="processes; without it one for each GPU, or one")
    parser.add_argument("--limit", type=positive_int, default=100, help="validation cases of the comparison at most")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to train and ask")
    parser.add_argument("--seed", type=int, default=0, help="of everybody's training and of the cases")
    parser.add_argument("--resume", action=argparse.BooleanOptionalAction, default=False,
                        help="go on with what lies in --out")
    parser.add_argument("--out", type=Path, default=Path("outputs/contest_training"), help="folder to write to")
    return parser


def training_command(args: argparse.Namespace, name: str, *, steps: int, folder: Path) -> list[str]:
    """contest/training.py for one contestant, arguments for Python."""
    backbone = name.removesuffix(LORA)
    recipe = RECIPES[backbone]
    command = [
        "-m", "contest.training", "--steps", steps, "--data-csv", args.data_csv, "--backbone", backbone,
        "--batch-size", args.batch_size, "--lr", recipe.lr, "--backbone-lr-scale", recipe.backbone_lr_scale,
        "--device", args.device, "--seed", args.seed, "--checkpoint-dir", folder, "--resume",
    ]
    weights = BACKBONES[backbone].weights
    if weights is not None and getattr(args, weights) is not None:
        command += [f"--{weights.replace('_', '-')}", getattr(args, weights)]
    for flag, value in (("--data-root", args.data_root), ("--world-size", args.world_size)):
        command += [] if value is None else [flag, value]
    for old_new in args.path_map:
        command += ["--path-map", old_new]
    return [str(part) for part in command] + ["--lora"] * name.endswith(LORA)


def run_step(command: list[str]) -> None:
    """Run a command as a user would; DataError when it fails."""
    print("  python " + " ".join(command), flush=True)
    status = run_and_wait([sys.executable, *command])
    if status:
        program = command[1] if command[0] == "-m" else command[0]
        raise DataError(f"{program} ended with exit code {status}, see above; --resume goes on from there")


def measure_rates(args: argparse.Namespace) -> dict[str, float]:
    """Seconds that each contestant takes for an optimizer step, kept in rates.json."""
    path = args.out / "rates.json"
    rates = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name in args.contestants:
        if name not in rates:
            print(f"\n{name}: how long does a step take?", flush=True)
            folder = args.out / "rates" / name
            run_step([*training_command(args, name, steps=RATE_STEPS, folder=folder), "--val-rows", "1"])
            rates[name] = seconds_per_step(folder, on_gpu=trains_on_gpu(args))
            write_text_atomic(path, readable_json(rates))
    return rates


def trains_on_gpu(args: argparse.Namespace) -> bool:
    return choose_device(args.device).type == "cuda"


def plan(args: argparse.Namespace, name: str, rows: int, step_s: float) -> int:
    """How many steps fill --minutes for a contestant that takes `step_s` seconds for one; says so."""
    steps = max(1, round(60 * args.minutes / step_s))
    passes = steps * samples_per_step(args) / rows
    print(f"\n{name}: {step_s:.2f} s a step, so {steps} steps, each of {rows} rows {passes:.1f} times, in "
          f"{args.minutes:g} min", flush=True)
    return steps


def comparison_command(args: argparse.Namespace, bests: list[str]) -> list[str]:
    """compare_models.py for all of them, arguments for Python."""
    command = ["compare_models.py", "--data-csv", args.data_csv, "--contestants", *bests, *args.also,
               "--prompts", "none", "box", "--limit", args.limit, "--device", args.device, "--seed", args.seed,
               "--out", args.out / "comparison"]
    for flag, value in (("--data-root", args.data_root), ("--sam3-checkpoint", args.sam3_checkpoint),
                        ("--medsam2-checkpoint", args.medsam2_checkpoint)):
        command += [] if value is None else [flag, value]
    for old_new in args.path_map:
        command += ["--path-map", old_new]
    return [str(part) for part in command]


def run(args: argparse.Namespace) -> None:
    """Measure, train, compare."""
    if not args.resume and any((args.out / name).exists() for name in (*args.contestants, "rates.json")):
        raise DataError(f"{args.out} holds an earlier contest: add --resume to go on with it, or give another --out")
    rows = len(select_split(load_table(args.data_csv, args.data_root, parse_path_maps(args.path_map)), "train"))
    rates = measure_rates(args)
    bests, steps = [], {}
    for name in args.contestants:
        steps[name] = plan(args, name, rows, rates[name])
        folder = args.out / name
        run_step(training_command(args, name, steps=steps[name], folder=folder))
        bests.append(f"{name}, tuned={RunFiles(folder, STAGE).best}")
    print("\nthe comparison", flush=True)
    run_step(comparison_command(args, bests))
    clock = "of the clock" if trains_on_gpu(args) else "of the processor"
    for name in args.contestants:
        # So few steps leave nothing to measure but what was measured before.
        few = steps[name] < RATE_STEPS
        step_s = rates[name] if few else seconds_per_step(args.out / name, on_gpu=trains_on_gpu(args))
        minutes = steps[name] * step_s / 60
        print(f"{name} trained {minutes:.2f} min {clock}, {steps[name]} steps of {samples_per_step(args)} rows")


def main() -> None:
    args = build_parser().parse_args()
    with clean_exit("stopped; the same command with --resume goes on"):
        run(args)


if __name__ == "__main__":
    main()
