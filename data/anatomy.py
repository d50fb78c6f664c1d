"""The mean coronary anatomy: where the segments of both arteries run, and how wide they are.

anatomy.csv: mean 3D positions and lumen diameters of 83 normal angiograms (Dodge et al., Circulation
1992;86:232-246, by way of a public transcription; sign faults of R3d, RDo, RDp and R4p mended so that the path is
smooth, RIp replaced by the midpoint of its neighbours). Patient axes in mm: x left, y superior, z anterior; the origin
is the ostium of the artery.
"""

import csv
import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TABLE = Path(__file__).with_name("anatomy.csv")


@dataclass(frozen=True)
class MeanSegment:
    """A segment of the table: CASS number, name of the segment that it leaves ("" at the ostium), control points
    (n, 3) in mm, proximal to distal, and lumen diameters (n,) in mm.
    """

    cass_id: int
    parent: str
    points_mm: np.ndarray
    diameter_mm: np.ndarray


@functools.cache
def load_anatomy() -> dict[str, MeanSegment]:
    """The mean anatomy by segment name as in the table, parents before their branches."""
    rows: dict[str, list[dict]] = {}
    with open(TABLE, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            rows.setdefault(row["segment"], []).append(row)
    columns = ("left_mm", "superior_mm", "anterior_mm")
    return {
        name: MeanSegment(
            int(own[0]["cass_id"]),
            own[0]["parent"],
            np.array([[float(row[column]) for column in columns] for row in own]),
            np.array([float(row["diameter_mm"]) for row in own]),
        )
        for name, own in rows.items()
    }


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (..., 3) scaled to length one."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def arc_length(points: np.ndarray) -> np.ndarray:
    """Distance along a line (n, d) from its start, (n,)."""
    return np.append(0.0, np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1)))


def sphere_center(points: np.ndarray) -> np.ndarray:
    """Least-squares centre of the sphere through points (n, 3): for vessels, the middle of the heart."""
    matrix = np.column_stack([2 * points, np.ones(len(points))])
    return np.linalg.lstsq(matrix, (points**2).sum(axis=1), rcond=None)[0][:3]


def image_axes(primary_deg: float, secondary_deg: float) -> np.ndarray:
    """Unit vectors in patient axes of image right, image down and isocentre to detector, (3, 3).

    Angles of the C-arm, LAO and cranial positive; the picture shows the patient as if one faced him.
    """
    a, b = np.radians([primary_deg, secondary_deg])
    toward = np.array([np.sin(a) * np.cos(b), np.sin(b), np.cos(a) * np.cos(b)])
    right = np.array([np.cos(a), 0.0, -np.sin(a)])
    return np.stack([right, -np.cross(toward, right), toward])
