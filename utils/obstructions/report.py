"""What `predict.py` says and draws of the obstructions of a frame, or of a stretch of a cine around it.

    fields = obstruction_fields(findings)                   # findings: obstruction_search.ObstructionFindings, for JSON
    words = obstruction_words(findings)                     # `2 obstructions, worst 78 % in 13 Mid LAD`
    picture = mark_overlay(frame, obstruction_marks(findings))
    rows, captions = obstruction_crops(findings, source.read, width=4, most_rows=3)
"""

import math
from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np

from data.obstructions import GRADES, POSITIVE_FROM_PCT, grade_of, obstruction_of_row
from utils.drawing import draw_box, segment_name
from utils.obstructions.drawing import Mark, grade_color, grade_legend
from utils.obstructions.matching import Detection, Target, match_detections
from utils.obstructions.search import ObstructionFindings
from utils.obstructions.tracking import Lesion, Sighting
from utils.segments.report import name_record

NOTE = (
    "score: mean over the frames looked at, 0 where a frame does not show the obstruction; "
    "estimated_stenosis_pct: diameter stenosis as the detector estimates it from the picture, not measured; "
    "point_px and box_px: in frame_index, null where it does not show the obstruction"
)
_NO_GRADE_COLOR = (255, 255, 255)
_CROP_SHARE = 0.22  # of the frame's longer side, 113 px of 512: a lesion with the vessel before and after it
_CROP_BOXES = 2.0  # a long lesion has a wider view: so many times its box


def obstruction_fields(findings: ObstructionFindings) -> dict:
    """The obstructions for JSON; missing numbers are null, never guessed.

    `obstructions`: each once, best first. `obstructions_less_sure`: others that single frames show, of a mean score
    below the threshold.
    """
    return {
        "obstruction_search": {
            "score_threshold": findings.threshold.score, "score_threshold_source": findings.threshold.source,
            "frames_looked_at": list(findings.looked_at), "note": NOTE,
        },
        "obstructions": [_record(findings, one, n) for n, one in enumerate(findings.lesions, start=1)],
        "obstructions_less_sure": [_record(findings, one, None) for one in findings.less_sure],
    }


def _record(findings: ObstructionFindings, lesion: Lesion, rank: int | None) -> dict:
    """rank: its number in the pictures, None = in none."""
    here, seen = findings.here(lesion), findings.seen(lesion)
    return {
        "rank": rank, "score": round(lesion.score, 4), **_severity(_stenosis_pct(lesion)),
        "segment": _segment_record(findings, lesion),
        "point_px": None if here is None else _px(here.point_px),
        "box_px": None if here is None else _px(here.box_px),
        "seen_in": {"frames": len(seen), "of": lesion.of_frames},
        "best_frame_index": lesion.best.frame_index,
        "frames": [_sighting_record(one) for one in seen],
    }


def _sighting_record(one: Sighting) -> dict:
    found = one.detection
    return {"frame_index": one.frame_index, "score": round(found.score, 4), "point_px": _px(found.point_px),
            "box_px": _px(found.box_px), **_severity(round(found.stenosis_pct, 1))}


def _stenosis_pct(lesion: Lesion) -> float:
    """Rounded as it is reported, so that numbers, grades and colours agree."""
    return round(lesion.stenosis_pct, 1)


def _severity(stenosis_pct: float) -> dict:
    if math.isnan(stenosis_pct):
        return {"estimated_stenosis_pct": None, "grade": None}
    return {"estimated_stenosis_pct": stenosis_pct, "grade": GRADES[grade_of(stenosis_pct)].name}


def _px(numbers: Sequence[float]) -> list[float]:
    return [round(float(number), 1) for number in numbers]


def segment_of(findings: ObstructionFindings, lesion: Lesion) -> tuple[int, float] | None:
    """CASS number and probability of the segment that a lesion lies in; None where there are no names."""
    probs = lesion.name_probs
    if findings.classes is None or probs is None:
        return None
    best = int(probs.argmax())
    return findings.classes[best], float(probs[best])


def _segment_record(findings: ObstructionFindings, lesion: Lesion) -> dict | None:
    segment = segment_of(findings, lesion)
    return None if segment is None else {**name_record(segment[0]), "probability": round(segment[1], 4)}


def obstruction_words(findings: ObstructionFindings) -> str:
    """What was found, in words: `2 obstructions, worst 78 % in 13 Mid LAD (1 not in this frame)`."""
    if not findings.lesions:
        return "no obstruction found"
    number = len(findings.lesions)
    words = f"{number} obstruction{'' if number == 1 else 's'}"
    graded = [one for one in findings.lesions if not math.isnan(one.stenosis_pct)]
    if graded:
        worst = max(graded, key=_stenosis_pct)
        segment = segment_of(findings, worst)
        words += f", worst {_stenosis_pct(worst):.0f} %" + (f" in {segment_name(segment[0])}" if segment else "")
    elsewhere = sum(findings.here(one) is None for one in findings.lesions)
    return words + (f" ({elsewhere} not in this frame)" if elsewhere else "")


