"""How exact is the measurement alone, from true lumens of the phantom with noise-free edges?

    python -m benchmarks.qca_accuracy
    python -m benchmarks.qca_accuracy --lesions 30 --out outputs/benchmarks

Draws random lesions (see benchmarks/qca_cases.py for what they are and what truth means), measures each from the exact
coverage of every pixel (float), from the same blurred by one pixel (as of a network), and from the mask of pixel
centres (bool), and prints bias, SD and mean absolute error
of MLD, RVD, %DS and lesion length for all of them and by stratum. Targets: MLD bias within 0.03 mm and SD within
0.08 mm, %DS within 2 points, on lesions of 20-90 %DS whose lumen is 0.5-4 mm wide. Thinner ones, two pixels or fewer,
are drawn too and reported apart. Writes qca_accuracy.json and qca_accuracy_lesions.csv to --out.
"""

import argparse
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from benchmarks.qca_cases import KINDS, LumenCase, draw_case
from qca.agreement import agreement_of
from qca.calibration import Calibration
from qca.errors import QcaError
from qca.measure import measure_lumen
from utils.arguments import HelpFormatter, non_negative_int, positive_int
from utils.files import write_text_atomic

LUMEN_MM = (0.5, 4.0)  # of the lumen at the MLD: what the targets are about
QUANTITIES = {"mld": "mm", "ds": "points", "rvd": "mm", "length": "mm"}
TARGET = {"mld_bias": 0.03, "mld_sd": 0.08, "ds_mae": 2.0}
CURVED_DEG = 45.0  # turning of the course within the lesion
ECCENTRIC = 0.5  # from here on one wall carries most of the plaque
SEEN = 0.3  # share of lumen just outside of the edges at the MLD; with more, the edge is hidden
LUMENS = ("coverage", "blurred", "mask")
NEAR_MM = 2.0  # a found MLD farther from the true one is another place


def measure_case(case: LumenCase, kind: str, seed: int) -> dict:
    """Truth and measurement of one lumen. kind: one of `LUMENS`."""
    truth = case.truth
    record = {
        "kind": case.kind, "seed": seed, "lumen": kind, "spacing_mm": case.spacing_mm, "px_per_mm": case.px_per_mm,
        "eccentricity": case.eccentricity, "turning_deg": case.turning_deg, "mld_true": truth["MLD_mm"],
        "rvd_true": truth["interpolated_RVD_mm"], "ds_true": truth["diameter_stenosis_pct"],
        "length_true": truth["lesion_length_mm"], "hidden": case.hidden, "error": "",
    }
    start = time.process_time()
    try:
        found = measure_lumen(getattr(case, kind), Calibration(case.px_per_mm, "truth"), proximal_px=case.proximal_px)
    except QcaError as error:
        return record | {"error": str(error)}
    spent_ms = 1000 * (time.process_time() - start)
    # Of two lesions that are about as severe either may come out worse; what is asked is how this one is measured.
    off_mm = [found.arc_px[one.mld] / case.px_per_mm - truth["obstruction_position_mm"] for one in found.lesions]
    nearest = int(np.abs(off_mm).argmin())
    lesion = found.lesions[nearest]
    return record | {
        "ms": spent_ms, "mld": lesion.mld_px / case.px_per_mm, "rvd": lesion.reference_px / case.px_per_mm,
        "ds": lesion.stenosis_pct, "length": lesion.length_px / case.px_per_mm, "off_mm": off_mm[nearest],
        "rank": nearest + 1, "lesions": len(found.lesions), "flags": "; ".join(found.flags),
    }


def measure_seed(seed: int) -> list[dict]:
    """All kinds of lumen of a seed's lesion."""
    case = draw_case(seed, KINDS[seed % len(KINDS)])
    return [measure_case(case, lumen, seed) for lumen in LUMENS]


