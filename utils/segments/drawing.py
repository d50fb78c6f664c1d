"""Pictures of what a stage 2 model says of a frame: beside `drawing.segment_overlay`, the blind guess."""

from collections.abc import Mapping

import cv2
import numpy as np

from utils.drawing import (
    ORANGE,
    SKY_BLUE,
    VERMILION,
    YELLOW,
    as_rgb,
    draw_box,
    line_width,
    segment_legend,
    segment_name,
)
from utils.segments.prediction import FramePrediction, blind_box_of_map
from utils.segments.report import SegmentFindings, box_px

BLIND_LEGEND = {"analysed? (map)": ORANGE, "box of the map": SKY_BLUE, "box of the pooled head": YELLOW}
_HEAT_OPACITY = 0.75


def blind_overlay(frame: np.ndarray, prediction: FramePrediction) -> np.ndarray:
    """Return the frame, uint8 (H, W, 3), with where the analysed segment may be; see `BLIND_LEGEND`."""
    opacity = _HEAT_OPACITY * prediction.analysed_probability[..., None]
    picture = np.rint((1 - opacity) * as_rgb(frame) + opacity * np.array(ORANGE, np.float32)).astype(np.uint8)
    for box, color in ((blind_box_of_map(prediction), SKY_BLUE), (prediction.box, YELLOW)):
        draw_box(picture, box_px(box, prediction.size), color)
    return picture


def pointed_overlay(frame: np.ndarray, pointed: Mapping) -> np.ndarray:
    """Return the frame, uint8 (H, W, 3), with a cross or a box where it was asked (`pointed_record`)."""
    picture = as_rgb(frame).copy()
    if "box_px" in pointed:
        draw_box(picture, pointed["box_px"], VERMILION)
        return picture
    x, y = (round(number) for number in pointed["point_px"])
    side = max(picture.shape)
    cv2.drawMarker(picture, (x, y), VERMILION, cv2.MARKER_CROSS, max(9, side // 24), line_width(picture))
    return picture


def legend_of(findings: SegmentFindings) -> dict[str, tuple[int, int, int]]:
    """Return the legend of the segments of a frame, with their probabilities: `13 Mid LAD, p 0.93`."""
    shown = {segment_name(one.cass_id): f"{segment_name(one.cass_id)}, p {one.probability:.2f}"
             for one in findings.segments}
    legend = segment_legend([segment.cass_id for segment in findings.segments], nameless=True)
    return {shown.get(name, name): color for name, color in legend.items()}
