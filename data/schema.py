r"""The whole CSV checked before anything is trained on it, and read into a table.

    python -m data.schema dataset.csv
    python -m data.schema dataset.csv --path-map "D:\angio=/mnt/angio"

Prints what the data set holds, or every fault at once with its row, column, value and what is allowed. The
exit code is 1 when there are faults. In code:

    table = load_table("dataset.csv")           # checks everything, raises DataError with all faults
    train = select_split(table, "train")
"""

import argparse
import os
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from data.cass import SEGMENTS
from data.check import ANGLE_COLUMNS, OPTIONAL_COLUMNS, REQUIRED_COLUMNS, SPLITS, RowCheck, check_row
from data.errors import DataError, Fault, shortened
from data.paths import PathMaps, is_foreign, parse_path_maps, resolve_path
from data.text import CsvRow, read_csv

# Reading waits on the disk or the network more than on the processor: threads help on two cores too.
THREADS = 8


class Report(NamedTuple):
    """The faultless rows as a table, all faults, and the contradictions that do not stop a run."""

    table: pd.DataFrame
    faults: list[Fault]
    warnings: list[Fault]


def load_table(
    csv_path: str | Path, data_root: str | Path | None = None, path_maps: PathMaps = (),
    split: str | None = None, progress: bool = True,
) -> pd.DataFrame:
    """Check the whole CSV and return its rows, or those of one split ("train", "val"; None = all).

    data_root: the folder that relative paths start from, the CSV's own by default. path_maps: (old, new)
    starts of paths. Columns: the contract's, with paths absolute and local, `frame_index` and `cass_segment`
    int, `primary_angle` and `secondary_angle` float degrees (nan = unknown; from the CSV, else from the
    contours file), and `csv_line`. Raises DataError whose text lists every fault.
    """
    report = inspect_csv(csv_path, data_root, path_maps, progress)
    if report.faults:
        raise DataError(fault_report(csv_path, report.faults))
    return select_split(report.table, split)


def select_split(table: pd.DataFrame, split: str | None) -> pd.DataFrame:
    """The rows of "train" or "val", or all of them for None or "all"; DataError when there are none."""
    if split in (None, "all"):
        return table
    rows = table[table["split"] == split].reset_index(drop=True)
    if split not in SPLITS or rows.empty:
        seen = ", ".join(f"{name}: {count}" for name, count in table["split"].value_counts().items())
        raise DataError(f"no row has split {split!r} (rows seen: {seen}); allowed: {', '.join(SPLITS)}")
    return rows


def check_csv(
    csv_path: str | Path, data_root: str | Path | None = None, path_maps: PathMaps = (),
    progress: bool = True,
) -> tuple[pd.DataFrame, list[Fault]]:
    """As `load_table`, but returns (rows without fault, every fault) instead of raising."""
    return inspect_csv(csv_path, data_root, path_maps, progress)[:2]


def inspect_csv(
    csv_path: str | Path, data_root: str | Path | None = None, path_maps: PathMaps = (),
    progress: bool = True,
) -> Report:
    """Everything there is to say about the CSV. Raises DataError only when the CSV itself cannot be read."""
    header, rows = read_csv(csv_path)
    root = Path(data_root if data_root is not None else Path(csv_path).parent).resolve()

    def examine(row: CsvRow) -> RowCheck:
        return check_row(row.line, row.cells, lambda text: _resolve(text, root, path_maps))

    hidden = None if progress else True  # None: hidden only where there is no terminal
    with ThreadPoolExecutor(THREADS) as pool:
        results = pool.map(examine, rows)
        checks = list(tqdm(results, "checking rows", total=len(rows), leave=False, disable=hidden))
    faults = _check_layout(header, rows) + [fault for check in checks for fault in check.faults]
    faults += _check_patients(checks) + _check_cines(checks) + _check_repeats(checks)
    bad_lines = {fault.row for fault in faults}
    table = pd.DataFrame([check.record for check in checks if check.line not in bad_lines])
    warnings = [warning for check in checks for warning in check.warnings]
    return Report(table, sorted(faults, key=lambda fault: fault.row), warnings)


def fault_report(csv_path: str | Path, faults: list[Fault]) -> str:
    """Every fault on a line of its own, after how many there are in which column."""
    columns = Counter(fault.column for fault in faults)
    counts = ", ".join(f"{column}: {count}" for column, count in columns.items())
    rows = len({fault.row for fault in faults})
    return "\n  ".join([f"{csv_path}: {len(faults)} faults in {rows} rows ({counts})", *map(str, faults)])


def _resolve(text: str, root: Path, path_maps: PathMaps) -> tuple[Path, str]:
    if is_foreign(text, path_maps):
        return Path(text), "This is a Windows path: give --path-map with its start and the local folder"
    return resolve_path(text, root, path_maps), "Correct the path, or give --data-root or --path-map"


