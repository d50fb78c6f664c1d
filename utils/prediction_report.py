"""What is written of one prediction: mask, probability map, overlay and a JSON record.

    <name>_mask.png          uint8, 0 or 255, the frame's own size
    <name>_probability.png   uint16, 0 ... 65535 for 0 ... 1, the frame's own size
    <name>_segments.png      uint8, the CASS number of each pixel, 0 = none; of a model of stage 2
    <name>_overlay.png       the frame, its vessels, and what else the models say, side by side
    <name>.json              everything else (`prediction_record`)
"""
import hashlib
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import pydicom
import torch
from skimage.measure import label

from data.contours import read_contours
from data.frame_source import FrameSource
from models.view_encoder import BIN_CENTRES_DEG, UNKNOWN_BIN, angle_bins
from utils.cass_prediction import FramePrediction
from utils.drawing import (
    DPI,
    ORANGE,
    mask_overlay,
    save_gallery,
    segment_legend,
    segment_name,
    segment_overlay,
    side_by_side,
)
from utils.files import write_bytes_atomic, write_text_atomic
from utils.history import to_json
from utils.obstruction_drawing import mark_overlay, segment_mark_overlay
from utils.obstruction_report import (
    estimated_stenoses,
    obstruction_crops,
    obstruction_fields,
    obstruction_legend,
    obstruction_marks,
    obstruction_words,
)
from utils.obstruction_search import ObstructionFindings
from utils.segment_drawing import BLIND_LEGEND, blind_overlay, legend_of, pointed_overlay
from utils.segment_report import SegmentFindings, analysed_record, segments_record

