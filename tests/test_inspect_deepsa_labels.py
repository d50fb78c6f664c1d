"""inspect_deepsa_labels.py: what it measures on labels whose faults were planted, and what it writes."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

import inspect_deepsa_labels
from data.masks import mask_coverage
from data.schema import load_table
from inspect_deepsa_labels import inspect_row, reasons
from tests.csv_fixture import write_tiny_dataset

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    csv_path = write_tiny_dataset(tmp_path_factory.mktemp("labels"), patients=3, rows_per_patient=1, size=256)
    return load_table(csv_path).to_dict("records")


@pytest.fixture
def spoil(template, tmp_path):
    """Inspect row 0 with another DeepSA label: `spoil(function of the bool label at the frame's size)`."""

    def inspect(change, row=template[0]) -> dict:
        label = mask_coverage(np.load(row["deepsa_pseudo_label_path"]) > 0, (256, 256)) >= 128
        np.save(tmp_path / "label.npy", change(label).astype(np.uint8))
        return inspect_row(row | {"deepsa_pseudo_label_path": str(tmp_path / "label.npy")})

    return inspect


def _moved(label: np.ndarray, x: int, y: int) -> np.ndarray:
    return cv2.warpAffine(label.astype(np.uint8), np.float32([[1, 0, x], [0, 1, y]]), label.shape[::-1])


def test_a_good_label_covers_the_segment_and_has_no_reasons(spoil):
    record = spoil(lambda label: label)
    assert record["medis_recall"] > 0.97 and record["reasons"] == ""
    assert record["fragments"] == 1 and record["largest_fragment_share"] == 1.0
    assert 0.85 < record["dice_truth"] < 1.0  # the thinnest branch is lost
    assert 0.95 < record["segment_width_ratio"] < 1.05
    assert record["coverage"] == pytest.approx(0.07, abs=0.03)


def test_planted_shift_of_7_right_and_4_up_is_found_and_said(spoil):
    record = spoil(lambda label: _moved(label, 7, -4))
    assert record["shift_known"] == "both"
    assert record["shift_x_px"] == pytest.approx(7, abs=0.4)
    assert record["shift_y_px"] == pytest.approx(-4, abs=0.4)
    assert record["medis_recall"] < 0.8 < 0.95 < record["medis_recall_aligned"]
    assert "shifted by" in record["reasons"] and "right" in record["reasons"]


def test_a_straight_segments_shift_is_given_across_it_only(spoil, template, tmp_path):
    line = np.stack([np.linspace(60, 190, 300), np.linspace(80, 150, 300)], axis=1)
    contours = json.loads(Path(template[0]["contours_path"]).read_text())
    contours["centerline"] = line.tolist()
    (tmp_path / "straight.json").write_text(json.dumps(contours))
    whole, segment = np.zeros((2, 256, 256), np.uint8)
    cv2.line(whole, (30, 64), (220, 166), 1, 9)
    cv2.line(segment, (60, 80), (190, 150), 1, 9)
    np.save(tmp_path / "segment.npy", segment)
    row = template[0] | {"contours_path": str(tmp_path / "straight.json"),
                         "vessel_mask_actual_path": str(tmp_path / "segment.npy")}
    record = spoil(lambda label: _moved(whole, 7, -4), row)
    assert record["shift_known"] == "across only"
    assert np.isnan(record["shift_x_px"]) and np.isnan(record["shift_y_px"])
    across = np.array([record["across_x"], record["across_y"]])
    assert record["shift_across_px"] == pytest.approx(across @ (7, -4), abs=0.3)
    assert "along it cannot be seen" in record["reasons"]


def test_missing_segment_fragments_and_thick_labels_are_reasons(spoil):
    columns = np.arange(256)
    missing = spoil(lambda label: label & (columns < 70))
    assert missing["medis_recall"] < 0.3 and "missing, not shifted" in missing["reasons"]
    pieces = spoil(lambda label: label & (columns // 8 % 2 == 0))
    assert pieces["fragments"] > 5 and "pieces" in pieces["reasons"]
    thick = spoil(lambda label: cv2.dilate(label.astype(np.uint8), np.ones((13, 13))))
    assert thick["segment_width_ratio"] > 1.67 and "times as wide" in thick["reasons"]
    assert thick["thickness_px"] > 10
    everything = spoil(lambda label: np.ones_like(label))
    assert "100.0% of the frame" in everything["reasons"]


def test_reasons_scale_with_the_frame():
    good = {"medis_recall": 0.9, "medis_recall_aligned": 0.9, "shift_known": "both", "shift_x_px": 4.0,
            "shift_y_px": 0.0, "segment_width_ratio": 1.0, "coverage": 0.05, "fragments": 3,
            "largest_fragment_share": 0.8}
    assert len(reasons(good, 1.0)) == 1 and reasons(good, 2.0) == []


def test_script_writes_tables_and_gallery(tmp_path):
    csv_path = write_tiny_dataset(tmp_path / "data", patients=2, rows_per_patient=2)
    label_path = next(iter(load_table(csv_path)["deepsa_pseudo_label_path"]))
    np.save(label_path, _moved(np.load(label_path), 24, 0))  # 4.5 px of the 96 px frame
    arguments = ["--data-csv", str(csv_path), "--out", str(tmp_path / "out")]
    command = [sys.executable, "inspect_deepsa_labels.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "4 rows" in done.stdout and "suspects: 1 rows" in done.stdout
    inspected = pd.read_csv(tmp_path / "out" / "deepsa_inspection.csv")
    suspects = pd.read_csv(tmp_path / "out" / "deepsa_suspects.csv")
    assert len(inspected) == 4 and inspected["medis_recall"].iloc[1:].min() > 0.9
    assert suspects["csv_line"].tolist() == [2] and "shifted" in suspects["reasons"][0]
    picture = cv2.imread(str(tmp_path / "out" / "deepsa_gallery.png"))
    assert picture is not None and picture.shape[1] / 3 < picture.shape[0] < picture.shape[1]


def test_split_is_selected_and_faults_stop_it(tmp_path, capsys):
    csv_path = write_tiny_dataset(tmp_path, patients=2, rows_per_patient=1)
    assert inspect_deepsa_labels.main(
        ["--data-csv", str(csv_path), "--split", "val", "--out", str(tmp_path / "out")]) == 0
    assert pd.read_csv(tmp_path / "out" / "deepsa_inspection.csv")["split"].tolist() == ["val"]
    csv_path.write_text(csv_path.read_text().replace("PRE", "PRAE"))
    assert inspect_deepsa_labels.main(["--data-csv", str(csv_path), "--out", str(tmp_path / "out")]) == 1
    assert "row 2, column phase: found 'PRAE'" in capsys.readouterr().err