def _check_layout(header: list[str], rows: list[CsvRow]) -> list[Fault]:
    """Columns that are missing or there twice, rows of another length, no rows at all."""
    missing = [name for name in REQUIRED_COLUMNS if name not in header]
    doubled = [name for name, count in Counter(header).items() if count > 1 and name]
    seen, faults = f"columns seen: {shortened(', '.join(header) or 'none', 1000)}", []
    if missing:
        faults.append(Fault(1, ", ".join(missing), seen, "missing from the header; add each, spelled so"))
    if doubled:
        faults.append(Fault(1, ", ".join(doubled), seen, "twice in the header; remove or rename one"))
    if not rows:
        faults.append(Fault(2, "(all)", "", "the CSV has no rows; allowed: at least one"))
    allowed = f"{len(header)} cells, as the header has; put text that contains a separator in quotes"
    wrong = [row for row in rows if row.cell_count != len(header)]
    return faults + [Fault(row.line, "(row)", f"{row.cell_count} cells", allowed) for row in wrong]


def _check_patients(checks: list[RowCheck]) -> list[Fault]:
    """A patient in two splits would make validation a test of memory."""
    faults, firsts = [], {}
    for check in checks:
        patient, split = check.record.get("patient_id"), check.record.get("split")
        if not patient or split not in SPLITS:
            continue
        first = firsts.setdefault(patient, check)
        if first.record["split"] != split:
            seen = f"{patient} in {split!r}, but in {first.record['split']!r} in row {first.line}"
            faults.append(Fault(check.line, "patient_id", seen, "allowed: one split for a patient's rows"))
    return faults


def _check_cines(checks: list[RowCheck]) -> list[Fault]:
    """The same cine under two patients in two splits is the same leak under another name."""
    faults, firsts = [], {}
    for check in checks:
        record = check.record
        if "cine_path" not in record or record.get("split") not in SPLITS:
            continue
        first = firsts.setdefault(record["cine_path"], check)
        same_patient = first.record.get("patient_id") == record.get("patient_id")
        if first.record["split"] != record["split"] and not same_patient:
            allowed = f"this cine is {first.record['split']!r} in row {first.line}; allowed: one split"
            faults.append(Fault(check.line, "cine_path", check.text("cine_path"), allowed))
    return faults


def _check_repeats(checks: list[RowCheck]) -> list[Fault]:
    faults, firsts = [], {}
    columns = ("cine_path", "frame_index", "vessel_mask_actual_path")
    for check in checks:
        key = tuple(check.record.get(name) for name in columns)
        first = firsts.setdefault(key, check)
        if first is not check and None not in key:
            allowed = f"the same cine, frame and mask as in row {first.line}; remove one of the two rows"
            faults.append(Fault(check.line, "cine_path", check.text("cine_path"), allowed))
    return faults


def summary(report: Report) -> str:
    """What the data set holds, in words and counts, and what is odd about it."""
    table = report.table
    lines = [f"{len(table)} rows of {table['patient_id'].nunique()} patients, no faults"]
    for split, rows in table.groupby("split"):
        lines.append(f"  {split}: {len(rows)} rows, {rows['patient_id'].nunique()} patients")
    phases = table["phase"].value_counts()
    lines += ["phases: " + ", ".join(f"{name} {count}" for name, count in phases.items()), "segments:"]
    for cass_id, count in table["cass_segment"].value_counts().sort_index().items():
        lines.append(f"  {cass_id:2d} {SEGMENTS[cass_id].name}: {count}")
    missing = np.isnan(table[list(ANGLE_COLUMNS)].to_numpy()).any(axis=1).sum()
    extra = [name for name in OPTIONAL_COLUMNS if name in table and name not in ANGLE_COLUMNS]
    lines += [f"rows without view angles: {missing}", f"optional columns: {', '.join(extra) or 'none'}"]
    return "\n".join(lines + _warning_lines(report.warnings))


def _warning_lines(warnings: list[Fault]) -> list[str]:
    """Warnings of a kind (same column, same first words) together, with the first row as the example."""
    kinds: dict[tuple, list[Fault]] = {}
    for warning in warnings:
        kinds.setdefault((warning.column, warning.allowed[:12]), []).append(warning)
    heading = ["contradictions that do not stop a run:"] if kinds else []
    return heading + [f"  in {len(group)} rows, for instance {group[0]}" for group in kinds.values()]


def main(arguments: list[str] | None = None) -> int:
    """Check the CSV named on the command line; 0 when it can be used, 1 when not."""
    parser = argparse.ArgumentParser(
        prog="python -m data.schema", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("csv", help="the CSV to check")
    parser.add_argument("--data-root", help="folder that relative paths start from (default: the CSV's own)")
    parser.add_argument(
        "--path-map", action="append", default=[], metavar="OLD=NEW",
        help="replace the start OLD of paths by NEW; may be given again",
    )
    options = parser.parse_args(arguments)
    try:
        report = inspect_csv(options.csv, options.data_root, parse_path_maps(options.path_map))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    try:
        print(fault_report(options.csv, report.faults) if report.faults else summary(report), flush=True)
    except BrokenPipeError:  # the reader, such as `head`, has had enough
        # Python flushes once more as it ends, which would fail again and say so.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
