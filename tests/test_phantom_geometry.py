"""The C-arm and the rendering against closed forms."""

import numpy as np
import pytest

from data.anatomy import load_anatomy
from phantom.carm import CArm
from phantom.rendering import outline, path_length, share_between_pixels


def carm(primary=0.0, secondary=0.0, *, size=201, spacing=0.5, isocentre=(0.0, 0.0, 0.0)):
    return CArm(primary, secondary, 1000.0, 750.0, spacing, size, isocentre)


def cylinder(start, end, radius, samples=400):
    points = np.linspace(start, end, samples)
    return points, np.full(samples, radius), np.zeros(samples, int), np.ones(samples)


def test_isocentre_is_the_middle_of_the_image_at_every_angle():
    for primary, secondary in ((0, 0), (45, 30), (-30, -25), (90, 0)):
        image, px_per_mm = carm(primary, secondary, isocentre=(3.0, -4.0, 5.0)).project(
            np.array([[3.0, -4.0, 5.0]])
        )
        np.testing.assert_allclose(image, [[100, 100]], atol=1e-9)
        np.testing.assert_allclose(px_per_mm, 1000 / 750 / 0.5)


def test_patient_left_is_image_right_and_superior_is_up_in_the_frontal_view():
    image, _ = carm().project(np.array([[10.0, 0, 0], [0, 10.0, 0]]))
    shift = 10 * 1000 / 750 / 0.5
    np.testing.assert_allclose(image, [[100 + shift, 100], [100, 100 - shift]])


def test_magnification_falls_towards_the_detector():
    _, px_per_mm = carm().project(np.array([[0, 0, 50.0], [0, 0, -50.0]]))  # anterior is the detector's side
    np.testing.assert_allclose(px_per_mm * 0.5, [1000 / 800, 1000 / 700])


@pytest.mark.parametrize("primary,secondary", [(30, 0), (0, 25), (-28, -18), (45, 30), (90, 0), (-150, 60)])
def test_detector_direction_is_the_dicom_one(primary, secondary):
    a, b = np.radians([primary, secondary])
    expected = [np.sin(a) * np.cos(b), np.sin(b), np.cos(a) * np.cos(b)]
    axes = carm(primary, secondary).axes()
    np.testing.assert_allclose(axes[2], expected, atol=1e-12)
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(np.cross(axes[0], axes[1]), axes[2], atol=1e-12)  # not mirrored


def seen_from_left_main(segment, point, primary, secondary):
    anatomy = load_anatomy()
    image, _ = carm(primary, secondary).project(np.array([[0.0, 0, 0], anatomy[segment].points_mm[point]]))
    return image[1] - image[0]


def test_rao_caudal_shows_lad_right_and_lcx_down():
    lad = seen_from_left_main("mid LAD", 2, -28, -18)
    lcx = seen_from_left_main("mid/distal LCX", 4, -28, -18)
    assert lad[0] > 50 and lad[0] > abs(lad[1])
    assert lcx[1] > 50 and lcx[1] > abs(lcx[0])


def test_spider_view_spreads_lad_up_and_lcx_right_and_down():
    lad, lcx = seen_from_left_main("mid LAD", 2, 45, -30), seen_from_left_main("mid/distal LCX", 3, 45, -30)
    assert lad[1] < -20 and lcx[0] > 20 and lcx[1] > 20


def test_panning_moves_what_is_at_the_isocentre_by_that_many_pixels():
    moved = carm(30, -20).panned(np.array([12.0, -7.0]))
    image, _ = moved.project(np.zeros((1, 3)))
    np.testing.assert_allclose(image, [[112, 93]], atol=1e-9)


@pytest.mark.parametrize("tilt_deg", [0, 35, 60])
def test_path_length_through_a_cylinder(tilt_deg):
    """2 sqrt(r^2 - d^2) / sin(angle between ray and axis), here at the middle of the image."""
    tilt, radius, view = np.radians(tilt_deg), 2.0, carm(size=201, spacing=0.2)
    along = np.array([0, np.cos(tilt), np.sin(tilt)])
    image = path_length(*cylinder(-20 * along, 20 * along, radius, 2000), view)
    distance_mm = (np.arange(201) - 100) * 0.2 * 750 / 1000
    expected = 2 * np.sqrt(np.maximum(radius**2 - distance_mm**2, 0)) / np.cos(tilt)
    inside = np.abs(distance_mm) < 0.9 * radius
    np.testing.assert_allclose(image[95:106].mean(axis=0)[inside], expected[inside], rtol=0.02)
    assert image[100][np.abs(distance_mm) > radius + 0.3].max() == 0


