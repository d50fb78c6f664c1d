"""Draw the coronary vessels of angiograms: cine, picture or DICOM in, masks, overlays and JSON out.

    python predict.py angiogram.png
    python predict.py IM1.dcm IM2.dcm --out outputs/predict
    python predict.py cine.npy --frame 31 --primary-angle "RAO 30" --secondary-angle 25
    python predict.py a_folder/ --threshold 0.4
    python predict.py --data-csv outputs/phantom/dataset.csv --split val --limit 12

An input is a .npy cine ([frames, H, W, 3] or [frames, H, W]), a PNG or JPEG, a multi-frame DICOM (JPEG
Lossless too), or a folder of these. Of a cine the frame best filled with contrast is read, unless --frame
says which. View angles come from the flags, else from the DICOM header or the CSV, else they are unknown,
which the model knows.

For each input NAME: NAME_mask.png (0 or 255), NAME_probability.png (16 bits: 0 ... 65535 for 0 ... 1),
NAME_overlay.png, NAME.json; and for all together predictions.png. A file that cannot be read is listed at the
end, the others are done, and the exit code is 1. Not a medical device: for research only.
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from data.angles import parse_angle
from data.errors import DataError
from data.frame_choice import choose_frame
from data.frame_source import open_frames
from data.masks import read_frame_masks
from data.paths import parse_path_maps
from data.schema import load_table
from models.deepsa_model import load_deepsa_model
from utils.arguments import (
    HelpFormatter,
    add_data_arguments,
    add_device_argument,
    choose_device,
    positive_int,
)
from utils.checkpoint import CheckpointError
from utils.drawing import ORANGE, mask_overlay, thumbnail
from utils.metrics import dice
from utils.prediction import SHIPPED_CHECKPOINT, THRESHOLD, predict_vessels
from utils.prediction_jobs import (
    Job,
    file_jobs,
    merge_view,
    refuse_replacing_inputs,
    row_jobs,
    with_names_apart,
)
from utils.prediction_report import (
    Prediction,
    caption,
    describe_checkpoint,
    describe_software,
    prediction_record,
    save_contact_sheet,
    write_prediction,
)

# Measured 2026-11-21, sam3-tiny after 144 steps, 40 phantom frames at 512 px against truth: Dice 0.804 alone,
# 0.807 with these, 0.806 with (1, 0.9, 1.1); clDice 0.728, 0.734, 0.730. Real frames gain some branches and
# lose others.
TTA_SCALES = (1.0, 1.1, 1.2)
CONTACT_SHEET = "predictions.png"
CONTACT_SHEET_LIMIT = 48        # more would make a picture that no viewer opens gladly
INPUT_ERRORS = (DataError, OSError, ValueError, RuntimeError, cv2.error)


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


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument(
        "inputs", nargs="*", type=Path, metavar="INPUT", help="cine, picture, DICOM, or a folder"
    )
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED_CHECKPOINT, help="weights of stage 1")
    parser.add_argument("--out", type=Path, default=Path("outputs/predict"), help="folder to write to")
    parser.add_argument("--frame", type=int, default=None, help="frame to read, 0-based; without it, chosen")
    parser.add_argument("--primary-angle", type=angle_of("primary"), default=math.nan,
                        help="degrees, LAO positive and RAO negative, or text such as \"RAO 30\"")
    parser.add_argument("--secondary-angle", type=angle_of("secondary"), default=math.nan,
                        help="degrees, cranial positive and caudal negative, or text such as \"CRA 20\"")
    parser.add_argument("--threshold", type=probability, default=THRESHOLD,
                        help="probability from which a pixel is vessel")
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
    return given + (["--frame"] if args.frame is not None else [])


def build_jobs(args: argparse.Namespace) -> list[Job]:
    """Return the frames to predict: of the CSV's chosen rows, or of the files given."""
    if not args.data_csv:
        return file_jobs(args.inputs, frame_index=args.frame, view_deg=(args.primary_angle, args.secondary_angle))
    split = None if args.split == "all" else args.split
    table = load_table(args.data_csv, args.data_root, parse_path_maps(args.path_map), split)
    return row_jobs(table, args.limit)


