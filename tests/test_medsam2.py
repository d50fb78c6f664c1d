"""MedSAM2 against its own package: the released layout, single frames, cines, and Hydra left as it was."""

import sys

import cv2
import numpy as np
import pytest
import torch
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from contest.contestant import Prompt
from contest.medsam2 import Medsam2Contestant, build_medsam2_contestant
from models.medsam2 import build_medsam2, hydra_left_alone, load_medsam2_weights
from tests.small_medsam2 import package_predictor, small_medsam2, write_released
from utils.checkpoint import CheckpointError, MissingWeights

SIZE_PX = 128
PROMPTS = {
    "box": Prompt(box_px=(20, 30, 80.5, 60)),
    "a point": Prompt(points_px=((40, 45),), point_labels=(1,)),
    "points": Prompt(points_px=((40, 45), (60.5, 50), (5, 5)), point_labels=(1, 1, 0)),
}


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A file in the layout of the released one, with random values, and the package's predictor that they are of."""
    path = tmp_path_factory.mktemp("released") / "MedSAM2_latest.pt"
    return path, write_released(path, SIZE_PX)


def build_small(image_size=SIZE_PX):
    with small_medsam2():
        return build_medsam2(image_size=image_size)


@pytest.fixture(scope="module")
def contestant(released):
    model = build_small()
    weights = load_medsam2_weights(model, released[0])
    return Medsam2Contestant(model, weights=weights, is_random=False)


