"""Annotated regions of pictures in COCO's format, such as the stenoses of ARCADE.

    regions = load_coco("arcade/stenosis/test/annotations/test.json", "arcade/stenosis/test/images")
    for image in regions.images:
        frame = image.read()                        # uint8 (H, W, 3)
        image.objects[0].box_px, image.objects[0].mask(frame.shape[:2])

ARCADE: Popov et al., "Dataset for Automatic Region-based Coronary Artery Disease Diagnostics Using X-Ray
Angiography Images", Scientific Data 11 (2024), doi 10.1038/s41597-023-02871-z; 1000, 200 and 300 pictures of
512 x 512 px in `stenosis/{train,val,test}/{images,annotations}`, the category "stenosis" is number 26.

COCO counts px from the outer corner of the first pixel, this project from its centre: half a pixel is taken off
what is read, and added to what `coco_result` writes.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from skimage.draw import polygon2mask

from data.angles import parse_angle
from data.contours import LARGEST_NUMBER
from data.errors import DataError, shortened, shown
from data.frame_source import read_picture
from data.input_files import check_pixels, parse_json, read_bytes
from data.text import decode_text

CATEGORY = "stenosis"  # in the name of the category, in ARCADE all of it
CORNER_PX = 0.5  # from the first pixel's centre to COCO's origin
# Between a bbox and the box of its polygons: a bbox that was taken from pixels differs by one.
BOX_DISAGREES_PX = 2.0
_NAMED = 5  # missing pictures that an error lists
MOST_BYTES = 256 * 2**20  # parsed, JSON takes several times its size


@dataclass(frozen=True)
class CocoObject:
    """An annotated region: box_px (x0, y0, x1, y1); polygons, at least one, float64 (n, 2), (x, y) px, which together
    are the region."""

    annotation_id: int
    box_px: tuple[float, float, float, float]
    polygons: tuple[np.ndarray, ...]

    def mask(self, size: tuple[int, int]) -> np.ndarray:
        """The pixels of a picture of `size` = (height, width) whose centres lie in the polygons, bool (H, W)."""
        mask = np.zeros(size, bool)
        for polygon in self.polygons:
            mask |= polygon2mask(size, polygon[:, ::-1])
        return mask


@dataclass(frozen=True)
class CocoImage:
    """An annotated picture of (height, width) px; view_deg: (primary, secondary), nan = unknown."""

    image_id: int
    path: Path
    height: int
    width: int
    view_deg: tuple[float, float]
    objects: tuple[CocoObject, ...]

    def read(self) -> np.ndarray:
        """The picture, uint8 (H, W, 3); DataError when it cannot be read or is of another size than annotated."""
        frame = read_picture(self.path)
        if frame.shape[:2] != (self.height, self.width):
            raise DataError(
                f"{self.path}: {frame.shape[1]} x {frame.shape[0]} px, annotated as {self.width} x {self.height} "
                f"(image id {self.image_id}); give the pictures that were annotated, not resized ones")
        return frame


@dataclass(frozen=True)
class CocoSet:
    """All pictures of a file; categories: number to name of those taken; notes: what a reader should know."""

    categories: dict[int, str]
    images: tuple[CocoImage, ...]
    notes: tuple[str, ...]

    @property
    def objects(self) -> int:
        """How many regions are annotated."""
        return sum(len(image.objects) for image in self.images)


def load_coco(annotations: str | Path, images: str | Path, category: str | None = None) -> CocoSet:
    """Read annotated regions of a category, and check that they and their pictures belong together.

    annotations: COCO JSON; images: the folder of its pictures; category: name or number, without it every one
    whose name has "stenosis" in it. Regions are polygons; where there is a bbox alone, it is the region, which a
    note says; a run-length mask or a crowd is refused. An entry of `images` may have `primary_angle` and
    `secondary_angle`, as `data.angles` reads them, which is this project's own addition. Pictures are looked for,
    but not opened: `CocoImage.read` does.
    Raises DataError, naming file and entry, for whatever cannot be used.
    """
    path = Path(annotations)
    content = _read_json(path)
    lists = {name: _entries(path, content, name) for name in ("images", "annotations", "categories")}
    categories = _choose_categories(path, lists["categories"], category)
    entries = _by_id(path, lists["images"], "images")
    _by_id(path, lists["annotations"], "annotations")
    objects: dict[int, list[CocoObject]] = {image_id: [] for image_id in entries}
    notes = []
    for entry in lists["annotations"]:
        where = f"{path}: annotation {entry['id']}"
        image_id = entry.get("image_id")
        if not _is_integer(image_id) or image_id not in entries:
            raise DataError(f"{where} is of image_id {shown(image_id)}, which no entry of \"images\" has; one of the "
                            "two lists was cut or renumbered, use the annotations as they were published")
        if not _is_integer(entry.get("category_id")):
            seen = shown(entry.get("category_id"))
            raise DataError(f"{where} has category_id {seen}; allowed: an id of \"categories\"")
        if entry["category_id"] in categories:
            found, note = _read_object(f"{where} (image id {image_id})", entry, _size(path, entries[image_id]))
            objects[image_id].append(found)
            notes += [note] if note else []
    if not any(objects.values()):
        counts = Counter(entry["category_id"] for entry in lists["annotations"])
        raise DataError(
            f"{path}: no annotation of category {_names(categories)}; the file has, by category id, "
            f"{dict(counts) or 'none at all'}. ARCADE's stenoses are in its folder stenosis, not syntax; another "
            "category is chosen with --category")
    paths = _find_pictures(path, Path(images), entries)
    return CocoSet(categories, tuple(
        CocoImage(image_id, paths[image_id], *_size(path, entry), _view(path, entry), tuple(objects[image_id]))
        for image_id, entry in entries.items()), tuple(notes))


def coco_result(image_id: int, category_id: int, box_px: Sequence[float], score: float) -> dict:
    """A detection, box_px (x0, y0, x1, y1), as an entry of COCO's list of results: bbox [x, y, width, height]."""
    x0, y0, x1, y1 = box_px
    bbox = [x0 + CORNER_PX, y0 + CORNER_PX, x1 - x0, y1 - y0]
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": score}


