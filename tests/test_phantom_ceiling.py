"""The ceiling of blind guesses: its parts against the sampler they describe, the whole against its hits."""

from itertools import groupby

import numpy as np
import pytest

from make_phantom_dataset import parse_arguments, run
from phantom.carm import CArm
from phantom.ceiling import blind_posterior, branch_factor, lesion_likelihood, row_counts, wire_likelihood
from phantom.plan import plan_analyses
from phantom.scene import CEILING, build_scene, build_trees, generator, patient_cases
from phantom.views import TRIES, angle_density, choice_weight, draw_position, pan_density

SEED, PATIENTS = 6, 200
PLAN = plan_analyses(PATIENTS, 500, SEED)
COUNTS = row_counts(PLAN)


def scenes(phase, patients=PATIENTS, severe_others=0.0):
    """(case, scene) of every planned row of a phase, of the first patients."""
    for patient, own in groupby(PLAN, key=lambda one: one.patient):
        cases = patient_cases(list(own))
        wanted = [case for case in cases if case.phase == phase]
        if patient < patients and wanted:
            trees = build_trees(SEED, cases)
            yield from ((case, build_scene(SEED, case, trees, 256, 3, severe_others)) for case in wanted)


def posterior(case, scene, severe_others=0.0):
    return blind_posterior(scene, COUNTS, generator(SEED, case.patient, CEILING, case.number), severe_others)


@pytest.fixture(scope="module")
def left():
    """A scene of the left tree after treatment, without a wire."""
    return next(pair for pair in scenes("FINAL") if pair[0].side == "left" and not len(pair[1].wire))


def test_rows_are_counted_by_segment_and_phase():
    assert sum(COUNTS.values()) == 500
    assert COUNTS[13, "PRE"] >= COUNTS[13, "FINAL"] > COUNTS[13, "EVENT"]


@pytest.mark.parametrize("phase", ["PRE", "EVENT"])
def test_a_severe_lesion_gives_the_segment_away(phase):
    found = list(scenes(phase, patients=12))
    assert found
    for case, scene in found:
        assert posterior(case, scene)[case.cass_id] == pytest.approx(1.0)


@pytest.mark.parametrize("severe_others", [0.0, 0.6])
@pytest.mark.parametrize("patients", [20, pytest.param(PATIENTS, marks=pytest.mark.slow)])
def test_the_guessers_hits_are_as_many_as_it_expects(patients, severe_others):
    """Over rows without a severe lesion, where it can be wrong: right as often as its posteriors say, and as
    surprised by the truth as it expects to be."""
    sure, hits, surprise, spread = [], [], [], []
    for case, scene in scenes("FINAL", patients, severe_others):
        guess = posterior(case, scene, severe_others)
        assert sum(guess.values()) == pytest.approx(1.0) and guess[case.cass_id] > 0
        best = max(guess, key=guess.get)
        sure.append(guess[best])
        hits.append(best == case.cass_id)
        shares = np.array([share for share in guess.values() if share > 0])
        entropy = -(shares * np.log(shares)).sum()
        surprise.append(-np.log(guess[case.cass_id]) - entropy)
        spread.append((shares * np.log(shares) ** 2).sum() - entropy**2)
    sure = np.array(sure)
    assert len(sure) >= patients and sure.min() < 0.9
    error = np.sqrt((sure * (1 - sure)).sum()) / len(sure)
    assert abs(np.mean(hits) - sure.mean()) < 3 * error
    assert abs(np.sum(surprise)) < 4 * np.sqrt(np.sum(spread))


def test_the_scene_as_drawn_does_not_depend_on_the_ceiling(left):
    case, scene = left
    before = scene.tree.center_mm.copy()
    assert posterior(case, scene) == posterior(case, scene)
    np.testing.assert_array_equal(scene.tree.center_mm, before)


def test_likelihood_of_lesions_by_hand():
    # PRE: one lesion of 50-88 % in the segment; elsewhere 0 to 3 of 12-42 %, of 5 other places.
    none_elsewhere = 1 / 4
    assert lesion_likelihood(13, "PRE", [(13, 70.0)], 6) == pytest.approx(none_elsewhere / 38)
    one_elsewhere = 1 / 4 / 5 / 30
    assert lesion_likelihood(13, "PRE", [(13, 70.0), (2, 20.0)], 6) == pytest.approx(one_elsewhere / 38)
    assert lesion_likelihood(12, "PRE", [(13, 70.0)], 6) == 0  # too severe to be a bystander
    # FINAL: the treated lesion has 3-22 %, unseen below 10.5.
    assert lesion_likelihood(13, "FINAL", [], 6) == pytest.approx(none_elsewhere * 7.5 / 19)
    assert lesion_likelihood(13, "FINAL", [(13, 15.0)], 6) == pytest.approx(none_elsewhere / 19)
    assert lesion_likelihood(13, "FINAL", [(13, 30.0)], 6) == 0  # an analysed segment has no other lesion
    both = [(13, 60.0), (13, 15.0)]
    assert lesion_likelihood(13, "EVENT", both, 6) == pytest.approx(none_elsewhere / 37 / 19)
    assert lesion_likelihood(13, "EVENT", [], 6) == 0


