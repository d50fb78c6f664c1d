"""qca.measure on vessels of known diameters: lines, tapers, bends, stenoses, branches, and how they are turned."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from qca.calibration import Calibration
from qca.measure import measure_edges, measure_lumen
from tests.qca_shapes import draw_tubes, edges_of, narrowed, sine_line, straight_line

PER_MM = Calibration(4.0, "scale factor")


def healthy_part(measured):
    """Diameters farther than a width, and than the smoothing's shorter windows, from both ends."""
    arc, width = measured.arc_px, max(8.0, np.median(measured.diameter_px))
    return measured.diameter_px[(arc > width) & (arc < arc[-1] - width)]


@pytest.mark.parametrize("angle_deg", (0, 13, 30, 45, 71, 90, 144))
@pytest.mark.parametrize("width_px", (2.4, 6.7, 15.3))
def test_straight_vessel_has_its_width_at_any_angle_and_offset(angle_deg, width_px):
    line = straight_line(angle_deg)
    coverage, mask = draw_tubes([edges_of(line, width_px)])
    diameters = healthy_part(measure_lumen(coverage, proximal_px=tuple(line[0])))
    assert np.abs(diameters - width_px).max() < 0.12
    diameters = healthy_part(measure_lumen(mask, proximal_px=tuple(line[0])))
    # Along the pixels a mask cannot tell 6.7 from 6 or 7.
    allowed = 0.75 if angle_deg % 45 == 0 else 0.1
    assert abs(np.mean(diameters) - width_px) < allowed


def test_segment_length_is_that_of_the_vessel_end_to_end():
    for line in (straight_line(33), sine_line()):
        coverage, _ = draw_tubes([edges_of(line, 9.0)])
        true_length = np.linalg.norm(np.diff(line, axis=0), axis=1).sum()
        measured = measure_lumen(coverage, PER_MM, proximal_px=tuple(line[0]))
        assert measured.arc_px[-1] == pytest.approx(true_length, abs=1.0)
        assert measured.mm.segment_length == pytest.approx(true_length / 4, abs=0.25)
        np.testing.assert_allclose(measured.line_px[[0, -1]], line[[0, -1]], atol=1.0)


@pytest.mark.parametrize("angle_deg", (0, 25, 118))
def test_edges_lie_where_they_were_drawn(angle_deg):
    line = straight_line(angle_deg)
    coverage, mask = draw_tubes([edges_of(line, 9.4)])
    along = (line[-1] - line[0]) / np.linalg.norm(line[-1] - line[0])
    right_of = np.array([-along[1], along[0]])
    for lumen, allowed in ((coverage, 0.1), (mask, 0.6 if angle_deg == 0 else 0.3)):
        measured = measure_lumen(lumen, proximal_px=tuple(line[0]))
        for points, side in ((measured.left_px, -1), (measured.line_px, 0), (measured.right_px, 1)):
            off = (points[20:-20] - line[0]) @ right_of
            assert abs(np.median(off) - side * 4.7) < allowed


def test_tapered_vessel_is_no_lesion_and_its_reference_follows_the_taper():
    line = straight_line(25)
    widths = np.linspace(16, 9, len(line))
    coverage, _ = draw_tubes([edges_of(line, widths)])
    measured = measure_lumen(coverage, PER_MM, proximal_px=tuple(line[0]))
    inner = (measured.arc_px > 16) & (measured.arc_px < measured.arc_px[-1] - 16)
    true = np.interp(measured.arc_px, np.linspace(0, measured.arc_px[-1], len(widths)), widths)
    assert np.abs(measured.reference_px - true)[inner].max() < 0.3
    assert np.abs(measured.diameter_px - true)[inner].max() < 0.15
    assert measured.stenosis_pct < 4 and any("no lesion" in flag for flag in measured.flags)


def test_winding_vessel_keeps_its_width_in_its_bends():
    line = sine_line()
    coverage, mask = draw_tubes([edges_of(line, 8.0)])
    assert np.abs(healthy_part(measure_lumen(coverage, proximal_px=tuple(line[0]))) - 8).max() < 0.2
    assert np.abs(healthy_part(measure_lumen(mask, proximal_px=tuple(line[0]))) - 8).mean() < 0.25


