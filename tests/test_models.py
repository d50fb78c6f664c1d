"""View encoder, fusion, head and the stage 1 model, against hand-computed values."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from models.backbone import build_backbone
from models.deepsa_model import build_deepsa_model
from models.fusion import ViewConditionedFeatureFusion
from models.segmentation_head import VesselSegmentationHead, local_contrast
from models.view_encoder import UNKNOWN_BIN, CategoricalViewEncoder, angle_bins


@pytest.mark.parametrize("angle, expected", [
    (-40, 0), (-120, 0), (-35.1, 0), (-34.9, 1), (-4.9, 4), (0, 4), (4.9, 4), (5.1, 5), (30, 7), (44, 8), (180, 8),
    (float("nan"), UNKNOWN_BIN)])
def test_angle_falls_into_the_bin_of_the_nearest_centre(angle, expected):
    assert angle_bins(torch.tensor([[float(angle)]])).item() == expected


def test_view_embedding_tells_bins_and_axes_apart():
    torch.manual_seed(0)
    encoder = CategoricalViewEncoder().eval()
    views = torch.tensor([[28.0, -18.0], [32.0, -22.0], [-18.0, 28.0], [float("nan"), -18.0]])
    embedding = encoder(views)
    assert embedding.shape == (4, 256) and torch.isfinite(embedding).all()
    assert torch.equal(embedding[0], embedding[1])  # the same two bins
    assert (embedding[0] - embedding[2]).abs().max() > 0.1
    assert (embedding[0] - embedding[3]).abs().max() > 0.1


def test_fusion_is_identity_at_the_start_and_film_afterwards():
    torch.manual_seed(0)
    fusion = ViewConditionedFeatureFusion(channels=2, view_dim=3, num_levels=1)
    feature, embedding = torch.randn(1, 2, 4, 4), torch.randn(1, 3)
    assert torch.equal(fusion([feature], embedding)[0], feature)
    with torch.no_grad():
        fusion.films[0].bias.copy_(torch.tensor([1.0, 0.0, 0.0, 5.0]))
    fused = fusion([feature], embedding)[0]
    torch.testing.assert_close(fused[:, 0], 2 * feature[:, 0])
    torch.testing.assert_close(fused[:, 1], feature[:, 1] + 5)


def test_local_contrast_equals_a_numpy_reference_away_from_the_border():
    rng = np.random.default_rng(0)
    grey = ndimage.gaussian_filter(rng.random((96, 96)), 2).astype(np.float32)
    ours = local_contrast(torch.tensor(grey).expand(1, 3, 96, 96))[0]
    small = grey.reshape(24, 4, 24, 4).mean(axis=(1, 3))
    mean = ndimage.uniform_filter(small, 3)
    variance = ndimage.uniform_filter((small - mean) ** 2, 3)
    mean, variance = (torch.nn.functional.interpolate(torch.tensor(x)[None, None], scale_factor=4, mode="bilinear")
                      [0, 0].numpy() for x in (mean, variance))
    expected = np.clip((grey - mean) / (np.sqrt(variance) + 0.02), -4, 4)
    np.testing.assert_allclose(ours[1].numpy()[16:-16, 16:-16], expected[16:-16, 16:-16], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(ours[0].numpy(), 2 * grey - 1, atol=1e-6)


def test_a_single_pixel_of_the_image_reaches_the_mask():
    torch.manual_seed(0)
    head = VesselSegmentationHead(num_levels=1)
    image = torch.full((1, 3, 64, 64), 0.5, requires_grad=True)
    logits = head([torch.zeros(1, 256, 8, 8)], image)
    assert logits.shape == (1, 1, 64, 64)
    logits[0, 0, 32, 32].backward()
    assert image.grad[0, 0, 32, 32] != 0


@pytest.mark.parametrize("use_view", [True, False])
def test_model_maps_image_and_angles_to_logits_and_every_weight_learns(use_view):
    torch.manual_seed(0)
    model = build_deepsa_model(backbone="sam3-tiny", image_size=336, use_view=use_view)
    view_deg = torch.tensor([[30.0, float("nan")]])
    logits = model(torch.rand(1, 3, 336, 336), view_deg)
    assert logits.shape == (1, 1, 336, 336)
    logits.square().mean().backward()
    # The view encoder learns from the second step on: fusion starts at zero.
    asleep = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert not asleep
    grads = {name: parameter.grad.abs().max() for name, parameter in model.named_parameters()}
    assert all(value > 0 for name, value in grads.items()
               if not name.startswith("view_encoder.") and "embedding" not in name), grads


def test_model_is_blind_to_the_view_before_training():
    torch.manual_seed(0)
    model = build_deepsa_model(backbone="sam3-tiny", image_size=336).eval()
    features = model.encode_image(torch.rand(1, 3, 336, 336))
    first = model.decode(features, torch.tensor([[-40.0, -40.0]]))
    assert torch.equal(first, model.decode(features, torch.tensor([[40.0, float("nan")]])))


def test_parameter_groups_hold_every_parameter_once_at_its_own_rate():
    model = build_deepsa_model(backbone="sam3-tiny", image_size=336)
    groups = model.parameter_groups(
        lr=1e-3, backbone_lr_scale=0.1, weight_decay=0.05, own_rates={"segmentation_head.logits.": 7e-3}
    )
    members = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(members) == sorted(id(parameter) for parameter in model.parameters())
    rates = {id(parameter): 1e-3 for parameter in model.parameters()}
    rates |= {id(parameter): 1e-4 for parameter in model.backbone.parameters()}
    rates |= {id(parameter): 7e-3 for parameter in model.segmentation_head.logits.parameters()}
    for group in groups:
        for parameter in group["params"]:
            assert group["lr"] == pytest.approx(rates[id(parameter)])
            assert group["weight_decay"] == 0 or parameter.ndim > 1


@pytest.mark.parametrize("name, image_size, said", [
    ("sam4", 336, "sam3-tiny"), ("sam3-tiny", 512, "multiple of 336"), ("sam3-tiny", 0, "multiple of 336")])
def test_wrong_backbone_or_image_size_says_what_is_allowed(name, image_size, said):
    with pytest.raises(ValueError, match=said):
        build_backbone(name, image_size=image_size)


def test_image_of_another_size_is_refused_with_both_sizes():
    with pytest.raises(ValueError, match=r"\(1, 3, 64, 64\).*336"):
        build_backbone("sam3-tiny", image_size=336)(torch.rand(1, 3, 64, 64))
