"""Stage 2 from its command line: what it starts from, what it says and writes, what it refuses, what it measures."""

import contextlib
import io
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import train_stage2_cass_segments as stage2
from data.cass import CLASS_IDS, SEGMENTS
from data.errors import DataError
from data.schema import load_table
from models.cass_model import NEW_PARTS, CassOutput
from models.loading import load_model
from tests.csv_fixture import write_tiny_dataset
from tests.tiny_cass import run_cass, tiny_run
from tests.tiny_checkpoint import write_tiny_checkpoint
from utils.cass_evaluation import summarise_answers
from utils.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from utils.distributed import Ranks
from utils.entry import describe_weights
from utils.history import read_history
from utils.loader import RowError
from utils.losses import vessel_losses
from utils.run_files import RunFiles
from utils.stage import load_tables


@pytest.fixture(scope="module")
def csv_path(tmp_path_factory):
    """Training rows of CASS 13 and 1, validation rows of 2 and 12."""
    shape = dict(patients=4, rows_per_patient=1, val_patients=2, cass_truth=True)
    return write_tiny_dataset(tmp_path_factory.mktemp("data"), **shape)


@pytest.fixture(scope="module")
def parent_path(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("stage1") / "phase1_deepsa_best.pth", epoch=7)


def flags(csv_path, folder, *more):
    given = ["--data-csv", csv_path, "--backbone", "sam3-tiny", "--batch-size", 2, "--epochs", 1, "--device", "cpu",
             "--amp", "off", "--num-workers", 0, "--checkpoint-dir", folder, *more]
    return [str(flag) for flag in given]


def parse(csv_path, folder, *more):
    return stage2.parse_arguments(flags(csv_path, folder, *more))


def task_of(*segments):
    return stage2.Task(segments, (1,) * len(segments))


def build(args, task=None):
    return stage2.build_model(task or task_of(*CLASS_IDS), args, resumes=False)


def run_main(*given):
    """What the script's `main` prints in this process and its exit code, 0 when it simply ends."""
    said, code = io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        patch.setattr(sys, "argv", ["train_stage2_cass_segments.py", *map(str, given)])
        try:
            stage2.main()
        except SystemExit as left:
            code = left.code
    return said.getvalue(), code


@pytest.fixture(scope="module")
def trained(csv_path, parent_path, tmp_path_factory):
    """Files of a run of one epoch from its command line, and what it said. The parent lies where it is looked for."""
    folder = tmp_path_factory.mktemp("run")
    (folder / parent_path.name).write_bytes(parent_path.read_bytes())
    said, code = run_main(*flags(csv_path, folder))
    assert code == 0, said
    return RunFiles(folder, stage2.STAGE), said


def test_the_missions_configuration_is_the_default():
    args = stage2.parse_arguments(["--data-csv", "x.csv"])
    assert (args.backbone, args.image_size, args.epochs, args.batch_size) == ("sam3", 1008, 50, 4)
    assert (args.lr, args.backbone_lr_scale, args.clip, args.ddp_backend) == (5e-5, 0.1, 1.0, "gloo")
    assert args.init_from == Path("checkpoints/phase1_deepsa_best.pth")
    assert stage2.build_stage(task_of(1, 2), args).master_port == stage2.MASTER_PORT == 12356
    assert stage2.parse_arguments(["--data-csv", "x.csv", "--backbone", "sam3-tiny"]).image_size == 336


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        stage2.parse_arguments(["--help"])
    said = capsys.readouterr().out
    for text in ("--no-use-view", "--init-from", "default: 5e-05", "12356", "--classes", "blind", "pointed"):
        assert text in said


