"""Frames and their DeepSA pseudo-labels as a torch Dataset.

    table = load_table("dataset.csv", split="train")
    dataset = AngiogramDataset(table, image_size=336, augment=True, seed=0)
    loader = DataLoader(dataset, batch_size=4, collate_fn=collate)
"""

import cv2
import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset, get_worker_info

from data.augment import augment
from data.cine import read_frame
from data.masks import mask_coverage, read_frame_masks, read_mask, resize_picture


class AngiogramDataset(Dataset):
    """One sample for each row of a table of `data.schema.load_table`.

    The frame is resized to a square of `image_size` pixels; a frame that is not square is stretched, as the
    label is. With `augment`, the picture is a pure function of (`seed`, epoch, index): a resumed run sees the
    pictures that an unbroken one would have seen, whichever worker makes them.
    """

    def __init__(
        self, table: pd.DataFrame, *, image_size: int, augment: bool = False, seed: int = 0,
        frame_masks: bool = False,
    ):
        if augment and frame_masks:
            raise ValueError("frame_masks are those of the frame as it is; allowed: augment or frame_masks")
        if len(table) == 0:
            raise ValueError("the table has no rows; check the split that was asked for")
        self.table = table.reset_index(drop=True)
        self.image_size, self.augment, self.seed, self.frame_masks = image_size, augment, seed, frame_masks
        self._rows = self.table.to_dict("records")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        """The sample of row `key`, or of (row, epoch); without an epoch it is epoch 0's.

        Returns `image` float32 (3, S, S) in [0, 1], RGB; `view_deg` float32 (2,) primary and secondary angle,
        nan = unknown; `deepsa_mask` float32 (1, S, S) of 0 and 1; `row`, the position in the table. With
        `frame_masks` also `frame_deepsa_mask`, bool (H, W) numpy at the frame's own size, and
        `frame_truth_mask` where the row has one. Raises DataError when a file has changed since the check.
        """
        if get_worker_info() is not None:
            cv2.setNumThreads(0)  # the workers are the parallelism; OpenCV's threads would fight over cores
        index, epoch = key if isinstance(key, tuple) else (key, 0)
        row = self._rows[index]
        frame = read_frame(row["cine_path"], row["frame_index"])
        label = read_mask(row["deepsa_pseudo_label_path"])
        image, mask = self._network_input(frame, label, index, epoch)
        sample = {
            "image": image, "deepsa_mask": mask, "row": int(index),
            "view_deg": torch.tensor([row["primary_angle"], row["secondary_angle"]], dtype=torch.float32),
        }
        if self.frame_masks:
            masks = read_frame_masks(row, frame.shape[:2])
            sample |= {f"frame_{name}_mask": mask for name, mask in masks.items()}
        return sample

    def _network_input(self, frame, label, index, epoch) -> tuple[torch.Tensor, torch.Tensor]:
        size = (self.image_size, self.image_size)
        image, coverage = resize_picture(frame, size), mask_coverage(label, size)
        if self.augment:
            image, coverage = augment(image, coverage, np.random.default_rng([self.seed, epoch, index]))
        else:
            image = image.astype(np.float32) / np.float32(255)
        mask = torch.from_numpy((coverage >= 128).astype(np.float32))[None]
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))), mask


def collate(samples: list[dict]) -> dict:
    """A batch: tensors stacked, `row` int64 (B,), each `frame_*` a list with None where a sample has none."""
    stacked = ("image", "view_deg", "deepsa_mask")
    batch: dict = {key: torch.stack([sample[key] for sample in samples]) for key in stacked}
    batch["row"] = torch.tensor([sample["row"] for sample in samples])
    for key in sorted({key for sample in samples for key in sample if key.startswith("frame_")}):
        batch[key] = [sample.get(key) for sample in samples]
    return batch
