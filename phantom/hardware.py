"""Metal in and on the chest: sternal wires, surgical clips, pacing lead, ECG electrode and cable."""

from __future__ import annotations

import cv2
import numpy as np

POINTS = 80
OPACITY = (0.25, 0.9)


def add_hardware(opacity: np.ndarray, edges: list[np.ndarray], rng: np.random.Generator) -> None:
    """Add some, seldom, to `opacity` (size, size) float32; long thin ones to `edges` too."""
    size = len(opacity)
    for chance, draw in ((0.10, _lead), (0.05, _sternal_wires), (0.06, _clips), (0.08, _electrode)):
        if rng.random() < chance:
            layer = np.zeros((size, size), np.uint8)
            edges.extend(draw(layer, rng))
            soft = cv2.GaussianBlur(layer.astype(np.float32) / 255, (0, 0), size / 512 * 0.8)
            opacity += rng.uniform(*OPACITY) * soft


def _lead(layer: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    start = (rng.uniform(0, 1), -0.02)
    curve = _wandering(start, rng.uniform(1.0, 2.1), rng.uniform(0.7, 1.4), 0.6, rng)
    _polyline(layer, curve, rng.uniform(2, 4))
    return [curve]


def _sternal_wires(layer: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    x = rng.uniform(0.1, 0.9)
    for y in np.arange(rng.uniform(0, 0.15), 1, rng.uniform(0.15, 0.25)):
        angle = np.linspace(0, 2 * np.pi * rng.uniform(0.7, 1.2), 30) + rng.normal(0, 0.4)
        wide, high, lean = rng.uniform(0.018, 0.034), rng.uniform(0.008, 0.02), rng.normal(0, 0.3)
        place = np.array([x + rng.normal(0, 0.012), y + rng.normal(0, 0.01)])
        loop = np.stack([wide * np.cos(angle), high * np.sin(angle) + lean * wide * np.cos(angle)], axis=1)
        _polyline(layer, place + loop, 1.6)
    return []


def _clips(layer: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    start = rng.uniform(0.1, 0.9, 2)
    for _ in range(int(rng.integers(2, 8))):
        place, turn = start + rng.normal(0, 0.15, 2), rng.uniform(0, np.pi)
        step = 0.012 * np.array([np.cos(turn), np.sin(turn)])
        _polyline(layer, np.stack([place - step, place + step]), 2.5)
    return []


def _electrode(layer: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    place, radius = rng.uniform(0.05, 0.95, 2), rng.uniform(0.012, 0.022)
    middle = tuple(int(v) for v in place * len(layer))
    cv2.circle(layer, middle, int(len(layer) * radius), 150, -1, cv2.LINE_AA)
    cable = _wandering(place, rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 1.0), 0.5, rng)
    _polyline(layer, cable, 1.5)
    return [cable]


def _polyline(layer: np.ndarray, curve: np.ndarray, width_px: float) -> None:
    """Draw a curve of shares of the side, to 1/16 px; width in px of a 512 px frame."""
    points = np.round(curve * len(layer) * 16).astype(np.int32)
    width = max(1, int(round(width_px * len(layer) / 512)))
    cv2.polylines(layer, [points[:, None]], False, 255, width, cv2.LINE_AA, 4)


def _wandering(start, heading: float, length: float, bend: float, rng: np.random.Generator) -> np.ndarray:
    """A smooth random curve (POINTS, 2) from `start` in a direction that drifts."""
    drift = np.linspace(0, rng.normal(0, 1.0), POINTS)
    angles = heading + 0.1 * np.cumsum(rng.normal(0, bend, POINTS)) + drift
    steps = np.stack([np.cos(angles), np.sin(angles)], axis=1) * length / POINTS
    return np.asarray(start) + np.cumsum(steps, axis=0)