def random_output(batch, classes, side=16):
    generator = torch.Generator().manual_seed(0)
    shapes = dict(vessel_logits=(1, side, side), class_logits=(classes,), box=(4,),
                  name_logits=(classes + 1, side // 4, side // 4), analysed_logits=(1, side // 4, side // 4))
    parts = {name: torch.randn(batch, *shape, generator=generator) for name, shape in shapes.items()}
    return CassOutput(**{**parts, "box": parts["box"].sigmoid()})


def random_batch(classes, side=16):
    """Three frames whose segment is a block of a vessel, the last one's out of the picture."""
    segment = torch.zeros(3, 1, side, side)
    segment[:2, :, 4:8, 2:10] = 1
    vessel = segment.clone()
    vessel[:, :, 12:14] = 1
    box = torch.tensor([[6 / 16, 6 / 16, 8 / 16, 4 / 16]] * 2 + [[torch.nan] * 4])
    return {"deepsa_mask": vessel, "segment_mask": segment, "box": box, "row": torch.arange(3),
            "class_index": torch.tensor([0, 1, 2]) % classes, "weak_names": torch.rand(3, classes + 1, 4, 4)}


def test_the_loss_is_three_tenths_segmentation_half_classification_a_fifth_box():
    task = stage2.Task((1, 13, 12), (4, 1, 9))
    output, batch = random_output(3, 3), random_batch(3)
    losses = stage2.cass_losses(task, output, batch)
    assert all(value.shape == (3,) and value.isfinite().all() for value in losses.values())
    segmentation = vessel_losses(output.vessel_logits, batch["deepsa_mask"], bce=0.5, dice=0.5)["loss"]
    names = losses["pooled"] + losses["names"]
    expected = (
        0.3 * segmentation + 0.5 * task.class_weights()[batch["class_index"]] * names
        + 0.2 * (losses["box"] + losses["analysed"])
    )
    torch.testing.assert_close(losses["loss"], expected)
    assert losses["box"][2] == 0 and losses["box"][:2].gt(0).all()


def test_without_the_mean_tree_the_names_cost_less():
    task, output, batch = task_of(1, 13, 12), random_output(3, 3), random_batch(3)
    weak = stage2.cass_losses(task, output, batch)["names"]
    del batch["weak_names"]
    assert (weak > stage2.cass_losses(task, output, batch)["names"]).all()


def test_the_targets_of_the_map_are_the_segment_and_vessels_that_are_surely_not_of_it():
    batch = {"segment_mask": torch.zeros(1, 1, 32, 32), "deepsa_mask": torch.zeros(1, 1, 32, 32)}
    batch["segment_mask"][..., 4:6, 4:12] = 1  # half of the cells (1, 1) and (1, 2)
    batch["deepsa_mask"][..., 4:6, :] = 1
    vessel_logits = torch.full((1, 1, 32, 32), -20.0)
    vessel_logits[..., 24:28, 24:28] = 20.0
    output = CassOutput(vessel_logits.requires_grad_(), None, None, torch.zeros(1, 3, 8, 8), None)
    inside, outside = stage2.map_targets(output, batch)
    expected = torch.zeros(2, 8, 8)
    expected[0, 1, 1:3] = 0.5
    expected[1, 1, 4:] = 0.5  # not (1, 0) and (1, 3), which touch the mask
    expected[1, 6, 6] = 1.0  # vessel by the model's word alone
    torch.testing.assert_close(torch.stack([inside[0, 0], outside[0, 0]]), expected)
    assert not outside.requires_grad


def test_rare_classes_count_more_but_not_in_full():
    weights = stage2.Task((13, 16, 28, 1), (192, 12, 0, 12)).class_weights()
    assert float(weights[1] / weights[0]) == pytest.approx(4.0)  # 16 to 1 becomes 4 to 1
    assert float((weights * torch.tensor([192, 12, 0, 12])).sum() / 216) == pytest.approx(1.0)
    assert weights.isfinite().all()


def test_one_injection_fills_one_artery():
    other = task_of(1, 4, 11, 13, 19, 28).other_artery()
    right = [True, True, False, False, False, False]
    assert other.tolist() == [[a != b for b in right] for a in right]


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
        (rename, r"missing \(1\):\s+segmentation_head\.logits\.bias\s+unexpected \(1\):\s+segmentation_head\.logit\.b"),
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
        (dict(stage="phase9"), "of stage 'phase9'; stage 2 starts from 'phase1_deepsa'"),
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
    said, code = run_main(*flags(csv_path, tmp_path))
    assert code == 1 and f"{tmp_path / 'phase1_deepsa_best.pth'}: no such checkpoint" in said
    assert "Traceback" not in said


# What a run leaves


def test_a_run_leaves_the_files_of_the_design(trained):
    files, _ = trained
    names = ("latest.pth", "best.pth", "history.jsonl", "curves.png", "metrics.json", "confusion_pointed.png",
             "confusion_blind.png")
    assert {path.name for path in files.folder.iterdir()} == {
        "phase1_deepsa_best.pth", *(f"phase2_cass_{name}" for name in names)
    }
    for question in ("pointed", "blind"):
        assert files.picture(f"confusion_{question}").read_bytes()[:4] == b"\x89PNG"
    (line,) = read_history(files.history)
    assert line["epoch"] == 1 and line["train_samples"] == 2 and line["val_n_frames"] == 2
    assert load_checkpoint(files.latest)["progress"]["best"]["metric"] == "macro_f1_pointed"


def test_metrics_are_flat_and_named_as_the_design_says(trained):
    metrics = json.loads(trained[0].metrics.read_text())
    names = [f"{score}_{question}" for score in ("top1", "macro_f1") for question in ("pointed", "blind", "blind_map")]
    names += ["top1_blind_ceiling", "box_iou", "box_iou_map", "segment_f1_map", "pixel_accuracy_map"]
    names += ["dice_deepsa", "dice_truth"]
    for name in names:
        low, high = metrics[f"{name}_ci95"]
        assert isinstance(metrics[name], float) and 0 <= low <= metrics[name] <= high <= 1, name
    assert metrics["n_patients"] == metrics["n_frames"] == 2 and 0 <= metrics["box_ap50"] <= 1
    assert (metrics["split"], metrics["epoch"]) == ("val", 1)
    assert not any(isinstance(value, dict) for value in metrics.values())
    assert not {"row", "class", "blind_probability"} & metrics.keys()


def test_the_ceiling_is_the_mean_of_its_column_and_absent_without_it(csv_path, trained):
    table = load_tables(parse(csv_path, trained[0].folder))["val"]
    assert json.loads(trained[0].metrics.read_text())["top1_blind_ceiling"] == table["blind_ceiling"].mean()
    record = {"row": 0, "loss": 1.0, "class": 0, "blind_probability": 0.5, "box_iou": 0.5, "box_iou_map": 0.5,
              "pointed": 0, "pointed_box": 0, "pointed_point": 0, "blind": 1, "blind_map": 0}
    assert "top1_blind_ceiling" not in summarise_answers((1, 2), [record], table.drop(columns="blind_ceiling"))


def test_scores_that_the_first_frame_lacks_are_kept(csv_path, trained):
    table = load_tables(parse(csv_path, trained[0].folder))["val"]
    plain = {"loss": 1.0, "class": 0, "blind_probability": 0.5, "box_iou": 0.5, "box_iou_map": 0.5, "pointed": 0,
             "pointed_box": 0, "pointed_point": 0, "blind": 1, "blind_map": 0, "dice_deepsa": 0.5}
    metrics = summarise_answers((1, 2), [{"row": 0, **plain}, {"row": 1, **plain, "dice_truth": 0.75}], table)
    assert metrics["dice_truth"] == 0.75 and metrics["dice_deepsa"] == 0.5
    assert (metrics["top1_pointed"], metrics["top1_blind"], metrics["top1_blind_map"]) == (1.0, 0.0, 1.0)


def test_the_best_checkpoint_is_a_model_for_others(trained):
    model, checkpoint = load_model(trained[0].best)
    latest = load_checkpoint(trained[0].latest)
    assert checkpoint["optimizer"] is None and tuple(checkpoint["classes"]) == model.classes == CLASS_IDS
    assert all(torch.equal(value, latest["model"][name]) for name, value in model.state_dict().items())


def test_eval_only_repeats_the_validation_of_the_checkpoint(csv_path, trained, tmp_path):
    said, code = run_main(*flags(csv_path, tmp_path, "--eval-only", "--init-from", trained[0].best))
    assert code == 0 and "top1_pointed" in said
    metrics = json.loads(RunFiles(tmp_path, stage2.STAGE).metrics.read_text())
    assert metrics.pop("checkpoint") == str(trained[0].best)
    assert metrics == json.loads(trained[0].metrics.read_text())
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".png"}


def test_eval_only_wants_a_stage_2_checkpoint(csv_path, parent_path, tmp_path):
    said, code = run_main(*flags(csv_path, tmp_path, "--eval-only", "--init-from", parent_path))
    assert code == 1 and "of stage 'phase1_deepsa'; --eval-only here is for 'phase2_cass'" in said


def test_a_stage_2_checkpoint_can_be_gone_on_from(csv_path, trained, tmp_path):
    args = parse(csv_path, tmp_path, "--init-from", trained[0].best)
    model, parent = build(args)
    saved = load_checkpoint(trained[0].best)["model"]
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())
    assert parent["stage"] == "phase2_cass" and "handed_over" not in parent
    with pytest.raises(CheckpointError, match=r"(?s)names the classes \[1, 2, .*asked for are \[1, 2, 12, 13\].*--clas"):
        build(args, task_of(1, 2, 12, 13))


