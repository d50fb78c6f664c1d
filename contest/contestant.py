"""What a contestant is: a frame and a prompt in, a mask and a score out.

    answer = contestant.segment(frame, Prompt(box_px=(120, 80, 300, 260)))
    answer.mask, answer.score
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

NO_VIEW = (float("nan"), float("nan"))


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What is asked for in a frame; what is None is not said.

    text: such as "coronary artery". box_px: (x0, y0, x1, y1) px of the frame. points_px: ((x, y), ...) px of the frame,
    with point_labels, as many: 1 on what is asked for, 0 beside it. Pixel centres are at integers.
    """

    text: str | None = None
    box_px: tuple[float, float, float, float] | None = None
    points_px: tuple[tuple[float, float], ...] | None = None
    point_labels: tuple[int, ...] | None = None

    def __post_init__(self):
        if len(self.points_px or ()) != len(self.point_labels or ()):
            raise ValueError(f"{len(self.points_px or ())} points with {len(self.point_labels or ())} labels")

    @property
    def kinds(self) -> frozenset[str]:
        """Which of "text", "box", "points" it has; none of them is "none"."""
        given = {"text": self.text, "box": self.box_px, "points": self.points_px}
        return frozenset(kind for kind, value in given.items() if value is not None) or frozenset({"none"})


class Answer(NamedTuple):
    """mask: bool (H, W) of the frame. score: how sure the contestant is, in [0, 1]; nan where it does not say."""

    mask: np.ndarray
    score: float


class Contestant(ABC):
    """A model with its weights, ready to answer.

    name: in tables and file names. prompts: the kinds of prompt that it takes, each alone, of "text", "box", "points"
    and "none" (the whole tree without being asked). about: one line on what model and which weights. is_random: its
    weights are random, so that its scores say nothing about it.
    """

    name: str
    prompts: ClassVar[frozenset[str]]
    about: str
    is_random: bool = False

    @abstractmethod
    def encode(self, frame: np.ndarray, view_deg: Sequence[float] = NO_VIEW) -> Any:
        """What one frame, uint8 RGB (H, W, 3), is to the model, before any prompt; view_deg: (primary, secondary),
        LAO and cranial positive, nan = unknown."""

    @abstractmethod
    def answer(self, encoded: Any, prompt: Prompt) -> Answer:
        """The answer to one prompt about a frame of `encode`. ValueError for a kind of prompt that is not in
        `prompts`."""

    def segment(self, frame: np.ndarray, prompt: Prompt, view_deg: Sequence[float] = NO_VIEW) -> Answer:
        """`encode` and `answer`."""
        return self.answer(self.encode(frame, view_deg), prompt)

    def check_prompt(self, prompt: Prompt) -> None:
        """ValueError for a kind of prompt that this contestant does not take."""
        if len(prompt.kinds) != 1 or not prompt.kinds <= self.prompts:
            raise ValueError(
                f"{self.name} was asked with {' and '.join(sorted(prompt.kinds))}; it takes one of "
                f"{', '.join(sorted(self.prompts))}"
            )
