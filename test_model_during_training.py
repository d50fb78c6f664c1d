"""Watch a model learn: draw the latest checkpoint's predictions while training goes on. A tool, not a test.

    python test_model_during_training.py
    python test_model_during_training.py --checkpoint-dir runs/a --watch 60
    python test_model_during_training.py --data-csv data.csv --cases 12 --out preview.png

Reads phase1_deepsa_latest.pth, which training replaces whole, so that it can be read at any time; without
--data-csv the data of that run. The cases are the same every time: drawn once by --seed, spread over the
patients of --split. Frame, label, prediction and agreement in colour, worst case on top; where the data has
true masks, also against those. Scores against labels and against truth stand apart, never mixed. The history
of the run is drawn above.
On the CPU unless asked otherwise, so that it does not disturb training.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
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
from utils.drawing import (
    DPI,
    GREEN,
    SKY_BLUE,
    VERMILION,
    agreement_overlay,
    gallery_figure,
    mask_overlay,
    thumbnail,
)
from utils.files import save_figure_atomic
from utils.history import read_history
from utils.metrics import dice
from utils.prediction import STAGE, THRESHOLD, predict_vessels
from utils.prediction_report import view_text
from utils.run_files import RunFiles

PREVIEW = f"{STAGE}_preview.png"
# Titles and fields of the history; scores against labels and against truth are never in one panel.
PANELS = {"loss": ("train_loss", "val_loss"), "Dice against labels": ("train_dice", "val_dice_deepsa"),
          "Dice against truth": ("val_dice_truth", "val_deepsa_dice_truth")}
LEGEND = {"both": GREEN, "only prediction": VERMILION, "only label, or only truth": SKY_BLUE}
CURVES_INCHES = 2.6
READ_TRIES, READ_WAIT_S = 5, 1.0    # Windows may refuse to open a file in the moment that it is replaced


@dataclass(frozen=True, kw_only=True)
class Case:
    """One frame with its prediction: frame uint8 (H, W, 3); label, truth, prediction bool (H, W)."""
    title: str
    frame: np.ndarray
    label: np.ndarray
    truth: np.ndarray | None
    prediction: np.ndarray
    dice_deepsa: float
    dice_truth: float | None


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--checkpoint-dir", type=Path, default=Path("checkpoints"), help="folder of the run")
    parser.add_argument(
        "--out", type=Path, default=None, help=f"picture to write; without it {PREVIEW} in that folder"
    )
    parser.add_argument("--cases", type=positive_int, default=6, help="frames to draw")
    parser.add_argument(
        "--split", choices=("train", "val", "all"), default="val", help="rows to draw them from"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice of cases")
    parser.add_argument(
        "--watch",
        type=float,
        default=0,
        metavar="SECONDS",
        help="look again after so many seconds and draw whenever the checkpoint is new; 0: once",
    )
    add_device_argument(parser, default="cpu")
    add_data_arguments(parser, required=False)
    return parser


def load_latest(path: Path, device):
    """Return model and checkpoint; tried again for seconds where the file is being replaced (Windows)."""
    for attempt in range(READ_TRIES):
        try:
            return load_deepsa_model(path, device)
        except CheckpointError as error:
            if attempt == READ_TRIES - 1 or not isinstance(error.__cause__, OSError):
                raise
            time.sleep(READ_WAIT_S)


def choose_rows(args: argparse.Namespace, config: dict) -> pd.DataFrame:
    """Return the fixed cases: rows of --data-csv, or of the data that the run was trained on."""
    given = args.data_csv is not None
    csv_path = args.data_csv if given else config.get("data_csv")
    if csv_path is None:
        raise DataError("the checkpoint does not say which data it was trained on; give --data-csv")
    data_root = args.data_root if given else config.get("data_root")
    path_maps = parse_path_maps(args.path_map if given or args.path_map else config.get("path_map") or [])
    table = load_table(csv_path, data_root, path_maps, None if args.split == "all" else args.split)
    return table.iloc[choose_cases(table, args.cases, seed=args.seed)]


def predict_case(row: pd.Series, model, image_size: int, device) -> Case:
    """Predict one row at its analysed frame and score it at the frame's own size."""
    frame = read_frame(row["cine_path"], int(row["frame_index"]))
    size, view_deg = frame.shape[:2], (float(row["primary_angle"]), float(row["secondary_angle"]))
    probability = predict_vessels(model, frame, view_deg=view_deg, image_size=image_size, device=device)
    prediction, masks = probability >= THRESHOLD, read_frame_masks(row, size)
    label, truth = masks["deepsa"], masks.get("truth")
    return Case(
        title=f"{row['patient_id']}  {row['vessel_pattern']}\n{view_text(view_deg)}",
        frame=frame,
        label=label,
        truth=truth,
        prediction=prediction,
        dice_deepsa=dice(prediction, label),
        dice_truth=None if truth is None else dice(prediction, truth),
    )


