"""Pictures of a contest: answers beside the truth, scores with intervals, and robustness of prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from contest.cases import MASK_NAMES, Case, mask_path
from contest.contestant import Prompt
from contest.prompts import Asked, main_mask, prompts_of
from data.masks import read_mask
from utils.drawing import (
    AGREEMENT_LEGEND, DPI, YELLOW, agreement_overlay, draw_box, line_width, mask_overlay, save_gallery, thumbnail,
)
from utils.files import save_figure_atomic

WANTED = (230, 159, 0)  # orange of Okabe and Ito: none of the agreement's colours
CELL_INCHES = 2.6


def save_contest_gallery(
    path: Path, cases: Sequence[Case], records: pd.DataFrame, *, kind: str, asked: Asked, masks: Path,
    seed_of: Callable[[Case], int], title: str,
) -> None:
    """Write what the contestants answered to one kind of prompt: a row a case, the frame with the prompt first.

    records: all of the contest; masks: folder of `run_contest`; seed_of(case): what the prompts were made with.
    """
    told = records[(records["prompt"] == kind) & (records["jitter_px"] == 0)]
    names = list(dict.fromkeys(told["contestant"]))
    rows, captions, titles = [], [], []
    for case in cases:
        frame, labels = case.read()
        against = main_mask(kind, labels)
        prompt = prompts_of(case, labels["segment"], [kind], asked, seed=seed_of(case))[kind]
        rows.append([draw_prompt(frame, prompt), thumbnail(mask_overlay(frame, labels[against], WANTED))])
        captions.append([prompt.text or "", MASK_NAMES[against]])
        titles.append(f"{case.name}\n{case.patient}")
        for name in names:
            of = told[(told["contestant"] == name) & (told["case"] == case.name)]
            mask = read_mask(mask_path(masks, name, case.name, kind))
            rows[-1].append(thumbnail(agreement_overlay(frame, labels[against], mask, opacity=0.6)))
            captions[-1].append(f"IoU {of['iou'].iloc[0]:.2f}")
    save_gallery(
        path, rows, ["frame and prompt", "wanted", *names], titles, title=title, captions=captions,
        legend={"wanted": WANTED, **AGREEMENT_LEGEND}, cell_inches=CELL_INCHES,
    )


def draw_prompt(frame: np.ndarray, prompt: Prompt) -> np.ndarray:
    """The frame, uint8 (H, W, 3), with the box or the points of a prompt."""
    picture = frame.copy()
    if prompt.box_px is not None:
        draw_box(picture, prompt.box_px, YELLOW)
    for x, y in prompt.points_px or ():
        cv2.circle(picture, (round(x), round(y)), 3 * line_width(picture), YELLOW, -1, cv2.LINE_AA)
    return thumbnail(picture)


def save_scores(path: Path, table: pd.DataFrame, *, title: str) -> None:
    """Write IoU and Dice of each contestant with their intervals, a panel a kind of prompt. table: of `summarise`."""
    plain = table[table["jitter_px"] == 0]
    kinds = list(dict.fromkeys(plain["prompt"]))
    counts = [int((plain["prompt"] == kind).sum()) for kind in kinds]
    figure = Figure(figsize=(8, 1.3 + 0.45 * sum(counts) + 0.6 * len(kinds)), dpi=DPI, layout="constrained")
    axes = figure.subplots(len(kinds), 1, squeeze=False, height_ratios=counts, sharex=True)[:, 0]
    for axis, kind in zip(axes, kinds):
        of = plain[plain["prompt"] == kind].iloc[::-1]
        place = np.arange(len(of))
        for name, shift, color in (("iou", 0.12, "#0072b2"), ("dice", -0.12, "#d55e00")):
            off = np.stack([of[name] - of[f"{name}_low"], of[f"{name}_high"] - of[name]]).clip(0)
            axis.errorbar(of[name], place + shift, xerr=off, fmt="o", color=color, capsize=3,
                          label={"iou": "IoU", "dice": "Dice"}[name])
        axis.set_yticks(place, of["contestant"])
        axis.set_ylim(-0.6, len(of) - 0.4)
        axis.set_title(f"{kind}: against {MASK_NAMES[of['against'].iloc[0]]}", fontsize=9, loc="left")
        axis.grid(axis="x", alpha=0.3)
    axes[-1].set_xlim(0, 1)
    axes[-1].set_xlabel("mean over cases, 95 % interval over patients")
    axes[0].legend(loc="lower right", fontsize=8)
    figure.suptitle(title, fontsize=11)
    save_figure_atomic(figure, path, dpi=DPI)


def save_robustness(path: Path, table: pd.DataFrame) -> None:
    """Write how IoU falls as prompts are drawn less exactly, a panel a kind. table: of `summarise`, several jitters."""
    kinds = list(dict.fromkeys(table.loc[table["jitter_px"] > 0, "prompt"]))
    figure = Figure(figsize=(5 * len(kinds), 3.8), dpi=DPI, layout="constrained")
    for axis, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds):
        for name, of in table[table["prompt"] == kind].groupby("contestant", sort=False):
            of = of.sort_values("jitter_px")
            axis.plot(of["jitter_px"], of["iou"], marker="o", label=name)
            axis.fill_between(of["jitter_px"], of["iou_low"], of["iou_high"], alpha=0.15)
        axis.set_title(f"{kind} prompts", fontsize=10)
        axis.set_xlabel("each side or point moved by (SD, px)")
        axis.set_ylabel("IoU")
        axis.set_ylim(0, 1)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    save_figure_atomic(figure, path, dpi=DPI)
