"""compare_models.py and its two siblings: tables, pictures, missing weights, the same prompts for everybody."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest

import compare_models
import test_medsam2_correct_frames
import test_sam3_correct_frames
from contest import arena
from contest.arena import Contest, answer_all
from contest.cases import Case, cases_of_table
from contest.contestant import Answer, Contestant, Prompt
from contest.cost import PeakMemory
from contest.prompts import Asked
from contest.propagation import propagate_case, shown_frames
from contest.trees import FRANGI_THRESHOLDS, fitted_frangi, inside_box, load_own, vesselness
from data.errors import DataError
from data.masks import read_mask
from data.schema import load_table
from tests.contest_here import play_here
from tests.csv_fixture import write_tiny_dataset
from tests.stage_script import run_main
from tests.tiny_checkpoint import write_tiny_checkpoint, write_tiny_lumen_checkpoint
from utils.metrics import dice, iou


@pytest.fixture(scope="module")
def csv_path(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("data"), val_patients=2)


@pytest.fixture(scope="module")
def held(csv_path, tmp_path_factory):
    """A contest of what needs no weights of others, each in a process of its own."""
    out = tmp_path_factory.mktemp("contest")
    own = write_tiny_checkpoint(out / "own.pth")
    said, code = run_main(
        compare_models, "--data-csv", csv_path, "--contestants", "frangi", f"our own={own}", "--jitter-px", 5,
        "--out", out, "--device", "cpu", "--limit", 3,
    )
    return out, said, code


def test_the_table_has_who_could_answer(held):
    out, said, code = held
    assert code == 0, said
    report = json.loads((out / "contest.json").read_text(encoding="utf-8"))
    assert {row["contestant"] for row in report["table"]} == {"frangi", "our own"}
    assert len(set(report["cases"])) == 3
    assert len(report["verdicts"]) == 1
    assert {report["verdicts"][0][name] for name in ("first", "second")} == {"frangi", "our own"}
    assert "frangi" in said and "IoU" in said


def test_who_could_not_answer_is_named_with_the_reason_and_the_others_go_on(csv_path, tmp_path, monkeypatch):
    monkeypatch.setattr(arena, "_run_one", play_here)
    said, code = run_main(
        compare_models, "--data-csv", csv_path, "--contestants", "sam3", tmp_path / "missing.pth", "frangi",
        "--prompts", "box", "--out", tmp_path, "--device", "cpu", "--limit", 1, "--limit-pictures", 0,
    )
    assert code == 0, said
    assert "sam3.pt" in said and "missing.pth: neither a file nor one of" in said
    report = json.loads((tmp_path / "contest.json").read_text(encoding="utf-8"))
    assert [row["contestant"] for row in report["table"]] == ["frangi"]


def test_scores_are_those_of_the_masks_that_were_written(held, csv_path):
    out, _, _ = held
    records = pd.read_csv(out / "contest.csv")
    assert set(records["prompt"]) == {"box", "none"} and set(records["jitter_px"]) == {0.0, 5.0}
    assert not (records[records["prompt"] == "none"]["jitter_px"] > 0).any()
    cases = {case.name: case for case in cases_of_table(load_table(csv_path))}
    plain = records[records["jitter_px"] == 0]
    assert len(plain) == 2 * 2 * 3
    for row in plain.to_dict("records"):
        _, masks = cases[row["case"]].read()
        folder = out / "masks" / row["contestant"].replace(" ", "_")
        mask = read_mask(folder / f"{row['case']}_{row['prompt']}.png")
        assert row["against"] == ("segment" if row["prompt"] == "box" else "truth")
        assert row["iou"] == row[f"iou_{row['against']}"] == pytest.approx(iou(mask, masks[row["against"]]), abs=1e-6)
        assert row["iou_deepsa"] == pytest.approx(iou(mask, masks["deepsa"]), abs=1e-6)
    assert (records["peak_mib"] > 50).all() and (records["encode_s"] > 0).all()


def test_pictures_are_drawn(held):
    out, _, _ = held
    for name in ("scores", "robustness", "gallery_box", "gallery_none"):
        picture = cv2.imread(str(out / f"contest_{name}.png"))
        assert picture is not None and picture.std() > 10, name


def test_all_missing_is_an_error_with_the_way_to_the_weights(csv_path, tmp_path, monkeypatch):
    monkeypatch.setattr(arena, "_run_one", play_here)
    said, code = run_main(test_sam3_correct_frames, "--data-csv", csv_path, "--out", tmp_path, "--device", "cpu")
    assert code == 1 and "sam3.pt" in said and "huggingface.co/facebook/sam3" in said
    said, code = run_main(test_medsam2_correct_frames, "--data-csv", csv_path, "--out", tmp_path, "--device", "cpu")
    assert code == 1 and "MedSAM2" in said


def test_pairs_of_another_modality(tmp_path, monkeypatch):
    monkeypatch.setattr(arena, "_run_one", play_here)
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for number in range(2):
        mask = np.zeros((80, 80), np.uint8)
        cv2.line(mask, (10, 20 + 10 * number), (70, 60), 255, 5)
        picture = np.clip(160 - mask // 3 + rng.normal(0, 3, mask.shape), 0, 255).astype(np.uint8)
        cv2.imwrite(str(tmp_path / "images" / f"{number}.png"), picture)
        cv2.imwrite(str(tmp_path / "masks" / f"{number}.png"), mask)
    said, code = run_main(compare_models, "--images", tmp_path / "images", "--masks", tmp_path / "masks",
                          "--contestants", "frangi", "--out", tmp_path / "out", "--device", "cpu")
    assert code == 0, said
    row = json.loads((tmp_path / "out" / "contest.json").read_text(encoding="utf-8"))["table"][0]
    assert row["against"] == "segment" and row["iou"] > 0.15 and row["patients"] == 2


@pytest.mark.parametrize("given", [[], ["--images", "a"], ["--data-csv", "a", "--images", "b", "--masks", "c"],
                                   ["--data-csv", "a", "--jitter-px", "-1"], ["--data-csv", "a", "--random", "frangi"],
                                   ["--data-csv", "a", "--random", "sam3", "--sam3-checkpoint", "b"]])
def test_flags_that_contradict_are_refused(given):
    said, code = run_main(compare_models, *given)
    assert code == 2 and "usage:" in said


class Peeking(Contestant):
    """Answers with what it was asked, and keeps it."""

    name, about, prompts = "peeking", "", frozenset({"box", "points"})

    def __init__(self, is_random=False):
        self.is_random, self.seen = is_random, []

    def encode(self, frame, view_deg=(np.nan, np.nan)):
        return frame

    def answer(self, encoded, prompt):
        self.check_prompt(prompt)
        self.seen.append(prompt)
        return Answer(np.ones(encoded.shape[:2], bool), 0.5)


def test_everybody_is_asked_the_same(csv_path, tmp_path):
    cases = cases_of_table(load_table(csv_path))
    contest = Contest(
        cases=cases, kinds=("text", "box", "points"), asked=Asked(), jitters_px=(0.0, 4.0), masks=tmp_path
    )
    asked = []
    for part in (cases, cases[::-1]):
        contestant = Peeking(is_random=True)
        with PeakMemory() as memory:
            records = answer_all(contestant, Contest(**{**vars(contest), "cases": part}), memory)
        assert all(record["is_random"] for record in records) and len(records) == 2 * 2 * len(cases)
        asked.append({(record["case"], record["prompt"], record["jitter_px"]): prompt
                      for record, prompt in zip(records, contestant.seen, strict=True)})
    assert asked[0] == asked[1]
    with PeakMemory() as memory, pytest.raises(DataError, match="peeking takes box, points; asked was text"):
        answer_all(Peeking(), Contest(cases=cases, kinds=("text",), asked=Asked(), masks=tmp_path), memory)


def test_vessels_in_a_box_and_the_lumen_in_it(csv_path, tmp_path):
    case = cases_of_table(load_table(csv_path))[0]
    frame, masks = case.read()
    box = (20.0, 10.0, 60.0, 70.0)
    inside = inside_box(frame.shape[:2], box)
    assert inside.sum() == 41 * 61 and inside[10, 20] and not inside[9, 20]
    for write in (write_tiny_checkpoint, write_tiny_lumen_checkpoint):
        contestant = load_own(write(tmp_path / f"{write.__name__}.pth"), "cpu")
        answer = contestant.segment(frame, Prompt(box_px=box))
        assert answer.mask.shape == frame.shape[:2] and answer.mask.dtype == bool
        if "none" in contestant.prompts:
            np.testing.assert_array_equal(answer.mask, contestant.segment(frame, Prompt()).mask & inside)
        else:
            with pytest.raises(ValueError, match="takes one of box"):
                contestant.segment(frame, Prompt())


def test_the_filter_takes_the_threshold_that_is_best_in_training(tmp_path):
    cases = cases_of_table(load_table(write_tiny_dataset(tmp_path, patients=2, rows_per_patient=1, frames=1, size=320)))
    contestant = fitted_frangi(cases)
    assert "best on 2 training frames" in contestant.about
    frames, labels = zip(*((frame, masks["deepsa"]) for frame, masks in (case.read() for case in cases)))
    strengths = [vesselness(frame) for frame in frames]
    assert all(0 <= strength.min() and strength.max() == 1 for strength in strengths)
    scores = [np.mean([dice(strength >= threshold, label) for strength, label in zip(strengths, labels)])
              for threshold in FRANGI_THRESHOLDS]
    assert contestant.threshold == FRANGI_THRESHOLDS[int(np.argmax(scores))] and max(scores) > 0.4


class Carrying:
    """Carries a mask by growing it a row a frame."""

    name = "carrying"

    def propagate(self, frames, prompt, frame_index):
        masks = np.zeros(frames.shape[:3], bool)
        for number in range(len(frames)):
            masks[number, : 10 + number] = True
        return masks


def test_a_mask_is_carried_through_a_cine(csv_path, tmp_path):
    case = cases_of_table(load_table(csv_path))[1]
    frames, asked = case.read_cine()
    np.testing.assert_array_equal(frames[asked], case.read()[0])
    masks = propagate_case(Carrying(), case, Prompt(box_px=(10, 10, 40, 40)), tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / f"{case.name}.npy", allow_pickle=False), masks)
    assert cv2.imread(str(tmp_path / f"{case.name}.png")).std() > 10
    for count, number in ((3, 1), (40, 13), (1, 0)):
        shown = shown_frames(count, number)
        assert number in shown and len(shown) == min(8, count) and shown == sorted(set(shown))
    with pytest.raises(ValueError, match="single picture"):
        propagate_case(Carrying(), Case(name="a", patient="a", read=case.read, read_course=case.read_course),
                       Prompt(box_px=(1, 1, 2, 2)), tmp_path)
