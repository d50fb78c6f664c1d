"""SAM 3 as it was released on a few cases, at the frames that the analyst used. A tool, not a test.

    python test_sam3_correct_frames.py --data-csv data.csv --sam3-checkpoint sam3.pt
    python test_sam3_correct_frames.py --data-csv data.csv --sam3-checkpoint sam3.pt --limit 50 --prompts box
    python test_sam3_correct_frames.py --data-csv data.csv --random-init --limit 2        # does it run? no weights

Asked with a text, with a box around the analysed segment and with points on its course; IoU and Dice against the
analyst's mask of the segment (box, points) and against all vessels (text). `test_medsam2_correct_frames.py` asks
MedSAM2 with the same boxes and points; `compare_models.py` puts both and others into one table.

Writes to --out: contest.json, contest.csv (a line an answer), contest_scores.png, contest_gallery_KIND.png, masks/.
Not a medical device: for research only.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from contest.session import (
    add_case_arguments, add_output_arguments, add_prompt_arguments, hold_contest, read_cases,
)
from utils.arguments import HelpFormatter
from utils.entry import clean_exit


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add_case_arguments(parser, folders=False)
    parser.add_argument("--sam3-checkpoint", type=Path, default=None, help="SAM 3's released weights (sam3.pt)")
    parser.add_argument("--random-init", action=argparse.BooleanOptionalAction, default=False,
                        help="random weights: shows that it runs, and its time and memory; the scores mean nothing")
    add_prompt_arguments(parser, ("text", "box", "points"))
    add_output_arguments(parser, "outputs/sam3_correct_frames")
    return parser


def main() -> None:
    parser = build_parser()
    args = parser.parse_args()
    if args.random_init and args.sam3_checkpoint is not None:
        parser.error("--random-init asks without --sam3-checkpoint; give one of the two")
    with clean_exit():
        sys.exit(hold_contest(args, read_cases(args), ["sam3"], random=["sam3"] if args.random_init else []))


if __name__ == "__main__":
    main()