@pytest.mark.parametrize("line", (straight_line(22), sine_line()), ids=("straight", "winding"))
@pytest.mark.parametrize("stenosis_pct", (25, 50, 80))
@pytest.mark.parametrize("eccentric", (False, True))
def test_cosine_stenosis_is_measured_as_it_was_drawn(line, stenosis_pct, eccentric):
    widths = narrowed(line, 12.0, stenosis_pct, 44.0)
    shift = (12.0 - widths) / 2 if eccentric else 0.0
    coverage, mask = draw_tubes([edges_of(line, widths, shift)])
    true_mld = widths.min()
    for lumen, mld_px, points, length_px in ((coverage, 0.2, 2.0, 4.0), (mask, 0.5, 4.0, 9.0)):
        measured = measure_lumen(lumen, PER_MM, proximal_px=tuple(line[0]))
        worst = measured.worst
        assert worst.mld_px == pytest.approx(true_mld, abs=mld_px)
        assert worst.reference_px == pytest.approx(12, abs=0.3)
        assert measured.stenosis_pct == pytest.approx(stenosis_pct, abs=points)
        assert worst.length_px == pytest.approx(44, abs=length_px)
        assert measured.arc_px[worst.mld] == pytest.approx(measured.arc_px[-1] / 2, abs=3)
        assert measured.mm.mld == pytest.approx(worst.mld_px / 4)


def test_identities_of_quantitative_analysis_hold():
    line = straight_line(40)
    coverage, _ = draw_tubes([edges_of(line, narrowed(line, 12.0, 60, 40))])
    measured = measure_lumen(coverage, PER_MM, proximal_px=tuple(line[0]))
    mm = measured.mm
    assert measured.stenosis_pct == pytest.approx(100 * (1 - mm.mld / mm.rvd))
    assert measured.area_stenosis_pct == pytest.approx(100 * (1 - (mm.mld / mm.rvd) ** 2))
    assert measured.unit == "mm" and 0 < mm.mld_position < mm.segment_length
    worst = measured.worst
    assert measured.diameter_px[worst.mld] == worst.mld_px == measured.diameter_px[worst.start : worst.end + 1].min()
    distance = np.linalg.norm(measured.left_px[worst.mld] - measured.right_px[worst.mld])
    assert distance == pytest.approx(worst.mld_px, abs=0.05)


def test_tandem_lesions_are_two_and_the_worst_comes_first():
    line = straight_line(15, length_px=130)
    widths = np.minimum(narrowed(line, 12.0, 40, 24, at=0.28), narrowed(line, 12.0, 65, 24, at=0.7))
    coverage, _ = draw_tubes([edges_of(line, widths)])
    measured = measure_lumen(coverage, PER_MM, proximal_px=tuple(line[0]))
    assert [lesion.stenosis_pct for lesion in measured.lesions] == pytest.approx([65, 40], abs=2.5)
    first, second = sorted(measured.lesions, key=lambda lesion: lesion.start)
    assert first.end <= second.start


def test_narrowings_without_healthy_vessel_between_are_one_lesion():
    line = straight_line(15, length_px=130)
    widths = np.minimum(narrowed(line, 12.0, 55, 40, at=0.42), narrowed(line, 12.0, 65, 40, at=0.58))
    coverage, _ = draw_tubes([edges_of(line, widths)])
    assert len(measure_lumen(coverage, PER_MM, proximal_px=tuple(line[0])).lesions) == 1


@pytest.mark.parametrize("at", (0.25, 0.75))
def test_side_branch_widens_neither_diameter_nor_reference(at):
    line = straight_line(10, length_px=130)
    widths = narrowed(line, 12.0, 50, 36)
    start = line[int(at * len(line))]
    branch = start + np.linspace(0, 18, 60)[:, None] * np.array([np.cos(np.radians(70)), np.sin(np.radians(70))])
    plain, _ = draw_tubes([edges_of(line, widths)])
    forked, forked_mask = draw_tubes([edges_of(line, widths), edges_of(branch, 8.0)])
    alone = measure_lumen(plain, PER_MM, proximal_px=tuple(line[0]))
    for lumen, allowed in ((forked, 0.3), (forked_mask, 0.5)):
        measured = measure_lumen(lumen, PER_MM, proximal_px=tuple(line[0]))
        assert measured.bridged.any()
        assert measured.worst.mld_px == pytest.approx(alone.worst.mld_px, abs=allowed)
        assert measured.worst.reference_px == pytest.approx(12, abs=0.4)
        assert measured.diameter_px[5:-5].max() < 13.2


