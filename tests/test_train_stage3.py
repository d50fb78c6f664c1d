"""Stage 3 from its command line: what it starts from, what it says and writes, what it refuses."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

import train_stage3_obstructions as stage3
from models.loading import load_model
from models.obstruction_model import LEFT_BEHIND, NEW_PARTS
from tests.csv_fixture import write_tiny_dataset
from tests.stage_script import flags, run_main
from tests.tiny_checkpoint import write_tiny_cass_checkpoint, write_tiny_checkpoint
from utils.checkpoint import CheckpointError, load_checkpoint
from utils.history import read_history
from utils.run_files import RunFiles
from utils.stage import load_tables


POSITIVE = ("--threshold-pct", 5)  # the tiny data set's lesions are mild


@pytest.fixture(scope="module")
def csv_path(tmp_path_factory):
    """Two training and two validation rows, the last one with true lesions."""
    shape = dict(patients=4, rows_per_patient=1, val_patients=2)
    path = write_tiny_dataset(tmp_path_factory.mktemp("data"), **shape)
    lesion = {"cass_segment": 12, "diameter_stenosis_pct": 70.0, "position_px": [40, 40], "box_px": [30, 30, 50, 50],
              "px_per_mm": 4.0, "overlapped": False, "in_frame": True}
    (path.parent / "lesions.json").write_text(json.dumps([lesion]))
    table = pd.read_csv(path, dtype=str)
    table["true_lesions_path"] = [None, None, None, "lesions.json"]
    table.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def parents(tmp_path_factory):
    """Checkpoints of stage 1 and 2, by stage."""
    folder = tmp_path_factory.mktemp("parents")
    return {
        "phase1_deepsa": write_tiny_checkpoint(folder / "phase1_deepsa_best.pth", epoch=7),
        "phase2_cass": write_tiny_cass_checkpoint(folder / "phase2_cass_best.pth", epoch=5),
    }


def parse(csv_path, folder, *more):
    return stage3.parse_arguments(flags(csv_path, folder, *more))


@pytest.fixture(scope="module")
def trained(csv_path, parents, tmp_path_factory):
    """Files of a run of one epoch from stage 2's checkpoint beside it, and what it said."""
    folder = tmp_path_factory.mktemp("run")
    for path in parents.values():
        (folder / path.name).write_bytes(path.read_bytes())
    said, code = run_main(stage3, *flags(csv_path, folder, *POSITIVE))
    assert code == 0, said
    return RunFiles(folder, stage3.STAGE), said


def test_the_missions_configuration_is_the_default(tmp_path):
    args = stage3.parse_arguments(["--data-csv", "x.csv", "--checkpoint-dir", str(tmp_path)])
    assert (args.backbone, args.image_size, args.epochs, args.batch_size) == ("sam3", 1008, 50, 4)
    assert (args.lr, args.threshold_pct, args.elsewhere_weight) == (5e-5, 50.0, 0.0)
    assert args.init_from == tmp_path / "phase1_deepsa_best.pth"
    (tmp_path / "phase2_cass_best.pth").touch()
    args = stage3.parse_arguments(["--data-csv", "x.csv", "--checkpoint-dir", str(tmp_path)])
    assert args.init_from == tmp_path / "phase2_cass_best.pth"
    assert stage3.build_stage(args).master_port == 12357


@pytest.mark.parametrize("stage", ["phase1_deepsa", "phase2_cass"])
def test_every_tensor_that_the_stage_has_a_use_for_arrives(csv_path, parents, tmp_path, stage):
    model, parent = stage3.build_model(parse(csv_path, tmp_path, "--init-from", parents[stage]), resumes=False)
    state, handed = model.state_dict(), load_checkpoint(parents[stage])["model"]
    kept = {name: value for name, value in handed.items() if not name.startswith(LEFT_BEHIND)}
    assert all(torch.equal(state[name], value) for name, value in kept.items())
    assert {name for name in state if not name.startswith(NEW_PARTS)} == kept.keys()
    assert parent["stage"] == stage and ("left behind" in parent["handed_over"]) == (stage == "phase2_cass")


