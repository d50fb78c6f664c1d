"""The coronary segments of the Coronary Artery Surgery Study (CASS), 1 to 29, and their SYNTAX names.

The one table of segments: numbers, names, SNOMED CT codes, arteries, rows in the user's data, colours, and
the SYNTAX segments (Sianos et al., EuroIntervention 2005; the names that ARCADE uses) of the same vessel. The
two systems draw some borders differently, and the additional SYNTAX branches 9a and 10a count with the branch
they go beside: a segment named by SYNTAX becomes the nearest CASS segment. The inferior septal perforators
have no SNOMED CT code here.
"""

import colorsys
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pandas as pd

from data.errors import DataError, shown
from data.text import whole_number


class Segment(NamedTuple):
    """One segment. `artery` is LM, LAD, LCX, RCA or Ramus; `user_rows` of the user's 748; `syntax` are the
    codes of SYNTAX; `colour` is RGB, 0..255."""

    cass_id: int
    name: str
    snomed_ct: str | None
    artery: str
    user_rows: int
    syntax: tuple[str, ...]
    colour: tuple[int, int, int]

    @property
    def side(self) -> str:
        """The coronary artery, "left" or "right", whose injection fills it (9 and 27 as numbered)."""
        return "right" if self.artery == "RCA" else "left"


_TABLE = (
    (1, "Proximal RCA", "91083009", "RCA", 42, ("1",)),
    (2, "Mid RCA", "450960006", "RCA", 126, ("2",)),
    (3, "Distal RCA", "41879009", "RCA", 28, ("3",)),
    (4, "Right posterior descending (PDA)", "53655008", "RCA", 38, ("4",)),
    (5, "Right posterior atrioventricular", "12800002", "RCA", 0, ("16",)),
    (6, "First right posterolateral", "91761002", "RCA", 0, ("16a",)),
    (7, "Second right posterolateral", "91762009", "RCA", 0, ("16b",)),
    (8, "Third right posterolateral", "91763004", "RCA", 0, ("16c",)),
    (9, "Inferior septal perforators", None, "RCA", 0, ()),
    (10, "Acute marginal", "22765000", "RCA", 0, ()),
    (11, "Left main", "3227004", "LM", 0, ("5",)),
    (12, "Proximal LAD", "68787002", "LAD", 87, ("6",)),
    (13, "Mid LAD", "91748002", "LAD", 192, ("7",)),
    (14, "Distal LAD", "36672000", "LAD", 19, ("8",)),
    (15, "First diagonal", "91750005", "LAD", 55, ("9", "9a")),
    (16, "Second diagonal", "91751009", "LAD", 13, ("10", "10a")),
    (17, "First septal perforator", "91749005", "LAD", 0, ()),
    (18, "Proximal LCX", "52433000", "LCX", 26, ("11",)),
    (19, "Mid/distal LCX", "91753007", "LCX", 65, ("13",)),
    (20, "First obtuse marginal", "91754001", "LCX", 29, ("12a",)),
    (21, "Second obtuse marginal", "91755000", "LCX", 14, ("12b",)),
    (22, "Third obtuse marginal", "91756004", "LCX", 0, ()),
    (23, "LCX atrioventricular groove continuation", "75902001", "LCX", 0, ()),
    (24, "First left posterolateral", "91757008", "LCX", 0, ("14",)),
    (25, "Second left posterolateral", "91758003", "LCX", 0, ("14a",)),
    (26, "Third left posterolateral", "91759006", "LCX", 0, ("14b",)),
    (27, "Left posterior descending", "91760001", "LCX", 0, ("15",)),
    (28, "Ramus intermedius", "244252004", "Ramus", 14, ("12",)),
    (29, "Third diagonal", "91752002", "LAD", 0, ()),
)
# SYNTAX calls 15 "Posterior descending", which without a number would be taken for 4: it has no name here.
_SYNTAX_NAMES = {
    "1": "RCA proximal", "2": "RCA mid", "3": "RCA distal", "4": "Posterior descending artery",
    "16": "Posterolateral branch from RCA", "16a": "Posterolateral branch from RCA, first",
    "16b": "Posterolateral branch from RCA, second", "16c": "Posterolateral branch from RCA, third",
    "5": "Left main", "6": "LAD proximal", "7": "LAD mid", "8": "LAD apical",
    "9": "First diagonal", "9a": "First diagonal a", "10": "Second diagonal", "10a": "Second diagonal a",
    "11": "Proximal circumflex artery", "12": "Intermediate/anterolateral artery",
    "12a": "Obtuse marginal a", "12b": "Obtuse marginal b", "13": "Distal circumflex artery",
    "14": "Left posterolateral", "14a": "Left posterolateral a", "14b": "Left posterolateral b",
}

