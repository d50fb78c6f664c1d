"""SAM 3 as a contestant: each kind of prompt gets a mask of the frame, as the package itself would answer it."""

import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from contest.contestant import Prompt
from contest.sam3 import Detections, build_sam3_contestant, main
from models.sam3_package import import_image_modules
from utils.checkpoint import MissingWeights

ROOT = Path(__file__).resolve().parents[1]
SIZE = (90, 120)
TEXT = Prompt(text="coronary artery")
BOX = Prompt(box_px=(20, 10, 70, 60))
POINT = Prompt(points_px=((40.0, 30.0),), point_labels=(1,))
POINTS = Prompt(points_px=((40.0, 30.0), (80.0, 70.0)), point_labels=(1, 0))


@pytest.fixture(scope="module")
def frame():
    picture = np.random.default_rng(0).integers(120, 200, (*SIZE, 3), dtype=np.uint8)
    return cv2.line(picture, (5, 10), (110, 80), (40, 40, 40), 5)


@pytest.fixture(scope="module")
def contestant():
    torch.manual_seed(3)
    made = build_sam3_contestant(random_init=True, size="tiny")
    # So that queries differ: at its start the model gives all of them the same box and similar scores.
    with torch.no_grad():
        for parameter in made.model.transformer.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return made


@pytest.fixture(scope="module")
def encoded(contestant, frame):
    return contestant.encode(frame)


@pytest.mark.parametrize("prompt", [TEXT, BOX, POINT, POINTS], ids=["text", "box", "point", "points"])
def test_answers_are_masks_of_the_frame(contestant, encoded, prompt):
    answer = contestant.answer(encoded, prompt)
    assert answer.mask.shape == SIZE and answer.mask.dtype == bool
    assert 0 <= answer.score <= 1


def test_one_encoding_serves_several_prompts_in_any_order(contestant, encoded, frame):
    prompts = [TEXT, BOX, POINT]
    first = [contestant.answer(encoded, prompt) for prompt in prompts]
    again = [contestant.answer(encoded, prompt) for prompt in reversed(prompts)][::-1]
    fresh = [contestant.segment(frame, prompt) for prompt in prompts]
    for one, two, three in zip(first, again, fresh):
        assert np.array_equal(one.mask, two.mask) and np.array_equal(one.mask, three.mask)
        assert one.score == two.score == pytest.approx(three.score, abs=1e-6)


@pytest.mark.parametrize("prompt", [Prompt(), Prompt(text="vessel", box_px=(1, 2, 3, 4))], ids=["none", "two"])
def test_other_kinds_of_prompt_are_refused(contestant, encoded, prompt):
    with pytest.raises(ValueError, match="it takes one of box, points, text"):
        contestant.answer(encoded, prompt)


def test_frames_of_another_kind_are_refused(contestant):
    with pytest.raises(ValueError, match=r"float32 \(8, 8\)"):
        contestant.encode(np.zeros((8, 8), np.float32))


def package_processor(contestant, frame, threshold):
    sam3 = import_image_modules()
    processor = sam3.sam3_image_processor.Sam3Processor(contestant.model, contestant.model.image_size, "cpu", threshold)
    return processor, processor.set_image(torch.tensor(frame).permute(2, 0, 1))


def test_text_is_the_union_of_what_the_packages_processor_finds(contestant, encoded, frame, monkeypatch):
    probabilities = contestant._detect(encoded, TEXT.text).probability.detach().sort().values
    threshold = float(probabilities[-4:-2].mean())
    processor, state = package_processor(contestant, frame, threshold)
    found = processor.set_text_prompt(TEXT.text, state)
    assert len(found["scores"]) == 3
    monkeypatch.setattr(contestant._processor, "confidence_threshold", threshold)
    answer = contestant.answer(encoded, TEXT)
    assert np.array_equal(answer.mask, found["masks"].any(dim=0)[0].numpy())
    assert answer.score == pytest.approx(float(found["scores"].max()), abs=1e-6)


def test_text_of_which_nothing_is_found_is_an_empty_mask_with_the_best_score(contestant, encoded, monkeypatch):
    monkeypatch.setattr(contestant._processor, "confidence_threshold", 1.0)
    answer = contestant.answer(encoded, TEXT)
    assert not answer.mask.any()
    assert answer.score == pytest.approx(float(contestant._detect(encoded, TEXT.text).probability.detach().max()))


def test_the_packages_threshold_is_the_default(contestant):
    assert contestant._processor.confidence_threshold == 0.5


