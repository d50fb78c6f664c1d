"""Vessels whose diameters are known because they are drawn from formulas: for the tests of qca/."""

import numpy as np

from phantom.masks import fill_tube

SUPERSAMPLING = 8


def edges_of(line, width_px, shift_px=0.0):
    """Left and right edge (n, 2) of a vessel along a line (n, 2), its lumen moved sideways by `shift_px`."""
    along = np.gradient(line, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    width, shift = (np.broadcast_to(value, len(line))[:, None] for value in (width_px, shift_px))
    return line + (shift - width / 2) * across, line + (shift + width / 2) * across


def draw_tubes(tubes, size=(160, 160)):
    """coverage float32 (H, W) and mask bool (H, W) of all pixels between the edges of any tube."""
    fine = np.zeros(np.multiply(size, SUPERSAMPLING), bool)
    mask = np.zeros(size, bool)
    for left, right in tubes:
        fill_tube(fine, *((edge + 0.5) * SUPERSAMPLING - 0.5 for edge in (left, right)), True)
        fill_tube(mask, left, right, True)
    coverage = fine.reshape(size[0], SUPERSAMPLING, size[1], SUPERSAMPLING).mean(axis=(1, 3), dtype=np.float32)
    return coverage, mask


def straight_line(angle_deg=20.0, length_px=110.0, middle=(80.3, 79.6), points=441):
    """A line (n, 2) of (x, y) px through `middle`."""
    t = np.linspace(-length_px / 2, length_px / 2, points)
    angle = np.radians(angle_deg)
    return np.array(middle) + t[:, None] * np.array([np.cos(angle), np.sin(angle)])


def sine_line(amplitude_px=12.0, wavelength_px=90.0, length_px=130.0, points=600):
    """A winding line (n, 2) of (x, y) px."""
    x = np.linspace(0, length_px, points)
    return np.stack([x + 14.7, 80.2 + amplitude_px * np.sin(2 * np.pi * x / wavelength_px)], axis=1)


def narrowed(line, width_px, stenosis_pct, length_px, at=0.5):
    """Widths (n,) of a vessel with a cosine-shaped stenosis whose middle lies at a share of its length."""
    arc = np.append(0, np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1)))
    away = np.abs(arc - at * arc[-1]) / (length_px / 2)
    bell = np.where(away < 1, 0.5 + 0.5 * np.cos(np.pi * np.minimum(away, 1)), 0)
    return width_px * (1 - stenosis_pct / 100 * bell)
