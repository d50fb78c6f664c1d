"""Stage 2's losses, their targets and weights, and its scores, on outputs and batches made by hand."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

import train_stage2_cass_segments as stage2
from models.cass_model import CassOutput
from tests.tiny_cass import ANSWERS, task_of
from utils.losses import vessel_losses
from utils.segments.evaluation import summarise_answers


def random_output(batch, classes, side=16):
    generator = torch.Generator().manual_seed(0)
    shapes = dict(vessel_logits=(1, side, side), class_logits=(classes,), box=(4,),
                  name_logits=(classes + 1, side // 4, side // 4), analysed_logits=(1, side // 4, side // 4))
    parts = {name: torch.randn(batch, *shape, generator=generator) for name, shape in shapes.items()}
    return CassOutput(**{**parts, "box": parts["box"].sigmoid()})


def random_batch(classes, side=16):
    """Three frames whose segment is a block of a vessel, the last one's out of the picture."""
    segment = torch.zeros(3, 1, side, side)
    segment[:2, :, 4:8, 2:10] = 1
    vessel = segment.clone()
    vessel[:, :, 12:14] = 1
    box = torch.tensor([[6 / 16, 6 / 16, 8 / 16, 4 / 16]] * 2 + [[torch.nan] * 4])
    return {"deepsa_mask": vessel, "segment_mask": segment, "box": box, "row": torch.arange(3),
            "class_index": torch.tensor([0, 1, 2]) % classes}


def test_the_loss_is_three_tenths_segmentation_half_classification_a_fifth_box():
    task = stage2.Task((1, 13, 12), (4, 1, 9))
    output, batch = random_output(3, 3), random_batch(3)
    losses = stage2.cass_losses(task, output, batch)
    assert all(value.shape == (3,) and value.isfinite().all() for value in losses.values())
    segmentation = vessel_losses(output.vessel_logits, batch["deepsa_mask"], bce=0.5, dice=0.5)["loss"]
    classification = losses["pooled"] + task.class_weights()[batch["class_index"]] * losses["names"]
    expected = 0.3 * segmentation + 0.5 * classification + 0.2 * (losses["box"] + losses["analysed"])
    torch.testing.assert_close(losses["loss"], expected)
    for blind in ("pooled", "box"):  # nothing to guess where the segment is not in the picture
        assert losses[blind][2] == 0 and losses[blind][:2].gt(0).all()
    torch.testing.assert_close(
        losses["pooled"][:2], -output.class_logits[:2].log_softmax(dim=1)[range(2), batch["class_index"][:2]]
    )


def test_drawn_trees_add_the_mean_of_their_names_to_the_classification_of_their_row():
    task, batch = task_of(1, 13, 12), random_batch(3)
    plain = stage2.cass_losses(task, random_output(3, 3), batch)
    vessels = torch.zeros(3, 2, 16, 16, dtype=torch.uint8)
    vessels[..., 4:8] = 255
    names = torch.full((3, 2, 4, 4), 3, dtype=torch.uint8)
    names[1, :, :, 1], names[1, 1, 0, 1] = 2, 1
    logits = torch.zeros(6, 4, 4, 4)
    logits[2:4, 2] = 5.0
    batch |= {"drawn_vessels": vessels, "drawn_names": names}
    losses = stage2.cass_losses(task, random_output(3, 3)._replace(drawn_name_logits=logits), batch)
    other, sure = torch.tensor([5.0, 0, 0, 0]).logsumexp(0), 5.0 - torch.tensor([5.0, 0, 0, 0]).logsumexp(0)
    # Of the second row's two trees of four vessel cells each, one cell is named wrongly.
    expected = torch.tensor([math.log(4), (7 * -sure + other) / 8, math.log(4)])
    torch.testing.assert_close(losses["drawn"], expected)
    torch.testing.assert_close(losses["loss"], plain["loss"] + 0.5 * stage2.DRAWN_NAMES_WEIGHT * expected)


