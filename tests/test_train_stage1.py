"""Stage 1 from its command line: what it writes, what it refuses, what it measures."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import train_stage1_deepsa as stage1
from models import backbone
from models.loading import load_model
from tests.csv_fixture import write_tiny_dataset
from utils import stage
from utils.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from utils.entry import describe_weights
from utils.history import read_history
from utils.losses import vessel_losses
from utils.ranks.distributed import Ranks
from utils.run_files import RunFiles
from utils.stage import load_tables, run_stage
from utils.training_state import digest_of_rows


@pytest.fixture(scope="module")
def csv_path(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("data"), patients=3, rows_per_patient=1, size=96)


def parse(csv_path, folder, *more):
    flags = [
        "--data-csv",
        csv_path,
        "--backbone",
        "sam3-tiny",
        "--batch-size",
        2,
        "--epochs",
        1,
        "--device",
        "cpu",
        "--amp",
        "off",
        "--num-workers",
        0,
        "--checkpoint-dir",
        folder,
        *more,
    ]
    return stage1.parse_arguments([str(flag) for flag in flags])


def run_script(*flags):
    command = [sys.executable, "train_stage1_deepsa.py", *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def trained(csv_path, tmp_path_factory):
    """Files of a run of one epoch, and its arguments."""
    folder = tmp_path_factory.mktemp("run")
    args = parse(csv_path, folder)
    run_stage(Ranks(), stage1.STAGE_1, args, load_tables(args))
    return RunFiles(folder, stage1.STAGE), args


def test_the_missions_configuration_is_the_default():
    args = stage1.parse_arguments(["--data-csv", "x.csv"])
    assert (args.backbone, args.image_size, args.epochs, args.batch_size) == ("sam3", 1008, 50, 4)
    assert (args.lr, args.backbone_lr_scale, args.clip, args.ddp_backend) == (1e-4, 0.1, 1.0, "gloo")
    assert stage1.parse_arguments(["--data-csv", "x.csv", "--backbone", "sam3-tiny"]).image_size == 336


def test_help_teaches():
    done = run_script("--help")
    assert done.returncode == 0
    assert all(
        text in done.stdout for text in ("--resume", "sam3-tiny --dry-run", "default: 0.0001", "OLD=NEW")
    )


def test_a_dry_run_from_the_command_line_leaves_nothing(csv_path, tmp_path):
    done = run_script(
        "--data-csv",
        csv_path,
        "--backbone",
        "sam3-tiny",
        "--dry-run",
        "--batch-size",
        1,
        "--device",
        "cpu",
        "--num-workers",
        0,
        "--checkpoint-dir",
        tmp_path / "none",
    )
    assert done.returncode == 0, done.stderr
    for text in (
        "device: cpu",
        "data: train 2 rows of 2 patients, val 1 rows of 1 patients",
        "effective batch 1",
        "dry run",
    ):
        assert text in done.stdout
    assert not (tmp_path / "none").exists()


def test_a_run_leaves_the_files_of_the_design(trained):
    files, args = trained
    assert {file.name for file in files.folder.iterdir()} == {
        f"phase1_deepsa_{name}"
        for name in ("latest.pth", "best.pth", "history.jsonl", "curves.png", "metrics.json")
    }
    checkpoint = load_checkpoint(files.latest)
    keys = "format stage epoch global_step model optimizer scheduler rng sampler metrics config classes"
    assert {*keys.split(), "parent"} <= checkpoint.keys()
    assert checkpoint["config"]["backbone"] == "sam3-tiny" and checkpoint["config"]["command"]
    assert not any(name.startswith("module.") for name in checkpoint["model"])
    (line,) = read_history(files.history)
    assert line["epoch"] == 1 and line["train_samples"] == 2 and line["val_n_frames"] == 1


def test_metrics_are_flat_and_named_as_the_design_says(trained):
    metrics = json.loads(trained[0].metrics.read_text())
    names = [
        f"{score}_{against}"
        for score in ("dice", "iou", "cldice", "hd95_px")
        for against in ("deepsa", "truth")
    ]
    for name in [*names, "deepsa_dice_truth"]:
        assert isinstance(metrics[name], float) and len(metrics[f"{name}_ci95"]) == 2
    assert metrics["n_patients"] == metrics["n_frames"] == 1
    assert (metrics["split"], metrics["epoch"]) == ("val", 1)


def test_the_best_checkpoint_is_a_model_for_others(trained):
    model, checkpoint = load_model(trained[0].best)
    latest = load_checkpoint(trained[0].latest)
    assert checkpoint["optimizer"] is None and checkpoint["classes"] == ["vessel"]
    assert all(torch.equal(value, latest["model"][name]) for name, value in model.state_dict().items())


def test_eval_only_repeats_the_validation_of_the_checkpoint(trained, csv_path, tmp_path, capsys):
    args = parse(csv_path, tmp_path, "--eval-only", "--init-from", trained[0].best)
    run_stage(Ranks(), stage1.STAGE_1, args, load_tables(args))
    metrics = json.loads(RunFiles(tmp_path, stage1.STAGE).metrics.read_text())
    checkpoint = metrics.pop("checkpoint")
    assert metrics == json.loads(trained[0].metrics.read_text())
    assert checkpoint == str(trained[0].best)
    assert "dice_deepsa" in capsys.readouterr().out
    assert [file.name for file in tmp_path.iterdir()] == ["phase1_deepsa_metrics.json"]


def test_scores_on_other_rows_leave_the_runs_own_alone(trained, csv_path, tmp_path):
    args = parse(csv_path, tmp_path, "--eval-only", "--init-from", trained[0].best, "--eval-split", "train")
    run_stage(Ranks(), stage1.STAGE_1, args, load_tables(args))
    (written,) = tmp_path.iterdir()
    metrics = json.loads(written.read_text())
    assert written.name == "phase1_deepsa_metrics_train.json"
    assert (metrics["split"], metrics["checkpoint"], metrics["epoch"]) == ("train", str(trained[0].best), 1)
    assert metrics["n_frames"] == 2


def test_an_epoch_without_validation_keeps_the_last_scores(trained, csv_path, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "train_one_epoch", lambda state, *_, **__: state.model.train())
    monkeypatch.setattr(stage, "evaluate", lambda *_, **__: [{"row": 0, "dice_deepsa": 0.5}])
    files, written = RunFiles(tmp_path, stage1.STAGE), []
    real = RunFiles.save_latest

    def save_latest(self, state, ranks):
        real(self, state, ranks)
        written.append(json.loads(files.metrics.read_text())["epoch"] if files.metrics.exists() else None)

    monkeypatch.setattr(RunFiles, "save_latest", save_latest)
    args = parse(csv_path, tmp_path, "--epochs", 3, "--eval-every", 2)
    run_stage(Ranks(), stage1.STAGE_1, args, load_tables(args))
    assert written == [None, 2, 3]


def test_another_image_size_is_refused_for_scores_and_said_for_training(trained, csv_path, tmp_path):
    flags = ("--init-from", trained[0].best, "--image-size", 672)
    with pytest.raises(CheckpointError, match="--image-size 336, given is 672"):
        stage1.build_model(parse(csv_path, tmp_path, "--eval-only", *flags), False)
    model, parent = stage1.build_model(parse(csv_path, tmp_path, *flags), False)
    assert model.backbone.image_size == 672
    text = describe_weights(model.backbone.load_report, parent, 672)
    assert "trained at --image-size 336, going on at 672" in text


def test_resuming_reads_no_other_weights(trained, csv_path, tmp_path):
    flags = ("--backbone", "sam3", "--image-size", 336, "--sam3-checkpoint", tmp_path / "deleted.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbone.ARCHITECTURES, "sam3", backbone.SAM3_TINY)
        args = parse(csv_path, tmp_path, *flags)
        with pytest.raises(FileNotFoundError, match=r"deleted\.pt"):
            stage1.build_model(args, False)
        model, parent = stage1.build_model(args, True)
    assert parent is None and model.backbone.load_report is None


def test_resuming_on_other_rows_is_said(trained, csv_path, tmp_path):
    args = parse(csv_path, tmp_path, "--epochs", 1, "--resume")
    checkpoint = load_checkpoint(trained[0].latest)
    table = load_tables(args)["train"]
    digest = digest_of_rows(table)
    assert checkpoint["config"]["training_rows"] == digest
    moved = table.assign(cine_path=["E:\\new place\\" + Path(path).name for path in table["cine_path"]])
    assert digest_of_rows(moved) == digest
    other = digest_of_rows(table.assign(frame_index=table["frame_index"] + 1))
    config = {**checkpoint["config"], "training_rows": other}
    save_checkpoint(RunFiles(tmp_path, stage1.STAGE).latest, {**checkpoint, "config": config})
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda *words, **_: said.append(" ".join(map(str, words))))
        run_stage(Ranks(), stage1.STAGE_1, args, load_tables(args))
    assert f"training rows {other} -> {digest}" in "\n".join(said)


def test_eval_split_chooses_the_rows(trained, csv_path, tmp_path):
    sizes = {
        split: len(
            load_tables(
                parse(
                    csv_path, tmp_path, "--eval-only", "--init-from", trained[0].best, "--eval-split", split
                )
            )["val"]
        )
        for split in ("train", "val", "all")
    }
    assert sizes == {"train": 2, "val": 1, "all": 3}


def test_init_from_takes_the_weights_and_says_where_from(trained, csv_path, tmp_path):
    model, parent = stage1.build_model(parse(csv_path, tmp_path, "--init-from", trained[0].best), False)
    saved = load_checkpoint(trained[0].best)["model"]
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())
    assert parent["stage"] == "phase1_deepsa" and parent["path"] == str(trained[0].best)


def test_weights_of_another_model_are_refused(trained, csv_path, tmp_path):
    with pytest.raises(CheckpointError, match=r"(?s)unexpected \(\d+\):.*view_encoder\."):
        stage1.build_model(parse(csv_path, tmp_path, "--init-from", trained[0].best, "--no-use-view"), False)


def test_resuming_with_another_flag_is_refused(trained, csv_path):
    args = parse(csv_path, trained[0].folder, "--resume", "--lr", 3e-4)
    with pytest.raises(CheckpointError, match=r"--lr: saved 0.0001, given 0.0003"):
        run_stage(Ranks(), stage1.STAGE_1, args, load_tables(args))


def run_main(monkeypatch, *flags):
    """The script's `main` in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["train_stage1_deepsa.py", *map(str, flags)])
    with pytest.raises(SystemExit) as left:
        stage1.main()
    return left.value.code


