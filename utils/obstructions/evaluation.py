"""What is scored of a frame's prediction of stage 3, and what comes of it: metrics and a picture.

Two scores that must not be mixed. *annotated*: against the one segment that was measured; what is found on other
vessels counts neither way. *truth*: against every lesion of the frame, which only the phantom knows; its metrics end
in `_truth`.
"""

from collections.abc import Mapping, Sequence

import pandas as pd

from data.dataset import AngiogramDataset
from data.true_lesions import TrueLesion
from models.obstruction_model import ObstructionOutput
from utils.metrics import mask_scores, summarise_records
from utils.obstructions.froc import save_froc
from utils.obstructions.matching import Detection, Target, match_detections
from utils.obstructions.scores import summarise_detections
from utils.prediction import THRESHOLD, logits_at_size, sigmoid
from utils.run_files import RunFiles

KINDS = {"annotated": "", "truth": "_truth"}  # field of a record -> ending of its metrics
_LEAST_PX = 32  # of a network's picture that nobody looks at


def scores_of_frame(
    output: ObstructionOutput, index: int, found: Sequence[Detection], frame: Mapping, threshold_pct: float
) -> dict:
    """Scores of frame `index` of a batch: of its vessels, and of the obstructions that were found.

    frame: its `frame_*` entries of the batch, see `data.dataset.AngiogramDataset`.
    """
    truth = frame.get("frame_truth_mask")
    size = frame["frame_segment_mask"].shape
    vessel = sigmoid(logits_at_size(output.vessel_logits[index, 0].detach(), size)) >= THRESHOLD
    scores = mask_scores(vessel, frame["frame_deepsa_mask"], "deepsa")
    if truth is not None:
        scores |= mask_scores(vessel, truth, "truth")
    return scores | match_frame(found, frame, threshold_pct)


def frame_of_row(row: Mapping) -> dict:
    """The `frame_*` entries of a row of `data.schema.load_table`, as a validation has them, see `AngiogramDataset`."""
    table = pd.DataFrame([dict(row)])
    sample = AngiogramDataset(table, image_size=_LEAST_PX, frame_masks=True, obstructions=True)[0]
    return {name: value for name, value in sample.items() if name.startswith("frame_")}


def match_frame(found: Sequence[Detection], frame: Mapping, threshold_pct: float) -> dict[str, dict]:
    """A record of `match_detections` for each yardstick of `KINDS` that the frame has; frame: its `frame_*` entries."""
    known = {"annotated": frame["frame_known"]}  # of the truth nothing is unknown
    return {kind: match_detections(found, wanted, known.get(kind))
            for kind, wanted in targets_of_frame(frame, threshold_pct).items()}


def targets_of_frame(frame: Mapping, threshold_pct: float) -> dict[str, list[Target]]:
    """What is to be found in a frame, from `threshold_pct` of diameter stenosis on, by yardstick of `KINDS`; "truth"
    only where the frame's lesions are known."""
    label, lesions = frame["frame_obstruction"], frame.get("frame_lesions")
    measured = Target(label.box_px, label.mld_px, label.stenosis_pct, frame["frame_cass_id"], frame["frame_px_per_mm"])
    targets = {"annotated": [measured] if label.is_positive(threshold_pct) else []}
    if lesions is not None:
        targets["truth"] = [_target(lesion) for lesion in lesions
                            if lesion.in_frame and lesion.stenosis_pct >= threshold_pct]
    return targets


def _target(lesion: TrueLesion) -> Target:
    return Target(lesion.box_px, lesion.point_px, lesion.stenosis_pct, lesion.cass_id, lesion.px_per_mm)


def summarise_found(records: Sequence[Mapping], table) -> dict:
    """Metrics over all frames, flat, with 95 % intervals over patients."""
    means = [{key: value for key, value in record.items() if key not in KINDS} for record in records]
    metrics = summarise_records(means, table["patient_id"].tolist())
    for kind, ending in KINDS.items():
        found = [{"row": record["row"], **record[kind]} for record in records if kind in record]
        if found:
            metrics |= {_named(name, ending): value for name, value in summarise_detections(found, table).items()}
    return metrics


def _named(name: str, ending: str) -> str:
    return f"{name.removesuffix('_ci95')}{ending}_ci95" if name.endswith("_ci95") else f"{name}{ending}"


def draw_found(records: Sequence[Mapping], table, files: RunFiles) -> None:
    """FROC and precision-recall curves, of every lesion where the truth is known, else of the annotated ones."""
    kind = "truth" if any("truth" in record for record in records) else "annotated"
    found = [{"row": record["row"], **record[kind]} for record in records if kind in record]
    save_froc(files.picture("froc"), found, table, title=f"Obstructions, {len(found)} frames, against {kind}")
