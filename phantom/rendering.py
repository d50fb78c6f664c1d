"""Length of contrast that each X-ray passes, by projecting small volumes of the lumen onto the detector.

The lumen is a chain of discs. Each disc is cut into strips across the image; a strip from t to u holds the
volume ds * integral of 2 sqrt(r^2 - t^2) dt. It is projected in perspective and shared between the four
nearest pixels. Volume per pixel area at that depth is the mean path length in the pixel: through a cylinder 2
sqrt(r^2 - d^2) / sin(angle between ray and axis), finite end-on, and anti-aliased by construction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from data.anatomy import unit
from phantom.carm import CArm
from phantom.tree import neighbours

# Spacing of the volumes in both directions. Shared bilinearly, rows at exactly half a pixel leave no ripple.
STEP_PX = 0.5


@dataclass(frozen=True)
class Strips:
    """How discs are cut. For each strip: its disc (index), its place across the disc (-1 to 1), and its area
    where the disc's radius is 1 (all strips of a disc add up to pi).
    """

    disc: np.ndarray
    across: np.ndarray
    area: np.ndarray


def cut_strips(radius_px: np.ndarray, step_px: float = STEP_PX) -> Strips:
    """Strips `step_px` wide, the outermost ones narrower. radius_px: (P,)."""
    count = np.maximum(2, np.ceil(2 * radius_px / step_px)).astype(np.int64)
    disc = np.repeat(np.arange(len(count)), count)
    number = np.arange(len(disc)) - np.repeat(np.cumsum(count) - count, count)
    step = step_px / radius_px[disc]
    start = np.clip((number - count[disc] / 2) * step, -1, 1)
    end = np.clip((number + 1 - count[disc] / 2) * step, -1, 1)
    return Strips(disc, _single((start + end) / 2), _single(_area_below(end) - _area_below(start)))


def lumen_strips(center_mm: np.ndarray, radius_mm: np.ndarray, line: np.ndarray, carm: CArm) -> Strips:
    """Strips of all vessels, less those with which a branch starts inside its parent's lumen.

    A branch starts on its parent's centreline, so what lies inside both would be counted twice. Only its
    leading stretch is looked at: vessels that cross in the image, or touch further on, are separate and add.
    """
    strips = cut_strips(radius_mm * carm.project(center_mm)[1])
    tangent, _, _ = _course(center_mm, line)
    across, along = _disc_axes(tangent, carm.rays(center_mm))
    first_strip = np.searchsorted(strips.disc, np.arange(len(line) + 1))
    for start in np.flatnonzero(np.diff(line, prepend=line[0])):
        parent = _parent(center_mm, radius_mm, line, start)
        if parent is None:
            continue
        tree = cKDTree(center_mm[parent])
        own = np.arange(start, np.searchsorted(line, line[start], side="right"))
        away, near = tree.query(center_mm[own])
        outside = away > radius_mm[parent[near]] + radius_mm[own]
        lead = int(outside.argmax()) if outside.any() else len(own)
        part = slice(first_strip[start], first_strip[start + lead])
        disc, t = strips.disc[part], strips.across[part]
        side = np.where(disc % 2 == 0, 1, -1) * np.sqrt((1 - t * t) / 3)
        turned = t[:, None] * across[disc] + side[:, None] * along[disc]
        places = center_mm[disc] + radius_mm[disc, None] * turned
        away, near = tree.query(places)
        within = (near > 0) & (near < len(parent) - 1)  # a parent ends in a flat disc: nothing beyond it
        strips.area[part][within & (away < radius_mm[parent[near]])] = 0
    return strips


def _parent(center_mm: np.ndarray, radius_mm: np.ndarray, line: np.ndarray, start: int) -> np.ndarray | None:
    """Samples of the earlier, wider line in whose lumen a line's first sample `start` lies, or None."""
    away = np.linalg.norm(center_mm[:start] - center_mm[start], axis=1)
    nearest = int(away.argmin())
    if away[nearest] >= radius_mm[nearest] or radius_mm[nearest] < radius_mm[start]:
        return None
    return np.flatnonzero(line == line[nearest])


def _single(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)  # halves the memory that a frame touches; 1e-4 px at 1000 px


def _area_below(t: np.ndarray) -> np.ndarray:
    """Area of the unit disc between its middle and a cut at t: the integral of 2 sqrt(1 - t^2)."""
    return t * np.sqrt(1 - t * t) + np.arcsin(t)


