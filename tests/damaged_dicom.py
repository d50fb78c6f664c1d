"""DICOM files damaged by their structure, for `tests/fuzzed_files.py`."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pydicom
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import data_element_generator

from tests.fuzzing import EDITS, SOMETIMES, damaged_bytes
from tests.test_dicom import write_xa

DICOM_WORDS = (b"", b"\0\0", b"\xff\xff", b"\x01\0", b"\0\x80", b"-1", b"1e308", b"nan", b"99999999", b"x" * 40,
               b"1\\2\\3", b"MONOCHROME1", b"PALETTE COLOR", b"YBR_FULL", b"RGB ", b"1.2.840.10008.1.2.5",
               b"1.2.840.10008.1.2.4.70", b"1.2.840.10008.1.2.4.50", b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2")
LENGTHS = (0, 1, 2, 0xFFFE, 2**31, 2**32 - 1, 2**32 - 2)
LONG_KINDS = ("OB", "OW", "OF", "OD", "SQ", "UN", "UT", "UC", "UR", "OL")


def dicom_elements(raw: bytes) -> list[tuple[int, str, bytes]]:
    """(tag, kind, value) of every element of an explicit little-endian file, its header's included."""
    stream = DicomBytesIO(raw)
    stream.seek(132)
    return [(int(one.tag), one.VR, one.value or b"")
            for one in data_element_generator(stream, is_implicit_VR=False, is_little_endian=True)
            if isinstance(one, pydicom.dataelem.RawDataElement)]


def join_dicom(elements, lengths: dict[int, int] | None = None) -> bytes:
    """Elements as a file; lengths: what an element by its number claims instead of its length."""
    parts = [b"\0" * 128 + b"DICM"]
    for number, (tag, kind, value) in enumerate(elements):
        size = (lengths or {}).get(number, len(value))
        encapsulated = tag == 0x7FE00010 and value[:4] == b"\xfe\xff\x00\xe0"
        parts.append(struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, kind.encode()))
        if kind in LONG_KINDS:
            parts.append(struct.pack("<HI", 0, 2**32 - 1 if encapsulated and number not in (lengths or {}) else size))
        else:
            parts.append(struct.pack("<H", size & 0xFFFF))
        parts.append(value + (b"\xfe\xff\xdd\xe0\0\0\0\0" if encapsulated else b""))
    return b"".join(parts)


@st.composite
def damaged_dicom(draw, files: list[bytes]) -> bytes:
    """A DICOM file whose elements have other values, kinds and lengths, are missing or repeated."""
    elements, lengths = dicom_elements(draw(st.sampled_from(files))), {}
    for _ in range(draw(EDITS)):
        number = draw(st.integers(0, len(elements) - 1))
        tag, kind, value = elements[number]
        how = draw(st.sampled_from(("value", "value", "length", "kind", "data", "drop", "repeat")))
        if how == "value":
            elements[number] = tag, kind, draw(st.sampled_from(DICOM_WORDS))
        elif how == "length":
            lengths[number] = draw(st.sampled_from(LENGTHS))
        elif how == "kind":
            elements[number] = tag, draw(st.sampled_from("SQ UN US DS OB AT FD PN ZZ".split())), value
        elif how == "data" and value:
            elements[number] = tag, kind, draw(damaged_bytes(value))
        elif how == "drop" and len(elements) > 1:
            del elements[number]
        else:
            elements.insert(number, elements[number])
    raw = join_dicom(elements, lengths)
    return draw(damaged_bytes(raw)) if draw(SOMETIMES) else raw


def seed_dicoms(folder: Path) -> list[bytes]:
    """Uncompressed, run-length, JPEG and JPEG Lossless files, some of them from pydicom's own."""
    ramp = np.arange(3 * 16 * 16, dtype=np.uint16).reshape(3, 16, 16)
    plain = write_xa(folder / "plain.dcm", ramp, bits=12, WindowCenter=300, WindowWidth=600,
                     PositionerPrimaryAngle="30", PositionerSecondaryAngle="-20",
                     ImagerPixelSpacing=[0.2, 0.2], DistanceSourceToDetector="1000")
    packed = pydicom.dcmread(plain)
    packed.compress(pydicom.uid.RLELossless)
    packed.save_as(folder / "rle.dcm")
    names = ("SC_rgb_jpeg_gdcm.dcm", "SC_rgb_small_odd_jpeg.dcm", "JPGExtended.dcm")
    own = [get_testdata_file(name, download=False) for name in names]
    return [Path(path).read_bytes() for path in (plain, folder / "rle.dcm", *own)]
