"""Everything that stops the `sam3` package on a CPU, on Windows or at another image size, and the way around it.

    vision_backbone = build_vision_backbone(image_size=1008, **models.backbone.SAM3)
    sam3 = import_image_modules()           # sam3.encoder.TransformerEncoderFusion ...

Seen in sam3 0.1.4. For each obstacle `tests/test_sam3_package.py` has a test that fails once a release removes it.

1. `import sam3` runs the package's model builder and with it the video predictor, which imports `psutil`, undeclared,
   and `triton`, of which there is no Windows or macOS wheel. The files that we need are imported alone, and the one
   among them that needs triton (a distance transform for training) is stood in for where triton is missing.
2. `PositionEmbeddingSine(precompute_resolution)` and `TransformerDecoder(resolution, stride)` allocate on "cuda"
   whatever the device. Without these arguments both compute the same when first called, on the right device: a model
   has to be on its device before its first call.
3. The geometry encoder pins memory, which fails where there is no CUDA driver.
4. The wheel lacks the vocabulary of the text encoder; `open-clip-torch` ships that file.
5. The text encoder leaves two parameters as the allocator found them: random weights could be anything, nan too.
6. `Sam3TrackerPredictor` turns bf16 autocast on for the rest of the process; its base class has the same parameters.
7. The interactive predictor has the feature sizes of 1008 px written into it.
8. On CUDA it fills holes in masks with a kernel that needs triton; where there is none it warns and leaves the holes.
"""

import contextlib
import functools
import importlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.overrides import TorchFunctionMode

PATCH_PX = 14
# Of a `ViT`, what `sam3.model_builder` 0.1.4 gives for SAM 3 of any size.
TRUNK_SETTINGS = dict(
    pretrain_img_size=336, patch_size=PATCH_PX, norm_layer="LayerNorm", qkv_bias=True, use_abs_pos=True,
    tile_abs_pos=True, rel_pos_blocks=(), use_rope=True, use_interp_rope=True, pretrain_use_cls_token=True,
    retain_cls_token=False, ln_pre=True, ln_post=False, return_interm_layers=False, bias_patch_embed=False,
)
VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"
IMAGE_MODULES = (
    "model.decoder", "model.encoder", "model.geometry_encoders", "model.maskformer_segmentation", "model.memory",
    "model.model_misc", "model.sam1_task_predictor", "model.sam3_image", "model.sam3_image_processor",
    "model.sam3_tracker_base", "model.text_encoder_ve", "model.tokenizer_ve", "model.utils.sam1_utils",
    "model.vl_combiner", "sam.transformer",
    "perflib.connected_components",  # imported by the package in the middle of a call, when no stand-in is there
)


def import_vision_modules() -> types.SimpleNamespace:
    """Return the modules of the vision path: `vitdet`, `necks` and `position_encoding`.

    Raises:
        ModuleNotFoundError: `sam3` is not installed.
    """
    return _import_modules("model.vitdet", "model.necks", "model.position_encoding")


@functools.cache
def import_image_modules() -> types.SimpleNamespace:
    """Return the modules that the whole image model is made of, by the last part of their names.

    Raises:
        ModuleNotFoundError: `sam3` is not installed.
    """
    return _import_modules(*IMAGE_MODULES)


def _import_modules(*names: str) -> types.SimpleNamespace:
    with _package_without_its_init(), _distance_transform_without_triton(), _without_script_warnings():
        return types.SimpleNamespace(
            **{name.rpartition(".")[2]: importlib.import_module(f"sam3.{name}") for name in names}
        )


@contextlib.contextmanager
def _package_without_its_init() -> Iterator[None]:
    """Let files of `sam3` be imported without `sam3/__init__.py`."""
    if "sam3" in sys.modules:
        yield
        return
    spec = importlib.util.find_spec("sam3")
    if spec is None:
        raise ModuleNotFoundError("the package `sam3` is not installed: pip install -r requirements.txt")
    stand_in = types.ModuleType("sam3")
    stand_in.__path__ = list(spec.submodule_search_locations)
    sys.modules["sam3"] = stand_in
    try:
        yield
    finally:
        # A later `import sam3` must run the package's own __init__, not find the empty stand-in.
        if sys.modules.get("sam3") is stand_in:
            del sys.modules["sam3"]


@contextlib.contextmanager
def _distance_transform_without_triton() -> Iterator[None]:
    name = "sam3.model.edt"
    if importlib.util.find_spec("triton") is not None:
        yield
        return
    stand_in = types.ModuleType(name)
    stand_in.edt_triton = _no_distance_transform
    sys.modules[name] = stand_in
    try:
        yield
    finally:
        del sys.modules[name]


def _no_distance_transform(_data: torch.Tensor) -> torch.Tensor:
    raise NotImplementedError("sam3's distance transform, which only its training uses, needs triton")


