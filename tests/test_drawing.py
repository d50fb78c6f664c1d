"""utils.drawing: colours mean what the legend says, and a gallery is whole or refused."""
import cv2
import numpy as np
import pytest

from data.cass import SEGMENTS
from utils.drawing import (AGREEMENT_LEGEND, GREEN, NO_NAME, agreement_overlay, as_rgb, gallery_figure,
                           mask_overlay, save_gallery, segment_legend, segment_overlay, side_by_side,
                           thumbnail)
from utils.reports.label_placement import inner_point, place_labels


@pytest.fixture
def frame():
    return np.full((20, 30, 3), 100, np.uint8)


def square(*corner):
    mask = np.zeros((20, 30), bool)
    mask[corner[0]:corner[0] + 6, corner[1]:corner[1] + 6] = True
    return mask


def test_overlay_colours_the_mask_and_leaves_the_rest(frame):
    mask = square(5, 5)
    picture = mask_overlay(frame, mask, GREEN, opacity=1.0)
    assert picture.dtype == np.uint8 and picture.shape == frame.shape
    assert (picture[mask] == GREEN).all()
    assert (picture[~mask] == 100).all()
    assert (frame == 100).all()        # the caller's frame is not drawn on


def test_thin_mask_is_drawn_stronger_than_the_inside_of_a_thick_one(frame):
    thick, thin = square(5, 5), np.zeros((20, 30), bool)
    thin[10, 20:29] = True
    picture = mask_overlay(frame, thick | thin, (255, 255, 255)).astype(int)
    assert picture[10, 24, 0] > picture[7, 7, 0] > 100


def test_agreement_has_one_colour_for_each_of_three_cases(frame):
    label, prediction = square(5, 5), square(5, 8)
    picture = agreement_overlay(frame, label, prediction, opacity=1.0)
    assert (picture[label & prediction] == AGREEMENT_LEGEND["both"]).all()
    assert (picture[prediction & ~label] == AGREEMENT_LEGEND["only prediction"]).all()
    assert (picture[label & ~prediction] == AGREEMENT_LEGEND["only label"]).all()
    assert (picture[~label & ~prediction] == 100).all()


@pytest.mark.parametrize("draw", [lambda f, m: mask_overlay(f, m), lambda f, m: agreement_overlay(f, m, m)])
def test_mask_of_another_size_is_refused_with_both_sizes(frame, draw):
    with pytest.raises(ValueError, match=r"\(9, 9\).*\(20, 30\)"):
        draw(frame, np.zeros((9, 9), bool))


@pytest.mark.parametrize("given, expected", [(np.ones((4, 5), bool), 255), (np.full((4, 5), 0.5), 128),
                                             (np.full((4, 5), 7.0), 255), (np.full((4, 5), 9, np.uint8), 9)])
def test_as_rgb_takes_what_figures_are_made_of(given, expected):
    picture = as_rgb(given)
    assert picture.shape == (4, 5, 3) and picture.dtype == np.uint8 and (picture == expected).all()


def test_as_rgb_refuses_channels_first():
    with pytest.raises(ValueError, match="3, 8, 8"):
        as_rgb(np.zeros((3, 8, 8), np.uint8))


def test_thumbnail_shrinks_large_pictures_only():
    assert max(thumbnail(np.zeros((2000, 1000, 3), np.uint8)).shape) < 1000
    assert thumbnail(np.zeros((64, 48, 3), np.uint8)).shape == (64, 48, 3)


def test_gallery_is_written_with_an_empty_cell(tmp_path, frame):
    path = tmp_path / "gallery.png"
    save_gallery(path, [[frame, None], [frame, frame]], ["a", "b"], ["1", "2\nlines"], title="both",
                 captions=[["", ""], ["x", "y"]], cell_inches=1.0)
    picture = cv2.imread(str(path))
    assert picture is not None and (picture == 100).all(axis=2).sum() > 1000      # the frames' grey is there
    assert list(tmp_path.iterdir()) == [path]                                     # and no temporary file


@pytest.mark.parametrize("rows, columns, titles, message", [
    ([], ["a"], [], "at least one"), ([[None]], ["a", "b"], ["1"], "1 pictures for 2 columns"),
    ([[None]], ["a"], [], "0 row titles")])
