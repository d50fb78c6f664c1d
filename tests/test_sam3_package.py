"""The vision path is the package's own, and each of our ways around the package's obstacles is still needed."""

import importlib.metadata
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.overrides import TorchFunctionMode

from models.backbone import SAM3, SAM3_TINY, Sam3Backbone, build_backbone
from models.sam3_image_model import build_sam3_image_model
from models.sam3_package import (
    VOCABULARY,
    build_decoder,
    build_interactive_predictor,
    build_position_encoding,
    build_text_encoder,
    build_vision_backbone,
    find_vocabulary,
    import_image_modules,
)

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(importlib.util.find_spec("sam3").submodule_search_locations[0])
NEEDLESS = "this release of sam3 does without it: take the way around it out of models/sam3_package.py"


class CudaOnCpu(TorchFunctionMode):
    """Within it, what asks for "cuda" gets the CPU and pinned memory is plain; counts both."""

    def __init__(self):
        super().__init__()
        self.cuda = self.pinned = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function is torch.Tensor.pin_memory:
            self.pinned += 1
            return args[0]
        if str(kwargs.get("device")) == "cuda":
            self.cuda += 1
            kwargs["device"] = "cpu"
        return function(*args, **kwargs)


def package_forward_image(vision_backbone: torch.nn.Module, image: torch.Tensor) -> list[torch.Tensor]:
    """Run the package's own image path: normalised image through `SAM3VLBackbone.forward_image`."""
    pytest.importorskip("triton", reason="the package as a whole needs triton")
    from sam3.model.vl_combiner import SAM3VLBackbone

    package_backbone = SAM3VLBackbone(visual=vision_backbone, text=torch.nn.Identity(), scalp=1)
    with torch.no_grad():
        return package_backbone.eval().forward_image((image - 0.5) / 0.5)["backbone_fpn"]


def test_tiny_features_equal_the_packages_forward_image():
    torch.manual_seed(0)
    backbone = build_backbone("sam3-tiny", image_size=336).eval()
    image = torch.rand(2, 3, 336, 336)
    with torch.no_grad():
        ours = backbone(image)
    theirs = package_forward_image(backbone.vision_backbone, image)
    assert len(theirs) == len(ours) - 1  # scalp=1 drops the coarsest level
    for our_map, their_map in zip(ours, theirs):
        torch.testing.assert_close(our_map, their_map, rtol=0, atol=0)


@pytest.mark.slow
def test_full_size_features_equal_the_packages_forward_image_at_1008(tmp_path):
    pytest.importorskip("triton", reason="the package as a whole needs triton")
    from sam3 import model_builder

    from models.sam3_weights import VISION_PREFIX, load_sam3_vision_weights

    torch.manual_seed(0)
    theirs = model_builder._create_vit_neck(model_builder._create_position_encoding(),
                                            model_builder._create_vit_backbone())
    assert 453e6 < sum(parameter.numel() for parameter in theirs.parameters()) < 455e6
    path = tmp_path / "sam3.pt"
    torch.save({VISION_PREFIX + name: tensor for name, tensor in theirs.state_dict().items()}, path)
    ours = build_vision_backbone(image_size=1008, **SAM3)
    report = load_sam3_vision_weights(ours, path)
    assert report.matched == len(ours.state_dict()) and report.rebuilt == 32
    image = torch.rand(1, 3, 1008, 1008)
    with torch.no_grad():
        our_maps = Sam3Backbone(vision_backbone=ours, image_size=1008).eval()(image)
    assert [tuple(feature.shape) for feature in our_maps] == [(1, 256, s, s) for s in (288, 144, 72, 36)]
    for our_map, their_map in zip(our_maps, package_forward_image(theirs, image)):
        torch.testing.assert_close(our_map, their_map, rtol=1e-5, atol=1e-5)


def test_works_where_triton_cannot_be_imported():
    program = (
        "import sys\n"
        "sys.modules['triton'] = None\n"
        "import torch\n"
        "from models.backbone import build_backbone\n"
        "maps = build_backbone('sam3-tiny', image_size=336)(torch.rand(1, 3, 336, 336))\n"
        "assert 'sam3' not in sys.modules, 'the empty stand-in package was left behind'\n"
        "print([tuple(m.shape) for m in maps])\n")
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "(1, 256, 48, 48)" in result.stdout


def test_the_import_workaround_is_still_needed():
    """Fails when `sam3` no longer imports triton unasked: then import it plainly."""
    assert "\nimport triton\n" in (PACKAGE / "model" / "edt.py").read_text(encoding="utf-8")


def test_rotary_tables_stay_out_of_checkpoints_and_fit_the_image_size():
    for image_size, tokens in ((336, 24 * 24), (672, 48 * 48)):
        backbone = build_vision_backbone(image_size=image_size, **SAM3_TINY)
        assert not [name for name in backbone.state_dict() if "turns" in name]
        global_block = backbone.trunk.blocks[SAM3_TINY["global_att_blocks"][0]]
        assert global_block.attn.turns.shape[0] == tokens


