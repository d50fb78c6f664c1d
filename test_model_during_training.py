"""Watch a model learn: draw the latest checkpoint's predictions while training goes on. A tool, not a test.

    python test_model_during_training.py
    python test_model_during_training.py --checkpoint-dir runs/a --watch 60
    python test_model_during_training.py --stage phase2_cass --data-csv data.csv --cases 12 --out preview.png

Reads phase1_deepsa_latest.pth or phase2_cass_latest.pth, the newer one unless --stage says which. Training
replaces it whole, so that it can be read at any time. Without --data-csv the data of that run. The cases are
the same every time: drawn once by --seed, spread over the patients of --split, worst case on top.

Stage 1: frame, label, prediction and agreement in colour; where the data has true masks, also against those.
Scores against labels and against truth stand apart, never mixed. Stage 2: the analysed segment with its true
name, the names of all vessels, their true names where the data has them, and two answers that stand apart:
pointed (which segment is this one?) and blind (which one was analysed?). The history of the run is drawn
above. On the CPU unless asked otherwise, so that it does not disturb training.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from tqdm import tqdm

from data.errors import DataError
from data.paths import parse_path_maps
from data.schema import load_table
from models.loading import STAGES
from utils import preview_segments, preview_vessels
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
from utils.frame_answer import load_answer
from utils.history import read_history
from utils.prediction import CASS_STAGE, STAGE
from utils.run_files import RunFiles

VIEWS = {STAGE: preview_vessels, CASS_STAGE: preview_segments}     # what is shown of a stage
CURVES_INCHES = 2.6
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


def load_latest(path: Path, device) -> tuple[Callable, dict]:
    """Return what `load_answer` does; tried again for seconds where the file is being replaced (Windows)."""
    for attempt in range(READ_TRIES):
        try:
            return load_answer(path, device=device)
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
    panels = {name: fields for name, fields in panels.items() if fields}
    figure = gallery_figure(row_titles=[case.title for case in cases], title=title, **view.arrange(cases),
                            room_above_inches=CURVES_INCHES + 0.9 if panels else 0.0)
    _draw_history(figure, history, panels)
    return figure


def _draw_history(figure: Figure, history: Sequence[dict], panels: dict[str, list[str]]) -> None:
    """Draw `panels`, title to fields of the history, into the room above the gallery."""
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


def preview(args: argparse.Namespace, files: RunFiles, rows: pd.DataFrame | None) -> pd.DataFrame:
    """Draw the run's checkpoint as it is now; return the cases' rows, to be used again."""
    answer, checkpoint = load_latest(files.latest, choose_device(args.device))
    rows = choose_rows(args, checkpoint["config"]) if rows is None else rows
    view = VIEWS[files.stage]
    cases = [view.predict_case(row, answer)
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