def draw_preview(cases: Sequence[Case], history: Sequence[dict], title: str) -> Figure:
    """Return the figure: history above, one row of pictures per case in the order given."""
    with_truth = any(case.truth is not None for case in cases)
    columns = ["frame", "DeepSA label", "prediction", "prediction against label"]
    columns += ["prediction against truth"] * with_truth
    rows = [_case_pictures(case, with_truth) for case in cases]
    captions = [_case_captions(case, with_truth) for case in cases]
    room = CURVES_INCHES + 0.9 if history else 0.0
    figure = gallery_figure(rows, columns, [case.title for case in cases], title=title, captions=captions,
                            legend=LEGEND, room_above_inches=room)
    if history:
        _draw_history(figure, history)
    return figure


def _case_pictures(case: Case, with_truth: bool) -> list[np.ndarray | None]:
    frame = thumbnail(case.frame)
    pictures = [frame, mask_overlay(case.frame, case.label, SKY_BLUE),
                mask_overlay(case.frame, case.prediction, VERMILION),
                agreement_overlay(case.frame, case.label, case.prediction)]
    if with_truth:
        pictures.append(
            None if case.truth is None else agreement_overlay(case.frame, case.truth, case.prediction)
        )
    return pictures


def _case_captions(case: Case, with_truth: bool) -> list[str]:
    truth = "no true mask" if case.dice_truth is None else f"Dice {case.dice_truth:.3f} against truth"
    return ["", "", "", f"Dice {case.dice_deepsa:.3f} against label"] + ([truth] if with_truth else [])


def _draw_history(figure: Figure, history: Sequence[dict]) -> None:
    """Draw the panels of which the history has a field into the room above the gallery."""
    panels = {title: [field for field in fields if any(line.get(field) is not None for line in history)]
              for title, fields in PANELS.items()}
    panels = {title: fields for title, fields in panels.items() if fields}
    height = figure.get_figheight()
    for number, (title, fields) in enumerate(panels.items()):
        left, width = 0.05 + number * 0.95 / len(panels), 0.95 / len(panels) - 0.05
        axis = figure.add_axes(
            (left, 1 - (CURVES_INCHES + 0.75) / height, width, (CURVES_INCHES - 0.15) / height)
        )
        for field in fields:
            points = [(line["epoch"], line[field]) for line in history if line.get(field) is not None]
            axis.plot(*zip(*points), "o-", markersize=3, label=field)
        axis.set(title=title, xlabel="epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)


def describe(cases: Sequence[Case], checkpoint: dict) -> str:
    """Return the one line of figures."""
    line = (
        f"epoch {checkpoint['epoch']}, step {checkpoint['global_step']}: on these {len(cases)} cases mean "
        f"Dice against labels {np.mean([case.dice_deepsa for case in cases]):.3f}"
    )
    truths = [case.dice_truth for case in cases if case.dice_truth is not None]
    return line + (f", against truth {np.mean(truths):.3f} ({len(truths)} cases)" if truths else "")


def preview(args: argparse.Namespace, rows: pd.DataFrame | None) -> pd.DataFrame:
    """Draw the checkpoint as it is now; return the cases' rows, to be used again."""
    device, files = choose_device(args.device), RunFiles(args.checkpoint_dir, STAGE)
    model, checkpoint = load_latest(files.latest, device)
    rows = choose_rows(args, checkpoint["config"]) if rows is None else rows
    image_size = checkpoint["config"]["image_size"]
    cases = [predict_case(row, model, image_size, device)
             for _, row in tqdm(rows.iterrows(), total=len(rows), desc="cases", unit="frame", leave=False)]
    # Worst first, by the better yardstick where every case has it.
    by_truth = all(case.dice_truth is not None for case in cases)
    cases.sort(key=lambda case: case.dice_truth if by_truth else case.dice_deepsa)
    line = describe(cases, checkpoint)
    order = f"worst first by Dice against {'truth' if by_truth else 'labels'}"
    out = args.out or args.checkpoint_dir / PREVIEW
    figure = draw_preview(cases, read_history(files.history), f"{line}\n{order}")
    save_figure_atomic(figure, out, dpi=DPI)
    print(f"{line}; {out}", flush=True)
    return rows


def watch(args: argparse.Namespace) -> None:
    """Draw now, and with --watch again whenever the checkpoint has changed, until Ctrl-C."""
    latest, rows, drawn = RunFiles(args.checkpoint_dir, STAGE).latest, None, None
    while True:
        stamp = latest.stat().st_mtime_ns if latest.exists() else None
        if stamp is None and args.watch:
            print(f"{latest} is not there yet; looking again every {args.watch:g} s", flush=True)
        elif stamp != drawn or not args.watch:
            rows, drawn = preview(args, rows), stamp
        if not args.watch:
            return
        time.sleep(args.watch)


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        watch(args)
    except KeyboardInterrupt:
        if args.watch:      # the way to end it
            return 0
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    except (DataError, CheckpointError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
