"""Stage 3: on top of stage 1 or 2, SAM 3 learns to find obstructions, from one measured segment a frame.

    python train_stage3_obstructions.py --data-csv data.csv                               # the mission's run
    python train_stage3_obstructions.py --data-csv data.csv --threshold-pct 70            # severe ones only
    python train_stage3_obstructions.py --data-csv data.csv --backbone sam3-tiny --lr 1e-3 \\
        --init-from checkpoints/phase1_deepsa_tiny.pth                                    # on a CPU
    python train_stage3_obstructions.py ... --resume                                      # go on from there
    python train_stage3_obstructions.py ... --eval-only --init-from checkpoints/phase3_obstruction_best.pth

It starts from --init-from, by default phase2_cass_best.pth in --checkpoint-dir, else phase1_deepsa_best.pth, and says
which tensors came over. A row is positive where its measured stenosis reaches --threshold-pct, whatever its phase; the
box is that of the lesion from start to end, the point that of the smallest diameter. Only the analysed segment was
measured: what lies on other vessels is unknown, and costs nothing.

Ctrl-C or SIGTERM saves at the next step and leaves. In --checkpoint-dir: phase3_obstruction_latest.pth (to go on),
_best.pth (best F1 at box IoU 0.5), _history.jsonl, _curves.png, _froc.png, _metrics.json.
"""

from __future__ import annotations

import argparse
import functools
import os

import torch
import torch.nn.functional as F

from data.contours import read_contours
from models.obstruction_head import STRIDE
from models.obstruction_model import LEFT_BEHIND, NEW_PARTS, ObstructionOutput, build_obstruction_model
from utils.arguments import non_negative_float, positive_float
from utils.entry import clean_exit
from utils.handover import add_view_dropout, check_parent, hand_over, parse_later_stage
from utils.losses import vessel_losses
from utils.obstructions.evaluation import draw_found, scores_of_frame, summarise_found
from utils.obstructions.losses import focal_score_loss, peak_target, shape_losses
from utils.obstructions.prediction import detections, to_cells
from utils.stage import Stage, launch_stage, load_tables, stage_parser

STAGE, PARENT_STAGES = "phase3_obstruction", ("phase2_cass", "phase1_deepsa")
MASTER_PORT = 12357
VESSEL_WEIGHTS = dict(bce=0.5, dice=0.5)
SEGMENTATION_WEIGHT, SCORE_WEIGHT, BOX_WEIGHT, OFFSET_WEIGHT, STENOSIS_WEIGHT = 0.3, 1.0, 1.0, 0.1, 2.0


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = stage_parser(__doc__, epochs=50, batch_size=4, lr=5e-5, backbone_lr_scale=0.1, master_port=MASTER_PORT)
    parser.add_argument(
        "--threshold-pct", type=positive_float, default=50.0, metavar="PCT",
        help="an obstruction is to be found from this diameter stenosis on",
    )
    parser.add_argument(
        "--elsewhere-weight", type=non_negative_float, default=0.0, metavar="W",
        help="what an obstruction on a vessel that was not analysed costs, 0 to 1 times a false one on the analysed "
             "segment; at 0 such vessels are unknown, at 1 they count as free of obstructions",
    )
    add_view_dropout(parser)
    args = parse_later_stage(parser, arguments, PARENT_STAGES)
    if args.elsewhere_weight > 1:
        parser.error(f"--elsewhere-weight {args.elsewhere_weight:g}: allowed is 0 to 1")
    return args


def describe_rows(tables: dict, threshold_pct: float) -> str:
    """How many rows of each split have an obstruction to find, before any training."""
    counts = {}
    for split, table in tables.items():
        stenoses = [read_contours(path).measurements["diameter_stenosis_pct"] for path in table["contours_path"]]
        counts[split] = sum(stenosis >= threshold_pct for stenosis in stenoses), len(stenoses)
    said = ", ".join(f"{split} {positive} of {rows} rows" for split, (positive, rows) in counts.items())
    lines = [f"obstructions from {threshold_pct:g} %DS on: {said}"]
    if empty := [split for split, (positive, _) in counts.items() if not positive]:
        lines.append(f"WARNING: none in {' and '.join(empty)}: nothing to learn or no score; lower --threshold-pct")
    return "\n".join(lines)


def build_model(args: argparse.Namespace, resumes: bool) -> tuple[torch.nn.Module, dict | None]:
    """The model with the weights of a stage 1 or 2 checkpoint and a new head, or all of a stage 3 checkpoint."""
    model = build_obstruction_model(
        backbone=args.backbone, image_size=args.image_size, use_view=args.use_view, random_init=True
    )
    if resumes:
        return model, None
    return model, hand_over(
        model, args, stage=STAGE, parents=PARENT_STAGES, new=NEW_PARTS, left_behind=LEFT_BEHIND
    )


