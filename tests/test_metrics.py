"""Scores against hand-computed values, plain numpy and MONAI; intervals over patients."""

import warnings

import numpy as np
import pytest
import torch

from utils.losses import bce_loss, soft_dice_loss
from utils.metrics import (
    bootstrap_ci,
    cldice,
    dice,
    format_summary,
    hd95_px,
    iou,
    mask_scores,
    summarise_records,
)

EMPTY = np.zeros((30, 40), bool)


def bar(row, start=5, stop=25, thickness=3):
    mask = EMPTY.copy()
    mask[row : row + thickness, start:stop] = True
    return mask


def blobs(seed, side=60):
    noise = np.random.default_rng(seed).random((side // 6, side // 6)) > 0.7
    return np.kron(noise, np.ones((6, 6))).astype(bool)


def test_dice_and_iou_by_hand():
    prediction, label = bar(10), bar(11)  # 60 pixels each, 40 in both, 80 in either
    assert dice(prediction, label) == pytest.approx(2 * 40 / 120)
    assert iou(prediction, label) == pytest.approx(40 / 80)


def test_cldice_forgives_width_but_not_a_gap():
    label, wide, gap = bar(10), bar(8, thickness=7), bar(10)
    gap[:, 12:18] = False
    assert cldice(wide, label) > 0.95 > dice(wide, label)
    assert cldice(gap, label) < 0.9


def test_cldice_is_the_same_as_without_cropping():
    from skimage.morphology import skeletonize

    prediction, label = blobs(1), blobs(2)
    precision, sensitivity = label[skeletonize(prediction)].mean(), prediction[skeletonize(label)].mean()
    assert cldice(prediction, label) == pytest.approx(2 * precision * sensitivity / (precision + sensitivity))


def test_hd95_of_a_shift_is_the_shift():
    assert hd95_px(bar(10), bar(14)) == pytest.approx(4.0)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_hd95_equals_brute_force(seed):
    prediction, label = blobs(seed), blobs(seed + 10)

    def edge(mask):
        inside = np.pad(mask, 1)
        inner = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
        return np.argwhere(mask & ~inner)

    a, b = edge(prediction), edge(label)
    distances = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    expected = max(np.percentile(distances.min(1), 95), np.percentile(distances.min(0), 95))
    assert hd95_px(prediction, label) == pytest.approx(expected, abs=1e-4)


def test_hd95_equals_monai_to_the_bit():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.metrics import compute_hausdorff_distance

        for seed in range(40):
            rng = np.random.default_rng(seed)
            shape = rng.integers(1, 60, 2)  # masks that touch the borders, of one row, of one pixel
            prediction, label = (rng.random(shape) < rng.random() for _ in range(2))
            prediction.flat[rng.integers(prediction.size)] = label.flat[rng.integers(label.size)] = True
            pair = [torch.from_numpy(mask)[None, None] for mask in (prediction, label)]
            expected = compute_hausdorff_distance(*pair, include_background=True, percentile=95).item()
            assert hd95_px(prediction, label) == expected, seed


def test_soft_dice_equals_monai():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.losses import DiceLoss

    logits, labels = torch.randn(3, 1, 8, 8), (torch.rand(3, 1, 8, 8) > 0.6).float()
    expected = DiceLoss(sigmoid=True, reduction="none")(logits, labels).flatten()
    assert torch.allclose(soft_dice_loss(logits, labels), expected, atol=1e-6)


def test_losses_are_per_sample_and_finite_on_empty_labels():
    logits, labels = torch.randn(2, 1, 6, 6), torch.zeros(2, 1, 6, 6)
    for loss in (bce_loss, soft_dice_loss):
        both = loss(logits, labels)
        assert both.shape == (2,) and torch.isfinite(both).all()
        assert torch.allclose(both[1:], loss(logits[1:], labels[1:]))


def test_empty_masks_follow_the_documented_convention():
    assert mask_scores(EMPTY, EMPTY, "x") == {"dice_x": 1.0, "iou_x": 1.0, "cldice_x": 1.0, "hd95_px_x": 0.0}
    for pair in ((EMPTY, bar(10)), (bar(10), EMPTY)):
        assert mask_scores(*pair, "x") == {"dice_x": 0.0, "iou_x": 0.0, "cldice_x": 0.0, "hd95_px_x": 50.0}


def test_masks_of_another_kind_are_refused():
    with pytest.raises(ValueError, match="bool masks"):
        dice(bar(10).astype(np.uint8), bar(10))
    with pytest.raises(ValueError, match="one .H, W."):
        iou(bar(10), bar(10)[:-1])


def test_interval_resamples_patients_not_frames():
    rng = np.random.default_rng(0)
    per_patient = rng.normal(0.8, 0.1, 20)
    values, groups = np.repeat(per_patient, 30), np.repeat(np.arange(20), 30)
    low, high = bootstrap_ci(values, groups)
    expected = 1.96 * per_patient.std() / np.sqrt(20)
    assert (high - low) / 2 == pytest.approx(expected, rel=0.25)
    low_frames, high_frames = bootstrap_ci(values, np.arange(len(values)))
    assert high_frames - low_frames < (high - low) / 3
    assert (low, high) == bootstrap_ci(values, groups)


def test_frames_without_truth_do_not_count_for_it():
    records = [{"row": 0, "dice_deepsa": 0.5, "dice_truth": 0.9}, {"row": 1, "dice_deepsa": 0.7}]
    summary = summarise_records(records, ["a", "a", "b"])
    assert summary["dice_deepsa"] == pytest.approx(0.6) and summary["dice_truth"] == pytest.approx(0.9)
    assert (summary["n_frames"], summary["n_patients"]) == (2, 1)
    assert summary["dice_deepsa_ci95"] == pytest.approx([0.6, 0.6])
    assert "dice_truth" in format_summary(summary)
