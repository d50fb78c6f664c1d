"""What is said to a person whose data cannot be used."""

import reprlib
from typing import NamedTuple

_VALUES = reprlib.Repr()
_VALUES.maxstring = _VALUES.maxother = 60


class DataError(ValueError):
    """Bad input data. The text names the file or row, what was seen, what is allowed and what to do."""


class Fault(NamedTuple):
    """One thing that is wrong in the CSV.

    `row` is the line number in the CSV as an editor shows it (the header is line 1), `value` what stands
    there, `allowed` what may stand there or what to do.
    """

    row: int
    column: str
    value: str
    allowed: str

    def __str__(self) -> str:
        found, allowed = shortened(repr(self.value)), shortened(self.allowed, 2000)
        return f"row {self.row}, column {self.column}: found {found}; {allowed}"


def shown(value: object) -> str:
    """The `repr` of a value seen in a file, cut to some 60 characters, however long or deep the value is."""
    return shortened(_VALUES.repr(value), 63)


def shortened(text: str, most: int = 300) -> str:
    """`text`, or its first and last characters when it has more than `most`."""
    return text if len(text) <= most else f"{text[:most * 2 // 3]}...{text[-most // 4:]}"
