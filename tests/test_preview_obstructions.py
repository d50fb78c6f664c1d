"""What the viewer shows of stage 3: right, false, neither and missed, each in its colour, by two yardsticks."""

import re
from dataclasses import replace

import numpy as np
import pytest

import test_model_during_training as viewer
from data.schema import load_table
from models.loading import STAGES
from tests.obstruction_fixture import OTHER_STENOSIS_PCT, STENOSIS_PCT, write_obstruction_dataset
from tests.tiny_checkpoint import write_tiny_obstruction_checkpoint
from utils.history import write_history
from utils.obstructions import preview as view
from utils.obstructions.evaluation import frame_of_row
from utils.obstructions.matching import Detection
from utils.prediction import OBSTRUCTION_STAGE
from utils.reports.frame_answer import FrameAnswer
from utils.run_files import RunFiles

CHECKPOINT = {"stage": OBSTRUCTION_STAGE, "metrics": {"threshold": 0.4}, "config": {"threshold_pct": 30.0}}
COLORS = {"right": (0, 158, 115), "false": (213, 94, 0), "neither": (240, 228, 66), "missed": (86, 180, 233)}


@pytest.fixture(scope="module")
def csv_path(tmp_path_factory):
    return write_obstruction_dataset(tmp_path_factory.mktemp("data"), patients=2, rows_per_patient=1, size=128)


@pytest.fixture(scope="module")
def row(csv_path):
    return load_table(csv_path).iloc[0]


@pytest.fixture(scope="module")
def places(row):
    """Boxes and points by name: the annotated lesion, the other true one, background, and a vessel not measured."""
    labels = frame_of_row(row)
    unknown_y, unknown_x = np.argwhere(~labels["frame_known"])[0].tolist()
    lesion, other = labels["frame_obstruction"], labels["frame_lesions"][1]
    assert labels["frame_known"][120, 64]
    return {"lesion": (lesion.box_px, lesion.mld_px), "other": (other.box_px, other.point_px),
            "background": ((60, 116, 68, 124), (64, 120)),
            "vessel": ((unknown_x - 3, unknown_y - 3, unknown_x + 3, unknown_y + 3), (unknown_x, unknown_y))}


def show(row, places, scores, checkpoint=CHECKPOINT, stenosis_pct=40.0):
    """The case of a model that finds something at each of the places named, with these scores."""
    def answer(frame, *, view_deg):
        found = [Detection(score, *places[name], stenosis_pct) for name, score in scores.items()]
        return FrameAnswer(vessel_probability=np.zeros(frame.shape[:2], np.float32), obstructions=found)
    return view.predict_case(row, answer, checkpoint)


def has_color(pixels, name):
    """Whether any pixel is about of that colour; thin lines are blended a little with the grey below them."""
    return bool((np.abs(pixels.astype(int) - COLORS[name]).max(axis=-1) < 50).any())


def colors_on_box(picture, box):
    """Names of the colours of `COLORS` on the lines of a box."""
    x0, y0, x1, y1 = (round(side) for side in box)
    lines = np.concatenate([picture[y0, x0:x1], picture[y1, x0:x1], picture[y0:y1, x0], picture[y0:y1, x1]])
    return {name for name in COLORS if has_color(lines, name)}


def test_what_is_found_is_right_false_or_neither_and_is_drawn_so(row, places):
    case = show(row, places, {"background": 0.7, "lesion": 0.9, "vessel": 0.5})
    assert [one.score for one in case.found] == [0.9, 0.7, 0.5]
    assert case.verdicts("annotated") == ["right", "false", "neither"] and case.missed("annotated") == []
    picture = view.draw_found(case, "annotated")
    for name, color in (("lesion", "right"), ("background", "false"), ("vessel", "neither")):
        assert colors_on_box(picture, places[name][0]) == {color}


def test_missed_lesion_is_drawn_as_missed(row, places):
    case = show(row, places, {"background": 0.7})
    assert [target.stenosis_pct for target in case.missed("annotated")] == [pytest.approx(STENOSIS_PCT)]
    picture = view.draw_found(case, "annotated")
    assert colors_on_box(picture, places["lesion"][0]) == {"missed"}
    assert not has_color(picture, "right")


def test_truth_is_a_yardstick_of_its_own(row, places):
    """The other lesion lies in the background, as far as the annotation says."""
    case = show(row, places, {"other": 0.9, "vessel": 0.6})
    assert case.verdicts("annotated") == ["false", "neither"] and case.verdicts("truth") == ["right", "false"]
    assert colors_on_box(view.draw_found(case, "truth"), places["other"][0]) == {"right"}
    assert colors_on_box(view.draw_found(case, "annotated"), places["other"][0]) == {"false"}
    assert view.describe([case, case]) == (
        "from score 0.40 on (best F1 in the checkpoint's validation); "
        "against annotation 0 of 2 found, 2 false, 2 neither; against truth 2 of 4 found, 2 false")
    gallery = view.arrange([case])
    assert gallery["column_titles"][2:] == ["found, against the annotation", "found, against every true lesion"]
    assert gallery["captions"][0][2:] == ["0 of 1 found, 1 false, 1 neither", "1 of 2 found, 1 false"]
    assert len(gallery["rows"][0]) == 4 and set(COLORS.values()) <= set(gallery["legend"].values())


