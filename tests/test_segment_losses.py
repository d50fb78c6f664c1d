"""Losses from partial labels against plain numpy; what is unknown costs nothing and teaches nothing."""

import numpy as np
import pytest
import torch

from utils.segments.losses import box_loss, drawn_name_loss, name_loss, weighted_mean

# Three classes and "none of them": 0 and 1 are of one artery, 2 of the other.
OTHER_ARTERY = torch.tensor([[False, False, True], [False, False, True], [True, True, False]])
CLASS_INDEX = torch.tensor([1, 2])
BATCH, CHANNELS, HEIGHT, WIDTH = 2, 4, 3, 5


@pytest.fixture
def case():
    """Logits, and weights of pixels inside and outside the mask, with pixels that are neither."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(BATCH, CHANNELS, HEIGHT, WIDTH, generator=generator)
    inside, outside = torch.zeros(2, BATCH, 1, HEIGHT, WIDTH)
    inside[:, :, 0, :2], inside[:, :, 1, 1] = torch.tensor([1.0, 0.5]), 0.25
    outside[:, :, 2, 2:], outside[1, :, 0, 4] = torch.tensor([1.0, 0.125, 0.75]), 1.0
    return logits, inside, outside


def softmax(logits):
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def mean_over(values, weights):
    return (values * weights).sum() / weights.sum()


def plain_name_loss(logits, index, inside, outside):
    """One sample, pixel by pixel: (C, H, W) and two (H, W)."""
    known, absent = np.zeros((2, *inside.shape))
    wrong = [index, *np.flatnonzero(OTHER_ARTERY[index])]
    for place in np.ndindex(inside.shape):
        probs = softmax(logits[(slice(None), *place)])
        known[place] = -np.log(probs[index])
        absent[place] = -np.log(1 - probs[wrong].sum())
    return mean_over(known, inside) + mean_over(absent, outside)


def test_the_name_loss_is_that_of_a_plain_loop(case):
    logits, inside, outside = case
    found = name_loss(logits, CLASS_INDEX, inside, outside, OTHER_ARTERY)
    expected = [
        plain_name_loss(one.double().numpy(), int(index), weights[0].numpy(), others[0].numpy())
        for one, index, weights, others in zip(logits, CLASS_INDEX, inside, outside, strict=True)
    ]
    assert found.shape == (BATCH,)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def gradient(loss, logits):
    logits = logits.clone().requires_grad_()
    loss(logits).sum().backward()
    return logits.grad


def test_only_known_pixels_have_a_gradient(case):
    logits, inside, outside = case
    for index, loss in {
        "names": lambda x: name_loss(x, CLASS_INDEX, inside, outside, OTHER_ARTERY),
        "drawn": lambda x: drawn_name_loss(x, torch.ones(BATCH, HEIGHT, WIDTH).long(), outside),
    }.items():
        touched = gradient(loss, logits).abs().amax(dim=1, keepdim=True) > 0
        known = (outside > 0) | ((inside > 0) if index == "names" else False)
        assert torch.equal(touched, known), index


def test_inside_the_mask_the_own_name_gains_on_all_others(case):
    logits, inside, outside = case
    slope = gradient(lambda x: name_loss(x, CLASS_INDEX, inside, 0 * outside, OTHER_ARTERY), logits)
    for sample, index in enumerate(CLASS_INDEX):
        at_mask = slope[sample][:, inside[sample, 0] > 0]
        others = [channel for channel in range(CHANNELS) if channel != index]
        assert (at_mask[index] < 0).all() and (at_mask[others] > 0).all()


def test_outside_the_mask_the_loss_prefers_none_of_the_names_that_may_be_there(case):
    logits, inside, outside = case
    slope = gradient(lambda x: name_loss(x, CLASS_INDEX, 0 * inside, outside, OTHER_ARTERY), logits)
    probs = logits.softmax(dim=1)
    for sample, (wrong, allowed) in enumerate((([1, 2], [0, 3]), ([2, 0, 1], [3]))):
        here = outside[sample, 0] > 0
        assert (slope[sample][wrong][:, here] > 0).all() and (slope[sample][allowed][:, here] < 0).all()
        # They rise in proportion to what they have: which of them it is stays as it was.
        shares = slope[sample][allowed][:, here] / probs[sample][allowed][:, here]
        torch.testing.assert_close(shares, shares[:1].expand_as(shares), rtol=1e-4, atol=1e-6)


def test_a_frame_without_weights_costs_nothing(case):
    logits, inside, outside = case
    for loss in (
        lambda x: name_loss(x, CLASS_INDEX, 0 * inside, 0 * outside, OTHER_ARTERY),
        lambda x: drawn_name_loss(x, torch.ones(BATCH, HEIGHT, WIDTH).long(), 0 * outside),
    ):
        assert loss(logits).tolist() == [0.0, 0.0]
        assert (gradient(loss, logits) == 0).all()


def test_names_that_are_wrong_beyond_doubt_cost_much_but_not_infinitely_much(case):
    logits, inside, outside = case
    sure = torch.zeros_like(logits)
    sure[:, 2] = 500.0  # wrong inside for the first sample, outside for both
    losses = name_loss(sure, CLASS_INDEX, inside, outside, OTHER_ARTERY)
    assert losses.isfinite().all() and (losses > 100).all()
    slope = gradient(lambda x: name_loss(x, CLASS_INDEX, 0 * inside, outside, OTHER_ARTERY), sure)
    assert slope.isfinite().all() and (slope[:, 2][outside[:, 0] > 0] > 0).all()  # and is still unlearned


def test_the_loss_of_drawn_names_is_that_of_a_plain_loop(case):
    logits, _, outside = case
    names = torch.randint(0, CHANNELS, (BATCH, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(1))
    vessels = outside.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)  # twice as fine as the names
    found = drawn_name_loss(logits, names, vessels)
    for sample in range(BATCH):
        entropy, weights = np.zeros((2, HEIGHT, WIDTH))
        for place in np.ndindex(HEIGHT, WIDTH):
            probs = softmax(logits[(sample, slice(None), *place)].double().numpy())
            entropy[place] = -np.log(probs[names[(sample, *place)]])
            weights[place] = outside[(sample, 0, *place)]
        assert float(found[sample]) == pytest.approx(mean_over(entropy, weights), rel=1e-4)


def test_losses_are_float32_under_mixed_precision(case):
    logits, inside, outside = case
    half = name_loss(logits.bfloat16(), CLASS_INDEX, inside, outside, OTHER_ARTERY)
    full = name_loss(logits.bfloat16().float(), CLASS_INDEX, inside, outside, OTHER_ARTERY)
    assert half.dtype == torch.float32 and torch.equal(half, full)


def test_boxes_by_hand():
    target = torch.tensor([[0.5, 0.5, 0.4, 0.2]] * 3)
    box = torch.tensor([[0.5, 0.5, 0.4, 0.2], [0.6, 0.5, 0.4, 0.2], [0.1, 0.1, 0.2, 0.2]])
    # Shifted by a quarter of its width: intersection 0.06, union and hull 0.1. Apart: hull 0.7 x 0.6, union
    # 0.12.
    giou = [1.0, 0.6, 0.0 - (0.42 - 0.12) / 0.42]
    lengths = [0.0, 0.1, 0.4 + 0.4 + 0.2 + 0.0]
    expected = [length + 1 - value for length, value in zip(lengths, giou, strict=True)]
    np.testing.assert_allclose(box_loss(box, target), expected, atol=1e-5)


def test_a_frame_without_the_segment_has_no_box_to_learn():
    target = torch.tensor([[0.5, 0.5, 0.4, 0.2], [torch.nan] * 4])
    box = torch.tensor([[0.4, 0.5, 0.3, 0.2], [0.3, 0.3, 0.2, 0.2]], requires_grad=True)
    losses = box_loss(box, target)
    losses.sum().backward()
    assert losses[0] > 0 and losses[1] == 0
    assert box.grad.isfinite().all() and (box.grad[1] == 0).all() and (box.grad[0] != 0).any()


def test_weighted_means_by_hand():
    values, weights = torch.tensor([[1.0, 3.0], [5.0, 7.0]]), torch.tensor([[0.25, 0.75], [0.0, 0.0]])
    assert weighted_mean(values, weights).tolist() == [2.5, 0.0]
