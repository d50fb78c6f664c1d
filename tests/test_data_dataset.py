"""The Dataset and its augmentation: shapes, labels that stay on their vessels, same seed same picture."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from data.augment import (
    COLLIMATOR_DEPTH, ROTATION_DEG, SCALE, TRANSLATION, augment, close_blades, draw_change, move, shade,
)
from data.cass import CLASS_IDS
from data.dataset import AngiogramDataset, box_of, collate, without_repeats
from data.masks import read_mask
from data.schema import load_table
from tests.csv_fixture import write_tiny_dataset


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return load_table(write_tiny_dataset(tmp_path_factory.mktemp("tiny")))


def test_sample_has_the_promised_shapes_types_and_ranges(table):
    sample = AngiogramDataset(table, image_size=64)[0]
    assert set(sample) == {"image", "view_deg", "deepsa_mask", "row"}
    assert sample["image"].shape == (3, 64, 64) and sample["image"].dtype == torch.float32
    assert 0 <= sample["image"].min() and sample["image"].max() <= 1
    assert sample["deepsa_mask"].shape == (1, 64, 64) and sample["deepsa_mask"].dtype == torch.float32
    assert set(sample["deepsa_mask"].unique().tolist()) == {0.0, 1.0}
    assert sample["view_deg"].tolist() == [-28.0, 35.0] and sample["row"] == 0


def test_unknown_angles_are_nan(table):
    assert torch.isnan(AngiogramDataset(table, image_size=32)[1]["view_deg"]).all()


@pytest.mark.parametrize("row", range(4))  # uint8 and float32, with and without a colour axis
def test_image_is_the_analysed_frame_and_vessels_are_dark_under_the_label(table, row):
    sample = AngiogramDataset(table, image_size=96)[row]
    frame = np.load(table["cine_path"][row])[table["frame_index"][row]].astype(np.float32)
    frame = frame if frame.max() <= 1 else frame / 255
    expected = frame if frame.ndim == 3 else np.repeat(frame[..., None], 3, -1)
    np.testing.assert_allclose(sample["image"].permute(1, 2, 0), expected, atol=1e-3)
    mask = sample["deepsa_mask"][0] > 0
    assert sample["image"][0][mask].mean() < sample["image"][0][~mask].mean() - 0.15


@pytest.mark.parametrize("augmented", [False, True])
def test_grey_frames_in_one_channel_give_the_sample_of_three(table, augmented, monkeypatch):
    options = dict(image_size=64, augment=augmented, seed=1)
    samples = [AngiogramDataset(table, **options)[row, 2] for row in range(4)]
    monkeypatch.setattr("data.dataset.without_repeats", lambda frame: frame)
    for row, sample in enumerate(samples):
        whole = AngiogramDataset(table, **options)[row, 2]
        torch.testing.assert_close(sample["image"], whole["image"], rtol=0, atol=1 / 255 + 1e-6)
        assert torch.equal(sample["deepsa_mask"], whole["deepsa_mask"])
        assert collate([sample, whole])["image"].is_contiguous()


def test_colours_stay_colours():
    frame = np.zeros((8, 8, 3), np.uint8)
    assert without_repeats(frame).shape == (8, 8)
    for channel in range(3):
        coloured = frame.copy()
        coloured[5, 6, channel] = 1
        np.testing.assert_array_equal(without_repeats(coloured), coloured)


def test_frame_masks_are_at_the_frames_own_size(table):
    dataset = AngiogramDataset(table, image_size=48, frame_masks=True)
    sample = dataset[0]
    for key in ("frame_deepsa_mask", "frame_truth_mask"):
        assert sample[key].shape == (96, 96) and sample[key].dtype == bool
    assert sample["frame_truth_mask"].sum() > sample["frame_deepsa_mask"].sum() > 0
    with pytest.raises(ValueError, match="augment or frame_masks"):
        AngiogramDataset(table, image_size=48, frame_masks=True, augment=True)


def test_collate_stacks_tensors_and_keeps_frame_masks_as_a_list(table):
    some = table.copy()
    some.loc[1, "true_vessel_mask_path"] = None
    dataset = AngiogramDataset(some, image_size=32, frame_masks=True)
    batch = collate([dataset[i] for i in range(3)])
    assert batch["image"].shape == (3, 3, 32, 32) and batch["deepsa_mask"].shape == (3, 1, 32, 32)
    assert batch["view_deg"].shape == (3, 2) and batch["row"].tolist() == [0, 1, 2]
    assert batch["frame_truth_mask"][1] is None and batch["frame_truth_mask"][2].shape == (96, 96)


def test_rows_of_a_split_are_counted_from_zero(table):
    val = table[table["split"] == "val"]
    dataset = AngiogramDataset(val, image_size=32)
    assert [dataset[i]["row"] for i in range(len(dataset))] == [0, 1]
    assert dataset.table["patient_id"].unique().tolist() == ["101-0004"]
    with pytest.raises(ValueError, match="no rows"):
        AngiogramDataset(table[:0], image_size=32)


def test_augmentation_is_a_function_of_seed_epoch_and_index(table):
    first = AngiogramDataset(table, image_size=48, augment=True, seed=3)
    again = AngiogramDataset(table, image_size=48, augment=True, seed=3)
    _ = again[(5, 0)], again[(0, 1)]  # what was asked before does not matter
    assert torch.equal(first[(2, 4)]["image"], again[(2, 4)]["image"])
    assert torch.equal(first[(2, 4)]["deepsa_mask"], again[(2, 4)]["deepsa_mask"])
    other_seed = AngiogramDataset(table, image_size=48, augment=True, seed=4)
    for other in (first[(2, 5)], other_seed[(2, 4)], first[(3, 4)]):
        assert not torch.equal(first[(2, 4)]["image"], other["image"])
    assert torch.equal(first[2]["image"], first[(2, 0)]["image"])


def test_workers_give_the_same_pictures(table):
    dataset = AngiogramDataset(table, image_size=32, augment=True, seed=1)
    keys = [(i, 2) for i in range(4)]
    loader = DataLoader(dataset, batch_size=2, sampler=keys, num_workers=1, collate_fn=collate)
    images = torch.cat([batch["image"] for batch in loader])
    assert torch.equal(images, torch.stack([dataset[key]["image"] for key in keys]))


def test_the_analysed_segment_comes_with_its_class_and_box(table):
    dataset = AngiogramDataset(table, image_size=96, classes=CLASS_IDS)
    for row in range(len(dataset)):
        sample = dataset[row]
        assert sample["segment_mask"].shape == (1, 96, 96) and sample["segment_mask"].dtype == torch.float32
        assert set(sample["segment_mask"].unique().tolist()) == {0.0, 1.0}
        assert CLASS_IDS[sample["class_index"]] == table["cass_segment"][row]
        # The picture is as large as the frame, so the mask is the file's own and the box lies around it.
        mask = read_mask(table["vessel_mask_actual_path"][row])
        np.testing.assert_array_equal(sample["segment_mask"][0] > 0, mask)
        ys, xs = np.nonzero(mask)
        left, top, right, bottom = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) / 96
        expected = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
        np.testing.assert_allclose(sample["box"], expected, atol=1e-6)


def test_without_classes_a_sample_says_nothing_of_the_segment(table):
    assert not {"segment_mask", "class_index", "box"} & set(AngiogramDataset(table, image_size=32)[0])


def test_the_class_index_follows_the_order_of_the_classes(table):
    assert table["cass_segment"].tolist()[:3] == [13, 1, 2]
    dataset = AngiogramDataset(table, image_size=32, classes=(19, 13, 12, 2, 1))
    assert [dataset[i]["class_index"] for i in range(3)] == [1, 4, 3]


def test_segment_and_box_go_with_the_augmented_picture(table):
    dataset = AngiogramDataset(table, image_size=96, augment=True, classes=CLASS_IDS)
    places = set()
    for epoch in range(12):
        sample = dataset[(0, epoch)]
        mask = sample["segment_mask"][0].numpy() > 0
        np.testing.assert_array_equal(sample["box"], box_of(mask))
        # The segment is a stretch of the trunk, which the label of all vessels holds too.
        assert (sample["deepsa_mask"][0].numpy()[mask] > 0).mean() > 0.75
        places.add(tuple(sample["box"].tolist()))
    assert len(places) == 12


def test_classes_do_not_change_the_augmented_picture(table):
    plain = AngiogramDataset(table, image_size=64, augment=True, seed=3)[(0, 2)]
    named = AngiogramDataset(table, image_size=64, augment=True, seed=3, classes=CLASS_IDS)[(0, 2)]
    hidden = AngiogramDataset(
        table, image_size=64, augment=True, seed=3, classes=CLASS_IDS, view_dropout=1.0
    )[(0, 2)]
    for other in (named, hidden):
        assert torch.equal(plain["image"], other["image"])
        changed = plain["deepsa_mask"] != other["deepsa_mask"]  # by the rounding of two labels at once
        assert changed.float().mean() < 0.002
    assert torch.equal(plain["view_deg"], named["view_deg"]) and torch.isnan(hidden["view_deg"]).all()


def test_a_segment_out_of_the_picture_has_no_box(table, tmp_path):
    some = table.copy()
    np.save(tmp_path / "empty.npy", np.zeros((96, 96), np.uint8))
    some.loc[0, "vessel_mask_actual_path"] = str(tmp_path / "empty.npy")
    dataset = AngiogramDataset(some, image_size=64, classes=CLASS_IDS)
    batch = collate([dataset[0], dataset[1]])
    assert batch["box"].shape == (2, 4) and batch["box"].isnan().tolist() == [[True] * 4, [False] * 4]
    assert batch["segment_mask"].sum(dim=(1, 2, 3)).gt(0).tolist() == [False, True]
    assert batch["class_index"].dtype == torch.int64


def test_boxes_by_hand():
    mask = np.zeros((10, 20), bool)
    mask[2:4, 5:10] = True
    np.testing.assert_allclose(box_of(mask), [7.5 / 20, 3 / 10, 5 / 20, 2 / 10])
    assert box_of(np.ones((10, 20), bool)).tolist() == [0.5, 0.5, 1.0, 1.0]
    assert np.isnan(box_of(np.zeros((10, 20), bool))).all() and box_of(mask).dtype == np.float32


def test_true_cass_maps_come_at_the_frames_own_size_where_there_are_any(table, tmp_path):
    cass_map = np.zeros((96, 96), np.uint8)
    cass_map[20:40, 30:50] = 13
    cv2.imwrite(str(tmp_path / "cass.png"), cass_map)
    some = table.copy()
    some["true_cass_map_path"] = [str(tmp_path / "cass.png")] + [np.nan] * (len(some) - 1)
    dataset = AngiogramDataset(some, image_size=48, frame_masks=True, classes=CLASS_IDS)
    batch = collate([dataset[0], dataset[1]])
    np.testing.assert_array_equal(batch["frame_cass_map"][0], cass_map)
    assert batch["frame_cass_map"][0].dtype == np.uint8 and batch["frame_cass_map"][1] is None
    expected = read_mask(some["vessel_mask_actual_path"][0])
    np.testing.assert_array_equal(batch["frame_segment_mask"][0], expected)
    assert batch["frame_segment_mask"][0].dtype == bool and "frame_cass_map" not in dataset[1]


def _arrow(side: int = 96) -> np.ndarray:
    """uint8 (S, S): a shape without any mirror symmetry."""
    picture = np.zeros((side, side), np.uint8)
    picture[30:66, 40:46] = picture[60:66, 40:60] = 255
    return picture


def test_label_moves_with_the_picture():
    picture = _arrow()
    image, coverage = np.repeat(picture[..., None], 3, -1), picture.copy()
    for seed in range(20):
        change = draw_change(np.random.default_rng(seed))
        moved_image, moved_coverage = move(image, coverage, change)
        np.testing.assert_array_equal(moved_image[..., 0], moved_coverage)
        assert moved_coverage.any()


@pytest.mark.parametrize("place", [(30, 40), (60, 35), (50, 66)])
def test_points_go_where_the_unmirrored_matrix_says(place):
    blob = np.zeros((96, 96), np.uint8)
    cv2.circle(blob, place, 4, 255, -1)
    image = np.repeat(255 - blob[..., None], 3, -1)
    for seed in range(40):
        change = draw_change(np.random.default_rng(seed))
        rows, columns = np.nonzero(augment(image, blob.copy(), np.random.default_rng(seed))[1] >= 128)
        np.testing.assert_allclose((columns.mean(), rows.mean()), change.matrix(96) @ (*place, 1), atol=0.6)


def test_label_still_lies_on_the_dark_vessels_after_everything():
    vessel = cv2.GaussianBlur(_arrow(), (0, 0), 1.5)
    image = np.repeat((180 - 0.5 * vessel).astype(np.uint8)[..., None], 3, -1)
    for seed in range(30):
        changed, coverage = augment(image, vessel, np.random.default_rng(seed))
        assert changed.dtype == np.float32 and 0 <= changed.min() and changed.max() <= 1
        mask = coverage >= 128
        ring = cv2.dilate(mask.astype(np.uint8), np.ones((9, 9))).astype(bool) & (coverage < 20)
        ring &= changed[..., 0] > 0.15  # not what came in from outside, nor a blade
        assert changed[..., 0][mask].mean() < changed[..., 0][ring].mean() - 0.1


def test_nothing_is_ever_mirrored_and_ranges_hold():
    for seed in range(300):
        change = draw_change(np.random.default_rng(seed))
        linear = change.matrix(96)[:, :2]
        assert np.linalg.det(linear) > 0  # a mirroring has a negative determinant
        assert abs(np.degrees(np.arctan2(linear[0, 1], linear[0, 0]))) <= ROTATION_DEG + 1e-9
        assert SCALE[0] <= np.sqrt(np.linalg.det(linear)) <= SCALE[1] + 1e-9
        assert max(map(abs, change.shift)) <= TRANSLATION and max(change.blades) <= COLLIMATOR_DEPTH
        assert sum(depth > 0 for depth in change.blades) <= 2


def test_shading_moves_no_pixel_and_keeps_the_order_of_greys():
    greys = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, -1)
    for seed in range(20):
        change = replace(draw_change(np.random.default_rng(seed)), blur=0.0)
        assert (np.diff(shade(greys, change)[0, :, 0].astype(int)) >= 0).all()


def test_vessels_under_a_collimator_blade_leave_the_label():
    change = replace(draw_change(np.random.default_rng(0)), blades=(0.1, 0.0, 0.0, 0.05), blade_grey=10)
    image, coverage = np.ones((100, 100, 3), np.float32), np.full((100, 100), 255, np.uint8)
    image, coverage = close_blades(image, coverage, change)
    assert (coverage[:, :10] == 0).all() and (coverage[95:] == 0).all() and (coverage[:95, 10:] == 255).all()
    np.testing.assert_allclose(image[:, :10], 10 / 255)
    assert (image[:95, 10:] == 1).all()


def test_what_comes_in_from_outside_stays_dark_however_bright_the_picture_is_made():
    bright, checked = np.full((96, 96, 3), 250, np.uint8), 0
    for seed in range(40):
        change = draw_change(np.random.default_rng(seed))
        inside = move(bright, np.full((96, 96), 255, np.uint8), change)[1]
        changed = augment(bright, np.zeros((96, 96), np.uint8), np.random.default_rng(seed))[0]
        outside = changed[inside == 0]
        checked += outside.size
        assert outside.size == 0 or np.median(outside) <= 24 / 255
    assert checked > 1000


@pytest.mark.parametrize("count", [1, 2, 3])
def test_several_labels_move_as_each_would_alone(count):
    masks = [np.roll(_arrow(), 7 * i, axis=1) for i in range(count)]
    image = np.full((96, 96, 3), 120, np.uint8)
    for seed in range(8):
        together = augment(image, np.stack(masks, axis=-1), np.random.default_rng(seed))
        assert together[1].shape == (96, 96, count) and together[1].dtype == np.uint8
        for i, mask in enumerate(masks):
            alone = augment(image, mask.copy(), np.random.default_rng(seed))
            np.testing.assert_array_equal(together[0], alone[0])
            # OpenCV interpolates one and two channels by different code, up to 5 of 255 apart.
            np.testing.assert_allclose(together[1][..., i].astype(int), alone[1], atol=8)


def test_a_blade_covers_every_label():
    change = replace(draw_change(np.random.default_rng(0)), blades=(0.1, 0.0, 0.0, 0.05), blade_grey=10)
    labels = np.full((100, 100, 2), 255, np.uint8)
    _, coverage = close_blades(np.ones((100, 100, 3), np.float32), labels, change)
    assert (coverage[:, :10] == 0).all() and (coverage[95:] == 0).all() and (coverage[:95, 10:] == 255).all()