def test_the_targets_of_the_map_are_the_segment_and_vessels_that_are_surely_not_of_it():
    batch = {"segment_mask": torch.zeros(1, 1, 32, 32), "deepsa_mask": torch.zeros(1, 1, 32, 32)}
    batch["segment_mask"][..., 4:6, 4:12] = 1  # half of the cells (1, 1) and (1, 2)
    batch["deepsa_mask"][..., 4:6, :] = 1
    vessel_logits = torch.full((1, 1, 32, 32), -20.0)
    vessel_logits[..., 24:28, 24:28] = 20.0
    output = CassOutput(vessel_logits.requires_grad_(), None, None, torch.zeros(1, 3, 8, 8), None)
    inside, outside = stage2.map_targets(output, batch)
    expected = torch.zeros(2, 8, 8)
    expected[0, 1, 1:3] = 0.5
    expected[1, 1, 4:] = 0.5  # not (1, 0) and (1, 3), which touch the mask
    expected[1, 6, 6] = 1.0  # vessel by the model's word alone
    torch.testing.assert_close(torch.stack([inside[0, 0], outside[0, 0]]), expected)
    assert not outside.requires_grad
    batch["unsure"] = torch.zeros(1, 1, 8, 8)
    batch["unsure"][..., 1, 5] = 1  # what may be the rest of the segment is nothing that is surely not of it
    expected[1, 1, 5] = 0
    torch.testing.assert_close(torch.cat(stage2.map_targets(output, batch), dim=1)[0], expected)


def test_rare_classes_count_more_but_not_in_full():
    weights = stage2.Task((13, 16, 28, 1), (192, 12, 0, 12)).class_weights()
    assert float(weights[1] / weights[0]) == pytest.approx(4.0)  # 16 to 1 becomes 4 to 1
    assert float((weights * torch.tensor([192, 12, 0, 12])).sum() / 216) == pytest.approx(1.0)
    assert weights.isfinite().all()


def test_one_injection_fills_one_artery():
    other = task_of(1, 4, 11, 13, 19, 28).other_artery()
    right = [True, True, False, False, False, False]
    assert other.tolist() == [[a != b for b in right] for a in right]


def test_a_perfect_output_has_perfect_scores():
    """One vessel of two segments, the second of them analysed, all drawn as logits."""
    classes, size = (12, 13), 128
    cass_map = np.zeros((size, size), np.uint8)
    cass_map[56:64, 8:64], cass_map[56:64, 64:120] = 12, 13
    segment = cass_map == 13

    def logits(mask, stride=1):
        return 40.0 * torch.from_numpy(mask[::stride, ::stride].astype(np.float32)) - 20.0

    names = torch.stack([logits(cass_map == 12, 4), logits(segment, 4), logits(cass_map == 0, 4)])[None]
    box = torch.tensor([[92 / 128, 60 / 128, 56 / 128, 8 / 128]])
    output = CassOutput(logits(cass_map > 0)[None, None], torch.tensor([[-9.0, 9.0]]), box, names,
                        logits(segment, 4)[None, None])
    batch = {
        "image": None, "view_deg": None, "row": torch.tensor([0]), "class_index": torch.tensor([1]),
        "box": box, "deepsa_mask": torch.from_numpy(cass_map > 0).float()[None, None],
        "segment_mask": torch.from_numpy(segment).float()[None, None],
        "frame_deepsa_mask": [cass_map > 0], "frame_truth_mask": [cass_map > 0],
        "frame_segment_mask": [segment], "frame_cass_map": [cass_map],
    }
    (record,) = stage2.score_batch(stage2.Task(classes, (3, 3)), lambda image, view_deg: output, batch)
    for question in ("class", "pointed", "pointed_box", "pointed_point", "blind", "blind_map"):
        assert record[question] == 1, question
    assert record["box_iou"] == pytest.approx(1.0, abs=1e-5) and record["box_iou_map"] > 0.85
    assert record["dice_deepsa"] == record["dice_truth"] == 1.0
    assert record["loss"] < 0.15 and record["segments_right_px"] > 0.97 * record["segments_true_px"]
    metrics = summarise_answers(classes, [record], pd.DataFrame({"patient_id": ["a"]}))
    assert metrics["segment_f1_map"] == metrics["top1_pointed"] == metrics["box_ap50"] == 1.0


def test_the_ceiling_is_the_mean_of_its_column_and_absent_without_it():
    table = pd.DataFrame({"patient_id": ["a", "b"], "blind_ceiling": [0.9, 0.5]})
    records = [{"row": row, **ANSWERS} for row in range(2)]
    assert summarise_answers((1, 2), records, table)["top1_blind_ceiling"] == pytest.approx(0.7)
    assert "top1_blind_ceiling" not in summarise_answers((1, 2), records, table[["patient_id"]])


def test_scores_that_the_first_frame_lacks_are_kept():
    records = [{"row": 0, **ANSWERS}, {"row": 1, **ANSWERS, "dice_truth": 0.75}]
    metrics = summarise_answers((1, 2), records, pd.DataFrame({"patient_id": ["a", "b"]}))
    assert metrics["dice_truth"] == 0.75 and metrics["dice_deepsa"] == 0.5
    assert (metrics["top1_pointed"], metrics["top1_blind"], metrics["top1_blind_map"]) == (1.0, 0.0, 1.0)
    assert not {"class", "blind_probability"} & metrics.keys()
