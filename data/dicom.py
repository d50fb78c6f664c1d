"""Multi-frame X-ray angiography DICOM files: frames as they look on a viewer, and the geometry of the C-arm.

    cine = DicomCine("IM1.dcm")
    frame = cine.read(7)                        # uint8 (H, W, 3), vessels dark
    cine.header.primary_angle_deg               # LAO positive, RAO negative, nan when the header has none

JPEG Lossless, the usual compression in angiography, is decoded by `pylibjpeg` with `pylibjpeg-libjpeg`.
Names, dates and other identifying fields are never used. Sections are those of the DICOM standard, part 3.
"""
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.encaps import get_frame
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes

from data.errors import DataError, shortened
from data.input_files import check_pixels
from data.jpeg import is_whole_jpeg, read_jpeg_size

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
_MOST_BITS = 16     # what the XA module allows (C.8.7.1); all greys of 32 bits would fill the memory
_MOST_FRAMES = 2 ** 31 - 1  # of a number of frames, an integer string (part 5, 6.2)
_PREAMBLE_BYTES = 128          # part 10, section 7.1: 128 free bytes, then the letters DICM
_UNWINDOWED_PERCENTILES = (0.5, 99.5)   # what is shown of a file that states no window: all but stray pixels


@dataclass(frozen=True, kw_only=True)
class XAHeader:
    """What the project reads of an angiography header; a missing number is nan, a missing pair None.

    frames, height, width: counts and px; primary_angle_deg: LAO +, RAO - (0018,1510); secondary_angle_deg:
    cranial +, caudal - (0018,1511); source_detector_mm, source_patient_mm: (0018,1110), (0018,1111);
    imager_pixel_spacing_mm: (row, column) at the detector (0018,1164); positioner_moves: the angles hold for
    the first frame only; frame_time_ms: (0018,1063).
    """
    frames: int
    height: int
    width: int
    primary_angle_deg: float
    secondary_angle_deg: float
    source_detector_mm: float
    source_patient_mm: float
    imager_pixel_spacing_mm: tuple[float, float] | None
    positioner_moves: bool
    frame_time_ms: float


def is_dicom(path: str | Path) -> bool:
    """Say whether a file is DICOM, by its suffix or by the letters DICM after the preamble."""
    path = Path(path)
    if path.suffix.lower() in DICOM_SUFFIXES:
        return True
    try:
        with path.open("rb") as stream:
            return stream.read(_PREAMBLE_BYTES + 4)[_PREAMBLE_BYTES:] == b"DICM"
    except OSError:
        return False


def _places(dataset: pydicom.Dataset) -> Iterator[pydicom.Dataset]:
    """Yield where a value can stand: the top level, then the functional groups of Enhanced XA (C.8.19.6)."""
    yield dataset
    for sequence in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in list(dataset.get(sequence) or [])[:1]:
            for element in group:
                if element.VR == "SQ" and element.value:
                    yield element.value[0]


def _number(dataset: pydicom.Dataset, keyword: str) -> float:
    """Return one number of the header, nan when it is absent or empty (type 2 elements may be)."""
    for place in _places(dataset):
        value = place.get(keyword)
        if value not in (None, ""):
            return float(value)
    return math.nan


def _angle(dataset: pydicom.Dataset, keyword: str, limit_deg: float, path: Path) -> float:
    angle_deg = _number(dataset, keyword)
    if abs(angle_deg) > limit_deg:
        raise DataError(f"{path}: {keyword} is {angle_deg:g}; allowed: -{limit_deg:g} to {limit_deg:g} "
                        "degrees. Correct the header, or export the frames as .npy and give angles as flags")
    return angle_deg


def _spacing(dataset: pydicom.Dataset) -> tuple[float, float] | None:
    for place in _places(dataset):
        spacing = place.get("ImagerPixelSpacing")
        if spacing is not None and len(spacing) == 2 and min(spacing) > 0:
            return float(spacing[0]), float(spacing[1])
    return None


def _read_header(dataset: pydicom.Dataset, path: Path) -> XAHeader:
    motion = next((place.PositionerMotion for place in _places(dataset) if place.get("PositionerMotion")), "")
    return XAHeader(
        frames=int(dataset.get("NumberOfFrames") or 1), height=int(dataset.Rows), width=int(dataset.Columns),
        primary_angle_deg=_angle(dataset, "PositionerPrimaryAngle", 180, path),
        secondary_angle_deg=_angle(dataset, "PositionerSecondaryAngle", 90, path),
        source_detector_mm=_number(dataset, "DistanceSourceToDetector"),
        source_patient_mm=_number(dataset, "DistanceSourceToPatient"),
        imager_pixel_spacing_mm=_spacing(dataset), positioner_moves=motion == "DYNAMIC",
        frame_time_ms=_number(dataset, "FrameTime"))


def _stored_range(dataset: pydicom.Dataset) -> tuple[int, int]:
    """Return the least and greatest stored value that the header allows (C.7.6.3.1)."""
    bits = int(dataset.BitsStored)
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dataset.PixelRepresentation else (0, 2 ** bits - 1)


def _has_window(dataset: pydicom.Dataset) -> bool:
    window = dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None
    return window or bool(dataset.get("VOILUTSequence"))


