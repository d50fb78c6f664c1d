"""Detections and targets, by hand and drawn, for tests of how they are matched and scored."""

import math

import numpy as np

from utils.obstructions.matching import Detection, Target

NAN = math.nan


def detection(score, box=(10, 10, 30, 30), point=(20, 20), stenosis_pct=60.0):
    return Detection(score, box, point, stenosis_pct)


def target(box=(10, 10, 30, 30), point=(20, 20), stenosis_pct=60.0, cass_id=13, px_per_mm=5.0):
    return Target(box, point, stenosis_pct, cass_id, px_per_mm)


def drawn_objects(rng, count=6, score_steps=10):
    """A few detections about a few targets, crowded so that they compete; scores with many ties."""
    targets, detections = [], []
    for _ in range(rng.integers(0, 4)):
        middle, half = rng.uniform(20, 60, 2), rng.uniform(6, 14, 2)
        place = tuple(middle + rng.normal(0, 3, 2)) if rng.random() < 0.8 else (NAN, NAN)
        stenosis = rng.uniform(30, 100) if rng.random() < 0.9 else NAN
        scale = rng.uniform(3, 6) if rng.random() < 0.8 else NAN
        box = (*(middle - half), *(middle + half))
        targets.append(target(box, place, stenosis, int(rng.choice([0, 2, 11, 13, 19])), scale))
    for _ in range(rng.integers(0, count + 1)):
        near = targets and rng.random() < 0.8
        about = np.array(targets[rng.integers(len(targets))].box_px if near else (40, 40, 60, 60))
        box = about + rng.normal(0, 2, 4)
        point = box[:2] + rng.uniform(-0.1, 1.1, 2) * (box[2:] - box[:2])
        score = rng.integers(1, score_steps) / score_steps
        detections.append(detection(score, tuple(box), tuple(point), rng.uniform(40, 100)))
    return detections, targets
