"""A disk that fills up during a save: the old checkpoint stays whole, the error says what is missing."""

import json
import re
import subprocess
import sys

import pytest

from tests.csv_fixture import write_tiny_dataset

# A disk of its own in memory, seen by this command alone; $0 is where, $1 how large, the rest the command.
MOUNT = 'mount -t tmpfs -o "size=$1" tmpfs "$0" && shift && exec "$@"'


def on_a_small_disk(folder, size: str, *command) -> dict:
    """What `tests.full_disk` answers, run with an empty disk of `size` at `folder`; skips where there is none."""
    if not sys.platform.startswith("linux"):
        pytest.skip("a disk in memory is mounted by Linux's unshare and mount")
    folder.mkdir()
    prefix = ["unshare", "--map-root-user", "--mount", "sh", "-c", MOUNT, str(folder), size]
    try:
        possible = subprocess.run([*prefix, "true"], capture_output=True, text=True, timeout=60)
    except FileNotFoundError as error:
        pytest.skip(f"no such command here: {error.filename}")
    if possible.returncode:
        pytest.skip(f"this machine mounts no disks for its users: {possible.stderr.strip()}")
    name, *rest = command
    program = [sys.executable, "-m", "tests.full_disk", name, str(folder), *map(str, rest)]
    done = subprocess.run([*prefix, *program], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.partition("ANSWER")[2])


def amounts(said: str) -> tuple[float, float]:
    """The MiB that are needed and free, by an error's text."""
    found = re.search(r"No space left on device\); about ([\d.]+) MiB are needed, ([\d.]+) MiB are free there", said)
    assert found, said
    return float(found[1]), float(found[2])


def test_a_full_disk_leaves_the_old_checkpoint_and_says_how_much_is_missing(tmp_path):
    answer = on_a_small_disk(tmp_path / "kleine Platte ü", "4m", "save")
    assert amounts(answer["said"]) == (2.0, 1.0)
    assert re.search(r"could not write .*a\.pth .*is intact. Free some space or choose another folder", answer["said"])
    assert answer["files"] == ["a.pth", "ballast.bin"] and answer["intact"] and answer["epoch"] == 7
    assert answer["epoch_with_room"] == 8


@pytest.mark.slow
def test_training_stops_at_a_full_disk_and_goes_on_with_room(tmp_path):
    csv_path = write_tiny_dataset(tmp_path / "data", patients=3, rows_per_patient=1, size=96)
    answer = on_a_small_disk(tmp_path / "disk", "256m", "train", csv_path)
    assert answer["code"] == 1 and answer["said"].count("error: ") == 1 and "Traceback" not in answer["said"]
    needed, free = amounts(answer["said"])
    assert needed > 5 and 0.5 < free <= 1.0
    assert answer["intact"] and not [name for name in answer["files"] if name.endswith(".tmp")]
    assert answer["code_with_room"] == 0 and answer["epoch_with_room"] == 2
    assert "going on from" in answer["said_with_room"]
