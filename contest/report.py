"""What a contest leaves: the table in words, and its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from contest.arena import Contest, Entry, case_seed
from contest.cases import DEEPSA, MASK_NAMES
from contest.pictures import save_contest_gallery, save_robustness, save_scores
from contest.scores import Verdict, summarise
from utils.files import write_text_atomic
from utils.history import to_json

RANDOM_WARNING = "RANDOM WEIGHTS: its scores show that it runs, nothing else"
AGAINST_LABELS = "against DeepSA's labels, which are themselves a model's: not the truth"


def records_of(entries: Sequence[Entry]) -> pd.DataFrame:
    """All records, a row an answer."""
    return pd.DataFrame([record for entry in entries for record in entry.records])


def describe_contest(entries: Sequence[Entry], table: pd.DataFrame | None, verdicts: Sequence[Verdict]) -> str:
    """The table of a contest, who could not take part and why, and what follows, in words. table: of `summarise`."""
    lines = []
    for (kind, jitter_px), of in (table.groupby(["prompt", "jitter_px"], sort=False) if table is not None else ()):
        against = of["against"].iloc[0]
        lines += [
            f"{kind} prompt{f', off by {jitter_px:g} px (SD)' if jitter_px else ''}: {of['cases'].max()} cases of "
            f"{of['patients'].max()} patients, {MASK_NAMES[against] if against != DEEPSA else AGAINST_LABELS}",
            f"  {'contestant':<34} {'IoU':>5} {'95 %':>13} {'Dice':>6} {'95 %':>13} {'s/frame':>8} {'peak MiB':>9}",
        ]
        for row in of.to_dict("records"):
            name = row["contestant"] + ("  (!)" if row["is_random"] else "")
            lines.append(
                f"  {name:<34} {row['iou']:5.3f} {row['iou_low']:.3f} - {row['iou_high']:.3f} {row['dice']:6.3f} "
                f"{row['dice_low']:.3f} - {row['dice_high']:.3f} {row['encode_s'] + row['answer_s']:8.2f} "
                f"{row['peak_mib']:9.0f}"
            )
        if of["is_random"].any():
            lines.append(f"  (!) {RANDOM_WARNING}")
        lines.append("")
    lines += [f"not in the table: {entry.name}: {entry.missing}" for entry in entries if entry.missing]
    return "\n".join([*lines, *(verdict.words for verdict in verdicts)])


def save_contest(
    folder: Path, contest: Contest, entries: Sequence[Entry], records: pd.DataFrame, verdicts: Sequence[Verdict],
    facts: Mapping, *, pictures: int,
) -> str:
    """Write contest.json, contest.csv and the pictures to `folder`, galleries of at most so many cases; returns
    `describe_contest`. records: of `records_of`."""
    table = summarise(records) if len(records) else None
    text = describe_contest(entries, table, verdicts)
    write_text_atomic(folder / "contest.json", to_json({
        **facts, "prompts": contest.asked._asdict(), "seed": contest.seed,
        "table": [] if table is None else table.to_dict("records"),
        "verdicts": [verdict._asdict() for verdict in verdicts],
        "contestants": [{"name": entry.name, "about": entry.about, "missing": entry.missing} for entry in entries],
        "text": text,
    }))
    if table is None:
        return text
    write_text_atomic(folder / "contest.csv", records.to_csv(index=False, lineterminator="\n"))
    note = f"   {RANDOM_WARNING}" if records["is_random"].any() else ""
    save_scores(folder / "contest_scores.png", table, title=f"{len(contest.cases)} cases{note}")
    if (table["jitter_px"] > 0).any():
        save_robustness(folder / "contest_robustness.png", table)
    for kind in dict.fromkeys(records["prompt"]) if pictures else ():
        save_contest_gallery(
            folder / f"contest_gallery_{kind}.png", contest.cases[:pictures], records, kind=kind, asked=contest.asked,
            masks=contest.masks, seed_of=lambda case: case_seed(contest, case), title=f"{kind} prompt{note}",
        )
    return text
