"""Does the model use the view angles, and how much? A tool, not a test: one figure, and the answer in words.

    python test_view_angle_impact.py --data-csv data.csv
    python test_view_angle_impact.py --data-csv data.csv --checkpoint runs/a/phase1_deepsa_best.pth --limit 99
    python test_view_angle_impact.py --data-csv data.csv --checkpoint runs/a/phase2_cass_best.pth
    python test_view_angle_impact.py --data-csv data.csv --checkpoint runs/a/phase2_cass_best.pth \\
        --compare runs/no_view/phase2_cass_best.pth
    python test_view_angle_impact.py --data-csv data.csv --checkpoint runs/a/phase3_obstruction_best.pth

Three questions, on frames of --split:
  embeddings    are different angles different to the view encoder?
  predictions   how far does the answer for a frame change when it is told each of the 9 x 9 angles?
  accuracy      is it better with the true angles than with another patient's, one axis alone, or none?

The answer is the vessel mask of a phase 1 checkpoint, expected to be nearly blind to angles; the names of
segments of a phase 2 checkpoint: pointed (which segment is this one? its mask is given), blind (which one was
analysed?) and, with true CASS maps, every vessel pixel; the obstructions that a phase 3 checkpoint finds,
against the annotated one and, apart, against every true one where the data has them.

For phases 2 and 3 one more:
  --compare     what were the angles worth in training? The other model is one trained with --no-use-view.
And for phase 2:
  probe         can the image alone give the view away, and the angles alone the segment?

Writes view_angle_impact.png and view_angle_impact.json to --out.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from data.errors import DataError
from data.paths import parse_path_maps
from data.schema import load_table, select_split
from models.loading import load_model
from utils.arguments import (
    HelpFormatter,
    add_data_arguments,
    add_device_argument,
    choose_device,
    positive_int,
)
from utils.cases import choose_cases
from utils.checkpoint import CheckpointError
from utils.entry import clean_exit
from utils.files import save_figure_atomic, write_text_atomic
from utils.history import to_json
from utils.prediction import CASS_STAGE, OBSTRUCTION_STAGE, SHIPPED_CHECKPOINT, STAGE
from utils.reports.records import describe_checkpoint
from utils.view_impact.obstructions import (DetectingModel, compare_detectors, detect_at_true_angles,
                                            measure_obstructions, summarise_impact)
from utils.view_impact.obstructions_figure import draw_obstructions_impact
from utils.view_impact.obstructions_words import judge_obstructions
from utils.view_impact.probe import LEAST_TRAIN_ROWS, name_by_habit, probe_backbone
from utils.view_impact.segments import (NamingModel, choose_grid_rows, describe_case, measure_at_true_angles,
                                        measure_frames)
from utils.view_impact.segments_figure import draw_names_impact
from utils.view_impact.segments_summary import compare_models, summarise_names
from utils.view_impact.segments_words import judge_names
from utils.view_impact.vessels import describe_similarity, grid_views, measure_masks, summarise_conditions
from utils.view_impact.vessels_figure import draw_impact, judge

# A share of frames that are right has a wider interval than a mean Dice.
DEFAULT_LIMIT = {STAGE: 48, CASS_STAGE: 200, OBSTRUCTION_STAGE: 200}
WITHOUT_VIEW = (
    "Verdict: blind. This model was trained without view angles (--no-use-view), so its predictions "
    "cannot depend on them."
)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add_data_arguments(parser)
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED_CHECKPOINT, help="weights of stage 1, 2 or 3")
    parser.add_argument("--split", choices=("train", "val", "all"), default="val", help="rows to measure on")
    parser.add_argument(
        "--limit", type=positive_int, default=None,
        help="frames at most, spread over patients; without it 48 for phase 1, else 200",
    )
    parser.add_argument(
        "--grid-frames", type=positive_int, default=6, help="of these, frames decoded at all 81 angles"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the choice of frames and of the shuffled angles"
    )
    parser.add_argument("--compare", type=Path, default=None, metavar="CHECKPOINT",
                        help="phases 2 and 3: another model of the same phase, measured at the true angles on "
                             "the same frames")
    names = parser.add_argument_group("phase 2")
    names.add_argument("--probe", action=argparse.BooleanOptionalAction, default=True,
                       help="fit angles to image features of training rows and try them on --split val")
    names.add_argument("--probe-rows", type=positive_int, default=600,
                       help="training rows at most, spread over patients, for the probe")
    parser.add_argument("--out", type=Path, default=Path("outputs/view_angles"), help="folder to write to")
    add_device_argument(parser)
    return parser


def load_rows(args: argparse.Namespace) -> pd.DataFrame:
    """Return all rows of the CSV, checked."""
    return load_table(args.data_csv, args.data_root, parse_path_maps(args.path_map))


def with_angles(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows whose angles are both known."""
    return table[table[["primary_angle", "secondary_angle"]].notna().all(axis=1)].reset_index(drop=True)


