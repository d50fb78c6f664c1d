"""A checkpoint in the official layout loads whole, or not at all and says why."""

import pytest
import torch

from models.backbone import ARCHITECTURES, SAM3_TINY, build_backbone
from models.sam3_package import build_vision_backbone
from models.sam3_weights import VISION_PREFIX, load_sam3_vision_weights
from utils.checkpoint import CheckpointError
from utils.entry import describe_weights

SOME_NAME = "trunk.blocks.2.attn.qkv.weight"


def rotary_table(block) -> torch.Tensor:
    """As the package keeps it, complex."""
    return torch.view_as_complex(block.attn.turns)


@pytest.fixture(scope="module")
def official():
    """An official checkpoint's layout at tiny size: rotary tables, the tracker's neck and other parts beside."""
    torch.manual_seed(1)
    vision = build_vision_backbone(image_size=672, **SAM3_TINY)
    tensors = {VISION_PREFIX + name: tensor for name, tensor in vision.state_dict().items()}
    for number, block in enumerate(vision.trunk.blocks):
        tensors[f"{VISION_PREFIX}trunk.blocks.{number}.attn.freqs_cis"] = rotary_table(block)
    tensors[VISION_PREFIX + "sam2_convs.0.conv_1x1.weight"] = torch.zeros(256, 32, 1, 1)
    tensors["detector.transformer.encoder.weight"] = torch.zeros(3)
    tensors["tracker.maskmem.weight"] = torch.zeros(3)
    return tensors


@pytest.fixture
def target():
    torch.manual_seed(2)
    return build_vision_backbone(image_size=336, **SAM3_TINY)


@pytest.mark.parametrize("wrapped", [False, True])
def test_official_layout_loads_whole_at_another_image_size(tmp_path, official, target, wrapped):
    path = tmp_path / "sam3.pt"
    torch.save({"model": official} if wrapped else official, path)
    tables = [rotary_table(block) for block in target.trunk.blocks]
    report = load_sam3_vision_weights(target, path)
    assert (report.matched, report.rebuilt, report.unused) == (len(target.state_dict()), 4, 1)
    assert f"{report.matched} tensors matched, 0 missing, 0 unexpected" in str(report)
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, official[VISION_PREFIX + name])
    for block, table in zip(target.trunk.blocks, tables):
        assert torch.equal(rotary_table(block), table)


def damage(tensors: dict, kind: str) -> tuple[dict, list[str]]:
    tensors, name = dict(tensors), VISION_PREFIX + SOME_NAME
    if kind == "renamed":
        tensors[name + "_old"] = tensors.pop(name)
        return tensors, ["missing (1)", SOME_NAME, "unexpected (1)", SOME_NAME + "_old"]
    if kind == "missing":
        tensors.pop(name)
        return tensors, ["missing (1)", SOME_NAME]
    tensors[name] = tensors[name][:-1]
    return tensors, ["shape (1)", SOME_NAME]


@pytest.mark.parametrize("kind", ["renamed", "missing", "misshapen"])
def test_partial_load_is_refused_by_name_and_changes_nothing(tmp_path, official, target, kind):
    path = tmp_path / "sam3.pt"
    tensors, said = damage(official, kind)
    torch.save(tensors, path)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        load_sam3_vision_weights(target, path)
    for words in [str(path), *said]:
        assert words in str(error.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in target.state_dict().items())


def test_truncated_file_names_itself(tmp_path, official, target):
    path = tmp_path / "sam3.pt"
    torch.save(official, path)
    path.write_bytes(path.read_bytes()[:50_000])
    with pytest.raises(CheckpointError, match="sam3.pt: not a readable PyTorch checkpoint"):
        load_sam3_vision_weights(target, path)


def test_checkpoint_of_something_else_shows_its_names(tmp_path, target):
    path = tmp_path / "other.pt"
    torch.save({"encoder.weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="encoder.weight"):
        load_sam3_vision_weights(target, path)


def test_without_weights_full_size_says_how_to_go_on():
    with pytest.raises(FileNotFoundError) as error:
        build_backbone("sam3", image_size=1008)
    for words in ("--sam3-checkpoint", "sam3-tiny", "--random-init"):
        assert words in str(error.value)
    with pytest.raises(FileNotFoundError, match="nowhere.pt"):
        load_sam3_vision_weights(torch.nn.Identity(), "nowhere.pt")


def test_the_backbone_keeps_the_report_and_leaves_it_to_the_main_rank_to_print(tmp_path, official, monkeypatch, capsys):
    monkeypatch.setitem(ARCHITECTURES, "sam3", SAM3_TINY)
    torch.save(official, tmp_path / "sam3.pt")
    backbone = build_backbone("sam3", image_size=336, sam3_checkpoint=tmp_path / "sam3.pt")
    assert "0 missing, 0 unexpected" in str(backbone.load_report)
    assert capsys.readouterr().out == ""
    assert describe_weights(backbone.load_report, None, 336) == str(backbone.load_report)