@contextlib.contextmanager
def _without_script_warnings() -> Iterator[None]:
    """Torch warns of `torch.jit.script`, which the package calls and nobody here can change."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.script", category=FutureWarning)
        yield


def build_vision_backbone(
    *, image_size: int, embed_dim: int, depth: int, num_heads: int, mlp_ratio: float, window_size: int,
    global_att_blocks: tuple[int, ...], scale_factors: tuple[float, ...], drop_path_rate: float,
    use_act_checkpoint: bool, add_sam2_neck: bool = False,
) -> torch.nn.Module:
    """Build `Sam3DualViTDetNeck` around a `ViT`, as `sam3.model_builder` does, for a square of `image_size` pixels.

    What is not an argument here has the value of `sam3.model_builder` 0.1.4. add_sam2_neck: the second neck, of the
    tracker, too. The transformer is `models.sam3_trunk.Trunk`, with the same parameters under the same names; its
    rotary tables are computed for `image_size` and are no part of `state_dict()`.
    """
    from models.sam3_trunk import Trunk  # whose classes are built on those that this module imports

    trunk = Trunk(
        **TRUNK_SETTINGS, img_size=image_size, embed_dim=embed_dim, depth=depth, num_heads=num_heads,
        mlp_ratio=mlp_ratio, drop_path_rate=drop_path_rate, global_att_blocks=global_att_blocks,
        window_size=window_size, use_act_checkpoint=use_act_checkpoint,
    )
    return import_vision_modules().necks.Sam3DualViTDetNeck(
        trunk=trunk, d_model=256, scale_factors=scale_factors, position_encoding=build_position_encoding(256),
        add_sam2_neck=add_sam2_neck,
    )


def build_position_encoding(channels: int) -> torch.nn.Module:
    """Build `PositionEmbeddingSine` with `channels` channels, without `precompute_resolution` (obstacle 2)."""
    position_class = import_vision_modules().position_encoding.PositionEmbeddingSine
    return position_class(num_pos_feats=channels, normalize=True, scale=None, temperature=10000)


def build_decoder(**settings) -> torch.nn.Module:
    """Build `TransformerDecoder`; settings are its arguments but `resolution` and `stride` (obstacle 2)."""
    return import_image_modules().decoder.TransformerDecoder(**settings)


class _UnpinnedMemory(TorchFunctionMode):
    """Within it, in this thread, `tensor.pin_memory()` is the tensor itself."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.pin_memory:
            return args[0]
        return function(*args, **(kwargs or {}))


def build_geometry_encoder(**settings) -> torch.nn.Module:
    """Build `SequenceGeometryEncoder`, from its arguments, so that it runs without a CUDA driver (obstacle 3)."""

    class GeometryEncoder(import_image_modules().geometry_encoders.SequenceGeometryEncoder):
        def forward(self, *args, **kwargs):
            with _UnpinnedMemory():
                return super().forward(*args, **kwargs)

    return GeometryEncoder(**settings)


def find_vocabulary() -> Path:
    """The file with the byte pairs of the text encoder, in the installed `open-clip-torch`, which is not imported.

    Raises:
        ModuleNotFoundError: `open-clip-torch` is not installed.
    """
    spec = importlib.util.find_spec("open_clip")
    if spec is None:
        raise ModuleNotFoundError("the text prompts of SAM 3 need the vocabulary file that `open-clip-torch` ships: "
                                  "pip install -r requirements.txt")
    return Path(spec.submodule_search_locations[0]) / VOCABULARY


def build_text_encoder(*, width: int, heads: int, layers: int) -> torch.nn.Module:
    """Build `VETextEncoder` with its tokenizer, as `sam3.model_builder` does, all parameters initialised."""
    sam3 = import_image_modules()
    tokenizer = sam3.tokenizer_ve.SimpleTokenizer(bpe_path=str(find_vocabulary()))
    text_encoder = sam3.text_encoder_ve.VETextEncoder(
        tokenizer=tokenizer, d_model=256, width=width, heads=heads, layers=layers
    )
    # The standard deviations of CLIP, whose text encoder this is (Radford et al., 2021).
    torch.nn.init.normal_(text_encoder.encoder.positional_embedding, std=0.01)
    torch.nn.init.normal_(text_encoder.encoder.text_projection, std=width**-0.5)
    return text_encoder


def build_tracker(*, image_size: int, **settings) -> torch.nn.Module:
    """Build the tracker for `image_size`, as `sam3.model_builder.build_tracker` does, of its base class (obstacle 6).

    settings: `transformer` and `maskmem_backbone`. Its memory serves videos and is not called for single images.
    """
    return import_image_modules().sam3_tracker_base.Sam3TrackerBase(
        backbone=None, image_size=image_size, num_maskmem=7, backbone_stride=PATCH_PX, multimask_output_in_sam=True,
        forward_backbone_per_frame_for_eval=True, trim_past_non_cond_mem_for_eval=False,
        multimask_output_for_tracking=True, multimask_min_pt_num=0, multimask_max_pt_num=1,
        non_overlap_masks_for_mem_enc=False, max_cond_frames_in_attn=4, offload_output_to_cpu_for_eval=False,
        sam_mask_decoder_extra_args=dict(dynamic_multimask_via_stability=True, dynamic_multimask_stability_delta=0.05,
                                         dynamic_multimask_stability_thresh=0.98),
        **settings,
    )


def build_interactive_predictor(tracker: torch.nn.Module) -> torch.nn.Module:
    """Build `SAM3InteractiveImagePredictor` for any image size and any device (obstacles 7 and 8)."""
    sam3 = import_image_modules()

    class Transforms(sam3.sam1_utils.SAM2Transforms):
        def postprocess_masks(self, masks, orig_hw):
            return super().postprocess_masks(masks.cpu(), orig_hw)

    with _without_script_warnings():
        predictor = sam3.sam1_task_predictor.SAM3InteractiveImagePredictor(tracker)
        given = predictor._transforms
        predictor._transforms = Transforms(given.resolution, given.mask_threshold, given.max_hole_area,
                                           given.max_sprinkle_area)
    side = tracker.sam_image_embedding_size
    predictor._bb_feat_sizes = [(4 * side, 4 * side), (2 * side, 2 * side), (side, side)]
    return predictor
