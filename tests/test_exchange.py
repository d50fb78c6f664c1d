"""Gradients that travel in 16 bits: the sum of float32 but for two roundings, the same on every rank."""

import pytest
import torch
import torch.distributed as dist

from engine import train_one_epoch
from tests.test_distributed import CASES, follow_steps
from tests.tiny_training import CPU, build_run, compute_loss, options, score_batch
from utils.interrupt import StopRequest
from utils.ranks.distributed import launch
from utils.ranks.exchange import EXCHANGES, HalvedExchange, exchange_bytes, exchange_seconds, halve_exchange

# Of a rounding to so many bits of precision the largest share of a number.
ROUNDING = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
LENGTH = 1001  # not a multiple of three ranks


def gradients_of(rank):
    """Numbers of very different sizes, float32 (LENGTH,)."""
    generator = torch.Generator().manual_seed(rank)
    return torch.randn(LENGTH, generator=generator) * 10.0 ** torch.randint(-6, 6, (LENGTH,), generator=generator)


def average_everywhere(ranks, folder):
    found = {}
    for name in ("bf16", "fp16"):
        exchange = HalvedExchange(EXCHANGES[name])
        for case, values in cases_of(ranks.rank).items():
            buffer = values.clone()
            exchange._average(buffer)
            found[name, case] = buffer
    torch.save(found, folder / f"{ranks.world_size}-{ranks.rank}.pt")


def cases_of(rank):
    values = gradients_of(rank)
    broken, small = values.clone(), values * 1e-30
    if rank == 1:
        broken[5], broken[LENGTH - 1] = torch.inf, torch.nan
    return {"plain": values, "large": values * 1e25, "small": small, "zero": torch.zeros(LENGTH), "broken": broken}


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def averaged(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("averaged")
    launch(average_everywhere, (folder,), world_size=request.param, default_port=12395)
    return [torch.load(folder / f"{request.param}-{rank}.pt") for rank in range(request.param)]


@pytest.mark.parametrize("name", ["bf16", "fp16"])
@pytest.mark.parametrize("case", ["plain", "large", "small", "zero"])
def test_the_mean_is_that_of_float32_but_for_two_roundings(averaged, name, case):
    values = torch.stack([cases_of(rank)[case].double() for rank in range(len(averaged))])
    largest = values.abs().mean(dim=0)
    # Of fp16 also what its range costs: numbers far below the largest of a bucket lose bits.
    floor = 2.0**-38 * values.abs().max() if name == "fp16" else 0.0
    error = (averaged[0][name, case].double() - values.mean(dim=0)).abs()
    assert bool((error <= 2.05 * ROUNDING[EXCHANGES[name]] * largest + floor).all())
    if case == "plain":
        assert error.max() > 1e-6 * values.abs().max()  # it did travel in 16 bits


def test_every_rank_has_the_same_bits_also_of_what_is_not_finite(averaged):
    for key, first in averaged[0].items():
        for other in averaged[1:]:
            assert torch.equal(first.view(torch.int32), other[key].view(torch.int32)), key
    for name in ("bf16", "fp16"):
        assert averaged[0][name, "broken"][5] == torch.inf and averaged[0][name, "broken"][-1].isnan()


def follow_halved(ranks, folder):
    """Gradients of every step of a run with accumulation, in each way of exchange."""
    rows, batch_size, accum_steps = CASES[2]
    found = {}
    for name in EXCHANGES if ranks.world_size > 1 else ("fp32",):
        args = options(
            rows=rows, batch_size=batch_size * 2 // ranks.world_size, accum_steps=accum_steps, epochs=1, lr=0.0,
            dropout=0.0,
        )
        state, loaders, _ = build_run(ranks, args)
        if ranks.world_size > 1:
            halve_exchange(state.model, name)
        found[name] = follow_steps(state, loaders, compute_loss, score_batch, ranks)["steps"]
    torch.save(found, folder / f"{ranks.world_size}-{ranks.rank}.pt")


@pytest.mark.slow
def test_training_with_halved_exchange_follows_one_rank(tmp_path):
    for world_size in (1, 2):
        launch(follow_halved, (tmp_path,), world_size=world_size, default_port=12393)
    alone = torch.load(tmp_path / "1-0.pt")["fp32"]
    first, second = (torch.load(tmp_path / f"2-{rank}.pt") for rank in (0, 1))
    for name, dtype in EXCHANGES.items():
        allowed = 1e-6 if dtype is None else 2 * ROUNDING[dtype]
        for one, steps, same in zip(alone, first[name], second[name], strict=True):
            largest = max(float(a.abs().max()) for a in one)
            for a, b, c in zip(one, steps, same, strict=True):
                assert torch.equal(b, c)
                torch.testing.assert_close(a, b, rtol=1e-5, atol=allowed * largest)
    pairs = zip(first["fp32"], first["bf16"], strict=True)
    assert any(not torch.equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))


def count_exchanges(ranks, folder):
    """How many buckets travel in a run of steps of three passes."""
    counted = []

    def hook(_, bucket):
        counted.append(len(bucket.buffer()))
        return dist.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda future: future.value()[0])

    state, loaders, _ = build_run(ranks, options(rows=24, batch_size=2, accum_steps=3, epochs=1))
    state.model.register_comm_hook(None, hook)
    setting = dict(ranks=ranks, device=CPU, amp="off", stop=StopRequest(announce=False))
    passes = []

    def loss(model, batch):
        passes.append(len(counted))
        return compute_loss(model, batch)

    train_one_epoch(state, loaders["train"], loss, describe=str, **setting)
    torch.save({"counted": counted, "passes": passes}, folder / f"{ranks.rank}.pt")


def test_accumulation_sends_nothing(tmp_path):
    """24 rows on two ranks in batches of two and steps of three passes: two exchanges, each after the third pass."""
    launch(count_exchanges, (tmp_path,), world_size=2, default_port=12394)
    found = torch.load(tmp_path / "0.pt")
    assert found["passes"] == [0, 0, 0, 1, 1, 1] and len(found["counted"]) == 2


def test_what_an_exchange_costs():
    """Two ranks swap half of the numbers twice: each sends all of them once."""
    assert exchange_bytes(454_000_000, 2, 4) == 454_000_000 * 4
    assert exchange_bytes(1000, 4, 2) == 2 * 1000 * 2 * 3 / 4
    assert exchange_bytes(1000, 1, 4) == 0
    assert exchange_seconds(454_000_000, 2, 4, 10.0) == pytest.approx(1.4528)
    assert exchange_seconds(454_000_000, 2, 2, 10.0) == pytest.approx(0.7264)
