"""data.obstructions: planted contradictions of a lesion's places, length, edges and columns, and none but those."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from data.contours import Contours
from data.obstructions import column_contradictions, lesion_contradictions
from data.schema import inspect_csv
from tests.csv_fixture import write_tiny_dataset
from tests.lesion_contours import (
    EDGES,
    FIRST,
    HALF,
    LAST,
    MLD,
    SCALE,
    bent,
    changed,
    make_contours,
    moved,
    none,
    plaque_depth,
    straight,
    without,
)

CLEAN = straight()
PLANTED = {
    "MLD point lies 12.0 px off the centreline": moved(CLEAN, "MLD", (110, 72)),
    "start of the lesion lies 24.0 px off the centreline": moved(CLEAN, "lesion_start", (79.5, 84)),
    "end of the lesion lies 20.0 px off the centreline": moved(CLEAN, "lesion_end", (240, 60)),
    "MLD_centerline_index is 194, but the MLD point lies at index 180": changed(
        CLEAN, MLD_centerline_index=194.0),
    "lesion runs backwards: it starts at index 241 and ends at 119": moved(
        moved(CLEAN, "lesion_start", CLEAN.centerline[LAST]), "lesion_end", CLEAN.centerline[FIRST]),
    "MLD outside the lesion: it is at index 260, the lesion from 119 to 241": changed(
        moved(CLEAN, "MLD", CLEAN.centerline[260]), MLD_centerline_index=260.0),
    "lesion_length_mm is 9.0, but from its start to its end the centreline measures 12.2 mm": changed(
        CLEAN, lesion_length_mm=9.0),
    "MLD by the edges is 1.56 mm at its place and 1.56 mm where the lesion is narrowest, but MLD_mm is 2.10":
        changed(CLEAN, MLD_mm=2.1),
}


@pytest.mark.parametrize("said", PLANTED)
def test_each_contradiction_is_said_with_its_values_and_nothing_else_is(said):
    found = lesion_contradictions(PLANTED[said])
    assert len(found) == 1 and found[0].startswith(said), found


def with_gap(contours: Contours) -> Contours:
    """Ten points an edge, and none of them near the lesion."""
    kept = [0, 10, 20, 30, 40, 50, 60, 70, 80, 400]
    return replace(contours, **{name: getattr(contours, name)[kept] for name in EDGES})


@pytest.mark.parametrize("contours", [
    CLEAN, straight(none, plaque_depth), with_gap(straight(none, none)), bent(),
    moved(CLEAN, "MLD", (110, 71)),
    changed(CLEAN, MLD_centerline_index=MLD + 9.0), changed(CLEAN, lesion_length_mm=13.3),
    changed(CLEAN, lesion_length_mm=math.nan, MLD_centerline_index=math.nan), changed(CLEAN, MLD_mm=1.8),
    without(CLEAN, "MLD", "lesion_start", "lesion_end"),
    changed(moved(CLEAN, "MLD", CLEAN.centerline[LAST + 9]), MLD_centerline_index=LAST + 9.0),
])
def test_what_rounding_and_missing_values_can_do_is_no_contradiction(contours):
    assert lesion_contradictions(contours) == []


def test_an_mld_in_a_taper_agrees_at_its_own_place():
    """MLD is where the vessel is narrowest by its reference; farther on it may be thinner in millimetres."""
    contours, x = straight(none, none), np.linspace(20, 220, 401)
    half = 12 - 4 * (x - 79.5) / 61
    left, right = np.stack([x, 60 - half], axis=1), np.stack([x, 60 + half], axis=1)
    tapering = replace(contours, **dict(zip(EDGES, (left, right, left, right), strict=True)))
    at_mld = 2 * half[MLD] / SCALE
    assert at_mld - 2 * half[LAST] / SCALE > 0.6  # far more than the tolerance
    assert lesion_contradictions(changed(tapering, MLD_mm=at_mld)) == []
    assert len(lesion_contradictions(changed(tapering, MLD_mm=at_mld + 0.4))) == 1


def test_an_edge_that_folds_over_in_a_short_lesion_of_one_side_keeps_its_diameter():
    """Where the lumen's middle jumps aside its edges cross over themselves, as they do in the phantom too."""
    x = np.linspace(20, 220, 401)
    bell = 0.5 + 0.5 * np.cos(np.pi * np.clip((x - 110) / 7, -1, 1))
    line, wall = np.stack([x, 60 - 5.5 * bell], axis=1), np.stack([x, np.full(401, 60.0)], axis=1)
    along = np.gradient(line, axis=0)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1) / np.linalg.norm(along, axis=1, keepdims=True)
    offset, healthy = (HALF - 5.5 * bell)[:, None] * across, np.array([0, HALF])
    edges = (line - offset, line + offset, wall - healthy, wall + healthy)
    contours = make_contours(line, *edges, start=166, end=194, mld_mm=10 / SCALE, rvd_mm=2 * HALF / SCALE)
    assert (np.diff(contours.right_edge[:, 0]) < 0).any()
    assert lesion_contradictions(contours) == []


@pytest.mark.parametrize(("column", "within", "beyond"), [
    ("MLD_mm", 1.65, 1.7), ("diameter_stenosis_pct", 64.0, 65.0), ("lesion_length_mm", 13.0, 13.5)])
def test_csv_columns_that_differ_by_more_than_rounding_are_named(column, within, beyond):
    names = ("MLD_mm", "diameter_stenosis_pct", "lesion_length_mm")
    row = {name: CLEAN.measurements[name] for name in names}
    assert column_contradictions(row, CLEAN) == {} == column_contradictions({}, CLEAN)
    assert column_contradictions(row | {column: math.nan}, CLEAN) == {}
    assert column_contradictions(row | {column: within}, CLEAN) == {}
    said = column_contradictions(row | {column: beyond}, CLEAN)
    assert list(said) == [column] and f"says {row[column]:g}" in said[column]


def test_the_data_check_warns_of_lesions_and_of_columns_and_stops_nothing(tmp_path):
    csv_path = write_tiny_dataset(tmp_path, patients=1, rows_per_patient=1, val_patients=0)
    path = next((tmp_path / "contours").iterdir())
    content = json.loads(path.read_text(encoding="utf-8"))
    content["measurements"] |= {"lesion_start_x_coord": 1.0, "lesion_start_y_coord": 90.0, "MLD_mm": 3.3}
    path.write_text(json.dumps(content), encoding="utf-8")
    report = inspect_csv(csv_path)
    said = [(warning.column, warning.allowed) for warning in report.warnings]
    assert report.faults == [] and len(report.table) == 1
    assert any(text.startswith("start of the lesion lies") for _, text in said)
    assert ("MLD_mm", "the contours file says 3.3, which is used") in said
