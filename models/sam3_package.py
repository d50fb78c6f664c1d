"""The classes that we use of the `sam3` package, imported so that they work on a CPU and on Windows.

`import sam3` runs the package's model builder, which imports `triton` (no Windows wheel of that name), `psutil` (not
declared) and the whole video predictor: some seconds and two possible failures for the two files that the vision path
consists of. `import_vision_classes` therefore imports those files alone. Seen in sam3 0.1.4;
`tests/test_sam3_package.py` says when a release makes this needless.
"""

import importlib
import importlib.util
import sys
import types

import torch


def import_vision_classes() -> tuple[type, type, type]:
    """Return the classes `(ViT, Sam3DualViTDetNeck, PositionEmbeddingSine)` of the installed `sam3` package.

    Raises:
        ModuleNotFoundError: `sam3` is not installed.
    """
    spec = importlib.util.find_spec("sam3")
    if spec is None:
        raise ModuleNotFoundError("the package `sam3` is not installed: pip install -r requirements.txt")
    stand_in = None
    if "sam3" not in sys.modules:
        stand_in = types.ModuleType("sam3")
        stand_in.__path__ = list(spec.submodule_search_locations)
        sys.modules["sam3"] = stand_in
    try:
        vitdet = importlib.import_module("sam3.model.vitdet")
        necks = importlib.import_module("sam3.model.necks")
        position_encoding = importlib.import_module("sam3.model.position_encoding")
    finally:
        # A later `import sam3` must run the package's own __init__, not find the empty stand-in.
        if stand_in is not None and sys.modules.get("sam3") is stand_in:
            del sys.modules["sam3"]
    return vitdet.ViT, necks.Sam3DualViTDetNeck, position_encoding.PositionEmbeddingSine


def build_vision_backbone(
    *, image_size: int, embed_dim: int, depth: int, num_heads: int, mlp_ratio: float, window_size: int,
    global_att_blocks: tuple[int, ...], scale_factors: tuple[float, ...], drop_path_rate: float,
    use_act_checkpoint: bool,
) -> torch.nn.Module:
    """Build `Sam3DualViTDetNeck` around a `ViT`, as `sam3.model_builder` does, for a square of `image_size` pixels.

    What is not an argument here has the value of `sam3.model_builder` 0.1.4. The rotary tables (`freqs_cis`) are
    computed for `image_size` and kept out of `state_dict()`: they are complex, which gloo cannot broadcast, and
    wrong at any other image size.
    """
    vit_class, neck_class, position_class = import_vision_classes()
    trunk = vit_class(
        img_size=image_size, pretrain_img_size=336, patch_size=14, embed_dim=embed_dim, depth=depth,
        num_heads=num_heads, mlp_ratio=mlp_ratio, norm_layer="LayerNorm", drop_path_rate=drop_path_rate,
        qkv_bias=True, use_abs_pos=True, tile_abs_pos=True, global_att_blocks=global_att_blocks,
        rel_pos_blocks=(), use_rope=True, use_interp_rope=True, window_size=window_size,
        pretrain_use_cls_token=True, retain_cls_token=False, ln_pre=True, ln_post=False,
        return_interm_layers=False, bias_patch_embed=False, use_act_checkpoint=use_act_checkpoint,
    )
    neck = neck_class(
        trunk=trunk, d_model=256, scale_factors=scale_factors,
        position_encoding=position_class(num_pos_feats=256, normalize=True, scale=None, temperature=10000),
    )
    for module in trunk.modules():
        if "freqs_cis" in module._buffers and module.freqs_cis is not None:
            module.register_buffer("freqs_cis", module.freqs_cis, persistent=False)
    return neck
