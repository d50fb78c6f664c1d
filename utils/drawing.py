"""Pictures of frames, masks and how well two masks agree: every figure of the project draws with these.

Colours are those of Okabe and Ito ("Color Universal Design", 2008, jfly.uni-koeln.de/color): readers with
any common colour blindness tell them apart. Green: both masks agree; vermilion: only in the prediction (false
alarm); blue: only in the label (missed). CASS segments have the colours of `data.cass`.
"""
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from data.cass import SEGMENTS
from utils.files import save_figure_atomic
from utils.reports.label_placement import write_labels

GREEN = (0, 158, 115)
VERMILION = (213, 94, 0)
BLUE = (0, 114, 178)
SKY_BLUE = (86, 180, 233)
ORANGE = (230, 159, 0)
YELLOW = (240, 228, 66)

AGREEMENT_LEGEND: dict[str, tuple[int, int, int]] = {
    "both": GREEN, "only prediction": VERMILION, "only label": SKY_BLUE}

NO_NAME, NO_NAME_COLOR = "no name", (255, 255, 255)     # in legends: vessel without a segment's name

DPI = 120
_LINE_SHARE = 1 / 256           # width of a box's line as a share of the picture's longer side
_MAX_OVERSAMPLING = 1.6         # more detail than this never reaches the page, only the memory


def as_rgb(frame: np.ndarray) -> np.ndarray:
    """Return a frame as uint8 (H, W, 3).

    Takes uint8 or bool (H, W) or (H, W, 3), or float in [0, 1] of the same shapes (clipped to that range).
    Raises ValueError for any other shape.
    """
    frame = np.asarray(frame)
    if frame.ndim not in (2, 3) or (frame.ndim == 3 and frame.shape[2] != 3):
        raise ValueError(f"a picture must have shape (H, W) or (H, W, 3), got {frame.shape}")
    if frame.dtype != np.uint8:
        frame = np.rint(np.clip(frame.astype(np.float64), 0, 1) * 255).astype(np.uint8)
    return np.repeat(frame[..., None], 3, axis=2) if frame.ndim == 2 else frame


def _tint(picture: np.ndarray, mask: np.ndarray, color: Sequence[int], opacity: float) -> None:
    """Colour the pixels of `mask` in place; the frame shines through by 1 - opacity."""
    blended = (1 - opacity) * picture[mask] + opacity * np.asarray(color, dtype=np.float64)
    picture[mask] = np.rint(blended).astype(np.uint8)


def _outline(mask: np.ndarray) -> np.ndarray:
    """Return the mask's own border pixels, bool (H, W)."""
    inside = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0)
    return mask & ~inside.astype(bool)


def _checked(mask: np.ndarray, frame: np.ndarray, name: str) -> np.ndarray:
    mask = np.asarray(mask, dtype=bool)
    if mask.shape != frame.shape[:2]:
        raise ValueError(f"{name} has size {mask.shape}, the frame {frame.shape[:2]}: resize it first")
    return mask


def mask_overlay(frame: np.ndarray, mask: np.ndarray, color: Sequence[int] = GREEN, *,
                 opacity: float = 0.45) -> np.ndarray:
    """Tint `mask` on `frame`, with a stronger outline so that thin vessels stay visible.

    frame: uint8 (H, W, 3), uint8 (H, W) or float in [0, 1]; mask: bool (H, W); color: RGB 0..255.
    Returns a new uint8 (H, W, 3). Raises ValueError when the sizes differ.
    """
    picture = as_rgb(frame).copy()
    mask = _checked(mask, picture, "mask")
    outline = _outline(mask)
    _tint(picture, mask & ~outline, color, opacity)
    _tint(picture, outline, color, min(1.0, opacity + 0.4))
    return picture


def agreement_overlay(frame: np.ndarray, label: np.ndarray, prediction: np.ndarray, *,
                      opacity: float = 0.75) -> np.ndarray:
    """Colour where two masks agree and differ; see `AGREEMENT_LEGEND` for the meaning.

    frame: uint8 (H, W, 3) or (H, W); label, prediction: bool (H, W). Returns a new uint8 (H, W, 3).
    Raises ValueError when the sizes differ.
    """
    picture = as_rgb(frame).copy()
    label = _checked(label, picture, "label")
    prediction = _checked(prediction, picture, "prediction")
    _tint(picture, label & prediction, AGREEMENT_LEGEND["both"], opacity)
    _tint(picture, prediction & ~label, AGREEMENT_LEGEND["only prediction"], opacity)
    _tint(picture, label & ~prediction, AGREEMENT_LEGEND["only label"], opacity)
    return picture


