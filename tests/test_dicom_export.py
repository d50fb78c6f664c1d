"""utils.dicom.export: what a viewer reads of the results, bit by bit and number by number."""
import shutil
import subprocess
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sr.codedict import codes
from pydicom.uid import EnhancedXAImageStorage, JPEGLosslessSV1, RLELossless, XRayAngiographicImageStorage

from data.cass import SEGMENTS
from data.dicom import read_dicom_header
from data.errors import DataError
from data.lumen_crops import Crop
from qca.calibration import Calibration
from qca.measure import measure_lumen
from tests.qca_shapes import draw_tubes, edges_of, straight_line
from tests.test_dicom import write_xa
from utils.dicom.export import Algorithm, write_dicom_results
from utils.lumens.prediction import PredictedLumen
from utils.lumens.quantify import QuantifiedLesion
from utils.obstructions.matching import Detection

REAL = Path(__file__).parents[2] / "shared" / "real" / "xa_dicom"
ALGORITHM = Algorithm(name="predict.py", version="1.0", weights=("phase4_quantitative_best.pth sha256 0f3c",))
SIDE, FRAME = 160, 2
STUDY, SERIES, IMAGE = "1.2.30", "1.2.31", "1.2.3"
IDENTIFIED = dict(StudyInstanceUID=STUDY, SeriesInstanceUID=SERIES, Modality="XA", StudyID="7", AccessionNumber="A1",
                  StudyDate="20200102", StudyTime="101112", PatientName="Doe^Jane", PatientID="P1", PatientSex="F",
                  PatientBirthDate="19500607", ReferringPhysicianName="")


@pytest.fixture(scope="module")
def coverage():
    """A straight vessel 12 px wide with a narrowing of 6 px in its middle, float32 (160, 160)."""
    line = straight_line()
    along = np.linspace(-55, 55, len(line))
    return draw_tubes([edges_of(line, 12 - 6 * np.exp(-((along / 8) ** 2)))])[0]


def lesion_of(coverage, calibration=None, *, detected=True, warnings=None, failure=None):
    lumen = PredictedLumen(share=coverage, crop=Crop(np.eye(2, 3), SIDE), box_px=(20.0, 50.0, 140.0, 110.0),
                           frame_size=(SIDE, SIDE))
    measured = None if failure else measure_lumen(coverage, calibration, proximal_px=(25, 60))
    said = warnings if warnings is not None else () if failure else measured.flags
    detection = Detection(score=0.8, box_px=(70, 70, 90, 90), point_px=(80, 80), stenosis_pct=50.0)
    return QuantifiedLesion(detection=detection if detected else None, asked_by="a box", lumen=lumen, measured=measured,
                            failure=failure, warnings=said)


def source_file(folder, *, frames=4, **elements):
    pixels = np.arange(frames, dtype=np.uint8)[:, None, None].repeat(SIDE, axis=1).repeat(SIDE, axis=2)
    return write_xa(folder / "source.dcm", pixels, **IDENTIFIED | elements)


def export(folder, source, coverage, *, frame_index=FRAME, **given):
    """Write with vessels and two segments, and read both files back."""
    vessels = coverage >= 0.5
    halves = [vessels.copy(), vessels.copy()]
    halves[0][:, 80:], halves[1][:, :80] = False, False
    given = {"vessel_mask": vessels, "segments": [(13, halves[0]), (9, halves[1])], "algorithm": ALGORITHM} | given
    paths = write_dicom_results(folder, "result", read_dicom_header(source), frame_index, **given)
    assert [path.name for path in paths.values()] == ["result_seg.dcm", "result_sr.dcm"]
    return hd.seg.segread(paths["segmentation"]), hd.sr.srread(paths["report"])


def masks_of(segmentation):
    """Masks bool (H, W) by segment label, of the one frame that they refer to."""
    pixels = segmentation.get_pixels_by_source_frame(IMAGE, [FRAME + 1])
    labels = [one.SegmentLabel for one in segmentation.SegmentSequence]
    return {label: pixels[0, ..., n].astype(bool) for n, label in enumerate(labels)}


