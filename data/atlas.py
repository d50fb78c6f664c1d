"""The mean coronary tree as a map of where to expect which segment in a frame.

One segment of a frame is annotated, and which one goes with the view: an analyst looks at the mid LAD in cranial views
and at the LCX in caudal ones. From such labels alone a model learns to read the view, and names nothing that is never
analysed in it. The angles, however, say what a mean tree looks like from there. Laid with its own segment on the
annotated one, it says roughly where the other segments of that artery lie: a weak label, wrong by some millimetres in
each patient in another direction, so that over patients the errors average out.

anatomy.csv: mean 3D positions of 83 normal angiograms (Dodge et al., Circulation 1992;86:232-246, by way of a public
transcription; sign faults of R3d, RDo, RDp and R4p mended so that the path is smooth, RIp replaced by the midpoint of
its neighbours). Patient axes in mm: x left, y superior, z anterior.
"""

import csv
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from data.cass import SEGMENTS

TABLE = Path(__file__).with_name("anatomy.csv")
# The table ends halfway down these branches; so much of the heart's surface lies beyond (by eye), in mm.
BEYOND_TABLE_MM = {4: 24, 5: 12, 6: 20, 7: 16, 15: 30, 16: 26, 17: 8, 19: 18, 20: 32, 21: 22, 22: 16, 28: 28, 29: 20}
STEP_MM = 2.0
POINTS = 15  # of the annotated centreline that the tree is laid on
# How far a patient is from the mean: standard deviations of turn, size and, along a segment, of its course.
TURN_DEG, SIZE, COURSE_MM = 8.0, 0.07, 2.0
# Distance of a vessel from its mean course that the weak label allows for; of 5, 7 and 9 mm the likeliest for the
# true maps of 50 phantom frames (2026-11-22).
SPREAD_MM = 5.0


