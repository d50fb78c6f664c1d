"""What each step of the chain costs: its four ways on one vessel, and the command on a small data set."""

import json

import numpy as np
import pandas as pd
import pytest

import evaluate_chain
from tests.csv_fixture import write_tiny_dataset
from tests.measured_vessel import EDGES, LINE, MIDDLE, SIZE, detection, draw_nothing, draw_true_lumen, vessel_names
from tests.tiny_checkpoint import (
    write_tiny_cass_checkpoint, write_tiny_lumen_checkpoint, write_tiny_obstruction_checkpoint,
)
from utils.lumens.chain_evaluation import WAYS, WHOLE_CHAIN, chain_of_row, describe_chain, summarise_chain, true_lumen
from utils.reports.frame_answer import FrameAnswer

PX_PER_MM = 4.0


@pytest.fixture
def row(tmp_path):
    """A row whose contours are those of the measured vessel: 12 px, narrowed to 6."""
    left, right = EDGES
    ideal = LINE + (left - LINE) / np.linalg.norm(left - LINE, axis=1, keepdims=True) * 6
    ideal_right = LINE + (right - LINE) / np.linalg.norm(right - LINE, axis=1, keepdims=True) * 6
    start, middle, end = (np.abs(np.linalg.norm(LINE - MIDDLE, axis=1) - away).argmin() for away in (18, 0, 18))
    last = len(LINE) - 1 - start
    contours = {
        "segment_name": "MID_LAD", "frame_num": 0, "centerline": LINE.tolist(), "left_edge": left.tolist(),
        "right_edge": right.tolist(), "ideal_left_edge": ideal.tolist(), "ideal_right_edge": ideal_right.tolist(),
        "measurements": {
            "MLD_mm": 6 / PX_PER_MM, "interpolated_RVD_mm": 12 / PX_PER_MM, "diameter_stenosis_pct": 50.0,
            "area_stenosis_pct": 75.0, "MLD_x_coord": MIDDLE[0], "MLD_y_coord": MIDDLE[1],
            "MLD_centerline_index": int(middle), "lesion_length_mm": 36 / PX_PER_MM,
            "lesion_start_x_coord": LINE[start][0], "lesion_start_y_coord": LINE[start][1],
            "lesion_end_x_coord": LINE[last][0], "lesion_end_y_coord": LINE[last][1],
        },
        "calibration": {"scale_factor": PX_PER_MM},
    }
    (tmp_path / "contours.json").write_text(json.dumps(contours))
    np.save(tmp_path / "cine.npy", np.full((1, *SIZE), 100, np.uint8))
    return {"cine_path": str(tmp_path / "cine.npy"), "frame_index": 0, "contours_path": str(tmp_path / "contours.json"),
            "primary_angle": 10.0, "secondary_angle": np.nan}


def answering(*found):
    names = vessel_names()
    return lambda frame, view_deg: FrameAnswer(
        vessel_probability=names.vessel_probability, segments=names, obstructions=list(found))


def test_all_four_ways_agree_where_every_model_is_right(row):
    record = chain_of_row(row, answering(detection()), draw_true_lumen, 0.5, 0.5)
    assert record["found"]
    for way in WAYS:
        measured = record[way]["measured"]
        assert measured["mld"] == pytest.approx(1.5, abs=0.06) and measured["ds"] == pytest.approx(50, abs=2), way
        assert record[way]["mld_off_px"] < 1.5


def test_a_lesion_that_is_missed_or_found_elsewhere_has_no_predicted_box(row):
    for found in ((), (detection(place=(140.0, 20.0)),), (detection(score=0.4),)):
        record = chain_of_row(row, answering(*found), draw_true_lumen, 0.5, 0.5)
        assert not record["found"] and WHOLE_CHAIN not in record
        assert record["true_box_true_lumen"]["measured"]["ds"] == pytest.approx(50, abs=2)


def test_a_model_that_draws_nothing_costs_what_the_true_lumen_does_not(row):
    record = chain_of_row(row, answering(detection()), draw_nothing, 0.5, 0.5)
    assert "empty" in record[WHOLE_CHAIN]["failure"] and np.isnan(record["true_box_predicted_lumen"]["measured"]["mld"])
    assert record["predicted_box_true_lumen"]["measured"]["mld"] == pytest.approx(1.5, abs=0.06)
    metrics = summarise_chain([record], ["a"])
    assert metrics[f"{WHOLE_CHAIN}_measured_share"] == 0 and metrics["found_share"] == 1
    said = describe_chain(metrics, 50)
    assert "1 of 1 lesions" in said and all(words in said for words in WAYS.values())


def test_the_true_lumen_ends_where_the_box_does():
    from data.lumen_dataset import Section

    section = Section(*EDGES)
    half = draw_nothing(np.zeros((*SIZE, 3)), (0, 0, MIDDLE[0], SIZE[1]), view_deg=(0, 0))
    whole = draw_nothing(np.zeros((*SIZE, 3)), (0, 0, *SIZE), view_deg=(0, 0))
    share = [true_lumen(section, one).mask_in_frame().sum() for one in (half, whole)]
    assert share[0] == pytest.approx(share[1] / 2, rel=0.05)
    nowhere = draw_nothing(np.zeros((*SIZE, 3)), (0, 0, 5, 5), view_deg=(0, 0))
    assert true_lumen(section, nowhere).share.max() == 0


def test_nothing_found_at_all_is_said(row):
    metrics = summarise_chain([chain_of_row(row, answering(), draw_true_lumen, 0.5, 0.5)], ["a"])
    assert metrics["n_found"] == 0 and "Of all rows" in describe_chain(metrics, 50)


@pytest.fixture(scope="module")
def csv_path(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("data"), patients=4, rows_per_patient=1, val_patients=2)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    return [write_tiny_cass_checkpoint(folder / "2.pth"),
            write_tiny_obstruction_checkpoint(folder / "3.pth", metrics={"threshold": 0.5}, threshold_pct=5.0),
            write_tiny_lumen_checkpoint(folder / "4.pth")]


def test_the_command_writes_figures_lesions_and_a_picture(csv_path, checkpoints, tmp_path, capsys):
    given = ["--data-csv", csv_path, "--checkpoint", *checkpoints, "--out", tmp_path, "--device", "cpu"]
    assert evaluate_chain.main([str(one) for one in given]) == 0
    metrics = json.loads((tmp_path / "chain_metrics.json").read_text())
    assert metrics["n_rows"] == 2 and metrics["from_pct"] == 5.0 and len(metrics["checkpoints"]) == 3
    assert len(pd.read_csv(tmp_path / "chain_lesions.csv")) == 2
    assert (tmp_path / "chain_agreement.png").stat().st_size > 1000
    assert "lesions from 5 %DS on were found from the frame alone" in capsys.readouterr().out


def test_what_is_missing_is_said(csv_path, checkpoints, tmp_path, capsys):
    for left_out, named in ((1, "phase3_obstruction"), (2, "phase4_quantitative")):
        some = [one for number, one in enumerate(checkpoints) if number != left_out]
        given = ["--data-csv", csv_path, "--checkpoint", *some, "--out", tmp_path, "--device", "cpu"]
        with pytest.raises(SystemExit) as left:
            evaluate_chain.main([str(one) for one in given])
        assert left.value.code == 1 and named in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