def segment_overlay(frame: np.ndarray, names: np.ndarray, *, labels: bool = True,
                    vessels: np.ndarray | None = None) -> np.ndarray:
    """Colour each CASS segment on `frame`, with its number beside it; `segment_legend` has their names.

    frame: as for `mask_overlay`; names: integers (H, W), CASS number of each pixel, 0 = none; vessels: bool
    (H, W), pixels of it without a name are white. Returns a new uint8 (H, W, 3). Raises ValueError when the
    sizes differ.
    """
    picture = as_rgb(frame).copy()
    nameless = np.zeros(names.shape, bool)
    if vessels is not None:
        nameless = _checked(vessels, picture, "vessels") & (names == 0)
        picture = mask_overlay(picture, nameless, NO_NAME_COLOR, opacity=0.3)
    colors = {int(cass_id): SEGMENTS[int(cass_id)].colour for cass_id in np.unique(names) if cass_id}
    for cass_id, color in colors.items():
        picture = mask_overlay(picture, names == cass_id, color, opacity=0.5)
    if labels:
        write_labels(picture, names, colors, keep_free=nameless)
    return picture


def segment_name(cass_id: int) -> str:
    """Return number and name as pictures and reports write them: `13 Mid LAD`."""
    return f"{cass_id} {SEGMENTS[cass_id].name}"


def segment_legend(cass_ids: Sequence[int], *, nameless: bool = False) -> dict[str, tuple[int, int, int]]:
    """Return the legend of the segments given: name to colour; `nameless` adds vessel without a name."""
    legend = {segment_name(cass_id): SEGMENTS[cass_id].colour for cass_id in cass_ids}
    return legend | ({NO_NAME: NO_NAME_COLOR} if nameless else {})


def draw_box(picture: np.ndarray, corners_px: Sequence[float], color: Sequence[int]) -> None:
    """Draw the box (x0, y0, x1, y1) px on a picture, uint8 (H, W, 3), in place."""
    x0, y0, x1, y1 = (round(corner) for corner in corners_px)
    cv2.rectangle(picture, (x0, y0), (x1, y1), tuple(color), line_width(picture), cv2.LINE_AA)


def line_width(picture: np.ndarray) -> int:
    """Return the width in px of lines drawn on a picture: 2 of 512."""
    return max(1, round(max(picture.shape) * _LINE_SHARE))


def legend_patches(colors: Mapping[str, Sequence[int]]) -> list[Patch]:
    """Return matplotlib legend handles for a mapping of meaning to RGB 0..255."""
    return [Patch(facecolor=np.asarray(color) / 255, edgecolor="black", linewidth=0.4, label=meaning)
            for meaning, color in colors.items()]


def thumbnail(picture: np.ndarray, cell_inches: float = 3.6) -> np.ndarray:
    """Return the picture as uint8 (H, W, 3), no larger than a gallery cell can show.

    Shrinking takes means of areas, which keeps thin vessels visible; use it to hold many pictures in memory.
    """
    picture = as_rgb(picture)
    scale = _MAX_OVERSAMPLING * cell_inches * DPI / max(picture.shape[:2])
    if scale >= 1:
        return picture
    size = tuple(max(1, round(side * scale)) for side in picture.shape[1::-1])
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _check_gallery(rows, column_titles, row_titles, captions) -> None:
    if not rows:
        raise ValueError("a gallery needs at least one row of pictures")
    if len(row_titles) != len(rows):
        raise ValueError(f"{len(rows)} rows of pictures but {len(row_titles)} row titles")
    for number, row in enumerate(rows):
        if len(row) != len(column_titles):
            raise ValueError(f"gallery row {number} has {len(row)} pictures for {len(column_titles)} columns")
    if captions is not None and [len(row) for row in captions] != [len(row) for row in rows]:
        raise ValueError("captions must have one text (or an empty one) for each picture")


