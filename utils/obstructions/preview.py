"""What `test_model_during_training.py` shows of stage 3: what was annotated in a few frames, and what was found.

Two yardsticks that are never mixed. *annotated*: the one segment that was measured; what is found on other vessels is
neither right nor false. *truth*: every lesion of the frame, which only the phantom knows. A detection is right where
its point lies in the box of a lesion that is severe enough to be found.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torchvision.ops import box_iou

from data.cine import read_frame
from data.obstructions import GRADES, Obstruction
from utils.drawing import GREEN, SKY_BLUE, VERMILION, YELLOW, mask_overlay, segment_name, thumbnail
from utils.obstructions.drawing import Mark, mark_of, mark_overlay
from utils.obstructions.evaluation import frame_of_row, match_frame, targets_of_frame
from utils.obstructions.matching import FALSE_POSITIVE, IGNORED, Detection, Target
from utils.obstructions.search import Wanted, wanted_by
from utils.prediction import THRESHOLD
from utils.reports.records import view_text


def _panels(yardstick: str, ending: str) -> dict[str, tuple[str, ...]]:
    names = {
        "box IoU 0.5": ("f1_iou50", "ap_iou50"), "sensitivity, 1 FP a frame": ("sensitivity_at_1fp",),
        "point error (mm)": ("mld_point_error_mm_median",), "%DS error (points)": ("ds_mae_points",),
    }
    return {f"{yardstick}: {title}": tuple(f"val_{field}{ending}" for field in fields)
            for title, fields in names.items()}


# Titles and fields of the history; the two yardsticks are never in one panel.
PANELS = {"loss": ("train_loss", "val_loss"), **_panels("annotated", ""), **_panels("truth", "_truth")}
RIGHT, FALSE, NEITHER, MISSED = "right", "false", "neither", "missed"
COLORS = {RIGHT: GREEN, FALSE: VERMILION, NEITHER: YELLOW, MISSED: SKY_BLUE}
LABEL_COLOR = (255, 255, 255)
_MEANINGS = {RIGHT: "right: its point is in a lesion's box", FALSE: "false", MISSED: "missed",
             NEITHER: "neither: on a vessel that was not measured"}
LEGEND = {"annotated lesion": LABEL_COLOR} | {_MEANINGS[what]: color for what, color in COLORS.items()}
_IN_WORDS = {"annotated": "annotation", "truth": "truth"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One frame with its answer: frame uint8 (H, W, 3); vessels bool (H, W), predicted; label, the annotation of
    segment `cass_id`.

    wanted: from which score, and from which %DS on. found: detections that count, the surest first. targets: what is to
    be found, and records: of `match_detections`, both by yardstick, "annotated" and, where the data has it, "truth".
    """

    title: str
    frame: np.ndarray
    vessels: np.ndarray
    label: Obstruction
    cass_id: int
    found: Sequence[Detection]
    targets: Mapping[str, Sequence[Target]]
    records: Mapping[str, Mapping]
    wanted: Wanted

    def verdicts(self, yardstick: str) -> list[str]:
        """What each detection is: `RIGHT`, `FALSE` or `NEITHER`."""
        names = {FALSE_POSITIVE: FALSE, IGNORED: NEITHER}
        return [names.get(hit, RIGHT) for hit in self.records[yardstick]["detection_point"]]

    def missed(self, yardstick: str) -> list[Target]:
        """The lesions that no detection hits."""
        hits = self.records[yardstick]["detection_point"]
        return [target for index, target in enumerate(self.targets[yardstick]) if index not in hits]

    def counts(self, yardstick: str) -> Counter:
        """How many are what; `to find` are those that are right or missed."""
        counts = Counter(self.verdicts(yardstick))
        counts[MISSED] = len(self.missed(yardstick))
        counts["to find"] = len(self.targets[yardstick])
        return counts


def predict_case(row: pd.Series, answer: Callable, checkpoint: Mapping) -> Case:
    """Predict one row's analysed frame and match what is found, at the frame's own size.

    answer, checkpoint: of `load_answer`; the checkpoint says from which score and which stenosis on lesions count.
    """
    frame, labels = read_frame(row["cine_path"], int(row["frame_index"])), frame_of_row(row)
    view_deg = (float(row["primary_angle"]), float(row["secondary_angle"]))
    prediction = answer(frame, view_deg=view_deg)
    wanted = wanted_by([checkpoint], score=None)
    found = [one for one in prediction.obstructions if one.score >= wanted.threshold.score]
    return Case(
        title=f"{row['patient_id']}  {row['phase']}\n{view_text(view_deg)}", frame=frame,
        vessels=prediction.vessel_probability >= THRESHOLD, label=labels["frame_obstruction"],
        cass_id=int(row["cass_segment"]), wanted=wanted, found=sorted(found, key=lambda one: -one.score),
        targets=targets_of_frame(labels, wanted.from_pct), records=match_frame(found, labels, wanted.from_pct),
    )


