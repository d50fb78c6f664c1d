"""What the contestants are asked about: frames with a mask, of a CSV of this project or of any folder of pairs.

    cases = cases_of_table(load_table("dataset.csv", split="val"))      # at each row's frame_index
    cases = cases_of_folders("echo/images", "echo/masks")               # any modality, PNG, DICOM or NIfTI
    cases = cases_of_coco(load_coco("arcade/test.json", "arcade/images"))
    frame, masks = cases[0].read()
    masks["segment"], masks.get("truth")
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from contest.contestant import NO_VIEW
from contest.volumes import VOLUME_SUFFIXES, read_slice, slices_with_labels
from data.cine import cine_shape, read_frame
from data.coco import CocoImage, CocoObject, CocoSet
from data.contours import read_contours
from data.errors import DataError
from data.frame_source import is_frame_file, open_frames
from data.masks import read_frame_masks, read_label_map, read_mask

# What masks are called: the analysed segment by the analyst, all vessels by DeepSA, all vessels as they are (phantoms).
SEGMENT, DEEPSA, TRUTH = "segment", "deepsa", "truth"
MASK_NAMES = {SEGMENT: "annotated segment", DEEPSA: "vessels by DeepSA", TRUTH: "true vessels"}
LABEL_ENDINGS = ("_mask", "_label", "_seg", "_gt")  # that a mask's name may have beyond its picture's


@dataclass(frozen=True, kw_only=True)
class Case:
    """One frame to ask about.

    name: unique, fit for a file name. patient: the unit that scores are resampled by. read() gives the frame, uint8 RGB
    (H, W, 3), and its masks, bool (H, W) each, by the names of `MASK_NAMES`, "segment" always; it raises DataError.
    read_course() gives the segment's course, float64 (n, 2) (x, y) px, None where none was drawn; read_cine() all
    frames, uint8 RGB (T, H, W, 3), and which of them is asked about, None where there is but one. view_deg: nan =
    unknown.
    """

    name: str
    patient: str
    read: Callable[[], tuple[np.ndarray, dict[str, np.ndarray]]]
    read_course: Callable[[], np.ndarray | None]
    read_cine: Callable[[], tuple[np.ndarray, int]] | None = None
    view_deg: tuple[float, float] = NO_VIEW


def cases_of_table(table: pd.DataFrame) -> list[Case]:
    """A case for each row of a table of `data.schema.load_table`, at the frame that the analyst used."""
    return [
        Case(
            name=f"line{row['csv_line']}", patient=str(row["patient_id"]), read=functools.partial(_read_row, row),
            read_course=functools.partial(_course_of_row, row["contours_path"]),
            read_cine=functools.partial(_cine_of_row, row["cine_path"], int(row["frame_index"])),
            view_deg=(row["primary_angle"], row["secondary_angle"]),
        )
        for row in table.to_dict("records")
    ]


def _read_row(row: Mapping) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    frame = read_frame(row["cine_path"], row["frame_index"])
    masks = {SEGMENT: read_mask(row["vessel_mask_actual_path"]), **read_frame_masks(row, frame.shape[:2])}
    return frame, masks


def _cine_of_row(path: str, frame_index: int) -> tuple[np.ndarray, int]:
    frames, _, _ = cine_shape(path)
    return np.stack([read_frame(path, number) for number in range(frames)]), frame_index


def _course_of_row(path: str) -> np.ndarray:
    return read_contours(path).centerline


def cases_of_folders(images: str | Path, masks: str | Path, *, label: int | None = None) -> list[Case]:
    """A case for each picture of a folder that has a mask of its name in another one; a volume gives one for each of
    its slices with a mask.

    A mask is called as its picture, or that and one of `LABEL_ENDINGS`. label: the value of a label map that is meant;
    without it all that is not 0. Each file stands for a patient of its own. Raises DataError where a folder is missing,
    nothing fits together, or a picture has no mask.
    """
    images, masks = Path(images), Path(masks)
    for folder in (images, masks):
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder")
    pictures = sorted(path for path in images.iterdir() if path.is_file() and _is_picture(path))
    if not pictures:
        allowed = f".png, .jpg, DICOM, .npy cines and {', '.join(VOLUME_SUFFIXES)}"
        raise DataError(f"{images}: no pictures; allowed: {allowed}")
    by_stem = {_stem(path): path for path in sorted(masks.iterdir()) if path.is_file()}
    cases: list[Case] = []
    for picture in pictures:
        stem = _stem(picture)
        names = (stem, *(stem + ending for ending in LABEL_ENDINGS))
        found = next((by_stem[name] for name in names if name in by_stem), None)
        if found is None:
            raise DataError(f"{picture}: no mask in {masks} is called {stem} or {stem}{LABEL_ENDINGS[0]}; move the "
                            "picture away, or add its mask")
        cases += _volume_cases(picture, found, label) if _is_volume(picture) else [_picture_case(picture, found, label)]
    if not cases:
        raise DataError(f"{masks}: no slice has a mask{'' if label is None else f' of label {label}'}")
    return cases


def cases_of_coco(regions: CocoSet) -> list[Case]:
    """A case for each annotated region, such as ARCADE's stenoses; each picture stands for a patient of its own."""
    return [
        Case(name=f"{image.path.stem}_{one.annotation_id}", patient=str(image.image_id),
             read=functools.partial(_read_region, image, one), read_course=_no_course, view_deg=image.view_deg)
        for image in regions.images for one in image.objects
    ]


