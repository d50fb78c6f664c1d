"""Everything that a run must keep to go on at exactly the step where it stopped, and nothing else."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PureWindowsPath
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from utils.checkpoint import CheckpointError, load_weights
from utils.ranks.distributed import Ranks, unwrap_model
from utils.ranks.spawn import RankError
from utils.sampler import TrainingSampler

# What may differ between a run and its continuation: where things lie and run, how long, and what is said
# below.
FREE_SETTINGS = frozenset(
    "command data_csv data_root path_map sam3_checkpoint medsam2_checkpoint random_init checkpoint_dir init_from "
    "resume dry_run eval_only eval_split device num_workers master_port ddp_backend hang_timeout save_every eval_every "
    "classes plan card_gib checkpoint_blocks".split()
)
# May differ too, but the run then takes another course than it would have; that is said.
NOTED_SETTINGS = frozenset(
    "epochs batch_size accum_steps world_size amp warmup_steps grad_exchange training_rows class_rows compile".split()
)
# Each machine's own; all else must be the same on every rank.
MACHINE_SETTINGS = frozenset(
    "command data_csv data_root path_map sam3_checkpoint medsam2_checkpoint init_from checkpoint_dir device "
    "num_workers master_port hang_timeout".split()
)
DEFAULT_WARMUP_SHARE, DEFAULT_WARMUP_MAX = 0.05, 200


@dataclass
class Progress:
    """How far a run is: `epoch` (0-based, the one in progress) and the samples of it that are done.

    sums, seen, seconds: running totals of this epoch's training losses, samples and time.
    best: {"metric", "value", "epoch"} of the best validation so far; history: a line per finished epoch.
    """

    epoch: int = 0
    samples_done: int = 0
    global_step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    seen: int = 0
    seconds: float = 0.0
    best: dict[str, Any] | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)

    def train_means(self) -> dict[str, float]:
        """Mean over this epoch's samples so far of each loss."""
        return {name: total / max(1, self.seen) for name, total in self.sums.items()}