def test_a_box_is_an_example_as_in_the_packages_processor(contestant, encoded, frame):
    """Given to the processor as centre and size in [0, 1], pixel 0 from 0 to 1, its instances contain our answer."""
    (x0, y0, x1, y1), (height, width) = BOX.box_px, SIZE
    box = [(x0 + x1 + 1) / 2 / width, (y0 + y1 + 1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height]
    processor, state = package_processor(contestant, frame, 0.0)
    found = processor.add_geometric_prompt(box, True, state)
    answer = contestant.answer(encoded, BOX)
    best = int((found["scores"] - answer.score).abs().argmin())
    assert found["scores"][best] == pytest.approx(answer.score, abs=1e-5)
    assert np.array_equal(found["masks"][best, 0].numpy(), answer.mask)


@pytest.mark.parametrize("wanted, box_px", [(0, (0, 0, 12, 9)), (1, (60, 45, 119, 89))])
def test_of_what_is_like_the_example_the_one_in_the_box_is_answered(contestant, encoded, monkeypatch, wanted, box_px):
    masks = torch.full((2, 24, 24), -5.0)
    masks[0, :2, :2] = masks[1, 12:, 12:] = 5.0
    found = Detections(torch.tensor([0.9, 0.3]), torch.tensor([[0, 0, 0.1, 0.1], [0.5, 0.5, 1, 1]]), masks)
    monkeypatch.setattr(contestant, "_detect", lambda *_: found)
    answer = contestant.answer(encoded, Prompt(box_px=box_px))
    assert answer.score == pytest.approx(float(found.probability[wanted]))
    assert answer.mask[2, 2] == (wanted == 0) and answer.mask[80, 110] == (wanted == 1)


def test_where_nothing_found_touches_the_box_the_most_probable_is_answered(contestant, encoded, monkeypatch):
    boxes = torch.tensor([[0, 0, 0.1, 0.1], [0, 0, 0.2, 0.2]])
    found = Detections(torch.tensor([0.2, 0.7]), boxes, torch.ones(2, 24, 24))
    monkeypatch.setattr(contestant, "_detect", lambda *_: found)
    assert contestant.answer(encoded, Prompt(box_px=(100, 70, 110, 80))).score == pytest.approx(0.7)


@pytest.mark.parametrize("prompt", [POINT, POINTS], ids=["one", "several"])
def test_points_go_to_the_packages_interactive_predictor(contestant, encoded, frame, prompt):
    processor, state = package_processor(contestant, frame, 0.5)
    masks, scores, _ = contestant.model.predict_inst(
        state, point_coords=np.array(prompt.points_px), point_labels=np.array(prompt.point_labels),
        multimask_output=prompt is POINT,
    )
    assert len(masks) == (3 if prompt is POINT else 1)
    answer = contestant.answer(encoded, prompt)
    assert np.array_equal(answer.mask, masks[scores.argmax()].astype(bool))
    assert answer.score == pytest.approx(float(scores.max()), abs=1e-6)


def test_a_box_can_mean_the_object_in_it(frame):
    made = build_sam3_contestant(random_init=True, size="tiny", box_means="object")
    assert made.name == "sam3 (box as object) (random weights)"
    encoded = made.encode(frame)
    masks, scores, _ = made.model.predict_inst(encoded, box=np.array(BOX.box_px), multimask_output=False)
    answer = made.answer(encoded, BOX)
    assert np.array_equal(answer.mask, masks[0].astype(bool)) and answer.score == pytest.approx(float(scores[0]))
    with pytest.raises(ValueError, match="'thing': allowed: exemplar, object"):
        build_sam3_contestant(random_init=True, size="tiny", box_means="thing")


def test_random_weights_are_told(contestant):
    assert contestant.is_random and contestant.name == "sam3 (random weights)"
    assert "the answers mean nothing" in contestant.about


def test_without_weights_one_sentence_says_how_to_get_them():
    with pytest.raises(MissingWeights, match="SAM 3 weights are gated: .* pass `--sam3-checkpoint PATH/sam3.pt`.$"):
        build_sam3_contestant()


def test_bf16_gives_nearly_the_same(contestant, encoded, frame):
    half = type(contestant)(contestant.model, device=torch.device("cpu"), amp=True, is_random=True)
    for prompt in (TEXT, BOX, POINT):
        expected, found = contestant.answer(encoded, prompt), half.segment(frame, prompt)
        assert found.mask.shape == SIZE and found.mask.dtype == bool
        assert found.score == pytest.approx(expected.score, abs=0.05)


def test_the_command_draws_the_answers_and_says_that_random_ones_mean_nothing(tmp_path, frame, capsys):
    cv2.imwrite(str(tmp_path / "frame.png"), frame)
    main([str(tmp_path / "frame.png"), "--text", "coronary artery", "--box", "20", "10", "70", "60",
          "--point", "40", "30", "--random-init", "--size", "tiny", "--device", "cpu",
          "--out", str(tmp_path / "answer.png")])
    said = capsys.readouterr().out
    for part in ("building", "image encoder", 'text "coronary artery"', "box", "points"):
        assert re.search(rf"^{part}: [\d.]+ s$", said, re.MULTILINE), said
    assert re.search(r"peak memory: [\d.]+ GiB", said) and "NOT A RESULT" in said
    picture = cv2.imread(str(tmp_path / "answer.png"))
    assert picture.shape[1] > 3 * picture.shape[0]  # four panels


@pytest.mark.parametrize("flags, said", [
    ([], "nothing was asked"),
    (["--text", "vessel"], "SAM 3 weights are gated"),
    (["--text", "vessel", "--random-init", "--size", "tiny", "--image-size", "500"], "multiple of 336"),
], ids=["no prompt", "no weights", "image size"])
def test_a_wrong_command_is_told_what_is_wrong(tmp_path, frame, capsys, flags, said):
    cv2.imwrite(str(tmp_path / "frame.png"), frame)
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / "frame.png"), "--out", str(tmp_path / "answer.png"), "--device", "cpu", *flags])
    assert stop.value.code in (1, 2) and said in capsys.readouterr().err
    assert not (tmp_path / "answer.png").exists()


@pytest.mark.slow
def test_the_whole_model_answers_a_text_and_a_box_on_a_cpu(tmp_path, frame):
    """860 M parameters: minutes, 5 GB of memory."""
    cv2.imwrite(str(tmp_path / "frame.png"), frame)
    command = [sys.executable, "-m", "contest.sam3", str(tmp_path / "frame.png"), "--text", "coronary artery", "--box",
               "20", "10", "70", "60", "--random-init", "--device", "cpu", "--out", str(tmp_path / "answer.png")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    print(f"\n{done.stdout}")
    for said in ("image encoder: ", 'text "coronary artery": ', "box: ", "peak memory: ", "NOT A RESULT"):
        assert said in done.stdout
    assert (tmp_path / "answer.png").stat().st_size > 10_000
