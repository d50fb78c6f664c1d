"""The verdict of phase 3 in words, from what `utils.view_impact.obstructions` measures."""

import math
from collections.abc import Mapping

from utils.obstructions.search import ScoreThreshold
from utils.view_impact.obstructions import METRICS, SAME_MARKS, SCORE_CHANGE, STENOSIS_CHANGE
from utils.view_impact.segments_words import LEAST_UNKNOWN_SHARE, NOT_COMPARED, signed, turned, warn_of_unknown
from utils.view_impact.vessels_figure import judge_embeddings

# Of the marks, with another patient's angles. 0.95: one in twenty comes or goes, which hardly a reader would notice in
# a series. 0.80: one in five, in about every second frame one. Our own choice: no paper sets such a limit.
NEARLY_BLIND_SHARE, SENSITIVE_SHARE = 0.95, 0.80
MAIN_METRIC = "f1_iou50"  # what makes a checkpoint the best of its run
LESS_IS_BETTER = {"ds_mae_points"}
AGAINST = {"annotated": "the annotation", "truth": "the truth"}
NAMES = {"sensitivity_point": "sensitivity", "f1_iou50": "F1", "ap_iou50": "AP", "ds_mae_points": "%DS error"}
_SINGLES = ("primary only", "secondary only", "unknown")


def judge_obstructions(
    summary: Mapping, figures: Mapping, *, threshold: ScoreThreshold, compared: Mapping | None = None,
    unknown_share: float = 1.0,
) -> dict:
    """Return `level` (`nothing found`, `nearly blind`, `slightly sensitive`, `sensitive`), `true_angles` (what they
    are worth) and `sentences`, the verdict first.

    summary: of `summarise_impact`; figures: of `describe_similarity`; threshold: from which score on detections
    count; compared: of `compare_detectors`; unknown_share: of the training samples that lacked an angle.
    """
    level = judge_level(summary["changes"][SAME_MARKS]["shuffled"]["mean"])
    kind = "truth" if "truth" in summary["detections"] else "annotated"
    worth = _what_for(kind, summary["detections"][kind][MAIN_METRIC]["shuffled"])
    sentences = [_conclude(level, worth),
                 _describe_marks(summary["changes"], threshold)]
    sentences += [_describe_yardstick(one, summary) for one in summary["detections"]]
    sentences.append(_describe_vessels_and_grid(summary))
    sentences += [warn_of_unknown(unknown_share)] if unknown_share < LEAST_UNKNOWN_SHARE else []
    sentences += _describe_comparison(compared) if compared else [NOT_COMPARED]
    return {"level": level, "true_angles": worth, "sentences": [*sentences, judge_embeddings(figures)]}


def judge_level(share: float) -> str:
    """Return how far marks depend on the angles; share: of the same marks with another patient's angles."""
    if math.isnan(share):
        return "nothing found"
    return ("nearly blind" if share >= NEARLY_BLIND_SHARE
            else "slightly sensitive" if share >= SENSITIVE_SHARE else "sensitive")


def certainty(gain: float, interval, *, less_is_better: bool = False) -> str:
    """Return how sure a gain (with the true angles - without them) is of not being chance."""
    low, high = interval
    if math.isnan(gain) or math.isnan(low):
        return "not defined"
    if gain == low == high == 0:
        return "no difference at all"
    if low <= 0 <= high:
        return "not distinguishable from zero"
    return "better with the true angles" if (gain > 0) != less_is_better else "worse with the true angles"


def _what_for(kind: str, shuffled: Mapping) -> str:
    gain, interval = -shuffled["minus_true"], turned(shuffled["minus_true_ci95"])
    said, score = certainty(gain, interval), f"F1 at box IoU 0.5 against {AGAINST[kind]}"
    if said == "not defined":
        return f"what the true angles are worth cannot be measured by {score}"
    return f"the true angles change {score} by {signed(gain, interval)}: {said}"


def _conclude(level: str, worth: str) -> str:
    if level == "nothing found":
        return "Verdict: nothing found. No detection reaches the score from which on they count, whatever the angles."
    return f"Verdict: what is found is {level} to the view angles; {worth}."


