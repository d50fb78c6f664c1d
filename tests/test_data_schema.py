"""The check of the whole CSV: every fault at once, and what must not be taken for a fault."""

import csv
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from data import schema
from data.errors import DataError
from data.schema import check_csv, inspect_csv, load_table, select_split
from tests.csv_fixture import write_tiny_dataset


def _read(csv_path: Path) -> list[dict[str, str]]:
    with open(csv_path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _write(csv_path: Path, rows: list[dict], columns=None, encoding="utf-8", delimiter=",") -> None:
    with open(csv_path, "w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, columns or list(rows[0]), delimiter=delimiter, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    return write_tiny_dataset(tmp_path_factory.mktemp("template")).parent


@pytest.fixture
def tiny(template, tmp_path) -> Path:
    """The CSV of a fresh copy, to be spoiled."""
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    return tmp_path / "dataset.csv"


def test_table_has_local_paths_angles_and_whole_numbers(tiny):
    table = load_table(tiny)
    assert len(table) == 8 and table["patient_id"].nunique() == 4
    for column in ("cine_path", "contours_path", "vessel_mask_actual_path", "deepsa_pseudo_label_path"):
        assert all(isinstance(path, str) and Path(path).is_absolute() and Path(path).is_file()
                   for path in table[column])
    assert table["frame_index"].dtype.kind == table["cass_segment"].dtype.kind == "i"
    assert table["primary_angle"].tolist()[:4:3] == [-28.0, 35.0] and math.isnan(table["primary_angle"][1])
    assert table["csv_line"].tolist() == list(range(2, 10))
    assert table["patient_id"][0] == "101-0001"


def test_angles_come_from_the_contours_file_where_the_csv_has_none(tiny):
    rows = _read(tiny)
    columns = [name for name in rows[0] if name not in ("primary_angle", "secondary_angle")]
    _write(tiny, rows, columns)
    table = load_table(tiny)
    assert table["primary_angle"][0] == -28.0 and table["secondary_angle"][0] == 35.0
    assert math.isnan(table["primary_angle"][1])


def test_splits_are_selected_and_an_empty_one_is_refused(tiny):
    assert len(load_table(tiny, split="val")) == 2 and len(load_table(tiny, split="train")) == 6
    table = load_table(tiny)
    assert len(select_split(table, "all")) == 8
    with pytest.raises(DataError, match="'val'.*train: 6"):
        select_split(table[table["split"] == "train"], "val")


def test_windows_paths_with_path_map(tiny, tmp_path):
    rows = _read(tiny)
    for row in rows:
        for column in row:
            if column.endswith("_path"):
                row[column] = "E:\\Angio Data\\" + row[column].replace("/", "\\")
    moved = tmp_path / "elsewhere" / "windows.csv"
    moved.parent.mkdir()
    _write(moved, rows)
    faults = check_csv(moved)[1]
    assert len(faults) == 5 * len(rows)
    assert "--path-map" in faults[0].allowed
    table = load_table(moved, path_maps=[("e:/angio data/", str(tmp_path))])
    assert Path(table["cine_path"][0]).parent == tmp_path / "cines"


def test_relative_paths_start_from_the_data_root(tiny, tmp_path):
    moved = tmp_path / "lists" / "list.csv"
    moved.parent.mkdir()
    moved.write_bytes(tiny.read_bytes())
    assert len(load_table(moved, data_root=tmp_path)) == 8
    assert check_csv(moved)[1][0].column == "cine_path"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "cp1252"])
def test_spreadsheet_csv_keeps_zeros_of_patient_numbers_and_accents(tiny, encoding):
    rows = _read(tiny)
    for row in rows:
        row["patient_id"] = "00" + row["patient_id"][-4:]
        row["vessel_pattern"] = "MID_LÄD"
        row["frame_index"] += ".0"
    _write(tiny, rows, encoding=encoding, delimiter=";")
    table = load_table(tiny)
    assert table["patient_id"][0] == "000001" and table["vessel_pattern"][0] == "MID_LÄD"


