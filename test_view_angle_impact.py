"""Does the model use the view angles, and how much? A tool, not a test: one figure, and the answer in words.

    python test_view_angle_impact.py --data-csv data.csv
    python test_view_angle_impact.py --data-csv data.csv --checkpoint runs/a/phase1_deepsa_best.pth --limit 99

Three questions, on frames of --split:
  embeddings    are different angles different to the view encoder?
  predictions   how far does the mask of a frame change when it is told each of the 9 x 9 angles?
  accuracy      is the mask better with the true angles than with another patient's, one axis alone, or none?

Writes view_angle_impact.png and view_angle_impact.json to --out. Phase 1 is expected to be nearly blind to
angles.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from data.cine import read_frame
from data.errors import DataError
from data.masks import read_frame_masks
from data.paths import parse_path_maps
from data.schema import load_table
from models.deepsa_model import load_deepsa_model
from utils.arguments import (
    HelpFormatter,
    add_data_arguments,
    add_device_argument,
    choose_device,
    positive_int,
)
from utils.cases import choose_cases
from utils.checkpoint import CheckpointError
from utils.drawing import GREEN, SKY_BLUE, VERMILION, agreement_overlay
from utils.files import save_figure_atomic, write_text_atomic
from utils.history import to_json
from utils.prediction import SHIPPED_CHECKPOINT, THRESHOLD
from utils.prediction_report import describe_checkpoint, view_text
from utils.view_impact import (EncodedFrame, compare_over_grid, condition_views, describe_similarity,
                               draw_other_views, grid_views, score_conditions, summarise_conditions)
from utils.view_impact_figure import draw_impact, judge

WITHOUT_VIEW = (
    "Verdict: blind. This model was trained without view angles (--no-use-view), so its predictions "
    "cannot depend on them."
)
EXAMPLE_LEGEND = {"both": GREEN, "only at the other angle": VERMILION, "only at the true angle": SKY_BLUE}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add_data_arguments(parser)
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED_CHECKPOINT, help="weights of stage 1")
    parser.add_argument("--split", choices=("train", "val", "all"), default="val", help="rows to measure on")
    parser.add_argument(
        "--limit", type=positive_int, default=48, help="frames at most, spread over patients; accuracy"
    )
    parser.add_argument(
        "--grid-frames", type=positive_int, default=6, help="of these, frames decoded at all 81 angles"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the choice of frames and of the shuffled angles"
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/view_angles"), help="folder to write to")
    add_device_argument(parser)
    return parser


def choose_frames(args: argparse.Namespace) -> tuple[pd.DataFrame, int]:
    """Return up to --limit rows whose angles are both known, and how many were left out for that."""
    split = None if args.split == "all" else args.split
    table = load_table(args.data_csv, args.data_root, parse_path_maps(args.path_map), split)
    known = table[table[["primary_angle", "secondary_angle"]].notna().all(axis=1)].reset_index(drop=True)
    if known["patient_id"].nunique() < 2:
        raise DataError(
            f"{args.data_csv}: split {args.split} has {known['patient_id'].nunique()} patients with both "
            "view angles; shuffling angles between patients takes two or more"
        )
    return known.iloc[choose_cases(known, args.limit, seed=args.seed)].reset_index(drop=True), len(
        table
    ) - len(known)


def draw_example(frame: np.ndarray, encoded: EncodedFrame, view_deg, grid_dice: np.ndarray) -> dict:
    """Return the picture of the mask at the true angle against that at the angle that changes it most."""
    worst = grid_views()[np.argmin(grid_dice)]
    own, other = encoded.probabilities(np.array([view_deg, worst])) >= THRESHOLD
    against = f"against {view_text(worst)}, Dice {grid_dice.min():.4f}"
    title = f"most changed case: {view_text(view_deg)} (true)\n{against}"
    return {"picture": agreement_overlay(frame, own, other), "title": title, "legend": EXAMPLE_LEGEND}


def measure(
    model, image_size: int, table: pd.DataFrame, args: argparse.Namespace, device: torch.device
) -> dict:
    """Return `scores` (one per frame), `grid` (`dice`, `change`, (frames, 9, 9)) and the `example`."""
    views = table[["primary_angle", "secondary_angle"]].to_numpy(dtype=np.float64)
    others = draw_other_views(views, table["patient_id"], seed=args.seed)
    scores, grids, example = [], [], None
    for position, row in tqdm(table.iterrows(), total=len(table), desc="angles", unit="frame"):
        frame = read_frame(row["cine_path"], int(row["frame_index"]))
        encoded = EncodedFrame(model, frame, image_size=image_size, device=device)
        labels = read_frame_masks(row, frame.shape[:2])
        scores.append(score_conditions(encoded, condition_views(views[position], others[position]), labels))
        if len(grids) < args.grid_frames:
            grids.append(compare_over_grid(encoded, views[position]))
            if grids[-1]["dice"].min() <= min(grid["dice"].min() for grid in grids):
                example = draw_example(frame, encoded, views[position], grids[-1]["dice"])
    grid = {name: np.stack([one[name] for one in grids]) for name in ("dice", "change")}
    return {"scores": scores, "grid": grid, "example": example}


def run(args: argparse.Namespace) -> None:
    """Measure, draw, write and say."""
    device = choose_device(args.device)
    model, checkpoint = load_deepsa_model(args.checkpoint, device)
    record = {"checkpoint": describe_checkpoint(args.checkpoint, checkpoint), "data_csv": str(args.data_csv),
              "split": args.split, "uses_view": model.view_encoder is not None}
    if model.view_encoder is None:
        record["verdict"] = {"level": "blind", "sentences": [WITHOUT_VIEW]}
    else:
        record |= run_measurements(model, checkpoint, args, device)
    write_text_atomic(args.out / "view_angle_impact.json", to_json(record, indent=2) + "\n")
    print(*record["verdict"]["sentences"], f"written to {args.out}", sep="\n")


def run_measurements(model, checkpoint: dict, args: argparse.Namespace, device: torch.device) -> dict:
    """Measure a model that takes angles, save the figure, and return what goes into the JSON."""
    table, without_angles = choose_frames(args)
    similarity = describe_similarity(model.view_encoder, device)
    measured = measure(model, checkpoint["config"]["image_size"], table, args, device)
    summary = summarise_conditions(measured["scores"], table["patient_id"].tolist())
    grid = measured["grid"]
    verdict = judge(similarity["figures"], grid, summary)
    patients = table["patient_id"].nunique()
    title = (f"Impact of view angles: {args.checkpoint.name}, {len(table)} frames of {patients} patients "
             f"({args.split}), {len(grid['dice'])} of them at all 81 angles")
    figure = draw_impact(similarity, grid, summary, measured["example"], verdict["sentences"], title)
    save_figure_atomic(figure, args.out / "view_angle_impact.png")
    return {
        "n_frames": len(table),
        "n_patients": patients,
        "rows_without_angles": without_angles,
        "embedding_cosine": similarity["figures"],
        "conditions": summary,
        "verdict": verdict,
        "grid": {
            "n_frames": len(grid["dice"]),
            "views_deg": grid_views().tolist(),
            "mean_dice": grid["dice"].mean(axis=0).ravel().tolist(),
            "least_dice": float(grid["dice"].min()),
            "mean_change": grid["change"].mean(axis=0).ravel().tolist(),
        },
    }


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        run(args)
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    except (DataError, CheckpointError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
