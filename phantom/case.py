"""One row of the data set, from a patient's tree to its files."""
from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from phantom.anatomy import LEFT, RIGHT, build_tree
from phantom.carm import CArm
from phantom.catheter import Catheter, catheter_opacity, draw_catheter, root_blush
from phantom.contours import contours_record, lesion_records, measure, segment_mask, trace_segment
from phantom.contrast import Bolus, Motion, draw_bolus, draw_motion
from phantom.detector import Detector, draw_detector, take_picture
from phantom.files import write_array, write_json, write_png
from phantom.labels import LABEL_PX, deepsa_label
from phantom.lesions import Lesion, draw_disease, phase_lesions, with_lesions
from phantom.masks import vessel_maps, visible_samples
from phantom.plan import MISTAKEN_FOR, RIGHT_SEGMENTS, VESSEL, Analysis
from phantom.rendering import STEP_PX, cut_strips, path_length
from phantom.thorax import draw_thorax
from phantom.tree import Tree
from phantom.views import draw_carm

LEFT_DOMINANT = 0.12  # of patients; right dominance in about 85 % (Dodge et al. 1992), the rest balanced
CINE_S = (2.6, 3.6)


@dataclass(frozen=True)
class Case:
    """One examination: which patient, which segment, which phase; `number` counts the patient's rows."""

    patient: int
    number: int
    cass_id: int
    phase: str
    split: str

    @property
    def patient_id(self) -> str:
        return f"{101 + self.patient // 1000}-{self.patient % 1000 + 1:04d}"

    @property
    def name(self) -> str:
        return f"{self.patient_id}_{VESSEL[self.cass_id][1]}_{self.phase}"


@dataclass(frozen=True)
class Scene:
    """Everything that is in front of the detector in one examination."""

    tree: Tree
    lesions: tuple[Lesion, ...]
    carm: CArm
    bolus: Bolus
    motion: Motion
    catheter: Catheter
    times_s: np.ndarray
    frame_index: int
    opacity_per_mm: float
    side: str


def patient_cases(analyses: list[Analysis]) -> list[Case]:
    """The rows of one patient, numbered."""
    rows = [(one, phase) for one in analyses for phase in one.phases]
    return [Case(one.patient, number, one.cass_id, phase, one.split) for number, (one, phase) in enumerate(rows)]


def generator(seed: int, *path: int) -> np.random.Generator:
    """A random generator of its own for each patient, tree and row: the same bytes whoever computes it."""
    return np.random.default_rng(np.random.SeedSequence([seed, *path]))


def build_patient(seed: int, cases: list[Case]) -> dict[str, Tree]:
    """The patient's trees that are needed, without lesions."""
    patient, segments = cases[0].patient, frozenset(case.cass_id for case in cases)
    left_dominant = generator(seed, patient, 0).random() < LEFT_DOMINANT and not segments & {3, 4}
    return {side: build_tree(side, generator(seed, patient, 1 + (side == RIGHT)), needed=segments,
                             left_dominant=left_dominant)
            for side in (LEFT, RIGHT) if any((s in RIGHT_SEGMENTS) == (side == RIGHT) for s in segments)}


def build_scene(seed: int, case: Case, trees: dict[str, Tree], size_px: int, frames: int) -> Scene:
    """Lesions, C-arm, contrast, motion and catheter of one examination."""
    side = RIGHT if case.cass_id in RIGHT_SEGMENTS else LEFT
    disease = generator(seed, case.patient, 3, case.cass_id)
    worst, others = draw_disease(trees[side], case.cass_id, disease)
    rng = generator(seed, case.patient, 4, case.number)
    lesions = phase_lesions(trees[side], case.cass_id, case.phase, worst, others, rng)
    tree = with_lesions(trees[side], lesions)
    carm = draw_carm(tree, case.cass_id, size_px, rng)
    times = np.linspace(0, rng.uniform(*CINE_S), frames + 1)[:-1]
    bolus, filled_s = draw_bolus(tree.reach_mm.max(), times[-1] + times[1], rng)
    frame_index = int(np.abs(times - filled_s).argmin())
    motion = draw_motion(times[frame_index], rng)
    return Scene(tree, lesions, carm, bolus, motion, draw_catheter(tree, side, rng), times, frame_index,
                 float(rng.uniform(0.12, 0.30)), side)