def _read_json(path: Path) -> Mapping:
    content = parse_json(decode_text(read_bytes(path, MOST_BYTES)), path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__}; COCO annotations are an object with images, "
                        "annotations and categories (a list is usually a file of results)")
    return content


def _entries(path: Path, content: Mapping, name: str) -> list[dict]:
    entries = content.get(name)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"{path}: has no list \"{name}\" of objects; it has {', '.join(content) or 'nothing'}. Give a "
                        "file of COCO annotations")
    if not entries and name != "annotations":
        raise DataError(f"{path}: the list \"{name}\" is empty; export the annotations again")
    return entries


def _by_id(path: Path, entries: Sequence[dict], name: str) -> dict[int, dict]:
    known: dict[int, dict] = {}
    for number, entry in enumerate(entries):
        if not _is_integer(entry.get("id")):
            raise DataError(f"{path}: {name}[{number}] has id {shown(entry.get('id'))}; allowed: an integer")
        if entry["id"] in known:
            raise DataError(f"{path}: two entries of {name} have id {entry['id']}; joined files need new ids")
        known[entry["id"]] = entry
    return known


def _choose_categories(path: Path, entries: Sequence[dict], category: str | None) -> dict[int, str]:
    known = {key: str(entry.get("name")) for key, entry in _by_id(path, entries, "categories").items()}
    if category is None:
        chosen = {key: name for key, name in known.items() if CATEGORY in name.casefold()}
    else:  # a name goes before a number: ARCADE's segments are called 1, 2, ... and numbered otherwise
        chosen = {key: name for key, name in known.items() if name.casefold() == category.casefold()}
        chosen = chosen or {key: name for key, name in known.items() if str(key) == category}
    if not chosen:
        wanted = f"called like \"{CATEGORY}\"" if category is None else f"with name or id {category!r}"
        raise DataError(f"{path}: no category {wanted}; there are {_names(known)}. Choose one with --category")
    return chosen


def _names(categories: Mapping[int, str]) -> str:
    return ", ".join(f"{key} \"{name}\"" for key, name in categories.items())


def _size(path: Path, entry: Mapping) -> tuple[int, int]:
    """(height, width) of an entry of images."""
    size = entry.get("height"), entry.get("width")
    if not all(_is_integer(side) and side > 0 for side in size):
        seen = f"height {shown(size[0])} and width {shown(size[1])}"
        raise DataError(f"{path}: image {entry['id']} has {seen}; allowed: px")
    check_pixels(path, *size)
    return size