def numbers_of(group):
    """name -> (value, unit) of a measurement group."""
    return {one.name.meaning: (float(one.value), one.unit.value) for one in group.get_measurements()}


def comments_of(dataset):
    """Every comment anywhere in a report."""
    said = [dataset.TextValue] if codes.DCM.Comment == concept_of(dataset) else []
    return said + [text for item in dataset.get("ContentSequence", ()) for text in comments_of(item)]


def concept_of(item):
    names = item.get("ConceptNameCodeSequence")
    return hd.sr.CodedConcept.from_dataset(names[0]) if names else None


def test_masks_come_back_bit_by_bit(tmp_path, coverage):
    lesion = lesion_of(coverage)
    segmentation, _ = export(tmp_path, source_file(tmp_path), coverage, lesions=[(13, lesion)])
    masks, vessels = masks_of(segmentation), coverage >= 0.5
    assert list(masks) == ["Vessel tree", "13 Mid LAD", "9 Inferior septal perforators",
                           "Lumen of lesion 1: 13 Mid LAD"]
    assert (masks["Vessel tree"] == vessels).all() and vessels.sum() > 500
    assert (masks["13 Mid LAD"] == (vessels & (np.arange(SIDE) < 80))).all()
    assert (masks["9 Inferior septal perforators"] == (vessels & (np.arange(SIDE) >= 80))).all()
    assert (masks["Lumen of lesion 1: 13 Mid LAD"] == lesion.lumen.mask_in_frame()).all()


def test_size_that_is_no_whole_number_of_bytes(tmp_path):
    source = write_xa(tmp_path / "odd.dcm", np.zeros((3, 7, 11), np.uint8), **IDENTIFIED)
    mask = np.random.default_rng(0).random((7, 11)) > 0.5
    paths = write_dicom_results(tmp_path, "odd", read_dicom_header(source), 1, vessel_mask=mask,
                                segments=[(13, ~mask)], algorithm=ALGORITHM)
    pixels = hd.seg.segread(paths["segmentation"]).get_pixels_by_source_frame(IMAGE, [2])
    assert (pixels[0, ..., 0] == mask).all() and (pixels[0, ..., 1] == ~mask).all()


def test_segments_have_codes_colours_and_the_algorithm(tmp_path, coverage):
    segmentation, _ = export(tmp_path, source_file(tmp_path), coverage, lesions=[(13, lesion_of(coverage))])
    vessel, lad, septal, lumen = segmentation.SegmentSequence
    found = [(one.segmented_property_type.value, one.segmented_property_type.scheme_designator)
             for one in (vessel, lad, septal, lumen)]
    assert found == [("41801008", "SCT"), (SEGMENTS[13].snomed_ct, "SCT"), ("CASS9", "99SAM3CORO"), ("91747007", "SCT")]
    assert lumen.anatomic_regions[0].value == SEGMENTS[13].snomed_ct
    assert segmentation.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == "99SAM3CORO"
    color = hd.color.CIELabColor.from_dicom_value(tuple(lad.RecommendedDisplayCIELabValue)).to_rgb()
    assert np.abs(np.subtract(color, SEGMENTS[13].colour)).max() <= 2
    told = lad.SegmentationAlgorithmIdentificationSequence[0]
    assert (told.AlgorithmName, told.AlgorithmVersion) == ("predict.py", "1.0")
    assert "sha256 0f3c" in told.AlgorithmParameters
    assert segmentation.SegmentationType == "BINARY" and lad.SegmentAlgorithmType == "AUTOMATIC"


