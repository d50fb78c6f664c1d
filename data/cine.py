"""One frame of a cine kept as `.npy`, alone, so that a cine of gigabytes costs one frame.

    from data.cine import read_frame
    frame = read_frame("cines/101-0025.npy", 31)
"""

from pathlib import Path

import numpy as np

from data.errors import DataError
from data.input_files import check_pixels, open_npy

# Float cines are [0, 1]; rounding in whatever wrote them may overshoot by this much.
FLOAT_TOLERANCE = 1e-3
ALLOWED = "allowed: uint8 or floating point in [0, 1], shaped [frames, H, W, 3] or [frames, H, W]"


def cine_shape(path: str | Path) -> tuple[int, int, int]:
    """(frames, H, W) of the cine, from its header alone. Raises DataError as `read_frame` does."""
    return _open_cine(path).shape[:3]


def read_frame(path: str | Path, frame_index: int) -> np.ndarray:
    """Frame `frame_index` (0-based) as uint8 (H, W, 3) RGB in 0..255; grey is repeated in the three channels.

    Only that frame's bytes are read. Raises DataError, naming the file, when it is missing, truncated, no
    `.npy`, of another shape or type, when it has no such frame, or when a float frame leaves [0, 1].
    """
    cine = _open_cine(path)
    if not 0 <= frame_index < len(cine):
        raise DataError(f"{path}: no frame {frame_index}; allowed: 0 to {len(cine) - 1}")
    frame = _as_uint8(_read(path, cine, frame_index), path)
    frame = frame[..., None] if frame.ndim == 2 else frame
    return np.repeat(frame, 3, axis=2) if frame.shape[2] == 1 else frame


def _open_cine(path: str | Path) -> np.ndarray:
    """The cine as a read-only memory map of a shape and type that the contract allows."""
    cine = open_npy(path)
    if not (cine.dtype == np.uint8 or cine.dtype.kind == "f"):
        raise DataError(f"{path}: type {cine.dtype}; {ALLOWED}")
    # A last axis of 3 in three dimensions is a single colour picture, [H, W, 3], not a cine 3 pixels wide.
    grey, colour = cine.ndim == 3 and cine.shape[2] > 4, cine.ndim == 4 and cine.shape[3] in (1, 3)
    if not (grey or colour) or 0 in cine.shape:
        raise DataError(f"{path}: shape {list(cine.shape)}; {ALLOWED}")
    check_pixels(path, *cine.shape[1:3])
    return cine


def _read(path: str | Path, cine: np.memmap, frame_index: int) -> np.ndarray:
    """Frame `frame_index` as it is kept, in one read: a map would fetch a cold file page by page."""
    if not cine.flags.c_contiguous:
        return np.array(cine[frame_index])  # a copy, so that the file is let go
    start = cine.offset + frame_index * cine[0].nbytes
    frame = np.fromfile(path, cine.dtype, count=cine[0].size, offset=start)
    if frame.size < cine[0].size:
        raise DataError(f"{path}: ends within frame {frame_index}; the file was cut while it was read")
    return frame.reshape(cine.shape[1:])


def _as_uint8(frame: np.ndarray, path: str | Path) -> np.ndarray:
    if frame.dtype == np.uint8:
        return frame
    low, high = float(frame.min()), float(frame.max())
    if not (low >= -FLOAT_TOLERANCE and high <= 1 + FLOAT_TOLERANCE):  # also true for nan
        raise DataError(f"{path}: {frame.dtype} values from {low:g} to {high:g}; {ALLOWED}")
    return np.rint(np.clip(frame, 0, 1) * 255).astype(np.uint8)