def test_an_earlier_run_is_not_overwritten(trained, csv_path, monkeypatch, capsys):
    code = run_main(
        monkeypatch, "--data-csv", csv_path, "--backbone", "sam3-tiny", "--checkpoint-dir", trained[0].folder
    )
    assert code == 1 and "Add --resume" in capsys.readouterr().err


def test_a_bad_csv_is_reported_without_a_traceback(tmp_path, monkeypatch, capsys):
    (tmp_path / "bad.csv").write_text("patient_id,split\n1,train\n")
    code = run_main(
        monkeypatch,
        "--data-csv",
        tmp_path / "bad.csv",
        "--backbone",
        "sam3-tiny",
        "--checkpoint-dir",
        tmp_path,
    )
    assert code == 1 and "cine_path" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags, said",
    [
        (("--image-size", 500), "multiple of 336"),
        (("--path-map", "nonsense"), "OLD=NEW"),
        (("--epochs", 0), "below 1"),
        (("--amp", "fp16"), "bf16"),
        (("--device", "cuda"), "finds no GPU"),
        (("--backbone", "sam3-tiny", "--sam3-checkpoint", "sam3.pt"), "for --backbone sam3, not"),
        (("--random-init", "--sam3-checkpoint", "sam3.pt"), "give one of the two"),
        (("--eval-only", "--init-from", "best.pth", "--resume"), "leave --resume out"),
        (("--seed", -1), "below 0"),
        (("--lr", -1), "at least 0"),
        (("--lr", "nan"), "at least 0"),
        (("--lr", 0), "not above 0"),
        (("--weight-decay", -1), "at least 0"),
        (("--warmup-steps", -3), "below 0"),
        (("--num-workers", -2), "below 0"),
    ],
)
def test_flags_that_cannot_work_are_refused_at_once(monkeypatch, capsys, flags, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run_main(monkeypatch, "--data-csv", "x.csv", *flags) == 2
    assert said in capsys.readouterr().err


def test_ctrl_c_while_the_csv_is_checked_leaves_without_a_traceback(tmp_path, monkeypatch, capsys):
    def load_tables(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(stage1, "load_tables", load_tables)
    flags = ("--data-csv", "x.csv", "--backbone", "sam3-tiny", "--checkpoint-dir", tmp_path)
    assert run_main(monkeypatch, *flags) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_eval_only_without_a_checkpoint_is_refused(capsys):
    with pytest.raises(SystemExit):
        stage1.parse_arguments(["--data-csv", "x.csv", "--eval-only"])
    assert "--init-from" in capsys.readouterr().err


def test_the_loss_is_half_bce_and_half_dice():
    logits, mask = torch.randn(3, 1, 8, 8), (torch.rand(3, 1, 8, 8) > 0.7).float()
    losses = vessel_losses(logits, mask, **stage1.LOSS_WEIGHTS)
    assert all(value.shape == (3,) for value in losses.values())
    torch.testing.assert_close(losses["loss"], 0.5 * losses["bce"] + 0.5 * (1 - losses["dice"]))
    perfect = vessel_losses(100 * (2 * mask - 1), mask, **stage1.LOSS_WEIGHTS)["loss"]
    assert (perfect < 1e-3).all()


def test_a_perfect_prediction_stays_perfect_at_the_frames_size():
    yy, xx = np.mgrid[:128, :128]
    label = (xx - 60) ** 2 + (yy - 70) ** 2 < 30**2
    for size in (64, 336):
        side = (np.arange(size) + 0.5) * 128 / size - 0.5  # where the model's pixels lie in the frame
        xs, ys = np.meshgrid(side, side)
        logits = torch.from_numpy(30.0 - np.hypot(xs - 60, ys - 70)).float()[None, None]
        batch = {"image": None, "view_deg": None, "deepsa_mask": (logits >= 0).float(),
                 "frame_deepsa_mask": [label], "row": torch.tensor([0])}
        (record,) = stage1.score_batch(lambda image, view_deg, logits=logits: logits, batch)
        assert record["dice_deepsa"] > 0.99


def test_a_row_is_described_by_its_line_in_the_csv(csv_path, tmp_path):
    table = load_tables(parse(csv_path, tmp_path))["val"]
    text = stage.describe_row(table, 0)
    assert "CSV row 4" in text and "101-0003" in text and ".npy" in text


@pytest.mark.slow
def test_two_ranks_of_the_real_model_have_the_gradient_of_one(csv_path, tmp_path):
    """AdamW's first moment after one step is the scaled gradient: 2 ranks x batch 1 against 1 x batch 2."""
    moments = []
    for world_size, batch_size in ((1, 2), (2, 1)):
        folder = tmp_path / str(world_size)
        done = run_script(
            "--data-csv",
            csv_path,
            "--backbone",
            "sam3-tiny",
            "--device",
            "cpu",
            "--amp",
            "off",
            "--epochs",
            1,
            "--world-size",
            world_size,
            "--batch-size",
            batch_size,
            "--num-workers",
            0,
            "--checkpoint-dir",
            folder,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        state = load_checkpoint(RunFiles(folder, stage1.STAGE).latest)["optimizer"]["state"]
        moments.append({name: value["exp_avg"] for name, value in state.items()})
    largest = max(float(value.abs().max()) for value in moments[0].values())
    assert largest > 0
    for name, value in moments[0].items():
        torch.testing.assert_close(moments[1][name], value, rtol=1e-3, atol=1e-5 * largest, msg=str(name))
