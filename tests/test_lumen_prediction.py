"""Which pixels of a prediction are the lumen of the one vessel that was asked for."""

import numpy as np
import pytest
import torch

from models.lumen_model import LumenOutput
from tests.qca_shapes import draw_tubes, edges_of, straight_line
from utils.lumen_prediction import course_of_lumen, share_of_lumen

SIZE = (160, 160)
LINE = straight_line(angle_deg=0.0, length_px=120)  # at y 79.6, from x 20.3 to 140.3
ENDS = LINE[[0, -1]]


def tube(line, width_px):
    return draw_tubes([edges_of(line, width_px)], SIZE)[0]


def segment(start, end, width_px):
    t = np.linspace(0, 1, 200)[:, None]
    return tube(np.array(start, float) * (1 - t) + np.array(end, float) * t, width_px)


VESSEL = tube(LINE, 10.0)


def test_a_vessel_beside_it_is_left_out_where_the_ends_say_which_is_meant():
    other = segment((20, 120), (140, 120), 10)
    both = np.maximum(VESSEL, other)
    kept = course_of_lumen(both, both, ENDS)
    assert (kept & (VESSEL >= 0.5)).sum() > 0.97 * (VESSEL >= 0.5).sum() and not kept[120].any()
    assert course_of_lumen(both, both, None)[120].any()  # nobody said
    small = np.maximum(VESSEL, segment((20, 120), (24, 120), 4))
    assert not course_of_lumen(small, small, None)[120].any()
    np.testing.assert_array_equal(course_of_lumen(small, small, np.full((2, 2), np.nan)),
                                  course_of_lumen(small, small, None))


def test_a_side_branch_and_what_lies_beyond_the_ends_are_cut_off():
    branched = np.maximum(VESSEL, segment((80, 80), (110, 150), 6))
    kept = course_of_lumen(branched, branched, ENDS)
    assert not kept[105:].any() and kept[80, 25:135].all()
    longer = segment((0, 79.6), (159, 79.6), 10)
    kept = course_of_lumen(longer, longer, ENDS)
    assert not kept[:, :10].any() and not kept[:, 152:].any() and kept[80, 22:138].all()


def test_a_place_that_is_hardly_probable_is_lumen_where_walls_show():
    doubted = VESSEL.copy()
    doubted[:, 70:85] *= 0.05
    assert course_of_lumen(doubted, VESSEL, ENDS)[80, 70:85].all()
    assert not course_of_lumen(doubted, doubted, ENDS)[80, 74:80].any()  # without walls it stays a gap
    assert course_of_lumen(doubted, VESSEL, ENDS)[80, 25] and course_of_lumen(doubted, VESSEL, ENDS)[80, 130]


def test_a_hole_is_filled_and_a_loop_of_the_vessel_is_not():
    def output(share):
        # A probability of 0.9 where there is lumen, and the walls half a pixel about each pixel of it.
        logits = torch.from_numpy(np.where(share >= 0.5, 2.2, -6.0)).float()[None, None]
        return LumenOutput(logits, torch.from_numpy(share - 0.5).float()[None, None])

    pierced = VESSEL.copy()
    pierced[78:82, 60:64] = 0
    assert share_of_lumen(output(pierced), 0, ENDS)[79, 62] == 1
    t = np.linspace(0, 2 * np.pi, 400)
    ring = tube(np.stack([80 + 40 * np.cos(t), 80 + 40 * np.sin(t)], axis=1), 8.0)
    assert share_of_lumen(output(ring), 0)[80, 80] == 0


@pytest.mark.parametrize("ends", [None, ENDS, np.array([[-50.0, 20], [400, 300]])])
def test_nothing_stays_nothing_and_far_ends_do_no_harm(ends):
    nothing = np.zeros(SIZE, np.float32)
    assert not course_of_lumen(nothing, nothing, ends).any()
    assert course_of_lumen(VESSEL, VESSEL, ends).shape == SIZE


def test_a_lumen_too_narrow_for_the_walls_is_open_where_it_is_probable():
    probability, distance = np.clip(VESSEL, 0.002, 0.9), 2.0 * VESSEL - 1.0
    distance[:, 78:82] = -1.0  # closed all across
    logits = torch.from_numpy(np.log(probability / (1 - probability))).float()[None, None]
    output = LumenOutput(logits, torch.from_numpy(distance).float()[None, None])
    share = share_of_lumen(output, 0, ENDS)
    assert (share[80, 25:135] >= 0.5).all() and not (share[100] >= 0.5).any()
    assert share[80, 80] == pytest.approx(0.9, abs=0.01) and share[80, 40] == 1  # elsewhere as the distance says
    assert (share_of_lumen(output, 0)[80, 78:82] < 0.5).all()  # without ends nobody knows that it runs on
