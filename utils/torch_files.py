"""Files of `torch.save`, read without running anything in them and without more memory than they have bytes.

    tensors = read_torch_file("sam3.pt", mmap=True)

`torch.load(weights_only=True)` runs no code of the file. Three things it does not hold against the file's size: members
that are packed (torch never packs them; a megabyte may become gigabytes), the same bytes listed again and again, and a
pickle that asks for memory by a number.
"""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path
from typing import Any

import torch

PICKLE = "data.pkl"
# Allowed by `weights_only`, and needed by no weights: `bytearray(n)` fills n bytes, `encode` doubles what it is given.
REFUSED_CALLS = {"builtins bytearray", "__builtin__ bytearray", "_codecs encode"}


def read_torch_file(path: str | Path, **options: Any) -> Any:
    """`torch.load` of `path` onto the CPU, weights only. options: further ones of `torch.load`.

    Raises ValueError that says what is wrong with the file's archive, else whatever torch raises: many types.
    """
    check_archive(path)
    return torch.load(path, map_location="cpu", weights_only=True, **options)


def check_archive(path: str | Path) -> None:
    """ValueError, without the file's name, for an archive that `torch.save` does not write."""
    if not zipfile.is_zipfile(path):
        raise ValueError("it is no archive of torch.save, or only the beginning of one")
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        names = [member.filename for member in members]
        if len(set(names)) < len(names):
            raise ValueError("its archive has two members of one name")
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("its archive is packed, which torch.save never does: unpack and zip it with -0")
        if sum(member.file_size for member in members) > Path(path).stat().st_size:
            raise ValueError("its archive claims more bytes than the file has")
        for name in names:
            if name.endswith(PICKLE):
                _check_pickle(archive.read(name))


def _check_pickle(pickle: bytes) -> None:
    for operation, argument, _ in pickletools.genops(pickle):
        if operation.name == "GLOBAL" and argument in REFUSED_CALLS:
            raise ValueError(f"it calls {argument.replace(' ', '.')}, which no weights need")
