"""Coronary vessels, their names and obstructions: cine, picture or DICOM in, masks, overlays and JSON out.

    python predict.py angiogram.png
    python predict.py angiogram.png --point 210,145             # which segment is at x 210, y 145?
    python predict.py cine.npy --frame 31 --box 180,90,260,170  # ... in this box?
    python predict.py IM1.dcm IM2.dcm --out outputs/predict
    python predict.py cine.npy --frame 31 --primary-angle "RAO 30" --secondary-angle 25
    python predict.py a_folder/ --threshold 0.4
    python predict.py cine.npy --checkpoint phase2_cass_best.pth phase3_obstruction_best.pth --cine-frames 9
    python predict.py --data-csv outputs/phantom/dataset.csv --split val --limit 12

An input is a .npy cine ([frames, H, W, 3] or [frames, H, W]), a PNG or JPEG, a multi-frame DICOM (JPEG
Lossless too), or a folder of these. Of a cine the frame best filled with contrast is read, unless --frame
says which. View angles come from the flags, else from the DICOM header or the CSV, else they are unknown,
which the model knows.

With weights of stage 2 every visible CASS segment is named: number, name, SNOMED CT code, probability, box,
mask, length of its centreline in px, and in mm where the size of a pixel is known (seen from one side: a
vessel that runs towards the detector looks shorter than it is). Two questions are kept apart: "analysed" in
the JSON is the blind guess which segment an analyst would have analysed in this frame; --point and --box ask
which segment is there.

With weights of stage 3 obstructions are reported, with segment (where stage 2 is there too), point, box,
score, and diameter stenosis as the detector estimates it from the picture: an estimate, not a measurement. Of
a cine some neighbours of the frame are searched too (--cine-frames), and the same obstruction is reported
once, followed as the heart moves: its score is the mean over these frames, "frames" says which show it best.
Masks, overlay and segments are of the one frame that was chosen or given.

For each input NAME: NAME_mask.png (0 or 255), NAME_probability.png (16 bits: 0 ... 65535 for 0 ... 1),
NAME_segments.png (CASS number of each pixel, stage 2), NAME_overlay.png, NAME.json; and for all together
predictions.png. A file that cannot be read is listed at the end, the others are done, and the exit code is 1.
Not a medical device: for research only.
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from data.errors import DataError
from data.frame_choice import choose_frame
from data.frame_source import open_frames
from data.masks import read_frame_masks
from data.paths import parse_path_maps
from data.schema import load_table
from utils.arguments import (
    HelpFormatter,
    add_data_arguments,
    add_device_argument,
    choose_device,
    positive_int,
)
from utils.cass_prediction import FramePrediction
from utils.drawing import thumbnail
from utils.entry import clean_exit
from utils.frame_answer import load_answers, uses_of
from utils.metrics import dice
from utils.obstruction_report import score_obstructions
from utils.obstruction_search import Chosen, Wanted, search_obstructions, wanted_by
from utils.obstruction_tracking import frames_around
from utils.prediction import CASS_STAGE, OBSTRUCTION_STAGE, SHIPPED_CHECKPOINTS, THRESHOLD
from utils.prediction_jobs import (
    Job,
    angle_of,
    file_jobs,
    merge_view,
    pointer_of,
    probability,
    refuse_replacing_inputs,
    row_jobs,
    with_names_apart,
)
from utils.prediction_report import (
    Prediction,
    caption,
    describe_checkpoint,
    describe_software,
    overlay,
    overlays_legend,
    pixel_size,
    prediction_record,
    save_contact_sheet,
    write_prediction,
)
from utils.segment_report import describe_pointed, find_segments, pointed_record, score_row

# Measured 2026-11-21, sam3-tiny after 144 steps, 40 phantom frames at 512 px against truth: Dice 0.804 alone,
# 0.807 with these, 0.806 with (1, 0.9, 1.1); clDice 0.728, 0.734, 0.730. Real frames gain some branches and
# lose others.
TTA_SCALES = (1.0, 1.1, 1.2)
CONTACT_SHEET = "predictions.png"
CONTACT_SHEET_LIMIT = 48        # more would make a picture that no viewer opens gladly
INPUT_ERRORS = (DataError, OSError, ValueError, RuntimeError, cv2.error)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument(
        "inputs", nargs="*", type=Path, metavar="INPUT", help="cine, picture, DICOM, or a folder"
    )
    shipped = " and ".join(path.name for path in SHIPPED_CHECKPOINTS)
    parser.add_argument("--checkpoint", type=Path, nargs="+", default=None, metavar="PTH",
                        help="weights of stage 1 (vessels), 2 (CASS segments), 3 (obstructions), or of several; "
                             f"without it {shipped}, which came with the project")
    parser.add_argument("--out", type=Path, default=Path("outputs/predict"), help="folder to write to")
    parser.add_argument("--frame", type=int, default=None, help="frame to read, 0-based; without it, chosen")
    parser.add_argument("--primary-angle", type=angle_of("primary"), default=math.nan,
                        help="degrees, LAO positive and RAO negative, or text such as \"RAO 30\"")
    parser.add_argument("--secondary-angle", type=angle_of("secondary"), default=math.nan,
                        help="degrees, cranial positive and caudal negative, or text such as \"CRA 20\"")
    pointed = parser.add_mutually_exclusive_group()
    pointed.add_argument("--point", type=pointer_of("point"), default=None, metavar="X,Y",
                         help="ask which segment is there; px of the frame, first pixel 0,0; one input")
    pointed.add_argument("--box", type=pointer_of("box"), default=None, metavar="X0,Y0,X1,Y1",
                         help="the same of the vessels in a box")
    parser.add_argument("--threshold", type=probability, default=THRESHOLD,
                        help="probability from which a pixel is vessel")
    parser.add_argument("--obstruction-score", type=probability, default=None, metavar="P",
                        help="score from which an obstruction is reported; without it, that of best F1 in the "
                             "validation of the checkpoint")
    parser.add_argument("--cine-frames", type=positive_int, default=5, metavar="N",
                        help="frames in a row to search for obstructions, the one to read among them; 1: only that")
    parser.add_argument(
        "--tta",
        action=argparse.BooleanOptionalAction,
        default=False,
        help=f"average over the magnifications {TTA_SCALES}: three times slower, a little better",
    )
    add_device_argument(parser)
    add_data_arguments(parser, required=False)
    parser.add_argument(
        "--split", choices=("train", "val", "all"), default="val", help="rows of --data-csv to take"
    )
    parser.add_argument(
        "--limit", type=positive_int, default=24, help="rows of --data-csv at most, over all patients"
    )
    return parser


def flags_of_files_only(args: argparse.Namespace) -> list[str]:
    """Return the flags given that mean nothing for --data-csv, whose rows say frame and angles themselves."""
    angles = {"--primary-angle": args.primary_angle, "--secondary-angle": args.secondary_angle}
    given = [name for name, angle_deg in angles.items() if not math.isnan(angle_deg)]
    others = {"--frame": args.frame, "--point": args.point, "--box": args.box}
    return given + [name for name, value in others.items() if value is not None]


def build_jobs(args: argparse.Namespace) -> list[Job]:
    """Return the frames to predict: of the CSV's chosen rows, or of the files given."""
    if args.data_csv:
        split = None if args.split == "all" else args.split
        table = load_table(args.data_csv, args.data_root, parse_path_maps(args.path_map), split)
        jobs = row_jobs(table, args.limit)
    else:
        view_deg = (args.primary_angle, args.secondary_angle)
        jobs = file_jobs(args.inputs, frame_index=args.frame, view_deg=view_deg)
    if not jobs:
        raise DataError(f"no cine, picture or DICOM among or in {', '.join(map(str, args.inputs))}")
    if (args.point or args.box) and len(jobs) > 1:
        raise DataError(f"--point and --box ask about one frame, given are {len(jobs)} inputs; give one")
    jobs = with_names_apart(jobs)
    refuse_replacing_inputs(jobs, args.out, CONTACT_SHEET)
    return jobs


