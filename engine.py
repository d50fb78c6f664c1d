"""The only inner loops: `train_one_epoch` and `evaluate`. They know no stage, only functions that a stage
gives them.

    compute_loss(model, batch) -> {"loss": (B,), ...}
        float tensors, one value a sample;
        "loss" is what is minimised, the others are shown and recorded
    score_batch(model, batch) -> [{"row": int, ...}, ...]
        one record of plain numbers a sample

A batch is a dict with `row`, int64 (B,), the samples' positions in the data set.
"""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from utils.interrupt import Interrupted, StopRequest, exit_code_of
from utils.ranks.distributed import Ranks, unwrap_model
from utils.sampler import MicroBatch
from utils.training_state import TrainingState

Batch = dict[str, Any]
ComputeLoss = Callable[[torch.nn.Module, Batch], dict[str, torch.Tensor]]
ScoreBatch = Callable[[torch.nn.Module, Batch], list[dict[str, float]]]
DRY_RUN_BATCHES = 2


class NonFiniteError(RuntimeError):
    """A loss or gradient that is not finite; the text names the samples. The weights are untouched."""


def train_one_epoch(
    state: TrainingState,
    loader: DataLoader,
    compute_loss: ComputeLoss,
    *,
    ranks: Ranks,
    device: torch.device,
    amp: str,
    stop: StopRequest,
    describe: Callable[[int], str],
    clip: float = 1.0,
    save: Callable[[], None] | None = None,
    save_every: int = 0,
    max_steps: int | None = None,
) -> dict[str, float]:
    """Train on what is left of the epoch that `state.progress` is in; returns the epoch's mean of each loss.

    The loss of an optimizer step is the mean over its samples on all ranks and micro-batches, so neither the
    number of ranks nor accumulation nor an uneven last batch changes the gradient. save: called on all ranks
    every `save_every` steps and before Interrupted is raised. describe(row) names a sample. Raises
    Interrupted when `stop` was asked on any rank, NonFiniteError on all ranks.
    """
    sampler, progress = loader.batch_sampler, state.progress
    sampler.start(progress.epoch, progress.samples_done)
    state.model.train()
    pending: list[tuple[list[int], dict[str, torch.Tensor], bool]] = []
    steps = 0
    with _progress_bar(state, ranks) as bar, ranks.at_work():
        began = time.perf_counter()
        for micro, batch in zip(sampler.micro_batches(), loader, strict=True):
            losses = _backward(state.model, batch, micro, compute_loss, ranks=ranks, device=device, amp=amp)
            pending.append((batch["row"].tolist(), losses, micro.real))
            if not micro.closes_step:
                continue
            if steps == 0:
                check_all_take_part(state.model)
            stop_signal = _optimizer_step(
                state, pending, ranks=ranks, clip=clip, stop=stop, describe=describe
            )
            progress.samples_done += micro.step_samples
            progress.seconds += time.perf_counter() - began
            began, pending, steps = time.perf_counter(), [], steps + 1
            _show(bar, state)
            if stop_signal:
                with ranks.at_work(False):
                    _save_and_stop(save, stop_signal, f"epoch {progress.epoch + 1}, step {progress.global_step}")
            if save is not None and save_every and progress.global_step % save_every == 0:
                with ranks.at_work(False):  # a slow disk is waited for
                    save()
            if steps == max_steps:
                break
    if max_steps is None and progress.seen != sampler.rows:
        seen = f"epoch {progress.epoch + 1}: {progress.seen} samples seen of {sampler.rows}"
        warnings.warn(seen, stacklevel=2)
    return progress.train_means()


@torch.no_grad()
def evaluate(
    model: torch.nn.Module,
    loader: DataLoader,
    score_batch: ScoreBatch,
    *,
    ranks: Ranks,
    device: torch.device,
    amp: str,
    stop: StopRequest,
    save: Callable[[], None] | None = None,
    title: str = "validation",
) -> list[dict[str, float]]:
    """Records of every row of the data set, in the order of rows, the same on every rank and for any number
    of ranks.

    save: called on all ranks before Interrupted is raised. Raises RuntimeError when a row is missing or there
    twice.
    """
    model = unwrap_model(model).eval()
    records: list[dict[str, float]] = []
    with ranks.at_work():
        for batch in tqdm(loader, desc=title, unit="batch", disable=not ranks.is_main, leave=False):
            if stop.signal_number is not None:
                break
            with torch.autocast(device.type, torch.bfloat16, enabled=amp == "bf16"):
                records.extend(score_batch(model, _to_device(batch, device)))
        gathered = ranks.gather((stop.signal_number, records))
    asked = next((number for number, _ in gathered if number is not None), None)
    if asked is not None:
        _save_and_stop(save, asked, title)
    merged = sorted((record for _, part in gathered for record in part), key=lambda record: record["row"])
    rows = [record["row"] for record in merged]
    if loader.batch_sampler.complete and rows != list(range(loader.batch_sampler.rows)):
        last = loader.batch_sampler.rows - 1
        raise RuntimeError(f"{title} saw rows {rows[:20]}... instead of 0 to {last} once each")
    return merged


