"""One row of the data set: its cine, its truth, its labels, its files."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from data.cass import SEGMENTS
from phantom.carm import CArm
from phantom.catheter import catheter_opacity, root_blush, wire_opacity
from phantom.ceiling import RowCounts, blind_ceiling
from phantom.contours import contours_record, lesion_records, measure, segment_mask, trace_segment
from phantom.contours import POINTS as CONTOUR_POINTS
from phantom.detector import Detector, draw_detector, take_picture
from phantom.files import write_array, write_json
from phantom.labels import LABEL_PX, deepsa_label
from phantom.masks import vessel_maps, visible_samples
from phantom.plan import MISTAKEN_FOR, VESSEL
from phantom.rendering import STEP_PX, lumen_strips, path_length
from phantom.scene import CEILING, PICTURE, Case, Scene, build_scene, generator
from phantom.thorax import draw_thorax
from phantom.tree import Tree
from utils.files import write_png_atomic

FOLDERS = {  # CSV column -> folder and file ending
    "cine_path": ("cines", "npy"),
    "contours_path": ("contours", "json"),
    "vessel_mask_actual_path": ("segment_masks", "png"),
    "deepsa_pseudo_label_path": ("deepsa", "png"),
    "true_vessel_mask_path": ("true_vessels", "png"),
    "true_cass_map_path": ("true_cass", "png"),
    "true_lesions_path": ("true_lesions", "json"),
}
GREY_CINES, FLOAT_CINES = 0.08, 0.02  # shares of cines stored as (F, H, W) uint8 and (F, H, W) float32
# Traps of the user's files, as shares of the rows.
MISSING_ANGLES, TEXT_ANGLES, FRENCH_CATHETERS, WRONG_FIRST_SEGMENT = 0.02, 0.04, 0.3, 0.04
WRONG_SPACING, WRONG_BY = 0.03, 2.0  # pixel spacings that disagree with the scale factor by up to two times


@dataclass(frozen=True)
class Settings:
    """What all rows of a data set share; `counts` are its rows by segment and phase, `severe_others` the share of
    trees with a severe lesion beside the analysed one."""

    directory: Path
    seed: int
    size_px: int
    frames: int
    counts: RowCounts
    severe_others: float = 0.0


def write_case(settings: Settings, case: Case, trees: dict[str, Tree]) -> None:
    """Make one row and write its files; its record, written last, says that all of them are there."""
    directory, seed, size_px = settings.directory, settings.seed, settings.size_px
    scene = build_scene(seed, case, trees, size_px, settings.frames, settings.severe_others)
    rng = generator(seed, case.patient, PICTURE, case.number)
    detector = draw_detector(size_px, rng)
    cine, false_edges = render_cine(scene, detector, rng)
    truth, cass_map, label = draw_truth_and_label(scene, case.cass_id, detector, false_edges, rng)
    trace = trace_segment(
        scene.tree, case.cass_id, scene.carm, int(rng.integers(*CONTOUR_POINTS, endpoint=True))
    )
    measurements, scale = measure(scene.tree, scene.lesions[0], trace)
    paths = {column: f"{folder}/{case.name}.{ending}" for column, (folder, ending) in FOLDERS.items()}
    angles = view_angles(scene.carm, rng)
    contours = _contours(case, scene, trace, measurements, scale, angles, rng)

    write_array(directory / paths["cine_path"], _as_stored(cine, rng))
    write_json(directory / paths["contours_path"], contours)
    write_png_atomic(directory / paths["vessel_mask_actual_path"], segment_mask(trace, size_px))
    write_png_atomic(directory / paths["deepsa_pseudo_label_path"], label)
    write_png_atomic(directory / paths["true_vessel_mask_path"], truth)
    write_png_atomic(directory / paths["true_cass_map_path"], cass_map)
    write_json(directory / paths["true_lesions_path"], lesion_records(scene.tree, scene.lesions, scene.carm))
    record = _record(case, scene, measurements, paths, angles, rng)
    write_json(record_path(directory, case), record | _ceiling(settings, case, scene))


def add_ceiling(settings: Settings, case: Case, trees: dict[str, Tree]) -> None:
    """Give a finished case, made before there were ceilings, its own; its other files stay as they are."""
    scene = build_scene(settings.seed, case, trees, settings.size_px, settings.frames, settings.severe_others)
    record = read_record(settings.directory, case)
    write_json(record_path(settings.directory, case), record | _ceiling(settings, case, scene))


def _ceiling(settings: Settings, case: Case, scene: Scene) -> dict:
    """Drawn from a generator of its own, so that the picture does not depend on it."""
    rng = generator(settings.seed, case.patient, CEILING, case.number)
    ceiling = blind_ceiling(scene, settings.counts, rng, settings.severe_others)
    return {"blind_ceiling": round(ceiling, 4)}


def render_cine(
    scene: Scene, detector: Detector, rng: np.random.Generator
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Frames (F, size, size) uint8, and curves of the background that invite mistakes."""
    carm, tree = scene.carm, scene.tree
    image_px, px_per_mm = carm.project(tree.center_mm)
    low, high = np.percentile(image_px, [5, 95], axis=0) / carm.size_px
    thorax = draw_thorax(carm.size_px, (*(low + high) / 2, *(high - low) / 2), rng)
    blush = root_blush(carm, tree, rng)
    guide = catheter_opacity(scene.catheter, carm, scene.opacity_per_mm)
    fine = tree.resample(STEP_PX / px_per_mm.mean())
    strips = lumen_strips(fine.center_mm, fine.lumen_mm / 2, fine.line, carm)
    frames = []
    for time_s in scene.times_s:
        points = scene.motion.move(fine.center_mm, fine.heart_mm, time_s)
        filling = scene.bolus.concentration(fine.reach_mm, time_s)
        vessels = (
            path_length(points, fine.lumen_mm / 2, fine.line, filling, carm, strips) * scene.opacity_per_mm
        )
        at_ostium = float(scene.bolus.concentration(np.zeros(1), time_s + 0.1)[0])
        moved, _ = carm.project(scene.motion.move(tree.center_mm[:1], tree.heart_mm, time_s))
        front = guide.wall + at_ostium * (guide.filling + blush)
        if len(scene.wire):
            vessels = vessels + wire_opacity(
                scene.motion.move(tree.center_mm[scene.wire], tree.heart_mm, time_s), carm
            )
        behind = _shifted(thorax.opacity, np.array([0, 0.6 * scene.motion.breath(time_s) * px_per_mm.mean()]))
        frames.append(take_picture(behind + vessels + _shifted(front, moved[0] - image_px[0]), detector, rng))
    return np.stack(frames), thorax.edges


