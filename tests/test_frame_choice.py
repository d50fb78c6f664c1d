"""data.frame_choice: the frame with the fullest vessels is found, noise and flashes are not mistaken for contrast."""
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.frame_choice import choose_frame, vessel_amount
from data.frame_source import open_frames

REAL = Path(__file__).parents[2] / "shared" / "real" / "xa_dicom"


def make_cine(filling, *, side=256, noise=3.0, seed=0):
    """Return uint8 (F, H, W): a curved vessel whose share filled and whose darkness follow `filling` in [0, 1]."""
    rng = np.random.default_rng(seed)
    t = np.linspace(0, 1, 200)
    points = np.stack([side * (0.2 + 0.6 * t), side * (0.25 + 0.5 * t ** 2)], axis=1)
    catheter = np.array([[0.2, 0.0], [0.2, 0.25]]) * side
    ribs = 12 * np.sin(np.arange(side) / 25)[:, None]
    frames = []
    for amount in filling:
        darkness = np.zeros((side, side), np.float32)
        cv2.polylines(darkness, [catheter.astype(np.int32)], False, 40, 4)
        filled = points[:max(2, int(amount * len(points)))].astype(np.int32)
        if amount > 0:
            cv2.polylines(darkness, [filled], False, 60 * amount, 6)
        frames.append(160 + ribs - cv2.GaussianBlur(darkness, (0, 0), 1) + rng.normal(0, noise, (side, side)))
    return np.clip(np.stack(frames), 0, 255).astype(np.uint8)


def choose(cine):
    return choose_frame(lambda index: cine[index], len(cine))


def test_amount_grows_with_the_filling():
    amounts = [vessel_amount(frame) for frame in make_cine([0, 0.3, 0.6, 1])]
    assert amounts == sorted(amounts) and amounts[3] > 2 * amounts[1]


def test_fullest_frame_of_a_bolus_is_chosen():
    choice = choose(make_cine([0, 0, 0.2, 0.5, 0.8, 1, 1, 1, 0.7, 0.4, 0.2, 0.1]))
    assert choice.frame_index in (5, 6, 7)
    assert choice.filling.shape == (12,) and "plateau" in choice.reason


def test_noisy_first_frame_without_contrast_is_not_taken():
    cine = make_cine([0, 0.3, 0.9, 1, 1, 0.6])
    cine[0] = make_cine([0], noise=25)[0]
    assert choose(cine).frame_index in (2, 3, 4)


def test_single_dark_outlier_does_not_win_over_the_plateau():
    cine = make_cine([0.6, 0, 0, 0, 0, 0, 0.5, 1, 1, 1, 1, 0.9])
    cine[1] = np.clip(cine[1].astype(int) - 60, 0, 255).astype(np.uint8)       # a dark flash
    assert choose(cine).frame_index in (7, 8, 9, 10)


def test_brightness_of_the_exposure_does_not_decide():
    cine = make_cine([0.2, 0.2, 1, 1, 0.2, 0.2]).astype(np.float32)
    cine *= np.array([1.4, 1.4, 0.7, 0.7, 1.4, 1.4])[:, None, None]
    assert choose(np.clip(cine, 0, 255).astype(np.uint8)).frame_index in (2, 3)


def test_size_and_colour_axis_do_not_matter():
    cine = make_cine([0, 0.5, 1, 1, 0.5], side=512)
    assert choose(np.repeat(cine[..., None], 3, axis=3)).frame_index in (2, 3)


def test_only_frame_says_so():
    choice = choose(make_cine([1]))
    assert (choice.frame_index, choice.reason) == (0, "only frame")


def test_cine_without_any_vessel_gives_the_middle_frame_and_says_so():
    choice = choose(np.full((7, 64, 64), 120, np.uint8))
    assert choice.frame_index == 3 and "no vessel" in choice.reason


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real DICOMs at {REAL}")
def test_real_fluoroscopy_skips_the_noisy_start():
    source = open_frames(REAL / "IM1.dcm")
    assert choose_frame(source.read, source.frames).frame_index >= 1
