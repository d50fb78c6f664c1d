"""Stage 4: on top of stage 1, 2 or 3, SAM 3 learns to draw the lumen of one segment so exactly that it can be measured.

    python train_stage4_quantitative.py --data-csv data.csv                               # the mission's run
    python train_stage4_quantitative.py --data-csv data.csv --backbone sam3-tiny --lr 1e-3 \\
        --init-from checkpoints/phase2_cass_tiny.pth                                      # on a CPU
    python train_stage4_quantitative.py ... --resume                                      # go on from there
    python train_stage4_quantitative.py ... --eval-only --init-from checkpoints/phase4_quantitative_best.pth

It starts from --init-from, by default the best checkpoint of phase 2, 1 or 3 in --checkpoint-dir, in this order, and
says which tensors came over. It sees no whole frames but crops around the box of the analysed segment, at full detail:
0.1 mm is half a pixel of the frame. The box is that of the Medis contours, drawn a little wrong in training, as models
draw it, and of parts of the segment, so any box around a stretch of vessel can be asked for later; the segment's two
ends are pointed at as well, but not always. The lumen is learned from the contours' edges: its area, and the distance of
each pixel near the wall to it.

Validation measures each predicted lumen (`qca/`) and compares with what Medis recorded; best is the least error of the
diameter stenosis, a lumen that cannot be measured counting as one without stenosis.

Ctrl-C or SIGTERM saves at the next step and leaves. In --checkpoint-dir: phase4_quantitative_latest.pth (to go on),
_best.pth, _history.jsonl, _curves.png, _agreement.png (scatter and Bland-Altman plots), _metrics.json.
"""

from __future__ import annotations

import argparse

import torch

from data.lumen_dataset import LumenDataset
from models.lumen_model import LEFT_BEHIND, NEW_PARTS, LumenOutput, build_lumen_model
from utils.entry import clean_exit
from utils.handover import add_view_dropout, check_parent, hand_over, parse_later_stage
from utils.lumens.evaluation import draw_agreement, scores_of_lumen, summarise_lumens
from utils.lumens.losses import lumen_losses
from utils.lumens.prediction import predicted_of_batch
from utils.stage import Stage, launch_stage, load_tables, stage_parser

STAGE, PARENT_STAGES = "phase4_quantitative", ("phase2_cass", "phase1_deepsa", "phase3_obstruction")
MASTER_PORT = 12358
AREA_WEIGHT, EDGE_WEIGHT = 1.0, 1.0


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = stage_parser(__doc__, epochs=50, batch_size=4, lr=5e-5, backbone_lr_scale=0.1, master_port=MASTER_PORT)
    add_view_dropout(parser)
    return parse_later_stage(parser, arguments, PARENT_STAGES)


def build_model(args: argparse.Namespace, resumes: bool) -> tuple[torch.nn.Module, dict | None]:
    """The model with the weights of an earlier stage's checkpoint and a new head, or all of a stage 4 checkpoint."""
    model = build_lumen_model(
        backbone=args.backbone, image_size=args.image_size, use_view=args.use_view, random_init=True
    )
    if resumes:
        return model, None
    return model, hand_over(
        model, args, stage=STAGE, parents=PARENT_STAGES, new=NEW_PARTS, left_behind=LEFT_BEHIND
    )


def quantitative_losses(output: LumenOutput, batch: dict) -> dict[str, torch.Tensor]:
    """Per-sample losses (B,): the lumen's area and its edge, see `utils.lumens.losses`."""
    parts = lumen_losses(
        output.lumen_logits, output.distance, batch["lumen"], batch["distance"], batch["weight"]
    )
    loss = AREA_WEIGHT * parts["area"] + EDGE_WEIGHT * parts["edge"]
    return {"loss": loss, **{name: value.detach() for name, value in parts.items()}}


def compute_loss(model: torch.nn.Module, batch: dict) -> dict[str, torch.Tensor]:
    """Per-sample losses (B,) of a batch, see `quantitative_losses`."""
    return quantitative_losses(model(batch["image"], batch["view_deg"], batch["box"], batch["ends"]), batch)


def score_batch(model: torch.nn.Module, batch: dict) -> list[dict]:
    """One record a crop: scores of its lumen, and its measurements beside those of Medis."""
    output = model(batch["image"], batch["view_deg"], batch["box"], batch["ends"])
    losses, rows = quantitative_losses(output, batch)["loss"].tolist(), batch["row"].tolist()
    records = []
    for index, (row, loss) in enumerate(zip(rows, losses, strict=True)):
        lumen = predicted_of_batch(output, index, batch)
        scores = scores_of_lumen(lumen, batch["lumen"][index, 0].cpu().numpy(), batch["frame_contours"][index])
        records.append({"row": row, "loss": loss, **scores})
    return records


def build_stage(args: argparse.Namespace) -> Stage:
    return Stage(
        name=STAGE,
        classes=(),
        master_port=MASTER_PORT,
        best_metric="ds_mae_points_all",
        lower_is_better=True,
        shown=(
            "train_loss", "val_loss", "val_dice_lumen", "val_surface_px", "val_measured_share", "val_mld_mae_mm",
            "val_rvd_mae_mm", "val_ds_mae_points", "val_lesion_length_mae_mm", "val_mld_position_mae_px",
        ),
        curves={
            "loss": ("train_loss", "val_loss"),
            "lumen (Dice)": ("val_dice_lumen",),
            "edge: mean distance (px)": ("val_surface_px",),
            "diameters: error (mm)": ("val_mld_mae_mm", "val_rvd_mae_mm"),
            "stenosis: error (points)": ("val_ds_mae_points", "val_ds_mae_points_all"),
            "lesion length: error (mm)": ("val_lesion_length_mae_mm",),
            "share that could be measured": ("val_measured_share",),
            "learning rate": ("lr",),
        },
        build_model=build_model,
        compute_loss=compute_loss,
        score_batch=score_batch,
        summarise=summarise_lumens,
        draw=draw_agreement,
        dataset_class=LumenDataset,
        dataset=dict(view_dropout=args.view_dropout),
    )


def main() -> None:
    args = parse_arguments()
    with clean_exit():
        check_parent(args, STAGE, PARENT_STAGES)
        launch_stage(build_stage(args), args, load_tables(args))


if __name__ == "__main__":
    main()
