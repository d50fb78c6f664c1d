"""How a script begins and ends: what it says first, and its exit code."""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import sys
from collections.abc import Iterator

import torch

from data.errors import DataError
from engine import NonFiniteError
from utils.checkpoint import CheckpointError
from utils.distributed import RankError, Ranks, unwrap_model
from utils.interrupt import Interrupted
from utils.loader import RowError
from utils.training_state import TrainingState

# Their texts say what is wrong and what to do; a traceback would only hide that.
EXPLAINED_ERRORS = (DataError, CheckpointError, RankError, RowError, NonFiniteError, OSError)


@contextlib.contextmanager
def clean_exit() -> Iterator[None]:
    """Leave with 0 when all went well, 1 and the text of an error that explains itself, 130 or 143 when stopped."""
    try:
        yield
    except Interrupted as interrupted:
        print(interrupted, file=sys.stderr)
        sys.exit(interrupted.exit_code)
    except EXPLAINED_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def command_line() -> str:
    """The command that started this process, as it can be pasted into a shell."""
    return subprocess.list2cmdline(sys.argv) if sys.platform == "win32" else shlex.join(sys.argv)


def describe_start(
    state: TrainingState, ranks: Ranks, device: torch.device, amp: str, amp_reason: str, tables: dict, epochs: int
) -> str:
    """What is about to be trained, on what, with what: the lines to read before walking away.

    tables: split name to a table with `patient_id`.
    """
    parameters = list(unwrap_model(state.model).parameters())
    total, trained = (sum(p.numel() for p in some) for some in (parameters, filter(lambda p: p.requires_grad, parameters)))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads each"
    data = ", ".join(f"{split} {len(table)} rows of {table['patient_id'].nunique()} patients" for split, table in tables.items())
    sampler = state.sampler
    return "\n".join([
        f"device: {device.type} ({name}), {ranks.world_size} process{'es' * (ranks.world_size > 1)}, amp {amp} ({amp_reason})",
        f"model: {total / 1e6:.2f} M parameters, {trained / 1e6:.2f} M of them trained",
        f"data: {data}",
        f"training: {epochs} epochs of {sampler.steps_per_epoch} steps; effective batch {sampler.samples_per_step} = "
        f"{ranks.world_size} processes x {sampler.batch_size} samples x {sampler.accum_steps} accumulation",
    ])