def obstruction_losses(args: argparse.Namespace, output: ObstructionOutput, batch: dict) -> dict[str, torch.Tensor]:
    """Per-sample losses (B,): the score of every cell, box and point of the obstruction, its severity, the vessels.

    Severity is learned from every row, also below the threshold: it is how far from one a narrowing is.
    """
    segmentation = vessel_losses(output.vessel_logits, batch["deepsa_mask"], **VESSEL_WEIGHTS)
    is_positive = batch["stenosis_pct"] >= args.threshold_pct
    point, box = to_cells(batch["obstruction_point"]), to_cells(batch["obstruction_box"].unflatten(1, (2, 2))).flatten(1)
    wanted = torch.where(is_positive[:, None], point, torch.nan)
    target = peak_target(wanted, output.score_logits.shape[2:])
    score = focal_score_loss(output.score_logits, target, known_cells(args, batch, is_positive))
    box = torch.where(is_positive[:, None], box, torch.nan)
    shape = shape_losses(output.offset, output.sides, output.stenosis, point, box, batch["stenosis_pct"] / 100)
    loss = (
        SEGMENTATION_WEIGHT * segmentation["loss"] + SCORE_WEIGHT * score + BOX_WEIGHT * shape["box"]
        + OFFSET_WEIGHT * shape["offset"] + STENOSIS_WEIGHT * shape["stenosis"]
    )
    parts = {"dice": segmentation["dice"], "score": score, **shape}
    return {"loss": loss, **{name: value.detach() for name, value in parts.items()}}


def known_cells(args: argparse.Namespace, batch: dict, is_positive: torch.Tensor) -> torch.Tensor:
    """(B, 1, S / 4, S / 4): 1 where the score is learned, --elsewhere-weight where nobody said whether there is an
    obstruction.

    An obstruction whose point was moved out of the picture is not to be found, nor is it nothing.
    """
    known = batch["known"] + args.elsewhere_weight * (1 - batch["known"])
    lost = is_positive & batch["obstruction_point"].isnan().any(dim=1)
    known = known * (1 - lost[:, None, None, None] * batch["segment_mask"])
    return -F.max_pool2d(-known, STRIDE)  # known as a whole


def compute_loss(args: argparse.Namespace, model: torch.nn.Module, batch: dict) -> dict[str, torch.Tensor]:
    """Per-sample losses (B,) of a batch, see `obstruction_losses`."""
    return obstruction_losses(args, model(batch["image"], batch["view_deg"]), batch)


def score_batch(args: argparse.Namespace, model: torch.nn.Module, batch: dict) -> list[dict]:
    """One record a frame, at its own size: scores of its vessels, and its obstructions, found and to be found."""
    output = model(batch["image"], batch["view_deg"])
    losses, rows = obstruction_losses(args, output, batch)["loss"].tolist(), batch["row"].tolist()
    records = []
    for index, (row, loss) in enumerate(zip(rows, losses, strict=True)):
        frame = {key: values[index] for key, values in batch.items() if key.startswith("frame_")}
        found = detections(output, index, frame["frame_segment_mask"].shape)
        records.append({"row": row, "loss": loss, **scores_of_frame(output, index, found, frame, args.threshold_pct)})
    return records


def build_stage(args: argparse.Namespace) -> Stage:
    return Stage(
        name=STAGE,
        classes=(),
        master_port=MASTER_PORT,
        best_metric="f1_iou50",
        shown=(
            "train_loss", "val_loss", "val_f1_iou50", "val_ap_iou50", "val_sensitivity_at_1fp",
            "val_mld_point_error_mm_median", "val_ds_mae_points", "val_fp_per_frame_final", "val_dice_truth",
        ),
        curves={
            "loss": ("train_loss", "val_loss"),
            "obstructions at box IoU 0.5": ("val_f1_iou50", "val_ap_iou50"),
            "sensitivity at one false positive a frame": ("val_sensitivity_at_1fp", "val_sensitivity_at_1fp_iou50"),
            "smallest diameter: error (mm)": ("val_mld_point_error_mm_median",),
            "stenosis: error (points)": ("val_ds_mae_points",),
            "vessels (Dice)": ("val_dice_deepsa", "val_dice_truth"),
            "learning rate": ("lr",),
        },
        build_model=build_model,
        compute_loss=functools.partial(compute_loss, args),
        score_batch=functools.partial(score_batch, args),
        summarise=summarise_found,
        draw=draw_found,
        dataset=dict(obstructions=True, view_dropout=args.view_dropout),
    )


def main() -> None:
    args = parse_arguments()
    with clean_exit():
        check_parent(args, STAGE, PARENT_STAGES)
        tables = load_tables(args)
        if int(os.environ.get("RANK", 0)) == 0:
            print(describe_rows(tables, args.threshold_pct), flush=True)
        launch_stage(build_stage(args), args, tables)


if __name__ == "__main__":
    main()