def test_likelihood_of_lesions_with_a_severe_one_elsewhere():
    # Half of all trees have one more of 50-88 %, in one of the segments without a mild one: with 0 to 3 mild ones,
    # none of them in its place, chances 1, 4/5, 3/5, 2/5, that it is there 1/5, 1/4, 1/3, 1/2 = 1/5 for each.
    def likelihood(seen, severe_others=0.5, visible_pct=42):  # mild ones are not seen
        return lesion_likelihood(13, "FINAL", seen, 6, visible_pct, severe_others)
    assert likelihood([(2, 60.0)]) == pytest.approx(0.5 / 5 / 38)
    assert likelihood([]) == pytest.approx(0.5)
    assert likelihood([(2, 60.0), (3, 70.0)]) == 0
    assert likelihood([(2, 60.0)], severe_others=0.0) == 0
    # Two other places: one mild lesion leaves one for the severe one, two leave none.
    assert lesion_likelihood(13, "FINAL", [], 3, 42, 0.5) == pytest.approx(0.5 * 0.5 + 0.5)
    assert lesion_likelihood(13, "FINAL", [(2, 60.0)], 3, 42, 0.5) == pytest.approx(0.5 * 0.5 / 38 / 2)


def test_likelihood_of_lesions_counts_those_too_mild_to_be_seen():
    # Nothing below 27 % is seen, half of all bystanders; one other place, so 1 lesion with chance 3 / 4.
    assert lesion_likelihood(13, "FINAL", [], 2, visible_pct=27) == pytest.approx(1 / 4 + 3 / 4 / 2)
    assert lesion_likelihood(13, "FINAL", [(2, 30.0)], 2, visible_pct=27) == pytest.approx(3 / 4 / 30)


@pytest.mark.parametrize("cass_id", [2, 12, 15])
def test_density_of_angles_is_that_of_the_draws(left, cass_id):
    right = next(scene for case, scene in scenes("FINAL") if case.side == "right")
    tree, rng = right.tree if cass_id == 2 else left[1].tree, np.random.default_rng(0)
    drawn = [draw_position(tree, cass_id, 256, rng) for _ in range(1500)]
    angles = np.array([(carm.primary_deg, carm.secondary_deg) for carm in drawn])
    low, high = angles.min(axis=0) - 8, angles.max(axis=0) + 8
    grid = [np.arange(*ends, 1.0) for ends in zip(low, high)]
    carms = [[CArm(a, b, 1000, 750, 0.2, 256) for b in grid[1]] for a in grid[0]]
    density = np.array([[angle_density(cass_id, carm) for carm in row] for row in carms])
    assert density.sum() == pytest.approx(1, abs=0.01)
    mean = (density.sum(axis=1) @ grid[0], density.sum(axis=0) @ grid[1])
    np.testing.assert_allclose(mean, angles.mean(axis=0), atol=3 * angles.std(axis=0).max() / np.sqrt(1500))


@pytest.mark.parametrize("enough", [0.0, 0.1, 0.6])
def test_weight_of_a_choice_is_that_of_the_best_of_several(enough):
    rng = np.random.default_rng(1)

    def draw(*shape):  # scores below 1, and a share that is good enough
        return np.where(rng.random(shape) < enough, 1.0, rng.random(shape))

    known, plain, chosen = draw(3000), draw(3000), draw(3000, TRIES).max(axis=1)
    weights = np.array([choice_weight(score, known) for score in plain])
    for least in (0.0, 0.8, 0.95):  # weighted plain draws stand in for chosen ones
        assert np.mean(weights * (plain >= least)) == pytest.approx(np.mean(chosen >= least), rel=0.1)


def test_a_segment_that_leaves_the_frame_was_not_analysed(left):
    case, scene = left
    own = pan_density(scene.tree, case.cass_id, scene.carm, np.random.default_rng(0))
    image, _ = scene.carm.project(scene.tree.center_mm[scene.tree.segment(case.cass_id)])
    away = scene.carm.panned(np.array([-image[:, 0].min() - 20.0, 0.0]))
    assert own > 1 and pan_density(scene.tree, case.cass_id, away, np.random.default_rng(0)) < 1e-3 * own


def test_a_wire_names_its_vessel(left):
    tree = left[1].tree
    wire = np.flatnonzero(tree.line == tree.line[tree.segment(13)[0]])[:50]
    assert [wire_likelihood(tree, cass_id, "FINAL", wire) for cass_id in (12, 13, 18)] == [0.2, 0.2, 0.0]
    assert wire_likelihood(tree, 13, "PRE", wire) == 0
    assert wire_likelihood(tree, 13, "FINAL", wire[:0]) == pytest.approx(0.8)


def test_a_rare_branch_is_likelier_where_it_was_analysed():
    tree = next(s.tree for _, s in scenes("PRE") if 28 in s.tree.cass_id)
    assert branch_factor(tree, 28) == pytest.approx(4) and branch_factor(tree, 13) == 1


def test_a_data_set_of_before_gets_its_ceilings_and_nothing_else(tmp_path):
    command = ["--out", str(tmp_path), "--patients", "2", "--rows", "3", "--image-size", "128"]
    command += ["--frames", "2"]
    csv_path = run(parse_arguments([*command, "--workers", "1"]))
    whole = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    for path in (tmp_path / "records").iterdir():
        text = path.read_text(encoding="utf-8")
        path.write_text(text[: text.index(', "blind_ceiling"')] + "}\n", encoding="utf-8")
    csv_path.unlink()
    run(parse_arguments([*command, "--workers", "1"]))
    assert {path: path.read_bytes() for path in whole} == whole
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert whole[csv_path].split(b"\n")[0].endswith(b",blind_ceiling")
