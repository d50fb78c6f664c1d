"""utils.drawing: colours mean what the legend says, and a gallery is whole or refused."""
import cv2
import numpy as np
import pytest

from utils.drawing import (AGREEMENT_LEGEND, GREEN, agreement_overlay, as_rgb, gallery_figure, mask_overlay,
                           save_gallery, side_by_side, thumbnail)


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