@pytest.mark.parametrize("turn_deg", [0, 20, 45, 70])
def test_single_pixels_on_the_axis_deviate_little_from_the_closed_form(turn_deg):
    turn, view = np.radians(turn_deg), carm(spacing=0.2)
    along = 20 * np.array([np.cos(turn), np.sin(turn), 0])
    samples = round(40 / 0.075)  # half a pixel apart, as cines are rendered
    image = path_length(*cylinder(-along, along, 2.0, samples), view)
    y, x = np.mgrid[0:201, 0:201] - 100
    near_axis = (abs(x * np.sin(turn) + y * np.cos(turn)) < 0.6) & (np.hypot(x, y) < 60)
    assert abs(image[near_axis] - 4).max() < 0.03 * 4


def test_overlapping_vessels_add():
    a = cylinder([-20, 0, 5], [20, 0, 5], 1.5)
    b = cylinder([0, -20, -5], [0, 20, -5], 1.0)
    both = tuple(np.concatenate(pair) for pair in zip(a, b))
    both = (both[0], both[1], np.repeat([0, 1], 400), both[3])
    view = carm()
    np.testing.assert_allclose(
        path_length(*both, view), path_length(*a, view) + path_length(*b, view), atol=1e-5
    )


@pytest.mark.parametrize("turn_deg", [35, 50, 75])
def test_a_bifurcation_is_filled_once(turn_deg):
    """A branch starts on its parent's centreline; where both lumens are, contrast counts once."""
    turn, view = np.radians(turn_deg), carm(spacing=0.2)
    trunk = cylinder([0, -15, 0], [0, 15, 0], 2.0, 600)
    branch = cylinder([0, 0, 0], [12 * np.sin(turn), 12 * np.cos(turn), 0], 1.5, 240)
    both = [np.concatenate(pair) for pair in zip(trunk, branch)]
    both[2] = np.repeat([0, 1], [600, 240])
    alone, together = path_length(*trunk, view), path_length(*both, view)
    assert together.max() < 1.1 * alone.max()
    assert (together >= alone - 1e-5).all()
    added = (together - alone).sum() / (path_length(*branch, view).sum())
    assert 0.6 < added < 0.95  # what lies outside the parent stays


def test_an_end_on_cylinder_keeps_its_volume_and_its_round_shape():
    view, radius, length = carm(spacing=0.1), 3.0, 10.0
    image = path_length(*cylinder([0, 0, -length / 2], [0, 0, length / 2], radius, 400), view)
    pixel_mm2 = (0.1 * 750 / 1000) ** 2
    assert image.sum() * pixel_mm2 == pytest.approx(np.pi * radius**2 * length, rel=0.02)
    rows, columns = np.nonzero(image > 1)
    assert np.ptp(rows) == pytest.approx(np.ptp(columns), rel=0.2)


@pytest.mark.parametrize("diameter_mm", [0.8, 1.5, 3.0, 4.5])
def test_diameter_read_back_from_a_noise_free_projection(diameter_mm):
    """A cross-section's area is pi d^2 / 4: within 2 %."""
    image = path_length(*cylinder([-8, -20, 4], [8, 20, -4], diameter_mm / 2, 1500), carm(spacing=0.3))
    mm_per_px = 0.3 * 750 / 1000
    rows = image[90:111].sum(axis=1)
    area_mm2 = rows.mean() * mm_per_px * np.cos(np.arctan2(8, 20))
    # The vessel is inclined to the detector by atan(4 / |(8, 20)|), which lengthens every path by 1 / cos.
    area_mm2 *= np.cos(np.arctan2(4, np.hypot(8, 20)))
    assert 2 * np.sqrt(area_mm2 / np.pi) == pytest.approx(diameter_mm, rel=0.02)


def test_outline_is_a_diameter_apart_and_left_is_left_along_the_flow():
    points, radius, line, _ = cylinder([0, 20, 0], [0, -20, 0], 2.0)  # flows down the image
    left, right = outline(points, radius, line, carm())
    px_per_mm = 1000 / 750 / 0.5
    np.testing.assert_allclose(np.linalg.norm(right - left, axis=1), 4 * px_per_mm, rtol=1e-3)
    assert (left[:, 0] > right[:, 0]).all()


def test_shares_add_up_and_sit_where_the_point_is():
    image = share_between_pixels(np.array([4.25]), np.array([7.5]), np.array([2.0]), 16)
    np.testing.assert_allclose([image[7, 4], image[7, 5], image[8, 4], image[8, 5]], [0.75, 0.25, 0.75, 0.25])
    assert image.sum() == pytest.approx(2.0)
