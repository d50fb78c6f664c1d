"""Checkpoints: plain, whole or not there at all, and refused loudly."""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from utils.checkpoint import (
    FORMAT, CheckpointError, load_checkpoint, load_part_of_weights, load_weights, save_checkpoint,
)
from utils.files import save_figure_atomic, write_bytes_atomic, write_text_atomic


def minimal(**changes):
    entries = {"stage": "s", "epoch": 1, "global_step": 2, "model": {"w": torch.arange(3.0)}, "config": {}}
    return {**entries, **changes}


def test_round_trip_turns_paths_and_numpy_into_plain_values(tmp_path):
    path = tmp_path / "ü folder" / "a.pth"
    config = {
        "folder": Path("x") / "y",
        "size": np.int64(3),
        "lr": np.float32(0.5),
        "pair": (1, [2.5, None, True]),
    }
    save_checkpoint(path, minimal(config=config, array=np.arange(4)))
    loaded = load_checkpoint(path)
    assert loaded["config"] == {
        "folder": str(Path("x") / "y"),
        "size": 3,
        "lr": 0.5,
        "pair": (1, [2.5, None, True]),
    }
    assert loaded["format"] == FORMAT and torch.equal(loaded["array"], torch.arange(4))
    assert torch.load(path, weights_only=True).keys() == loaded.keys()


def test_a_value_that_would_need_pickle_is_refused_by_name(tmp_path):
    with pytest.raises(TypeError, match=r"checkpoint\['config'\]\['model'\] is a Linear"):
        save_checkpoint(tmp_path / "a.pth", minimal(config={"model": torch.nn.Linear(1, 1)}))
    assert list(tmp_path.iterdir()) == []


def test_names_that_are_numbers_of_numpy_become_plain(tmp_path):
    save_checkpoint(tmp_path / "a.pth", minimal(counts={np.int64(3): np.str_("x")}))
    loaded = load_checkpoint(tmp_path / "a.pth")["counts"]
    assert loaded == {3: "x"} and type(next(iter(loaded))) is int


def test_numpy_values_that_are_no_plain_ones_are_refused_by_name(tmp_path):
    with pytest.raises(TypeError, match=r"checkpoint\['day'\] is a date"):
        save_checkpoint(tmp_path / "a.pth", minimal(day=np.datetime64("2026-11-22")))


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_truncated_file_is_refused_with_advice(tmp_path, keep):
    path = tmp_path / "a.pth"
    save_checkpoint(path, minimal())
    data = path.read_bytes()
    path.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    with pytest.raises(CheckpointError, match=r"a\.pth: cannot be read as a checkpoint.*--init-from"):
        load_checkpoint(path)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    torch.save(minimal(format=1, extra=Evil()), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path / "a.pth")
    assert not (tmp_path / "ran").exists()


def test_other_files_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "absent.pth")
    torch.save({"detector.w": torch.zeros(1)}, tmp_path / "sam3.pt")
    with pytest.raises(CheckpointError, match="--sam3-checkpoint"):
        load_checkpoint(tmp_path / "sam3.pt")
    save_checkpoint(tmp_path / "new.pth", minimal(format=FORMAT + 1))
    with pytest.raises(CheckpointError, match=f"format {FORMAT + 1}.*Update"):
        load_checkpoint(tmp_path / "new.pth")


def test_weights_that_do_not_fit_are_named_and_nothing_is_loaded():
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = {
        "0.weight": torch.zeros(3, 2),
        "0.bias": torch.zeros(4),
        "1.weight": torch.zeros(1, 3),
        "old.b": torch.zeros(1),
    }
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, state, source="x.pth")
    text = str(caught.value)
    assert "missing (1):\n    1.bias" in text and "unexpected (1):\n    old.b" in text
    assert "0.bias: (4,) in the file, (3,) in the model" in text
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def later_stage():
    """A model with a part, `body`, that an earlier stage has, and one, `head`, that is new."""
    model = torch.nn.ModuleDict({"body": torch.nn.Linear(2, 3), "head": torch.nn.Linear(3, 1)})
    return model, {name: value.clone() for name, value in model.state_dict().items()}


