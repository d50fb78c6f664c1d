"""Length of contrast that each X-ray passes, by projecting small volumes of the lumen onto the detector.

The lumen is a chain of discs. Each disc is cut into strips; a strip at distance t from the centre, of width dt, holds
the volume 2 sqrt(r^2 - t^2) dt ds. It is projected in perspective and shared between the four nearest pixels. Volume
per pixel area at that depth is the mean path length in the pixel: through a cylinder 2 sqrt(r^2 - d^2) / sin(angle
between ray and axis), finite end-on, and anti-aliased by construction.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from phantom.carm import CArm
from phantom.growth import unit
from phantom.tree import neighbours

STEP_PX = 0.6  # spacing of volumes in both directions; a bilinear share of 1 px hides it


@dataclass(frozen=True)
class Strips:
    """How discs are cut: for each strip its disc (index), position across (-1..1) and share of the disc's width."""

    disc: np.ndarray
    across: np.ndarray
    width: np.ndarray


def cut_strips(radius_px: np.ndarray, step_px: float = STEP_PX) -> Strips:
    """Strips about `step_px` wide, at least three a disc. radius_px: (P,)."""
    count = np.maximum(3, np.ceil(2 * radius_px / step_px)).astype(np.int64)
    disc = np.repeat(np.arange(len(count)), count)
    number = np.arange(len(disc)) - np.repeat(np.cumsum(count) - count, count)
    width = 2.0 / count[disc]
    return Strips(disc, ((number + 0.5) * width - 1).astype(np.float32), width.astype(np.float32))


def path_length(center_mm: np.ndarray, radius_mm: np.ndarray, line: np.ndarray, weight: np.ndarray, carm: CArm,
                strips: Strips | None = None) -> np.ndarray:
    """Path length of every ray inside the vessels, in mm, overlaps added: (size, size) float32.

    center_mm (P, 3), radius_mm (P,), line (P,): see `Tree`. weight (P,): concentration of contrast, 0-1.
    """
    image_px, px_per_mm = carm.project(center_mm)
    strips = cut_strips(radius_mm * px_per_mm) if strips is None else strips
    tangent, ds_mm, bend = _course(center_mm, line)
    across, along = _disc_axes(tangent, carm.rays(center_mm))
    to_image = carm.axes()[:2] * np.array([[1.0], [-1.0]])
    across_px = (across @ to_image.T) * px_per_mm[:, None]
    along_px = (along @ to_image.T) * px_per_mm[:, None]

    disc, t = strips.disc, strips.across
    half_chord = np.sqrt(1 - t * t) * radius_mm[disc]
    offset = t * radius_mm[disc]
    # Two volumes a strip, in front and behind, stand for its extent along the ray (two-point Gauss rule); odd and
    # even discs take one each.
    depth = half_chord * np.where(disc % 2 == 0, 1, -1) / np.sqrt(3)
    x = image_px[disc, 0] + offset * across_px[disc, 0] + depth * along_px[disc, 0]
    y = image_px[disc, 1] + offset * across_px[disc, 1] + depth * along_px[disc, 1]
    curved = np.maximum(1 - offset * np.einsum("ij,ij->i", bend, across)[disc], 0)
    volume_mm3 = 2 * half_chord * strips.width * radius_mm[disc] * ds_mm[disc] * curved
    amount = volume_mm3 * (weight * px_per_mm**2)[disc]
    return share_between_pixels(x, y, amount, carm.size_px)


def share_between_pixels(x: np.ndarray, y: np.ndarray, amount: np.ndarray, size: int) -> np.ndarray:
    """Add amounts to the four pixels around each point, bilinearly; what falls outside is lost. (size, size) float32."""
    inside = (x > -1) & (x < size) & (y > -1) & (y < size)
    x, y, amount = x[inside] + 1, y[inside] + 1, amount[inside]
    column, row = x.astype(np.int64), y.astype(np.int64)
    fx, fy = x - column, y - row
    first = row * (size + 2) + column
    total = np.zeros((size + 2) ** 2)
    for step, share in ((0, (1 - fx) * (1 - fy)), (1, fx * (1 - fy)), (size + 2, (1 - fx) * fy), (size + 3, fx * fy)):
        total += np.bincount(first + step, amount * share, minlength=len(total))
    return total.reshape(size + 2, size + 2)[1:-1, 1:-1].astype(np.float32)


def outline(center_mm: np.ndarray, radius_mm: np.ndarray, line: np.ndarray, carm: CArm) -> tuple[np.ndarray, np.ndarray]:
    """Left and right edges of vessels in the image: two (P, 2) arrays of (x, y) px, left seen along the flow."""
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
    """Two axes of each disc: across the vessel in the image (to its right, along the flow), and the other one."""
    across = unit(np.cross(tangent, rays))
    return across, np.cross(tangent, across)
