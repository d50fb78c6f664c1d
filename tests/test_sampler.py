"""No sample lost, none seen twice, no rank left waiting: whatever the numbers."""

import pytest

from utils.sampler import EvaluationSampler, TrainingSampler, epoch_permutation

SHAPES = [(1, 1, 1, 1), (9, 2, 1, 2), (7, 4, 3, 2), (5, 2, 1, 4), (3, 2, 2, 4), (16, 2, 2, 2), (10, 3, 1, 3)]


def make_samplers(rows, batch_size, accum_steps, world_size, seed=0):
    return [
        TrainingSampler(
            rows, batch_size=batch_size, accum_steps=accum_steps, rank=rank, world_size=world_size, seed=seed
        )
        for rank in range(world_size)
    ]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_sample_is_real_exactly_once_over_all_ranks(shape):
    rows = shape[0]
    seen = [
        index
        for sampler in make_samplers(*shape)
        for micro in sampler.micro_batches()
        if micro.real
        for index in micro.indices
    ]
    assert sorted(seen) == list(range(rows))


@pytest.mark.parametrize("shape", SHAPES)
def test_ranks_make_the_same_number_of_passes_and_close_steps_together(shape):
    plans = [
        [(micro.closes_step, micro.step_samples) for micro in s.micro_batches()]
        for s in make_samplers(*shape)
    ]
    assert all(plan == plans[0] for plan in plans)
    assert sum(closes for closes, _ in plans[0]) == make_samplers(*shape)[0].steps_per_epoch
    assert sum(samples for closes, samples in plans[0] if closes) == shape[0]


@pytest.mark.parametrize("shape", SHAPES)
def test_no_pass_is_empty_or_larger_than_the_batch_size(shape):
    for sampler in make_samplers(*shape):
        assert all(1 <= len(micro.indices) <= shape[1] for micro in sampler.micro_batches())
        assert len(sampler) == len(list(sampler))


def test_resuming_yields_what_is_left_of_the_epoch():
    sampler = TrainingSampler(11, batch_size=2, accum_steps=2, seed=3)
    sampler.start(5)
    whole = list(sampler)
    sampler.start(5, samples_done=sampler.samples_per_step)
    assert list(sampler) == whole[2:]


def test_resuming_on_other_ranks_loses_and_repeats_nothing():
    order = epoch_permutation(13, seed=1, epoch=2)
    seen = []
    for sampler in make_samplers(13, 1, 1, 3, seed=1):
        sampler.start(2, samples_done=4)
        seen += [index for micro in sampler.micro_batches() if micro.real for index in micro.indices]
    assert sorted(seen) == sorted(order[4:])


def test_keys_carry_the_epoch_and_epochs_differ():
    sampler = TrainingSampler(20, batch_size=20)
    sampler.start(3)
    third = next(iter(sampler))
    sampler.start(4)
    fourth = next(iter(sampler))
    assert {epoch for _, epoch in third} == {3}
    assert [index for index, _ in third] != [index for index, _ in fourth]


def test_no_rows_is_an_error_that_says_where_to_look():
    with pytest.raises(ValueError, match="split column"):
        TrainingSampler(0, batch_size=1)


@pytest.mark.parametrize("rows, batch_size, world_size", [(1, 4, 2), (9, 2, 2), (10, 3, 4), (0, 1, 1)])
def test_validation_sees_every_row_once_in_the_same_batches(rows, batch_size, world_size):
    parts = [
        list(EvaluationSampler(rows, batch_size=batch_size, rank=r, world_size=world_size))
        for r in range(world_size)
    ]
    assert sorted(row for part in parts for batch in part for row in batch) == list(range(rows))
    alone = list(EvaluationSampler(rows, batch_size=batch_size))
    assert sorted(batch for part in parts for batch in part) == alone
