"""Paths of a CSV that was written on another computer, made local.

A path in the CSV is relative to the data root, or absolute, with either kind of slash. A path map replaces
the start of a path: `D:\\angio=/mnt/angio` turns `D:\\angio\\cines\\1.npy` into `/mnt/angio/cines/1.npy`.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

PathMaps = Sequence[tuple[str, str]]
_WINDOWS_ABSOLUTE = re.compile(r"[A-Za-z]:/|//")


def parse_path_maps(values: Sequence[str]) -> list[tuple[str, str]]:
    """`["OLD=NEW", ...]` as [(old, new), ...]; raises ValueError for text without both sides."""
    maps = []
    for value in values:
        old, separator, new = value.partition("=")
        if not (old and separator and new):
            raise ValueError(rf"--path-map {value!r}: expected OLD=NEW, for example E:\Angio=/mnt/angio")
        maps.append((old, new))
    return maps


def resolve_path(text: str, data_root: Path, path_maps: PathMaps = ()) -> Path:
    """The local absolute path for the text of a CSV cell. The first map whose start fits is applied.

    Starts are compared without regard to case and kind of slash, and end where a folder's name ends. The new
    start is itself taken from the current folder when it is relative.
    """
    path = _map_start(text.strip().strip('"').replace("\\", "/"), path_maps)
    return Path(os.path.abspath(data_root / path))


def is_foreign(text: str, path_maps: PathMaps = ()) -> bool:
    """Whether the text, after the maps, is an absolute Windows path on a computer that is not Windows."""
    path = _map_start(text.strip().strip('"').replace("\\", "/"), path_maps)
    return os.name != "nt" and bool(_WINDOWS_ABSOLUTE.match(path))


def _map_start(path: str, path_maps: PathMaps) -> str:
    for old, new in path_maps:
        start = old.replace("\\", "/").rstrip("/")
        if path.lower() == start.lower() or path.lower().startswith(start.lower() + "/"):
            return os.path.abspath(new) + path[len(start) :]
    return path