@pytest.fixture(scope="module")
def cine(tmp_path_factory):
    """Six frames of a disc that moves, uint8 (6, 128, 128, 3), and the folder of the JPEGs that they were read from."""
    folder = tmp_path_factory.mktemp("cine")
    rng, frames = np.random.default_rng(0), []
    for index in range(6):
        frame = rng.integers(100, 130, (SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
        cv2.circle(frame, (40 + 5 * index, 45), 20, (220, 220, 220), -1)
        path = str(folder / f"{index}.jpg")
        cv2.imwrite(path, frame)
        frames.append(np.array(Image.open(path).convert("RGB")))
    return np.stack(frames), folder


def test_the_full_size_has_the_names_and_shapes_of_the_packages_own():
    ours, theirs = build_medsam2(), package_predictor(512, overrides=[])
    assert round(sum(parameter.numel() for parameter in ours.parameters()) / 1e6, 1) == 39.0
    shapes = {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    assert {name: tensor.shape for name, tensor in ours.state_dict().items()} == shapes
    rotary = [[layer.self_attn.freqs_cis, layer.cross_attn_image.freqs_cis]
              for model in (ours, theirs) for layer in model.memory_attention.layers]
    assert all(table.shape[0] == 32 * 32 for tables in rotary for table in tables)


def test_every_tensor_of_the_released_layout_is_loaded(released, contestant):
    path, predictor = released
    saved = torch.load(path, weights_only=True)["model"]
    own = contestant.model.state_dict()
    assert own.keys() == saved.keys() and all(torch.equal(own[name], saved[name]) for name in own)
    assert contestant.about.endswith(f"MedSAM2: {len(saved)} tensors matched, 0 missing, 0 unexpected ({path.name})")
    assert contestant.name == "medsam2" and not contestant.is_random


@pytest.mark.parametrize("asked", PROMPTS)
def test_answers_are_those_of_the_packages_own_predictor(released, contestant, asked):
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    frame = np.random.default_rng(1).integers(0, 256, (90, 130, 3), dtype=np.uint8)
    prompt = PROMPTS[asked]
    package = SAM2ImagePredictor(released[1], disable_torch_jit=True)
    package._bb_feat_sizes = [(32, 32), (16, 16), (8, 8)]
    package.set_image(frame)
    arguments = dict(point_coords=prompt.points_px, point_labels=prompt.point_labels, box=prompt.box_px,
                     multimask_output=asked == "a point")
    masks, scores, _ = package.predict(**arguments)
    answer = contestant.segment(frame, prompt)
    assert answer.mask.dtype == bool and answer.mask.shape == (90, 130) and answer.mask.any()
    assert np.array_equal(answer.mask, masks[scores.argmax()] > 0)
    assert answer.score == pytest.approx(scores.max(), abs=1e-5)
    logits = [predictor.predict(**arguments, return_logits=True)[0]
              for predictor in (package, contestant.encode(frame))]
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-5)


def test_one_frame_is_encoded_once_for_many_prompts(contestant, monkeypatch):
    encoded = contestant.encode(np.zeros((64, 64, 3), np.uint8))
    monkeypatch.setattr(contestant.model, "forward_image", None)
    answers = [contestant.answer(encoded, prompt) for prompt in PROMPTS.values()]
    assert len({answer.score for answer in answers}) == 3


def test_a_mask_is_carried_through_a_cine_as_by_the_package_from_jpegs(released, contestant, cine):
    frames, folder = cine
    prompt, predictor = PROMPTS["box"], released[1]
    expected = np.zeros((6, SIZE_PX, SIZE_PX), bool)
    for backward in (False, True):
        state = predictor.init_state(str(folder))
        with pytest.warns(UserWarning, match="_C"):  # it cannot fill holes without its CUDA extension
            predictor.add_new_points_or_box(state, 2, 1, box=prompt.box_px)
            for index, _, logits in predictor.propagate_in_video(state, reverse=backward):
                expected[index] = logits[0, 0].numpy() > 0
    masks = contestant.propagate(frames, prompt, frame_index=2)
    assert masks.dtype == bool and masks.any(axis=(1, 2)).all() and not masks.all(axis=(1, 2)).any()
    assert np.array_equal(masks, expected)


@pytest.mark.parametrize("asked", PROMPTS)
@pytest.mark.parametrize("frame_index", [0, 2, 5])
def test_the_prompted_frame_of_a_cine_has_the_mask_of_the_single_frame(contestant, cine, asked, frame_index):
    frames = cv2.resize(cine[0][0], (60, 50))[None].repeat(6, axis=0)
    masks = contestant.propagate(frames, PROMPTS[asked], frame_index)
    assert masks.shape == (6, 50, 60)
    assert np.array_equal(masks[frame_index], contestant.segment(frames[frame_index], PROMPTS[asked]).mask)


def test_a_cine_leaves_the_packages_reader_as_it_was(contestant, cine):
    from sam2 import sam2_video_predictor

    own = sam2_video_predictor.load_video_frames
    contestant.propagate(cine[0][:1], PROMPTS["box"], 0)
    assert sam2_video_predictor.load_video_frames is own


def test_a_prompt_that_it_cannot_take_is_refused(contestant, cine):
    frames = cine[0]
    with pytest.raises(ValueError, match="medsam2 was asked with text; it takes one of box, points"):
        contestant.segment(frames[0], Prompt(text="coronary artery"))
    with pytest.raises(ValueError, match="frame 6 of a cine of 6 frames"):
        contestant.propagate(frames, PROMPTS["box"], 6)


def altered(state, how):
    name = "sam_mask_decoder.iou_token.weight"
    if how == "missing":
        return {key: value for key, value in state.items() if key != name}, name
    if how == "unexpected":
        return {**state, "new.weight": state[name]}, "new.weight"
    if how == "renamed":
        return {f"module.{key}" if key == name else key: value for key, value in state.items()}, f"module.{name}"
    return {**state, name: state[name][:, :5]}, name


@pytest.mark.parametrize("how", ["missing", "unexpected", "renamed", "shape"])
def test_an_altered_file_is_refused_and_its_tensors_named(released, tmp_path, how):
    state, name = altered(released[1].state_dict(), how)
    torch.save({"model": state}, tmp_path / "altered.pt")
    model = build_small()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=f"(?s)altered.pt.*{'unexpected' if how == 'renamed' else how}.*{name}"):
        load_medsam2_weights(model, tmp_path / "altered.pt")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_another_file_is_refused(tmp_path):
    model = build_small()
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r'no dict of tensors under "model", but \[\'state_dict\'\]'):
        load_medsam2_weights(model, tmp_path / "other.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "other.pt").read_bytes()[:100])
    with pytest.raises(CheckpointError, match="is the download complete"):
        load_medsam2_weights(model, tmp_path / "cut.pt")
    with pytest.raises(MissingWeights, match="no such file; download MedSAM2_latest.pt"):
        load_medsam2_weights(model, tmp_path / "none.pt")


def test_random_weights_must_be_asked_for_and_are_in_the_name():
    with pytest.raises(MissingWeights, match="download MedSAM2_latest.pt .* wanglab/MedSAM2"):
        build_medsam2_contestant()
    with small_medsam2():
        contestant = build_medsam2_contestant(random_init=True)
    assert contestant.is_random and contestant.name == "medsam2 (random weights)"


def test_hydra_is_left_to_others(monkeypatch):
    assert not GlobalHydra.instance().is_initialized()
    for _ in range(2):
        with initialize_config_module("sam2", version_base="1.2"):
            others = GlobalHydra.instance().hydra
            build_small()
            assert GlobalHydra.instance().hydra is others
    monkeypatch.delitem(sys.modules, "sam2")
    with hydra_left_alone():
        import sam2  # noqa: F401
    assert not GlobalHydra.instance().is_initialized()


def test_the_package_still_initialises_hydra_when_it_is_imported(monkeypatch):
    """Where this fails, `hydra_left_alone` is no longer needed."""
    monkeypatch.delitem(sys.modules, "sam2")
    import sam2  # noqa: F401

    try:
        assert GlobalHydra.instance().is_initialized()
    finally:
        GlobalHydra.instance().clear()


def test_the_packages_predictor_still_takes_every_image_for_1024_px(contestant):
    """Where this fails, `Medsam2Contestant.encode` need not correct it."""
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    assert SAM2ImagePredictor(contestant.model, disable_torch_jit=True)._bb_feat_sizes[0] == (256, 256)
