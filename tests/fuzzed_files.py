"""What is read from outside: where a damaged file of each kind goes, how it is damaged, and its reader.

    write_companions(folder)                        # what a CSV, a contours file and a COCO file need beside them
    place, strategy = damaged("contours", folder)   # where in `folder` the damaged file goes, and how it is damaged
    READERS["contours"](path)
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from hypothesis import strategies as st

from contest import volumes
from data.coco import load_coco
from data.errors import DataError
from data.frame_source import open_frames
from data.masks import read_label_map, read_mask
from data.obstructions import obstruction_of_row
from data.schema import load_table
from data.true_lesions import read_true_lesions
from models.medsam2 import load_medsam2_weights
from models.sam3_weights import load_sam3_image_weights, load_sam3_vision_weights
from tests.csv_fixture import write_tiny_dataset
from tests.damaged_checkpoints import TinyModel, damaged_checkpoint, official_weights, tiny_checkpoint
from tests.damaged_dicom import damaged_dicom, seed_dicoms
from tests.damaged_nifti import damaged_nifti
from tests.damaged_pictures import damaged_npy, damaged_png, seed_pictures
from tests.damaged_text import csv_rows, damaged_csv, damaged_json
from tests.fuzzing import damaged_bytes
from utils.checkpoint import load_checkpoint, load_weights


def read_frames(path: Path) -> None:
    """First, middle and last frame of a cine, picture or DICOM."""
    source = open_frames(path)
    for index in {0, source.frames // 2, source.frames - 1}:
        frame = source.read(index)
        assert frame.dtype == np.uint8 and frame.shape == (source.height, source.width, 3)


def read_masks(path: Path) -> None:
    """A mask and a map of labels."""
    read_label_map(path)
    assert read_mask(path).dtype == bool


def read_both(path: Path) -> None:
    """As a picture or cine, and as a mask; refused when neither takes it."""
    refused = []
    for read in (read_frames, read_masks):
        try:
            read(path)
        except DataError as error:
            refused.append(error)
    if len(refused) == 2:
        raise refused[0]


def read_csv_and_labels(path: Path) -> None:
    """The whole table, and the obstruction of each of its rows."""
    for _, row in load_table(path, progress=False).iterrows():
        obstruction_of_row(row)


def read_contours_of_row(path: Path) -> None:
    """The table of which the contours file at `path` is one."""
    read_csv_and_labels(path.parent.parent / "dataset.csv")


def read_coco(path: Path) -> None:
    """All pictures and regions."""
    for image in load_coco(path, path.parent / "cines").images:
        frame = image.read()
        for region in image.objects:
            region.mask(frame.shape[:2])


def read_checkpoint_whole(path: Path) -> None:
    """A checkpoint, and its weights into a model."""
    checkpoint = load_checkpoint(path)
    assert [type(checkpoint[key]) for key in ("format", "stage", "config")] == [int, str, dict]
    load_weights(TinyModel(), checkpoint["model"], source=path)


def read_official_weights(path: Path) -> None:
    """The vision path, and the whole model."""
    load_sam3_vision_weights(TinyModel(), path)
    backbone = torch.nn.ModuleDict({"vision_backbone": TinyModel()})
    load_sam3_image_weights(torch.nn.ModuleDict({"backbone": backbone}), path)


def read_volume(path: Path) -> None:
    """The labels of a volume, and its first slice as a picture and as a label map."""
    for kept in (volumes._volume, volumes._window):
        kept.cache_clear()  # the file of before stood at the same place
    volumes.slices_with_labels(path, None)
    assert volumes.read_slice(path, 0).dtype == np.uint8
    assert np.isfinite(volumes.read_slice(path, 0, as_labels=True)).all()


READERS = {
    "csv": read_csv_and_labels, "contours": read_contours_of_row, "npy": read_both, "png": read_both,
    "jpeg": read_frames, "dicom": read_frames, "checkpoint": read_checkpoint_whole, "sam3": read_official_weights,
    "medsam2": lambda path: load_medsam2_weights(TinyModel(), path), "coco": read_coco, "lesions": read_true_lesions,
    "nifti": read_volume, "nifti_gz": read_volume,
}


def write_companions(folder: Path) -> Path:
    """Write the tiny data set that a CSV, contours and COCO file need beside them; returns its contours file."""
    write_tiny_dataset(folder, patients=2, rows_per_patient=1, size=32, frames=2)
    (folder / "cines" / "a.png").write_bytes(seed_pictures(".png")[0])
    return sorted((folder / "contours").iterdir())[0]


def damaged(name: str, folder: Path) -> tuple[Path, st.SearchStrategy]:
    """Where below `folder`, which has the companions, a damaged file of the format goes, and how it is damaged."""
    contours = sorted((folder / "contours").iterdir())[0]
    made = folder / "made"
    made.mkdir(exist_ok=True)
    coco = {"images": [{"id": 1, "file_name": "a.png", "height": 24, "width": 20, "primary_angle": "RAO 30"}],
            "categories": [{"id": 26, "name": "stenosis"}],
            "annotations": [{"id": 5, "image_id": 1, "category_id": 26, "bbox": [2, 2, 8, 8], "iscrowd": 0,
                             "segmentation": [[2, 2, 10, 2, 10, 10, 2, 10]]}]}
    lesion = {"cass_segment": 13, "diameter_stenosis_pct": 50.0, "position_px": [3, 4], "box_px": [1, 2, 3, 4],
              "px_per_mm": 4.0, "overlapped": False, "in_frame": True}
    cine = np.arange(3 * 16 * 16, dtype=np.uint8).reshape(3, 16, 16)
    jpegs = seed_pictures(".jpg")
    strategies = {
        "csv": lambda: (folder / "fuzzed.csv", damaged_csv(csv_rows(folder))),
        "contours": lambda: (contours, damaged_json(json.loads(contours.read_text(encoding="utf-8")))),
        "npy": lambda: (folder / "fuzzed.npy", damaged_npy(cine) | damaged_npy((cine[0] > 99).astype(np.uint8))),
        "png": lambda: (folder / "fuzzed.png", damaged_png(seed_pictures(".png"))),
        "jpeg": lambda: (folder / "fuzzed.jpg", st.one_of([damaged_bytes(one) for one in jpegs])),
        "dicom": lambda: (folder / "fuzzed.dcm", damaged_dicom(seed_dicoms(made))),
        "checkpoint": lambda: (folder / "fuzzed.pth", damaged_checkpoint(
            lambda: {"format": 1, **tiny_checkpoint()}, made)),
        "sam3": lambda: (folder / "fuzzed.pt", damaged_checkpoint(official_weights, made)),
        "medsam2": lambda: (folder / "fuzzed.pt", damaged_checkpoint(
            lambda: {"model": tiny_checkpoint()["model"]}, made)),
        "coco": lambda: (folder / "fuzzed.json", damaged_json(coco)),
        "lesions": lambda: (folder / "fuzzed.json", damaged_json([lesion, lesion])),
        "nifti": lambda: (folder / "fuzzed.nii", damaged_nifti()),
        "nifti_gz": lambda: (folder / "fuzzed.nii.gz", damaged_nifti(packed=True)),
    }
    return strategies[name]()
