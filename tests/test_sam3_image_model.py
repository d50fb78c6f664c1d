"""The whole image model is the package's own: names and shapes, weights in the official layout, the same output.

The reference is the package's own builders, run on the CPU, at tiny size with their classes asked for few and narrow
layers. A checkpoint in the official layout is the `state_dict()` of the package's video model, which loads the released
file strictly.
"""

import contextlib
import warnings

import numpy as np
import pytest
import torch

from models.sam3_image_model import TINY, build_sam3_image_model
from models.sam3_package import find_vocabulary, import_image_modules
from models.sam3_weights import _name_in_image_model, load_sam3_image_weights
from tests.test_sam3_package import CudaOnCpu
from utils.checkpoint import CheckpointError, MissingWeights

IMAGE_SIZE = 336
CELLS = IMAGE_SIZE // 14
TRUNK = {name: value for name, value in TINY.vision.items() if name != "scale_factors"}  # that one is the neck's
SMALL = {
    "ViT": dict(TRUNK, img_size=IMAGE_SIZE),
    "VETextEncoder": TINY.text,
    "TransformerEncoderLayer": dict(dim_feedforward=TINY.feedforward),
    "TransformerDecoderLayer": dict(dim_feedforward=TINY.feedforward),
    "TransformerDecoderLayerv2": dict(dim_feedforward=TINY.feedforward),
    "MLP": dict(hidden_dim=TINY.feedforward),
    "TransformerEncoderFusion": dict(num_layers=TINY.fusion_layers),
    "TransformerDecoder": dict(num_layers=TINY.decoder_layers, num_queries=TINY.queries, resolution=IMAGE_SIZE),
    "SequenceGeometryEncoder": dict(num_layers=TINY.geometry_layers),
    "TransformerEncoderCrossAttention": dict(num_layers=TINY.memory_layers),
    "RoPEAttention": dict(feat_sizes=[CELLS, CELLS]),
    "SimpleMaskDownSampler": dict(interpol_size=[16 * CELLS, 16 * CELLS]),
    "Sam3TrackerPredictor": dict(image_size=IMAGE_SIZE),
}


@contextlib.contextmanager
def package_builder(small: bool):
    """`sam3.model_builder` on the CPU; small: its classes take `SMALL` for what it asks of them."""
    pytest.importorskip("triton", reason="the package's own builder needs triton")
    from sam3 import model_builder

    def asked_for_less(part, arguments):
        return lambda **given: part(**{**given, **arguments})

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(), CudaOnCpu():
        warnings.simplefilter("ignore")
        for name, arguments in SMALL.items() if small else ():
            patch.setattr(model_builder, name, asked_for_less(getattr(model_builder, name), arguments))
        yield model_builder


def leave_autocast(tracker: torch.nn.Module) -> None:
    """The package's tracker turns autocast on for good."""
    tracker.bf16_context.__exit__(None, None, None)


@pytest.fixture(scope="module")
def official():
    """Tensors in the layout of the released file, random, none of them of no effect."""
    with package_builder(small=True) as builder:
        model = builder.build_sam3_video_model(load_from_HF=False, bpe_path=str(find_vocabulary()), device="cpu")
    leave_autocast(model.tracker)
    generator = torch.Generator().manual_seed(1)
    state = model.state_dict()
    for name, tensor in state.items():
        if tensor.is_floating_point():
            start = torch.zeros(()) if "text_projection" in name or "positional_embedding" in name else tensor
            state[name] = start + 0.05 * torch.randn(tensor.shape, generator=generator)
    return state


@pytest.fixture(scope="module")
def checkpoint(official, tmp_path_factory):
    path = tmp_path_factory.mktemp("official") / "sam3.pt"
    torch.save(official, path)
    return path


@pytest.fixture(scope="module")
def theirs(checkpoint):
    """The package's own image model with that checkpoint, loaded by the package."""
    with package_builder(small=True) as builder:
        model = builder.build_sam3_image_model(
            bpe_path=str(find_vocabulary()), device="cpu", checkpoint_path=str(checkpoint), load_from_HF=False,
            enable_inst_interactivity=True,
        )
    leave_autocast(model.inst_interactive_predictor.model)
    model.inst_interactive_predictor._bb_feat_sizes = [(4 * CELLS,) * 2, (2 * CELLS,) * 2, (CELLS,) * 2]
    return model


@pytest.fixture(scope="module")
def ours(checkpoint):
    return build_sam3_image_model(checkpoint, size="tiny")


def answers(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """What the package's own processor makes of a text, a text with a box, and a point."""
    processor = import_image_modules().sam3_image_processor.Sam3Processor(model, IMAGE_SIZE, "cpu", 0.0)
    picture = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 90, 120), dtype=np.uint8))
    state = processor.set_image(picture)
    found = {}
    for kind, asked in {"text": processor.set_text_prompt("coronary artery", state),
                        "box": processor.add_geometric_prompt([0.4, 0.5, 0.3, 0.2], True, state)}.items():
        found |= {f"{kind} {name}": asked[name].numpy() for name in ("masks_logits", "boxes", "scores")}
    point = dict(point_coords=np.array([[40.0, 30.0]]), point_labels=np.array([1]), return_logits=True)
    masks, scores, _ = model.predict_inst(state, **point)
    return {**found, "point masks": masks, "point scores": scores}