def check_all_take_part(model: torch.nn.Module) -> None:
    """After a backward pass: raise RuntimeError naming trainable parameters that the loss does not depend on.

    Ranks would wait for their gradients, or silently train without averaging them.
    """
    idle = [
        name for name, parameter in unwrap_model(model).named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
    if idle:
        raise RuntimeError(
            f"{len(idle)} trainable parameters take no part in the loss: {', '.join(idle[:10])}"
            f"{' ...' if len(idle) > 10 else ''}. Use them in compute_loss, or set requires_grad_(False)."
        )


def _backward(model, batch: Batch, micro: MicroBatch, compute_loss: ComputeLoss, *, ranks, device, amp):
    """Add this micro-batch's share of the step's gradient; returns its per-sample losses, detached."""
    wait_to_average = hasattr(model, "no_sync") and not micro.closes_step
    with model.no_sync() if wait_to_average else contextlib.nullcontext():
        with torch.autocast(device.type, torch.bfloat16, enabled=amp == "bf16"):
            losses = compute_loss(model, _to_device(batch, device))
        samples = len(batch["row"])
        for name, value in losses.items():
            if value.shape != (samples,):
                seen = tuple(value.shape)
                raise ValueError(f"compute_loss: {name} has shape {seen}, one value a sample is ({samples},)")
        # DDP averages over ranks; times world_size makes it the sum that the step's mean needs.
        weight = ranks.world_size / micro.step_samples if micro.real else 0.0
        (losses["loss"].float().sum() * weight).backward()
    return {name: value.detach().float() for name, value in losses.items()}


def _optimizer_step(state: TrainingState, pending, *, ranks: Ranks, clip: float, stop, describe) -> int:
    """Step on the gradients of `pending` micro-batches and add up their losses; returns a signal number or 0.

    One small exchange carries what all ranks must agree on: that everything is finite, and whether to stop.
    """
    parameters = [parameter for group in state.optimizer.param_groups for parameter in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(parameters, clip if clip > 0 else math.inf)
    names = list(pending[0][1])
    values = torch.cat([torch.stack([losses[name] for name in names]) for _, losses, _ in pending], dim=1)
    # One copy from the device a step: it is where a GPU is waited for.
    numbers = torch.cat([values.double().flatten(), norm.double().reshape(1)]).cpu()
    real = torch.tensor([is_real for rows, _, is_real in pending for _ in rows])
    sums = numbers[:-1].view(len(names), -1)[:, real].sum(dim=1).tolist()
    signal_number = stop.signal_number or 0
    is_bad = not all(math.isfinite(value) for value in sums)
    bad, seen, asked, *totals = ranks.sum([is_bad, int(real.sum()), signal_number > 0, *sums])
    if bad or not torch.isfinite(numbers[-1]):
        _raise_non_finite(pending, names, float(numbers[-1]), bool(bad), ranks, describe)
    state.optimizer.step()
    state.scheduler.step()
    state.optimizer.zero_grad(set_to_none=True)
    progress = state.progress
    progress.global_step += 1
    progress.seen += int(seen)
    for name, total in zip(names, totals, strict=True):
        progress.sums[name] = progress.sums.get(name, 0.0) + total
    return max(ranks.gather(signal_number)) if asked else 0


def _raise_non_finite(pending, names: list[str], norm: float, in_loss: bool, ranks: Ranks, describe) -> None:
    """Raise the same NonFiniteError on all ranks, naming the samples whose losses, or whose step, it was."""
    samples = []
    for rows, losses, real in pending:
        for position, row in enumerate(rows):
            values = {name: float(losses[name][position]) for name in names}
            if real and not (in_loss and all(math.isfinite(value) for value in values.values())):
                shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
                samples.append(f"  rank {ranks.rank}: {describe(row)}: {shown}")
    named = "\n".join(line for part in ranks.gather(samples) for line in part)
    what = "a loss is" if in_loss else f"the losses are finite, but the norm of their gradient is {norm}:"
    raise NonFiniteError(
        f"{what} not finite; training stopped before the step. Samples:\n{named}\n"
        "Look at these pictures and labels. When they are sound, a lower --lr, a longer --warmup-steps or "
        "--amp off help."
    )


def _save_and_stop(save: Callable[[], None] | None, signal_number: int, where: str) -> None:
    if save is not None:
        save()
    saved = "saved; go on with --resume" if save is not None else "nothing to save"
    raise Interrupted(f"stopped at {where}: {saved}", exit_code_of(signal_number))


def _to_device(batch: Batch, device: torch.device) -> Batch:
    return {
        key: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        for key, value in batch.items()
    }


def _progress_bar(state: TrainingState, ranks: Ranks) -> tqdm:
    done = math.ceil(state.progress.samples_done / state.sampler.samples_per_step)
    title, steps = f"epoch {state.progress.epoch + 1}", state.sampler.steps_per_epoch
    return tqdm(total=steps, initial=done, desc=title, unit="step", disable=not ranks.is_main)


def _show(bar: tqdm, state: TrainingState) -> None:
    means = {name: f"{value:.4f}" for name, value in state.progress.train_means().items()}
    lr = max(group["lr"] for group in state.optimizer.param_groups)
    bar.set_postfix(means | {"lr": f"{lr:.2e}"}, refresh=False)
    bar.update()