def _describe_marks(changes: Mapping, threshold: ScoreThreshold) -> str:
    shares = changes[SAME_MARKS]
    shuffled, others = shares["shuffled"], ", ".join(f"{name} {shares[name]['mean']:.3f}" for name in _SINGLES)
    low, high = shuffled["ci95"]
    stenosis = changes[STENOSIS_CHANGE]["shuffled"]["mean"]
    return (
        f"Marks (score from {threshold.score:.3f} on, {threshold.source}): with another patient's angles "
        f"{shuffled['mean']:.3f} of them are the same (95 % interval {low:.3f} to {high:.3f}; {NEARLY_BLIND_SHARE} or "
        f"more is called nearly blind, below {SENSITIVE_SHARE} sensitive), {others}. The score changes by up to "
        f"{changes[SCORE_CHANGE]['shuffled']['mean']:.3f} somewhere in a frame (mean over frames), the %DS of the same "
        f"mark by {stenosis:.1f} points."
    )


def _describe_yardstick(kind: str, summary: Mapping) -> str:
    """One line a yardstick: each score at the true angles and at another patient's, and how sure the difference is."""
    counts, parts = summary["counts"][kind], []
    for name in METRICS:
        conditions = summary["detections"][kind][name]
        true, shuffled = conditions["true"], conditions["shuffled"]
        gain, interval = -shuffled["minus_true"], turned(shuffled["minus_true_ci95"])
        said = certainty(gain, interval, less_is_better=name in LESS_IS_BETTER)
        parts.append(f"{NAMES[name]} {true['mean']:.3f}, shuffled {shuffled['mean']:.3f} "
                     f"(true - shuffled {signed(gain, interval)}: {said})")
    f1 = ", ".join(f"{name} {summary['detections'][kind][MAIN_METRIC][name]['mean']:.3f}" for name in _SINGLES)
    return f"Against {AGAINST[kind]} ({lesions_in_frames(counts)}): {'; '.join(parts)}. F1 with {f1}."


def lesions_in_frames(counts: Mapping) -> str:
    """Return one yardstick's `counts` of `summarise_impact` in words: `3 lesions in 1 frame`."""
    return f"{counted(counts['n_targets'], 'lesion')} in {counted(counts['n_frames'], 'frame')}"


def counted(number: int, noun: str) -> str:
    """Return how many: `1 frame`, `2 frames`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _describe_vessels_and_grid(summary: Mapping) -> str:
    dice, grid = summary["changes"]["own"]["shuffled"]["mean"], summary["grid"]
    return (
        f"Vessel masks with another patient's angles agree with those at the true ones with Dice {dice:.4f}. In "
        f"{counted(grid['n_frames'], 'frame')} told each of the 81 angles, {grid[f'mean_{SAME_MARKS}']:.3f} of the "
        f"marks are the same as at the own view on average, {grid[f'least_{SAME_MARKS}']:.3f} at the worst angle; the "
        f"vessel masks agree with Dice {grid['mean_dice']:.4f}, {grid['least_dice']:.4f} at the worst."
    )


def _describe_comparison(compared: Mapping) -> list[str]:
    said = []
    for kind, metrics in compared.items():
        parts = []
        for name, models in metrics.items():
            this, other = models["this"], models["other"]
            better = _better_model(this, less_is_better=name in LESS_IS_BETTER)
            parts.append(f"{NAMES[name]} {this['mean']:.3f} and {other['mean']:.3f} "
                         f"({signed(this['minus_other'], this['minus_other_ci95'])}: {better})")
        said.append(f"This model and the other (--compare), each from its own score on, on the same frames at the true "
                    f"angles, against {AGAINST[kind]}: {'; '.join(parts)}.")
    return said


def _better_model(this: Mapping, *, less_is_better: bool) -> str:
    said = certainty(this["minus_other"], this["minus_other_ci95"], less_is_better=less_is_better)
    return {"better with the true angles": "this one is better",
            "worse with the true angles": "the other one is better"}.get(said, said)