@dataclass
class TrainingState:
    """A run in progress. `model` may be wrapped for several ranks; `stage` names it in its files.

    config: plain settings of the run. classes: names of the model's outputs. parent: what it was started
    from.
    """

    stage: str
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: LambdaLR
    sampler: TrainingSampler
    config: Mapping[str, Any]
    classes: Sequence[str]
    parent: Mapping[str, Any] | None = None
    progress: Progress = field(default_factory=Progress)

    def checkpoint(self, ranks: Ranks) -> dict[str, Any]:
        """The whole state as one dict; all ranks must call it, since each has its own random numbers."""
        return {
            **self.weights(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "rng": ranks.gather(_random_state()),
            "sampler": {**_sampler_settings(self.sampler), "samples_done": self.progress.samples_done},
            "progress": vars(self.progress),
        }

    def weights(self) -> dict[str, Any]:
        """What is needed to use or fine-tune the model: the checkpoint without what only resuming needs."""
        progress = self.progress
        return {
            "stage": self.stage,
            "epoch": progress.epoch,
            "global_step": progress.global_step,
            "model": unwrap_model(self.model).state_dict(),
            "optimizer": None,
            "scheduler": None,
            "rng": None,
            "sampler": None,
            "metrics": progress.metrics,
            "config": dict(self.config),
            "classes": list(self.classes),
            "parent": self.parent,
        }

    def restore(self, checkpoint: Mapping[str, Any], ranks: Ranks, *, source: str) -> list[str]:
        """Go on from `checkpoint`; returns what is not as it was, in words (empty: the same bits follow).

        Raises CheckpointError for another stage, for settings that make it another run, and for a checkpoint
        of weights alone.
        """
        check_same_run(checkpoint, self.stage, self.config, source)
        if list(checkpoint["classes"]) != list(self.classes):
            raise CheckpointError(
                f"{source} tells apart {checkpoint['classes']}, the run that is to go on {list(self.classes)}: give "
                "its --classes and its data, or another --checkpoint-dir to start anew"
            )
        load_weights(unwrap_model(self.model), checkpoint["model"], source=source)
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.progress = Progress(**checkpoint["progress"])
        self.parent = checkpoint["parent"]
        notes = compare_settings(checkpoint, self.config, self.sampler)
        self._restore_schedule(checkpoint)
        if len(checkpoint["rng"]) == ranks.world_size:
            _set_random_state(checkpoint["rng"][ranks.rank])
        return notes

    def finish_epoch(
        self, metrics: Mapping[str, Any] | None, *, best_metric: str, lower_is_better: bool = False
    ) -> bool:
        """Close the epoch with its validation `metrics` (None: not validated); True if the best so far."""
        progress = self.progress
        if metrics is not None:
            done = {"epoch": progress.epoch + 1, "global_step": progress.global_step}
            progress.metrics = {"split": "val", **done, **metrics}
        is_best = metrics is not None and self._is_better(metrics[best_metric], lower_is_better)
        if is_best:
            value = metrics[best_metric]
            progress.best = {"metric": best_metric, "value": value, "epoch": progress.epoch + 1}
        progress.history.append(self._history_line(metrics or {}))
        progress.epoch += 1
        progress.samples_done, progress.seen, progress.seconds, progress.sums = 0, 0, 0.0, {}
        return is_best

    def _is_better(self, value: float, lower_is_better: bool) -> bool:
        if not math.isfinite(value):
            return False
        best = self.progress.best
        return best is None or (value < best["value"] if lower_is_better else value > best["value"])

    def _history_line(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        progress = self.progress
        return {
            "epoch": progress.epoch + 1,
            "global_step": progress.global_step,
            "lr": max(group["lr"] for group in self.optimizer.param_groups),
            **{f"train_{name}": value for name, value in progress.train_means().items()},
            **{f"val_{name}": value for name, value in metrics.items()},
            "train_samples": progress.seen,
            "train_seconds": round(progress.seconds, 3),
            "train_samples_per_second": round(progress.seen / max(progress.seconds, 1e-9), 3),
            "finished_at": time.strftime("%Y-%m-%dT%H:%M:%S"),
        }

    def _restore_schedule(self, checkpoint: Mapping[str, Any]) -> None:
        self.scheduler.load_state_dict(checkpoint["scheduler"])
        # Steps may be of another size now: the schedule goes by the samples seen.
        sampler, progress = self.sampler, self.progress
        steps_of_epoch = math.ceil(progress.samples_done / sampler.samples_per_step)
        self.scheduler.last_epoch = progress.epoch * sampler.steps_per_epoch + steps_of_epoch
        factor = self.scheduler.lr_lambdas[0](self.scheduler.last_epoch)
        for group, base_lr in zip(self.optimizer.param_groups, self.scheduler.base_lrs, strict=True):
            group["lr"] = base_lr * factor


def build_optimizer(groups: list[dict], device: torch.device) -> torch.optim.AdamW:
    """AdamW over parameter groups with their own `lr` and `weight_decay`; one fused kernel on a GPU."""
    return torch.optim.AdamW(groups, fused=device.type == "cuda")


def build_schedule(optimizer: torch.optim.Optimizer, *, steps: int, warmup_steps: int | None) -> LambdaLR:
    """Linear warm-up, then a cosine to zero at `steps`, one call a step; None warms up 5 %, at most 200."""
    if warmup_steps is None:
        warmup_steps = min(DEFAULT_WARMUP_MAX, round(DEFAULT_WARMUP_SHARE * steps))

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        done = (step - warmup_steps) / max(1, steps - warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    return LambdaLR(optimizer, factor)


def check_same_run(checkpoint: Mapping[str, Any], stage: str, config: Mapping[str, Any], source: str) -> None:
    """CheckpointError unless `checkpoint` can be resumed as `stage` with the settings of `config`."""
    if checkpoint["stage"] != stage:
        raise CheckpointError(f"{source}: a checkpoint of stage {checkpoint['stage']!r}, not of {stage!r}")
    if checkpoint.get("progress") is None or checkpoint.get("optimizer") is None:
        raise CheckpointError(f"{source}: holds weights only, to start from with --init-from, not to resume")
    saved = checkpoint["config"]
    compared = (config.keys() & saved.keys()) - FREE_SETTINGS - NOTED_SETTINGS
    differing = sorted(name for name in compared if saved[name] != config[name])
    if differing:
        flags = {name: "--" + name.replace("_", "-") for name in differing}
        lines = [f"  {flag}: saved {saved[name]}, given {config[name]}" for name, flag in flags.items()]
        raise CheckpointError(
            f"{source} is of a run with other settings:\n" + "\n".join(lines)
            + "\nGive the saved values to go on with it, or another --checkpoint-dir to start anew."
        )


def check_same_everywhere(config: Mapping[str, Any], ranks: Ranks) -> None:
    """RankError unless all ranks, which may have been started by hand on several machines, have the same settings."""
    settings = {name: value for name, value in config.items() if name not in MACHINE_SETTINGS}
    for rank, other in enumerate(ranks.gather(settings)):
        differing = sorted(name for name in settings.keys() | other.keys() if settings.get(name) != other.get(name))
        if differing:
            lines = [f"  {name}: rank {ranks.rank} has {settings.get(name)}, rank {rank} has {other.get(name)}"
                     for name in differing]
            raise RankError(
                "the ranks were started with different settings or data:\n" + "\n".join(lines)
                + "\nGive the same command on every machine, and the same rows (training_rows is their digest)."
            )


def compare_settings(
    checkpoint: Mapping[str, Any], config: Mapping[str, Any], sampler: TrainingSampler
) -> list[str]:
    """What may differ on resuming but changes the course of the run, in words."""
    saved = {**checkpoint["config"], **checkpoint["sampler"]}
    now = {**config, **_sampler_settings(sampler)}
    names = sorted((NOTED_SETTINGS | checkpoint["sampler"].keys()) & now.keys() & saved.keys())
    changed = [name for name in names if saved[name] != now[name]]
    return [f"{name.replace('_', ' ')} {saved[name]} -> {now[name]}" for name in changed]


def digest_of_rows(table) -> str:
    """Eight hex digits of the patient, cine, frame and split of each row of a data frame, in their order.

    Of a cine's path only the file name counts, which stays when a data set is moved.
    """
    digest = hashlib.sha256()
    rows = table[["patient_id", "cine_path", "frame_index", "split"]].itertuples(index=False)
    for patient, cine, frame_index, split in rows:
        # Windows' rules split at both kinds of slash.
        digest.update(repr((str(patient), PureWindowsPath(cine).name, int(frame_index), str(split))).encode())
    return digest.hexdigest()[:8]


def _sampler_settings(sampler: TrainingSampler) -> dict[str, Any]:
    return {
        "rows": sampler.rows,
        "seed": sampler.seed,
        "world_size": sampler.world_size,
        "batch_size": sampler.batch_size,
        "accum_steps": sampler.accum_steps,
        # The order of a sum, and so its last bit, depends on how many threads share it.
        "threads_per_rank": torch.get_num_threads(),
    }


def _random_state() -> dict[str, torch.Tensor]:
    state = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: Mapping[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
