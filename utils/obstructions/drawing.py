"""Pictures of obstructions: a box and a cross each, coloured, with a few words on a chip beside it."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from data.cass import SEGMENTS
from data.obstructions import GRADES, grade_of
from utils.drawing import (
    GREEN, ORANGE, SKY_BLUE, VERMILION, YELLOW, as_rgb, draw_box, line_width, segment_overlay,
)
from utils.obstructions.matching import Detection
from utils.reports.label_placement import inner_point, write_chips

GRADE_COLORS = (GREEN, SKY_BLUE, YELLOW, ORANGE, VERMILION)  # of `data.obstructions.GRADES`
_CROSS_SHARE = 1 / 48  # of the frame's longer side: 11 px of 512, a little wider than a main artery


class Mark(NamedTuple):
    """What is drawn of one obstruction, px of the frame; an empty text has no chip."""

    box_px: Sequence[float]
    point_px: Sequence[float]
    color: tuple[int, int, int]
    text: str


def mark_of(found: Detection) -> Mark:
    """The mark of a predicted obstruction: its colour is its grade, its text %DS and score, `78 % (0.91)`."""
    return Mark(found.box_px, found.point_px, grade_color(found.stenosis_pct),
                f"{found.stenosis_pct:.0f} % ({found.score:.2f})")


def grade_color(stenosis_pct: float) -> tuple[int, int, int]:
    """The colour of a diameter stenosis in percent, RGB 0..255."""
    return GRADE_COLORS[grade_of(stenosis_pct)]


def grade_legend(stenoses_pct: Sequence[float]) -> dict[str, tuple[int, int, int]]:
    """Legend of the grades that occur: `severe, from 70 %DS`."""
    numbers = sorted({grade_of(stenosis_pct) for stenosis_pct in stenoses_pct})
    return {GRADES[n].name + (f", from {GRADES[n].from_pct:g} %DS" if n else ""): GRADE_COLORS[n] for n in numbers}


def mark_overlay(frame: np.ndarray, marks: Sequence[Mark], *, vessels: np.ndarray | None = None) -> np.ndarray:
    """Draw marks on a frame, as for `drawing.mask_overlay`; a new uint8 (H, W, 3).

    vessels: bool (H, W), which the chips should not hide.
    """
    picture = as_rgb(frame).copy()
    occupied = np.zeros(picture.shape[:2], np.int32) if vessels is None else vessels.astype(np.int32)
    for mark in marks:
        draw_box(picture, mark.box_px, mark.color)
        cv2.drawMarker(picture, _anchor(mark, picture), mark.color, cv2.MARKER_TILTED_CROSS,
                       max(7, round(max(picture.shape) * _CROSS_SHARE)), line_width(picture))
        x0, y0, x1, y1 = (round(side) for side in mark.box_px)
        occupied[max(y0, 0) : y1 + 1, max(x0, 0) : x1 + 1] = 2
    write_chips(picture, *_chips(marks, picture), occupied)
    return picture


def segment_mark_overlay(
    frame: np.ndarray, names: np.ndarray, marks: Sequence[Mark], *, vessels: np.ndarray
) -> np.ndarray:
    """Draw CASS segments with their numbers, and marks on top, so that no chip hides another; uint8 (H, W, 3).

    names: integers (H, W), CASS number of each pixel, 0 = none; vessels: as for `drawing.segment_overlay`.
    """
    picture = segment_overlay(frame, names, labels=False, vessels=vessels)
    picture = mark_overlay(picture, [mark._replace(text="") for mark in marks])
    numbers = [int(number) for number in np.unique(names) if number]
    anchors, texts, colors = _chips(marks, picture)
    write_chips(
        picture, [inner_point(names == number) for number in numbers] + anchors,
        [str(number) for number in numbers] + texts, [SEGMENTS[number].colour for number in numbers] + colors,
        np.where(vessels & (names == 0), -1, names.astype(np.int32)),
    )
    return picture


def _chips(marks: Sequence[Mark], picture: np.ndarray) -> tuple[list, list, list]:
    """Anchors, texts and colours, as `write_chips` takes them, of the marks that have a text."""
    named = [mark for mark in marks if mark.text]
    return [_anchor(mark, picture) for mark in named], [mark.text for mark in named], [mark.color for mark in named]


def _anchor(mark: Mark, picture: np.ndarray) -> tuple[int, int]:
    """The pixel (x, y) of the mark's point, in the picture."""
    corner = np.array(picture.shape[1::-1]) - 1
    return tuple(np.clip(np.rint(mark.point_px), 0, corner).astype(int).tolist())
