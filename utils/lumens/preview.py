"""What `test_model_during_training.py` shows of stage 4: lumens as Medis drew them and as predicted, and their QCA."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd

from data.cine import read_frame
from data.contours import Contours, read_contours
from data.lumen_crops import cut_out, lumen_maps
from data.lumen_dataset import section_of
from qca.errors import QcaError
from qca.measure import Measurement
from utils.drawing import GREEN, SKY_BLUE, VERMILION, YELLOW, agreement_overlay, segment_name, thumbnail
from utils.lumens.drawing import draw_line, draw_measurement
from utils.lumens.evaluation import compare_measurement, scale_of
from utils.lumens.prediction import EDGE, PredictedLumen, measure_predicted
from utils.metrics import dice
from utils.reports.records import view_text

PANELS = {
    "loss": ("train_loss", "val_loss"), "lumen (Dice)": ("train_dice", "val_dice_lumen"),
    "diameters: error (mm)": ("val_mld_mae_mm", "val_rvd_mae_mm"),
    "stenosis: error (points)": ("val_ds_mae_points",), "lesion length: error (mm)": ("val_lesion_length_mae_mm",),
}
LEGEND = {
    "Medis' edges": SKY_BLUE, "predicted edges": GREEN, "narrowest place": VERMILION, "ends of the lesion": YELLOW,
    "lumen of both": GREEN, "only predicted": VERMILION, "only Medis": SKY_BLUE,
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One crop with its answer: picture uint8 (S, S, 3); true_lumen bool (S, S); measured is None where it failed."""

    title: str
    picture: np.ndarray
    contours: Contours
    lumen: PredictedLumen
    true_lumen: np.ndarray
    measured: Measurement | None
    failure: str
    compared: Mapping

    @property
    def error_points(self) -> float:
        """Of the stenosis; a lumen that cannot be measured has none."""
        return abs(np.nan_to_num(self.compared["measured"]["ds"]) - self.compared["recorded"]["ds"])


def predict_case(row: pd.Series, draw_lumen: Callable, checkpoint: Mapping) -> Case:
    """Draw and measure one row's analysed segment in the box of its contours; draw_lumen: of `load_lumen_model`."""
    frame, contours = read_frame(row["cine_path"], int(row["frame_index"])), read_contours(row["contours_path"])
    view_deg, section = (float(row["primary_angle"]), float(row["secondary_angle"])), section_of(contours)
    lumen = draw_lumen(frame, section.box_px, view_deg=view_deg, ends_px=section.ends_px)
    crop, measured, failure = lumen.crop, None, ""
    true = lumen_maps(crop.to_crop(section.left), crop.to_crop(section.right), crop.side_px).coverage
    try:
        measured = measure_predicted(lumen, scale_of(contours))
    except QcaError as error:
        failure = str(error)
    named = f"{row['patient_id']}  {row['vessel_pattern']}\n{segment_name(row['cass_segment'])}"
    return Case(
        title=f"{named}\n{view_text(view_deg)}",
        picture=cut_out(frame, crop), contours=contours, lumen=lumen, true_lumen=true >= EDGE, measured=measured,
        failure=failure, compared=compare_measurement(measured, contours),
    )


def order(cases: Sequence[Case]) -> tuple[list[Case], str]:
    """Return the cases, worst first, and the order in words."""
    return sorted(cases, key=lambda case: -case.error_points), "worst first by the error of the stenosis"


def arrange(cases: Sequence[Case]) -> dict:
    """Return `rows`, `column_titles`, `captions` and `legend` for a gallery, one row a case."""
    return {
        "rows": [_pictures(case) for case in cases],
        "column_titles": ["crop", "Medis", "predicted, measured", "predicted against Medis"],
        "captions": [_captions(case) for case in cases], "legend": LEGEND,
    }


def _pictures(case: Case) -> list[np.ndarray]:
    crop, drawn, found = case.lumen.crop, case.picture.copy(), case.picture.copy()
    for edge in (case.contours.left_edge, case.contours.right_edge):
        draw_line(drawn, crop.to_crop(edge), SKY_BLUE)
    place = [case.contours.measurements[f"MLD_{axis}_coord"] for axis in "xy"]
    if not np.isnan(place).any():
        at = tuple(np.rint(crop.to_crop(np.array(place))).astype(int).tolist())
        cv2.drawMarker(drawn, at, VERMILION, cv2.MARKER_TILTED_CROSS, crop.side_px // 24, 2)
    if case.measured is not None:
        draw_measurement(found, case.measured, crop)
    both = agreement_overlay(case.picture, case.true_lumen, case.lumen.share >= EDGE)
    return [thumbnail(case.picture), drawn, found, both]


def _captions(case: Case) -> list[str]:
    def words(values: Mapping) -> str:
        return (f"MLD {values['mld']:.2f}, RVD {values['rvd']:.2f}, length {values['lesion_length']:.1f} mm, "
                f"{values['ds']:.0f} %DS")

    found = case.failure or words(case.compared["measured"])
    return ["", words(case.compared["recorded"]), found, f"Dice {dice(case.lumen.share >= EDGE, case.true_lumen):.3f}"]


def describe(cases: Sequence[Case]) -> str:
    """Return the scores of these cases in words."""
    measured = [case for case in cases if case.measured is not None]
    words = f"{len(measured)} of {len(cases)} measured"
    if not measured:
        return words
    errors = {name: np.mean([abs(case.compared["measured"][name] - case.compared["recorded"][name])
                             for case in measured]) for name in ("mld", "ds")}
    return f"{words}, mean error of the MLD {errors['mld']:.2f} mm, of the stenosis {errors['ds']:.1f} points"