def choose_frames(table: pd.DataFrame, limit: int, args: argparse.Namespace) -> pd.DataFrame:
    """Return up to `limit` rows of --split whose angles are both known."""
    known = with_angles(select_split(table, args.split))
    if known["patient_id"].nunique() < 2:
        raise DataError(
            f"{args.data_csv}: split {args.split} has {known['patient_id'].nunique()} patients with both "
            "view angles; shuffling angles between patients takes two or more"
        )
    return known.iloc[choose_cases(known, limit, seed=args.seed)].reset_index(drop=True)


def count_rows(rows: pd.DataFrame, table: pd.DataFrame, args: argparse.Namespace) -> dict:
    """Return how many frames and patients were measured, and how many rows have no angles."""
    split = select_split(table, args.split)
    return {"n_frames": len(rows), "n_patients": rows["patient_id"].nunique(),
            "rows_without_angles": len(split) - len(with_angles(split))}


def run(args: argparse.Namespace) -> None:
    """Measure, draw, write and say."""
    device = choose_device(args.device)
    model, checkpoint = load_model(args.checkpoint, device)
    record = {"checkpoint": describe_checkpoint(args.checkpoint, checkpoint, ["view angle impact"]),
              "data_csv": str(args.data_csv), "split": args.split, "uses_view": model.view_encoder is not None}
    if model.view_encoder is None:
        record["verdict"] = {"level": "blind", "sentences": [WITHOUT_VIEW]}
    elif checkpoint["stage"] not in RUN_STAGE:
        raise ValueError(f"{args.checkpoint} is of {checkpoint['stage']}, which draws an edge where it is seen; view "
                         "angles are measured of stages 1 to 3. Give one of these with --checkpoint")
    else:
        limit = args.limit or DEFAULT_LIMIT[checkpoint["stage"]]
        record |= RUN_STAGE[checkpoint["stage"]](model, checkpoint, limit, args, device)
    write_text_atomic(args.out / "view_angle_impact.json", to_json(record, indent=2) + "\n")
    print(*record["verdict"]["sentences"], f"written to {args.out}", sep="\n")


def run_masks(model, checkpoint: dict, limit: int, args: argparse.Namespace, device: torch.device) -> dict:
    """Measure the masks of a phase 1 model, save the figure, and return what goes into the JSON."""
    if args.compare:
        raise ValueError(f"--compare is for phases 2 and 3; {args.checkpoint} is of phase 1")
    table = load_rows(args)
    rows = choose_frames(table, limit, args)
    similarity = describe_similarity(model.view_encoder, device)
    image_size = checkpoint["config"]["image_size"]
    measured = measure_masks(model, rows, image_size=image_size, grid_frames=args.grid_frames, seed=args.seed,
                             device=device)
    summary = summarise_conditions(measured["scores"], rows["patient_id"].tolist())
    grid = measured["grid"]
    verdict = judge(similarity["figures"], grid, summary)
    figure = draw_impact(similarity, grid, summary, measured["example"], verdict["sentences"],
                         figure_title(rows, len(grid["dice"]), args))
    save_figure_atomic(figure, args.out / "view_angle_impact.png")
    return {
        **count_rows(rows, table, args),
        "embedding_cosine": similarity["figures"],
        "conditions": summary,
        "verdict": verdict,
        "grid": {
            "n_frames": len(grid["dice"]),
            "views_deg": grid_views().tolist(),
            "mean_dice": grid["dice"].mean(axis=0).ravel().tolist(),
            "least_dice": float(grid["dice"].min()),
            "mean_change": grid["change"].mean(axis=0).ravel().tolist(),
        },
    }