def test_contradictions_are_counted_but_do_not_stop_a_run(tiny):
    rows = _read(tiny)
    path = tiny.parent / rows[0]["contours_path"]
    content = json.loads(path.read_text())
    content["measurements"]["diameter_stenosis_pct"] = 80.0
    content["measurements"]["obstruction_position_mm"] = None
    content["calibration"]["imager_pixel_spacing_mm"] = [0.6, 0.6]
    path.write_text(json.dumps(content))
    rows[0]["cass_segment_original"] = "99"
    _write(tiny, rows)
    report = inspect_csv(tiny)
    assert report.faults == []
    said = " ".join(warning.allowed for warning in report.warnings if warning.row == 2)
    for words in ("80.0 %", "35.0 %", "obstruction_position_mm", "magnification of 2.40", "French", "CASS"):
        assert words in said


def test_all_missing_columns_are_named_at_once_with_the_columns_seen(tiny):
    rows = _read(tiny)
    columns = [name for name in rows[0] if name not in ("phase", "cine_path", "split")]
    _write(tiny, rows, [*columns])
    with pytest.raises(DataError) as caught:
        load_table(tiny)
    message = str(caught.value)
    assert "phase, split, cine_path" in message and "columns seen: patient_id, vessel_pattern" in message


def test_csv_without_rows_or_not_there_is_said(tmp_path):
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "header.csv").write_text("patient_id,split\n")
    assert any("no rows" in fault.allowed for fault in check_csv(tmp_path / "empty.csv")[1])
    assert any("no rows" in fault.allowed for fault in check_csv(tmp_path / "header.csv")[1])
    with pytest.raises(DataError, match="none.csv.*cannot be opened"):
        check_csv(tmp_path / "none.csv")


def _plant_faults(folder: Path, rows: list[dict]) -> list[tuple[int, str, str]]:
    """Spoil one row after another; returns (line, column, words that the report must say) for each."""
    planted = []

    def plant(number: int, column: str, said: str, value: str | None = None) -> Path:
        planted.append((number + 2, column, said))
        if value is not None:
            rows[number][column] = value
        return folder / rows[number][column]

    def save(path: Path, array: np.ndarray) -> None:
        if path.suffix == ".npy":
            np.save(path, array)
        else:
            path.write_bytes(cv2.imencode(".png", array)[1].tobytes())

    def edit_json(path: Path, **changes) -> None:
        content = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    plant(0, "cine_path", "no such file", "cines/lost.npy")
    path = plant(1, "cine_path", "truncated")
    path.write_bytes(path.read_bytes()[:-50])
    save(plant(2, "cine_path", "[96, 96]"), np.zeros((96, 96), np.uint8))
    save(plant(3, "cine_path", "uint16"), np.zeros((3, 96, 96), np.uint16))
    plant(4, "frame_index", "0 to 2", "3")
    plant(5, "frame_index", "whole number", "1.5")
    plant(6, "cass_segment", "1 to 29", "31")
    plant(7, "phase", "PRE, FINAL, EVENT", "POST")
    plant(8, "split", "train, val", "test")
    save(plant(9, "vessel_mask_actual_path", "empty"), np.zeros((96, 96), np.uint8))
    save(plant(10, "deepsa_pseudo_label_path", "empty"), np.zeros((512, 512), np.uint8))
    save(plant(11, "vessel_mask_actual_path", "such as 7"), np.full((96, 96), 7, np.uint8))
    save(plant(12, "vessel_mask_actual_path", "96 x 96"), np.ones((80, 96), np.uint8))
    save(plant(13, "deepsa_pseudo_label_path", "[2, 512, 512]"), np.ones((2, 512, 512), np.uint8))
    plant(14, "primary_angle", "LAO, RAO", "RAU 30")
    plant(15, "secondary_angle", "-90 to 90", "120")
    plant(16, "contours_path", "not JSON").write_text('{"segment_name": "MID')
    edit_json(plant(17, "contours_path", "left_edge, calibration"), left_edge=None, calibration=None)
    edit_json(plant(18, "contours_path", "centerline is no line"), centerline=[[1.0, 2.0, 3.0]] * 4)
    plant(25, "patient_id", "'val' in row 21", rows[19]["patient_id"])
    rows[19]["split"] = "val"
    plant(20, "patient_id", "blank cell", " ")
    plant(21, "vessel_name", "blank cell", "")
    rows[22] |= {name: rows[23][name] for name in ("cine_path", "frame_index", "vessel_mask_actual_path")}
    plant(23, "cine_path", "same cine")
    save(plant(24, "cine_path", "to 2"), np.full((3, 96, 96), 2.0, np.float32))
    plant(26, "true_vessel_mask_path", "no such file", "truth/lost.png")
    plant(27, "MLD_mm", "a number", "about 2")
    return planted