def predict_job(job: Job, args: argparse.Namespace, answer: Callable, wanted: Wanted | None) -> Prediction:
    """Read, choose the frame, predict. answer: of `load_answers`; wanted: None = no model finds obstructions."""
    source = open_frames(job.path)
    frame_index, reason, filling = job.frame_index, "given", None
    if frame_index is None:
        choice = choose_frame(source.read, source.frames, progress=True)
        frame_index, reason, filling = choice.frame_index, choice.reason, choice.filling
    frame = source.read(frame_index)
    view_deg, view_source = merge_view(job, source)
    found = answer(frame=frame, view_deg=view_deg)
    mask = found.vessel_probability >= args.threshold
    scores = {
        f"dice_{name}": dice(mask, other) for name, other in read_frame_masks(job.row, mask.shape).items()
    }
    added = {} if found.segments is None else name_segments(job, args, source, found.segments, scores)
    if wanted is not None:
        near = frames_around(frame_index, source.frames, args.cine_frames, filling)
        obstructions = search_obstructions(answer, source.read, Chosen(frame_index, frame, found), near,
                                           view_deg=view_deg, threshold=wanted.threshold)
        scores |= score_obstructions(obstructions, job.row, wanted.from_pct) if len(job.row) else {}
        added["obstructions"] = obstructions
    return Prediction(name=job.name, source=source, frame_index=frame_index, frame_reason=reason, frame=frame,
                      view_deg=view_deg, view_source=view_source, probability=found.vessel_probability,
                      mask=mask, threshold=args.threshold, scores=scores, **added)


