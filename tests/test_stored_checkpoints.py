"""Checkpoints of every format that this project ever wrote load and are gone on from; later ones are refused."""

import shutil

import pytest
import torch

from tests.stored_checkpoint import FOLDER, SIZE, write_checkpoint
from tests.tiny_training import STAGE, options, run
from utils.checkpoint import FORMAT, CheckpointError, load_checkpoint, save_checkpoint
from utils.ranks.distributed import Ranks
from utils.run_files import RunFiles

FORMATS = range(1, FORMAT + 1)


def stored(number: int):
    """The file of a format; a test that misses it says how it is made."""
    path = FOLDER / f"format_{number}.pth"
    assert path.is_file(), f"{path} is missing: python -m tests.stored_checkpoint writes that of this version"
    return path


@pytest.mark.parametrize("number", FORMATS)
def test_a_stored_checkpoint_of_each_format_loads(number):
    checkpoint = load_checkpoint(stored(number))
    assert checkpoint["format"] == number and checkpoint["stage"] == STAGE
    assert checkpoint["progress"]["samples_done"] == 4 and checkpoint["parent"] == {"path": "start.pth"}
    assert all(torch.isfinite(tensor).all() for tensor in checkpoint["model"].values())


@pytest.mark.parametrize("number", FORMATS)
def test_a_run_of_each_format_goes_on_where_it_stopped(tmp_path, number):
    before, files = load_checkpoint(stored(number)), RunFiles(tmp_path, STAGE)
    shutil.copyfile(stored(number), files.latest)
    run(Ranks(), options(folder=tmp_path, resume=True, **SIZE))
    after = load_checkpoint(files.latest)
    assert (after["epoch"], after["global_step"]) == (3, 15)
    first, second, third = after["progress"]["history"]
    assert first == before["progress"]["history"][0]
    # Two batches of the second epoch were done before, and count in its sums.
    assert (second["train_samples"], third["train_samples"]) == (9, 9)
    assert after["parent"] == before["parent"]
    assert any(not torch.equal(before["model"][name], tensor) for name, tensor in after["model"].items())


def test_the_file_of_this_format_can_be_made_again(tmp_path):
    write_checkpoint(tmp_path / "again.pth")
    made, kept = load_checkpoint(tmp_path / "again.pth"), load_checkpoint(stored(FORMAT))
    assert made.keys() == kept.keys() and made["format"] == FORMAT
    for name, tensor in kept["model"].items():
        torch.testing.assert_close(made["model"][name], tensor, atol=0.05, rtol=0)  # dropout's numbers may differ


def test_a_run_of_a_later_format_is_not_touched(tmp_path):
    files = RunFiles(tmp_path, STAGE)
    save_checkpoint(files.latest, {**load_checkpoint(stored(FORMAT)), "format": FORMAT + 1})
    kept = files.latest.read_bytes()
    with pytest.raises(CheckpointError, match=rf"tiny_latest\.pth: .*format {FORMAT + 1}, of a newer version"):
        run(Ranks(), options(folder=tmp_path, resume=True, **SIZE))
    assert files.latest.read_bytes() == kept
