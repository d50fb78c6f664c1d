"""A tiny data set whose frames have true lesions, for tests of what shows and measures obstructions."""

import json
from pathlib import Path

import pandas as pd

from data.obstructions import obstruction_of_row
from data.schema import load_table
from tests.csv_fixture import write_tiny_dataset

STENOSIS_PCT = 35.0  # of every annotated lesion of the tiny data set
OTHER_STENOSIS_PCT = 80.0


def write_obstruction_dataset(folder, **shape) -> Path:
    """Write `write_tiny_dataset`'s with two true lesions in each frame: the annotated one, and one of
    `OTHER_STENOSIS_PCT` in the lower left corner, where there is no vessel; returns the path of the CSV."""
    csv_path = write_tiny_dataset(folder, **shape)
    table, paths = pd.read_csv(csv_path, dtype=str), []
    for number, row in load_table(csv_path).iterrows():
        label = obstruction_of_row(row)
        height = label.section.shape[0]
        places = (
            (int(row["cass_segment"]), label.stenosis_pct, label.mld_px, label.box_px),
            (18, OTHER_STENOSIS_PCT, (8, height - 9), (4, height - 14, 12, height - 4)),
        )
        lesions = [{"cass_segment": cass_id, "diameter_stenosis_pct": stenosis_pct, "position_px": list(point),
                    "box_px": list(box), "px_per_mm": 4.0, "overlapped": False, "in_frame": True}
                   for cass_id, stenosis_pct, point, box in places]
        paths.append(f"lesions_{number}.json")
        (csv_path.parent / paths[-1]).write_text(json.dumps(lesions), encoding="utf-8")
    table.assign(true_lesions_path=paths).to_csv(csv_path, index=False)
    return csv_path
