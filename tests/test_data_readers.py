"""data.angles, cass, cine, masks, contours, paths and text: one file or value at a time."""

import json
import math
import os
import tracemalloc

import cv2
import numpy as np
import pytest

from data.angles import parse_angle
from data.cass import CLASS_IDS, SEGMENTS
from data.cine import cine_shape, read_frame
from data.contours import read_contours
from data.errors import DataError
from data.masks import read_mask, resize_mask, resize_picture
from data.paths import resolve_path
from data.text import read_csv
from tests.csv_fixture import write_tiny_dataset


@pytest.mark.parametrize(
    ("value", "axis", "expected"),
    [
        ("RAO 30", "primary", -30), ("LAO 12.5", "primary", 12.5), ("30 RAO", "primary", -30),
        ("lao45°", "primary", 45), ("AP", "primary", 0), ("-28", "primary", -28), (-28, "primary", -28),
        ("12,5", "primary", 12.5), ("CRA 20", "secondary", 20), ("CAUD 10", "secondary", -10),
        ("Cranial 5 deg", "secondary", 5), ("25 CAU", "secondary", -25), (np.float32(7.5), "secondary", 7.5),
        ("RAO 0", "primary", 0), (179.9, "primary", 179.9),
    ],
)
def test_angles_as_numbers_and_as_text(value, axis, expected):
    assert parse_angle(value, axis) == expected


@pytest.mark.parametrize("value", [None, "", "  ", "nan", float("nan"), "N/A", "unknown"])
def test_missing_angle_is_nan(value):
    assert math.isnan(parse_angle(value, "primary"))


@pytest.mark.parametrize(
    ("value", "axis"),
    [
        ("CRA 20", "primary"), ("RAO 20", "secondary"), ("RAO -30", "primary"), ("left", "primary"),
        ("RAO", "primary"), ("AP 10", "primary"), (181, "primary"), (91, "secondary"),
        ("CRA 95", "secondary"), (True, "primary"), (math.inf, "primary"), ("30 40", "primary"),
        ([30], "primary"),
    ],
)
def test_bad_angle_is_refused_with_what_is_allowed(value, axis):
    with pytest.raises(ValueError, match="allowed") as caught:
        parse_angle(value, axis)
    assert repr(value) in str(caught.value)


def test_cass_table_has_29_segments_and_the_14_classes_in_order():
    assert sorted(SEGMENTS) == list(range(1, 30))
    assert CLASS_IDS == (1, 2, 3, 4, 12, 13, 14, 15, 16, 18, 19, 20, 21, 28)
    assert len({segment.colour for segment in SEGMENTS.values()}) == 29


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, np.float16])
@pytest.mark.parametrize("colour", [True, False])
def test_read_frame_takes_every_listed_shape_and_type(tmp_path, dtype, colour):
    cine = np.random.default_rng(0).integers(0, 256, (4, 20, 30, 3), dtype=np.uint8)
    cine[..., 1:] = cine[..., :1] if not colour else cine[..., 1:]
    stored = cine if colour else cine[..., 0]
    np.save(tmp_path / "c.npy", stored if dtype == np.uint8 else stored.astype(dtype) / dtype(255))
    frame = read_frame(tmp_path / "c.npy", 2)
    assert frame.dtype == np.uint8 and frame.shape == (20, 30, 3)
    np.testing.assert_array_equal(frame, cine[2])
    frame[:] = 0  # a copy of its own, not the file
    assert cine_shape(tmp_path / "c.npy") == (4, 20, 30)


