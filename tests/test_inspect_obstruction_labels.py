"""inspect_obstruction_labels.py: the order, the numbers and the pictures, and what it says of bad input."""

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

import inspect_obstruction_labels
from data.contours import read_contours
from data.obstructions import obstruction_of
from data.schema import load_table
from inspect_obstruction_labels import PICTURE_PX, draw_label, rank, summary
from tests.csv_fixture import write_tiny_dataset
from utils.drawing import VERMILION


def narrow(path, stenosis_pct: float, **measurements) -> None:
    """Give the vessel of a tiny data set a lesion that its edges and its numbers agree on."""
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    line = np.array(content["centerline"])
    bell = np.clip(1 - np.abs(np.arange(len(line)) - 140) / 40, 0, None)[:, None]
    for side in ("left", "right"):
        ideal = np.array(content[f"ideal_{side}_edge"])
        content[f"{side}_edge"] = (line + (1 - stenosis_pct / 100 * bell) * (ideal - line)).tolist()
    values = content["measurements"]
    rvd = values["interpolated_RVD_mm"]
    values |= {"MLD_mm": rvd * (1 - stenosis_pct / 100), "diameter_stenosis_pct": stenosis_pct,
               "area_stenosis_pct": 100 * (1 - (1 - stenosis_pct / 100) ** 2)} | measurements
    Path(path).write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def dataset(tmp_path):
    """Five rows: PRE 75 %DS, FINAL 10, EVENT 55 with a lesion of a wrong length, PRE 40, FINAL 62 (val)."""
    csv_path = write_tiny_dataset(tmp_path / "data", patients=5, rows_per_patient=1)
    table = pd.read_csv(csv_path)
    table["phase"] = ["PRE", "FINAL", "EVENT", "PRE", "FINAL"]
    table.drop(columns=["MLD_mm", "diameter_stenosis_pct"]).to_csv(csv_path, index=False)
    for path, stenosis_pct in zip(table["contours_path"], (75, 10, 55, 40, 62), strict=True):
        extra = {"lesion_length_mm": 30.0} if stenosis_pct == 55 else {}
        narrow(csv_path.parent / path, stenosis_pct, **extra)
    return csv_path


def run(csv_path, out, *more) -> int:
    return inspect_obstruction_labels.main(["--data-csv", str(csv_path), "--out", str(out), *map(str, more)])


def test_script_writes_table_summary_and_pictures_in_the_order_to_look_at_them(dataset, tmp_path, capsys):
    assert run(dataset, tmp_path / "out", "--limit", 2) == 0
    table = pd.read_csv(tmp_path / "out" / "obstruction_labels.csv")
    assert table["csv_line"].tolist() == [4, 2, 6, 5, 3]  # the contradiction, then the most severe first
    assert table["stenosis_pct"].tolist() == [55, 75, 62, 40, 10]
    assert table["grade"].tolist() == ["moderate", "severe", "moderate", "mild", "minimal"]
    assert table["positive"].tolist() == [True, True, True, False, False]  # FINAL too, from 50 %DS on
    assert table["contradictions"][0].startswith("lesion_length_mm is 30.0")
    assert table["contradictions"][1:].isna().all() and (table["plaque_px"][:3] > 10).all()
    assert table[["start_index", "mld_index", "end_index"]].eq([100, 140, 180]).all(axis=None)
    names = ["0001_row4_EVENT.png", "0002_row2_PRE.png"]
    assert table["picture"].tolist()[:2] == names and table["picture"][2:].isna().all()
    assert sorted(path.name for path in (tmp_path / "out" / "labels").iterdir()) == names
    picture = cv2.imread(str(tmp_path / "out" / "labels" / names[0]))
    assert 1.2 < picture.shape[1] / picture.shape[0] < 2.0
    said = capsys.readouterr().out
    assert "5 rows of 5 patients: 3 positive (from 50 %DS on), 1 with contradictions" in said
    assert (tmp_path / "out" / "obstruction_summary.txt").read_text(encoding="utf-8").strip() in said


def test_threshold_and_split_choose_and_limit_0_draws_nothing(dataset, tmp_path):
    assert run(dataset, tmp_path / "out", "--split", "val", "--threshold", 70, "--limit", 0) == 0
    table = pd.read_csv(tmp_path / "out" / "obstruction_labels.csv")
    assert table["split"].tolist() == ["val"] and table["positive"].tolist() == [False]
    assert not (tmp_path / "out" / "labels").exists()


