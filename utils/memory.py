"""How much memory a training step takes, told beforehand: the step is done with tensors that hold nothing.

    memory = measure_step(model, batch, compute_loss, amp="bf16", keeps_gradients=False)    # seconds, at any size
    memory.peak, memory.weights, memory.gradients, memory.optimizer, memory.activations    # bytes

`FakeTensorMode` of torch runs forward and backward pass on shapes and types alone, and `MemoryMeter` adds up what is
alive at each moment, exactly as an allocator would have to hold it. What it does not see on a GPU: the context of CUDA,
workspaces of its libraries (tens of MB) and what the allocator loses to gaps; `usable_bytes` leaves room for these.
"""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GIB = 2**30
# What a card cannot give to tensors: CUDA's context and its libraries' workspaces, a screen, gaps in the allocator.
RESERVED_BYTES, GAPS_SHARE = 1.0 * GIB, 0.05


class StepMemory(NamedTuple):
    """Bytes of a training step. weights: with buffers. gradients: in DDP's buckets, where there are several ranks.
    optimizer: AdamW's two numbers for each that is trained. activations: what the forward pass leaves for the backward
    pass, autocast's copies of weights and the batch included. peak: the most that is alive at one time."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    peak: int


class MemoryMeter(TorchDispatchMode):
    """Within it, `now` and `peak` are the bytes of the tensors that were made or given to `add` and are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.add(tree_leaves(result))
        return result

    def add(self, values: Iterable[Any]) -> None:
        """Count the storages of the tensors among `values`, each once, for as long as they live."""
        for value in values:
            if isinstance(value, torch.Tensor) and (key := value.untyped_storage()._cdata) not in self._alive:
                storage = value.untyped_storage()
                size = storage.nbytes()
                if isinstance(size, int):  # not of an unknown number of boxes
                    self.now += size
                    self.peak = max(self.peak, self.now)
                    self._alive[key] = weakref.ref(storage, self._forget(key, size))

    def _forget(self, key: int, size: int) -> Callable[[weakref.ref], None]:
        def forget(_) -> None:
            del self._alive[key]
            self.now -= size

        return forget


def measure_step(
    model: nn.Module, batch: Mapping[str, Any], compute_loss: Callable, *, amp: str, keeps_gradients: bool
) -> StepMemory:
    """Memory of a later step of training `model`, which stays as it is, on batches like `batch`.

    compute_loss: as in engine.py. amp: "bf16" or "off". keeps_gradients: they are there before the step too, as with
    several ranks, whose buckets stay, and with several passes a step.
    """
    # A shape environment, because losses choose boxes by their values: how many is not known, and next to nothing.
    # Imported here: it takes half a second, and most runs plan nothing.
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    mode, meter = FakeTensorMode(shape_env=ShapeEnv(), static_shapes=True), MemoryMeter()
    hollow = hollow_copy(model, mode).train()
    trained = [parameter for parameter in hollow.parameters() if parameter.requires_grad]
    with torch.random.fork_rng(), mode, meter:  # checkpointed blocks set the generator's state
        meter.add([*hollow.parameters(), *hollow.buffers()])
        weights = meter.now
        moments = [torch.empty_like(parameter) for parameter in trained for _ in range(2)]
        optimizer = sum(moment.untyped_storage().nbytes() for moment in moments)
        gradients = optimizer // 2
        if keeps_gradients:
            for parameter in trained:
                parameter.grad = torch.empty_like(parameter)
        before = meter.now
        fake_batch = {
            key: torch.empty(value.shape, dtype=value.dtype) if isinstance(value, torch.Tensor) else value
            for key, value in batch.items()
        }
        with torch.autocast("cpu", torch.bfloat16, enabled=amp == "bf16"):
            losses = compute_loss(hollow, fake_batch)
        activations = meter.now - before
        losses["loss"].float().sum().backward()
    return StepMemory(weights, gradients, optimizer, activations, meter.peak)


def hollow_copy(model: nn.Module, mode: TorchDispatchMode) -> nn.Module:
    """A copy of `model`, on the CPU, whose parameters and buffers have shapes and types and no values."""
    def hollow(tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype)

    with mode:
        memo: dict[int, torch.Tensor] = {id(buffer): hollow(buffer) for buffer in model.buffers()}
        for parameter in model.parameters():
            memo[id(parameter)] = nn.Parameter(hollow(parameter), requires_grad=parameter.requires_grad)
    return copy.deepcopy(model, memo)


def usable_bytes(card_bytes: float) -> float:
    """What tensors can have of a card with `card_bytes`."""
    return (1 - GAPS_SHARE) * card_bytes - RESERVED_BYTES


def fewest_checkpointed(peak_of: Callable[[int], int], blocks: int, usable: float) -> tuple[int, int]:
    """(blocks to checkpoint, peak bytes): the fewest of `blocks` with which the peak stays below `usable`.

    peak_of: bytes with so many checkpointed; falls, nearly as a line, and takes seconds. All of them, and a peak above
    `usable`, where nothing fits.
    """
    least = peak_of(blocks)
    if least > usable or blocks == 0:
        return blocks, least
    most = peak_of(0)
    if most <= usable:
        return 0, most
    number = math.ceil(blocks * (most - usable) / (most - least))
    while number < blocks and (peak := peak_of(number)) > usable:
        number += 1
    return (number, peak) if number < blocks else (blocks, least)
