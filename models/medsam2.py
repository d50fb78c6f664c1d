"""MedSAM2: SAM 2.1 Hiera-tiny at 512 px, built from the classes of the package `rf-sam-2` (module `sam2`).

    model = build_medsam2()                                            # 39.0 M parameters, random weights
    report = load_medsam2_weights(model, "MedSAM2_latest.pt")          # all of them from the released file
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import torch

from utils.checkpoint import CheckpointError, MissingWeights, load_weights
from utils.torch_files import read_torch_file

IMAGE_SIZE = 512  # of MedSAM2's own configuration, sam2.1_hiera_t512.yaml
CELL_PX = 16  # side of a cell of the coarsest map, which the memory attention works on
CONFIG = "configs/sam2.1/sam2.1_hiera_t.yaml"
# What `sam2.build_sam.build_sam2_video_predictor` sets, and MedSAM2's own inference with it. Its fill_hole_area of 8 is
# left out: it needs the CUDA extension `sam2._C`, which no wheel has; without it the package warns and fills nothing.
SETTINGS = {
    "_target_": "sam2.sam2_video_predictor.SAM2VideoPredictor",
    "sam_mask_decoder_extra_args": {
        "dynamic_multimask_via_stability": True,
        "dynamic_multimask_stability_delta": 0.05,
        "dynamic_multimask_stability_thresh": 0.98,
    },
    "binarize_mask_from_pts_for_mem_enc": True,
}
HOW_TO_GET = (
    "download MedSAM2_latest.pt from the project's Hugging Face page wanglab/MedSAM2 and pass "
    "`--medsam2-checkpoint PATH/MedSAM2_latest.pt`"
)


@contextlib.contextmanager
def hydra_left_alone() -> Iterator[None]:
    """`import sam2` initialises Hydra for the whole process, unless somebody has: here it finds that somebody has.

    Other code can then initialise Hydra for itself, before and after.
    """
    from hydra.core.global_hydra import GlobalHydra

    found = GlobalHydra.instance().hydra
    GlobalHydra.instance().hydra = found or object()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = found


def build_medsam2(*, image_size: int = IMAGE_SIZE) -> torch.nn.Module:
    """Build a `SAM2VideoPredictor` for squares of `image_size` pixels, a multiple of 32, with random weights.

    It is the whole model: image encoder, prompts and masks (as `SAM2ImagePredictor` takes it), memory.

    Raises:
        ModuleNotFoundError: `rf-sam-2` is not installed.
    """
    if importlib.util.find_spec("sam2") is None:
        raise ModuleNotFoundError("the package `rf-sam-2` is not installed: pip install -r requirements.txt")
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    with hydra_left_alone():
        import sam2
    cells = {"feat_sizes": [image_size // CELL_PX] * 2}
    size = {
        "image_size": image_size,
        "memory_attention": {"layer": {"self_attention": cells, "cross_attention": cells}},
    }
    released = OmegaConf.load(Path(sam2.__path__[0]) / CONFIG).model
    return instantiate(OmegaConf.merge(released, SETTINGS, size))


def load_medsam2_weights(model: torch.nn.Module, path: str | Path) -> str:
    """Copy the released checkpoint at `path` into `model` of `build_medsam2`; returns in words what became of it.

    path: a file that holds `{"model": tensors by sam2's own names}`.

    Raises:
        MissingWeights: there is no such file; says how to get it.
        CheckpointError: not a readable checkpoint of this layout, or tensors are missing, unexpected or of another
            shape; names them, and `model` is unchanged.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingWeights(f"{path}: no such file; {HOW_TO_GET}.")
    try:
        checkpoint = read_torch_file(path)
    except Exception as error:  # torch raises many types here: zip, pickle, EOF, runtime ...
        raise CheckpointError(f"{path}: not a readable PyTorch checkpoint ({type(error).__name__}: {error}); "
                              "is the download complete?") from error
    tensors = checkpoint.get("model") if isinstance(checkpoint, dict) else None
    if not isinstance(tensors, dict):
        found = list(checkpoint)[:5] if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise CheckpointError(f'{path}: holds no dict of tensors under "model", but {found}; {HOW_TO_GET}.')
    load_weights(model, tensors, source=path)
    return f"MedSAM2: {len(tensors)} tensors matched, 0 missing, 0 unexpected ({path.name})"