def order(cases: Sequence[Case]) -> tuple[list[Case], str]:
    """Return the cases, worst first by the better yardstick that every case has, and the order in words."""
    yardstick = "truth" if all("truth" in case.targets for case in cases) else "annotated"

    def badness(case: Case) -> tuple[int, int, float]:
        counts, hits = case.counts(yardstick), case.records[yardstick]["detection_point"]
        weakest = min((one.score for one, hit in zip(case.found, hits) if hit >= 0), default=1.0)
        return -counts[MISSED], -counts[FALSE], weakest

    words = f"worst first against {_IN_WORDS[yardstick]}: most missed, then most false ones, then the lowest score"
    return sorted(cases, key=badness), words


def arrange(cases: Sequence[Case]) -> dict:
    """Return `rows`, `column_titles`, `captions` and `legend` for a gallery, one row a case."""
    with_truth = any("truth" in case.targets for case in cases)
    columns = ["frame", "annotated (one segment)", "found, against the annotation"]
    columns += ["found, against every true lesion"] * with_truth
    return {"rows": [_pictures(case, with_truth) for case in cases], "column_titles": columns,
            "captions": [_captions(case, with_truth) for case in cases], "legend": LEGEND}


def _pictures(case: Case, with_truth: bool) -> list[np.ndarray | None]:
    pictures = [thumbnail(case.frame), _draw_label(case), draw_found(case, "annotated")]
    if with_truth:
        pictures.append(draw_found(case, "truth") if "truth" in case.targets else None)
    return pictures


def _draw_label(case: Case) -> np.ndarray:
    """The narrowed section from start to end, its box, and the point of the smallest diameter."""
    label = case.label
    text = f"{label.stenosis_pct:.0f} % {GRADES[label.grade].name}"
    tinted = mask_overlay(case.frame, label.section, LABEL_COLOR, opacity=0.25)
    return mark_overlay(tinted, [Mark(label.box_px, label.mld_px, LABEL_COLOR, text)], vessels=case.vessels)


def draw_found(case: Case, yardstick: str) -> np.ndarray:
    """Draw what was found, coloured by what it is, and what was missed; a new uint8 (H, W, 3)."""
    marks = [Mark(target.box_px, _place(target), COLORS[MISSED], f"{target.stenosis_pct:.0f} % missed")
             for target in case.missed(yardstick)]
    marks += [mark_of(one)._replace(color=COLORS[what])
              for one, what in zip(case.found, case.verdicts(yardstick), strict=True)]
    return mark_overlay(case.frame, marks, vessels=case.vessels)


def _place(target: Target) -> tuple[float, float]:
    """Its point, or where that is not known the middle of its box."""
    x0, y0, x1, y1 = target.box_px
    return ((x0 + x1) / 2, (y0 + y1) / 2) if np.isnan(target.point_px).any() else target.point_px


def _captions(case: Case, with_truth: bool) -> list[str]:
    to_find = "" if case.targets["annotated"] else f"\nnot to be found: below {case.wanted.from_pct:g} %DS"
    captions = ["", f"{segment_name(case.cass_id)}, {case.label.length_mm:.1f} mm long{to_find}",
                _judged(case, "annotated")]
    if with_truth:
        captions.append(_judged(case, "truth") if "truth" in case.targets else "no true lesions")
    return captions


def _judged(case: Case, yardstick: str) -> str:
    """Counts of a picture in words and, of the annotated lesion, how well place and severity were told."""
    counts = case.counts(yardstick)
    parts = [f"{counts[RIGHT]} of {counts['to find']} found" if counts["to find"] else "nothing to find"]
    parts += [f"{counts[what]} {what}" for what in (FALSE, NEITHER) if counts[what]]
    line = ", ".join(parts)
    if yardstick == "annotated" and counts[RIGHT]:
        line += f"\n{_how_well(case)}"
    return line


def _how_well(case: Case) -> str:
    record = case.records["annotated"]
    rank = next(rank for rank, hit in enumerate(record["detection_point"]) if hit >= 0)
    target = case.targets["annotated"][record["detection_point"][rank]]
    overlap = float(box_iou(torch.tensor([case.found[rank].box_px]), torch.tensor([target.box_px])))
    return (f"point {record['detection_point_error_mm'][rank]:.1f} mm off, "
            f"{record['detection_stenosis_error_points'][rank]:+.0f} %DS, box IoU {overlap:.2f}")


def describe(cases: Sequence[Case]) -> str:
    """Return the counts of these cases in words, each yardstick apart."""
    threshold = cases[0].wanted.threshold
    parts = [f"from score {threshold.score:.2f} on ({threshold.source})"]
    for yardstick, words in _IN_WORDS.items():
        judged = [case.counts(yardstick) for case in cases if yardstick in case.targets]
        if judged:
            total = sum(judged, Counter())
            neither = f", {total[NEITHER]} neither" if yardstick == "annotated" else ""
            parts.append(f"against {words} {total[RIGHT]} of {total['to find']} found, {total[FALSE]} false{neither}"
                         + (f" ({len(judged)} cases)" if len(judged) < len(cases) else ""))
    return "; ".join(parts)
