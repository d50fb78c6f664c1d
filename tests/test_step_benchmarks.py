"""The programs that measure training steps run, and their figures hang together."""

import json

import pytest
import torch

from benchmarks import roofline, training_step
from benchmarks.training_step import PlainBackbone
from models.backbone import ARCHITECTURES, build_backbone
from models.deepsa_model import build_deepsa_model

FLAGS = "--steps 1 --rounds 1 --batch-size 1 --device cpu --amp off".split()


def test_the_plain_loop_computes_the_same_features():
    torch.manual_seed(0)
    backbone = build_backbone("sam3-tiny", image_size=336).eval()
    image = torch.rand(1, 3, 336, 336)
    with torch.no_grad():
        ours = backbone(image)
        plain = PlainBackbone(backbone, ARCHITECTURES["sam3-tiny"]).eval()
        theirs = plain(image)
    assert plain.neck.trunk.use_act_checkpoint
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_every_module_of_the_trunk_and_neck_is_in_one_part():
    model = build_deepsa_model(backbone="sam3-tiny", image_size=336)
    parts = roofline.parts_of(model, block_by_block=True)
    for name, _ in model.backbone.named_parameters():
        owners = [part for part in parts if f"backbone.{name}".startswith(f"{part}.")]
        assert len(owners) == 1 or name.endswith(("pos_embed", "ln_pre.weight", "ln_pre.bias")), name
    assert sum(part.startswith("block") for part in parts.values()) == ARCHITECTURES["sam3-tiny"]["depth"]


@pytest.mark.slow
def test_training_step_and_roofline_run(tmp_path, capsys):
    assert training_step.main([*FLAGS, "--out", str(tmp_path), "--card-gib", "1.3"]) == 0
    content = json.loads((tmp_path / "training_step.json").read_text(encoding="utf-8"))
    assert set(content) == {"setting", "plain", "full", "fewer", "lora"}
    assert content["fewer"]["checkpointed_blocks"] <= content["full"]["checkpointed_blocks"]
    assert content["lora"]["planned_gib"] < content["full"]["planned_gib"]
    said = capsys.readouterr().out
    assert all(f"\n{method} " in said for method in ("plain", "full", "fewer", "lora"))
    assert roofline.main([*FLAGS, "--out", str(tmp_path)]) == 0
    parts = json.loads((tmp_path / "roofline.json").read_text(encoding="utf-8"))["parts"]
    assert sum(part["share_of_arithmetic"] for part in parts) == pytest.approx(1)
    head = next(part for part in parts if part["part"] == "head")
    assert head["forward_ms"] > 0 and head["backward_ms"] > 0
