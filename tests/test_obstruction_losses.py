"""Stage 3's losses and targets, on outputs and batches made by hand."""

import argparse
import math

import pytest
import torch

import train_stage3_obstructions as stage3
from models.obstruction_head import PRIOR, STRIDE, ObstructionHead
from models.obstruction_model import ObstructionOutput
from utils.obstructions.losses import PEAK_CELLS, focal_score_loss, peak_target, shape_losses
from utils.obstructions.prediction import to_cells

ARGS = argparse.Namespace(threshold_pct=50.0, elsewhere_weight=0.0)
NAN = float("nan")


def test_the_peak_is_one_in_the_points_cell_and_falls_with_the_distance():
    target = peak_target(torch.tensor([[5.3, 2.6], [NAN, NAN]]), (8, 10))
    assert target.shape == (2, 1, 8, 10)
    assert target[0, 0, 3, 5] == 1 and (target[0] == 1).sum() == 1
    assert float(target[0, 0, 3, 7]) == pytest.approx(math.exp(-4 / (2 * PEAK_CELLS**2)))
    assert (target[1] == 0).all()


def test_the_focal_loss_is_that_of_a_plain_loop_and_silent_where_unknown():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 1, 5, 6, generator=generator, requires_grad=True)
    target = peak_target(torch.tensor([[2.0, 3.0], [NAN, NAN]]), (5, 6))
    known = (torch.rand(2, 1, 5, 6, generator=generator) > 0.3).float()
    known[0, 0, 3, 2] = 1
    loss = focal_score_loss(logits, target, known)
    for sample in range(2):
        expected = 0.0
        for place in torch.cartesian_prod(torch.arange(5), torch.arange(6)).tolist():
            p, y = float(logits[sample, 0, *place].sigmoid()), float(target[sample, 0, *place])
            cost = -((1 - p) ** 2) * math.log(p) if y == 1 else -((1 - y) ** 4) * p**2 * math.log(1 - p)
            expected += float(known[sample, 0, *place]) * cost
        assert float(loss[sample].detach()) == pytest.approx(expected, rel=1e-4)
    loss.sum().backward()
    assert (logits.grad[known == 0] == 0).all() and (logits.grad[known == 1] != 0).all()


def perfect_shape(point, box, size=(12, 12)):
    """Offset and sides of every cell that say the same point and box."""
    y, x = torch.meshgrid(*(torch.arange(float(n)) for n in size), indexing="ij")
    cells = torch.stack([x, y])
    offset = point[:, None, None] - cells
    sides = torch.cat([cells - box[:2, None, None], box[2:, None, None] - cells])
    return offset[None], sides[None]


def test_a_perfect_shape_costs_nothing_and_errors_cost_what_they_are():
    point, box = torch.tensor([5.2, 6.4]), torch.tensor([3.0, 4.0, 8.0, 9.0])
    offset, sides = perfect_shape(point, box)
    stenosis = torch.full((1, 1, 12, 12), 0.7)
    losses = shape_losses(offset, sides, stenosis, point[None], box[None], torch.tensor([0.6]))
    assert float(losses["offset"]) == pytest.approx(0, abs=1e-5)
    assert float(losses["box"]) == pytest.approx(0, abs=1e-3)
    assert float(losses["stenosis"]) == pytest.approx(0.1, abs=1e-5)
    moved = shape_losses(offset + 0.5, sides + 1, stenosis, point[None], box[None], torch.tensor([0.6]))
    assert float(moved["offset"]) == pytest.approx(1.0, abs=1e-5)  # half a cell in x and in y
    assert float(moved["box"]) == pytest.approx(1 - 25 / 49, abs=1e-3)


def test_what_is_not_known_of_a_shape_costs_nothing():
    offset, sides = perfect_shape(torch.tensor([5.0, 6.0]), torch.tensor([3.0, 4.0, 8.0, 9.0]))
    nowhere, no_box = torch.full((1, 2), NAN), torch.full((1, 4), NAN)
    losses = shape_losses(offset, sides, torch.zeros(1, 1, 12, 12), nowhere, no_box, torch.tensor([NAN]))
    assert all(float(value) == 0 for value in losses.values())


def random_batch(side=64):
    """Two frames: a vessel across with an obstruction of 70 %, and the same one of 20 %."""
    vessels = torch.zeros(2, 1, side, side)
    vessels[:, :, 28:36] = 1
    segment = vessels.clone()
    segment[..., 40:] = 0
    return {
        "deepsa_mask": vessels, "segment_mask": segment, "known": 1 - (vessels - segment),
        "obstruction_point": torch.tensor([[20.0, 31.5]] * 2), "obstruction_box": torch.tensor([[12.0, 28, 27, 35]] * 2),
        "stenosis_pct": torch.tensor([70.0, 20.0]),
    }


def random_output(side=64):
    torch.manual_seed(0)
    logits = torch.randn(2, 1, side, side)
    return ObstructionOutput(logits, *ObstructionHead(fine_channels=8)(torch.randn(2, 8, side // 4, side // 4), logits))


def test_severity_is_learned_from_all_rows_box_and_peak_from_positive_ones():
    losses = stage3.obstruction_losses(ARGS, random_output(), random_batch())
    assert all(value.shape == (2,) and value.isfinite().all() for value in losses.values())
    assert losses["box"][0] > 0 and losses["box"][1] == 0
    assert (losses["stenosis"] > 0).all() and losses["score"][0] > losses["score"][1]
    everyone = argparse.Namespace(**{**vars(ARGS), "threshold_pct": 10.0})
    assert (stage3.obstruction_losses(everyone, random_output(), random_batch())["box"] > 0).all()


def test_other_vessels_are_unknown_unless_asked_otherwise():
    batch, positive = random_batch(), torch.tensor([True, False])
    known = stage3.known_cells(ARGS, batch, positive)
    assert known.shape == (2, 1, 16, 16)
    assert (known[..., 7:9, :10] == 1).all() and (known[..., 7:9, 10:] == 0).all() and (known[..., :7, :] == 1).all()
    healthy = argparse.Namespace(**{**vars(ARGS), "elsewhere_weight": 1.0})
    assert (stage3.known_cells(healthy, batch, positive) == 1).all()


def test_an_obstruction_that_left_the_picture_is_neither_found_nor_missed():
    batch = random_batch()
    batch["obstruction_point"][:] = NAN
    known = stage3.known_cells(ARGS, batch, torch.tensor([True, False]))
    assert (known[0, :, 7:9, :10] == 0).all() and (known[1, :, 7:9, :10] == 1).all()


def test_pixels_and_cells_have_the_same_corners():
    side = 64
    corners = to_cells(torch.tensor([[-0.5, side - 0.5], [1.5, 0.0]]))
    torch.testing.assert_close(corners, torch.tensor([[-0.5, side / STRIDE - 0.5], [0.0, -0.375]]))


def test_the_head_starts_from_rare_obstructions_and_reads_the_mask_without_bending_it():
    torch.manual_seed(0)
    head, logits = ObstructionHead(fine_channels=8), torch.randn(1, 1, 32, 32, requires_grad=True)
    score, offset, sides, stenosis = head(torch.randn(1, 8, 8, 8), logits)
    assert 0.2 * PRIOR < float(score.sigmoid().mean()) < 5 * PRIOR
    assert (sides > 0).all() and ((stenosis > 0) & (stenosis < 1)).all() and offset.shape == (1, 2, 8, 8)
    (score.sum() + sides.sum()).backward()
    assert logits.grad is None
    other = head(torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(1)), -logits)[0]
    assert not torch.allclose(score, other)