def _display_table(dataset: pydicom.Dataset, sample: np.ndarray) -> np.ndarray:
    """Return the grey 0..255 of every value that can be stored: modality LUT, window, polarity (C.11).

    sample: stored values of one frame, which set the range when the file states no window.
    """
    low, high = _stored_range(dataset)
    shown = apply_modality_lut(np.arange(low, high + 1), dataset)
    if _has_window(dataset):
        shown = apply_voi_lut(shown, dataset, prefer_lut=True).astype(np.float64)
        black, white = shown.min(), shown.max()
    else:
        used = shown[np.clip(sample.astype(np.int64), low, high) - low]
        black, white = np.percentile(used, _UNWINDOWED_PERCENTILES)
    grey = np.clip((shown - black) / max(white - black, 1e-9), 0, 1)
    white_is_low = "MONOCHROME1" == dataset.PhotometricInterpretation
    inverse = white_is_low or dataset.get("PresentationLUTShape") == "INVERSE"
    return np.rint(255 * (1 - grey if inverse else grey)).astype(np.uint8)


def read_dicom_header(path: str | Path) -> pydicom.Dataset:
    """Read a DICOM file without its pixels. Raises DataError, naming the file, for what is no DICOM."""
    return _read_dataset(Path(path), stop_before_pixels=True)


def _read_dataset(path: Path, *, stop_before_pixels: bool = False) -> pydicom.Dataset:
    try:
        if read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            raise DataError(f"{path}: it is deflated, and nothing says how large it will be; export it uncompressed, "
                            "or with its frames as JPEG Lossless")
        return pydicom.dcmread(path, stop_before_pixels=stop_before_pixels)
    except DataError:
        raise
    except InvalidDicomError as error:
        raise DataError(f"{path}: not a DICOM file (no DICM after the preamble)") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    except Exception as error:      # damaged bytes surface as whatever error pydicom meets first
        raise _damaged(path, error) from error


class DicomCine:
    """A DICOM cine opened for reading single frames; only compressed bytes and one frame are held in memory.

    Raises DataError, naming the file, when it is missing, not an image, or cannot be decoded.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._dataset = _read_dataset(self.path)
        self.header = self._checked_header()
        self._table: np.ndarray | None = None

    def _checked_header(self) -> XAHeader:
        missing = [name for name in ("PixelData", "Rows", "Columns") if name not in self._dataset]
        if missing:
            raise DataError(f"{self.path}: a DICOM file without {', '.join(missing)} (a directory or a "
                            "report?); give the image file itself")
        try:        # values are decoded when they are first used
            header = _read_header(self._dataset, self.path)
        except DataError:
            raise
        except Exception as error:
            raise _damaged(self.path, error) from error
        if min(header.frames, header.height, header.width) < 1 or header.frames > _MOST_FRAMES:
            raise DataError(f"{self.path}: {header.frames} frames of {header.width} x {header.height} "
                            f"pixels; allowed: at least 1 of each, at most {_MOST_FRAMES} frames. Export the file "
                            "again")
        check_pixels(self.path, header.height, header.width)
        return header

    def __len__(self) -> int:
        return self.header.frames

    def _stored(self, frame_index: int) -> np.ndarray:
        try:
            self._check_jpeg(frame_index)
            return pixel_array(self._dataset, index=frame_index)
        except DataError:
            raise
        except Exception as error:      # each of pydicom's decoders has errors of its own
            syntax = getattr(self._dataset.file_meta.get("TransferSyntaxUID"), "name", "no transfer syntax")
            raise DataError(f"{self.path}: frame {frame_index} does not decode ({syntax}): {shortened(str(error))}. "
                            "Is the file whole? JPEG needs the packages pylibjpeg and pylibjpeg-libjpeg") from error

    def _check_jpeg(self, frame_index: int) -> None:
        """Refuse a compressed frame that was cut, or whose own header claims more pixels than any frame has."""
        if self._dataset.file_meta.get("TransferSyntaxUID") not in JPEGTransferSyntaxes + JPEGLSTransferSyntaxes:
            return
        frame = get_frame(self._dataset.PixelData, frame_index, number_of_frames=len(self))
        size = read_jpeg_size(frame)
        if size is None or not is_whole_jpeg(frame):
            raise ValueError("the JPEG " + ("has no header" if size is None else "ends within its pixels"))
        check_pixels(self.path, *size)

    def read(self, frame_index: int) -> np.ndarray:
        """Return one frame (0-based) as uint8 (H, W, 3). Raises DataError: out of range, broken."""
        if not 0 <= frame_index < len(self):
            raise DataError(f"{self.path}: no frame {frame_index}; allowed: 0 to {len(self) - 1}")
        stored = self._stored(frame_index)
        if stored.ndim == 3:
            return _color_frame(stored, self.path)
        try:
            return self._grey_frame(stored)
        except DataError:
            raise
        except Exception as error:
            raise _damaged(self.path, error) from error

    def _grey_frame(self, stored: np.ndarray) -> np.ndarray:
        if not 1 <= int(self._dataset.BitsStored) <= _MOST_BITS:
            bits = self._dataset.BitsStored
            raise DataError(f"{self.path}: BitsStored is {bits}; allowed: 1 to {_MOST_BITS}")
        if self._table is None:
            middle = self._stored(len(self) // 2) if not _has_window(self._dataset) else stored
            self._table = _display_table(self._dataset, middle)
        low, high = _stored_range(self._dataset)
        grey = self._table[np.clip(stored.astype(np.int64), low, high) - low]
        return np.repeat(grey[..., None], 3, axis=2)


def _damaged(path: Path, error: Exception) -> DataError:
    reason = shortened(f"{type(error).__name__}: {error}")
    return DataError(f"{path}: damaged ({reason}); copy or export the file again")


def _color_frame(stored: np.ndarray, path: Path) -> np.ndarray:
    if stored.dtype != np.uint8 or stored.shape[2] != 3:
        raise DataError(f"{path}: colour pixels {stored.dtype} {stored.shape}; allowed: grey, or 8-bit RGB")
    return stored
