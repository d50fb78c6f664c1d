"""A checkpoint made small loads everywhere and predicts the same."""

import pytest
import torch

from models.loading import load_model
from tests.tiny_checkpoint import write_tiny_checkpoint
from utils import export
from utils.checkpoint import load_checkpoint, save_checkpoint


def test_exported_checkpoint_is_half_as_large_and_predicts_the_same(tmp_path):
    source = write_tiny_checkpoint(tmp_path / "best.pth", epoch=3)
    target = tmp_path / "tiny.pth"
    assert export.main([str(source), str(target)]) == 0
    assert target.stat().st_size < 0.55 * source.stat().st_size
    assert target.stat().st_size < 10e6
    (before, _), (after, checkpoint) = load_model(source), load_model(target)
    assert checkpoint["epoch"] == 3 and checkpoint["optimizer"] is None
    image, view_deg = torch.rand(1, 3, 336, 336), torch.tensor([[30.0, float("nan")]])
    with torch.no_grad():
        torch.testing.assert_close(after(image, view_deg), before(image, view_deg), atol=2e-2, rtol=0)


def test_weights_that_half_precision_cannot_hold_are_refused(tmp_path, capsys):
    source = write_tiny_checkpoint(tmp_path / "best.pth")
    checkpoint = load_checkpoint(source)
    checkpoint["model"]["segmentation_head.logits.bias"][0] = 1e6
    save_checkpoint(source, checkpoint)
    assert export.main([str(source), str(tmp_path / "tiny.pth")]) == 1
    assert "segmentation_head.logits.bias" in capsys.readouterr().err
    assert not (tmp_path / "tiny.pth").exists()


def test_source_and_target_must_differ(tmp_path, capsys):
    source = write_tiny_checkpoint(tmp_path / "best.pth")
    before = source.read_bytes()
    assert export.main([str(source), str(tmp_path / "." / "best.pth")]) == 1
    assert "another target" in capsys.readouterr().err
    assert source.read_bytes() == before


def test_a_target_that_cannot_be_written_is_named(tmp_path, capsys):
    source = write_tiny_checkpoint(tmp_path / "best.pth")
    (tmp_path / "file").write_text("in the way")
    assert export.main([str(source), str(tmp_path / "file" / "tiny.pth")]) == 1
    assert str(tmp_path / "file") in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_what_is_no_checkpoint_is_named(tmp_path, capsys, content):
    source = tmp_path / "x.pth"
    source.write_bytes(content)
    assert export.main([str(source), str(tmp_path / "tiny.pth")]) == 1
    assert str(source) in capsys.readouterr().err