def predict_job(job: Job, args: argparse.Namespace, predict: Callable[..., np.ndarray]) -> Prediction:
    """Read, choose the frame, predict. predict: (frame, view_deg=) to probability float32 (H, W)."""
    source = open_frames(job.path)
    frame_index, reason = job.frame_index, "given"
    if frame_index is None:
        choice = choose_frame(source.read, source.frames, progress=True)
        frame_index, reason = choice.frame_index, choice.reason
    frame = source.read(frame_index)
    view_deg, view_source = merge_view(job, source)
    probability = predict(frame=frame, view_deg=view_deg)
    mask = probability >= args.threshold
    scores = {
        f"dice_{name}": dice(mask, other) for name, other in read_frame_masks(job.row, mask.shape).items()
    }
    return Prediction(name=job.name, source=source, frame_index=frame_index, frame_reason=reason, frame=frame,
                      view_deg=view_deg, view_source=view_source, probability=probability, mask=mask,
                      threshold=args.threshold, scores=scores)


def predict_all(jobs: Sequence[Job], args: argparse.Namespace) -> tuple[list[dict], list[str]]:
    """Predict every job and write its files; return the records and, for what failed, `name: why`."""
    device = choose_device(args.device)
    model, checkpoint = load_deepsa_model(args.checkpoint, device)
    predict = partial(predict_vessels, model, image_size=checkpoint["config"]["image_size"], device=device,
                      scales=TTA_SCALES if args.tta else (1.0,))
    described, software = describe_checkpoint(args.checkpoint, checkpoint), describe_software()
    records, pairs, failures = [], [], []
    for job in tqdm(jobs, desc="predicting", unit="frame"):
        try:
            prediction = predict_job(job, args, predict)
            record = prediction_record(prediction, described, software)
            write_prediction(args.out, prediction, record)
        except INPUT_ERRORS as error:
            failures.append(f"{job.path}: {type(error).__name__}: {error}")
            continue
        records.append(record)
        if len(pairs) < CONTACT_SHEET_LIMIT:
            overlay = mask_overlay(prediction.frame, prediction.mask, ORANGE)
            pairs.append((thumbnail(prediction.frame), thumbnail(overlay), job.name, caption(prediction)))
    if pairs:
        save_contact_sheet(args.out / CONTACT_SHEET, pairs, len(records))
    return records, failures


def print_summary(records: Sequence[dict], failures: Sequence[str], out: Path) -> None:
    """Say what was found, the mean Dice where there were labels, and what could not be read."""
    for name in ("dice_deepsa", "dice_truth"):
        values = [record["scores"][name] for record in records if name in record["scores"]]
        if values:
            print(f"mean {name} over {len(values)} frames: {np.mean(values):.4f}")
    sheet = f"; all in one picture: {out / CONTACT_SHEET}" if records else ""
    print(f"{len(records)} predictions in {out}{sheet}")
    if failures:
        print(f"{len(failures)} inputs could not be predicted:", *failures, sep="\n  ", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    if bool(args.inputs) == bool(args.data_csv):
        print("give inputs or --data-csv, one of the two; see --help", file=sys.stderr)
        return 2
    if args.data_csv and flags_of_files_only(args):
        print(f"{', '.join(flags_of_files_only(args))} cannot be given with --data-csv: its rows say "
              "frame and angles; to change them give the cine itself", file=sys.stderr)
        return 2
    try:
        jobs = with_names_apart(build_jobs(args))
        if not jobs:
            raise DataError(f"no cine, picture or DICOM among or in {', '.join(map(str, args.inputs))}")
        refuse_replacing_inputs(jobs, args.out, CONTACT_SHEET)
        records, failures = predict_all(jobs, args)
    except KeyboardInterrupt:
        print(f"stopped; what was predicted until now is in {args.out}", file=sys.stderr)
        return 130
    except (DataError, CheckpointError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print_summary(records, failures, args.out)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
