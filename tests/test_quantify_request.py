"""Where the lumen of an obstruction is asked for: its segment's box and ends, an end in the lesion moved on past it."""

import numpy as np
import pytest

from utils.lumens.quantify import AROUND, request_for
from utils.obstructions.matching import Detection

SIZE = (120, 240)
ROW, FIRST, LAST, END = 60, 20, 100, 200  # a vessel along a row: one segment, then another
SIDE = 24


def obstruction(column: float) -> Detection:
    return Detection(0.9, (column - SIDE / 2, ROW - 8, column + SIDE / 2, ROW + 8), (column, ROW), 70.0)


def named(*, goes_on: bool = True) -> np.ndarray:
    """CASS numbers: segment 1 up to column LAST, segment 2 from there to END, each 5 px wide; and a far vessel."""
    names = np.zeros(SIZE, np.uint8)
    names[ROW - 2 : ROW + 3, FIRST:LAST] = 1
    if goes_on:
        names[ROW - 2 : ROW + 3, LAST:END] = 2
    names[10:15, 30:200] = 18
    return names


def end_columns(request) -> list[float]:
    return sorted(request.ends_px[:, 0].tolist())


def test_an_end_in_the_lesion_moves_on_along_the_vessel_behind_it():
    request = request_for(obstruction(LAST - 4), named(), SIZE)
    first, last = end_columns(request)
    assert first == pytest.approx(FIRST, abs=3)
    reach = LAST - 4 + SIDE / 2 + AROUND * SIDE
    assert LAST + 10 < last <= reach and request.box_px[2] >= last
    assert abs(request.ends_px[:, 1] - ROW).max() <= 3


@pytest.mark.parametrize(("column", "goes_on"), [(LAST - 4, False), (60, True)])
def test_ends_stay_where_nothing_follows_or_the_lesion_is_far_from_them(column, goes_on):
    first, last = end_columns(request_for(obstruction(column), named(goes_on=goes_on), SIZE))
    assert first == pytest.approx(FIRST, abs=3) and last == pytest.approx(LAST, abs=3)


def test_the_proximal_end_moves_too():
    first, last = end_columns(request_for(obstruction(LAST + 4), named(), SIZE))
    assert first < LAST - 10 and last == pytest.approx(END, abs=3)


def test_without_names_it_is_the_obstructions_own_box_and_surroundings():
    request = request_for(obstruction(60), None, SIZE)
    assert request.ends_px is None
    assert request.box_px == (60 - 1.5 * SIDE, ROW - 8 - SIDE, 60 + 1.5 * SIDE, ROW + 8 + SIDE)