def render_cine(scene: Scene, size_px: int, rng: np.random.Generator) -> tuple[np.ndarray, list[np.ndarray], Detector]:
    """Frames (F, size, size) uint8, curves of the background that invite mistakes, and the imaging chain."""
    carm, detector = scene.carm, draw_detector(size_px, rng)
    image_px, px_per_mm = carm.project(scene.tree.center_mm)
    low, high = np.percentile(image_px, [5, 95], axis=0) / size_px
    thorax = draw_thorax(size_px, (*(low + high) / 2, *(high - low) / 2), rng)
    blush = root_blush(carm, scene.side, rng) * rng.choice([0.0, rng.uniform(0.05, 0.5)])
    fine = scene.tree.resample(STEP_PX / px_per_mm.mean())
    strips = cut_strips(fine.lumen_mm / 2 * carm.project(fine.center_mm)[1])
    frames = []
    for time_s in scene.times_s:
        points = scene.motion.move(fine.center_mm, fine.heart_mm, time_s)
        filling = scene.bolus.concentration(fine.reach_mm, time_s)
        vessels = path_length(points, fine.lumen_mm / 2, fine.line, filling, carm, strips) * scene.opacity_per_mm
        at_ostium = scene.bolus.concentration(np.zeros(1), time_s + 0.1)[0]
        shift = scene.motion.move(np.zeros((1, 3)), fine.heart_mm, time_s)[0]
        guide = catheter_opacity(scene.catheter, carm, scene.opacity_per_mm, at_ostium, shift)
        opacity = _breathing(thorax.opacity, scene.motion.breath(time_s) * px_per_mm.mean() * 0.6)
        frames.append(take_picture(opacity + vessels + guide + blush * at_ostium, detector, rng))
    return np.stack(frames), thorax.edges, detector


def write_case(directory: Path, seed: int, case: Case, trees: dict[str, Tree], size_px: int, frames: int) -> dict:
    """Make and write one row's files; its record, written last, says that it is complete. Returns the record."""
    scene = build_scene(seed, case, trees, size_px, frames)
    rng = generator(seed, case.patient, 5, case.number)
    cine, false_edges, detector = render_cine(scene, size_px, rng)
    analysed = scene.lesions[0]
    trace = trace_segment(scene.tree, case.cass_id, scene.carm, int(rng.integers(300, 401)))
    measurements, scale = measure(scene.tree, analysed, trace)
    filling = scene.bolus.concentration(scene.tree.reach_mm, scene.times_s[scene.frame_index])
    visible = visible_samples(scene.tree, scene.carm, scene.opacity_per_mm, filling, detector.blur_px * size_px / 512)
    truth, cass_map = vessel_maps(scene.tree, visible, scene.carm, case.cass_id)
    truth, cass_map = truth & detector.open_field, cass_map * detector.open_field
    paths, angles = _paths(case), view_angles(scene.carm, rng)
    write_array(directory / paths["cine_path"], _as_stored(cine, rng))
    write_json(directory / paths["contours_path"], _contours(case, scene, trace, measurements, scale, angles, rng))
    write_png(directory / paths["vessel_mask_actual_path"], segment_mask(trace, size_px))
    write_png(directory / paths["deepsa_pseudo_label_path"], _label(scene, visible, false_edges, detector.open_field, rng))
    write_png(directory / paths["true_vessel_mask_path"], truth)
    write_png(directory / paths["true_cass_map_path"], cass_map)
    write_json(directory / paths["true_lesions_path"], lesion_records(scene.tree, scene.lesions, scene.carm))
    record = _record(case, scene, measurements, paths, angles, rng)
    write_json(record_path(directory, case), record)
    return record


def record_path(directory: Path, case: Case) -> Path:
    """Where a finished case's CSV row is kept."""
    return directory / "records" / f"{case.name}.json"


