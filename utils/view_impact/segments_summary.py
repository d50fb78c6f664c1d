"""What the measurements of `utils.view_impact.segments` amount to, over frames, segments, arteries, models."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from utils.metrics import bootstrap_ci
from utils.view_impact.segments import ANSWERS, CASS_CONDITIONS, MEASURES, side_of
from utils.view_impact.vessels import summarise_conditions


def summarise_names(found: Mapping, table: pd.DataFrame) -> dict:
    """Return all figures of one model but those of the cases' grids as plain values.

    found: of `measure_frames` of the rows of `table`. Keys: `conditions` (of `summarise_conditions`),
    `by_segment` and `by_side` (of `shuffled_loss`), `grid_agreement` and `grid_likeness` (of
    `compare_grids`).
    """
    scores, patients = found["scores"], table["patient_id"].tolist()
    segments = [int(cass_id) for cass_id in table["cass_segment"]]
    return {
        "conditions": summarise_conditions(scores, patients, CASS_CONDITIONS),
        "by_segment": shuffled_loss(scores, patients, segments),
        "by_side": shuffled_loss(scores, patients, [side_of(cass_id) for cass_id in segments]),
        **compare_grids(found["cases"]),
    }


def compare_grids(cases: Sequence[Mapping]) -> dict[str, dict[str, float]]:
    """Compare the names of each case over the 81 angles with its own, and with those of the other cases.

    cases: of `measure_frames`. Returns, by answer, `grid_agreement`: the share of angles at which a case is
    named as at its own view, mean over cases; and `grid_likeness`: the share of angles at which two cases,
    told the same angle, are named alike, mean over pairs (nan for one case). Cases are of different segments:
    what is alike is read from the angle and not from the picture.
    """
    agreement, likeness = {}, {}
    for answer in ANSWERS:
        grids = [case["grid"][answer] for case in cases]
        own = [case["own"][answer] for case in cases]
        agreement[answer] = float(np.mean([grid == name for grid, name in zip(grids, own, strict=True)]))
        alike = [(one == other).mean() for one, other in combinations(grids, 2)]
        likeness[answer] = float(np.mean(alike)) if alike else float("nan")
    return {"grid_agreement": agreement, "grid_likeness": likeness}


def shuffled_loss(scores: Sequence[Mapping], patients: Sequence, groups: Sequence) -> dict:
    """Return what other patients' angles cost in each group of frames, by group and answer.

    {group: {n_frames, n_patients, answer: {true, shuffled, loss, loss_ci95}}}, loss = true - shuffled.
    """
    table, groups, patients = {}, np.array(groups), np.array(patients)
    for group in sorted(set(groups.tolist())):
        chosen = np.flatnonzero(groups == group)
        table[group] = {"n_frames": len(chosen), "n_patients": len(set(patients[chosen].tolist()))}
        for answer in ANSWERS:
            true, shuffled = (
                np.array([scores[index][condition][answer] for index in chosen])
                for condition in ("true", "shuffled")
            )
            table[group][answer] = {
                "true": float(true.mean()),
                "shuffled": float(shuffled.mean()),
                "loss": float((true - shuffled).mean()),
                "loss_ci95": bootstrap_ci(true - shuffled, patients[chosen]),
            }
    return table


def compare_models(scores: Sequence[Mapping], other_scores: Sequence[Mapping], patients: Sequence) -> dict:
    """Return {measure: {this, other, gain, each with _ci95}} at the true angles, paired by frame."""
    compared = {}
    for measure in MEASURES:
        kept = [index for index, frame in enumerate(other_scores) if measure in frame["true"]]
        if not kept:
            continue
        this, other = (
            np.array([some[index]["true"][measure] for index in kept]) for some in (scores, other_scores)
        )
        groups = [patients[index] for index in kept]
        compared[measure] = {}
        for name, values in (("this", this), ("other", other), ("gain", this - other)):
            compared[measure] |= {name: float(values.mean()), f"{name}_ci95": bootstrap_ci(values, groups)}
    return compared
