"""Scores of a map of CASS names against the phantom's true one.

One flat record of counts a frame (`score_segments`); counts add up over frames, and only then are scores
computed (`summarise_segment_scores`), so that a frame with one short segment does not weigh as much as one
with eight.
"""
from collections.abc import Mapping, Sequence

import numpy as np

from utils.bootstrap import ratio, with_intervals

# A piece of fewer pixels is not counted as a segment: at 512 px, 12 px of a vessel 5 px wide, the stub of a
# branch that is foreshortened or leaves the picture. It grows with the area of the frame.
LEAST_PX_OF_512 = 60
LEVELS, KINDS = ("segments", "segments_iou50", "segments_pixel"), ("tp", "fp", "fn")
TOTALS = ("segments_true_px", "segments_found_px", "segments_right_px")


def score_segments(names: np.ndarray, cass_map: np.ndarray, vessel: np.ndarray,
                   classes: Sequence[int]) -> dict[str, int]:
    """Return the counts of one frame, each under a key that starts with `segments_`.

    names: uint8 (H, W), CASS numbers given to predicted vessel pixels, 0 = none; cass_map: (H, W), the true
    ones; vessel: bool (H, W), the predicted vessel pixels. `segments_true_px` are the true pixels of the
    classes, `segments_found_px` those of them that are predicted vessel, `segments_right_px` those that carry
    the right name. For each CASS number c of `classes` there are three levels of `_tp_c`, `_fp_c` and
    `_fn_c`:

    `segments_pixel`: pixels. `segments`: a true segment is a TP when more than half of its predicted vessel
    pixels carry its name, else an FN; a named one is an FP when less than half of its pixels truly are that
    segment. `segments_iou50`: a true segment is a TP when its IoU with the named one is at least 0.5, else an
    FN; a named one is an FP when it is less. Segments of less than `LEAST_PX_OF_512` are left out. Raises
    ValueError when sizes differ.
    """
    if not names.shape == cass_map.shape == vessel.shape:
        raise ValueError(f"names {names.shape}, true map {cass_map.shape} and vessels {vessel.shape} "
                         "differ in size; bring them to the frame's own")
    used = (names > 0) | (cass_map > 0)
    table = np.zeros((256, 256), np.int64)  # pixels by (given name, true name)
    pairs, pixels = np.unique(names[used].astype(np.int64) * 256 + cass_map[used], return_counts=True)
    table.ravel()[pairs] = pixels
    ids = np.asarray(classes)
    right, named, true = table[ids, ids], table.sum(axis=1)[ids], table.sum(axis=0)[ids]
    found = np.bincount(cass_map[vessel], minlength=256)[ids]
    counts = dict(zip(TOTALS, (true.sum(), found.sum(), right.sum()), strict=True))
    for level, values in _levels(right, named, true, found, LEAST_PX_OF_512 * names.size / 512**2).items():
        for kind, numbers in zip(KINDS, values, strict=True):
            keys = [f"{level}_{kind}_{cass_id}" for cass_id in classes]
            counts |= dict(zip(keys, numbers, strict=True))
    return {key: int(value) for key, value in counts.items()}


def _levels(right, named, true, found, least_px: float) -> dict[str, tuple]:
    """Pixels (K,) right, named, true and found of each class to {level: (tp, fp, fn)} with (K,) each."""
    is_true, is_named = true >= least_px, named >= least_px
    hit = 2 * right > found
    overlaps = 2 * right >= named + true - right
    return {
        "segments": (is_true & hit, is_named & (2 * right < named), is_true & ~hit),
        "segments_iou50": (is_true & overlaps, is_named & ~overlaps, is_true & ~overlaps),
        "segments_pixel": (right, named - right, true - right),
    }


def summarise_segment_scores(records: Sequence[Mapping[str, float]], patients: Sequence,
                             classes: Sequence[int]) -> dict[str, object]:
    """Return scores over all frames, each with `<name>_ci95` = [low, high] over whole patients.

    `segment_f1_map` and `segment_f1_map_iou50`: F1 of segments, all classes together, by the two levels of
    `score_segments`; `segment_f1_<c>`: of CASS number c alone, by the first level; `f1_pixel_<c>`: of its
    pixels. `pixel_accuracy_map`: share of the true pixels of the classes that carry the right name;
    `pixel_accuracy_map_found`: among those that the vessel mask has. nan where a class neither is nor was
    named. records: of `score_segments`, with `row`; those without its counts (no true map) are left out; {}
    when none is left. patients: patient of each row.
    """
    scored = [record for record in records if "segments_true_px" in record]
    if not scored:
        return {}
    fields = [f"{level}_{kind}_{cass_id}" for level in LEVELS for kind in KINDS for cass_id in classes]
    fields = [*TOTALS, *fields]
    counts = np.array([[record[field] for field in fields] for record in scored], dtype=np.float64)
    names = ["pixel_accuracy_map", "pixel_accuracy_map_found", "segment_f1_map", "segment_f1_map_iou50"]
    names += [f"{score}_{cass_id}" for score in ("segment_f1", "f1_pixel") for cass_id in classes]
    own = [patients[int(record["row"])] for record in scored]
    return with_intervals(names, counts, own, lambda sums: _scores(sums, len(classes)))


def _scores(sums: np.ndarray, count: int) -> np.ndarray:
    """Sums (R, 3 + 9 K) in the order of the fields above to scores (R, 4 + 2 K)."""
    true, found, right = sums[:, :3].T
    levels = sums[:, 3:].reshape(-1, len(LEVELS), 3, count)
    together, each = _f1(levels.sum(axis=3)), _f1(levels.transpose(0, 1, 3, 2))
    accuracies = np.stack([ratio(right, true), ratio(right, found)], axis=1)
    return np.concatenate([accuracies, together[:, :2], each[:, 0], each[:, 2]], axis=1)


def _f1(counts: np.ndarray) -> np.ndarray:
    """Counts (..., 3) of tp, fp, fn to F1 (...), nan without any."""
    tp, fp, fn = np.moveaxis(counts, -1, 0)
    return ratio(2 * tp, 2 * tp + fp + fn)
