"""Image encoders with one contract: a square picture in, a pyramid of 256-channel feature maps out."""

from pathlib import Path

import torch
from torch import nn

from models import litemedsam, medsam2
from models.sam3_package import build_vision_backbone
from models.sam3_weights import HOW_TO_GET, load_sam3_vision_weights
from utils.arguments import check_backbone, check_image_size, check_weights_arguments
from utils.checkpoint import MissingWeights

# Full size: `sam3.model_builder._create_vit_backbone` of sam3 0.1.4, 454 M parameters with the neck.
SAM3 = dict(embed_dim=1024, depth=32, num_heads=16, mlp_ratio=4.625, window_size=24,
            global_att_blocks=(7, 15, 23, 31), scale_factors=(4.0, 2.0, 1.0, 0.5), drop_path_rate=0.1,
            use_act_checkpoint=True)
# The same classes for CPUs and tests. Without the finest level, whose convolution alone took a third of a training
# step on a CPU (2026-11-21), and without stochastic depth, which would make two ranks differ from one.
SAM3_TINY = dict(embed_dim=128, depth=4, num_heads=4, mlp_ratio=4.0, window_size=12,
                 global_att_blocks=(1, 3), scale_factors=(2.0, 1.0, 0.5), drop_path_rate=0.0,
                 use_act_checkpoint=False)
ARCHITECTURES = {"sam3": SAM3, "sam3-tiny": SAM3_TINY}
# Mean and standard deviation of ImageNet's red, green and blue in [0, 1], as SAM 2 and MedSAM2 want them.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Backbone(nn.Module):
    """What the models ask of an image encoder.

    Input: image (B, 3, S, S), float, in [0, 1], S = `image_size`; each backbone normalises it as its weights want it.
    Output: `num_levels` maps (B, `channels`, s, s), finest first. `load_report` says what became of a file of released
    weights; None without one. `new_parts`: starts of the names of layers added to the encoder.
    """

    channels = 256
    new_parts: tuple[str, ...] = ()

    def __init__(self, *, image_size: int, num_levels: int, load_report: object | None = None):
        super().__init__()
        self.image_size = image_size
        self.num_levels = num_levels
        self.load_report = load_report

    def trade_memory(self, *, checkpointed_blocks: int | None, compiled: bool) -> None:
        """Checkpoint so many blocks (None: as many as by default) and have them compiled; ValueError without blocks."""
        if checkpointed_blocks or compiled:
            raise ValueError(f"{type(self).__name__} has no blocks to checkpoint or compile")

    def check_size(self, image: torch.Tensor) -> None:
        """ValueError for an image of another size than the backbone was built for."""
        if image.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(f"image is {tuple(image.shape)}; this backbone was built for "
                             f"(B, 3, {self.image_size}, {self.image_size})")


class Sam3Backbone(Backbone):
    """The vision path of SAM 3: ViT trunk and feature pyramid neck; contract as in `Backbone`.

    Sides of the maps: S / 3.5, S / 7, S / 14, S / 28 for sam3, the last three of these for sam3-tiny.
    """

    def __init__(self, *, vision_backbone: nn.Module, image_size: int, load_report: object | None = None):
        super().__init__(image_size=image_size, num_levels=len(vision_backbone.convs), load_report=load_report)
        self.vision_backbone = vision_backbone

    def trade_memory(self, *, checkpointed_blocks: int | None, compiled: bool) -> None:
        trunk = self.vision_backbone.trunk
        if checkpointed_blocks is not None:
            trunk.checkpointed_blocks = checkpointed_blocks
        if compiled:
            trunk.compile_blocks()

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        self.check_size(image)
        # Mean 0.5 and standard deviation 0.5 on [0, 1] are SAM 3's own normalisation.
        trunk_features = self.vision_backbone.trunk((image - 0.5) / 0.5)[-1]
        # The neck's own forward would also compute position encodings, which nothing here reads.
        return [conv(trunk_features) for conv in self.vision_backbone.convs]


class Medsam2Backbone(Backbone):
    """The image encoder of MedSAM2: Hiera trunk and feature pyramid neck; contract as in `Backbone`.

    Sides of the maps: S / 4, S / 8, S / 16.
    """

    def __init__(self, *, image_encoder: nn.Module, image_size: int, load_report: object | None = None):
        super().__init__(image_size=image_size, num_levels=3, load_report=load_report)
        self.image_encoder = image_encoder
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        self.check_size(image)
        return self.image_encoder((image - self.mean) / self.std)["backbone_fpn"]


