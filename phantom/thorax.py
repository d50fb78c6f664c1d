"""What lies behind the vessels: heart shadow, lung, diaphragm, ribs, spine, tissue, metal.

Everything is opacity, the natural logarithm of how much light a ray loses, on a (size, size) image; positions
are shares of the image side, so that a frame looks alike at any size. Amounts were set by eye against eight
real frames.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from phantom.hardware import add_hardware

# Hills a side and SD of the texture, so that the energy between Gaussian blurs of 1, 2, 4 ... 32 px agrees
# with the median of eight real 512 px frames (measured 2026-11-21).
TEXTURE = ((3, 0.10), (6, 0.042), (12, 0.026), (24, 0.021), (48, 0.016), (96, 0.011))


@dataclass
class Thorax:
    """opacity: (size, size) float32. edges: curves (n, 2) of shares that a network may take for vessels."""

    opacity: np.ndarray
    edges: list[np.ndarray] = field(default_factory=list)


def draw_thorax(size: int, heart: tuple[float, float, float, float], rng: np.random.Generator) -> Thorax:
    """A random background. heart: middle x, y and half axes of the vessels' extent, as shares of the side."""
    y, x = (np.mgrid[0:size, 0:size].astype(np.float32) + 0.5) / size
    thorax = Thorax(np.zeros((size, size), np.float32))
    in_lung = _add_lung(thorax, x, y, heart, rng)
    if rng.random() < 0.6:
        _add_diaphragm(thorax, x, y, rng)
    for _ in range(int(rng.choice([0, 1, 2], p=[0.25, 0.5, 0.25]))):
        _add_ribs(thorax, x, y, in_lung, rng)
    if rng.random() < 0.45:
        _add_spine(thorax, x, y, rng)
    _add_texture(thorax, size, rng)
    _add_lung_vessels(thorax, size, in_lung, rng)
    _add_outlines(thorax, size, rng)
    add_hardware(thorax.opacity, thorax.edges, rng)
    return thorax


