"""predict.py --batch: a list of inputs, of which bad rows are reported with row and column, and the others done."""

import csv
import json

import cv2
import numpy as np
import pytest

import predict
from data.errors import DataError
from tests.measured_vessel import detection, sees_vessel, write_frame
from tests.test_predict import exit_code
from tests.tiny_checkpoint import write_tiny_chain
from utils.reports.jobs import RUN_FILES, batch_jobs, with_names_apart


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_tiny_chain(tmp_path_factory.mktemp("weights"))


def write_list(folder, text):
    path = folder / "list.csv"
    path.write_text(text, encoding="utf-8")
    return path


def run(tmp_path, weights, csv_path, *flags):
    return exit_code(predict.main, ["--batch", csv_path, *flags, "--out", tmp_path / "out", "--device", "cpu",
                                    "--checkpoint", *weights])


def test_good_rows_are_done_and_bad_ones_listed_with_row_and_column(tmp_path, weights, monkeypatch, capsys):
    sees_vessel(monkeypatch, [detection()])
    (tmp_path / "cines").mkdir()
    picture = cv2.imread(str(write_frame(tmp_path)))
    np.save(tmp_path / "cines" / "a.npy", np.stack([picture, picture]))
    (tmp_path / "broken.npy").write_bytes(b"nothing")
    csv_path = write_list(tmp_path, "\n".join([
        "name,path,frame_index,primary_angle,secondary_angle,px_per_mm,ward",
        "first/try,cines/a.npy,1,RAO 30,25,4,7",         # row 2, good; / is no letter of a file's name
        ",frame.png,,,,,",                                # row 3, good: everything else unknown
        ",absent.npy,,,,,", ",cines/a.npy,x,,,,", ",cines/a.npy,,LAO 400,,,", ",cines/a.npy,,,,-1,",
        ",cines/a.npy,9,,,,", ",broken.npy,,,,,", ",,,,,2,"]))
    assert run(tmp_path, weights, csv_path, "--cine-frames", 1) == 1
    errors = capsys.readouterr().err
    said = [line.strip() for line in errors.splitlines() if str(csv_path) in line]
    assert len(said) == 7 and "7 inputs could not be predicted" in errors
    for row, column in ((4, "path"), (5, "frame_index"), (6, "primary_angle"), (7, "px_per_mm"), (8, "frame_index"),
                        (9, "path"), (10, "path")):
        assert any(f"row {row}, column {column}: found" in line for line in said), (row, column, said)
    assert any("found '9'; the file has frames 0 to 1" in line for line in said)
    whole = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert sorted(whole["failures"]) == sorted(said)
    first, second = whole["inputs"]
    assert (first["name"], first["frame_index"], first["view"]["text"]) == ("first_try", 1, "RAO 30 CRA 25")
    assert first["view"]["source"] == "list of inputs" and first["calibration"]["given_by"] == "column px_per_mm"
    assert first["calibration"]["px_per_mm"] == 4 and second["calibration"]["px_per_mm"] is None
    assert second["name"] == "frame" and second["view"]["text"] == "view unknown"
    lines = list(csv.DictReader((tmp_path / "out" / "measurements.csv").open(encoding="utf-8")))
    assert [(line["name"], line["number"], line["cass_id"]) for line in lines] == [
        ("first_try", "1", "13"), ("frame", "1", "13")]
    assert float(lines[0]["mld_mm"]) == pytest.approx(1.5, abs=0.1) and lines[1]["mld_mm"] == ""
    assert all((tmp_path / "out" / name).is_file() for name in RUN_FILES)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert all(f"row {row}, column" in page for row in range(4, 11))


def test_list_of_bad_rows_only_still_leaves_a_report(tmp_path, weights, capsys):
    csv_path = write_list(tmp_path, "path\nabsent.npy\n")
    assert run(tmp_path, weights, csv_path) == 1
    assert "row 2, column path: found 'absent.npy'" in capsys.readouterr().err
    assert "row 2, column path" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("text, message", [
    ("file\na.npy\n", "columns file"), ("path\n", "0 rows"), ("", "columns none")])
def test_list_without_paths_is_refused(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        batch_jobs(write_list(tmp_path, text))


def test_paths_start_from_the_list_or_from_the_data_root_or_are_mapped(tmp_path):
    frame = write_frame(tmp_path)
    (tmp_path / "lists").mkdir()
    near = write_list(tmp_path, f"path\nframe.png\n{frame}\n")
    assert [job.path for job in batch_jobs(near)[0]] == [frame, frame]
    far = write_list(tmp_path / "lists", "path;px_per_mm\nframe.png;4,5\nX:\\frames\\frame.png;\n")
    jobs, failures = batch_jobs(far, tmp_path, [("X:\\frames", str(tmp_path))])
    assert [job.path for job in jobs] == [frame] and "column px_per_mm" in failures[0]


def test_input_never_takes_the_name_of_the_runs_own_files(tmp_path):
    write_frame(tmp_path)
    jobs, _ = batch_jobs(write_list(tmp_path, "path,name\nframe.png,report\nframe.png,REPORT\nframe.png,frame\n"))
    assert [job.name for job in with_names_apart(jobs)] == ["report_2", "REPORT_3", "frame"]


def test_the_list_itself_is_not_replaced(tmp_path, weights, capsys):
    write_frame(tmp_path)
    csv_path = tmp_path / "measurements.csv"
    csv_path.write_text("path\nframe.png\n", encoding="utf-8")
    arguments = ["--batch", csv_path, "--out", tmp_path, "--device", "cpu", "--checkpoint", *weights]
    assert exit_code(predict.main, arguments) == 1
    assert "would be replaced" in capsys.readouterr().err and csv_path.read_text() == "path\nframe.png\n"


@pytest.mark.parametrize("flag", [["--frame", 3], ["--px-per-mm", 4], ["--box", "1,1,5,5"]])
def test_flags_of_a_single_input_are_refused(tmp_path, weights, capsys, flag):
    assert run(tmp_path, weights, "list.csv", *flag) == 2
    assert f"{flag[0]} cannot be given with --data-csv or --batch" in capsys.readouterr().err
