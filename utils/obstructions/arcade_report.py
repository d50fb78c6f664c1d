"""What is said and drawn of a stage 3 model on ARCADE's stenoses: the summary in words, and the gallery."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from data.coco import CocoImage, CocoSet
from utils.drawing import line_width, save_gallery, side_by_side, thumbnail
from utils.obstructions.arcade_scores import image_scores
from utils.obstructions.drawing import Mark, grade_legend, mark_of, mark_overlay
from utils.obstructions.matching import Detection

TEST_IMAGES = 300  # of ARCADE's stenosis test set
FEW_IMAGES = 50
# Pokhrel et al. 0.5353, StenUNet 0.5348, as their abstracts say.
PUBLISHED = ("published: mask F1 0.535, 2nd and 3rd place of the ARCADE challenge, on its whole test set of 300 images "
             "(arXiv 2310.04749, 2310.14961)")
OVER_IMAGES = ("intervals are over images: ARCADE does not say which are of one patient, and where a patient has "
               "several they are too narrow")
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
PURPLE = (204, 121, 167)  # of Okabe and Ito, like the grades' colours in utils.drawing, and none of theirs
NOT_COUNTED = "the best one where no score is high enough: not counted"
CELL_INCHES = 4.5
CASES_PER_ROW = 3
_SUBPIXEL_BITS = 4  # OpenCV draws at fractions of 1/16 of a pixel


def describe_metrics(metrics: Mapping, best_here: Mapping, source: str) -> str:
    """The figures in words; metrics, best_here: of `summarise_images`; source: where the threshold is from."""
    images, stenoses = metrics["n_images"], metrics["n_targets"]
    lines = [
        f"{images} image{'s' * (images != 1)}, {stenoses} stenos{'es' if stenoses != 1 else 'is'}; in brackets 95 % "
        "intervals over images (\"no interval\" is no certainty: drawing again from so few changes nothing)",
        f"at score {metrics['threshold']:.3g} ({source}):",
        f"  boxes, IoU 0.5:        F1 {_said(metrics, 'f1_iou50')}, precision {_said(metrics, 'precision_iou50')}, "
        f"recall {_said(metrics, 'recall_iou50')}",
        f"  points in the box:     F1 {_said(metrics, 'f1_point')}, sensitivity {_said(metrics, 'sensitivity_point')}, "
        f"{_said(metrics, 'fp_per_frame')} false positives an image",
        f"  masks, as challenge:   F1 {_said(metrics, 'challenge_mask_f1')}; masks are the vessel seen in boxes found "
        f"(in annotated boxes: {_said(metrics, 'challenge_mask_f1_of_annotated_boxes')})",
        "at all scores:",
        f"  boxes, IoU 0.5:        average precision {_said(metrics, 'ap_iou50')}",
        f"  at 1 false positive an image: sensitivity {_said(metrics, 'sensitivity_at_1fp')} by point, "
        f"{_said(metrics, 'sensitivity_at_1fp_iou50')} by IoU 0.5",
    ]
    if not best_here["f1_iou50"] > 0:  # nan without a detection
        return "\n".join([*lines, "no score gives a hit by IoU 0.5 on these images, so none is best on them"])
    return "\n".join([
        *lines,
        f"at score {best_here['threshold']:.3g}, the best one for boxes on these very images, hence optimistic:",
        f"  boxes, IoU 0.5:        F1 {_said(best_here, 'f1_iou50')}, precision {_said(best_here, 'precision_iou50')}, "
        f"recall {_said(best_here, 'recall_iou50')}",
        f"  masks, as challenge:   F1 {_said(best_here, 'challenge_mask_f1')}",
    ])


def remarks(metrics: Mapping) -> list[str]:
    """What must be said beside the figures: what the intervals are over, and what may be compared."""
    images = metrics["n_images"]
    if images == TEST_IMAGES:
        comparable = (f"challenge_mask_f1 may be compared if these {images} images are ARCADE's test set and none of "
                      "its images was trained on; f1_iou50 counts otherwise")
    else:
        comparable = f"no figure of these {images} images may be compared: that takes all {TEST_IMAGES} of the test set"
    said = [OVER_IMAGES, f"{PUBLISHED}; {comparable}"]
    if images < FEW_IMAGES:
        number = {1: "one image says", 2: "two images say", 3: "three images say", 4: "four images say",
                  5: "five images say"}.get(images, f"{images} images say")
        said.append(f"WARNING: an illustration, not a measurement: {number} next to nothing about the set of "
                    f"{TEST_IMAGES}")
    return said


def save_arcade_gallery(
    path: Path, images: Sequence[CocoImage], found: Sequence[Sequence[Detection]], records: Sequence[Mapping],
    *, threshold: float, limit: int,
) -> None:
    """Write a picture of up to `limit` images, those with the lowest F1 first: annotated outlines, and what was found.

    found, records (of `score_image`): of each image; threshold: marks of at least this score are drawn, and in
    purple the best one of an image that has none.
    """
    scores = [image_scores(record, threshold) for record in records]
    # nan, where nothing was to be found and nothing was, sorts last.
    order = sorted(range(len(images)), key=lambda index: (
        scores[index]["f1_iou50"], np.nan_to_num(scores[index]["challenge_mask_f1"], nan=1.0), index))
    cases, captions, stenoses, legend = [], [], [], {"annotated stenosis": WHITE}
    for index in order[:limit]:
        shown = [one for one in found[index] if one.score >= threshold]
        marks = [mark_of(one) for one in shown]
        if not shown and found[index]:
            marks = [mark_of(max(found[index], key=lambda one: one.score))._replace(color=PURPLE)]
            legend[NOT_COUNTED] = PURPLE
        cases.append([thumbnail(draw_image(images[index], marks), CELL_INCHES)])
        captions.append([caption(images[index], scores[index], found[index])])
        stenoses += [one.stenosis_pct for one in shown]
    save_gallery(
        path, rows := side_by_side(cases, CASES_PER_ROW), [""] * len(rows[0]), [""] * len(rows),
        title=f"{len(cases)} of {len(images)} images, worst first; found: %DS (score), from score {threshold:.3g} on",
        captions=side_by_side(captions, CASES_PER_ROW, filler=""),
        legend=legend | grade_legend(stenoses), cell_inches=CELL_INCHES,
    )


def draw_image(image: CocoImage, marks: Sequence[Mark]) -> np.ndarray:
    """The picture, uint8 (H, W, 3), with the outlines of what is annotated, and marks."""
    picture = image.read().copy()
    for color, width in ((BLACK, line_width(picture) + 2), (WHITE, line_width(picture))):
        for polygon in (polygon for one in image.objects for polygon in one.polygons):
            fixed = np.rint(polygon * 2**_SUBPIXEL_BITS).astype(np.int32)
            cv2.polylines(picture, [fixed], True, color, width, cv2.LINE_AA, _SUBPIXEL_BITS)
    region = np.zeros(picture.shape[:2], bool)
    for one in image.objects:
        region |= one.mask(region.shape)
    return mark_overlay(picture, marks, vessels=region)


def caption(image: CocoImage, scores: Mapping, found: Sequence[Detection]) -> str:
    """Two lines below a picture."""
    best = max((one.score for one in found), default=0.0)
    counted = f"{scores['annotated']} annotated, {scores['found']} found"
    right = (f"right by IoU 0.5: {scores['hits_iou50']}, by point: {scores['hits_point']}" if scores["found"]
             else f"the best score is {best:.2f}")
    mask_f1 = "" if np.isnan(scores["challenge_mask_f1"]) else f"; mask F1 {scores['challenge_mask_f1']:.2f}"
    return f"{image.path.name}: {counted}\n{right}{mask_f1}"


def describe_set(regions: CocoSet) -> str:
    """Which annotations were taken, and what is odd about them."""
    taken = ", ".join(f"{key} \"{name}\"" for key, name in regions.categories.items())
    without = sum(not image.objects for image in regions.images)
    lines = [f"category {taken}: {regions.objects} annotated in {len(regions.images)} images"
             + (f", {without} of them without any" if without else "")]
    return "\n".join([*lines, *regions.notes])


def _said(metrics: Mapping, name: str) -> str:
    if np.isnan(metrics[name]):
        return "not defined"
    low, high = metrics[f"{name}_ci95"]
    return f"{metrics[name]:.2f} " + (f"({low:.2f}-{high:.2f})" if high > low else "(no interval)")
