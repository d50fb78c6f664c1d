"""Who is in the data set: patients, analysed segments, examinations and the split, all from one seed.

The counts of the user's own table (748 rows, 521 train / 227 val) are followed as exactly as the number of
rows allows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from data.cass import CLASS_IDS, SEGMENTS

USER_ROWS = {cass_id: SEGMENTS[cass_id].user_rows for cass_id in CLASS_IDS}
USER_PATIENTS = 300  # so many give the user's 748 rows with about 2.5 rows each
VAL_SHARE = 227 / 748
PHASES = ("PRE", "FINAL", "EVENT")


class Vessel(NamedTuple):
    """A segment in the words of the CSV: its `vessel_name` and `vessel_pattern`."""

    name: str
    pattern: str


VESSEL = {
    1: Vessel("RCA", "PROX_RCA"),
    2: Vessel("RCA", "MID_RCA"),
    3: Vessel("RCA", "DIST_RCA"),
    4: Vessel("PDA", "PDA"),
    12: Vessel("LAD", "PROX_LAD"),
    13: Vessel("LAD", "MID_LAD"),
    14: Vessel("LAD", "DIST_LAD"),
    15: Vessel("LAD", "D1"),
    16: Vessel("LAD", "D2"),
    18: Vessel("LCX", "PROX_LCX"),
    19: Vessel("LCX", "MID_LCX"),
    20: Vessel("LCX", "OM1"),
    21: Vessel("LCX", "OM2"),
    28: Vessel("Ramus", "RAMUS"),
}
# What a segment is most easily taken for, for the column of the segment as first recorded.
MISTAKEN_FOR = {
    1: 2,
    2: 3,
    3: 2,
    4: 3,
    12: 13,
    13: 12,
    14: 13,
    15: 16,
    16: 15,
    18: 19,
    19: 18,
    20: 21,
    21: 20,
    28: 20,
}


@dataclass(frozen=True)
class Analysis:
    """One segment of one patient and the examinations of it, in order: PRE, then FINAL, then EVENT."""

    patient: int
    cass_id: int
    phases: tuple[str, ...]
    split: str


def default_rows(patients: int) -> int:
    """Rows for so many patients, in the user's ratio (300 patients: 748 rows)."""
    return max(patients, round(patients * sum(USER_ROWS.values()) / USER_PATIENTS))


def plan_analyses(patients: int, rows: int, seed: int) -> list[Analysis]:
    """All analyses, by patient, one at least for each; rows by segment follow the user's table."""
    if not patients <= rows <= 3 * len(USER_ROWS) * patients:
        raise ValueError(
            f"{rows} rows do not fit {patients} patients: allowed are {patients} (one each) to "
            f"{3 * len(USER_ROWS) * patients}; change --rows or --patients"
        )
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0xA11]))
    groups = group_rows(segment_quotas(rows), patients)
    owners = _assign(groups, patients, rng)
    splits = _split(groups, owners, patients, rng)
    plan = [
        Analysis(owner, cass_id, PHASES[:count], splits[owner])
        for (cass_id, count), owner in zip(groups, owners)
    ]
    return sorted(plan, key=lambda one: (one.patient, one.cass_id))


def segment_quotas(rows: int) -> dict[int, int]:
    """Rows of each segment by largest remainder, summing to `rows`."""
    shares = {s: rows * n / sum(USER_ROWS.values()) for s, n in USER_ROWS.items()}
    quotas = {s: int(share) for s, share in shares.items()}
    by_remainder = sorted(shares, key=lambda s: (quotas[s] - shares[s], s))
    for segment in by_remainder[: rows - sum(quotas.values())]:
        quotas[segment] += 1
    return quotas


def group_rows(quotas: dict[int, int], patients: int) -> list[tuple[int, int]]:
    """Cut each segment's rows into analyses, about 1.125 a patient: (CASS id, 1 to 3 examinations)."""
    groups = [(s, size) for s, n in sorted(quotas.items()) for size in _pairs(n)]
    while len(groups) < patients:
        largest = max(groups, key=lambda g: g[1])
        groups.remove(largest)
        groups += [(largest[0], 1), (largest[0], largest[1] - 1)]
    target = max(patients, round(1.125 * patients))
    for segment in list(quotas) * max(quotas.values()):
        if len(groups) <= target:
            break
        if groups.count((segment, 2)) >= 3:  # six rows: three pairs become two triples
            for _ in range(3):
                groups.remove((segment, 2))
            groups += [(segment, 3)] * 2
    return sorted(groups)


def _pairs(rows: int) -> list[int]:
    """PRE and FINAL each; an odd number makes one triple, a single row stays alone."""
    if rows < 2:
        return [1] * rows
    return [2] * (rows // 2 - rows % 2) + [3] * (rows % 2)


def _assign(groups: list[tuple[int, int]], patients: int, rng: np.random.Generator) -> list[int]:
    """A patient for each analysis: everyone gets one, the rest go to patients who lack that segment."""
    owners, own = [-1] * len(groups), [set() for _ in range(patients)]
    for turn, index in enumerate(rng.permutation(len(groups))):
        segment = groups[index][0]
        free = [turn] if turn < patients else [p for p in range(patients) if segment not in own[p]]
        if not free:
            raise ValueError(f"more analyses of CASS segment {segment} than patients; raise --patients")
        fewest = min(len(own[p]) for p in free)
        owners[index] = int(rng.choice([p for p in free if len(own[p]) == fewest]))
        own[owners[index]].add(segment)
    return owners


def _split(groups, owners: list[int], patients: int, rng: np.random.Generator) -> list[str]:
    """Train or val for each patient: about 30 % of the rows of every segment in val, no patient in both."""
    rows = np.zeros(patients, int)
    first = np.zeros(patients, int)
    for (segment, count), owner in zip(groups, owners):
        rows[owner] += count
        first[owner] = max(first[owner], segment)
    splits, due = ["train"] * patients, float(rng.uniform(0.2, 0.8)) * rows.max()
    for patient in sorted(range(patients), key=lambda p: (first[p], p)):
        due += VAL_SHARE * rows[patient]
        if due >= rows[patient] and due > rows.max():
            splits[patient], due = "val", due - rows[patient]
    if patients > 1 and len(set(splits)) == 1:
        splits[-1] = "val" if splits[-1] == "train" else "train"
    _mend_split(splits, groups, owners, rows)
    return splits


def _mend_split(splits: list[str], groups, owners: list[int], rows: np.ndarray) -> None:
    """Bring every segment that two patients have into both splits, in place, where patients can be exchanged.

    A split that lacks a segment gets its patient with the fewest rows; in return goes the patient whose rows
    are nearest in number, of those whose segments stay behind with others.
    """
    for split, other in (("val", "train"), ("train", "val")):
        for segment in sorted(set(s for s, _ in groups)):
            own = {p for (s, _), p in zip(groups, owners) if s == segment}
            if len(own) < 2 or any(splits[p] == split for p in own):
                continue
            moved = min(own, key=lambda p: (rows[p], p))
            splits[moved] = split
            spare = [p for p in range(len(splits)) if splits[p] == split and p != moved]
            spare = [p for p in spare if _is_spare(p, splits, groups, owners)]
            if spare:
                splits[min(spare, key=lambda p: (abs(rows[p] - rows[moved]), p))] = other


def _is_spare(patient: int, splits: list[str], groups, owners: list[int]) -> bool:
    """Whether each of a patient's segments has another patient in the same split."""
    needed = {s for (s, _), p in zip(groups, owners) if p == patient}
    shared = {s for (s, _), p in zip(groups, owners) if p != patient and splits[p] == splits[patient]}
    return needed <= shared
