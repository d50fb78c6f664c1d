"""The mean tree, its placement in a frame by one segment, and the weak names that come of it."""

import csv
from dataclasses import replace

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import data.dataset
from data.atlas import BEYOND_TABLE_MM, SPREAD_MM, STEP_MM, TABLE, mean_tree, place_tree, weak_names
from data.augment import Change, draw_change
from data.cass import CLASS_IDS, SEGMENTS
from data.contours import read_contours
from data.dataset import MAP_STRIDE, AngiogramDataset
from data.schema import load_table
from phantom.carm import CArm
from tests.csv_fixture import write_tiny_dataset

UNCHANGED = Change(
    angle_deg=0.0, scale=1.0, shift=(0.0, 0.0), gamma=1.0, contrast=1.0, brightness=0.0, noise=0.0, blur=0.0,
    blades=(0.0, 0.0, 0.0, 0.0), blade_grey=0,
)


def table_points(cass_id):
    with open(TABLE, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if int(row["cass_id"]) == cass_id]
    axes = ("left_mm", "superior_mm", "anterior_mm")
    return np.array([[float(row[axis]) for axis in axes] for row in rows])


def length_of(line):
    return np.linalg.norm(np.diff(line, axis=0), axis=1).sum()


def distances(points, line):
    """Of each point (n, d) to the nearest point of a line (m, d)."""
    return np.linalg.norm(points[:, None] - line[None], axis=2).min(axis=1)


def test_each_tree_has_the_segments_of_its_artery_only():
    for side, needed in (("left", {11, 12, 13, 14, 15, 16, 18, 19, 20, 21, 28}), ("right", {1, 2, 3, 4})):
        found = {cass_id for cass_id, _ in mean_tree(side)}
        assert needed <= found and all(SEGMENTS[cass_id].side == side for cass_id in found)
    both = {cass_id for side in ("left", "right") for cass_id, _ in mean_tree(side)}
    assert set(CLASS_IDS) <= both


def test_segments_run_from_proximal_to_distal_and_follow_on_each_other():
    left, right = dict(mean_tree("left")), dict(mean_tree("right"))
    pairs = ((left, 11, 12), (left, 12, 13), (left, 13, 14), (left, 18, 19), (right, 1, 2))
    for tree, before, after in pairs:
        np.testing.assert_allclose(tree[before][-1], tree[after][0], atol=1e-9)
    np.testing.assert_allclose(left[11][0], [2.96, 0.37, 0.36])
    for cass_id, line in (*left.items(), *right.items()):
        steps = np.linalg.norm(np.diff(line, axis=0), axis=1)
        assert steps.max() < 1.5 * STEP_MM, cass_id


def test_branches_that_the_table_cuts_short_go_on_along_the_heart():
    tree = dict(mean_tree("right")) | dict(mean_tree("left"))
    for cass_id in (4, 15, 20):
        points, line, beyond = table_points(cass_id), tree[cass_id], BEYOND_TABLE_MM[cass_id]
        assert length_of(line) == pytest.approx(length_of(points) + beyond, abs=1.5)
        assert distances(points, line).max() < STEP_MM
        assert np.linalg.norm(line[-1] - points[-1]) > 0.75 * beyond  # ahead, not back or in circles
    assert length_of(tree[13]) == pytest.approx(length_of(table_points(13)), rel=0.02)


@pytest.mark.parametrize(
    "view_deg, axes",
    [
        ((0, 0), [[1, 0, 0], [0, -1, 0]]),  # from the front: the patient's left at the right, feet below
        ((90, 0), [[0, 0, -1], [0, -1, 0]]),  # from the patient's left: the front at the left
        ((-90, 0), [[0, 0, 1], [0, -1, 0]]),
        ((0, 90), [[1, 0, 0], [0, 0, 1]]),  # from the head: the front below
    ],
)
def test_a_mean_patient_is_seen_as_the_angles_say(view_deg, axes):
    tree = mean_tree("left")
    seen = [(cass_id, 3.5 * line @ np.array(axes, float).T + [250, 200]) for cass_id, line in tree]
    placed = place_tree(13, view_deg, dict(seen)[13], px_per_mm=3.5)
    assert [cass_id for cass_id, _ in placed] == [cass_id for cass_id, _ in tree]
    for (_, line), (_, expected) in zip(placed, seen, strict=True):
        # Not closer: shares of a line's length are not the same in space and in the picture.
        np.testing.assert_allclose(line, expected, atol=3.5)  # 1 mm