def test_files_refer_to_the_source_and_its_frame(tmp_path, coverage):
    segmentation, report = export(tmp_path, source_file(tmp_path), coverage, lesions=[(13, lesion_of(coverage))])
    images = [image for group in segmentation.PerFrameFunctionalGroupsSequence
              for image in group.DerivationImageSequence[0].SourceImageSequence]
    region = report.content.get_planar_roi_measurement_groups()[0].roi
    images += [segmentation.SourceImageSequence[0], region.ContentSequence[0].ReferencedSOPSequence[0]]
    assert len(images) == 6
    for image in images:
        assert image.ReferencedSOPInstanceUID == IMAGE and image.ReferencedFrameNumber == FRAME + 1
        assert image.ReferencedSOPClassUID == XRayAngiographicImageStorage
    evidence = {instance for _, _, instance, _ in report.get_evidence()}
    assert evidence == {IMAGE, segmentation.SOPInstanceUID}
    for result in (segmentation, report):
        assert (result.StudyInstanceUID, result.PatientID, str(result.PatientName)) == (STUDY, "P1", "Doe^Jane")
        assert result.SeriesInstanceUID != SERIES and result.SOPInstanceUID != IMAGE
    assert "ImagePositionPatient" not in str(segmentation) and "PixelMeasuresSequence" not in segmentation


def test_calibrated_numbers_are_in_mm(tmp_path, coverage):
    lesion = lesion_of(coverage, Calibration(5.0, "catheter"))
    _, report = export(tmp_path, source_file(tmp_path), coverage, lesions=[(13, lesion)])
    outline, narrowest = report.content.get_planar_roi_measurement_groups()
    mm = lesion.measured.mm
    assert numbers_of(outline) == {
        "Vessel lumen diameter": (pytest.approx(mm.mld, abs=1e-3), "mm"),
        "Reference vessel diameter at the minimum lumen diameter": (pytest.approx(mm.rvd, abs=1e-3), "mm"),
        "Lumen Diameter Stenosis": (pytest.approx(lesion.measured.stenosis_pct, abs=0.01), "%"),
        "Lumen Area Stenosis": (pytest.approx(lesion.measured.area_stenosis_pct, abs=0.01), "%"),
        "Stenotic Lesion Length": (pytest.approx(mm.lesion_length, abs=1e-3), "mm"),
    }
    assert mm.mld == pytest.approx(6 / 5, abs=0.1) and mm.rvd == pytest.approx(12 / 5, abs=0.1)
    assert outline.get_measurements()[0].derivation == codes.SCT.Minimum
    assert outline.finding_type == codes.SCT.Stenosis and narrowest.finding_type == codes.DCM.SiteOfLumenMinimum
    assert outline.finding_sites[0].value.value == SEGMENTS[13].snomed_ct
    assert any("5.000 pixels per mm" in text and "catheter" in text for text in comments_of(report))


def test_without_a_calibration_there_are_no_mm(tmp_path, coverage):
    lesion = lesion_of(coverage)
    source = source_file(tmp_path, ImagerPixelSpacing=[0.2, 0.2], PixelSpacing=[0.2, 0.2])
    segmentation, report = export(tmp_path, source, coverage, lesions=[(None, lesion)])
    numbers = numbers_of(report.content.get_planar_roi_measurement_groups()[0])
    assert {unit for _, unit in numbers.values()} == {"{pixels}", "%"}
    assert numbers["Vessel lumen diameter"][0] == pytest.approx(lesion.measured.worst.mld_px, abs=0.01)
    assert any("no calibration" in text for text in comments_of(report))
    assert "PixelSpacing" not in str(segmentation)


def test_regions_are_the_lumen_and_the_line_across_it(tmp_path, coverage):
    lesion = lesion_of(coverage)
    _, report = export(tmp_path, source_file(tmp_path), coverage, lesions=[(13, lesion)])
    outline, narrowest = (one.roi.value for one in report.content.get_planar_roi_measurement_groups())
    worst, measured = lesion.measured.worst, lesion.measured
    assert (outline[0] == outline[-1]).all()
    corner = 0.5        # where DICOM's first pixel begins, from its centre
    assert outline[0] == pytest.approx(measured.left_px[worst.start] + corner, abs=1e-3)
    assert np.hypot(*(narrowest[1] - narrowest[0])) == pytest.approx(worst.mld_px, abs=0.3)
    assert narrowest.mean(axis=0) == pytest.approx((80.8, 80.1), abs=1)


