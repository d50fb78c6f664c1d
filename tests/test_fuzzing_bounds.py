"""Files made to harm: small ones that ask for gigabytes or for hours, and those with code in them."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, get_frame

from tests.damaged_checkpoints import official_weights, tiny_checkpoint
from tests.damaged_dicom import dicom_elements, join_dicom, seed_dicoms
from tests.damaged_pictures import join_png, png_chunks, seed_pictures
from tests.damaged_text import csv_rows
from tests.fuzzed_files import READERS, write_companions
from tests.fuzzing import ReadingProcess, answer

MANY = 700 * 2**20  # bytes, more than reading may take


@pytest.fixture(scope="module")
def reading():
    """A process to read in, watched for its time and memory."""
    with ReadingProcess() as process:
        yield process


# ---- files; each function writes one into a folder with the companions and returns its path

def npy(folder: Path, description: str, shape: str, payload: int = 100) -> Path:
    header = f"{{'descr': {description!r}, 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    path = folder / "claims.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode())
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + payload)
    return path


def png(folder: Path, width: int, height: int, *, whole: bool) -> Path:
    """Of one bit a pixel; whole: with all of its data, black."""
    rows = zlib.compressobj(1)
    row = bytes(1 + (width + 7) // 8)
    data = b"".join(rows.compress(row * 100) for _ in range(height // 100)) + rows.flush() if whole else b""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    path = folder / "claims.png"
    path.write_bytes(join_png([(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]))
    return path


def png_with_a_chunk_of_two_gigabytes(folder: Path) -> Path:
    path = folder / "claims.png"
    path.write_bytes(join_png(png_chunks(seed_pictures(".png")[0]), {1: 2**31 - 1}))
    return path


def jpeg(folder: Path) -> Path:
    path, raw = folder / "claims.jpg", seed_pictures(".jpg")[0]
    path.write_bytes(larger_jpeg(raw))
    return path


def larger_jpeg(raw: bytes) -> bytes:
    """A JPEG that says it has 65500 x 65500 pixels."""
    at = next(raw.index(mark) for mark in (b"\xff\xc0", b"\xff\xc1", b"\xff\xc3") if mark in raw)
    return raw[:at + 5] + struct.pack(">HH", 65500, 65500) + raw[at + 9:]


def dicom(folder: Path, number: int, **values: bytes) -> Path:
    """A file of `seed_dicoms` with other values."""
    tags = {"frames": 0x00280008, "rows": 0x00280010, "columns": 0x00280011, "syntax": 0x00020010}
    changes = {tags[name]: value for name, value in values.items()}
    elements = dicom_elements(seed_dicoms(folder)[number])
    path = folder / "claims.dcm"
    path.write_bytes(join_dicom([(tag, kind, changes.get(tag, value)) for tag, kind, value in elements]))
    return path


def dicom_of_a_large_jpeg(folder: Path) -> Path:
    path = folder / "claims.dcm"
    path.write_bytes(larger_jpeg(Path(get_testdata_file("SC_rgb_jpeg_gdcm.dcm", download=False)).read_bytes()))
    return path


def dicom_deflated(folder: Path) -> Path:
    elements = dicom_elements(seed_dicoms(folder)[0])
    meta = [(tag, kind, b"1.2.840.10008.1.2.1.99" if tag == 0x00020010 else value)
            for tag, kind, value in elements if tag < 0x00030000]
    packed = zlib.compressobj(1, wbits=-15)
    body = packed.compress(struct.pack("<HH2sHI", 0x0009, 0x0010, b"UN", 0, MANY))
    body += b"".join(packed.compress(bytes(2**20)) for _ in range(MANY // 2**20)) + packed.flush()
    path = folder / "claims.dcm"
    path.write_bytes(join_dicom(meta) + body)
    return path


def contours(folder: Path, **changes) -> Path:
    path = sorted((folder / "contours").iterdir())[0]
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")
    return path


def deep_contours(folder: Path) -> Path:
    path = contours(folder, analyst="HERE")
    path.write_text(path.read_text(encoding="utf-8").replace('"HERE"', "[" * 10_000 + "]" * 10_000), encoding="utf-8")
    return path


def long_contours(folder: Path) -> Path:
    line = np.stack([np.linspace(2, 28, 100_000), np.linspace(3, 25, 100_000)], axis=1).round(3).tolist()
    return contours(folder, **dict.fromkeys(("centerline", "left_edge", "right_edge", "ideal_left_edge"), line))


def table(folder: Path, column: str, cell: str, *, columns: int = 0) -> Path:
    rows = csv_rows(folder)
    rows[1][rows[0].index(column)] = cell
    path = folder / "claims.csv"
    path.write_text("\n".join(",".join(row + ["x"] * columns) for row in rows), encoding="utf-8")
    return path


def checkpoint(folder: Path, extra: object = None, **archive) -> Path:
    path = folder / "claims.pth"
    torch.save({"format": 1, **tiny_checkpoint(), "extra": extra}, path)
    if archive:
        rewrite(path, **archive)
    return path


def rewrite(path: Path, *, pack: int = 0, repeat: int = 0) -> None:
    """The archive with a member of `pack` packed zero bytes, or with `repeat` members that share 20 MiB."""
    with zipfile.ZipFile(path) as archive:
        members = [(one.filename, archive.read(one)) for one in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members:
            archive.writestr(name, data)
        large = zipfile.ZipInfo("claims/data/9")
        large.compress_type = zipfile.ZIP_DEFLATED if pack else zipfile.ZIP_STORED
        with archive.open(large, "w") as file:
            for _ in range((pack or 20 * 2**20) // 2**20):
                file.write(bytes(2**20))
        for number in range(repeat):
            again = zipfile.ZipInfo(f"claims/data/{100 + number}")
            for field in ("header_offset", "file_size", "compress_size", "CRC", "external_attr", "create_system"):
                setattr(again, field, getattr(archive.filelist[-1 - number], field))
            archive.filelist.append(again)


class Fills:
    """Pickled, it asks for `MANY` bytes."""

    def __reduce__(self):
        return bytearray, (MANY,)


class Doubles:
    """Pickled, it asks for four bytes doubled 28 times."""

    def __init__(self, times: int) -> None:
        self.times = times

    def __reduce__(self):
        import codecs

        return codecs.encode, (Doubles(self.times - 1) if self.times else b"1234", "hex")


FILES = {
    "npy of a terabyte": ("npy", lambda folder: npy(folder, "<f8", "(1000, 11000, 12000)"), "truncated or not"),
    "npy mask of 20 GB": ("npy", lambda folder: npy(folder, "|u1", "(100000, 200000)"), "truncated or not"),
    "npy of negative sides": ("npy", lambda folder: npy(folder, "|u1", "(-100000, -200000)"), "truncated or not"),
    "npy mask larger than any": ("npy", lambda folder: npy(folder, "|u1", "(8193, 8192)", 8193 * 8192), "allowed"),
    "npy frame larger than any": ("npy", lambda folder: npy(folder, "|u1", "(1, 8193, 8192)", 8193 * 8192), "allowed"),
    "PNG of 60000 x 60000": ("png", lambda folder: png(folder, 60_000, 60_000, whole=False), "allowed: 67108864"),
    "PNG of black pixels": ("png", lambda folder: png(folder, 30_000, 30_000, whole=True), "allowed: 67108864"),
    "PNG chunk of 2 GB": ("png", png_with_a_chunk_of_two_gigabytes, "truncated or not a picture"),
    "JPEG of 65500 x 65500": ("jpeg", jpeg, "allowed: 67108864"),
    "DICOM of 10000 frames": (
        "dicom", lambda folder: dicom(folder, 0, frames=b"10000 ", rows=b"\xff\xff", columns=b"\xff\xff"),
        "65535 x 65535"),
    "DICOM of more frames than it has": (
        "dicom", lambda folder: dicom(folder, 0, frames=b"99999999"), "does not decode"),
    "DICOM of 10^30 frames": (
        "dicom", lambda folder: dicom(folder, 0, frames=b"1" + b"0" * 30 + b" "), "at most 2147483647 frames"),
    "DICOM of large run-length frames": (
        "dicom", lambda folder: dicom(folder, 1, rows=b"\xff\xff", columns=b"\xff\xff"), "65535 x 65535"),
    "DICOM of a large JPEG": ("dicom", dicom_of_a_large_jpeg, "65500 x 65500"),
    "DICOM deflated": ("dicom", dicom_deflated, "deflated"),
    "contours nested 10000 deep": ("contours", deep_contours, "not JSON"),
    "contours of 100000 points": ("contours", long_contours, "10 to 5000 points"),
    "contours of 20 MB": ("contours", lambda folder: contours(folder, analyst="x" * 20_000_000), "allowed: 16777216"),
    "CSV of a million columns": ("csv", lambda folder: table(folder, "phase", "PRE", columns=10**6), "faults in"),
    "CSV with a cell of 50 MB": ("csv", lambda folder: table(folder, "phase", "x" * 50_000_000), "line 2 is no CSV"),
    "CSV with a quote left open": (
        "csv", lambda folder: table(folder, "phase", '"' + "x" * 200_000), "line 2 is no CSV .* quote left open"),
    "CSV of 300 MB": ("csv", lambda folder: table(folder, "phase", "x" * 300_000_000), "allowed: 268435456"),
    "CSV with an angle of blanks": (
        "csv", lambda folder: table(folder, "primary_angle", "RAO" + " " * 20_000 + "!"), "cannot be read"),
    "CSV with a path of 100000 letters": (
        "csv", lambda folder: table(folder, "cine_path", "x/" * 50_000), "no such file"),
    "checkpoint with packed members": ("checkpoint", lambda folder: checkpoint(folder, pack=MANY), "is packed"),
    "checkpoint of shared members": ("checkpoint", lambda folder: checkpoint(folder, repeat=50), "claims more bytes"),
    "checkpoint that fills memory": ("checkpoint", lambda folder: checkpoint(folder, Fills()), "calls .*bytearray"),
    "checkpoint that doubles": ("checkpoint", lambda folder: checkpoint(folder, Doubles(28)), "calls _codecs.encode"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_asks_for_gigabytes_or_hours_is_refused(tmp_path, name, reading):
    write_companions(tmp_path)
    reader, write, said = FILES[name]
    path = write(tmp_path)
    refused = reading.read(reader, path)
    assert refused.startswith("refused") and re.search(said, refused, re.DOTALL), refused


@pytest.mark.parametrize("keep", [0.5, 0.9, 0.99])
def test_a_jpeg_that_was_cut_is_not_filled_up_with_grey(tmp_path, keep):
    path, whole = tmp_path / "cut.jpg", seed_pictures(".jpg")[0]
    path.write_bytes(whole[:int(keep * len(whole))])
    assert "truncated or not a picture" in answer(READERS["jpeg"], path)
    path.write_bytes(whole + b"\0\0 behind it")
    assert answer(READERS["jpeg"], path) == "read"


@pytest.mark.parametrize("keep", [0.5, 0.9, 0.99])
def test_a_compressed_frame_that_was_cut_is_refused(tmp_path, keep):
    dataset = dcmread(get_testdata_file("SC_rgb_jpeg_gdcm.dcm", download=False))
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = encapsulate([frame[:int(keep * len(frame))]])
    dataset.save_as(tmp_path / "cut.dcm")
    assert "cut.dcm: frame 0 does not decode" in answer(READERS["dicom"], tmp_path / "cut.dcm")
    dataset.PixelData = encapsulate([frame])
    dataset.save_as(tmp_path / "whole.dcm")
    assert answer(READERS["dicom"], tmp_path / "whole.dcm") == "read"


class WritesAFile:
    """Pickled, it makes a folder where it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("shape", [(), (2,), (3, 16, 16), (16, 16)])