def test_score_and_stenosis_that_count_are_those_of_the_checkpoint(row, places):
    scores = {"lesion": 0.45, "background": 0.35}
    assert [one.score for one in show(row, places, scores).found] == [0.45]
    for metrics in ({}, {"threshold": None}, {"threshold": float("nan")}):  # not validated, or nothing to choose by
        case = show(row, places, scores, CHECKPOINT | {"metrics": metrics})
        assert case.found == [] and case.wanted.threshold.score == 0.5
    severe = show(row, places, scores, CHECKPOINT | {"config": {}})  # 50 %DS: the lesion is not to be found
    assert severe.verdicts("annotated") == ["false"] and severe.missed("annotated") == []
    assert [target.stenosis_pct for target in severe.missed("truth")] == [OTHER_STENOSIS_PCT]
    assert "not to be found: below 50 %DS" in view.arrange([severe])["captions"][0][1]


def test_place_and_severity_of_a_hit_are_told(row, places):
    (x0, y0, x1, y1), (x, y) = places["lesion"]
    moved = {"lesion": ((x0, y0, x1, y1), (x + 2, y))}  # 4 px per mm
    captions = view.arrange([show(row, moved, {"lesion": 0.8})])["captions"][0]
    assert captions[2] == "1 of 1 found\npoint 0.5 mm off, +5 %DS, box IoU 1.00"
    assert captions[1].startswith("13 Mid LAD, ")


def test_data_without_true_lesions_have_no_panel_of_them(row, places):
    plain = show(row.drop("true_lesions_path"), places, {"lesion": 0.8})
    gallery = view.arrange([plain])
    assert len(gallery["column_titles"]) == len(gallery["rows"][0]) == len(gallery["captions"][0]) == 3
    assert "truth" not in view.describe([plain])
    mixed = view.arrange([plain, show(row, places, {"lesion": 0.8})])
    assert mixed["rows"][0][3] is None and mixed["captions"][0][3] == "no true lesions"
    assert view.order([plain])[1].startswith("worst first against annotation")


def test_missed_comes_first_then_false_then_the_lowest_score(row, places):
    answers = {"sure": {"lesion": 0.9, "other": 0.9}, "unsure": {"lesion": 0.5, "other": 0.9},
               "false": {"lesion": 0.9, "other": 0.9, "background": 0.8}, "missed": {"lesion": 0.9}}
    cases = [replace(show(row, places, scores), title=name) for name, scores in answers.items()]
    ordered, words = view.order(cases)
    assert [case.title for case in ordered] == ["missed", "false", "unsure", "sure"] and "truth" in words


def test_label_is_drawn_with_its_stenosis(row, places):
    case = show(row, places, {})
    picture = view.arrange([case])["rows"][0][1]
    x0, y0, x1, _ = (round(side) for side in places["lesion"][0])
    assert (picture[y0, x0:x1] > 235).all(axis=1).any() and not (case.frame > 235).any()
    assert (picture != case.frame).any(axis=2).sum() > 4 * (x1 - x0)


def test_yardsticks_are_never_in_one_panel_of_the_history():
    for title, fields in view.PANELS.items():
        assert len({field.endswith("_truth") for field in fields}) == 1
        assert title.startswith("truth") == fields[0].endswith("_truth")


def test_every_stage_has_a_view_of_one_interface():
    assert set(viewer.VIEWS) == set(STAGES)
    for module in viewer.VIEWS.values():
        assert all(hasattr(module, name) for name in ("PANELS", "predict_case", "order", "arrange", "describe"))


def test_panels_of_the_history_lie_apart_and_off_the_pictures(row, places):
    history = [{"epoch": epoch, **{field: epoch / 7 for fields in view.PANELS.values() for field in fields}}
               for epoch in (1, 2)]
    figure = viewer.draw_preview(view, [show(row, places, {"lesion": 0.9})], history, 40 * "a long title ")
    boxes = [axis.get_position() for axis in figure.axes]
    assert len(boxes) == 4 + len(view.PANELS)
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= 1 and box.y1 <= 1 for box in boxes)
    overlapping = [(a, b) for n, a in enumerate(boxes) for b in boxes[:n]
                   if min(a.x1, b.x1) > max(a.x0, b.x0) and min(a.y1, b.y1) > max(a.y0, b.y0)]
    assert overlapping == []
    assert max(map(len, figure._suptitle.get_text().splitlines())) <= 4 * viewer.TITLE_LETTERS_PER_COLUMN


def test_preview_of_a_run_is_drawn_from_its_folder(csv_path, tmp_path, capsys):
    files = RunFiles(tmp_path, OBSTRUCTION_STAGE)
    write_tiny_obstruction_checkpoint(files.latest, epoch=3, metrics={"threshold": 0.01}, threshold_pct=30.0,
                                      data_csv=str(csv_path), data_root=None, path_map=[])
    write_history(files.history, [{"epoch": 3, "val_f1_iou50": 0.3, "val_f1_iou50_truth": 0.2}])
    assert viewer.main(["--checkpoint-dir", str(tmp_path), "--cases", "1"]) == 0
    assert re.match(r"phase3_obstruction, epoch 3, step 30: on these 1 cases from score 0.01 on .*; against annotation "
                    r"[01] of 1 found, \d+ false, \d+ neither; against truth [012] of 2 found", capsys.readouterr().out)
    assert files.picture("preview").stat().st_size > 10_000
