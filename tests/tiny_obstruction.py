"""Stage 3 by its own script, on a backbone of two convolutions and small pictures: milliseconds a step.

    args, tables = tiny_run(csv_path, folder, "--epochs", 2)
    run_obstruction(Ranks(), args, tables)

Everything but the model's size is real: data set, losses, scores, `utils.stage.run_stage`.
"""

from __future__ import annotations

import train_stage3_obstructions as stage3
from models.obstruction_head import ObstructionHead
from models.obstruction_model import SAM3ObstructionModel
from tests.tiny_stage import build_vessel_parts, parse_tiny, run_tiny, tiny_parent
from utils.ranks.distributed import Ranks

VIEW_DIM = 16
FOUND_ALL = ("--threshold-pct", 5)  # the tiny data set's lesions are mild


def build_tiny_model(args, resumes: bool) -> tuple[SAM3ObstructionModel, dict | None]:
    """As the script's `build_model`, without a checkpoint to start from."""
    parts = build_vessel_parts(VIEW_DIM)
    fine_channels = parts["segmentation_head"].quarter_channels
    model = SAM3ObstructionModel(
        **parts, obstruction_head=ObstructionHead(fine_channels=fine_channels, channels=16))
    return model, tiny_parent(stage3.PARENT_STAGES[-1], args, resumes)


def tiny_run(csv_path, folder, *flags) -> tuple:
    """Arguments and tables, see `parse_tiny`."""
    return parse_tiny(stage3.parse_arguments, csv_path, folder, *FOUND_ALL, *flags)


def run_obstruction(ranks: Ranks, args, tables: dict, **watched) -> None:
    """One run, see `run_tiny`; watched: `loss` and `score`."""
    run_tiny(ranks, stage3.build_stage(args), build_tiny_model, args, tables, **watched)
