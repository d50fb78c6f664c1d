"""What a frame's prediction of stage 2 is asked, and what comes of the answers: metrics and pictures.

Two questions that must not be mixed. *pointed*: which segment is this one? Its mask, its box or a point on it is
given. *blind*: which segment did the analyst analyse in this frame? Nothing is given; where no lesion shows, nobody
can know, so the score stands beside its ceiling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from data.dataset import box_of
from utils.files import write_text_atomic
from utils.metrics import summarise_records
from utils.run_files import RunFiles
from utils.segments.classification import (
    ap50, box_iou, per_class_table, save_confusion_matrix, summarise_classification,
)
from utils.segments.prediction import (
    FramePrediction, blind_box_of_map, blind_probs_of_map, pointed_probs, region_of_box, region_of_point,
)
from utils.segments.scores import summarise_segment_scores

QUESTIONS = {  # field of a record, suffix of its metrics -> what it answers
    "pointed": "pointed at by its mask",
    "pointed_box": "pointed at by its box",
    "pointed_point": "pointed at by a point",
    "blind": "blind, pooled head",
    "blind_map": "blind, map",
}


def answers(prediction: FramePrediction, segment: np.ndarray, class_index: int) -> dict[str, float]:
    """What was asked of a frame and answered, as channels: `pointed` at the segment (H, W) bool, and `blind`."""
    box, (height, width) = box_of(segment), segment.shape
    low, high = box[:2] - box[2:] / 2, box[:2] + box[2:] / 2
    corners = (low[0] * width, low[1] * height, high[0] * width - 1, high[1] * height - 1)
    regions = {
        "pointed": segment,
        "pointed_box": region_of_box(prediction, corners),
        "pointed_point": region_of_point(prediction, middle_of(segment)),
    }
    found = {name: int(pointed_probs(prediction, region).argmax()) for name, region in regions.items()}
    return {
        "class": class_index, **found,
        "blind": int(prediction.class_probs.argmax()), "blind_probability": float(prediction.class_probs.max()),
        "blind_map": int(blind_probs_of_map(prediction).argmax()),
        "box_iou": box_iou(prediction.box, box), "box_iou_map": box_iou(blind_box_of_map(prediction), box),
    }


def middle_of(mask: np.ndarray) -> tuple[int, int]:
    """The pixel (x, y) of a bool (H, W) mask that is nearest to its centre of mass: where one would click."""
    pixels = np.argwhere(mask)
    row, column = pixels[((pixels - pixels.mean(axis=0)) ** 2).sum(axis=1).argmin()]
    return int(column), int(row)


def summarise_answers(classes: Sequence[int], records: Sequence[Mapping], table) -> dict:
    """Metrics over all frames, flat, with 95 % intervals over patients."""
    patients = table["patient_id"].tolist()
    own = [patients[record["row"]] for record in records]
    other = {"class", "blind_probability", *QUESTIONS}
    means = [
        {key: value for key, value in record.items() if key not in other and not key.startswith("segments_")}
        for record in records
    ]
    metrics = summarise_records(means, patients)
    truth = [record["class"] for record in records]
    for question in QUESTIONS:
        found = [record[question] for record in records]
        metrics |= summarise_classification(truth, found, own, classes, question)
    matches = [record["blind"] == record["class"] and record["box_iou"] >= 0.5 for record in records]
    metrics["box_ap50"] = ap50([record["blind_probability"] for record in records], matches)
    if "blind_ceiling" in table:
        ceiling = [{"row": record["row"], "top1_blind_ceiling": table["blind_ceiling"].iloc[record["row"]]}
                   for record in records]
        metrics |= summarise_records(ceiling, patients)
    return metrics | summarise_segment_scores(records, patients, classes)


def draw_answers(classes: Sequence[int], records: Sequence[Mapping], table, files: RunFiles) -> None:
    """Of each of the two questions the confusion matrix, as a picture, and a table of the classes, as text."""
    truth, tables = [record["class"] for record in records], []
    for question in ("pointed", "blind"):
        found = [record[question] for record in records]
        title = f"Which segment is it? {QUESTIONS[question]}, {len(records)} frames"
        save_confusion_matrix(files.picture(f"confusion_{question}"), truth, found, classes, title=title)
        tables.append(f"{title}\n{per_class_table(truth, found, classes)}\n")
    write_text_atomic(files.folder / f"{files.stage}_per_class.txt", "\n".join(tables))
