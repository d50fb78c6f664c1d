"""One row of the CSV against the data contract: what it holds, what is wrong with it, what is odd about it.

A fault stops a run, because the row would train on something untrue or not at all. A warning is a
contradiction that real data is known to have and that does not touch segmentation; it is counted and shown.
"""

import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data.angles import parse_angle
from data.cass import SEGMENTS, parse_segment
from data.cine import cine_shape, read_frame
from data.contours import POLYLINES, Contours, read_contours
from data.errors import DataError, Fault, shortened
from data.masks import read_label_map, read_mask
from data.obstructions import column_contradictions, lesion_contradictions
from data.text import whole_number

SPLITS = ("train", "val")
PHASES = ("PRE", "FINAL", "EVENT")
VESSEL_NAMES = ("LAD", "RCA", "LCX", "PDA", "Ramus")
WORD_COLUMNS = ("patient_id", "vessel_pattern", "phase", "vessel_name", "split")
PATH_COLUMNS = ("cine_path", "contours_path", "vessel_mask_actual_path", "deepsa_pseudo_label_path")
REQUIRED_COLUMNS = (*WORD_COLUMNS, *PATH_COLUMNS, "frame_index", "cass_segment", "cass_segment_original")
ANGLE_COLUMNS = {"primary_angle": "primary", "secondary_angle": "secondary"}
NUMBER_COLUMNS = ("MLD_mm", "diameter_stenosis_pct", "lesion_length_mm", "blind_ceiling")
OPTIONAL_PATH_COLUMNS = ("true_vessel_mask_path", "true_cass_map_path", "true_lesions_path")
OPTIONAL_COLUMNS = (*ANGLE_COLUMNS, *NUMBER_COLUMNS, *OPTIONAL_PATH_COLUMNS)

ANGLE_DISAGREES_DEG = 1.0  # Medis rounds to whole degrees, DICOM has tenths
CENTERLINE_IN_MASK = 0.8
BEYOND_FRAME = 0.1  # of a side: an outline may run a little past the border, not lie elsewhere


class RowCheck:
    """A row under examination: `record` gathers its values in local types."""

    def __init__(self, line: int, cells: dict[str, str], resolve: Callable[[str], tuple[Path, str]]):
        self.line, self.cells, self.resolve = line, cells, resolve
        self.record: dict = {"csv_line": line}
        self.faults: list[Fault] = []
        self.warnings: list[Fault] = []

    def text(self, column: str) -> str:
        return self.cells.get(column, "").strip()

    def fault(self, column: str, allowed: object) -> None:
        self.faults.append(Fault(self.line, column, self.text(column), str(allowed)))

    def warn(self, column: str, text: str) -> None:
        self.warnings.append(Fault(self.line, column, self.text(column), text))


def check_row(line: int, cells: dict[str, str], resolve: Callable[[str], tuple[Path, str]]) -> RowCheck:
    """Examine one row, opening its files; of the cine only the header and the used frame are read.

    `cells` has the columns that the CSV has, as text; `resolve` takes the text of a path cell to the local
    path and to what to do when there is no such file.
    """
    row = RowCheck(line, cells, resolve)
    _check_words(row)
    _check_numbers(row)
    for column in (*PATH_COLUMNS, *OPTIONAL_PATH_COLUMNS):
        _find_file(row, column)
    frame_size = _check_cine(row)
    segment = _check_mask(row, "vessel_mask_actual_path", frame_size)
    _check_mask(row, "deepsa_pseudo_label_path", None)
    _check_mask(row, "true_vessel_mask_path", frame_size)
    _check_cass_map(row, frame_size)
    contours = _check_contours(row, frame_size)
    _check_angles(row, contours)
    if contours is not None:
        _warn_of_contradictions(row, contours, segment)
    return row


def _check_words(row: RowCheck) -> None:
    allowed = {"phase": PHASES, "split": SPLITS}
    for column in WORD_COLUMNS:
        if column not in row.cells:
            continue
        value = row.record[column] = row.text(column)
        if not value:
            row.fault(column, f"a blank cell; allowed: {', '.join(allowed.get(column, ('any text',)))}")
        elif value not in allowed.get(column, (value,)):
            row.fault(column, f"allowed: {', '.join(allowed[column])}")
    if row.text("vessel_name") and row.text("vessel_name") not in VESSEL_NAMES:
        row.warn("vessel_name", f"not one of {', '.join(VESSEL_NAMES)}")


def _check_numbers(row: RowCheck) -> None:
    index = row.record["frame_index"] = whole_number(row.text("frame_index"))
    if "frame_index" in row.cells and index is None:
        row.fault("frame_index", "not a whole number; allowed: a whole number, 0 for the first frame")
    _check_segment(row, "cass_segment", row.fault)
    _check_segment(row, "cass_segment_original", row.warn)
    for column in set(NUMBER_COLUMNS) & set(row.cells):
        try:
            row.record[column] = float(row.text(column) or "nan")
        except ValueError:
            row.fault(column, "allowed: a number, or blank when it was not measured")
    ceiling = row.record.get("blind_ceiling", math.nan)
    if ceiling <= 0 or ceiling > 1:
        row.fault("blind_ceiling", "allowed: a probability above 0 and at most 1, or blank")


def _check_segment(row: RowCheck, column: str, complain: Callable[[str, str], None]) -> None:
    """Put the CASS number into the record, None when the cell names no segment."""
    row.record[column] = None
    if column not in row.cells:
        return
    try:
        row.record[column] = parse_segment(row.text(column))
    except DataError as error:
        complain(column, str(error))


