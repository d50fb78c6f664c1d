"""Rank 0's nested values on all ranks, tensor by tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class _Place:
    """Stands for a tensor while the values around it travel."""

    number: int
    shape: tuple[int, ...]
    dtype: torch.dtype


def share_from_main(value: Any, rank: int) -> Any:
    """Rank 0's `value` on every rank: nested dicts, lists and tuples of CPU tensors and plain values.

    All ranks of the group must call it; what others than rank 0 give is not looked at.
    """
    device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
    tensors: list[torch.Tensor] = []
    sent = [_take_out(value, tensors) if rank == 0 else None]
    dist.broadcast_object_list(sent, src=0, device=device)
    places: list[_Place] = []
    _walk(sent[0], _Place, places.append)
    for place in places:
        tensor = tensors[place.number] if rank == 0 else torch.empty(place.shape, dtype=place.dtype)
        if rank != 0:
            tensors.append(tensor)
        if tensor.numel():
            _broadcast(tensor, device)
    return value if rank == 0 else _walk(sent[0], _Place, lambda place: tensors[place.number])


def _take_out(value: Any, tensors: list[torch.Tensor]) -> Any:
    def replace(tensor: torch.Tensor) -> _Place:
        tensors.append(tensor)
        return _Place(len(tensors) - 1, tuple(tensor.shape), tensor.dtype)

    return _walk(value, torch.Tensor, replace)


def _walk(value: Any, kind: type, replace) -> Any:
    """`value` with every leaf of `kind` replaced, in the same order on every rank."""
    if isinstance(value, kind):
        return replace(value)
    if isinstance(value, dict):
        return {key: _walk(item, kind, replace) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_walk(item, kind, replace) for item in value)
    return value


def _broadcast(tensor: torch.Tensor, device: torch.device) -> None:
    """Into `tensor`, of any dtype, as bytes: not every backend knows every dtype."""
    sent = tensor.contiguous().to(device)
    dist.broadcast(sent.reshape(-1).view(torch.uint8), src=0)
    if sent.data_ptr() != tensor.data_ptr():
        tensor.copy_(sent)