@pytest.mark.skipif(os.name == "nt", reason="NTFS would write the 6 GB of zeros")
def test_read_frame_of_a_huge_cine_reads_one_frame(tmp_path):
    path, shape = tmp_path / "huge.npy", (2000, 1016, 1016, 3)  # 6.2 GB, sparse
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": shape}
        )
        start, frame_bytes = file.tell(), int(np.prod(shape[1:]))
        file.seek(start + 1500 * frame_bytes)
        file.write(b"\x07" * frame_bytes)
        file.truncate(start + int(np.prod(shape)))
    if os.stat(path).st_blocks * 512 > 1e9:
        pytest.skip("this file system has no sparse files")
    tracemalloc.start()
    frame = read_frame(path, 1500)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (frame == 7).all() and frame.shape == shape[1:]
    assert peak < 4 * frame_bytes


@pytest.mark.parametrize(
    ("cine", "said"),
    [
        (np.zeros((3, 8, 8), np.uint16), "uint16"), (np.zeros((8, 8), np.uint8), r"\[8, 8\]"),
        (np.zeros((8, 8, 3), np.uint8), r"\[8, 8, 3\]"),
        (np.zeros((3, 8, 8, 2), np.uint8), r"\[3, 8, 8, 2\]"),
        (np.full((3, 8, 8), 255.0, np.float32), "255"), (np.full((3, 8, 8), np.nan, np.float32), "nan"),
        (np.zeros((3, 8, 8), bool), "bool"), (np.array([None, 1]), "c.npy"),
    ],
)
def test_bad_cine_is_refused_by_name_and_reason(tmp_path, cine, said):
    np.save(tmp_path / "c.npy", cine, allow_pickle=True)
    with pytest.raises(DataError, match=said) as caught:
        read_frame(tmp_path / "c.npy", 0)
    assert "c.npy" in str(caught.value)


def test_truncated_missing_and_foreign_cines_are_named(tmp_path):
    np.save(tmp_path / "cut.npy", np.zeros((3, 16, 16), np.uint8))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:-100])
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "text.npy").write_text("no array")
    for name in ("cut.npy", "empty.npy", "text.npy"):
        with pytest.raises(DataError, match=f"{name}: truncated or not"):
            cine_shape(tmp_path / name)
    with pytest.raises(DataError, match="no such file"):
        cine_shape(tmp_path / "none.npy")


@pytest.mark.parametrize("index", [-1, 3])
def test_frame_out_of_range_says_the_range(tmp_path, index):
    np.save(tmp_path / "c.npy", np.zeros((3, 8, 8), np.uint8))
    with pytest.raises(DataError, match="0 to 2"):
        read_frame(tmp_path / "c.npy", index)


@pytest.mark.parametrize(
    "values", [(0, 1, np.uint8), (0, 255, np.uint8), (False, True, bool), (0, 1, np.float32)]
)
@pytest.mark.parametrize("suffix", ["npy", "png"])
def test_read_mask_takes_the_listed_values(tmp_path, values, suffix):
    expected = np.random.default_rng(1).random((9, 13)) < 0.4
    low, high, dtype = values
    stored, path = np.where(expected, high, low).astype(dtype), tmp_path / f"Müller mask.{suffix}"
    if suffix == "npy":
        np.save(path, stored)
    else:
        path.write_bytes(cv2.imencode(".png", stored.astype(np.uint8))[1].tobytes())
    mask = read_mask(path)
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, expected)


def test_mask_png_in_colour_counts_when_its_channels_are_equal(tmp_path):
    mask = np.zeros((6, 6), np.uint8)
    mask[2:4] = 255
    for name, picture in (("rgb", np.stack([mask] * 3, -1)), ("rgba", np.dstack([mask] * 3 + [mask + 1]))):
        (tmp_path / f"{name}.png").write_bytes(cv2.imencode(".png", picture)[1].tobytes())
        np.testing.assert_array_equal(read_mask(tmp_path / f"{name}.png"), mask > 0)
    red = np.stack([mask * 0, mask * 0, mask], -1)
    (tmp_path / "red.png").write_bytes(cv2.imencode(".png", red)[1].tobytes())
    with pytest.raises(DataError, match="two dimensions"):
        read_mask(tmp_path / "red.png")


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        (np.full((4, 4), 7, np.uint8), "such as 7"), (np.full((4, 4), 0.5), "0.5"),
        (np.zeros((2, 4, 4), np.uint8), r"\[2, 4, 4\]"), (np.full((4, 4), np.nan), "nan"),
    ],
)
def test_bad_mask_is_refused_by_name_and_reason(tmp_path, stored, said):
    np.save(tmp_path / "m.npy", stored)
    with pytest.raises(DataError, match=said) as caught:
        read_mask(tmp_path / "m.npy")
    assert "m.npy" in str(caught.value)


