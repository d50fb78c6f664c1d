"""A coronary tree as flat arrays: every centreline sample of every vessel, one after another."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Tree:
    """All centreline samples of one artery tree; a "line" is one smooth vessel from its origin to its tip.

    center_mm: (P, 3) float64, centre of the lumen; x patient left, y superior, z anterior, origin at the
    ostium. wall_mm: (P, 3) float64, centre of the healthy vessel; differs from `center_mm` in eccentric
    lesions only. lumen_mm, healthy_mm: (P,) float64, diameters with and without lesions. cass_id: (P,) int,
    CASS segment, 0 for small branches that CASS does not number. line: (P,) int, ascending. reach_mm: (P,)
    float64, distance from the ostium along the vessels. heart_mm: (3,) float64, middle of the heart.
    line_names: one name a line.
    """

    center_mm: np.ndarray
    wall_mm: np.ndarray
    lumen_mm: np.ndarray
    healthy_mm: np.ndarray
    cass_id: np.ndarray
    line: np.ndarray
    reach_mm: np.ndarray
    heart_mm: np.ndarray
    line_names: tuple[str, ...]

    def segment(self, cass_id: int) -> np.ndarray:
        """Samples of a CASS segment, proximal to distal, of its longest vessel if it has several. (n,) int"""
        samples = np.flatnonzero(self.cass_id == cass_id)
        if len(samples) == 0:
            raise ValueError(
                f"the tree has no CASS segment {cass_id}; it has {sorted(set(self.cass_id.tolist()))}"
            )
        lines, counts = np.unique(self.line[samples], return_counts=True)
        return samples[self.line[samples] == lines[counts.argmax()]]

    def arc_mm(self) -> np.ndarray:
        """(P,) float64: distance from the start of the own line, along the healthy vessel."""
        return arc_length(self.wall_mm, self.line)

    def part(self, kept: np.ndarray) -> Tree:
        """The samples where `kept` (P,) is true, an unbroken stretch of each line; single samples go too."""
        lines, counts = np.unique(self.line[kept], return_counts=True)
        kept = kept & np.isin(self.line, lines[counts > 1])
        names = ("center_mm", "wall_mm", "lumen_mm", "healthy_mm", "cass_id", "line", "reach_mm")
        return replace(self, **{name: getattr(self, name)[kept] for name in names})

    def resample(self, step_mm: float) -> Tree:
        """The same tree with samples about `step_mm` apart, for rendering."""
        before, fraction = resampling(self.arc_mm(), self.line, step_mm)

        def between(values: np.ndarray) -> np.ndarray:
            weight = fraction if values.ndim == 1 else fraction[:, None]
            return values[before] * (1 - weight) + values[before + 1] * weight

        nearest = before + (fraction > 0.5)
        names = ("center_mm", "wall_mm", "lumen_mm", "healthy_mm", "reach_mm")
        return replace(
            self,
            **{name: between(getattr(self, name)) for name in names},
            cass_id=self.cass_id[nearest],
            line=self.line[nearest],
        )


def neighbours(line: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the sample before and after each sample on its own line; a line's ends point at themselves."""
    index = np.arange(len(line))
    before, after = np.maximum(index - 1, 0), np.minimum(index + 1, len(line) - 1)
    return np.where(line[before] == line, before, index), np.where(line[after] == line, after, index)


def arc_length(points: np.ndarray, line: np.ndarray) -> np.ndarray:
    """Distance along each line from its first sample. points: (P, 2 or 3); line: (P,) -> (P,)."""
    before, _ = neighbours(line)
    total = np.cumsum(np.linalg.norm(points - points[before], axis=1))
    _, first, which = np.unique(line, return_index=True, return_inverse=True)
    return total - total[first][which]


def resampling(arc: np.ndarray, line: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Evenly spaced positions on every line as (index of the sample before, fraction to the next one)."""
    before, fraction = [], []
    for number in np.unique(line):
        own = np.flatnonzero(line == number)
        count = max(2, int(round(arc[own[-1]] / step)) + 1)
        position = np.interp(np.linspace(0, arc[own[-1]], count), arc[own], own)
        index = np.minimum(position.astype(int), own[-1] - 1)
        before.append(index)
        fraction.append(position - index)
    return np.concatenate(before), np.concatenate(fraction)
