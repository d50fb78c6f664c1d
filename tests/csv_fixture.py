"""A tiny, valid data set in the user's own format, for the tests of every part of the project.

    from tests.csv_fixture import write_tiny_dataset
    csv_path = write_tiny_dataset(tmp_path)

Vessels are curved tubes on a flat noisy background: enough for shapes, paths and training loops, no anatomy.
Rows differ on purpose in what the contract leaves open: cines with and without a colour axis, uint8 and
float32, masks `.npy` and `.png` with 0/1 and 0/255, angles as numbers, as text, and missing.
"""

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from skimage.draw import polygon2mask

DEEPSA_SIDE = 512
PHASES = ("PRE", "FINAL", "EVENT")
# (vessel_pattern, vessel_name, CASS number, primary angle, secondary angle)
SEGMENTS = (
    ("MID_LAD", "LAD", 13, "RAO 28", "CRA 35"),
    ("PROX_RCA", "RCA", 1, None, None),
    ("MID_RCA", "RCA", 2, -38.5, 0.0),
    ("PROX_LAD", "LAD", 12, 35.0, 28.0),
    ("MID_DIST_LCX", "LCX", 19, "LAO 20", "CAUD 30"),
)
NEIGHBOUR = {13: 12, 1: 2, 2: 1, 12: 13, 19: 18}  # CASS numbers


def write_tiny_dataset(
    folder, *, patients: int = 4, rows_per_patient: int = 2, size: int = 96, frames: int = 3,
    val_patients: int = 1, seed: int = 0, cass_truth: bool = False,
) -> Path:
    """Write cines, contours, masks and `dataset.csv` below `folder` and return the path of the CSV.

    Patients `101-0001` ... have `rows_per_patient` rows each; the last `val_patients` of them are `val`. Row
    `n` (from 0) analyses frame `n % frames` and has a true vessel mask. Rows 1, 6, 11, ... lack view angles.
    With `cass_truth` each row also has what only a phantom knows of its segments: a true CASS map, in which
    the vessels beside the analysed segment are all of its neighbour, and a `blind_ceiling`.
    """
    folder = Path(folder)
    for name in ("cines", "contours", "masks", "deepsa", "truth", "cass"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(patients * rows_per_patient):
        patient = number // rows_per_patient
        rng = np.random.default_rng([seed, number])
        split = "val" if patient >= patients - val_patients else "train"
        row, segment, truth = _write_row(folder, number, f"101-{patient + 1:04d}", split, size, frames, rng)
        rows.append({**row, **_write_cass_truth(folder, row, segment, truth)} if cass_truth else row)
    csv_path = folder / "dataset.csv"
    pd.DataFrame(rows).to_csv(csv_path, index=False)
    return csv_path


def _write_row(folder, number, patient_id, split, size, frames, rng) -> tuple[dict, np.ndarray, np.ndarray]:
    """The row, and the masks (H, W) of its segment and of all vessels."""
    pattern, vessel_name, cass_id, primary, secondary = SEGMENTS[number % len(SEGMENTS)]
    branches = _vessel_tree(size, rng)
    centerline, radii = branches[0][0][60:340], branches[0][1][60:340]
    frame_index = number % frames
    truth = _tubes(branches, size, size)
    cine = _cine(truth, frames, frame_index, rng)
    if number % 4 == 1:
        cine = cine[..., 0]
    if number % 4 == 2:
        cine = cine.astype(np.float32) / 255
    left, right = _edges(centerline, radii)
    segment = polygon2mask((size, size), _outline(centerline, radii)[:, ::-1]).astype(np.uint8)

    name = f"{patient_id}_{number:03d}"
    suffix = "png" if number % 2 else "npy"
    paths = {
        "cine_path": f"cines/{name}.npy", "contours_path": f"contours/{name}.json",
        "vessel_mask_actual_path": f"masks/{name}.{suffix}",
        "deepsa_pseudo_label_path": f"deepsa/{name}.npy",
        "true_vessel_mask_path": f"truth/{name}.png",
    }
    np.save(folder / paths["cine_path"], cine)
    _write_mask(folder / paths["vessel_mask_actual_path"], segment)
    # The thinnest branch is lost, as DeepSA loses it.
    deepsa = _tubes(branches[:2], size, DEEPSA_SIDE)
    np.save(folder / paths["deepsa_pseudo_label_path"], deepsa.astype(np.uint8))
    _write_mask(folder / paths["true_vessel_mask_path"], truth.astype(np.uint8))
    contours = _contours(pattern, frame_index, centerline, left, right, radii, primary, secondary)
    (folder / paths["contours_path"]).write_text(json.dumps(contours), encoding="utf-8")
    row = {
        "patient_id": patient_id, "vessel_pattern": pattern, "phase": PHASES[number % 3],
        "vessel_name": vessel_name, "frame_index": frame_index, "cass_segment": cass_id,
        "cass_segment_original": cass_id, "split": split, "primary_angle": primary,
        "secondary_angle": secondary, "MLD_mm": contours["measurements"]["MLD_mm"],
        "diameter_stenosis_pct": contours["measurements"]["diameter_stenosis_pct"], **paths,
    }
    return row, segment > 0, truth


def _write_cass_truth(folder, row: dict, segment, truth) -> dict:
    """Write the true CASS map; the cells that it adds to the row."""
    cass_map = np.where(truth, NEIGHBOUR[row["cass_segment"]], 0).astype(np.uint8)
    cass_map[segment] = row["cass_segment"]
    path = row["true_vessel_mask_path"].replace("truth/", "cass/")
    (folder / path).write_bytes(cv2.imencode(".png", cass_map)[1].tobytes())
    return {"true_cass_map_path": path, "blind_ceiling": 0.9 if row["phase"] == "PRE" else 0.5}


def _vessel_tree(size, rng) -> list[tuple[np.ndarray, np.ndarray]]:
    """Three curves of 400 points (x, y) with a radius each, in pixels: trunk, branch, thin branch."""
    t = np.linspace(0, 1, 400)[:, None]
    jitter = rng.uniform(-0.06, 0.06, (3, 2))
    ends = np.array([[0.75, 0.9], [0.9, 0.45], [0.2, 0.75]]) + jitter
    start, bend = np.array([0.2, 0.12]), np.array([0.62, 0.3]) + rng.uniform(-0.08, 0.08, 2)
    trunk = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * ends[0]
    curves, widths = [trunk], [(0.035, 0.022), (0.024, 0.016), (0.014, 0.010)]
    for origin, end in ((trunk[140], ends[1]), (trunk[200], ends[2])):
        middle = (origin + end) / 2 + [0.02, 0.06]
        curves.append((1 - t) ** 2 * origin + 2 * t * (1 - t) * middle + t**2 * end)
    radii = [np.linspace(*width, 400) * size for width in widths]
    return [(curve * size, radius) for curve, radius in zip(curves, radii, strict=True)]


def _tubes(branches, size, side) -> np.ndarray:
    """The tubes as a bool (side, side) mask; their coordinates are those of a `size` x `size` frame."""
    mask = np.zeros((side, side), bool)
    for points, radii in branches:
        outline = _outline(points[::8], radii[::8])
        mask |= polygon2mask((side, side), (outline[:, ::-1] + 0.5) * side / size - 0.5)
    return mask


def _cine(truth, frames, filled_frame, rng) -> np.ndarray:
    """uint8 (frames, H, W, 3): dark vessels, fullest in the analysed frame, on a bright noisy background."""
    filling = 1 - 0.5 * np.abs(np.arange(frames) - filled_frame) / max(frames, 1)
    absorbed = cv2.GaussianBlur(truth.astype(np.float32), (0, 0), 0.7)
    grey = 170 - 80 * filling[:, None, None] * absorbed + rng.normal(0, 4, (frames, *truth.shape))
    return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=-1)


