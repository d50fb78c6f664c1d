"""The whole image model of SAM 3, with the part of its tracker that answers points, on any device.

    model = build_sam3_image_model("sam3.pt")                            # 1008 px, weights of every part checked
    model = build_sam3_image_model(random_init=True, size="tiny")        # the same classes, small: seconds on a CPU

Composed as `sam3.model_builder.build_sam3_image_model(enable_inst_interactivity=True)` of sam3 0.1.4 does it, whose
values stand here where nothing else is said; that one needs CUDA, see `models.sam3_package`.
"""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from models.backbone import SAM3
from models.sam3_package import (
    PATCH_PX,
    build_decoder,
    build_geometry_encoder,
    build_interactive_predictor,
    build_position_encoding,
    build_text_encoder,
    build_tracker,
    build_vision_backbone,
    import_image_modules,
)
from models.sam3_weights import WHERE_TO_GET, load_sam3_image_weights
from utils.arguments import choose_image_size
from utils.checkpoint import MissingWeights

CHANNELS = 256
MEMORY_CHANNELS = 64
HEADS = 8


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What differs between the sizes: layers of each part, widths where the classes leave them open.

    backbone: the one of `models.backbone` that takes pictures of the same sides.
    """

    backbone: str
    vision: dict
    text: dict
    fusion_layers: int
    decoder_layers: int
    queries: int
    geometry_layers: int
    memory_layers: int
    feedforward: int


FULL = Architecture(
    backbone="sam3", vision=SAM3, text=dict(width=1024, heads=16, layers=24), fusion_layers=6, decoder_layers=6,
    queries=200, geometry_layers=3, memory_layers=4, feedforward=2048,
)
TINY = Architecture(
    backbone="sam3-tiny",
    vision=dict(embed_dim=64, depth=2, num_heads=2, mlp_ratio=2.0, window_size=12, global_att_blocks=(1,),
                scale_factors=(4.0, 2.0, 1.0, 0.5), drop_path_rate=0.0, use_act_checkpoint=False),
    text=dict(width=64, heads=2, layers=1), fusion_layers=1, decoder_layers=2, queries=12, geometry_layers=1,
    memory_layers=1, feedforward=64,
)
ARCHITECTURES = {"full": FULL, "tiny": TINY}


def build_sam3_image_model(checkpoint: str | Path | None = None, *, random_init: bool = False, size: str = "full",
                           image_size: int | None = None) -> nn.Module:
    """Build the image model, on the CPU, in evaluation mode.

    Args:
        checkpoint: an official `sam3.pt` (for size "tiny" a file in its layout); every tensor must fit.
        random_init: random weights instead, whose answers mean nothing.
        size: "full", 860 M parameters, or "tiny", 5 M.
        image_size: side of the square that the model sees, a multiple of 336 px; without it 1008 or 336.

    Returns:
        a `Sam3Image` with `inst_interactive_predictor`; `image_size` and, with a checkpoint, `load_report` are set on
        it. Move it to its device before the first call.

    Raises:
        MissingWeights: no checkpoint and no `random_init`, or no such file; one sentence how to get it.
        CheckpointError: `checkpoint` does not match; names the tensors.
        ValueError: unknown size, an image size that does not work, or a checkpoint together with `random_init`.
    """
    _check_arguments(checkpoint, random_init, size)
    architecture = ARCHITECTURES[size]
    image_size = choose_image_size(architecture.backbone, image_size)
    model = _compose(architecture, image_size).eval()
    model.image_size = image_size
    model.load_report = None if checkpoint is None else load_sam3_image_weights(model, checkpoint)
    return model


def _check_arguments(checkpoint: str | Path | None, random_init: bool, size: str) -> None:
    if size not in ARCHITECTURES:
        raise ValueError(f"size {size!r} is not known; allowed: {', '.join(ARCHITECTURES)}")
    if checkpoint is not None and random_init:
        raise ValueError(f"random weights and those of {checkpoint} were both asked for; give one of the two")
    if checkpoint is None and not random_init:
        raise MissingWeights(f"{WHERE_TO_GET}.")
    if checkpoint is not None and not Path(checkpoint).is_file():
        raise MissingWeights(f"{checkpoint}: no such file; {WHERE_TO_GET}.")


def _compose(architecture: Architecture, image_size: int) -> nn.Module:
    sam3 = import_image_modules()
    vision_backbone = build_vision_backbone(image_size=image_size, add_sam2_neck=True, **architecture.vision)
    text_encoder = build_text_encoder(**architecture.text)
    return sam3.sam3_image.Sam3Image(
        backbone=sam3.vl_combiner.SAM3VLBackbone(visual=vision_backbone, text=text_encoder, scalp=1),
        transformer=_build_transformer(architecture),
        input_geometry_encoder=_build_geometry_encoder(architecture),
        segmentation_head=_build_segmentation_head(),
        dot_prod_scoring=_build_scoring(architecture),
        num_feature_levels=1, o2m_mask_predict=True, use_instance_query=False, multimask_output=True, matcher=None,
        inst_interactive_predictor=build_interactive_predictor(_build_tracker(architecture, image_size)),
    )


def _attention(*, dropout: float = 0.1, batch_first: bool = False) -> nn.Module:
    attention_class = import_image_modules().model_misc.MultiheadAttentionWrapper
    return attention_class(num_heads=HEADS, dropout=dropout, embed_dim=CHANNELS, batch_first=batch_first)


def _encoder_layer(architecture: Architecture, *, batch_first: bool, pos_enc_at_attn: bool,
                   pos_enc_at_cross_attn_keys: bool) -> nn.Module:
    return import_image_modules().encoder.TransformerEncoderLayer(
        activation="relu", d_model=CHANNELS, dim_feedforward=architecture.feedforward, dropout=0.1, pre_norm=True,
        pos_enc_at_attn=pos_enc_at_attn, pos_enc_at_cross_attn_keys=pos_enc_at_cross_attn_keys,
        pos_enc_at_cross_attn_queries=False, self_attention=_attention(batch_first=batch_first),
        cross_attention=_attention(batch_first=batch_first),
    )


def _build_transformer(architecture: Architecture) -> nn.Module:
    """The encoder that fuses image and prompt, and the decoder whose queries find the instances."""
    sam3 = import_image_modules()
    encoder = sam3.encoder.TransformerEncoderFusion(
        layer=_encoder_layer(architecture, batch_first=True, pos_enc_at_attn=True, pos_enc_at_cross_attn_keys=False),
        num_layers=architecture.fusion_layers, d_model=CHANNELS, num_feature_levels=1, frozen=False,
        use_act_checkpoint=True, add_pooled_text_to_img_feat=False, pool_text_with_mask=True,
    )
    decoder_layer = sam3.decoder.TransformerDecoderLayer(
        activation="relu", d_model=CHANNELS, dim_feedforward=architecture.feedforward, dropout=0.1,
        cross_attention=_attention(), n_heads=HEADS, use_text_cross_attention=True,
    )
    decoder = build_decoder(
        layer=decoder_layer, num_layers=architecture.decoder_layers, num_queries=architecture.queries,
        return_intermediate=True, box_refine=True, num_o2m_queries=0, dac=True, boxRPB="log", d_model=CHANNELS,
        frozen=False, interaction_layer=None, dac_use_selfatt_ln=True, use_act_checkpoint=True, presence_token=True,
    )
    return sam3.model_misc.TransformerWrapper(encoder=encoder, decoder=decoder, d_model=CHANNELS)


def _build_geometry_encoder(architecture: Architecture) -> nn.Module:
    layer = _encoder_layer(architecture, batch_first=False, pos_enc_at_attn=False, pos_enc_at_cross_attn_keys=True)
    return build_geometry_encoder(
        pos_enc=build_position_encoding(CHANNELS), encode_boxes_as_points=False, points_direct_project=True,
        points_pool=True, points_pos_enc=True, boxes_direct_project=True, boxes_pool=True, boxes_pos_enc=True,
        d_model=CHANNELS, num_layers=architecture.geometry_layers, layer=layer, use_act_ckpt=True, add_cls=True,
        add_post_encode_proj=True,
    )


def _build_segmentation_head() -> nn.Module:
    segmentation = import_image_modules().maskformer_segmentation
    return segmentation.UniversalSegmentationHead(
        hidden_dim=CHANNELS, upsampling_stages=3, aux_masks=False, presence_head=False, dot_product_scorer=None,
        act_ckpt=True, cross_attend_prompt=_attention(dropout=0),
        pixel_decoder=segmentation.PixelDecoder(num_upsampling_stages=3, interpolation_mode="nearest",
                                                hidden_dim=CHANNELS),
    )


def _build_scoring(architecture: Architecture) -> nn.Module:
    model_misc = import_image_modules().model_misc
    prompt_mlp = model_misc.MLP(input_dim=CHANNELS, hidden_dim=architecture.feedforward, output_dim=CHANNELS,
                                num_layers=2, dropout=0.1, residual=True, out_norm=nn.LayerNorm(CHANNELS))
    return model_misc.DotProductScoring(d_model=CHANNELS, d_proj=CHANNELS, prompt_mlp=prompt_mlp)


def _build_tracker(architecture: Architecture, image_size: int) -> nn.Module:
    """The tracker: its prompt encoder and mask decoder answer points, the rest is there for the checkpoint to fit."""
    cells = image_size // PATCH_PX
    return build_tracker(image_size=image_size, transformer=_build_memory_attention(architecture, cells),
                         maskmem_backbone=_build_memory_encoder(cells))


def _build_memory_attention(architecture: Architecture, cells: int) -> nn.Module:
    sam3 = import_image_modules()
    common = dict(embedding_dim=CHANNELS, num_heads=1, downsample_rate=1, dropout=0.1, rope_theta=10000.0,
                  feat_sizes=[cells, cells], use_fa3=False, use_rope_real=False)
    layer = sam3.decoder.TransformerDecoderLayerv2(
        cross_attention_first=False, activation="relu", dim_feedforward=architecture.feedforward, dropout=0.1,
        pos_enc_at_attn=False, pre_norm=True, d_model=CHANNELS, pos_enc_at_cross_attn_keys=True,
        pos_enc_at_cross_attn_queries=False, self_attention=sam3.transformer.RoPEAttention(**common),
        cross_attention=sam3.transformer.RoPEAttention(kv_in_dim=MEMORY_CHANNELS, rope_k_repeat=True, **common),
    )
    encoder = sam3.decoder.TransformerEncoderCrossAttention(
        remove_cross_attention_layers=[], batch_first=True, d_model=CHANNELS, frozen=False, pos_enc_at_input=True,
        layer=layer, num_layers=architecture.memory_layers, use_act_checkpoint=False,
    )
    return sam3.model_misc.TransformerWrapper(encoder=encoder, decoder=None, d_model=CHANNELS)


def _build_memory_encoder(cells: int) -> nn.Module:
    memory = import_image_modules().memory
    block = memory.CXBlock(dim=CHANNELS, kernel_size=7, padding=3, layer_scale_init_value=1e-6, use_dwconv=True)
    return memory.SimpleMaskEncoder(
        out_dim=MEMORY_CHANNELS, position_encoding=build_position_encoding(MEMORY_CHANNELS),
        mask_downsampler=memory.SimpleMaskDownSampler(kernel_size=3, stride=2, padding=1,
                                                      interpol_size=[16 * cells, 16 * cells]),
        fuser=memory.SimpleFuser(layer=block, num_layers=2),
    )
