r"""Compare DeepSA's pseudo-labels with the Medis segment masks, row by row, before or after training on them.

    python inspect_deepsa_labels.py --data-csv dataset.csv --out outputs/deepsa_labels
    python inspect_deepsa_labels.py --data-csv dataset.csv --split val --out outputs/deepsa_labels

Medis outlines one analysed segment, by hand; DeepSA marks all vessels, by a network. So the one says, on its
segment, how much the other misses, how it is shifted and how thick it draws. Writes to --out:

    deepsa_inspection.csv   every row: recall on the segment, shift in frame pixels, coverage, fragments
    deepsa_suspects.csv     rows to look at, worst first, with the reasons in words
    deepsa_gallery.png      those rows drawn: frame, label, and where label and segment differ

A shift along a straight vessel cannot be seen: `shift_x_px` and `shift_y_px` are empty then, and only the
part across the vessel is given, `shift_across_px` in direction `across_x`, `across_y` (x right, y down).
"""

import argparse
import sys
import textwrap
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from skimage.measure import label as label_fragments
from skimage.measure import regionprops_table
from skimage.morphology import skeletonize
from tqdm import tqdm

from data.alignment import Shift, estimate_shift
from data.cine import read_frame
from data.contours import read_contours
from data.masks import mask_coverage, read_frame_masks, read_mask
from data.paths import parse_path_maps
from data.schema import load_table, select_split
from utils.arguments import HelpFormatter, add_data_arguments
from utils.drawing import (
    GREEN,
    SKY_BLUE,
    VERMILION,
    agreement_overlay,
    mask_overlay,
    save_gallery,
    side_by_side,
)
from utils.files import write_text_atomic
from utils.metrics import dice

GALLERY_COLORS = {
    "both": GREEN, "only DeepSA (right beyond the segment)": VERMILION, "only Medis (missed)": SKY_BLUE,
}
IDENTITY = ("csv_line", "patient_id", "vessel_pattern", "phase", "cass_segment", "split")

# What makes a row a suspect. Lengths are pixels at a side of 512, DeepSA's own size, where a main artery is
# about 10 px wide (3 mm at 0.3 mm per pixel): 3 px off is a third of it.
LEAST_RECALL = 0.6
LARGEST_SHIFT_PX = 3.0
LEAST_COVERAGE, LARGEST_COVERAGE = 0.005, 0.20  # of the frame; coronary trees of real frames cover 2 to 12 %
WIDTH_RATIO = (0.6, 1.67)
LEAST_LARGEST_SHARE = 0.4  # left and right tree never share a frame, so one piece should hold most
SPECK_PX = 20  # smaller pieces are specks, counted apart
CASES_PER_ROW = 2  # of the gallery; one below the other would make a tower
CAPTION_WIDTH = 54  # characters that fit below a picture of the gallery


def inspect_row(row: dict) -> dict:
    """All measures of one row of the table, named as the columns of the CSV; lengths in frame pixels."""
    segment = read_mask(row["vessel_mask_actual_path"])
    deepsa = read_mask(row["deepsa_pseudo_label_path"])
    tree = mask_coverage(deepsa, segment.shape).astype(np.float32) / 255
    shift = estimate_shift(tree, segment, read_contours(row["contours_path"]).centerline)
    record = {name: row[name] for name in IDENTITY}
    record["medis_recall"] = _recall(tree, segment, np.zeros(2))
    record["medis_recall_aligned"] = _recall(tree, segment, shift.shift) if shift.found else np.nan
    record |= _shift_columns(shift) | _fragment_columns(deepsa)
    record["segment_width_ratio"] = shift.width_ratio
    record["thickness_px"] = _thickness(deepsa) * segment.shape[1] / deepsa.shape[1]
    masks = read_frame_masks(row, segment.shape)
    record["dice_truth"] = dice(masks["deepsa"], masks["truth"]) if "truth" in masks else np.nan
    record["reasons"] = "; ".join(reasons(record, segment.shape[0] / 512))
    return record


