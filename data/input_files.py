"""Files from outside, read with bounds: what a header claims is held against the file before memory is taken for it.

    raw = read_bytes("contours.json", MOST_JSON_BYTES)
    array = open_npy("cine.npy")                  # a read-only memory map; pickled objects are refused
    picture = read_pixels("mask.png")             # as it is stored
"""

import io
import json
import os
import threading
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from data.errors import DataError, shortened
from data.jpeg import is_whole_jpeg

MOST_JSON_BYTES = 16 * 2**20  # a contours file of Medis has 0.1 MB
MOST_PICTURE_BYTES = 256 * 2**20
# 8192 x 8192; the largest X-ray detectors have 4096 x 4096. Read as 16 bits in three colours that is 0.4 GB.
MOST_PIXELS = 2**26
# Python 3.11's parser, which reads a header's description, confuses threads (github.com/python/cpython/issues/106905).
_ONE_HEADER = threading.Lock()
_PICTURE_FORMATS = ("PNG", "JPEG")  # of what OpenCV would decode under any name


def read_bytes(path: str | Path, most_bytes: int) -> bytes:
    """The bytes of a file; DataError, naming it, when it cannot be opened or has more than `most_bytes`."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > most_bytes:
                raise DataError(f"{path}: has {size} bytes; allowed: {most_bytes}. Is it a file of another kind?")
            return file.read()
    except OSError as error:
        raise DataError(f"{path}: cannot be read, as it cannot be opened ({error})") from error


def parse_json(text: str, path: str | Path) -> object:
    """What the JSON `text` of the file `path` holds; DataError, naming it, when it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits, and thousands of brackets
        raise DataError(f"{path}: truncated or not JSON ({error}; the file has {len(text)} characters); copy, "
                        "export or download it again") from error


def open_npy(path: str | Path) -> np.ndarray:
    """The array of an `.npy` file as a read-only memory map: of a false header nothing is allocated, nothing is run.

    Raises DataError, naming the file, when it is missing, truncated, no `.npy`, or holds pickled objects.
    """
    try:
        with _ONE_HEADER:
            return np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except Exception as error:  # a damaged header surfaces as whatever error its parser meets first
        raise DataError(f"{path}: truncated or not an .npy file of numbers ({shortened(str(error))}); export it "
                        "again") from error


def check_pixels(path: str | Path, height: int, width: int) -> None:
    """DataError, naming the file, when it claims frames or pictures of more than `MOST_PIXELS`."""
    if height * width > MOST_PIXELS:
        raise DataError(f"{path}: claims {width} x {height} pixels; allowed: {MOST_PIXELS} in all. Export it again, "
                        "or smaller")


def read_pixels(path: str | Path) -> np.ndarray:
    """A PNG or JPEG as it is stored, uint8 or uint16, (H, W), (H, W, 3) BGR or (H, W, 4); DataError, naming it.

    Its size is read from its header first, so that a file of kilobytes cannot ask for gigabytes.
    """
    # Not cv2.imread: on Windows it cannot open a path with letters outside the system's code page.
    encoded = read_bytes(path, MOST_PICTURE_BYTES)
    try:
        with Image.open(io.BytesIO(encoded), formats=_PICTURE_FORMATS) as header:
            width, height = header.size
            header.verify()  # lengths and sums of a PNG's chunks: OpenCV 5 takes 2 GB for one that claims them
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: {error}; allowed: {MOST_PIXELS} pixels") from error
    except Exception as error:  # PIL's readers have errors of their own for what they meet
        raise _no_picture(path, error) from error
    check_pixels(path, height, width)
    if header.format == "JPEG" and not is_whole_jpeg(encoded):
        raise _no_picture(path, "it ends within its pixels")
    try:
        picture = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise _no_picture(path, error) from error
    if picture is None:
        raise _no_picture(path, "OpenCV cannot decode it")
    return picture


def _no_picture(path: str | Path, reason: object) -> DataError:
    return DataError(f"{path}: truncated or not a picture, PNG or JPEG ({shortened(str(reason))}); export it again")
