r"""Look through the obstruction labels that phase 3 learns from, before training on them.

    python inspect_obstruction_labels.py --data-csv dataset.csv --out outputs/labels
    python inspect_obstruction_labels.py --data-csv dataset.csv --split val --limit 50 --out outputs/labels

A label is what the analyst measured in a frame: the narrowed vessel, its plaque, MLD point and %DS. Rows
whose numbers contradict each other come first, then the others, the most severe first. Writes to --out:

    obstruction_labels.csv      every row in this order: numbers, grade, box, positive or not, contradictions
    obstruction_summary.txt     how many rows are positive; grades by phase and by segment
    labels/0001_row12_PRE.png   a row each, in this order: the segment plain, and with its label drawn on it

A row is positive from --threshold %DS on, whatever its phase: the measurement decides.
"""

import argparse
import sys
import textwrap
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from data.cine import read_frame
from data.contours import Contours, read_contours
from data.masks import read_mask
from data.obstructions import (
    GRADES,
    POSITIVE_FROM_PCT,
    Obstruction,
    column_contradictions,
    lesion_contradictions,
    obstruction_of,
)
from data.paths import parse_path_maps
from data.schema import load_table, select_split
from utils.arguments import HelpFormatter, add_data_arguments, non_negative_float, non_negative_int
from utils.drawing import GREEN, ORANGE, SKY_BLUE, VERMILION, YELLOW, mask_overlay, save_gallery, segment_name
from utils.entry import clean_exit
from utils.files import write_text_atomic

IDENTITY = ("csv_line", "patient_id", "vessel_pattern", "phase", "cass_segment", "split")
WHITE = (255, 255, 255)
LEGEND = {"lumen (actual edges)": GREEN, "healthy vessel (ideal edges)": SKY_BLUE, "plaque": VERMILION,
          "lesion's start and end": ORANGE, "MLD point": YELLOW, "box": WHITE}
CROP_SHARE = 1.25           # side of the picture by the segment's own extent
PICTURE_PX = 960            # side of the enlarged picture
CELL_INCHES = 6.0
CAPTION_WIDTH = 105         # characters that fit below a picture
SUBPIXEL_BITS = 4           # OpenCV draws at fractions of 1/16 of a pixel


def inspect_row(row: dict, threshold_pct: float = POSITIVE_FROM_PCT) -> dict:
    """All numbers of one row's label, named as the columns of the CSV."""
    contours = read_contours(row["contours_path"])
    label = obstruction_of(contours, read_mask(row["vessel_mask_actual_path"]).shape)
    record = {name: row[name] for name in IDENTITY}
    record |= {
        "stenosis_pct": label.stenosis_pct, "grade": GRADES[label.grade].name,
        "positive": label.is_positive(threshold_pct), "mld_mm": label.mld_mm,
        "reference_mm": label.reference_mm, "length_mm": label.length_mm,
        "plaque_px": int(label.region.sum()), "start_index": label.start_index,
        "mld_index": label.mld_index, "end_index": label.end_index,
    }
    record |= dict(zip(("mld_x_px", "mld_y_px"), label.mld_px, strict=True))
    record |= dict(zip(("box_x0_px", "box_y0_px", "box_x1_px", "box_y1_px"), label.box_px, strict=True))
    record["missing"] = ", ".join(contours.missing_measurements)
    record["contradictions"] = "; ".join(contradictions(row, contours))
    return record


def contradictions(row: dict, contours: Contours) -> list[str]:
    """What does not fit together of the numbers that the label is made of, in words."""
    columns = column_contradictions(row, contours).items()
    of_columns = [f"the CSV's {column} is {row[column]:g}, {text}" for column, text in columns]
    return contours.stenosis_contradictions() + lesion_contradictions(contours) + of_columns


def rank(table: pd.DataFrame) -> pd.DataFrame:
    """The rows in the order to look at them: with contradictions, then without; severe ones first."""
    table = table.assign(is_odd=table["contradictions"] != "")
    table = table.sort_values(["is_odd", "stenosis_pct"], ascending=False, ignore_index=True)
    return table.drop(columns="is_odd")


