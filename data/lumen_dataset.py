"""Crops around the analysed segment with its lumen, for stage 4, as a torch Dataset.

    table = load_table("dataset.csv", split="train")
    dataset = LumenDataset(table, image_size=336, augment=True, seed=0)
    loader = DataLoader(dataset, batch_size=4, collate_fn=collate)

The label is drawn from the edges of the contours file, not from the mask made of them: a mask knows an edge to a third
of a pixel, and 0.1 mm is half a pixel.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset, get_worker_info

from data.augment import draw_change, shade
from data.cine import read_frame
from data.contours import read_contours
from data.dataset import hide_angles
from data.lumen_crops import box_around, crop_around, cut_out, lumen_maps
from qca.diameters import match_edges

BOX_NOISE = 0.05  # SD by which each side of the box is off in training, of the longer side: models draw boxes so
MOST_INWARD = 0.25  # of the box's own width or height
ENDS_NOISE = 0.02  # SD of each of the two ends that are pointed at, of the crop's side
ENDS_PROBABILITY = 0.7  # that they are
PART_PROBABILITY = 0.5  # of a box around a part of the segment: a box decides where a lumen ends
LEAST_PART = 0.5  # of the segment's length


class Section(NamedTuple):
    """The lumen that was drawn in a frame: its edges (n, 2) px, opposite each other, proximal to distal."""

    left: np.ndarray
    right: np.ndarray

    @property
    def box_px(self) -> np.ndarray:
        """x0, y0, x1, y1."""
        return box_around(self.left, self.right)

    @property
    def ends_px(self) -> np.ndarray:
        """(2, 2): the middle of its first and of its last cross-section."""
        return ((self.left + self.right) / 2)[[0, -1]]


class LumenDataset(Dataset):
    """One sample for each row of a table of `data.schema.load_table`.

    With `augment` crop and box vary, the box is also drawn around parts of the segment, whose lumen then ends there,
    and each angle is unknown with probability `view_dropout`; all of it is a pure function of (`seed`, epoch, index).
    With `frame_masks`, which every stage's validation asks for, a sample also says what its frame is.
    """

    def __init__(
        self, table: pd.DataFrame, *, image_size: int, augment: bool = False, seed: int = 0,
        frame_masks: bool = False, view_dropout: float = 0.0,
    ):
        if augment and frame_masks:
            raise ValueError("frame_masks are those of the frame as it is; allowed: augment or frame_masks")
        if len(table) == 0:
            raise ValueError("the table has no rows; check the split that was asked for")
        self.table = table.reset_index(drop=True)
        self.image_size, self.augment, self.seed, self.frame_masks = image_size, augment, seed, frame_masks
        self.view_dropout = view_dropout
        self._rows = self.table.to_dict("records")
        self._sections: dict[int, Section] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        """The sample of row `key`, or of (row, epoch); without an epoch it is epoch 0's.

        Returns `image` float32 (3, S, S) in [0, 1], RGB; `box` float32 (4,), x0, y0, x1, y1 px of the crop, what the
        lumen is asked for in; `ends` float32 (2, 2), (x, y) px of the crop about the segment's ends, all nan = not
        pointed at; `view_deg` float32 (2,) primary and secondary angle, nan = unknown; `lumen` float32
        (1, S, S), the share of each pixel that is lumen; `distance` and `weight` float32 (1, S, S), see `LumenMaps`;
        `row`, the position in the table. With `frame_masks` also `frame_crop`, the Crop, `frame_contours`, the Contours,
        and `frame_size`, (height, width).
        Raises DataError when a file has changed since the check.
        """
        if get_worker_info() is not None:
            cv2.setNumThreads(0)  # the workers are the parallelism; OpenCV's threads would fight over cores
        index, epoch = key if isinstance(key, tuple) else (key, 0)
        row, section = self._rows[index], self._section(index)
        frame = read_frame(row["cine_path"], row["frame_index"])
        view_deg = torch.tensor([row["primary_angle"], row["secondary_angle"]], dtype=torch.float32)
        if self.augment:
            rng = np.random.default_rng([self.seed, epoch, index])
            image, crop, box, section = self._vary(frame, section, rng)
            ends = crop.to_crop(section.ends_px) + rng.normal(0, ENDS_NOISE, (2, 2)) * self.image_size
            ends = ends if rng.random() < ENDS_PROBABILITY else np.full((2, 2), np.nan)
            view_deg = hide_angles(view_deg, self.view_dropout, np.random.default_rng([self.seed, epoch, index, 1]))
        else:
            box = section.box_px
            crop = crop_around(box, side_px=self.image_size, frame_side_px=max(frame.shape))
            image, box = cut_out(frame, crop).astype(np.float32) / np.float32(255), crop.to_crop(box.reshape(2, 2))
            ends = crop.to_crop(section.ends_px)
        maps = lumen_maps(crop.to_crop(section.left), crop.to_crop(section.right), self.image_size)
        sample = {
            "image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            "box": torch.from_numpy(box.astype(np.float32).ravel()), "view_deg": view_deg, "row": int(index),
            "ends": torch.from_numpy(ends.astype(np.float32)), "lumen": torch.from_numpy(maps.coverage)[None],
            "distance": torch.from_numpy(maps.distance)[None], "weight": torch.from_numpy(maps.weight)[None],
        }
        if self.frame_masks:
            sample |= {"frame_crop": crop, "frame_size": frame.shape[:2],
                       "frame_contours": read_contours(row["contours_path"])}
        return sample

    def _section(self, index: int) -> Section:
        if index not in self._sections:
            self._sections[index] = section_of(read_contours(self._rows[index]["contours_path"]))
        return self._sections[index]

    def _vary(self, frame: np.ndarray, section: Section, rng: np.random.Generator):
        """Image float32 (S, S, 3), its crop, the box (2, 2) in it and the section that is asked for, at random."""
        change, size = draw_change(rng), np.array(frame.shape[1::-1])
        if rng.random() < PART_PROBABILITY:
            section = _part_of(section, rng)
        turn = cv2.getRotationMatrix2D(tuple((size - 1) / 2), change.angle_deg, 1.0)
        turned = [edge @ turn[:, :2].T + turn[:, 2] for edge in section]
        box = _redrawn(box_around(*turned), rng)
        how = dict(side_px=self.image_size, frame_side_px=max(size), zoom=change.scale, shift=change.shift)
        upright = crop_around(box, **how)
        crop = crop_around(box, **how, turn=turn)
        image = shade(cut_out(frame, crop), change).astype(np.float32)
        image *= np.float32(1 / 255)
        image += (rng.standard_normal(image.shape[:2], dtype=np.float32) * np.float32(change.noise))[..., None]
        return np.clip(image, 0, 1, out=image), crop, upright.to_crop(box.reshape(2, 2)), section


def _redrawn(box: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A box (x0, y0, x1, y1) as somebody else would have drawn it."""
    size = box[2:] - box[:2]
    outward = np.abs(rng.normal(0, BOX_NOISE, 4)).clip(0, 2 * BOX_NOISE) * size.max()
    inward = np.minimum(outward, MOST_INWARD * np.tile(size, 2))
    moved = np.where(rng.random(4) < 0.5, outward, -inward)
    return box + moved * (-1, -1, 1, 1)


def section_of(contours) -> Section:
    """The lumen of a contours file, its edges opposite each other also where they were traced apart."""
    left, right, _ = match_edges(contours.centerline, contours.left_edge, contours.right_edge)
    return Section(np.asarray(left, float), np.asarray(right, float))


def _part_of(section: Section, rng: np.random.Generator) -> Section:
    """A stretch of at least `LEAST_PART` of it."""
    length = rng.uniform(LEAST_PART, 1)
    start = rng.uniform(0, 1 - length)
    points = len(section.left)
    part = slice(int(start * points), max(int((start + length) * points), int(start * points) + 2))
    return Section(section.left[part], section.right[part])
