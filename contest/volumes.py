"""Slices of NIfTI volumes, as pictures and as label maps."""

from __future__ import annotations

import functools
import math
import zlib
from pathlib import Path

import nibabel
import numpy as np

from data.errors import DataError

VOLUME_SUFFIXES = (".nii.gz", ".nii")
DARKEST_PCT, BRIGHTEST_PCT = 0.5, 99.5  # of a volume's values: the window that its slices are shown in
LEAST_MASK_PX = 20  # a slice with less of a mask is its last sliver
NOT_READABLE = (
    OSError, ValueError, EOFError, OverflowError, zlib.error, nibabel.filebasedimages.ImageFileError,
    nibabel.spatialimages.HeaderDataError,
)
MOST_GZIP = 1032  # times as long as the file, at most, is what deflate can have packed (zlib's technical details)


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
        image = nibabel.load(path)
        shape = image.shape
        # nibabel makes room for what the header claims before it reads.
        claimed = math.prod(shape) * image.get_data_dtype().itemsize
        held = Path(path).stat().st_size * (MOST_GZIP if path.endswith(".gz") else 1)
        if not 2 <= len(shape) <= 4 or min(shape) < 1:
            raise DataError(f"{path}: shape {list(shape)}; allowed: two to four dimensions, none empty")
        if image.get_data_dtype().kind not in "iuf":
            raise DataError(f"{path}: values of type {image.get_data_dtype()}; allowed: whole and floating numbers, "
                            "not colours; export it in grey")
        if claimed > held:
            raise DataError(f"{path}: truncated, or not a NIfTI file (it claims {claimed:,} bytes of values and cannot "
                            "hold them); export it again")
        volume = np.asarray(image.dataobj, dtype=np.float32)
    except NOT_READABLE as error:
        raise DataError(f"{path}: truncated or not a NIfTI file ({error}); export it again") from error
    # Outside of what was measured there may be nan, which would take the window with it: it counts as 0, no label.
    np.nan_to_num(volume, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    return volume.reshape(*volume.shape[:2], -1)


@functools.lru_cache(maxsize=4)
def _window(path: str) -> tuple[float, float]:
    low, high = np.percentile(_volume(path), (DARKEST_PCT, BRIGHTEST_PCT))
    return float(low), float(high)
