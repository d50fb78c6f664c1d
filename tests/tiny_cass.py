"""Stage 2 by its own script, on a backbone of two convolutions and small pictures: milliseconds a step.

    args, tables = tiny_run(csv_path, folder, "--epochs", 2)
    run_cass(Ranks(), args, tables)

Everything but the model's size is real: data set, losses, scores, `utils.stage.run_stage`.
"""

from __future__ import annotations

import functools

from torch import nn

import train_stage2_cass_segments as stage2
from models.cass_model import VIEW_DIM, SAM3CASSModel
from models.segment_heads import AnalysedMapHead, PooledSegmentHead, SegmentMapHead
from tests.tiny_stage import CHANNELS, LEVELS, build_vessel_parts, parse_tiny, run_tiny, tiny_parent
from utils.ranks.distributed import Ranks

# The record of a frame whose segment is the first class, which all but the pooled head say.
ANSWERS = {"loss": 1.0, "class": 0, "pointed": 0, "pointed_box": 0, "pointed_point": 0, "blind": 1,
           "blind_map": 0, "blind_probability": 0.5, "box_iou": 0.5, "box_iou_map": 0.5, "dice_deepsa": 0.5}


def task_of(*segments: int) -> stage2.Task:
    """These classes, each with one training row."""
    return stage2.Task(segments, (1,) * len(segments))


def build_tiny_model(
    task: stage2.Task, dropout: bool, args, resumes: bool
) -> tuple[SAM3CASSModel, dict | None]:
    """As the script's `build_model`, without a checkpoint to start from; dropout: as it is, or none."""
    heads = dict(num_classes=len(task.classes), view_dim=VIEW_DIM)
    model = SAM3CASSModel(
        **build_vessel_parts(VIEW_DIM), classes=task.classes,
        pooled_head=PooledSegmentHead(channels=CHANNELS, num_levels=LEVELS, **heads),
        map_head=SegmentMapHead(**heads, channels=16, dim=16, depth=1),
        analysed_head=AnalysedMapHead(fine_channels=16, shape_channels=16),
    )
    for part in model.modules():
        if isinstance(part, nn.Dropout) and not dropout:
            part.p = 0.0
    return model, tiny_parent(stage2.PARENT_STAGES[0], args, resumes)


def tiny_run(csv_path, folder, *flags) -> tuple:
    """Arguments and tables, see `parse_tiny`."""
    return parse_tiny(stage2.parse_arguments, csv_path, folder, "--drawn-trees", 1, *flags)


def run_cass(ranks: Ranks, args, tables: dict, *, dropout: bool = True, **watched) -> None:
    """One run, see `run_tiny`; dropout: as for `build_tiny_model`, watched: `loss` and `score`."""
    task = stage2.choose_task(args, tables)
    build_model = functools.partial(build_tiny_model, task, dropout)
    run_tiny(ranks, stage2.build_stage(task, args), build_model, args, tables, **watched)
