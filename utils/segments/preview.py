"""What `test_model_during_training.py` shows of stage 2: names in a few frames, answers to both questions.

*pointed*, which segment is this one? The analyst's mask is given. *blind*, which segment did the analyst
analyse? Nothing is given; where no lesion shows, nobody can know.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from data.cine import read_frame
from data.masks import read_label_map, read_mask
from utils.drawing import segment_legend, segment_name, segment_overlay
from utils.prediction import THRESHOLD
from utils.reports.records import view_text
from utils.segments.drawing import BLIND_LEGEND, blind_overlay
from utils.segments.prediction import FramePrediction, blind_probs_of_map, pointed_probs
from utils.segments.report import SegmentFindings, find_segments
from utils.segments.scores import score_segments

# Titles and fields of the history; the two questions are never in one panel.
PANELS = {
    "loss": ("train_loss", "val_loss"),
    "pointed: which segment is this?": ("val_top1_pointed", "val_macro_f1_pointed"),
    "blind: which one was analysed?": ("val_top1_blind", "val_top1_blind_map", "val_top1_blind_ceiling"),
    "names of all segments": ("val_segment_f1_map", "val_pixel_accuracy_map"),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One frame with its answers: frame uint8 (H, W, 3); segment bool (H, W), the analysed one, `cass_id`.

    cass_map: (H, W), the true CASS numbers, None where the data has none. guesses: probabilities (K,) of the
    classes by question: "pointed", "head" and "map", the two blind ones. names_right: share of the true
    pixels of the classes that carry the right name; nan without a true map, or without such pixels.
    """
    title: str
    frame: np.ndarray
    segment: np.ndarray
    cass_id: int
    findings: SegmentFindings
    cass_map: np.ndarray | None
    guesses: Mapping[str, np.ndarray]
    names_right: float

    def guess(self, question: str) -> tuple[int, float]:
        """Return the likeliest CASS number and its probability."""
        probs = self.guesses[question]
        return self.findings.prediction.classes[int(probs.argmax())], float(probs.max())

    def is_right(self, question: str) -> bool:
        return self.guess(question)[0] == self.cass_id


def predict_case(row: pd.Series, answer: Callable, checkpoint: Mapping) -> Case:
    """Predict one row at its analysed frame, at the frame's own size; answer, checkpoint: of `load_answer`."""
    frame = read_frame(row["cine_path"], int(row["frame_index"]))
    view_deg = (float(row["primary_angle"]), float(row["secondary_angle"]))
    prediction: FramePrediction = answer(frame, view_deg=view_deg).segments
    segment, path = read_mask(row["vessel_mask_actual_path"]), row.get("true_cass_map_path")
    cass_map = read_label_map(path) if isinstance(path, str) and path else None
    findings = find_segments(prediction, threshold=THRESHOLD)
    region = segment if segment.any() else np.ones_like(segment)
    guesses = {"pointed": pointed_probs(prediction, region), "head": prediction.class_probs,
               "map": blind_probs_of_map(prediction)}
    return Case(
        title=f"{row['patient_id']}  {row['phase']}\n{view_text(view_deg)}", frame=frame, segment=segment,
        cass_id=int(row["cass_segment"]), findings=findings, cass_map=cass_map, guesses=guesses,
        names_right=_share_of_names_right(findings, cass_map),
    )


def _share_of_names_right(findings: SegmentFindings, cass_map: np.ndarray | None) -> float:
    if cass_map is None:
        return float("nan")
    vessel = findings.prediction.vessel_probability >= THRESHOLD
    counts = score_segments(findings.names, cass_map, vessel, findings.prediction.classes)
    true_px = counts["segments_true_px"]
    return counts["segments_right_px"] / true_px if true_px else float("nan")


def order(cases: Sequence[Case]) -> tuple[list[Case], str]:
    """Return the cases, worst first, and the order in words."""
    def probability_of_truth(case: Case) -> float:
        classes = case.findings.prediction.classes
        return float(case.guesses["pointed"][classes.index(case.cass_id)]) if case.cass_id in classes else 0.0
    return sorted(cases, key=probability_of_truth), "worst first by the probability of the true name, pointed"


def arrange(cases: Sequence[Case]) -> dict:
    """Return `rows`, `column_titles`, `captions` and `legend` for a gallery, one row a case."""
    with_map = any(case.cass_map is not None for case in cases)
    columns = ["analysed segment, true name", "names, predicted"] + ["names, true"] * with_map
    columns += ["blind guess: which was analysed?"]
    shown = {case.cass_id for case in cases}
    for case in cases:
        shown |= set(np.unique(case.findings.names)) | set(np.unique(case.cass_map if with_map else 0))
    legend = segment_legend(sorted(int(cass_id) for cass_id in shown - {0}), nameless=True)
    return {"rows": [_pictures(case, with_map) for case in cases], "column_titles": columns,
            "captions": [_captions(case, with_map) for case in cases], "legend": legend | BLIND_LEGEND}


def _pictures(case: Case, with_map: bool) -> list[np.ndarray | None]:
    prediction = case.findings.prediction
    analysed = (case.segment * case.cass_id).astype(np.uint8)
    pictures = [
        segment_overlay(case.frame, analysed),
        segment_overlay(case.frame, case.findings.names, vessels=prediction.vessel_probability >= THRESHOLD),
    ]
    if with_map:
        pictures.append(None if case.cass_map is None else segment_overlay(case.frame, case.cass_map))
    return pictures + [blind_overlay(case.frame, prediction)]


def _captions(case: Case, with_map: bool) -> list[str]:
    captions = [f"truth: {segment_name(case.cass_id)}", f"pointed: {_judged(case, 'pointed')}"]
    if with_map:
        share = case.names_right
        captions.append("no score" if np.isnan(share) else f"{share:.0%} of these pixels have the right name")
    return captions + [f"head: {_judged(case, 'head')}\nmap: {_judged(case, 'map')}"]


def _judged(case: Case, question: str) -> str:
    """Return an answer in words: `13 Mid LAD (0.41), right`."""
    cass_id, probability = case.guess(question)
    return f"{segment_name(cass_id)} ({probability:.2f}), {'right' if case.is_right(question) else 'wrong'}"


def describe(cases: Sequence[Case]) -> str:
    """Return the scores of these cases in words."""
    pointed, head, of_map = (sum(case.is_right(question) for case in cases)
                             for question in ("pointed", "head", "map"))
    line = f"pointed {pointed} right, blind {head} (pooled head) and {of_map} (map)"
    shares = [case.names_right for case in cases if not np.isnan(case.names_right)]
    return line + (f", names right on {np.mean(shares):.0%} of the vessel pixels" if shares else "")
