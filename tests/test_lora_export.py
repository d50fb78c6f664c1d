"""What reads a LoRA run: merging, the adapter file, other stages and scores."""

import json

import pytest
import torch

import train_stage1_deepsa as stage1
import train_stage2_cass_segments as stage2
from models import backbone
from models.deepsa_model import build_deepsa_model
from models.loading import load_model
from models.lora import ENCODER, LORA_A, LORA_B, add_lora, digest_of, merge_lora, plain_weights, trained_part
from models.sam3_weights import VISION_PREFIX
from tests.csv_fixture import write_tiny_dataset
from tests.stage_script import flags, run_main
from tests.test_resume import assert_equal
from tests.tiny_lora import ROWS, SMALL, build_tiny, picture, small_and_plain, train_lora, with_adapters, write_start
from utils import export
from utils.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from utils.run_files import RunFiles


@pytest.fixture(scope="module", autouse=True)
def small():
    with small_and_plain():
        yield


@pytest.fixture(scope="module")
def csv_path(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("data"), **ROWS)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return write_start(tmp_path_factory.mktemp("start") / "start.pth")


@pytest.fixture(scope="module")
def trained(csv_path, start, tmp_path_factory):
    return train_lora(csv_path, start, tmp_path_factory.mktemp("lora"))


def test_merged_gives_the_same_output():
    torch.manual_seed(0)
    model = with_adapters(build_tiny()).eval()
    plain = build_tiny().eval()
    plain.load_state_dict(merge_lora(model.state_dict(), scale=8.0 / 4))
    with torch.no_grad():
        features, merged = model.backbone(picture()[0]), plain.backbone(picture()[0])
        torch.testing.assert_close(plain(*picture()), model(*picture()), atol=1e-5, rtol=0)
    for one, other in zip(features, merged, strict=True):
        torch.testing.assert_close(other, one, atol=1e-5, rtol=0)
    # They are not simply without effect.
    bare = build_tiny().eval()
    bare.load_state_dict({name.replace(".base_layer", ""): value for name, value in model.state_dict().items()
                          if not name.endswith((LORA_A, LORA_B))})
    with torch.no_grad():
        assert (bare.backbone(picture()[0])[0] - features[0]).abs().max() > 1e-2


def test_a_lora_checkpoint_opens_as_a_plain_model_with_the_same_output(trained):
    model, checkpoint = load_model(trained[0].best)
    own = build_tiny()
    add_lora(own.backbone, rank=4, alpha=8.0)
    own.load_state_dict(checkpoint["model"])
    with torch.no_grad():
        torch.testing.assert_close(model(*picture()), own.eval()(*picture()), atol=1e-5, rtol=0)


def test_exported_merged_is_a_plain_checkpoint_with_the_same_output(trained, tmp_path):
    target = tmp_path / "plain.pth"
    assert export.main([str(trained[0].best), str(target), "--merge-lora"]) == 0
    plain, checkpoint = load_model(target)
    assert not checkpoint["config"]["lora"] and not any("lora" in name for name in checkpoint["model"])
    assert all(value.dtype == torch.float32 for value in checkpoint["model"].values() if value.is_floating_point())
    merged, _ = load_model(trained[0].best)
    assert all(torch.equal(value, merged.state_dict()[name]) for name, value in plain.state_dict().items())
    # Half as large where asked for, merged before it is rounded.
    assert export.main([str(trained[0].best), str(tmp_path / "half.pth"), "--merge-lora", "--half"]) == 0
    assert (tmp_path / "half.pth").stat().st_size < 0.6 * target.stat().st_size


def test_a_lora_checkpoint_in_half_precision_still_opens(trained, tmp_path):
    assert export.main([str(trained[0].best), str(tmp_path / "half.pth")]) == 0
    half, whole = load_model(tmp_path / "half.pth")[0], load_model(trained[0].best)[0]
    with torch.no_grad():
        torch.testing.assert_close(half(*picture()), whole(*picture()), atol=5e-2, rtol=0)


def test_the_adapter_file_lacks_the_encoder_and_is_joined_with_it(trained, start, tmp_path, capsys):
    files, target = trained[0], tmp_path / "whole.pth"
    adapter, best = load_checkpoint(files.adapter), load_checkpoint(files.best)
    names = {name for name in best["model"] if not name.startswith(ENCODER) or name.endswith((LORA_A, LORA_B))}
    assert adapter["model"].keys() == names and adapter["base"]["origin"] == str(start)
    encoder = {name: value for name, value in load_checkpoint(start)["model"].items() if name.startswith(ENCODER)}
    assert adapter["base"]["digest"] == digest_of(encoder) and adapter["base"]["tensors"] == len(encoder)
    with pytest.raises(CheckpointError, match=r"python -m utils\.export .*_adapter\.pth .*--merge-lora"):
        load_model(files.adapter)
    assert export.main([str(files.adapter), str(target), "--merge-lora", "--base", str(start)]) == 0
    joined, merged = load_model(target)[0].state_dict(), load_model(files.best)[0].state_dict()
    assert all(torch.equal(value, merged[name]) for name, value in joined.items())
    # Without merging it is the run's own best again.
    assert export.main([str(files.adapter), str(target), "--no-half", "--base", str(start)]) == 0
    assert_equal(dict(sorted(load_checkpoint(target)["model"].items())), dict(sorted(best["model"].items())))


