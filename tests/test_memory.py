"""The plan of a step's memory is what a step takes, and the settings that it proposes fit."""

import dataclasses
import json

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import train_stage1_deepsa as stage1
import train_stage3_obstructions as stage3
from models.backbone import ARCHITECTURES
from models.deepsa_model import build_deepsa_model
from models.lora import add_lora
from tests.csv_fixture import write_tiny_dataset
from tests.stage_script import flags, run_main
from utils.arguments import BACKBONES
from utils.checkpoint import load_checkpoint
from utils.memory import GIB, MemoryMeter, fewest_checkpointed, measure_step, usable_bytes
from utils.plan import plan_run

SIDE = 336


@pytest.fixture(scope="module")
def csv_path(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("data"), patients=3, rows_per_patient=1, size=128)


def small_model(checkpointed: int = 0):
    torch.manual_seed(0)
    model = build_deepsa_model(backbone="sam3-tiny", image_size=SIDE)
    model.backbone.trade_memory(checkpointed_blocks=checkpointed, compiled=False)
    return model


def batch_of(samples: int) -> dict:
    return {"image": torch.rand(samples, 3, SIDE, SIDE), "view_deg": torch.zeros(samples, 2),
            "deepsa_mask": torch.zeros(samples, 1, SIDE, SIDE), "row": torch.arange(samples)}


def bytes_of(tensors) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def largest_of_a_real_step(model, batch, amp: str, path) -> int:
    """The most bytes that the CPU's allocator held during forward and backward pass, beyond what was there before."""
    model.train()

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=amp == "bf16"):
            losses = stage1.compute_loss(model, batch)
        losses["loss"].float().sum().backward()
        model.zero_grad(set_to_none=True)

    step()  # what is made once and kept
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    profiler.export_chrome_trace(str(path))
    events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    changes = sorted((event for event in events if event.get("name") == "[memory]"), key=lambda event: event["ts"])
    before = changes[0]["args"]["Total Allocated"] - changes[0]["args"]["Bytes"]
    return max(change["args"]["Total Allocated"] for change in changes) - before


@pytest.mark.parametrize(("amp", "checkpointed"), [("off", 0), ("bf16", 0), ("bf16", 4)])
def test_the_planned_peak_is_that_of_a_real_step(tmp_path, amp, checkpointed):
    model, batch = small_model(checkpointed), batch_of(2)
    plan = measure_step(model, batch, stage1.compute_loss, amp=amp, keeps_gradients=False)
    assert plan.weights == bytes_of([*model.parameters(), *model.buffers()])
    assert plan.gradients == bytes_of(model.parameters()) == plan.optimizer / 2
    standing = plan.weights + plan.optimizer + bytes_of(batch.values())
    real = standing + largest_of_a_real_step(model, batch, amp, tmp_path / "trace.json")
    assert 0.9 * real < plan.peak < 1.02 * real


def test_measuring_changes_nothing():
    model, batch = small_model(checkpointed=2), batch_of(1)
    weights, state = {name: tensor.clone() for name, tensor in model.state_dict().items()}, torch.get_rng_state()
    model.eval()
    measure_step(model, batch, stage1.compute_loss, amp="bf16", keeps_gradients=True)
    assert not model.training and all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_what_costs_and_what_saves():
    batch = batch_of(2)
    plans = {
        number: measure_step(small_model(number), batch, stage1.compute_loss, amp="bf16", keeps_gradients=False)
        for number in range(5)
    }
    assert [plans[number].activations for number in range(5)] == sorted(
        (plan.activations for plan in plans.values()), reverse=True)
    buckets = measure_step(small_model(), batch, stage1.compute_loss, amp="bf16", keeps_gradients=True)
    assert plans[0].peak < buckets.peak <= plans[0].peak + buckets.gradients
    model = small_model()
    add_lora(model.backbone, rank=4, alpha=8.0)
    lora = measure_step(model, batch, stage1.compute_loss, amp="bf16", keeps_gradients=False)
    assert lora.optimizer < plans[0].optimizer and lora.peak < plans[0].peak
    double = measure_step(small_model(), batch_of(4), stage1.compute_loss, amp="bf16", keeps_gradients=False)
    assert double.activations == pytest.approx(2 * plans[0].activations, rel=0.1)


def test_a_meter_counts_what_is_alive_and_views_once():
    with MemoryMeter() as meter:
        first = torch.zeros(256)
        view = first[:16]
        assert meter.now == 1024
        second = first + 1
        assert meter.now == 2048
        del first
        assert meter.now == 2048, "its view still holds it"
        del view, second
    assert (meter.now, meter.peak) == (0, 2048)


@pytest.mark.parametrize("bend", [0, 0.02])
@pytest.mark.parametrize("usable", [0.5, 3.9, 4, 7.3, 12, 20])
def test_the_fewest_checkpointed_blocks_that_fit(usable, bend):
    def peak_of(number):
        return 4 + 0.5 * (32 - number) + bend * (32 - number) * number

    number, peak = fewest_checkpointed(peak_of, 32, usable)
    assert peak == peak_of(number)
    if usable < 4:
        assert number == 32 and peak > usable
    else:
        fitting = [candidate for candidate in range(33) if peak_of(candidate) <= usable]
        assert peak <= usable and number <= min(fitting) + (bend > 0)


