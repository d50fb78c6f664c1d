"""Make a data set of simulated coronary angiograms with exact truth, in the user's own format.

    python make_phantom_dataset.py --out data_phantom
    python make_phantom_dataset.py --out data_phantom --patients 300 --image-size 1016  # 748 rows

Writes DIR/dataset.csv (the user's columns, relative paths), cines, contours JSON, segment masks, DeepSA-like
labels, and beside them what real data never has: the true vessel mask, CASS map and lesions of every analysed
frame, and how well anybody could guess from it which segment was analysed (blind_ceiling). DIR/preview.png
shows a few. The same seed gives the same bytes, whatever the number of workers. An interrupted run goes on
where it stopped when the same command is given again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import signal
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import groupby
from pathlib import Path

from tqdm import tqdm

from phantom.case import Settings, add_ceiling, read_record, write_case
from phantom.ceiling import row_counts
from phantom.files import check_manifest, csv_text
from phantom.plan import Analysis, default_rows, plan_analyses
from phantom.preview import save_preview
from phantom.scene import build_trees, patient_cases
from utils.files import write_text_atomic

SIDE_FILES_BYTES = 200_000  # contours, masks, labels and truth of one row at 512 px, measured 2026-11-21


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write the data set")
    parser.add_argument("--patients", type=int, default=64, help="simulated patients (default: %(default)s)")
    parser.add_argument(
        "--rows", type=int, help="rows of the CSV (default: about 2.5 a patient; 300 patients: 748)"
    )
    parser.add_argument(
        "--image-size", type=int, default=512, metavar="PX", help="side of a frame (default: %(default)s)"
    )
    parser.add_argument("--frames", type=int, default=10, help="frames of a cine (default: %(default)s)")
    parser.add_argument(
        "--severe-others", type=float, default=0.0, metavar="SHARE",
        help="share of trees in which a second lesion, not analysed, is as severe as the analysed one was; "
        "such lesions are what an annotation of one segment leaves out (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="same seed, same bytes (default: %(default)s)")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores, %(default)s)"
    )
    arguments = parser.parse_args(argv)
    for name, least, most in (
        ("patients", 1, 100_000),
        ("image_size", 128, 2048),
        ("frames", 2, 200),
        ("seed", 0, 2**31),
        ("workers", 1, 256),
        ("severe_others", 0, 1),
    ):
        if not least <= getattr(arguments, name) <= most:
            parser.error(
                f"--{name.replace('_', '-')} {getattr(arguments, name)}: allowed are {least} to {most}"
            )
    return arguments


def make_patient(job: tuple[Settings, list[Analysis]]) -> int:
    """Write a patient's rows that are not there yet; returns how many rows are there now."""
    settings, analyses = job
    import cv2

    cv2.setNumThreads(1)
    cases = patient_cases(analyses)
    records = [read_record(settings.directory, case) for case in cases]
    if any(record is None or "blind_ceiling" not in record for record in records):
        trees = build_trees(settings.seed, cases)
        for case, record in zip(cases, records):
            if record is None:
                write_case(settings, case, trees)
            elif "blind_ceiling" not in record:
                add_ceiling(settings, case, trees)
    return len(cases)


def check_space(directory: Path, rows: int, size_px: int, frames: int) -> None:
    """Say how large the data set gets; stop where the disk is too small for it."""
    need = rows * (3 * frames * size_px**2 + SIDE_FILES_BYTES)
    existing = next(parent for parent in (directory, *directory.resolve().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    print(f"{rows} cines of {frames} frames, {size_px} x {size_px}: up to {need / 1e9:.2f} GB in {directory}")
    written = sum(file.stat().st_size for file in directory.rglob("*.npy")) if directory.exists() else 0
    if need - written > free:
        raise OSError(
            f"{directory}: {free / 1e9:.2f} GB free, {(need - written) / 1e9:.2f} GB needed; "
            "free some space, or lower --patients, --frames or --image-size"
        )


def run(arguments: argparse.Namespace) -> Path:
    """Make the data set; returns the path of its CSV."""
    rows = arguments.rows if arguments.rows is not None else default_rows(arguments.patients)
    plan = plan_analyses(arguments.patients, rows, arguments.seed)
    check_manifest(
        arguments.out,
        {
            "patients": arguments.patients,
            "rows": rows,
            "image_size": arguments.image_size,
            "frames": arguments.frames,
            "seed": arguments.seed,
            # Only where there are any: data sets made before there was this setting are the same as without it.
            **({"severe_others": arguments.severe_others} if arguments.severe_others else {}),
        },
    )
    check_space(arguments.out, rows, arguments.image_size, arguments.frames)
    by_patient = [list(group) for _, group in groupby(plan, key=lambda one: one.patient)]
    settings = Settings(
        arguments.out, arguments.seed, arguments.image_size, arguments.frames, row_counts(plan),
        arguments.severe_others,
    )
    jobs = [(settings, own) for own in by_patient]
    with tqdm(total=rows, unit="cine", desc="phantom") as bar:
        for count in _each(make_patient, jobs, arguments.workers):
            bar.update(count)
    records = [read_record(arguments.out, case) for own in by_patient for case in patient_cases(own)]
    write_text_atomic(arguments.out / "dataset.csv", csv_text(records))
    print(f"wrote {arguments.out / 'dataset.csv'} and {save_preview(arguments.out, records)}")
    return arguments.out / "dataset.csv"


def _each(function, jobs: list, workers: int):
    """Results of `function` over jobs, as they come; in this process with one worker.

    A worker that dies (out of memory, say) ends the run with BrokenProcessPool instead of a wait without end.
    """
    if workers == 1 or len(jobs) == 1:
        yield from map(function, jobs)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), context, _leave_interrupts_to_parent) as pool:
        try:
            for done in as_completed([pool.submit(function, job) for job in jobs]):
                yield done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _leave_interrupts_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def main() -> int:
    """Run the command; a mistake of the user is one line, not a traceback."""
    try:
        run(parse_arguments())
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
