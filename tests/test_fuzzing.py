"""Damaged files of every kind that is read from outside: refused with the project's own error, or read.

The same tests are run with 1000 files of each kind, in a process of their own with a deadline and a limit of memory, by
`pytest -m slow tests/test_fuzzing.py`.
"""

from __future__ import annotations

import gzip
import re
import struct

import nibabel
import numpy as np
import pytest
import torch

from models.sam3_weights import VISION_PREFIX
from tests.damaged_checkpoints import official_weights, tiny_checkpoint
from tests.fuzzed_files import READERS, damaged, write_companions
from tests.fuzzing import ReadingProcess, answer, run_fuzz


@pytest.fixture(scope="module")
def reading():
    """A process to read in, started by the first test that asks for it."""
    with ReadingProcess() as process:
        yield process


def fuzz(name, folder, examples, read) -> None:
    write_companions(folder)
    place, strategy = damaged(name, folder)
    valid = place.read_bytes() if place.exists() else None
    answers = []

    def check(data: bytes) -> None:
        place.write_bytes(data)
        answers.append(read(place))

    run_fuzz(strategy, check, examples)
    if valid is not None:
        place.write_bytes(valid)
    refused = sum(said.startswith("refused") for said in answers)
    assert 0 < refused, "no file was damaged so that it had to be refused"
    print(f"{name}: {len(answers)} files, {refused} refused")


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_or_refused_by_name(tmp_path, name):
    fuzz(name, tmp_path, 60, lambda path: answer(READERS[name], path))


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_thousand_damaged_files_neither_crash_nor_hang_nor_fill_the_memory(tmp_path, name, reading):
    fuzz(name, tmp_path, 1000, lambda path: reading.read(name, path))


def cut_utf16(folder):
    path = folder / "found.csv"
    path.write_bytes((folder / "dataset.csv").read_text(encoding="utf-8").encode("utf-16")[:-1])
    return path


def npy_with_an_open_bracket(folder):
    path, header = folder / "found.npy", b"{'descr': '|u1', 'fortran_order': False, 'shape': (3, 16, 16 \n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(768))
    return path


def volume_of_colours(folder):
    colours = np.zeros((4, 4, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colours, np.eye(4)), folder / "found.nii")
    return folder / "found.nii"


def volume_that_claims_much(folder):
    data = bytearray(nibabel.Nifti1Image(np.zeros((4, 4, 2), np.uint8), np.eye(4)).to_bytes())
    struct.pack_into("<3h", data, 42, 10_000, 10_000, 10_000)
    (folder / "found.nii.gz").write_bytes(gzip.compress(bytes(data)))
    return folder / "found.nii.gz"


def found_json(content):
    def write(folder):
        (folder / "found.json").write_text(content, encoding="utf-8")
        return folder / "found.json"

    return write


def saved(content, **changes):
    def write(folder):
        torch.save({**content(), **changes}, folder / "found.pth")
        return folder / "found.pth"

    return write


def whole_checkpoint():
    return {"format": 1, **tiny_checkpoint()}


LESION = ('[{"cass_segment": 13, "diameter_stenosis_pct": 1%s, "position_px": [3, 4], "box_px": [1, 2, 3, 4], '
          '"px_per_mm": 4, "overlapped": false, "in_frame": true}]')
COCO = ('{"images": [{"id": 1, "file_name": "%s", "height": 24, "width": 20}], '
        '"categories": [{"id": 26, "name": "stenosis"}], '
        '"annotations": [{"id": 5, "image_id": 1, "category_id": 26, "bbox": [2, 2, 8, %s]}]}')
# Each ended, before it was mended, with an error of Python or of a library.
FOUND = {
    "half a character at the end of a CSV in UTF-16": ("csv", cut_utf16, "is no CSV|faults in|names no"),
    "an open bracket in the header of an npy": ("npy", npy_with_an_open_bracket, "truncated or not an .npy"),
    "a stenosis of 400 digits": ("lesions", found_json(LESION % ("0" * 400)), "no list of lesions"),
    "a box of 400 digits": ("coco", found_json(COCO % ("a.png", "9" * 400)), "annotation 5 .*bbox"),
    "a thousand brackets": ("coco", found_json("[" * 10_000), "truncated or not JSON"),
    "a picture's name of 5000 letters": ("coco", found_json(COCO % ("a" * 5000, 8)), "are not there"),
    "a weight that is a number": ("checkpoint", saved(whole_checkpoint, model={"w": 1.5}), r"model\['w'\]"),
    "a weight without a name": ("checkpoint", saved(whole_checkpoint, model={0: torch.ones(1)}), r"model\['0'\]"),
    "a configuration that is a list": ("checkpoint", saved(whole_checkpoint, config=[1]), "its config"),
    "a run to go on with, without its sampler": (
        "checkpoint", saved(whole_checkpoint, progress={"epoch": 1}), "no scheduler, rng, sampler in it"),
    "a sampler's number that is a sparse tensor": (
        "checkpoint", saved(whole_checkpoint, sampler={"rows": torch.ones(2, 2).to_sparse()}), "its sampler"),
    "a released weight whose name is a number": (
        "medsam2", saved(dict, model={7: torch.ones(1)}), r"unexpected \(1\)"),
    "a volume of colours": ("nifti", volume_of_colours, "not colours"),
    "a volume of a terabyte": ("nifti_gz", volume_that_claims_much, "claims 1,0"),
    "a released weight that is a text": (
        "sam3", saved(official_weights, **{VISION_PREFIX + "w": "text"}), "w: a str in the file"),
    "a released weight without numbers of its own": (
        "sam3", saved(official_weights, **{VISION_PREFIX + "w": torch.ones(3, 2, device="meta")}), "of another kind"),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_is_refused(tmp_path, name):
    write_companions(tmp_path)
    reader, write, said = FOUND[name]
    refused = answer(READERS[reader], write(tmp_path))
    assert refused.startswith("refused") and re.search(said, refused, re.DOTALL), refused
