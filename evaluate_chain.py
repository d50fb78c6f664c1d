"""From the frame alone to millimetres: how well the whole chain measures, and what each of its steps costs.

    python evaluate_chain.py --data-csv data.csv --checkpoint runs/phase2_cass_best.pth \\
        runs/phase3_obstruction_best.pth runs/phase4_quantitative_best.pth
    python evaluate_chain.py --data-csv data.csv --limit 100                    # the checkpoints that came along

Of each row of --split whose recorded stenosis reaches what stage 3 was trained to find: is its lesion found in the
frame, without any hint? If so it is measured in four ways, with the true or the predicted box (stages 2 and 3) and the
true or the predicted lumen (stage 4), all against what Medis recorded. A lesion counts as found where an obstruction's
point lies in its box, at the score that stage 3's validation chose. Stage 2 may be missing: boxes are then those of
obstructions with their surroundings.

Writes to --out: chain_metrics.json, chain_lesions.csv (a line a row), chain_agreement.png (scatter and Bland-Altman
plots of the whole chain). Not a medical device: for research only.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from data.contours import read_contours
from data.errors import DataError
from data.paths import parse_path_maps
from data.schema import load_table, select_split
from qca.agreement import agreement_figure
from utils.arguments import HelpFormatter, add_data_arguments, add_device_argument, choose_device, positive_int
from utils.cases import choose_cases
from utils.checkpoint import load_checkpoint
from utils.drawing import DPI
from utils.entry import clean_exit, command_line
from utils.files import save_figure_atomic, write_text_atomic
from utils.history import to_json
from utils.lumens.chain_evaluation import WAYS, WHOLE_CHAIN, chain_of_row, describe_chain, summarise_chain
from utils.lumens.evaluation import BETWEEN_OBSERVERS_SD, QUANTITIES
from utils.lumens.quantify import load_lumen_model
from utils.obstructions.search import wanted_by
from utils.prediction import LUMEN_STAGE, OBSTRUCTION_STAGE, SHIPPED_CHECKPOINTS, THRESHOLD
from utils.reports.frame_answer import load_answers
from utils.reports.records import describe_checkpoint


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add_data_arguments(parser)
    parser.add_argument("--checkpoint", type=Path, nargs="+", default=None, metavar="PTH",
                        help="weights of stages 3 and 4, and of 2 to name segments; without it those that came along")
    parser.add_argument("--split", choices=("train", "val", "all"), default="val", help="rows to measure on")
    parser.add_argument("--limit", type=positive_int, default=None, help="rows at most, spread over patients")
    parser.add_argument("--out", type=Path, default=Path("outputs/chain"), help="folder to write to")
    add_device_argument(parser)
    return parser


def choose_rows(args: argparse.Namespace, from_pct: float) -> pd.DataFrame:
    """Rows of --split whose recorded stenosis is at least `from_pct`."""
    table = load_table(args.data_csv, args.data_root, parse_path_maps(args.path_map))
    table = table if args.split == "all" else select_split(table, args.split)
    stenoses = np.array([read_contours(path).measurements["diameter_stenosis_pct"] for path in table["contours_path"]])
    rows = table[stenoses >= from_pct].reset_index(drop=True)
    if rows.empty:
        raise DataError(f"{args.data_csv}: no row of {args.split} has {from_pct:g} %DS, from which stage 3 looks")
    return rows if args.limit is None else rows.iloc[choose_cases(rows, args.limit)].reset_index(drop=True)


def load_chain(paths, device):
    """(answer, draw_lumen, wanted, described) of the checkpoints; DataError where stage 3 or 4 is missing."""
    stages = {path: load_checkpoint(path)["stage"] for path in paths}
    for stage, what in ((OBSTRUCTION_STAGE, "finds lesions"), (LUMEN_STAGE, "draws lumens")):
        if stage not in stages.values():
            raise DataError(f"no checkpoint of {stage}, which {what}, among {', '.join(map(str, paths))}: give one "
                            "with --checkpoint")
    lumen_path = next(path for path, stage in stages.items() if stage == LUMEN_STAGE)
    others = [path for path in paths if path != lumen_path]
    answer, checkpoints = load_answers(others, device=device)
    draw_lumen, lumen_checkpoint = load_lumen_model(lumen_path, device=device)
    described = [describe_checkpoint(path, checkpoint, ["chain"])
                 for path, checkpoint in zip([*others, lumen_path], [*checkpoints, lumen_checkpoint], strict=True)]
    return answer, draw_lumen, wanted_by(checkpoints, None), described


def lesions_table(rows: pd.DataFrame, records: list[dict]) -> pd.DataFrame:
    """A line a row: what was recorded, and what each way measured."""
    lines = []
    for (_, row), record in zip(rows.iterrows(), records, strict=True):
        first = record["true_box_true_lumen"]["recorded"]
        line = {"csv_line": row["csv_line"], "patient_id": row["patient_id"], "cass_segment": row["cass_segment"],
                "found": record["found"], **{f"{name}_recorded": value for name, value in first.items()}}
        for way in WAYS:
            one = record.get(way, {})
            line |= {f"{name}_{way}": one.get("measured", {}).get(name) for name in QUANTITIES}
            line |= {f"mld_off_px_{way}": one.get("mld_off_px"), f"failure_{way}": one.get("failure")}
        lines.append(line)
    return pd.DataFrame(lines)


def run(args: argparse.Namespace) -> None:
    """Measure, write and say."""
    paths = args.checkpoint or list(SHIPPED_CHECKPOINTS)
    answer, draw_lumen, wanted, described = load_chain(paths, choose_device(args.device))
    rows = choose_rows(args, wanted.from_pct)
    records = [chain_of_row(row, answer, draw_lumen, wanted.threshold.score, THRESHOLD)
               for _, row in tqdm(rows.iterrows(), total=len(rows), desc="measuring", unit="row")]
    metrics = summarise_chain(records, rows["patient_id"].tolist())
    about = {"data_csv": str(args.data_csv), "split": args.split, "from_pct": wanted.from_pct,
             "score_threshold": wanted.threshold.score, "command": command_line(), "checkpoints": described}
    write_text_atomic(args.out / "chain_metrics.json", to_json({**about, **metrics}, indent=2) + "\n")
    text = lesions_table(rows, records).to_csv(index=False, float_format="%.4f", lineterminator="\n")
    write_text_atomic(args.out / "chain_lesions.csv", text)
    found = [record[WHOLE_CHAIN] for record in records if record["found"]]
    pairs = {words: tuple(np.array([one[kind][name] for one in found], float) for kind in ("recorded", "measured"))
             for name, (_, _, words) in QUANTITIES.items()}
    figure = agreement_figure(
        pairs, units=[unit for unit, _, _ in QUANTITIES.values()], names=("Medis", "from the frame alone"),
        spreads=[BETWEEN_OBSERVERS_SD[name] for name in QUANTITIES],
        title=f"From the frame alone: {len(found)} of {len(records)} lesions were found",
    )
    save_figure_atomic(figure, args.out / "chain_agreement.png", dpi=DPI)
    print(describe_chain(metrics, wanted.from_pct), f"written to {args.out}", sep="\n")


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    with clean_exit("stopped; nothing was written", also=(ValueError,)):
        run(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
