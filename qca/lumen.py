"""What a lumen mask must be to be measured: one piece, no loop, wider than a line; and the picture of its edges."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter, label
from scipy.spatial import cKDTree
from skimage.draw import line as draw_line
from skimage.morphology import skeletonize

from qca.errors import QcaError

LEVEL = 0.5  # of coverage or probability: where the edge is
# Where a map's lumen is thinner than a pixel its coverage stays below `LEVEL`; its course is still seen at this one.
FAINT_LEVEL = 0.2
SPECK_SHARE = 0.03  # of the pixels: what such a piece adds to a segment is noise of a mask
GAP_WIDTHS = 1.0  # a gap no longer than the vessel is wide is one of the mask, or of a lumen too thin for it
SMALL_HOLE_PX = 4
HOLE_SHARE = 0.01  # of the pixels: a larger hole is a loop of the vessel
LEAST_PIXELS = 20
MARGIN_PX = 8  # around the lumen: the edges' profiles end outside of it
# A mask's stairs are smoothed by as little as makes the edge's place independent of the angle. The zero of its signed
# distance, with half a pixel's correction, is no better: on 24 tubes of 2.5-14 px at random angles the mean width is
# 0.03 px too small by it and 0.02 px by this (SD 0.03 px by both), near the axes 0.07 and 0.06 px.
MASK_BLUR_PX = 0.7
# SD of single points of an edge, at least: of a map by its 8-bit steps and like, of a mask by its pixels' stairs, which
# several points in a row have in common.
MAP_NOISE_PX, MASK_NOISE_PX = 0.02, 0.4


class Lumen(NamedTuple):
    """A lumen to measure, cut out of its picture.

    region: bool (h, w), what the course is found in. field: float64 (h, w), share of lumen, `LEVEL` at its edge.
    corner: (x, y) px of its first pixel in the picture. radius_px: float64 (h, w), distance to the wall. noise_px: SD
    that single points of its edge have at least. flags: what was mended or is odd. is_mask: it was given as 0 and 1.
    """

    region: np.ndarray
    field: np.ndarray
    corner: np.ndarray
    radius_px: np.ndarray
    noise_px: float
    flags: tuple[str, ...]
    is_mask: bool


def prepare_lumen(given: np.ndarray) -> Lumen:
    """Check a mask, bool or 0/1 or 0/255 (H, W), or a map of shares, float (H, W) in [0, 1].

    Raises QcaError for one that is empty, in pieces or a loop.
    """
    whole, is_mask = _as_field(given)
    used = whole >= FAINT_LEVEL
    if not used.any():
        raise QcaError(f"the lumen is empty: no value reaches {FAINT_LEVEL:g}. Is it the right file and channel?")
    rows, columns = (_padded(np.flatnonzero(used.any(axis=axis))) for axis in (1, 0))
    field = _cut(whole, rows, columns)
    region, flags = _find_region(field, is_mask)
    specks = int(np.count_nonzero(field >= LEVEL) - np.count_nonzero(region & (field >= LEVEL)))
    if specks:
        flags.append(f"{specks} px in specks beside the lumen were left out")
    region, holes = _without_holes(region)
    if holes.any():
        flags.append(f"{holes.sum()} px in small holes were filled")
    own_rows, own_columns = rows[region.any(axis=1)], columns[region.any(axis=0)]
    last_row, last_column = np.array(whole.shape) - 1
    if own_rows[0] == 0 or own_columns[0] == 0 or own_rows[-1] == last_row or own_columns[-1] == last_column:
        flags.append("touches the image border: the vessel may go on beyond it")
    field = np.where(holes, 1.0, field)
    # The faint surroundings of the lumen belong to its profile; pieces that were left out do not.
    field[_distance(~region) > MARGIN_PX / 2] = 0
    if is_mask:
        field = gaussian_filter(field, MASK_BLUR_PX)
    radius_px = _distance(region)
    corner = np.array([columns[0], rows[0]], float)
    noise_px = MASK_NOISE_PX if is_mask else MAP_NOISE_PX
    return Lumen(region, field, corner, radius_px, noise_px, tuple(flags), is_mask)


def _find_region(field: np.ndarray, is_mask: bool) -> tuple[np.ndarray, list[str]]:
    """The one piece of lumen, bool (h, w), and what was done to make it one; QcaError where there is none."""
    region, said = _one_piece(field, LEVEL, may_join=False)
    if region is None and not is_mask:
        region, _ = _one_piece(field, FAINT_LEVEL, may_join=False)
        said = "the lumen is interrupted at the level of its edge; fainter pixels were taken for it"
    if region is None:
        region, said = _one_piece(field, LEVEL, may_join=True)
    if region is None:
        raise QcaError(said)
    return region, [said] if said else []


def _distance(mask: np.ndarray) -> np.ndarray:
    """Distance of true pixels to the nearest false one, float64 (h, w) px."""
    return cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE).astype(np.float64)


def _as_field(given: np.ndarray) -> tuple[np.ndarray, bool]:
    """float64 (H, W) in [0, 1], and whether it holds nothing but 0 and 1."""
    given = np.asarray(given)
    if given.ndim != 2 or given.dtype.kind not in "buif" or given.size == 0:
        raise QcaError(f"a lumen of shape {list(given.shape)}, type {given.dtype}; allowed: numbers of [H, W]")
    values = given.astype(np.float64)
    if given.dtype.kind in "ui" and values.max() == 255:
        values /= 255
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
        raise QcaError(
            f"a lumen with values from {values.min():g} to {values.max():g}; allowed: a mask of 0 and 1 (or 0 and "
            "255), or a map of shares in [0, 1] (logits need a sigmoid first)"
        )
    return values, bool(((values == 0) | (values == 1)).all())


def _one_piece(field: np.ndarray, level: float, may_join: bool) -> tuple[np.ndarray | None, str]:
    """The lumen as bool (H, W) and what was done to make it one; or None and why there is not one.

    may_join: draw a pixel's breadth of lumen through short gaps between its pieces.
    """
    pieces, count = label(field >= level, structure=np.ones((3, 3)))
    sizes = np.bincount(pieces.ravel())[1:]
    if sizes.sum() < LEAST_PIXELS:
        return None, (
            f"the lumen has {sizes.sum()} px (of values from {level:g} on); allowed: at least {LEAST_PIXELS}. An "
            "empty mask cannot be measured"
        )
    large = 1 + np.flatnonzero(sizes > SPECK_SHARE * sizes.sum())
    region = np.isin(pieces, large)
    if len(large) == 1:
        return region, ""
    if len(large) == 0:
        return None, f"the lumen is in {count} specks, the largest of {sizes.max()} px: that is no vessel"
    width = 2 * float(np.median(_distance(region)[skeletonize(region)]))
    gaps = _gaps([np.argwhere(pieces == number) for number in large])
    widest = max(np.hypot(*(end - start)) for start, end in gaps)
    if not may_join or widest > GAP_WIDTHS * width:
        sizes = ", ".join(str(size) for size in sorted(sizes[large - 1].tolist(), reverse=True))
        return None, (
            f"the lumen is in {len(large)} pieces ({sizes} px), {widest:.0f} px apart, at a width of {width:.0f} px: "
            "nobody knows how they hang together. Close the gap, or measure each piece alone"
        )
    for start, end in gaps:
        region[draw_line(*start, *end)] = True
    return region, f"the lumen is interrupted over {widest:.0f} px: it is hardly a pixel wide there, if open at all"


def _gaps(pieces: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """The shortest ways (row, column) that join all pieces, arrays (n, 2) of such points, each to one before it."""
    joined, rest, gaps = pieces[0], pieces[1:], []
    while rest:
        found = [cKDTree(joined).query(piece) for piece in rest]
        nearest = int(np.argmin([away.min() for away, _ in found]))
        away, partner = found[nearest]
        gaps.append((joined[partner[away.argmin()]], rest[nearest][away.argmin()]))
        joined = np.concatenate([joined, rest.pop(nearest)])
    return gaps


def _without_holes(region: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lumen without holes, and those that were too small for a loop, bool (H, W); QcaError for a loop."""
    # The lumen hangs together over corners, so what is outside of it does not. There is room all around it.
    numbers, _ = label(~region)
    holes = (numbers > 0) & (numbers != numbers[0, 0])
    largest = np.bincount(numbers[holes]).max(initial=0)
    if largest > max(HOLE_SHARE * region.sum(), SMALL_HOLE_PX):
        raise QcaError(
            f"the lumen runs in a loop around {largest} px: its course is not one line. Cut it where the vessel "
            "crosses itself or another one"
        )
    return region | holes, holes


def _padded(used: np.ndarray) -> np.ndarray:
    return np.arange(used[0] - MARGIN_PX, used[-1] + MARGIN_PX + 1)


def _cut(values: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The part of a picture in these rows and columns; 0 beyond its border."""
    part = np.zeros((len(rows), len(columns)), values.dtype)
    inner_rows, inner_columns = ((axis >= 0) & (axis < size) for axis, size in zip((rows, columns), values.shape))
    inside = values[rows[inner_rows][:, None], columns[inner_columns]]
    part[np.ix_(inner_rows, inner_columns)] = inside
    return part
