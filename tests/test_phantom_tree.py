"""Trees, lesions, views, contrast and motion of the phantom."""

import numpy as np
import pytest

from data.anatomy import load_anatomy
from phantom.anatomy import LEFT, RIGHT, Body, vary_anatomy
from phantom.contrast import choose_frame, draw_bolus, draw_motion
from phantom.lesions import Lesion, draw_disease, gap_mm, phase_lesions, with_lesions
from phantom.patient import build_tree
from phantom.views import LEAST_VISIBLE_LENGTH, SCATTER_DEG, USUAL_VIEWS, draw_carm, visible_length


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def left():
    return build_tree(LEFT, rng(1), needed=frozenset({13, 15, 19, 20, 28}))


@pytest.fixture(scope="module")
def right():
    return build_tree(RIGHT, rng(2), needed=frozenset({1, 2, 3, 4}))


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
    tree = with_lesions(left, (lesion,))
    ratio = tree.lumen_mm / tree.healthy_mm
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


def test_an_event_keeps_the_treated_lesion_and_lies_beside_it(left):
    clear = 0
    for seed in range(20):
        worst, others = draw_disease(left, 13, rng(seed))
        new, treated, *rest = phase_lesions(left, 13, "EVENT", worst, others, rng(seed))
        assert (treated.middle, treated.length_mm) == (worst.middle, worst.length_mm)
        assert treated.stenosis_pct < 25 and tuple(rest) == others
        clear += gap_mm(left, new, treated) >= 0
    assert clear >= 17  # a long treated lesion may leave no room


def test_both_sides_of_a_patient_have_one_body():
    small, large = Body(True, -1.0, (0.0, 0.0, 0.0), 0.9), Body(False, 1.0, (0.0, 0.0, 0.0), 1.1)
    for side in (LEFT, RIGHT):
        few, many = vary_anatomy(side, rng(1), small), vary_anatomy(side, rng(1), large)
        assert few.caliber < 0.85 < 1.1 <= many.caliber
        assert np.linalg.norm(few.apex_mm) < np.linalg.norm(many.apex_mm)


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
