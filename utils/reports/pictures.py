"""The files of one prediction, and the pictures in them.

    <name>_mask.png          uint8, 0 or 255, the frame's own size
    <name>_probability.png   uint16, 0 ... 65535 for 0 ... 1, the frame's own size
    <name>_segments.png      uint8, the CASS number of each pixel, 0 = none; of a model of stage 2
    <name>_lumen.png         uint8, 0 or 255: every lumen that was measured; of a model of stage 4
    <name>_overlay.png       the frame, its vessels, and what else the models say, side by side
    <name>.json              everything else (`utils.reports.records.prediction_record`)
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from utils.drawing import (
    DPI,
    ORANGE,
    mask_overlay,
    save_gallery,
    segment_legend,
    segment_name,
    segment_overlay,
    side_by_side,
)
from utils.files import write_png_atomic, write_text_atomic
from utils.history import readable_json
from utils.lumens.measurement_drawing import EDGES_LEGEND, edges_crop
from utils.lumens.quantify import QuantifiedLesion
from utils.lumens.report import BOX_NUMBER, measured_obstructions, measurement_words
from utils.obstructions.drawing import mark_overlay, segment_mark_overlay
from utils.obstructions.report import estimated_stenoses, obstruction_crops, obstruction_legend, obstruction_marks
from utils.reports.records import Prediction, caption, output_paths
from utils.segments.drawing import BLIND_LEGEND, blind_overlay, legend_of, pointed_overlay

VESSEL_LEGEND = {"vessel": ORANGE}
_NARROWEST_OVERLAY_INCHES = 4.5
_CONTACT_SHEET_INPUTS_PER_ROW = 2
_MOST_CROP_ROWS = 3


def write_prediction(folder: Path, prediction: Prediction, record: dict) -> None:
    """Write the files of a prediction into `folder`, each whole or not at all, the JSON last."""
    paths = output_paths(folder, prediction.name)
    if prediction.mask is not None:
        sixteen_bits = np.rint(prediction.probability * 65535).astype(np.uint16)
        write_png_atomic(paths["mask"], prediction.mask)
        write_png_atomic(paths["probability"], sixteen_bits)
    if prediction.measurements is not None:
        write_png_atomic(paths["lumen"], lumens_of(prediction))
    if prediction.findings is not None:
        write_png_atomic(paths["segments"], prediction.findings.names)
    _save_overlay(paths["overlay"], prediction, record)
    write_text_atomic(paths["record"], readable_json(record))


def lumens_of(prediction: Prediction) -> np.ndarray:
    """Return where any lumen was drawn to be measured, bool (H, W)."""
    lumens = [one.lumen.mask_in_frame() for one in prediction.measurements]
    return np.logical_or.reduce(lumens) if lumens else np.zeros(prediction.frame.shape[:2], bool)


def overlay(prediction: Prediction) -> np.ndarray:
    """Return the frame with all that was found on one picture, uint8 (H, W, 3): segments numbered, or vessels of
    a model that names none, and obstructions on top."""
    findings, obstructions = prediction.findings, prediction.obstructions
    if obstructions is None:
        return _vessel_overlay(prediction)
    marks = obstruction_marks(obstructions)
    if findings is None:
        return mark_overlay(_vessel_overlay(prediction), marks, vessels=prediction.mask)
    return segment_mark_overlay(prediction.frame, findings.names, marks, vessels=prediction.mask)


def _vessel_overlay(prediction: Prediction) -> np.ndarray:
    if prediction.mask is None:
        return mask_overlay(prediction.frame, lumens_of(prediction), ORANGE)
    if prediction.findings is None:
        return mask_overlay(prediction.frame, prediction.mask, ORANGE)
    return segment_overlay(prediction.frame, prediction.findings.names, vessels=prediction.mask)


def overlays_legend(records: Sequence[Mapping], *, names_segments: bool) -> dict[str, Sequence[int]]:
    """Return what the colours of the `overlay` of these records mean, all together."""
    named = {segment["cass_id"] for record in records for segment in record.get("segments", ())}
    estimated = [one["estimated_stenosis_pct"] for record in records for one in record.get("obstructions", ())]
    vessels = segment_legend(sorted(named), nameless=True) if names_segments else VESSEL_LEGEND
    return vessels | obstruction_legend([stenosis_pct for stenosis_pct in estimated if stenosis_pct is not None])


def _save_overlay(path: Path, prediction: Prediction, record: Mapping) -> None:
    """Draw frame and overlays at the frame's own resolution.

    Of a model of stage 2 also the blind guess; of stage 3 the obstructions, and in further rows each of them cut
    out of the frame that shows it best; of stage 4 in rows below these, cut out of the frame itself, what was measured.
    """
    pictures = [prediction.frame, _vessel_overlay(prediction)]
    titles = ["frame", "lumen" if prediction.mask is None else f"vessels, p ≥ {prediction.threshold:g}"]
    legend = VESSEL_LEGEND
    if prediction.findings is not None:
        pictures.append(blind_overlay(prediction.frame, prediction.findings.prediction))
        titles = ["frame", "CASS segments", "blind guess: which segment was analysed?"]
        legend = legend_of(prediction.findings) | BLIND_LEGEND
    if prediction.pointed:
        answer = prediction.pointed
        pictures[0] = pointed_overlay(prediction.frame, answer)
        titles[0] = f"pointed: {segment_name(answer['cass_id'])} ({answer['probability']:.2f})"
    rows, captions = [pictures], None
    if (found := prediction.obstructions) is not None:
        pictures.append(mark_overlay(prediction.frame, obstruction_marks(found), vessels=prediction.mask))
        seen = " seen in" if len(found.looked_at) > 1 else ""
        titles.append(f"obstructions, score ≥ {found.threshold.score:.2g}: estimated %DS (score){seen}")
        legend = legend | obstruction_legend(estimated_stenoses(found))
        width = len(pictures)
        crops, said = obstruction_crops(found, prediction.source.read, width=width, most_rows=_MOST_CROP_ROWS)
        rows, captions = [pictures, *crops], [[""] * width, *said]
    if prediction.measurements:
        measured, said = _measured_rows(prediction, record, width=len(pictures))
        rows, captions = [*rows, *measured], [*(captions or [[""] * len(pictures)]), *said]
        legend = legend | EDGES_LEGEND
    save_gallery(
        path,
        rows,
        titles,
        [""] * len(rows),
        captions=captions,
        title=f"{prediction.name}: {caption(prediction)}",
        legend=legend,
        cell_inches=max(_NARROWEST_OVERLAY_INCHES, max(prediction.frame.shape) / DPI),
    )


def _measured_rows(prediction: Prediction, record: Mapping, *, width: int) -> tuple[list[list], list[list[str]]]:
    """Return rows of `width` pictures of what was measured, None = empty, and what is said under each."""
    cells, words = [], []
    for number, obstruction, measurement in measured_obstructions(record):
        segment = obstruction.get("segment")
        where = f"{number}" + (f": {segment_name(segment['cass_id'])}" if segment else "")
        cells.append(edges_crop(prediction.frame, measured_by_number(prediction, number)))
        words.append(f"measured {where}\n{measurement_words(measurement)}")
    cells, words = cells[: width * _MOST_CROP_ROWS], words[: width * _MOST_CROP_ROWS]
    empty = -len(cells) % width
    cells, words = cells + [None] * empty, words + [""] * empty
    starts = range(0, len(cells), width)
    return [cells[at : at + width] for at in starts], [words[at : at + width] for at in starts]


def measured_by_number(prediction: Prediction, number: int | str) -> QuantifiedLesion:
    """Return the measurement of an obstruction by its number in the pictures, or of the box that was given."""
    findings = prediction.obstructions
    detection = None if number == BOX_NUMBER else findings.here(findings.lesions[number - 1])
    return next(one for one in prediction.measurements if one.detection is detection)


def save_contact_sheet(
    path: Path, shown: Sequence[tuple[np.ndarray, np.ndarray, str, str]], predicted: int,
    legend: Mapping[str, Sequence[int]], *, what: str,
) -> None:
    """Draw (frame, overlay, name, caption) of the inputs, two inputs in a row of pictures.

    what: the overlays show, as their columns' title.
    """
    per_row = _CONTACT_SHEET_INPUTS_PER_ROW
    rows = side_by_side([(frame, overlay) for frame, overlay, _, _ in shown], per_row)
    captions = side_by_side([(name, found) for _, _, name, found in shown], per_row, filler="")
    title = f"{predicted} predictions" + (f", the first {len(shown)} shown" if predicted > len(shown) else "")
    columns = ["frame", what] * (len(rows[0]) // 2)
    save_gallery(path, rows, columns, [""] * len(rows), title=title, captions=captions, legend=legend,
                 cell_inches=3.6)
