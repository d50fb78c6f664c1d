"""Frames, their DeepSA pseudo-labels and, for stage 2, their analysed segments as a torch Dataset.

    table = load_table("dataset.csv", split="train")
    dataset = AngiogramDataset(table, image_size=336, augment=True, seed=0)
    dataset = AngiogramDataset(table, image_size=336, augment=True, seed=0, classes=CLASS_IDS)
    loader = DataLoader(dataset, batch_size=4, collate_fn=collate)
"""

from collections.abc import Sequence

import cv2
import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset, default_collate, get_worker_info

from data.augment import augment, draw_change
from data.cass import SEGMENTS
from data.cine import read_frame
from data.contours import read_contours
from data.drawn_trees import NAMES_PX, draw_tree
from data.masks import mask_coverage, read_frame_masks, read_label_map, read_mask, resize_picture
from data.obstructions import known_pixels, obstruction_of_row
from data.true_lesions import read_true_lesions

SEGMENT_COVERAGE = 64  # of 255; at half a pixel, as for the labels, a thin segment would break into dots
VIEW_SPREAD_DEG = 6.0  # of drawn trees, about the views of the rows
USUAL_VIEWS_DEG = ((-50, 50), (-45, 45))  # of drawn trees where no row's angles are known


class AngiogramDataset(Dataset):
    """One sample for each row of a table of `data.schema.load_table`.

    The frame is resized to a square of `image_size` pixels; a frame that is not square is stretched, as the
    label is. With `augment`, each angle is unknown with probability `view_dropout`, `drawn_trees` drawn trees come
    with each row, and all of it is a pure function of (`seed`, epoch, index): a resumed run sees the pictures that an
    unbroken one would have seen, whichever worker makes them.
    """

    def __init__(
        self, table: pd.DataFrame, *, image_size: int, augment: bool = False, seed: int = 0,
        frame_masks: bool = False, classes: Sequence[int] | None = None, drawn_trees: int = 0,
        view_dropout: float = 0.0, unsure_ends_mm: float = 0.0, obstructions: bool = False,
    ):
        if augment and frame_masks:
            raise ValueError("frame_masks are those of the frame as it is; allowed: augment or frame_masks")
        if len(table) == 0:
            raise ValueError("the table has no rows; check the split that was asked for")
        self.table = table.reset_index(drop=True)
        self.image_size, self.augment, self.seed, self.frame_masks = image_size, augment, seed, frame_masks
        self.classes = None if classes is None else tuple(classes)
        self.drawn_trees, self.view_dropout, self.unsure_ends_mm = drawn_trees, view_dropout, unsure_ends_mm
        self.obstructions = obstructions
        self._rows = self.table.to_dict("records")
        self._sections: dict[int, tuple] = {}  # row -> what its contours say, see `_read_section`
        self._ends: dict[int, tuple] = {}  # row -> what its contours say, see `_read_ends`
        self._views: dict[str, list[tuple[float, float]]] = {"left": [], "right": []}
        for row in self._rows if drawn_trees else ():
            view = (row["primary_angle"], row["secondary_angle"])
            self._views[SEGMENTS[row["cass_segment"]].side] += [] if np.isnan(view).any() else [view]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        """The sample of row `key`, or of (row, epoch); without an epoch it is epoch 0's.

        Returns `image` float32 (3, S, S) in [0, 1], RGB; `view_deg` float32 (2,) primary and secondary angle,
        nan = unknown; `deepsa_mask` float32 (1, S, S) of 0 and 1; `row`, the position in the table. With
        `classes`, of the analysed segment: `segment_mask` float32 (1, S, S) of 0 and 1, `class_index` int64,
        its place in `classes`, and `box` float32 (4,), x_center, y_center, width and height as shares of the
        side, all nan where nothing of it is in the picture. With `unsure_ends_mm` also `unsure` float32
        (1, NAMES_PX, NAMES_PX), 1 so near to an end of the annotated segment that the rest of it may lie there. With
        `augment` and `drawn_trees` = N also `drawn_vessels` uint8 (N, VESSELS_PX, VESSELS_PX) and `drawn_names` uint8
        (N, NAMES_PX, NAMES_PX), see `data.drawn_trees.DrawnTree`, and `drawn_view_deg` float32 (N, 2), nan = hidden.
        With `obstructions` `segment_mask` as well, and of the analysed segment's obstruction: `obstruction_box` float32
        (4,), x0, y0, x1, y1, and `obstruction_point` float32 (2,), (x, y), in px of the picture, nan where it is not in
        it; `stenosis_pct` float32; `known` float32 (1, S, S), 1 where an obstruction would have been annotated. With
        `frame_masks` also `frame_deepsa_mask`, bool (H, W) numpy at the frame's own size, `frame_truth_mask` where the
        row has one, and with `classes` or `obstructions` `frame_segment_mask` and, where the row has one,
        `frame_cass_map` uint8 (H, W); with `obstructions` `frame_obstruction`, an `Obstruction` of
        `data.obstructions`, `frame_cass_id`, `frame_px_per_mm`, `frame_known` bool (H, W) and, where the row has them,
        `frame_lesions`, a list of `data.true_lesions.TrueLesion`.
        Raises DataError when a file has changed since the check.
        """
        if get_worker_info() is not None:
            cv2.setNumThreads(0)  # the workers are the parallelism; OpenCV's threads would fight over cores
        index, epoch = key if isinstance(key, tuple) else (key, 0)
        row = self._rows[index]
        frame = read_frame(row["cine_path"], row["frame_index"])
        masks = [read_mask(row["deepsa_pseudo_label_path"])]
        if self.classes is not None or self.obstructions:
            masks.append(read_mask(row["vessel_mask_actual_path"]))
        if self.obstructions:
            section, point, stenosis_pct = self._read_section(index)
            masks.append(section)
        image, coverage, change = self._network_input(frame, masks, index, epoch)
        sample = {
            "image": image, "deepsa_mask": _as_mask(coverage[0] >= 128), "row": int(index),
            "view_deg": torch.tensor([row["primary_angle"], row["secondary_angle"]], dtype=torch.float32),
        }
        if len(masks) > 1:
            sample["segment_mask"] = _as_mask(coverage[1] >= SEGMENT_COVERAGE)
        if self.classes is not None:
            sample |= {"box": torch.from_numpy(box_of(coverage[1] >= SEGMENT_COVERAGE)),
                       "class_index": self.classes.index(row["cass_segment"])}
        if self.obstructions:
            sample |= self._obstruction_in(coverage, point, stenosis_pct, change)
        if self.augment:
            # A stream of its own: with or without it, the pictures are the same.
            rng = np.random.default_rng([self.seed, epoch, index, 1])
            sample["view_deg"] = hide_angles(sample["view_deg"], self.view_dropout, rng)
        if self.unsure_ends_mm:
            sample["unsure"] = self._near_the_ends(index, frame.shape[:2], change)
        if self.augment and self.drawn_trees:
            sample |= self._draw_trees(np.random.default_rng([self.seed, epoch, index, 2]))
        if self.frame_masks:
            sample |= self._frame_masks(row, frame.shape[:2])
        return sample

    def _network_input(self, frame, masks, index, epoch):
        """image (3, S, S), coverage (n, S, S), and the change that was made to both, None for none.

        A grey frame is worked on in one channel, which is a third of the work; the three of `image` then share memory.
        """
        size, change = (self.image_size, self.image_size), None
        image = resize_picture(without_repeats(frame), size)
        coverage = np.stack([mask_coverage(mask, size) for mask in masks], axis=-1)
        if self.augment:
            rng = np.random.default_rng([self.seed, epoch, index])
            change = draw_change(rng)
            image, coverage = augment(image, coverage, rng, change)
        else:
            image = image.astype(np.float32) / np.float32(255)
        if image.ndim == 2:
            image = torch.from_numpy(image).expand(3, -1, -1)
        else:
            image = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        return image, coverage.transpose(2, 0, 1), change

    def _draw_trees(self, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """Drawn trees of the arteries and about the views of the table's rows, each row as likely as another."""
        trees, views = [], []
        for _ in range(self.drawn_trees):
            side = SEGMENTS[self._rows[rng.integers(len(self._rows))]["cass_segment"]].side
            known = self._views[side]
            view = known[rng.integers(len(known))] if known else [rng.uniform(*span) for span in USUAL_VIEWS_DEG]
            view = np.float32(view) + rng.normal(0, VIEW_SPREAD_DEG, 2).astype(np.float32)
            trees.append(draw_tree(side, view, self.classes, rng))
            views.append(hide_angles(torch.from_numpy(view), self.view_dropout, rng))
        vessels, names = (np.stack(pictures) for pictures in zip(*trees, strict=True))
        return {"drawn_vessels": torch.from_numpy(vessels), "drawn_names": torch.from_numpy(names),
                "drawn_view_deg": torch.stack(views)}

    def _read_section(self, index: int) -> tuple[np.ndarray, np.ndarray, float]:
        """Of the row's obstruction: the narrowed section bool (H, W), its point (2,) as shares of the sides, its %DS."""
        if index not in self._sections:
            label = obstruction_of_row(self._rows[index])
            size = label.section.shape
            point = (np.array(label.mld_px) + 0.5) / size[::-1]
            self._sections[index] = np.packbits(label.section), size, point, label.stenosis_pct
        packed, size, point, stenosis_pct = self._sections[index]
        return np.unpackbits(packed, count=size[0] * size[1]).reshape(size).astype(bool), point, stenosis_pct

    def _obstruction_in(self, coverage, point: np.ndarray, stenosis_pct: float, change) -> dict[str, torch.Tensor]:
        """The obstruction in the changed picture; coverage: (3, S, S) of all vessels, the segment and the section."""
        side = self.image_size
        box = box_of(coverage[2] >= SEGMENT_COVERAGE) * side
        matrix = np.eye(2, 3) if change is None else change.matrix(side)
        place = matrix[:, :2] @ (point * side - 0.5) + matrix[:, 2]
        column, row = np.clip(np.rint(place), 0, side - 1).astype(int)
        if np.isnan(box).any() or (abs(place - (column, row)) > 1).any():
            place = np.full(2, np.nan)
        known = known_pixels((coverage[1:] >= SEGMENT_COVERAGE).any(axis=0), coverage[0] >= 128)
        corners = np.concatenate([box[:2] - box[2:] / 2, box[:2] + box[2:] / 2 - 1])
        return {"obstruction_box": torch.from_numpy(corners.astype(np.float32)),
                "obstruction_point": torch.from_numpy(place.astype(np.float32)),
                "stenosis_pct": torch.tensor(stenosis_pct, dtype=torch.float32), "known": _as_mask(known)}

    def _near_the_ends(self, index: int, frame_size: tuple[int, int], change) -> torch.Tensor:
        """(1, NAMES_PX, NAMES_PX): 1 within `unsure_ends_mm` of an end of the analysed segment, in the changed
        picture."""
        if index not in self._ends:
            self._ends[index] = self._read_ends(self._rows[index], frame_size)
        ends, px_share = self._ends[index]
        matrix = np.eye(2, 3) if change is None else change.matrix(self.image_size)
        ends = (ends * self.image_size - 0.5) @ matrix[:, :2].T + matrix[:, 2]
        ends = (ends + 0.5) * NAMES_PX / self.image_size - 0.5
        px_per_mm = px_share * NAMES_PX * (1.0 if change is None else change.scale)
        y, x = np.ogrid[:NAMES_PX, :NAMES_PX]
        away_px = np.minimum(*(np.hypot(x - end[0], y - end[1]) for end in ends))
        return _as_mask(away_px < self.unsure_ends_mm * px_per_mm)

    @staticmethod
    def _read_ends(row: dict, frame_size: tuple[int, int]) -> tuple[np.ndarray, float]:
        """Ends of the analysed segment (2, 2) as shares of the sides, and the mean side's share per mm."""
        contours, sides = read_contours(row["contours_path"]), np.array(frame_size[::-1])
        px_per_mm = float(contours.calibration["scale_factor"])
        return (contours.centerline[[0, -1]] + 0.5) / sides, px_per_mm / sides.mean()

    def _frame_masks(self, row: dict, size: tuple[int, int]) -> dict:
        found = {f"frame_{name}_mask": mask for name, mask in read_frame_masks(row, size).items()}
        if self.classes is not None or self.obstructions:
            found["frame_segment_mask"] = read_mask(row["vessel_mask_actual_path"])
            path = row.get("true_cass_map_path")
            if isinstance(path, str) and path:
                found["frame_cass_map"] = read_label_map(path).astype(np.uint8)  # the check allows whole floats
        if self.obstructions:
            found["frame_obstruction"], found["frame_cass_id"] = obstruction_of_row(row), row["cass_segment"]
            found["frame_px_per_mm"] = float(read_contours(row["contours_path"]).calibration["scale_factor"])
            found["frame_known"] = known_pixels(
                found["frame_segment_mask"] | found["frame_obstruction"].section, found["frame_deepsa_mask"]
            )
            path = row.get("true_lesions_path")
            if isinstance(path, str) and path:
                found["frame_lesions"] = read_true_lesions(path)
        return found


def without_repeats(frame: np.ndarray) -> np.ndarray:
    """The grey values uint8 (H, W) of a frame (H, W, 3) whose channels are equal, else the frame."""
    first, *others = (cv2.extractChannel(frame, channel) for channel in range(3))
    return first if all(np.array_equal(first, other) for other in others) else frame


def _as_mask(mask: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(mask.astype(np.float32))[None]


def hide_angles(view_deg: torch.Tensor, probability: float, rng: np.random.Generator) -> torch.Tensor:
    """Angles (2,), each of them nan with this probability, as a row without it has."""
    return view_deg.masked_fill(torch.from_numpy(rng.random(2) < probability), torch.nan)


def box_of(mask: np.ndarray) -> np.ndarray:
    """The box around a bool (H, W) mask as float32 (x_center, y_center, width, height), shares of the sides.

    Of whole pixels, so a mask that fills the picture gives (0.5, 0.5, 1, 1). All nan for an empty mask.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return np.full(4, np.nan, np.float32)
    low = np.array([columns[0], rows[0]]) / mask.shape[::-1]
    high = np.array([columns[-1] + 1, rows[-1] + 1]) / mask.shape[::-1]
    return np.concatenate([(low + high) / 2, high - low]).astype(np.float32)


def collate(samples: list[dict]) -> dict:
    """A batch: tensors stacked, `row` and `class_index` int64 (B,), each `frame_*` a list with None where a
    sample has none."""
    batch: dict = {}
    for key in sorted({key for sample in samples for key in sample}):
        values = [sample.get(key) for sample in samples]
        if key.startswith("frame_"):
            batch[key] = values
        else:
            # In a loader process it stacks in shared memory, where the batch must go anyway.
            batch[key] = default_collate([torch.as_tensor(value) for value in values])
    return batch