def read_record(directory: Path, case: Case) -> dict | None:
    """A finished case's CSV row, or None."""
    path = record_path(directory, case)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _paths(case: Case) -> dict[str, str]:
    kinds = {"cine_path": ("cines", "npy"), "contours_path": ("contours", "json"),
             "vessel_mask_actual_path": ("segment_masks", "png"), "deepsa_pseudo_label_path": ("deepsa", "png"),
             "true_vessel_mask_path": ("true_vessels", "png"), "true_cass_map_path": ("true_cass", "png"),
             "true_lesions_path": ("true_lesions", "json")}
    return {column: f"{folder}/{case.name}.{ending}" for column, (folder, ending) in kinds.items()}


def _as_stored(cine: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(F, H, W, 3) uint8 mostly; (F, H, W) and float32 in [0, 1] also occur in the user's data."""
    draw = rng.random()
    if draw < 0.08:
        return cine
    if draw < 0.10:
        return cine.astype(np.float32) / 255
    return np.repeat(cine[..., None], 3, axis=-1)


def _breathing(opacity: np.ndarray, shift_px: float) -> np.ndarray:
    move = np.float32([[1, 0, 0], [0, 1, shift_px]])
    return cv2.warpAffine(opacity, move, opacity.shape[::-1], borderMode=cv2.BORDER_REPLICATE)


def _label(scene: Scene, visible, false_edges, open_field: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    carm = replace(scene.carm, size_px=LABEL_PX, spacing_mm=scene.carm.spacing_mm * scene.carm.size_px / LABEL_PX)
    course, scale = carm.project(scene.catheter.points_mm)
    label = deepsa_label(scene.tree, visible, carm, course, scene.catheter.outer_mm * scale[0], false_edges, rng)
    return label & (cv2.resize(open_field.astype(np.uint8), label.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0)


def _contours(case: Case, scene: Scene, trace, measurements, scale: float, angles: dict,
              rng: np.random.Generator) -> dict:
    catheter = scene.catheter.outer_mm if rng.random() < 0.7 else float(scene.catheter.french)
    return contours_record(
        trace, measurements, scale, segment_name=VESSEL[case.cass_id][2], frame_index=scene.frame_index,
        catheter=catheter, spacing_mm=scene.carm.spacing_mm, view_angles=angles, analyst="phantom",
        analysis_date=f"2020-{1 + case.patient % 12:02d}-{1 + case.number % 28:02d}")


def view_angles(carm: CArm, rng: np.random.Generator) -> dict:
    """Angles as the JSON holds them: numbers mostly; 4 % text such as `RAO 30`, 2 % missing (None)."""
    kind = rng.random()
    if kind < 0.02:
        return {"primary_angle": None, "secondary_angle": None}
    if kind > 0.06:
        return {"primary_angle": carm.primary_deg, "secondary_angle": carm.secondary_deg}
    primary, secondary = abs(carm.primary_deg), abs(carm.secondary_deg)
    return {"primary_angle": f"{'LAO' if carm.primary_deg >= 0 else 'RAO'} {primary:g}",
            "secondary_angle": f"{'CRA' if carm.secondary_deg >= 0 else 'CAU'} {secondary:g}"}


def _record(case: Case, scene: Scene, measurements: dict, paths: dict, angles: dict,
            rng: np.random.Generator) -> dict:
    known = angles["primary_angle"] is not None
    vessel_name, pattern, _ = VESSEL[case.cass_id]
    first_recorded = MISTAKEN_FOR[case.cass_id] if rng.random() < 0.04 else case.cass_id
    return {"patient_id": case.patient_id, "vessel_pattern": pattern, "phase": case.phase, "vessel_name": vessel_name,
            "frame_index": scene.frame_index, "cass_segment": case.cass_id, "cass_segment_original": first_recorded,
            "split": case.split, "primary_angle": scene.carm.primary_deg if known else None,
            "secondary_angle": scene.carm.secondary_deg if known else None,
            **{k: round(measurements[k], 4) for k in ("MLD_mm", "diameter_stenosis_pct", "lesion_length_mm")}, **paths}
