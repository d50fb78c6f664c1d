"""Stage scripts called in this process, as from a terminal.

    said, code = run_main(stage3, *flags(csv_path, folder, "--epochs", 2))
"""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path

import pytest


def flags(csv_path, folder, *more) -> list[str]:
    """Those of a run of one epoch of batches of two on the CPU, and `more`, which may say otherwise."""
    given = ["--data-csv", csv_path, "--backbone", "sam3-tiny", "--batch-size", 2, "--epochs", 1, "--device",
             "cpu", "--amp", "off", "--num-workers", 0, "--checkpoint-dir", folder, *more]
    return [str(flag) for flag in given]


def run_main(script, *given) -> tuple[str, int]:
    """What the `main` of a script's module prints, and its exit code, 0 when it simply ends."""
    said, code = io.StringIO(), 0
    redirect = contextlib.redirect_stdout(said), contextlib.redirect_stderr(said)
    with pytest.MonkeyPatch.context() as patch, redirect[0], redirect[1]:
        patch.setattr(sys, "argv", [Path(script.__file__).name, *map(str, given)])
        try:
            script.main()
        except SystemExit as left:
            code = left.code
    return said.getvalue(), code
