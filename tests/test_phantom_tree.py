"""Trees, lesions, contours and masks: geometry that must agree with itself."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from skimage.draw import polygon

from phantom.anatomy import LEFT, RIGHT, load_anatomy
from phantom.carm import CArm
from phantom.contours import contours_record, lesion_records, measure, segment_mask, trace_segment
from phantom.contrast import choose_frame, draw_bolus, draw_motion
from phantom.lesions import Lesion, draw_disease, phase_lesions, with_lesions
from phantom.masks import vessel_maps, visible_samples
from phantom.patient import build_tree
from phantom.rendering import STEP_PX, path_length
from phantom.views import LEAST_VISIBLE_LENGTH, SCATTER_DEG, USUAL_VIEWS, draw_carm, visible_length


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def left():
    return build_tree(LEFT, rng(1), needed=frozenset({13, 15, 19, 20, 28}))


@pytest.fixture(scope="module")
def right():
    return build_tree(RIGHT, rng(2), needed=frozenset({1, 2, 3, 4}))


@pytest.fixture(scope="module")
def analysed(left):
    """A tree with a 60 % lesion in the mid LAD, a C-arm on it, and the trace of the segment."""
    own = left.segment(13)
    lesion = Lesion(13, int(own[len(own) // 2]), 12.0, 60.0, 0.5, 40.0)
    tree = with_lesions(left, (lesion,))
    carm = draw_carm(tree, 13, 512, rng(3))
    return tree, lesion, carm, trace_segment(tree, 13, carm, 350)


def test_the_table_is_continuous_between_segments():
    anatomy = load_anatomy()
    for parent, child in (
        ("left main", "proximal LAD"),
        ("proximal LAD", "mid LAD"),
        ("mid LAD", "distal LAD"),
        ("proximal RCA", "mid RCA"),
        ("mid RCA", "distal RCA"),
        ("proximal LCX", "mid/distal LCX"),
    ):
        np.testing.assert_array_equal(anatomy[parent].points_mm[-1], anatomy[child].points_mm[0])


def test_needed_segments_are_present_and_trees_differ_between_patients(left):
    assert {11, 12, 13, 14, 15, 17, 18, 19, 20, 28} <= set(left.cass_id.tolist())
    assert not np.allclose(left.center_mm[:50], build_tree(LEFT, rng(9)).center_mm[:50])


def test_a_left_dominant_patient_has_the_posterior_descending_on_the_left():
    assert {23, 27} <= set(build_tree(LEFT, rng(4), left_dominant=True).cass_id.tolist())
    assert not {4, 5, 6, 7} & set(build_tree(RIGHT, rng(4), left_dominant=True).cass_id.tolist())


def test_vessels_are_smooth_and_branches_start_on_their_parents(left, right):
    for tree in (left, right):
        same = np.diff(tree.line) == 0
        steps = np.linalg.norm(np.diff(tree.center_mm, axis=0), axis=1)[same]
        assert 0.1 < steps.min() and steps.max() < 1.6  # 0.5 before tortuosity
        starts = np.flatnonzero(np.append(True, ~same))[1:]
        gaps = [
            np.linalg.norm(tree.center_mm[tree.line < tree.line[s]] - tree.center_mm[s], axis=1).min()
            for s in starts
        ]
        assert max(gaps) < 1e-9


def test_diameters_taper_and_stay_in_the_published_range():
    mains = np.array([build_tree(LEFT, rng(seed)).healthy_mm[:4].mean() for seed in range(12)])
    assert 3.6 < mains.mean() < 5.0  # left main 4.5 +/- 0.5 mm
    tree = build_tree(LEFT, rng(0))
    lad = tree.healthy_mm[tree.line == 0]
    assert lad[-1] < 0.5 * lad[0] and tree.healthy_mm.min() > 0.2


def test_a_lesion_has_its_severity_and_length(left):
    own = left.segment(13)
    lesion = Lesion(13, int(own[len(own) // 2]), 10.0, 70.0, 0.0, 0.0)
    ratio = with_lesions(left, (lesion,)).lumen_mm / left.healthy_mm
    assert ratio.min() == pytest.approx(0.3, abs=1e-9) and ratio.argmin() == lesion.middle
    narrowed = np.flatnonzero(ratio < 1 - 1e-9)
    assert np.ptp(left.arc_mm()[narrowed]) == pytest.approx(10, abs=1.1)


def test_phases_before_after_and_later(left):
    worst, others = draw_disease(left, 13, rng(5))
    pre = phase_lesions(left, 13, "PRE", worst, others, rng(6))
    final = phase_lesions(left, 13, "FINAL", worst, others, rng(6))
    event = phase_lesions(left, 13, "EVENT", worst, others, rng(6))
    assert pre[0].stenosis_pct == max(lesion.stenosis_pct for lesion in pre) >= 50
    assert final[0].stenosis_pct < 25 and final[0].middle == worst.middle
    assert event[0].cass_id == 13 and event[0].stenosis_pct >= 45 and event[0].middle != worst.middle


def test_measurements_keep_the_identities_of_quantitative_analysis(analysed):
    tree, lesion, _, trace = analysed
    values, scale = measure(tree, lesion, trace)
    ratio = values["MLD_mm"] / values["interpolated_RVD_mm"]
    assert values["diameter_stenosis_pct"] == pytest.approx(100 * (1 - ratio))
    assert values["area_stenosis_pct"] == pytest.approx(100 * (1 - ratio**2))
    assert values["diameter_stenosis_pct"] == pytest.approx(60, abs=1)
    index = values["MLD_centerline_index"]
    assert [values["MLD_x_coord"], values["MLD_y_coord"]] == trace["centerline"][index].tolist()
    assert 0 < values["obstruction_position_mm"] < values["segment_length_mm"]
    assert 0 < values["lesion_length_mm"] <= 12.5


def test_edges_in_pixels_give_the_diameters_in_millimetres(analysed):
    tree, lesion, _, trace = analysed
    values, scale = measure(tree, lesion, trace)
    index = values["MLD_centerline_index"]
    lumen_px = np.linalg.norm(trace["left_edge"][index] - trace["right_edge"][index])
    healthy_px = np.linalg.norm(trace["ideal_left_edge"][index] - trace["ideal_right_edge"][index])
    assert lumen_px / scale == pytest.approx(values["MLD_mm"], rel=0.01)
    assert healthy_px / scale == pytest.approx(values["interpolated_RVD_mm"], rel=0.01)


def test_smallest_diameter_read_back_from_the_projection(analysed):
    """Cross-section through the noise-free picture at the smallest diameter: sqrt(4 area / pi), within 2 %.
    """
    tree, lesion, carm, trace = analysed
    own = np.flatnonzero(tree.line == tree.line[lesion.middle])
    alone = replace(
        tree,
        **{
            n: getattr(tree, n)[own]
            for n in ("center_mm", "wall_mm", "lumen_mm", "healthy_mm", "cass_id", "line", "reach_mm")
        }
    )
    close = replace(carm, size_px=4 * carm.size_px, spacing_mm=carm.spacing_mm / 4)
    fine = alone.resample(STEP_PX / close.project(alone.center_mm)[1].mean())
    image = path_length(fine.center_mm, fine.lumen_mm / 2, fine.line, np.ones(len(fine.line)), close)
    values, scale = measure(tree, lesion, trace)
    index = values["MLD_centerline_index"]
    middle = 4 * (trace["centerline"][index] + 0.5) - 0.5
    normal = trace["right_edge"][index] - trace["left_edge"][index]
    normal /= np.linalg.norm(normal)
    along = np.arange(-30, 30.01, 0.25)
    profile = map_coordinates(image, (middle + along[:, None] * normal).T[::-1], order=1)
    samples = alone.center_mm[
        np.abs(alone.wall_mm - tree.wall_mm[lesion.middle]).sum(axis=1).argmin() + np.array([-2, 2])
    ]
    axis = np.diff(samples, axis=0)[0]
    flatness = np.linalg.norm(
        np.cross(axis / np.linalg.norm(axis), carm.rays(tree.center_mm[[lesion.middle]])[0])
    )
    area_mm2 = profile.sum() * 0.25 / (4 * scale) * flatness
    assert 2 * np.sqrt(area_mm2 / np.pi) == pytest.approx(values["MLD_mm"], rel=0.02)


def test_segment_mask_is_the_polygon_of_its_edges(analysed):
    trace = analysed[3]
    loop = np.concatenate([trace["left_edge"], trace["right_edge"][::-1]])
    whole = np.zeros((512, 512), bool)
    whole[polygon(loop[:, 1], loop[:, 0], whole.shape)] = True
    mask = segment_mask(trace, 512)
    assert (mask & whole).sum() / (mask | whole).sum() > 0.98 and mask.sum() > 500


def test_true_mask_contains_the_analysed_segment_and_agrees_with_the_map(analysed):
    tree, _, carm, trace = analysed
    visible = visible_samples(tree, carm, 0.2, np.ones(len(tree.line)), 0.8, 0.1)
    mask, cass_map = vessel_maps(tree.part(visible), carm, 13)
    segment = segment_mask(trace, 512)
    assert (mask & segment).sum() / segment.sum() > 0.97
    assert ((cass_map == 13) & segment).sum() / segment.sum() > 0.95
    assert not (cass_map[~mask] > 0).any() and {0, 12, 13} <= set(np.unique(cass_map).tolist())


def test_invisible_vessels_are_not_in_the_truth(analysed):
    tree, _, carm, _ = analysed
    empty = visible_samples(tree, carm, 0.2, np.zeros(len(tree.line)), 0.8, 0.1)
    faint = visible_samples(tree, carm, 0.04, np.ones(len(tree.line)), 0.8, 0.1)
    strong = visible_samples(tree, carm, 0.3, np.ones(len(tree.line)), 0.8, 0.1)
    assert not empty.any() and faint.sum() < strong.sum()
    assert tree.lumen_mm[strong & ~faint].mean() < tree.lumen_mm[faint].mean()


@pytest.mark.parametrize("cass_id", [1, 2, 4, 13, 15, 19])
def test_views_are_the_usual_ones_and_show_the_segment(left, right, cass_id):
    tree = right if cass_id < 10 else left
    for seed in range(4):
        carm = draw_carm(tree, cass_id, 256, rng(seed))
        near = [
            all(
                low - 3 * SCATTER_DEG <= angle <= high + 3 * SCATTER_DEG
                for angle, (low, high) in zip((carm.primary_deg, carm.secondary_deg), view)
            )
            for view in USUAL_VIEWS[cass_id]
        ]
        assert any(near)
        image, _ = carm.project(tree.center_mm[tree.segment(cass_id)])
        assert image.min() > 0 and image.max() < 255
        assert visible_length(tree, cass_id, carm) > LEAST_VISIBLE_LENGTH - 0.25
        assert 860 <= carm.sid_mm <= 1200 and 720 <= carm.sod_mm <= 810


def test_contours_have_every_key_of_the_contract(analysed):
    tree, lesion, carm, trace = analysed
    values, scale = measure(tree, lesion, trace)
    record = contours_record(
        trace,
        values,
        scale,
        segment_name="Mid LAD",
        frame_index=4,
        catheter=2.0,
        spacing_mm=carm.spacing_mm,
        view_angles={"primary_angle": 1.0, "secondary_angle": 2.0},
        analyst="phantom",
        analysis_date="2020-01-01",
    )
    assert set(record) == {
        "segment_name",
        "frame_num",
        "centerline",
        "left_edge",
        "right_edge",
        "ideal_left_edge",
        "ideal_right_edge",
        "measurements",
        "calibration",
        "view_angles",
        "analyst",
        "analysis_date",
    }
    assert set(record["measurements"]) == {
        "MLD_mm",
        "interpolated_RVD_mm",
        "diameter_stenosis_pct",
        "area_stenosis_pct",
        "MLD_x_coord",
        "MLD_y_coord",
        "MLD_centerline_index",
        "lesion_length_mm",
        "lesion_start_x_coord",
        "lesion_start_y_coord",
        "lesion_end_x_coord",
        "lesion_end_y_coord",
        "proximal_normal_diameter_mm",
        "distal_normal_diameter_mm",
        "segment_length_mm",
        "obstruction_position_mm",
    }
    assert set(record["calibration"]) == {"scale_factor", "catheter_diameter_mm", "imager_pixel_spacing_mm"}
    assert len(record["centerline"]) == len(record["left_edge"]) == 350


def test_lesion_records_tell_place_and_box(analysed):
    tree, lesion, carm, trace = analysed
    (record,) = lesion_records(tree, (lesion,), carm)
    x, y = record["position_px"]
    x0, y0, x1, y1 = record["box_px"]
    assert x0 <= x <= x1 and y0 <= y <= y1 and record["in_frame"] and record["cass_segment"] == 13


def test_contrast_arrives_from_the_ostium_fills_and_washes_out(left):
    for seed in range(10):
        bolus, times_s = draw_bolus(left.reach_mm.max(), 3.2, rng(seed)), np.arange(10) * 0.32
        filled_s = times_s[choose_frame(bolus, left.reach_mm, times_s, rng(seed))]
        assert bolus.concentration(left.reach_mm, 0.0).max() == 0
        assert np.percentile(bolus.concentration(left.reach_mm, filled_s), 5) > 0.6
        half = bolus.concentration(np.array([0.0, left.reach_mm.max()]), bolus.start_s + bolus.rise_s)
        assert half[0] > half[1]
        assert bolus.concentration(np.zeros(1), 6.0)[0] < 0.3


def test_the_heart_is_at_rest_in_the_analysed_frame_and_moves_elsewhere(left):
    motion = draw_motion(1.3, rng(7))
    np.testing.assert_allclose(motion.move(left.center_mm, left.heart_mm, 1.3), left.center_mm, atol=1e-9)
    systole = motion.move(left.center_mm, left.heart_mm, 1.3 + 0.3 * motion.beat_s)
    assert 2 < np.linalg.norm(systole - left.center_mm, axis=1).mean() < 15


def test_resampling_keeps_the_vessels(left):
    fine = left.resample(0.1)
    assert fine.arc_mm()[fine.line == 0][-1] == pytest.approx(left.arc_mm()[left.line == 0][-1], rel=2e-3)
    assert set(fine.cass_id.tolist()) == set(left.cass_id.tolist())


def test_a_segment_that_is_not_there_is_named(left):
    with pytest.raises(ValueError, match="no CASS segment 2; it has"):
        left.segment(2)


def test_cass_labels_run_from_the_ostium_outwards(left):
    lad = left.cass_id[left.line == 0]
    assert (np.diff(lad) >= 0).all() and lad[0] == 11 and lad[-1] == 14


def test_carm_size_changes_only_the_sampling(analysed):
    tree, _, carm, _ = analysed
    half = CArm(
        carm.primary_deg,
        carm.secondary_deg,
        carm.sid_mm,
        carm.sod_mm,
        carm.spacing_mm * 2,
        256,
        carm.isocentre_mm,
    )
    big, small = carm.project(tree.center_mm)[0], half.project(tree.center_mm)[0]
    np.testing.assert_allclose((big + 0.5) / 2 - 0.5, small, atol=1e-9)
