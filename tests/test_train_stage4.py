"""Stage 4 from its command line: what it starts from, what it says and writes, what it refuses; and its preview."""

import json

import pytest
import torch

import test_model_during_training as viewer
import train_stage4_quantitative as stage4
from models.loading import load_model
from models.lumen_model import LEFT_BEHIND, NEW_PARTS
from tests.csv_fixture import write_tiny_dataset
from tests.stage_script import flags, run_main
from tests.tiny_checkpoint import (
    write_tiny_cass_checkpoint, write_tiny_checkpoint, write_tiny_lumen_checkpoint, write_tiny_obstruction_checkpoint,
)
from utils.checkpoint import CheckpointError, load_checkpoint
from utils.history import read_history
from utils.run_files import RunFiles


@pytest.fixture(scope="module")
def csv_path(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("data"), patients=4, rows_per_patient=1, val_patients=2)


@pytest.fixture(scope="module")
def parents(tmp_path_factory):
    """Checkpoints of stages 1, 2 and 3, by stage."""
    folder = tmp_path_factory.mktemp("parents")
    return {
        "phase1_deepsa": write_tiny_checkpoint(folder / "phase1_deepsa_best.pth", epoch=7),
        "phase2_cass": write_tiny_cass_checkpoint(folder / "phase2_cass_best.pth", epoch=5),
        "phase3_obstruction": write_tiny_obstruction_checkpoint(folder / "phase3_obstruction_best.pth", epoch=3),
    }


def parse(csv_path, folder, *more):
    return stage4.parse_arguments(flags(csv_path, folder, *more))


@pytest.fixture(scope="module")
def trained(csv_path, parents, tmp_path_factory):
    """Files of a run of one epoch from stage 2's checkpoint beside it, and what it said."""
    folder = tmp_path_factory.mktemp("run")
    for path in parents.values():
        (folder / path.name).write_bytes(path.read_bytes())
    said, code = run_main(stage4, *flags(csv_path, folder))
    assert code == 0, said
    return RunFiles(folder, stage4.STAGE), said


def test_the_missions_configuration_is_the_default(tmp_path):
    def parsed():
        return stage4.parse_arguments(["--data-csv", "x.csv", "--checkpoint-dir", str(tmp_path)])

    args = parsed()
    assert (args.backbone, args.image_size, args.epochs, args.batch_size, args.lr) == ("sam3", 1008, 50, 4, 5e-5)
    assert stage4.build_stage(args).master_port == 12358
    for name in ("phase3_obstruction", "phase1_deepsa", "phase2_cass"):  # the later one here is preferred
        (tmp_path / f"{name}_best.pth").touch()
        assert parsed().init_from == tmp_path / f"{name}_best.pth"


@pytest.mark.parametrize("stage", ["phase1_deepsa", "phase2_cass", "phase3_obstruction"])
def test_every_tensor_that_the_stage_has_a_use_for_arrives(csv_path, parents, tmp_path, stage):
    model, parent = stage4.build_model(parse(csv_path, tmp_path, "--init-from", parents[stage]), resumes=False)
    state, handed = model.state_dict(), load_checkpoint(parents[stage])["model"]
    kept = {name: value for name, value in handed.items() if not name.startswith(LEFT_BEHIND)}
    assert all(torch.equal(state[name], value) for name, value in kept.items())
    assert {name for name in state if not name.startswith(NEW_PARTS)} == kept.keys()
    assert parent["stage"] == stage


def test_a_run_leaves_its_files_and_metrics(trained):
    files, said = trained
    assert "hand-over from" in said and "phase2_cass_best.pth" in said
    for path in (files.latest, files.best, files.history, files.curves, files.metrics, files.picture("agreement")):
        assert path.stat().st_size > 0, path
    metrics = json.loads(files.metrics.read_text())
    assert (metrics["n_frames"], metrics["n_patients"]) == (2, 2)
    for name in ("dice_lumen", "surface_px", "surface_mm", "measured_share", "mld_mae_mm", "mld_bias_mm", "mld_sd_mm",
                 "mld_icc", "rvd_mae_mm", "ds_mae_points", "lesion_length_mae_mm", "mld_position_mae_px",
                 "mld_mae_mm_lesions", "ds_mae_points_all"):
        assert name in metrics and f"{name}_ci95" in metrics, name
    (epoch,) = read_history(files.history)
    assert epoch["train_edge"] > 0 and "val_ds_mae_points_all" in epoch
    assert load_checkpoint(files.latest)["progress"]["best"]["metric"] == "ds_mae_points_all"


