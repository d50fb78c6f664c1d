"""From a contest script's flags to its files: what compare_models.py and the two test_*_correct_frames.py share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from contest.arena import Contest, run_contest
from contest.cases import SEGMENT, Case, cases_of_coco, cases_of_folders, cases_of_table
from contest.lineup import Settings
from contest.prompts import MARGIN_PX, POINTS, TEXT, Asked
from contest.report import records_of, save_contest
from contest.scores import MARGIN_IOU, Verdict, decide
from data.coco import load_coco
from data.errors import DataError
from data.paths import parse_path_maps
from data.schema import load_table, select_split
from utils.arguments import add_data_arguments, add_device_argument, choose_device, non_negative_int, positive_int
from utils.cases import choose_cases
from utils.entry import command_line

FITTED_ON = 12  # training frames that a threshold is chosen on


def add_case_arguments(parser: argparse.ArgumentParser, *, folders: bool) -> None:
    """--data-csv and its kin, --split, --limit; with `folders` also --images and what goes with it."""
    add_data_arguments(parser, required=not folders)
    if folders:
        add = parser.add_argument_group("instead of a CSV").add_argument
        add("--images", type=Path, default=None, help="folder of pictures (PNG, JPEG, DICOM) or NIfTI volumes, of any "
            "modality")
        add("--masks", type=Path, default=None, help="folder of their masks, named as they are; a NIfTI volume is "
            "taken slice by slice")
        add("--annotations", type=Path, default=None, help="annotated regions of --images, JSON in COCO's format such "
            "as ARCADE's, in place of --masks")
        add("--category", default=None, help="name or id of their category; without it those with \"stenosis\" in it")
        add("--label", type=int, default=None, help="value in label maps that is meant; without it all that is not 0")
    parser.add_argument("--split", choices=("train", "val", "all"), default="val", help="rows of the CSV to ask about")
    parser.add_argument("--limit", type=positive_int, default=20, metavar="N",
                        help="cases at most, spread over patients")


def add_prompt_arguments(parser: argparse.ArgumentParser, kinds: Sequence[str]) -> None:
    """--prompts and how they are made."""
    add = parser.add_argument_group("prompts, the same ones for everybody").add_argument
    add("--prompts", nargs="+", choices=kinds, default=list(kinds), metavar="KIND",
        help=f"of {', '.join(kinds)}; each contestant is asked with those that it takes")
    add("--text", default=TEXT, help="what a text prompt says")
    add("--box-margin-px", type=float, default=MARGIN_PX, help="around the mask, in a frame of 512 px")
    add("--points", type=positive_int, default=POINTS, help="points along the segment's course")
    add("--jitter-px", nargs="*", type=float, default=[], metavar="PX",
        help="ask again with each side of the box and each point moved by so many px (SD): 5 10 20 draws a curve")


def add_output_arguments(parser: argparse.ArgumentParser, folder: str) -> None:
    """--out, --limit-pictures, --seed, --device."""
    parser.add_argument("--out", type=Path, default=Path(folder), help="folder to write to")
    parser.add_argument("--limit-pictures", type=non_negative_int, default=8, help="cases in a gallery; 0 draws none")
    parser.add_argument("--seed", type=int, default=0, help="which cases are taken and how prompts are moved")
    add_device_argument(parser)


def check_case_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """A usage error unless either a CSV or two folders are given."""
    drawn = [given for given in (args.masks, args.annotations) if given is not None]
    if (args.images is None) != (len(drawn) == 0) or len(drawn) > 1 or (args.data_csv is None) == (args.images is None):
        parser.error("give --data-csv, or --images and either --masks or --annotations")
    if any(px < 0 for px in args.jitter_px):
        parser.error("--jitter-px: allowed are 0 and more")


class AskedAbout(NamedTuple):
    """cases: what is asked about; training: what thresholds may be chosen on, of other patients; empty: names of cases
    left out because their masks are empty, so that nobody can point at anything."""

    cases: list[Case]
    training: list[Case]
    empty: list[str]


def read_cases(args: argparse.Namespace) -> AskedAbout:
    """The cases that the flags of `add_case_arguments` mean. DataError where nothing is left to ask about."""
    chosen, training = _choose_cases(args)
    cases, empty = [], []
    for case in chosen:
        _, masks = case.read()
        if masks[SEGMENT].any():
            cases.append(case)
        else:
            empty.append(case.name)
    if not cases:
        raise DataError("every case's mask is empty: there is nothing to ask about")
    if empty:
        print(f"left out, because their masks are empty: {', '.join(empty)}", flush=True)
    return AskedAbout(cases, training, empty)


def _choose_cases(args: argparse.Namespace) -> tuple[list[Case], list[Case]]:
    """--limit cases, and training cases."""
    if args.data_csv is None:
        if args.annotations is not None:
            cases = cases_of_coco(load_coco(args.annotations, args.images, args.category))
        else:
            cases = cases_of_folders(args.images, args.masks, label=args.label)
        patients = pd.DataFrame({"patient_id": [case.patient for case in cases]})
        return [cases[at] for at in choose_cases(patients, args.limit, seed=args.seed)], []
    table = load_table(args.data_csv, args.data_root, parse_path_maps(args.path_map))
    rows = table if args.split == "all" else select_split(table, args.split)
    training = select_split(table, "train") if args.split == "val" and (table["split"] == "train").any() else rows[:0]
    chosen = [part.iloc[choose_cases(part, count, seed=args.seed)] if len(part) else part
              for part, count in ((rows, args.limit), (training, FITTED_ON))]
    return cases_of_table(chosen[0]), cases_of_table(chosen[1])


def hold_contest(
    args: argparse.Namespace, about: AskedAbout, entries: Sequence[str], *, random: Sequence[str] = (),
    decided: Sequence[str] = (), better_tooling: str | None = None, margin: float = MARGIN_IOU,
) -> int:
    """Ask, score, write, say; returns the exit code: 1 when nobody could answer.

    args: of the three functions above, with `sam3_checkpoint` and `medsam2_checkpoint` where the script has them;
    about: of `read_cases`. decided: the two between whom the rule decides; where they are not both there, the best two
    by box prompts.
    """
    contest = Contest(
        cases=about.cases, kinds=args.prompts, seed=args.seed, masks=args.out / "masks",
        asked=Asked(text=args.text, margin_px=args.box_margin_px, points=args.points),
        jitters_px=sorted({0.0, *args.jitter_px}),
    )
    settings = Settings(
        device=choose_device(args.device).type, sam3_checkpoint=getattr(args, "sam3_checkpoint", None),
        medsam2_checkpoint=getattr(args, "medsam2_checkpoint", None), random=tuple(random), training=about.training,
    )
    results = run_contest(entries, contest, settings)
    records = records_of(results)
    verdicts = decide_all(records, decided, better_tooling, margin) if len(records) else []
    facts = {
        "command": command_line(), "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cases": [case.name for case in about.cases], "empty": about.empty,
        "split": args.split if args.data_csv else None, "source": str(args.data_csv or args.images),
        "device": settings.device,
    }
    text = save_contest(args.out, contest, results, records, verdicts, facts, pictures=args.limit_pictures)
    print(f"\n{text}\nwritten to {args.out}", flush=True)
    return 0 if len(records) else 1


def decide_all(
    records: pd.DataFrame, decided: Sequence[str], better_tooling: str | None, margin: float
) -> list[Verdict]:
    """The rule's verdict between the two asked for, else between the best two that are not random, by box prompts."""
    boxes = records[(records["prompt"] == "box") & (records["jitter_px"] == 0) & ~records["is_random"].astype(bool)]
    means = boxes.groupby("contestant")["iou"].mean().sort_values(ascending=False)
    pair = list(decided) if len(decided) == 2 and set(decided) <= set(means.index) else list(means.index[:2])
    if len(pair) < 2 or not np.isfinite(means[pair]).all():
        return []
    return [decide(records, *pair, margin=margin, better_tooling=better_tooling)]
