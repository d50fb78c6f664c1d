"""Every lesion of a frame as the phantom knows them: what real data never has."""

from dataclasses import dataclass
from pathlib import Path

from data.cass import SEGMENTS
from data.errors import DataError, shortened
from data.input_files import MOST_JSON_BYTES, parse_json, read_bytes
from data.text import decode_text


@dataclass(frozen=True)
class TrueLesion:
    """A narrowing: CASS number, diameter stenosis in percent, (x, y) px of its smallest diameter, (x0, y0, x1, y1) px
    around it, px per mm there, whether another vessel lies over its middle, whether its point is in the frame.
    """

    cass_id: int
    stenosis_pct: float
    point_px: tuple[float, float]
    box_px: tuple[float, float, float, float]
    px_per_mm: float
    overlapped: bool
    in_frame: bool


def read_true_lesions(path: str | Path) -> list[TrueLesion]:
    """The lesions of a file of the phantom's `true_lesions_path`; DataError, naming it, when it is unreadable."""
    records = parse_json(decode_text(read_bytes(path, MOST_JSON_BYTES)), path)
    try:
        lesions = [
            TrueLesion(
                cass_id=int(record["cass_segment"]),
                stenosis_pct=float(record["diameter_stenosis_pct"]),
                point_px=tuple(map(float, record["position_px"])),
                box_px=tuple(map(float, record["box_px"])),
                px_per_mm=float(record["px_per_mm"]),
                overlapped=bool(record["overlapped"]),
                in_frame=bool(record["in_frame"]),
            )
            for record in records
        ]
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise DataError(f"{path}: no list of lesions ({shortened(repr(error))}); make it again") from error
    for lesion in lesions:
        if lesion.cass_id not in SEGMENTS or len(lesion.point_px) != 2 or len(lesion.box_px) != 4:
            raise DataError(f"{path}: holds {lesion}; allowed: a CASS number, a point (x, y) and a box of four")
    return lesions