def name_segments(job: Job, args: argparse.Namespace, source, answers: FramePrediction, scores: dict) -> dict:
    """Return the fields of a `Prediction` that stage 2 adds; a row of a data set adds its `scores`."""
    if len(job.row):
        scores |= score_row(answers, job.row)
    pointer = args.point or args.box
    pixel_mm, pixel_mm_source = pixel_size(source, job.row)
    return {"findings": find_segments(answers, threshold=args.threshold), "pixel_mm": pixel_mm,
            "pixel_mm_source": pixel_mm_source,
            "pointed": pointed_record(answers, pointer, threshold=args.threshold) if pointer else None}


def predict_all(jobs: Sequence[Job], args: argparse.Namespace) -> tuple[list[dict], list[str]]:
    """Predict every job and write its files; return the records and, for what failed, `name: why`."""
    answer, checkpoints = load_answers(args.checkpoint, device=choose_device(args.device),
                                       scales=TTA_SCALES if args.tta else (1.0,))
    stages = [checkpoint["stage"] for checkpoint in checkpoints]
    refuse_what_no_model_answers(args, stages)
    wanted, uses = wanted_by(checkpoints, args.obstruction_score), uses_of(stages)
    described = [describe_checkpoint(path, checkpoint, uses[checkpoint["stage"]])
                 for path, checkpoint in zip(args.checkpoint, checkpoints, strict=True)]
    software = describe_software()
    records, pairs, failures = [], [], []
    for job in tqdm(jobs, desc="predicting", unit="frame"):
        try:
            prediction = predict_job(job, args, answer, wanted)
            record = prediction_record(prediction, described, software)
            write_prediction(args.out, prediction, record)
        except INPUT_ERRORS as error:
            failures.append(f"{job.path}: {type(error).__name__}: {error}")
            continue
        records.append(record)
        if len(pairs) < CONTACT_SHEET_LIMIT:
            shown = thumbnail(overlay(prediction))
            pairs.append((thumbnail(prediction.frame), shown, job.name, caption(prediction, "\n")))
    if pairs:
        what = "segments" if CASS_STAGE in stages else "vessels"
        what += " and obstructions" if OBSTRUCTION_STAGE in stages else ""
        legend = overlays_legend(records[: len(pairs)], names_segments=CASS_STAGE in stages)
        save_contact_sheet(args.out / CONTACT_SHEET, pairs, len(records), legend, what=what)
    return records, failures


def refuse_what_no_model_answers(args: argparse.Namespace, stages: Sequence[str]) -> None:
    """Raise DataError for flags that ask what weights of these stages do not know."""
    given = " and ".join(f"{path} is of {stage}" for path, stage in zip(args.checkpoint, stages, strict=True))
    if (args.point or args.box) and CASS_STAGE not in stages:
        raise DataError("--point and --box ask for a segment's name, which weights of stage 2 know; "
                        f"{given}. Give others with --checkpoint")
    if args.obstruction_score is not None and OBSTRUCTION_STAGE not in stages:
        raise DataError("--obstruction-score is for obstructions, which weights of stage 3 find; "
                        f"{given}. Give others with --checkpoint")


def print_summary(records: Sequence[dict], failures: Sequence[str], out: Path) -> None:
    """Say what was found, the mean scores where there were labels, and what could not be read."""
    for name in ("dice_deepsa", "dice_truth", "top1_pointed", "top1_blind", "top1_blind_map"):
        values = [record["scores"][name] for record in records if name in record["scores"]]
        if values:
            print(f"mean {name} over {len(values)} frames: {np.mean(values):.4f}")
    found = [record["scores"].get("obstruction_found") for record in records]
    if annotated := [hit for hit in found if hit is not None]:
        print(f"found {sum(annotated)} of {len(annotated)} annotated obstructions")
    for record in records:
        if record.get("pointed"):
            print(describe_pointed(record["pointed"]))
    sheet = f"; all in one picture: {out / CONTACT_SHEET}" if records else ""
    print(f"{len(records)} predictions in {out}{sheet}")
    if failures:
        print(f"{len(failures)} inputs could not be predicted:", *failures, sep="\n  ", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser()
    args = parser.parse_args(argv)
    if bool(args.inputs) == bool(args.data_csv):
        parser.error("give inputs or --data-csv, one of the two, inputs before --checkpoint; see --help")
    args.checkpoint = args.checkpoint or SHIPPED_CHECKPOINTS
    if args.data_csv and flags_of_files_only(args):
        parser.error(f"{', '.join(flags_of_files_only(args))} cannot be given with --data-csv: its rows say "
                     "frame and angles; to change them give the cine itself")
    with clean_exit(f"stopped; what was predicted until now is in {args.out}", also=(ValueError,)):
        records, failures = predict_all(build_jobs(args), args)
        print_summary(records, failures, args.out)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
