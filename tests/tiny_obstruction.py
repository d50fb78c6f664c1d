"""Stage 3 by its own script, on a backbone of two convolutions and small pictures: milliseconds a step.

    args, tables = tiny_run(csv_path, folder, "--epochs", 2)
    run_obstruction(Ranks(), args, tables)

Everything but the model's size is real: data set, losses, scores, `utils.stage.run_stage`.
"""

from __future__ import annotations

import dataclasses
from unittest import mock

import train_stage3_obstructions as stage3
from models.fusion import ViewConditionedFeatureFusion
from models.obstruction_head import ObstructionHead
from models.obstruction_model import SAM3ObstructionModel
from models.segmentation_head import VesselSegmentationHead
from models.view_encoder import CategoricalViewEncoder
from tests.tiny_cass import CHANNELS, IMAGE_SIZE, LEVELS, TinyBackbone, same
from utils.distributed import Ranks
from utils.stage import load_tables, run_stage

VIEW_DIM = 16
FOUND_ALL = ("--threshold-pct", 5)  # the tiny data set's lesions are mild


def build_tiny_model(args, resumes: bool) -> tuple[SAM3ObstructionModel, dict | None]:
    """As the script's `build_model`, without a checkpoint to start from."""
    pyramid = dict(channels=CHANNELS, num_levels=LEVELS)
    segmentation_head = VesselSegmentationHead(**pyramid, detail_channels=(8, 16, 16))
    model = SAM3ObstructionModel(
        backbone=TinyBackbone(), view_encoder=CategoricalViewEncoder(VIEW_DIM),
        fusion=ViewConditionedFeatureFusion(**pyramid, view_dim=VIEW_DIM), segmentation_head=segmentation_head,
        obstruction_head=ObstructionHead(fine_channels=segmentation_head.quarter_channels, channels=16),
    )
    facts = {"stage": stage3.PARENT_STAGES[-1], "image_size": args.image_size, "handed_over": "all"}
    return model, None if resumes else {"path": "start.pth", **facts}


def tiny_run(csv_path, folder, *flags) -> tuple:
    """Arguments and tables of a run on the CPU, one sample a batch unless `flags` say another number."""
    given = ["--data-csv", csv_path, "--checkpoint-dir", folder, "--backbone", "sam3-tiny", "--device", "cpu",
             "--amp", "off", "--num-workers", 0, "--batch-size", 1, *FOUND_ALL, *flags]
    args = stage3.parse_arguments([str(flag) for flag in given])
    args.image_size = IMAGE_SIZE
    return args, load_tables(args)


def run_obstruction(ranks: Ranks, args, tables: dict, *, loss=same, score=same) -> None:
    """One run as the script's `main` starts it on each rank, without pictures; loss, score: as in `run_cass`."""
    stage = stage3.build_stage(args)
    stage = dataclasses.replace(
        stage, build_model=build_tiny_model, draw=None, compute_loss=loss(stage.compute_loss),
        score_batch=score(stage.score_batch),
    )
    with mock.patch("utils.metrics.hd95_px", lambda *_: 0.0), mock.patch("utils.run_files.save_curves"):
        run_stage(ranks, stage, args, tables)
