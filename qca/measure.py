"""From a lumen and a calibration to MLD, reference diameter, %DS, area stenosis and lesion length.

    measured = measure_lumen(mask, choose_calibration(contours.calibration), proximal_px=(x, y))
    measured.stenosis_pct, measured.mm.mld, measured.mm.lesion_length      # mm is None without a calibration
    measured = measure_edges(line_px, left_px, right_px, calibration)      # edges that an analyst has drawn
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from data.anatomy import arc_length
from qca.calibration import Calibration
from qca.centerline import STEP_PX, extend_to_ends, find_course, inner_part, normals, smooth_line, turned
from qca.diameters import diameters_across, match_edges
from qca.edges import Offsets, edge_points, find_offsets
from qca.errors import QcaError
from qca.lesion import LEAST_NARROWING, Span, find_lesions
from qca.lumen import LEVEL, Lumen, prepare_lumen
from qca.mouths import END_WIDTHS, bridge, middle_of, opened
from qca.pixel_fit import fit_to_pixels
from qca.reference import MOST_ABOVE, bridge_reference, falling_envelope, fit_taper, interpolate_reference
from qca.smoothing import smooth_offsets

REFINEMENTS = 3  # of the course by the middle of its edges
COARSE_STEP_PX = 0.5  # of the profiles meanwhile
LEAST_PX = 1e-3  # for diameters that are divided by
LEAST_WIDTH_PX = 1.5  # in the median; a thinner mask is a line that somebody drew
FINEST_PX = 2.0  # a thinner lumen is told by a few pixels only
OFF_COURSE = 0.2  # of a mask's area; stubs of side branches have less
RECOVERED_WIDTHS = 1.0  # a place that is wide over less is noise or what is left of a branch, not recovered vessel
BESIDE_WIDTHS = 0.25  # beside a lesion's border: the border is known to about so much


@dataclass(frozen=True)
class Lesion:
    """One narrowing. start, mld, end: indices into the course, proximal to distal. Lengths and diameters in px.

    reference_px: interpolated at the narrowest point. area_stenosis_pct takes every cross-section for a circle: one
    view does not tell.
    """

    start: int
    mld: int
    end: int
    mld_px: float
    reference_px: float
    length_px: float

    @property
    def stenosis_pct(self) -> float:
        return 100 * (1 - self.mld_px / self.reference_px)

    @property
    def area_stenosis_pct(self) -> float:
        return 100 * (1 - (self.mld_px / self.reference_px) ** 2)


@dataclass(frozen=True)
class Millimetres:
    """What a `Measurement` is in mm: of the worst lesion, along the course (N,), and of each lesion.

    mld_position: distance of the narrowest point from the proximal end.
    """

    diameter: np.ndarray
    reference: np.ndarray
    mld: float
    rvd: float
    lesion_length: float
    segment_length: float
    mld_position: float
    proximal_normal_diameter: float
    distal_normal_diameter: float


@dataclass(frozen=True)
class Measurement:
    """A measured segment, proximal to distal.

    line_px, left_px, right_px: float64 (N, 2), (x, y) px of the picture, pixel centres at integers. arc_px,
    diameter_px, reference_px: float64 (N,). bridged: bool (N,), where a side branch opens and its edge was drawn
    across. lesions: the most severe first, at least one. calibration: None when unknown. flags: what to mind, in words.
    """

    line_px: np.ndarray
    left_px: np.ndarray
    right_px: np.ndarray
    arc_px: np.ndarray
    diameter_px: np.ndarray
    reference_px: np.ndarray
    bridged: np.ndarray
    lesions: tuple[Lesion, ...]
    calibration: Calibration | None
    flags: tuple[str, ...]

    @property
    def worst(self) -> Lesion:
        """The most severe lesion."""
        return self.lesions[0]

    @property
    def stenosis_pct(self) -> float:
        """Diameter stenosis of the worst lesion."""
        return self.worst.stenosis_pct

    @property
    def area_stenosis_pct(self) -> float:
        """Area stenosis of the worst lesion, of circular cross-sections."""
        return self.worst.area_stenosis_pct

    @property
    def unit(self) -> str:
        """"mm" with a calibration, else "px": what can be told."""
        return "px" if self.calibration is None else "mm"

    @property
    def mm(self) -> Millimetres | None:
        """Everything in mm; None without a calibration."""
        if self.calibration is None:
            return None
        scale, worst = self.calibration.px_per_mm, self.worst
        return Millimetres(
            diameter=self.diameter_px / scale, reference=self.reference_px / scale, mld=worst.mld_px / scale,
            rvd=worst.reference_px / scale, lesion_length=worst.length_px / scale,
            segment_length=float(self.arc_px[-1]) / scale, mld_position=float(self.arc_px[worst.mld]) / scale,
            proximal_normal_diameter=float(self.reference_px[worst.start]) / scale,
            distal_normal_diameter=float(self.reference_px[worst.end]) / scale,
        )


def measure_lumen(
    lumen: np.ndarray, calibration: Calibration | None = None, *, proximal_px: tuple[float, float] | None = None
) -> Measurement:
    """Measure one segment from its lumen.

    lumen: bool (H, W), or 0/1, or 0/255: a mask, true where a pixel's centre is inside; or float (H, W) in [0, 1]: the
    share of each pixel that is lumen, or its probability; the edge is at 0.5. proximal_px: (x, y) near the proximal
    end; without it the wider end is taken for it, and that is said. Raises QcaError when there is nothing to measure:
    an empty mask, more than one piece, a loop, a blob or a line.
    """
    prepared = prepare_lumen(lumen)
    line, flags = find_course(prepared), list(prepared.flags)
    if proximal_px is None:
        flags.append("the direction of flow is not given: the wider end is taken for the proximal one")
    if turned(line, prepared, proximal_px):
        line = line[::-1]
    for _ in range(REFINEMENTS):
        line = _through_the_middle(line, find_offsets(line, prepared, COARSE_STEP_PX), prepared)
    offsets = smooth_offsets(bridge(line, find_offsets(line, prepared)), prepared.noise_px)
    if prepared.is_mask:
        offsets = fit_to_pixels(line, offsets, prepared)
    left, right = edge_points(line, offsets)
    inner = inner_part(arc_length(line), offsets.left + offsets.right, END_WIDTHS)
    diameter = np.maximum(diameters_across(left, right, STEP_PX, inner), LEAST_PX)
    flags += _check_area(diameter, prepared)
    corner = prepared.corner
    return measure_widths(
        line + corner, left + corner, right + corner, diameter, calibration, bridged=offsets.bridged, flags=flags
    )


def measure_edges(
    line_px: np.ndarray,
    left_px: np.ndarray,
    right_px: np.ndarray,
    calibration: Calibration | None = None,
    *,
    ideal_left_px: np.ndarray | None = None,
    ideal_right_px: np.ndarray | None = None,
) -> Measurement:
    """Measure one segment from edges that somebody has drawn.

    line_px (N, 2), left_px (M, 2), right_px (K, 2): (x, y) px, proximal to distal. ideal_left_px, ideal_right_px: the
    edges of the vessel as it was when healthy, which then are the reference. Raises QcaError for no line.
    """
    given = [line_px, left_px, right_px] + [one for one in (ideal_left_px, ideal_right_px) if one is not None]
    for points in given:
        _check_line(points)
    left, right, diameter = match_edges(line_px, left_px, right_px)
    ideal = None
    if ideal_left_px is not None and ideal_right_px is not None:
        ideal = np.maximum(match_edges(line_px, ideal_left_px, ideal_right_px)[2], 1e-6)
    return measure_widths(np.asarray(line_px, float), left, right, diameter, calibration, reference_px=ideal)


def measure_widths(
    line: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    diameter: np.ndarray,
    calibration: Calibration | None,
    *,
    reference_px: np.ndarray | None = None,
    bridged: np.ndarray | None = None,
    flags: list[str] | tuple[str, ...] = (),
) -> Measurement:
    """Reference, lesions and all numbers of a course (N, 2) with edges (N, 2) and diameters (N,), all px."""
    arc = arc_length(line)
    bridged = np.zeros(len(line), bool) if bridged is None else bridged
    if reference_px is None:
        reference, spans = _find_reference(arc, diameter)
    else:
        reference = reference_px
        spans = find_lesions(arc, diameter, reference, np.ones(len(arc), bool))
    lesions = tuple(_lesion_of(span, arc, diameter, reference) for span in spans)
    said = (*flags, *_flags(arc, lesions, bridged), *(calibration.notes if calibration else _no_calibration()))
    return Measurement(
        line, left, right, arc, diameter, reference, bridged, lesions, calibration, said
    )


def with_lesion(measured: Measurement, start: int, mld: int, end: int) -> Measurement:
    """The same vessel with one lesion, whose places somebody has chosen, in place of those that were found."""
    span = Span(min(start, end), mld, max(start, end))
    return replace(measured, lesions=(_lesion_of(span, measured.arc_px, measured.diameter_px, measured.reference_px),))


def _check_area(diameter: np.ndarray, lumen: Lumen) -> list[str]:
    """QcaError for a line; a flag where much of the mask is not the vessel that was measured."""
    width = float(np.median(diameter))
    if width < LEAST_WIDTH_PX:
        raise QcaError(
            f"the lumen is {width:.1f} px wide: a line has no diameter. Give the lumen's mask, not its centreline, or "
            "a picture with smaller pixels"
        )
    share = 1 - diameter.sum() * STEP_PX / np.count_nonzero(lumen.field >= LEVEL)
    if share <= OFF_COURSE:
        return []
    return [f"{share:.0%} of the mask is not the measured vessel: does it hold another one?"]


def _through_the_middle(line: np.ndarray, offsets: Offsets, lumen: Lumen) -> np.ndarray:
    """The line (N, 2) moved to the middle between its edges; its ends, where a cut pulls the middle, run straight."""
    width = offsets.left + offsets.right
    if not np.isfinite(width).any():
        return line
    width = np.where(np.isfinite(width), width, np.nanmedian(width))
    inner = np.flatnonzero(inner_part(arc_length(line), width, END_WIDTHS))
    part = slice(inner[0], inner[-1] + 1)
    between = offsets._replace(left=offsets.left[part], right=offsets.right[part], bridged=offsets.bridged[part])
    middle = line[part] + middle_of(between)[:, None] * normals(line)[part]
    return extend_to_ends(smooth_line(middle, width[part]), lumen)


def _find_reference(arc: np.ndarray, diameter: np.ndarray) -> tuple[np.ndarray, list[Span]]:
    """Reference (N,) and lesions, each from the other: first by the falling envelope, then by the healthy parts."""
    width = float(np.median(diameter))
    inner = inner_part(arc, diameter, END_WIDTHS)  # bridged places too: a short vessel may have no other
    taper = fit_taper(arc, diameter, inner)
    near = int(width * (len(arc) - 1) / arc[-1])
    steady = opened(diameter, max(3, int(RECOVERED_WIDTHS * near) | 1), near)
    envelope = falling_envelope(steady, taper, inner)
    spans = find_lesions(arc, diameter, envelope, inner)
    reference = envelope
    for span in spans:
        reference = bridge_reference(arc, diameter, reference, span.start, span.mld, span.end, inner)
    spans = find_lesions(arc, diameter, reference, inner)
    for _ in range(2):
        healthy = inner & (diameter > (1 - LEAST_NARROWING) * envelope) & (diameter < (1 + MOST_ABOVE) * taper)
        for span in spans:
            if diameter[span.mld] < (1 - LEAST_NARROWING) * reference[span.mld]:
                margin = BESIDE_WIDTHS * width
                healthy &= (arc < arc[span.start] - margin) | (arc > arc[span.end] + margin)
        reference = interpolate_reference(arc, diameter, envelope, taper, healthy)
        spans = find_lesions(arc, diameter, reference, inner)
    return reference, spans


def _lesion_of(span: Span, arc: np.ndarray, diameter: np.ndarray, reference: np.ndarray) -> Lesion:
    return Lesion(
        *span, mld_px=float(diameter[span.mld]), reference_px=float(reference[span.mld]),
        length_px=float(arc[span.end] - arc[span.start]),
    )


def _flags(arc: np.ndarray, lesions: tuple[Lesion, ...], bridged: np.ndarray) -> list[str]:
    worst, said = lesions[0], []
    if worst.stenosis_pct < 100 * LEAST_NARROWING:
        said.append(f"no lesion: the narrowest place is {worst.stenosis_pct:.0f} % below its reference")
    for name, index, end in (("proximal", worst.start, 0), ("distal", worst.end, len(arc) - 1)):
        if abs(arc[index] - arc[end]) < END_WIDTHS * worst.reference_px:
            said.append(f"the lesion reaches the {name} end: the reference there is a guess by the other side")
    if worst.mld_px < FINEST_PX:
        said.append(f"the lumen is {worst.mld_px:.1f} px wide at its narrowest: below {FINEST_PX:g} px it is uncertain")
    if bridged[worst.start : worst.end + 1].any():
        said.append("a side branch leaves at the lesion: its edge was drawn across the mouth")
    return said


def _no_calibration() -> tuple[str, ...]:
    return ("no calibration: pixels and ratios only",)


def _check_line(points: np.ndarray) -> None:
    points = np.asarray(points)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 10 or not np.isfinite(points).all():
        raise QcaError(f"a line of shape {list(points.shape)}; allowed: 10 or more finite points (x, y), [N, 2]")
