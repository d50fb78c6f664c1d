"""A mask carried through a cine by a contestant that can: MedSAM2, as SAM 2 carries objects through a video.

    masks = propagate_case(contestant, case, prompt, Path("outputs/propagation"))
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from contest.cases import Case
from contest.contestant import Prompt
from contest.pictures import draw_prompt
from utils.drawing import GREEN, mask_overlay, save_gallery, thumbnail
from utils.files import write_atomic

SHOWN = 8  # frames of a cine in its picture
CELL_INCHES = 2.2


class Propagating(Protocol):
    """See `contest.medsam2.Medsam2Contestant.propagate`."""

    name: str

    def propagate(self, frames: np.ndarray, prompt: Prompt, frame_index: int) -> np.ndarray: ...


def propagate_case(contestant: Propagating, case: Case, prompt: Prompt, folder: Path) -> np.ndarray:
    """Carry the mask of a prompt through the case's cine; writes CASE.npy, bool (T, H, W), and CASE.png to `folder`.

    Returns the masks. ValueError for a case that is a single picture.
    """
    if case.read_cine is None:
        raise ValueError(f"{case.name} is a single picture: there is no cine to carry a mask through")
    frames, asked = case.read_cine()
    masks = contestant.propagate(frames, prompt, asked)
    write_atomic(folder / f"{case.name}.npy", lambda handle: np.save(handle, masks, allow_pickle=False))
    numbers = shown_frames(len(frames), asked)
    pictures = [thumbnail(mask_overlay(frames[number], masks[number], GREEN), CELL_INCHES) for number in numbers]
    captions = [f"frame {number}{', asked' * (number == asked)}: {masks[number].sum()} px" for number in numbers]
    save_gallery(
        folder / f"{case.name}.png", [[draw_prompt(frames[asked], prompt), *pictures]], [""] * (len(pictures) + 1),
        [case.name], title=f"{contestant.name}: from frame {asked} through {len(frames)} frames",
        captions=[[f"prompt, frame {asked}", *captions]], legend=None, cell_inches=CELL_INCHES,
    )
    return masks


def shown_frames(count: int, asked: int) -> list[int]:
    """Up to `SHOWN` frames of `count`, evenly, `asked` among them."""
    numbers = np.unique(np.rint(np.linspace(0, count - 1, min(SHOWN, count))).astype(int))
    numbers[np.abs(numbers - asked).argmin()] = asked
    return numbers.tolist()
