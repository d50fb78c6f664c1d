"""The transformer as it is trained here gives the package's values and gradients, checkpointed, compiled or plain."""

import copy
import shutil
import sys

import pytest
import torch

from models.backbone import SAM3_TINY
from models.sam3_package import TRUNK_SETTINGS, build_vision_backbone, import_vision_modules
from models.sam3_trunk import RotaryAttention, Trunk, rotate_complex, rotate_real

IMAGE_SIZE = 336


def trunk_settings(**changes) -> dict:
    vision = {name: value for name, value in SAM3_TINY.items() if name != "scale_factors"}
    # Positions that must be tiled, and a last norm that does something.
    own = dict(img_size=IMAGE_SIZE, pretrain_img_size=168, ln_post=True)
    return {**TRUNK_SETTINGS, **vision, **own, **changes}


def package_and_ours(**changes):
    """A ViT of the package and a Trunk with its weights, both in training mode."""
    torch.manual_seed(0)
    package = import_vision_modules().vitdet.ViT(**trunk_settings(**changes))
    ours = Trunk(**trunk_settings(**changes))
    weights = {name: tensor for name, tensor in package.state_dict().items() if not name.endswith("freqs_cis")}
    assert ours.state_dict().keys() == weights.keys()
    ours.load_state_dict(weights)
    return package.train(), ours.train()


def output_and_gradients(trunk, image: torch.Tensor) -> list[torch.Tensor]:
    torch.manual_seed(3)  # of stochastic depth
    (features,) = trunk(image)
    (features * torch.linspace(-1, 1, features.numel()).view(features.shape)).sum().backward()
    return [features.detach(), *(parameter.grad for _, parameter in sorted(trunk.named_parameters()))]


@pytest.mark.parametrize("drop_path_rate", [0.0, 0.5])
@pytest.mark.parametrize("use_act_checkpoint", [False, True])
def test_values_and_gradients_are_the_packages(use_act_checkpoint, drop_path_rate):
    package, ours = package_and_ours(use_act_checkpoint=use_act_checkpoint, drop_path_rate=drop_path_rate)
    image = torch.rand(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    for theirs, mine in zip(output_and_gradients(package, image), output_and_gradients(ours, image), strict=True):
        scale = theirs.abs().max().item()
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6 * max(scale, 1))


@pytest.mark.parametrize("rotate", [rotate_complex, rotate_real])
def test_rotary_positions_equal_the_packages(rotate):
    vitdet = import_vision_modules().vitdet
    package = vitdet.Attention(64, num_heads=2, input_size=(6, 6), use_rope=True, rope_pt_size=(4, 4), rope_interp=True)
    query, key = torch.randn(2, 3, 2, 36, 32)
    wanted = package._apply_rope(query, key)
    ours = RotaryAttention(package)
    for mine, theirs in zip(rotate(torch.stack([query, key]), ours.turns), wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)
    assert not ours.turns.is_complex() and "turns" not in ours.state_dict()
    assert rotate(query.bfloat16(), ours.turns).dtype == torch.bfloat16


@pytest.mark.parametrize("checkpointed", [1, 3])
def test_any_number_of_checkpointed_blocks_gives_the_same_bits(checkpointed):
    _, plain = package_and_ours(drop_path_rate=0.5)
    some = copy.deepcopy(plain)
    some.checkpointed_blocks = checkpointed
    image = torch.rand(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    for one, other in zip(output_and_gradients(plain, image), output_and_gradients(some, image), strict=True):
        assert torch.equal(one, other)


def kept_bytes(trunk, image: torch.Tensor) -> int:
    """What the forward pass keeps for the backward pass, parameters aside."""
    own = {parameter.untyped_storage().data_ptr() for parameter in trunk.parameters()}
    kept = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        trunk(image)
    return sum(kept.values())


def test_checkpointed_blocks_keep_nothing_but_their_input():
    _, trunk = package_and_ours()
    image = torch.rand(1, 3, IMAGE_SIZE, IMAGE_SIZE)
    kept = []
    for trunk.checkpointed_blocks in range(len(trunk.blocks) + 1):
        kept.append(kept_bytes(trunk, image))
    assert kept == sorted(kept, reverse=True) and kept[-1] < kept[0] / 4


def test_attention_holds_no_matrix_of_all_pairs():
    """In bf16, as in training, a global block of 576 tokens keeps far less than its 4 heads' 576 x 576 matrices."""
    _, trunk = package_and_ours()
    block = trunk.blocks[SAM3_TINY["global_att_blocks"][0]]
    largest = 0

    def note(tensor):
        nonlocal largest
        largest = max(largest, tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        block.attn(torch.rand(1, 24, 24, SAM3_TINY["embed_dim"], requires_grad=True))
    assert 0 < largest < 576 * 576


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32" or not shutil.which("g++"), reason="compiling for a CPU needs g++")
def test_compiled_blocks_give_the_same_features():
    torch.manual_seed(0)
    plain = build_vision_backbone(image_size=IMAGE_SIZE, **SAM3_TINY).trunk.train()
    compiled = copy.deepcopy(plain)
    compiled.compile_blocks()
    compiled.checkpointed_blocks = 2
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    image = torch.rand(1, 3, IMAGE_SIZE, IMAGE_SIZE)
    for one, other in zip(output_and_gradients(plain, image), output_and_gradients(compiled, image), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4 * max(1, one.abs().max().item()))
