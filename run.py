"""Two commands on a fresh machine, with nothing but Python 3.11 and pip:

    python run.py demo            phantom angiograms, training, pictures: half an hour on two CPU cores
    python run.py demo --fresh    the same from the start; without --fresh an interrupted demo goes on
    python run.py test            the tests, in as many processes as there are cores (and memory) for
    python run.py test -k dicom   what follows goes to pytest, which then runs in one process
    python run.py test -m slow    the slow tests

The first call makes `.venv` and installs requirements.txt into it (several GB, because of torch). With
`--here` before the command, everything runs in the environment that started it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
REQUIREMENTS = ROOT / "requirements.txt"
INSTALLED_BYTES = 10e9  # 6.4 GB with CUDA's libraries (2026-11-22), and what pip unpacks beside them
# What tests/conftest.py arranges: files of tests as they are ordered there, each file in one process.
IN_PARALLEL = ("-n", "auto", "--dist", "loadgroup", "--no-loadscope-reorder")


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    if sys.version_info < (3, 11):
        print(f"Python 3.11 or newer is needed; this is {sys.version.split()[0]} ({sys.executable}).")
        return 2
    python = Path(sys.executable) if arguments.here else prepare_environment()
    command = {"demo": demo_command, "test": test_command}[arguments.command](arguments)
    return run_and_wait([str(python), *command])


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--here", action="store_true", help="use this Python's own environment, make no .venv"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="make a phantom data set, train on it, look at the result")
    demo.add_argument("--fresh", action="store_true", help="delete outputs/demo and start over")
    commands.add_parser("test", help="run the tests; further arguments go to pytest, in one process then")
    arguments, rest = parser.parse_known_args(argv)
    if rest and arguments.command != "test":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    arguments.rest = rest
    return arguments


def demo_command(arguments: argparse.Namespace) -> list[str]:
    return ["-m", "utils.demo", *(["--fresh"] if arguments.fresh else [])]


def test_command(arguments: argparse.Namespace) -> list[str]:
    return ["-m", "pytest", *(arguments.rest or IN_PARALLEL)]


def prepare_environment() -> Path:
    """Make `.venv` and install the requirements unless this very list is installed; return its Python."""
    python = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = VENV / "requirements.sha256"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    # Made again even where there is one: that mends what was left half made, and keeps what is installed.
    print(f"Making {VENV} ...", flush=True)
    if subprocess.run([sys.executable, "-m", "venv", str(VENV)]).returncode:
        sys.exit(f"{VENV} could not be made, its message is above: on Debian and Ubuntu `apt install "
                 "python3-venv` first, and call run.py again.")
    print("Installing requirements.txt (once; several GB, a few minutes) ...", flush=True)
    free = shutil.disk_usage(ROOT).free
    if free < INSTALLED_BYTES:
        print(f"Only {free / 1e9:.1f} GB are free where {ROOT} lies; on Linux it takes {INSTALLED_BYTES / 1e9:.0f} GB, "
              "while pip unpacks: if it fails, make room and call run.py again.", flush=True)
    result = subprocess.run([str(python), "-m", "pip", "install", "--disable-pip-version-check", "--quiet",
                             "-r", str(REQUIREMENTS)])
    if result.returncode:
        sys.exit("pip could not install requirements.txt; its message is above. Nothing else was changed: "
                 "mend the cause (network, disk space) and call run.py again.")
    # Written last: an installation that was cut short is taken up again by the next call.
    stamp.write_text(wanted)
    warn_without_cuda(python)
    return python


def warn_without_cuda(python: Path) -> None:
    """Say so when the installed torch cannot use the NVIDIA GPU, as with PyPI's wheel on Windows."""
    if shutil.which("nvidia-smi") is None:
        return
    check = "import sys, torch; sys.exit(0 if torch.cuda.is_available() else 1)"
    if subprocess.run([str(python), "-c", check]).returncode:
        print(
            "There is an NVIDIA GPU, but this torch cannot use it. On Windows, PyPI's torch is built for "
            "the CPU: take the pip line for your CUDA version from pytorch.org (Get Started) and run it with "
            f"{python} -m pip."
        )


def run_and_wait(command: list[str]) -> int:
    """Run `command` in the project's folder; return its exit status, 130 or 143 when told to stop.

    Ctrl-C reaches the command too, from the terminal, so here it is only waited for: training saves first.
    SIGTERM reaches this process alone and is passed on. A stop counts even if the command ends well.
    """
    received: list[int] = []

    def pass_on(number: int, frame) -> None:
        received.append(number)
        if number == signal.SIGTERM and process is not None:
            process.terminate()

    process = None
    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        process = subprocess.Popen(command, cwd=ROOT, env=dict(os.environ, PYTHONUNBUFFERED="1"))
        if signal.SIGTERM in received:  # it came while the process was being started
            process.terminate()
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if status < 0:  # ended by a signal; shells say it so
        status = 128 - status
    return status or (128 + received[0] if received else 0)


if __name__ == "__main__":
    sys.exit(main())
