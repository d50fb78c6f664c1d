"""What a contest comes to: scores with intervals over patients, differences in pairs, and who serves better.

    table = summarise(records)                  # a row for each contestant and kind of prompt
    verdict = decide(records, "sam3", "medsam2", kind="box")
    print(verdict.words)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from utils.metrics import BOOTSTRAP_RESAMPLES, bootstrap_ci, resampled_means

MARGIN_IOU = 0.1  # the user's decision rule: less between two models, and the better tooling wins
SURE = 0.975  # share of resamples, as of a two-sided interval of 95 %
MEANS = ("iou", "dice", "encode_s", "answer_s", "peak_mib")


def summarise(records: pd.DataFrame) -> pd.DataFrame:
    """A row for each contestant, kind of prompt and jitter: means with intervals over patients, the best IoU first.

    records: a row an answer, with `contestant`, `prompt`, `jitter_px`, `case`, `patient`, `against`, `iou`, `dice` of
    the mask `against`, `iou_<mask>` and `dice_<mask>` of all masks, `encode_s`, `answer_s`, `peak_mib`, `is_random`.
    """
    rows = []
    for (prompt, jitter, contestant), of in records.groupby(["prompt", "jitter_px", "contestant"], sort=False):
        row = {"contestant": contestant, "prompt": prompt, "jitter_px": jitter, "cases": len(of),
               "patients": of["patient"].nunique(), "against": of["against"].iloc[0],
               "is_random": bool(of["is_random"].any())}
        row |= {name: float(of[name].mean()) for name in MEANS}
        for name in ("iou", "dice"):
            row[f"{name}_low"], row[f"{name}_high"] = bootstrap_ci(of[name], of["patient"])
        every = [name for name in of if name.startswith(("iou_", "dice_"))]
        rows.append(row | {name: float(of[name].mean()) for name in every if of[name].notna().any()})
    order = ["prompt", "jitter_px", "iou"]
    return pd.DataFrame(rows).sort_values(order, ascending=[True, True, False], ignore_index=True)


class Verdict(NamedTuple):
    """Which of two serves better. difference: mean IoU of the first less the second's, with a 95 % interval over
    patients; words: what follows by the rule, and how sure it is; winner: None while that is open."""

    first: str
    second: str
    difference: float
    low: float
    high: float
    winner: str | None
    words: str


def paired(records: pd.DataFrame, first: str, second: str, kind: str) -> pd.DataFrame:
    """The cases that both have answered without jitter: columns `first`, `second` (IoU), `patient`."""
    plain = records[(records["prompt"] == kind) & (records["jitter_px"] == 0)]
    sides = [plain[plain["contestant"] == name].set_index("case") for name in (first, second)]
    both = pd.DataFrame({"first": sides[0]["iou"], "second": sides[1]["iou"]}).dropna()
    return both.assign(patient=sides[0]["patient"].reindex(both.index))


def decide(
    records: pd.DataFrame, first: str, second: str, *, kind: str = "box", margin: float = MARGIN_IOU,
    better_tooling: str | None = None,
) -> Verdict:
    """Apply the rule: more than `margin` IoU apart, the better model; else the better tooling.

    ValueError without a case that both have answered.

    better_tooling: `first` or `second`; None leaves that to the reader.
    """
    pairs = paired(records, first, second, kind)
    if pairs.empty:
        raise ValueError(f"no case was answered by both {first} and {second} with the prompt {kind!r}")
    means = resampled_means((pairs["first"] - pairs["second"]).to_numpy(), pairs["patient"])
    difference = float((pairs["first"] - pairs["second"]).mean())
    low, high = (float(end) for end in np.percentile(means, (2.5, 97.5)))
    leads = [float((means > margin).mean()), float((means < -margin).mean())]
    within = 1 - sum(leads)
    ahead = first if difference > 0 else second
    lead = leads[0] if difference > 0 else leads[1]
    told = (f"{first} {pairs['first'].mean():.3f}, {second} {pairs['second'].mean():.3f} IoU on {len(pairs)} cases of "
            f"{pairs['patient'].nunique()} patients ({kind} prompt): difference {difference:+.3f}, 95 % interval "
            f"{low:+.3f} to {high:+.3f}.")
    if pairs["patient"].nunique() < 2:
        return Verdict(first, second, difference, low, high, None, f"{told} One patient says nothing about others.")
    if lead >= SURE:
        end = f"{ahead} is better by more than {margin:g}: take {ahead} ({_share(lead)})."
        return Verdict(first, second, difference, low, high, ahead, f"{told} {end}")
    if within >= SURE:
        tooling = (f"take {better_tooling}, named as the one with the better tooling" if better_tooling
                   else "the better tooling decides; say whose that is with --better-tooling")
        end = f"They are within {margin:g} of each other ({_share(within)}): {tooling}."
        return Verdict(first, second, difference, low, high, better_tooling, f"{told} {end}")
    likely = (f"{ahead} by more than {margin:g} ({_share(lead)})" if lead > within
              else f"within {margin:g} of each other ({_share(within)})")
    end = f"Not settled: most likely {likely}. {_more_patients(pairs, difference, margin)}"
    return Verdict(first, second, difference, low, high, None, f"{told} {end}")


def _share(share: float) -> str:
    return f"in {100 * share:.0f} % of {BOOTSTRAP_RESAMPLES} draws of patients"


def _more_patients(pairs: pd.DataFrame, difference: float, margin: float) -> str:
    """How many patients would settle it, by how much they differ from each other here."""
    per_patient = (pairs["first"] - pairs["second"]).groupby(pairs["patient"].to_numpy()).mean()
    room = abs(abs(difference) - margin)
    if room < 0.005 or not per_patient.std() > 0:
        return "It lies on the edge of the rule: more cases are unlikely to settle it."
    needed = int(np.ceil((1.96 * per_patient.std() / room) ** 2))
    return f"About {max(needed, len(per_patient) + 1)} patients would settle it, if they differ as these do."
