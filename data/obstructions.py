"""The label of phase 3: the obstruction that an analyst measured, from the contours of one segment.

    label = obstruction_of_row(row)                     # a row of data.schema.load_table
    label.is_positive(threshold_pct=50), label.box_px, label.mld_px, GRADES[label.grade].name
    known = known_pixels(segment, vessels)              # where the label may be believed to say "nothing"

Medis draws the lumen's edges and the "ideal" edges of the vessel as it was when healthy; the plaque lies
between them. Only the analysed segment is annotated: what lies elsewhere is unknown, not healthy.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from scipy.spatial.distance import cdist

from data.anatomy import arc_length
from data.contours import STENOSIS_DISAGREES_POINTS, Contours, read_contours
from data.masks import fill_tube, read_mask


class Grade(NamedTuple):
    """A grade of diameter stenosis: from so many %DS on, up to the next grade."""

    name: str
    from_pct: float


GRADES = (
    Grade("minimal", -math.inf), Grade("mild", 30.0), Grade("moderate", 50.0), Grade("severe", 70.0),
    Grade("(sub)total", 99.0),
)
POSITIVE_FROM_PCT = 50.0
# The points that Medis measures, by the start of their keys, and what they are called in warnings.
PLACES = {"MLD": "MLD point", "lesion_start": "start of the lesion", "lesion_end": "end of the lesion"}

EDGE_PX = 1.0  # an edge is traced to about a pixel: a point so far beyond the wall may still be on the vessel
# Counting from 0 or 1, rounding and another sampling of the centreline move a place by one or two of 300 to
# 400 points, 0.1 mm each; a place a millimetre away is another one.
PLACE_MM = 1.0
LENGTH_SHARE = 0.1  # a smoothed path through a winding lesion is some percent shorter than the centreline
DIAMETER_MM = 0.3  # the largest error of ten QCA systems on phantom lumens of 0.5 to 1.9 mm was 0.31 mm
# What writing a number with one decimal, or as a whole one, can change.
ROUNDING = {"MLD_mm": 0.1, "diameter_stenosis_pct": STENOSIS_DISAGREES_POINTS, "lesion_length_mm": 1.0}
LEAST_NARROWING = 0.05  # of the healthy diameter, 10 to 20 px: less is lost in edges traced to a pixel
MATCHING_REACH = 0.1  # of the length: where a vessel crosses itself, the nearest point may be another stretch
# A main artery is about 10 of 512 px wide: a label drawn next to its vessel is covered, a plaque beside the
# lumen too, and a gap of the label at a tight lesion closes from both sides.
MARGIN_SHARE = 0.02


@dataclass(frozen=True)
class Obstruction:
    """The obstruction of the analysed segment in a frame of (H, W); points are (x, y) px, x right, y down.

    region: bool (H, W), the plaque: inside the ideal edges, outside the lumen's, between the lesion's start
    and end. It may be thin, one-sided or, without plaque, empty. section: bool (H, W), the narrowed vessel:
    all between the ideal edges from start to end, lumen and plaque. box_px: (x0, y0, x1, y1), the outermost
    points of the section's edges, clipped to the pixel centres of the frame. It is the section's box, not the
    plaque's: the plaque thins to nothing at its ends, so the box of its pixels would hang on rounding, and
    what detectors and ARCADE's polygons mark is the narrowed vessel.

    mld_px: the point of the smallest diameter. start_index < end_index, mld_index: the nearest points of the
    centreline. stenosis_pct, mld_mm, reference_mm (interpolated RVD), length_mm: as measured by the analyst,
    the length along the centreline where the file has none.
    """

    region: np.ndarray
    section: np.ndarray
    box_px: tuple[float, float, float, float]
    mld_px: tuple[float, float]
    start_index: int
    end_index: int
    mld_index: int
    stenosis_pct: float
    mld_mm: float
    reference_mm: float
    length_mm: float

    @property
    def grade(self) -> int:
        """Index into `GRADES`."""
        return grade_of(self.stenosis_pct)

    def is_positive(self, threshold_pct: float = POSITIVE_FROM_PCT) -> bool:
        """Whether it is one to find: measured so severe, whatever the phase, and in the frame."""
        return self.stenosis_pct >= threshold_pct and bool(self.section.any())


def grade_of(stenosis_pct: float) -> int:
    """The index into `GRADES` of a diameter stenosis in percent."""
    return sum(stenosis_pct >= grade.from_pct for grade in GRADES) - 1


def obstruction_of_row(row: Mapping) -> Obstruction:
    """The label of a row of `data.schema.load_table`; DataError, naming the file, when one cannot be read."""
    size = read_mask(row["vessel_mask_actual_path"]).shape  # the frame's own: data.check sees to it
    return obstruction_of(read_contours(row["contours_path"]), size)


def obstruction_of(contours: Contours, size: tuple[int, int]) -> Obstruction:
    """The label from one contours file, for a frame of `size` = (height, width).

    A place that is missing, or lies off the vessel, is found in another way. The MLD: MLD_centerline_index,
    else where the lumen is narrowest by its ideal edges. Start and end of the lesion, also when they are one
    point: the stretch about the MLD in which the lumen is narrower than the ideal edges by more than
    `LEAST_NARROWING`. Start and end in the wrong order are swapped.
    """
    vessel = _trace(contours)
    start, end, mld = _find_lesion(contours, vessel)
    walls = [wall[start : end + 1] for wall in (vessel.ideal_left, vessel.ideal_right)]
    section = _fill_between(*walls, size)
    both, corner = np.concatenate(walls), np.array(size[::-1]) - 1
    box = np.clip([both.min(axis=0), both.max(axis=0)], 0, corner).ravel()
    given = contours.measurements
    point = _point(contours, "MLD") if "MLD" in _places(contours, vessel)[0] else vessel.line[mld]
    length_mm = given["lesion_length_mm"]
    if math.isnan(length_mm):
        length_mm = float(vessel.arc_mm[end] - vessel.arc_mm[start])
    return Obstruction(
        region=section & ~_fill_between(vessel.left, vessel.right, size), section=section,
        box_px=tuple(box.tolist()), mld_px=tuple(point.tolist()),
        start_index=start, end_index=end, mld_index=mld,
        stenosis_pct=given["diameter_stenosis_pct"], mld_mm=given["MLD_mm"],
        reference_mm=given["interpolated_RVD_mm"], length_mm=length_mm,
    )


def known_pixels(
    segment: np.ndarray, vessels: np.ndarray, margin_share: float = MARGIN_SHARE
) -> np.ndarray:
    """Where it is known whether there is an obstruction, bool (H, W): all but vessels that were not analysed.

    segment: bool (H, W), the analysed segment, always known; its mask is the lumen, so join it with a label's
    `section` for the plaque. vessels: bool (H, W), all vessels, DeepSA's label at the frame's size. Vessel
    farther than the margin, a share of the frame's longer side, from the segment is not of it, and is unknown
    with as much around it; nearer it is the segment itself, which DeepSA drew wider or beside it.
    """
    margin_px = margin_share * max(segment.shape)
    others = vessels & (_distance_to(segment) > margin_px)
    return _distance_to(others) > margin_px


def lesion_contradictions(contours: Contours) -> list[str]:
    """What does not fit together of the lesion's places, its length and the edges, in words with values."""
    vessel = _trace(contours)
    places, said = _places(contours, vessel)
    given, arc_mm = contours.measurements, vessel.arc_mm
    start, end, mld = (places.get(name) for name in ("lesion_start", "lesion_end", "MLD"))
    index = given["MLD_centerline_index"]
    if mld is not None and abs(arc_mm[int(np.nan_to_num(index, nan=mld))] - arc_mm[mld]) > PLACE_MM:
        said.append(f"MLD_centerline_index is {index:g}, but the MLD point lies at index {mld}")
    if start is not None and end is not None:
        said += _lesion_line_contradictions(start, end, mld, arc_mm, given["lesion_length_mm"])
    first, last, at = _find_lesion(contours, vessel)
    seen = vessel.lumen_mm[at], vessel.lumen_mm[first : last + 1].min()
    if min(abs(given["MLD_mm"] - diameter) for diameter in seen) > DIAMETER_MM:
        said.append(f"MLD by the edges is {seen[0]:.2f} mm at its place and {seen[1]:.2f} mm where the "
                    f"lesion is narrowest, but MLD_mm is {given['MLD_mm']:.2f}")
    return said


