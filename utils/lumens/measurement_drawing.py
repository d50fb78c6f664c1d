"""Pictures of a measurement: the vessel cut out with its measured edges, and its diameters along the vessel.

    picture = edges_crop(frame, one)                # one: utils.lumens.quantify.QuantifiedLesion; uint8 (S, S, 3)
    figure = curve_figure(record["curve"])          # a record of utils.lumens.report; a matplotlib Figure
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from matplotlib.figure import Figure

from qca.measure import Measurement
from utils.drawing import BLUE, ORANGE, SKY_BLUE, VERMILION, YELLOW, as_rgb, draw_box, mask_overlay
from utils.lumens.quantify import QuantifiedLesion

EDGE_COLOR, MLD_COLOR, LESION_COLOR = SKY_BLUE, VERMILION, YELLOW
EDGES_LEGEND = {
    "measured edges": EDGE_COLOR, "start and end of the measured lesion": LESION_COLOR, "measured MLD": MLD_COLOR,
}
LUMEN_COLOR = ORANGE  # of a lumen that could not be measured
CROP_SIDE_PX = 640
_LESION_SIDES = 2.2  # the crop's side in those of the lesion's box: its neighbourhood tells what the reference is
_LEAST_SHARE = 0.14  # of the frame's longer side: more magnified only pixels are seen
_MARGIN_SHARE = 0.08  # of a lumen's side
_RING_SHARE = 0.035  # of the picture's side: about the MLD, which itself may be too short to be seen
_FINE = 8  # cv2 draws at 1/8 px


def edges_crop(frame: np.ndarray, one: QuantifiedLesion, *, side_px: int = CROP_SIDE_PX) -> np.ndarray:
    """The frame, uint8 (H, W, 3), about the lesion, enlarged to uint8 (side, side, 3), with what was measured: both
    edges, the lesion's start and end, the MLD. Of a failure the lumen and the box that was asked for."""
    measured = one.measured
    if measured is None:
        picture = mask_overlay(frame, one.lumen.mask_in_frame(), LUMEN_COLOR)
        low, high = np.reshape(one.lumen.box_px, (2, 2))
        picture, place = _enlarged(picture, (low + high) / 2, _side(high - low, frame), side_px)
        draw_box(picture, place(np.array([low, high])).ravel(), LUMEN_COLOR)
        return picture
    lesion = slice(measured.worst.start, measured.worst.end + 1)
    points = np.concatenate([measured.left_px[lesion], measured.right_px[lesion]])
    low, high = points.min(axis=0), points.max(axis=0)
    side = _side(_LESION_SIDES * (high - low), frame)
    picture, place = _enlarged(as_rgb(frame), (low + high) / 2, side, side_px)
    _draw_measured(picture, measured, place)
    return picture


def _side(size_px: np.ndarray, frame: np.ndarray) -> float:
    return max(size_px.max() * (1 + 2 * _MARGIN_SHARE), _LEAST_SHARE * max(frame.shape))


def _enlarged(frame: np.ndarray, middle: np.ndarray, side: float, side_px: int):
    """The square, uint8 (side_px, side_px, 3), and a function from px of the frame to its px."""
    scale = side_px / side
    # Pixel centres are at integers, so the crop's border lies half a pixel outside of the first centre.
    shift = -scale * (middle - side / 2) - 0.5
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    picture = cv2.warpAffine(frame, matrix, (side_px, side_px), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return picture, lambda points: np.asarray(points) * scale + shift


def _draw_measured(picture: np.ndarray, measured: Measurement, place) -> None:
    width, worst = max(1, round(len(picture) / 320)), measured.worst
    for edge in (measured.left_px, measured.right_px):
        _draw_line(picture, place(edge), EDGE_COLOR, width)
    for index, color, reach in ((worst.start, LESION_COLOR, 0.35), (worst.end, LESION_COLOR, 0.35),
                                (worst.mld, MLD_COLOR, 0.0)):
        ends = np.array([measured.left_px[index], measured.right_px[index]])
        # Beyond the edges: across a vessel of a few pixels a line of its own width would not be seen.
        _draw_line(picture, place(ends + reach * (ends - ends[::-1])), color, width + 1)


    _draw_ring(picture, place(np.array([measured.left_px[worst.mld], measured.right_px[worst.mld]])), width)


def _draw_ring(picture: np.ndarray, ends: np.ndarray, width: int) -> None:
    """Around the MLD, whose ends (2, 2) are px of the picture."""
    radius = max(_RING_SHARE * len(picture), 0.7 * float(np.hypot(*(ends[1] - ends[0]))))
    middle = np.rint(ends.mean(axis=0) * _FINE).astype(int).tolist()
    cv2.circle(picture, middle, round(radius * _FINE), MLD_COLOR, width, cv2.LINE_AA, shift=3)


def _draw_line(picture: np.ndarray, points: np.ndarray, color: Sequence[int], width: int) -> None:
    fine = np.rint(points * _FINE).astype(np.int32)
    cv2.polylines(picture, [fine], False, color, width, cv2.LINE_AA, shift=3)


def curve_figure(curve: Mapping, *, inches: tuple[float, float] = (5.6, 3.2)) -> Figure:
    """Diameter and reference along the vessel, the lesion shaded and the MLD marked, with labelled axes."""
    arc, unit = np.array(curve["arc"]), curve["unit"]
    diameter, reference = np.array(curve["diameter"]), np.array(curve["reference"])
    start, mld, end = (curve[name] for name in ("lesion_start_index", "mld_index", "lesion_end_index"))
    figure = Figure(figsize=inches, layout="constrained")
    axes = figure.subplots()
    axes.axvspan(arc[start], arc[end], color=_unit_rgb(YELLOW), alpha=0.35, linewidth=0, label="lesion")
    axes.plot(arc, reference, color=_unit_rgb(ORANGE), linewidth=1.8, linestyle=(0, (5, 2)), label="reference")
    axes.plot(arc, diameter, color=_unit_rgb(BLUE), linewidth=1.8, label="diameter")
    axes.plot(arc[mld], diameter[mld], "o", color=_unit_rgb(VERMILION), markersize=7, label="MLD")
    axes.set(xlabel=f"distance from the proximal end ({unit})", ylabel=f"diameter ({unit})", xlim=(arc[0], arc[-1]),
             ylim=(0, 1.12 * max(diameter.max(), reference.max())))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    return figure


def _unit_rgb(color: Sequence[int]) -> np.ndarray:
    return np.array(color) / 255