def test_twenty_and_more_planted_faults_are_all_named_in_one_report(tmp_path, capsys):
    csv_path = write_tiny_dataset(tmp_path, patients=28, rows_per_patient=1, val_patients=1)
    rows = _read(csv_path)
    rows = [rows[27], *rows[:27]]  # the `val` row first; each row is another patient
    planted = _plant_faults(tmp_path, rows)
    _write(csv_path, rows)
    with pytest.raises(DataError) as caught:
        load_table(csv_path)
    report = str(caught.value).splitlines()[1:]
    assert len(planted) >= 20
    for line, column, said in planted:
        assert any(f"row {line}, column {column}: found" in text and said in text for text in report), (
            line, column, said, [text for text in report if f"row {line}," in text])
    assert len(report) == len(planted)  # and nothing that is not there
    assert all("allowed" in text or "remove" in text or "Correct" in text or "missing" in text
               or "export" in text for text in report)
    assert schema.main([str(csv_path)]) == 1
    assert f"{len(planted)} faults" in capsys.readouterr().out


def test_segments_may_be_named_as_cass_or_syntax_names_them(tiny):
    rows = _read(tiny)
    written = ("13", "mid RCA", "SYNTAX 9a", "syntax:12b", "LAD apical", "Left_main", "13.0", "SYNTAX 12")
    for row, segment in zip(rows, written, strict=True):
        row["cass_segment"] = row["cass_segment_original"] = segment
    _write(tiny, rows)
    report = inspect_csv(tiny)
    assert report.faults == [] and not [w for w in report.warnings if "segment" in w.column]
    for column in ("cass_segment", "cass_segment_original"):
        assert report.table[column].tolist() == [13, 2, 15, 21, 14, 11, 13, 28]
    assert report.table["cass_segment"].dtype.kind == "i"
    assert "14 Distal LAD: 1" in schema.summary(report)


def test_a_syntax_code_without_the_word_is_a_fault_that_says_what_to_write(tiny):
    rows = _read(tiny)
    rows[0]["cass_segment"], rows[1]["cass_segment"], rows[2]["cass_segment_original"] = "9a", "", "diagonal"
    _write(tiny, rows)
    report = inspect_csv(tiny)
    assert [(fault.row, fault.column) for fault in report.faults] == [
        (2, "cass_segment"), (3, "cass_segment"),
    ]
    assert "write it as 'SYNTAX 9a'" in report.faults[0].allowed
    assert any(w.row == 4 and "'diagonal' names no segment" in w.allowed for w in report.warnings)


