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
from utils.torch_files import read_torch_file

# Raised whenever an older reader could misread a newer file.
FORMAT = 1
REQUIRED_KEYS = ("format", "stage", "epoch", "global_step", "model", "config")
# Beside them in a checkpoint that training can go on from; `progress` says that it is one.
RESUME_KEYS = ("optimizer", "scheduler", "rng", "sampler", "classes", "parent")
# What the entries that others rely on are, where they are there and not None.
KINDS = {
    "stage": str, "epoch": int, "global_step": int, "model": dict, "config": dict, "optimizer": dict, "scheduler": dict,
    "sampler": dict, "metrics": dict, "parent": dict, "progress": dict, "rng": (list, tuple), "classes": (list, tuple),
}
NAMED = ("config", "progress", "sampler")  # dicts whose names become those of Python
COMPARED = ("config", "sampler")  # dicts whose values are compared with those of now
DAMAGED = "It was changed or damaged; copy it again, or go on from another one."


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used; the text names the file, what is wrong and what to do."""


class MissingWeights(FileNotFoundError):
    """Released weights are not at hand; the message is one sentence that says how to get them."""


def save_checkpoint(path: str | Path, checkpoint: Mapping[str, Any]) -> None:
    """Write `checkpoint` to `path` in one step; paths and numpy scalars in it become plain values.

    Raises TypeError naming the entry for a value that `weights_only=True` would refuse, and OSError (old file
    intact) when the disk is full, with how many bytes are needed and how many are free.
    """
    plain = to_plain({"format": FORMAT, **checkpoint})
    write_atomic(path, lambda handle: torch.save(plain, handle), needed_bytes=_count_bytes(plain))


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of this project onto the CPU, without running any code in it.

    Raises CheckpointError when the file is missing, damaged, not a checkpoint of this project, or from a
    newer version.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint. Give a .pth file that a training run wrote.")
    try:
        checkpoint = read_torch_file(path)
    except Exception as error:  # torch raises many types here: zip, pickle, EOF, runtime, unicode ...
        raise CheckpointError(
            f"{path}: cannot be read as a checkpoint ({describe_error(error)}). It "
            f"has {path.stat().st_size} bytes; a copy or download may have been cut short. Copy it again, "
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
    unexpected = sorted(state.keys() - own.keys(), key=str)  # a damaged file's names may be anything
    misshapen = [
        f"{name}: {_describe(state[name])} in the file, {_describe(own[name])} in the model"
        for name in sorted(own.keys() & state.keys())
        if _describe(own[name]) != _describe(state[name])
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
        value = value.item()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {
            to_plain(key, f"a key of {where}"): to_plain(item, f"{where}[{key!r}]") for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return type(value)(to_plain(item, f"{where}[{index}]") for index, item in enumerate(value))
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(f"{where} is a {type(value).__name__}; a checkpoint holds tensors and plain values only")


def _check_layout(path: Path, checkpoint: Any) -> None:
    if not isinstance(checkpoint, dict):
        kind = type(checkpoint).__name__
        raise CheckpointError(f"{path}: holds a {kind}, not a checkpoint of this project.")
    needed = REQUIRED_KEYS + (RESUME_KEYS if checkpoint.get("progress") is not None else ())
    absent = [key for key in needed if key not in checkpoint]
    if absent:
        there = ", ".join(str(key)[:80] for key in list(checkpoint)[:8])
        raise CheckpointError(
            f"{path}: not a checkpoint of this project: no {', '.join(absent)} in it (it has {there}). "
            "SAM 3's own sam3.pt goes with --sam3-checkpoint."
        )
    found = checkpoint["format"]
    if type(found) is int and found > FORMAT:
        raise CheckpointError(
            f"{path}: checkpoint format {found}, of a newer version of this project; this one reads 1 to {FORMAT}. "
            "Update the project."
        )
    if type(found) is not int or found < 1:
        seen = str(found)[:80]
        raise CheckpointError(f"{path}: checkpoint format {seen}; this version reads 1 to {FORMAT}. {DAMAGED}")
    wrong = [key for key, kind in KINDS.items() if not _is_kind(checkpoint, key, kind)]
    wrong += [f"model[{str(name)[:80]!r}]" for name, value in _entries(checkpoint["model"])
              if not (isinstance(name, str) and isinstance(value, torch.Tensor))][:5]
    if wrong:
        raise CheckpointError(f"{path}: its {', '.join(wrong)} are not what a run of this project writes. {DAMAGED}")


def _is_kind(checkpoint: Mapping[str, Any], key: str, kind: type | tuple[type, ...]) -> bool:
    value = checkpoint.get(key)
    if value is None:
        return key not in REQUIRED_KEYS
    if not isinstance(value, kind) or type(value) is bool:
        return False
    if key in COMPARED and any(isinstance(item, torch.Tensor) for item in value.values()):
        return False
    return key not in NAMED or all(isinstance(name, str) for name in value)


def _entries(model: Any) -> list[tuple[Any, Any]]:
    return list(model.items()) if isinstance(model, dict) else []


def _describe(value: Any) -> str:
    """Shape of a tensor; what else there is to say of what cannot be copied into a parameter."""
    if not isinstance(value, torch.Tensor):
        return f"a {type(value).__name__}"
    kind = "" if value.layout == torch.strided and not (value.is_meta or value.is_quantized) else " of another kind"
    return f"{tuple(value.shape)}{kind}"


def _count_bytes(value: Any) -> int:
    """Bytes of all tensors in nested plain `value`, those that share memory once."""
    storages: dict[int, int] = {}
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, torch.Tensor):
            storages[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
        elif isinstance(one, Mapping):
            waiting.extend(one.values())
        elif isinstance(one, (list, tuple)):
            waiting.extend(one)
    return sum(storages.values())


def _list_names(kind: str, names: list[str], limit: int = 12) -> str:
    more = f"\n    ... and {len(names) - limit} more" if len(names) > limit else ""
    return f"  {kind} ({len(names)}):\n    " + "\n    ".join(str(name)[:200] for name in names[:limit]) + more


def describe_error(error: BaseException) -> str:
    """Kind and first line, cut, of an error of torch, whose texts run over pages."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0][:200]}"