def column_contradictions(row: Mapping, contours: Contours) -> dict[str, str]:
    """The CSV's columns of measurements that disagree with the contours file, and what is said of each."""
    return {
        name: f"the contours file says {contours.measurements[name]:g}, which is used"
        for name, rounding in ROUNDING.items()
        if abs(row.get(name, math.nan) - contours.measurements[name]) > rounding
    }


def _lesion_line_contradictions(start, end, mld, arc_mm, length_mm) -> list[str]:
    """Of start, end and MLD (None: not known) as indices into `arc_mm` (N,), and the length as measured."""
    said, (first, last) = [], sorted((start, end))
    if start > end:
        said.append(f"lesion runs backwards: it starts at index {start} and ends at {end}")
    if mld is not None and max(arc_mm[first] - arc_mm[mld], arc_mm[mld] - arc_mm[last]) > PLACE_MM:
        said.append(f"MLD outside the lesion: it is at index {mld}, the lesion from {first} to {last}")
    along_mm = arc_mm[last] - arc_mm[first]
    if abs(length_mm - along_mm) > max(PLACE_MM, LENGTH_SHARE * along_mm):
        said.append(f"lesion_length_mm is {length_mm:.1f}, but from its start to its end the centreline "
                    f"measures {along_mm:.1f} mm")
    return said


@dataclass(frozen=True)
class _Vessel:
    """The segment cut across at the N points of its centreline: edges (x, y) px (N, 2), the rest mm (N,)."""

    line: np.ndarray
    left: np.ndarray
    right: np.ndarray
    ideal_left: np.ndarray
    ideal_right: np.ndarray
    arc_mm: np.ndarray
    lumen_mm: np.ndarray
    healthy_mm: np.ndarray


