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
from torch.utils.data import Dataset, get_worker_info

from data.atlas import place_tree, weak_names
from data.augment import augment, draw_change
from data.cine import read_frame
from data.contours import read_contours
from data.masks import mask_coverage, read_frame_masks, read_label_map, read_mask, resize_picture

MAP_STRIDE = 4  # of the map of names, models/segment_heads.py
SEGMENT_COVERAGE = 64  # of 255; at half a pixel, as for the labels, a thin segment would break into dots


class AngiogramDataset(Dataset):
    """One sample for each row of a table of `data.schema.load_table`.

    The frame is resized to a square of `image_size` pixels; a frame that is not square is stretched, as the
    label is. With `augment`, each angle is unknown with probability `view_dropout`, and the picture is a pure function of (`seed`, epoch, index): a resumed run sees the
    pictures that an unbroken one would have seen, whichever worker makes them.
    """

    def __init__(
        self, table: pd.DataFrame, *, image_size: int, augment: bool = False, seed: int = 0,
        frame_masks: bool = False, classes: Sequence[int] | None = None, atlas: bool = False,
        view_dropout: float = 0.0, unsure_ends_mm: float = 0.0,
    ):
        if augment and frame_masks:
            raise ValueError("frame_masks are those of the frame as it is; allowed: augment or frame_masks")
        if len(table) == 0:
            raise ValueError("the table has no rows; check the split that was asked for")
        self.table = table.reset_index(drop=True)
        self.image_size, self.augment, self.seed, self.frame_masks = image_size, augment, seed, frame_masks
        self.classes = None if classes is None else tuple(classes)
        self.atlas, self.view_dropout, self.unsure_ends_mm = atlas, view_dropout, unsure_ends_mm
        self._rows = self.table.to_dict("records")
        self._placed: dict[int, tuple] = {}  # row -> what its contours say, see `_place`

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        """The sample of row `key`, or of (row, epoch); without an epoch it is epoch 0's.

        Returns `image` float32 (3, S, S) in [0, 1], RGB; `view_deg` float32 (2,) primary and secondary angle,
        nan = unknown; `deepsa_mask` float32 (1, S, S) of 0 and 1; `row`, the position in the table. With
        `classes`, of the analysed segment: `segment_mask` float32 (1, S, S) of 0 and 1, `class_index` int64,
        its place in `classes`, and `box` float32 (4,), x_center, y_center, width and height as shares of the
        side, all nan where nothing of it is in the picture. With `classes` and `atlas`
        or `unsure_ends_mm` also `weak_names` float32 (K + 1, S / 4, S / 4), see `data.atlas.weak_names`, 0
        without angles or atlas, and `unsure` float32 (1, S / 4, S / 4), 1 so near to an end of the annotated
        segment that the rest of it may lie there. With `frame_masks` also `frame_deepsa_mask`, bool
        (H, W) numpy at the frame's own size, `frame_truth_mask` where the row has one, and with both
        `frame_segment_mask` and, where the row has one, `frame_cass_map` uint8 (H, W).
        Raises DataError when a file has changed since the check.
        """
        if get_worker_info() is not None:
            cv2.setNumThreads(0)  # the workers are the parallelism; OpenCV's threads would fight over cores
        index, epoch = key if isinstance(key, tuple) else (key, 0)
        row = self._rows[index]
        frame = read_frame(row["cine_path"], row["frame_index"])
        masks = [read_mask(row["deepsa_pseudo_label_path"])]
        if self.classes is not None:
            masks.append(read_mask(row["vessel_mask_actual_path"]))
        image, coverage, change = self._network_input(frame, masks, index, epoch)
        sample = {
            "image": image, "deepsa_mask": _as_mask(coverage[0] >= 128), "row": int(index),
            "view_deg": torch.tensor([row["primary_angle"], row["secondary_angle"]], dtype=torch.float32),
        }
        if self.classes is not None:
            segment = coverage[1] >= SEGMENT_COVERAGE
            sample |= {"segment_mask": _as_mask(segment), "box": torch.from_numpy(box_of(segment)),
                       "class_index": self.classes.index(row["cass_segment"])}
        if self.augment and self.view_dropout:
            # A stream of its own: with or without it, the pictures are the same.
            hidden = np.random.default_rng([self.seed, epoch, index, 1]).random(2) < self.view_dropout
            sample["view_deg"][torch.from_numpy(hidden)] = torch.nan
        if self.atlas or self.unsure_ends_mm:
            sample |= self._names_around(index, frame.shape[:2], change)
        if self.frame_masks:
            sample |= self._frame_masks(row, frame.shape[:2])
        return sample

    def _network_input(self, frame, masks, index, epoch):
        """image (3, S, S), coverage (n, S, S), and the change that was made to both, None for none."""
        size, change = (self.image_size, self.image_size), None
        image = resize_picture(frame, size)
        coverage = np.stack([mask_coverage(mask, size) for mask in masks], axis=-1)
        if self.augment:
            rng = np.random.default_rng([self.seed, epoch, index])
            change = draw_change(rng)
            image, coverage = augment(image, coverage, rng, change)
        else:
            image = image.astype(np.float32) / np.float32(255)
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))), coverage.transpose(2, 0, 1), change

    def _names_around(self, index: int, frame_size: tuple[int, int], change) -> dict[str, torch.Tensor]:
        """What the contours and the mean tree say of names beside the analysed segment, changed as the picture was."""
        if index not in self._placed:
            self._placed[index] = self._place(self._rows[index], frame_size)
        ends, px_share, lines = self._placed[index]
        side = self.image_size // MAP_STRIDE
        px_per_mm = px_share * side * (1.0 if change is None else change.scale)
        weak = np.zeros((len(self.classes) + 1, side, side), np.float32)
        if lines is not None:
            on_map = [(cass_id, self._on_map(line, change)) for cass_id, line in lines]
            weak = weak_names(on_map, self.classes, side, px_per_mm)
        y, x = np.ogrid[:side, :side]
        away_px = [np.hypot(x - end[0], y - end[1]) for end in self._on_map(ends, change)]
        unsure = np.minimum(*away_px) < self.unsure_ends_mm * px_per_mm
        return {"weak_names": torch.from_numpy(weak), "unsure": _as_mask(unsure)}

    def _on_map(self, points: np.ndarray, change) -> np.ndarray:
        """Points (n, 2), shares of the frame's sides, to px of the map of names; pixel centres at integers."""
        matrix = np.eye(2, 3) if change is None else change.matrix(self.image_size)
        moved = (points * self.image_size - 0.5) @ matrix[:, :2].T + matrix[:, 2]
        return (moved + 0.5) / MAP_STRIDE - 0.5

    def _place(self, row: dict, frame_size: tuple[int, int]) -> tuple:
        """Ends of the analysed segment (2, 2) as shares of the sides, mean side's share per mm, the tree's lines."""
        contours, sides = read_contours(row["contours_path"]), np.array(frame_size[::-1])
        px_per_mm = float(contours.calibration["scale_factor"])
        lines = None
        if self.atlas:
            view = (row["primary_angle"], row["secondary_angle"])
            lines = place_tree(row["cass_segment"], view, contours.centerline, px_per_mm)
        if lines is not None:
            lines = [(cass_id, (line + 0.5) / sides) for cass_id, line in lines]
        return (contours.centerline[[0, -1]] + 0.5) / sides, px_per_mm / sides.mean(), lines

    def _frame_masks(self, row: dict, size: tuple[int, int]) -> dict:
        found = {f"frame_{name}_mask": mask for name, mask in read_frame_masks(row, size).items()}
        if self.classes is not None:
            found["frame_segment_mask"] = read_mask(row["vessel_mask_actual_path"])
            path = row.get("true_cass_map_path")
            if isinstance(path, str) and path:
                found["frame_cass_map"] = read_label_map(path).astype(np.uint8)  # the check allows whole floats
        return found


def _as_mask(mask: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(mask.astype(np.float32))[None]


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
            batch[key] = torch.stack([torch.as_tensor(value) for value in values])
    return batch