def _read_region(image: CocoImage, one: CocoObject) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    frame = image.read()
    return frame, {SEGMENT: one.mask(frame.shape[:2])}


def _is_picture(path: Path) -> bool:
    return _is_volume(path) or is_frame_file(path)


def _is_volume(path: Path) -> bool:
    return path.name.lower().endswith(VOLUME_SUFFIXES)


def _stem(path: Path) -> str:
    """A file's name without its suffix; `.nii.gz` is one."""
    ending = next((suffix for suffix in VOLUME_SUFFIXES if path.name.lower().endswith(suffix)), path.suffix)
    return path.name[: len(path.name) - len(ending)]


def _picture_case(picture: Path, mask: Path, label: int | None) -> Case:
    return Case(name=_stem(picture), patient=_stem(picture), read=functools.partial(_read_pair, picture, mask, label),
                read_course=_no_course, view_deg=open_frames(picture).view_deg)


def _volume_cases(picture: Path, mask: Path, label: int | None) -> list[Case]:
    return [
        Case(name=f"{_stem(picture)}_slice{number}", patient=_stem(picture),
             read=functools.partial(_read_slices, picture, mask, number, label), read_course=_no_course)
        for number in slices_with_labels(mask, label)
    ]


def _no_course() -> None:
    return None


def _read_pair(picture: Path, mask: Path, label: int | None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    frame = open_frames(picture).read(0)
    return frame, {SEGMENT: _checked(_wanted(_label_map(mask), label), frame, mask)}


def _label_map(path: Path) -> np.ndarray:
    """Numbers (H, W) of a PNG, `.npy` or DICOM."""
    if path.suffix.lower() in (".png", ".npy"):
        return read_label_map(path)
    return open_frames(path).read(0)[..., 0]


def _read_slices(picture: Path, mask: Path, number: int, label: int | None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    frame = read_slice(picture, number)
    return frame, {SEGMENT: _checked(_wanted(read_slice(mask, number, as_labels=True), label), frame, mask)}


def _wanted(labels: np.ndarray, label: int | None) -> np.ndarray:
    return labels != 0 if label is None else labels == label


def _checked(mask: np.ndarray, frame: np.ndarray, path: Path) -> np.ndarray:
    if mask.shape != frame.shape[:2]:
        sizes = [f"{shape[1]} x {shape[0]}" for shape in (mask.shape, frame.shape)]
        raise DataError(f"{path}: {sizes[0]} px, its picture {sizes[1]}; both must have one size")
    return mask


def mask_path(folder: Path, contestant: str, case: str, kind: str) -> Path:
    """Where a contestant's answer lies."""
    plain = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in contestant)
    return folder / plain / f"{case}_{kind}.png"