def _view(path: Path, entry: Mapping) -> tuple[float, float]:
    try:
        return tuple(parse_angle(entry.get(f"{axis}_angle"), axis) for axis in ("primary", "secondary"))
    except ValueError as error:
        raise DataError(f"{path}: image {entry['id']}: {error}") from error


def _find_pictures(path: Path, folder: Path, entries: Mapping[int, dict]) -> dict[int, Path]:
    """The file of each picture: below `folder` as it is called, or there without the folders in its name."""
    found, seen, missing = {}, {}, []
    for image_id, entry in entries.items():
        name = entry.get("file_name")
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"{path}: image {image_id} has file_name {shown(name)}; allowed: the name of a picture")
        name = PurePosixPath(name.replace("\\", "/"))
        if seen.setdefault(name, image_id) != image_id:
            raise DataError(f"{path}: images {seen[name]} and {image_id} are both {name}; it would count twice")
        candidates = (folder / name, folder / name.name)
        found[image_id] = next((one for one in candidates if os.path.isfile(one)), None)
        missing += [shortened(str(name))] if found[image_id] is None else []
    if missing:
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        raise DataError(f"{folder}: {len(missing)} of the {len(entries)} pictures of {path} are not there: "
                        f"{', '.join(missing[:_NAMED])}{more}. Give their folder with --images")
    return found


def _read_object(where: str, entry: Mapping, size: tuple[int, int]) -> tuple[CocoObject, str]:
    """An annotation as an object, and what is odd about it, in words; where: how errors call it."""
    if entry.get("iscrowd", 0):
        raise DataError(f"{where} has iscrowd {shown(entry['iscrowd'])}; allowed: 0, one region an annotation")
    polygons, given = _read_polygons(where, entry.get("segmentation")), _read_box(where, entry.get("bbox"))
    box, note = given, ""
    if polygons:
        points = np.concatenate(polygons)
        box = (*points.min(axis=0).tolist(), *points.max(axis=0).tolist())
        if given is not None and max(abs(one - other) for one, other in zip(box, given)) > BOX_DISAGREES_PX:
            note = f"{where}: bbox {entry['bbox']} is not that of its polygons; theirs was taken"
    elif box is not None:
        x0, y0, x1, y1 = box
        polygons = (np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]),)
        note = f"{where}: has no polygon; its bbox was taken for the region"
    else:
        raise DataError(f"{where} has neither polygons nor a bbox; annotate it again or remove it")
    height, width = size
    if not (box[0] < box[2] and box[1] < box[3]):
        raise DataError(f"{where} has a box without area, {_rounded(box)} px; annotate it again or remove it")
    if box[2] < 0 or box[3] < 0 or box[0] > width - 1 or box[1] > height - 1:
        raise DataError(f"{where}: its box {_rounded(box)} px lies outside its picture of {width} x {height} px; are "
                        "they annotations of other pictures, or of another size?")
    return CocoObject(entry["id"], box, polygons), note


def _read_polygons(where: str, segmentation: Any) -> tuple[np.ndarray, ...]:
    if isinstance(segmentation, dict):
        raise DataError(f"{where} is a run-length mask (RLE); allowed: polygons. Export the annotations as polygons")
    if segmentation is None:
        return ()
    allowed = "allowed: a list of polygons [x, y, x, y, ...] of at least three points"
    if not isinstance(segmentation, list):
        raise DataError(f"{where} has a {type(segmentation).__name__} as segmentation; {allowed}")
    for polygon in segmentation:
        if not (isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0
                and all(map(_is_number, polygon))):
            raise DataError(f"{where} has the polygon {shown(polygon)}; {allowed}")
    return tuple(np.array(polygon, np.float64).reshape(-1, 2) - CORNER_PX for polygon in segmentation)


def _read_box(where: str, bbox: Any) -> tuple[float, float, float, float] | None:
    if bbox is None or bbox == []:
        return None
    if not (isinstance(bbox, list) and len(bbox) == 4 and all(map(_is_number, bbox))):
        raise DataError(f"{where} has bbox {shown(bbox)}; allowed: [x, y, width, height] in px")
    x, y, width, height = (float(number) for number in bbox)
    return x - CORNER_PX, y - CORNER_PX, x + width - CORNER_PX, y + height - CORNER_PX


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < LARGEST_NUMBER


def _rounded(box: Sequence[float]) -> list[float]:
    return [round(side, 1) for side in box]