def figure_title(rows: pd.DataFrame, grid_frames: int, args: argparse.Namespace) -> str:
    return (f"Impact of view angles: {args.checkpoint.name}, {len(rows)} frames of "
            f"{rows['patient_id'].nunique()} patients ({args.split}), {grid_frames} of them at all 81 angles")


def run_names(model, checkpoint: dict, limit: int, args: argparse.Namespace, device: torch.device) -> dict:
    """Measure the names of a phase 2 model, save the figure, and return what goes into the JSON."""
    naming = NamingModel(model, checkpoint["config"]["image_size"], device)
    other = load_other_namer(args, model.classes, device) if args.compare else None
    table = load_rows(args)
    named = table[table["cass_segment"].isin(model.classes)].reset_index(drop=True)
    rows = choose_frames(named, limit, args)
    grid_rows = choose_grid_rows(rows, args.grid_frames, seed=args.seed)
    similarity = describe_similarity(model.view_encoder, device)
    found = measure_frames(naming, rows, grid_rows=grid_rows, seed=args.seed)
    summary, patients = summarise_names(found, rows), rows["patient_id"].tolist()
    train, why_no_probe = choose_probe_rows(named, args)
    extra = {} if train is None else {"habit": name_by_habit(train, rows)}
    models = [(naming, found["features"], "probe")]
    if other is not None:
        found_by_other = measure_at_true_angles(other, rows)
        extra["compared"] = compare_models(found["scores"], found_by_other["scores"], patients)
        models.append((other, found_by_other["features"], "other_probe"))
    for one, features, key in models if train is not None else ():
        tables, side = {"train": train, "val": rows}, one.image_size
        extra[key] = probe_backbone(one.model, tables, features, image_size=side, device=device)
    without = unknown_share(table, checkpoint["config"].get("view_dropout", 0.0))
    verdict = judge_names(summary, similarity["figures"], **extra, unknown_share=without)
    figure = draw_names_impact(similarity, summary, found["cases"], extra.get("probe"), verdict["sentences"],
                               figure_title(rows, len(grid_rows), args))
    save_figure_atomic(figure, args.out / "view_angle_impact.png")
    return {
        **count_rows(rows, named, args), "rows_of_other_segments": len(table) - len(named),
        "compare": str(args.compare) if args.compare else None, "no_probe": why_no_probe,
        "train_samples_share_without_angles": without,
        "embedding_cosine": similarity["figures"], **summary, **extra, "verdict": verdict,
        "cases": [describe_case(case, rows) for case in found["cases"]],
    }


