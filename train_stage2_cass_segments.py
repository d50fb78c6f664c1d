"""Stage 2: on top of stage 1, SAM 3 learns to name the CASS segments, from one annotated segment a frame.

    python train_stage2_cass_segments.py --data-csv data.csv                              # the mission's run
    python train_stage2_cass_segments.py --data-csv data.csv --no-use-view                # what are angles worth?
    python train_stage2_cass_segments.py --data-csv data.csv --backbone sam3-tiny --lr 1e-3 \\
        --init-from checkpoints/phase1_deepsa_tiny.pth                                    # on a CPU
    python train_stage2_cass_segments.py ... --resume                                     # go on from there
    python train_stage2_cass_segments.py ... --eval-only --init-from checkpoints/phase2_cass_best.pth

It starts from --init-from, by default phase1_deepsa_best.pth in --checkpoint-dir, and says which tensors came over.
Two questions, never mixed: *blind*, which segment did the analyst analyse in this frame? and *pointed*, which
segment is this one (its mask, box or a point given)? A head on pooled features answers the first, a map that names
every vessel pixel answers both.

Ctrl-C or SIGTERM saves at the next step and leaves. In --checkpoint-dir: phase2_cass_latest.pth (to go on), _best.pth
(best macro-F1 of the pointed question), _history.jsonl, _curves.png, _confusion_pointed.png, _confusion_blind.png,
_per_class.txt, _metrics.json.
"""

from __future__ import annotations

import argparse
import functools
import os
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from data.cass import SEGMENTS, choose_classes, classes_without_rows
from data.errors import DataError
from models.cass_model import NEW_PARTS, CassOutput, build_cass_model
from utils.arguments import non_negative_float, non_negative_int, positive_float
from utils.checkpoint import CheckpointError, load_checkpoint
from utils.entry import clean_exit
from utils.handover import add_view_dropout, check_parent, hand_over, parse_later_stage
from utils.losses import bce_loss, soft_dice_loss, vessel_losses
from utils.metrics import mask_scores
from utils.segments.evaluation import answers, draw_answers, summarise_answers
from utils.segments.losses import box_loss, drawn_name_loss, name_loss
from utils.segments.naming import name_map
from utils.segments.prediction import frame_prediction
from utils.segments.scores import score_segments
from utils.stage import Stage, launch_stage, load_tables, stage_parser

STAGE, PARENT_STAGES = "phase2_cass", ("phase1_deepsa",)
MASTER_PORT = 12356
VESSEL_WEIGHTS = dict(bce=0.5, dice=0.5)
# Of the names of drawn trees, by those of the annotation. At 1 the gradient of a few annotated frames, large and noisy,
# drowns that of the trees: after 125 steps their loss was 1.94, at 4 it was 1.69, and 1.44 without annotated frames.
DRAWN_NAMES_WEIGHT = 8.0
SEGMENTATION_WEIGHT, CLASSIFICATION_WEIGHT, BOX_WEIGHT = 0.3, 0.5, 0.2