def obstruction_marks(findings: ObstructionFindings) -> list[Mark]:
    """What is drawn of the obstructions that the chosen frame shows.

    The text says number, estimated %DS and score, and of a cine in how many of its frames it was seen:
    `1: 78 % (0.91) 4/5`.
    """
    shown = [(rank, one, findings.here(one)) for rank, one in enumerate(findings.lesions, start=1)]
    return [Mark(here.box_px, here.point_px, _color(one), f"{rank}: {_summary(findings, one)}")
            for rank, one, here in shown if here is not None]


def estimated_stenoses(findings: ObstructionFindings) -> list[float]:
    """The estimated diameter stenoses of the obstructions reported, percent, as far as there are any."""
    return [stenosis for one in findings.lesions if not math.isnan(stenosis := _stenosis_pct(one))]


def obstruction_legend(stenoses_pct: Sequence[float]) -> dict[str, tuple[int, int, int]]:
    """Legend of the grades that occur: `obstruction: severe, from 70 %DS`."""
    grades = grade_legend(stenoses_pct)
    return {f"obstruction: {name}": color for name, color in grades.items()}


def _summary(findings: ObstructionFindings, lesion: Lesion) -> str:
    percent = "" if math.isnan(lesion.stenosis_pct) else f"{_stenosis_pct(lesion):.0f} % "
    times = f" {len(findings.seen(lesion))}/{lesion.of_frames}" if lesion.of_frames > 1 else ""
    return f"{percent}({lesion.score:.2f}){times}"


def _color(lesion: Lesion) -> tuple[int, int, int]:
    return _NO_GRADE_COLOR if math.isnan(lesion.stenosis_pct) else grade_color(_stenosis_pct(lesion))


def obstruction_crops(
    findings: ObstructionFindings, read: Callable[[int], np.ndarray], *, width: int, most_rows: int
) -> tuple[list[list[np.ndarray | None]], list[list[str]]]:
    """Rows of `width` pictures of the obstructions cut out, and what is said under each; None = empty.

    Of a cine a row is one obstruction in the frames that show it best; of a single frame the obstructions follow one
    another. read: a frame of the cine, uint8 (H, W, 3), by its index.
    """
    shown = []
    for rank, lesion in enumerate(findings.lesions, start=1):
        segment, best = segment_of(findings, lesion), findings.seen(lesion)[:width]
        where = f"{rank}: {segment_name(segment[0])}," if segment else f"{rank}:"
        words = [f"{where} {_summary(findings, lesion)}"]
        if len(findings.looked_at) > 1:
            words = [f"frame {one.frame_index}, score {one.detection.score:.2f}" for one in best]
            words[0] = f"{where} {_summary(findings, lesion)}\nbest in {words[0]}"
        shown.append([(one, _color(lesion), said) for one, said in zip(best, words, strict=True)])
    if len(findings.looked_at) == 1:
        shown = [sum(shown[start : start + width], []) for start in range(0, len(shown), width)]
    rows, captions = [], []
    for row in shown[:most_rows]:
        empty = width - len(row)
        rows.append([_crop(read(one.frame_index), one.detection, color) for one, color, _ in row] + [None] * empty)
        captions.append([said for *_, said in row] + [""] * empty)
    return rows, captions


def _crop(frame: np.ndarray, found: Detection, color: Sequence[int]) -> np.ndarray:
    """A square of the frame about a lesion with its box, enlarged; where the frame ends, its border goes on."""
    box = np.array(found.box_px)
    half = round(max(_CROP_SHARE * max(frame.shape), _CROP_BOXES * (box[2:] - box[:2]).max()) / 2)
    column, row = np.rint((box[:2] + box[2:]) / 2).astype(int)
    padded = np.pad(frame, ((half, half), (half, half), (0, 0)), mode="edge")
    square = padded[row : row + 2 * half + 1, column : column + 2 * half + 1]
    scale = max(1.0, max(frame.shape) / len(square))
    picture = cv2.resize(square, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    draw_box(picture, (box - np.tile([column - half, row - half], 2) + 0.5) * scale - 0.5, color)
    return picture


def score_obstructions(findings: ObstructionFindings, row: Mapping, threshold_pct: float = POSITIVE_FROM_PCT) -> dict:
    """Whether the annotated obstruction of a row of a data set is among those reported, for the record's scores.

    `obstruction_found`: a reported point lies in its box, as in FROC; None where it was measured below threshold_pct,
    so that there is none to find. What else was reported is not scored: only one segment is annotated.
    """
    label = obstruction_of_row(row)
    if not label.is_positive(threshold_pct):
        return {"obstruction_found": None}
    target = Target(label.box_px, label.mld_px, label.stenosis_pct, int(row["cass_segment"]), math.nan)
    here = [found for found in map(findings.here, findings.lesions) if found is not None]
    return {"obstruction_found": 0 in match_detections(here, [target])["detection_point"]}
