"""Contours files recomputed from their own edges: the phantom's within rounding, and what is wrong is found."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import recompute_contours
from data.contours import MEASUREMENTS, read_contours
from phantom.anatomy import LEFT, RIGHT
from phantom.contours import contours_record, measure, trace_segment
from phantom.lesions import draw_lesion, with_lesions
from phantom.patient import build_tree
from phantom.views import draw_carm
from qca.agreement import agreement_of
from qca.recorded import ROUNDING, disagreements, recompute
from tests.csv_fixture import write_tiny_dataset

# Of the phantom's files, whose coordinates have three decimals. A file has one scale, so normal diameters at another
# depth than the MLD's are a percent off.
EXACT = ROUNDING | {"MLD_mm": 0.008, "interpolated_RVD_mm": 0.01, "diameter_stenosis_pct": 0.1,
                    "area_stenosis_pct": 0.1, "MLD_x_coord": 0.01, "MLD_y_coord": 0.01, "lesion_length_mm": 0.005,
                    "segment_length_mm": 0.005, "obstruction_position_mm": 0.005}


def phantom_record(seed: int) -> dict:
    """The contours JSON of a random lesion of a random segment."""
    rng = np.random.default_rng(seed)
    side, cass_id = ((LEFT, 13), (RIGHT, 1), (LEFT, 19), (LEFT, 15))[seed % 4]
    tree = build_tree(side, rng, needed=frozenset({cass_id}))
    lesion = draw_lesion(tree, cass_id, (5.0, 88.0), rng)
    tree = with_lesions(tree, (lesion,))
    carm = draw_carm(tree, cass_id, 512, rng)
    trace = trace_segment(tree, cass_id, carm, int(rng.integers(300, 401)))
    values, scale = measure(tree, lesion, trace)
    return contours_record(trace, values, scale, segment_name="x", frame_index=0, catheter=6.0, view_angles={},
                           spacing_mm=carm.spacing_mm, analyst="phantom", analysis_date="2020-01-01")


def read_back(record: dict, folder: Path):
    path = folder / "contours.json"
    path.write_text(json.dumps(record), encoding="utf-8")
    return read_contours(path)


@pytest.mark.parametrize("seed", range(8))
def test_phantom_contours_come_out_as_they_were_recorded(seed, tmp_path):
    contours = read_back(phantom_record(seed), tmp_path)
    again = recompute(contours)
    assert disagreements(contours, again) == {}
    for name in MEASUREMENTS:
        assert again.at_places[name] == pytest.approx(contours.measurements[name], abs=EXACT[name]), name


@pytest.mark.parametrize("seed", range(8))
def test_the_lesion_is_found_where_the_phantom_has_it(seed, tmp_path):
    contours = read_back(phantom_record(seed), tmp_path)
    found, given = recompute(contours).found, contours.measurements
    assert found["MLD_mm"] == pytest.approx(given["MLD_mm"], abs=0.02)
    assert found["diameter_stenosis_pct"] == pytest.approx(given["diameter_stenosis_pct"], abs=0.5)
    assert found["obstruction_position_mm"] == pytest.approx(given["obstruction_position_mm"], abs=0.5)
    assert found["lesion_length_mm"] == pytest.approx(given["lesion_length_mm"], abs=1.5)


def test_edges_with_points_of_their_own_give_the_same_measurements(tmp_path):
    record = phantom_record(0)
    exact = recompute(read_back(record, tmp_path)).at_places
    for name, points in (("left_edge", 333), ("right_edge", 377), ("ideal_left_edge", 301), ("ideal_right_edge", 400)):
        line = np.array(record[name])
        where = np.linspace(0, len(line) - 1, points)
        record[name] = np.stack([np.interp(where, np.arange(len(line)), line[:, k]) for k in (0, 1)], 1).tolist()
    again = recompute(read_back(record, tmp_path)).at_places
    assert again["MLD_mm"] == pytest.approx(exact["MLD_mm"], abs=0.05)
    assert again["interpolated_RVD_mm"] == pytest.approx(exact["interpolated_RVD_mm"], abs=0.05)
    assert again["segment_length_mm"] == pytest.approx(exact["segment_length_mm"], abs=1e-6)


def test_a_wrong_number_is_the_one_that_disagrees(tmp_path):
    record = phantom_record(1)
    record["measurements"]["MLD_mm"] += 0.2
    contours = read_back(record, tmp_path)
    assert disagreements(contours, recompute(contours)) == {"MLD_mm": pytest.approx(-0.2, abs=0.01)}


def test_a_wrong_scale_makes_every_length_disagree(tmp_path):
    record = phantom_record(1)
    record["calibration"]["scale_factor"] *= 1.5
    contours = read_back(record, tmp_path)
    wrong = disagreements(contours, recompute(contours))
    assert {"MLD_mm", "interpolated_RVD_mm", "lesion_length_mm", "segment_length_mm"} <= set(wrong)
    assert "diameter_stenosis_pct" not in wrong


def test_missing_measurements_are_found_and_disagree_with_nothing(tmp_path):
    record = phantom_record(2)
    full = read_back(record, tmp_path)
    kept = {"MLD_mm", "interpolated_RVD_mm", "diameter_stenosis_pct"}
    record["measurements"] = {name: value for name, value in record["measurements"].items() if name in kept}
    contours = read_back(record, tmp_path)
    again = recompute(contours)
    assert disagreements(contours, again) == {}
    assert again.at_places["obstruction_position_mm"] == pytest.approx(
        full.measurements["obstruction_position_mm"], abs=0.5)


def test_agreement_is_that_of_bland_and_altman():
    found = agreement_of(np.array([1.0, 2, 3, np.nan]), np.array([1.5, 2, 4, 7]))
    assert (found.n, found.bias, found.mae) == (3, 0.5, 0.5) and found.sd == pytest.approx(0.5)
    assert (found.low, found.high) == pytest.approx((0.5 - 0.98, 0.5 + 0.98))
    assert agreement_of(np.array([np.nan]), np.array([1.0])).n == 0


def run(csv_path, out, *more) -> int:
    return recompute_contours.main(["--data-csv", str(csv_path), "--out", str(out), *map(str, more)])


def test_script_writes_table_summary_and_picture(tmp_path, capsys):
    csv_path = write_tiny_dataset(tmp_path / "data", patients=3, rows_per_patient=1)
    paths = [csv_path.parent / path for path in pd.read_csv(csv_path)["contours_path"]]
    for number, path in enumerate(paths):
        record = phantom_record(number)
        lines = ("centerline", "left_edge", "right_edge", "ideal_left_edge", "ideal_right_edge")
        for name in lines:  # into the tiny frame
            record[name] = (np.array(record[name]) * 96 / 512).tolist()
        record["calibration"]["scale_factor"] *= 96 / 512
        record["measurements"] |= {name: value * 96 / 512 for name, value in record["measurements"].items()
                                   if name.endswith("_coord")}
        if number == 1:
            record["measurements"]["MLD_mm"] += 0.5
        if number == 2:
            record["measurements"]["segment_length_mm"] = None
        path.write_text(json.dumps(record), encoding="utf-8")
    assert run(csv_path, tmp_path / "out") == 0
    table = pd.read_csv(tmp_path / "out" / "recomputed.csv", keep_default_na=False)
    assert table["csv_line"].tolist() == [2, 3, 4]
    assert [text.startswith("MLD_mm -0.4") for text in table["disagrees"]] == [False, True, False]
    assert table["missing"].tolist() == ["", "", "segment_length_mm"]
    assert table["segment_length_mm_difference"].tolist()[2] == ""
    text = (tmp_path / "out" / "recomputed.txt").read_text(encoding="utf-8")
    assert text.strip() in capsys.readouterr().out
    assert "3 rows of 3 patients: 1 disagree" in text and "1 lack measurements" in text and "row 3" in text
    assert (tmp_path / "out" / "recomputed.png").stat().st_size > 10_000


def test_script_says_what_is_wrong_with_a_csv_that_is_not_there(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path / "none.csv", tmp_path / "out")
    assert stopped.value.code == 1 and "none.csv" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
