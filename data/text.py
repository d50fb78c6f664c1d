"""Text files as spreadsheets and other computers leave them: encodings, separators, lines."""

import csv
import io
from pathlib import Path
from typing import NamedTuple

from data.errors import DataError
from data.input_files import read_bytes

MOST_CSV_BYTES = 256 * 2**20  # a row has some 500 bytes


class CsvRow(NamedTuple):
    """One row of a CSV: `line` is its line number in an editor, `cells` has a text for each column it has."""

    line: int
    cells: dict[str, str]
    cell_count: int


def decode_text(raw: bytes) -> str:
    """Text as Windows and its spreadsheets write it: UTF-8 with or without mark, UTF-16 with mark, cp1252.

    Bytes that none of them knows, such as half a character where a file was cut, become U+FFFD.
    """
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16", errors="replace")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("cp1252", errors="replace")


def whole_number(text: str) -> int | None:
    """`3`, and `3.0` as spreadsheets and pandas write it; None for anything else."""
    try:
        number = float(text)
    except ValueError:
        return None
    return int(number) if number.is_integer() else None


def read_csv(path: str | Path) -> tuple[list[str], list[CsvRow]]:
    """The header and the rows of a CSV with commas, semicolons or tabs; every cell stays text.

    Text, because numbers guessed by a reader lose the zeros of `00123`. Lines without text are passed over.
    Raises DataError when the file cannot be opened or is no CSV.
    """
    text = decode_text(read_bytes(path, MOST_CSV_BYTES))
    separator = max(",;\t", key=text.split("\n", 1)[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    rows, line = [], 1
    try:
        header = [name.strip() for name in next(reader, [])]
        line = reader.line_num + 1
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append(CsvRow(line, dict(zip(header, cells, strict=False)), len(cells)))
            line = reader.line_num + 1
    except csv.Error as error:  # a cell of more characters than any has, mostly
        raise DataError(f"{path}: the row that starts in line {line} is no CSV ({error}); is a quote left open "
                        "there?") from error
    return header, rows
