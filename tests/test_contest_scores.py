"""What a contest comes to: tables, and a rule that says how sure it is."""

import numpy as np
import pandas as pd
import pytest

from contest.scores import decide, summarise


def answers(values, contestant, prompt="box", jitter_px=0.0, **more):
    """Records of one contestant; values: IoU by (patient, case)."""
    return [
        {"contestant": contestant, "case": f"case{number}", "patient": f"p{number // 2}", "prompt": prompt,
         "jitter_px": jitter_px, "against": "segment", "iou": value, "dice": 2 * value / (1 + value),
         "iou_segment": value, "encode_s": 1.0, "answer_s": 0.5, "peak_mib": 100.0, "is_random": False, **more}
        for number, value in enumerate(values)
    ]


def contest(first, second, **more):
    return pd.DataFrame(answers(first, "a", **more) + answers(second, "b", **more))


def spread(mean, count=40, sd=0.05, seed=0):
    noise = np.random.default_rng(seed).normal(0, sd, count)
    return mean + noise - noise.mean()


def test_table_has_means_intervals_and_the_best_first():
    records = pd.concat([contest(spread(0.5), spread(0.7, seed=1)), contest([0.1] * 4, [0.2] * 4, prompt="text")])
    table = summarise(records)
    assert table["contestant"].tolist() == ["b", "a", "b", "a"]
    row = table.iloc[0]
    assert row["iou"] == pytest.approx(0.7) and row["iou_low"] < 0.7 < row["iou_high"] and row["cases"] == 40
    assert row["patients"] == 20 and row["iou_segment"] == pytest.approx(0.7) and row["encode_s"] == 1.0
    text = table[table["prompt"] == "text"]
    assert (text["iou_low"] == text["iou"]).all()


def test_a_clear_lead_decides():
    verdict = decide(contest(spread(0.75), spread(0.5, seed=1)), "a", "b")
    assert verdict.winner == "a" and verdict.difference == pytest.approx(0.25)
    assert 0.2 < verdict.low < verdict.high < 0.3 and "a is better by more than 0.1: take a" in verdict.words
    assert decide(contest(spread(0.5), spread(0.75, seed=1)), "a", "b").winner == "b"


def test_within_the_margin_the_better_tooling_decides():
    records = contest(spread(0.62), spread(0.6, seed=1))
    assert decide(records, "a", "b").winner is None and "--better-tooling" in decide(records, "a", "b").words
    verdict = decide(records, "a", "b", better_tooling="b")
    assert verdict.winner == "b" and "within 0.1 of each other" in verdict.words
    assert decide(records, "a", "b", margin=0.01).winner is None


def test_few_cases_settle_nothing_and_say_how_many_would():
    verdict = decide(contest(spread(0.7, 6, sd=0.2), spread(0.55, 6, sd=0.2, seed=1)), "a", "b")
    assert verdict.winner is None and "Not settled" in verdict.words and "patients would settle it" in verdict.words
    one = decide(contest([0.9, 0.8], [0.1, 0.2]), "a", "b")
    assert one.winner is None and "One patient says nothing about others" in one.words


def test_only_cases_that_both_answered_without_jitter_count():
    records = pd.DataFrame(
        answers(spread(0.8, 40), "a") + answers(spread(0.6, 30, seed=1), "b") + answers([0.0] * 40, "a", jitter_px=20.0)
    )
    verdict = decide(records, "a", "b")
    assert "on 30 cases of 15 patients" in verdict.words
    with pytest.raises(ValueError, match="no case was answered by both"):
        decide(records, "a", "b", kind="text")
