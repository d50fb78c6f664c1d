"""`.npy` arrays and PNG pictures damaged by their structure, for `tests/fuzzed_files.py`."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
from hypothesis import strategies as st

from tests.fuzzing import EDITS, SOMETIMES, damaged_bytes

DESCRIPTIONS = ("|u1", "<f4", "<f8", "<f2", "<f16", "|b1", "<i8", "<c16", "|O", "<U5", "|S3", "|V8", "<M8[s]", "|V0",
                "zz", "", "<f3", 3, None, [("a", "|u1")], [("a", "|O")], [["a"]])
SHAPES = ((3, 16, 16), (3, 16, 16, 3), (), (0,), (0, 16, 16), (10**12, 16, 16), (2**63, 2, 2), (2**62, 4, 16),
          (-1, 16, 16), (-3, -16, 16), (1.5, 2), (True, 16, 16), ("3", 2), (3, (16, 16)), (16, 16), (16, 16, 3),
          [3, 16, 16], 5, None,
          (1,) * 64, (1,) * 70)


@st.composite
def damaged_npy(draw, array: np.ndarray) -> bytes:
    """An `.npy` file whose header claims another type, shape, order, version or length."""
    header = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
    for _ in range(draw(EDITS) - 1):
        key = draw(st.sampled_from(sorted(header) or ["descr"]))
        choice = {"descr": DESCRIPTIONS, "shape": SHAPES}.get(key, (True, None, "yes", 2))
        header[key] = draw(st.sampled_from(choice))
        if draw(st.integers(0, 9)) == 0:
            del header[key]
    strange = ("__import__('os').getcwd()", "(" * 3000, "1e999", "{" + "'a':1," * 900)
    text = draw(st.sampled_from((repr(header),) * 12 + strange))
    version = draw(st.sampled_from((1, 1, 1, 2, 3, 9)))
    claimed = len(text) + 1 if draw(st.integers(0, 5)) else draw(st.sampled_from((0, 1, 60_000)))
    size = struct.pack("<H" if version == 1 else "<I", claimed)
    raw = b"\x93NUMPY" + bytes([version, 0]) + size + text.encode() + b"\n" + array.tobytes()
    return draw(damaged_bytes(raw)) if draw(SOMETIMES) else raw


CHUNKS = b"IDAT PLTE tRNS iCCP zTXt acTL fcTL eXIf xxxx IEND gAMA".split()


def png_chunks(raw: bytes) -> list[tuple[bytes, bytes]]:
    """(type, data) of the chunks of a PNG."""
    chunks, at = [], 8
    while at < len(raw):
        size = int.from_bytes(raw[at:at + 4], "big")
        chunks.append((raw[at + 4:at + 8], raw[at + 8:at + 8 + size]))
        at += 12 + size
    return chunks


def join_png(chunks, lengths: dict[int, int] | None = None) -> bytes:
    """A PNG with true checksums; lengths: what a chunk by its number claims instead of its length."""
    parts = [b"\x89PNG\r\n\x1a\n"]
    for number, (kind, data) in enumerate(chunks):
        size = (lengths or {}).get(number, len(data))
        parts += [size.to_bytes(4, "big"), kind, data, zlib.crc32(kind + data).to_bytes(4, "big")]
    return b"".join(parts)


@st.composite
def damaged_png(draw, pictures: list[bytes]) -> bytes:
    """A PNG whose header, chunks, their lengths, order and data were changed, mostly with true checksums."""
    chunks, lengths = png_chunks(draw(st.sampled_from(pictures))), {}
    for _ in range(draw(EDITS)):
        number = draw(st.integers(0, len(chunks) - 1))
        kind, data = chunks[number]
        how = draw(st.sampled_from(("header", "length", "type", "data", "drop", "repeat")))
        if how == "header":
            at = draw(st.integers(0, 12))
            word = draw(st.sampled_from((b"\0", b"\x01", b"\x10", b"\xff", b"\0\0\xea\x60")))
            chunks[0] = chunks[0][0], (chunks[0][1][:at] + word + chunks[0][1][at + len(word):])[:13]
        elif how == "length":
            lengths[number] = draw(st.sampled_from((0, 1, 2**31 - 1, 2**32 - 1, 10**9)))
        elif how == "type":
            chunks[number] = draw(st.sampled_from(CHUNKS)), data
        elif how == "data" and data:
            chunks[number] = kind, draw(damaged_bytes(data))
        elif how == "drop" and len(chunks) > 1:
            del chunks[number]
        else:
            chunks.insert(number, chunks[number])
    raw = join_png(chunks, lengths)
    return draw(damaged_bytes(raw)) if draw(SOMETIMES) else raw


def seed_pictures(suffix: str) -> list[bytes]:
    """A grey, a colour and, as PNG, a 16-bit, a transparent and a one-bit picture."""
    ramp = np.arange(24 * 20, dtype=np.uint8).reshape(24, 20)
    pictures = [ramp, np.dstack([ramp, 255 - ramp, ramp // 2]), (ramp > 100).astype(np.uint8) * 255]
    if suffix == ".png":
        pictures += [ramp.astype(np.uint16) * 9, np.dstack([ramp] * 4)]
    return [cv2.imencode(suffix, picture)[1].tobytes() for picture in pictures]
