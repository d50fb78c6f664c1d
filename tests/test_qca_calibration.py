"""Calibration from each source, which one is used, and what is said when they contradict each other."""

import pytest

from qca.calibration import Calibration, catheter_mm, choose_calibration, from_catheter, from_geometry
from qca.errors import QcaError


def test_geometry_magnifies_by_the_distances():
    # 1100 / 760 = 1.447 times as large on a detector with pixels of 0.2 mm.
    assert from_geometry(0.2, 1100, 760).px_per_mm == pytest.approx(1100 / 760 / 0.2)
    assert from_geometry([0.2, 0.2], 1100, 760).notes == ()
    assert "not square" in from_geometry([0.2, 0.24], 1100, 760).notes[0]


def test_distances_that_are_swapped_are_refused():
    with pytest.raises(QcaError, match="swapped"):
        from_geometry(0.2, 760, 1100)


def test_catheter_size_is_french_when_it_is_no_diameter():
    assert catheter_mm(8.0) == pytest.approx(8 / 3)
    assert catheter_mm(2.0) == 2.0
    calibration = from_catheter(10.0, 6.0)  # 6 F is 2 mm
    assert calibration.px_per_mm == pytest.approx(5.0) and "French" in calibration.notes[0]
    assert from_catheter(10.0, 2.0).notes == ()


def test_without_any_source_there_is_none():
    assert choose_calibration({}) is None
    assert choose_calibration({"imager_pixel_spacing_mm": [0.2, 0.2], "catheter_diameter_mm": 6.0}) is None


def test_the_scale_factor_comes_first_then_the_catheter_then_the_geometry():
    given = {"scale_factor": 5.0, "catheter_diameter_mm": 6.0, "imager_pixel_spacing_mm": [0.29, 0.29]}
    more = {"sid_mm": 1100, "sod_mm": 760, "catheter_px": 10.1}
    assert choose_calibration(given, **more).source == "scale factor"
    del given["scale_factor"]
    assert choose_calibration(given, **more).source == "catheter"
    del given["catheter_diameter_mm"]
    assert choose_calibration(given, **more).source == "geometry"


def test_sources_that_agree_say_nothing():
    given = {"scale_factor": 5.0, "catheter_diameter_mm": 2.0, "imager_pixel_spacing_mm": [0.29, 0.29]}
    assert choose_calibration(given, sid_mm=1100, sod_mm=760, catheter_px=10.2).notes == ()


@pytest.mark.parametrize("more, words", [
    ({"catheter_px": 12.0}, "6.000 px/mm by the catheter (+20 %)"),
    ({"sid_mm": 1100, "sod_mm": 1000}, "by the geometry"),
], ids=("catheter", "geometry"))
def test_sources_that_disagree_are_both_told(more, words):
    given = {"scale_factor": 5.0, "catheter_diameter_mm": 2.0, "imager_pixel_spacing_mm": [0.29, 0.29]}
    calibration = choose_calibration(given, **more)
    assert calibration.px_per_mm == 5.0
    (note,) = [note for note in calibration.notes if "disagree" in note]
    assert words in note and "5.000 px/mm by the scale factor, which is used" in note


def test_a_scale_factor_that_no_magnification_explains_is_told():
    # Spacings off by two times are a known trap of the files.
    assert "magnification of 3.00" in choose_calibration(
        {"scale_factor": 5.0, "imager_pixel_spacing_mm": [0.6, 0.6]}).notes[0]
    assert choose_calibration({"scale_factor": 5.0, "imager_pixel_spacing_mm": [0.29, 0.29]}).notes == ()


@pytest.mark.parametrize("wrong", (0, -1.0, float("nan"), float("inf")))
def test_impossible_numbers_are_refused(wrong):
    with pytest.raises(QcaError):
        Calibration(wrong, "scale factor")
    with pytest.raises(QcaError, match="catheter_diameter_mm"):
        from_catheter(10.0, wrong)
    with pytest.raises(QcaError, match="sid_mm"):
        from_geometry(0.2, wrong, 760)
