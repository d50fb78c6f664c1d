"""What `predict.py` is asked to do, as jobs: one frame each, of a file or of a row of a CSV.

There are two kinds of CSV: a data set, all of which must be right (`row_jobs`), and a list of inputs, whose bad rows
are passed over and reported (`batch_jobs`).
"""

import argparse
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import pandas as pd

from data.angles import parse_angle
from data.errors import DataError, Fault
from data.frame_source import FrameSource, is_frame_file
from data.paths import PathMaps, is_foreign, resolve_path
from data.text import CsvRow, read_csv, whole_number
from qca.calibration import FRENCH_MM
from utils.arguments import positive_float
from utils.cases import choose_cases
from utils.reports.frame_calibration import GivenScale
from utils.reports.records import output_paths
from utils.segments.report import Pointer

BATCH_COLUMNS = ("path", "frame_index", "primary_angle", "secondary_angle", "px_per_mm", "name")
# Files of a whole run; an input of the name `report` must not take that of its JSON.
RUN_FILES = ("predictions.png", "report.html", "report.json", "measurements.csv")

@dataclass(frozen=True, kw_only=True)
class Job:
    """One frame to predict: frame_index None = choose it; view_deg overrides the file's where it is not nan.

    row: of the data set that the frame is from, for its masks; empty for a file. scale: what was said of the frame's
    calibration. listed_in, line: the list of inputs that it is from, and where in it; None for others.
    """
    name: str
    path: Path
    frame_index: int | None
    view_deg: tuple[float, float]
    view_source: str
    row: Mapping = field(default_factory=dict)
    scale: GivenScale = GivenScale()
    listed_in: Path | None = None
    line: int | None = None

    def describe_failure(self, error: Exception) -> str:
        """What went wrong, on one line, with the file or the row that it is of."""
        if self.listed_in is None:
            return f"{self.path}: {type(error).__name__}: {error}"
        if isinstance(error, RowFault):
            return f"{self.listed_in}: {error}"
        return f"{self.listed_in}: row {self.line}, column path: found '{self.path}'; {type(error).__name__}: {error}"


class RowFault(DataError):
    """A fault in a row of a list of inputs; the text names row, column, value and what is allowed."""


def probability(text: str) -> float:
    """Read a number between 0 and 1, both excluded, for argparse."""
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text}: allowed: above 0 and below 1")
    return value


def angle_of(axis: str) -> Callable[[str], float]:
    """Return an argparse type for an angle of "primary" or "secondary", as a number or as in `RAO 30`."""
    def read(text: str) -> float:
        try:
            return parse_angle(text, axis)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
    return read


def pointer_of(kind: str) -> Callable[[str], Pointer]:
    """Return an argparse type for a "point", `X,Y`, or a "box", `X0,Y0,X1,Y1`, in px."""
    wanted = {"point": "X,Y", "box": "X0,Y0,X1,Y1"}[kind]

    def read(text: str) -> Pointer:
        try:
            px = tuple(float(number) for number in text.split(","))
        except ValueError:
            px = ()
        if len(px) != wanted.count(",") + 1 or not all(math.isfinite(number) for number in px):
            raise argparse.ArgumentTypeError(f"{text!r}: allowed: {wanted}, numbers in px of the frame")
        if kind == "box" and not (px[0] <= px[2] and px[1] <= px[3]):
            raise argparse.ArgumentTypeError(f"{text!r}: X0 must not be above X1, nor Y0 above Y1")
        return Pointer(kind, px)
    return read


def catheter_size(text: str) -> float:
    """Read a catheter's size for argparse: French with the letter, `6F`, as mm; a number as it is."""
    return positive_float(text[:-1]) * FRENCH_MM if text[-1:] in "fF" else positive_float(text)


def expand_inputs(inputs: Sequence[Path]) -> list[Path]:
    """Return the files among and inside the inputs; a folder gives its readable files, sorted, not deeper."""
    files = []
    for path in inputs:
        if path.is_dir():
            files += sorted(file for file in path.iterdir() if file.is_file() and is_frame_file(file))
        else:
            files.append(path)
    return files


def file_jobs(
    inputs: Sequence[Path], *, frame_index: int | None, view_deg: tuple[float, float],
    scale: GivenScale = GivenScale(),
) -> list[Job]:
    """Return one job per file among and in the inputs, named by its stem; frame_index None = choose it."""
    return [Job(name=path.stem, path=path, frame_index=frame_index, view_source="command line", view_deg=view_deg,
                scale=scale)
            for path in expand_inputs(inputs)]


def with_names_apart(jobs: Iterable[Job]) -> list[Job]:
    """Return the jobs with a number added to names that are taken, so that none overwrites another.

    Names that differ only in case count as one, as they do on the disks of Windows and macOS. `RUN_FILES` are taken.
    """
    named: dict[str, Job] = {}
    taken = {Path(name).stem for name in RUN_FILES}
    for job in jobs:
        names = (f"{job.name}_{number}" if number > 1 else job.name for number in count(1))
        name = next(name for name in names if name.casefold() not in taken)
        taken.add(name.casefold())
        named[name.casefold()] = replace(job, name=name)
    return list(named.values())


def row_jobs(table: pd.DataFrame, limit: int) -> list[Job]:
    """Return a job for each of up to `limit` rows, spread over the patients, at the analyst's frame."""
    return [_row_job(table.iloc[position]) for position in choose_cases(table, limit)]