def test_the_output_is_that_of_the_packages_own_model(theirs, ours):
    with CudaOnCpu():
        expected = answers(theirs)
    found = answers(ours)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert value.std() > 1e-4, f"{name} is the same everywhere: it would tell nothing"
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5, err_msg=name)


def test_the_official_layout_loads_whole(official, ours, theirs):
    tables = [name for name in official if name.endswith(".freqs_cis")]
    assert len(tables) == 2
    assert ours.load_report.matched == len(official) - len(tables) == len(ours.state_dict())
    assert "0 missing, 0 unexpected" in str(ours.load_report) and "image model and tracker" in str(ours.load_report)
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[name]), name


def test_the_official_layout_loads_under_the_key_model_and_at_another_image_size(official, tmp_path):
    torch.save({"model": official}, tmp_path / "sam3.pt")
    model = build_sam3_image_model(tmp_path / "sam3.pt", size="tiny", image_size=672)
    assert model.image_size == 672 and model.load_report.rebuilt == 2


SOME = "detector.transformer.decoder.bbox_embed.layers.0.weight"
SOME_OF_TRACKER = "tracker.sam_mask_decoder.conv_s0.weight"


def damaged(official: dict, kind: str) -> tuple[dict, list[str]]:
    """A checkpoint that is not whole, and words that its refusal has to contain."""
    tensors = dict(official)
    if kind == "renamed":
        tensors["detector.renamed.weight"] = tensors.pop(SOME)
        return tensors, ["missing (1)", SOME.removeprefix("detector."), "unexpected (1)", "renamed.weight"]
    if kind == "missing":
        del tensors[SOME_OF_TRACKER]
        return tensors, ["missing (1)", SOME_OF_TRACKER.removeprefix("tracker.")]
    if kind == "misshapen":
        tensors[SOME] = tensors[SOME][:-1]
        return tensors, ["shape (1)", SOME.removeprefix("detector.")]
    if kind == "extra":
        tensors["something.else"] = torch.zeros(2)
        return tensors, ["unexpected (1)", "something.else"]
    if kind == "without prefix":
        tensors[SOME.removeprefix("detector.")] = tensors.pop(SOME)
        return tensors, ["missing (1)", "unexpected (1)", "neither detector. nor tracker."]
    second = SOME_OF_TRACKER.replace("tracker.", "detector.inst_interactive_predictor.model.")
    return tensors | {second: torch.zeros(2)}, ["unexpected (1)", second]


@pytest.mark.parametrize("kind", ["renamed", "missing", "misshapen", "extra", "without prefix", "twice"])
def test_an_altered_checkpoint_is_refused_by_name(official, tmp_path, kind):
    tensors, said = damaged(official, kind)
    torch.save(tensors, tmp_path / "sam3.pt")
    model = build_sam3_image_model(random_init=True, size="tiny")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        load_sam3_image_weights(model, tmp_path / "sam3.pt")
    for words in (str(tmp_path / "sam3.pt"), *said):
        assert words in str(error.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_missing_weights_say_in_one_sentence_how_to_get_them():
    for path, named in ((None, "sam3.pt"), ("nowhere/sam3.pt", "nowhere/sam3.pt")):
        with pytest.raises(MissingWeights) as error:
            build_sam3_image_model(path)
        assert named in str(error.value) and "https://huggingface.co/facebook/sam3" in str(error.value)
        assert "\n" not in str(error.value)


def test_contradictions_are_refused(tmp_path):
    with pytest.raises(ValueError, match="give one of the two"):
        build_sam3_image_model(tmp_path / "sam3.pt", random_init=True)
    with pytest.raises(ValueError, match="'huge'.*full, tiny"):
        build_sam3_image_model(random_init=True, size="huge")
    with pytest.raises(ValueError, match="multiple of 336"):
        build_sam3_image_model(random_init=True, size="tiny", image_size=500)


class OnMeta(CudaOnCpu):
    """Within it and `torch.device("meta")` a model is names and shapes only, but for a linspace that the ViT reads."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.linspace:
            kwargs = {**(kwargs or {}), "device": "cpu"}
        return super().__torch_function__(function, types, args, kwargs)


def test_at_full_size_every_name_and_shape_is_the_packages_own():
    with torch.device("meta"), package_builder(small=False) as builder, OnMeta():
        video = builder.build_sam3_video_model(load_from_HF=False, bpe_path=str(find_vocabulary()), device="meta")
        ours = build_sam3_image_model(random_init=True)
    leave_autocast(video.tracker)
    expected = {_name_in_image_model(name): tensor.shape for name, tensor in video.state_dict().items()
                if not name.endswith(".freqs_cis")}
    assert {name: tensor.shape for name, tensor in ours.state_dict().items()} == expected
    parts = (ours, ours.inst_interactive_predictor, ours.backbone.vision_backbone.sam2_convs)
    whole, interactive, second_neck = (sum(tensor.numel() for tensor in part.parameters()) for part in parts)
    assert 859.5e6 < whole < 860.5e6
    assert 840.4e6 < whole - interactive - second_neck < 840.6e6  # the package's image model as it comes
