"""The command: a whole small data set, read back as the user's would be."""

import csv
import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data.schema import check_csv
from make_phantom_dataset import check_space, main, parse_arguments, run
from phantom.files import COLUMNS

ROOT = Path(__file__).parents[1]
SMALL = ("--patients", "4", "--rows", "6", "--image-size", "192", "--frames", "4", "--seed", "3")


def make(directory, *more, workers="1"):
    return run(parse_arguments(["--out", str(directory), *SMALL, "--workers", workers, *more]))


def digests(directory):
    return {
        str(p.relative_to(directory)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(directory.rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make(tmp_path_factory.mktemp("phantom")).parent


def rows_of(dataset):
    with open(dataset / "dataset.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_every_column_is_there_and_every_file_exists(dataset):
    rows = rows_of(dataset)
    assert len(rows) == 6 and tuple(rows[0]) == COLUMNS
    for row in rows:
        for column in COLUMNS:
            if column.endswith("_path"):
                assert "\\" not in row[column] and (dataset / row[column]).is_file()


def test_the_projects_own_check_finds_no_fault(dataset):
    table, faults = check_csv(dataset / "dataset.csv")
    assert len(table) == 6 and not faults


def test_no_patient_is_in_two_splits(dataset):
    splits = {}
    for row in rows_of(dataset):
        assert splits.setdefault(row["patient_id"], row["split"]) == row["split"]
    assert set(splits.values()) == {"train", "val"}


def test_json_and_csv_agree_and_hold_the_identities(dataset):
    for row in rows_of(dataset):
        record = json.loads((dataset / row["contours_path"]).read_text())
        values = record["measurements"]
        assert record["frame_num"] == int(row["frame_index"])
        assert values["MLD_mm"] == pytest.approx(float(row["MLD_mm"]), abs=1e-3)
        assert values["diameter_stenosis_pct"] == pytest.approx(float(row["diameter_stenosis_pct"]), abs=1e-3)
        ratio = values["MLD_mm"] / values["interpolated_RVD_mm"]
        assert values["diameter_stenosis_pct"] == pytest.approx(100 * (1 - ratio), abs=1e-6)
        assert 300 <= len(record["centerline"]) == len(record["ideal_left_edge"]) <= 400


def test_vessels_are_darkest_in_the_analysed_frame_and_absent_in_the_first(dataset):
    import cv2

    for row in rows_of(dataset):
        cine = np.load(dataset / row["cine_path"])
        grey = (cine if cine.ndim == 3 else cine[..., 0]).astype(float)
        grey *= 255 if cine.dtype.kind == "f" else 1
        mask = cv2.imread(str(dataset / row["true_vessel_mask_path"]), 0) > 0
        around = cv2.dilate(mask.astype(np.uint8), np.ones((9, 9))).astype(bool) & ~mask
        contrast = [frame[around].mean() - frame[mask].mean() for frame in grey]
        assert contrast[int(row["frame_index"])] > max(3.0, 2 * contrast[0])


def test_truth_map_and_label_have_the_right_form(dataset):
    import cv2

    for row in rows_of(dataset):
        cass_map = cv2.imread(str(dataset / row["true_cass_map_path"]), cv2.IMREAD_UNCHANGED)
        label = cv2.imread(str(dataset / row["deepsa_pseudo_label_path"]), cv2.IMREAD_UNCHANGED)
        assert (
            cass_map.dtype == np.uint8
            and cass_map.shape == (192, 192)
            and int(row["cass_segment"]) in cass_map
        )
        assert label.shape == (512, 512) and set(np.unique(label)) == {0, 255}
        lesions = json.loads((dataset / row["true_lesions_path"]).read_text())
        assert lesions[0]["cass_segment"] == int(row["cass_segment"])


def test_a_preview_is_written(dataset):
    assert (dataset / "preview.png").stat().st_size > 20_000


def test_same_bytes_with_two_workers_as_with_one(dataset, tmp_path):
    make(tmp_path / "two", workers="2")
    assert digests(tmp_path / "two") == digests(dataset)


def test_an_interrupted_run_goes_on_to_the_same_bytes(dataset, tmp_path, monkeypatch):
    import make_phantom_dataset

    copy, write_case, written = tmp_path / "again", make_phantom_dataset.write_case, []

    def dies_at_third(*arguments):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(arguments)
        return write_case(*arguments)

    monkeypatch.setattr(make_phantom_dataset, "write_case", dies_at_third)
    with pytest.raises(KeyboardInterrupt):
        make(copy)
    assert not (copy / "dataset.csv").exists()
    first = copy / "records"
    kept = {p: p.stat().st_mtime_ns for p in first.iterdir()}
    monkeypatch.setattr(make_phantom_dataset, "write_case", write_case)
    make(copy)
    assert len(kept) == 2 and all(p.stat().st_mtime_ns == stamp for p, stamp in kept.items())
    assert digests(copy) == digests(dataset)


def test_other_settings_in_the_same_place_are_refused(dataset, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["make_phantom_dataset.py", "--out", str(dataset), *SMALL[:-1], "4"])
    assert main() == 1
    message = capsys.readouterr().err
    assert "other settings" in message and "seed: there 3, asked 4" in message


def test_too_little_space_is_said_before_anything_is_made(tmp_path):
    with pytest.raises(OSError, match="GB free, .* GB needed"):
        check_space(tmp_path / "new", rows=10**9, size_px=1016, frames=60)


def test_bad_numbers_are_refused_with_what_is_allowed(capsys):
    with pytest.raises(SystemExit):
        parse_arguments(["--out", "x", "--image-size", "16"])
    assert "--image-size 16: allowed are 128 to 2048" in capsys.readouterr().err


def test_the_seed_decides(dataset, tmp_path):
    other = run(parse_arguments(["--out", str(tmp_path), *SMALL[:-1], "4", "--workers", "1"])).parent
    assert not set(digests(other).values()) & {
        v for k, v in digests(dataset).items() if k.startswith("cines")
    }


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to one process there")
def test_ctrl_c_ends_cleanly_and_soon(tmp_path):
    command = [
        sys.executable,
        "make_phantom_dataset.py",
        "--out",
        str(tmp_path / "d"),
        "--patients",
        "60",
        "--workers",
        "2",
    ]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not list((tmp_path / "d").glob("records/*.json")):
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in errors and "Traceback" not in errors
