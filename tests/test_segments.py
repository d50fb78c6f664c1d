"""Names of all vessels of a frame: each rule of the anatomy on drawn trees, centrelines and their lengths."""

import cv2
import numpy as np
import pytest

from data.cass import SEGMENTS
from utils.segments.naming import RULES, line_length, name_map, visible_segments
from utils.segments.prediction import FramePrediction
from utils.segments.rules import agree_along_vessels, fill_one_artery, switch_costs
from utils.segments.vessel_tree import centreline_of, thread_beads

CLASSES = (1, 2, 3, 12, 13, 14, 15)
SIDE = 256


def canvas():
    return np.zeros((SIDE, SIDE), np.uint8)


def draw(picture, start, end, value=1, thickness=6):
    """A vessel from (x, y) to (x, y)."""
    return cv2.line(picture, start, end, value, thickness)


def prediction_of(names, sure=0.8):
    """What a model says that gives the names of this map (CASS numbers, 255 = none) the share `sure` each."""
    names = np.asarray(names)
    probs = np.full((len(CLASSES) + 1, *names.shape), (1 - sure) / len(CLASSES))
    for channel, cass_id in enumerate((*CLASSES, 255)):
        probs[channel][names == cass_id] = sure
    nothing = np.zeros(names.shape, np.float32)
    return FramePrediction((names > 0).astype(np.float32), np.log(probs).astype(np.float32), nothing,
                           np.zeros(len(CLASSES), np.float32), np.zeros(4, np.float32), CLASSES)


def artery():
    """12, 13 and 14 in a row from the left to the right, 15 leaving downwards where 12 meets 13."""
    picture = draw(canvas(), (20, 60), (90, 60), 12)
    draw(picture, (90, 60), (110, 200), 15)
    draw(picture, (90, 60), (160, 60), 13)
    return draw(picture, (160, 60), (235, 60), 14)


def test_without_rules_each_vessel_pixel_has_its_likeliest_name():
    truth = artery()
    truth[100:130, :10] = 255  # a vessel of none of the classes
    names, probability = name_map(prediction_of(truth), rules=())
    assert names.dtype == np.uint8 and probability.dtype == np.float32
    np.testing.assert_array_equal(names, np.where(truth == 255, 0, truth))
    assert probability[names > 0] == pytest.approx(0.8) and not probability[names == 0].any()


@pytest.mark.parametrize("rules", [(), *((rule,) for rule in RULES), RULES])
def test_rules_leave_a_sound_map_as_it_is(rules):
    truth = artery()
    names, _ = name_map(prediction_of(truth), rules=rules)
    assert (names == truth)[truth > 0].mean() > 0.97  # where segments meet, a bead may lie across


def test_no_vessel_no_names():
    names, probability = name_map(prediction_of(canvas()))
    assert not names.any() and not probability.any()


def test_a_lone_pixel_of_vessel_is_named():
    picture = canvas()
    picture[100, 100] = 13
    assert name_map(prediction_of(picture))[0][100, 100] == 13


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="one_artery"):
        name_map(prediction_of(artery()), rules=("one_vein",))


def test_vessels_below_the_threshold_are_not_named():
    truth = artery()
    prediction = prediction_of(truth)
    prediction.vessel_probability[truth == 14] = 0.4
    assert 14 not in name_map(prediction)[0]
    assert 14 in name_map(prediction, threshold=0.3)[0]


def test_one_injection_fills_one_artery():
    truth = artery()
    wrong = truth.copy()
    wrong[:, 160:] = np.where(truth[:, 160:] > 0, 2, 0)  # half of the tree gets a name of the right artery
    assert 2 in name_map(prediction_of(wrong), rules=("agreement",))[0]
    names, probability = name_map(prediction_of(wrong), rules=("one_artery",))
    assert not np.isin(names, (1, 2, 3)).any()
    # What was left, seven names of 0.2 / 7 less two of the right artery, is shared out again.
    log_probs = fill_one_artery(prediction_of(wrong).name_log_probs[:, truth > 0], CLASSES)
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=0), 1, rtol=1e-5)
    assert np.exp(log_probs[:3]).max() < 1e-6