def test_an_earlier_run_is_not_overwritten(csv_path, trained):
    said, code = run_main(*flags(csv_path, trained[0].folder))
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
    table["cass_segment"] = ["SYNTAX 7", "syntax:16b", "RCA mid"]  # mid LAD, second right posterolateral, mid RCA
    table.to_csv(csv_path, index=False)
    task = choose(csv_path, tmp_path)
    assert task.classes == tuple(sorted({*CLASS_IDS, 7}))
    rows = dict(zip(task.classes, task.rows, strict=True))
    assert {cass_id for cass_id, count in rows.items() if count} == {7, 13}  # row 3 is for validation


def test_rows_that_no_class_takes_are_counted(csv_path, tmp_path):
    said, code = run_main(*flags(csv_path, tmp_path, "--classes", "1,2"))
    assert code == 1 and "rows whose segment is not among --classes '1,2': 2 (12 Proximal LAD: 1, 13 Mid LAD: 1" in said


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


# Bad rows and bad flags


def test_a_bad_csv_is_reported_with_its_rows_and_without_a_traceback(csv_path, tmp_path):
    table = pd.read_csv(csv_path, dtype=str)
    table.loc[1, "cass_segment"], table.loc[2, "cass_segment"] = "42", "9a"
    bad = csv_path.with_name("bad.csv")
    table.to_csv(bad, index=False)
    said, code = run_main(*flags(bad, tmp_path))
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
        (("--sam3-checkpoint", "sam3.pt"), "stage 2 starts from its checkpoint"),
        (("--eval-only",), "--eval-only needs --init-from"),
        (("--eval-only", "--init-from", "best.pth", "--resume"), "leave --resume out"),
        (("--image-size", 500), "multiple of 336"),
    ],
)
def test_flags_that_cannot_work_are_refused_at_once(given, said):
    text, code = run_main("--data-csv", "x.csv", *given)
    assert code == 2 and said in text


