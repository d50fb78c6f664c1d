"""The heads of stage 2: what the map of names reads, and what it does not."""

import pytest
import torch
import torch.nn.functional as F

from data.drawn_trees import NAMES_PX, VESSELS_PX
from models.cass_model import build_cass_model
from models.segment_heads import LEAST_PROBABILITY, MAX_PATCHES, NAMES_STRIDE, TOKEN_STRIDE, SegmentMapHead

VIEW_DIM = 8


@pytest.fixture(scope="module")
def head():
    torch.manual_seed(0)
    return SegmentMapHead(num_classes=3, view_dim=VIEW_DIM).eval()


def vessels(count=1, size=VESSELS_PX):
    """A vessel down the middle with a branch to the right."""
    mask, unit = torch.zeros(count, 1, size, size), size // 84
    mask[..., 10 * unit : 70 * unit, 40 * unit : 42 * unit] = 1
    mask[..., 30 * unit : 32 * unit, 42 * unit : 70 * unit] = 1
    return mask


def test_names_come_at_one_size_whatever_the_pictures_size(head):
    view = torch.randn(1, VIEW_DIM)
    with torch.no_grad():
        names, features = head(vessels(), view)
        assert names.shape == (1, 4, NAMES_PX, NAMES_PX) and features.shape == (1, head.channels, NAMES_PX, NAMES_PX)
        larger, _ = head(vessels(size=3 * VESSELS_PX), view)
    # Shrinking softens the edges, so only nearly the same.
    difference = (larger - names).abs()[..., 15:65, 40:42].mean()
    assert difference < 0.1 * names[..., 15:65, 40:42].std()


def test_a_frame_without_vessel_or_view_has_finite_names_and_gradients():
    torch.manual_seed(0)
    head = SegmentMapHead(num_classes=3, view_dim=None)
    names, _ = head(torch.zeros(2, 1, VESSELS_PX, VESSELS_PX), None)
    names.square().mean().backward()
    assert names.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())


def test_each_frame_is_read_by_itself(head):
    """Neither its neighbours in the batch nor how many there are matter."""
    pictures = torch.cat([vessels(), torch.zeros_like(vessels()), vessels().transpose(2, 3)])
    view = torch.randn(3, VIEW_DIM)
    with torch.no_grad():
        together = head(pictures, view)[0]
        for index in range(3):
            alone = head(pictures[index : index + 1], view[index : index + 1])[0]
            torch.testing.assert_close(together[index : index + 1], alone, atol=1e-4, rtol=1e-4)


def test_the_far_end_of_the_tree_and_the_view_reach_every_name(head):
    picture, view = vessels().requires_grad_(), torch.randn(1, VIEW_DIM).requires_grad_()
    names, _ = head(picture, view)
    names[0, :, 68, 41].square().sum().backward()
    assert picture.grad[0, 0, 40:60, 160:168].abs().max() > 0  # the upper end, 50 cells away
    assert view.grad.abs().max() > 0


def test_what_is_surely_no_vessel_is_not_read(head):
    faint = vessels()
    faint[..., 250:260, 20:30] = 0.9 * LEAST_PROBABILITY
    seen = vessels()
    seen[..., 250:260, 20:30] = 0.5
    view = torch.randn(1, VIEW_DIM)
    with torch.no_grad():
        plain, with_faint, with_seen = (
            head(picture, view)[0][..., 15:28, 40:42] for picture in (vessels(), faint, seen)
        )
    # Not nothing at all: group norm looks at the whole picture.
    assert (plain - with_faint).abs().max() < 0.05 * (plain - with_seen).abs().max()


def test_a_picture_full_of_vessels_is_read_as_far_as_there_is_room(head):
    torch.manual_seed(1)
    full = torch.rand(1, 1, VESSELS_PX, VESSELS_PX)
    cells = F.max_pool2d(full, NAMES_STRIDE * TOKEN_STRIDE)
    assert cells.numel() > MAX_PATCHES and (cells >= LEAST_PROBABILITY).all()
    with torch.no_grad():
        assert head(full, torch.randn(1, VIEW_DIM))[0].isfinite().all()


@pytest.mark.parametrize("use_view", [True, False])
def test_names_do_not_bend_the_vessel_mask_and_drawn_trees_need_no_picture(use_view):
    torch.manual_seed(0)
    model = build_cass_model(
        backbone="sam3-tiny", image_size=336, classes=(1, 2, 13), use_view=use_view, random_init=True
    )
    view_deg = torch.tensor([[30.0, torch.nan]])
    output = model(torch.rand(1, 3, 336, 336), view_deg, (vessels(2), torch.tensor([[10.0, 20.0], [0.0, torch.nan]])))
    assert output.drawn_name_logits.shape == (2, 4, NAMES_PX, NAMES_PX)
    (output.name_logits.square().mean() + output.drawn_name_logits.square().mean()).backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    learning = {name.split(".")[0] for name, grad in grads.items() if grad.abs().max() > 0}
    assert learning == ({"map_head", "view_encoder"} if use_view else {"map_head"})
    assert model(torch.rand(1, 3, 336, 336), view_deg).drawn_name_logits is None