def test_a_piece_of_vessel_agrees_with_its_surroundings():
    truth = artery()
    spotted = truth.copy()
    spotted[:, 50:55] = np.where(truth[:, 50:55] > 0, 14, 0)  # one spot in the proximal LAD
    assert (name_map(prediction_of(spotted, sure=0.3), rules=())[0] == 14)[:, 40:70].any()
    names, _ = name_map(prediction_of(spotted, sure=0.3), rules=("agreement",))
    assert set(np.unique(names[55:66, 25:80])) == {0, 12}


def test_names_that_do_not_touch_in_the_tree_pay_more():
    costs = switch_costs(CLASSES)
    at = {cass_id: channel for channel, cass_id in enumerate(CLASSES)}
    assert np.array_equal(costs, costs.T) and not costs.diagonal().any()
    assert costs[at[12], at[13]] < costs[at[12], at[14]]
    assert costs[at[12], at[15]] < costs[at[14], at[15]]
    assert costs[at[1], -1] < costs[at[1], at[3]]


def test_what_lies_between_two_segments_is_named_after_what_belongs_between_them():
    switch = switch_costs(CLASSES)
    at = {cass_id: channel for channel, cass_id in enumerate(CLASSES)}
    costs = np.full((5, len(CLASSES) + 1), 9.0)
    costs[:2, at[12]] = 0
    costs[2, [at[15], at[13]]] = 1.0, 1.2  # by itself 15, but the distal LAD does not leave that
    costs[3:, at[14]] = 0
    pairs = np.array([[0, 1], [1, 2], [2, 3], [3, 4]])
    alike = np.where(switch > 0, 2.0, 0.0)
    assert agree_along_vessels(costs, pairs, alike)[2] == at[15]
    assert agree_along_vessels(costs, pairs, switch)[2] == at[13]


def test_agreement_is_the_best_of_all_namings_of_a_tree():
    rng = np.random.default_rng(3)
    pairs = np.array([[0, 1], [1, 2], [1, 3], [3, 4], [5, 6]])  # a fork, and a piece of its own
    for _ in range(20):
        costs, switch = rng.uniform(0, 4, (7, 3)), rng.uniform(0, 3, (3, 3))
        switch = switch + switch.T
        namings = np.stack(np.meshgrid(*[range(3)] * 7, indexing="ij"), axis=-1).reshape(-1, 7)
        total = costs[np.arange(7), namings].sum(axis=1)
        total += sum(switch[namings[:, a], namings[:, b]] for a, b in pairs)
        np.testing.assert_array_equal(agree_along_vessels(costs, pairs, switch), namings[total.argmin()])


def test_a_segment_is_in_one_place():
    truth = artery()
    draw(truth, (40, 150), (40, 190), 12)  # a second proximal LAD, shorter and far away
    prediction = prediction_of(truth)
    prediction.name_log_probs[CLASSES.index(14)] += 0.5  # second best there: 14, which is elsewhere too
    prediction.name_log_probs[-1] += 0.4
    usual, named = (name_map(prediction, rules=rules)[0] for rules in (RULES[:3], RULES))
    assert (usual[145:200, 30:50][truth[145:200, 30:50] > 0] == 12).all()
    assert (named[55:66, 25:80][truth[55:66, 25:80] > 0] == 12).all()
    assert not named[145:200, 30:50].any()


def test_a_segment_that_another_vessel_crosses_stays_in_one_place():
    truth = draw(canvas(), (20, 100), (235, 100), 12)
    draw(truth, (128, 20), (128, 235), 15)
    names, _ = name_map(prediction_of(truth))
    assert (names == truth)[truth > 0].mean() > 0.97