@pytest.mark.parametrize("turn_deg", [-10, 10])
@pytest.mark.parametrize(
    "cass_id, view_deg", [(13, (30, 25)), (12, (-30, -25)), (19, (-25, -30)), (2, (40, 0))]
)
def test_a_patient_turned_and_larger_is_found_by_one_segment(cass_id, view_deg, turn_deg):
    """Seen by the phantom's C-arm, with perspective: the others are where the tree says, to a few mm."""
    carm = CArm(*view_deg, sid_mm=1000, sod_mm=760, spacing_mm=0.25, size_px=512, isocentre_mm=(15, -30, 15))
    px_per_mm = carm.sid_mm / carm.sod_mm / carm.spacing_mm
    turn = Rotation.from_rotvec(np.radians(turn_deg) * carm.axes()[2])
    tree = mean_tree(SEGMENTS[cass_id].side)
    truth = {number: carm.project(1.06 * turn.apply(line))[0] for number, line in tree}
    mean = {number: carm.project(line)[0] for number, line in tree}
    shift = truth[cass_id].mean(axis=0) - mean[cass_id].mean(axis=0)
    placed = dict(place_tree(cass_id, view_deg, truth[cass_id][::2], px_per_mm))
    misses, unfitted = (
        {number: distances(lines[number], truth[number]).mean() / px_per_mm for number in truth}
        for lines in (placed, {number: line + shift for number, line in mean.items()})
    )
    assert misses[cass_id] < 1.0 and np.median(list(misses.values())) < 3.5, misses
    assert np.mean(list(misses.values())) < 0.9 * np.mean(list(unfitted.values())), unfitted


def test_what_cannot_be_placed_is_none():
    line = np.stack([np.linspace(100, 200, 40), np.linspace(50, 150, 40)], axis=1)
    assert place_tree(13, (30, 25), line, 3.5) is not None
    for view_deg in ((np.nan, 25), (30, np.nan), (np.nan, np.nan)):
        assert place_tree(13, view_deg, line, 3.5) is None
    for px_per_mm in (np.nan, 0.0, np.inf):
        assert place_tree(13, (30, 25), line, px_per_mm) is None
    on_trees = {number for side in ("left", "right") for number, _ in mean_tree(side)}
    for cass_id in set(SEGMENTS) - on_trees:
        assert place_tree(cass_id, (30, 25), line, 3.5) is None


def test_weak_names_fall_with_the_distance_to_the_line_of_each_class():
    upright = np.array([[20.0, 0.0], [20.0, 63.0]])
    lines = [(12, upright), (13, upright + [24, 0]), (17, upright + [40, 0]), (29, upright + [200, 0])]
    names = weak_names(lines, (12, 13, 28), size=64, px_per_mm=2.0)
    assert names.shape == (4, 64, 64) and names.dtype == np.float32
    assert names.min() >= 0 and names.max() == 1
    spread_px = 2.0 * SPREAD_MM
    for channel, column in ((0, 20), (1, 44), (3, 60)):  # 17 is none of the classes: the last channel
        expected = np.exp(-0.5 * ((np.arange(64) - column) / spread_px) ** 2)
        np.testing.assert_allclose(names[channel, 32], expected, atol=0.05)  # OpenCV's distances are to 2 %
    assert (names[2] == 0).all()  # a class that the tree has not
    assert (weak_names(lines[3:], (29,), 64, 2.0) == 0).all()  # not in the picture


def test_pieces_of_a_class_are_joined_in_its_channel():
    upright = np.array([[10.0, 0.0], [10.0, 63.0]])
    names = weak_names([(17, upright), (17, upright + [30, 0])], (17,), 64, 4.0)
    assert names[0, 32, 10] == names[0, 32, 40] == 1 and names[0, 32, 25] < 0.9


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return load_table(write_tiny_dataset(tmp_path_factory.mktemp("tiny"), patients=3, rows_per_patient=1))


SIDE = 384  # large, so that a pixel of the map is far less than SPREAD_MM
MAP_SIDE = SIDE // MAP_STRIDE


def sample_of(table, patch=None, change=None, row=0, **more):
    settings = {"augment": change is not None, **more}
    dataset = AngiogramDataset(table, image_size=SIDE, classes=CLASS_IDS, atlas=True, **settings)
    if change is not None:
        patch.setattr(data.dataset, "draw_change", lambda rng: change)
    return dataset[row]