def _find_file(row: RowCheck, column: str) -> None:
    """Put the local path into the record when there is such a file; only optional paths may be blank."""
    if column not in row.cells:
        return
    if not row.text(column):
        if column in PATH_COLUMNS:
            row.fault(column, "a blank cell; allowed: a file's path, absolute or relative to the data root")
        return
    path, advice = row.resolve(row.text(column))
    if os.path.isfile(path):  # also no for what the system refuses as a name, where Path.is_file raises
        row.record[column] = str(path)
    else:
        row.fault(column, f"no such file: {shortened(str(path))}. {advice}")


def _check_cine(row: RowCheck) -> tuple[int, int] | None:
    """(H, W) of the cine's frames, None when that cannot be told."""
    path, index = row.record.get("cine_path"), row.record["frame_index"]
    if path is None:
        return None
    try:
        frames, *size = cine_shape(path)
    except DataError as error:
        row.fault("cine_path", error)
        return None
    if index is not None and not 0 <= index < frames:
        row.fault("frame_index", f"out of range; allowed: 0 to {frames - 1} (the cine has {frames} frames)")
    elif index is not None:
        _check_frame(row, path, index)
    return tuple(size)


def _check_frame(row: RowCheck, path: str, index: int) -> None:
    try:
        frame = read_frame(path, index)
    except DataError as error:
        row.fault("cine_path", error)
        return
    if frame.min() == frame.max():
        row.warn("frame_index", f"frame {index} is one flat grey of {frame.min()}")


def _check_mask(row: RowCheck, column: str, size: tuple[int, int] | None) -> np.ndarray | None:
    """The mask when it can be read; `size` is what its size must be, None when any will do."""
    if column not in row.record:
        return None
    try:
        mask = read_mask(row.record[column])
    except DataError as error:
        row.fault(column, error)
        return None
    if not mask.any():
        row.fault(column, "the mask is empty; allowed: at least one vessel pixel")
    if size is not None and mask.shape != size:
        row.fault(column, f"the mask is {_size(mask.shape)}; allowed: {_size(size)}, as the frames are")
        return None
    return mask


def _size(shape: tuple[int, int]) -> str:
    return f"{shape[1]} x {shape[0]} pixels"


def _check_cass_map(row: RowCheck, size: tuple[int, int] | None) -> None:
    column = "true_cass_map_path"
    if column not in row.record:
        return
    try:
        cass_map = read_label_map(row.record[column])
    except DataError as error:
        row.fault(column, error)
        return
    strange = np.setdiff1d(cass_map, [0, *SEGMENTS])
    if strange.size:
        row.fault(column, f"has values such as {strange[:5].tolist()}; allowed: 0 and the CASS numbers")
    if size is not None and cass_map.shape != size:
        row.fault(column, f"the map is {_size(cass_map.shape)}; allowed: {_size(size)}, as the frames are")


def _check_contours(row: RowCheck, size: tuple[int, int] | None) -> Contours | None:
    """The contours when they can be read and, as far as the frame's `size` is known, lie on the frame."""
    if "contours_path" not in row.record:
        return None
    try:
        contours = read_contours(row.record["contours_path"])
    except DataError as error:
        row.fault("contours_path", error)
        return None
    outside = [name for name in POLYLINES if size and not _is_near_frame(getattr(contours, name), size)]
    for name in outside:
        low, high = getattr(contours, name).min(axis=0), getattr(contours, name).max(axis=0)
        seen = f"{name} reaches from ({low[0]:g}, {low[1]:g}) to ({high[0]:g}, {high[1]:g})"
        row.fault("contours_path", f"{seen}; allowed: pixels (x, y) of the frame, {_size(size)}")
    return None if outside else contours


def _is_near_frame(points: np.ndarray, size: tuple[int, int]) -> bool:
    sides = np.array(size[::-1])
    return bool((points >= -BEYOND_FRAME * sides).all() and (points <= (1 + BEYOND_FRAME) * sides).all())


def _check_angles(row: RowCheck, contours: Contours | None) -> None:
    """Angles come from the CSV where it has them, else from the contours file, else they are nan."""
    view_angles = contours.view_angles if contours else {}
    for column, axis in ANGLE_COLUMNS.items():
        in_csv = _angle(row, column, row.text(column), axis)
        in_file = _angle(row, "contours_path", view_angles.get(column), axis)
        row.record[column] = in_file if math.isnan(in_csv) else in_csv
        if abs(in_csv - in_file) > ANGLE_DISAGREES_DEG:
            row.warn(column, f"the contours file says {in_file:g}; the CSV's angle is used")


def _angle(row: RowCheck, column: str, value: object, axis: str) -> float:
    try:
        return parse_angle(value, axis)
    except ValueError as error:
        row.fault(column, error)
        return math.nan


def _warn_of_contradictions(row: RowCheck, contours: Contours, segment: np.ndarray | None) -> None:
    for warning in contours.contradictions() + lesion_contradictions(contours):
        row.warn("contours_path", warning)
    for column, warning in column_contradictions(row.record, contours).items():
        row.warn(column, warning)
    if segment is not None:
        points = np.rint(contours.centerline)
        x, y = points[((points >= 0) & (points < segment.shape[::-1])).all(axis=1)].astype(int).T
        hit = np.count_nonzero(segment[y, x]) / len(points)
        if hit < CENTERLINE_IN_MASK:
            text = f"only {hit:.0%} of the contours' centreline lies in this mask"
            row.warn("vessel_mask_actual_path", text)