@dataclass(frozen=True)
class Task:
    """What the losses must know of the data: the classes and how often each is annotated.

    classes: CASS numbers in the order of the channels. rows: training rows of each.
    """

    classes: tuple[int, ...]
    rows: tuple[int, ...]

    def class_weights(self) -> torch.Tensor:
        """Weight (K,) of a row of each class: rows ** -0.5, scaled so that the mean row has 1.

        The user's classes are unbalanced 15 to 1. Unweighted, a class of 13 rows would hardly move the weights;
        with the full inverse its few frames would be learned by heart. The root lies between: 15 to 1 becomes 4 to
        1. For the map it tells channels apart only in how fast they learn: whatever the weight of a row, inside its
        mask its own class gains and outside it loses, so no class is preferred where the picture leaves two open. The
        pooled head is not weighted: its probabilities are to be those of the rows, which the ceiling supposes.
        """
        rows = torch.tensor(self.rows, dtype=torch.float32)
        weights = rows.clamp_min(1).rsqrt()
        return weights * rows.sum() / (weights * rows).sum().clamp_min(1e-6)

    def other_artery(self) -> torch.Tensor:
        """bool (K, K): [i, j] where class j is of the coronary artery that an injection for i does not fill."""
        sides = [SEGMENTS[cass_id].side for cass_id in self.classes]
        return torch.tensor([[one != other for other in sides] for one in sides])


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = stage_parser(
        __doc__, epochs=50, batch_size=4, lr=5e-5, backbone_lr_scale=0.1, master_port=MASTER_PORT
    )
    parser.add_argument(
        "--classes", default="design",
        help="the segments to tell apart: design (14 CASS segments, and any other in the data), data (those that "
             "occur in it), or a list of CASS numbers and SYNTAX names such as 1,2,3,'SYNTAX 12a'",
    )
    parser.add_argument(
        "--drawn-trees", type=non_negative_int, default=8, metavar="N",
        help="for each training row, also train the map of names on N drawn trees of virtual patients, in which every "
             "vessel has its name (data/drawn_trees.py); 0 for none: then a name is learned only in the views in which "
             "its segment is annotated",
    )
    parser.add_argument(
        "--map-lr", type=positive_float, default=1.5e-3, metavar="LR",
        help="peak learning rate of the map of names: it starts from nothing and moves no weights of the backbone",
    )
    add_view_dropout(parser)
    parser.add_argument(
        "--unsure-ends-mm", type=non_negative_float, default=5.0, metavar="MM",
        help="vessels this near to an end of the annotated segment may be the rest of it: their names are not "
             "trained. Contours cover about 40 of 40-50 mm; 0 where they cover whole segments",
    )
    return parse_later_stage(parser, arguments, PARENT_STAGES)


def choose_task(args: argparse.Namespace, tables: dict) -> Task:
    """The classes and their rows; those of the checkpoint where one of this stage is validated."""
    segments = [int(segment) for table in tables.values() for segment in table["cass_segment"]]
    checkpoint = load_checkpoint(args.init_from) if args.eval_only else None
    if checkpoint is not None and checkpoint["stage"] == STAGE:
        _check_all_have_a_class(segments, checkpoint["classes"], args.init_from)
        return Task(tuple(checkpoint["classes"]), tuple(checkpoint["config"]["class_rows"]))
    classes = choose_classes(args.classes, segments)
    trained = tables.get("train", tables["val"])["cass_segment"]
    return Task(classes, tuple(int((trained == cass_id).sum()) for cass_id in classes))


def _check_all_have_a_class(segments: list[int], classes: list[int], source: object) -> None:
    """DataError when the checkpoint `source` has no class for the segment of some rows."""
    if others := sorted(set(segments) - set(classes)):
        counts = ", ".join(f"{cass_id} {SEGMENTS[cass_id].name}: {segments.count(cass_id)}" for cass_id in others)
        raise DataError(
            f"{source} names the classes {list(classes)}; rows of other segments: {counts}. Take these rows out of "
            "the CSV, or validate a checkpoint that was trained to name them"
        )


def describe_classes(task: Task, tables: dict) -> str:
    """The classes and their training rows, and which of them have none, before any training."""
    counts = ", ".join(f"{cass_id}: {rows}" for cass_id, rows in zip(task.classes, task.rows, strict=True))
    lines = [f"classes (CASS segment: training rows): {counts}"]
    if empty := classes_without_rows(task.classes, tables["train"]):
        names = ", ".join(f"{cass_id} {SEGMENTS[cass_id].name}" for cass_id in empty)
        lines.append(f"WARNING: no training row for {names}: the model cannot learn to name these")
    return "\n".join(lines)