def test_an_adapter_file_in_half_precision_is_joined_too(trained, start, tmp_path):
    small, target = tmp_path / "small.pth", tmp_path / "whole.pth"
    assert export.main([str(trained[0].adapter), str(small)]) == 0
    assert small.stat().st_size < 0.6 * trained[0].adapter.stat().st_size
    assert export.main([str(small), str(target), "--merge-lora", "--base", str(start)]) == 0
    with torch.no_grad():
        whole, best = (load_model(path)[0](*picture()) for path in (target, trained[0].best))
    torch.testing.assert_close(whole, best, atol=5e-2, rtol=0)


def test_an_adapter_file_is_joined_with_the_released_weights_that_it_started_from(tmp_path, monkeypatch):
    monkeypatch.setitem(backbone.ARCHITECTURES, "sam3", SMALL)
    parts = dict(backbone="sam3", image_size=336, use_view=True)
    torch.manual_seed(3)
    official = build_deepsa_model(**parts, random_init=True).backbone.vision_backbone.state_dict()
    torch.save({VISION_PREFIX + name: value for name, value in official.items()}, tmp_path / "sam3.pt")
    model = with_adapters(build_deepsa_model(**parts, sam3_checkpoint=tmp_path / "sam3.pt"))
    whole = {
        "stage": "phase1_deepsa", "epoch": 1, "global_step": 1, "model": model.state_dict(), "metrics": {},
        "classes": ["vessel"], "parent": None,
        "config": parts | {"lora": True, "lora_rank": 4, "lora_alpha": 8.0, "sam3_checkpoint": "E:/sam3.pt"}}
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    save_checkpoint(tmp_path / "adapter.pth", trained_part(whole, learning))
    assert load_checkpoint(tmp_path / "adapter.pth")["base"]["origin"] == "E:/sam3.pt"
    call = [str(tmp_path / "adapter.pth"), str(tmp_path / "out.pth"), "--merge-lora"]
    assert export.main([*call, "--sam3-checkpoint", str(tmp_path / "sam3.pt")]) == 0
    joined = load_model(tmp_path / "out.pth")[0].state_dict()
    merged = plain_weights(whole, source="x")
    assert joined.keys() == merged.keys() and all(torch.equal(value, merged[name]) for name, value in joined.items())


def test_another_encoder_than_the_adapters_own_is_refused(trained, start, tmp_path, capsys):
    checkpoint = load_checkpoint(start)
    name = next(name for name in checkpoint["model"] if name.endswith("attn.qkv.weight"))
    checkpoint["model"][name][0, 0] += 1e-6
    save_checkpoint(tmp_path / "other.pth", checkpoint)
    call = [str(trained[0].adapter), str(tmp_path / "out.pth"), "--merge-lora", "--base", str(tmp_path / "other.pth")]
    assert export.main(call) == 1
    assert "not the encoder that these adapters were trained beside" in capsys.readouterr().err
    assert not (tmp_path / "out.pth").exists()


@pytest.mark.parametrize("more, said", [
    (["--merge-lora"], "nothing to merge"), (["--base", "x.pth"], "has its own: leave it out")])
def test_export_refuses_what_does_not_go_together(start, tmp_path, capsys, more, said):
    assert export.main([str(start), str(tmp_path / "out.pth"), *more]) == 1
    assert said in capsys.readouterr().err


def test_stage_2_starts_from_a_lora_stage_1_and_says_that_it_merged(csv_path, trained, tmp_path):
    said, code = run_main(stage2, *flags(csv_path, tmp_path, "--init-from", trained[0].best, "--drawn-trees", 1,
                                         "--classes", "data", "--lora", "--lora-rank", 2))
    assert code == 0, said
    assert "it is of a LoRA run: its adapters were merged into the backbone" in said and "LoRA: rank 2" in said
    files = RunFiles(tmp_path, stage2.STAGE)
    merged = load_model(trained[0].best)[0].backbone.state_dict()
    model, checkpoint = load_model(files.best)
    for name, value in merged.items():
        own = checkpoint["model"]
        assert torch.equal(own.get(ENCODER + name, own.get(ENCODER + ".base_layer.".join(name.rsplit(".", 1)))), value)
    # Its own adapters are joined with the parent, merged once more.
    target = tmp_path / "whole.pth"
    assert export.main([str(files.adapter), str(target), "--merge-lora", "--base", str(trained[0].best)]) == 0
    joined = load_model(target)[0].state_dict()
    assert all(torch.equal(value, joined[name]) for name, value in model.state_dict().items())


def test_a_lora_parent_merged_or_not_gives_the_same_start(csv_path, trained, tmp_path):
    plain = tmp_path / "plain.pth"
    assert export.main([str(trained[0].best), str(plain), "--merge-lora"]) == 0
    states = []
    for source in (trained[0].best, plain, trained[0].latest):
        args = stage1.parse_arguments(flags(csv_path, tmp_path / "run", "--init-from", source))
        states.append(stage1.build_model(args, False)[0].state_dict())
    for other in states[1:]:
        assert_equal(dict(other), dict(states[0]))


def test_scores_of_a_lora_checkpoint_are_those_of_its_validation(csv_path, trained, tmp_path):
    said, code = run_main(stage1, *flags(csv_path, tmp_path, "--eval-only", "--init-from", trained[0].best))
    assert code == 0, said
    files = RunFiles(tmp_path, stage1.STAGE), trained[0]
    scores = [json.loads(one.metrics.read_text()) for one in files]
    assert scores[0]["loss"] == pytest.approx(scores[1]["loss"], abs=1e-5)
