"""Losses of stage 4, what a predicted lumen becomes, and how its measurements are scored against the contours."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from data.lumen_crops import crop_around, lumen_maps
from models.lumen_head import prompt_channels
from models.lumen_model import LumenOutput
from qca.agreement import AGREEMENT_SCORES, agreement_counts, agreement_figure, agreement_of, agreement_scores
from qca.calibration import Calibration
from qca.errors import QcaError
from qca.measure import measure_lumen
from tests.qca_shapes import draw_tubes, edges_of, narrowed, straight_line
from utils.lumens.evaluation import (
    LESION_FROM_PCT, QUANTITIES, compared, compare_measurement, scores_of_lumen, summarise_agreement,
    surface_distance_px,
)
from utils.lumens.losses import EDGE_BAND_PX, lumen_losses
from utils.lumens.prediction import PredictedLumen, measure_predicted, share_of_lumen
from utils.run_files import RunFiles

LINE = straight_line(angle_deg=30.0, length_px=110)
WIDTHS = narrowed(LINE, 12.0, 60, 30)
PX_PER_MM = 4.0


def lumen_of(widths=WIDTHS, side=336, shift_px=0.0):
    """The lumen of a drawn vessel, as an exact model would answer, and its true shares."""
    left, right = edges_of(LINE, widths)
    points = np.concatenate([left, right])
    box = np.concatenate([points.min(axis=0), points.max(axis=0)])
    crop = crop_around(box, side_px=side, frame_side_px=160)
    maps = lumen_maps(crop.to_crop(left), crop.to_crop(right), side)
    coverage, shifted = maps.coverage, torch.from_numpy(maps.distance)[None, None] + shift_px
    # Its probability is sure of the lumen and of as much around it as the shift adds, but not beyond the cuts.
    inside = (shifted > -2) & (torch.from_numpy(maps.weight) > 0)
    output = LumenOutput(torch.where(inside, 9.0, -9.0), shifted)
    lumen = PredictedLumen(share=share_of_lumen(output, 0), crop=crop, box_px=tuple(box), frame_size=(160, 160))
    return lumen, coverage


def contours_of(mld_mm=1.2, rvd_mm=3.0, length_mm=7.5, mld_px=LINE[220]):
    measurements = {
        "MLD_mm": mld_mm, "interpolated_RVD_mm": rvd_mm, "diameter_stenosis_pct": 100 * (1 - mld_mm / rvd_mm),
        "lesion_length_mm": length_mm, "MLD_x_coord": mld_px[0], "MLD_y_coord": mld_px[1],
        "MLD_centerline_index": 220,
    }
    return SimpleNamespace(measurements=measurements, calibration={"scale_factor": PX_PER_MM}, centerline=LINE)


def test_an_exact_lumen_is_measured_in_the_frames_own_pixels():
    lumen, _ = lumen_of()
    measured = measure_predicted(lumen, Calibration(PX_PER_MM, "scale factor"))
    assert measured.mm.mld == pytest.approx(12 * 0.4 / PX_PER_MM, abs=0.04)
    assert measured.mm.rvd == pytest.approx(12 / PX_PER_MM, abs=0.06)
    assert measured.calibration.px_per_mm == PX_PER_MM
    np.testing.assert_allclose(measured.line_px[measured.worst.mld], LINE[220], atol=0.6)
    assert measured.mm.segment_length == pytest.approx(110 / PX_PER_MM, abs=0.5)
    expected = measure_lumen(draw_tubes([edges_of(LINE, WIDTHS)])[0], Calibration(PX_PER_MM, "scale factor"))
    assert measured.stenosis_pct == pytest.approx(expected.stenosis_pct, abs=1.0)
    assert measure_predicted(lumen, None).mm is None


def test_the_proximal_end_is_told_in_px_of_the_frame():
    lumen, _ = lumen_of()
    first, last = (measure_predicted(lumen, None, proximal_px=tuple(LINE[at])).line_px for at in (0, -1))
    np.testing.assert_allclose(first[0], LINE[0], atol=1.5)
    np.testing.assert_allclose(last[0], LINE[-1], atol=1.5)


def test_its_mask_in_the_frame_is_that_of_the_drawing():
    lumen, _ = lumen_of()
    mask = draw_tubes([edges_of(LINE, WIDTHS)])[1]
    found = lumen.mask_in_frame()
    assert found.shape == (160, 160) and found.dtype == bool
    assert 2 * (found & mask).sum() / (found.sum() + mask.sum()) > 0.98


def test_scores_of_an_exact_lumen_and_of_one_drawn_too_wide():
    exact, coverage = lumen_of()
    contours = contours_of()
    record = scores_of_lumen(exact, coverage, contours)
    assert record["dice_lumen"] > 0.99 and record["surface_px"] < 0.05 and record["mld_off_px"] < 1
    assert record["measured"]["ds"] == pytest.approx(record["recorded"]["ds"], abs=1.5)
    wide = scores_of_lumen(lumen_of(shift_px=2.0)[0], coverage, contours)
    off_px = 2.0 / exact.crop.zoom
    assert wide["surface_px"] == pytest.approx(off_px, rel=0.25)
    assert wide["surface_mm"] == pytest.approx(wide["surface_px"] / PX_PER_MM)
    assert wide["measured"]["mld"] == pytest.approx(1.2 + 2 * off_px / PX_PER_MM, abs=0.05)


def test_a_lumen_that_cannot_be_measured_is_counted_as_one_without_stenosis():
    lumen, coverage = lumen_of()
    empty = replace(lumen, share=np.zeros_like(lumen.share))
    with pytest.raises(QcaError):
        measure_predicted(empty, None)
    records = [{"row": n, **compared(one, contours_of())} for n, one in enumerate((lumen, empty))]
    assert "empty" in records[1]["failure"] and np.isnan(records[1]["measured"]["mld"])
    metrics = summarise_agreement(records, ["a", "b"])
    assert metrics["measured_share"] == 0.5 and metrics["n_lesions"] == 2
    assert metrics["ds_mae_points"] < 2 and metrics["ds_mae_points_all"] == pytest.approx(30, abs=1)
    assert np.isnan(surface_distance_px(coverage >= 0.5, np.zeros_like(coverage, bool)))


def test_treated_vessels_are_told_apart_from_lesions():
    mild = {**contours_of().measurements, "diameter_stenosis_pct": LESION_FROM_PCT - 1}
    records = [
        {"row": 0, **compared(lumen_of()[0], contours_of())},
        {"row": 1, **compare_measurement(None, SimpleNamespace(measurements=mild, calibration={"scale_factor": 4.0}))},
    ]
    metrics = summarise_agreement(records, ["a", "b"])
    assert (metrics["measured_share"], metrics["measured_share_lesions"], metrics["n_lesions"]) == (0.5, 1.0, 1)
    assert metrics["mld_mae_mm_lesions_ci95"] == pytest.approx([metrics["mld_mae_mm_lesions"]] * 2)
    assert "n_lesions" in summarise_agreement(records[1:], ["b"])


def test_the_place_falls_back_to_its_index_on_the_centreline():
    contours = contours_of(mld_px=(np.nan, np.nan))
    assert compared(lumen_of()[0], contours)["mld_off_px"] < 1


def test_agreement_scores_are_those_of_the_pairs_and_of_shrout_and_fleiss():
    rng = np.random.default_rng(0)
    recorded = rng.normal(3, 1, 40)
    measured = recorded + rng.normal(0.1, 0.2, 40)
    measured[5] = np.nan
    found = dict(zip(AGREEMENT_SCORES, agreement_scores(agreement_counts(recorded, measured).sum(axis=0)[None])[0]))
    expected = agreement_of(recorded, measured)
    assert (found["bias"], found["sd"], found["mae"]) == pytest.approx((expected.bias, expected.sd, expected.mae))
    assert (found["loa_low"], found["loa_high"]) == pytest.approx((expected.low, expected.high))
    # The first two judges of the six targets in Shrout and Fleiss (1979), table 2; ICC(2,1) by their formulas, with
    # mean squares of a two-way analysis of variance of these twelve numbers.
    first, second = np.array([9, 6, 8, 7, 10, 6.0]), np.array([2, 1, 4, 1, 5, 2.0])
    rows, columns = np.stack([first, second], axis=1).mean(axis=1), np.array([first.mean(), second.mean()])
    grand = rows.mean()
    between, ways = 2 * ((rows - grand) ** 2).sum() / 5, 6 * ((columns - grand) ** 2).sum()
    rest = sum(((pair - row - columns + grand) ** 2).sum() for pair, row in zip(np.stack([first, second], 1), rows)) / 5
    icc = (between - rest) / (between + rest + 2 * (ways - rest) / 6)
    assert agreement_scores(agreement_counts(first, second).sum(axis=0)[None])[0, -1] == pytest.approx(icc)
    same = agreement_scores(agreement_counts(first, first).sum(axis=0)[None])[0]
    assert same[-1] == pytest.approx(1.0) and same[0] == same[1] == 0


def test_agreement_of_no_pair_or_one_is_not_a_number():
    nothing = agreement_scores(agreement_counts(np.array([np.nan]), np.array([1.0])).sum(axis=0)[None])[0]
    assert np.isnan(nothing).all()
    one = agreement_scores(agreement_counts(np.array([2.0]), np.array([1.0])).sum(axis=0)[None])[0]
    assert one[0] == -1 and np.isnan(one[1]) and np.isnan(one[-1])


def test_the_figure_shades_what_two_observers_differ_by():
    pairs = {"MLD": (np.array([1.0, 2.0]), np.array([1.1, 2.2]))}
    figure = agreement_figure(pairs, units=["mm"], spreads=[0.1])
    assert len(figure.axes) == 2 and figure.axes[1].get_legend() is not None
    assert agreement_figure(pairs).axes[1].get_legend() is None


def test_losses_are_least_for_the_truth_and_count_what_is_near_an_edge():
    _, coverage = lumen_of(side=112)
    left, right = edges_of(LINE, WIDTHS)
    crop = lumen_of(side=112)[0].crop
    maps = lumen_maps(crop.to_crop(left), crop.to_crop(right), 112)
    distance, weight = (torch.from_numpy(part)[None, None] for part in (maps.distance, maps.weight))
    lumen = torch.from_numpy(coverage)[None, None]
    logits = torch.logit(lumen.clamp(1e-4, 1 - 1e-4))
    exact = lumen_losses(logits, distance, lumen, distance, weight)
    assert exact["edge"].item() == 0 and exact["dice"].item() > 0.95 and exact["area"].shape == (1,)
    off = lumen_losses(logits, distance + 1, lumen, distance, weight)
    assert off["edge"].item() == pytest.approx(1.0)
    unknown = lumen_losses(logits, distance + 9 * (weight == 0), lumen, distance, weight)
    assert (weight == 0).any() and unknown["edge"].item() == 0
    far = (distance.abs() > EDGE_BAND_PX).float()
    assert lumen_losses(logits, distance + far, lumen, distance, weight)["edge"].item() < 0.3
    # One value a sample: a second one does not change the first.
    both = lumen_losses(*(torch.cat([x, x.flip(-1)]) for x in (logits, distance + 1, lumen)),
                        *(torch.cat([x, x]) for x in (distance, weight)))
    assert both["edge"][0].item() == pytest.approx(1.0)


NO_ENDS = torch.full((1, 2, 2), torch.nan)


def test_prompt_channels_say_what_is_asked_for():
    box, ends = torch.tensor([[8.0, 16.0, 39.0, 23.0]]), torch.tensor([[[10.0, 18.0], [37.0, 21.0]]])
    channels = prompt_channels(box, ends, 16, 64)
    assert channels.shape == (1, 4, 16, 16)
    rows, columns = torch.nonzero(channels[0, 0], as_tuple=True)
    assert (columns.min().item(), columns.max().item(), rows.min().item(), rows.max().item()) == (2, 9, 4, 5)
    assert channels[0, 1, 0, 0] < -1 and channels[0, 1, 0, 2].item() == pytest.approx(-1, abs=0.2)
    assert channels.abs().max() <= 2
    near = channels[0, 3]
    assert near[4, 2] > 0.8 and near[5, 9] > 0.8 and near[4, 6] < 0.01
    degenerate = prompt_channels(torch.tensor([[5.0, 5.0, 5.0, 5.0]]), NO_ENDS, 16, 64)
    assert torch.isfinite(degenerate).all() and degenerate[0, 3].max() == 0


def test_pictures_are_written(tmp_path):
    from utils.lumens.evaluation import draw_agreement

    records = [{"row": n, **compared(lumen_of()[0], contours_of())} for n in range(2)]
    files = RunFiles(tmp_path, "phase4_quantitative")
    draw_agreement(records, pd.DataFrame({"patient_id": ["a", "b"]}), files)
    assert files.picture("agreement").stat().st_size > 1000
    assert set(QUANTITIES) == {"mld", "rvd", "ds", "lesion_length"}