def _row_job(row: pd.Series) -> Job:
    path, frame_index = Path(row["cine_path"]), int(row["frame_index"])
    # A patient's number may hold what a file's name must not: / or, on Windows, one of <>:"|?*
    patient = "" if path.stem.startswith(row["patient_id"]) else f"{row['patient_id']}_"
    name = _file_name(f"{patient}{path.stem}_f{frame_index:03d}")
    return Job(name=name, path=path, frame_index=frame_index, view_source="data set", row=row,
               view_deg=(float(row["primary_angle"]), float(row["secondary_angle"])))


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.-]", "_", text)


def batch_jobs(
    csv_path: Path, data_root: Path | None = None, path_maps: PathMaps = ()
) -> tuple[list[Job], list[str]]:
    """Return a job for each good row of a list of inputs, and what is wrong with the others, in words.

    Columns: `BATCH_COLUMNS`, of which only `path` is needed, and an empty cell says nothing; others are passed over.
    Paths start from data_root, by default the CSV's folder. Raises DataError for a CSV that cannot be read or has no
    column `path`.
    """
    header, rows = read_csv(csv_path)
    if "path" not in header or not rows:
        seen = f"columns {', '.join(header) or 'none'} and {len(rows)} rows"
        raise DataError(f"{csv_path}: {seen}; needed: a column path and at least one row; allowed beside it: "
                        f"{', '.join(BATCH_COLUMNS[1:])}")
    root, jobs, failures = Path(data_root or csv_path.parent).resolve(), [], []
    for row in rows:
        try:
            jobs.append(_batch_job(csv_path, row, root, path_maps))
        except RowFault as fault:
            failures.append(f"{csv_path}: {fault}")
    return jobs, failures


def _batch_job(csv_path: Path, row: CsvRow, root: Path, path_maps: PathMaps) -> Job:
    """Raises RowFault for a cell that cannot be read, or a file that is not there."""
    path = _cell(row, "path", lambda text: _existing_file(text, root, path_maps), "allowed: the path of a file")
    frame_index = _cell(row, "frame_index", _frame_number, "allowed: a whole number from 0, or empty: choose it")
    view_deg = tuple(_cell(row, f"{axis}_angle", lambda text, axis=axis: parse_angle(text, axis), "", math.nan)
                     for axis in ("primary", "secondary"))
    px_per_mm = _cell(row, "px_per_mm", positive_float, "allowed: a number above 0, or empty: unknown")
    name = _file_name(row.cells.get("name", "").strip()) or path.stem
    return Job(name=name, path=path, frame_index=frame_index, view_deg=view_deg, view_source="list of inputs",
               scale=GivenScale(px_per_mm=px_per_mm, said_by="column px_per_mm"), listed_in=csv_path, line=row.line)


def _cell(row: CsvRow, column: str, read: Callable, allowed: str, empty: object = None):
    """Return what `read` makes of a cell, `empty` for an empty one; RowFault where it raises ValueError."""
    text = row.cells.get(column, "").strip()
    if not text and column != "path":
        return empty
    try:
        return read(text)
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise RowFault(str(Fault(row.line, column, text, allowed or str(error)))) from error


def _existing_file(text: str, root: Path, path_maps: PathMaps) -> Path:
    path = resolve_path(text, root, path_maps)
    if not text or is_foreign(text, path_maps) or not path.is_file():
        raise ValueError("no file")
    return path


def _frame_number(text: str) -> int:
    number = whole_number(text)
    if number is None or number < 0:
        raise ValueError("no frame's number")
    return number


def check_frame_index(job: Job, source: FrameSource) -> None:
    """Raise DataError, which names the row of a list, for a frame that the file does not have."""
    if job.frame_index is None or 0 <= job.frame_index < source.frames:
        return
    allowed = f"the file has frames 0 to {source.frames - 1}"
    if job.listed_in is not None:
        raise RowFault(str(Fault(job.line, "frame_index", str(job.frame_index), allowed)))
    raise DataError(f"{job.path}: no frame {job.frame_index}; {allowed}")


def refuse_replacing_inputs(jobs: Sequence[Job], out: Path) -> None:
    """Raise DataError when a file to write to `out` is one of those to read; without regard to case."""
    read = [path for job in jobs for path in (job.path, job.listed_in) if path is not None]
    inputs = {str(path.resolve()).casefold() for path in read}
    written = [path for job in jobs for path in output_paths(out, job.name).values()]
    for path in written + [out / name for name in RUN_FILES]:
        if str(path.resolve()).casefold() in inputs:
            raise DataError(f"{path} is an input and would be replaced; give another folder with --out")


def merge_view(job: Job, source: FrameSource) -> tuple[tuple[float, float], str]:
    """Return the job's angles, filled from the file where the job has none, and where they come from."""
    given = [not math.isnan(angle_deg) for angle_deg in job.view_deg]
    view_deg = tuple(
        mine if is_given else own for mine, own, is_given in zip(job.view_deg, source.view_deg, given)
    )
    if all(given):
        return view_deg, job.view_source
    if any(given):
        return view_deg, f"{job.view_source}, the other angle: {source.view_source}"
    return view_deg, source.view_source if not len(job.row) else f"none in the {job.view_source}"
