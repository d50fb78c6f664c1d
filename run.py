"""Two commands on a fresh machine, with nothing but Python 3.11 and pip:

    python run.py demo            phantom angiograms, training, pictures: about 12 minutes on two CPU cores
    python run.py demo --fresh    the same from the start; without --fresh an interrupted demo goes on
    python run.py test            the tests; what follows goes to pytest: python run.py test -k dicom
    python run.py test -m slow    the slow tests

The first call makes `.venv` and installs requirements.txt into it (several GB, because of torch). With `--here` before
the command, everything runs in the environment that started it.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
REQUIREMENTS = ROOT / "requirements.txt"


def main() -> int:
    arguments = parse_arguments()
    if sys.version_info < (3, 11):
        print(f"Python 3.11 or newer is needed; this is {sys.version.split()[0]} ({sys.executable}).")
        return 2
    python = Path(sys.executable) if arguments.here else prepare_environment()
    command = {"demo": demo_command, "test": test_command}[arguments.command](arguments)
    return run_and_wait([str(python), *command])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--here", action="store_true", help="use this Python's own environment, make no .venv")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="make a phantom data set, train on it, look at the result")
    demo.add_argument("--fresh", action="store_true", help="delete outputs/demo and start over")
    commands.add_parser("test", help="run the tests; further arguments go to pytest")
    arguments, rest = parser.parse_known_args()
    if rest and arguments.command != "test":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    arguments.rest = rest
    return arguments


def demo_command(arguments: argparse.Namespace) -> list[str]:
    return ["-m", "utils.demo", *(["--fresh"] if arguments.fresh else [])]


def test_command(arguments: argparse.Namespace) -> list[str]:
    return ["-m", "pytest", *arguments.rest]


def prepare_environment() -> Path:
    """Make `.venv` and install the requirements unless this very list is installed already; return its Python."""
    python = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = VENV / "requirements.sha256"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    if not python.exists():
        print(f"Making {VENV} ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    print("Installing requirements.txt (once; several GB, a few minutes) ...", flush=True)
    result = subprocess.run([str(python), "-m", "pip", "install", "--disable-pip-version-check", "--quiet",
                             "-r", str(REQUIREMENTS)])
    if result.returncode:
        sys.exit("pip could not install requirements.txt; its message is above. Nothing else was changed: mend the "
                 "cause (network, disk space) and call run.py again.")
    # Written last: an installation that was cut short is taken up again by the next call.
    stamp.write_text(wanted)
    warn_without_cuda(python)
    return python


def warn_without_cuda(python: Path) -> None:
    """Say so when there is an NVIDIA GPU that the installed torch cannot use, as with PyPI's wheel on Windows."""
    if shutil.which("nvidia-smi") is None:
        return
    check = "import sys, torch; sys.exit(0 if torch.cuda.is_available() else 1)"
    if subprocess.run([str(python), "-c", check]).returncode:
        print(f"There is an NVIDIA GPU, but this torch cannot use it. On Windows, PyPI's torch is built for the CPU: "
              f"take the pip line for your CUDA version from pytorch.org (Get Started) and run it with {python} -m pip.")


def run_and_wait(command: list[str]) -> int:
    """Run `command` in the project's folder; at Ctrl-C let it save and end by itself, as it got the signal too."""
    environment = dict(os.environ, PYTHONUNBUFFERED="1")
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


if __name__ == "__main__":
    sys.exit(main())
