"""MedSAM2 as it was released on a few cases, at the frames that the analyst used. A tool, not a test.

    python test_medsam2_correct_frames.py --data-csv data.csv --medsam2-checkpoint MedSAM2_latest.pt
    python test_medsam2_correct_frames.py --data-csv data.csv --medsam2-checkpoint MedSAM2_latest.pt --propagate 3
    python test_medsam2_correct_frames.py --data-csv data.csv --random-init --limit 2        # does it run? no weights

Asked with a box around the analysed segment and with points on its course; IoU and Dice against the analyst's mask of
the segment. `test_sam3_correct_frames.py` asks SAM 3 with the same boxes and points; `compare_models.py` puts both and
others into one table. With --propagate the answer to the box is carried through the whole cine, as MedSAM2 can: for
looking at, since other frames have no mask to be scored against.

Writes to --out: contest.json, contest.csv (a line an answer), contest_scores.png, contest_gallery_KIND.png, masks/,
propagation/ (a picture, and the masks of all frames as .npy, bool (T, H, W)). Not a medical device: for research only.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from contest.cases import SEGMENT, Case
from contest.prompts import Asked, prompts_of
from contest.propagation import propagate_case
from contest.session import (
    add_case_arguments, add_output_arguments, add_prompt_arguments, hold_contest, read_cases,
)
from utils.arguments import HelpFormatter, choose_device, non_negative_int
from utils.entry import clean_exit


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add_case_arguments(parser, folders=False)
    parser.add_argument("--medsam2-checkpoint", type=Path, default=None,
                        help="MedSAM2's released weights (MedSAM2_latest.pt)")
    parser.add_argument("--random-init", action=argparse.BooleanOptionalAction, default=False,
                        help="random weights: shows that it runs, and its time and memory; the scores mean nothing")
    parser.add_argument("--propagate", type=non_negative_int, default=0, metavar="N",
                        help="carry the masks of the first N cases through their cines")
    add_prompt_arguments(parser, ("box", "points"))
    add_output_arguments(parser, "outputs/medsam2_correct_frames")
    return parser


def propagate(args: argparse.Namespace, cases: Sequence[Case]) -> None:
    """Carry masks through the cines of the first cases."""
    from contest.medsam2 import build_medsam2_contestant  # imports sam2, seconds that --help need not wait

    contestant = build_medsam2_contestant(
        args.medsam2_checkpoint, random_init=args.random_init, device=choose_device(args.device)
    )
    for case in tqdm(cases[: args.propagate], desc="propagating", unit="cine"):
        segment = case.read()[1][SEGMENT]
        prompt = prompts_of(case, segment, ["box"], Asked(margin_px=args.box_margin_px), seed=args.seed)["box"]
        propagate_case(contestant, case, prompt, args.out / "propagation")
    print(f"cines in {args.out / 'propagation'}", flush=True)


def main() -> None:
    parser = build_parser()
    args = parser.parse_args()
    if args.random_init and args.medsam2_checkpoint is not None:
        parser.error("--random-init asks without --medsam2-checkpoint; give one of the two")
    with clean_exit():
        about = read_cases(args)
        status = hold_contest(args, about, ["medsam2"], random=["medsam2"] if args.random_init else [])
        if status == 0 and args.propagate:
            propagate(args, about.cases)
        sys.exit(status)


if __name__ == "__main__":
    main()
