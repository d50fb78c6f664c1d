"""predict.py --dicom: the results of the whole chain in DICOM files, read back."""

import highdicom as hd
import numpy as np
import pytest

import predict
from tests.measured_vessel import MIDDLE, SIZE, STENOSIS_PCT, detection, sees_vessel, write_frame
from tests.test_dicom import write_xa
from tests.test_dicom_export import IDENTIFIED, IMAGE, numbers_of
from tests.test_predict import exit_code
from tests.tiny_checkpoint import write_tiny_chain
from utils.dicom.export import dicom_paths
from utils.reports.records import output_paths

FRAME = 1


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_tiny_chain(tmp_path_factory.mktemp("weights"))


def run(out, weights, *given):
    return exit_code(predict.main, [*given, "--out", out, "--device", "cpu", "--dicom", "--checkpoint", *weights])


def test_segmentation_and_report_hold_what_the_other_files_say(tmp_path, weights, monkeypatch):
    sees_vessel(monkeypatch, [detection()])
    source = write_xa(tmp_path / "cine.dcm", np.full((3, *SIZE), 120, np.uint8), **IDENTIFIED)
    assert run(tmp_path / "out", weights, source, "--frame", FRAME, "--cine-frames", 1, "--px-per-mm", 4) == 0
    paths = dicom_paths(tmp_path / "out", "cine")
    segmentation = hd.seg.segread(paths["segmentation"])
    labels = [one.SegmentLabel for one in segmentation.SegmentSequence]
    assert len(labels) == 3  # all vessels, mid LAD, its lumen
    pixels = segmentation.get_pixels_by_source_frame(IMAGE, [FRAME + 1])
    assert pixels[0, round(MIDDLE[1]), round(MIDDLE[0])].all()
    report = hd.sr.srread(paths["report"])
    groups = report.content.get_planar_roi_measurement_groups()
    numbers = max((numbers_of(group) for group in groups), key=len)
    assert any(value == pytest.approx(STENOSIS_PCT, abs=3) for value, *_ in numbers.values())


def test_an_input_that_is_no_dicom_is_listed_and_its_other_files_are_there(tmp_path, weights, monkeypatch, capsys):
    sees_vessel(monkeypatch, [detection()])
    assert run(tmp_path / "out", weights, write_frame(tmp_path)) == 1
    assert "leave out --dicom" in capsys.readouterr().err
    assert (tmp_path / "out" / "frame.json").exists() and not (tmp_path / "out" / "frame_seg.dcm").exists()


def test_names_are_those_that_inputs_are_kept_from(tmp_path):
    assert set(dicom_paths(tmp_path, "a").values()) <= set(output_paths(tmp_path, "a").values())