@pytest.mark.parametrize("value", ["0.25", "1", "", "0", "1.2", "-0.5", "inf", "likely"])
def test_the_ceiling_of_blind_guesses_is_a_probability_or_blank(tiny, value):
    allowed = value in ("0.25", "1", "")
    rows = [row | {"blind_ceiling": "0.5"} for row in _read(tiny)]
    rows[3]["blind_ceiling"] = value
    _write(tiny, rows)
    report = inspect_csv(tiny)
    assert [fault.row for fault in report.faults] == ([] if allowed else [5])
    if allowed:
        expected = float(value) if value else math.nan
        np.testing.assert_equal(report.table["blind_ceiling"].tolist()[2:4], [0.5, expected])
        assert "optional columns: " in schema.summary(report) and "blind_ceiling" in schema.summary(report)


def test_patient_in_two_splits_and_shared_cine_are_faults(tiny):
    rows = _read(tiny)
    rows[7]["patient_id"] = "101-0001"
    rows[6]["cine_path"], rows[6]["frame_index"] = rows[0]["cine_path"], "1"
    _write(tiny, rows)
    faults = {(fault.row, fault.column): str(fault) for fault in check_csv(tiny)[1]}
    assert set(faults) == {(9, "patient_id"), (8, "cine_path")}
    assert "101-0001 in 'val', but in 'train' in row 2" in faults[9, "patient_id"]


def _json_keys(content: dict):
    """(the object, its key) for every key of a contours file, sections' keys too."""
    yield from ((content, key) for key in list(content))
    for section in (part for part in list(content.values()) if isinstance(part, dict)):
        yield from ((section, key) for key in list(section))


@pytest.mark.parametrize("value", [
    None, "x", -1, [], {}, True, pytest.param(10**400, id="400 digits"), [[1e300, -1e300]] * 20, [["a", "b"]],
])
def test_whatever_a_contours_file_holds_the_report_is_made(tiny, value):
    rows = _read(tiny)
    _write(tiny, rows[:1])
    path = tiny.parent / rows[0]["contours_path"]
    content = json.loads(path.read_text())
    measured = {
        "measurements",
        "calibration",
        "centerline",
        "left_edge",
        "scale_factor",
        "interpolated_RVD_mm",
    }
    refused = set()
    for section, key in _json_keys(content):
        kept, section[key] = section[key], value
        path.write_text(json.dumps(content))
        faults = inspect_csv(tiny, progress=False).faults
        assert all(fault.row == 2 and "contours_path" in fault.column for fault in faults)
        refused |= {key} if faults else set()
        section[key] = kept
    assert measured <= refused


def test_contours_elsewhere_than_on_the_frame_are_a_fault(tiny):
    path = tiny.parent / _read(tiny)[0]["contours_path"]
    content = json.loads(path.read_text())
    content["centerline"] = [[x + 5000, y + 5000] for x, y in content["centerline"]]
    path.write_text(json.dumps(content))
    fault, = check_csv(tiny)[1]
    assert fault.row == 2 and "centerline reaches from (50" in fault.allowed and "96 x 96" in fault.allowed


def test_a_reader_that_has_had_enough_is_no_error(tiny):
    reading, writing = os.pipe()
    os.close(reading)  # as when `head` has ended
    done = subprocess.run(
        [sys.executable, "-m", "data.schema", str(tiny)],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(schema.__file__).parents[1],
    )
    os.close(writing)
    assert done.returncode == 0 and "Error" not in done.stderr


def test_rows_of_another_length_and_blank_lines(tiny):
    lines = tiny.read_text().splitlines()
    lines.insert(2, "")
    lines[5] += ",one too many"
    tiny.write_text("\n".join(lines))
    table, faults = check_csv(tiny)
    assert [(fault.row, fault.column) for fault in faults] == [(6, "(row)")]
    assert len(table) == 7 and 3 not in set(table["csv_line"])


def test_the_check_alone_prints_a_summary(tiny, capsys):
    assert schema.main([str(tiny)]) == 0
    printed = capsys.readouterr().out
    for words in ("8 rows of 4 patients", "train: 6 rows", "Mid LAD: 2", "PRE 3", "without view angles: 2"):
        assert words in printed
    assert schema.main([str(tiny), "--path-map", "nonsense"]) == 1
