"""The coronary segments of the Coronary Artery Surgery Study (CASS), numbered 1 to 29.

`CLASS_IDS` are the segments that occur in the user's 748 rows: the classes of stage 2, in the order of their
channels. The inferior septal perforators have no SNOMED CT code here.
"""

import colorsys
from typing import NamedTuple

from data.errors import DataError


class Segment(NamedTuple):
    """One segment. `artery` is LM, LAD, LCX, RCA or Ramus; `colour` is RGB, 0..255."""

    cass_id: int
    name: str
    snomed_ct: str | None
    artery: str
    colour: tuple[int, int, int]


_TABLE = (
    (1, "Proximal RCA", "91083009", "RCA"),
    (2, "Mid RCA", "450960006", "RCA"),
    (3, "Distal RCA", "41879009", "RCA"),
    (4, "Right posterior descending (PDA)", "53655008", "RCA"),
    (5, "Right posterior atrioventricular", "12800002", "RCA"),
    (6, "First right posterolateral", "91761002", "RCA"),
    (7, "Second right posterolateral", "91762009", "RCA"),
    (8, "Third right posterolateral", "91763004", "RCA"),
    (9, "Inferior septal perforators", None, "RCA"),
    (10, "Acute marginal", "22765000", "RCA"),
    (11, "Left main", "3227004", "LM"),
    (12, "Proximal LAD", "68787002", "LAD"),
    (13, "Mid LAD", "91748002", "LAD"),
    (14, "Distal LAD", "36672000", "LAD"),
    (15, "First diagonal", "91750005", "LAD"),
    (16, "Second diagonal", "91751009", "LAD"),
    (17, "First septal perforator", "91749005", "LAD"),
    (18, "Proximal LCX", "52433000", "LCX"),
    (19, "Mid/distal LCX", "91753007", "LCX"),
    (20, "First obtuse marginal", "91754001", "LCX"),
    (21, "Second obtuse marginal", "91755000", "LCX"),
    (22, "Third obtuse marginal", "91756004", "LCX"),
    (23, "LCX atrioventricular groove continuation", "75902001", "LCX"),
    (24, "First left posterolateral", "91757008", "LCX"),
    (25, "Second left posterolateral", "91758003", "LCX"),
    (26, "Third left posterolateral", "91759006", "LCX"),
    (27, "Left posterior descending", "91760001", "LCX"),
    (28, "Ramus intermedius", "244252004", "Ramus"),
    (29, "Third diagonal", "91752002", "LAD"),
)

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
CLASS_IDS: tuple[int, ...] = (1, 2, 3, 4, 12, 13, 14, 15, 16, 18, 19, 20, 21, 28)


def class_index(cass_id: int) -> int:
    """The channel, 0..13, of a CASS number; DataError when it is none of `CLASS_IDS`."""
    if cass_id not in CLASS_IDS:
        raise DataError(f"CASS segment {cass_id!r} is not one of the {len(CLASS_IDS)} classes {CLASS_IDS}")
    return CLASS_IDS.index(cass_id)