def test_resize_mask_keeps_area_and_place():
    mask = np.zeros((512, 512), bool)
    mask[100:180, 300:420] = True
    for size in ((336, 336), (1016, 1016), (512, 512), (256, 1024)):
        resized = resize_mask(mask, size)
        assert resized.shape == size and resized.dtype == bool
        rows, columns = np.nonzero(resized)
        assert abs(resized.mean() - mask.mean()) < 0.002
        assert abs((rows.mean() + 0.5) / size[0] - 140 / 512) < 0.002
        assert abs((columns.mean() + 0.5) / size[1] - 360 / 512) < 0.002


def test_a_frame_that_shrinks_along_one_side_only_is_interpolated():
    ramp = np.repeat(np.arange(0, 200, 20, dtype=np.uint8)[None], 40, axis=0)
    grown = resize_picture(ramp, (20, 40))  # means of areas would repeat each column four times
    assert len(np.unique(grown)) > 20


def _contours_file(tmp_path, **changes):
    folder = write_tiny_dataset(tmp_path, patients=1, rows_per_patient=1, val_patients=0).parent
    path = next((folder / "contours").iterdir())
    content = json.loads(path.read_text(encoding="utf-8"))
    content |= changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value != "remove"}))
    return path


def test_read_contours_gives_lines_measurements_and_calibration(tmp_path):
    contours = read_contours(_contours_file(tmp_path))
    assert contours.left_edge.dtype == np.float64 and contours.left_edge.shape == contours.right_edge.shape
    assert contours.centerline.shape[1] == 2
    assert contours.measurements["diameter_stenosis_pct"] == 35.0
    assert contours.calibration["scale_factor"] == 4.0
    assert contours.view_angles["primary_angle"] == "RAO 28"


def test_contours_without_view_angles_are_fine_and_traps_are_said(tmp_path):
    calibration = {"scale_factor": 4.0, "catheter_diameter_mm": 8.0, "imager_pixel_spacing_mm": [0.6, 0.6]}
    contours = read_contours(_contours_file(tmp_path, view_angles="remove", calibration=calibration))
    assert contours.view_angles == {}
    said = " ".join(contours.contradictions())
    assert "French" in said and "2.67" in said and "magnification of 2.40" in said


