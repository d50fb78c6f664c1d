"""The verdict of phase 2 in words, from what `utils.view_impact.segments` and `utils.view_impact.probe` measure."""

import math
from collections.abc import Mapping

from utils.view_impact.probe import AXES
from utils.view_impact.segments import MEASURES, PIXELS
from utils.view_impact.vessels_figure import judge_embeddings

# 0.10: what the design expects the true angles to be worth against shuffled ones. Below 0.02 not one frame in
# fifty changes its name for the worse, less than the interval of a few hundred frames is wide.
SENSITIVE_LOSS, SLIGHT_LOSS = 0.10, 0.02
# Fewer training rows than this without an angle are too few to learn what "unknown" means.
LEAST_UNKNOWN_SHARE = 0.05
NOT_COMPARED = (
    "What wrong angles cost is not yet what the right ones are worth: train the same model with "
    "--no-use-view and give it as --compare."
)
# Shares of the error after guessing the median angle of the artery that the probe takes away on the axis that
# it reads better.
LARGELY, PARTLY = 0.5, 0.2


def judge_names(
    summary: Mapping,
    figures: Mapping,
    *,
    probe: Mapping | None = None,
    habit: Mapping | None = None,
    compared: Mapping | None = None,
    other_probe: Mapping | None = None,
    unknown_share: float = 1.0,
) -> dict:
    """Return `level` (`nearly blind`, `slightly sensitive`, `sensitive`) and `sentences`, the verdict first.

    summary: of `summarise_names`; figures: of `describe_similarity`; probe: of `probe_views`, other_probe the
    same of the other model's backbone; habit: of `name_by_habit`; compared: of `compare_models`;
    unknown_share: of the training samples that lacked an angle.
    """
    pointed = summary["conditions"]["top1_pointed"]
    level = judge_level(pointed["shuffled"])
    sentences = [_conclude(level, pointed)]
    sentences += [
        _describe_measure(name, summary["conditions"][name])
        for name in MEASURES
        if name in summary["conditions"]
    ]
    sentences += [warn_of_unknown(unknown_share)] if unknown_share < LEAST_UNKNOWN_SHARE else []
    sentences.append(_describe_grids(summary))
    sentences.append(_describe_comparison(compared) if compared else NOT_COMPARED)
    sentences += [_describe_habit(habit)] if habit else []
    sentences += [describe_probe(probe, "this model's backbone")] if probe else []
    sentences += [describe_probe(other_probe, "the other model's backbone")] if other_probe else []
    return {"level": level, "sentences": [*sentences, judge_embeddings(figures)]}


def judge_level(shuffled: Mapping) -> str:
    """Return how far names depend on the angles, from what other patients' angles cost the pointed answer."""
    loss, least = -shuffled["minus_true"], -shuffled["minus_true_ci95"][1]
    if least <= 0 or loss < SLIGHT_LOSS:
        return "nearly blind"
    return "sensitive" if loss >= SENSITIVE_LOSS else "slightly sensitive"


def _conclude(level: str, pointed: Mapping) -> str:
    true, shuffled = pointed["true"]["mean"], pointed["shuffled"]
    numbers = (
        f"{true:.3f} with the true angles, {shuffled['mean']:.3f} with another patient's "
        f"({signed(-shuffled['minus_true'], turned(shuffled['minus_true_ci95']))})"
    )
    named = f"names are {level} to the view angles"
    if level == "nearly blind" and -shuffled["minus_true_ci95"][1] <= 0:
        named += ", no loss with wrong ones can be measured"
    return f"Verdict: {named}. Asked which segment a given one is, the model is right in {numbers}."