VESSEL_LEGEND = {"vessel": ORANGE}
_NARROWEST_OVERLAY_INCHES = 4.5
_CONTACT_SHEET_INPUTS_PER_ROW = 2
_MOST_CROP_ROWS = 3


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One predicted frame: frame uint8 (H, W, 3), probability float32 (H, W), mask bool (H, W).

    pixel_mm: (row, column) mm per pixel where it is known, and `pixel_mm_source`, where from. findings,
    pointed: of a model of stage 2, the latter where something was pointed at; obstructions: of stage 3.
    """
    name: str
    source: FrameSource
    frame_index: int
    frame_reason: str
    view_deg: tuple[float, float]
    view_source: str
    frame: np.ndarray
    probability: np.ndarray
    mask: np.ndarray
    threshold: float
    scores: dict
    pixel_mm: list[float] | None = None
    pixel_mm_source: str | None = None
    findings: SegmentFindings | None = None
    pointed: dict | None = None
    obstructions: ObstructionFindings | None = None


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
    source, obstructions = prediction.source, prediction.obstructions
    return {
        "input": str(source.path), "kind": source.kind, "frames": source.frames,
        "frame_index": prediction.frame_index, "frame_choice": prediction.frame_reason,
        "image_size_px": {"height": source.height, "width": source.width},
        "view": _view_record(prediction), "geometry": source.geometry,
        "pixel_size_at_isocentre_mm": isocentre_pixel_mm(source.geometry), "threshold": prediction.threshold,
        "vessel": vessel_record(prediction.mask), **_segment_fields(prediction),
        **({} if obstructions is None else obstruction_fields(obstructions)),
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


def pixel_size(source: FrameSource, row: Mapping) -> tuple[list[float] | None, str | None]:
    """Return (row, column) mm per pixel and where they are from; (None, None) where nothing is known of them.

    row: of the data set, whose contours file is calibrated; empty for a file. Raises DataError for a contours
    file that cannot be read.
    """
    if (pixel_mm := isocentre_pixel_mm(source.geometry)) is not None:
        return pixel_mm, "DICOM header, at the isocentre"
    if isinstance(path := row.get("contours_path"), str) and path:
        return [1 / read_contours(path).calibration["scale_factor"]] * 2, "scale_factor of the contours file"
    return None, None


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
            "source": prediction.view_source, "bin_centre_deg": dict(zip(("primary", "secondary"), names))}


def view_text(view_deg: tuple[float, float]) -> str:
    """Return angles as cardiologists write them: `LAO 31 CRA 10`, `RAO 28`, `view unknown`."""
    words = []
    for angle_deg, positive, negative in zip(view_deg, ("LAO", "CRA"), ("RAO", "CAU")):
        if not math.isnan(angle_deg):
            words.append(f"{positive if angle_deg >= 0 else negative} {abs(angle_deg):.0f}")
    return " ".join(words) or "view unknown"


def output_paths(folder: Path, name: str) -> dict[str, Path]:
    """Return the files of a prediction of that name: mask, probability, segments, overlay, record."""
    kinds = ("mask", "probability", "segments", "overlay")
    pictures = {kind: folder / f"{name}_{kind}.png" for kind in kinds}
    return pictures | {"record": folder / f"{name}.json"}


def write_prediction(folder: Path, prediction: Prediction, record: dict) -> None:
    """Write the files of a prediction into `folder`, each whole or not at all, the JSON last."""
    paths = output_paths(folder, prediction.name)
    sixteen_bits = np.rint(prediction.probability * 65535).astype(np.uint16)
    _write_png(paths["mask"], prediction.mask.astype(np.uint8) * 255)
    _write_png(paths["probability"], sixteen_bits)
    if prediction.findings is not None:
        _write_png(paths["segments"], prediction.findings.names)
    _save_overlay(paths["overlay"], prediction)
    write_text_atomic(paths["record"], to_json(record, indent=2) + "\n")


def _write_png(path: Path, picture: np.ndarray) -> None:
    write_bytes_atomic(path, cv2.imencode(".png", picture)[1].tobytes())


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


def overlay(prediction: Prediction) -> np.ndarray:
    """Return the frame with all that was found on one picture, uint8 (H, W, 3): segments numbered, or vessels of
    a model that names none, and obstructions on top."""
    findings, obstructions = prediction.findings, prediction.obstructions
    if obstructions is None:
        return _vessel_overlay(prediction)
    marks = obstruction_marks(obstructions)
    if findings is None:
        return mark_overlay(_vessel_overlay(prediction), marks, vessels=prediction.mask)
    return segment_mark_overlay(prediction.frame, findings.names, marks, vessels=prediction.mask)


def _vessel_overlay(prediction: Prediction) -> np.ndarray:
    if prediction.findings is None:
        return mask_overlay(prediction.frame, prediction.mask, ORANGE)
    return segment_overlay(prediction.frame, prediction.findings.names, vessels=prediction.mask)


def overlays_legend(records: Sequence[Mapping], *, names_segments: bool) -> dict[str, Sequence[int]]:
    """Return what the colours of the `overlay` of these records mean, all together."""
    named = {segment["cass_id"] for record in records for segment in record.get("segments", ())}
    estimated = [one["estimated_stenosis_pct"] for record in records for one in record.get("obstructions", ())]
    vessels = segment_legend(sorted(named), nameless=True) if names_segments else VESSEL_LEGEND
    return vessels | obstruction_legend([stenosis_pct for stenosis_pct in estimated if stenosis_pct is not None])


def _save_overlay(path: Path, prediction: Prediction) -> None:
    """Draw frame and overlays at the frame's own resolution.

    Of a model of stage 2 also the blind guess; of stage 3 the obstructions, and in further rows each of them cut
    out of the frame that shows it best.
    """
    pictures = [prediction.frame, _vessel_overlay(prediction)]
    titles = ["frame", f"vessels, p ≥ {prediction.threshold:g}"]
    legend = VESSEL_LEGEND
    if prediction.findings is not None:
        pictures.append(blind_overlay(prediction.frame, prediction.findings.prediction))
        titles = ["frame", "CASS segments", "blind guess: which segment was analysed?"]
        legend = legend_of(prediction.findings) | BLIND_LEGEND
    if prediction.pointed:
        answer = prediction.pointed
        pictures[0] = pointed_overlay(prediction.frame, answer)
        titles[0] = f"pointed: {segment_name(answer['cass_id'])} ({answer['probability']:.2f})"
    rows, captions = [pictures], None
    if (found := prediction.obstructions) is not None:
        pictures.append(mark_overlay(prediction.frame, obstruction_marks(found), vessels=prediction.mask))
        seen = " seen in" if len(found.looked_at) > 1 else ""
        titles.append(f"obstructions, score ≥ {found.threshold.score:.2g}: estimated %DS (score){seen}")
        legend = legend | obstruction_legend(estimated_stenoses(found))
        width = len(pictures)
        crops, said = obstruction_crops(found, prediction.source.read, width=width, most_rows=_MOST_CROP_ROWS)
        rows, captions = [pictures, *crops], [[""] * width, *said]
    save_gallery(
        path,
        rows,
        titles,
        [""] * len(rows),
        captions=captions,
        title=f"{prediction.name}: {caption(prediction)}",
        legend=legend,
        cell_inches=max(_NARROWEST_OVERLAY_INCHES, max(prediction.frame.shape) / DPI),
    )


def save_contact_sheet(
    path: Path, shown: Sequence[tuple[np.ndarray, np.ndarray, str, str]], predicted: int,
    legend: Mapping[str, Sequence[int]], *, what: str,
) -> None:
    """Draw (frame, overlay, name, caption) of the inputs, two inputs in a row of pictures.

    what: the overlays show, as their columns' title.
    """
    per_row = _CONTACT_SHEET_INPUTS_PER_ROW
    rows = side_by_side([(frame, overlay) for frame, overlay, _, _ in shown], per_row)
    captions = side_by_side([(name, found) for _, _, name, found in shown], per_row, filler="")
    title = f"{predicted} predictions" + (f", the first {len(shown)} shown" if predicted > len(shown) else "")
    columns = ["frame", what] * (len(rows[0]) // 2)
    save_gallery(path, rows, columns, [""] * len(rows), title=title, captions=captions, legend=legend,
                 cell_inches=3.6)
