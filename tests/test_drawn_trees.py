"""Virtual patients, the pictures drawn of them, and how they come with the rows of a training set."""

import numpy as np
import pytest
import torch

from data.anatomy import image_axes, load_anatomy
from data.augment import Change
from data.cass import CLASS_IDS, SEGMENTS
from data.contours import read_contours
from data.dataset import AngiogramDataset
from data.drawn_trees import NAMES_PX, VESSELS_PX, draw_tree
from data.schema import load_table
from data.virtual_trees import BRANCHES, STEP_MM, TWIG_STEP_MM, virtual_tree
from phantom.carm import CArm
from tests.csv_fixture import write_tiny_dataset

VIEWS = {"left": (-30.0, -25.0), "right": (35.0, 25.0)}


def trees(side, count=40):
    return [virtual_tree(side, np.random.default_rng([1, number])) for number in range(count)]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_virtual_tree_is_connected_vessels_of_one_artery(side):
    for tree in trees(side):
        first = load_anatomy()["left main" if side == "left" else "proximal RCA"]
        assert np.linalg.norm(tree[0].points_mm[0] - first.points_mm[0]) < 6  # at the ostium
        for number, vessel in enumerate(tree):
            assert vessel.points_mm.shape == (len(vessel.diameter_mm), 3)
            assert np.isfinite(vessel.points_mm).all()
            assert 0.2 < vessel.diameter_mm.min() <= vessel.diameter_mm.max() < 8
            steps = np.linalg.norm(np.diff(vessel.points_mm, axis=0), axis=1)
            assert steps.max() < 3 * (TWIG_STEP_MM if vessel.cass_id in (0, 10) else STEP_MM)
            assert vessel.cass_id == 0 or SEGMENTS[vessel.cass_id].side == side
            if number:  # it starts on a vessel that was there before
                others = np.concatenate([other.points_mm for other in tree[:number]])
                assert np.linalg.norm(others - vessel.points_mm[0], axis=1).min() < 1.5, vessel.cass_id


def test_patients_differ_about_the_mean():
    """Where the LAD's middle lies and how wide it is, and who has a branch, over many patients."""
    mean = next(segment for segment in load_anatomy().values() if segment.cass_id == 13)
    many = trees("left", 150)
    middles = np.array([vessel.points_mm.mean(axis=0) for tree in many for vessel in tree if vessel.cass_id == 13])
    assert np.linalg.norm(middles.mean(axis=0) - mean.points_mm.mean(axis=0)) < 3
    assert (3 < middles.std(axis=0)).any() and (middles.std(axis=0) < 12).all()  # mm
    for cass_id, name in ((28, "ramus intermedius"), (15, "first diagonal"), (29, "third diagonal")):
        share = np.mean([any(vessel.cass_id == cass_id for vessel in tree) for tree in many])
        assert abs(share - BRANCHES[name]) < 0.15, name
    dominant = np.mean([any(vessel.cass_id == 27 for vessel in tree) for tree in many])
    assert 0.03 < dominant < 0.25
    right = [{vessel.cass_id for vessel in tree} for tree in trees("right", 150)]
    assert 0.03 < np.mean([4 not in found for found in right]) < 0.25
    assert all({1, 2, 3, 10} <= found for found in right)


def test_the_same_generator_draws_the_same_tree_and_another_another():
    drawn = [draw_tree("left", VIEWS["left"], CLASS_IDS, np.random.default_rng(seed)) for seed in (5, 5, 6)]
    np.testing.assert_array_equal(drawn[0].vessels, drawn[1].vessels)
    np.testing.assert_array_equal(drawn[0].names, drawn[1].names)
    assert (drawn[0].vessels != drawn[2].vessels).any()


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_drawn_tree_names_its_vessels(side):
    seen = np.zeros(len(CLASS_IDS) + 1)
    for seed in range(20):
        tree = draw_tree(side, VIEWS[side], CLASS_IDS, np.random.default_rng(seed))
        assert tree.vessels.shape == (VESSELS_PX, VESSELS_PX) and tree.vessels.dtype == np.uint8
        assert tree.names.shape == (NAMES_PX, NAMES_PX) and tree.names.dtype == np.uint8
        assert 0.01 < (tree.vessels >= 128).mean() < 0.2  # as real masks, some 0.03 to 0.1
        is_vessel = tree.vessels.reshape(NAMES_PX, 4, NAMES_PX, 4).mean(axis=(1, 3)) > 128
        names = np.bincount(tree.names[is_vessel], minlength=len(seen))
        assert len(names) == len(seen)
        seen += names > 0
    shares = {cass_id: share for cass_id, share in zip(CLASS_IDS, seen / 20)}
    for cass_id, share in shares.items():
        if SEGMENTS[cass_id].side != side:
            assert share == 0, cass_id
    assert min(shares[cass_id] for cass_id in ((12, 13, 14, 18, 19) if side == "left" else (1, 2, 3, 4))) > 0.6


def test_segments_that_are_no_class_are_named_so():
    seed = np.random.default_rng(3)
    tree = draw_tree("right", VIEWS["right"], (13,), seed)
    is_vessel = tree.vessels.reshape(NAMES_PX, 4, NAMES_PX, 4).mean(axis=(1, 3)) > 128
    assert (tree.names[is_vessel] == 1).all()