def test_lesion_and_its_lumen_have_one_identifier(tmp_path, coverage):
    lesions = [(13, lesion_of(coverage)), (None, lesion_of(coverage))]
    segmentation, report = export(tmp_path, source_file(tmp_path), coverage, lesions=lesions)
    of_lumens = [uid for _, uid in segmentation.get_tracking_ids()]
    groups = report.content.get_planar_roi_measurement_groups()
    assert sorted(of_lumens) == sorted(one.tracking_uid for one in groups[::2]) and len(set(of_lumens)) == 2
    assert [one.tracking_identifier for one in groups[::2]] == ["Lesion 1: 13 Mid LAD", "Lesion 2"]


def test_report_says_what_it_is_and_is_not(tmp_path, coverage):
    lesion = lesion_of(coverage, warnings=("a side branch leaves at the lesion – sehr unsicher",))
    segmentation, report = export(tmp_path, source_file(tmp_path), coverage, lesions=[(13, lesion)])
    assert (report.VerificationFlag, report.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    assert comments_of(report) == [*lesion.warnings, "Research output, not for clinical use."]
    for said in (report.CompletionFlagDescription, segmentation.ContentDescription):
        assert said == "Research output, not for clinical use"
    observer = {concept_of(item).meaning: item for item in report.ContentSequence}
    assert observer["Device Observer Name"].TextValue == "predict.py"
    assert observer["Device Observer UID"].UID == ALGORITHM.device_uid
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"


def test_lesion_that_could_not_be_measured(tmp_path, coverage):
    lesion = lesion_of(coverage, failure="the mask is empty")
    segmentation, report = export(tmp_path, source_file(tmp_path), coverage, lesions=[(13, lesion)])
    (group,) = report.content.get_planar_roi_measurement_groups()
    assert not group.get_measurements() and "Could not be measured: the mask is empty" in comments_of(report)
    assert group.roi.value.tolist() == [[70.5, 70.5], [90.5, 70.5], [90.5, 90.5], [70.5, 90.5], [70.5, 70.5]]
    assert segmentation.number_of_segments == 3


def test_a_healthy_vessel_in_a_box_that_somebody_drew_is_called_no_stenosis(tmp_path):
    healthy = draw_tubes([edges_of(straight_line(), 12.0)])[0]
    _, report = export(tmp_path, source_file(tmp_path), healthy, lesions=[(13, lesion_of(healthy, detected=False))])
    assert report.content.get_planar_roi_measurement_groups()[0].finding_type == codes.SCT.LumenOfBloodVessel


def test_nothing_measured_is_said(tmp_path, coverage):
    segmentation, report = export(tmp_path, source_file(tmp_path), coverage)
    (group,) = report.content.get_image_measurement_groups()
    assert not group.get_measurements()
    assert any("No obstruction was measured" in text and "does not say" in text for text in comments_of(report))
    assert segmentation.number_of_segments == 3


def test_frame_without_vessels(tmp_path):
    empty = np.zeros((SIDE, SIDE), bool)
    segmentation, _ = export(tmp_path, source_file(tmp_path), empty, segments=[(13, empty)], vessel_mask=empty)
    assert not masks_of(segmentation)["Vessel tree"].any() and segmentation.number_of_segments == 1


def test_weights_that_draw_no_vessels(tmp_path, coverage):
    header = read_dicom_header(source_file(tmp_path))
    given = dict(vessel_mask=None, algorithm=ALGORITHM)
    paths = write_dicom_results(tmp_path, "a", header, FRAME, lesions=[(None, lesion_of(coverage))], **given)
    assert list(masks_of(hd.seg.segread(paths["segmentation"]))) == ["Lumen of lesion 1"]
    failed = lesion_of(coverage, failure="the mask is empty")
    paths = write_dicom_results(tmp_path, "b", header, FRAME, lesions=[(None, failed)], **given)
    assert list(paths) == ["report"] and not (tmp_path / "b_seg.dcm").exists()
    assert {instance for _, _, instance, _ in hd.sr.srread(paths["report"]).get_evidence()} == {IMAGE}


def test_image_of_one_frame_is_referred_to_without_a_number(tmp_path, coverage):
    segmentation, report = export(tmp_path, source_file(tmp_path, frames=1), coverage, frame_index=0)
    assert "ReferencedFrameNumber" not in segmentation.SourceImageSequence[0]
    assert (segmentation.get_pixels_by_source_instance([IMAGE])[0, ..., 0] == (coverage >= 0.5)).all()
    assert report.content.get_image_measurement_groups()


def test_source_without_patient_data(tmp_path, coverage):
    source = write_xa(tmp_path / "bare.dcm", np.zeros((4, SIDE, SIDE), np.uint8), StudyInstanceUID=STUDY,
                      SeriesInstanceUID=SERIES)
    for result in export(tmp_path, source, coverage, lesions=[(13, lesion_of(coverage))]):
        assert not result.PatientName and result.PatientID in ("", None) and result.StudyInstanceUID == STUDY


@pytest.mark.parametrize("elements", [
    {"PatientName": "", "PatientID": "", "PatientSex": "", "PatientBirthDate": "", "StudyDate": "", "StudyTime": ""},
    {"PatientName": "ANONYMOUS", "PatientSex": "X", "PatientBirthDate": "00000000", "StudyDate": "20209999",
     "StudyTime": "999999"},
])
@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_deidentified_source(tmp_path, coverage, elements):
    for result in export(tmp_path, source_file(tmp_path, **elements), coverage):
        assert str(result.PatientName) == elements["PatientName"]
        assert not (result.PatientSex or result.PatientBirthDate or result.StudyDate or result.StudyTime)


def test_damaged_element_that_nothing_needs(tmp_path, coverage):
    path = source_file(tmp_path, PatientWeight="70.5")
    path.write_bytes(path.read_bytes().replace(b"70.5", b"7x.5"))
    segmentation, _ = export(tmp_path, path, coverage)
    assert segmentation.PatientID == "P1"


def test_patient_name_is_not_written_to_the_terminal(tmp_path, coverage, recwarn, capfd):
    export(tmp_path, source_file(tmp_path, PatientName="SECRET"), coverage)
    assert "SECRET" not in "".join([*(str(one.message) for one in recwarn), *capfd.readouterr()])


@pytest.mark.parametrize("charset, name", [("ISO_IR 100", "Müller^Jörg"), ("ISO_IR 192", "Ωμέγα^Ανδρέας"),
                                           (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎")])
def test_names_in_other_scripts(tmp_path, coverage, charset, name):
    source = source_file(tmp_path, SpecificCharacterSet=charset, PatientName=name)
    for result in export(tmp_path, source, coverage):
        assert str(result.PatientName) == name and result.SpecificCharacterSet == "ISO_IR 192"


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLosslessSV1])
def test_compressed_source(tmp_path, coverage, syntax):
    path = source_file(tmp_path)
    dataset = pydicom.dcmread(path)
    if syntax == RLELossless:
        dataset.compress(RLELossless, generate_instance_uid=False)
    else:                       # nothing looks at the pixels: these need not decode
        dataset.file_meta.TransferSyntaxUID, dataset.PixelData = syntax, encapsulate([b"\xff\xd8\xff\xd9"] * 4)
        dataset["PixelData"].VR = "OB"
    dataset.save_as(path, enforce_file_format=True)
    segmentation, _ = export(tmp_path, path, coverage)
    assert (masks_of(segmentation)["Vessel tree"] == (coverage >= 0.5)).all()


def test_pixels_may_be_loaded_and_stay_as_they_are(tmp_path, coverage):
    dataset = pydicom.dcmread(source_file(tmp_path))
    before = dataset.to_json()
    write_dicom_results(tmp_path, "a", dataset, FRAME, vessel_mask=coverage >= 0.5, algorithm=ALGORITHM)
    assert dataset.to_json() == before


def test_enhanced_xa_and_frame_of_reference(tmp_path, coverage):
    group, position = Dataset(), Dataset()
    position.PositionerPrimaryAngle = "30"
    group.PositionerPositionSequence = [position]
    source = source_file(tmp_path, SOPClassUID=EnhancedXAImageStorage, SharedFunctionalGroupsSequence=[group],
                         PerFrameFunctionalGroupsSequence=[Dataset() for _ in range(4)], FrameOfReferenceUID="1.2.9")
    segmentation, _ = export(tmp_path, source, coverage)
    assert (masks_of(segmentation)["Vessel tree"] == (coverage >= 0.5)).all()
    assert segmentation.SourceImageSequence[0].ReferencedSOPClassUID == EnhancedXAImageStorage


def test_file_that_is_no_dicom_is_refused(tmp_path):
    (tmp_path / "picture.png").write_bytes(b"x" * 200)
    with pytest.raises(DataError, match="picture.png: not a DICOM file"):
        read_dicom_header(tmp_path / "picture.png")


@pytest.mark.parametrize("elements, given, message", [
    ({"StudyInstanceUID": ""}, {}, "source.dcm: the header has no StudyInstanceUID"),
    ({}, {"frame_index": 4}, "source.dcm: no frame 4; allowed: 0 to 3"),
    ({}, {"vessel_mask": np.zeros((SIDE, 20), bool)}, r"source.dcm: the mask of 'Vessel tree' is bool \[160, 20\]"),
    ({}, {"vessel_mask": np.zeros((SIDE, SIDE), np.uint8)}, "is uint8"),
    ({}, {"segments": [(30, np.ones((SIDE, SIDE), bool))]}, "30 is no CASS segment; allowed: 1 to 29"),
    ({"SOPClassUID": "1.2.3.4.5"}, {}, "source.dcm: no DICOM results can be made of this header"),
    ({}, {"algorithm": Algorithm(name="x" * 65, version="1")}, "allowed: 1 to 64 letters"),
])
def test_failures_say_what_and_write_nothing(tmp_path, coverage, elements, given, message):
    source = source_file(tmp_path, **elements)
    with pytest.raises(DataError, match=message):
        export(tmp_path, source, coverage, **given)
    assert not list(tmp_path.glob("result*"))


def test_same_results_but_for_uids_and_time(tmp_path, coverage):
    source, lesions = source_file(tmp_path), [(13, lesion_of(coverage))]
    first, second = (export(tmp_path, source, coverage, lesions=lesions) for _ in range(2))
    assert first[0].PixelData == second[0].PixelData and ALGORITHM.serial_number == first[0].DeviceSerialNumber
    numbers = [numbers_of(one[1].content.get_planar_roi_measurement_groups()[0]) for one in (first, second)]
    assert numbers[0] == numbers[1] and first[0].SOPInstanceUID != second[0].SOPInstanceUID


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real DICOMs at {REAL}")
def test_real_jpeg_lossless_file(tmp_path):
    header = read_dicom_header(REAL / "IM1.dcm")
    mask = np.eye(512, dtype=bool)
    paths = write_dicom_results(tmp_path, "IM1", header, 7, vessel_mask=mask, algorithm=ALGORITHM)
    pixels = hd.seg.segread(paths["segmentation"]).get_pixels_by_source_frame(header.SOPInstanceUID, [8])
    assert (pixels[0, ..., 0] == mask).all()


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (package dicom3tools) is not installed")
@pytest.mark.parametrize("measured", [True, False])
def test_validator_finds_no_error(tmp_path, coverage, measured):
    lesions = [(13, lesion_of(coverage, Calibration(5.0, "catheter"))), (None, lesion_of(coverage, failure="empty"))]
    export(tmp_path, source_file(tmp_path), coverage, lesions=lesions if measured else [])
    for kind in ("seg", "sr"):
        run = subprocess.run(["dciodvfy", "-new", tmp_path / f"result_{kind}.dcm"], capture_output=True, text=True)
        faults = [line for line in run.stderr.splitlines() if line.startswith(("Error", "Warning"))]
        assert run.stderr.strip() and not [line for line in faults if "99SAM3CORO" not in line], run.stderr
