"""Run contestants on the same cases with the same prompts, one after another, each in a process of its own.

A process of its own gives each its own peak memory, frees it afterwards, and lets the others go on where one fails.
"""

from __future__ import annotations

import multiprocessing
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from tqdm import tqdm

from contest.cases import Case, mask_path
from contest.contestant import Answer, Contestant
from contest.cost import PeakMemory, timed
from contest.lineup import Settings, build_contestant
from contest.prompts import Asked, main_mask, prompts_of
from data.errors import DataError
from utils.checkpoint import CheckpointError, MissingWeights
from utils.files import write_png_atomic
from utils.metrics import dice, iou


@dataclass(frozen=True, kw_only=True)
class Contest:
    """What is asked. kinds: of prompts; jitters_px: each box and point is moved by so much (SD), 0 = not; masks: folder
    for the answers without jitter, as PNG."""

    cases: Sequence[Case]
    kinds: Sequence[str]
    asked: Asked
    jitters_px: Sequence[float] = (0.0,)
    seed: int = 0
    masks: Path


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What became of a contestant: its records, or in one sentence why there are none."""

    name: str
    about: str = ""
    records: Sequence[dict] = ()
    missing: str = ""


def run_contest(entries: Sequence[str], contest: Contest, settings: Settings) -> list[Entry]:
    """Each contestant's answers, in the order given. Whoever cannot take part is in the list with the reason."""
    return [_run_one(entry, contest, settings) for entry in entries]


def _run_one(entry: str, contest: Contest, settings: Settings) -> Entry:
    context = multiprocessing.get_context("spawn")  # the only way that Windows has, and a clean memory everywhere
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_play, args=(entry, contest, settings, sender), name=f"contest {entry}")
    process.start()
    sender.close()
    try:
        result = receiver.recv()
    except EOFError:
        process.join()
        return Entry(name=entry, missing=f"its process ended with code {process.exitcode} before it was done: out of "
                                         "memory? Try it alone, or a smaller one.")
    finally:
        # Also after Ctrl-C here: nobody waits for its answers any more.
        process.join(timeout=30)
        if process.is_alive():
            process.terminate()
            process.join()
    return result


def _play(entry: str, contest: Contest, settings: Settings, sender: Connection) -> None:
    """In the process of its own: build the contestant, ask it everything, send what came of it."""
    try:
        with PeakMemory() as memory:
            contestant = build_contestant(entry, settings)
            records = answer_all(contestant, contest, memory)
        result = Entry(name=contestant.name, about=contestant.about, records=records)
    except (MissingWeights, CheckpointError, DataError) as error:
        result = Entry(name=entry, missing=str(error))
    except KeyboardInterrupt:
        return  # whoever started this one was interrupted too and says so
    sender.send(result)
    sender.close()


def answer_all(contestant: Contestant, contest: Contest, memory: PeakMemory) -> list[dict]:
    """A record for each case, kind of prompt that the contestant takes, and jitter."""
    kinds = [kind for kind in contest.kinds if kind in contestant.prompts]
    if not kinds:
        takes = ", ".join(sorted(contestant.prompts))
        raise DataError(f"{contestant.name} takes {takes}; asked was {', '.join(contest.kinds)}")
    records = []
    for number, case in enumerate(tqdm(contest.cases, desc=contestant.name, unit="frame")):
        frame, masks = case.read()
        if number == 0:  # the first call pays for what later ones find ready
            contestant.encode(frame, case.view_deg)
        encoded, encode_s = timed(lambda: contestant.encode(frame, case.view_deg))
        for kind, jitter_px, prompt in _prompts(case, masks["segment"], kinds, contest):
            answer, answer_s = timed(lambda: contestant.answer(encoded, prompt))
            if jitter_px == 0:
                write_png_atomic(mask_path(contest.masks, contestant.name, case.name, kind), answer.mask)
            records.append({
                "contestant": contestant.name, "case": case.name, "patient": case.patient, "prompt": kind,
                "jitter_px": jitter_px, **scores_of(answer, masks, kind), "score": answer.score,
                "encode_s": encode_s, "answer_s": answer_s, "peak_mib": memory.peak_mib(),
                "is_random": contestant.is_random,
            })
    return records


def _prompts(case: Case, segment: np.ndarray, kinds: Sequence[str], contest: Contest):
    """(kind, jitter, prompt) of a case; what says nothing about a place is asked once."""
    for jitter_px in contest.jitters_px:
        asked = contest.asked._replace(jitter_px=jitter_px)
        places = [kind for kind in kinds if jitter_px == 0 or kind in ("box", "points")]
        for kind, prompt in prompts_of(case, segment, places, asked, seed=case_seed(contest, case)).items():
            yield kind, jitter_px, prompt


def case_seed(contest: Contest, case: Case) -> int:
    """What a case's prompts are drawn with: of its name, not of its position, so that fewer cases get the same ones."""
    return zlib.crc32(f"{contest.seed} {case.name}".encode())


def scores_of(answer: Answer, masks: dict[str, np.ndarray], kind: str) -> dict:
    """IoU and Dice against each mask that there is, and as `iou` and `dice` against the one that was asked for."""
    scores = {f"{name}_{mask}": score(answer.mask, label) for mask, label in masks.items()
              for name, score in (("iou", iou), ("dice", dice))}
    against = main_mask(kind, masks)
    return {"against": against, "iou": scores[f"iou_{against}"], "dice": scores[f"dice_{against}"], **scores}
