"""How a script begins and ends: what it says first, and its exit code."""

from __future__ import annotations

import contextlib
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

import torch

from data.errors import DataError
from engine import NonFiniteError
from models.lora import LoraError
from utils.checkpoint import CheckpointError
from utils.interrupt import Interrupted, exit_code_of
from utils.loader import RowError
from utils.ranks.distributed import Ranks, unwrap_model
from utils.ranks.spawn import RankError
from utils.training_state import TrainingState

# Their texts say what is wrong and what to do; a traceback would only hide that.
EXPLAINED_ERRORS = (DataError, CheckpointError, RankError, RowError, NonFiniteError, LoraError, OSError)
# How torch says that memory is all: of a GPU by an error of its own, of a CPU in the text of a plain one.
OUT_OF_MEMORY = (
    "OutOfMemoryError", "DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory",
)
MORE_MEMORY = (
    "Memory is all. Add --plan to the command: it says which --checkpoint-blocks, --batch-size with --accum-steps, "
    "--image-size or --lora fit. A run that has saved goes on with --resume and more --checkpoint-blocks, and takes "
    "the same course."
)


@contextlib.contextmanager
def clean_exit(stopped: str = "stopped", also: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Leave with 0, with 1 and the text of an error that explains itself, or with 130 or 143 when stopped.

    2 is left to argparse: a wrong command line. stopped: what Ctrl-C outside training is answered with; also:
    errors that explain themselves in this script, beside `EXPLAINED_ERRORS`.
    """
    try:
        yield
    except Interrupted as interrupted:
        print(interrupted, file=sys.stderr)
        sys.exit(interrupted.exit_code)
    except KeyboardInterrupt:  # outside training, which answers it with Interrupted
        print(stopped, file=sys.stderr)
        sys.exit(exit_code_of(signal.SIGINT))
    except (*EXPLAINED_ERRORS, *also) as error:
        print(f"error: {error}", file=sys.stderr)
        if is_out_of_memory(error):
            print(MORE_MEMORY, file=sys.stderr)
        sys.exit(1)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        print(f"error: {error}\n{MORE_MEMORY}", file=sys.stderr)
        sys.exit(1)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this error, or that of a rank that it tells of, is of memory that torch could not get."""
    told = f"{type(error).__name__}: {error}"
    return any(sign in told for sign in OUT_OF_MEMORY)


def command_line() -> str:
    """The command that started this process, as it can be pasted into a shell."""
    return subprocess.list2cmdline(sys.argv) if sys.platform == "win32" else shlex.join(sys.argv)


def describe_start(
    state: TrainingState,
    ranks: Ranks,
    device: torch.device,
    amp: str,
    amp_reason: str,
    tables: dict,
    epochs: int,
    weights: str = "",
) -> str:
    """What is about to be trained, on what, with what: the lines to read before walking away.

    tables: split name to a table with `patient_id`. weights: what became of a weights file, in words.
    """
    parameters = list(unwrap_model(state.model).parameters())
    total = sum(parameter.numel() for parameter in parameters)
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    trained = sum(parameter.numel() for parameter in learning)
    # AdamW keeps two numbers for each that it trains.
    optimizer_bytes = sum(2 * parameter.numel() * parameter.element_size() for parameter in learning)
    threads = f"{torch.get_num_threads()} threads each"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else threads
    patients = {split: table["patient_id"].nunique() for split, table in tables.items()}
    data = [f"{split} {len(tables[split])} rows of {number} patients" for split, number in patients.items()]
    sampler, processes = state.sampler, f"{ranks.world_size} process{'es' if ranks.world_size > 1 else ''}"
    return "\n".join([
        f"device: {device.type} ({name}), {processes}, amp {amp} ({amp_reason})",
        f"model: {total / 1e6:.2f} M parameters, {trained / 1e6:.2f} M of them trained ({len(learning)} of "
        f"{len(parameters)} tensors); optimizer state {optimizer_bytes / 1e6:.1f} MB",
        *([weights] if weights else []),
        f"data: {', '.join(data)}",
        f"training: {epochs} epochs of {sampler.steps_per_epoch} steps; effective batch "
        f"{sampler.samples_per_step} = {processes} x {sampler.batch_size} samples x "
        f"{sampler.accum_steps} passes",
    ])


def describe_weights(load_report: object | None, parent: Mapping | None, image_size: int) -> str:
    """Where the first weights came from, in words; empty for a random start.

    load_report: of a weights file that is no checkpoint of this project. parent: of one that is: `path`,
    `epoch`, `image_size`, `handed_over` where it is of an earlier stage, and `merged_lora` where it is of a LoRA run;
    said too when the training to come sees pictures of another size.
    """
    if parent is None:
        return str(load_report or "")
    note = parent.get("handed_over") or f"weights: {parent['path']}, epoch {parent['epoch']}"
    if parent.get("merged_lora"):
        note += "\n  it is of a LoRA run: its adapters were merged into the backbone"
    if parent["image_size"] == image_size:
        return note
    return f"{note}, trained at --image-size {parent['image_size']}, going on at {image_size}"


def describe_epoch(line: Mapping, shown: Sequence[str], is_best: bool) -> str:
    """One line of an epoch that has just been finished: those of the fields `shown` that its history has."""
    values = "  ".join(f"{name} {line[name]:.4f}" for name in shown if name in line)
    return f"epoch {line['epoch']}: {values}{'  (best so far)' if is_best else ''}"