# A range of hues (turns) for each artery, so that a map reads as arteries first and as segments second.
_HUES = {
    "RCA": (0.94, 1.10), "LM": (0.16, 0.16), "LCX": (0.24, 0.44), "LAD": (0.50, 0.68), "Ramus": (0.80, 0.80),
}


def _colour(cass_id: int, artery: str) -> tuple[int, int, int]:
    siblings = [row[0] for row in _TABLE if row[3] == artery]
    rank, (first, last) = siblings.index(cass_id), _HUES[artery]
    hue = first + (last - first) * rank / max(len(siblings) - 1, 1)
    value = 1.0 if rank % 2 == 0 else 0.72  # neighbours along an artery differ in brightness too
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, 0.85, value)
    return round(255 * red), round(255 * green), round(255 * blue)


SEGMENTS: dict[int, Segment] = {row[0]: Segment(*row, _colour(row[0], row[3])) for row in _TABLE}
# The classes of stage 2's `--classes design`: the segments that occur in the user's rows.
CLASS_IDS: tuple[int, ...] = tuple(segment.cass_id for segment in SEGMENTS.values() if segment.user_rows)
SEGMENT_ALLOWED = (
    f"allowed: a CASS number from {min(SEGMENTS)} to {max(SEGMENTS)}, a name of data/cass.py such as "
    "'Mid LAD', or a SYNTAX segment such as 'SYNTAX 9a' or 'LAD apical'"
)


def parse_segment(value: object) -> int:
    """The CASS number of a segment written as a number, by name or as SYNTAX has it.

    A bare number (`13`, `"13"`, `"13.0"`) is always CASS. Names are those of CASS or of SYNTAX, in any case
    and with any spaces and punctuation (`mid lad`, `LAD-apical`). SYNTAX codes need the word: `SYNTAX 9a`,
    `syntax:12b`. Raises DataError with the value and what is allowed.
    """
    words, number = _words(str(value)), whole_number(str(value))
    found = number if number in SEGMENTS else _BY_NAME.get(words)
    if found is None:
        code = re.fullmatch(r"\d+[a-c]", words)
        hint = f"if it is a SYNTAX code, write it as 'SYNTAX {words}'; " if code else ""
        raise DataError(f"{shown(str(value))} names no segment; {hint}{SEGMENT_ALLOWED}")
    return found


def choose_classes(text: str, segments_in_data: Iterable[int]) -> tuple[int, ...]:
    """The classes to train, from the flag `--classes`: CASS numbers, ascending, the order of their channels.

    text: "design" (the 14 of `CLASS_IDS`, and whatever else the data has), "data" (what the data has), or
    segments with commas between them, each as `parse_segment` reads it. segments_in_data: the segment of
    every row. Raises DataError for a name that is none, and when rows would be left without a class.
    """
    rows = Counter(int(segment) for segment in segments_in_data)
    named = {"design": {*CLASS_IDS, *rows}, "data": set(rows)}
    wanted = named.get(text.strip().lower())
    if wanted is None:
        wanted = {parse_segment(part) for part in text.split(",") if part.strip()}
    if not wanted:
        raise DataError(f"--classes {text!r} names no segment; give design, data, or numbers such as 1,2,13")
    left_out = {segment: rows[segment] for segment in sorted(set(rows) - wanted)}
    if left_out:
        which = ", ".join(f"{one} {SEGMENTS[one].name}: {count}" for one, count in left_out.items())
        raise DataError(
            f"rows whose segment is not among --classes {text!r}: {sum(left_out.values())} ({which}); "
            "add these segments, use --classes design or data, or take the rows out of the CSV"
        )
    return tuple(sorted(wanted))


def classes_without_rows(classes: Sequence[int], table: pd.DataFrame) -> list[int]:
    """The classes (CASS numbers, in their order) that no row of the table has as its `cass_segment`."""
    seen = set(table["cass_segment"])
    return [cass_id for cass_id in classes if cass_id not in seen]


def _words(text: str) -> str:
    """A name in small letters, every run of spaces and punctuation one space; `syntax12b` is two words."""
    return " ".join(re.findall(r"(?:syntax|cass)(?=\d)|[^\W_]+", text.casefold()))


def _names(segment: Segment) -> set[str]:
    """Every name of a segment that `parse_segment` knows, in the form of `_words`."""
    known = {segment.name, *re.split("[()]", segment.name), f"CASS {segment.cass_id}"}
    for code in segment.syntax:
        known |= {f"SYNTAX {code}", f"SYNTAX segment {code}"}
        if code in _SYNTAX_NAMES:
            known |= {_SYNTAX_NAMES[code], f"SYNTAX {_SYNTAX_NAMES[code]}"}
    return {_words(name) for name in known if name}


_BY_NAME: dict[str, int] = {
    name: segment.cass_id for segment in SEGMENTS.values() for name in _names(segment)
}
