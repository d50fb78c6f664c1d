"""From opacity to the picture on the screen: scatter, blur, noise, enhancement, grey values, compression."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Detector:
    """One examination's imaging chain; lengths in px of a 512 px frame, light as shares of full white.

    exposure: grey of empty tissue. veil: scattered light. noise: SD at that grey. halo: strength and width of
    edge enhancement. flatten: how far coarse brightness differences are evened out, 0-1. jpeg: quality, 0 for
    none. border (size, size) float32: share of light that passes the collimator. open_field (size, size)
    bool: where it is open.
    """

    exposure: float
    gamma: float
    veil: float
    blur_px: float
    noise: float
    grain_px: float
    halo: float
    halo_px: float
    flatten: float
    jpeg: int
    border: np.ndarray
    open_field: np.ndarray
    border_grey: float


def draw_detector(size: int, rng: np.random.Generator) -> Detector:
    """A random imaging chain; ranges by eye against eight real frames (mean grey 75-138)."""
    border, open_field = _collimator(size, rng)
    return Detector(
        exposure=rng.uniform(0.36, 0.60),
        gamma=rng.uniform(0.8, 1.2),
        veil=rng.uniform(0.05, 0.35),
        blur_px=rng.uniform(0.5, 1.1),
        noise=float(np.exp(rng.uniform(np.log(0.006), np.log(0.020)))),
        grain_px=rng.uniform(0.4, 1.1),
        halo=float(rng.choice([0.0, rng.uniform(0.2, 1.0)])),
        halo_px=rng.uniform(2, 9),
        flatten=float(rng.choice([0.0, rng.uniform(0.2, 0.7)])),
        jpeg=int(rng.choice([0, rng.integers(70, 97)])),
        border=border,
        open_field=open_field,
        border_grey=rng.uniform(0.01, 0.12),
    )


def _collimator(size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Straight blades, soft or hard, sometimes none, sometimes cut corners; vignetting inside."""
    y, x = (np.mgrid[0:size, 0:size].astype(np.float32) + 0.5) / size
    softness = rng.choice([0.0015, 0.004, 0.012])
    margins = np.where(rng.random(4) < 0.75, rng.uniform(0.0, 0.065, 4), -0.05)
    if rng.random() < 0.15:
        margins[:] = -0.05
    signed = np.minimum(
        np.minimum(x - margins[0], 1 - margins[1] - x), np.minimum(y - margins[2], 1 - margins[3] - y)
    )
    if rng.random() < 0.3:
        cut = rng.choice([rng.uniform(0.03, 0.09), rng.uniform(0.05, 0.2)], p=[0.7, 0.3])
        for corner in np.flatnonzero(rng.random(4) < rng.choice([0.3, 1.0])):
            across = (x if corner % 2 else 1 - x) + (y if corner // 2 else 1 - y)
            signed = np.minimum(signed, (across - cut - margins.max()) * 0.7)
    open_field = 1 / (1 + np.exp(-np.clip(signed / softness, -30, 30)))
    glow = 1 + rng.uniform(-0.05, 0.35) * np.exp(-np.maximum(signed, 0) / rng.uniform(0.01, 0.03))
    falloff = 1 - rng.uniform(0, 0.35) * ((x - 0.5) ** 2 + (y - 0.5) ** 2) * 2
    return (open_field * falloff * glow).astype(np.float32), open_field > 0.5


def take_picture(opacity: np.ndarray, detector: Detector, rng: np.random.Generator) -> np.ndarray:
    """Opacity (size, size) float32 to grey values (size, size) uint8."""
    scale = opacity.shape[0] / 512
    light = detector.exposure * np.exp(-opacity) * (1 - detector.veil) + detector.exposure * detector.veil
    light = (
        cv2.GaussianBlur(light, (0, 0), detector.blur_px * scale) * detector.border
        + detector.border_grey * 0.3
    )
    light += _grain(light.shape, detector, scale, rng) * np.sqrt(np.maximum(light, 0.01) / detector.exposure)
    if detector.halo:
        light += detector.halo * (light - cv2.GaussianBlur(light, (0, 0), detector.halo_px * scale))
    if detector.flatten:
        coarse = cv2.resize(light, None, fx=1 / 16, fy=1 / 16, interpolation=cv2.INTER_AREA)
        coarse = cv2.GaussianBlur(coarse, (0, 0), 2.5 * scale)
        coarse = cv2.resize(np.maximum(coarse, 0.05), light.shape[::-1], interpolation=cv2.INTER_LINEAR)
        light *= (detector.exposure / coarse) ** detector.flatten * detector.border.clip(0, 1)
    picture = _display_curve(detector.gamma)[np.clip(light * 2048, 0, 4095).astype(np.uint16)]
    return compressed(picture, detector.jpeg) if detector.jpeg else picture


def _display_curve(gamma: float) -> np.ndarray:
    """Grey value for light 0 to 2 in 4096 steps, highlights compressed as on a workstation. uint8."""
    grey = (np.arange(4096) / 2048) ** gamma
    grey = np.where(grey < 0.6, grey, 0.6 + 0.4 * np.tanh((grey - 0.6) / 0.4))
    return np.clip(grey * 255 + 0.5, 0, 255).astype(np.uint8)


def compressed(picture: np.ndarray, quality: int) -> np.ndarray:
    """The picture after JPEG compression, as archived cines often are."""
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)


def _grain(shape: tuple[int, int], detector: Detector, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Quantum noise, slightly correlated between pixels, SD `detector.noise`."""
    noise = cv2.GaussianBlur(rng.standard_normal(shape, dtype=np.float32), (0, 0), detector.grain_px * scale)
    return noise * (detector.noise / float(noise[::4, ::4].std()))
