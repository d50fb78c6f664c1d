"""The walls of one vessel between its ends, and the lumen between them."""

import itertools

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from qca.errors import QcaError
from qca.measure import measure_lumen
from tests.qca_shapes import draw_tubes, edges_of, narrowed, straight_line
from utils.lumens.walls import LEAST_WIDTH_PX, cheapest_paths, likeliest_way, lumen_between, walls_between

SIZE = (160, 160)
LINE = straight_line(angle_deg=0.0, length_px=120)  # at y 79.6, from x 20.3 to 140.3
ENDS = LINE[[0, -1]]
LONGER = np.array([[0.0, 79.6], [159.0, 79.6]])


def maps(*tubes):
    """Probability and distance to the wall of an exact model, of tubes (line, width)."""
    inside = np.max([draw_tubes([edges_of(even(line), width)], SIZE)[0] for line, width in tubes], axis=0) >= 0.5
    distance = np.where(inside, distance_transform_edt(inside) - 0.5, 0.5 - distance_transform_edt(~inside))
    return inside.astype(np.float32), np.clip(distance, -6, 6).astype(np.float32)


def even(line):
    t = np.linspace(0, 1, 240)
    given = np.linspace(0, 1, len(line))
    return np.stack([np.interp(t, given, values) for values in np.asarray(line, float).T], axis=1)


def widths_between(ends=ENDS, *, of):
    left, right = walls_between(*of, ends)
    return (left + right) / 2, np.linalg.norm(right - left, axis=1)


def test_walls_of_a_plain_tube_are_its_edges_from_end_to_end_either_way():
    for ends in (ENDS, ENDS[::-1]):
        middle, width = widths_between(ends, of=maps((LINE, 10.0)))
        assert width[5:-5] == pytest.approx(10, abs=0.6)
        assert middle[:, 1] == pytest.approx(79.6, abs=0.4)
        np.testing.assert_allclose(middle[[0, -1]], ends, atol=1.5)


def test_a_side_branch_and_a_vessel_that_crosses_do_not_widen_it():
    branch, crossing = np.array([[80, 80], [110, 150]]), np.array([[60, 5], [70, 155]])
    middle, width = widths_between(of=maps((LONGER, 10.0), (branch, 7.0), (crossing, 8.0)))
    assert width.max() < 13 and np.median(width) == pytest.approx(10, abs=0.6)
    assert np.abs(middle[:, 1] - 79.6).max() < 2


def test_a_narrowing_is_kept():
    line = straight_line(angle_deg=0.0, length_px=150)
    of = maps((line, narrowed(even(line), 14.0, 60.0, 40.0)))
    share = lumen_between(walls_between(*of, ENDS), SIZE[0])
    assert measure_lumen(share).worst.mld_px == pytest.approx(5.6, abs=0.8)


def test_a_short_gap_is_bridged_and_a_long_one_stays_a_gap():
    for length, is_bridged in ((8, True), (50, False)):
        probability, distance = maps((LONGER, 10.0))
        gap = slice(80 - length // 2, 80 + length // 2)
        probability[:, gap], distance[:, gap] = 0, -6
        _, width = widths_between(of=(probability, distance))
        assert (width.min() >= LEAST_WIDTH_PX - 1e-6) == is_bridged
        if not is_bridged:
            with pytest.raises(QcaError, match="pieces"):
                measure_lumen(lumen_between(walls_between(probability, distance, ENDS), SIZE[0]))


def test_where_the_distance_is_unsure_it_is_as_wide_as_is_to_be_expected():
    probability, distance = maps((LONGER, 10.0))
    distance[:, 70:90] = -1  # closed, and 8 of 10 px are lumen in the mean
    probability[:, 70:90] *= 0.8
    middle, width = widths_between(of=(probability, distance))
    assert width[np.abs(middle[:, 0] - 80) < 5] == pytest.approx(8, abs=0.8)


@pytest.mark.parametrize("ends", [ENDS, np.array([[-50.0, 20], [400, 300]])])
def test_no_vessel_has_no_walls_and_ends_far_off_do_no_harm(ends):
    assert walls_between(np.zeros(SIZE, np.float32), np.full(SIZE, -6, np.float32), ends) is None
    walls = walls_between(*maps((LONGER, 10.0)), ends)
    assert walls is None or np.isfinite(walls).all()


def test_the_way_begins_and_ends_at_the_ends():
    way = likeliest_way(maps((LONGER, 10.0))[0], ENDS)
    np.testing.assert_allclose(way[[0, -1]], ENDS)


def test_cheapest_paths_are_the_best_of_all():
    cost = np.random.default_rng(0).random((2, 5, 4))
    for number, path in enumerate(cheapest_paths(cost, 0.1, 2)):
        allowed = [one for one in itertools.product(range(4), repeat=5) if np.abs(np.diff(one)).max() <= 2]

        def price(one):
            return cost[number, np.arange(5), list(one)].sum() + 0.1 * (np.diff(one) ** 2).sum()

        assert price(path) == pytest.approx(min(price(one) for one in allowed))


def test_the_lumen_between_two_walls_has_their_area():
    walls = np.array([[20.0, 30], [120, 30]]), np.array([[20.0, 40.5], [120, 40.5]])
    share = lumen_between(walls, 160)
    assert share.sum() == pytest.approx(1050, rel=0.02) and share.min() == 0 and share.max() == 1


def test_an_end_that_is_given_short_or_in_a_corner_does_not_turn_the_course():
    given = np.array([[31.0, 75.5], [118, 84]])  # inside of the vessel, beside its middle
    longer = maps((LONGER * (0.85, 1) + (12, 0), 12.0))
    middle, width = widths_between(given, of=longer)
    assert np.abs(middle[:, 1] - 79.6).max() < 1 and width == pytest.approx(12, abs=0.8)
    assert middle[:, 0].min() < 22 and middle[:, 0].max() > 127  # and it goes on in the lumen