def run_obstructions(model, checkpoint: dict, limit: int, args: argparse.Namespace, device: torch.device) -> dict:
    """Measure what a phase 3 model finds, save the figure, and return what goes into the JSON."""
    detector = DetectingModel.of_checkpoint(model, checkpoint, device)
    other = load_other_detector(args, detector.wanted.from_pct, device) if args.compare else None
    threshold, table = detector.wanted.threshold, load_rows(args)
    rows = choose_frames(table, limit, args)
    similarity = describe_similarity(model.view_encoder, device)
    found = measure_obstructions(detector, rows, grid_frames=args.grid_frames, seed=args.seed)
    summary, compared = summarise_impact(found, rows, threshold.score), None
    if other is not None:
        by_other = detect_at_true_angles(other, rows)
        compared = compare_detectors(found["records"]["true"], by_other, rows,
                                     {"this": threshold.score, "other": other.wanted.threshold.score})
    without = unknown_share(table, checkpoint["config"].get("view_dropout", 0.0))
    verdict = judge_obstructions(summary, similarity["figures"], threshold=threshold, compared=compared,
                                 unknown_share=without)
    figure = draw_obstructions_impact(similarity, summary, found["example"], verdict["sentences"],
                                      figure_title(rows, summary["grid"]["n_frames"], args))
    save_figure_atomic(figure, args.out / "view_angle_impact.png")
    return {
        **count_rows(rows, table, args), "score_threshold": threshold.score,
        "score_threshold_source": threshold.source, "threshold_pct": detector.wanted.from_pct,
        "compare": str(args.compare) if args.compare else None, "compared": compared,
        "train_samples_share_without_angles": without,
        "embedding_cosine": similarity["figures"], **summary, "verdict": verdict,
    }


def unknown_share(table: pd.DataFrame, view_dropout: float) -> float:
    """Return the share of training samples that lacked an angle; 1 when there are no rows to judge by.

    view_dropout: with which probability the training hid each angle of a row.
    """
    train = table[table["split"] == "train"]
    known = len(with_angles(train)) / len(train) if len(train) else 0.0
    return 1 - known * (1 - view_dropout) ** 2


def load_other(args: argparse.Namespace, stage: str, device: torch.device) -> tuple[torch.nn.Module, dict]:
    """Return model and checkpoint of --compare; CheckpointError unless it is of `stage`."""
    model, checkpoint = load_model(args.compare, device)
    if checkpoint["stage"] != stage:
        raise CheckpointError(f"--compare {args.compare}: of stage {checkpoint['stage']!r}, allowed is {stage!r}")
    return model, checkpoint


def load_other_namer(args: argparse.Namespace, classes: Sequence[int], device: torch.device) -> NamingModel:
    """Return the model of --compare; CheckpointError unless it names the same segments."""
    model, checkpoint = load_other(args, CASS_STAGE, device)
    if set(model.classes) != set(classes):
        raise CheckpointError(f"--compare {args.compare}: its segments are {sorted(model.classes)}, those of "
                              f"{args.checkpoint} {sorted(classes)}; compare models of the same --classes")
    return NamingModel(model, checkpoint["config"]["image_size"], device)


def load_other_detector(args: argparse.Namespace, from_pct: float, device: torch.device) -> DetectingModel:
    """Return the model of --compare; CheckpointError unless it was trained to find what is as severe."""
    other = DetectingModel.of_checkpoint(*load_other(args, OBSTRUCTION_STAGE, device), device)
    if other.wanted.from_pct != from_pct:
        raise CheckpointError(f"--compare {args.compare}: finds obstructions from {other.wanted.from_pct:g} %DS on, "
                              f"{args.checkpoint} from {from_pct:g}; compare models of the same --threshold-pct")
    return other


def choose_probe_rows(
    table: pd.DataFrame, args: argparse.Namespace
) -> tuple[pd.DataFrame | None, str | None]:
    """Return training rows for the probe, or None and why there are none."""
    known = with_angles(table[table["split"] == "train"])
    if not args.probe:
        return None, "--no-probe"
    if args.split != "val":
        return None, f"it is fitted on training rows, so it cannot be judged on --split {args.split}"
    if len(known) < LEAST_TRAIN_ROWS:
        return None, f"{len(known)} training rows with both angles; it takes {LEAST_TRAIN_ROWS}"
    return known.iloc[choose_cases(known, args.probe_rows, seed=args.seed)].reset_index(drop=True), None


RUN_STAGE = {STAGE: run_masks, CASS_STAGE: run_names, OBSTRUCTION_STAGE: run_obstructions}


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    with clean_exit("stopped; nothing was written", also=(ValueError,)):
        run(args)


if __name__ == "__main__":
    main()
