"""The inner loops: exact gradients, exact stops, exact coverage."""

import pytest
import torch

from engine import NonFiniteError, check_all_take_part, train_one_epoch
from tests.tiny_training import (
    CPU,
    TinyData,
    TinyModel,
    build_run,
    compute_loss,
    describe,
    options,
    run,
    score_batch,
)
from utils.interrupt import StopRequest
from utils.loader import RowError
from utils.ranks.distributed import Ranks
from utils.sampler import epoch_permutation
from utils.training_state import build_schedule


def train(state, loader, loss=compute_loss, **given):
    setting = dict(ranks=Ranks(), device=CPU, amp="off", stop=StopRequest(), describe=describe)
    return train_one_epoch(state, loader, loss, **{**setting, **given})


def gradients_of_steps(args):
    """Gradients that the optimizer was given, a list of tensors for each step of the first epoch."""
    state, loaders, _ = build_run(Ranks(), args)
    steps = []
    state.optimizer.register_step_pre_hook(
        lambda optimizer, *_: steps.append(
            [p.grad.clone() for group in optimizer.param_groups for p in group["params"]]
        )
    )
    train(state, loaders["train"], clip=0)
    return steps


def assert_same(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_accumulation_gives_the_gradient_of_the_whole_batch_uneven_last_step_too():
    setting = dict(rows=9, epochs=1, dropout=0.0, lr=0.0)
    assert_same(
        gradients_of_steps(options(batch_size=2, accum_steps=2, **setting)),
        gradients_of_steps(options(batch_size=4, accum_steps=1, **setting)),
    )


def test_the_gradient_is_the_mean_over_the_samples_of_a_step():
    args = options(rows=5, epochs=1, batch_size=3, dropout=0.0, lr=0.0)
    given = gradients_of_steps(args)[1]  # the uneven step: 2 samples
    torch.manual_seed(args.seed)
    model, data = TinyModel(dropout=0.0), TinyData(5)
    total = 0.0
    for index in epoch_permutation(5, seed=0, epoch=0)[3:]:
        sample = data[(int(index), 0)]
        total = (
            total
            + compute_loss(model, {"image": sample["image"][None], "mask": sample["mask"][None]})[
                "loss"
            ].sum()
        )
    (total / 2).backward()
    assert_same([given], [[parameter.grad for parameter in model.parameters()]])


def test_the_epoch_loss_is_the_mean_over_samples_not_over_batches():
    state, loaders, _ = build_run(Ranks(), options(rows=5, batch_size=4, dropout=0.0, lr=0.0))

    def loss(model, batch):
        return {"loss": model(batch["image"]).mean(dim=(1, 2, 3)) * 0 + batch["row"].float()}

    assert train(state, loaders["train"], loss) == {"loss": pytest.approx(2.0)}


def test_a_picture_with_nan_is_named_and_the_weights_stay(tmp_path):
    state, loaders, _ = build_run(Ranks(), options(rows=6, batch_size=6, nan_row=4))
    before = [parameter.clone() for parameter in state.model.parameters()]
    with pytest.raises(NonFiniteError, match=r"rank 0: picture 4: loss nan") as caught:
        train(state, loaders["train"])
    assert "picture 3" not in str(caught.value)
    assert all(torch.equal(a, b) for a, b in zip(before, state.model.parameters(), strict=True))
    assert state.progress.global_step == 0 and not state.optimizer.state


def test_a_gradient_that_is_not_finite_names_all_samples_of_the_step():
    state, loaders, _ = build_run(Ranks(), options(rows=2, batch_size=2))

    def loss(model, batch):
        logits = model(batch["image"]).flatten(1).mean(1)
        return {"loss": (logits - logits.detach()).sqrt()}  # sqrt at 0: value 0, slope infinite

    with pytest.raises(NonFiniteError, match="the losses are finite, but") as caught:
        train(state, loaders["train"], loss)
    assert "picture 0" in str(caught.value) and "picture 1" in str(caught.value)


def test_clipping_bounds_the_gradient():
    state, loaders, _ = build_run(Ranks(), options(rows=2, batch_size=2))
    norms = []
    state.optimizer.register_step_pre_hook(
        lambda optimizer, *_: norms.append(
            torch.nn.utils.get_total_norm([p.grad for p in state.model.parameters()])
        )
    )
    train(state, loaders["train"], clip=1e-3)
    assert float(norms[0]) == pytest.approx(1e-3, rel=1e-2)


def test_parameters_that_take_no_part_are_named():
    model = TinyModel(spare=True)
    compute_loss(model, {"image": torch.rand(1, 3, 8, 8), "mask": torch.ones(1, 1, 8, 8)})[
        "loss"
    ].sum().backward()
    with pytest.raises(
        RuntimeError, match="2 trainable parameters take no part in the loss: spare.weight, spare.bias"
    ):
        check_all_take_part(model)
    model.spare.requires_grad_(False)
    check_all_take_part(model)


def test_a_loss_that_is_not_per_sample_is_refused():
    state, loaders, _ = build_run(Ranks(), options())
    with pytest.raises(ValueError, match=r"loss has shape \(\), one value a sample is \(2,\)"):
        train(state, loaders["train"], lambda model, batch: {"loss": model(batch["image"]).mean()})


def test_a_batch_that_validation_sees_twice_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="0 to 4 once each"):
        run(
            Ranks(),
            options(folder=tmp_path, epochs=1),
            score=lambda model, batch: score_batch(model, batch) * 2,
        )


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_row_that_cannot_be_loaded_is_named(tmp_path, num_workers):
    with pytest.raises(RowError, match="picture 2: OSError: disk on fire"):
        run(Ranks(), options(folder=tmp_path, epochs=1, broken_row=2, num_workers=num_workers))


def test_loader_processes_change_nothing(tmp_path):
    alone = run(Ranks(), options(folder=tmp_path / "0", epochs=2, rows=5, num_workers=0))
    helped = run(Ranks(), options(folder=tmp_path / "1", epochs=2, rows=5, num_workers=1))
    for a, b in zip(alone.model.state_dict().values(), helped.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_the_schedule_warms_up_and_falls_to_zero():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = build_schedule(optimizer, steps=20, warmup_steps=4)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5:] == sorted(rates[5:], reverse=True) and rates[-1] < 0.02
    assert rates[12] == pytest.approx(0.5)
