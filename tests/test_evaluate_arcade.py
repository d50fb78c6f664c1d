"""evaluate_arcade.py: figures known by hand, files that others can read, words that say what the figures are."""

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

import evaluate_arcade
from tests.tiny_checkpoint import write_tiny_checkpoint, write_tiny_obstruction_checkpoint
from utils.obstructions.arcade_report import NOT_COUNTED
from utils.obstructions.matching import Detection
from utils.reports.frame_answer import FrameAnswer

REAL = Path(__file__).resolve().parents[2] / "shared" / "real" / "arcade"
FILES = {"arcade_metrics.json", "arcade_detections.json", "arcade_froc.png", "arcade_gallery.png"}
HEIGHT, WIDTH = 64, 96
# [x, y, width, height] in COCO's px; vessel is the upper half of the first, on every picture.
BAR, OTHER, NOWHERE = [10, 20, 20, 6], [60, 40, 16, 8], [70, 5, 9, 9]
# Grey value of a picture -> what is annotated, and what is found: box and score.
CASES = {
    100: ([BAR], [(BAR, 0.9), (NOWHERE, 0.6)]),
    110: ([BAR, OTHER], [(BAR, 0.4)]),
    120: ([], [(NOWHERE, 0.3)]),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    metrics = {"threshold": 0.2, "threshold_truth": 0.5}
    return write_tiny_obstruction_checkpoint(tmp_path_factory.mktemp("weights") / "tiny.pth", metrics=metrics)


def corners(box):
    x, y, width, height = box
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def write_set(folder, cases=CASES, **change):
    """Annotations and pictures of `cases`: folder/set.json and folder/images; `change` replaces parts of the JSON."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number, (grey, (boxes, _)) in enumerate(cases.items(), start=1):
        cv2.imwrite(str(folder / "images" / f"{grey}.png"), np.full((HEIGHT, WIDTH), grey, np.uint8))
        images.append({"id": number, "file_name": f"{grey}.png", "height": HEIGHT, "width": WIDTH})
        annotations += [{"image_id": number, "category_id": 26, "segmentation": [corners(box)], "bbox": box,
                         "iscrowd": 0, "area": box[2] * box[3]} for box in boxes]
    annotations = [{"id": number, **one} for number, one in enumerate(annotations, start=1)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 26, "name": "stenosis"}], **change}
    (folder / "set.json").write_text(json.dumps(content), encoding="utf-8")
    return folder / "set.json"


def detection(box, score):
    x, y, width, height = box
    box_px = (x - 0.5, y - 0.5, x + width - 0.5, y + height - 0.5)  # half a pixel less: this project's px
    return Detection(score, box_px, (x + width / 2, y + height / 2), 66.0)


def vessel_probability():
    probability = np.zeros((HEIGHT, WIDTH), np.float32)
    probability[20:23, 10:30] = 0.9
    return probability


@pytest.fixture
def answers(monkeypatch):
    """A model that finds what `CASES` say, or what is put into the dict returned; the checkpoint is read."""
    found = {grey: [detection(*one) for one in ones] for grey, (_, ones) in CASES.items()}
    load_answer = evaluate_arcade.load_answer

    def load(path, **how):
        def answer(frame, view_deg):
            assert all(map(math.isnan, view_deg)) and frame.shape == (HEIGHT, WIDTH, 3)
            return FrameAnswer(vessel_probability=vessel_probability(), obstructions=found[int(frame[0, 0, 0])])
        return answer, load_answer(path, **how)[1]
    monkeypatch.setattr(evaluate_arcade, "load_answer", load)
    return found


def call(annotations, images, weights, out, *more):
    given = ["--annotations", annotations, "--images", images, "--checkpoint", weights, "--out", out, "--device", "cpu"]
    try:
        return evaluate_arcade.main([*map(str, given), *map(str, more)])
    except SystemExit as left:
        return left.code


def evaluate(folder, checkpoint, *more):
    """The figures of `CASES`, from the file."""
    assert call(write_set(folder), folder / "images", checkpoint, folder / "out", *more) == 0
    return json.loads((folder / "out" / "arcade_metrics.json").read_text(encoding="utf-8"))


def test_figures_known_by_hand(tmp_path, checkpoint, answers):
    report = evaluate(tmp_path, checkpoint)
    metrics, best = report["metrics"], report["metrics_at_best_threshold_here"]
    assert (metrics["n_images"], metrics["n_targets"], metrics["threshold"]) == (3, 3, 0.5)
    # From 0.5 on: one right, one false, two missed.
    assert metrics["f1_iou50"] == pytest.approx(2 / 5)
    assert metrics["precision_iou50"] == 0.5 and metrics["recall_iou50"] == pytest.approx(1 / 3)
    assert metrics["fp_per_frame"] == pytest.approx(1 / 3) and metrics["f1_point"] == pytest.approx(2 / 5)
    # Right, false, right, false: precision 1 up to a third, 2 / 3 up to two thirds.
    assert metrics["ap_iou50"] == best["ap_iou50"] == pytest.approx(1 / 3 + 1 / 3 * 2 / 3)
    assert metrics["sensitivity_at_1fp"] == metrics["sensitivity_at_1fp_iou50"] == pytest.approx(2 / 3)
    assert best["threshold"] == 0.4 and best["f1_iou50"] == pytest.approx(2 / 3)
    low, high = metrics["f1_iou50_ci95"]
    assert 0 <= low < metrics["f1_iou50"] < high <= 1


def test_mask_f1_as_the_challenge_counts_it(tmp_path, checkpoint, answers):
    """A box's vessel is half of the bar: F1 2 * 60 / (60 + 120). What is false or missed is 0."""
    report = evaluate(tmp_path, checkpoint)
    metrics, best = report["metrics"], report["metrics_at_best_threshold_here"]
    assert [one["challenge_mask_f1"] for one in report["per_image"]] == [pytest.approx(1 / 3), 0, None]
    assert metrics["challenge_mask_f1"] == pytest.approx((1 / 3 + 0) / 2)
    assert best["challenge_mask_f1"] == pytest.approx((1 / 3 + 1 / 3) / 2)
    assert metrics["challenge_mask_f1_of_annotated_boxes"] == pytest.approx((2 / 3 + (2 / 3 + 0) / 2) / 2)


def test_report_says_what_the_figures_are_of(tmp_path, checkpoint, answers):
    report = evaluate(tmp_path, checkpoint)
    thresholds = report["thresholds"]
    assert thresholds["metrics"]["score"] == 0.5 and "own validation" in thresholds["metrics"]["source"]
    assert "optimistic" in thresholds["metrics_at_best_threshold_here"]["source"]
    assert report["checkpoint"]["stage"] == "phase3_obstruction" and len(report["checkpoint"]["sha256"]) == 64
    assert report["checkpoint"]["metrics"]["threshold_truth"] == 0.5
    assert report["annotations"]["categories"] == {"26": "stenosis"} and report["view_angles_known"] == 0
    assert report["created"].endswith("+00:00")
    first, second, third = report["per_image"]
    assert first == {"image_id": 1, "file_name": "100.png", "annotated": 1, "found": 2, "hits_iou50": 1,
                     "hits_point": 1, "f1_iou50": pytest.approx(2 / 3), "challenge_mask_f1": pytest.approx(1 / 3)}
    assert (second["f1_iou50"], third["f1_iou50"]) == (0, 1)


def test_summary_in_words(tmp_path, checkpoint, answers, capsys):
    evaluate(tmp_path, checkpoint)
    said = capsys.readouterr().out
    for words in ('category 26 "stenosis": 3 annotated in 3 images, 1 of them without any', "3 images, 3 stenoses",
                  "at score 0.5 (chosen on the model's own validation", "F1 0.40 (", "hence optimistic", "F1 0.67 (",
                  "over images: ARCADE does not say which are of one patient",
                  "no figure of these 3 images may be compared",
                  "three images say next to nothing about the set of 300"):
        assert words in said


def test_all_files_and_nothing_else_are_written(tmp_path, checkpoint, answers):
    evaluate(tmp_path, checkpoint)
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    for name in ("arcade_froc.png", "arcade_gallery.png"):
        assert cv2.imread(str(tmp_path / "out" / name)).shape[0] > 300
    evaluate(tmp_path / "again", checkpoint, "--limit-pictures", 0)
    assert {path.name for path in (tmp_path / "again" / "out").iterdir()} == FILES - {"arcade_gallery.png"}


def test_gallery_shows_the_worst_first(tmp_path, checkpoint, answers, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "utils.obstructions.arcade_report.save_gallery", lambda path, rows, *rest, **how: drawn.append(how)
    )
    evaluate(tmp_path, checkpoint, "--limit-pictures", 3)
    captions = [text for row in drawn[0]["captions"] for text in row]
    assert [text.split(":")[0] for text in captions] == ["110.png", "100.png", "120.png"]
    assert captions[2] == "120.png: 0 annotated, 0 found\nthe best score is 0.30"
    assert captions[0].endswith("the best score is 0.40; mask F1 0.00") and "right by IoU 0.5: 1" in captions[1]
    evaluate(tmp_path, checkpoint, "--limit-pictures", 2)
    assert drawn[1]["title"].startswith("2 of 3 images, worst first") and len(drawn[1]["captions"][0]) == 2
    assert list(drawn[0]["legend"]) == ["annotated stenosis", NOT_COUNTED, "moderate, from 50 %DS"]


def test_pycocotools_reads_the_files_and_finds_the_same_average_precision(tmp_path, checkpoint, answers):
    """Random boxes around what is annotated, over many pictures; pycocotools comes with the sam3 package."""
    pytest.importorskip("pycocotools", reason="pycocotools is not installed")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(0)
    cases = {grey: ([[float(x), float(y), 14.0, 10.0] for x, y in zip((3, 35, 65), rng.integers(3, 50, 3))], [])
             for grey in range(30, 55)}
    for grey, (boxes, _) in cases.items():
        moved = [(np.add(box, rng.normal(0, 1.8, 4)), score) for box, score in zip(boxes, rng.uniform(0.05, 1, 3))]
        wrong = ([rng.uniform(0, 70), rng.uniform(0, 40), 14, 10], rng.uniform(0.05, 1))
        answers[grey] = [detection(box, float(score)) for box, score in (*moved, wrong)]
    path = write_set(tmp_path, cases)
    flags = "--limit-pictures", 0, "--threshold", 0.001
    assert call(path, tmp_path / "images", checkpoint, tmp_path / "out", *flags) == 0
    report = json.loads((tmp_path / "out" / "arcade_metrics.json").read_text())
    truth = COCO(str(path))
    scored = COCOeval(truth, truth.loadRes(str(tmp_path / "out" / "arcade_detections.json")), "bbox")
    scored.params.iouThrs, scored.params.recThrs = np.array([0.5]), np.linspace(0, 1, 10_001)
    scored.evaluate()
    scored.accumulate()
    average_precision = scored.eval["precision"][0, :, 0, 0, -1].mean()
    assert 0.3 < average_precision < 0.95  # neither is trivial
    assert report["metrics"]["ap_iou50"] == pytest.approx(average_precision, abs=2e-4)
    assert report["metrics"]["recall_iou50"] == pytest.approx(scored.eval["recall"][0, 0, 0, -1])


def test_threshold_of_the_command_line_goes_first(tmp_path, checkpoint, answers):
    report = evaluate(tmp_path, checkpoint, "--threshold", 0.35)
    assert report["metrics"]["threshold"] == 0.35 and report["metrics"]["f1_iou50"] == pytest.approx(2 / 3)
    assert report["thresholds"]["metrics"]["source"] == "given with --threshold"


def test_checkpoint_that_was_never_validated_asks_for_a_threshold(tmp_path, answers, capsys):
    weights = write_tiny_obstruction_checkpoint(tmp_path / "latest.pth")
    path = write_set(tmp_path)
    assert call(path, tmp_path / "images", weights, tmp_path / "out") == 1
    assert "latest.pth: its metrics have no threshold" in capsys.readouterr().err
    assert call(path, tmp_path / "images", weights, tmp_path / "out", "--threshold", 0.5) == 0


def test_checkpoint_of_another_stage_is_refused(tmp_path, capsys):
    weights = write_tiny_checkpoint(tmp_path / "vessels.pth")
    assert call(write_set(tmp_path), tmp_path / "images", weights, tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert "vessels.pth is of phase1_deepsa, which finds no obstructions" in said and "phase3_obstruction" in said
    assert call(tmp_path / "set.json", tmp_path / "images", tmp_path / "absent.pth", tmp_path / "out") == 1
    assert "absent.pth" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_nothing_found_anywhere_is_a_figure_too(tmp_path, checkpoint, answers, capsys):
    for grey in answers:
        answers[grey] = []
    metrics = evaluate(tmp_path, checkpoint)["metrics"]
    assert metrics["f1_iou50"] == 0 and metrics["precision_iou50"] is None and metrics["challenge_mask_f1"] == 0
    said = capsys.readouterr().out
    assert "no score gives a hit" in said and "precision not defined" in said and "F1 0.00 (no interval)" in said
    assert json.loads((tmp_path / "out" / "arcade_detections.json").read_text()) == []


@pytest.mark.parametrize("spoil, said", [
    (lambda folder: (folder / "set.json").write_text('{"images": ['), "set.json: truncated or not JSON"),
    (lambda folder: (folder / "images" / "110.png").unlink(), "1 of the 3 pictures"),
    (lambda folder: (folder / "images" / "110.png").write_bytes(b""), "110.png: truncated or not a picture"),
    (lambda folder: cv2.imwrite(str(folder / "images" / "110.png"), np.zeros((9, 9), np.uint8)),
     "9 x 9 px, annotated as 96 x 64"),
    (lambda folder: write_set(folder, annotations=[]), "no annotation of category 26"),
    (lambda folder: write_set(folder, categories=[{"id": 26, "name": "stent"}]), "no category called like")])
def test_bad_input_is_one_line_exit_code_1_and_no_figure(tmp_path, checkpoint, answers, capsys, spoil, said):
    write_set(tmp_path)
    spoil(tmp_path)
    assert call(tmp_path / "set.json", tmp_path / "images", checkpoint, tmp_path / "out") == 1
    errors = capsys.readouterr().err
    assert f"error: {tmp_path}" in errors and said in errors and "Traceback" not in errors
    assert not (tmp_path / "out").exists()


def test_an_input_is_never_replaced(tmp_path, checkpoint, answers, capsys):
    path = write_set(tmp_path).rename(tmp_path / "Arcade_Metrics.json")
    before = path.read_bytes()
    assert call(path, tmp_path / "images", checkpoint, tmp_path) == 1
    assert "is an input and would be replaced" in capsys.readouterr().err and path.read_bytes() == before


def test_ctrl_c_ends_with_one_line_and_no_figure(tmp_path, checkpoint, monkeypatch, capsys):
    def stopped(*arguments, **how):
        raise KeyboardInterrupt
    monkeypatch.setattr(evaluate_arcade, "predict_all", stopped)
    assert call(write_set(tmp_path), tmp_path / "images", checkpoint, tmp_path / "out") == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("stopped; ") and not (tmp_path / "out").exists()


@pytest.mark.parametrize("flags", [["--threshold", "1.5"], ["--limit-pictures", "-1"], ["--device", "x"]])
def test_flag_out_of_range_is_a_wrong_command_line(tmp_path, checkpoint, flags, capsys):
    assert call("a.json", "images", checkpoint, tmp_path / "out", *flags) == 2
    assert flags[0] in capsys.readouterr().err
    with pytest.raises(SystemExit) as left:
        evaluate_arcade.main([])
    assert left.value.code == 2 and "--annotations" in capsys.readouterr().err


def test_untrained_model_end_to_end(tmp_path, checkpoint):
    """The real model, from the picture to the figures; pictures are not square."""
    report = evaluate(tmp_path, checkpoint)
    assert report["metrics"]["n_images"] == 3 and 0 <= report["metrics"]["ap_iou50"] <= 1
    for one in json.loads((tmp_path / "out" / "arcade_detections.json").read_text()):
        x, y, width, height = one["bbox"]
        assert 0 <= x <= x + width <= WIDTH and 0 <= y <= y + height <= HEIGHT and 0 <= one["score"] <= 1


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no images of ARCADE in {REAL}")
def test_five_real_images_of_arcade(tmp_path, checkpoint, capsys):
    """An untrained model: its figures mean nothing; that they are called five images is the point."""
    assert call(REAL / "annotations.json", REAL, checkpoint, tmp_path) == 0
    report = json.loads((tmp_path / "arcade_metrics.json").read_text(encoding="utf-8"))
    assert report["metrics"]["n_images"] == report["metrics"]["n_targets"] == 5 and report["annotations"]["notes"] == []
    assert [one["file_name"] for one in report["per_image"]] == ["7.png", "628.png", "546.png", "532.png", "18.png"]
    assert "five images say next to nothing about the set of 300" in capsys.readouterr().out


def test_help_teaches():
    text = evaluate_arcade.build_parser().format_help()
    assert "python evaluate_arcade.py --annotations" in text and "(default: outputs" in text and "300 images" in text