def test_stenosis_that_its_diameters_do_not_give_is_said_apart_from_the_other_traps(tmp_path):
    contours = read_contours(_contours_file(tmp_path))
    assert contours.stenosis_contradictions() == [] and "French" in " ".join(contours.contradictions())
    contours.measurements.update(diameter_stenosis_pct=60.0, area_stenosis_pct=20.0)
    said = contours.stenosis_contradictions()
    assert len(said) == 2 and "60.0 %, but 1 - MLD / RVD gives 35.0 %" in said[0] and "57.7 %" in said[1]
    assert set(said) < set(contours.contradictions())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"left_edge": "remove", "calibration": "remove"}, "left_edge, calibration"),
        ({"measurements": {"MLD_mm": 1.0}}, "measurements.interpolated_RVD_mm"),
        ({"centerline": [[1, 2, 3], [4, 5, 6]]}, "centerline is no line"),
        ({"right_edge": [[1, 2]]}, "right_edge is no line"), ({"left_edge": "abc"}, "left_edge is no line"),
        ({"left_edge": [[1, 2], [3]]}, "left_edge is no line"), ({"calibration": 4.0}, "calibration is 4.0"),
    ],
)
def test_incomplete_contours_are_refused_with_the_keys(tmp_path, changes, said):
    with pytest.raises(DataError, match=said):
        read_contours(_contours_file(tmp_path, **changes))


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("calibration", "scale_factor", None, "scale_factor is None; allowed: a number above 0"),
        ("calibration", "scale_factor", "4.0", "scale_factor is '4.0'"),
        ("calibration", "scale_factor", 0, "scale_factor is 0"),
        ("calibration", "scale_factor", -4, "scale_factor is -4"),
        ("calibration", "scale_factor", math.nan, "scale_factor is nan"),
        ("calibration", "imager_pixel_spacing_mm", ["a", "b"], "imager_pixel_spacing_mm is .*row, column"),
        ("measurements", "MLD_centerline_index", 5000, "MLD_centerline_index is 5000; allowed: 0 to 279"),
        ("measurements", "MLD_centerline_index", 1.5, "MLD_centerline_index is 1.5"),
        ("measurements", "interpolated_RVD_mm", 0, "interpolated_RVD_mm is 0; allowed: a number above 0"),
        ("measurements", "MLD_mm", -1, "MLD_mm is -1"), ("measurements", "MLD_mm", None, "MLD_mm is None"),
        ("measurements", "diameter_stenosis_pct", 101, "diameter_stenosis_pct is 101; .*at most 100"),
        ("measurements", "diameter_stenosis_pct", math.inf, "diameter_stenosis_pct is inf"),
    ],
)
def test_impossible_calibration_and_measurements_are_refused(tmp_path, section, key, value, said):
    content = json.loads(_contours_file(tmp_path).read_text())
    with pytest.raises(DataError, match=said):
        read_contours(_contours_file(tmp_path, **{section: content[section] | {key: value}}))


def test_all_that_is_wrong_in_a_contours_file_is_said_at_once(tmp_path):
    changes = {"left_edge": [[1, 2], [3, 4]], "calibration": {"scale_factor": 0}, "segment_name": None}
    with pytest.raises(DataError, match="left_edge is no line.*segment_name is None.*scale_factor is 0"):
        read_contours(_contours_file(tmp_path, **changes))


def test_a_total_occlusion_and_unmeasured_lengths_are_no_faults(tmp_path):
    measurements = {"MLD_mm": 0, "interpolated_RVD_mm": 3, "diameter_stenosis_pct": 100}
    contours = read_contours(_contours_file(tmp_path, measurements=measurements, frame_num=None))
    assert "lesion_length_mm" in contours.missing_measurements


def test_path_map_replaces_whole_folders_whatever_case_and_slash(tmp_path):
    maps = [(r"D:\Angio", str(tmp_path / "mnt"))]
    expected = tmp_path / "mnt" / "cines" / "1.npy"
    for text in (r"D:\angio\cines\1.npy", "d:/ANGIO/cines/1.npy", r"D:\Angio/cines\1.npy"):
        assert resolve_path(text, tmp_path, maps) == expected
    assert "mnt" not in str(resolve_path("D:/Angiograms/1.npy", tmp_path, maps))
    assert resolve_path(r"cines\1.npy", tmp_path) == tmp_path / "cines" / "1.npy"
    assert resolve_path(str(expected), tmp_path / "elsewhere") == expected


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv_in_any_encoding_keeps_text_and_line_numbers(tmp_path, encoding, separator):
    lines = [["patient_id", "note"], ["00123", "Müller"], [], ["00124", '"two\nlines"'], ["00125", "x"]]
    text = "\r\n".join(separator.join(cells) for cells in lines)
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    header, rows = read_csv(tmp_path / "t.csv")
    assert header == ["patient_id", "note"]
    assert [(row.line, row.cells["patient_id"]) for row in rows] == [(2, "00123"), (4, "00124"), (6, "00125")]
    assert rows[0].cells["note"] == "Müller"
