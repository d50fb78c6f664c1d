"""What a lumen must be to be measured, and what is said of one that is not."""

import numpy as np
import pytest

from qca.errors import QcaError
from qca.measure import measure_lumen
from tests.qca_shapes import draw_tubes, edges_of, narrowed, sine_line, straight_line


@pytest.fixture(scope="module")
def vessel():
    """coverage, mask of a vessel 10 px wide with a stenosis of 50 %."""
    line = straight_line(25)
    return draw_tubes([edges_of(line, narrowed(line, 10.0, 50, 36))])


def said_of(lumen) -> str:
    with pytest.raises(QcaError) as caught:
        measure_lumen(lumen)
    return str(caught.value)


def flags_of(lumen) -> str:
    return "; ".join(measure_lumen(lumen).flags)


def test_an_empty_mask_is_said_to_be_empty():
    assert "the lumen is empty" in said_of(np.zeros((64, 64), bool))
    assert "the lumen is empty" in said_of(np.zeros((64, 64), np.float32))


def test_a_few_pixels_are_no_vessel():
    mask = np.zeros((64, 64), bool)
    mask[30:33, 30:34] = True
    assert "12 px" in said_of(mask)


def test_two_pieces_far_apart_are_refused_with_their_sizes(vessel):
    mask = vessel[1].copy()
    mask[:, 70:95] = False
    said = said_of(mask)
    assert "2 pieces" in said and "px apart" in said and "Close the gap" in said


def test_a_short_gap_is_crossed_and_flagged(vessel):
    mask = vessel[1].copy()
    mask[:, 79:82] = False
    measured = measure_lumen(mask)
    assert any("interrupted over" in flag for flag in measured.flags)
    assert measured.worst.mld_px < 1.5 and measured.stenosis_pct > 85


def test_specks_beside_the_vessel_change_nothing_and_are_flagged(vessel):
    mask = vessel[1].copy()
    mask[20:22, 20:24] = True
    measured = measure_lumen(mask)
    assert any("8 px in specks" in flag for flag in measured.flags)
    assert measured.worst.mld_px == pytest.approx(measure_lumen(vessel[1]).worst.mld_px, abs=1e-6)


def test_a_loop_is_refused():
    t = np.linspace(0, 2 * np.pi, 400)
    ring = 80 + 45 * np.stack([np.cos(t), np.sin(t)], axis=1)
    assert "loop" in said_of(draw_tubes([edges_of(ring, 9.0)])[1])
    crossing = [edges_of(straight_line(0), 9.0), edges_of(sine_line(30, 110), 9.0)]
    assert "loop" in said_of(draw_tubes(crossing)[1])


def test_a_second_vessel_in_the_mask_is_flagged(vessel):
    line = straight_line(25)
    lesion, other = edges_of(line, narrowed(line, 10.0, 50, 36)), edges_of(straight_line(100, 90), 7.0)
    assert "is not the measured vessel" in flags_of(draw_tubes([lesion, other])[1])
    assert "is not the measured vessel" not in flags_of(vessel[1])


def test_a_pinhole_is_filled_and_flagged(vessel):
    mask = vessel[1].copy()
    y, x = np.argwhere(mask)[len(np.argwhere(mask)) // 3]
    inside = np.argwhere(mask[1:-1, 1:-1] & mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]) + 1
    y, x = inside[len(inside) // 4]
    mask[y, x] = False
    assert "1 px in small holes" in flags_of(mask)
    assert measure_lumen(mask).worst.mld_px == pytest.approx(measure_lumen(vessel[1]).worst.mld_px, abs=0.3)


def test_a_mask_that_touches_the_border_is_flagged():
    line = straight_line(25, length_px=220)
    coverage, mask = draw_tubes([edges_of(line, narrowed(line, 10.0, 50, 36))])
    for lumen in (coverage, mask):
        measured = measure_lumen(lumen)
        assert any("touches the image border" in flag for flag in measured.flags)
        assert measured.stenosis_pct == pytest.approx(50, abs=5)
    inner = draw_tubes([edges_of(straight_line(25), 10.0)])[1]
    assert "border" not in flags_of(inner)


@pytest.mark.parametrize("angle_deg", (0, 30, 90))
def test_a_line_one_pixel_wide_is_refused(angle_deg):
    mask = np.zeros((120, 120), bool)
    points = np.rint(straight_line(angle_deg, 80, (60, 60))).astype(int)
    mask[points[:, 1], points[:, 0]] = True
    assert "a line has no diameter" in said_of(mask)


def test_a_lumen_of_a_pixel_at_its_narrowest_is_measured_and_flagged():
    line = straight_line(25)
    coverage, mask = draw_tubes([edges_of(line, narrowed(line, 10.0, 88, 36))])
    for lumen, allowed in ((coverage, 0.3), (mask, 0.6)):
        measured = measure_lumen(lumen)
        assert measured.worst.mld_px == pytest.approx(1.2, abs=allowed)
        assert any("at its narrowest" in flag for flag in measured.flags)


def test_a_map_that_fades_at_the_narrowest_is_followed_through():
    line = straight_line(25)
    coverage, _ = draw_tubes([edges_of(line, narrowed(line, 10.0, 95, 36))])
    measured = measure_lumen(coverage)
    assert measured.worst.mld_px == pytest.approx(0.5, abs=0.3) and measured.stenosis_pct > 90


def test_a_blob_has_no_course():
    y, x = np.mgrid[:80, :80]
    assert "blob" in said_of((x - 40) ** 2 + (y - 40) ** 2 < 20**2)


@pytest.mark.parametrize("lumen, words", [
    (np.zeros((3, 64, 64)), "shape [3, 64, 64]"),
    (np.full((64, 64), 3.5), "from 3.5 to 3.5"),
    (np.full((64, 64), np.nan), "nan"),
    (np.full((64, 64), "x"), "type"),
    (np.linspace(-4, 4, 64 * 64).reshape(64, 64), "sigmoid"),
], ids=("channels", "too large", "nan", "text", "logits"))
def test_what_is_no_lumen_is_named(lumen, words):
    assert words in said_of(lumen)


def test_a_lesion_at_the_end_is_flagged():
    line = straight_line(25)
    coverage, _ = draw_tubes([edges_of(line, narrowed(line, 10.0, 60, 40, at=0.12))])
    assert "reaches the proximal end" in "; ".join(measure_lumen(coverage, proximal_px=tuple(line[0])).flags)


def test_without_calibration_there_are_no_millimetres(vessel):
    measured = measure_lumen(vessel[0])
    assert measured.mm is None and measured.unit == "px"
    assert any("no calibration" in flag for flag in measured.flags)
    assert measured.stenosis_pct == pytest.approx(50, abs=3) and measured.worst.mld_px == pytest.approx(5, abs=0.3)
