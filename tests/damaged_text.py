"""CSV and JSON files damaged by their structure, for `tests/fuzzed_files.py`."""

from __future__ import annotations

import copy
import csv
import io
import json
import math
from pathlib import Path

from hypothesis import strategies as st

from tests.fuzzing import EDITS, SOMETIMES, damaged_bytes

NUMBERS = (math.nan, math.inf, -math.inf, 1e308, -1e308, 1e-320, -1, 0, 0.5, 2**31, 2**63, 10**30, 10**400)
VALUES = (*NUMBERS, None, True, "", "13", "x" * 300, "\0", "\ud800", [], {}, [[]], [None], {"a": 1}, [1, 2],
          [[1, 2]] * 12, [[1e308, -1e308]] * 12, [[0, 0]] * 12, [["1", "2"]] * 12)
CELLS = ("", "nan", "inf", "1e308", "-1", "1e-320", "9" * 400, "0x10", "\0", "a" * 5000, '"', "..", "/", "C:\\x\\y.npy",
         "\\\\host\\x", "~", "train", "val", "RAO" + " " * 5000 + "!", "１３", "ü", "\u202e", "True", "13",
         "./dataset.csv")


def csv_rows(folder: Path) -> list[list[str]]:
    """Header and rows of the tiny data set."""
    return list(csv.reader(io.StringIO((folder / "dataset.csv").read_text(encoding="utf-8"))))


@st.composite
def damaged_csv(draw, rows: list[list[str]]) -> bytes:
    """A table with cells, columns and rows replaced, swapped, dropped and repeated, in any encoding."""
    rows = [list(row) for row in rows]
    for _ in range(draw(EDITS)):
        kind = draw(st.sampled_from(("cell", "cell", "cell", "column", "swap", "row", "repeat")))
        row, column = draw(st.integers(0, len(rows) - 1)), draw(st.integers(0, len(rows[0]) - 1))
        if kind == "cell" and column < len(rows[row]):
            rows[row][column] = draw(st.sampled_from(CELLS) | st.text(max_size=20))
        elif kind == "column":
            rows = [one[:column] + one[column + 1:] for one in rows if len(one) > 1] or rows
        elif kind == "swap":
            rows[row] = rows[row][column:] + rows[row][:column]
        elif kind == "row" and len(rows) > 1:
            del rows[row]
        else:
            rows.insert(row, rows[row])
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=draw(st.sampled_from(",;\t"))).writerows(rows)
    raw = text.getvalue().encode(draw(st.sampled_from(("utf-8", "utf-8-sig", "utf-16", "cp1252"))), "replace")
    return draw(damaged_bytes(raw)) if draw(SOMETIMES) else raw


@st.composite
def damaged_json(draw, content) -> bytes:
    """JSON in which one to three values, at any depth, were dropped, repeated or replaced; sometimes bytes too."""
    content = json.loads(json.dumps(content))
    for _ in range(draw(EDITS)):
        content = _damage_value(draw, content)
    raw = json.dumps(content).encode()
    return draw(damaged_bytes(raw)) if draw(SOMETIMES) else raw


def _damage_value(draw, value):
    if not isinstance(value, (dict, list)) or not value or draw(st.integers(0, 9)) == 0:
        return copy.deepcopy(draw(st.sampled_from(VALUES)))
    key = draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
    kind = draw(st.sampled_from(("into", "into", "into", "drop", "repeat")))
    if kind == "into":
        value[key] = _damage_value(draw, value[key])
    elif kind == "drop":
        del value[key]
    elif isinstance(value, list):
        value.insert(key, value[key])
    else:
        value[key] = [value[key]]
    return value