def test_the_whole_image_model_works_where_triton_cannot_be_imported():
    """All three ways to ask, with warnings as errors: the package warns where it cannot fill holes."""
    program = (
        "import sys\n"
        "sys.modules['triton'] = None\n"
        "import numpy, torch, warnings\n"
        "from models.sam3_image_model import build_sam3_image_model\n"
        "from models.sam3_package import import_image_modules\n"
        "model = build_sam3_image_model(random_init=True, size='tiny')\n"
        "warnings.simplefilter('error')\n"
        "processor = import_image_modules().sam3_image_processor.Sam3Processor(model, 336, 'cpu', 0.0)\n"
        "state = processor.set_image(torch.zeros(3, 60, 80, dtype=torch.uint8))\n"
        "print(tuple(processor.set_text_prompt('coronary artery', state)['masks'].shape))\n"
        "print(tuple(processor.add_geometric_prompt([0.5, 0.5, 0.2, 0.2], True, state)['masks'].shape))\n"
        "point = dict(point_coords=numpy.array([[40, 30]]), point_labels=numpy.array([1]))\n"
        "print(model.predict_inst(state, **point)[0].shape)\n"
        "assert not {'sam3', 'sam3.model.edt'} & set(sys.modules), 'a stand-in was left behind'\n"
        "assert 'open_clip' not in sys.modules, 'only its file is wanted, not seconds of import'\n")
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split("\n")[:3] == ["(12, 1, 60, 80)", "(12, 1, 60, 80)", "(3, 60, 80)"]


def test_leaving_out_the_resolution_of_position_encodings_is_still_needed():
    encoding_class = type(build_position_encoding(16))
    with CudaOnCpu() as mode:
        theirs = encoding_class(num_pos_feats=16, normalize=True, precompute_resolution=64)
    assert mode.cuda, NEEDLESS
    features = torch.zeros(2, 16, 8, 8)
    with CudaOnCpu() as mode:
        ours = build_position_encoding(16)(features)
    assert not mode.cuda
    assert torch.equal(ours, theirs(features))


def test_leaving_out_the_resolution_of_the_decoder_is_still_needed():
    decoder = build_sam3_image_model(random_init=True, size="tiny").transformer.decoder
    settings = dict(layer=decoder.layers[0], num_layers=1, num_queries=4, return_intermediate=True, box_refine=True,
                    boxRPB="log", d_model=256, frozen=False, interaction_layer=None)
    with CudaOnCpu() as mode:
        build_decoder(**settings)
    assert not mode.cuda
    with CudaOnCpu() as mode:
        build_decoder(**settings, resolution=336, stride=14)
    assert mode.cuda, NEEDLESS


def test_unpinning_the_memory_of_the_geometry_encoder_is_still_needed():
    encoder = build_sam3_image_model(random_init=True, size="tiny").geometry_encoder
    prompt = dict(boxes=torch.full((1, 1, 4), 0.5), boxes_mask=torch.zeros(1, 1, dtype=torch.bool),
                  boxes_labels=torch.ones(1, 1, dtype=torch.long), img_feats=torch.zeros(1, 256, 24, 24))
    with CudaOnCpu() as mode:
        encoder._encode_boxes(**prompt)
    assert mode.pinned, NEEDLESS


def test_the_vocabulary_of_open_clip_is_still_needed():
    assert not [file for file in importlib.metadata.files("sam3") if file.name == VOCABULARY], NEEDLESS
    assert find_vocabulary().is_file() and find_vocabulary().name == VOCABULARY


def test_the_tokens_are_those_of_clip():
    """`<start of text>` coronary artery `<end of text>`, as CLIP's published vocabulary numbers them."""
    tokenizer = build_text_encoder(width=64, heads=2, layers=1).tokenizer
    tokens = tokenizer(["Coronary  artery"], context_length=32)
    assert tokens.shape == (1, 32)
    assert tokens[0, 0] == 49406 and tokens[0].max() == 49407
    assert tokenizer.decode(tokens[0, 1:].tolist()).startswith("coronary artery <end_of_text>")


def test_initialising_the_text_encoder_is_still_needed():
    """Torch fills what was never written with nan while it is deterministic."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        theirs = import_image_modules().text_encoder_ve.TextTransformer(width=64, heads=2, layers=1)
        ours = build_sam3_image_model(random_init=True, size="tiny")
    finally:
        torch.use_deterministic_algorithms(deterministic)
    unwritten = [name for name, tensor in theirs.named_parameters() if tensor.isnan().any()]
    assert unwritten == ["positional_embedding", "text_projection"], NEEDLESS
    assert not [name for name, tensor in ours.state_dict().items() if tensor.isnan().any()]


def test_the_base_class_of_the_tracker_is_still_needed():
    text = (PACKAGE / "model" / "sam3_tracking_predictor.py").read_text(encoding="utf-8")
    assert "self.bf16_context.__enter__()" in text, NEEDLESS


def test_the_feature_sizes_of_the_interactive_predictor_are_still_needed():
    tracker = build_sam3_image_model(random_init=True, size="tiny").inst_interactive_predictor.model
    theirs = import_image_modules().sam1_task_predictor.SAM3InteractiveImagePredictor(tracker)
    ours = build_interactive_predictor(tracker)
    assert ours._bb_feat_sizes == [(96, 96), (48, 48), (24, 24)]
    assert theirs._bb_feat_sizes != ours._bb_feat_sizes, NEEDLESS


def test_filling_holes_on_the_cpu_is_still_needed():
    text = (PACKAGE / "perflib" / "connected_components.py").read_text(encoding="utf-8")
    assert "return connected_components_triton(input_tensor)" in text, NEEDLESS
