"""What is said of one prediction: its JSON record, and the words that stand under its pictures.

    record = prediction_record(prediction, checkpoints, software)
    caption(prediction)                                     # `frame 31 (of 0 to 60), LAO 31 CRA 10, 7 segments, ...`

Its files, and the pictures in them: `utils.reports.pictures`.
"""
import hashlib
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import pydicom
import torch
from skimage.measure import label

from data.frame_source import FrameSource
from models.view_encoder import BIN_CENTRES_DEG, UNKNOWN_BIN, angle_bins
from utils.drawing import segment_name
from utils.lumens.quantify import QuantifiedLesion
from utils.lumens.report import annotated_among, measurement_of, measurement_record, recorded_numbers
from utils.obstructions.matching import Detection
from utils.obstructions.report import obstruction_fields, obstruction_words
from utils.obstructions.search import ObstructionFindings
from utils.reports.frame_calibration import CONTOURS, FrameScale, scale_record
from utils.segments.prediction import FramePrediction
from utils.segments.report import SegmentFindings, analysed_record, segments_record


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One predicted frame: frame uint8 (H, W, 3), probability float32 (H, W), mask bool (H, W); these two are None
    where only a model of stage 4 was asked.

    row: of the data set that the frame is from, empty for a file. pixel_mm: (row, column) mm per pixel where it is
    known, and `pixel_mm_source`, where from. findings, pointed: of a model of stage 2, the latter where something was
    pointed at; obstructions: of stage 3; measurements: of stage 4, one for each obstruction that the frame shows, and
    one without a detection for a box that was given; scale: the calibration that they were made with.
    """
    name: str
    source: FrameSource
    frame_index: int
    frame_reason: str
    view_deg: tuple[float, float]
    view_source: str
    frame: np.ndarray
    probability: np.ndarray | None
    mask: np.ndarray | None
    threshold: float
    scores: dict
    scale: FrameScale
    row: Mapping = field(default_factory=dict)
    pixel_mm: list[float] | None = None
    pixel_mm_source: str | None = None
    findings: SegmentFindings | None = None
    pointed: dict | None = None
    obstructions: ObstructionFindings | None = None
    measurements: Sequence[QuantifiedLesion] | None = None


def describe_checkpoint(path: Path, checkpoint: dict, used_for: Sequence[str]) -> dict:
    """Return what tells one set of weights from another, and what it was asked for, as plain values for JSON."""
    described = {key: checkpoint.get(key) for key in ("stage", "epoch", "global_step", "parent", "metrics")}
    described["classes"] = list(checkpoint.get("classes") or ())
    config = {key: checkpoint["config"].get(key) for key in ("backbone", "image_size", "use_view")}
    with open(path, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256")
    return {"path": str(path), "sha256": digest.hexdigest(), "used_for": list(used_for), **described, **config}


def describe_software() -> dict:
    """Return the versions that a prediction depends on."""
    return {"python": platform.python_version(), "torch": torch.__version__, "sam3": version("sam3"),
            "numpy": np.__version__, "opencv": cv2.__version__, "pydicom": pydicom.__version__}


def prediction_record(prediction: Prediction, checkpoints: Sequence[dict], software: dict) -> dict:
    """Return everything about a prediction that is not a picture; missing numbers are null, never guessed."""
    source = prediction.source
    return {
        "name": prediction.name, "input": str(source.path), "kind": source.kind, "frames": source.frames,
        "frame_index": prediction.frame_index, "frame_choice": prediction.frame_reason,
        "image_size_px": {"height": source.height, "width": source.width},
        "view": _view_record(prediction), "geometry": source.geometry,
        "pixel_size_at_isocentre_mm": isocentre_pixel_mm(source.geometry), "threshold": prediction.threshold,
        "vessel": None if prediction.mask is None else vessel_record(prediction.mask),
        **_segment_fields(prediction), **_obstruction_fields(prediction), **_measurement_fields(prediction),
        "scores": prediction.scores, "checkpoints": list(checkpoints),
        "software": software, "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _segment_fields(prediction: Prediction) -> dict:
    """Return what a model of stage 2 adds; nothing for one of stage 1."""
    if prediction.findings is None:
        return {}
    mask_file = output_paths(Path(), prediction.name)["segments"].name
    pixel_mm = prediction.pixel_mm
    return {
        "pixel_size": None if pixel_mm is None else {"mm": pixel_mm, "source": prediction.pixel_mm_source},
        "segments": segments_record(prediction.findings, pixel_mm=pixel_mm, mask_file=mask_file),
        "analysed": analysed_record(prediction.findings.prediction), "pointed": prediction.pointed,
    }


def _obstruction_fields(prediction: Prediction) -> dict:
    """Return what a model of stage 3 adds; with one of stage 4 each obstruction that the frame shows is measured."""
    findings = prediction.obstructions
    if findings is None:
        return {}
    fields = obstruction_fields(findings)
    if prediction.measurements is not None:
        here = [findings.here(lesion) for lesion in findings.lesions]
        annotated = annotated_among([one for one in here if one is not None], prediction.row)
        for record, detection in zip(fields["obstructions"], here, strict=True):
            record["measurement"] = None
            if detection is not None:
                recorded = recorded_numbers(prediction.row) if detection is annotated else None
                record["measurement"] = _measurement(prediction, detection, recorded)
    return fields


def _measurement_fields(prediction: Prediction) -> dict:
    """Return what a model of stage 4 adds beside the obstructions' own measurements."""
    if prediction.measurements is None:
        return {}
    return {"calibration": scale_record(prediction.scale), "measured_box": _measurement(prediction, None, None)}


