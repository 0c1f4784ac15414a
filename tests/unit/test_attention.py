"""Plain matrix products give what torch's own attention gives, forward and backward."""

import copy
from collections.abc import Callable
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor, nn

from pargate.clean.train import attention
from pargate.clean.train.towers import Towers
from pargate.models.torch import encoder as openclip

VIT = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "layers": 2, "width": 24, "head_width": 12},
    "text_cfg": {"context_length": 10, "vocab_size": 100, "width": 16, "heads": 2, "layers": 2},
}


def twins(module: nn.Module) -> tuple[nn.Module, nn.Module]:
    """A module, and its copy with plain attention."""
    plain = copy.deepcopy(module)
    attention.use_plain(plain)
    return module, plain


def compare(one: nn.Module, two: nn.Module, call: Callable[[nn.Module], Tensor]) -> None:
    """Same output, same gradients on every parameter that takes part."""
    outputs = [call(module) for module in (one, two)]
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-5)
    wanted = torch.randn(outputs[0].shape, generator=torch.Generator().manual_seed(9))
    for output in outputs:
        output.backward(wanted)
    compared = 0
    for (name, a), b in zip(one.named_parameters(), two.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None and b.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, atol=2e-5, rtol=1e-4, msg=name)
            compared += 1
    assert compared >= 4


def layer(batch_first: bool, heads: int = 4) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    made = nn.MultiheadAttention(16, heads, batch_first=batch_first).eval()
    nn.init.normal_(made.in_proj_bias)
    nn.init.normal_(made.out_proj.bias)
    return made


def causal(length: int) -> Tensor:
    return torch.full((length, length), -torch.inf).triu(1)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("mask", [None, causal(5), causal(5) == -torch.inf, causal(5).expand(12, 5, 5)])
@pytest.mark.parametrize("heads", [1, 4])
def test_a_layer_gives_what_torch_gives_with_every_kind_of_mask(batch_first: bool, mask: Any, heads: int) -> None:
    n = 12 // heads
    x = torch.randn((n, 5, 16) if batch_first else (5, n, 16), generator=torch.Generator().manual_seed(1))
    compare(*twins(layer(batch_first, heads)), lambda m: m(x, x, x, need_weights=False, attn_mask=mask)[0])


def test_masks_that_differ_by_text_and_head_are_told_apart() -> None:
    x = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(1))
    some = torch.randn(3 * 4, 5, 5, generator=torch.Generator().manual_seed(2))
    compare(*twins(layer(True)), lambda m: m(x, x, x, need_weights=False, attn_mask=some)[0])


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("same", [True, False])
def test_attention_to_something_else_gives_the_same(batch_first: bool, same: bool) -> None:
    x, other, third = torch.randn(2, 5, 16), torch.randn(2, 7, 16), torch.randn(2, 7, 16)
    given = [t if batch_first else t.transpose(0, 1) for t in (x, other, other if same else third)]
    if same:
        given[2] = given[1]
    compare(*twins(layer(batch_first)), lambda m: m(*given, need_weights=False)[0])
    compare(*twins(layer(batch_first)), lambda m: m(*given, need_weights=False, attn_mask=torch.ones(5, 7).tril())[0])


def test_what_else_torch_can_do_still_works() -> None:
    x = torch.randn(2, 5, 16)
    padding = torch.tensor([[False] * 5, [False, False, True, True, True]])
    one, two = twins(layer(True))
    for options in ({}, {"key_padding_mask": padding}, {"need_weights": True, "average_attn_weights": False}):
        for a, b in zip(one(x, x, x, **options), two(x, x, x, **options), strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("batch_first", [True, False])
def test_the_image_tower_of_a_vit_gives_the_same(batch_first: bool) -> None:
    torch.manual_seed(0)
    model = open_clip.CLIP(**VIT).eval()
    one, two = twins(in_order(model.visual, batch_first))
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    compare(one, two, lambda tower: tower(images))


@pytest.mark.parametrize("custom", [False, True])
@pytest.mark.parametrize("length", [10, 6])
def test_the_text_tower_gives_the_same_under_its_mask(custom: bool, length: int) -> None:
    torch.manual_seed(0)
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    model = kind(**VIT).eval()
    tokens = torch.randint(1, 98, (4, length), generator=torch.Generator().manual_seed(1))
    tokens[torch.arange(4), torch.tensor([2, 5, 3, 1])] = 99  # the end, where the answer is read
    one, two = twins(openclip.text_tower(model))
    compare(one, two, lambda tower: openclip.embed(tower, tokens))


def in_order(tower: nn.Module, batch_first: bool) -> nn.Module:
    """An image tower that holds batches first, or second as checkpoints of early days do."""
    transformer = tower.get_submodule("transformer")
    transformer.batch_first = batch_first  # type: ignore[assignment]
    for module in tower.modules():
        if isinstance(module, nn.MultiheadAttention):
            module.batch_first = batch_first
    return tower


def test_only_the_towers_given_are_changed() -> None:
    torch.manual_seed(0)
    model = open_clip.CLIP(**VIT).eval()
    names = list(model.state_dict())
    towers = Towers(model.visual, openclip.text_tower(model), openclip.embed)
    before = copy.deepcopy(towers)
    attention.use_plain(towers)
    changed = [m for m in towers.modules() if "forward" in m.__dict__]
    assert len(changed) == 4 and not any("forward" in m.__dict__ for m in before.modules())
    assert list(model.state_dict()) == names
    assert "forward" not in nn.MultiheadAttention(8, 2).__dict__


def test_a_copy_attends_with_its_own_weights() -> None:
    """A copied model must not go on to use the first one's weights through a bound method."""
    _, plain = twins(layer(True))
    copied = copy.deepcopy(plain)
    x = torch.randn(2, 5, 16)
    with torch.no_grad():
        before = plain(x, x, x, need_weights=False)[0]
        for parameter in plain.parameters():
            parameter.zero_()
        assert torch.equal(copied(x, x, x, need_weights=False)[0], before)
