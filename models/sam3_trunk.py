"""SAM 3's image transformer, the package's own parameters and arithmetic, made for training in little memory.

Against `sam3.model.vitdet.ViT` of sam3 0.1.4 there are three differences, none of them in the values:

1. Rotary tables are real: older gloo builds cannot broadcast complex ones. Compiled, positions are turned with real
   numbers too, since `torch.compile` does not fuse complex ones; otherwise with complex ones, one kernel instead of six.
2. `checkpointed_blocks`, the number of blocks that keep only their input for the backward pass and are computed again
   there, can be anything from none to all: each one fewer costs memory and saves time.
3. `compile_blocks` compiles block by block: all blocks of a kind share one compilation.

Attention goes through `scaled_dot_product_attention`, whose kernels for bf16 never hold a matrix of all pairs.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from models.sam3_package import import_vision_modules

vitdet = import_vision_modules().vitdet


class RotaryAttention(nn.Module):
    """Takes the place of `package_attention` and its parameters: multi-head attention with rotary positions.

    Input and output: (B, h, w, C), of the h and w that the package's module was built for. `turns`: (h * w,
    C / heads / 2, 2) float32, cosines and sines, which depend on the image size and stay out of `state_dict()`.
    """

    def __init__(self, package_attention: nn.Module):
        super().__init__()
        self.num_heads = package_attention.num_heads
        self.qkv, self.proj = package_attention.qkv, package_attention.proj
        turns = torch.view_as_real(package_attention.freqs_cis).contiguous()
        self.register_buffer("turns", turns, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[1:3]
        # (B, N, 3 C) to (3, B, heads, N, C / heads)
        qkv = self.qkv(x).flatten(1, 2).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        rotate = rotate_real if torch.compiler.is_compiling() else rotate_complex
        # Split, because the backward pass of slices would fill each up with zeros first.
        query_key, value = qkv.split((2, 1))
        query, key = rotate(query_key, self.turns)
        attended = F.scaled_dot_product_attention(query, key, value[0])
        return self.proj(attended.transpose(1, 2).flatten(2).unflatten(1, (height, width)))


def rotate_complex(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Multiply neighbouring channels of x (..., N, 2 D), as complex numbers, by turns (N, D, 2). Float32 inside."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.view_as_complex(turns)).flatten(-2).type_as(x)


def rotate_real(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """The same in real numbers."""
    real, imaginary = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cosine, sine = turns.unbind(-1)
    turned = real * cosine - imaginary * sine, real * sine + imaginary * cosine
    return torch.stack(turned, dim=-1).flatten(-2).type_as(x)


class Trunk(vitdet.ViT):
    """`sam3.model.vitdet.ViT` as SAM 3 uses it: no class token, the last block's map alone.

    Input: (B, 3, S, S), normalised. Output: one map (B, C, S / 14, S / 14), in a list, as the neck wants it.
    """

    def __init__(self, *, use_act_checkpoint: bool, **settings):
        super().__init__(use_act_checkpoint=use_act_checkpoint, **settings)
        for block in self.blocks:
            block.attn = RotaryAttention(block.attn)
        self.checkpointed_blocks = len(self.blocks) if use_act_checkpoint else 0

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = self.patch_embed(x)
        x = x + vitdet.get_abs_pos(self.pos_embed, self.pretrain_use_cls_token, x.shape[1:3], tiling=self.tile_abs_pos)
        x = self.ln_pre(x)
        # The first ones: when they are computed again, the backward pass has freed what the others kept.
        checkpointed = self.checkpointed_blocks if self.training and torch.is_grad_enabled() else 0
        for number, block in enumerate(self.blocks):
            x = checkpoint(block, x, use_reentrant=False) if number < checkpointed else block(x)
        return [self.ln_post(x).permute(0, 3, 1, 2)]

    def compile_blocks(self) -> None:
        """Have `torch.compile` compile every block at its first call."""
        for block in self.blocks:
            block.compile()