def test_beads_cover_the_mask_and_do_not_reach_over_a_bifurcation():
    mask = artery() > 0
    beads = thread_beads(mask, 8.0)
    assert beads.of_pixel.shape == (mask.sum(),) and set(beads.of_pixel) == set(range(len(beads.length_px)))
    assert beads.length_px.max() <= 9
    degree = np.bincount(beads.pairs.ravel())
    assert sorted(degree)[-1] == 3 and (degree == 1).sum() == 3  # one fork, three ends
    assert len(beads.pairs) == len(beads.length_px) - 1  # a tree
    owner = np.full(mask.shape, -1)
    owner[mask] = beads.of_pixel
    assert owner[60, 30] != owner[60, 80] != owner[100, 96]


def test_a_ring_has_beads_too():
    mask = cv2.circle(canvas(), (128, 128), 60, 1, 5) > 0
    beads = thread_beads(mask, 8.0)
    assert beads.length_px.max() <= 16 and len(beads.length_px) > 30
    owner = np.full(mask.shape, -1)
    owner[mask] = beads.of_pixel
    for bead in range(len(beads.length_px)):  # both ways round are as far: no bead is in two places
        assert cv2.connectedComponents((owner == bead).astype(np.uint8))[0] == 2


def test_visible_segments_say_what_and_where():
    truth = artery()
    probability = np.where(truth > 0, 0.7, 0).astype(np.float32)
    found = visible_segments(truth, probability)
    assert [segment.cass_id for segment in found] == [12, 13, 14, 15]
    diagonal = found[3]
    assert (diagonal.name, diagonal.snomed_ct) == (SEGMENTS[15].name, SEGMENTS[15].snomed_ct)
    assert diagonal.probability == pytest.approx(0.7)
    np.testing.assert_array_equal(diagonal.mask, truth == 15)
    rows, columns = np.nonzero(truth == 15)
    assert diagonal.box_px == (columns.min(), rows.min(), columns.max(), rows.max())
    assert diagonal.length_px == pytest.approx(np.hypot(20, 140), rel=0.06)


def test_a_centreline_is_ordered_along_the_vessel():
    angle = np.linspace(0, 1.5 * np.pi, 200)
    points = np.stack([128 + 80 * np.cos(angle), 128 + 80 * np.sin(angle)], axis=1)
    mask = cv2.polylines(canvas(), [points.round().astype(np.int32)], False, 1, 7) > 0
    line = centreline_of(mask, 10.0)
    assert np.hypot(*np.diff(line, axis=0).T).max() < 1.5
    assert mask[tuple(line.astype(int).T[::-1])].all()
    assert line_length(line) == pytest.approx(1.5 * np.pi * 80, rel=0.03)
    np.testing.assert_allclose(np.hypot(*(line - 128).T), 80, atol=2)


@pytest.mark.parametrize("end", [(220, 40), (220, 120), (200, 200), (80, 230)])
def test_the_length_does_not_depend_on_the_direction(end):
    mask = draw(canvas(), (30, 40), end) > 0
    length = np.hypot(end[0] - 30, end[1] - 40)
    assert line_length(centreline_of(mask, 5.0)) == pytest.approx(length, rel=0.04)


def test_a_centreline_steps_over_a_gap_but_not_to_the_other_end_of_the_frame():
    mask = draw(canvas(), (20, 60), (100, 60)) > 0
    mask |= draw(canvas(), (115, 60), (180, 60)) > 0
    mask |= draw(canvas(), (20, 230), (60, 230)) > 0
    line = centreline_of(mask, 20.0)
    assert line_length(line) == pytest.approx(160, abs=8) and (line[:, 1] < 70).all()


def test_stubs_are_not_listed_unless_asked_for():
    names = canvas()
    names[100:103, 50:53] = 13
    probability = (names > 0).astype(np.float32)
    assert visible_segments(names, probability) == []
    (stub,) = visible_segments(names, probability, min_length_px=0)
    assert stub.cass_id == 13 and len(stub.centreline_px) >= 1 and stub.box_px == (50, 100, 52, 102)
