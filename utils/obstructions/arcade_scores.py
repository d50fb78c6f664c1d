"""Scores of a stage 3 model on pictures in which every stenosis is annotated, as in ARCADE.

    records = [{"row": row, **score_image(image, found, vessels)} for row, ...]     # one a picture
    metrics = summarise_images(records, images_table(images), threshold)

Two kinds of F1 that must not be mixed. `f1_iou50`: boxes; hits, misses and false alarms of all pictures are counted
together. `challenge_mask_f1`: by the rule of ARCADE's challenge (evaluation/evaluate_stenosis.py of its repository,
github cmctec/ARCADE, read 2026-11-22): each mask that was found counts with its best F1 (Dice) against any annotated
one, each mask that is short of their number with 0; the mean of a picture, then of all pictures. That script measures
areas of polygons, this one counts pixels; another script beside it takes the first F1 above 0 in place of the best, and
which of them made the final ranking is not said there. A stage 3 model finds boxes; its masks are the vessel that the
same model sees inside them. How much of an annotated mask that can be is `challenge_mask_f1_of_annotated_boxes`: the
same score with the annotated boxes in place of those found.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from data.coco import CocoImage
from utils.metrics import summarise_records
from utils.obstructions.matching import FALSE_POSITIVE, Detection, Target, match_detections
from utils.obstructions.scores import summarise_detections
from utils.obstructions.search import ScoreThreshold, validated_score

# Of `summarise_detections`, those that mean something where neither severity nor segment nor phase is annotated.
METRICS = (
    "f1_iou50", "precision_iou50", "recall_iou50", "fp_per_frame_iou50", "f1_point", "precision_point",
    "sensitivity_point", "fp_per_frame", "fp_per_frame_without_target", "ap_iou50", "sensitivity_at_1fp",
    "sensitivity_at_1fp_iou50", "detections_per_frame",
)
MASK_METRICS = ("challenge_mask_f1", "challenge_mask_f1_of_annotated_boxes")
# Of a checkpoint's metrics, in the order of preference: in ARCADE, too, every stenosis of a frame is to be found.
VALIDATED = {"threshold_truth": "every lesion of its frames", "threshold": "the annotated segments"}


def score_image(image: CocoImage, found: Sequence[Detection], vessels: np.ndarray) -> dict:
    """What `match_detections` says of a picture, and the masks: `detection_mask_f1`, in the order of
    `detection_score`, and `target_box_mask_f1`, of the annotated boxes.

    vessels: bool (H, W), the predicted vessels.
    """
    ranked = sorted(found, key=lambda one: -one.score)  # stable, as in match_detections
    unknown = dict(point_px=(math.nan, math.nan), stenosis_pct=math.nan, cass_id=0, px_per_mm=math.nan)
    targets = [Target(box_px=one.box_px, **unknown) for one in image.objects]
    regions = [one.mask(vessels.shape) for one in image.objects]
    return {
        **match_detections(ranked, targets),
        "detection_mask_f1": [_best_f1(vessel_in_box(vessels, one.box_px), regions) for one in ranked],
        "target_box_mask_f1": [_best_f1(vessel_in_box(vessels, one.box_px), regions) for one in image.objects],
    }


def vessel_in_box(vessels: np.ndarray, box_px: Sequence[float]) -> np.ndarray:
    """The vessel pixels, bool (H, W), whose centres lie in the box (x0, y0, x1, y1)."""
    x0, y0 = (max(0, math.ceil(side)) for side in box_px[:2])
    x1, y1 = (max(0, math.floor(side) + 1) for side in box_px[2:])
    inside = np.zeros_like(vessels)
    inside[y0:y1, x0:x1] = vessels[y0:y1, x0:x1]
    return inside


def images_table(images: Sequence[CocoImage]) -> pd.DataFrame:
    """A row for each picture, as scoring wants them: nobody knows whose they are, so each is a patient of its own."""
    return pd.DataFrame({"patient_id": [str(image.image_id) for image in images], "phase": ""})


def image_scores(record: Mapping, threshold: float) -> dict:
    """The scores of one picture at a threshold: counts, F1 of boxes (1 where there rightly is none) and of masks (nan
    there)."""
    annotated = len(record["target_cass_id"])
    above = [index for index, score in enumerate(record["detection_score"]) if score >= threshold]
    hits = {kind: sum(record[f"detection_{kind}"][index] != FALSE_POSITIVE for index in above)
            for kind in ("iou50", "point")}
    masks = [record["detection_mask_f1"][index] for index in above]
    masks += [0.0] * (annotated - len(masks))
    total = len(above) + annotated
    return {
        "annotated": annotated, "found": len(above), "hits_iou50": hits["iou50"], "hits_point": hits["point"],
        "f1_iou50": 2 * hits["iou50"] / total if total else 1.0,
        "challenge_mask_f1": float(np.mean(masks)) if masks else math.nan,
    }


def summarise_images(records: Sequence[Mapping], table: pd.DataFrame, threshold: float | None = None) -> dict:
    """Metrics over all pictures, flat, each with `<name>_ci95` over pictures; `METRICS` and `MASK_METRICS`.

    records: of `score_image`, with `row`; table: of `images_table`; threshold: None takes the one whose `f1_iou50` on
    these very pictures is best. Besides: `threshold`, `n_images`, `n_targets`. nan and ValueError as in
    `summarise_detections`.
    """
    metrics = summarise_detections(records, table, threshold)
    masks = [
        {"row": record["row"],
         "challenge_mask_f1": image_scores(record, metrics["threshold"])["challenge_mask_f1"],
         "challenge_mask_f1_of_annotated_boxes": float(np.mean(record["target_box_mask_f1"] or math.nan))}
        for record in records
    ]
    metrics |= summarise_records(masks, table["patient_id"].tolist())
    shown = [key for name in (*METRICS, *MASK_METRICS) for key in (name, f"{name}_ci95")]
    return {"threshold": metrics["threshold"], "n_images": metrics["n_frames"], "n_targets": metrics["n_targets"],
            **{key: metrics[key] for key in shown}}


def validated_threshold(checkpoint: Mapping) -> ScoreThreshold | None:
    """The score from which on the checkpoint's own validation counted an obstruction as found, and by what it was
    chosen; None where it has none."""
    for name, against in VALIDATED.items():
        score = validated_score(checkpoint, name)
        if score is not None:
            return ScoreThreshold(score, f"chosen on the model's own validation, against {against}: {name}")
    return None


def _best_f1(mask: np.ndarray, regions: Sequence[np.ndarray]) -> float:
    """The highest F1 of a mask against one of the regions, bool (H, W) each; 0 where nothing is shared."""
    best = 0.0
    for region in regions:
        shared = np.count_nonzero(mask & region)
        if shared:
            best = max(best, 2 * shared / (np.count_nonzero(mask) + np.count_nonzero(region)))
    return best