@pytest.mark.parametrize("shift", (0.0, 0.4), ids=("concentric", "eccentric"))
def test_a_branch_that_hides_one_wall_at_the_narrowest_is_bridged_parallel_to_the_other_wall(shift):
    line = straight_line(20, length_px=130)
    widths = narrowed(line, 12.0, 60, 30)
    across = np.array([-np.sin(np.radians(20)), np.cos(np.radians(20))])
    twig = line[len(line) // 2] + np.linspace(0, 8, 40)[:, None] * across
    lesion = edges_of(line, widths, shift * (12 - widths) / 2)
    for lumen, allowed in zip(draw_tubes([lesion, edges_of(twig, 4.0)]), (0.6, 0.9)):
        measured = measure_lumen(lumen, proximal_px=tuple(line[0]))
        assert measured.bridged[measured.worst.mld]
        assert measured.worst.mld_px == pytest.approx(4.8, abs=allowed)


def test_the_course_runs_through_the_middle_and_does_not_wander():
    line = sine_line()
    for lumen, allowed in zip(draw_tubes([edges_of(line, np.linspace(9, 6, len(line)))]), (0.2, 0.3)):
        measured = measure_lumen(lumen, proximal_px=tuple(line[0]))
        away = np.linalg.norm(measured.line_px[20:-20, None] - line, axis=2).min(axis=1)
        assert away.max() < allowed


def test_the_course_stays_inside_a_short_eccentric_lesion():
    line = straight_line(20)
    widths = narrowed(line, 20.0, 80, 24)
    coverage, mask = draw_tubes([edges_of(line, widths, 0.9 * (20 - widths) / 2)])
    for lumen, allowed in ((coverage, 0.4), (mask, 0.8)):
        measured = measure_lumen(lumen, proximal_px=tuple(line[0]))
        assert measured.worst.mld_px == pytest.approx(4, abs=allowed) and not measured.bridged.any()
        assert mask[tuple(np.rint(measured.line_px[10:-10]).astype(int).T[::-1])].all()


def test_a_wide_place_between_two_narrowings_is_no_branch():
    line = straight_line(15, length_px=120)
    widths = np.minimum(narrowed(line, 18.0, 65, 24, at=0.22), narrowed(line, 18.0, 50, 24, at=0.6))
    for lumen in draw_tubes([edges_of(line, widths)]):
        measured = measure_lumen(lumen, proximal_px=tuple(line[0]))
        assert not measured.bridged.any()
        assert [lesion.stenosis_pct for lesion in measured.lesions] == pytest.approx([65, 50], abs=3)


@pytest.mark.parametrize("blur_px", (1.0, 2.0))
@pytest.mark.parametrize("width_px, length_px", ((10.0, 40.0), (16.0, 22.0)), ids=("long", "short"))
def test_a_soft_map_is_measured_as_if_it_were_sharp(blur_px, width_px, length_px):
    line = straight_line(25)
    coverage, _ = draw_tubes([edges_of(line, narrowed(line, width_px, 60, length_px))])
    measured = measure_lumen(gaussian_filter(coverage, blur_px), proximal_px=tuple(line[0]))
    assert measured.worst.mld_px == pytest.approx(0.4 * width_px, abs=0.12 * blur_px)
    assert measured.worst.reference_px == pytest.approx(width_px, abs=0.25)


@pytest.mark.parametrize("width_px, stenosis_pct, length_px", ((14.0, 60, 22.0), (16.0, 70, 20.0)))
def test_a_short_lesion_of_a_mask_is_not_filled(width_px, stenosis_pct, length_px):
    off = []
    for angle_deg in (3, 11, 25, 38, 52, 68):
        line = straight_line(angle_deg)
        widths = narrowed(line, width_px, stenosis_pct, length_px)
        _, mask = draw_tubes([edges_of(line, widths)])
        off.append(measure_lumen(mask, proximal_px=tuple(line[0])).worst.mld_px - widths.min())
    assert abs(np.mean(off)) < 0.12


def test_without_a_lesion_the_narrowest_place_is_sought_by_the_taper():
    line = straight_line(25, length_px=120)
    share = np.linspace(0, 1, len(line))
    widths = np.interp(share, (0, 0.45, 0.6, 0.8, 1), (16, 15, 9.6, 9.3, 6))  # drops, is level, goes on
    measured = measure_lumen(draw_tubes([edges_of(line, widths)])[0], proximal_px=tuple(line[0]))
    assert any("no lesion" in flag for flag in measured.flags)
    assert measured.arc_px[measured.worst.mld] == pytest.approx(0.62 * 120, abs=8)


def test_proximal_end_gives_the_order_and_nothing_else():
    line = sine_line()
    coverage, _ = draw_tubes([edges_of(line, narrowed(line, 11.0, 55, 36, at=0.4))])
    there = measure_lumen(coverage, PER_MM, proximal_px=tuple(line[0]))
    back = measure_lumen(coverage, PER_MM, proximal_px=tuple(line[-1]))
    assert np.linalg.norm(there.line_px[0] - line[0]) < 2 < 50 < np.linalg.norm(back.line_px[0] - line[0])
    assert back.mm.mld == pytest.approx(there.mm.mld, abs=0.02)
    assert back.stenosis_pct == pytest.approx(there.stenosis_pct, abs=0.5)
    assert back.mm.mld_position == pytest.approx(there.mm.segment_length - there.mm.mld_position, abs=0.3)
    np.testing.assert_allclose(back.left_px[::-1][20:-20:40], there.right_px[20:-20:40], atol=1.0)


def test_without_a_proximal_end_the_wider_end_is_taken_and_that_is_said():
    line = straight_line(30)
    coverage, _ = draw_tubes([edges_of(line, np.linspace(9, 15, len(line)))])
    measured = measure_lumen(coverage)
    assert np.linalg.norm(measured.line_px[0] - line[-1]) < 2
    assert any("direction of flow" in flag for flag in measured.flags)
    assert not any("direction" in flag for flag in measure_lumen(coverage, proximal_px=tuple(line[0])).flags)


@pytest.mark.parametrize("turn", (np.transpose, np.fliplr, lambda picture: np.rot90(picture, 1)),
                         ids=("transposed", "mirrored", "turned"))
def test_a_turned_picture_has_the_same_measurements(turn):
    line = sine_line()
    coverage, mask = draw_tubes([edges_of(line, narrowed(line, 11.0, 60, 40))], (160, 170))
    for lumen, allowed_mm, points in ((coverage, 0.01, 0.4), (mask, 0.05, 2.0)):
        one, other = (measure_lumen(picture, PER_MM) for picture in (lumen, np.ascontiguousarray(turn(lumen))))
        assert other.mm.mld == pytest.approx(one.mm.mld, abs=allowed_mm)
        assert other.stenosis_pct == pytest.approx(one.stenosis_pct, abs=points)
        assert other.mm.segment_length == pytest.approx(one.mm.segment_length, abs=0.25)


def test_a_shifted_picture_moves_the_points_only():
    line = straight_line(37)
    coverage, _ = draw_tubes([edges_of(line, narrowed(line, 11.0, 60, 40))])
    one = measure_lumen(coverage, PER_MM, proximal_px=tuple(line[0]))
    moved = np.pad(coverage, ((7, 0), (19, 3)))
    other = measure_lumen(moved, PER_MM, proximal_px=tuple(line[0] + (19, 7)))
    np.testing.assert_allclose(other.line_px, one.line_px + (19, 7), atol=1e-6)
    assert other.mm.mld == pytest.approx(one.mm.mld, abs=1e-6)


def test_8_bit_and_boolean_masks_are_the_same():
    line = straight_line(37)
    _, mask = draw_tubes([edges_of(line, narrowed(line, 11.0, 60, 40))])
    found = [measure_lumen(given).worst for given in (mask, mask.astype(np.uint8), mask.astype(np.uint8) * 255,
                                                      mask.astype(np.float32))]
    assert all(one == found[0] for one in found)


def test_edges_drawn_by_hand_give_their_own_diameters_and_the_ideal_ones_the_reference():
    line = sine_line()
    widths = narrowed(line, 12.0, 55, 40)
    left, right = edges_of(line, widths)
    ideal = edges_of(line, 12.0)
    exact = measure_edges(line, left, right, PER_MM, ideal_left_px=ideal[0], ideal_right_px=ideal[1])
    assert exact.worst.mld_px == pytest.approx(widths.min(), abs=1e-6)
    assert exact.worst.reference_px == pytest.approx(12, abs=1e-6)
    assert exact.worst.length_px == pytest.approx(40, abs=1.5)
    # Points of their own along each edge, and no ideal edges: the reference is interpolated.
    other = measure_edges(line[::2], left[5::3], right[2::4], PER_MM)
    assert other.worst.mld_px == pytest.approx(widths.min(), abs=0.1)
    assert other.worst.reference_px == pytest.approx(12, abs=0.2)