def _outline(centerline, radii) -> np.ndarray:
    left, right = _edges(centerline, radii)
    return np.concatenate([left, right[::-1]])


def _edges(centerline, radii) -> tuple[np.ndarray, np.ndarray]:
    tangent = np.gradient(centerline, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    offset = np.stack([tangent[:, 1], -tangent[:, 0]], axis=1) * radii[:, None]
    return centerline + offset, centerline - offset


def _write_mask(path: Path, mask: np.ndarray) -> None:
    """0/1 as `.npy`, 0/255 as `.png`."""
    if path.suffix == ".npy":
        np.save(path, mask)
    else:
        path.write_bytes(cv2.imencode(".png", mask * 255)[1].tobytes())


def _contours(pattern, frame_index, centerline, left, right, radii, primary, secondary) -> dict:
    """Contours in the Medis layout at 4 pixels per mm, with an invented lesion of 35 % in the middle."""
    scale = 4.0
    reference_mm = float(2 * radii[len(radii) // 2] / scale)
    mld_mm, stenosis = 0.65 * reference_mm, 35.0
    step_mm = np.linalg.norm(np.diff(centerline, axis=0), axis=1) / scale
    (mld_x, mld_y), (start_x, start_y), (end_x, end_y) = centerline[140], centerline[100], centerline[180]
    return {
        "segment_name": pattern, "frame_num": frame_index, "centerline": centerline.tolist(),
        "left_edge": left.tolist(), "right_edge": right.tolist(),
        "ideal_left_edge": left.tolist(), "ideal_right_edge": right.tolist(),
        "measurements": {
            "MLD_mm": mld_mm, "interpolated_RVD_mm": reference_mm, "diameter_stenosis_pct": stenosis,
            "area_stenosis_pct": 100 * (1 - 0.65**2), "MLD_x_coord": mld_x, "MLD_y_coord": mld_y,
            "MLD_centerline_index": 140, "lesion_length_mm": float(step_mm[100:180].sum()),
            "lesion_start_x_coord": start_x, "lesion_start_y_coord": start_y,
            "lesion_end_x_coord": end_x, "lesion_end_y_coord": end_y,
            "proximal_normal_diameter_mm": float(2 * radii[0] / scale),
            "distal_normal_diameter_mm": float(2 * radii[-1] / scale),
            "segment_length_mm": float(step_mm.sum()), "obstruction_position_mm": float(step_mm[:140].sum()),
        },
        "calibration": {
            "scale_factor": scale, "catheter_diameter_mm": 8.0, "imager_pixel_spacing_mm": [0.3, 0.3],
        },
        "view_angles": {"primary_angle": primary, "secondary_angle": secondary},
        "analyst": "fixture", "analysis_date": "2026-11-21",
    }
