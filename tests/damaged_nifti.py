"""NIfTI volumes damaged in their header's fields, and packed ones also in their stream, for `tests/fuzzed_files.py`."""

from __future__ import annotations

import gzip
import struct

import nibabel
import numpy as np
from hypothesis import strategies as st

from tests.fuzzing import EDITS, damaged_bytes

# Where the header has it, and as what: size of the header, dimensions, type, bits, pixel sizes, where values begin,
# slope, intercept, extensions. See nifti1.h of the NIfTI-1 standard.
FIELDS = (
    [(0, "<i"), (70, "<h"), (72, "<h"), (108, "<f"), (112, "<f"), (116, "<f"), (344, "<4s"), (348, "<i"), (352, "<i")]
    + [(40 + 2 * number, "<h") for number in range(8)] + [(76 + 4 * number, "<f") for number in range(8)]
)
INTEGERS = st.sampled_from((0, 1, -1, 2, 7, 8, 16, 64, 128, 255, 1024, 32767, -32768))
NUMBERS = st.sampled_from((0.0, -1.0, 1e38, -1e38, float("nan"), float("inf"), 352.5, 1e9))


def seed_volume(dtype=np.int16) -> bytes:
    """The file of a volume (6, 5, 4)."""
    values = np.arange(6 * 5 * 4, dtype=dtype).reshape(6, 5, 4)
    return nibabel.Nifti1Image(values, np.eye(4)).to_bytes()


@st.composite
def damaged_nifti(draw, packed: bool = False) -> bytes:
    """With other values in fields of the header, or with damaged bytes anywhere."""
    data = bytearray(seed_volume(draw(st.sampled_from((np.int16, np.float32, np.uint8)))))
    for _ in range(draw(EDITS)):
        place, kind = draw(st.sampled_from(FIELDS))
        if kind == "<4s":
            value = draw(st.sampled_from((b"n+1\0", b"ni1\0", b"n+2\0", b"\0\0\0\0")))
        else:
            value = draw(NUMBERS if kind == "<f" else INTEGERS)
        struct.pack_into(kind, data, place, value)
    if draw(st.booleans()):
        data = draw(damaged_bytes(bytes(data)))
    if packed:
        data = gzip.compress(bytes(data), mtime=0)
        if draw(st.booleans()):
            data = draw(damaged_bytes(data))
    return bytes(data)
