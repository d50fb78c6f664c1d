"""The files of a data set, each written whole or not at all, so that an interrupted run can go on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from utils.files import write_atomic, write_text_atomic

COLUMNS = (
    "patient_id",
    "vessel_pattern",
    "phase",
    "vessel_name",
    "cine_path",
    "frame_index",
    "contours_path",
    "vessel_mask_actual_path",
    "deepsa_pseudo_label_path",
    "cass_segment",
    "cass_segment_original",
    "split",
    "primary_angle",
    "secondary_angle",
    "MLD_mm",
    "diameter_stenosis_pct",
    "lesion_length_mm",
    "true_vessel_mask_path",
    "true_cass_map_path",
    "true_lesions_path",
    "blind_ceiling",
)
FORMAT = 2


def write_json(path: Path, content: object) -> None:
    """Write readable JSON; not-a-number is refused."""
    write_text_atomic(path, json.dumps(content, allow_nan=False) + "\n")


def write_array(path: Path, array: np.ndarray) -> None:
    """Write a `.npy` file."""
    write_atomic(path, lambda file: np.save(file, array, allow_pickle=False))


def check_manifest(directory: Path, settings: dict) -> None:
    """Start or continue a data set: manifest.json keeps its settings, other settings in that place fail."""
    path = directory / "manifest.json"
    settings = {"format": FORMAT, **settings}
    if not path.exists():
        if directory.exists() and any(directory.glob("*.csv")):
            raise ValueError(
                f"{directory} holds a CSV file but no manifest.json, so it is not a phantom data set; "
                "choose another --out"
            )
        write_json(path, settings)
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    if found != settings:
        differ = [
            f"{key}: there {found.get(key)!r}, asked {settings.get(key)!r}"
            for key in sorted(set(found) | set(settings))
            if found.get(key) != settings.get(key)
        ]
        raise ValueError(
            f"{path} was made with other settings ({'; '.join(differ)}); use those, or another --out"
        )


def csv_text(records: list[dict]) -> str:
    """The CSV of all rows, in the order given; an unknown value is an empty cell."""
    lines = [",".join(COLUMNS)]
    for record in records:
        lines.append(",".join("" if record[c] is None else str(record[c]) for c in COLUMNS))
    return "\n".join(lines) + "\n"
