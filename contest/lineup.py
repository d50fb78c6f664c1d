"""Who takes part: contestants by name, or one of this project's checkpoints by its path, under a name if one is given.

    contestant = build_contestant("litemedsam", Settings(device="cpu"))
    contestant = build_contestant("checkpoints/phase1_deepsa_best.pth", Settings(device="cpu"))
    contestant = build_contestant("ours=checkpoints/phase1_deepsa_best.pth", Settings(device="cpu"))
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from contest.cases import Case
from contest.contestant import Contestant
from contest.trees import FrangiContestant, fitted_frangi, load_own
from utils.checkpoint import MissingWeights


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where contestants run and what they are made of.

    random: names of those that may take part with random weights. training: cases that thresholds are chosen on.
    """

    device: str = "cpu"
    sam3_checkpoint: Path | None = None
    medsam2_checkpoint: Path | None = None
    random: tuple[str, ...] = ()
    training: Sequence[Case] = ()


def _sam3(settings: Settings, box_means: str = "exemplar") -> Contestant:
    from contest.sam3 import build_sam3_contestant  # imports the whole package, seconds that others need not wait

    return build_sam3_contestant(
        settings.sam3_checkpoint, random_init="sam3" in settings.random, device=torch.device(settings.device),
        box_means=box_means,
    )


def _medsam2(settings: Settings) -> Contestant:
    from contest.medsam2 import build_medsam2_contestant

    return build_medsam2_contestant(
        settings.medsam2_checkpoint, random_init="medsam2" in settings.random, device=torch.device(settings.device)
    )


def _litemedsam(settings: Settings) -> Contestant:
    from contest.litemedsam import build_litemedsam_contestant

    return build_litemedsam_contestant(
        random_init="litemedsam" in settings.random, device=torch.device(settings.device)
    )


def _frangi(settings: Settings) -> Contestant:
    return fitted_frangi(settings.training) if settings.training else FrangiContestant()


NAMED: dict[str, Callable[[Settings], Contestant]] = {
    "sam3": _sam3, "sam3-object": functools.partial(_sam3, box_means="object"), "medsam2": _medsam2,
    "litemedsam": _litemedsam, "frangi": _frangi,
}
WITH_WEIGHTS = ("sam3", "medsam2", "litemedsam")  # whose could be random


def build_contestant(entry: str, settings: Settings) -> Contestant:
    """The contestant called `entry`: one of `NAMED`, or a checkpoint as PATH or NAME=PATH.

    MissingWeights where its weights are not at hand, CheckpointError where they do not fit.
    """
    if entry in NAMED:
        return NAMED[entry](settings)
    name, _, path = entry.rpartition("=")
    if not Path(path).is_file():
        raise MissingWeights(f"{path}: neither a file nor one of {', '.join(NAMED)}; train it or correct the path.")
    return load_own(path, torch.device(settings.device), name=name)
