"""The demo that `python run.py demo` runs: each step is a command that a user could type, and is shown as such.

What is finished is noted in outputs/demo/steps.json; called again, the demo goes on with the first step that is not,
and a step whose command has changed is done again with all that follow it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from utils.files import write_text_atomic

ROOT = Path(__file__).resolve().parents[1]
DEMO = Path("outputs/demo")
PHANTOM_CSV = DEMO / "phantom" / "dataset.csv"
CHECKPOINTS = DEMO / "checkpoints"
BEST = CHECKPOINTS / "phase1_deepsa_best.pth"
METRICS = "phase1_deepsa_metrics.json"
# What fits into 15 minutes on two CPU cores; see LOG.md for the runs that settled these.
TRAINING = ["--backbone", "sam3-tiny", "--world-size", "2", "--batch-size", "4", "--epochs", "16", "--lr", "2e-3",
            "--backbone-lr-scale", "0.5", "--eval-every", "4", "--num-workers", "0"]


def build_steps() -> list[tuple[str, list[str]]]:
    """Return the demo as (title, arguments for Python), in order."""
    data = ["--data-csv", str(PHANTOM_CSV)]
    return [
        ("Make a phantom data set: simulated angiograms with exact truth",
         ["make_phantom_dataset.py", "--out", str(DEMO / "phantom"), "--patients", "120", "--image-size", "512",
          "--frames", "8", "--seed", "1", "--workers", "2"]),
        ("Check the data set as any user's CSV is checked", ["-m", "data.schema", str(PHANTOM_CSV)]),
        ("Inspect the DeepSA-like labels",
         ["inspect_deepsa_labels.py", *data, "--out", str(DEMO / "labels")]),
        ("Train phase 1 on the DeepSA-like labels, on two processes",
         ["train_stage1_deepsa.py", *data, *TRAINING, "--checkpoint-dir", str(CHECKPOINTS), "--resume"]),
        ("Draw predictions as one would during training",
         ["test_model_during_training.py", *data, "--checkpoint-dir", str(CHECKPOINTS)]),
        ("Validate the best checkpoint on patients it never saw",
         ["train_stage1_deepsa.py", *data, *TRAINING, "--eval-only", "--init-from", str(BEST),
          "--checkpoint-dir", str(DEMO / "evaluation")]),
        ("Measure the use of view angles",
         ["test_view_angle_impact.py", *data, "--checkpoint", str(BEST), "--out", str(DEMO / "view_angles")]),
        ("Predict on held-out frames",
         ["predict.py", *data, "--split", "val", "--limit", "8", "--checkpoint", str(BEST),
          "--out", str(DEMO / "predictions")]),
    ]


def run_demo(*, fresh: bool) -> int:
    """Run what is not done yet, write summary.json, print where to look; return the exit status."""
    if fresh and DEMO.exists():
        shutil.rmtree(DEMO)
    DEMO.mkdir(parents=True, exist_ok=True)
    done = read_done()
    steps = build_steps()
    for number, (title, command) in enumerate(steps, start=1):
        print(f"\n[{number}/{len(steps)}] {title}", flush=True)
        if number <= len(done) and done[number - 1]["command"] == command:
            print(f"  done before, in {done[number - 1]['seconds']:.0f} s", flush=True)
            continue
        del done[number - 1:]
        print("  python " + " ".join(command), flush=True)
        start = time.monotonic()
        status = run_step(command)
        if status:
            print(f"\nThe demo stopped here (exit status {status}). `python run.py demo` goes on from this step.")
            return status
        done.append({"title": title, "command": command, "seconds": time.monotonic() - start})
        write_text_atomic(DEMO / "steps.json", json.dumps(done, indent=1))
    summary = build_summary(done)
    write_text_atomic(DEMO / "summary.json", json.dumps(summary, indent=1) + "\n")
    print_summary(summary)
    return 0


def read_done() -> list[dict]:
    """Return the steps that an earlier call finished, in order."""
    path = DEMO / "steps.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def run_step(command: list[str]) -> int:
    """Run one step; at Ctrl-C it has the signal too, so wait for it to save and end."""
    process = subprocess.Popen([sys.executable, *command])
    interrupted = False
    while True:
        try:
            status = process.wait()
            return status or (130 if interrupted else 0)
        except KeyboardInterrupt:
            interrupted = True


def build_summary(done: list[dict]) -> dict:
    """Collect the figures of the demo from what its steps wrote."""
    metrics = json.loads((DEMO / "evaluation" / METRICS).read_text(encoding="utf-8"))
    history = (CHECKPOINTS / "phase1_deepsa_history.jsonl").read_text(encoding="utf-8").splitlines()
    summary = {"val_dice_truth": metrics["dice_truth"], "val_dice_deepsa": metrics["dice_deepsa"],
               "deepsa_dice_truth": metrics["deepsa_dice_truth"], "epochs": len(history),
               "seconds": round(sum(step["seconds"] for step in done), 1)}
    summary["metrics"] = metrics
    summary["steps"] = [{"title": step["title"], "seconds": round(step["seconds"], 1)} for step in done]
    return summary


def print_summary(summary: dict) -> None:
    """Print the figures, and every picture there is to look at."""
    print(f"\nDice on {summary['metrics']['n_patients']} patients never seen in training, after "
          f"{summary['epochs']} epochs ({summary['seconds'] / 60:.1f} minutes in all):")
    print(f"  prediction against the true vessels      {summary['val_dice_truth']:.3f}")
    print(f"  DeepSA-like label against the true       {summary['deepsa_dice_truth']:.3f}   (the teacher)")
    print(f"  prediction against the DeepSA-like label {summary['val_dice_deepsa']:.3f}")
    print("\nPictures:")
    for picture in sorted(DEMO.glob("*/*.png")):
        print(f"  {picture}")
    print(f"Figures: {DEMO / 'summary.json'}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fresh", action="store_true", help=f"delete {DEMO} and start over")
    return run_demo(fresh=parser.parse_args().fresh)


if __name__ == "__main__":
    sys.exit(main())
