"""Stage 2 from its command line: what it starts from, what it says and writes, what it refuses."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

import train_stage2_cass_segments as stage2
from data.cass import CLASS_IDS, SEGMENTS
from data.errors import DataError
from data.schema import load_table
from models.cass_model import NEW_PARTS
from models.loading import load_model
from tests.csv_fixture import write_tiny_dataset
from tests.stage_script import flags, run_main
from tests.tiny_cass import ANSWERS, run_cass, task_of, tiny_run
from tests.tiny_checkpoint import write_tiny_checkpoint
from utils.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from utils.entry import describe_weights
from utils.history import read_history
from utils.loader import RowError
from utils.ranks.distributed import Ranks
from utils.run_files import RunFiles
from utils.stage import evaluate_only, load_tables


@pytest.fixture(scope="module")
def csv_path(tmp_path_factory):
    """Training rows of CASS 13 and 1, validation rows of 2 and 12."""
    shape = dict(patients=4, rows_per_patient=1, val_patients=2, cass_truth=True)
    return write_tiny_dataset(tmp_path_factory.mktemp("data"), **shape)


@pytest.fixture(scope="module")
def parent_path(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("stage1") / "phase1_deepsa_best.pth", epoch=7)


def parse(csv_path, folder, *more):
    return stage2.parse_arguments(flags(csv_path, folder, *more))


def build(args, task=None):
    return stage2.build_model(task or task_of(*CLASS_IDS), args, resumes=False)


@pytest.fixture(scope="module")
def trained(csv_path, parent_path, tmp_path_factory):
    """Files of a run of one epoch from its command line, and what it said.

    The parent lies where it is looked for without --init-from.
    """
    folder = tmp_path_factory.mktemp("run")
    (folder / parent_path.name).write_bytes(parent_path.read_bytes())
    said, code = run_main(stage2, *flags(csv_path, folder))
    assert code == 0, said
    return RunFiles(folder, stage2.STAGE), said


def test_the_missions_configuration_is_the_default():
    given = ["--data-csv", "x.csv"]
    args = stage2.parse_arguments(given)
    assert (args.backbone, args.image_size, args.epochs, args.batch_size) == ("sam3", 1008, 50, 4)
    assert (args.lr, args.backbone_lr_scale, args.clip, args.ddp_backend) == (5e-5, 0.1, 1.0, "gloo")
    assert args.init_from == Path("checkpoints/phase1_deepsa_best.pth")
    assert stage2.build_stage(task_of(1, 2), args).master_port == stage2.MASTER_PORT == 12356
    assert stage2.parse_arguments([*given, "--backbone", "sam3-tiny"]).image_size == 336


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        stage2.parse_arguments(["--help"])
    said = capsys.readouterr().out
    for text in ("--no-use-view", "--init-from", "default: 5e-05", "12356", "--classes", "blind", "pointed"):
        assert text in said


# The hand-over from stage 1


def test_the_hand_over_is_printed_and_remembered(trained):
    files, said = trained
    parent = load_checkpoint(files.folder / "phase1_deepsa_best.pth")
    assert f"hand-over from {files.folder / 'phase1_deepsa_best.pth'}: {len(parent['model'])} tensors" in said
    assert "came over" in said and "new: " in said
    new = said.split("new: ")[1].splitlines()[0]
    assert "pooled_head" in new and "map_head" in new and "backbone" not in new
    remembered = load_checkpoint(files.best)["parent"]
    assert (remembered["stage"], remembered["epoch"]) == ("phase1_deepsa", 7)
    assert remembered["handed_over"] in said


def test_every_tensor_of_the_parent_arrives(csv_path, parent_path, tmp_path):
    model, parent = build(parse(csv_path, tmp_path, "--init-from", parent_path))
    state, handed = model.state_dict(), load_checkpoint(parent_path)["model"]
    assert all(torch.equal(state[name], value) for name, value in handed.items())
    assert {name for name in state if not name.startswith(NEW_PARTS)} == handed.keys()
    assert parent["path"] == str(parent_path)


def drop(state):
    del state["segmentation_head.logits.bias"]


def rename(state):
    state["segmentation_head.logit.bias"] = state.pop("segmentation_head.logits.bias")


def reshape(state):
    state["segmentation_head.logits.bias"] = torch.zeros(3)


def add(state):
    state["obstruction_head.weight"] = torch.zeros(3)


@pytest.mark.parametrize(
    "change, said",
    [
        (drop, r"missing \(1\):\s+segmentation_head\.logits\.bias"),
        (rename, r"missing \(1\):\s+\S+\.logits\.bias\s+unexpected \(1\):\s+segmentation_head\.logit\.bias"),
        (reshape, r"segmentation_head\.logits\.bias: \(3,\) in the file, \(4,\) in the model"),
        (add, r"unexpected \(1\):\s+obstruction_head\.weight"),
    ],
)
def test_a_tensor_that_does_not_fit_is_an_error_that_names_it(csv_path, parent_path, tmp_path, change, said):
    checkpoint = load_checkpoint(parent_path)
    change(checkpoint["model"])
    save_checkpoint(tmp_path / "start.pth", checkpoint)
    with pytest.raises(CheckpointError, match=rf"(?s)start\.pth: .*{said}"):
        build(parse(csv_path, tmp_path, "--init-from", tmp_path / "start.pth"))


@pytest.mark.parametrize(
    "change, said",
    [
        (dict(config={"backbone": "sam3", "image_size": 1008}), "has --backbone sam3, given is sam3-tiny"),
        (dict(stage="phase9"), "of stage 'phase9'; 'phase2_cass' starts from 'phase1_deepsa'"),
    ],
)
def test_a_checkpoint_of_another_kind_is_refused(csv_path, parent_path, tmp_path, change, said):
    save_checkpoint(tmp_path / "start.pth", {**load_checkpoint(parent_path), **change})
    with pytest.raises(CheckpointError, match=said):
        build(parse(csv_path, tmp_path, "--init-from", tmp_path / "start.pth"))


def test_without_views_the_view_parts_stay_behind_and_it_is_said(csv_path, parent_path, tmp_path):
    model, parent = build(parse(csv_path, tmp_path, "--init-from", parent_path, "--no-use-view"))
    handed = load_checkpoint(parent_path)["model"]
    views = [name for name in handed if name.startswith(("view_encoder.", "fusion."))]
    said = describe_weights(None, parent, 336)
    assert f"left behind: {len(views)} tensors" in said and "view_encoder" in said.split("left behind")[1]
    state = model.state_dict()
    assert model.view_encoder is None and not set(views) & state.keys()
    assert all(torch.equal(state[name], value) for name, value in handed.items() if name not in views)


def test_a_parent_without_views_cannot_start_a_model_with_them(csv_path, tmp_path):
    path = write_tiny_checkpoint(tmp_path / "start.pth", use_view=False)
    with pytest.raises(CheckpointError, match=r"(?s)missing \(\d+\):.*view_encoder"):
        build(parse(csv_path, tmp_path, "--init-from", path))
    model, parent = build(parse(csv_path, tmp_path, "--init-from", path, "--no-use-view"))
    assert model.view_encoder is None and "left behind" not in parent["handed_over"]


def test_another_image_size_is_said_for_training(csv_path, parent_path, tmp_path):
    model, parent = build(parse(csv_path, tmp_path, "--init-from", parent_path, "--image-size", 672))
    assert model.backbone.image_size == 672
    assert "trained at --image-size 336, going on at 672" in describe_weights(None, parent, 672)


def test_without_its_parent_a_run_says_which_file_it_wants(csv_path, tmp_path):
    other = ("other.pth", ("--init-from", tmp_path / "other.pth"))
    for name, given in (("phase1_deepsa_best.pth", ()), other):
        said, code = run_main(stage2, *flags(csv_path, tmp_path, *given))
        assert code == 1 and f"{tmp_path / name}: no such checkpoint. Train stage 1 first" in said
        assert "Traceback" not in said


def test_to_go_on_a_run_needs_no_parent(csv_path, trained, tmp_path):
    latest = RunFiles(tmp_path, stage2.STAGE).latest
    latest.write_bytes(trained[0].latest.read_bytes())
    args = parse(csv_path, tmp_path, "--resume")
    stage2.check_parent(args, stage2.STAGE, stage2.PARENT_STAGES)
    assert stage2.build_model(task_of(*CLASS_IDS), args, resumes=True)[1] is None


# What a run leaves


def test_a_run_leaves_the_files_of_the_design(trained):
    files, _ = trained
    names = ("latest.pth", "best.pth", "history.jsonl", "curves.png", "metrics.json", "confusion_pointed.png",
             "confusion_blind.png", "per_class.txt")
    assert {path.name for path in files.folder.iterdir()} == {
        "phase1_deepsa_best.pth", *(f"phase2_cass_{name}" for name in names)
    }
    for question in ("pointed", "blind"):
        assert files.picture(f"confusion_{question}").read_bytes()[:4] == b"\x89PNG"
    tables = (files.folder / "phase2_cass_per_class.txt").read_text(encoding="utf-8")
    assert tables.count("Mid RCA") == tables.count("Second diagonal") == 2  # of either question
    (line,) = read_history(files.history)
    assert line["epoch"] == 1 and line["train_samples"] == 2 and line["val_n_frames"] == 2
    assert load_checkpoint(files.latest)["progress"]["best"]["metric"] == "macro_f1_pointed"


def test_metrics_are_flat_and_named_as_the_design_says(trained):
    metrics = json.loads(trained[0].metrics.read_text())
    questions = ("pointed", "blind", "blind_map")
    names = [f"{score}_{question}" for score in ("top1", "macro_f1") for question in questions]
    names += ["top1_blind_ceiling", "box_iou", "box_iou_map", "segment_f1_map", "pixel_accuracy_map"]
    names += ["dice_deepsa", "dice_truth"]
    for name in names:
        low, high = metrics[f"{name}_ci95"]
        assert isinstance(metrics[name], float) and 0 <= low <= metrics[name] <= high <= 1, name
    assert metrics["n_patients"] == metrics["n_frames"] == 2 and 0 <= metrics["box_ap50"] <= 1
    assert (metrics["split"], metrics["epoch"]) == ("val", 1)
    assert not any(isinstance(value, dict) for value in metrics.values())
    assert not {"row", "class", "blind_probability"} & metrics.keys()


def test_the_best_checkpoint_is_a_model_for_others(trained):
    model, checkpoint = load_model(trained[0].best)
    latest = load_checkpoint(trained[0].latest)
    assert checkpoint["optimizer"] is None and tuple(checkpoint["classes"]) == model.classes == CLASS_IDS
    assert all(torch.equal(value, latest["model"][name]) for name, value in model.state_dict().items())


def test_eval_only_repeats_the_validation_of_the_checkpoint(csv_path, trained, tmp_path):
    said, code = run_main(stage2, *flags(csv_path, tmp_path, "--eval-only", "--init-from", trained[0].best))
    assert code == 0 and "top1_pointed" in said
    metrics = json.loads(RunFiles(tmp_path, stage2.STAGE).metrics.read_text())
    assert metrics.pop("checkpoint") == str(trained[0].best)
    assert metrics == json.loads(trained[0].metrics.read_text())
    assert not list(tmp_path.glob("*.pth"))


def test_scores_and_pictures_of_other_rows_leave_the_runs_own_alone(csv_path, trained, tmp_path, monkeypatch):
    args = parse(csv_path, tmp_path, "--eval-only", "--init-from", trained[0].best, "--eval-split", "train")
    tables = load_tables(args)
    records = [{"row": row, **ANSWERS} for row in range(2)]
    monkeypatch.setattr("utils.stage.evaluate", lambda *_, **__: records)
    parent = {"path": "best.pth", "epoch": 1, "global_step": 1}
    described = stage2.build_stage(task_of(1, 13), args)
    files, setting = RunFiles(tmp_path, stage2.STAGE), dict(ranks=Ranks())
    evaluate_only(described, None, None, tables["val"], args, parent, files, setting)
    names = {path.name for path in tmp_path.iterdir()}
    assert "phase2_cass_metrics_train.json" in names and "phase2_cass_train_confusion_blind.png" in names
    of_the_run = {f"phase2_cass_{name}" for name in ("metrics.json", "confusion_blind.png", "per_class.txt")}
    assert not of_the_run & names


def test_eval_only_wants_a_stage_2_checkpoint(csv_path, parent_path, tmp_path):
    said, code = run_main(stage2, *flags(csv_path, tmp_path, "--eval-only", "--init-from", parent_path))
    assert code == 1 and "of stage 'phase1_deepsa'; --eval-only here is for 'phase2_cass'" in said


def test_a_stage_2_checkpoint_can_be_gone_on_from(csv_path, trained, tmp_path):
    args = parse(csv_path, tmp_path, "--init-from", trained[0].best)
    model, parent = build(args)
    saved = load_checkpoint(trained[0].best)["model"]
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())
    assert parent["stage"] == "phase2_cass" and "handed_over" not in parent
    with pytest.raises(CheckpointError, match=r"names the classes \[1, 2, .*asked for are \[1, 2, 12, 13\]"):
        build(args, task_of(1, 2, 12, 13))


def test_an_earlier_run_is_not_overwritten(csv_path, trained):
    said, code = run_main(stage2, *flags(csv_path, trained[0].folder))
    assert code == 1 and "Add --resume" in said


# Classes


def choose(csv_path, folder, *more):
    args = parse(csv_path, folder, *more)
    return stage2.choose_task(args, load_tables(args))


def test_a_class_without_rows_is_said_before_training(trained):
    _, said = trained
    without = [cass_id for cass_id in CLASS_IDS if cass_id not in (1, 13)]
    warning = next(line for line in said.splitlines() if "WARNING: no training row for" in line)
    assert all(f"{cass_id} {SEGMENTS[cass_id].name}" in warning for cass_id in without)
    assert "Mid LAD" not in warning
    assert 0 < said.index("1: 1, 2: 0") < said.index(warning) < said.index("training: 1 epochs")


def test_fewer_and_more_classes(csv_path, parent_path, tmp_path):
    assert choose(csv_path, tmp_path) == stage2.Task(CLASS_IDS, tuple(int(c in (1, 13)) for c in CLASS_IDS))
    few = choose(csv_path, tmp_path, "--classes", "data")
    assert few == stage2.Task((1, 2, 12, 13), (1, 0, 0, 1))
    more = choose(csv_path, tmp_path, "--classes", "1, SYNTAX 3, 2, 13, Proximal LAD, syntax 12a, 24")
    assert more.classes == (1, 2, 3, 12, 13, 20, 24)
    for task in (few, more):
        model, _ = build(parse(csv_path, tmp_path, "--init-from", parent_path), task)
        assert model.classes == task.classes
        output = model(torch.rand(1, 3, 336, 336), torch.tensor([[10.0, torch.nan]]))
        assert output.class_logits.shape == (1, len(task.classes))
        assert output.name_logits.shape == (1, len(task.classes) + 1, 84, 84)


def test_rows_by_syntax_name_and_of_segments_that_the_design_has_not(tmp_path):
    csv_path = write_tiny_dataset(tmp_path, patients=3, rows_per_patient=1)
    table = pd.read_csv(csv_path, dtype=str)
    # Mid LAD, second right posterolateral, mid RCA.
    table["cass_segment"] = ["SYNTAX 7", "syntax:16b", "RCA mid"]
    table.to_csv(csv_path, index=False)
    task = choose(csv_path, tmp_path)
    assert task.classes == tuple(sorted({*CLASS_IDS, 7}))
    rows = dict(zip(task.classes, task.rows, strict=True))
    assert {cass_id for cass_id, count in rows.items() if count} == {7, 13}  # row 3 is for validation


def test_rows_that_no_class_takes_are_counted(csv_path, parent_path, tmp_path):
    said, code = run_main(stage2, *flags(csv_path, tmp_path, "--init-from", parent_path, "--classes", "1,2"))
    wanted = "rows whose segment is not among --classes '1,2': 2 (12 Proximal LAD: 1, 13 Mid LAD: 1"
    assert code == 1 and wanted in said


def test_a_checkpoint_is_validated_on_its_own_classes(csv_path, trained, tmp_path):
    few = {**load_checkpoint(trained[0].best), "classes": [1, 2, 12, 13]}
    few["config"] = {**few["config"], "class_rows": [5, 6, 7, 8]}
    save_checkpoint(tmp_path / "few.pth", few)
    args = parse(csv_path, tmp_path, "--eval-only", "--init-from", tmp_path / "few.pth")
    assert stage2.choose_task(args, load_tables(args)) == stage2.Task((1, 2, 12, 13), (5, 6, 7, 8))


def test_rows_of_a_class_that_the_checkpoint_has_not_are_named(csv_path, trained, tmp_path):
    few = {**load_checkpoint(trained[0].best), "classes": [1, 2, 3]}
    few["config"] = {**few["config"], "class_rows": [5, 6, 7]}
    save_checkpoint(tmp_path / "few.pth", few)
    args = parse(csv_path, tmp_path, "--eval-only", "--init-from", tmp_path / "few.pth")
    with pytest.raises(DataError, match=r"12 Proximal LAD: 1"):
        stage2.choose_task(args, load_tables(args))


def test_a_run_goes_on_with_its_own_classes_and_says_that_their_rows_changed(csv_path, tmp_path, capsys):
    run_cass(Ranks(), *tiny_run(csv_path, tmp_path, "--epochs", 1, "--save-every", 1))
    table = pd.read_csv(csv_path, dtype=str)
    table.loc[0, "cass_segment"] = "14"
    other = csv_path.with_name("other.csv")
    table.to_csv(other, index=False)
    capsys.readouterr()
    run_cass(Ranks(), *tiny_run(other, tmp_path, "--epochs", 1, "--resume"))
    assert "not as it was, so other bits will follow: class rows [1, 0, " in capsys.readouterr().out
    with pytest.raises(CheckpointError, match=r"tells apart \[1, 2, 3, .*to go on \[1, 2, 12, 14\]"):
        run_cass(Ranks(), *tiny_run(other, tmp_path, "--epochs", 1, "--resume", "--classes", "data"))


# Bad rows and bad flags


def test_a_bad_csv_is_reported_with_its_rows_and_without_a_traceback(csv_path, parent_path, tmp_path):
    table = pd.read_csv(csv_path, dtype=str)
    table.loc[1, "cass_segment"], table.loc[2, "cass_segment"] = "42", "9a"
    bad = csv_path.with_name("bad.csv")
    table.to_csv(bad, index=False)
    said, code = run_main(stage2, *flags(bad, tmp_path, "--init-from", parent_path))
    assert code == 1 and "Traceback" not in said
    for text in ("2 faults in 2 rows", "row 3", "'42'", "row 4", "'SYNTAX 9a'", "cass_segment"):
        assert text in said


def test_a_file_that_goes_bad_during_training_is_named_with_its_row(tmp_path):
    csv_path = write_tiny_dataset(tmp_path / "data", patients=2, rows_per_patient=1)
    args, tables = tiny_run(csv_path, tmp_path / "run", "--epochs", 1)
    path = Path(tables["train"]["vessel_mask_actual_path"][0])
    path.write_bytes(b"not a mask")
    with pytest.raises(RowError, match=rf"CSV row 2 \(patient 101-0001.*{path.stem}.*truncated or not"):
        run_cass(Ranks(), args, tables)


@pytest.mark.parametrize(
    "given, said",
    [
        (("--view-dropout", 1), "--view-dropout 1.0: allowed is 0 to below 1"),
        (("--view-dropout", -0.1), "allowed is 0 to below 1"),
        (("--sam3-checkpoint", "sam3.pt"), "this stage starts from a checkpoint of phase1_deepsa"),
        (("--random-init",), "this stage starts from a checkpoint of phase1_deepsa"),
        (("--unsure-ends-mm", -1), "at least 0"),
        (("--eval-only",), "--eval-only needs --init-from"),
        (("--eval-only", "--init-from", "best.pth", "--dry-run"), "give one of the two"),
        (("--eval-only", "--init-from", "best.pth", "--resume"), "leave --resume out"),
        (("--image-size", 500), "multiple of 336"),
    ],
)
def test_flags_that_cannot_work_are_refused_at_once(given, said):
    text, code = run_main(stage2, "--data-csv", "x.csv", *given)
    assert code == 2 and said in text


def test_a_frame_without_truth_is_scored_on_what_there_is(csv_path, tmp_path):
    table = pd.read_csv(csv_path, dtype=str).drop(columns=["true_cass_map_path", "true_vessel_mask_path"])
    plain = csv_path.with_name("plain.csv")
    table.drop(columns="blind_ceiling").to_csv(plain, index=False)
    args, tables = tiny_run(plain, tmp_path, "--epochs", 1)
    run_cass(Ranks(), args, tables)
    metrics = json.loads(RunFiles(tmp_path, stage2.STAGE).metrics.read_text())
    assert {"top1_pointed", "top1_blind", "box_iou", "dice_deepsa"} <= metrics.keys()
    assert not {"dice_truth", "segment_f1_map", "top1_blind_ceiling"} & metrics.keys()
    assert load_table(plain, progress=False)["cass_segment"].tolist() == [13, 1, 2, 12]
