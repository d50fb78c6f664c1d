"""predict.py as a user calls it: every kind of input, what it writes, and going on past a bad file."""
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import predict
import test_model_during_training
import test_view_angle_impact
from data.dataset import AngiogramDataset
from data.schema import load_table
from models.loading import load_model
from tests.csv_fixture import write_tiny_dataset
from tests.test_dicom import write_xa
from tests.test_frame_choice import make_cine
from tests.tiny_checkpoint import IMAGE_SIZE, write_tiny_checkpoint
from utils.prediction import network_image, predict_vessels, sigmoid
from utils.reports import jobs as prediction_jobs

ROOT = Path(predict.__file__).parent
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("weights") / "tiny.pth")


@pytest.fixture(scope="module")
def model(checkpoint):
    return load_model(checkpoint)[0]


def exit_code(main, arguments):
    """What the shell sees, whether `main` returns or exits."""
    try:
        return main([*map(str, arguments)])
    except SystemExit as left:
        return left.code


def call(checkpoint, out, *arguments):
    return exit_code(predict.main, [*arguments, "--checkpoint", checkpoint, "--out", out, "--device", "cpu"])


def record(out, name):
    return json.loads((out / f"{name}.json").read_text(encoding="utf-8"))


def input_files(out):
    """The JSON files of the inputs, without that of the whole run."""
    return sorted(path for path in out.glob("*.json") if path.name != "report.json")


def test_cine_that_is_not_square(tmp_path, checkpoint):
    cine = make_cine([0, 0.5, 1, 1, 0.4])[:, 20:220, 30:180]
    np.save(tmp_path / "cine.npy", cine)
    out = tmp_path / "out"
    assert (
        call(checkpoint, out, tmp_path / "cine.npy", "--primary-angle", "-30", "--secondary-angle", 25) == 0
    )
    mask, probability = (cv2.imread(str(out / f"cine_{kind}.png"), cv2.IMREAD_UNCHANGED)
                         for kind in ("mask", "probability"))
    assert mask.shape == probability.shape == (200, 150)
    assert mask.dtype == np.uint8 and set(np.unique(mask)) <= {0, 255} and probability.dtype == np.uint16
    assert ((probability >= 32768) == (mask == 255)).mean() > 0.9999      # but for rounding at the threshold
    written = record(out, "cine")
    assert written["frame_index"] in (2, 3) and "contrast filling" in written["frame_choice"]
    assert written["view"]["primary_angle_deg"] == -30 and written["view"]["source"] == "command line"
    assert written["view"]["bin_centre_deg"]["primary"] == -30
    assert written["vessel"]["area_px"] == (mask == 255).sum()
    assert written["image_size_px"] == {"height": 200, "width": 150}
    assert (out / "cine_overlay.png").stat().st_size > 0 and (out / "predictions.png").stat().st_size > 0
    assert not [path for path in out.iterdir() if path.suffix == ".tmp"]


def test_dicom_with_angles_and_a_picture_without(tmp_path, checkpoint):
    frames = make_cine([0, 1], side=64)
    write_xa(tmp_path / "IM1.dcm", frames, PositionerPrimaryAngle="31.3", PositionerSecondaryAngle="0.1",
             DistanceSourceToDetector="1000", DistanceSourceToPatient="750", ImagerPixelSpacing=[0.2, 0.2])
    cv2.imwrite(str(tmp_path / "picture.png"), frames[1])
    out = tmp_path / "out"
    assert call(checkpoint, out, tmp_path, "--frame", 0) == 0         # the folder's two files
    dicom, picture = record(out, "IM1"), record(out, "picture")
    assert dicom["view"]["primary_angle_deg"] == 31.3 and dicom["view"]["source"] == "DICOM header"
    assert dicom["frame_choice"] == "given" and dicom["frames"] == 2
    assert dicom["pixel_size_at_isocentre_mm"] == pytest.approx([0.15, 0.15])
    assert (
        picture["view"]["primary_angle_deg"] is None
        and picture["view"]["bin_centre_deg"]["primary"] == "unknown"
    )
    assert picture["pixel_size_at_isocentre_mm"] is None and picture["geometry"] == {}