def smooth_noise(size: int, cells: float, rng: np.random.Generator) -> np.ndarray:
    """A smooth random field with about `cells` hills a side, SD about 1: (size, size) float32."""
    count = int(np.ceil(cells)) + 3
    grid = rng.standard_normal((count, count)).astype(np.float32)
    # Drawn small, then enlarged, where that loses nothing: an eighth of a hill is a smooth piece of it.
    small = size if cells > size / 32 else -(-size // 4)
    scale = cells / small
    matrix = np.float32([[scale, 0, 1], [0, scale, 1]])
    field = cv2.warpAffine(
        grid,
        matrix,
        (small, small),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT,
    )
    return (field if small == size else cv2.resize(field, (size, size), interpolation=cv2.INTER_LINEAR)) * 1.4


def _stretched_noise(
    size: int, cells: float, stretch: float, angle: float, rng: np.random.Generator
) -> np.ndarray:
    """Smooth noise drawn out along a direction, as the lung's vessels are. (size, size) float32."""
    noise = smooth_noise(size, cells, rng)
    c, s = np.cos(angle) / stretch, np.sin(angle)
    matrix = np.array([[c, np.sin(angle) / stretch], [-s, np.cos(angle)]])
    middle = np.full(2, size / 2)
    shift = middle - matrix @ middle
    return cv2.warpAffine(
        noise,
        np.column_stack([matrix, shift]),
        (size, size),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT,
    )


def _step(signed: np.ndarray, softness: float) -> np.ndarray:
    """0 to 1 across zero of a signed distance."""
    return 1 / (1 + np.exp(-np.clip(signed / softness, -30, 30)))


def _add_lung(thorax: Thorax, x, y, heart, rng: np.random.Generator) -> np.ndarray:
    """Air outside the heart's border is bright; the border follows the outer vessels loosely."""
    middle_x, middle_y, half_x, half_y = heart
    half_x, half_y = max(half_x, 0.3), max(half_y, 0.3)
    grow = rng.uniform(0.9, 1.4) * (1 + rng.uniform(0.02, 0.1) * smooth_noise(len(x), 2.5, rng))
    turn = rng.normal(0, 0.3)
    dx, dy = x - middle_x - rng.normal(0, 0.03), y - middle_y - rng.normal(0, 0.04)
    u, v = dx * np.cos(turn) + dy * np.sin(turn), -dx * np.sin(turn) + dy * np.cos(turn)
    radius = np.hypot(u / (half_x * grow), v / (half_y * grow))
    softness = float(rng.choice([0.01, 0.03, 0.08], p=[0.3, 0.4, 0.3]))
    side = np.radians(rng.normal(-35, 40) if rng.random() < 0.8 else rng.uniform(0, 360))
    facing = _step(
        (x - middle_x) * np.cos(side) + (y - middle_y) * np.sin(side) - rng.uniform(0.0, 0.25),
        rng.uniform(0.05, 0.15),
    )
    lung = _step(radius - 1, softness) * facing
    depth = float(rng.choice([rng.uniform(0.05, 0.3), rng.uniform(0.3, 0.8)]))
    thorax.opacity -= depth * lung * (1 + 0.12 * smooth_noise(len(x), 6, rng))
    angles = side + np.linspace(-0.9, 0.9, 60)
    rim_u = half_x * float(grow.mean()) * np.cos(angles)
    rim_v = half_y * float(grow.mean()) * np.sin(angles)
    if softness < 0.05 and depth > 0.15:
        thorax.edges.append(
            np.stack(
                [
                    middle_x + rim_u * np.cos(turn) - rim_v * np.sin(turn),
                    middle_y + rim_u * np.sin(turn) + rim_v * np.cos(turn),
                ],
                axis=1,
            )
        )
    return lung


def _add_diaphragm(thorax: Thorax, x, y, rng: np.random.Generator) -> None:
    """One or two domes: dark below, with a bright or soft border of lung above."""
    for _ in range(int(rng.integers(1, 3))):
        top, middle, width = rng.uniform(0.5, 0.98), rng.uniform(0.1, 1.0), rng.uniform(0.5, 1.4)
        tilt, depth = rng.normal(0, 0.15), rng.uniform(0.1, 0.4)
        curve = top + 0.5 * ((x - middle) / width) ** 2 * rng.uniform(0.5, 1.5) + tilt * (x - middle)
        softness = float(rng.choice([0.002, 0.005, 0.015]))
        below = _step(y - curve, softness)
        fade = np.exp(-np.maximum(y - curve, 0) / rng.uniform(0.2, 1.0))
        thorax.opacity += depth * below * (0.5 + 0.5 * fade)
        if rng.random() < 0.5:  # lung trapped above the dome
            thorax.opacity -= (
                rng.uniform(0.05, 0.3) * (1 - below) * np.exp(-np.abs(y - curve) / rng.uniform(0.01, 0.06))
            )
        row = len(x) // 2
        thorax.edges.append(np.stack([x[row, ::8], curve[row, ::8]], axis=1))


def _add_ribs(thorax: Thorax, x, y, in_lung, rng: np.random.Generator) -> None:
    """A family of parallel curved bands with darker borders; clearest over lung."""
    period, share = rng.uniform(0.12, 0.26), rng.uniform(0.35, 0.6)
    slope, bend = rng.normal(0, 0.7), rng.normal(0, 0.5)
    middle = rng.uniform(0, 1)
    curve = slope * (x - 0.5) + bend * (x - middle) ** 2
    position = (y - curve) / period + rng.uniform(0, 1) + 0.04 * smooth_noise(len(x), 4, rng)
    within = position % 1.0
    band = _step(within - 0.5 + share / 2, 0.02) * _step(0.5 + share / 2 - within, 0.02)
    rim = np.exp(-(((np.abs(within - 0.5) - share / 2) / rng.uniform(0.012, 0.05)) ** 2))
    strength = rng.uniform(0.02, 0.12) * (0.3 + 0.9 * in_lung)
    thorax.opacity += strength * (band + rng.uniform(0.2, 0.9) * rim)
    xs = np.linspace(0.02, 0.98, 60)
    offset = (rng.integers(0, 6) + 0.5 + share / 2) * period
    thorax.edges.append(np.stack([xs, slope * (xs - 0.5) + bend * (xs - middle) ** 2 + offset], axis=1))


def _add_spine(thorax: Thorax, x, y, rng: np.random.Generator) -> None:
    """A dark column with vertebrae: endplates, disc spaces, wavy outlines."""
    middle, half = float(rng.choice([rng.uniform(-0.05, 0.3), rng.uniform(0.7, 1.05)])), rng.uniform(
        0.09, 0.16
    )
    lean, period = rng.normal(0, 0.12), rng.uniform(0.17, 0.26)
    across = x - middle - lean * (y - 0.5)
    level = (
        y / period + rng.uniform(0, 1) + rng.normal(0, 0.25) * across + 0.06 * smooth_noise(len(x), 5, rng)
    )
    waist = half * (1 + 0.12 * np.cos(2 * np.pi * level))
    body = _step(waist - np.abs(across), 0.006 + 0.02 * rng.random())
    within = np.abs(level % 1.0 - 0.5)
    plates = np.exp(-(((within - 0.42) / 0.025) ** 2))
    depth = rng.uniform(0.08, 0.35)
    thorax.opacity += (
        depth
        * body
        * (1 + rng.uniform(0.1, 0.5) * plates - rng.uniform(0, 0.25) * _step(within - 0.45, 0.02))
    )
    thorax.opacity += 0.06 * body * smooth_noise(len(x), 20, rng)
    ys = np.linspace(0, 1, 50)
    thorax.edges.append(np.stack([middle + lean * (ys - 0.5) + half, ys], axis=1))


def _add_texture(thorax: Thorax, size: int, rng: np.random.Generator) -> None:
    """Tissue from coarse to fine."""
    amount = rng.uniform(0.5, 1.6)
    patches = 1 + 0.45 * np.clip(smooth_noise(size, 4, rng), -1.5, 1.5)
    for cells, strength in TEXTURE:
        layer = amount * strength * rng.uniform(0.5, 1.5) * smooth_noise(size, cells, rng)
        thorax.opacity += layer * patches if cells > 5 else layer


def _add_lung_vessels(thorax: Thorax, size: int, in_lung, rng: np.random.Generator) -> None:
    """Thin streaks, dark and bright, mostly over the lung: lines that are not coronary vessels."""
    for _ in range(int(rng.integers(2, 8))):
        field = _stretched_noise(size, rng.uniform(5, 22), rng.uniform(1.5, 5), rng.uniform(0, np.pi), rng)
        ridge = np.exp(-((field / rng.uniform(0.1, 0.4)) ** 2))
        where = np.clip(smooth_noise(size, 5, rng), 0, 1.5) * (0.6 + in_lung)
        thorax.opacity += float(rng.choice([-1, 1])) * rng.uniform(0.02, 0.09) * ridge * where


def _add_outlines(thorax: Thorax, size: int, rng: np.random.Generator) -> None:
    """Borders of organs, folds and bones that overlap: faint steps along wandering lines, some with a rim."""
    for _ in range(int(rng.integers(1, 6))):
        field = _stretched_noise(size, rng.uniform(1.5, 6), rng.uniform(1, 3), rng.uniform(0, np.pi), rng)
        level, sharp = rng.normal(0, 0.6), rng.uniform(0.02, 0.12)
        step = _step(field - level, sharp)
        rim = np.exp(-(((field - level) / (1.5 * sharp)) ** 2))
        thorax.opacity += (
            rng.uniform(0.02, 0.11) * step + float(rng.choice([0, rng.uniform(-0.08, 0.08)])) * rim
        )
