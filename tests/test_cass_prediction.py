"""Answers for one frame from the stage 2 model's output: shapes, votes by hand, regions pointed at."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models.cass_model import CassOutput
from utils.segments.prediction import (
    FramePrediction,
    blind_box_of_map,
    blind_probs_of_map,
    frame_prediction,
    pointed_probs,
    predict_cass,
    region_of_box,
    region_of_point,
)

CLASSES = (1, 2, 13)


def random_output(batch=2, side=32, seed=0):
    rng = torch.Generator().manual_seed(seed)
    count = len(CLASSES)
    return CassOutput(
        vessel_logits=torch.randn(batch, 1, side, side, generator=rng),
        class_logits=torch.randn(batch, count, generator=rng),
        box=torch.rand(batch, 4, generator=rng),
        name_logits=torch.randn(batch, count + 1, side // 4, side // 4, generator=rng),
        analysed_logits=torch.randn(batch, 1, side // 4, side // 4, generator=rng),
    )


def prediction_of(vessel, names=None, analysed=None):
    """A prediction of these probabilities: vessel (H, W), names (K + 1, H, W) and analysed (H, W)."""
    vessel = np.asarray(vessel, np.float32)
    names = np.full((len(CLASSES) + 1, *vessel.shape), 0.25) if names is None else names
    analysed = np.zeros_like(vessel) if analysed is None else analysed
    return FramePrediction(vessel, np.log(names).astype(np.float32), analysed.astype(np.float32),
                           np.zeros(len(CLASSES), np.float32), np.zeros(4, np.float32), CLASSES)


def test_a_frame_of_a_batch_comes_out_at_its_own_size():
    output = random_output()
    prediction = frame_prediction(output, 1, (50, 70), CLASSES)
    assert prediction.size == (50, 70)
    assert prediction.vessel_probability.shape == prediction.analysed_probability.shape == (50, 70)
    assert prediction.name_log_probs.shape == (4, 50, 70)
    arrays = (prediction.vessel_probability, prediction.name_log_probs, prediction.analysed_probability,
              prediction.class_probs, prediction.box)
    assert all(array.dtype == np.float32 for array in arrays)
    np.testing.assert_allclose(np.exp(prediction.name_log_probs).sum(axis=0), 1, rtol=1e-5)
    np.testing.assert_allclose(prediction.class_probs, output.class_logits[1].softmax(0).numpy(), rtol=1e-6)
    np.testing.assert_array_equal(prediction.box, output.box[1].numpy())


def test_logits_are_interpolated_before_the_softmax():
    output = random_output()
    prediction = frame_prediction(output, 0, (64, 64), CLASSES)

    def at_size(logits):
        return F.interpolate(logits[:1], size=(64, 64), mode="bilinear", align_corners=False)[0]

    names, vessel = at_size(output.name_logits).log_softmax(0), at_size(output.vessel_logits)[0].sigmoid()
    np.testing.assert_allclose(prediction.name_log_probs, names.numpy(), atol=2e-3)
    np.testing.assert_allclose(prediction.vessel_probability, vessel.numpy(), atol=2e-3)


def test_half_precision_and_gradients_do_no_harm():
    output = CassOutput(*(tensor.to(torch.bfloat16).requires_grad_() for tensor in random_output() if tensor is not None))
    prediction = frame_prediction(output, 0, (40, 40), CLASSES)
    np.testing.assert_allclose(np.exp(prediction.name_log_probs).sum(axis=0), 1, rtol=1e-5)


def test_other_classes_than_the_model_has_are_refused():
    with pytest.raises(ValueError, match="2 classes .* model of 3"):
        frame_prediction(random_output(), 0, (40, 40), (1, 2))


class EchoModel(torch.nn.Module):
    """Remembers what it was asked; its first class is likelier the more LAO the view is."""

    classes = CLASSES

    def forward(self, image, view_deg):
        self.image, self.view_deg = image, view_deg
        output = random_output(batch=1, side=image.shape[-1])
        return output._replace(class_logits=torch.tensor([[view_deg[0, 0], 0.0, 0.0]]))


def test_a_frame_and_its_view_reach_the_model():
    model = EchoModel()
    frame = np.full((48, 60, 3), 255, np.uint8)
    view_deg, device = (3.0, float("nan")), torch.device("cpu")
    prediction = predict_cass(model, frame, view_deg=view_deg, image_size=32, device=device)
    assert model.image.shape == (1, 3, 32, 32) and model.image.min() == 1
    assert model.view_deg[0, 0] == 3 and model.view_deg[0, 1].isnan()
    assert prediction.size == (48, 60) and prediction.classes == CLASSES
    assert prediction.class_probs.argmax() == 0


def test_the_pixels_pointed_at_vote_with_their_mean_logarithm():
    names = np.zeros((4, 1, 3))
    names[:, 0, 0] = 0.1, 0.4, 0.1, 0.4
    names[:, 0, 1] = 0.4, 0.1, 0.1, 0.4
    names[:, 0, 2] = 0.01, 0.01, 0.97, 0.01  # not pointed at
    region = np.array([[True, True, False]])
    # Geometric means over the two pixels: sqrt(0.04), sqrt(0.04), 0.1; the channel of no class has no say.
    expected = np.array([0.2, 0.2, 0.1]) / 0.5
    probs = pointed_probs(prediction_of([[1, 1, 1]], names), region)
    assert probs.dtype == np.float64
    np.testing.assert_allclose(probs, expected, rtol=1e-5)


def test_pointing_at_nothing_is_refused():
    prediction = prediction_of(np.ones((4, 5)))
    with pytest.raises(ValueError, match="no pixel"):
        pointed_probs(prediction, np.zeros((4, 5), bool))
    with pytest.raises(ValueError, match="bool"):
        pointed_probs(prediction, np.ones((4, 5), np.uint8))
    with pytest.raises(ValueError, match=r"\(5, 4\)"):
        pointed_probs(prediction, np.ones((5, 4), bool))


def test_a_box_points_at_the_vessels_in_it():
    vessel = np.zeros((10, 12))
    vessel[4, 2:9] = 1
    prediction = prediction_of(vessel)
    region = region_of_box(prediction, (3, 2, 5, 6))
    assert sorted(map(tuple, np.argwhere(region))) == [(4, 3), (4, 4), (4, 5)]  # corners belong to it
    assert region_of_box(prediction, (0, 0, 2, 1)).sum() == 6  # no vessel there: all of it
    with pytest.raises(ValueError, match="no pixel of the frame of 12 x 10"):
        region_of_box(prediction, (20, 20, 30, 30))


def test_a_point_takes_the_vessel_around_it_or_else_the_nearest():
    vessel = np.zeros((100, 100))
    vessel[50, 20:80] = 1
    prediction = prediction_of(vessel)
    near = region_of_point(prediction, (40, 50.4))
    assert near[50, 40] and near.sum() == 3  # within 1.2 px of it in a frame of 100 px
    far = region_of_point(prediction, (10, 50))
    assert np.argwhere(far).tolist() == [[50, 20]]
    nothing = region_of_point(prediction_of(np.zeros((100, 100))), (30, 70))
    assert nothing[70, 30] and nothing.sum() < 10


def test_a_point_outside_the_frame_is_refused():
    with pytest.raises(ValueError, match="outside the frame of 100 x 50"):
        region_of_point(prediction_of(np.ones((50, 100))), (20, 70))


def test_the_map_answers_blind_with_the_names_of_the_analysed_pixels():
    names = np.zeros((4, 1, 3))
    names[:, 0, 0] = 0.7, 0.1, 0.1, 0.1
    names[:, 0, 1] = 0.1, 0.1, 0.7, 0.1
    names[:, 0, 2] = 0.1, 0.8, 0.0001, 0.0999
    analysed = np.array([[0.2, 0.8, 0.0]])
    probs = blind_probs_of_map(prediction_of([[1, 1, 1]], names, analysed))
    raw = np.array([0.2 * 0.7 + 0.8 * 0.1, 0.1, 0.2 * 0.1 + 0.8 * 0.7])
    np.testing.assert_allclose(probs, raw / raw.sum(), rtol=1e-5)


def test_the_blind_box_is_around_the_heaviest_analysed_piece():
    analysed = np.zeros((20, 40))
    analysed[2:6, 10:30] = 0.7
    analysed[15, 35] = 0.9  # surer, but one pixel
    box = blind_box_of_map(prediction_of(np.ones((20, 40)), analysed=analysed))
    np.testing.assert_allclose(box, [0.5, 0.2, 0.5, 0.2])
    timid = blind_box_of_map(prediction_of(np.ones((20, 40)), analysed=analysed * 0.1))
    np.testing.assert_allclose(timid, box)


def test_without_any_analysed_pixel_the_blind_answers_are_still_defined():
    prediction = prediction_of(np.ones((20, 40)))
    np.testing.assert_allclose(blind_box_of_map(prediction), [0.5, 0.5, 1, 1])
    assert blind_probs_of_map(prediction).sum() == pytest.approx(1)