def strata(table: pd.DataFrame) -> dict[str, pd.Series]:
    """Which rows (bool) belong to what, of one kind of lumen."""
    wanted = table["mld_true"].between(*LUMEN_MM)
    single = wanted & (table["kind"] == "single")
    curved, eccentric = table["turning_deg"] >= CURVED_DEG, table["eccentricity"] >= ECCENTRIC

    def within(name: str, low: float, high: float) -> pd.Series:
        return wanted & (table[name] >= low) & (table[name] < high)

    return {
        "all, lumen 0.5-4 mm": wanted,
        "one lesion": single,
        "one lesion, concentric": single & ~eccentric, "one lesion, eccentric": single & eccentric,
        "one lesion, straight": single & ~curved, "one lesion, curved": single & curved,
        "tandem": wanted & (table["kind"] == "tandem"), "bifurcation": wanted & (table["kind"] == "bifurcation"),
        "pixel 0.18-0.25 mm": within("spacing_mm", 0.18, 0.25), "pixel 0.25-0.32 mm": within("spacing_mm", 0.25, 0.32),
        "pixel 0.32-0.39 mm": within("spacing_mm", 0.32, 0.4),
        "lumen 0.5-1 mm": within("mld_true", 0.5, 1), "lumen 1-2 mm": within("mld_true", 1, 2),
        "lumen 2-4 mm": within("mld_true", 2, 4.01),
        "20-50 %DS": within("ds_true", 0, 50), "50-70 %DS": within("ds_true", 50, 70),
        "70-90 %DS": within("ds_true", 70, 100),
        "length below 6 mm": within("length_true", 0, 6), "length 6 mm or more": within("length_true", 6, 100),
        "edges seen at the MLD": wanted & (table["hidden"] < SEEN),
        "an edge hidden at the MLD": wanted & (table["hidden"] >= SEEN),
        "lumen below 0.5 mm": table["mld_true"] < LUMEN_MM[0],
    }


def summarize(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each kind of lumen and stratum: numbers of lesions and failures, bias, SD and MAE."""
    rows = {}
    for lumen, own in table.groupby("lumen"):
        for name, chosen in strata(own).items():
            rows[lumen, name] = _figures(own[chosen])
    return pd.DataFrame(rows).T


def _figures(part: pd.DataFrame) -> dict[str, float]:
    measured = part[part["error"] == ""]
    figures = {"n": len(part), "failed": len(part) - len(measured),
               "elsewhere": int((measured["off_mm"].abs() > NEAR_MM).sum())}
    for name in QUANTITIES:
        found = agreement_of(measured[f"{name}_true"].to_numpy(), measured[name].to_numpy())
        figures |= {f"{name}_bias": found.bias, f"{name}_sd": found.sd, f"{name}_mae": found.mae}
    figures["ds_within_2"] = float(((measured["ds"] - measured["ds_true"]).abs() <= TARGET["ds_mae"]).mean())
    figures["mld_median_off"] = float((measured["mld"] - measured["mld_true"]).abs().median())
    return figures


def report(table: pd.DataFrame) -> str:
    """The table as text, and whether the targets are met."""
    summary = summarize(table)
    lines = []
    for lumen in summary.index.unique(level=0):
        own = summary.loc[lumen]
        counts = own[["n", "failed", "elsewhere"]].astype(int)
        figures = own.drop(columns=["n", "failed", "elsewhere"]).map(lambda value: f"{value:.3f}")
        all_of_them = own.iloc[0]
        met = (f"MLD bias {all_of_them['mld_bias']:+.3f} mm (within {TARGET['mld_bias']:g}), SD "
               f"{all_of_them['mld_sd']:.3f} mm (within {TARGET['mld_sd']:g}), %DS bias {all_of_them['ds_bias']:+.2f}, "
               f"mean absolute error {all_of_them['ds_mae']:.2f} points (within {TARGET['ds_mae']:g})")
        lines += [f"from the {lumen}: {met}", counts.join(figures).to_string(), ""]
    return "\n".join(lines)


def run(options: argparse.Namespace) -> pd.DataFrame:
    """Draw, measure, write, print; returns a row for each lesion and kind of lumen."""
    rows = []
    seeds = range(options.seed, options.seed + options.lesions)
    with ProcessPoolExecutor(options.workers) as pool:
        for found in tqdm(pool.map(measure_seed, seeds), "measuring", total=len(seeds), disable=None):
            rows += found
    table = pd.DataFrame(rows)
    summary = summarize(table)
    figures = {
        f"{lumen}: {name}": {key: None if np.isnan(value) else round(float(value), 4) for key, value in row.items()}
        for (lumen, name), row in summary.to_dict("index").items()
    }
    content = {"lesions": options.lesions, "seed": options.seed, "figures": figures}
    write_text_atomic(options.out / "qca_accuracy.json", json.dumps(content, indent=1) + "\n")
    if options.table:
        text = table.to_csv(index=False, float_format="%.4f", lineterminator="\n")
        write_text_atomic(options.out / "qca_accuracy_lesions.csv", text)
    print(report(table))
    return table


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.qca_accuracy", description=__doc__,
                                     formatter_class=HelpFormatter)
    parser.add_argument("--lesions", type=positive_int, default=480, help="how many to draw")
    parser.add_argument("--seed", type=non_negative_int, default=3000, help="of the first lesion")
    parser.add_argument("--workers", type=positive_int, default=2, help="processes; the figures do not depend on it")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks"), help="folder to write to")
    parser.add_argument("--table", action=argparse.BooleanOptionalAction, default=True,
                        help="also write a row for each lesion")
    run(parser.parse_args(arguments))
    return 0


if __name__ == "__main__":
    sys.exit(main())