def _recall(tree: np.ndarray, segment: np.ndarray, shift: np.ndarray) -> float:
    """Share of the segment's pixels that the tree covers once its `shift` (x, y) is taken back."""
    height, width = tree.shape
    back = np.float32([[1, 0, -shift[0]], [0, 1, -shift[1]]])
    moved = cv2.warpAffine(tree, back, (width, height))
    return float((moved[segment] >= 0.5).mean())


def _shift_columns(shift: Shift) -> dict:
    known = shift.shift if shift.known_both else np.full(2, np.nan)
    directions = "both" if shift.known_both else "across only" if shift.found else "none"
    return {
        "shift_known": directions, "shift_x_px": known[0], "shift_y_px": known[1],
        "shift_across_px": shift.across_px, "across_x": shift.across[0], "across_y": shift.across[1],
        "shift_sd_across_px": shift.sd_px[0], "shift_sd_along_px": shift.sd_px[1],
        "segment_seen": shift.seen,
    }


def _fragment_columns(deepsa: np.ndarray) -> dict:
    areas = regionprops_table(label_fragments(deepsa, connectivity=2), properties=("area",))["area"]
    pieces = areas[areas >= SPECK_PX]
    return {
        "coverage": float(deepsa.mean()), "fragments": len(pieces), "specks": len(areas) - len(pieces),
        "largest_fragment_share": float(areas.max() / areas.sum()),
    }


def _thickness(mask: np.ndarray) -> float:
    """Median width of the vessels in the mask's own pixels: twice the depth along the centrelines."""
    padded = np.pad(mask, 1).astype(np.uint8)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # A run of w pixels has its middle w / 2 + 1/2 from the nearest outside pixel's centre.
    return float(np.median(2 * depth[skeletonize(padded > 0)] - 1))


def reasons(record: dict, pixels_of_512: float = 1.0) -> list[str]:
    """Why a row should be looked at, in words; empty for a good row. `pixels_of_512`: frame side over 512."""
    said = []
    recall, shift_px = record["medis_recall"], _shift_length(record)
    if recall < LEAST_RECALL:
        aligned = record["medis_recall_aligned"]
        back = f"{aligned:.0%} once the shift is taken back"
        cause = back if aligned >= LEAST_RECALL else "missing, not shifted"
        said.append(f"DeepSA covers only {recall:.0%} of the segment ({cause})")
    # A shift that does not bring DeepSA nearer to the segment was a match with something else.
    if shift_px > LARGEST_SHIFT_PX * pixels_of_512 and record["medis_recall_aligned"] >= recall:
        said.append(f"shifted by {shift_px:.1f} px{_direction(record)}, or another vessel was matched")
    ratio = record["segment_width_ratio"]
    if ratio < WIDTH_RATIO[0] or ratio > WIDTH_RATIO[1]:
        said.append(f"DeepSA draws the segment {ratio:.2f} times as wide as Medis")
    if not LEAST_COVERAGE <= record["coverage"] <= LARGEST_COVERAGE:
        said.append(f"DeepSA marks {record['coverage']:.1%} of the frame")
    if record["largest_fragment_share"] < LEAST_LARGEST_SHARE:
        share = record["largest_fragment_share"]
        said.append(f"in {record['fragments']} pieces, the largest has {share:.0%} of the pixels")
    return said


def _shift_length(record: dict) -> float:
    """Length of the shift as far as it is known; nan when nothing is."""
    if record["shift_known"] == "both":
        return float(np.hypot(record["shift_x_px"], record["shift_y_px"]))
    return abs(record["shift_across_px"])


def _direction(record: dict) -> str:
    if record["shift_known"] == "both":
        return f" ({record['shift_x_px']:+.1f} right, {record['shift_y_px']:+.1f} down)"
    return " across the vessel (along it cannot be seen)"