class LitemedsamBackbone(Backbone):
    """The image encoder of LiteMedSAM, a TinyViT; contract as in `Backbone`.

    Sides of the maps: S / 2, S / 4. The coarser is the map that the encoder was trained to give. At 256 px a distal
    vessel is one or two pixels wide, half a cell of that map; so the finer is the encoder's last stage at half
    resolution, 128 channels brought to 256 by one new 1 x 1 convolution. A coarser map than both would hold
    nothing that the heads, which average the coarser one down, do not have.
    """

    new_parts = ("project_half.",)

    def __init__(self, *, image_encoder: nn.Module, image_size: int, load_report: object | None = None):
        super().__init__(image_size=image_size, num_levels=2, load_report=load_report)
        litemedsam.fit_encoder_to(image_encoder, image_size)
        self.image_encoder = image_encoder
        self.project_half = nn.Conv2d(image_encoder.layers[1].dim, self.channels, 1)

    def train(self, mode: bool = True) -> "LitemedsamBackbone":
        super().train(mode)
        # The statistics of its batch norms stay those of its million training pictures: those of a few angiograms
        # would differ between ranks, and from what validation uses.
        for module in self.image_encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        self.check_size(image)
        low, high = image.amin(dim=(1, 2, 3), keepdim=True), image.amax(dim=(1, 2, 3), keepdim=True)
        # LiteMedSAM's own normalisation: each picture from 0 to 1.
        tokens = self.image_encoder.patch_embed((image - low) / (high - low).clamp_min(1e-8))
        # The stages one by one, since the encoder's own forward keeps no map but the last, and that at 256 px only.
        first, second, *others = self.image_encoder.layers
        tokens = first(tokens)
        for block in second.blocks:
            tokens = block(tokens)
        half = self.project_half(as_map(tokens))
        tokens = second.downsample(tokens)
        for layer in others:
            tokens = layer(tokens)
        return [half, self.image_encoder.neck(as_map(tokens))]


def as_map(tokens: torch.Tensor) -> torch.Tensor:
    """Tokens (B, s * s, C) of a square, row by row, as a map (B, C, s, s)."""
    side = round(tokens.shape[1] ** 0.5)
    return tokens.transpose(1, 2).unflatten(2, (side, side))


def build_backbone(name: str, *, image_size: int, sam3_checkpoint: str | Path | None = None,
                   medsam2_checkpoint: str | Path | None = None, random_init: bool = False) -> Backbone:
    """Build the backbone `name` of `utils.arguments.BACKBONES` for square images of `image_size` pixels.

    "sam3" and "medsam2" want their released weights (`sam3_checkpoint`, `medsam2_checkpoint`), or `random_init=True`
    said aloud; "litemedsam" takes those of its package, unless `random_init=True`; "sam3-tiny" and "unet" have
    none.

    Raises:
        ValueError: unknown name, an image size that does not work, or arguments that contradict each other.
        FileNotFoundError: no weights given or found (MissingWeights), or no package; says how to get them.
        CheckpointError: the file of weights does not match; names the tensors.
    """
    check_backbone(name)
    check_image_size(name, image_size)
    checkpoints = {"sam3_checkpoint": sam3_checkpoint, "medsam2_checkpoint": medsam2_checkpoint}
    check_weights_arguments(name, checkpoints, random_init)
    if name == "medsam2":
        return _build_medsam2_backbone(image_size, medsam2_checkpoint, random_init)
    if name == "litemedsam":
        return _build_litemedsam_backbone(image_size, random_init)
    if name == "unet":
        from models.unet import UnetBackbone  # which needs this module

        return UnetBackbone(image_size=image_size)
    return _build_sam3_backbone(name, image_size, sam3_checkpoint, random_init)


def _build_sam3_backbone(name: str, image_size: int, checkpoint: str | Path | None, random_init: bool) -> Sam3Backbone:
    if name == "sam3" and checkpoint is None and not random_init:
        raise FileNotFoundError(f"--backbone sam3 needs weights. {HOW_TO_GET}")
    vision_backbone = build_vision_backbone(image_size=image_size, **ARCHITECTURES[name])
    report = None if checkpoint is None else load_sam3_vision_weights(vision_backbone, checkpoint)
    return Sam3Backbone(vision_backbone=vision_backbone, image_size=image_size, load_report=report)


def _build_medsam2_backbone(image_size: int, checkpoint: str | Path | None, random_init: bool) -> Medsam2Backbone:
    if checkpoint is None and not random_init:
        raise MissingWeights(f"--backbone medsam2 needs weights: {medsam2.HOW_TO_GET}, or say `--random-init`.")
    model = medsam2.build_medsam2(image_size=image_size)
    report = None if checkpoint is None else medsam2.load_medsam2_weights(model, checkpoint)
    return Medsam2Backbone(image_encoder=model.image_encoder, image_size=image_size, load_report=report)


def _build_litemedsam_backbone(image_size: int, random_init: bool) -> LitemedsamBackbone:
    model = litemedsam.build_litemedsam()
    report = None if random_init else litemedsam.load_litemedsam_weights(model)
    return LitemedsamBackbone(image_encoder=model.image_encoder, image_size=image_size, load_report=report)
