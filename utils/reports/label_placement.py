"""Numbers written on a picture: beside what they name, off the vessels and off each other.

    write_labels(picture, names, colors={13: (0, 114, 178)})

Greedy, one label after the other among places around its anchor: with the dozen labels of a coronary tree
that is enough, and the same picture gets the same places every time.
"""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

WHITE, BLACK = (255, 255, 255), (0, 0, 0)
_FONT = cv2.FONT_HERSHEY_DUPLEX
_TEXT_SHARE = 1 / 34            # height of the digits as a share of the picture's longer side: 15 px of 512
_LEAST_TEXT_PX = 7              # smaller digits cannot be read
_DARK_LUMA = 140                # below it white digits are easier to read than black ones; by eye
_DIRECTIONS = 24
_DISTANCES = (1.0, 1.6, 2.3, 3.2, 4.5, 6.0)     # from anchor to the label's middle, in heights of a label
# Costs of a place, tried by eye on phantom and real frames, 2026-11-22: another label under it is worst, then
# vessel under it, then a leader line that crosses other vessels; among the free places the nearest is taken.
_COST_LABEL, _COST_VESSEL, _COST_CROSSING, _COST_DISTANCE = 100.0, 12.0, 4.0, 0.5


def write_labels(picture: np.ndarray, numbers: np.ndarray, colors: Mapping[int, Sequence[int]], *,
                 keep_free: np.ndarray | None = None) -> None:
    """Write each number of `colors` on a chip of its colour beside its pixels, in place, with a line to them.

    picture: uint8 (H, W, 3); numbers: integers (H, W), 0 = nothing; colors: number to RGB 0..255, each of
    which has a pixel; keep_free: bool (H, W), what else the labels should not hide.
    """
    anchors = [inner_point(numbers == number) for number in colors]
    vessels = numbers.astype(np.int32)
    if keep_free is not None:
        vessels[keep_free & (numbers == 0)] = -1
    write_chips(picture, anchors, [str(number) for number in colors], list(colors.values()), vessels)


def write_chips(
    picture: np.ndarray, anchors: Sequence[tuple[int, int]], texts: Sequence[str],
    colors: Sequence[Sequence[int]], occupied: np.ndarray,
) -> None:
    """Write each text on a chip of its colour, in place, with a line to its anchor, a pixel (x, y).

    occupied: integers (H, W), what the chips should not hide, see `place_labels`.
    """
    scale = max(max(picture.shape) * _TEXT_SHARE, _LEAST_TEXT_PX) / cv2.getTextSize("0", _FONT, 1.0, 1)[0][1]
    extents = [cv2.getTextSize(text, _FONT, scale, 1)[0] for text in texts]
    pad = max(2, extents[0][1] // 4) if extents else 0
    sizes = [(width + 2 * pad, height + 2 * pad) for width, height in extents]
    corners = place_labels(anchors, sizes, occupied)
    for anchor, (x, y), (width, height) in zip(anchors, corners, sizes):
        nearest = (min(max(anchor[0], x), x + width), min(max(anchor[1], y), y + height))
        cv2.line(picture, anchor, nearest, WHITE, 1, cv2.LINE_AA)
        cv2.circle(picture, anchor, max(1, pad // 2), WHITE, -1, cv2.LINE_AA)
    for text, color, (x, y), (width, height) in zip(texts, colors, corners, sizes):
        ink = WHITE if np.dot(color, (0.299, 0.587, 0.114)) < _DARK_LUMA else BLACK     # luma of ITU-R BT.601
        cv2.rectangle(picture, (x, y), (x + width - 1, y + height - 1), color, -1)
        cv2.rectangle(picture, (x, y), (x + width - 1, y + height - 1), WHITE, 1)
        cv2.putText(picture, text, (x + pad, y + height - pad), _FONT, scale, ink, 1, cv2.LINE_AA)


def inner_point(mask: np.ndarray) -> tuple[int, int]:
    """Return the pixel (x, y) of the largest piece of a bool (H, W) mask that is nearest to its middle.

    Raises ValueError for an empty mask.
    """
    if not mask.any():
        raise ValueError("an empty mask has no inner point")
    _, pieces, stats, middles = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    rows, columns = np.nonzero(pieces == largest)
    nearest = np.hypot(columns - middles[largest, 0], rows - middles[largest, 1]).argmin()
    return int(columns[nearest]), int(rows[nearest])


def place_labels(
    anchors: Sequence[tuple[int, int]], sizes: Sequence[tuple[int, int]], vessels: np.ndarray
) -> list[tuple[int, int]]:
    """Return the upper left corner (x, y) in px of each label of `sizes` (width, height) px.

    anchors: the pixels (x, y) that the labels point at; vessels: integers (H, W), what the labels should not
    hide, with a number of its own for each thing named, 0 = free. Every label lies inside the picture; one
    that is larger than the picture starts at its corner.
    """
    covered = cv2.integral((vessels != 0).astype(np.uint8))
    taken: list[tuple[int, int, int, int]] = []
    for anchor, size in zip(anchors, sizes, strict=True):
        corners = _candidates(anchor, size, vessels.shape)
        costs = [_cost(corner, anchor, size, vessels, covered, taken) for corner in corners]
        taken.append((*corners[int(np.argmin(costs))], *size))
    return [(x, y) for x, y, _, _ in taken]


def _candidates(anchor, size, shape) -> list[tuple[int, int]]:
    angles = 2 * np.pi * np.arange(_DIRECTIONS) / _DIRECTIONS
    reach = np.array(_DISTANCES)[:, None] * size[1]
    # A label is wider than high: to the sides it must stand farther off.
    x = anchor[0] + (reach + (size[0] - size[1]) / 2) * np.cos(angles) - size[0] / 2
    y = anchor[1] + reach * np.sin(angles) - size[1] / 2
    x = np.clip(np.rint(x), 0, max(shape[1] - size[0], 0)).astype(int)
    y = np.clip(np.rint(y), 0, max(shape[0] - size[1], 0)).astype(int)
    return list(zip(x.ravel().tolist(), y.ravel().tolist()))


def _cost(corner, anchor, size, vessels, covered, taken) -> float:
    (x, y), (width, height) = corner, size
    x1, y1 = min(x + width, vessels.shape[1]), min(y + height, vessels.shape[0])
    under = covered[y1, x1] - covered[y, x1] - covered[y1, x] + covered[y, x]
    middle = np.array([x + width / 2, y + height / 2])
    overlapping = sum(
        x < left + wide and left < x + width and y < top + high and top < y + height
        for left, top, wide, high in taken
    )
    return (_COST_LABEL * overlapping + _COST_VESSEL * under / (width * height)
            + _COST_CROSSING * _crossed(middle, anchor, vessels)
            + _COST_DISTANCE * np.hypot(*(middle - anchor)) / height)


def _crossed(middle, anchor, vessels) -> float:
    """Return the share of the leader line from a label's middle to its anchor that lies on other vessels."""
    steps = np.linspace(0, 1, 24)[:, None]
    points = np.rint((1 - steps) * middle + steps * np.asarray(anchor)).astype(int)
    columns, rows = (np.clip(points[:, axis], 0, vessels.shape[1 - axis] - 1) for axis in (0, 1))
    on_line = vessels[rows, columns]
    return float(((on_line != 0) & (on_line != vessels[anchor[1], anchor[0]])).mean())
