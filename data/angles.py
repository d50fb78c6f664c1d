"""View angles of the C-arm, as numbers or as cardiologists write them.

Primary angle (DICOM 0018,1510): LAO positive, RAO negative, -180..180 degrees. Secondary angle (0018,1511):
cranial positive, caudal negative, -90..90 degrees. Both may be missing.
"""

import math
import re
from numbers import Real

from data.errors import shown

LIMIT_DEG = {"primary": 180.0, "secondary": 90.0}
SIGN = {
    "primary": {"LAO": 1, "RAO": -1, "AP": 0, "PA": 0},
    "secondary": {"CRA": 1, "CRAN": 1, "CRANIAL": 1, "CAU": -1, "CAUD": -1, "CAUDAL": -1, "AP": 0, "PA": 0},
}
MISSING = {"", "-", "nan", "none", "null", "na", "n/a", "unknown"}
_NUMBER = r"[+-]?\d+(?:[.,]\d*)?|[+-]?[.,]\d+"
_MOST_CHARACTERS = 40  # the pattern takes the cube of the blanks in a text
_TEXT = re.compile(rf"(?P<before>[A-Z]*)\s*(?P<number>{_NUMBER})?\s*(?:°|DEG)?\s*(?P<after>[A-Z]*)")


def parse_angle(value: object, axis: str) -> float:
    """The signed angle in degrees, nan when it is missing.

    value: a number, or text such as `RAO 30`, `30 RAO`, `LAO12.5°`, `CAUD 10`, `AP`, `-12,5`; None, nan or
        an empty cell mean missing. axis: "primary" or "secondary".
    Raises ValueError for text that is none of these, a direction of the other axis, or an angle out of range.
    """
    limit = LIMIT_DEG[axis]
    if value is None or (isinstance(value, str) and value.strip().lower() in MISSING):
        return math.nan
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    try:
        angle = float(value) if is_number else _parse_text(value, axis)
    except OverflowError:  # a whole number of hundreds of digits
        angle = math.inf
    if abs(angle) > limit:
        raise ValueError(f"{axis} angle {shown(value)} is out of range; allowed: -{limit:g} to {limit:g} degrees")
    return angle


def _parse_text(value: object, axis: str) -> float:
    is_short = isinstance(value, str) and len(value.strip()) <= _MOST_CHARACTERS
    match = _TEXT.fullmatch(value.strip().upper()) if is_short else None
    word = match and (match["before"] + match["after"])
    number = float(match["number"].replace(",", ".")) if match and match["number"] else None
    if number is not None and not word:
        return number
    if word in SIGN[axis] and (number is not None or SIGN[axis][word] == 0):
        # `RAO -30` could mean either side; `AP 10` is no antero-posterior view.
        if (SIGN[axis][word] and number >= 0) or not number:
            return SIGN[axis][word] * (number or 0.0)
    words = ", ".join(SIGN[axis])
    raise ValueError(
        f"{axis} angle {shown(value)} cannot be read; allowed: degrees as a number, or a number of at least 0 "
        f"with one of {words} (such as {'RAO 30' if axis == 'primary' else 'CRA 20'}), or empty when unknown"
    )