def rank_suspects(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that have reasons: most reasons first, and among those the least recall."""
    suspects = table[table["reasons"] != ""].copy()
    suspects["reason_count"] = suspects["reasons"].str.count("; ") + 1
    return suspects.sort_values(["reason_count", "medis_recall"], ascending=[False, True])


def draw_gallery(path: Path, ranked: pd.DataFrame, rows: dict[int, dict]) -> None:
    """Draw the first rows of `ranked`, two side by side; `rows` are the table's, by `csv_line`."""
    pictures, captions = [], []
    for record in ranked.to_dict("records"):
        row = rows[record["csv_line"]]
        frame = read_frame(row["cine_path"], row["frame_index"])
        segment = read_mask(row["vessel_mask_actual_path"])
        deepsa = read_frame_masks(row, segment.shape)["deepsa"]
        pictures.append([frame, mask_overlay(frame, deepsa), agreement_overlay(frame, segment, deepsa)])
        title = f"row {record['csv_line']}  {record['patient_id']}\n{record['vessel_pattern']}"
        captions.append([title, "", _caption(record)])
    rows_of_pictures = side_by_side(pictures, CASES_PER_ROW)
    columns = ["frame", "DeepSA label", "label and Medis segment"] * (len(rows_of_pictures[0]) // 3)
    save_gallery(path, rows_of_pictures, columns, [""] * len(rows_of_pictures), legend=GALLERY_COLORS,
                 captions=side_by_side(captions, CASES_PER_ROW, filler=""))


def _caption(record: dict) -> str:
    text = record["reasons"] or f"recall {record['medis_recall']:.0%}"
    return "\n".join(textwrap.wrap(text, CAPTION_WIDTH, max_lines=2, placeholder=" ..."))


def summary(table: pd.DataFrame, suspects: pd.DataFrame) -> str:
    """A few lines for the terminal."""
    known = table["shift_known"].value_counts()
    lengths = table.apply(_shift_length, axis=1)
    lines = [
        f"{len(table)} rows: DeepSA covers {table['medis_recall'].median():.0%} of the Medis segment "
        f"(median; a tenth of the rows below {table['medis_recall'].quantile(0.1):.0%})",
        f"shift: median {lengths.median():.2f} px, 90 % below {lengths.quantile(0.9):.2f} px; known in both "
        f"directions in {known.get('both', 0)} rows, only across the vessel in "
        f"{known.get('across only', 0)}, not at all in {known.get('none', 0)}",
        f"coverage: median {table['coverage'].median():.1%} of the frame in {table['fragments'].median():g} "
        f"fragments, {table['thickness_px'].median():.1f} px thick",
    ]
    if table["dice_truth"].notna().any():
        lines.append(f"Dice against the true masks: mean {table['dice_truth'].mean():.3f}")
    return "\n".join([*lines, f"suspects: {len(suspects)} rows"])


def run(options: argparse.Namespace) -> pd.DataFrame:
    """Inspect, write the three files, print the summary; returns the table of measures."""
    table = load_table(options.data_csv, options.data_root, parse_path_maps(options.path_map))
    rows = select_split(table, options.split).to_dict("records")
    inspected = pd.DataFrame([inspect_row(row) for row in tqdm(rows, "inspecting labels", disable=None)])
    suspects = rank_suspects(inspected)
    others = inspected[inspected["reasons"] == ""].sort_values("medis_recall")
    ranked = pd.concat([suspects, others]).head(options.gallery_rows)
    write_text_atomic(options.out / "deepsa_inspection.csv", _csv(inspected))
    write_text_atomic(options.out / "deepsa_suspects.csv", _csv(suspects))
    draw_gallery(options.out / "deepsa_gallery.png", ranked, {row["csv_line"]: row for row in rows})
    print(summary(inspected, suspects))
    print(f"written: {options.out / 'deepsa_inspection.csv'}, deepsa_suspects.csv, deepsa_gallery.png")
    return inspected


def _csv(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, float_format="%.4f", lineterminator="\n")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add_data_arguments(parser)
    parser.add_argument("--split", choices=("train", "val", "all"), default="all", help="rows to inspect")
    parser.add_argument("--out", type=Path, required=True, default=argparse.SUPPRESS,
                        help="folder to write to")
    parser.add_argument("--gallery-rows", type=int, default=12, help="rows in the gallery, worst first")
    try:
        run(parser.parse_args(arguments))
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
