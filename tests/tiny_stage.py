"""What the tiny runs of stages 2 and 3 share: a backbone of two convolutions, and a run without pictures.

See `tests.tiny_cass` and `tests.tiny_obstruction`, which hold what is a stage's own.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from unittest import mock

import torch
from torch import nn

from models.backbone import Backbone
from models.fusion import ViewConditionedFeatureFusion
from models.segmentation_head import VesselSegmentationHead
from models.view_encoder import CategoricalViewEncoder
from utils.ranks.distributed import Ranks
from utils.stage import Stage, load_tables, run_stage

IMAGE_SIZE = 56  # patches of 14, cells of 8
CHANNELS, LEVELS = 8, 2


class TinyBackbone(Backbone):
    """Image (B, 3, S, S) to maps (B, 8, S / 8, S / 8) and half that."""

    channels = CHANNELS

    def __init__(self):
        super().__init__(image_size=IMAGE_SIZE, num_levels=2)
        self.first = nn.Conv2d(3, CHANNELS, 8, stride=8)
        self.second = nn.Conv2d(CHANNELS, CHANNELS, 2, stride=2)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        fine = self.first(image)
        return [fine, self.second(fine.relu())]


def build_vessel_parts(view_dim: int) -> dict[str, nn.Module]:
    """The parts that the models of all stages have, by the names that they take them under."""
    pyramid = dict(channels=CHANNELS, num_levels=LEVELS)
    return dict(
        segmentation_head=VesselSegmentationHead(**pyramid, detail_channels=(8, 16, 16)),
        backbone=TinyBackbone(), view_encoder=CategoricalViewEncoder(view_dim),
        fusion=ViewConditionedFeatureFusion(**pyramid, view_dim=view_dim),
    )


def tiny_parent(stage: str, args: argparse.Namespace, resumes: bool) -> dict | None:
    """Facts of a checkpoint of `stage` that a run started from, as the scripts' `build_model` gives them."""
    facts = {"stage": stage, "image_size": args.image_size, "handed_over": "all"}
    return None if resumes else {"path": "start.pth", **facts}


def parse_tiny(parse_arguments: Callable, csv_path, folder, *flags) -> tuple[argparse.Namespace, dict]:
    """Arguments and tables of a run on the CPU, one sample a batch unless `flags` say another number.

    parse_arguments: the script's own.
    """
    given = ["--data-csv", csv_path, "--checkpoint-dir", folder, "--backbone", "sam3-tiny", "--device", "cpu",
             "--amp", "off", "--num-workers", 0, "--batch-size", 1, *flags]
    args = parse_arguments([str(flag) for flag in given])
    args.image_size = IMAGE_SIZE
    return args, load_tables(args)


def same(function):
    return function


def run_tiny(
    ranks: Ranks, stage: Stage, build_model: Callable, args: argparse.Namespace, tables: dict, *, loss=same, score=same
) -> None:
    """One run as the script's `main` starts it on each rank, of another model and without pictures.

    loss, score: decorate the stage's functions, so that a test can watch them or make them fail.
    """
    stage = dataclasses.replace(
        stage, build_model=build_model, draw=None, compute_loss=loss(stage.compute_loss),
        score_batch=score(stage.score_batch),
    )
    with mock.patch("utils.run_files.save_curves"):  # most of such a run's time
        run_stage(ranks, stage, args, tables)
