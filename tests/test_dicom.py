"""data.dicom and data.frame_source: pixels as a viewer shows them, the header's angles, clear errors."""
import math
import warnings
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, XRayAngiographicImageStorage

from data.dicom import DicomCine, is_dicom
from data.errors import DataError
from data.frame_source import open_frames, read_picture

REAL = Path(__file__).parents[2] / "shared" / "real" / "xa_dicom"


def write_xa(path, frames, *, bits=8, photometric="MONOCHROME2", **elements):
    """Write frames (F, H, W) uint8 or uint16 as an uncompressed multi-frame XA file."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = XRayAngiographicImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = frames.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = frames.itemsize * 8, bits, bits - 1
    dataset.PhotometricInterpretation = photometric
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.PixelData = frames.tobytes()
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def ramp():
    """Frame f is f everywhere but for one row that runs over 0 ... 255."""
    frames = np.repeat(np.arange(3, dtype=np.uint8)[:, None, None], 8, axis=1).repeat(256, axis=2)
    frames[:, 0] = np.arange(256)
    return frames


def test_frames_are_read_one_by_one_unchanged(tmp_path, ramp):
    cine = DicomCine(write_xa(tmp_path / "a.dcm", ramp, WindowCenter=128, WindowWidth=256))
    assert len(cine) == 3
    for index in range(3):
        frame = cine.read(index)
        assert frame.shape == (8, 256, 3) and frame.dtype == np.uint8
        assert (frame == ramp[index][..., None]).all()


def test_window_of_twelve_bits(tmp_path):
    values = np.array([[[0, 1000, 1500, 2000, 4095]]], np.uint16).repeat(2, axis=1)
    cine = DicomCine(write_xa(tmp_path / "a.dcm", values, bits=12, WindowCenter=1500.5, WindowWidth=1001))
    assert cine.read(0)[0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_monochrome1_is_turned_so_that_vessels_are_dark(tmp_path, ramp):
    cine = DicomCine(
        write_xa(tmp_path / "a.dcm", ramp, photometric="MONOCHROME1", WindowCenter=128, WindowWidth=256)
    )
    assert (cine.read(1)[..., 0] == 255 - ramp[1]).all()


def test_sixteen_bits_without_a_window_fill_the_grey_scale(tmp_path):
    values = np.linspace(300, 800, 64 * 64).reshape(1, 64, 64).astype(np.uint16)
    frame = DicomCine(write_xa(tmp_path / "a.dcm", values, bits=16)).read(0)
    assert frame.min() == 0 and frame.max() == 255 and abs(int(np.median(frame)) - 128) < 5


def test_angles_distances_and_spacing(tmp_path, ramp):
    header = DicomCine(write_xa(
        tmp_path / "a.dcm", ramp, PositionerPrimaryAngle="-30.5", PositionerSecondaryAngle="25",
        ImagerPixelSpacing=[0.2, 0.3], DistanceSourceToDetector="1000", DistanceSourceToPatient="750")).header
    assert (header.primary_angle_deg, header.secondary_angle_deg) == (-30.5, 25)
    assert header.imager_pixel_spacing_mm == (0.2, 0.3)
    assert (header.source_detector_mm, header.source_patient_mm) == (1000, 750)


def test_empty_angles_are_unknown_and_said_so(tmp_path, ramp):
    path = write_xa(tmp_path / "a.dcm", ramp, PositionerPrimaryAngle="", PositionerSecondaryAngle=None)
    source = open_frames(path)
    assert all(math.isnan(angle) for angle in source.view_deg)
    assert source.view_source == "none in the DICOM header" and source.geometry == {}


def test_one_missing_angle_is_said_which(tmp_path, ramp):
    source = open_frames(write_xa(tmp_path / "a.dcm", ramp, PositionerSecondaryAngle="20"))
    assert (
        math.isnan(source.view_deg[0])
        and source.view_deg[1] == 20
        and "secondary angle only" in source.view_source
    )


def test_angles_of_enhanced_xa_stand_in_functional_groups(tmp_path, ramp):
    position, group = Dataset(), Dataset()
    position.PositionerPrimaryAngle, position.PositionerSecondaryAngle = "40", "-20"
    group.PositionerPositionSequence = [position]
    path = write_xa(tmp_path / "a.dcm", ramp, SharedFunctionalGroupsSequence=[group])
    assert open_frames(path).view_deg == (40, -20)


@pytest.mark.parametrize("elements, frame, message", [
    ({}, 3, "no frame 3; allowed: 0 to 2"), ({}, -1, "no frame -1"),
    ({"PositionerSecondaryAngle": "120"}, 0, "PositionerSecondaryAngle is 120; allowed: -90 to 90")])
def test_error_names_file_value_and_range(tmp_path, ramp, elements, frame, message):
    path = write_xa(tmp_path / "broken.dcm", ramp, **elements)
    with pytest.raises(DataError, match=f"broken.dcm.*{message}"):
        open_frames(path).read(frame)


def test_truncated_file_is_named(tmp_path, ramp):
    path = write_xa(tmp_path / "short.dcm", ramp)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DataError, match="short.dcm: frame 2 does not decode"):
        open_frames(path).read(2)


def without(path, *keywords, **changes):
    """Write the file again without some elements, or with others."""
    dataset = pydicom.dcmread(path)
    for keyword in keywords:
        delattr(dataset, keyword)
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("keyword", ["Rows", "Columns", "PixelData", "BitsStored"])
def test_missing_element_is_a_data_error_that_names_the_file(tmp_path, ramp, keyword):
    path = without(write_xa(tmp_path / "odd.dcm", ramp), keyword)
    with pytest.raises(DataError, match=r"odd\.dcm.*(" + keyword + "|does not decode)"):
        open_frames(path).read(0)


@pytest.mark.parametrize("changes", [{"Rows": 0}, {"NumberOfFrames": -1}, {"BitsStored": 40}])
def test_impossible_numbers_are_data_errors(tmp_path, ramp, changes):
    path = without(write_xa(tmp_path / "odd.dcm", ramp), **changes)
    with pytest.raises(DataError, match="odd.dcm"):
        open_frames(path).read(0)


def test_whatever_byte_is_wrong_the_error_is_a_data_error(tmp_path, ramp):
    path = write_xa(tmp_path / "odd.dcm", ramp[:1, :, :8], PositionerPrimaryAngle="10",
                    ImagerPixelSpacing=[0.2, 0.3])
    whole, read = path.read_bytes(), 0
    for position in range(132, len(whole) - 64):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1:])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                source = open_frames(path)
                source.read(source.frames - 1)
            read += 1
        except DataError as error:
            assert "odd.dcm" in str(error)
    assert read > 0


def test_what_is_no_dicom_is_refused(tmp_path):
    path = tmp_path / "text.dcm"
    path.write_text("hello")
    with pytest.raises(DataError, match="text.dcm: not a DICOM file"):
        DicomCine(path)


def test_dicom_is_told_by_content_where_the_suffix_says_nothing(tmp_path, ramp):
    path = write_xa(tmp_path / "IM0001", ramp)
    assert is_dicom(path) and open_frames(path).kind == "DICOM"
    (tmp_path / "other").write_bytes(b"x" * 200)
    assert not is_dicom(tmp_path / "other")


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real DICOMs at {REAL}")
@pytest.mark.parametrize("name, frames, view", [("IM1.dcm", 14, (31.3, 0.1)), ("IM3.dcm", 12, (-0.8, -23.2))])
def test_real_jpeg_lossless_files(name, frames, view):
    source = open_frames(REAL / name)
    assert (source.frames, source.height, source.width, source.view_deg) == (frames, 512, 512, view)
    frame = source.read(frames - 1)
    assert frame.shape == (512, 512, 3) and frame.std() > 10
    assert "imager_pixel_spacing_mm" not in source.geometry


@pytest.mark.parametrize("stored, expected", [
    (np.full((6, 7), 90, np.uint8), (90, 90, 90)),
    (np.full((6, 7, 3), (10, 20, 30), np.uint8), (30, 20, 10)),            # cv2 writes blue first
    (np.full((6, 7, 4), (10, 20, 30, 255), np.uint8), (30, 20, 10)),
    (np.where(np.eye(6, 7), 4095, 2048).astype(np.uint16), None),          # 12 bits in 16
])
def test_pictures_of_every_depth(tmp_path, stored, expected):
    path = tmp_path / "picture.png"
    cv2.imwrite(str(path), stored)
    picture = read_picture(path)
    assert picture.shape == (6, 7, 3) and picture.dtype == np.uint8
    assert picture[0, 1].tolist() == list(expected or (128, 128, 128))
    assert picture[0, 0, 0] == (expected[0] if expected else 255)


def test_broken_and_unknown_files_are_named(tmp_path):
    for name, message in (("a.png", "truncated or not a picture"), ("a.txt", "allowed: .npy cine")):
        (tmp_path / name).write_text("nothing")
        with pytest.raises(DataError, match=f"{name}.*{message}"):
            open_frames(tmp_path / name)
    with pytest.raises(DataError, match="absent.npy: no such file"):
        open_frames(tmp_path / "absent.npy")
