"""Who is in the data set: counts, splits, phases."""

import pytest

from phantom.plan import USER_ROWS, VESSEL, default_rows, plan_analyses, segment_quotas


def rows_by_segment(plan):
    counts = {}
    for one in plan:
        counts[one.cass_id] = counts.get(one.cass_id, 0) + len(one.phases)
    return counts


def test_300_patients_give_the_users_748_rows_segment_by_segment():
    assert default_rows(300) == 748
    plan = plan_analyses(300, 748, seed=5)
    assert rows_by_segment(plan) == USER_ROWS
    assert {one.patient for one in plan} == set(range(300))


@pytest.mark.parametrize(
    "patients,rows,seed", [(1, 2, 0), (2, 5, 1), (6, 15, 0), (12, 12, 2), (64, 160, 3), (30, 90, 4)]
)
def test_rows_follow_the_quotas_and_every_patient_has_one(patients, rows, seed):
    plan = plan_analyses(patients, rows, seed)
    assert rows_by_segment(plan) == {s: n for s, n in segment_quotas(rows).items() if n}
    assert {one.patient for one in plan} == set(range(patients))
    assert len({(one.patient, one.cass_id) for one in plan}) == len(plan)


@pytest.mark.parametrize("seed", range(5))
def test_about_30_percent_of_rows_are_validation_and_no_patient_is_in_both(seed):
    plan = plan_analyses(64, 160, seed)
    splits = {}
    for one in plan:
        assert splits.setdefault(one.patient, one.split) == one.split
    rows = {split: sum(len(one.phases) for one in plan if one.split == split) for split in ("train", "val")}
    assert 0.25 < rows["val"] / sum(rows.values()) < 0.36


def test_validation_sees_every_segment_that_has_several_patients():
    plan = plan_analyses(300, 748, 0)
    for segment in USER_ROWS:
        assert {one.split for one in plan if one.cass_id == segment} == {"train", "val"}, VESSEL[segment]


@pytest.mark.parametrize("patients", [64, 120, 300])
@pytest.mark.parametrize("seed", range(6))
def test_every_segment_of_two_patients_or_more_is_in_both_splits(patients, seed):
    plan = plan_analyses(patients, default_rows(patients), seed)
    for segment in USER_ROWS:
        own = [one for one in plan if one.cass_id == segment]
        if len({one.patient for one in own}) > 1:
            assert {one.split for one in own} == {"train", "val"}, VESSEL[segment]
    val = sum(len(one.phases) for one in plan if one.split == "val")
    assert 0.27 < val / default_rows(patients) < 0.33


def test_two_patients_make_two_splits():
    assert {one.split for one in plan_analyses(2, 5, 0)} == {"train", "val"}


def test_examinations_come_in_order():
    for one in plan_analyses(64, 160, 0):
        assert one.phases == ("PRE", "FINAL", "EVENT")[: len(one.phases)]


def test_the_seed_decides():
    assert plan_analyses(20, 50, 1) == plan_analyses(20, 50, 1) != plan_analyses(20, 50, 2)


def test_too_few_rows_are_refused_with_what_is_allowed():
    with pytest.raises(ValueError, match="10 rows do not fit 20 patients: allowed are 20"):
        plan_analyses(20, 10, 0)