def test_code_pickled_in_an_npy_is_not_run_as_cine_or_mask(tmp_path, shape):
    array = np.empty(shape, object)
    array.fill(WritesAFile(tmp_path / "ran"))
    np.save(tmp_path / "evil.npy", array, allow_pickle=True)
    assert "truncated or not an .npy" in answer(READERS["npy"], tmp_path / "evil.npy")
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(WritesAFile(tmp_path / "ran")))
    assert (tmp_path / "ran").exists(), "this class does no harm, so the test says nothing"


@pytest.mark.parametrize("kind", ["bare pickle", "old torch", "archive"])
@pytest.mark.parametrize("name", ["checkpoint", "sam3"])
def test_code_pickled_in_a_checkpoint_is_not_run(tmp_path, name, kind):
    content = {"checkpoint": {"format": 1, **tiny_checkpoint()}, "sam3": official_weights()}[name]
    content["extra"], path = WritesAFile(tmp_path / "ran"), tmp_path / "evil.pth"
    if kind == "bare pickle":
        path.write_bytes(pickle.dumps(content["extra"]))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "archive")
    assert answer(READERS[name], path).startswith("refused")
    assert not (tmp_path / "ran").exists()


def test_code_in_any_member_of_an_archive_is_not_run(tmp_path):
    path, stream = tmp_path / "evil.pth", io.BytesIO()
    torch.save({"format": 1, **tiny_checkpoint()}, stream)
    with zipfile.ZipFile(stream) as archive, zipfile.ZipFile(path, "w") as made:
        for member in archive.infolist():
            made.writestr(member.filename, pickle.dumps(WritesAFile(tmp_path / "ran")))
    assert answer(READERS["checkpoint"], path).startswith("refused")
    assert not (tmp_path / "ran").exists()