def build_model(task: Task, args: argparse.Namespace, resumes: bool) -> tuple[torch.nn.Module, dict | None]:
    """The model with the weights of a stage 1 checkpoint and new heads, or all of a stage 2 checkpoint."""
    model = build_cass_model(
        backbone=args.backbone, image_size=args.image_size, classes=task.classes, use_view=args.use_view,
        random_init=True,
    )
    if resumes:
        return model, None

    def check_classes(checkpoint) -> None:
        if tuple(checkpoint["classes"]) != task.classes:
            raise CheckpointError(
                f"{args.init_from} names the classes {checkpoint['classes']}, asked for are {list(task.classes)}: "
                "give these with --classes, or start from a stage 1 checkpoint"
            )

    return model, hand_over(
        model, args, stage=STAGE, parents=PARENT_STAGES, new=NEW_PARTS, check_own=check_classes
    )


def cass_losses(task: Task, output: CassOutput, batch: dict) -> dict[str, torch.Tensor]:
    """Per-sample losses (B,): 0.3 segmentation + 0.5 classification + 0.2 box, and their parts.

    segmentation: vessels against DeepSA's label, as in stage 1. classification: cross-entropy of the pooled head,
    weighted by class the loss of the map's names, and in training that of drawn trees. box: L1 and generalised IoU of
    the pooled head's box, and BCE and Dice of the pixels that belong to the analysed segment.
    """
    index, device = batch["class_index"], output.class_logits.device
    segmentation = vessel_losses(output.vessel_logits, batch["deepsa_mask"], **VESSEL_WEIGHTS)
    inside, outside = map_targets(output, batch)
    names = name_loss(output.name_logits, index, inside, outside, task.other_artery().to(device))
    pooled = F.cross_entropy(output.class_logits.float(), index, reduction="none")
    box = box_loss(output.box, batch["box"])
    analysed = bce_loss(output.analysed_logits, inside) + 0.5 * soft_dice_loss(output.analysed_logits, inside)
    pooled = pooled * ~batch["box"].isnan().any(dim=1)  # nothing to guess where the segment left the picture
    classification = pooled + task.class_weights().to(device)[index] * names
    parts = {"dice": segmentation["dice"], "pooled": pooled, "names": names, "box": box, "analysed": analysed}
    if output.drawn_name_logits is not None:
        parts["drawn"] = drawn_names(output, batch)
        classification = classification + DRAWN_NAMES_WEIGHT * parts["drawn"]
    loss = (
        SEGMENTATION_WEIGHT * segmentation["loss"] + CLASSIFICATION_WEIGHT * classification
        + BOX_WEIGHT * (box + analysed)
    )
    return {"loss": loss, **{name: value.detach() for name, value in parts.items()}}