def test_columns_of_the_csv_that_disagree_are_contradictions(dataset, tmp_path):
    table = pd.read_csv(dataset)
    table["MLD_mm"] = [9.0, None, None, None, None]
    table.to_csv(dataset, index=False)
    assert run(dataset, tmp_path / "out", "--limit", 0) == 0
    said = pd.read_csv(tmp_path / "out" / "obstruction_labels.csv").set_index("csv_line")["contradictions"]
    assert said[2].startswith("the CSV's MLD_mm is 9, the contours file says") and said.notna().sum() == 2


def test_a_split_without_rows_and_a_bad_csv_are_said_and_end_with_1(dataset, tmp_path, capsys):
    table = pd.read_csv(dataset)
    table[table["split"] == "train"].to_csv(dataset, index=False)
    for spoil, said in (({}, "no row has split 'val'"), ({"phase": "PRAE"}, "column phase: found 'PRAE'")):
        pd.read_csv(dataset).assign(**spoil).to_csv(dataset, index=False)
        with pytest.raises(SystemExit) as caught:
            run(dataset, tmp_path / "out", "--split", "val")
        error = capsys.readouterr().err
        assert caught.value.code == 1 and "error: " in error and said in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_summary_counts_by_phase_and_by_segment():
    rows = [("a", "PRE", 13, "severe", True, ""), ("a", "FINAL", 13, "minimal", False, ""),
            ("b", "PRE", 1, "moderate", True, "x"), ("b", "PRE", 13, "severe", True, "")]
    names = ["patient_id", "phase", "cass_segment", "grade", "positive", "contradictions"]
    lines = [line.split() for line in summary(pd.DataFrame(rows, columns=names), 50).splitlines()]
    assert ["minimal", "mild", "moderate", "severe", "(sub)total", "rows", "positive"] in lines
    for line in ("PRE 0 0 1 2 0 3 3", "FINAL 1 0 0 0 0 1 0", "13 Mid LAD 1 0 0 2 0 3 2",
                 "1 Proximal RCA 0 0 1 0 0 1 1"):
        assert line.split() in lines


def test_rank_puts_contradictions_first_and_the_severe_before_the_mild():
    table = pd.DataFrame({"stenosis_pct": [20.0, 90.0, 40.0, 60.0], "contradictions": ["b", "", "a", ""]})
    assert rank(table)["stenosis_pct"].tolist() == [40, 20, 90, 60]
    assert list(rank(table).columns) == list(table.columns)


def test_the_picture_shows_plaque_box_and_mld_where_they_are(tmp_path):
    csv_path = write_tiny_dataset(tmp_path, patients=1, rows_per_patient=1, val_patients=0, size=256)
    path = load_table(csv_path)["contours_path"][0]
    narrow(path, 75)
    contours, frame = read_contours(path), np.full((256, 256, 3), 90, np.uint8)
    label = obstruction_of(contours, (256, 256))
    plain, drawn = draw_label(frame, contours, label)
    assert plain.shape == drawn.shape and max(plain.shape) == PICTURE_PX and (plain == 90).all()
    walls = np.concatenate([contours.ideal_left_edge, contours.ideal_right_edge])
    scale = PICTURE_PX / (np.ceil(1.25 * np.ptp(walls, axis=0).max()) + 1)  # it lies inside the frame
    low = np.rint((walls.min(axis=0) + walls.max(axis=0)) / 2 - PICTURE_PX / scale / 2).astype(int)

    def to_picture(point):
        return np.rint((np.asarray(point) - low + 0.5) * scale - 0.5).astype(int)

    x, y = to_picture(label.mld_px)
    assert drawn[y, x, 0] > 200 and drawn[y, x, 2] < 120  # yellow
    x0, y0, x1, y1 = (*to_picture(label.box_px[:2]), *to_picture(label.box_px[2:]))
    rows, columns = np.nonzero((drawn > 250).all(axis=2))
    drawn_box = columns.min(), rows.min(), columns.max(), rows.max()
    np.testing.assert_allclose(drawn_box, [x0, y0, x1, y1], atol=3)
    pixels = np.argwhere(cv2.erode(label.region.astype(np.uint8), np.ones((3, 3))))
    shown = [drawn[tuple(to_picture(pixel[::-1])[::-1])].astype(int) for pixel in pixels]
    reddish = [color[0] - color[2] for color in shown]
    assert len(pixels) > 10 and np.median(reddish) > 0.4 * (VERMILION[0] - VERMILION[2])
