"""Which pixels of a prediction are the lumen of the one vessel that was asked for."""

import numpy as np
import pytest
import torch

from models.lumen_model import LumenOutput
from tests.qca_shapes import draw_tubes, edges_of, straight_line
from utils.lumens.prediction import pieces_of_lumen, share_of_lumen

SIZE = (160, 160)
LINE = straight_line(angle_deg=0.0, length_px=120)  # at y 79.6, from x 20.3 to 140.3
ENDS = LINE[[0, -1]]


def tube(line, width_px):
    return draw_tubes([edges_of(line, width_px)], SIZE)[0]


def segment(start, end, width_px):
    t = np.linspace(0, 1, 200)[:, None]
    return tube(np.array(start, float) * (1 - t) + np.array(end, float) * t, width_px)


VESSEL = tube(LINE, 10.0)


def output_of(probability, distance):
    probability = np.clip(probability, 0.002, 0.998)
    logits = torch.from_numpy(np.log(probability / (1 - probability))).float()[None, None]
    return LumenOutput(logits, torch.from_numpy(np.asarray(distance, float)).float()[None, None])


def test_a_vessel_beside_it_is_left_out_where_the_ends_say_which_is_meant():
    both = np.maximum(VESSEL, segment((20, 120), (140, 120), 10))
    share = share_of_lumen(output_of(both, 4 * both - 2), 0, ENDS) >= 0.5
    assert (share & (VESSEL >= 0.5)).sum() > 0.95 * (VESSEL >= 0.5).sum() and not share[115:].any()
    assert pieces_of_lumen(both)[120].any()  # nobody said
    small = np.maximum(VESSEL, segment((20, 120), (24, 120), 4))
    assert not pieces_of_lumen(small)[120].any()
    output = output_of(small, 4 * small - 2)
    np.testing.assert_array_equal(share_of_lumen(output, 0, np.full((2, 2), np.nan)), share_of_lumen(output, 0))


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
    nothing = np.zeros(SIZE)
    assert not share_of_lumen(output_of(nothing, nothing - 6), 0, ends).any()
    assert share_of_lumen(output_of(VESSEL, 4 * VESSEL - 2), 0, ends).shape == SIZE


def test_a_lumen_too_narrow_for_the_walls_is_open_where_it_is_probable():
    probability, distance = VESSEL.copy(), 4 * VESSEL - 2
    distance[:, 78:82] = -1.0  # closed all across
    share = share_of_lumen(output_of(probability, distance), 0, ENDS)
    assert (share[80, 25:135] >= 0.5).all() and not (share[100] >= 0.5).any()
    assert (share_of_lumen(output_of(probability, distance), 0)[80, 78:82] < 0.5).all()  # nobody knows that it runs on
