"""Watch a model learn: draw the latest checkpoint's predictions while training goes on. A tool, not a test.

    python test_model_during_training.py
    python test_model_during_training.py --checkpoint-dir runs/a --watch 60
    python test_model_during_training.py --stage phase2_cass --data-csv data.csv --cases 12 --out preview.png

Reads phase1_deepsa_latest.pth, phase2_cass_latest.pth, phase3_obstruction_latest.pth or
phase4_quantitative_latest.pth, the newest one unless --stage says which. Training replaces it whole, so that it
can be read at any time. Without --data-csv the data of that run. The cases are the same every time: drawn once by
--seed, spread over the patients of --split, worst case on top.

Stage 1: frame, label, prediction and agreement in colour; where the data has true masks, also against those.
Scores against labels and against truth stand apart, never mixed. Stage 2: the analysed segment with its true
name, the names of all vessels, their true names where the data has them, and two answers that stand apart:
pointed (which segment is this one?) and blind (which one was analysed?). Stage 3: the annotated lesion, and
what was found, from the score on that the run's validation chose: right, false, missed, or neither; against the
annotation and, apart, against every true lesion where the data has them. Stage 4: the lumen of the analysed segment as
Medis drew it and as predicted, and what both measure. The history of the run is drawn above.
On the CPU unless asked otherwise, so that it does not disturb training.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import wrap

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from tqdm import tqdm

from data.errors import DataError
from data.paths import parse_path_maps
from data.schema import load_table
from models.loading import STAGES
from utils import preview_vessels
from utils.arguments import (
    HelpFormatter,
    add_data_arguments,
    add_device_argument,
    choose_device,
    positive_int,
)
from utils.cases import choose_cases
from utils.checkpoint import CheckpointError
from utils.drawing import DPI, gallery_figure
from utils.entry import clean_exit
from utils.files import save_figure_atomic
from utils.history import read_history
from utils.lumens import preview as preview_lumens
from utils.lumens.quantify import load_lumen_model
from utils.obstructions import preview as preview_obstructions
from utils.prediction import CASS_STAGE, LUMEN_STAGE, OBSTRUCTION_STAGE, STAGE
from utils.reports.frame_answer import load_answer
from utils.run_files import RunFiles
from utils.segments import preview as preview_segments

# What is shown of a stage.
VIEWS = {STAGE: preview_vessels, CASS_STAGE: preview_segments, OBSTRUCTION_STAGE: preview_obstructions,
         LUMEN_STAGE: preview_lumens}
CURVES_INCHES, CURVES_ROW_INCHES, CURVES_PER_ROW = 2.6, 3.2, 5
TITLE_LETTERS_PER_COLUMN, TITLE_LINE_INCHES = 30, 0.2   # of the gallery's columns and its title's font
READ_TRIES, READ_WAIT_S = 5, 1.0    # Windows may refuse to open a file in the moment that it is replaced


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--checkpoint-dir", type=Path, default=Path("checkpoints"), help="folder of the run")
    parser.add_argument(
        "--stage", choices=STAGES, default=None, help="of the run; without it the newest latest file decides"
    )
    parser.add_argument(
        "--out", type=Path, default=None, help="picture to write; without it STAGE_preview.png in that folder"
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


def load_latest(files: RunFiles, device) -> tuple[Callable, dict]:
    """Return what `load_answer` does, or of stage 4 `load_lumen_model`; tried again for seconds where the file is being
    replaced (Windows)."""
    load = load_lumen_model if files.stage == LUMEN_STAGE else load_answer
    for attempt in range(READ_TRIES):
        try:
            return load(files.latest, device=device)
        except CheckpointError as error:
            if attempt == READ_TRIES - 1 or not isinstance(error.__cause__, OSError):
                raise
            time.sleep(READ_WAIT_S)


def newest_run(folder: Path, stage: str | None) -> RunFiles:
    """Return the files of the run of `stage`; without one, of that whose latest checkpoint is the newest.

    Raises DataError where the folder has no latest checkpoint of any stage.
    """
    runs = [RunFiles(folder, name) for name in ([stage] if stage else STAGES)]
    there = [run for run in runs if run.latest.exists()]
    if not there:
        names = " or ".join(run.latest.name for run in runs)
        raise DataError(f"{folder}: no {names} in it; give the folder of a run with --checkpoint-dir")
    return max(there, key=lambda run: run.latest.stat().st_mtime_ns)


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


def draw_preview(view, cases: Sequence, history: Sequence[dict], title: str) -> Figure:
    """Return the figure: history above, one row of pictures per case in the order given. view: of `VIEWS`."""
    panels = {name: [field for field in fields if any(line.get(field) is not None for line in history)]
              for name, fields in view.PANELS.items()}
    curves = in_rows([(name, fields) for name, fields in panels.items() if fields])
    gallery = view.arrange(cases)
    width = TITLE_LETTERS_PER_COLUMN * len(gallery["column_titles"])
    lines = [part for line in title.splitlines() for part in wrap(line, width)]
    # For two lines of title there is room anyway.
    title_inches = TITLE_LINE_INCHES * max(0, len(lines) - 2)
    room_inches = title_inches + (len(curves) * CURVES_ROW_INCHES + 0.3 if curves else 0.0)
    figure = gallery_figure(row_titles=[case.title for case in cases], title="\n".join(lines), **gallery,
                            room_above_inches=room_inches)
    for row, panels_of_row in enumerate(curves):
        # All rows have columns as wide as the first, the fullest one.
        _draw_curves(figure, history, panels_of_row, columns=len(curves[0]),
                     bottom_inches=title_inches + (row + 1) * CURVES_ROW_INCHES + 0.15)
    return figure


def in_rows(panels: Sequence) -> list[Sequence]:
    """Return rows of at most `CURVES_PER_ROW` panels."""
    return [panels[start : start + CURVES_PER_ROW] for start in range(0, len(panels), CURVES_PER_ROW)]


def _draw_curves(figure: Figure, history: Sequence[dict], panels: Sequence[tuple[str, list[str]]], *,
                 columns: int, bottom_inches: float) -> None:
    """Draw a row of panels, title and fields of the history each; its bottom is so far below the top."""
    height, share = figure.get_figheight(), 0.95 / columns
    for number, (title, fields) in enumerate(panels):
        axis = figure.add_axes((0.05 + number * share, 1 - bottom_inches / height, share - 0.05,
                                (CURVES_INCHES - 0.15) / height))
        for field in fields:
            points = [(line["epoch"], line[field]) for line in history if line.get(field) is not None]
            axis.plot(*zip(*points), "o-", markersize=3, label=field)
        axis.set_title(title, fontsize=12 if columns < CURVES_PER_ROW else 9)
        axis.set_xlabel("epoch")
        axis.set_xlim(history[0]["epoch"] - 0.5, history[-1]["epoch"] + 0.5)    # the same for all of them
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        if len(fields) > 1 or columns < CURVES_PER_ROW:      # else the title names it, and there is no room
            axis.legend(fontsize=8)


def preview(args: argparse.Namespace, files: RunFiles, rows: pd.DataFrame | None) -> pd.DataFrame:
    """Draw the run's checkpoint as it is now; return the cases' rows, to be used again."""
    answer, checkpoint = load_latest(files, choose_device(args.device))
    rows = choose_rows(args, checkpoint["config"]) if rows is None else rows
    view = VIEWS[files.stage]
    cases = [view.predict_case(row, answer, checkpoint)
             for _, row in tqdm(rows.iterrows(), total=len(rows), desc="cases", unit="frame", leave=False)]
    cases, order = view.order(cases)
    line = (f"{files.stage}, epoch {checkpoint['epoch']}, step {checkpoint['global_step']}: "
            f"on these {len(cases)} cases {view.describe(cases)}")
    out = args.out or files.picture("preview")
    figure = draw_preview(view, cases, read_history(files.history), f"{line}\n{order}")
    save_figure_atomic(figure, out, dpi=DPI)
    print(f"{line}; {out}", flush=True)
    return rows


def watch(args: argparse.Namespace) -> None:
    """Draw now, and with --watch again whenever the checkpoint has changed, until Ctrl-C."""
    drawn, rows = None, {}
    while True:
        try:
            files = newest_run(args.checkpoint_dir, args.stage)
        except DataError as error:
            if not args.watch:
                raise
            print(f"{error}\nlooking again every {args.watch:g} s", flush=True)
        else:
            stamp = (files.latest, files.latest.stat().st_mtime_ns)
            if stamp != drawn:
                rows[files.stage], drawn = preview(args, files, rows.get(files.stage)), stamp
        if not args.watch:
            return
        time.sleep(args.watch)


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    with clean_exit("stopped; nothing was written", also=(ValueError,)):
        try:
            watch(args)
        except KeyboardInterrupt:
            if not args.watch:      # with it, this is the way to end
                raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