def test_the_backbones_blocks_are_those_of_their_architectures():
    for name, facts in BACKBONES.items():
        assert facts.blocks == (ARCHITECTURES[name]["depth"] if name in ARCHITECTURES else 0)


def test_a_plan_needs_no_parent_and_writes_nothing(csv_path, tmp_path):
    usable = 0.2 * GIB
    card = (usable + GIB) / 0.95 / GIB
    assert usable_bytes(card * GIB) == pytest.approx(usable)
    said, code = run_main(stage3, *flags(csv_path, tmp_path / "run", "--plan", "--card-gib", card, "--world-size", 2))
    assert code == 0, said
    assert not (tmp_path / "run").exists()
    lines = [line for line in said.splitlines() if line.startswith(("  full", "  LoRA"))]
    rows = [line.removesuffix("does not fit").split() for line in lines]
    assert [row[:4] for row in rows] == [
        [kind, "336", str(batch), str(max(1, 2 // batch))] for kind in ("full", "LoRA") for batch in (1, 2, 4, 8)]
    fits = [not line.endswith("does not fit") for line in lines]
    assert fits == [float(row[-1]) <= 0.2 for row in rows] and len(set(fits)) == 2
    assert any(int(row[4]) for row, fit in zip(rows, fits, strict=True) if fit)
    assert "memory: " in said and "between 2 processes" in said


@pytest.mark.parametrize(("given", "told"), [
    (("--checkpoint-blocks", 5), "sam3-tiny has 4 blocks"),
    (("--backbone", "unet", "--checkpoint-blocks", 1), "unet has no blocks"),
    (("--backbone", "unet", "--compile"), "unet has no blocks"),
])
def test_blocks_that_are_not_there(csv_path, tmp_path, given, told):
    said, code = run_main(stage1, *flags(csv_path, tmp_path / "run", *given))
    assert code == 2 and told in said


def test_checkpointed_blocks_change_no_bit_of_a_run(csv_path, tmp_path):
    for folder, given in (("plain", ()), ("saved", ("--checkpoint-blocks", 3))):
        said, code = run_main(stage1, *flags(csv_path, tmp_path / folder, *given))
        assert code == 0, said
    plain, saved = (load_checkpoint(tmp_path / folder / "phase1_deepsa_latest.pth") for folder in ("plain", "saved"))
    assert all(torch.equal(tensor, saved["model"][name]) for name, tensor in plain["model"].items())
    said, code = run_main(stage1, *flags(csv_path, tmp_path / "saved", "--resume", "--epochs", 2,
                                         "--checkpoint-blocks", 1))
    assert code == 0 and "epochs 1 -> 2" in said and "checkpoint_blocks" not in said.replace(" ", "_"), said


def reading_loss(model, batch):
    losses = stage1.compute_loss(model, batch)
    return {"loss": losses["loss"] * float(losses["dice"].sum())}


def test_a_run_says_its_plan_or_why_there_is_none(csv_path, tmp_path):
    args = stage1.parse_arguments(flags(csv_path, tmp_path / "run", "--card-gib", 24))
    model, sample = small_model(), {key: value[0] for key, value in batch_of(1).items()}
    said = plan_run(stage1.STAGE_1, model, sample, args, amp="bf16", ranks=2)
    assert said.startswith("memory: ") and "of 24.0 GiB 21.8 can be used" in said and "WARNING" not in said
    args.card_gib = 1.1
    assert "WARNING: that does not fit" in plan_run(stage1.STAGE_1, model, sample, args, amp="bf16", ranks=2)
    stage = dataclasses.replace(stage1.STAGE_1, compute_loss=reading_loss)
    assert "memory: not planned (" in plan_run(stage, model, sample, args, amp="off", ranks=1)


def out_of_memory(model, batch):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.90 GiB.")


def out_of_main_memory(model, batch):
    raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")


def other_error(model, batch):
    raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


@pytest.mark.parametrize(("fault", "ranks"), [
    (out_of_memory, 1), pytest.param(out_of_memory, 2, marks=pytest.mark.slow), (out_of_main_memory, 1),
])
def test_out_of_memory_says_what_to_do(csv_path, tmp_path, monkeypatch, fault, ranks):
    monkeypatch.setattr(stage1, "STAGE_1", dataclasses.replace(stage1.STAGE_1, compute_loss=fault))
    said, code = run_main(stage1, *flags(csv_path, tmp_path / "run", "--world-size", ranks))
    assert code == 1 and "allocate" in said and "--plan" in said


def test_other_errors_keep_their_traceback(csv_path, tmp_path, monkeypatch):
    monkeypatch.setattr(stage1, "STAGE_1", dataclasses.replace(stage1.STAGE_1, compute_loss=other_error))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        run_main(stage1, *flags(csv_path, tmp_path / "run"))
