"""What is said to a person whose data cannot be used."""

from typing import NamedTuple


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
        return f"row {self.row}, column {self.column}: found {self.value!r}; {self.allowed}"