@functools.cache
def mean_tree(side: str) -> tuple[tuple[int, np.ndarray], ...]:
    """The segments of the "left" or "right" coronary tree: (CASS number, (n, 3) mm proximal to distal)."""
    with open(TABLE, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = ("left_mm", "superior_mm", "anterior_mm")
    points = np.array([[float(row[column]) for column in columns] for row in rows])
    heart = sphere_center(points)
    tree = []
    for name in dict.fromkeys(row["segment"] for row in rows):
        own = [number for number, row in enumerate(rows) if row["segment"] == name]
        cass_id = int(rows[own[0]]["cass_id"])
        if SEGMENTS[cass_id].side == side:
            line = _prolonged(points[own], heart, BEYOND_TABLE_MM.get(cass_id, 0))
            tree.append((cass_id, _spaced(line, STEP_MM)))
    return tuple(tree)


def place_tree(
    cass_id: int, view_deg: Sequence[float], centerline_px: np.ndarray, px_per_mm: float
) -> list[tuple[int, np.ndarray]] | None:
    """The mean tree in the frame, laid on the annotated segment: (CASS number, (n, 2) of (x, y) px) each.

    view_deg: primary and secondary angle; centerline_px: (N, 2), of segment `cass_id`, proximal to distal. The tree
    is turned, sized and moved to fit, as far as patients differ. None where an angle or the scale is unknown, or the
    mean tree has no such segment.
    """
    tree = mean_tree(SEGMENTS[cass_id].side)
    own = next((line for number, line in tree if number == cass_id), None)
    if own is None or np.isnan(view_deg).any() or not (np.isfinite(px_per_mm) and px_per_mm > 0):
        return None
    axes, own = _image_axes(*view_deg), _at_shares(own, POINTS)
    target_mm = _at_shares(np.asarray(centerline_px, float), POINTS) / px_per_mm
    start = np.concatenate([np.zeros(4), (target_mm - own @ axes.T).mean(axis=0)])

    def misfit(pose: np.ndarray) -> np.ndarray:
        course = (_posed(own, pose, axes) - target_mm).ravel() / (COURSE_MM * np.sqrt(2))
        return np.concatenate([course, pose[:3] / np.radians(TURN_DEG), pose[3:4] / SIZE])

    pose = least_squares(misfit, start, max_nfev=25).x
    return [(number, px_per_mm * _posed(line, pose, axes)) for number, line in tree]


def weak_names(
    lines: Sequence[tuple[int, np.ndarray]], classes: Sequence[int], size: int, px_per_mm: float
) -> np.ndarray:
    """Where the placed tree expects which class: float32 (K + 1, size, size), the last channel for other segments.

    lines: of `place_tree`, in px of that picture. Each value is exp(-d^2 / 2 s^2) of the distance d to the nearest
    line of the class, s = SPREAD_MM: 1 on it, about 0 where the tree says nothing. Not normalised over the classes.
    """
    names = np.zeros((len(classes) + 1, size, size), np.float32)
    for channel, own in _lines_by_channel(lines, classes).items():
        canvas = np.full((size, size), 255, np.uint8)
        cv2.polylines(canvas, [np.rint(line).astype(np.int32)[:, None] for line in own], False, 0)
        if canvas.min() == 0:  # else none of it is in the picture
            distance_mm = cv2.distanceTransform(canvas, cv2.DIST_L2, 3) / px_per_mm
            names[channel] = np.exp(-0.5 * (distance_mm / SPREAD_MM) ** 2)
    return names


def _lines_by_channel(lines, classes: Sequence[int]) -> Mapping[int, list[np.ndarray]]:
    by_channel: dict[int, list[np.ndarray]] = {}
    for cass_id, line in lines:
        channel = classes.index(cass_id) if cass_id in classes else len(classes)
        by_channel.setdefault(channel, []).append(line)
    return by_channel


def _image_axes(primary_deg: float, secondary_deg: float) -> np.ndarray:
    """Unit vectors of image right and image down in patient axes, (2, 3); LAO and cranial positive."""
    a, b = np.radians([primary_deg, secondary_deg])
    toward = np.array([np.sin(a) * np.cos(b), np.sin(b), np.cos(a) * np.cos(b)])
    right = np.array([np.cos(a), 0.0, -np.sin(a)])
    return np.stack([right, -np.cross(toward, right)])


def _posed(line_mm: np.ndarray, pose: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """(n, 3) to (n, 2) in the image, mm. pose: rotation vector (3), logarithm of size, shift in the image (2).

    A parallel projection: over a heart the magnification differs by a few percent, less than hearts do.
    """
    turned = Rotation.from_rotvec(pose[:3]).apply(line_mm)
    return np.exp(pose[3]) * (turned @ axes.T) + pose[4:]


def _at_shares(line: np.ndarray, count: int) -> np.ndarray:
    """`count` points at equal shares of the length of a line (n, d)."""
    arc = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    where = np.linspace(0, arc[-1], count)
    return np.stack([np.interp(where, arc, column) for column in line.T], axis=1)


def _spaced(line: np.ndarray, step: float) -> np.ndarray:
    length = np.linalg.norm(np.diff(line, axis=0), axis=1).sum()
    return _at_shares(line, max(2, round(length / step) + 1))


def _prolonged(line: np.ndarray, heart: np.ndarray, length_mm: float) -> np.ndarray:
    """A line (n, 3) that goes on in its last direction for `length_mm`, bent to stay as far from the heart's middle."""
    points, step = list(line), line[-1] - line[-2]
    radius = np.linalg.norm(line[-1] - heart)
    for _ in range(round(length_mm / STEP_MM)):
        outward = (points[-1] - heart) / np.linalg.norm(points[-1] - heart)
        step = step - outward * (step @ outward)
        ahead = points[-1] + STEP_MM * step / np.linalg.norm(step) - heart
        points.append(heart + radius * ahead / np.linalg.norm(ahead))
    return np.array(points)


def sphere_center(points: np.ndarray) -> np.ndarray:
    """Least-squares centre of the sphere through points (n, 3): for vessels, the middle of the heart."""
    matrix = np.column_stack([2 * points, np.ones(len(points))])
    return np.linalg.lstsq(matrix, (points**2).sum(axis=1), rcond=None)[0][:3]
