"""A contact sheet of a phantom data set, for people who would rather look."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from utils.files import write_png_atomic

TRUTH_BGR, LABEL_BGR, SEGMENT_BGR = (0, 200, 255), (255, 170, 60), (120, 255, 120)
TILE_PX = 320
CAPTION = "frame | true vessels (yellow), analysed segment (green) | DeepSA-like label (blue)"


def save_preview(directory: Path, records: list[dict], rows: int = 8) -> Path:
    """Write preview.png: frame, truth and pseudo-label of rows spread over the data set."""
    chosen = [
        records[i] for i in np.unique(np.linspace(0, len(records) - 1, min(rows, len(records))).astype(int))
    ]
    strips = [_strip(directory, record) for record in chosen]
    if len(strips) % 2:
        strips.append(np.zeros_like(strips[0]))
    sheet = np.vstack([np.hstack(strips[i : i + 2]) for i in range(0, len(strips), 2)])
    banner = np.zeros((28, sheet.shape[1], 3), np.uint8)
    cv2.putText(banner, CAPTION, (8, 19), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (230, 230, 230), 1, cv2.LINE_AA)
    write_png_atomic(directory / "preview.png", np.vstack([banner, sheet]))
    return directory / "preview.png"


def _strip(directory: Path, record: dict) -> np.ndarray:
    frame = _frame(directory / record["cine_path"], record["frame_index"])
    truth = _mask(directory / record["true_vessel_mask_path"], frame.shape[0])
    segment = _mask(directory / record["vessel_mask_actual_path"], frame.shape[0])
    label = _mask(directory / record["deepsa_pseudo_label_path"], frame.shape[0])
    with_truth = _outlined(_outlined(frame, truth, TRUTH_BGR), segment, SEGMENT_BGR)
    tiles = [
        cv2.resize(t, (TILE_PX, TILE_PX), interpolation=cv2.INTER_AREA)
        for t in (frame, with_truth, _outlined(frame, label, LABEL_BGR))
    ]
    stenosis = f"{record['diameter_stenosis_pct']:.0f} %DS"
    text = f"{record['patient_id']} {record['vessel_pattern']} {record['phase']} {stenosis}"
    cv2.putText(
        tiles[0], text, (6, TILE_PX - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1, cv2.LINE_AA
    )
    return np.hstack(tiles)


def _frame(path: Path, index: int) -> np.ndarray:
    frame = np.load(path, mmap_mode="r", allow_pickle=False)[index]
    frame = frame * 255 if frame.dtype.kind == "f" else frame
    return np.ascontiguousarray(frame if frame.ndim == 3 else np.repeat(frame[..., None], 3, -1)).astype(
        np.uint8
    )


def _mask(path: Path, size: int) -> np.ndarray:
    mask = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_GRAYSCALE)
    return cv2.resize(mask, (size, size), interpolation=cv2.INTER_NEAREST)


def _outlined(frame: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    contours, _ = cv2.findContours((mask > 0).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(frame.copy(), contours, -1, colour, 1)
