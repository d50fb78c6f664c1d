"""Write a file so that nobody ever sees half of it.

Everything goes to a temporary file beside the target, is flushed to the disk, and takes the target's name in
one `os.replace`. A reader finds the old file or the new one; a crash, a full disk or a second Ctrl-C leaves
the old one.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

# Windows refuses to replace a file that another process holds open: a virus scanner for a moment, a program
# that reads a checkpoint of 5 GB for half a minute. A minute in all.
REPLACE_TRIES = 240
REPLACE_WAIT_S = 0.25
DISK_IS_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}  # Windows has no quota of its own


def write_atomic(path: str | Path, write: Callable[[BinaryIO], None], *, needed_bytes: int | None = None) -> None:
    """Call `write` with an open binary file, then give that file the name `path` in one step.

    The temporary file has a fixed name, so that what a killed process left is overwritten by the next write.
    needed_bytes: about how long the file will be, if known; said when the disk is full.
    Raises OSError that names `path` and says that the old file is intact; the temporary file is gone then.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as handle:
            write(handle)
            handle.flush()
            os.fsync(handle.fileno())
        replace_with_retries(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        failure = _find_write_failure(error)
        if failure is not None:
            raise _write_error(path, failure, needed_bytes) from error
        raise


def write_bytes_atomic(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` in one step."""
    write_atomic(path, lambda handle: handle.write(data), needed_bytes=len(data))


def write_text_atomic(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 with the newlines it has to `path` in one step."""
    write_bytes_atomic(path, text.encode("utf-8"))


def write_png_atomic(path: str | Path, picture) -> None:
    """Write a picture, uint8 or uint16 (H, W) or BGR (H, W, 3), or a bool mask as 0 and 255, to `path` in one step."""
    import cv2  # here, because most of who writes files draws none

    values = picture.astype("uint8") * 255 if picture.dtype == bool else picture
    done, data = cv2.imencode(".png", values, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not done:
        raise OSError(f"{path}: OpenCV could not encode a PNG of shape {values.shape}")
    write_bytes_atomic(path, data.tobytes())


def save_figure_atomic(figure, path: str | Path, *, dpi: int = 120) -> None:
    """Write a matplotlib figure to `path` (format from its suffix, PNG without one) in one step."""
    file_format = Path(path).suffix.lstrip(".") or "png"
    write_atomic(path, lambda handle: figure.savefig(handle, format=file_format, dpi=dpi))


def replace_with_retries(source: Path, target: Path) -> None:
    """`os.replace`, tried again for a minute while another process holds `target` open (Windows)."""
    for attempt in range(REPLACE_TRIES):
        try:
            os.replace(source, target)
            return
        except PermissionError:
            if attempt == REPLACE_TRIES - 1:
                raise
            time.sleep(REPLACE_WAIT_S)


def _find_write_failure(error: BaseException | None) -> OSError | None:
    """The OSError in a chain of exceptions: torch answers a failed write with a RuntimeError of its own."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def _write_error(path: Path, error: OSError, needed_bytes: int | None) -> OSError:
    free = shutil.disk_usage(path.parent).free if path.parent.is_dir() else 0
    old = "The file that was there is intact." if path.exists() else "No file of that name exists."
    held = isinstance(error, PermissionError) and path.exists()
    todo = "Close the program that has it open, if one has," if held else "Free some space"
    reason = error.strerror or str(error)
    # Beside the old file, which stays until the new one is whole.
    is_full = error.errno in DISK_IS_FULL and needed_bytes is not None
    needed = f"about {math.ceil(needed_bytes / 2**20 * 10) / 10} MiB are needed, " if is_full else ""
    text = f"could not write {path} ({reason}); {needed}{free / 2**20:.1f} MiB are free there. {old} "
    text += f"{todo} or choose another folder, then run again."
    return OSError(error.errno or errno.EIO, text)
