"""Stage 2 by its own script, on a backbone of two convolutions and small pictures: milliseconds a step.

    args, tables = tiny_run(csv_path, folder, "--epochs", 2)
    run_cass(Ranks(), args, tables)

Everything but the model's size is real: data set, losses, scores, `utils.stage.run_stage`.
"""

from __future__ import annotations

import dataclasses
import functools
from unittest import mock

import torch
from torch import nn

import train_stage2_cass_segments as stage2
from models.cass_model import VIEW_DIM, SAM3CASSModel
from models.fusion import ViewConditionedFeatureFusion
from models.segment_heads import AnalysedMapHead, PooledSegmentHead, SegmentMapHead
from models.segmentation_head import VesselSegmentationHead
from models.view_encoder import CategoricalViewEncoder
from utils.distributed import Ranks
from utils.stage import load_tables, run_stage

IMAGE_SIZE = 56  # patches of 14, cells of 8
CHANNELS, LEVELS = 8, 2
# The record of a frame whose segment is the first class, which all but the pooled head say.
ANSWERS = {"loss": 1.0, "class": 0, "pointed": 0, "pointed_box": 0, "pointed_point": 0, "blind": 1,
           "blind_map": 0, "blind_probability": 0.5, "box_iou": 0.5, "box_iou_map": 0.5, "dice_deepsa": 0.5}


class TinyBackbone(nn.Module):
    """Image (B, 3, S, S) to maps (B, 8, S / 8, S / 8) and half that."""

    load_report = None

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, CHANNELS, 8, stride=8)
        self.second = nn.Conv2d(CHANNELS, CHANNELS, 2, stride=2)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        fine = self.first(image)
        return [fine, self.second(fine.relu())]


def task_of(*segments: int) -> stage2.Task:
    """These classes, each with one training row."""
    return stage2.Task(segments, (1,) * len(segments))


def build_tiny_model(
    task: stage2.Task, dropout: bool, args, resumes: bool
) -> tuple[SAM3CASSModel, dict | None]:
    """As the script's `build_model`, without a checkpoint to start from; dropout: as it is, or none."""
    pyramid = dict(channels=CHANNELS, num_levels=LEVELS)
    heads = dict(num_classes=len(task.classes), view_dim=VIEW_DIM)
    segmentation_head = VesselSegmentationHead(**pyramid, detail_channels=(8, 16, 16))
    model = SAM3CASSModel(
        backbone=TinyBackbone(), view_encoder=CategoricalViewEncoder(VIEW_DIM),
        fusion=ViewConditionedFeatureFusion(**pyramid, view_dim=VIEW_DIM),
        segmentation_head=segmentation_head,
        pooled_head=PooledSegmentHead(**pyramid, **heads), classes=task.classes,
        map_head=SegmentMapHead(**heads, channels=16, dim=16, depth=1),
        analysed_head=AnalysedMapHead(fine_channels=16, shape_channels=16),
    )
    for part in model.modules():
        if isinstance(part, nn.Dropout) and not dropout:
            part.p = 0.0
    facts = {"stage": stage2.PARENT_STAGES[0], "image_size": args.image_size, "handed_over": "all"}
    return model, None if resumes else {"path": "start.pth", **facts}


def tiny_run(csv_path, folder, *flags) -> tuple:
    """Arguments and tables of a run on the CPU, one sample a batch unless `flags` say another number."""
    given = ["--data-csv", csv_path, "--checkpoint-dir", folder, "--backbone", "sam3-tiny", "--device", "cpu",
             "--amp", "off", "--num-workers", 0, "--batch-size", 1, "--drawn-trees", 1, *flags]
    args = stage2.parse_arguments([str(flag) for flag in given])
    args.image_size = IMAGE_SIZE
    return args, load_tables(args)


def same(function):
    return function


def run_cass(
    ranks: Ranks, args, tables: dict, *, dropout: bool = True, loss=same, score=same, **changes
) -> None:
    """One run as the script's `main` starts it on each rank, without pictures.

    loss, score: decorate the stage's functions, so that a test can watch them or make them fail. changes: of
    other fields of the `Stage`.
    """
    task = stage2.choose_task(args, tables)
    build_model = functools.partial(build_tiny_model, task, dropout)
    stage = stage2.build_stage(task, args)
    stage = dataclasses.replace(
        stage, build_model=build_model, draw=None, compute_loss=loss(stage.compute_loss),
        score_batch=score(stage.score_batch), **changes,
    )
    # The library of the one takes four seconds to import, and the other is most of such a run's time.
    with mock.patch("utils.metrics.hd95_px", lambda *_: 0.0), mock.patch("utils.run_files.save_curves"):
        run_stage(ranks, stage, args, tables)
