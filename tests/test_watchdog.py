"""Who judges whether a run hangs: beats and a clock in, a verdict out."""

import pytest

from utils.ranks.watchdog import Beat, Judge

LIMIT_S = 20.0


class Ranks:
    """Two ranks that beat once a second, and the judge of rank 0."""

    def __init__(self):
        self.judge, self.beats, self.now = Judge(2, LIMIT_S), [Beat(), Beat()], 0.0
        self.pass_time(1)

    def pass_time(self, seconds, *, silent=(), working=(0, 1), answers=True):
        """`seconds` in which the ranks `silent` do not beat and only those `working` use their processor."""
        for _ in range(seconds):
            self.now += 1.0
            for rank, beat in enumerate(self.beats):
                if rank not in silent:
                    beat.number += 1
                    beat.work_s += 0.9 if rank in working else 1e-4
            if answers:
                self.judge.hear([Beat(**vars(beat)) for beat in self.beats], self.now)

    def verdict(self):
        return self.judge.verdict(0, self.now)


@pytest.fixture
def ranks():
    ranks = Ranks()
    for beat in ranks.beats:
        beat.at_work = True
    ranks.pass_time(5)
    assert ranks.verdict() is None
    return ranks


def test_a_rank_that_is_silent_for_longer_than_the_limit_is_named(ranks):
    ranks.beats[1].where = "engine.py, line 7, in step"
    ranks.pass_time(1)
    ranks.pass_time(20, silent=[1])
    assert ranks.verdict() is None
    ranks.pass_time(1, silent=[1])
    assert ranks.verdict().startswith("rank 1 has given no sign of life for 20 s")
    assert "last at engine.py, line 7, in step" in ranks.verdict()


def test_one_rank_that_works_is_waited_for(ranks):
    ranks.beats[0].waits = True
    ranks.pass_time(3600, working=[1])
    assert ranks.verdict() is None


def test_ranks_that_all_stand_still_hang_and_who_does_not_wait_for_others_is_to_blame(ranks):
    ranks.beats[0].waits, ranks.beats[1].where = True, "utils/loader.py, line 3, in __getitem__"
    ranks.pass_time(22, working=[])
    lines = ranks.verdict().splitlines()
    assert lines[0].startswith("rank 1 hangs: for 20 s no rank has done anything")
    assert "rank 1 at utils/loader.py" in lines[1] and "rank 0 waits for the others" in lines[2]
    assert "--hang-timeout" in ranks.verdict()


def test_a_rank_that_saves_is_excused(ranks):
    ranks.beats[0].at_work, ranks.beats[1].waits = False, True
    ranks.pass_time(600, working=[])
    assert ranks.verdict() is None
    ranks.beats[0].at_work = True
    ranks.pass_time(22, working=[])
    assert ranks.verdict().startswith("rank 0 hangs")


def test_a_rank_that_has_finished_may_be_silent(ranks):
    ranks.beats[1].finished = True
    ranks.pass_time(1)
    ranks.pass_time(60, silent=[1])
    assert ranks.verdict() is None


def test_no_answer_from_the_store(ranks):
    ranks.pass_time(21, answers=False)
    assert "the network is cut" in ranks.verdict()


def test_a_judge_that_was_stopped_itself_counts_anew(ranks):
    ranks.now += 3600.0
    ranks.judge.forgive(ranks.now)
    assert ranks.verdict() is None
    ranks.pass_time(25, silent=[1])
    assert ranks.verdict().startswith("rank 1 has given no sign of life")


def test_before_the_first_answer_nothing_is_judged():
    assert Judge(2, LIMIT_S).verdict(0, 1e9) is None
