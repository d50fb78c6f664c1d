"""Checkpoints: one dict of tensors and plain values that `torch.load(path, weights_only=True)` opens.

Keys: `format`, `stage`, `epoch`, `global_step`, `model`, `optimizer`, `scheduler`, `rng`, `sampler`,
`metrics`, `config`, `classes`, `parent`. Names in `model` carry no `module.`. A checkpoint never holds code,
so loading one from elsewhere runs none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.files import write_atomic

# Raised whenever an older reader could misread a newer file.
FORMAT = 1
REQUIRED_KEYS = ("format", "stage", "epoch", "global_step", "model", "config")


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used; the text names the file, what is wrong and what to do."""


class MissingWeights(FileNotFoundError):
    """Released weights are not at hand; the message is one sentence that says how to get them."""


def save_checkpoint(path: str | Path, checkpoint: Mapping[str, Any]) -> None:
    """Write `checkpoint` to `path` in one step; paths and numpy scalars in it become plain values.

    Raises TypeError naming the entry for a value that `weights_only=True` would refuse, and OSError (old file
    intact) when the disk is full.
    """
    plain = to_plain({"format": FORMAT, **checkpoint})
    write_atomic(path, lambda handle: torch.save(plain, handle))


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of this project onto the CPU, without running any code in it.

    Raises CheckpointError when the file is missing, damaged, not a checkpoint of this project, or from a
    newer version.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint. Give a .pth file that a training run wrote.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types here: zip, pickle, EOF, runtime, unicode ...
        raise CheckpointError(
            f"{path}: cannot be read as a checkpoint ({type(error).__name__}: {_first_line(error)}). "
            f"It has {path.stat().st_size} bytes; a copy or download may have been cut short. Copy it again, "
            "or go on from another one (the best checkpoint beside it, with --init-from)."
        ) from error
    _check_layout(path, checkpoint)
    return checkpoint


def load_weights(model: torch.nn.Module, state: Mapping[str, torch.Tensor], *, source: str | Path) -> None:
    """Copy every tensor of `state` into `model`; all names and shapes must agree, or nothing is loaded.

    Raises CheckpointError naming the missing, unexpected and misshapen tensors.
    """
    own = model.state_dict()
    missing = sorted(own.keys() - state.keys())
    unexpected = sorted(state.keys() - own.keys())
    misshapen = [
        f"{name}: {tuple(state[name].shape)} in the file, {tuple(own[name].shape)} in the model"
        for name in sorted(own.keys() & state.keys())
        if own[name].shape != state[name].shape
    ]
    if missing or unexpected or misshapen:
        lists = {"missing": missing, "unexpected": unexpected, "shape": misshapen}
        report = "\n".join(_list_names(kind, names) for kind, names in lists.items() if names)
        raise CheckpointError(
            f"{source}: its weights do not fit this model; nothing was loaded.\n{report}"
            "\nGive the --backbone (and other model flags) that the checkpoint was trained with."
        )
    model.load_state_dict(state)


def load_part_of_weights(
    model: torch.nn.Module,
    state: Mapping[str, torch.Tensor],
    *,
    source: str | Path,
    new: tuple[str, ...],
    left_behind: tuple[str, ...] = (),
) -> str:
    """Copy `state` of an earlier stage into `model`, whose parameters that start with `new` keep their start.

    left_behind: starts of names in `state` that this model has no use for. Every other name and shape must
    agree, or CheckpointError names those that do not and nothing is loaded. Returns what came over, in words.
    """
    own = model.state_dict()
    fresh = {name: tensor for name, tensor in own.items() if name.startswith(new)}
    left = {name for name in state if left_behind and name.startswith(left_behind)}
    handed = {name: tensor for name, tensor in state.items() if name not in left}
    load_weights(model, {**fresh, **handed}, source=source)
    lines = [f"hand-over from {source}: {_count_by_part(handed)} came over", f"  new: {_count_by_part(fresh)}"]
    if left:
        lines.append(f"  left behind: {_count_by_part({name: state[name] for name in left})}")
    return "\n".join(lines)


def _count_by_part(state: Mapping[str, torch.Tensor]) -> str:
    """`12 tensors, 0.3 M numbers (fusion 4, view_encoder 8)`."""
    parts = Counter(name.split(".")[0] for name in state)
    numbers = sum(tensor.numel() for tensor in state.values())
    counts = ", ".join(f"{part} {count}" for part, count in parts.items())
    return f"{len(state)} tensors, {numbers / 1e6:.2f} M numbers ({counts or 'none'})"


def to_plain(value: Any, where: str = "checkpoint") -> Any:
    """Copy of nested `value` of tensors, None, bool, int, float, str, list, tuple and dict only.

    Paths become str, numpy scalars Python numbers, numpy arrays tensors. Raises TypeError naming the entry
    else.
    """
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {key: to_plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(to_plain(item, f"{where}[{index}]") for index, item in enumerate(value))
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(f"{where} is a {type(value).__name__}; a checkpoint holds tensors and plain values only")


def _check_layout(path: Path, checkpoint: Any) -> None:
    if not isinstance(checkpoint, dict):
        kind = type(checkpoint).__name__
        raise CheckpointError(f"{path}: holds a {kind}, not a checkpoint of this project.")
    absent = [key for key in REQUIRED_KEYS if key not in checkpoint]
    if absent:
        raise CheckpointError(
            f"{path}: not a checkpoint of this project: no {', '.join(absent)} in it (it has "
            f"{', '.join(map(str, list(checkpoint)[:8]))}). SAM 3's own sam3.pt goes with --sam3-checkpoint."
        )
    if not isinstance(checkpoint["format"], int) or not 1 <= checkpoint["format"] <= FORMAT:
        raise CheckpointError(
            f"{path}: checkpoint format {checkpoint['format']!r}; this version reads 1 to {FORMAT}. "
            "Update the project."
        )


def _list_names(kind: str, names: list[str], limit: int = 12) -> str:
    more = f"\n    ... and {len(names) - limit} more" if len(names) > limit else ""
    return f"  {kind} ({len(names)}):\n    " + "\n    ".join(names[:limit]) + more


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:200]