# Scores


def test_a_perfect_output_has_perfect_scores():
    """Two crossing vessels, the analysed one in the middle of the other's two halves; all drawn as logits."""
    classes, size = (12, 13), 128
    cass_map = np.zeros((size, size), np.uint8)
    cass_map[56:64, 8:64], cass_map[56:64, 64:120] = 12, 13
    segment = cass_map == 13

    def logits(mask, stride=1):
        return 40.0 * torch.from_numpy(mask[::stride, ::stride].astype(np.float32)) - 20.0

    names = torch.stack([logits(cass_map == 12, 4), logits(segment, 4), logits(cass_map == 0, 4)])[None]
    box = torch.tensor([[92 / 128, 60 / 128, 56 / 128, 8 / 128]])
    output = CassOutput(logits(cass_map > 0)[None, None], torch.tensor([[-9.0, 9.0]]), box, names,
                        logits(segment, 4)[None, None])
    batch = {
        "image": None, "view_deg": None, "row": torch.tensor([0]), "class_index": torch.tensor([1]), "box": box,
        "deepsa_mask": torch.from_numpy(cass_map > 0).float()[None, None],
        "segment_mask": torch.from_numpy(segment).float()[None, None],
        "frame_deepsa_mask": [cass_map > 0], "frame_truth_mask": [cass_map > 0], "frame_segment_mask": [segment],
        "frame_cass_map": [cass_map],
    }
    (record,) = stage2.score_batch(stage2.Task(classes, (3, 3)), lambda image, view_deg: output, batch)
    for question in ("class", "pointed", "pointed_box", "pointed_point", "blind", "blind_map"):
        assert record[question] == 1, question
    assert record["box_iou"] == pytest.approx(1.0, abs=1e-5) and record["box_iou_map"] > 0.85
    assert record["dice_deepsa"] == record["dice_truth"] == 1.0
    assert record["loss"] < 0.15 and record["segments_right_px"] > 0.97 * record["segments_true_px"]
    metrics = summarise_answers(classes, [record], pd.DataFrame({"patient_id": ["a"]}))
    assert metrics["segment_f1_map"] == metrics["top1_pointed"] == metrics["box_ap50"] == 1.0


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