def _measurement(prediction: Prediction, detection: Detection | None, recorded: dict | None) -> dict | None:
    """The record of a detection's measurement; detection None: of the box that was given."""
    one = measurement_of(prediction.measurements, detection)
    lumen_file = output_paths(Path(), prediction.name)["lumen"].name
    return None if one is None else measurement_record(one, lumen_file=lumen_file, recorded=recorded)


def pixel_size(source: FrameSource, scale: FrameScale) -> tuple[list[float] | None, str | None]:
    """Return (row, column) mm per pixel and where they are from; (None, None) where nothing is known of them."""
    if scale.calibration is None:
        return None, None
    if scale.calibration.source == "geometry":
        return isocentre_pixel_mm(source.geometry), "DICOM header, at the isocentre"
    of_contours = "scale_factor of the contours file"
    words = of_contours if scale.given_by == CONTOURS else f"{scale.calibration.source}, {scale.given_by}"
    return [1 / scale.calibration.px_per_mm] * 2, words


def isocentre_pixel_mm(geometry: dict) -> list[float] | None:
    """Return (row, column) mm per pixel at the isocentre; None unless spacing and distances are known.

    Detector spacing divided by the magnification SID / SOD; source-patient distance stands for SOD.
    """
    spacing = geometry.get("imager_pixel_spacing_mm")
    detector_mm, patient_mm = geometry.get("source_detector_mm"), geometry.get("source_patient_mm")
    if not (spacing and detector_mm and patient_mm):
        return None
    return [step * patient_mm / detector_mm for step in spacing]


def vessel_record(mask: np.ndarray) -> dict:
    """Return size and fragmentation of a vessel mask, bool (H, W); pieces touching at a corner are one."""
    areas = np.bincount(label(mask, connectivity=2).ravel())[1:]
    total = int(areas.sum())
    return {"area_px": total, "area_share_of_frame": total / mask.size, "fragments": len(areas),
            "largest_fragment_share": float(areas.max() / total) if total else None}


def _view_record(prediction: Prediction) -> dict:
    bins = [int(index) for index in angle_bins(torch.tensor(prediction.view_deg))]
    names = ["unknown" if index == UNKNOWN_BIN else BIN_CENTRES_DEG[index] for index in bins]
    return {"primary_angle_deg": prediction.view_deg[0], "secondary_angle_deg": prediction.view_deg[1],
            "text": view_text(prediction.view_deg), "source": prediction.view_source,
            "bin_centre_deg": dict(zip(("primary", "secondary"), names))}


def view_text(view_deg: tuple[float, float]) -> str:
    """Return angles as cardiologists write them: `LAO 31 CRA 10`, `RAO 28`, `view unknown`."""
    words = []
    for angle_deg, positive, negative in zip(view_deg, ("LAO", "CRA"), ("RAO", "CAU")):
        if not math.isnan(angle_deg):
            words.append(f"{positive if angle_deg >= 0 else negative} {abs(angle_deg):.0f}")
    return " ".join(words) or "view unknown"


def output_paths(folder: Path, name: str) -> dict[str, Path]:
    """Return the files of a prediction of that name: mask, probability, segments, lumen, overlay, record, and what
    `utils.dicom.export` writes."""
    kinds = ("mask", "probability", "segments", "lumen", "overlay")
    pictures = {kind: folder / f"{name}_{kind}.png" for kind in kinds}
    dicom = {"segmentation": folder / f"{name}_seg.dcm", "report": folder / f"{name}_sr.dcm"}
    return pictures | dicom | {"record": folder / f"{name}.json"}


def caption(prediction: Prediction, separator: str = ", ") -> str:
    """Return what stands under a picture: which frame, from where, what was found, Dice with labels."""
    frames = prediction.source.frames
    which = f"frame {prediction.frame_index} (of 0 to {frames - 1}), " if frames > 1 else ""
    dices = {name: value for name, value in prediction.scores.items() if name.startswith("dice")}
    scores = ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in dices.items())
    found = "" if prediction.obstructions is None else obstruction_words(prediction.obstructions)
    parts = (which + view_text(prediction.view_deg), _segments_text(prediction), found, scores)
    return separator.join(part for part in parts if part)


def _segments_text(prediction: Prediction) -> str:
    if prediction.mask is None:
        return ""
    if prediction.findings is None:
        vessel = vessel_record(prediction.mask)
        return f"{vessel['area_px']} px in {vessel['fragments']} pieces"
    number = len(prediction.findings.segments)
    guess = blind_text(prediction.findings.prediction)
    return f"{number} segment{'' if number == 1 else 's'}, blind guess {guess}"


def blind_text(prediction: FramePrediction) -> str:
    """Return the pooled head's blind guess in words: `13 Mid LAD (0.41)`."""
    best = int(prediction.class_probs.argmax())
    return f"{segment_name(prediction.classes[best])} ({prediction.class_probs[best]:.2f})"
