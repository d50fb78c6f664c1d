"""Scores, words and pictures of ARCADE's stenoses, without a model."""

import json
import math

import numpy as np
import pytest

from data.coco import load_coco
from tests.test_evaluate_arcade import BAR, HEIGHT, OTHER, REAL, WIDTH, detection, write_set
from utils.obstructions.arcade_report import describe_metrics, draw_image, remarks
from utils.obstructions.arcade_scores import (
    images_table, score_image, summarise_images, validated_threshold, vessel_in_box,
)


def test_annotated_outline_is_drawn_where_it_is(tmp_path):
    image = load_coco(write_set(tmp_path), tmp_path / "images").images[0]
    drawn, rows, columns = draw_image(image, []), slice(16, 30), slice(6, 34)  # lines are up to 4 px wide
    assert (drawn[rows, columns] > 120).all(axis=2).sum() > 40  # white, thin, around 52 px
    drawn[rows, columns] = 100
    assert (drawn == 100).all()


@pytest.mark.parametrize("metrics, expected", [
    ({"threshold": 0.2, "threshold_truth": 0.5}, 0.5), ({"threshold": 0.2}, 0.2),
    ({"threshold": 0.2, "threshold_truth": math.nan}, 0.2), ({"threshold_truth": None}, None), ({}, None),
    (None, None)])
def test_threshold_that_the_validation_chose(metrics, expected):
    """That against every lesion, where it was known: in ARCADE, too, everything is annotated."""
    validated = validated_threshold({"metrics": metrics})
    assert (validated[0] if validated else None) == expected


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no images of ARCADE in {REAL}")
def test_real_polygons_have_the_area_that_arcade_says():
    areas = {one["id"]: one["area"] for one in json.loads((REAL / "annotations.json").read_text())["annotations"]}
    objects = [one for image in load_coco(REAL / "annotations.json", REAL).images for one in image.objects]
    assert len(objects) == 5
    for one in objects:
        assert one.mask((512, 512)).sum() == pytest.approx(areas[one.annotation_id], rel=0.1)


def test_perfect_answer_is_1(tmp_path):
    image = load_coco(write_set(tmp_path), tmp_path / "images").images[1]
    vessels = image.objects[0].mask((HEIGHT, WIDTH)) | image.objects[1].mask((HEIGHT, WIDTH))
    record = {"row": 0, **score_image(image, [detection(OTHER, 0.7), detection(BAR, 0.8)], vessels)}
    metrics = summarise_images([record], images_table([image]), 0.5)
    for name in ("f1_iou50", "ap_iou50", "challenge_mask_f1", "challenge_mask_f1_of_annotated_boxes"):
        assert metrics[name] == pytest.approx(1), name


def test_vessel_in_a_box_is_that_of_the_pixels_with_centres_in_it():
    vessels = np.ones((6, 8), bool)
    inside = vessel_in_box(vessels, (1.5, 0.0, 4.2, 2.0))
    assert np.argwhere(inside.any(axis=0)).ravel().tolist() == [2, 3, 4]
    assert np.argwhere(inside.any(axis=1)).ravel().tolist() == [0, 1, 2]
    assert not vessel_in_box(vessels, (2.2, 1, 2.8, 3)).any() and vessel_in_box(vessels, (-5, -5, 99, 99)).all()


@pytest.mark.parametrize("images, is_few, is_whole", [(1, True, False), (49, True, False), (50, False, False),
                                                      (300, False, True)])
def test_remarks_by_the_number_of_images(images, is_few, is_whole):
    said = "\n".join(remarks({"n_images": images}))
    assert ("WARNING: an illustration" in said) == is_few
    assert ("may be compared if these 300 images are ARCADE's test set" in said) == is_whole
    assert (f"no figure of these {images} images may be compared" in said) != is_whole
    assert "mask F1 0.535" in said and "whole test set of 300 images" in said


def test_one_image_and_one_stenosis_in_the_singular(tmp_path):
    image = load_coco(write_set(tmp_path), tmp_path / "images").images[0]
    record = {"row": 0, **score_image(image, [detection(BAR, 0.9)], np.zeros((HEIGHT, WIDTH), bool))}
    metrics = summarise_images([record], images_table([image]), 0.5)
    said = describe_metrics(metrics, metrics, "given")
    assert said.startswith("1 image, 1 stenosis;") and "F1 1.00 (no interval)" in said
