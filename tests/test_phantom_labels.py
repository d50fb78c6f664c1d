"""DeepSA-like labels are as wrong as DeepSA, in the way a network is; and the picture itself."""

import cv2
import numpy as np
import pytest
from scipy.ndimage import label as components

from phantom.carm import CArm
from phantom.case import draw_truth_and_label, stored_spacing, view_angles
from phantom.detector import compressed, draw_detector, take_picture
from phantom.plan import plan_analyses
from phantom.scene import PICTURE, build_scene, build_trees, generator, patient_cases
from phantom.thorax import draw_thorax, smooth_noise

SIZE = 512


def truths_and_labels(patients=24, seed=11):
    """True masks and labels of the first examination of each patient, without the cost of the pictures."""
    pairs = []
    for one in plan_analyses(patients, patients, seed):
        cases = patient_cases([one])
        scene = build_scene(seed, cases[0], build_trees(seed, cases), SIZE, 8)
        rng = generator(seed, one.patient, PICTURE, 0)
        edges = draw_thorax(128, (0.5, 0.5, 0.3, 0.3), rng).edges
        truth, _, label = draw_truth_and_label(scene, one.cass_id, draw_detector(SIZE, rng), edges, rng)
        pairs.append((truth, label))
    return pairs


@pytest.fixture(scope="module")
def pairs():
    return truths_and_labels()


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_mean_dice_is_deepsas(pairs):
    """0.755 (XCAD) to 0.828 (expert labels) are published."""
    values = np.array([dice(truth, label) for truth, label in pairs])
    assert 0.76 < values.mean() < 0.82
    assert 0.03 < values.std() < 0.12 and values.min() > 0.4 and values.max() < 0.95


def test_faults_are_in_pieces_not_in_single_pixels(pairs):
    for truth, label in pairs:
        _, islands = components(label, np.ones((3, 3)))
        assert islands < 60
        wrong = label & ~cv2.dilate(truth.astype(np.uint8), np.ones((9, 9))).astype(bool)
        pieces, count = components(wrong, np.ones((3, 3)))
        assert count < 25 and (wrong.sum() < 100 or wrong.sum() / count > 10)


def test_thin_vessels_are_missed_more_often_than_thick_ones(pairs):
    missed = {"thin": [0, 0], "thick": [0, 0]}
    for truth, label in pairs:
        width = 2 * cv2.distanceTransform(truth.astype(np.uint8), cv2.DIST_L2, 5)
        thick = cv2.dilate((width > 8).astype(np.uint8), np.ones((9, 9))).astype(bool) & truth
        for name, part in (("thick", thick), ("thin", truth & ~thick)):
            missed[name][0] += (part & ~label).sum()
            missed[name][1] += part.sum()
    rate = {name: lost / total for name, (lost, total) in missed.items()}
    assert rate["thin"] > 1.7 * rate["thick"] and rate["thick"] < 0.25


def test_labels_are_sometimes_too_wide_and_sometimes_too_narrow(pairs):
    balance = [label.sum() / truth.sum() for truth, label in pairs]
    assert min(balance) < 0.8 and max(balance) > 1.05


def test_truth_is_a_plausible_share_of_the_picture(pairs):
    shares = np.array([truth.mean() for truth, _ in pairs])
    assert 0.02 < shares.min() and 0.05 < shares.mean() < 0.12


def test_noise_and_brightness_of_a_picture_are_those_of_real_ones():
    means = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        thorax = draw_thorax(256, (0.5, 0.5, 0.3, 0.3), rng)
        picture = take_picture(thorax.opacity, draw_detector(256, rng), rng)
        assert picture.dtype == np.uint8 and picture.shape == (256, 256)
        means.append(picture.mean())
    assert 60 < np.mean(means) < 150 and np.std(means) > 5  # eight real frames: 75 to 138


def test_more_contrast_is_darker_at_the_same_place():
    rng = np.random.default_rng(0)
    detector = draw_detector(128, rng)
    opacity = np.zeros((128, 128), np.float32)
    opacity[:, 60:68] = 0.8
    picture = take_picture(opacity, detector, rng).astype(float)
    assert picture[20:-20, 62:66].mean() < 0.8 * picture[20:-20, 40:50].mean()


def test_smooth_noise_is_smooth_and_of_unit_size():
    field = smooth_noise(256, 6, np.random.default_rng(1))
    assert field.shape == (256, 256) and field.dtype == np.float32
    assert 0.5 < field.std() < 1.6 and abs(np.diff(field, axis=1)).max() < 0.5


def test_compression_keeps_the_picture():
    y, x = np.mgrid[0:64, 0:64]
    picture = (2 * x + y).astype(np.uint8)
    assert abs(compressed(picture, 90).astype(int) - picture).mean() < 3


def test_angles_are_numbers_mostly_and_text_or_missing_sometimes():
    carm = CArm(-30.5, 25.0, 1000, 750, 0.3, 512)
    drawn = [view_angles(carm, np.random.default_rng(seed)) for seed in range(400)]
    assert {"primary_angle": "RAO 30.5", "secondary_angle": "CRA 25"} in drawn
    assert {"primary_angle": None, "secondary_angle": None} in drawn
    assert sum(a == {"primary_angle": -30.5, "secondary_angle": 25.0} for a in drawn) > 350


def test_pixel_spacing_disagrees_with_the_scale_in_a_few_rows_by_up_to_two_times():
    drawn = np.array([stored_spacing(0.3, np.random.default_rng(seed)) for seed in range(2000)]) / 0.3
    assert 0.01 < (drawn != 1).mean() < 0.05
    assert drawn.min() < 0.7 and drawn.max() > 1.4 and 0.5 <= drawn.min() and drawn.max() <= 2
