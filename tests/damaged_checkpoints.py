"""Checkpoints and released weights damaged by their structure, for `tests/fuzzed_files.py`."""

from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path

import torch
from hypothesis import strategies as st

from models.sam3_weights import VISION_PREFIX
from tests.damaged_text import VALUES
from tests.fuzzing import EDITS, SOMETIMES, damaged_bytes

SHAPES_OF_MODEL = {"w": (3, 2), "b": (3,)}


def tiny_checkpoint() -> dict:
    """What `save_checkpoint` is given in these tests: small, with every kind of value that one has."""
    tensors = {name: torch.ones(shape) for name, shape in SHAPES_OF_MODEL.items()}
    return {"stage": "tiny", "epoch": 1, "global_step": 2, "model": tensors, "config": {"lr": 0.1, "backbone": "x"},
            "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
            "metrics": {"dice": 0.5}, "classes": ["vessel"], "parent": None}


@st.composite
def damaged_checkpoint(draw, make, folder: Path) -> bytes:
    """With other entries, or with members of its archive that were damaged, dropped, renamed, packed or repeated."""
    content, target = make(), folder / "made.pth"
    if draw(st.booleans()):
        for _ in range(draw(EDITS)):
            content = _damage_entry(draw, content)
    torch.save(content, target)
    with zipfile.ZipFile(target) as archive:
        members = [(one.filename, archive.read(one), zipfile.ZIP_STORED) for one in archive.infolist()]
    for _ in range(draw(st.integers(0, 2))):
        number = draw(st.integers(0, len(members) - 1))
        name, data, packing = members[number]
        how = draw(st.sampled_from(("data", "data", "data", "drop", "name", "pack", "repeat")))
        if how == "data" and data:
            members[number] = name, draw(damaged_bytes(data)), packing
        elif how == "drop" and len(members) > 1:
            del members[number]
        elif how == "name":
            other = draw(st.sampled_from(("made/data/0", "made/constants.pkl", "../x", "made/", "x")))
            members[number] = other, data, packing
        elif how == "pack":
            members[number] = name, data, zipfile.ZIP_DEFLATED
        else:
            members.append(members[number])
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that two members have one name
        for name, data, packing in members:
            archive.writestr(name, data, packing)
    raw = stream.getvalue()
    return draw(damaged_bytes(raw)) if draw(SOMETIMES) else raw


def _damage_entry(draw, value):
    if not isinstance(value, dict) or not value or draw(st.integers(0, 9)) == 0:
        tensors = [torch.zeros(0), torch.ones(2, 2).to_sparse()]
        return draw(st.sampled_from([one for one in VALUES if one != "\ud800"] + tensors))
    key = draw(st.sampled_from(sorted(value, key=str)))
    how = draw(st.sampled_from(("into", "into", "drop", "name")))
    changed = dict(value)
    if how == "into":
        changed[key] = _damage_entry(draw, value[key])
    else:
        del changed[key]
    if how == "name":
        changed[draw(st.sampled_from((0, 1.5, None, "module.w", (1, 2))))] = value[key]
    return changed


class TinyModel(torch.nn.Module):
    """Parameters of `SHAPES_OF_MODEL`."""

    def __init__(self) -> None:
        super().__init__()
        for name, shape in SHAPES_OF_MODEL.items():
            setattr(self, name, torch.nn.Parameter(torch.zeros(shape)))


def official_weights() -> dict:
    """Tensors as in an official `sam3.pt`, of `TinyModel`."""
    return {VISION_PREFIX + name: torch.ones(shape) for name, shape in SHAPES_OF_MODEL.items()}