def draw_truth_and_label(
    scene: Scene, cass_id: int, detector: Detector, false_edges: list[np.ndarray], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True vessel mask (size, size) bool, CASS map (size, size) uint8, DeepSA-like label (512, 512) bool.

    cass_id: the analysed segment, which counts as seen to its end even where it is faint; it changes nothing
    else.
    """
    tree, carm, size_px = scene.tree, scene.carm, scene.carm.size_px
    seen = visible_samples(
        tree,
        carm,
        scene.opacity_per_mm,
        scene.filling(),
        blur_px=detector.blur_px * size_px / 512,
        veil=detector.veil,
        noise=detector.noise / detector.exposure,
        grain_px=detector.grain_px * size_px / 512,
    )
    end = tree.segment(cass_id)[-1]  # an analyst measured the segment, so it was seen to its end
    seen |= (tree.line == tree.line[end]) & (np.arange(len(seen)) <= end)
    visible = tree.part(seen)
    truth, cass_map = vessel_maps(visible, carm)
    label_carm = replace(carm, size_px=LABEL_PX, spacing_mm=carm.spacing_mm * size_px / LABEL_PX)
    course, px_per_mm = label_carm.project(scene.catheter.points_mm)
    width_px = scene.catheter.outer_mm * px_per_mm[0]
    label = deepsa_label(visible, label_carm, course, width_px, false_edges, rng)
    field = detector.open_field
    open_label = cv2.resize(field.astype(np.uint8), (LABEL_PX, LABEL_PX), interpolation=cv2.INTER_NEAREST)
    return truth & field, cass_map * field, label & (open_label > 0)


def view_angles(carm: CArm, rng: np.random.Generator) -> dict:
    """Angles as the JSON and the CSV hold them: numbers mostly, some text (`RAO 30`), some missing (None)."""
    kind = rng.random()
    if kind < MISSING_ANGLES:
        return {"primary_angle": None, "secondary_angle": None}
    if kind > MISSING_ANGLES + TEXT_ANGLES:
        return {"primary_angle": carm.primary_deg, "secondary_angle": carm.secondary_deg}
    primary, secondary = abs(carm.primary_deg), abs(carm.secondary_deg)
    return {
        "primary_angle": f"{'LAO' if carm.primary_deg >= 0 else 'RAO'} {primary:g}",
        "secondary_angle": f"{'CRA' if carm.secondary_deg >= 0 else 'CAU'} {secondary:g}",
    }


def stored_spacing(spacing_mm: float, rng: np.random.Generator) -> float:
    """The imager's pixel spacing as the JSON holds it: true, save for a few rows."""
    if rng.random() >= WRONG_SPACING:
        return spacing_mm
    return spacing_mm * float(np.exp(rng.uniform(-np.log(WRONG_BY), np.log(WRONG_BY))))


def record_path(directory: Path, case: Case) -> Path:
    """Where a finished case's CSV row is kept."""
    return directory / "records" / f"{case.name}.json"


def read_record(directory: Path, case: Case) -> dict | None:
    """A finished case's CSV row, or None."""
    path = record_path(directory, case)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _as_stored(cine: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(F, H, W, 3) uint8 mostly; (F, H, W) and float32 in [0, 1] also occur in the user's data."""
    kind = rng.random()
    if kind < GREY_CINES:
        return cine
    if kind < GREY_CINES + FLOAT_CINES:
        return cine.astype(np.float32) / 255
    return np.repeat(cine[..., None], 3, axis=-1)


def _shifted(opacity: np.ndarray, shift_px: np.ndarray) -> np.ndarray:
    move = np.float32([[1, 0, shift_px[0]], [0, 1, shift_px[1]]])
    return cv2.warpAffine(opacity, move, opacity.shape[::-1], borderMode=cv2.BORDER_REPLICATE)


def _contours(
    case: Case,
    scene: Scene,
    trace: dict,
    measurements: dict,
    scale: float,
    angles: dict,
    rng: np.random.Generator,
) -> dict:
    guide = scene.catheter
    return contours_record(
        trace,
        measurements,
        scale,
        segment_name=SEGMENTS[case.cass_id].name,
        frame_index=scene.frame_index,
        catheter=float(guide.french) if rng.random() < FRENCH_CATHETERS else guide.outer_mm,
        spacing_mm=stored_spacing(scene.carm.spacing_mm, rng),
        view_angles=angles,
        analyst="phantom",
        analysis_date=f"2020-{1 + case.patient % 12:02d}-{1 + case.number % 28:02d}",
    )


def _record(
    case: Case, scene: Scene, measurements: dict, paths: dict, angles: dict, rng: np.random.Generator
) -> dict:
    first_recorded = MISTAKEN_FOR[case.cass_id] if rng.random() < WRONG_FIRST_SEGMENT else case.cass_id
    vessel = VESSEL[case.cass_id]
    return {
        "patient_id": case.patient_id,
        "vessel_pattern": vessel.pattern,
        "phase": case.phase,
        "vessel_name": vessel.name,
        "frame_index": scene.frame_index,
        "cass_segment": case.cass_id,
        "cass_segment_original": first_recorded,
        "split": case.split,
        **angles,
        **{k: round(measurements[k], 4) for k in ("MLD_mm", "diameter_stenosis_pct", "lesion_length_mm")},
        **paths,
    }
