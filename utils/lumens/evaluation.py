"""What is scored of a predicted lumen, and what comes of it: metrics, and pictures of how measurements agree.

Everything is against the analyst's contours (Medis): the lumen as it was drawn, and the measurements as they were
recorded. A lumen that cannot be measured is counted, never left out in silence: `measured_share` says how many could
be, and `ds_mae_points_all`, by which the best checkpoint is chosen, takes such a lumen for one without a stenosis.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from data.contours import Contours
from qca.agreement import AGREEMENT_SCORES, agreement_counts, agreement_figure, agreement_scores
from qca.calibration import Calibration
from qca.errors import QcaError
from qca.measure import Measurement
from utils.bootstrap import ratio, with_intervals
from utils.drawing import DPI
from utils.files import save_figure_atomic
from utils.lumens.prediction import EDGE, PredictedLumen, measure_predicted
from utils.metrics import dice, summarise_records
from utils.run_files import RunFiles

# Name in the metrics -> unit, measurement of the contours file, and what it is called in pictures.
QUANTITIES = {
    "mld": ("mm", "MLD_mm", "MLD"),
    "rvd": ("mm", "interpolated_RVD_mm", "reference diameter"),
    "ds": ("points", "diameter_stenosis_pct", "%DS"),
    "lesion_length": ("mm", "lesion_length_mm", "lesion length"),
}
# A treated vessel (FINAL) has a narrowest place too, but no lesion whose length and place one could agree on: even from
# exact edges they are 6 mm and 30 px off below 10 %DS, and 1 mm and 0.6 px from here on (150 phantom rows, 2026-11-22).
LESION_FROM_PCT = 20.0
# Between two observers of one frame, SD (facts of the field, see README): what a machine is to be held against.
BETWEEN_OBSERVERS_SD = {"mld": 0.098, "rvd": 0.246, "ds": 5.25, "lesion_length": 2.86}


def scores_of_lumen(lumen: PredictedLumen, true_share: np.ndarray, contours: Contours) -> dict:
    """The record of one crop: Dice and surface distance of its lumen, (S, S) shares, and its measurements."""
    predicted, true = lumen.share >= EDGE, true_share >= EDGE
    px_per_mm = float(contours.calibration["scale_factor"])
    surface_px = surface_distance_px(predicted, true) / lumen.crop.zoom
    return {
        "dice_lumen": dice(predicted, true), "surface_px": surface_px, "surface_mm": surface_px / px_per_mm,
        **compared(lumen, contours),
    }


def compared(lumen: PredictedLumen, contours: Contours) -> dict:
    """The QCA of a predicted lumen beside what was recorded, see `compare_measurement`."""
    try:
        measured = measure_predicted(lumen, scale_of(contours))
    except QcaError as error:
        return compare_measurement(None, contours) | {"failure": str(error)}
    return compare_measurement(measured, contours)


def scale_of(contours: Contours) -> Calibration:
    """The scale that the analyst measured with."""
    return Calibration(float(contours.calibration["scale_factor"]), "scale factor")


def compare_measurement(measured: Measurement | None, contours: Contours) -> dict:
    """`measured` and `recorded`, by the names of `QUANTITIES`, nan where there is none, and `mld_off_px`, how far the
    narrowest point is from the recorded one in px of the frame. measured: None where nothing could be measured."""
    recorded = {name: contours.measurements[field] for name, (_, field, _) in QUANTITIES.items()}
    if measured is None:
        return {"recorded": recorded, "measured": dict.fromkeys(QUANTITIES, np.nan), "mld_off_px": np.nan}
    mm, point = measured.mm, measured.line_px[measured.worst.mld]
    found = {"mld": mm.mld, "rvd": mm.rvd, "ds": measured.stenosis_pct, "lesion_length": mm.lesion_length}
    place = [contours.measurements[f"MLD_{axis}_coord"] for axis in "xy"]
    if np.isnan(place).any():
        place = contours.centerline[int(contours.measurements["MLD_centerline_index"])]
    off_px = float(np.hypot(*(point - place)))
    return {"recorded": recorded, "measured": found, "mld_off_px": off_px}


def surface_distance_px(predicted: np.ndarray, true: np.ndarray) -> float:
    """Mean distance of the edges of two bool masks of one size, both ways, px, by MONAI; nan where one is empty."""
    if not (predicted.any() and true.any()):
        return float("nan")
    # Here, because importing MONAI takes four seconds, which loader processes and --help need not spend.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI 1.6 warns of what it does itself
        from monai.metrics import compute_average_surface_distance

        masks = [torch.from_numpy(mask)[None, None] for mask in (predicted, true)]
        return compute_average_surface_distance(*masks, include_background=True, symmetric=True).item()


def summarise_lumens(records: Sequence[Mapping], table) -> dict:
    """Metrics over all frames, flat, with 95 % intervals over patients."""
    means = ("row", "loss", "dice_lumen", "surface_px", "surface_mm")
    patients = table["patient_id"].tolist()
    metrics = summarise_records([{key: record[key] for key in means} for record in records], patients)
    return metrics | summarise_agreement(records, [patients[record["row"]] for record in records])


def summarise_agreement(records: Sequence[Mapping], patients: Sequence) -> dict:
    """How the records' measurements agree with what was recorded, for all of them and, with the ending `_lesions`, for
    those of at least `LESION_FROM_PCT`: for each of `QUANTITIES` the scores of `AGREEMENT_SCORES`, such as
    `mld_mae_mm`; the place of the MLD; and how many could be measured at all."""
    metrics = _agreement_of(records, patients)
    lesions = [number for number, record in enumerate(records) if record["recorded"]["ds"] >= LESION_FROM_PCT]
    metrics["n_lesions"] = len(lesions)
    if lesions:
        found = _agreement_of([records[number] for number in lesions], [patients[number] for number in lesions])
        metrics |= {f"{name.removesuffix('_ci95')}_lesions" + "_ci95" * name.endswith("_ci95"): value
                    for name, value in found.items()}
    return metrics


def _agreement_of(records: Sequence[Mapping], patients: Sequence) -> dict:
    metrics: dict[str, object] = {}
    for name, (unit, _, _) in QUANTITIES.items():
        recorded, measured = _pairs(records, name)
        named = [f"{name}_{score}" + (f"_{unit}" if has_unit else "") for score, has_unit in AGREEMENT_SCORES.items()]
        metrics |= with_intervals(named, agreement_counts(recorded, measured), patients, agreement_scores)
    off_px = np.array([record["mld_off_px"] for record in records])
    known = np.isfinite(off_px)
    recorded, measured = _pairs(records, "ds")
    missed = np.abs(np.nan_to_num(measured) - recorded)  # what could not be measured counts as no stenosis
    counts = np.stack([known, np.nan_to_num(off_px), np.ones(len(records)), missed], axis=1)
    metrics |= with_intervals(
        ("measured_share", "mld_position_mae_px", "ds_mae_points_all"), counts, patients,
        lambda sums: np.stack([ratio(sums[:, top], sums[:, bottom]) for top, bottom in ((0, 2), (1, 0), (3, 2))], 1),
    )
    metrics["mld_position_error_px_median"] = float(np.median(off_px[known])) if known.any() else float("nan")
    return metrics


def _pairs(records: Sequence[Mapping], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Recorded and measured (n,) of one of `QUANTITIES`."""
    return tuple(np.array([record[kind][name] for record in records], float) for kind in ("recorded", "measured"))


def draw_agreement(records: Sequence[Mapping], table, files: RunFiles) -> None:
    """Scatter and Bland-Altman plots of every quantity against what was recorded."""
    pairs = {words: _pairs(records, name) for name, (_, _, words) in QUANTITIES.items()}
    count = sum(np.isfinite(record["mld_off_px"]) for record in records)
    figure = agreement_figure(
        pairs, units=[unit for unit, _, _ in QUANTITIES.values()], names=("Medis", "predicted lumen"),
        title=f"QCA of the predicted lumen against Medis: {count} of {len(records)} frames could be measured",
        spreads=[BETWEEN_OBSERVERS_SD[name] for name in QUANTITIES],
    )
    save_figure_atomic(figure, files.picture("agreement"), dpi=DPI)
