"""Pictures of a report, inside the page itself: as data URIs, so that it is one file and asks no network.

    picture_element(picture, "what it shows", color_legend)         # uint8 (H, W, 3), as JPEG
    curve_element(record["curve"])                                  # an SVG
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

import cv2
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from utils.lumens.measurement_drawing import curve_figure
from utils.reports.markup import Html, tag

JPEG_QUALITY = 88  # by eye: edges of vessels and of thin drawn lines stay clean
# Letters stay letters, so that the SVG is small and can be searched; ids must be the same in the same picture.
_SVG_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "report", "font.family": "sans-serif", "font.size": 10}


def picture_element(picture: np.ndarray, alt: str, legend: Mapping[str, Sequence[int]], caption: str = "") -> Html:
    """A figure with a picture, what its colours mean, and a caption."""
    return _figure(_jpeg(picture), alt, picture.shape[1::-1], legend_element(legend), caption)


def curve_element(curve: Mapping, alt: str) -> Html:
    """A figure with the diameters of a record's `curve`."""
    figure = curve_figure(curve)
    size = tuple(round(96 * inches) for inches in figure.get_size_inches())
    return _figure(_svg(figure), alt, size, None, "", class_="curve")


def legend_element(legend: Mapping[str, Sequence[int]]) -> Html:
    """What colours mean: name -> RGB 0..255."""
    chips = [tag("li", tag("span", class_="chip", style="background:#{:02x}{:02x}{:02x}".format(*color)), name)
             for name, color in legend.items()]
    return tag("ul", chips, class_="legend")


def _figure(source: str, alt: str, size: tuple[int, int], legend: Html | None, caption: str, **attributes) -> Html:
    image = tag("img", src=source, alt=alt, width=size[0], height=size[1])
    said = tag("figcaption", tag("p", caption) if caption else None, legend) if caption or legend else None
    return tag("figure", image, said, **attributes)


def _jpeg(picture: np.ndarray) -> str:
    encoded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()


def _svg(figure: Figure) -> str:
    text = io.BytesIO()
    with matplotlib.rc_context(_SVG_STYLE):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(text.getvalue()).decode()
