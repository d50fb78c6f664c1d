"""What changes over a cine: the contrast bolus, the beating heart, breathing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation


@dataclass(frozen=True)
class Bolus:
    """Contrast in the vessels. Times in s from the start of the cine, speed in mm/s along the vessels.

    Coronary contrast travels at 100-250 mm/s and clears within 1-2 s (TIMI 3 flow: a tree fills in under 2
    s).
    """

    start_s: float
    end_s: float
    speed_mm_s: float
    rise_s: float
    washout_s: float
    mixing: float  # how much streams of blood thin the contrast, 0-1, in waves that travel with it
    mixing_mm: float

    def concentration(self, reach_mm: np.ndarray, time_s: float) -> np.ndarray:
        """Share of full concentration at distances from the ostium: (P,) in [0, 1]."""
        local = time_s - reach_mm / self.speed_mm_s
        rise = np.clip((local - self.start_s) / self.rise_s, 0, 1)
        late = np.maximum(local - self.end_s, 0)
        waves = 0.5 + 0.5 * np.sin(2 * np.pi * self.speed_mm_s * local / self.mixing_mm)
        return rise * rise * (3 - 2 * rise) * np.exp(-late / self.washout_s) * (1 - self.mixing * waves)


@dataclass(frozen=True)
class Motion:
    """Heart beat and breathing as turn, contraction and shift; at rest, in end-diastole, at `rest_s`."""

    beat_s: float
    rest_s: float
    contraction: float
    turn_deg: float
    shift_mm: tuple[float, float, float]
    breath_mm: float

    def beat(self, time_s: float) -> float:
        """How contracted the heart is, 0 (end-diastole) to 1 (end-systole)."""
        phase = ((time_s - self.rest_s) / self.beat_s) % 1.0
        return float(np.sin(np.pi * phase / 0.6) ** 2) if phase < 0.6 else 0.0

    def breath(self, time_s: float) -> float:
        """Shift of heart and diaphragm by breathing, mm towards the feet; 0 at the resting time."""
        return self.breath_mm * float(np.sin(0.5 * np.pi * (time_s - self.rest_s)))

    def move(self, points_mm: np.ndarray, heart_mm: np.ndarray, time_s: float) -> np.ndarray:
        """Vessel points (P, 3) at a time; at `rest_s` they are where they were."""
        beat = self.beat(time_s)
        turn = Rotation.from_euler("zxy", [beat * self.turn_deg, 0.4 * beat * self.turn_deg, 0], degrees=True)
        moved = (points_mm - heart_mm) @ turn.as_matrix().T * (1 - self.contraction * beat) + heart_mm
        return moved + beat * np.asarray(self.shift_mm) - np.array([0, self.breath(time_s), 0])


def draw_bolus(farthest_mm: float, duration_s: float, rng: np.random.Generator) -> Bolus:
    """A bolus that fills a tree to its ends, `farthest_mm` away, well within the cine."""
    speed = rng.uniform(150, 260)
    start = rng.uniform(0.05, 0.2) * duration_s
    filled = start + 0.3 + farthest_mm / speed
    end = max(filled, rng.uniform(0.55, 0.7) * duration_s) + 0.1
    return Bolus(
        start,
        end,
        speed,
        rng.uniform(0.15, 0.35),
        rng.uniform(0.5, 1.1),
        rng.uniform(0, 0.2),
        rng.uniform(25, 80),
    )


def choose_frame(bolus: Bolus, reach_mm: np.ndarray, times_s: np.ndarray, rng: np.random.Generator) -> int:
    """The analysed frame: one of those in which the tree is filled best, down to its far ends."""
    filled = np.array([np.percentile(bolus.concentration(reach_mm, time_s), 10) for time_s in times_s])
    return int(rng.choice(np.flatnonzero(filled >= 0.97 * filled.max())))


def draw_motion(rest_s: float, rng: np.random.Generator) -> Motion:
    """A heart beat (55-95 a minute) that is at rest, in end-diastole, in the analysed frame."""
    return Motion(
        60 / rng.uniform(55, 95),
        rest_s,
        rng.uniform(0.05, 0.11),
        rng.normal(0, 5),
        tuple(rng.normal([0, -3, 0], 2)),
        rng.normal(0, 2.0),
    )
