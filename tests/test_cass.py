"""The table of segments: how a segment may be written, which classes a data set gets, which have no row."""

import pandas as pd
import pytest

from data.cass import CLASS_IDS, SEGMENTS, choose_classes, classes_without_rows, parse_segment
from data.errors import DataError

# The 25 segments of ARCADE's annotations.
ARCADE = "1 2 3 4 5 6 7 8 9 9a 10 10a 11 12 12a 12b 13 14 14a 14b 15 16 16a 16b 16c".split()


def test_rows_of_the_users_data_make_the_classes():
    assert sum(segment.user_rows for segment in SEGMENTS.values()) == 748
    assert SEGMENTS[13].user_rows == 192 and SEGMENTS[16].user_rows == 13
    assert CLASS_IDS == (1, 2, 3, 4, 12, 13, 14, 15, 16, 18, 19, 20, 21, 28)


def test_the_injected_artery_is_told_by_the_segment():
    assert {cass_id for cass_id in CLASS_IDS if SEGMENTS[cass_id].side == "right"} == {1, 2, 3, 4}


@pytest.mark.parametrize("cass_id", SEGMENTS)
def test_every_segment_is_known_by_number_name_and_syntax_code(cass_id):
    segment = SEGMENTS[cass_id]
    ways = [cass_id, str(cass_id), f" {cass_id}.0 ", f"CASS {cass_id}", segment.name, segment.name.upper()]
    ways += [segment.name.replace(" ", "_"), f"  {segment.name.lower()}  "]
    words = ("SYNTAX ", "syntax:", "Syntax-", "syntax", "SYNTAX segment ")
    ways += [f"{word}{code}" for code in segment.syntax for word in words]
    assert {parse_segment(way) for way in ways} == {cass_id}


def test_every_syntax_code_of_arcade_belongs_to_one_segment():
    codes = [code for segment in SEGMENTS.values() for code in segment.syntax]
    assert sorted(codes) == sorted(ARCADE)


@pytest.mark.parametrize(
    "written,cass_id",
    [
        ("LAD apical", 14),
        ("lad  proximal", 12),
        ("RCA mid", 2),
        ("Posterior descending artery", 4),
        ("PDA", 4),
        ("Right posterior descending", 4),
        ("First diagonal a", 15),
        ("Obtuse marginal b", 21),
        ("Intermediate/anterolateral artery", 28),
        ("SYNTAX LAD mid", 13),
        ("Proximal circumflex artery", 18),
        ("Posterolateral branch from RCA", 5),
    ],
)
def test_names_of_syntax_are_known(written, cass_id):
    assert parse_segment(written) == cass_id


def test_a_bare_number_is_cass_and_only_the_word_makes_it_syntax():
    assert parse_segment("9") == 9 and parse_segment("SYNTAX 9") == 15
    with pytest.raises(DataError, match="'9a' names no segment; .*write it as 'SYNTAX 9a'"):
        parse_segment("9a")


@pytest.mark.parametrize(
    "value",
    ["", "0", "30", "31", "1.5", "-3", "inf", "nan", None, True, "SYNTAX 17", "SYNTAX", "LAD", "diagonal"],
)
def test_what_names_no_segment_is_refused_with_what_is_allowed(value):
    with pytest.raises(DataError) as caught:
        parse_segment(value)
    message = str(caught.value)
    assert repr(str(value)) in message and "allowed: a CASS number from 1 to 29" in message


def test_classes_of_the_design_grow_by_what_the_data_has():
    assert choose_classes("design", [1, 13, 13]) == CLASS_IDS
    assert choose_classes(" Design ", [11, 13]) == tuple(sorted((*CLASS_IDS, 11)))


def test_classes_of_the_data_are_those_that_occur():
    assert choose_classes("data", pd.Series([13, 2, 13, 11])) == (2, 11, 13)


def test_listed_classes_are_read_by_number_name_and_syntax():
    assert choose_classes("13, SYNTAX 5,proximal lad", [13, 11]) == (11, 12, 13)
    assert choose_classes("2,1,2", []) == (1, 2)
    assert all(type(cass_id) is int for cass_id in choose_classes("data", pd.Series([13, 2])))


def test_rows_without_a_class_are_counted_and_named():
    with pytest.raises(DataError, match=r"'1,13': 3 \(2 Mid RCA: 2, 11 Left main: 1\)"):
        choose_classes("1,13", [1, 2, 2, 11, 13])


@pytest.mark.parametrize("text,segments", [("", [1]), (" , ", [1]), ("all the big ones", [1]), ("data", [])])
def test_classes_that_name_nothing_are_refused(text, segments):
    with pytest.raises(DataError, match="names no segment"):
        choose_classes(text, segments)


def test_classes_without_a_row_are_found():
    table = pd.DataFrame({"cass_segment": [13, 13, 2]})
    assert classes_without_rows((1, 2, 13, 28), table) == [1, 28]
    assert classes_without_rows((2, 13), table) == []