def _trace(contours: Contours) -> _Vessel:
    line, px_per_mm = contours.centerline, contours.calibration["scale_factor"]
    left, right, lumen_px = cut_across(line, contours.left_edge, contours.right_edge)
    *ideal, healthy_px = cut_across(line, contours.ideal_left_edge, contours.ideal_right_edge)
    return _Vessel(line, left, right, *ideal, arc_mm=arc_length(line) / px_per_mm,
                   lumen_mm=lumen_px / px_per_mm, healthy_mm=healthy_px / px_per_mm)


def cut_across(line, left_edge, right_edge) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both edges beside each of the centreline's N points (N, 2), and the shortest way across there (N,)."""
    left, right = _beside(line, left_edge), _beside(line, right_edge)
    ways = (np.linalg.norm(left - right, axis=1), _distances(left, right_edge, line).min(axis=1),
            _distances(right, left_edge, line).min(axis=1))
    return left, right, np.min(ways, axis=0)


def _beside(line: np.ndarray, edge: np.ndarray) -> np.ndarray:
    """The point of an edge (M, 2) beside each point of the centreline (N, 2), (N, 2).

    An edge need not have as many points as the centreline, nor at the same places. Each of its points belongs
    to the nearest one of the centreline. Shares of the arc length alone would cut
    a bend askew, since its outer edge is longer: 60 rows of the phantom, their edges sampled anew, then had a
    third more diameter at the MLD (mean); so it is 1 %.
    """
    line_share = _share(line)
    share, first = np.unique(line_share[_distances(line, edge, line).argmin(axis=0)], return_index=True)
    return np.stack([np.interp(line_share, share, edge[first, axis]) for axis in (0, 1)], axis=1)


def _distances(points: np.ndarray, edge: np.ndarray, line: np.ndarray) -> np.ndarray:
    """Distances (N, M) in px from points beside the centreline's to an edge's; infinite out of reach."""
    away = cdist(points, edge)
    away[np.abs(_share(line)[:, None] - _share(edge)) > MATCHING_REACH] = np.inf
    return away


def _share(line: np.ndarray) -> np.ndarray:
    """Distance along a line (n, 2) from its start as a share of its length, (n,)."""
    arc = arc_length(line)
    return arc / max(arc[-1], 1e-9)


def _point(contours: Contours, name: str) -> np.ndarray:
    return np.array([contours.measurements[f"{name}_{axis}_coord"] for axis in "xy"])


def _places(contours: Contours, vessel: _Vessel) -> tuple[dict[str, int], list[str]]:
    """Index into the centreline of each of `PLACES` that the file has on the vessel; what is said of others.

    On the vessel: no farther from the nearest point of the centreline than the wall is there, with an edge's
    own uncertainty and half a step of the centreline.
    """
    places, said = {}, []
    px_per_mm = contours.calibration["scale_factor"]
    step_px = vessel.arc_mm[-1] * px_per_mm / (len(vessel.line) - 1)
    for name, words in PLACES.items():
        away_px = np.linalg.norm(vessel.line - _point(contours, name), axis=1)
        if np.isnan(away_px).any():
            continue
        index = int(away_px.argmin())
        allowed_px = vessel.healthy_mm[index] * px_per_mm / 2 + EDGE_PX + step_px / 2
        if away_px[index] <= allowed_px:
            places[name] = index
        else:
            said.append(f"{words} lies {away_px[index]:.1f} px off the centreline, outside the vessel "
                        f"({allowed_px:.1f} px), and is not used")
    return places, said


def _find_lesion(contours: Contours, vessel: _Vessel) -> tuple[int, int, int]:
    """Start, end and MLD as indices into the centreline, as `obstruction_of` says."""
    places, index = _places(contours, vessel)[0], contours.measurements["MLD_centerline_index"]
    start, end, mld = (places.get(name) for name in ("lesion_start", "lesion_end", "MLD"))
    if start == end:  # also where neither is known
        start = end = None
    ratio = vessel.lumen_mm / np.maximum(vessel.healthy_mm, 1e-9)
    if mld is None and not math.isnan(index):
        mld = int(index)
    elif mld is None:
        first, last = sorted((start or 0, len(ratio) - 1 if end is None else end))
        mld = first + int(ratio[first : last + 1].argmin())
    healthy = np.flatnonzero(ratio >= 1 - LEAST_NARROWING)
    if start is None:
        start = int(healthy[healthy < mld].max(initial=0))
    if end is None:
        end = int(healthy[healthy > mld].min(initial=len(ratio) - 1))
    return min(start, end), max(start, end), mld


def _fill_between(left: np.ndarray, right: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bool `size`: the pixels between two edges (n, 2), see `fill_tube`."""
    mask = np.zeros(size, bool)
    fill_tube(mask, left, right, True)
    return mask


def _distance_to(mask: np.ndarray) -> np.ndarray:
    """Distance of each pixel (H, W) to the nearest true one in px; infinite when there is none."""
    if not mask.any():
        return np.full(mask.shape, np.inf)
    return cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
