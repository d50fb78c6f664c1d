"""The contours JSON of one analysed segment, as Medis exports it, measured from the true geometry."""

from __future__ import annotations

import numpy as np

from data.masks import fill_tube
from phantom.carm import CArm
from phantom.lesions import Lesion, lesion_samples
from phantom.rendering import outline
from phantom.tree import Tree, arc_length
from phantom.views import covered_share

POINTS = (300, 400)


def trace_segment(tree: Tree, cass_id: int, carm: CArm, points: int) -> dict[str, np.ndarray]:
    """Centreline, lumen edges and healthy ("ideal") edges in px, each (points, 2), evenly spaced.

    Also `lumen_mm`, `healthy_mm`, `sample` (fractional index into the tree) and `px_per_mm`, each (points,).
    """
    own = tree.segment(cass_id)
    center, px_per_mm = carm.project(tree.center_mm)
    edges = outline(tree.center_mm, tree.lumen_mm / 2, tree.line, carm)
    ideal = outline(tree.wall_mm, tree.healthy_mm / 2, tree.line, carm)
    arc = arc_length(center[own], np.zeros(len(own), int))
    where = np.interp(np.linspace(0, arc[-1], points), arc, own)

    def at(values: np.ndarray) -> np.ndarray:
        columns = values.reshape(len(values), -1).T
        return np.stack([np.interp(where, np.arange(len(values)), c) for c in columns], axis=-1).squeeze()

    return {
        "centerline": at(center),
        "left_edge": at(edges[0]),
        "right_edge": at(edges[1]),
        "ideal_left_edge": at(ideal[0]),
        "ideal_right_edge": at(ideal[1]),
        "lumen_mm": at(tree.lumen_mm),
        "healthy_mm": at(tree.healthy_mm),
        "sample": where,
        "px_per_mm": at(px_per_mm),
    }


def segment_mask(trace: dict[str, np.ndarray], size_px: int) -> np.ndarray:
    """(size, size) bool: pixel centres between the lumen edges."""
    mask = np.zeros((size_px, size_px), bool)
    fill_tube(mask, trace["left_edge"], trace["right_edge"], True)
    return mask


def lesion_span(tree: Tree, lesion: Lesion, sample: np.ndarray) -> tuple[int, int]:
    """First and last index of a trace inside a lesion. sample: as in `trace_segment`."""
    arc = tree.arc_mm()
    along = np.interp(sample, np.arange(len(arc)), arc) - arc[lesion.middle]
    inside = np.flatnonzero(np.abs(along) <= lesion.length_mm / 2)
    return int(inside[0]), int(inside[-1])


def measure(tree: Tree, lesion: Lesion, trace: dict[str, np.ndarray]) -> tuple[dict[str, float], float]:
    """Medis' measurements and `scale_factor` (px per mm at the depth of the smallest diameter).

    Diameters are the true ones. The smallest is where the lumen is narrowest by its healthy wall, not in
    millimetres, for a vessel that tapers is thinnest at its far end. The reference diameter there is
    interpolated along the vessel between the normal diameters at the lesion's ends, as QCA does. Lengths are
    those of the image, divided by the scale factor, as in any 2D analysis; the true 3D lengths are in the
    lesions file.
    """
    start, end = lesion_span(tree, lesion, trace["sample"])
    part = slice(start, end + 1)
    index = start + int((trace["lumen_mm"][part] / trace["healthy_mm"][part]).argmin())
    scale = float(trace["px_per_mm"][index])
    line = trace["centerline"]
    arc_mm = arc_length(line, np.zeros(len(line), int)) / scale
    along = np.interp(trace["sample"], np.arange(len(tree.line)), tree.arc_mm())
    proximal, distal = (float(trace["healthy_mm"][at]) for at in (start, end))
    mld = float(trace["lumen_mm"][index])
    rvd = float(np.interp(along[index], along[[start, end]], [proximal, distal]))
    return {
        "MLD_mm": mld,
        "interpolated_RVD_mm": rvd,
        "diameter_stenosis_pct": 100 * (1 - mld / rvd),
        "area_stenosis_pct": 100 * (1 - (mld / rvd) ** 2),
        "MLD_x_coord": float(line[index, 0]),
        "MLD_y_coord": float(line[index, 1]),
        "MLD_centerline_index": index,
        "lesion_length_mm": float(arc_mm[end] - arc_mm[start]),
        "lesion_start_x_coord": float(line[start, 0]),
        "lesion_start_y_coord": float(line[start, 1]),
        "lesion_end_x_coord": float(line[end, 0]),
        "lesion_end_y_coord": float(line[end, 1]),
        "proximal_normal_diameter_mm": proximal,
        "distal_normal_diameter_mm": distal,
        "segment_length_mm": float(arc_mm[-1]),
        "obstruction_position_mm": float(arc_mm[index]),
    }, scale


def contours_record(
    trace: dict[str, np.ndarray],
    measurements: dict,
    scale_factor: float,
    *,
    segment_name: str,
    frame_index: int,
    catheter: float,
    spacing_mm: float,
    view_angles: dict,
    analyst: str,
    analysis_date: str,
) -> dict:
    """The whole JSON object. catheter: mm, or French size as some real files have it."""
    lines = ("centerline", "left_edge", "right_edge", "ideal_left_edge", "ideal_right_edge")
    return {
        "segment_name": segment_name,
        "frame_num": frame_index,
        **{name: np.round(trace[name], 3).tolist() for name in lines},
        "measurements": measurements,
        "calibration": {
            "scale_factor": scale_factor,
            "catheter_diameter_mm": catheter,
            "imager_pixel_spacing_mm": [spacing_mm, spacing_mm],
        },
        "view_angles": view_angles,
        "analyst": analyst,
        "analysis_date": analysis_date,
    }


def lesion_records(tree: Tree, lesions: tuple[Lesion, ...], carm: CArm) -> list[dict]:
    """Every lesion of the tree in this view: segment, severity, place, box in px clipped to the frame.

    `overlapped`: another vessel lies over its middle half.
    """
    records = []
    for lesion in lesions:
        trace = trace_segment(tree, lesion.cass_id, carm, 400)
        start, end = lesion_span(tree, lesion, trace["sample"])
        values, scale = measure(tree, lesion, trace)
        edges = np.concatenate([trace[side][start : end + 1] for side in ("left_edge", "right_edge")])
        x, y = values["MLD_x_coord"], values["MLD_y_coord"]
        records.append(
            {
                "cass_segment": lesion.cass_id,
                "diameter_stenosis_pct": values["diameter_stenosis_pct"],
                "MLD_mm": values["MLD_mm"],
                "RVD_mm": values["interpolated_RVD_mm"],
                "healthy_mm_at_mld": float(trace["healthy_mm"][values["MLD_centerline_index"]]),
                "length_3d_mm": lesion.length_mm,
                "position_px": [round(x, 2), round(y, 2)],
                "box_px": np.round(
                    np.clip([*edges.min(axis=0), *edges.max(axis=0)], 0, carm.size_px - 1), 2
                ).tolist(),
                "px_per_mm": scale,
                "overlapped": covered_share(tree, lesion_samples(tree, lesion, 0.5), carm) > 0,
                "in_frame": bool(0 <= x < carm.size_px and 0 <= y < carm.size_px),
            }
        )
    return records
