"""The benchmark's lesions and its figures: truth that agrees with the picture, strata, and a measurement near it."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from benchmarks.qca_accuracy import LUMENS, measure_seed, strata, summarize
from benchmarks.qca_cases import KINDS, draw_case
from data.contours import MEASUREMENTS


@pytest.fixture(scope="module")
def cases():
    return {kind: draw_case(KINDS.index(kind), kind) for kind in KINDS}


def test_coverage_and_mask_are_the_same_lumen(cases):
    for kind, case in cases.items():
        assert case.coverage.dtype == np.float32 and case.coverage.min() == 0 and case.coverage.max() == 1
        assert case.coverage.sum() == pytest.approx(case.mask.sum(), rel=0.02)
        assert ((case.coverage >= 0.5) == case.mask).mean() > 0.995
        assert set(MEASUREMENTS) == set(case.truth), kind
        assert (case.stubs > 0) == (kind == "bifurcation")


def test_truth_is_the_distance_of_the_projected_edges(cases):
    for case in cases.values():
        at = int(case.truth["MLD_centerline_index"])
        width_px = np.linalg.norm(case.trace["left_edge"][at] - case.trace["right_edge"][at])
        assert width_px / case.px_per_mm == pytest.approx(case.truth["MLD_mm"], rel=0.02)


def test_an_edge_is_hidden_where_a_branch_lies_over_it(cases):
    case = cases["single"]
    assert case.hidden < 0.3
    x, y = np.rint(case.trace["left_edge"][int(case.truth["MLD_centerline_index"])]).astype(int)
    covered = case.coverage.copy()
    covered[y - 2 : y + 3, x - 2 : x + 3] = 1
    assert replace(case, coverage=covered).hidden > 0.9
    assert case.blurred.sum() == pytest.approx(case.coverage.sum(), rel=1e-3)


def test_a_seed_gives_the_same_case_again(cases):
    again = draw_case(0, KINDS[0])
    np.testing.assert_array_equal(again.coverage, cases[KINDS[0]].coverage)
    assert again.truth == cases[KINDS[0]].truth


def test_measured_lesions_are_near_the_truth_and_summed_up():
    rows = pd.DataFrame([row for seed in (1002, 1003, 1004) for row in measure_seed(seed)])
    assert (rows["error"] == "").all() and len(rows) == 3 * len(LUMENS)
    assert (rows["mld"] - rows["mld_true"]).abs().max() < 0.15
    assert (rows["ds"] - rows["ds_true"]).abs().max() < 8
    summary = summarize(rows)
    assert summary.loc[("coverage", "all, lumen 0.5-4 mm"), "n"] == rows["mld_true"].between(0.5, 4).sum() / len(LUMENS)
    whole, thin = (strata(rows)[name] for name in ("all, lumen 0.5-4 mm", "lumen below 0.5 mm"))
    assert not (whole & thin).any()
