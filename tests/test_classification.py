"""Scores of one answer a frame against sklearn and by hand; table, picture, boxes and average precision."""

import cv2
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from utils.segments.classification import (
    ap50,
    box_iou,
    per_class_table,
    save_confusion_matrix,
    summarise_classification,
)

CLASSES = (1, 2, 13, 28)


def answers(count=80, seed=0):
    """True channels 0 ... 2 (28 never), named ones of which two in three are right, and eight patients."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, count)
    named = np.where(rng.random(count) < 0.67, truth, rng.integers(0, 4, count))
    return truth, named, rng.integers(0, 8, count)


def test_top1_and_macro_f1_are_those_of_sklearn():
    truth, named, patients = answers()
    summary = summarise_classification(truth, named, patients, CLASSES, "pointed")
    assert set(summary) == {"top1_pointed", "top1_pointed_ci95", "macro_f1_pointed", "macro_f1_pointed_ci95"}
    assert summary["top1_pointed"] == pytest.approx(accuracy_score(truth, named))
    # 28 is named now and then but never true: without recall, it is not averaged.
    expected = f1_score(truth, named, labels=[0, 1, 2], average="macro")
    assert summary["macro_f1_pointed"] == pytest.approx(expected)


def test_intervals_are_over_patients():
    truth, named, _ = answers()
    alone = summarise_classification(truth, named, np.arange(80), CLASSES, "x")
    one = summarise_classification(truth, named, ["p"] * 80, CLASSES, "x")
    assert alone["top1_x_ci95"][0] < alone["top1_x"] < alone["top1_x_ci95"][1]
    assert alone["macro_f1_x_ci95"][0] < alone["macro_f1_x"] < alone["macro_f1_x_ci95"][1]
    assert one["top1_x_ci95"] == pytest.approx([one["top1_x"]] * 2)
    twice = [np.repeat(values, 2) for values in (truth[:40], named[:40], np.arange(40))]
    doubled = summarise_classification(*twice, CLASSES, "x")
    single = summarise_classification(truth[:40], named[:40], np.arange(40), CLASSES, "x")
    assert doubled["top1_x_ci95"] == pytest.approx(single["top1_x_ci95"])  # a frame twice says nothing new


def test_answers_that_are_no_channels_are_refused():
    with pytest.raises(ValueError, match=r"allowed: whole numbers 0 to 3"):
        summarise_classification([0, 13], [0, 1], ["a", "b"], CLASSES, "x")
    with pytest.raises(ValueError, match="whole numbers"):
        summarise_classification([0.5, 1.0], [0, 1], ["a", "b"], CLASSES, "x")
    with pytest.raises(ValueError, match="one of each a frame"):
        summarise_classification([0, 1], [0], ["a", "b"], CLASSES, "x")
    with pytest.raises(ValueError, match="at least one frame"):
        summarise_classification([], [], [], CLASSES, "x")


def test_the_table_has_a_line_for_each_class():
    lines = per_class_table([0, 0, 0, 1, 2], [0, 0, 1, 1, 3], CLASSES).splitlines()
    assert len(lines) == 5
    assert lines[1].split() == ["1", "Proximal", "RCA", "3", "1.000", "0.667", "0.800"]
    assert lines[2].split() == ["2", "Mid", "RCA", "1", "0.500", "1.000", "0.667"]
    assert lines[3].split()[-4:] == ["1", "-", "0.000", "0.000"]  # never named
    assert lines[4].split()[-4:] == ["0", "0.000", "-", "0.000"]  # never true


def test_the_confusion_matrix_is_a_picture(tmp_path):
    truth, named, _ = answers()
    path = tmp_path / "confusion.png"
    save_confusion_matrix(path, truth, named, CLASSES, "pointed: which segment is this?")
    picture = cv2.imread(str(path))
    assert min(picture.shape[:2]) > 300 and picture.std() > 10
    save_confusion_matrix(path, truth, truth, CLASSES, "pointed: which segment is this?")
    assert not np.array_equal(cv2.imread(str(path)), picture)


def test_iou_of_boxes_by_hand():
    box = (0.5, 0.5, 0.4, 0.2)
    assert box_iou(box, box) == pytest.approx(1)
    assert box_iou(box, (0.6, 0.5, 0.4, 0.2)) == pytest.approx(0.3 / 0.5)
    assert box_iou(box, (0.1, 0.1, 0.1, 0.1)) == 0
    assert box_iou(np.float32(box), (0.5, 0.5, 0.2, 0.2)) == pytest.approx(0.5)
    assert np.isnan(box_iou(box, (np.nan,) * 4))
    assert box_iou((0.5, 0.5, 0, 0), (0.5, 0.5, 0, 0)) == 0


def test_average_precision_by_hand():
    # From the surest down: hit, miss, hit, miss. Recall rises by 1/4 at precision 1 and by 1/4 at 2/3.
    assert ap50([0.9, 0.8, 0.7, 0.6], [True, False, True, False]) == pytest.approx((1 + 2 / 3) / 4)
    assert ap50([0.6, 0.7], [True, True]) == 1
    assert ap50([0.6, 0.7], [False, False]) == 0
    assert np.isnan(ap50([], []))
    with pytest.raises(ValueError, match="3 scores and 2 matches"):
        ap50([0.1, 0.2, 0.3], [True, False])


def test_average_precision_rewards_an_honest_order():
    assert ap50([0.9, 0.8, 0.1], [True, True, False]) > ap50([0.1, 0.2, 0.9], [True, True, False])