def draw_row(path: Path, record: dict, row: dict) -> None:
    """One row as a picture: the analysed segment plain, and with its label on it; numbers below."""
    contours, frame = read_contours(row["contours_path"]), read_frame(row["cine_path"], row["frame_index"])
    plain, drawn = draw_label(frame, contours, obstruction_of(contours, frame.shape[:2]))
    title = (f"row {record['csv_line']}   {record['patient_id']}   {record['phase']}   "
             f"{segment_name(record['cass_segment'])} (Medis: {contours.segment_name})")
    save_gallery(path, [[plain, drawn]], ["frame", "label"], [""], title=title, captions=[captions(record)],
                 legend=LEGEND, cell_inches=CELL_INCHES)


def draw_label(frame: np.ndarray, contours: Contours, label: Obstruction) -> tuple[np.ndarray, np.ndarray]:
    """A frame, uint8 (H, W, 3), around the analysed segment, enlarged: plain, and with the label on it."""
    low, high = _crop(contours, frame.shape[:2])
    scale = PICTURE_PX / (high - low).max()
    part = (slice(low[1], high[1]), slice(low[0], high[0]))
    size = tuple(np.rint((high - low) * scale).astype(int).tolist())
    plain = cv2.resize(frame[part], size, interpolation=cv2.INTER_CUBIC)
    plaque = cv2.resize(label.region[part].astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    drawn = mask_overlay(plain, plaque > 0, VERMILION, opacity=0.5)

    def draw(points, color, *, closed=False) -> None:
        # The middle of pixel 0 lies half an enlarged pixel from the picture's border.
        enlarged = (np.asarray(points, float) - low + 0.5) * scale - 0.5
        fixed = np.rint(enlarged * 2**SUBPIXEL_BITS).astype(np.int32)
        cv2.polylines(drawn, [fixed], closed, color, 2, cv2.LINE_AA, SUBPIXEL_BITS)

    x0, y0, x1, y1 = label.box_px
    draw([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], WHITE, closed=True)
    for edge in (contours.ideal_left_edge, contours.ideal_right_edge):
        draw(edge, SKY_BLUE)
    for edge in (contours.left_edge, contours.right_edge):
        draw(edge, GREEN)
    for index in (label.start_index, label.end_index):
        draw(_tick(contours, index), ORANGE)
    mld, arm = np.array(label.mld_px), 8 / scale
    for along in ((1, 1), (1, -1)):
        draw([mld - np.multiply(along, arm), mld + np.multiply(along, arm)], YELLOW)
    return plain, drawn


def _crop(contours: Contours, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Corners (x, y) of a square around the analysed segment, less what is beyond the frame, (H, W)."""
    walls = np.concatenate([contours.ideal_left_edge, contours.ideal_right_edge])
    middle, extent = (walls.min(axis=0) + walls.max(axis=0)) / 2, np.ptp(walls, axis=0).max()
    frame_px, side = np.array(size[::-1]), int(np.ceil(CROP_SHARE * extent)) + 1
    low = np.clip(np.rint(middle - side / 2).astype(int), 0, np.maximum(frame_px - side, 0))
    return low, np.minimum(low + side, frame_px)


def _tick(contours: Contours, index: int) -> np.ndarray:
    """A line across the vessel at a point of the centreline, half as long again as it is wide. (2, 2)"""
    line = contours.centerline
    along = line[min(index + 3, len(line) - 1)] - line[max(index - 3, 0)]
    across = np.array([-along[1], along[0]]) / max(np.hypot(*along), 1e-9)
    walls = np.concatenate([contours.ideal_left_edge, contours.ideal_right_edge])
    half = 1.5 * np.linalg.norm(walls - line[index], axis=1).min()
    return np.stack([line[index] - half * across, line[index] + half * across])


def captions(record: dict) -> list[str]:
    """What stands below the two pictures of a row: what is odd about it, and the label's numbers."""
    odd = [f"missing in the file: {record['missing']}"] if record["missing"] else []
    odd += [f"CONTRADICTION: {text}" for text in record["contradictions"].split("; ") if text]
    lines = [line for text in odd for line in textwrap.wrap(text, CAPTION_WIDTH)]
    numbers = (
        f"{record['stenosis_pct']:.0f} %DS, {record['grade']}, "
        f"{'positive' if record['positive'] else 'negative'}   MLD {record['mld_mm']:.2f} mm, "
        f"RVD {record['reference_mm']:.2f} mm   length {record['length_mm']:.1f} mm"
    )
    return ["\n".join(lines), numbers]


def summary(table: pd.DataFrame, threshold_pct: float) -> str:
    """How many rows are positive, and the rows by grade, of each phase and of each segment."""
    grades = [grade.name for grade in GRADES]
    counts = [
        pd.crosstab(table[column], table["grade"]).reindex(columns=grades, fill_value=0).assign(
            rows=table.groupby(column).size(), positive=table.groupby(column)["positive"].sum())
        for column in ("phase", "cass_segment")
    ]
    counts[1].index = [segment_name(cass_id) for cass_id in counts[1].index]
    bounds = ", ".join(f"{grade.name} from {grade.from_pct:g}" for grade in GRADES[1:])
    odd = int((table["contradictions"] != "").sum())
    lines = [
        f"{len(table)} rows of {table['patient_id'].nunique()} patients: {table['positive'].sum()} positive "
        f"(from {threshold_pct:g} %DS on), {odd} with contradictions", f"grades in %DS: {bounds}",
    ]
    return "\n\n".join(["\n".join(lines), *(part.rename_axis(None).rename_axis(None, axis=1).to_string()
                                            for part in counts)])


def run(options: argparse.Namespace) -> pd.DataFrame:
    """Inspect, write tables and pictures, print the summary; returns the table in the pictures' order."""
    table = load_table(options.data_csv, options.data_root, parse_path_maps(options.path_map))
    rows = {row["csv_line"]: row for row in select_split(table, options.split).to_dict("records")}
    records = tqdm(rows.values(), "reading labels", disable=None)
    ranked = rank(pd.DataFrame([inspect_row(row, options.threshold) for row in records]))
    drawn = ranked.head(len(ranked) if options.limit is None else options.limit).to_dict("records")
    names = [f"{number:04d}_row{record['csv_line']}_{record['phase']}.png"
             for number, record in enumerate(drawn, start=1)]
    ranked["picture"] = names + [""] * (len(ranked) - len(names))
    text = summary(ranked, options.threshold)
    write_text_atomic(options.out / "obstruction_labels.csv",
                      ranked.to_csv(index=False, float_format="%.4f", lineterminator="\n"))
    write_text_atomic(options.out / "obstruction_summary.txt", text + "\n")
    for name, record in zip(tqdm(names, "drawing labels", disable=None), drawn, strict=True):
        draw_row(options.out / "labels" / name, record, rows[record["csv_line"]])
    print(text)
    print(f"\nwritten: {options.out / 'obstruction_labels.csv'}, obstruction_summary.txt, "
          f"{len(names)} pictures in labels")
    return ranked


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add_data_arguments(parser)
    parser.add_argument("--split", choices=("train", "val", "all"), default="all", help="rows to inspect")
    parser.add_argument("--out", type=Path, required=True, default=argparse.SUPPRESS,
                        help="folder to write to")
    parser.add_argument("--threshold", type=non_negative_float, default=POSITIVE_FROM_PCT,
                        help="diameter stenosis in percent from which on a row is positive")
    parser.add_argument("--limit", type=non_negative_int, default=None,
                        help="pictures to draw, the first ones of the order; without it one for every row")
    options = parser.parse_args(arguments)
    with clean_exit(f"stopped; what was written until now is in {options.out}", also=(ValueError,)):
        run(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