def test_a_sample_has_weak_names_with_the_annotated_segment_on_its_own(table):
    for row in (0, 2):
        sample = sample_of(table, row=row)
        names, index = sample["weak_names"], sample["class_index"]
        assert names.shape == (len(CLASS_IDS) + 1, MAP_SIDE, MAP_SIDE)
        assert 0 <= names.min() and names.max() <= 1
        mask = sample["segment_mask"][0, ::MAP_STRIDE, ::MAP_STRIDE] > 0
        assert names[index][mask].mean() > 0.85
        for channel, cass_id in enumerate(CLASS_IDS):
            if SEGMENTS[cass_id].side != SEGMENTS[CLASS_IDS[index]].side:
                assert (names[channel] == 0).all()


def test_a_row_without_angles_has_no_weak_names(table):
    assert np.isnan(table["primary_angle"][1])
    assert (sample_of(table, row=1)["weak_names"] == 0).all()


def test_around_the_ends_of_the_segment_names_are_unsure(table, monkeypatch):
    """Within 5 mm, also in a changed picture, and in a row without angles."""
    assert (sample_of(table)["unsure"] == 0).all()
    ends = read_contours(table["contours_path"][1]).centerline[[0, -1]]
    px_per_mm, y_x = MAP_SIDE / 96 * 4.0, np.indices((MAP_SIDE, MAP_SIDE))  # the fixture has 4 px per mm
    for change in (None, replace(UNCHANGED, angle_deg=10.0, scale=0.9, shift=(0.02, 0.05))):
        unsure = sample_of(table, monkeypatch, change, row=1, unsure_ends_mm=5.0)["unsure"][0].numpy()
        matrix = np.eye(2, 3) if change is None else change.matrix(MAP_SIDE)
        scale = 1.0 if change is None else change.scale
        places = ((ends + 0.5) * MAP_SIDE / 96 - 0.5) @ matrix[:, :2].T + matrix[:, 2]
        away_px = np.min([np.hypot(*(y_x - place[::-1, None, None])) for place in places], axis=0)
        away_mm = away_px / (scale * px_per_mm)
        assert (unsure[away_mm < 4.8] == 1).all() and (unsure[away_mm > 5.2] == 0).all()


def test_hidden_angles_do_not_hide_what_the_tree_says(table):
    """The label stays as true as it was; only the model is not told the angles."""
    sample = sample_of(table, augment=True, view_dropout=0.999999)
    assert sample["view_deg"].isnan().all() and sample["weak_names"].amax() > 0.5


@pytest.mark.parametrize(
    "change",
    [
        UNCHANGED,
        replace(UNCHANGED, shift=(1 / 12, -1 / 8)),
        replace(UNCHANGED, angle_deg=15.0),
        replace(UNCHANGED, scale=1.2),
        replace(UNCHANGED, angle_deg=-12.0, scale=0.85, shift=(0.05, 0.04)),
    ],
    ids=["none", "shift", "turn", "size", "all"],
)
def test_weak_names_move_with_the_picture(table, monkeypatch, change):
    plain = sample_of(table)["weak_names"].numpy()
    changed = sample_of(table, monkeypatch, change)["weak_names"].numpy()
    matrix, compared = change.matrix(MAP_SIDE), 0
    for channel in range(len(plain)):
        y, x = np.nonzero(plain[channel] == 1)  # on the line of this class
        moved = np.rint(matrix[:, :2] @ [x, y] + matrix[:, 2:]).astype(int)
        moved = moved[:, ((moved > 0) & (moved < MAP_SIDE - 1)).all(axis=0)]
        compared += moved.shape[1]
        assert (changed[channel][moved[1], moved[0]] > 0.9).all(), channel
    assert compared > MAP_SIDE
    # Beside the line too: the values go by mm in the patient, which a larger picture does not change.
    own = CLASS_IDS.index(13)
    expected = cv2.warpAffine(plain[own], matrix, (MAP_SIDE, MAP_SIDE), borderValue=-100)
    near = expected > 0.5  # and not mixed with what comes in from outside
    np.testing.assert_allclose(changed[own][near], expected[near], atol=0.1)


def test_the_annotated_segment_stays_on_its_name_in_every_epoch(table):
    dataset = AngiogramDataset(table, image_size=SIDE, augment=True, classes=CLASS_IDS, atlas=True)
    for epoch in range(15):
        sample = dataset[(0, epoch)]
        mask = sample["segment_mask"][0, ::MAP_STRIDE, ::MAP_STRIDE] > 0
        assert sample["weak_names"][sample["class_index"]][mask].mean() > 0.8, draw_change(
            np.random.default_rng([0, epoch, 0])
        )