def test_its_checkpoint_opens_and_answers(trained):
    model, checkpoint = load_model(trained[0].best)
    assert checkpoint["stage"] == "phase4_quantitative" and not model.training
    image, view_deg = torch.rand(1, 3, 336, 336), torch.tensor([[10.0, torch.nan]])
    box, ends = torch.tensor([[50.0, 60, 200, 300]]), torch.full((1, 2, 2), torch.nan)
    output = model(image, view_deg, box, ends)
    assert output.lumen_logits.shape == output.distance.shape == (1, 1, 336, 336)
    for other in ((box + 30, ends), (box, torch.tensor([[[60.0, 70.0], [190.0, 290.0]]]))):
        assert not torch.equal(output.distance, model(image, view_deg, *other).distance)


def test_eval_only_gives_the_runs_own_figures(csv_path, trained, tmp_path):
    files, _ = trained
    said, code = run_main(stage4, *flags(csv_path, tmp_path, "--eval-only", "--init-from", files.best))
    assert code == 0, said
    again = json.loads(RunFiles(tmp_path, stage4.STAGE).metrics.read_text())
    first = json.loads(files.metrics.read_text())
    for name in ("dice_lumen", "surface_px", "measured_share", "ds_mae_points_all"):
        assert again[name] == pytest.approx(first[name], nan_ok=True), name


def test_a_finished_run_is_not_written_over_and_resumes(csv_path, trained):
    files, _ = trained
    before = files.best.read_bytes()
    said, code = run_main(stage4, *flags(csv_path, files.folder))
    assert code == 1 and "--resume" in said and files.best.read_bytes() == before
    said, code = run_main(stage4, *flags(csv_path, files.folder, "--resume"))
    assert code == 0 and "all 1 epochs are done" in said


def test_wrong_starts_are_refused_by_name(csv_path, parents, tmp_path, capsys):
    said, code = run_main(stage4, *flags(csv_path, tmp_path))
    assert code == 1 and "phase3_obstruction_best.pth: no such checkpoint" in said
    args = parse(csv_path, tmp_path, "--init-from", parents["phase1_deepsa"], "--eval-only")
    with pytest.raises(CheckpointError, match="--eval-only here is for"):
        stage4.build_model(args, resumes=False)
    with pytest.raises(SystemExit):
        parse(csv_path, tmp_path, "--random-init")
    assert "--random-init" in capsys.readouterr().err


def test_a_contours_file_that_is_gone_is_named_with_its_row(csv_path, parents, tmp_path):
    copied = write_tiny_dataset(tmp_path / "data", patients=4, rows_per_patient=1, val_patients=2)
    broken = sorted((tmp_path / "data" / "contours").iterdir())[0]
    content = json.loads(broken.read_text())
    content["left_edge"] = content["left_edge"][:3]
    broken.write_text(json.dumps(content))
    said, code = run_main(stage4, *flags(copied, tmp_path / "run", "--init-from", parents["phase1_deepsa"]))
    assert code == 1 and broken.name in said and "left_edge" in said


def test_the_viewer_draws_medis_and_the_prediction(csv_path, tmp_path, capsys):
    write_tiny_lumen_checkpoint(tmp_path / "phase4_quantitative_latest.pth", epoch=2)
    code = viewer.main(["--checkpoint-dir", str(tmp_path), "--data-csv", str(csv_path), "--cases", "2"])
    assert code == 0 and "phase4_quantitative, epoch 2" in capsys.readouterr().out
    assert (tmp_path / "phase4_quantitative_preview.png").stat().st_size > 10_000