def test_gallery_that_does_not_fit_is_refused(rows, columns, titles, message):
    with pytest.raises(ValueError, match=message):
        gallery_figure(rows, columns, titles)


def test_cases_are_laid_side_by_side_and_the_last_row_filled_up():
    assert side_by_side([("a", 1), ("b", 2), ("c", 3)], 2) == [["a", 1, "b", 2], ["c", 3, None, None]]
    assert side_by_side([("a", 1)], 2) == [["a", 1]]


def two_segments(side=200):
    names = np.zeros((side, side), np.uint8)
    names[90:100, 20:100], names[90:100, 100:180] = 12, 13
    return names


def test_segments_have_the_colours_of_the_legend():
    frame, names = np.full((200, 200), 100, np.uint8), two_segments()
    picture = segment_overlay(frame, names, labels=False)
    legend = segment_legend([12, 13], nameless=True)
    assert list(legend) == ["12 Proximal LAD", "13 Mid LAD", NO_NAME]
    for cass_id, color in zip((12, 13), legend.values()):
        tint = picture[names == cass_id].astype(float).mean(axis=0) - 100
        assert np.corrcoef(tint, np.array(color) - 100)[0, 1] > 0.99 and color == SEGMENTS[cass_id].colour
    assert (picture[names == 0] == 100).all()


def test_vessels_without_a_name_are_seen():
    names, vessels = two_segments(), np.zeros((200, 200), bool)
    vessels[20:26, 20:60] = True
    picture = segment_overlay(np.full((200, 200), 100, np.uint8), names, labels=False, vessels=vessels)
    assert (picture[vessels] > 120).all()


def test_numbers_stand_beside_the_vessel_not_on_it():
    frame, names = np.full((200, 200), 100, np.uint8), two_segments()
    plain, numbered = (segment_overlay(frame, names, labels=labels) for labels in (False, True))
    changed = (plain != numbered).any(axis=2)
    chips = (numbered == SEGMENTS[12].colour).all(axis=2) | (numbered == SEGMENTS[13].colour).all(axis=2)
    assert (chips & (names == 0)).sum() > 100 and not (chips & changed & (names > 0)).any()
    assert changed[names > 0].mean() < 0.05     # the lines that lead to them


def test_labels_are_apart_and_inside_the_picture_and_off_the_vessels():
    rng = np.random.default_rng(0)
    vessels = np.zeros((300, 300), np.int32)
    anchors = [tuple(int(number) for number in rng.integers(30, 270, 2)) for _ in range(14)]
    for number, (x, y) in enumerate(anchors, start=1):
        vessels[y - 3 : y + 4, x - 20 : x + 20] = number
    width, height = 28, 16
    corners = place_labels(anchors, [(width, height)] * 14, vessels)
    assert corners == place_labels(anchors, [(width, height)] * 14, vessels)
    taken = np.zeros_like(vessels)
    for x, y in corners:
        assert 0 <= x <= 300 - width and 0 <= y <= 300 - height
        taken[y : y + height, x : x + width] += 1
    assert taken.max() == 1 and ((taken > 0) & (vessels > 0)).sum() < 0.05 * (taken > 0).sum()


def test_a_segment_of_one_pixel_in_the_corner_is_labelled():
    names = np.zeros((24, 24), np.uint8)
    names[0, 0] = 28
    assert (segment_overlay(np.zeros((24, 24), np.uint8), names) == SEGMENTS[28].colour).all(axis=2).any()


def test_inner_point_lies_in_the_largest_piece_also_of_a_bow():
    yy, xx = np.mgrid[:100, :100]
    radius = np.hypot(yy - 50, xx - 50)
    bow = (radius > 30) & (radius < 34) & (xx > 30)
    bow[:3, :3] = True
    x, y = inner_point(bow)
    assert bow[y, x] and x > 30
    with pytest.raises(ValueError, match="empty"):
        inner_point(np.zeros((4, 4), bool))


def test_long_legend_is_broken_into_lines_inside_the_picture(frame):
    legend = {f"{number} a segment with a long name": (0, 0, 0) for number in range(20)}
    figure = gallery_figure([[frame, frame]], ["a", "b"], [""], legend=legend, cell_inches=3.0)
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y0 >= 0
    pictures = min(axis.get_window_extent().y0 for axis in figure.axes)
    assert box.y1 <= pictures