def test_bad_files_are_listed_at_the_end_and_the_others_done(tmp_path, checkpoint, capsys):
    (tmp_path / "broken.npy").write_bytes(b"nothing")
    np.save(tmp_path / "short.npy", make_cine([1], side=64))
    out = tmp_path / "out"
    given = [tmp_path / "broken.npy", tmp_path / "absent.png", tmp_path / "short.npy"]
    assert call(checkpoint, out, *given) == 1
    errors = capsys.readouterr().err
    assert (
        "2 inputs could not be predicted" in errors
        and "broken.npy" in errors
        and "absent.png: no such" in errors
    )
    assert record(out, "short")["frame_choice"] == "only frame"


def test_equal_stems_do_not_overwrite_each_other(tmp_path, checkpoint):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "cine.npy", make_cine([1], side=64))
    assert call(checkpoint, tmp_path / "out", tmp_path / "a" / "cine.npy", tmp_path / "b" / "cine.npy") == 0
    assert Path(record(tmp_path / "out", "cine")["input"]).parent.name == "a"
    assert Path(record(tmp_path / "out", "cine_2")["input"]).parent.name == "b"


def test_names_that_differ_only_in_case_are_told_apart():
    jobs = [prediction_jobs.Job(name=name, path=Path(name), frame_index=None, view_deg=(0, 0), view_source="")
            for name in ("IM1", "im1", "Im1")]
    assert [job.name for job in prediction_jobs.with_names_apart(jobs)] == ["IM1", "im1_2", "Im1_3"]


def test_an_input_is_never_replaced(tmp_path, checkpoint, capsys):
    for name in ("IM1.png", "im1_MASK.png"):        # the second is what IM1's mask would be called
        cv2.imwrite(str(tmp_path / name), make_cine([1], side=64)[0])
    before = (tmp_path / "im1_MASK.png").read_bytes()
    assert call(checkpoint, tmp_path, tmp_path) == 1
    assert "is an input and would be replaced; give another folder" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["IM1.png", "im1_MASK.png"]
    assert (tmp_path / "im1_MASK.png").read_bytes() == before


def test_patient_numbers_with_signs_make_file_names(tmp_path, checkpoint):
    csv_path = write_tiny_dataset(tmp_path / "data", patients=2, rows_per_patient=1)
    csv_path.write_text(csv_path.read_text().replace("101-0002,", "a/b:2,"))
    assert call(checkpoint, tmp_path / "out", "--data-csv", csv_path) == 0
    assert [path.name for path in input_files(tmp_path / "out")] == ["a_b_2_101-0002_001_f001.json"]


@pytest.mark.parametrize("flags", [["--frame", 3], ["--primary-angle", "RAO 30", "--secondary-angle", 0]])
def test_flags_that_a_data_set_would_ignore_are_refused(tmp_path, checkpoint, capsys, flags):
    assert call(checkpoint, tmp_path, "--data-csv", "absent.csv", *flags) == 2
    errors = capsys.readouterr().err
    assert all(flag in errors for flag in flags[::2]) and "cannot be given with --data-csv" in errors


def interrupt(*arguments, **keywords):
    raise KeyboardInterrupt


def test_ctrl_c_ends_with_one_line(tmp_path, checkpoint, capsys, monkeypatch):
    monkeypatch.setattr(predict, "predict_all", interrupt)
    assert call(checkpoint, tmp_path / "out", tmp_path / "cine.npy") == 130
    monkeypatch.setattr(test_view_angle_impact, "run", interrupt)
    assert exit_code(test_view_angle_impact.main, ["--data-csv", "x.csv"]) == 130
    monkeypatch.setattr(test_model_during_training, "watch", interrupt)
    assert exit_code(test_model_during_training.main, []) == 130
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and all(line.startswith("stopped; ") for line in lines)


def test_rows_of_a_data_set_are_predicted_at_the_analysed_frame_and_scored(tmp_path, checkpoint, capsys):
    csv_path = write_tiny_dataset(tmp_path / "data", patients=3, val_patients=2)
    assert call(checkpoint, tmp_path / "out", "--data-csv", csv_path, "--limit", 2) == 0
    paths = input_files(tmp_path / "out")
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    table = load_table(csv_path, split="val").set_index("cine_path")
    assert len(records) == 2
    for one in records:
        row = table.loc[one["input"]]
        assert one["frame_index"] == row["frame_index"] and 0 <= one["scores"]["dice_truth"] <= 1
        expected = None if np.isnan(row["primary_angle"]) else row["primary_angle"]
        assert one["view"]["primary_angle_deg"] == expected
    printed = capsys.readouterr().out
    assert "mean dice_deepsa over 2 frames" in printed and "mean dice_truth over 2 frames" in printed


