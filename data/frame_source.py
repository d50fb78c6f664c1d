"""Frames from whatever a person has: `.npy` cine, PNG or JPEG picture, multi-frame DICOM.

    source = open_frames("IM1.dcm")
    frame = source.read(7)              # uint8 (H, W, 3)
    source.view_deg, source.view_source # ((31.3, 0.1), "DICOM header")
"""
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from data.cine import cine_shape, read_frame
from data.dicom import DicomCine, XAHeader, is_dicom
from data.errors import DataError
from data.input_files import read_pixels

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
UNKNOWN_VIEW = (math.nan, math.nan)


@dataclass(frozen=True, kw_only=True)
class FrameSource:
    """Frames of one file, read one at a time.

    read(frame_index) gives uint8 (height, width, 3) and raises DataError; view_deg: (primary, secondary) in
    degrees, LAO and cranial positive, nan where unknown; view_source says where they come from; geometry:
    what the file knows of distances and pixel size in mm, and nothing that it does not.
    """
    path: Path
    kind: str
    frames: int
    height: int
    width: int
    read: Callable[[int], np.ndarray]
    view_deg: tuple[float, float] = UNKNOWN_VIEW
    view_source: str = "none in the file"
    geometry: dict = field(default_factory=dict)


def open_frames(path: str | Path) -> FrameSource:
    """Open a cine, picture or DICOM; the kind is told by suffix, DICOM also by its content.

    Raises DataError, naming the file, for anything that cannot be read as one.
    """
    path = Path(path)
    if not os.path.isfile(path):
        raise DataError(f"{path}: no such file")
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return _open_cine(path)
    if suffix in PICTURE_SUFFIXES:
        picture = read_picture(path)
        height, width = picture.shape[:2]
        return FrameSource(path=path, kind="picture", frames=1, height=height, width=width,
                           read=partial(_only_frame, path, picture))
    if is_dicom(path):
        return _open_dicom(path)
    raise DataError(f"{path}: not a kind of file that can be read; allowed: .npy cine, "
                    f"{', '.join(PICTURE_SUFFIXES)}, DICOM")


def is_frame_file(path: Path) -> bool:
    """Say whether `open_frames` would try this file: for choosing the inputs in a folder."""
    return path.suffix.lower() in (".npy", *PICTURE_SUFFIXES) or is_dicom(path)


def _only_frame(path: Path, picture: np.ndarray, frame_index: int) -> np.ndarray:
    if frame_index != 0:
        raise DataError(f"{path}: no frame {frame_index}; a picture has only frame 0")
    return picture


def _open_cine(path: Path) -> FrameSource:
    frames, height, width = cine_shape(path)
    return FrameSource(path=path, kind="cine", frames=frames, height=height, width=width,
                       read=partial(read_frame, path))


def _open_dicom(path: Path) -> FrameSource:
    cine = DicomCine(path)
    header = cine.header
    view_deg = (header.primary_angle_deg, header.secondary_angle_deg)
    return FrameSource(path=path, kind="DICOM", frames=header.frames, height=header.height,
                       width=header.width, read=cine.read, view_source=_dicom_view_source(header),
                       view_deg=view_deg,
                       geometry=_known_geometry(header))


def _dicom_view_source(header: XAHeader) -> str:
    angles = {"primary": header.primary_angle_deg, "secondary": header.secondary_angle_deg}
    known = [name for name, angle_deg in angles.items() if not math.isnan(angle_deg)]
    if not known:
        return "none in the DICOM header"
    source = "DICOM header" if len(known) == 2 else f"DICOM header ({known[0]} angle only)"
    return source + ("; the C-arm moves, these are the first frame's" if header.positioner_moves else "")


def _known_geometry(header: XAHeader) -> dict:
    names = ("source_detector_mm", "source_patient_mm", "frame_time_ms")
    geometry = {name: getattr(header, name) for name in names if not math.isnan(getattr(header, name))}
    if header.imager_pixel_spacing_mm is not None:
        geometry["imager_pixel_spacing_mm"] = list(header.imager_pixel_spacing_mm)
    return geometry


def read_picture(path: str | Path) -> np.ndarray:
    """Read a PNG or JPEG as uint8 (H, W, 3) RGB: grey is repeated, transparency dropped, 16 bits scaled to 8.

    16-bit pictures often hold fewer bits (10 or 12 from a detector): the fewest whole bits that hold their
    largest value are scaled to 0..255. Raises DataError.
    """
    picture = _as_uint8(read_pixels(path), path)
    if picture.ndim == 2:
        return np.repeat(picture[..., None], 3, axis=2)
    return np.ascontiguousarray(picture[..., 2::-1])


def _as_uint8(picture: np.ndarray, path: str | Path) -> np.ndarray:
    if picture.dtype == np.uint8:
        return picture
    if picture.dtype != np.uint16:
        raise DataError(f"{path}: {picture.dtype} pixels; allowed: 8 or 16 bits")
    colors = picture if picture.ndim == 2 else picture[..., :3]
    bits = max(8, int(colors.max()).bit_length())
    return np.rint(colors * (255 / (2 ** bits - 1))).astype(np.uint8)
