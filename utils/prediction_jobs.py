"""What `predict.py` is asked to do, as jobs: one frame each, of a file or of a row of a CSV."""

import argparse
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import pandas as pd

from data.angles import parse_angle
from data.errors import DataError
from data.frame_source import FrameSource, is_frame_file
from utils.cases import choose_cases
from utils.prediction_report import output_paths
from utils.segment_report import Pointer


@dataclass(frozen=True, kw_only=True)
class Job:
    """One frame to predict: frame_index None = choose it; view_deg overrides the file's where it is not nan.

    row: of the data set that the frame is from, for its masks; empty for a file.
    """
    name: str
    path: Path
    frame_index: int | None
    view_deg: tuple[float, float]
    view_source: str
    row: Mapping = field(default_factory=dict)


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


def expand_inputs(inputs: Sequence[Path]) -> list[Path]:
    """Return the files among and inside the inputs; a folder gives its readable files, sorted, not deeper."""
    files = []
    for path in inputs:
        if path.is_dir():
            files += sorted(file for file in path.iterdir() if file.is_file() and is_frame_file(file))
        else:
            files.append(path)
    return files


def file_jobs(inputs: Sequence[Path], *, frame_index: int | None, view_deg: tuple[float, float]) -> list[Job]:
    """Return one job per file among and in the inputs, named by its stem; frame_index None = choose it."""
    return [Job(name=path.stem, path=path, frame_index=frame_index, view_source="command line", view_deg=view_deg)
            for path in expand_inputs(inputs)]


def with_names_apart(jobs: Iterable[Job]) -> list[Job]:
    """Return the jobs with a number added to names that are taken, so that none overwrites another.

    Names that differ only in case count as one, as they do on the disks of Windows and macOS.
    """
    named: dict[str, Job] = {}
    for job in jobs:
        names = (f"{job.name}_{number}" if number > 1 else job.name for number in count(1))
        name = next(name for name in names if name.casefold() not in named)
        named[name.casefold()] = replace(job, name=name)
    return list(named.values())


def row_jobs(table: pd.DataFrame, limit: int) -> list[Job]:
    """Return a job for each of up to `limit` rows, spread over the patients, at the analyst's frame."""
    return [_row_job(table.iloc[position]) for position in choose_cases(table, limit)]


def _row_job(row: pd.Series) -> Job:
    path, frame_index = Path(row["cine_path"]), int(row["frame_index"])
    # A patient's number may hold what a file's name must not: / or, on Windows, one of <>:"|?*
    patient = "" if path.stem.startswith(row["patient_id"]) else f"{row['patient_id']}_"
    name = re.sub(r"[^\w.-]", "_", f"{patient}{path.stem}_f{frame_index:03d}")
    return Job(name=name, path=path, frame_index=frame_index, view_source="data set", row=row,
               view_deg=(float(row["primary_angle"]), float(row["secondary_angle"])))


def refuse_replacing_inputs(jobs: Sequence[Job], out: Path, contact_sheet: str) -> None:
    """Raise DataError when a file to write to `out` is one of those to read; without regard to case."""
    inputs = {str(job.path.resolve()).casefold() for job in jobs}
    written = [path for job in jobs for path in output_paths(out, job.name).values()] + [out / contact_sheet]
    for path in written:
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
    return view_deg, (
        source.view_source if job.view_source == "command line" else f"none in the {job.view_source}"
    )
