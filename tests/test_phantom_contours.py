"""Contours, measurements and true masks: geometry that must agree with itself."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from skimage.draw import polygon

from phantom.anatomy import LEFT
from phantom.carm import CArm
from phantom.contours import contours_record, lesion_records, measure, segment_mask, trace_segment
from phantom.lesions import Lesion, lesion_samples, with_lesions
from phantom.masks import vessel_maps, visible_samples
from phantom.patient import build_tree
from phantom.rendering import STEP_PX, path_length
from phantom.views import covered_share, draw_carm

# Of the imaging, as `visible_samples` takes it.
CHAIN = {"blur_px": 0.8, "veil": 0.1, "noise": 0.01, "grain_px": 0.7}


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def left():
    return build_tree(LEFT, rng(1), needed=frozenset({13, 15, 19, 20, 28}))


@pytest.fixture(scope="module")
def analysed(left):
    """A tree with a 60 % lesion in the mid LAD, a C-arm on it, and the trace of the segment."""
    own = left.segment(13)
    lesion = Lesion(13, int(own[len(own) // 2]), 12.0, 60.0, 0.5, 40.0)
    tree = with_lesions(left, (lesion,))
    carm = draw_carm(tree, 13, 512, rng(3))
    return tree, lesion, carm, trace_segment(tree, 13, carm, 350)


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


def test_smallest_diameter_of_a_mild_lesion_is_at_the_lesion_in_a_vessel_that_tapers(left):
    own = left.segment(13)
    arc = left.arc_mm()[own] - left.arc_mm()[own[0]]
    healthy = left.healthy_mm.copy()
    healthy[own] = 3.5 - 1.5 * arc / arc[-1]  # far more taper over the lesion than 5 %
    tapering = replace(left, healthy_mm=healthy, lumen_mm=healthy)
    lesion = Lesion(13, int(own[len(own) // 2]), 14.0, 5.0, 0.2, 40.0)
    tree = with_lesions(tapering, (lesion,))
    carm = draw_carm(tree, 13, 512, rng(3))
    trace = trace_segment(tree, 13, carm, 350)
    values, _ = measure(tree, lesion, trace)
    assert values["diameter_stenosis_pct"] == pytest.approx(5, abs=0.3)
    there = tree.arc_mm()[lesion.middle]
    measured = np.interp(
        trace["sample"][values["MLD_centerline_index"]], np.arange(len(tree.line)), tree.arc_mm()
    )
    assert measured == pytest.approx(there, abs=1.0)


def test_reference_diameter_lies_on_the_line_between_the_normal_diameters(analysed):
    tree, lesion, carm, trace = analysed
    values, _ = measure(tree, lesion, trace)
    ends = values["proximal_normal_diameter_mm"], values["distal_normal_diameter_mm"]
    assert min(ends) <= values["interpolated_RVD_mm"] <= max(ends)
    assert sum(ends) / 2 == pytest.approx(values["interpolated_RVD_mm"], rel=0.02)  # a lesion is symmetric
    (record,) = lesion_records(tree, (lesion,), carm)
    assert record["healthy_mm_at_mld"] == pytest.approx(record["RVD_mm"], rel=0.005)


def test_edges_in_pixels_give_the_diameters_in_millimetres(analysed):
    tree, lesion, _, trace = analysed
    values, scale = measure(tree, lesion, trace)
    index = values["MLD_centerline_index"]
    lumen_px = np.linalg.norm(trace["left_edge"][index] - trace["right_edge"][index])
    healthy_px = np.linalg.norm(trace["ideal_left_edge"][index] - trace["ideal_right_edge"][index])
    assert lumen_px / scale == pytest.approx(values["MLD_mm"], rel=0.01)
    assert healthy_px / scale == pytest.approx(values["interpolated_RVD_mm"], rel=0.01)


def test_smallest_diameter_read_back_from_the_projection(analysed):
    """Cross-section of the noise-free picture at the smallest diameter: sqrt(4 area / pi), within 2 %."""
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
    visible = visible_samples(tree, carm, 0.2, np.ones(len(tree.line)), **CHAIN)
    mask, cass_map = vessel_maps(tree.part(visible), carm)
    segment = segment_mask(trace, 512)
    assert (mask & segment).sum() / segment.sum() > 0.97
    assert ((cass_map == 13) & segment).sum() / segment.sum() > 0.85  # other vessels cross over it
    assert not (cass_map[~mask] > 0).any() and {0, 12, 13} <= set(np.unique(cass_map).tolist())


def test_invisible_vessels_are_not_in_the_truth(analysed):
    tree, _, carm, _ = analysed
    empty = visible_samples(tree, carm, 0.2, np.zeros(len(tree.line)), **CHAIN)
    faint = visible_samples(tree, carm, 0.04, np.ones(len(tree.line)), **CHAIN)
    strong = visible_samples(tree, carm, 0.35, np.ones(len(tree.line)), **CHAIN)
    assert not empty.any() and faint.sum() < strong.sum()
    assert tree.lumen_mm[strong & ~faint].mean() < tree.lumen_mm[faint].mean()


def test_the_map_is_the_same_whatever_is_analysed():
    from phantom.case import draw_truth_and_label
    from phantom.detector import draw_detector
    from phantom.plan import plan_analyses
    from phantom.scene import build_scene, build_trees, patient_cases

    (case, *_) = patient_cases([one for one in plan_analyses(30, 75, 0) if one.cass_id == 13][:1])
    scene, detector = build_scene(0, case, build_trees(0, [case]), 256, 6), draw_detector(256, rng())
    maps = [draw_truth_and_label(scene, segment, detector, [], rng())[1] for segment in (12, 13, 18)]
    np.testing.assert_array_equal(maps[0], maps[1])
    np.testing.assert_array_equal(maps[0], maps[2])


def test_pieces_too_short_to_be_a_vessel_are_not_seen(left):
    carm = draw_carm(left, 13, 512, rng(3))
    own = np.flatnonzero(left.line == 0)
    for length, seen in ((4, False), (10, True)):  # samples, 0.5 mm apart: 1.5 mm and 4.5 mm
        filling = np.zeros(len(left.line))
        filling[own[:length]] = 1
        assert visible_samples(left, carm, 0.25, filling, **CHAIN).any() == seen


def test_coarser_grain_and_more_noise_hide_small_vessels(analysed):
    tree, _, carm, _ = analysed
    clear, noisy, grainy = (
        visible_samples(tree, carm, 0.2, np.ones(len(tree.line)), **{**CHAIN, **change}).sum()
        for change in ({}, {"noise": 0.06}, {"noise": 0.06, "grain_px": 1.5})
    )
    assert clear > noisy > grainy > 0


def test_a_vessel_over_the_lesion_is_told_and_its_own_branches_are_not(analysed):
    tree, lesion, carm, _ = analysed
    samples = lesion_samples(tree, lesion)
    ray = carm.rays(tree.center_mm[samples])
    over = replace(
        tree,
        **{n: np.concatenate([getattr(tree, n), getattr(tree, n)[samples]]) for n in (
            "lumen_mm", "healthy_mm", "cass_id", "reach_mm")},
        center_mm=np.concatenate([tree.center_mm, tree.center_mm[samples] + 20 * ray]),
        wall_mm=np.concatenate([tree.wall_mm, tree.wall_mm[samples] + 20 * ray]),
        line=np.append(tree.line, np.full(len(samples), tree.line.max() + 1)),
    )
    assert covered_share(over, samples, carm) == 1
    alone = tree.part(tree.line == tree.line[lesion.middle])
    own = np.flatnonzero(np.isin(alone.reach_mm, tree.reach_mm[samples]))
    assert covered_share(alone, own, carm) == 0


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
    assert isinstance(record["overlapped"], bool)


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
