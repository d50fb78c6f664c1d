"""Stage 4 by its own script, on a backbone of two convolutions and small crops: milliseconds a step.

    args, tables = tiny_run(csv_path, folder, "--epochs", 2)
    run_lumen(Ranks(), args, tables)

Everything but the model's size is real: data set, losses, scores with their QCA, `utils.stage.run_stage`.
"""

from __future__ import annotations

from unittest import mock

import train_stage4_quantitative as stage4
from models.lumen_head import LumenHead
from models.lumen_model import SAM3LumenModel
from tests.tiny_stage import build_vessel_parts, parse_tiny, run_tiny, tiny_parent
from utils.ranks.distributed import Ranks

VIEW_DIM = 16


def build_tiny_model(args, resumes: bool) -> tuple[SAM3LumenModel, dict | None]:
    """As the script's `build_model`, without a checkpoint to start from."""
    parts = build_vessel_parts(VIEW_DIM)
    fine_channels = parts["segmentation_head"].quarter_channels
    model = SAM3LumenModel(**parts, lumen_head=LumenHead(fine_channels=fine_channels, channels=16, half_channels=16))
    return model, tiny_parent(stage4.PARENT_STAGES[-1], args, resumes)


def tiny_run(csv_path, folder, *flags) -> tuple:
    """Arguments and tables, see `parse_tiny`."""
    return parse_tiny(stage4.parse_arguments, csv_path, folder, *flags)


def run_lumen(ranks: Ranks, args, tables: dict, **watched) -> None:
    """One run, see `run_tiny`; watched: `loss` and `score`."""
    # MONAI takes four seconds to import.
    with mock.patch("utils.lumens.evaluation.surface_distance_px", lambda *_: 0.0):
        run_tiny(ranks, stage4.build_stage(args), build_tiny_model, args, tables, **watched)