def _describe_measure(name: str, conditions: Mapping) -> str:
    """One line a measure: its mean at every condition, and what shuffling costs."""
    parts = [
        f"{condition} {measured['mean']:.3f}"
        for condition, measured in conditions.items()
        if condition != "shuffled" and measured["mean"] == measured["mean"]
    ]
    shuffled = conditions["shuffled"]
    loss = signed(-shuffled["minus_true"], turned(shuffled["minus_true_ci95"]))
    kind = "share right" if name == PIXELS else "top-1"
    return (
        f"{MEASURES[name].capitalize()}, {kind}: {parts[0]}, shuffled {shuffled['mean']:.3f} "
        f"(true - shuffled {loss}), {', '.join(parts[1:])}."
    )


def warn_of_unknown(share: float) -> str:
    """Return in words that a model saw too few samples without an angle; share: of its training samples."""
    return (
        f"Only {share:.1%} of the training samples lacked an angle: one axis alone, and unknown, are strange "
        "to this model and do not say what the picture holds without them."
    )


def _describe_comparison(compared: Mapping) -> str:
    parts = [
        f"{MEASURES[name]} {one['this']:.3f} against {one['other']:.3f} "
        f"({signed(one['gain'], one['gain_ci95'])})"
        for name, one in compared.items()
    ]
    return f"This model against the other (--compare), on the same frames: {'; '.join(parts)}."


def _describe_habit(habit: Mapping) -> str:
    return (
        f"Habit: without the picture, the analysed segment is guessed right from the angles in "
        f"{habit['angles']:.0%} of the frames, from the artery in {habit['artery']:.0%}, from both in "
        f"{habit['artery_and_angles']:.0%}; so far angles may help because of what is usually filmed from "
        "where, not because of how it looks from there."
    )


def _describe_grids(summary: Mapping) -> str:
    agreement = summary["grid_agreement"]["top1_pointed"]
    sentence = f"Told each of the 81 angles, a case keeps its pointed name at {agreement:.0%} on average"
    likeness = summary["grid_likeness"]
    if math.isnan(likeness["top1_pointed"]):
        return f"{sentence}."
    return (
        f"{sentence}. Two cases told the same angle get the same name at {likeness['top1_pointed']:.0%} "
        f"(pointed) and {likeness['top1_blind_pooled']:.0%} (blind, pooled head) of the angles: so far the "
        "angle decides, whatever the picture shows."
    )


def describe_probe(probe: Mapping, whose: str) -> str:
    """Return in words how far the image gives the view away to a backbone; probe: of `probe_views`."""
    certain = [probe[axis] for axis in AXES if probe[axis]["gain_deg_ci95"][0] > 0]
    found = max((1 - one["mae_deg"] / one["artery_mae_deg"] for one in certain), default=0.0)
    away = "hardly" if found < PARTLY else "partly" if found < LARGELY else "largely"
    parts = "; ".join(_describe_axis(axis, probe[axis]) for axis in AXES)
    return f"The image alone gives the view {away} away, as far as a linear reader sees ({whose}): {parts}."


def _describe_axis(axis: str, probed: Mapping) -> str:
    low, high = probed["gain_deg_ci95"]
    sides = ", ".join(f"{side} artery {one['gain_deg']:+.1f}°" for side, one in probed["by_side"].items())
    return (
        f"{axis} angle {probed['mae_deg']:.1f}° off on average, {probed['artery_mae_deg']:.1f}° when "
        f"guessing the artery's median (better by {probed['gain_deg']:+.1f}°, {low:+.1f}° to {high:+.1f}°; "
        f"{sides}), at most one bin off in {probed['within_one_bin']:.0%} "
        f"({probed['artery_within_one_bin']:.0%})"
    )


def signed(value: float, interval) -> str:
    """Return a difference and its interval in words: `+0.120, 95 % interval +0.050 to +0.190`."""
    # Adding 0.0 turns the minus zero of a rounded difference into zero.
    value, low, high = (round(number, 3) + 0.0 for number in (value, *interval))
    return f"{value:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}"


def turned(interval) -> tuple[float, float]:
    """Return the interval of the opposite difference."""
    return -interval[1], -interval[0]
