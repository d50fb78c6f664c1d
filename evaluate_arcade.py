"""Score a stage 3 model on ARCADE's stenoses, or on any pictures whose stenoses are annotated in COCO's format.

    python evaluate_arcade.py --annotations arcade/stenosis/test/annotations/test.json \\
        --images arcade/stenosis/test/images --checkpoint checkpoints/phase3_obstruction_best.pth --out outputs/arcade
    python evaluate_arcade.py ... --threshold 0.3                # not the one that the checkpoint's validation chose
    python evaluate_arcade.py ... --category stenosis            # name or id, where more than one has it in its name

ARCADE (Popov et al., Scientific Data 2024, doi 10.1038/s41597-023-02871-z) has 1000, 200 and 300 single frames, without
view angles, patients' numbers or severities. All its stenoses are annotated, so whatever else is found is a false
positive. Two thresholds of the score are reported: the one that the model's own validation chose, which is fair, and
the one that is best on these very images, which is optimistic. Only figures of the whole test set, 300 images, can be
compared with published ones.

Writes to --out:
    arcade_metrics.json       figures with intervals, both thresholds, every image's counts, the checkpoint
    arcade_detections.json    what was found, as a list of COCO results, all scores: for pycocotools and others
    arcade_froc.png           sensitivity by false positives, and precision by recall
    arcade_gallery.png        the worst images: what is annotated and what was found
The exit code is 1 when something cannot be used, which is said, and then no figure is written: of a part of the images
it would not be the figure of the set. Not a medical device: for research only.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from tqdm import tqdm

from data.coco import CocoSet, coco_result, load_coco
from data.errors import DataError
from utils.arguments import HelpFormatter, add_device_argument, choose_device, non_negative_int
from utils.entry import clean_exit, command_line
from utils.files import write_text_atomic
from utils.history import to_json
from utils.obstructions.arcade_report import describe_metrics, describe_set, remarks, save_arcade_gallery
from utils.obstructions.arcade_scores import (
    image_scores, images_table, score_image, summarise_images, validated_threshold,
)
from utils.obstructions.froc import save_froc
from utils.obstructions.matching import Detection
from utils.obstructions.search import ScoreThreshold
from utils.prediction import OBSTRUCTION_STAGE, THRESHOLD
from utils.reports.frame_answer import load_answer
from utils.reports.jobs import probability
from utils.reports.records import describe_checkpoint

OUTPUTS = {name: f"arcade_{name}.{suffix}" for name, suffix in
           (("metrics", "json"), ("detections", "json"), ("froc", "png"), ("gallery", "png"))}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    required = dict(type=Path, required=True, default=argparse.SUPPRESS)
    parser.add_argument("--annotations", **required, help="COCO annotations, JSON with polygons")
    parser.add_argument("--images", **required, help="folder of the pictures")
    parser.add_argument("--checkpoint", **required, help="weights of stage 3 (obstructions)")
    parser.add_argument("--out", type=Path, default=Path("outputs/arcade"), help="folder to write to")
    parser.add_argument("--category", default=None,
                        help="name or id of the category; without it, those with \"stenosis\" in their name")
    parser.add_argument("--threshold", type=probability, default=None,
                        help="score from which an obstruction counts as found; without it, as the checkpoint's own "
                             "validation chose")
    parser.add_argument("--limit-pictures", type=non_negative_int, default=24,
                        help="images in the gallery at most, the worst ones; 0 draws none")
    add_device_argument(parser)
    return parser


def choose_threshold(args: argparse.Namespace, checkpoint: dict) -> ScoreThreshold:
    """The score from which on something counts as found, and where it is from."""
    if args.threshold is not None:
        return ScoreThreshold(args.threshold, "given with --threshold")
    validated = validated_threshold(checkpoint)
    if validated is None:
        raise DataError(
            f"{args.checkpoint}: its metrics have no threshold, because it was not validated yet or there was no "
            "obstruction to find; choose one on other images than these and give it with --threshold")
    return validated


def predict_all(
    args: argparse.Namespace, regions: CocoSet, answer
) -> tuple[list[list[Detection]], list[dict]]:
    """What was found in each image, and its record for scoring. answer: of `load_answer`."""
    for image in tqdm(regions.images, desc="checking", unit="image"):
        image.read()  # a picture that cannot be used is told of before the slow part
    found, records = [], []
    for row, image in enumerate(tqdm(regions.images, desc="predicting", unit="image")):
        told = answer(image.read(), view_deg=image.view_deg)
        found.append(told.obstructions)
        records.append({"row": row, **score_image(image, told.obstructions, told.vessel_probability >= THRESHOLD)})
    return found, records


def refuse_replacing(args: argparse.Namespace, regions: CocoSet) -> None:
    """DataError when a file to write is one of those to read; without regard to case."""
    inputs = {str(path.resolve()).casefold() for path in
              (args.annotations, args.checkpoint, *(image.path for image in regions.images))}
    for name in OUTPUTS.values():
        if str((args.out / name).resolve()).casefold() in inputs:
            raise DataError(f"{args.out / name} is an input and would be replaced; give another folder with --out")


def run(args: argparse.Namespace) -> dict:
    """Read, predict, score, draw, write; returns what arcade_metrics.json holds."""
    regions = load_coco(args.annotations, args.images, args.category)
    refuse_replacing(args, regions)
    answer, checkpoint = load_answer(args.checkpoint, device=choose_device(args.device))
    if checkpoint["stage"] != OBSTRUCTION_STAGE:
        raise DataError(f"{args.checkpoint} is of {checkpoint['stage']}, which finds no obstructions; give weights of "
                        f"{OBSTRUCTION_STAGE} with --checkpoint (train_stage3_obstructions.py writes them)")
    threshold, source = choose_threshold(args, checkpoint)
    print(describe_set(regions), flush=True)
    found, records = predict_all(args, regions, answer)
    table = images_table(regions.images)
    metrics, best_here = summarise_images(records, table, threshold), summarise_images(records, table)
    report = {
        "metrics": metrics, "metrics_at_best_threshold_here": best_here,
        "thresholds": {"metrics": {"score": threshold, "source": source}, "metrics_at_best_threshold_here": {
            "score": best_here["threshold"], "source": "f1_iou50 is best on these very images: optimistic"}},
        "remarks": remarks(metrics),
        "annotations": {"path": str(args.annotations), "images": str(args.images), "notes": list(regions.notes),
                        "categories": {str(key): name for key, name in regions.categories.items()}},
        "view_angles_known": sum(not any(map(math.isnan, image.view_deg)) for image in regions.images),
        "per_image": [{"image_id": image.image_id, "file_name": image.path.name, **image_scores(record, threshold)}
                      for image, record in zip(regions.images, records, strict=True)],
        "checkpoint": describe_checkpoint(args.checkpoint, checkpoint, ["vessels", "obstructions"]),
        "command": command_line(), "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    write_all(args, regions, found, records, report)
    print(describe_metrics(metrics, best_here, source), *report["remarks"], sep="\n")
    return report


def write_all(
    args: argparse.Namespace, regions: CocoSet, found: Sequence[Sequence[Detection]], records: list[dict], report: dict
) -> None:
    """Write the files of `OUTPUTS`; the figures last, so that they are never beside pictures of another run."""
    threshold, category_id = report["metrics"]["threshold"], min(regions.categories)
    results = [coco_result(image.image_id, category_id, one.box_px, one.score)
               for image, detections in zip(regions.images, found, strict=True) for one in detections]
    write_text_atomic(args.out / OUTPUTS["detections"], to_json(results) + "\n")
    save_froc(args.out / OUTPUTS["froc"], records, images_table(regions.images), threshold=threshold,
              title="ARCADE's stenoses", groups="images")
    if args.limit_pictures:
        save_arcade_gallery(args.out / OUTPUTS["gallery"], regions.images, found, records, threshold=threshold,
                            limit=args.limit_pictures)
    write_text_atomic(args.out / OUTPUTS["metrics"], to_json(report, indent=2) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    with clean_exit("stopped; figures are written only when all images are done", also=(ValueError,)):
        run(args)
        written = [name for name in OUTPUTS.values() if args.limit_pictures or name != OUTPUTS["gallery"]]
        print(f"written to {args.out}: {', '.join(written)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
