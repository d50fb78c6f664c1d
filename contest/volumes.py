"""Slices of NIfTI volumes, as pictures and as label maps."""

from __future__ import annotations

import functools
from pathlib import Path

import nibabel
import numpy as np

from data.errors import DataError

VOLUME_SUFFIXES = (".nii.gz", ".nii")
DARKEST_PCT, BRIGHTEST_PCT = 0.5, 99.5  # of a volume's values: the window that its slices are shown in
LEAST_MASK_PX = 20  # a slice with less of a mask is its last sliver


def slices_with_labels(path: str | Path, label: int | None) -> list[int]:
    """The numbers of the slices in which a label map has at least `LEAST_MASK_PX` pixels of `label` (None: of any)."""
    volume = _volume(str(path))
    wanted = volume != 0 if label is None else volume == label
    return [int(number) for number in np.flatnonzero(wanted.sum(axis=(0, 1)) >= LEAST_MASK_PX)]


def read_slice(path: str | Path, number: int, *, as_labels: bool = False) -> np.ndarray:
    """Slice `number` as uint8 RGB (H, W, 3), or with `as_labels` its numbers (H, W): first axis to the right, second
    down. Raises DataError."""
    volume = _volume(str(path))
    if not 0 <= number < volume.shape[2]:
        raise DataError(f"{path}: no slice {number}; allowed: 0 to {volume.shape[2] - 1}")
    values = volume[..., number].T
    if as_labels:
        return values
    low, high = _window(str(path))
    grey = np.clip((values - low) / max(high - low, 1e-9), 0, 1)
    return np.repeat(np.rint(255 * grey).astype(np.uint8)[..., None], 3, axis=2)


@functools.lru_cache(maxsize=4)  # slices of one volume are read one after another
def _volume(path: str) -> np.ndarray:
    """float32 (X, Y, slices); frames of a sequence (X, Y, slices, T) count as slices."""
    try:
        volume = np.asarray(nibabel.load(path).dataobj, dtype=np.float32)
    except (OSError, ValueError, EOFError, nibabel.filebasedimages.ImageFileError) as error:
        raise DataError(f"{path}: truncated or not a NIfTI file ({error}); export it again") from error
    if volume.ndim not in (2, 3, 4) or volume.size == 0:
        raise DataError(f"{path}: shape {list(volume.shape)}; allowed: two to four dimensions")
    return volume.reshape(*volume.shape[:2], -1)


@functools.lru_cache(maxsize=4)
def _window(path: str) -> tuple[float, float]:
    low, high = np.percentile(_volume(path), (DARKEST_PCT, BRIGHTEST_PCT))
    return float(low), float(high)
