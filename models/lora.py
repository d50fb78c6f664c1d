"""LoRA: beside each frozen projection of an image encoder two thin matrices that are trained in its place.

    said = add_lora(model.backbone, rank=16, alpha=32.0)     # in place; the encoder's own weights are frozen
    state = plain_weights(load_checkpoint(path), source=path)    # for a model without adapters: they are merged

A projection W x becomes W x + alpha / rank * B A x, with A (rank, in) random and B (out, rank) zero, so that training
starts from the encoder's own output. Merged, it is one matrix again, W + alpha / rank * B A, and nothing of LoRA is
left but the values. Source: Hu et al., LoRA, 2021 (arXiv 2106.09685); the layers are those of `peft`.

`peft` is imported only to train: it brings `transformers` along, which takes seconds to import. Whoever reads the
checkpoint of a LoRA run reads it merged and needs neither.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import nn

from utils.checkpoint import CheckpointError

ENCODER = "backbone."  # starts the names of the encoder's weights in every model
# Projections of attention and MLP as the packages name them: timm's blocks (SAM 3, TinyViT), Hiera's (SAM 2).
DEFAULT_TARGETS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "mlp.layers.0", "mlp.layers.1")
# How peft names the parts of a layer that it has put in the place of a projection.
BASE, LORA_A, LORA_B = ".base_layer", ".lora_A.default.weight", ".lora_B.default.weight"


class LoraError(ValueError):
    """LoRA that cannot be had as asked for; the text says what can."""


def add_lora(
    encoder: nn.Module, *, rank: int, alpha: float, dropout: float = 0.0, targets: Sequence[str] | None = None
) -> str:
    """Freeze `encoder` and put trained adapters beside its projections, in place; returns what was done, in words.

    encoder: a `models.backbone.Backbone`; its `new_parts`, which nobody has trained, learn in full. rank, alpha:
    of the adapters, above 0. dropout: of their input, 0 to below 1. targets: see `choose_projections`. Raises LoraError
    for targets that the encoder does not have, and without `peft`.
    """
    projections = choose_projections(encoder, targets)
    own = sum(parameter.numel() for parameter in encoder.parameters())
    encoder.requires_grad_(False)
    _inject(encoder, projections, rank=rank, alpha=alpha, dropout=dropout)
    added = sum(parameter.numel() for parameter in encoder.parameters()) - own
    for name, parameter in encoder.named_parameters():
        if encoder.new_parts and name.startswith(encoder.new_parts):
            parameter.requires_grad_(True)
    counts = ", ".join(f"{count} {kind}" for kind, count in Counter(map(_kind, projections)).items())
    return (
        f"LoRA: rank {rank}, alpha {alpha:g} beside {len(projections)} projections ({counts}): {added / 1e6:.3g} M "
        f"numbers are trained, {100 * added / own:.1f} % of the encoder's {own / 1e6:.2f} M, which stay as they are"
    )


def choose_projections(encoder: nn.Module, targets: Sequence[str] | None) -> list[str]:
    """Names of the Linear layers of `encoder` that `targets` mean: whole names, or ends of them at a dot.

    None means its attention and MLP projections, as far as they go by one of `DEFAULT_TARGETS`. Raises LoraError, with
    what there is, for a target that no Linear layer has.
    """
    linear = [name for name, module in encoder.named_modules() if isinstance(module, nn.Linear)]
    wanted = DEFAULT_TARGETS if targets is None else targets
    chosen = [name for name in linear if any(_ends_with(name, target) for target in wanted)]
    idle = [target for target in wanted if not any(_ends_with(name, target) for name in linear)]
    if not chosen or (targets is not None and idle):
        there_is = ", ".join(f"{kind} ({count})" for kind, count in Counter(map(_kind, linear)).items())
        raise LoraError(
            f"--lora-targets: no Linear layer of this backbone is named {' or '.join(idle)}; there are (how many): "
            f"{there_is or 'none'}. Give ends of these names, such as qkv"
        )
    return chosen


def plain_weights(checkpoint: Mapping, *, source: object) -> Mapping[str, torch.Tensor]:
    """Weights of `checkpoint` for a model without adapters: its own, or with the adapters of a LoRA run merged.

    source: its file. Raises CheckpointError for the adapter file of a LoRA run, which has no encoder.
    """
    if checkpoint.get("base") is not None:
        raise CheckpointError(
            f"{source}: holds only what a LoRA run trained, not the encoder, which came from "
            f"{checkpoint['base']['origin']}. Join them: python -m utils.export {source} WHOLE.pth --merge-lora --base "
            "CHECKPOINT (or --sam3-checkpoint sam3.pt)"
        )
    if not checkpoint["config"].get("lora"):
        return checkpoint["model"]
    return merge_lora(checkpoint["model"], scale=scale_of(checkpoint["config"]))


def scale_of(config: Mapping) -> float:
    """The factor of B A in a run with these settings."""
    return config["lora_alpha"] / config["lora_rank"]


def merge_lora(state: Mapping[str, torch.Tensor], *, scale: float) -> dict[str, torch.Tensor]:
    """`state` of a model with adapters as that of one without, which gives the same output but for rounding.

    Merged weights are float32, whatever `state` holds; the others are those of `state`.
    """
    plain = {}
    for name, tensor in state.items():
        if _is_adapter(name):
            continue
        layer = name.removesuffix(BASE + ".weight")
        if layer + LORA_A in state:
            change = state[layer + LORA_B].float() @ state[layer + LORA_A].float()
            tensor = tensor.float() + scale * change
        plain[_plain_name(name)] = tensor
    return plain


def trained_part(checkpoint: Mapping, trained: Collection[str]) -> dict:
    """`checkpoint` of a LoRA run without the frozen encoder: adapters and heads, megabytes.

    trained: names of the parameters that are. Its `base` names what is missing: `digest` of the encoder's weights (see
    `digest_of`), how many `tensors` and `numbers` they are, and their `origin`, in words.
    """
    state = checkpoint["model"]
    frozen = {name: tensor for name, tensor in state.items() if name.startswith(ENCODER) and name not in trained}
    base = {
        "digest": digest_of(frozen), "origin": _origin(checkpoint), "tensors": len(frozen),
        "numbers": sum(tensor.numel() for tensor in frozen.values()),
    }
    return {**checkpoint, "model": {name: state[name] for name in state if name not in frozen}, "base": base}


def join_base(checkpoint: Mapping, base: Mapping[str, torch.Tensor], *, source: object) -> dict:
    """The whole checkpoint of a LoRA run from its `trained_part` and the plain weights `base` of its encoder.

    source: the file of `base`. Raises CheckpointError unless they are, bit for bit, those that the run froze.
    """
    trained = checkpoint["model"]
    frozen = {}
    for name, tensor in base.items():
        layer, _, kind = name.rpartition(".")
        if name.startswith(ENCODER) and name not in trained:
            frozen[f"{layer}{BASE}.{kind}" if layer + LORA_A in trained else name] = tensor
    wanted, found = checkpoint["base"], digest_of(frozen)
    if found != wanted["digest"]:
        raise CheckpointError(
            f"{source}: not the encoder that these adapters were trained beside. Wanted is {wanted['digest']} "
            f"({wanted['tensors']} tensors, from {wanted['origin']}), this one is {found} ({len(frozen)} tensors)"
        )
    rest = {key: value for key, value in checkpoint.items() if key != "base"}
    return {**rest, "model": {**frozen, **trained}}


def digest_of(state: Mapping[str, torch.Tensor]) -> str:
    """Sixteen hex digits of the names, types, shapes and bits of `state`; the same with adapters beside it or not."""
    digest = hashlib.sha256()
    for name in sorted(state, key=_plain_name):
        tensor = state[name]
        digest.update(repr((_plain_name(name), str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _inject(encoder: nn.Module, projections: Sequence[str], *, rank: int, alpha: float, dropout: float) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise LoraError(f"--lora needs the package peft ({error}): pip install -r requirements.txt") from error
    # A pattern of whole names: of a list peft would take names for ends of names, and shorten it when it is long.
    pattern = "|".join(map(re.escape, projections))
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=pattern, bias="none")
    inject_adapter_in_model(config, encoder)


def _ends_with(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _kind(name: str) -> str:
    """What layers of the same kind share: their name within a numbered block."""
    return re.split(r"\.\d+\.", name)[-1]


def _plain_name(name: str) -> str:
    """What a weight is called in a model without adapters."""
    return name.replace(BASE + ".", ".")


def _is_adapter(name: str) -> bool:
    return name.endswith((LORA_A, LORA_B))


def _origin(checkpoint: Mapping) -> str:
    """Where the encoder of a run came from, in words."""
    if checkpoint["parent"] is not None:
        return checkpoint["parent"]["path"]
    config = checkpoint["config"]
    files = [value for name, value in config.items() if name.endswith("_checkpoint") and value is not None]
    return str(files[0]) if files else f"the start of --backbone {config['backbone']} with --seed {config['seed']}"