EARLIER = {"body.weight": torch.ones(3, 2), "body.bias": torch.arange(3.0)}


def test_an_earlier_stage_hands_over_all_it_has_and_new_parts_keep_their_start():
    model, before = later_stage()
    text = load_part_of_weights(model, EARLIER, source="a.pth", new=("head.",))
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in EARLIER.items())
    assert all(torch.equal(after[name], before[name]) for name in ("head.weight", "head.bias"))
    assert text.splitlines() == [
        "hand-over from a.pth: 2 tensors, 0.00 M numbers (body 2) came over",
        "  new: 2 tensors, 0.00 M numbers (head 2)",
    ]


@pytest.mark.parametrize(
    "state, said",
    [
        ({"body.weight": torch.ones(3, 2)}, r"missing \(1\):\s+body\.bias"),
        ({**EARLIER, "tail.w": torch.ones(1)}, r"unexpected \(1\):\s+tail\.w"),
        ({**EARLIER, "body.bias": torch.ones(4)}, r"body\.bias: \(4,\) in the file, \(3,\) in the model"),
        ({**EARLIER, "head.bias": torch.ones(2)}, r"head\.bias: \(2,\) in the file, \(1,\) in the model"),
    ],
    ids=["missing", "unexpected", "shape", "shape of a new part"],
)
def test_a_hand_over_that_does_not_fit_is_refused_whole(state, said):
    model, before = later_stage()
    with pytest.raises(CheckpointError, match=f"(?s)a.pth: .*nothing was loaded.*{said}"):
        load_part_of_weights(model, state, source="a.pth", new=("head.",))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_parts_that_a_hand_over_leaves_behind_are_said():
    model, _ = later_stage()
    state = {**EARLIER, "view.weight": torch.ones(2000, 5), "view.bias": torch.ones(5)}
    text = load_part_of_weights(model, state, source="a.pth", new=("head.",), left_behind=("view.",))
    assert "left behind: 2 tensors, 0.01 M numbers (view 2)" in text and "(body 2) came over" in text
    with pytest.raises(CheckpointError, match=r"(?s)unexpected \(2\):.*view\.weight"):
        load_part_of_weights(model, state, source="a.pth", new=("head.",))


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are a POSIX matter")
def test_a_full_disk_leaves_the_old_checkpoint_and_says_so(tmp_path):
    import resource

    path = tmp_path / "a.pth"
    save_checkpoint(path, minimal(epoch=7))
    old_limit, old_handler = (
        resource.getrlimit(resource.RLIMIT_FSIZE),
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
    )
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old_limit[1]))
    try:
        with pytest.raises(OSError, match=r"could not write .*a\.pth.*MiB are free.*is intact"):
            save_checkpoint(path, minimal(epoch=8, model={"w": torch.zeros(1_000_000)}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limit)
        signal.signal(signal.SIGXFSZ, old_handler)
    assert load_checkpoint(path)["epoch"] == 7
    assert [file.name for file in tmp_path.iterdir()] == ["a.pth"]


def test_a_target_that_another_process_holds_is_tried_again(tmp_path, monkeypatch):
    refusals, real_replace = [PermissionError(13, "in use")] * 2, os.replace

    def replace(source, target):
        if refusals:
            raise refusals.pop()
        real_replace(source, target)

    monkeypatch.setattr("utils.files.os.replace", replace)
    monkeypatch.setattr("utils.files.REPLACE_WAIT_S", 0)
    write_text_atomic(tmp_path / "a.txt", "grüße")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "grüße"


def test_what_a_killed_process_left_is_overwritten(tmp_path):
    (tmp_path / ".a.bin.tmp").write_bytes(b"half")
    write_bytes_atomic(tmp_path / "a.bin", b"whole")
    assert (tmp_path / "a.bin").read_bytes() == b"whole"
    assert [file.name for file in tmp_path.iterdir()] == ["a.bin"]


def test_a_figure_is_written_in_the_format_of_its_name(tmp_path):
    from matplotlib.figure import Figure

    save_figure_atomic(Figure(figsize=(1, 1)), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
