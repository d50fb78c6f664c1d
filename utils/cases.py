"""A few rows of a table to look at: the same ones every time, and spread over the patients."""
import numpy as np
import pandas as pd


def choose_cases(table: pd.DataFrame, count: int, *, seed: int = 0) -> list[int]:
    """Return up to `count` positions in `table` (ascending): one row of every patient before a second of any.

    Which patients and which of their rows is drawn from `seed`; it needs the column `patient_id`.
    """
    shuffled = np.random.default_rng(seed).permutation(len(table))
    patients = table["patient_id"].to_numpy()[shuffled]
    turn = pd.Series(patients).groupby(patients).cumcount().to_numpy()
    return sorted(int(position) for position in shuffled[np.argsort(turn, kind="stable")][:count])