def map_targets(output: CassOutput, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (B, 1, 84, 84) of pixels of the analysed segment, and of vessel pixels that are not of it.

    What the label or the model itself takes for vessel counts as vessel; the next pixels to the mask as neither,
    nor do those beyond its ends: Medis contours often stop short of the segment's.
    """
    def on_map(mask):
        return F.adaptive_avg_pool2d(mask, output.name_logits.shape[-2:])

    inside = on_map(batch["segment_mask"])
    vessel = on_map(torch.maximum(batch["deepsa_mask"], output.vessel_logits.detach().float().sigmoid()))
    beside = F.max_pool2d(inside, 3, stride=1, padding=1) > 0
    outside = vessel * ~beside
    return inside, outside * (1 - batch["unsure"]) if "unsure" in batch else outside


def drawn_names(output: CassOutput, batch: dict) -> torch.Tensor:
    """Loss (B,) of the names of the drawn trees that came with each row, their mean."""
    loss = drawn_name_loss(
        output.drawn_name_logits, batch["drawn_names"].flatten(0, 1).long(), as_share(batch["drawn_vessels"])
    )
    return loss.reshape(batch["drawn_names"].shape[:2]).mean(dim=1)


def as_share(vessels: torch.Tensor) -> torch.Tensor:
    """Drawn vessels, uint8 (B, N, h, w), as float (B * N, 1, h, w) in [0, 1]."""
    return vessels.flatten(0, 1)[:, None].float() / 255


def compute_loss(task: Task, model: torch.nn.Module, batch: dict) -> dict[str, torch.Tensor]:
    """Per-sample losses (B,) of a batch, see `cass_losses`."""
    drawn = None
    if "drawn_vessels" in batch:
        drawn = as_share(batch["drawn_vessels"]), batch["drawn_view_deg"].flatten(0, 1)
    return cass_losses(task, model(batch["image"], batch["view_deg"], drawn), batch)


def score_batch(task: Task, model: torch.nn.Module, batch: dict) -> list[dict[str, float]]:
    """One record a frame, at its own size: answers to both questions, and scores of vessels, boxes and names."""
    output = model(batch["image"], batch["view_deg"])
    losses, rows = cass_losses(task, output, batch)["loss"].tolist(), batch["row"].tolist()
    records = []
    for index, (row, loss) in enumerate(zip(rows, losses, strict=True)):
        masks = {key: values[index] for key, values in batch.items() if key.startswith("frame_")}
        segment, truth = masks["frame_segment_mask"], masks.get("frame_truth_mask")
        prediction = frame_prediction(output, index, segment.shape, task.classes)
        vessel = prediction.vessel_probability >= 0.5
        record = {"row": row, "loss": loss, **mask_scores(vessel, masks["frame_deepsa_mask"], "deepsa")}
        if truth is not None:
            record |= mask_scores(vessel, truth, "truth")
        if masks.get("frame_cass_map") is not None:
            names, _ = name_map(prediction)
            record |= score_segments(names, masks["frame_cass_map"], vessel, task.classes)
        records.append(record | answers(prediction, segment, int(batch["class_index"][index])))
    return records


def build_stage(task: Task, args: argparse.Namespace) -> Stage:
    return Stage(
        name=STAGE,
        classes=task.classes,
        master_port=MASTER_PORT,
        best_metric="macro_f1_pointed",
        shown=(
            "train_loss", "val_loss", "val_top1_pointed", "val_macro_f1_pointed", "val_top1_blind",
            "val_top1_blind_map", "val_top1_blind_ceiling", "val_segment_f1_map", "val_box_iou", "val_dice_truth",
        ),
        curves={
            "loss": ("train_loss", "val_loss"),
            "pointed: which segment is this?": ("val_top1_pointed", "val_macro_f1_pointed"),
            "blind: which one was analysed?": ("val_top1_blind", "val_top1_blind_map", "val_top1_blind_ceiling"),
            "names of all segments": ("val_segment_f1_map", "val_pixel_accuracy_map"),
            "boxes, blind (IoU)": ("val_box_iou", "val_box_iou_map"),
            "vessels (Dice)": ("val_dice_deepsa", "val_dice_truth"),
            "learning rate": ("lr",),
        },
        build_model=functools.partial(build_model, task),
        compute_loss=functools.partial(compute_loss, task),
        score_batch=functools.partial(score_batch, task),
        own_rates={"map_head.": args.map_lr},
        summarise=functools.partial(summarise_answers, task.classes),
        draw=functools.partial(draw_answers, task.classes),
        dataset=dict(
            classes=task.classes, drawn_trees=args.drawn_trees, view_dropout=args.view_dropout,
            unsure_ends_mm=args.unsure_ends_mm,
        ),
        facts={"class_rows": list(task.rows)},
    )


def main() -> None:
    args = parse_arguments()
    with clean_exit():
        check_parent(args, STAGE, PARENT_STAGES)
        tables = load_tables(args)
        task = choose_task(args, tables)
        if not args.eval_only and int(os.environ.get("RANK", 0)) == 0:
            print(describe_classes(task, tables), flush=True)
        launch_stage(build_stage(task, args), args, tables)


if __name__ == "__main__":
    main()
