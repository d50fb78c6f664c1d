"""Coronary vessels, their names, obstructions and diameters: cine, picture or DICOM in, a report out.

    python predict.py angiogram.png
    python predict.py angiogram.png --point 210,145             # which segment is at x 210, y 145?
    python predict.py cine.npy --frame 31 --box 180,90,260,170  # ... in this box?
    python predict.py IM1.dcm IM2.dcm --out outputs/predict
    python predict.py cine.npy --frame 31 --primary-angle "RAO 30" --secondary-angle 25
    python predict.py a_folder/ --threshold 0.4
    python predict.py cine.npy --checkpoint phase2_cass_best.pth phase3_obstruction_best.pth --cine-frames 9
    python predict.py cine.npy --px-per-mm 4.6                  # or --catheter-size 6F --catheter-px 9.1
    python predict.py --batch inputs.csv                        # many: columns path, frame_index, px_per_mm, ...
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

With weights of stage 4 too, each obstruction that the frame shows is measured (QCA): MLD, reference diameter (RVD),
%DS, area stenosis and lesion length, from a lumen drawn at full detail; --box measures what is in a box, without
stage 3 too. Millimetres need a calibration: the DICOM header's pixel spacing and distances, the contours of a CSV's
row, --px-per-mm, or a catheter's size and its width in px. Without one there are px and percentages, never mm;
where two contradict each other, the report says so.

--batch CSV does a list of inputs: column path (from the CSV's folder on), and where known frame_index,
primary_angle, secondary_angle, px_per_mm, name. A bad row is listed at the end, with its number and column.

For each input NAME: NAME_mask.png (0 or 255), NAME_probability.png (16 bits: 0 ... 65535 for 0 ... 1),
NAME_segments.png (CASS number of each pixel, stage 2), NAME_lumen.png (0 or 255, stage 4), NAME_overlay.png,
NAME.json, and with --dicom NAME_seg.dcm and NAME_sr.dcm; for all together report.html (one file to read, print or
send), report.json, predictions.png, and measurements.csv (stage 4). What cannot be read is listed at the end, the
others are done, and the exit code is 1.
Not a medical device: for research only.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
from tqdm import tqdm

from data.errors import DataError
from data.paths import parse_path_maps
from data.schema import load_table
from utils.arguments import (
    HelpFormatter,
    add_data_arguments,
    add_device_argument,
    choose_device,
    positive_float,
    positive_int,
)
from utils.drawing import thumbnail
from utils.entry import clean_exit
from utils.obstructions.search import wanted_by
from utils.prediction import CASS_STAGE, LUMEN_STAGE, OBSTRUCTION_STAGE, SHIPPED_CHECKPOINTS, THRESHOLD
from utils.reports.frame_answer import load_answers, uses_of
from utils.reports.frame_calibration import GivenScale
from utils.reports.frame_prediction import Asked, predict_job
from utils.reports.jobs import (
    Job,
    angle_of,
    batch_jobs,
    catheter_size,
    file_jobs,
    pointer_of,
    probability,
    refuse_replacing_inputs,
    row_jobs,
    with_names_apart,
)
from utils.reports.pictures import overlay, overlays_legend, save_contact_sheet, write_prediction
from utils.reports.records import (
    Prediction,
    caption,
    describe_checkpoint,
    describe_software,
    prediction_record,
)
from utils.reports.run_report import RunReport, print_summary

# Measured 2026-11-21, sam3-tiny after 144 steps, 40 phantom frames at 512 px against truth: Dice 0.804 alone,
# 0.807 with these, 0.806 with (1, 0.9, 1.1); clDice 0.728, 0.734, 0.730. Real frames gain some branches and
# lose others.
TTA_SCALES = (1.0, 1.1, 1.2)
CONTACT_SHEET_LIMIT = 48        # more would make a picture that no viewer opens gladly
INPUT_ERRORS = (DataError, OSError, ValueError, RuntimeError, cv2.error)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument(
        "inputs", nargs="*", type=Path, metavar="INPUT", help="cine, picture, DICOM, or a folder"
    )
    shipped = ", ".join(path.name for path in SHIPPED_CHECKPOINTS)
    parser.add_argument("--checkpoint", type=Path, nargs="+", default=None, metavar="PTH",
                        help="weights of stage 1 (vessels), 2 (CASS segments), 3 (obstructions), 4 (measurements), or "
                             "of several; "
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
                         help="the same of the vessels in a box; with weights of stage 4 they are measured")
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
    parser.add_argument("--dicom", action=argparse.BooleanOptionalAction, default=False,
                        help="of DICOM inputs also write NAME_seg.dcm (segmentation) and NAME_sr.dcm (structured "
                             "report), which refer to the file they are of, with its patient's name and dates")
    scale = parser.add_argument_group("calibration, of every input given")
    scale.add_argument("--px-per-mm", type=positive_float, default=None, metavar="N",
                       help="px of the frame per mm in the vessel's plane; preferred to what a file says")
    scale.add_argument("--catheter-size", type=catheter_size, default=None, metavar="SIZE",
                       help="outer diameter: 6F, or mm; a bare number above 4 is taken for French")
    scale.add_argument("--catheter-px", type=positive_float, default=None, metavar="PX",
                       help="the catheter's width in the frame; goes with --catheter-size")
    parser.add_argument("--batch", type=Path, default=None, metavar="CSV",
                        help="list of inputs with a column path; --data-root and --path-map count for it too")
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
    """Return the flags given that mean nothing for a CSV, whose rows say frame, angles and scale themselves."""
    angles = {"--primary-angle": args.primary_angle, "--secondary-angle": args.secondary_angle}
    given = [name for name, angle_deg in angles.items() if not math.isnan(angle_deg)]
    others = {"--frame": args.frame, "--point": args.point, "--box": args.box, "--px-per-mm": args.px_per_mm,
              "--catheter-size": args.catheter_size, "--catheter-px": args.catheter_px}
    return given + [name for name, value in others.items() if value is not None]


def build_jobs(args: argparse.Namespace) -> tuple[list[Job], list[str]]:
    """Return the frames to predict, of a CSV's rows or of the files given, and what is wrong with a list's bad rows."""
    path_maps, failures = parse_path_maps(args.path_map), []
    if args.data_csv:
        split = None if args.split == "all" else args.split
        table = load_table(args.data_csv, args.data_root, path_maps, split)
        jobs = row_jobs(table, args.limit)
    elif args.batch:
        jobs, failures = batch_jobs(args.batch, args.data_root, path_maps)
    else:
        scale = GivenScale(px_per_mm=args.px_per_mm, catheter_size=args.catheter_size, catheter_px=args.catheter_px)
        view_deg = (args.primary_angle, args.secondary_angle)
        jobs = file_jobs(args.inputs, frame_index=args.frame, view_deg=view_deg, scale=scale)
    if not jobs and not failures:
        raise DataError(f"no cine, picture or DICOM among or in {', '.join(map(str, args.inputs))}")
    if (args.point or args.box) and len(jobs) > 1:
        raise DataError(f"--point and --box ask about one frame, given are {len(jobs)} inputs; give one")
    jobs = with_names_apart(jobs)
    refuse_replacing_inputs(jobs, args.out)
    return jobs, failures


def predict_all(jobs: Sequence[Job], args: argparse.Namespace, failures: Sequence[str] = ()) -> RunReport:
    """Predict every job and write its files, then those of the whole run; failures: of what became no job."""
    answer, checkpoints = load_answers(args.checkpoint, device=choose_device(args.device),
                                       scales=TTA_SCALES if args.tta else (1.0,))
    stages = [checkpoint["stage"] for checkpoint in checkpoints]
    refuse_what_no_model_answers(args, stages)
    wanted, uses = wanted_by(checkpoints, args.obstruction_score), uses_of(stages)
    described = [describe_checkpoint(path, checkpoint, uses[checkpoint["stage"]])
                 for path, checkpoint in zip(args.checkpoint, checkpoints, strict=True)]
    asked = Asked(threshold=args.threshold, cine_frames=args.cine_frames, pointer=args.point or args.box)
    report = RunReport(out=args.out, checkpoints=described, software=describe_software(), failures=list(failures))
    pairs = []
    try:
        for job in tqdm(jobs, desc="predicting", unit="frame"):
            try:
                prediction = predict_job(job, asked, answer, wanted)
                record = prediction_record(prediction, described, report.software)
                write_prediction(args.out, prediction, record)
                report.add(prediction, record)
                if args.dicom:
                    write_dicom(args.out, prediction, described)
            except INPUT_ERRORS as error:
                report.failures.append(job.describe_failure(error))
                continue
            if len(pairs) < CONTACT_SHEET_LIMIT:
                shown = thumbnail(overlay(prediction))
                pairs.append((thumbnail(prediction.frame), shown, job.name, caption(prediction, "\n")))
    finally:    # also after Ctrl-C: hours of a long list may be done
        report.write()
    if pairs:
        what = "segments" if CASS_STAGE in stages else "vessels"
        what += " and obstructions" if OBSTRUCTION_STAGE in stages else ""
        legend = overlays_legend(report.records[: len(pairs)], names_segments=CASS_STAGE in stages)
        save_contact_sheet(report.contact_sheet, pairs, len(report.records), legend, what=what)
    return report


def write_dicom(out: Path, prediction: Prediction, described: Sequence[dict]) -> None:
    """Write the results as DICOM files; DataError where they cannot be, the other files are there then."""
    from utils.dicom.results import write_prediction_dicom  # here: highdicom takes a second to import

    write_prediction_dicom(out, prediction, described)


def refuse_what_no_model_answers(args: argparse.Namespace, stages: Sequence[str]) -> None:
    """Raise DataError for flags that ask what weights of these stages do not know."""
    given = " and ".join(f"{path} is of {stage}" for path, stage in zip(args.checkpoint, stages, strict=True))
    if args.point and CASS_STAGE not in stages:
        raise DataError("--point asks for a segment's name, which weights of stage 2 know; "
                        f"{given}. Give others with --checkpoint")
    if args.box and not {CASS_STAGE, LUMEN_STAGE} & set(stages):
        raise DataError("--box asks for a segment's name, which weights of stage 2 know, or for its diameters, which "
                        f"weights of stage 4 measure; {given}. Give others with --checkpoint")
    if args.obstruction_score is not None and OBSTRUCTION_STAGE not in stages:
        raise DataError("--obstruction-score is for obstructions, which weights of stage 3 find; "
                        f"{given}. Give others with --checkpoint")
    if LUMEN_STAGE in stages and OBSTRUCTION_STAGE not in stages and not args.box:
        raise DataError("weights of stage 4 measure obstructions, and none of these find any: add weights of stage 3 "
                        f"to --checkpoint, or give a --box to measure what is in it; {given}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser()
    args = parser.parse_args(argv)
    if bool(args.inputs) + bool(args.data_csv) + bool(args.batch) != 1:
        parser.error("give inputs or --data-csv or --batch, one of the three, inputs before --checkpoint; see --help")
    if (args.catheter_size is None) != (args.catheter_px is None):
        parser.error("--catheter-size and --catheter-px go together: its diameter, and its width in the frame")
    args.checkpoint = args.checkpoint or SHIPPED_CHECKPOINTS
    if (args.data_csv or args.batch) and flags_of_files_only(args):
        parser.error(f"{', '.join(flags_of_files_only(args))} cannot be given with --data-csv or --batch, whose rows "
                     "say frame, angles and scale; to change them give the cine itself")
    with clean_exit(f"stopped; what was predicted until now is in {args.out}", also=(ValueError,)):
        jobs, failures = build_jobs(args)
        report = predict_all(jobs, args, failures)
        print_summary(report)
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
