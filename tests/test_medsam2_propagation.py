"""test_medsam2_correct_frames.py --propagate: a small MedSAM2 of random weights, the script's own way to its files."""

import cv2
import numpy as np
import pandas as pd
import pytest

import test_medsam2_correct_frames as script
from contest import arena, medsam2
from data.masks import read_mask
from models.medsam2 import build_medsam2
from tests.contest_here import play_here
from tests.csv_fixture import write_tiny_dataset
from tests.small_medsam2 import small_medsam2, write_released
from tests.stage_script import run_main

SIZE_PX = 128


def build_small():
    with small_medsam2():
        return build_medsam2(image_size=SIZE_PX)


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """ask(csv_path, *flags) -> (folder of the files, what was said, exit code)"""
    monkeypatch.setattr(medsam2, "build_medsam2", build_small)
    monkeypatch.setattr(arena, "_run_one", play_here)
    weights, out = tmp_path / "MedSAM2_latest.pt", tmp_path / "out"
    write_released(weights, SIZE_PX)

    def run(csv_path, *flags):
        given = ["--data-csv", csv_path, "--medsam2-checkpoint", weights, "--prompts", "box", "--split", "all",
                 "--limit-pictures", 0, "--device", "cpu", "--out", out, *flags]
        return out, *run_main(script, *given)

    return run


@pytest.fixture
def write_data(tmp_path):
    """write_data(frames) -> CSV path and table; cines of three patients: in colour, grey, and of floats."""
    def write(frames):
        path = write_tiny_dataset(tmp_path / "data", patients=3, rows_per_patient=1, frames=frames)
        return path, pd.read_csv(path)

    return write


def test_the_masks_of_whole_cines_are_written_and_that_of_the_asked_frame_is_the_answer(ask, write_data):
    csv_path, table = write_data(frames=4)
    out, said, code = ask(csv_path, "--propagate", 2)
    assert code == 0, said
    names = {path.stem for path in (out / "propagation").glob("*.npy")}
    assert len(names) == 2 and f"cines in {out / 'propagation'}" in said
    # Nothing else is left there: no half-written file.
    pictures = {f"{name}.{kind}" for name in names for kind in ("npy", "png")}
    assert {path.name for path in (out / "propagation").iterdir()} == pictures
    for name in names:
        row = table.iloc[int(name.removeprefix("line")) - 2]
        cine = np.load(csv_path.parent / row["cine_path"], allow_pickle=False)
        masks = np.load(out / "propagation" / f"{name}.npy", allow_pickle=False)
        assert masks.dtype == bool and masks.shape == cine.shape[:3] == (4, 96, 96)
        # The contest asked the same box about the single frame, with the picture predictor.
        answer = read_mask(out / "masks" / "medsam2" / f"{name}_box.png")
        assert answer.any() and np.array_equal(masks[row["frame_index"]], answer)
        assert cv2.imread(str(out / "propagation" / f"{name}.png")).std() > 10


def test_more_cines_than_cases_are_all_cines_and_a_cine_may_have_one_frame(ask, write_data):
    csv_path, _ = write_data(frames=1)
    out, said, code = ask(csv_path, "--propagate", 9)
    assert code == 0, said
    paths = sorted((out / "propagation").glob("*.npy"))
    assert len(paths) == 3
    for path in paths:
        masks = np.load(path, allow_pickle=False)
        assert masks.shape == (1, 96, 96)
        assert np.array_equal(masks[0], read_mask(out / "masks" / "medsam2" / f"{path.stem}_box.png"))


def test_a_cine_that_is_not_there_is_named_with_its_row_before_anything_is_asked(ask, write_data):
    csv_path, table = write_data(frames=2)
    (csv_path.parent / table["cine_path"][1]).unlink()
    out, said, code = ask(csv_path, "--propagate", 1)
    assert code == 1 and "Traceback" not in said
    assert "row 3, column cine_path" in said and table["cine_path"][1] in said.replace("\\", "/")
    assert not out.exists()


def test_without_propagate_no_cine_is_read(ask, write_data):
    csv_path, _ = write_data(frames=2)
    out, said, code = ask(csv_path, "--limit", 1)
    assert code == 0 and not (out / "propagation").exists() and (out / "contest.json").exists(), said


@pytest.mark.parametrize("given", [
    ("--propagate", -1), ("--propagate", "all"), ("--random-init", "--medsam2-checkpoint", "MedSAM2_latest.pt")])
def test_flags_that_cannot_work_are_refused(given):
    said, code = run_main(script, "--data-csv", "data.csv", *given)
    assert code == 2 and "usage:" in said
