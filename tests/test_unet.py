"""The U-Net baseline: a model of stage 1 like the others, and of no later stage."""

import pytest
import torch
from torch import nn

import train_stage1_deepsa as stage1
import train_stage2_cass_segments as stage2
from models.deepsa_model import build_deepsa_model
from models.loading import load_model
from models.lora import LoraError, add_lora
from tests.csv_fixture import write_tiny_dataset
from tests.stage_script import flags, run_main
from utils.run_files import RunFiles

SIZE_PX = 64
VIEWS = torch.tensor([[30.0, 10.0], [float("nan"), 0.0]])


def test_a_picture_gives_logits_of_its_size_and_every_weight_learns():
    torch.manual_seed(0)
    model = build_deepsa_model(backbone="unet", image_size=SIZE_PX, use_view=False).train()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    picture = torch.rand(2, 3, SIZE_PX, SIZE_PX)
    logits = model(picture, VIEWS)
    assert logits.shape == (2, 1, SIZE_PX, SIZE_PX)
    # What is in a batch beside a picture does not change its answer, as it would with batch norms.
    torch.testing.assert_close(model(picture[:1], VIEWS[:1]), logits[:1], rtol=1e-4, atol=1e-5)
    logits.square().mean().backward()
    assert not [name for name, value in model.named_parameters() if value.grad is None]
    with pytest.raises(ValueError, match="multiple of 32"):
        build_deepsa_model(backbone="unet", image_size=100)
    with pytest.raises(LoraError, match="none"):
        add_lora(model.backbone, rank=4, alpha=8.0)


def test_it_trains_by_the_same_script_and_opens_again(tmp_path):
    csv_path = write_tiny_dataset(tmp_path / "data", patients=3, rows_per_patient=1)
    given = flags(csv_path, tmp_path / "run", "--backbone", "unet", "--image-size", SIZE_PX)
    said, code = run_main(stage1, *given)
    assert code == 0 and "val_dice_deepsa" in said, said
    best = RunFiles(tmp_path / "run", "phase1_deepsa").best
    model, checkpoint = load_model(best)
    assert checkpoint["config"]["backbone"] == "unet"
    assert model(torch.rand(1, 3, SIZE_PX, SIZE_PX), VIEWS[:1]).shape == (1, 1, SIZE_PX, SIZE_PX)
    later = flags(csv_path, tmp_path / "later", "--backbone", "unet", "--image-size", SIZE_PX, "--init-from", best)
    said, code = run_main(stage2, *later)
    assert code == 2 and "baseline of stage 1" in said