def gallery_figure(rows: Sequence[Sequence[np.ndarray | None]], column_titles: Sequence[str],
                   row_titles: Sequence[str], *, title: str = "",
                   captions: Sequence[Sequence[str]] | None = None,
                   legend: Mapping[str, Sequence[int]] | None = AGREEMENT_LEGEND,
                   cell_inches: float = 3.0, room_above_inches: float = 0.0) -> Figure:
    """Lay out a table of pictures as a matplotlib Figure (no pyplot state, nothing to close).

    rows: one picture per column, uint8/bool/float (H, W) or (H, W, 3); None leaves the cell empty.
    row_titles stand at the left of their rows (several lines are fine), captions below single pictures.
    legend: meaning -> RGB; None for none. cell_inches: side of a cell, at `DPI` pixels per inch.
    room_above_inches: left free between title and pictures for axes of the caller's own.
    Raises ValueError when counts do not fit.
    """
    _check_gallery(rows, column_titles, row_titles, captions)
    header_inches = 0.35 + (0.35 if title else 0) + room_above_inches
    caption_lines = max((text.count("\n") + 1 for row in captions or () for text in row), default=0)
    gap = 0.04 + 0.04 * caption_lines       # between rows, as a share of a cell
    cell_height = cell_inches * (1 + gap)
    left_inches = 0.5 if any(row_titles) else 0.05
    width = cell_inches * len(column_titles) + left_inches + 0.1
    legend_columns = _legend_columns(legend or {}, width)
    legend_lines = math.ceil(len(legend) / legend_columns) if legend else 0
    footer_inches = 0.1 + 0.15 * max(1, caption_lines) + 0.2 * legend_lines if legend else 0.1
    height = cell_height * len(rows) + header_inches + footer_inches
    figure = Figure(figsize=(width, height), dpi=DPI)
    axes = figure.subplots(len(rows), len(column_titles), squeeze=False)
    figure.subplots_adjust(left=left_inches / width, right=1 - 0.05 / width, top=1 - header_inches / height,
                           bottom=footer_inches / height, wspace=0.03, hspace=gap)
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            _draw_cell(axes[r][c], picture, captions[r][c] if captions else "", cell_inches)
        axes[r][0].set_ylabel(row_titles[r], fontsize=9)
    for axis, column_title in zip(axes[0], column_titles):
        axis.set_title(column_title, fontsize=10)
    if title:
        figure.suptitle(title, fontsize=12, y=1 - 0.12 / height, va="top")
    if legend:
        figure.legend(handles=legend_patches(legend), loc="lower center", ncols=legend_columns,
                      frameon=False, fontsize=9)
    return figure


def _legend_columns(legend: Mapping[str, Sequence[int]], width_inches: float) -> int:
    """Return how many entries stand side by side: 9 points of the default font take 0.075 inches a letter."""
    entry_inches = 0.6 + 0.075 * max(map(len, legend), default=0)
    return max(1, min(len(legend), int(width_inches / entry_inches)))


def _draw_cell(axis, picture: np.ndarray | None, caption: str, cell_inches: float) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)
    if picture is not None:
        axis.imshow(thumbnail(picture, cell_inches), interpolation="antialiased")
    if caption:
        axis.set_xlabel(caption, fontsize=8, labelpad=2)


def side_by_side(cases: Sequence[Sequence], cases_per_row: int, *, filler=None) -> list[list]:
    """Return rows of `cases_per_row` cases each (pictures, or captions); `filler` ends the last one."""
    width = min(cases_per_row, len(cases))
    rows = [
        [cell for case in cases[start : start + width] for cell in case]
        for start in range(0, len(cases), width)
    ]
    rows[-1] += [filler] * (len(rows[0]) - len(rows[-1]))
    return rows


def save_gallery(path: str | Path, rows: Sequence[Sequence[np.ndarray | None]], column_titles: Sequence[str],
                 row_titles: Sequence[str], *, title: str = "",
                 captions: Sequence[Sequence[str]] | None = None,
                 legend: Mapping[str, Sequence[int]] | None = AGREEMENT_LEGEND,
                 cell_inches: float = 3.0) -> None:
    """Write the table of pictures of `gallery_figure` to a file, whole or not at all."""
    figure = gallery_figure(rows, column_titles, row_titles, title=title, captions=captions, legend=legend,
                            cell_inches=cell_inches)
    save_figure_atomic(figure, path, dpi=DPI)
