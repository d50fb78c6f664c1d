"""The demo that `python run.py demo` runs: each step is a command that a user could type, and is shown so.

What is finished is noted in outputs/demo/steps.json; called again, the demo goes on with the first step that
is not. A step whose command has changed is done again with all that follow it, from the start: what they
wrote before is deleted.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from run import run_and_wait
from utils.files import write_text_atomic
from utils.history import read_history
from utils.run_files import RunFiles

STAGE, CASS_STAGE, OBSTRUCTION_STAGE, LUMEN_STAGE = (
    "phase1_deepsa", "phase2_cass", "phase3_obstruction", "phase4_quantitative")
DEMO = Path("outputs/demo")
# What fits into 30 minutes on two CPU cores; see LOG.md for the runs that settled these.
PHANTOM = "--patients 110 --image-size 512 --frames 8 --seed 1 --workers 2".split()
TRAINING = ("--backbone sam3-tiny --world-size 2 --batch-size 4 --epochs 10 --lr 2e-3 --backbone-lr-scale 0.5 "
            "--eval-every 5 --num-workers 0").split()
SEGMENT_TRAINING = ("--backbone sam3-tiny --world-size 2 --batch-size 4 --epochs 5 --lr 1e-3 "
                    "--backbone-lr-scale 0.5 --eval-every 5 --drawn-trees 6 --num-workers 0").split()
OBSTRUCTION_TRAINING = ("--backbone sam3-tiny --world-size 2 --batch-size 2 --epochs 5 --lr 1e-3 "
                        "--backbone-lr-scale 0.5 --eval-every 5 --num-workers 0").split()
LUMEN_TRAINING = ("--backbone sam3-tiny --world-size 2 --batch-size 2 --epochs 4 --lr 1e-3 "
                  "--backbone-lr-scale 0.5 --eval-every 4 --num-workers 0").split()
SEGMENT_SCORES = {
    "top1_pointed": "pointed: which segment is this? share that is right",
    "macro_f1_pointed": "  mean F1 of the classes",
    "top1_blind": "blind: which segment was analysed? pooled head",
    "top1_blind_map": "  the map",
    "top1_blind_ceiling": "  the best that could be known",
    "segment_f1_map": "every visible segment named (F1 of segments)",
    "dice_truth": "vessels against the true vessels (Dice)",
}

# Against the annotated segments, as a user would score; the metrics also have every true lesion, `_truth`.
OBSTRUCTION_SCORES = {
    "f1_iou50": "obstructions found, boxes (F1 at IoU 0.5)",
    "sensitivity_at_1fp": "  sensitivity at one false positive a frame, by point",
    "mld_point_error_mm_median": "  median error of the point of the smallest diameter (mm)",
    "ds_mae_points": "  mean error of the stenosis (points of %DS)",
    "fp_per_frame_final": "  false positives a frame in treated segments (FINAL)",
}

# Against what Medis recorded; lesions are those of at least 20 %DS.
LUMEN_SCORES = {
    "dice_lumen": "lumen of the analysed segment, in the box of its contours (Dice)",
    "surface_mm": "  mean distance of its edges (mm)",
    "measured_share": "  share that could be measured",
    "mld_mae_mm_lesions": "  lesions: mean error of the MLD (mm)",
    "ds_mae_points_lesions": "  lesions: of the stenosis (points of %DS)",
}


class Step(NamedTuple):
    """One command of the demo: arguments for Python, and the folder that it alone writes, if any."""

    title: str
    command: list[str]
    writes: str | None


def build_steps(demo: Path) -> list[Step]:
    """Return the steps of a demo in the folder `demo`, in order."""
    csv_path, checkpoints = demo / "phantom" / "dataset.csv", demo / "checkpoints"
    best = str(RunFiles(checkpoints, STAGE).best)
    segments = demo / "phase2_checkpoints"
    segments_best = str(RunFiles(segments, CASS_STAGE).best)
    obstructions = demo / "phase3_checkpoints"
    obstructions_best = str(RunFiles(obstructions, OBSTRUCTION_STAGE).best)
    lumens = demo / "phase4_checkpoints"
    lumens_best = str(RunFiles(lumens, LUMEN_STAGE).best)
    data = ["--data-csv", str(csv_path)]
    return [
        Step("Make a phantom data set: simulated angiograms with exact truth",
             ["make_phantom_dataset.py", "--out", str(csv_path.parent), *PHANTOM], "phantom"),
        Step("Check the data set as any user's CSV is checked", ["-m", "data.schema", str(csv_path)], None),
        Step("Inspect the DeepSA-like labels",
             ["inspect_deepsa_labels.py", *data, "--out", str(demo / "labels")], "labels"),
        Step("Train phase 1 on the DeepSA-like labels, on two processes",
             ["train_stage1_deepsa.py", *data, *TRAINING, "--checkpoint-dir", str(checkpoints), "--resume"],
             "checkpoints"),
        Step("Draw predictions as one would during training",
             ["test_model_during_training.py", *data, "--checkpoint-dir", str(checkpoints)], None),
        Step("Validate the best checkpoint on patients it never saw",
             ["train_stage1_deepsa.py", *data, *TRAINING, "--eval-only", "--init-from", best,
              "--checkpoint-dir", str(demo / "evaluation")], "evaluation"),
        Step("Measure the use of view angles",
             ["test_view_angle_impact.py", *data, "--checkpoint", best, "--limit", "24", "--grid-frames", "2",
              "--out", str(demo / "view_angles")], "view_angles"),
        Step("Predict on held-out frames",
             ["predict.py", *data, "--split", "val", "--limit", "8", "--checkpoint", best,
              "--out", str(demo / "predictions")], "predictions"),
        Step("Train phase 2 from there: name the CASS segments",
             ["train_stage2_cass_segments.py", *data, *SEGMENT_TRAINING, "--init-from", best,
              "--checkpoint-dir", str(segments), "--resume"], "phase2_checkpoints"),
        Step("Draw its predictions as one would during training",
             ["test_model_during_training.py", *data, "--checkpoint-dir", str(segments)], None),
        Step("Validate it on patients it never saw",
             ["train_stage2_cass_segments.py", *data, *SEGMENT_TRAINING, "--eval-only", "--init-from",
              segments_best, "--checkpoint-dir", str(demo / "phase2_evaluation")], "phase2_evaluation"),
        Step("Measure its use of view angles",
             ["test_view_angle_impact.py", *data, "--checkpoint", segments_best, "--limit", "24",
              "--grid-frames", "2", "--out", str(demo / "phase2_view_angles")], "phase2_view_angles"),
        Step("Name the segments of held-out frames",
             ["predict.py", *data, "--split", "val", "--limit", "8", "--checkpoint", segments_best,
              "--out", str(demo / "phase2_predictions")], "phase2_predictions"),
        Step("Train phase 3 from there: find obstructions",
             ["train_stage3_obstructions.py", *data, *OBSTRUCTION_TRAINING, "--init-from", segments_best,
              "--checkpoint-dir", str(obstructions), "--resume"], "phase3_checkpoints"),
        Step("Draw what it finds as one would during training",
             ["test_model_during_training.py", *data, "--checkpoint-dir", str(obstructions)], None),
        Step("Validate it on patients it never saw",
             ["train_stage3_obstructions.py", *data, *OBSTRUCTION_TRAINING, "--eval-only", "--init-from",
              obstructions_best, "--checkpoint-dir", str(demo / "phase3_evaluation")], "phase3_evaluation"),
        Step("Train phase 4 from phase 2: draw the lumen so exactly that it can be measured",
             ["train_stage4_quantitative.py", *data, *LUMEN_TRAINING, "--init-from", segments_best,
              "--checkpoint-dir", str(lumens), "--resume"], "phase4_checkpoints"),
        Step("Draw its lumens as one would during training",
             ["test_model_during_training.py", *data, "--checkpoint-dir", str(lumens)], None),
        Step("Validate it on patients it never saw: QCA against Medis",
             ["train_stage4_quantitative.py", *data, *LUMEN_TRAINING, "--eval-only", "--init-from", lumens_best,
              "--checkpoint-dir", str(demo / "phase4_evaluation")], "phase4_evaluation"),
        Step("The whole chain on held-out frames: find obstructions, name their segments, measure them, report",
             ["predict.py", *data, "--split", "val", "--limit", "8", "--checkpoint", segments_best,
              obstructions_best, lumens_best, "--cine-frames", "1",  # these cines have but eight frames, far apart
              "--out", str(demo / "report")], "report"),
    ]


def run_demo(*, fresh: bool, demo: Path = DEMO) -> int:
    """Run what is not done yet, write summary.json, print where to look; return the exit status."""
    if fresh and demo.exists():
        shutil.rmtree(demo)
    demo.mkdir(parents=True, exist_ok=True)
    steps = build_steps(demo)
    records = forget_changed(demo, steps, read_records(demo))
    for number, step in enumerate(steps, start=1):
        print(f"\n[{number}/{len(steps)}] {step.title}", flush=True)
        if number <= len(records) and records[number - 1]["finished"]:
            print(f"  done before, in {records[number - 1]['seconds']:.0f} s", flush=True)
            continue
        print("  python " + " ".join(step.command), flush=True)
        status = run_step(demo, step, records, number - 1)
        if status:
            print(f"\nThe demo stopped here (exit status {status}); `python run.py demo` goes on from here.")
            return status
    summary = build_summary(demo, records)
    write_text_atomic(demo / "summary.json", json.dumps(summary, indent=1) + "\n")
    print_summary(demo, summary)
    return 0


def read_records(demo: Path) -> list[dict]:
    """Return what earlier calls did, in order: title, command, seconds over all attempts, finished or not."""
    path = demo / "steps.json"
    records = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return [{"finished": True, **record} for record in records]


def forget_changed(demo: Path, steps: Sequence[Step], records: list[dict]) -> list[dict]:
    """Return the records that still hold; delete what the first step that has changed and later ones wrote.

    Deleted, because training goes on (--resume) with whatever lies in its folder.
    """
    pairs = enumerate(zip(steps, records))
    kept = next(
        (number for number, (step, record) in pairs if step.command != record["command"]), len(records)
    )
    if kept < len(records):
        for folder in (demo / step.writes for step in steps[kept:] if step.writes):
            shutil.rmtree(folder, ignore_errors=True)
        write_text_atomic(demo / "steps.json", json.dumps(records[:kept], indent=1))
    return records[:kept]


def run_step(demo: Path, step: Step, records: list[dict], position: int) -> int:
    """Run one step, note in `records` and steps.json how it went, and return its exit status."""
    seconds_before = records[position]["seconds"] if position < len(records) else 0.0
    start = time.monotonic()
    status = run_and_wait([sys.executable, *step.command])
    seconds = seconds_before + time.monotonic() - start
    records[position:] = [
        {"title": step.title, "command": step.command, "seconds": seconds, "finished": not status}
    ]
    write_text_atomic(demo / "steps.json", json.dumps(records, indent=1))
    return status


def build_summary(demo: Path, records: Sequence[dict]) -> dict:
    """Collect the figures of the demo from what its steps wrote."""
    metrics = json.loads(RunFiles(demo / "evaluation", STAGE).metrics.read_text(encoding="utf-8"))
    history = read_history(RunFiles(demo / "checkpoints", STAGE).history)
    summary = {"val_dice_truth": metrics["dice_truth"], "val_dice_deepsa": metrics["dice_deepsa"],
               "deepsa_dice_truth": metrics["deepsa_dice_truth"], "epochs": len(history),
               "seconds": round(sum(record["seconds"] for record in records), 1)}
    segments = json.loads(RunFiles(demo / "phase2_evaluation", CASS_STAGE).metrics.read_text(encoding="utf-8"))
    summary |= {f"phase2_{name}": segments[name] for name in SEGMENT_SCORES}
    obstructions = json.loads(
        RunFiles(demo / "phase3_evaluation", OBSTRUCTION_STAGE).metrics.read_text(encoding="utf-8"))
    summary |= {f"phase3_{name}": obstructions[name] for name in OBSTRUCTION_SCORES}
    lumens = json.loads(RunFiles(demo / "phase4_evaluation", LUMEN_STAGE).metrics.read_text(encoding="utf-8"))
    summary |= {f"phase4_{name}": lumens[name] for name in LUMEN_SCORES}
    summary |= {"metrics": metrics, "phase2_metrics": segments, "phase3_metrics": obstructions,
                "phase4_metrics": lumens}
    summary["steps"] = [
        {"title": record["title"], "seconds": round(record["seconds"], 1)} for record in records
    ]
    return summary


def print_summary(demo: Path, summary: dict) -> None:
    """Print the figures, and every picture there is to look at."""
    print(f"\nDice on {summary['metrics']['n_patients']} patients never seen in training, after "
          f"{summary['epochs']} epochs ({summary['seconds'] / 60:.1f} minutes in all):")
    print(f"  prediction against the true vessels      {summary['val_dice_truth']:.3f}")
    print(f"  DeepSA-like label against the true       {summary['deepsa_dice_truth']:.3f}   (the teacher)")
    print(f"  prediction against the DeepSA-like label {summary['val_dice_deepsa']:.3f}")
    print("\nCASS segments of the same patients (phase 2, a demo's training: see the README for a longer one):")
    print_scores(SEGMENT_SCORES, summary["phase2_metrics"])
    print("\nObstructions of at least 50 %DS in the segments that were analysed (phase 3, likewise):")
    print_scores(OBSTRUCTION_SCORES, summary["phase3_metrics"])
    print("\nLumens of the analysed segments, measured (phase 4, likewise):")
    print_scores(LUMEN_SCORES, summary["phase4_metrics"])
    print(f"\nReport of the whole chain: {demo / 'report' / 'report.html'}\nPictures:")
    for picture in sorted(demo.glob("*/*.png")):
        if not picture.stem.endswith(("_mask", "_probability", "_segments", "_lumen")):  # for programs
            print(f"  {picture}")
    print(f"Figures: {demo / 'summary.json'}")


def print_scores(said: dict[str, str], metrics: dict) -> None:
    """Print metrics in words with their intervals; one that is not defined is null in the file."""
    for name, what in said.items():
        if metrics[name] is None:
            print(f"  {what:<62} not defined")
            continue
        low, high = metrics[f"{name}_ci95"]
        print(f"  {what:<62} {metrics[name]:.3f}  ({low:.3f} to {high:.3f})")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fresh", action="store_true", help=f"delete {DEMO} and start over")
    return run_demo(fresh=parser.parse_args().fresh)


if __name__ == "__main__":
    sys.exit(main())
