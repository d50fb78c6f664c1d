r"""Do contours files hold together? Every measurement again from the file's own edges, beside the one recorded.

    python recompute_contours.py --data-csv dataset.csv --out outputs/contours
    python recompute_contours.py --data-csv dataset.csv --split val --limit 100 --out outputs/contours

Two comparisons, see qca/recorded.py. "At the file's places": the lesion's start, end and MLD are where the file has
them, so every number must come out within rounding; a row that does not has another scale, other edges or another
frame than its numbers. "Found": the lesion is sought in the edges alone, by the rules of qca/, so the difference is
that between this package's rules and the analyst's. Missing measurements are left blank and compared with nothing.
Writes to --out:

    recomputed.csv         a row each: recorded, recomputed, found, difference of each measurement; what disagrees
    recomputed.txt         bias, SD and limits of agreement; how many rows disagree, the worst of them by line
    recomputed.png         recomputed against recorded, and their differences (Bland-Altman)

The exit code is 0 when every row could be recomputed, whether or not rows disagree.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from data.contours import MEASUREMENTS, read_contours
from data.paths import parse_path_maps
from data.schema import load_table, select_split
from qca.agreement import agreement_figure, agreement_of
from qca.calibration import choose_calibration
from qca.recorded import ROUNDING, disagreements, recompute
from utils.arguments import HelpFormatter, add_data_arguments, non_negative_int
from utils.entry import clean_exit
from utils.files import save_figure_atomic, write_text_atomic

IDENTITY = ("csv_line", "patient_id", "vessel_pattern", "phase", "cass_segment", "split")
# What the summary is about: name of the measurement, what it is called, its unit.
SHOWN = (
    ("MLD_mm", "MLD", "mm"), ("interpolated_RVD_mm", "RVD", "mm"), ("diameter_stenosis_pct", "%DS", "points"),
    ("lesion_length_mm", "lesion length", "mm"), ("segment_length_mm", "segment length", "mm"),
)
WORST_ROWS = 20  # in the summary; all of them are in the CSV


def recompute_row(row: dict) -> dict:
    """All numbers of one row; `disagrees` and `notes` are words, blank where there is nothing to say."""
    contours = read_contours(row["contours_path"])
    again = recompute(contours)
    record = {name: row[name] for name in IDENTITY}
    for name in MEASUREMENTS:
        recorded, recomputed = contours.measurements[name], again.at_places[name]
        record |= {
            f"{name}_recorded": recorded, f"{name}_recomputed": recomputed, f"{name}_difference": recomputed - recorded,
            f"{name}_found": again.found[name],
        }
    wrong = disagreements(contours, again)
    # By how many times the rounding the worst one is off: what to look at first.
    record["times_rounding"] = max((abs(value) / ROUNDING[name] for name, value in wrong.items()), default=0.0)
    record["disagrees"] = ", ".join(f"{name} {value:+.3g}" for name, value in wrong.items())
    record["missing"] = ", ".join(contours.missing_measurements)
    record["notes"] = "; ".join(choose_calibration(contours.calibration).notes)
    record["px_per_mm"] = float(contours.calibration["scale_factor"])
    return record


def summary(table: pd.DataFrame) -> str:
    """Agreement of both comparisons, how many rows disagree and in what, and the worst rows."""
    odd = table[table["disagrees"] != ""].sort_values("times_rounding", ascending=False)
    lines = [
        f"{len(table)} rows of {table['patient_id'].nunique()} patients: {len(odd)} disagree beyond rounding, "
        f"{(table['missing'] != '').sum()} lack measurements, {(table['notes'] != '').sum()} have an odd calibration",
        "", agreement_table(table, "recomputed", "recomputed at the file's places, less recorded"),
        "", agreement_table(table, "found", "found from the edges alone, less recorded"),
    ]
    counts = {name: _count(table, name) for name in ROUNDING}
    named = [f"  {name}: {count} (by more than {ROUNDING[name]:g})" for name, count in counts.items() if count]
    lines += ["", "rows that disagree, by measurement:", *named] if named else ["", "no measurement disagrees"]
    if len(odd):
        lines += ["", f"rows that disagree most (first {WORST_ROWS}):"]
        lines += [f"  row {one.csv_line}, {one.patient_id} {one.vessel_pattern} {one.phase}: {one.disagrees}"
                  for one in odd.head(WORST_ROWS).itertuples()]
    return "\n".join(lines)


def _count(table: pd.DataFrame, name: str) -> int:
    return int((table[f"{name}_difference"].abs() > ROUNDING[name]).sum())


def agreement_table(table: pd.DataFrame, kind: str, heading: str) -> str:
    """Bias, SD, mean absolute error and limits of agreement of `SHOWN`, as text."""
    rows = {}
    for name, what, unit in SHOWN:
        found = agreement_of(table[f"{name}_recorded"].to_numpy(), table[f"{name}_{kind}"].to_numpy())
        rows[f"{what} ({unit})"] = found._asdict()
    text = pd.DataFrame(rows).T.astype({"n": int}).to_string(float_format=lambda value: f"{value:.3f}")
    return f"{heading}:\n{text}"


def draw(table: pd.DataFrame):
    """The figure of `SHOWN`, recomputed at the file's places against recorded."""
    pairs = {
        what: (table[f"{name}_recorded"].to_numpy(float), table[f"{name}_recomputed"].to_numpy(float))
        for name, what, _ in SHOWN
    }
    title = f"{len(table)} contours files: measurements recomputed from their own edges"
    return agreement_figure(pairs, title=title, units=[unit for *_, unit in SHOWN], names=("recorded", "recomputed"))


def run(options: argparse.Namespace) -> pd.DataFrame:
    """Recompute, write table, summary and picture, print the summary; returns the table in the CSV's order."""
    table = load_table(options.data_csv, options.data_root, parse_path_maps(options.path_map))
    rows = select_split(table, options.split).head(options.limit).to_dict("records")
    found = pd.DataFrame([recompute_row(row) for row in tqdm(rows, "recomputing", disable=None)])
    text = summary(found)
    write_text_atomic(
        options.out / "recomputed.csv", found.to_csv(index=False, float_format="%.4f", lineterminator="\n")
    )
    write_text_atomic(options.out / "recomputed.txt", text + "\n")
    save_figure_atomic(draw(found), options.out / "recomputed.png")
    print(text)
    print(f"\nwritten: {options.out / 'recomputed.csv'}, recomputed.txt, recomputed.png")
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add_data_arguments(parser)
    parser.add_argument("--split", choices=("train", "val", "all"), default="all", help="rows to recompute")
    parser.add_argument("--limit", type=non_negative_int, default=None, help="only the first so many rows")
    parser.add_argument("--out", type=Path, required=True, default=argparse.SUPPRESS, help="folder to write to")
    options = parser.parse_args(arguments)
    with clean_exit(f"stopped; nothing was written to {options.out}", also=(ValueError,)):
        run(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