def path_length(
    center_mm: np.ndarray,
    radius_mm: np.ndarray,
    line: np.ndarray,
    weight: np.ndarray,
    carm: CArm,
    strips: Strips | None = None,
) -> np.ndarray:
    """Path length of every ray inside the vessels, in mm, separate vessels added: (size, size) float32.

    center_mm (P, 3), radius_mm (P,), line (P,): see `Tree`. weight (P,): concentration of contrast, 0-1.
    strips: `lumen_strips` of the same vessels at rest, to save the time for each frame of a cine.
    """
    image_px, px_per_mm = carm.project(center_mm)
    strips = lumen_strips(center_mm, radius_mm, line, carm) if strips is None else strips
    tangent, ds_mm, bend = _course(center_mm, line)
    across, along = _disc_axes(tangent, carm.rays(center_mm))
    to_image = carm.axes()[:2] * np.array([[1.0], [-1.0]])
    across_px = (across @ to_image.T) * px_per_mm[:, None]
    along_px = (along @ to_image.T) * px_per_mm[:, None]

    disc, t = strips.disc, strips.across
    offset = t * _single(radius_mm)[disc]
    # Two volumes a strip, in front and behind, stand for its extent along the ray (two-point Gauss rule); odd
    # and even discs take one each.
    side = _single(radius_mm * np.where(np.arange(len(line)) % 2 == 0, 1, -1) / np.sqrt(3))
    depth = np.sqrt(1 - t * t) * side[disc]
    x, y = (
        _single(image_px[:, i])[disc]
        + offset * _single(across_px[:, i])[disc]
        + depth * _single(along_px[:, i])[disc]
        for i in (0, 1)
    )
    curved = np.maximum(1 - offset * _single(np.einsum("ij,ij->i", bend, across))[disc], 0)
    amount = strips.area * curved * _single(radius_mm**2 * ds_mm * weight * px_per_mm**2)[disc]
    return share_between_pixels(x, y, amount, carm.size_px)


def share_between_pixels(x: np.ndarray, y: np.ndarray, amount: np.ndarray, size: int) -> np.ndarray:
    """Share amounts bilinearly between the four pixels around each point. (size, size) float32."""
    x, y = x + 1, y + 1  # a border of one pixel takes what hangs over
    inside = (x >= 0) & (x < size + 1) & (y >= 0) & (y < size + 1)
    x, y, amount = x[inside], y[inside], amount[inside]
    column, row = x.astype(np.int64), y.astype(np.int64)
    fx, fy = x - column, y - row
    first = row * (size + 2) + column
    total = np.zeros((size + 2) ** 2)
    right, left = amount * fx, amount * (1 - fx)
    for step, share in (
        (0, left * (1 - fy)),
        (1, right * (1 - fy)),
        (size + 2, left * fy),
        (size + 3, right * fy),
    ):
        total += np.bincount(first + step, share, minlength=len(total))
    return total.reshape(size + 2, size + 2)[1:-1, 1:-1].astype(np.float32)


def outline(
    center_mm: np.ndarray, radius_mm: np.ndarray, line: np.ndarray, carm: CArm
) -> tuple[np.ndarray, np.ndarray]:
    """Left and right edges of vessels, seen along the flow: two (P, 2) arrays of (x, y) px."""
    tangent, _, _ = _course(center_mm, line)
    across, _ = _disc_axes(tangent, carm.rays(center_mm))
    left, _ = carm.project(center_mm - radius_mm[:, None] * across)
    right, _ = carm.project(center_mm + radius_mm[:, None] * across)
    return left, right


def _course(points: np.ndarray, line: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit tangent (P, 3), length that each sample stands for (P,), and curvature vector (P, 3) in 1/mm."""
    before, after = neighbours(line)
    chord = points[after] - points[before]
    tangent = unit(chord)
    span = np.maximum(np.linalg.norm(chord, axis=1), 1e-6)
    bend = (tangent[after] - tangent[before]) / span[:, None]
    return tangent, span / 2, bend


def _disc_axes(tangent: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two axes of each disc: across the vessel in the image, to the right along the flow; and the other."""
    across = unit(np.cross(tangent, rays))
    return across, np.cross(tangent, across)
