"""The C-arm: perspective projection of patient coordinates (mm) to image coordinates (px).

Patient axes: x left, y superior, z anterior. Angles in degrees: LAO +, RAO -, cranial +, caudal - (DICOM
Positioner Primary and Secondary Angle). Image axes: x right, y down, pixel centres at integers, shown as if
facing the patient (patient's left at the image's right).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class CArm:
    """A C-arm position. `isocentre_mm` (3,) is in patient coordinates; the table moves it.

    sid_mm: source to detector, sod_mm: source to isocentre, spacing_mm: detector pixel, size_px: square
    image.
    """

    primary_deg: float
    secondary_deg: float
    sid_mm: float
    sod_mm: float
    spacing_mm: float
    size_px: int
    isocentre_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def axes(self) -> np.ndarray:
        """Unit vectors in patient axes: image right, image up, isocentre to detector. (3, 3) float64."""
        a, b = np.radians(self.primary_deg), np.radians(self.secondary_deg)
        toward = np.array([np.sin(a) * np.cos(b), np.sin(b), np.cos(a) * np.cos(b)])
        right = np.array([np.cos(a), 0.0, -np.sin(a)])
        return np.stack([right, np.cross(toward, right), toward])

    def project(self, points_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N, 3) patient mm -> (N, 2) image (x, y) px and (N,) px per mm at each point's depth."""
        across, up, along = ((points_mm - np.asarray(self.isocentre_mm)) @ self.axes().T).T
        px_per_mm = self.sid_mm / (self.sod_mm + along) / self.spacing_mm
        middle = (self.size_px - 1) / 2
        return np.stack([middle + px_per_mm * across, middle - px_per_mm * up], axis=1), px_per_mm

    def rays(self, points_mm: np.ndarray) -> np.ndarray:
        """Unit vectors from the X-ray source through each point: (N, 3) -> (N, 3)."""
        source = np.asarray(self.isocentre_mm) - self.sod_mm * self.axes()[2]
        rays = points_mm - source
        return rays / np.linalg.norm(rays, axis=1, keepdims=True)

    def panned(self, shift_px: np.ndarray) -> CArm:
        """The same C-arm after a table shift that moves what is at the isocentre's depth by (x, y) px."""
        right, up, _ = self.axes()
        mm_per_px = self.spacing_mm * self.sod_mm / self.sid_mm
        move = mm_per_px * (-shift_px[0] * right + shift_px[1] * up)
        return replace(self, isocentre_mm=tuple(np.asarray(self.isocentre_mm) + move))