@pytest.mark.parametrize("view_deg", [(0, 0), (40, 30), (-35, -28), (90, 0)])
def test_the_picture_is_seen_from_where_the_phantom_sees_it(view_deg):
    """Image right, image down and the detector's side, against the phantom's C-arm."""
    carm = CArm(*view_deg, sid_mm=1000, sod_mm=750, spacing_mm=0.3, size_px=512)
    right, up, toward = carm.axes()
    np.testing.assert_allclose(image_axes(*view_deg), [right, -up, toward], atol=1e-12)


def test_the_lad_runs_where_the_angles_say():
    """Caudal right: to the image's right, the LCX downwards; cranial: the LAD downwards."""
    def course(view_deg, cass_id):
        channel, steps = CLASS_IDS.index(cass_id), []
        for seed in range(12):
            tree = draw_tree("left", view_deg, CLASS_IDS, np.random.default_rng(seed))
            is_vessel = tree.vessels.reshape(NAMES_PX, 4, NAMES_PX, 4).mean(axis=(1, 3)) > 128
            main = np.argwhere(is_vessel & (tree.names == CLASS_IDS.index(12)))
            own = np.argwhere(is_vessel & (tree.names == channel))
            if len(own) and len(main):
                steps.append(own.mean(axis=0) - main.mean(axis=0))
        return np.median(steps, axis=0)  # (down, right)

    caudal, cranial, lcx = course((-30, -30), 13), course((-5, 40), 14), course((-30, -30), 19)
    assert caudal[1] > 8 and abs(caudal[0]) < caudal[1]
    assert cranial[0] > 15 and cranial[0] > abs(cranial[1])
    assert lcx[0] > 10


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return load_table(write_tiny_dataset(tmp_path_factory.mktemp("tiny"), patients=3, rows_per_patient=1))


def dataset_of(table, **settings):
    return AngiogramDataset(table, image_size=56, classes=CLASS_IDS, **{"augment": True, **settings})


def test_drawn_trees_come_with_each_row_anew_each_epoch_and_leave_its_picture(table):
    with_trees, without = dataset_of(table, drawn_trees=3), dataset_of(table)
    sample = with_trees[(1, 4)]
    assert sample["drawn_vessels"].shape == (3, VESSELS_PX, VESSELS_PX)
    assert sample["drawn_names"].shape == (3, NAMES_PX, NAMES_PX) and sample["drawn_view_deg"].shape == (3, 2)
    assert sample["drawn_view_deg"].isfinite().all()
    again, plain, next_epoch = dataset_of(table, drawn_trees=3)[(1, 4)], without[(1, 4)], with_trees[(1, 5)]
    assert all(torch.equal(again[key], sample[key]) for key in ("drawn_vessels", "drawn_names", "drawn_view_deg"))
    assert torch.equal(plain["image"], sample["image"]) and "drawn_vessels" not in plain
    assert not torch.equal(next_epoch["drawn_vessels"], sample["drawn_vessels"])
    assert "drawn_vessels" not in dataset_of(table, drawn_trees=3, augment=False)[1]


def test_their_views_are_those_of_the_rows_and_are_hidden_as_theirs_are(table):
    own = table.assign(primary_angle=[30.0, np.nan, 30.0], secondary_angle=[-20.0, np.nan, -20.0], cass_segment=13)
    views = torch.cat([dataset_of(own, drawn_trees=8)[(row, epoch)]["drawn_view_deg"]
                       for row in range(3) for epoch in range(5)])
    assert (views - torch.tensor([30.0, -20.0])).abs().max() < 30  # 5 standard deviations
    assert (views.mean(dim=0) - torch.tensor([30.0, -20.0])).abs().max() < 3
    hidden = dataset_of(own, drawn_trees=50, view_dropout=0.5)[0]["drawn_view_deg"].isnan().float().mean()
    assert 0.3 < hidden < 0.7
    nowhere = own.assign(primary_angle=np.nan, secondary_angle=np.nan)
    assert dataset_of(nowhere, drawn_trees=2)[0]["drawn_view_deg"].isfinite().all()


UNCHANGED = Change(
    angle_deg=0.0, scale=1.0, shift=(0.0, 0.0), gamma=1.0, contrast=1.0, brightness=0.0, noise=0.0, blur=0.0,
    blades=(0.0, 0.0, 0.0, 0.0), blade_grey=0,
)


@pytest.mark.parametrize("turned", [False, True])
def test_around_the_ends_of_the_segment_names_are_unsure(table, monkeypatch, turned):
    """Within 5 mm, also in a changed picture, and in a row without angles."""
    from dataclasses import replace

    change = replace(UNCHANGED, angle_deg=10.0, scale=0.9, shift=(0.02, 0.05)) if turned else UNCHANGED
    monkeypatch.setattr("data.dataset.draw_change", lambda rng: change)
    assert "unsure" not in dataset_of(table)[1]
    unsure = dataset_of(table, unsure_ends_mm=5.0, augment=turned)[1]["unsure"][0].numpy()
    ends = read_contours(table["contours_path"][1]).centerline[[0, -1]]
    px_per_mm, y_x = NAMES_PX / 96 * 4.0, np.indices((NAMES_PX, NAMES_PX))  # the fixture has 4 px per mm
    matrix = change.matrix(NAMES_PX)
    places = ((ends + 0.5) * NAMES_PX / 96 - 0.5) @ matrix[:, :2].T + matrix[:, 2]
    away_px = np.min([np.hypot(*(y_x - place[::-1, None, None])) for place in places], axis=0)
    away_mm = away_px / (change.scale * px_per_mm)
    assert (unsure[away_mm < 4.8] == 1).all() and (unsure[away_mm > 5.2] == 0).all()
