"""data.obstructions: labels of vessels whose plaque is known to the pixel, of the phantom, and what is known."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from data.contours import read_contours
from data.errors import DataError
from data.obstructions import (
    GRADES,
    grade_of,
    known_pixels,
    lesion_contradictions,
    obstruction_of,
    obstruction_of_row,
)
from data.schema import load_table
from phantom.anatomy import LEFT
from phantom.contours import contours_record, lesion_records, measure, trace_segment
from phantom.lesions import Lesion, with_lesions
from phantom.patient import build_tree
from phantom.views import draw_carm
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

SIZE = (120, 260)  # of the straight vessel's frame
DERIVED = MLD - 57, MLD + 57  # from 28.1 px on the plaque of both walls is less than 5 % of the vessel


def resampled(line: np.ndarray, points: int) -> np.ndarray:
    """As many points, evenly spaced along the line itself."""
    arc = np.append(0, np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1)))
    at = np.linspace(0, arc[-1], points)
    return np.stack([np.interp(at, arc, line[:, axis]) for axis in (0, 1)], axis=1)


@pytest.mark.parametrize(
    ("left", "right"), [(plaque_depth, plaque_depth), (none, plaque_depth), (plaque_depth, none)],
    ids=["both sides", "right side", "left side"],
)
def test_a_straight_vessels_label_is_known_to_the_pixel(left, right):
    label = obstruction_of(straight(left, right), SIZE)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    section = (np.abs(x - 110) <= 30.5) & (np.abs(y - 60) <= HALF)
    lumen = (y >= 60 - HALF + left(x)) & (y <= 60 + HALF - right(x))
    assert label.section.dtype == label.region.dtype == bool and label.region.any()
    np.testing.assert_array_equal(label.section, section)
    np.testing.assert_array_equal(label.region, section & ~lumen)
    assert label.box_px == (79.5, 49.5, 140.5, 70.5)
    assert (label.start_index, label.mld_index, label.end_index) == (FIRST, MLD, LAST)
    assert label.mld_px == (110.0, 60.0)
    sides = (left is plaque_depth) + (right is plaque_depth)
    assert label.stenosis_pct == pytest.approx(100 * sides * 6.6 / 21)
    lengths = (label.mld_mm, label.reference_mm, label.length_mm)
    assert lengths == pytest.approx((4.2 - sides * 1.32, 4.2, 12.2))
    assert GRADES[label.grade].name == ("moderate" if sides == 2 else "mild")
    assert label.is_positive() == (sides == 2) and label.is_positive(30) and not label.is_positive(63)


def test_a_vessel_without_plaque_has_a_section_and_no_region():
    label = obstruction_of(straight(none, none), SIZE)
    assert not label.region.any() and label.section.sum() == 61 * 21
    assert GRADES[label.grade].name == "minimal" and not label.is_positive()


@pytest.mark.parametrize(("stenosis_pct", "name"), [
    (-5, "minimal"), (0, "minimal"), (29.9, "minimal"), (30, "mild"), (49.9, "mild"), (50, "moderate"),
    (69.9, "moderate"), (70, "severe"), (98.9, "severe"), (99, "(sub)total"), (100, "(sub)total")])
def test_grades_begin_at_their_thresholds(stenosis_pct, name):
    assert GRADES[grade_of(stenosis_pct)].name == name


def test_the_box_is_clipped_and_a_lesion_beyond_the_frame_is_not_positive():
    label = obstruction_of(straight(), (60, 100))
    assert label.box_px == (79.5, 49.5, 99.0, 59.0) and label.is_positive()
    label = obstruction_of(straight(), (60, 70))
    assert not label.section.any() and label.stenosis_pct > 50 and not label.is_positive()


def polar(size=(150, 160)):
    y, x = np.mgrid[: size[0], : size[1]]
    return np.hypot(x - 100, y - 80), np.degrees(np.arctan2(y - 80, x - 100))


def assert_same_but_for_the_border(mask, expected, share=0.03):
    assert np.count_nonzero(mask ^ expected) <= share * np.count_nonzero(expected)


@pytest.mark.parametrize("counts", [None, (300, 350, 320, 400), (372, 372, 372, 372)], ids=str)
def test_in_a_bend_the_label_is_the_same_however_the_edges_are_sampled(counts):
    """Along a bend the outer edge is longer: the same share of it is another place, up to 20 px away here."""
    contours = bent()
    if counts is not None:
        lines = {name: resampled(getattr(contours, name), n) for name, n in zip(EDGES, counts, strict=True)}
        contours = replace(contours, **lines)
    label = obstruction_of(contours, (150, 160))
    radius, degrees = polar()
    section = (np.abs(radius - 40) <= HALF) & (np.abs(degrees - 90) <= 50)
    lumen = radius <= 40 + HALF - 7 * np.clip(1 - np.abs(degrees - 90) / 50, 0, None)
    assert_same_but_for_the_border(label.section, section)
    assert_same_but_for_the_border(label.region, section & ~lumen)
    reach = (40 + HALF) * math.cos(math.radians(40))
    expected = (100 - reach, 80 + (40 - HALF) * math.sin(math.radians(40)), 100 + reach, 80 + 40 + HALF)
    np.testing.assert_allclose(label.box_px, expected, atol=0.6)
    assert lesion_contradictions(contours) == []


@pytest.mark.parametrize(
    "missing", [("lesion_start",), ("lesion_end",), ("lesion_start", "lesion_end")], ids=str
)
def test_missing_start_and_end_are_where_the_lumen_becomes_narrower_than_the_ideal_edges(missing):
    label = obstruction_of(without(straight(), *missing), SIZE)
    start, end = DERIVED
    assert label.start_index == pytest.approx(start if "lesion_start" in missing else FIRST, abs=2)
    assert label.end_index == pytest.approx(end if "lesion_end" in missing else LAST, abs=2)
    assert label.length_mm == pytest.approx(12.2)  # as measured; the file has it
    no_length = changed(without(straight(), *missing), lesion_length_mm=math.nan)
    between = (label.end_index - label.start_index) / 2 / SCALE
    assert obstruction_of(no_length, SIZE).length_mm == pytest.approx(between)


def test_only_the_narrowing_about_the_mld_is_taken_for_the_lesion():
    other = lambda x: plaque_depth(x) + plaque_depth(x + 70, 2.0)  # noqa: E731, a second one at x = 40
    label = obstruction_of(without(straight(other, other), "lesion_start", "lesion_end"), SIZE)
    assert (label.start_index, label.end_index) == pytest.approx(DERIVED, abs=2)


def test_missing_lesion_of_a_healthy_vessel_is_the_mlds_own_cross_section():
    label = obstruction_of(without(straight(none, none), "lesion_start", "lesion_end"), SIZE)
    assert (label.start_index, label.end_index) == (MLD - 1, MLD + 1)
    assert label.box_px == (109.5, 49.5, 110.5, 70.5)


def test_start_and_end_at_one_point_are_derived_and_in_the_wrong_order_swapped():
    contours = straight()
    label = obstruction_of(moved(contours, "lesion_end", contours.centerline[FIRST]), SIZE)
    assert (label.start_index, label.end_index) == pytest.approx(DERIVED, abs=2)
    start, end = contours.centerline[[FIRST, LAST]]
    label = obstruction_of(moved(moved(contours, "lesion_start", end), "lesion_end", start), SIZE)
    assert (label.start_index, label.end_index) == (FIRST, LAST)
    np.testing.assert_array_equal(label.section, obstruction_of(contours, SIZE).section)


def test_a_missing_mld_point_is_taken_from_the_index_and_else_from_the_edges():
    contours = without(straight(), "MLD")
    label = obstruction_of(changed(contours, MLD_centerline_index=150.0), SIZE)
    assert label.mld_index == 150 and label.mld_px == (95.0, 60.0)
    label = obstruction_of(changed(contours, MLD_centerline_index=math.nan), SIZE)
    assert label.mld_index == MLD and label.mld_px == (110.0, 60.0)
    off = moved(changed(straight(), MLD_centerline_index=150.0), "MLD", (110, 90))  # off the vessel
    assert obstruction_of(off, SIZE).mld_px == (95.0, 60.0)


def test_the_narrowest_place_is_that_by_the_ideal_edges_within_the_lesion():
    """A vessel that tapers is narrower in millimetres at its end than in its lesion."""
    contours, x = straight(), np.linspace(20, 220, 401)
    for name in EDGES:
        edge = getattr(contours, name).copy()
        edge[:, 1] = 60 + (edge[:, 1] - 60) * (1 - 0.8 * (x - 20) / 200)
        contours = replace(contours, **{name: edge})
    contours = without(contours, "MLD", "lesion_start", "lesion_end")
    unknown = changed(contours, MLD_centerline_index=math.nan)
    assert obstruction_of(unknown, SIZE).mld_index == pytest.approx(MLD, abs=3)


def test_the_narrowest_place_is_looked_for_in_the_lesion():
    other = lambda x: plaque_depth(x) + plaque_depth(x + 70, 8.0)  # noqa: E731, a tighter one at x = 40
    contours = changed(without(straight(other, other), "MLD"), MLD_centerline_index=math.nan)
    assert obstruction_of(contours, SIZE).mld_index == pytest.approx(MLD, abs=1)


def test_where_a_vessel_crosses_itself_the_label_is_of_the_analysed_stretch():
    t = np.linspace(-3.1, 3.1, 372)
    line = np.stack([100 + 20 * t - 50 * np.sin(t), 80 + 50 * np.cos(t)], axis=1)  # crosses at t = +-2.1
    along = np.gradient(line, axis=0)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1) / np.linalg.norm(along, axis=1, keepdims=True)
    plaque = 7 * np.clip(1 - np.abs(t - 2.1) / 0.5, 0, None)[:, None]
    start, mld, end = (int(np.abs(t - at).argmin()) for at in (1.6, 2.1, 2.6))
    walls = (line - HALF * across, line + HALF * across)
    contours = make_contours(
        line, walls[0] + plaque * across, walls[1], *walls, start=start, end=end, mld=mld,
        mld_mm=(2 * HALF - 7) / SCALE, rvd_mm=2 * HALF / SCALE,
    )
    y, x = np.mgrid[:160, :200]
    away = cdist(np.stack([x.ravel(), y.ravel()], axis=1), line[start - 1 : end + 2])
    beside = ~np.isin(away.argmin(axis=1), [0, away.shape[1] - 1])
    expected = ((away.min(axis=1) <= HALF) & beside).reshape(x.shape)
    assert_same_but_for_the_border(obstruction_of(contours, expected.shape).section, expected)
    assert lesion_contradictions(contours) == []


def test_an_mld_point_beside_the_centreline_stays_where_it_was_measured():
    label = obstruction_of(moved(straight(), "MLD", (110.2, 64)), SIZE)
    assert label.mld_px == (110.2, 64.0) and label.mld_index == MLD


def test_known_is_all_but_vessels_that_were_not_analysed():
    segment, vessels = np.zeros((100, 200), bool), np.zeros((100, 200), bool)
    segment[48:53, 20:101] = True
    vessels[49:54, 12:181] = True  # one pixel lower than the segment, and on beyond its end
    vessels[80:85, 20:181] = True  # another vessel
    known = known_pixels(segment, vessels, margin_share=0.05)  # 10 px
    assert known.dtype == bool and known[segment].all()
    assert known[30:60, 20:99].all()  # beside the segment too, where the label lies off it
    assert not known[49:54, 105:181].any() and not known[80:85, 20:181].any()  # beyond it, and elsewhere
    assert not known[70:75, 30:180].any() and known[68, 100] and known[:38].all()  # 10 px around, no more


def test_everything_is_known_without_other_vessels():
    segment = np.zeros((40, 40), bool)
    segment[10:14, 5:30] = True
    assert known_pixels(segment, np.zeros_like(segment)).all() and known_pixels(segment, segment).all()


def test_the_segment_is_known_also_where_another_vessel_crosses_it():
    segment, vessels = np.zeros((200, 200), bool), np.zeros((200, 200), bool)
    segment[98:103] = True
    vessels[:, 98:103] = True
    known = known_pixels(segment, vessels, margin_share=0.02)
    assert known[segment].all() and not known[20:90, 98:103].any()


@pytest.fixture(scope="module")
def phantom_rows(tmp_path_factory):
    """(contours, lesion record) of lesions of the phantom's LAD and LCX, as its own writer puts them down."""
    left = build_tree(LEFT, np.random.default_rng(1), needed=frozenset({13, 15, 19, 20, 28}))
    folder, rows = tmp_path_factory.mktemp("phantom"), []
    lesions = [(13, 14.0, 60.0, 0.5), (13, 9.0, 85.0, 1.0), (19, 18.0, 72.0, 0.2), (12, 7.0, 35.0, 0.0),
               (13, 12.0, 12.0, 0.2)]
    for number, (cass_id, length_mm, stenosis_pct, eccentricity) in enumerate(lesions):
        own = left.segment(cass_id)
        middle = int(own[len(own) // 2])
        lesion = Lesion(cass_id, middle, length_mm, stenosis_pct, eccentricity, 40.0 * number)
        tree = with_lesions(left, (lesion,))
        carm = draw_carm(tree, cass_id, 512, np.random.default_rng(number))
        trace = trace_segment(tree, cass_id, carm, 330)
        values, scale = measure(tree, lesion, trace)
        record = contours_record(
            trace, values, scale, segment_name="LAD", frame_index=0, catheter=2.0, view_angles={},
            spacing_mm=carm.spacing_mm, analyst="phantom", analysis_date="2020-01-01",
        )
        path = folder / f"{number}.json"
        path.write_text(json.dumps(record), encoding="utf-8")
        rows.append((read_contours(path), lesion_records(tree, (lesion,), carm)[0]))
    return rows


def test_labels_of_the_phantom_are_its_true_lesions(phantom_rows):
    for contours, truth in phantom_rows:
        label = obstruction_of(contours, (512, 512))
        # The truth's box is that of the lumen's edges, which lie inside the healthy ones.
        np.testing.assert_allclose(label.box_px, truth["box_px"], atol=2)
        np.testing.assert_allclose(label.mld_px, truth["position_px"], atol=1)
        assert label.stenosis_pct == pytest.approx(truth["diameter_stenosis_pct"], abs=1)
        ends = contours.centerline[[label.start_index, label.end_index]]
        names = [f"lesion_{end}_{axis}_coord" for end in ("start", "end") for axis in "xy"]
        np.testing.assert_allclose(ends.ravel(), [contours.measurements[name] for name in names], atol=0.01)
        x, y = (round(number) for number in truth["position_px"])
        assert label.section[y, x] and not label.region[y, x]  # the MLD point lies in the lumen
        assert contours.contradictions() == [] == lesion_contradictions(contours)


def test_lesions_of_the_phantom_without_start_and_end_are_found_in_its_edges(phantom_rows):
    """Its lesions fade out as a cosine does: the last 5 % are not seen, the less so the more severe."""
    for contours, truth in phantom_rows:
        given = obstruction_of(contours, (512, 512))
        found = obstruction_of(without(contours, "lesion_start", "lesion_end"), (512, 512))
        least = {60: 0.75, 50: 0.7, 30: 0.6, 0: 0.4}
        share = (found.end_index - found.start_index) / (given.end_index - given.start_index)
        expected = next(share for pct, share in least.items() if truth["diameter_stenosis_pct"] >= pct)
        assert expected < share < 1.05
        assert found.start_index <= found.mld_index <= found.end_index


def test_a_row_of_a_table_gives_its_label_at_the_frames_size(tmp_path):
    csv_path = write_tiny_dataset(tmp_path, patients=1, rows_per_patient=1, val_patients=0)
    row = load_table(csv_path).iloc[0].to_dict()
    label = obstruction_of_row(row)
    assert label.section.shape == (96, 96) and label.section.any()
    assert (label.start_index, label.mld_index, label.end_index) == (100, 140, 180)
    assert label.stenosis_pct == 35.0 and not label.is_positive() and label.is_positive(30)
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(DataError, match="broken.json: truncated or not JSON"):
        obstruction_of_row(row | {"contours_path": str(tmp_path / "broken.json")})