def test_a_run_leaves_its_files_and_metrics(trained):
    files, said = trained
    assert "hand-over from" in said and "phase2_cass_best.pth" in said
    assert "obstructions from 5 %DS on: train 2 of 2 rows, val 2 of 2 rows" in said and "WARNING" not in said
    for path in (files.latest, files.best, files.history, files.curves, files.metrics, files.picture("froc")):
        assert path.stat().st_size > 0, path
    metrics = json.loads(files.metrics.read_text())
    assert (metrics["n_frames"], metrics["n_patients"]) == (2, 2)
    for name in ("f1_iou50", "ap_iou50", "sensitivity_at_1fp", "mld_point_error_mm_median", "ds_mae_points",
                 "dice_deepsa", "f1_iou50_truth", "dice_truth"):
        assert name in metrics, name
    assert metrics["n_targets_truth"] == 1 and metrics["n_frames_truth"] == 1
    (epoch,) = read_history(files.history)
    assert epoch["train_score"] > 0 and "val_f1_iou50" in epoch


def test_its_checkpoint_opens_and_answers(trained):
    model, checkpoint = load_model(trained[0].best)
    assert checkpoint["stage"] == "phase3_obstruction" and not model.training
    output = model(torch.rand(1, 3, 336, 336), torch.tensor([[10.0, torch.nan]]))
    assert output.score_logits.shape == (1, 1, 84, 84) and output.sides.shape == (1, 4, 84, 84)


def test_eval_only_gives_the_runs_own_figures(csv_path, trained, tmp_path):
    files, _ = trained
    said, code = run_main(stage3, *flags(csv_path, tmp_path, *POSITIVE, "--eval-only", "--init-from", files.best))
    assert code == 0, said
    again = json.loads(RunFiles(tmp_path, stage3.STAGE).metrics.read_text())
    first = json.loads(files.metrics.read_text())
    for name in ("dice_deepsa", "f1_iou50", "ap_iou50_truth", "threshold"):
        assert again[name] == pytest.approx(first[name], nan_ok=True), name


def test_a_finished_run_is_not_written_over_and_resumes(csv_path, trained):
    files, _ = trained
    before = files.best.read_bytes()
    said, code = run_main(stage3, *flags(csv_path, files.folder, *POSITIVE))
    assert code == 1 and "--resume" in said and files.best.read_bytes() == before
    said, code = run_main(stage3, *flags(csv_path, files.folder, *POSITIVE, "--resume"))
    assert code == 0 and "all 1 epochs are done" in said


def test_wrong_starts_are_refused_by_name(csv_path, parents, trained, tmp_path, capsys):
    said, code = run_main(stage3, *flags(csv_path, tmp_path))
    assert code == 1 and "phase1_deepsa_best.pth: no such checkpoint" in said
    args = parse(csv_path, tmp_path, "--init-from", parents["phase1_deepsa"], "--eval-only")
    with pytest.raises(CheckpointError, match="--eval-only here is for"):
        stage3.build_model(args, resumes=False)
    args = parse(csv_path, tmp_path, "--init-from", parents["phase1_deepsa"], "--backbone", "medsam2", "--image-size", 64)
    with pytest.raises(CheckpointError, match="--backbone sam3-tiny"):
        stage3.build_model(args, resumes=False)
    for wrong in (["--random-init"], ["--view-dropout", "1.5"], ["--threshold-pct", "0"]):
        with pytest.raises(SystemExit):
            parse(csv_path, tmp_path, *wrong)
        assert wrong[0] in capsys.readouterr().err
    assert Path(trained[0].best).exists()


def test_rows_without_anything_to_find_are_said(csv_path, tmp_path):
    said = stage3.describe_rows(load_tables(parse(csv_path, tmp_path)), 99.0)
    assert "train 0 of 2 rows, val 0 of 2 rows" in said and "WARNING: none in train and val" in said
