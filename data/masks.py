"""Masks and label maps from `.npy` or `.png`, masks at another size, and those of a vessel between its edges."""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from skimage.draw import polygon

from data.errors import DataError
from data.input_files import check_pixels, open_npy, read_pixels

MASK_VALUES = (0, 1, 255)
MASK_COLUMNS = {"deepsa": "deepsa_pseudo_label_path", "truth": "true_vessel_mask_path"}
TUBE_CHUNK = 12  # cross-sections a polygon: short enough that the outline of a bend does not cross itself


def read_mask(path: str | Path) -> np.ndarray:
    """The mask as bool (H, W): true where the file has 1, 255 or True.

    Raises DataError, naming the file, when it cannot be read, is not two-dimensional, or has other values.
    """
    values = read_label_map(path)
    if values.dtype == bool:
        return values
    mask = values != 0
    if not ((values[mask] == 1) | (values[mask] == 255)).all():
        strange = ", ".join(f"{value:g}" for value in np.setdiff1d(values, MASK_VALUES)[:5])
        raise DataError(
            f"{path}: has values such as {strange}; allowed: 0 and 1, or 0 and 255 (a map of probabilities "
            "must be thresholded first)"
        )
    return mask


def read_label_map(path: str | Path) -> np.ndarray:
    """The numbers of a two-dimensional `.npy` or `.png` as they are stored, (H, W).

    A PNG in colour is taken when its channels are equal. Raises DataError, naming the file.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".npy", ".png"):
        raise DataError(f"{path}: ends in {suffix!r}; allowed: .npy, .png")
    values = open_npy(path) if suffix == ".npy" else _read_png(path)
    if values.ndim != 2 or values.size == 0:
        raise DataError(f"{path}: shape {list(values.shape)}; allowed: two dimensions, [H, W]")
    if values.dtype.kind not in "buif":
        raise DataError(f"{path}: type {values.dtype}; allowed: bool, integers or floating point")
    check_pixels(path, *values.shape)
    return np.array(values)  # a copy, so that the file is let go


def _read_png(path: str | Path) -> np.ndarray:
    values = read_pixels(path)
    if values.ndim == 3:
        values = values[..., :3]  # without transparency
        if (values == values[..., :1]).all():
            values = values[..., 0]
    return values


def read_frame_masks(row: Mapping, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """The masks of a row of the table as bool `size` = (height, width), the frame's own.

    "deepsa" is always there, "truth" only where the row has a `true_vessel_mask_path`.
    """
    return {name: resize_mask(read_mask(path), size) for name, path in mask_paths(row).items()}


def mask_paths(row: Mapping) -> dict[str, str]:
    """The paths of "deepsa" and "truth" in a row of the table, without those that are blank or absent."""
    paths = {name: row.get(column) for name, column in MASK_COLUMNS.items()}
    return {name: path for name, path in paths.items() if isinstance(path, str) and path}


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bool (H, W) to bool `size` = (height, width): true where at least half of the new pixel is covered."""
    return mask_coverage(mask, size) >= 128


def mask_coverage(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The share of each new pixel that the bool (H, W) mask covers, as uint8 `size`, 255 = all of it."""
    return resize_picture(mask.astype(np.uint8) * 255, size)


def resize_picture(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 or float32 (H, W[, C]) to `size` = (height, width): means of areas when shrinking, else linear.

    Only when both sides shrink: with one side growing, means of areas would repeat pixels along it.
    """
    if picture.shape[:2] == tuple(size):
        return picture
    shrinks = size[0] <= picture.shape[0] and size[1] <= picture.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(picture, (size[1], size[0]), interpolation=how)


def fill_tube(target: np.ndarray, left_px: np.ndarray, right_px: np.ndarray, value: int) -> None:
    """Set the pixels of `target` (H, W) whose centres lie between two edges (n, 2) of (x, y) px, matched point by
    point."""
    for start in range(0, len(left_px) - 1, TUBE_CHUNK):
        part = slice(start, start + TUBE_CHUNK + 1)
        loop = np.concatenate([left_px[part], right_px[part][::-1]])
        target[polygon(loop[:, 1], loop[:, 0], target.shape)] = value