@pytest.mark.parametrize("arguments, code, message", [
    ([], 2, "give inputs or --data-csv"), (["here", "--data-csv", "x.csv"], 2, "one of the three"),
    (["--data-csv", "absent.csv"], 1, "absent.csv"),
    (["--data-csv", "x.csv", "--path-map", "E:"], 1, "OLD=NEW")])
def test_wrong_call_is_explained_without_a_traceback(tmp_path, checkpoint, capsys, arguments, code, message):
    """2 for what argparse sees in the command line alone, 1 for what there turns out not to be."""
    assert call(checkpoint, tmp_path, *arguments) == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("flag, value", [("--primary-angle", "400"), ("--secondary-angle", "RAO 30"),
                                         ("--threshold", "1.5"), ("--limit", "0")])
def test_flag_out_of_range_names_the_value(tmp_path, checkpoint, capsys, flag, value):
    assert call(checkpoint, tmp_path, "cine.npy", flag, value) == 2
    assert flag in capsys.readouterr().err


def test_angle_as_a_cardiologist_writes_it():
    args = predict.build_parser().parse_args(
        ["x.npy", "--primary-angle", "RAO 30", "--secondary-angle", "-12.5"]
    )
    assert (args.primary_angle, args.secondary_angle) == (-30, -12.5)


def test_missing_checkpoint_is_named(tmp_path, capsys):
    np.save(tmp_path / "cine.npy", make_cine([1], side=64))
    assert call(tmp_path / "absent.pth", tmp_path / "out", tmp_path / "cine.npy") == 1
    assert "absent.pth" in capsys.readouterr().err


def test_prediction_sees_what_training_saw(tmp_path, model):
    csv_path = write_tiny_dataset(tmp_path, patients=2, rows_per_patient=1, size=IMAGE_SIZE)
    table = load_table(csv_path)
    sample = AngiogramDataset(table, image_size=IMAGE_SIZE)[0]
    row = table.iloc[0]
    frame = np.load(row["cine_path"])[row["frame_index"]]
    assert torch.equal(network_image(frame, IMAGE_SIZE), sample["image"])
    with torch.inference_mode():
        logits = model(sample["image"][None], sample["view_deg"][None])[0, 0]
    probability = predict_vessels(
        model, frame, view_deg=sample["view_deg"].tolist(), image_size=IMAGE_SIZE, device=CPU
    )
    assert np.allclose(probability, torch.sigmoid(logits).numpy(), atol=1e-5)


class BlurModel(torch.nn.Module):
    """Logit = the picture's grey value: what comes out shows what was done to what went in."""

    def forward(self, image, view_deg):
        return image.mean(dim=1, keepdim=True)


def test_magnified_copies_are_put_back_where_they_came_from():
    frame = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8), (0, 0), 4)
    plain, averaged = (
        predict_vessels(BlurModel(), frame, view_deg=(0, 0), image_size=96, device=CPU, scales=scales)
        for scales in ((1.0,), (1.0, 0.9, 1.1))
    )
    assert np.abs(plain - averaged)[8:-8, 8:-8].max() < 0.01
    assert np.abs(plain - averaged).max() < 0.05


def test_magnifying_alone_is_refused_because_it_hides_the_border():
    with pytest.raises(ValueError, match="at least one must be 1 or less"):
        predict_vessels(
            BlurModel(),
            np.zeros((8, 8, 3), np.uint8),
            view_deg=(0, 0),
            image_size=96,
            device=CPU,
            scales=(1.1,),
        )


def test_sigmoid_of_large_logits_does_not_overflow():
    with np.errstate(all="raise"):
        assert sigmoid(np.array([-1000.0, 0.0, 1000.0])).tolist() == [0, 0.5, 1]


@pytest.mark.parametrize("tool", [predict, test_model_during_training, test_view_angle_impact])
def test_help_teaches(tool):
    text = tool.build_parser().format_help()
    assert f"python {tool.__name__}.py" in text and "(default: " in text


def test_script_called_from_elsewhere_finds_its_modules_and_exits_with_its_code(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "predict.py")], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2 and "give inputs or --data-csv" in done.stderr
