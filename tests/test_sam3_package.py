"""The vision path is the package's own, and our way of importing it is still needed."""

import importlib.metadata
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.backbone import SAM3, SAM3_TINY, Sam3Backbone, build_backbone
from models.sam3_package import build_vision_backbone

ROOT = Path(__file__).resolve().parents[1]


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


def test_works_where_triton_and_psutil_cannot_be_imported():
    program = (
        "import sys\n"
        "for name in ('triton', 'psutil'): sys.modules[name] = None\n"
        "import torch\n"
        "from models.backbone import build_backbone\n"
        "maps = build_backbone('sam3-tiny', image_size=336)(torch.rand(1, 3, 336, 336))\n"
        "assert 'sam3' not in sys.modules, 'the empty stand-in package was left behind'\n"
        "print([tuple(m.shape) for m in maps])\n")
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "(1, 256, 48, 48)" in result.stdout


def test_the_import_workaround_is_still_needed():
    """Fails when `sam3` declares psutil and no longer imports triton unasked: then import it plainly."""
    package = Path(importlib.util.find_spec("sam3").submodule_search_locations[0])
    declares_psutil = any(line.split()[0].startswith("psutil") for line in importlib.metadata.requires("sam3") or [])
    imports_triton = "\nimport triton\n" in (package / "model" / "edt.py").read_text(encoding="utf-8")
    assert imports_triton or not declares_psutil


def test_rotary_tables_stay_out_of_checkpoints_and_fit_the_image_size():
    for image_size, tokens in ((336, 24 * 24), (672, 48 * 48)):
        backbone = build_vision_backbone(image_size=image_size, **SAM3_TINY)
        assert not [name for name in backbone.state_dict() if "freqs_cis" in name]
        global_block = backbone.trunk.blocks[SAM3_TINY["global_att_blocks"][0]]
        assert global_block.attn.freqs_cis.shape[0] == tokens
