"""A tower that is asked for one token gives what open_clip's own gives, forward and backward."""

import copy
from typing import Any

import open_clip
import pytest
import torch
from test_attention import VIT, compare, in_order
from torch import nn

from pargate.clean.train import attention
from pargate.models.torch.build import compute_one_token, reactivated

RESNET = {**VIT, "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16}}


@pytest.mark.parametrize(
    "config",
    [VIT, RESNET, {**VIT, "vision_cfg": {**VIT["vision_cfg"], "ls_init_value": 0.1, "no_ln_pre": True}}],  # type: ignore[dict-item]
    ids=["vit", "resnet", "vit with layer scale"],
)
@pytest.mark.parametrize("plain", [False, True])
def test_a_tower_that_is_asked_for_one_token_gives_the_same(config: dict[str, Any], plain: bool) -> None:
    torch.manual_seed(0)
    one = open_clip.CLIP(**config).eval().visual
    randomise_biases(one)
    two = copy.deepcopy(one)
    compute_one_token(two)
    if plain:
        attention.use_plain(two)
    assert sum("forward" in m.__dict__ for m in two.modules()) == (3 if plain and config is not RESNET else 1)
    size = config["vision_cfg"]["image_size"]
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1))
    compare(one, two, lambda tower: tower(images))


def test_the_last_block_gives_one_token_and_its_gradients_under_checkpointing() -> None:
    torch.manual_seed(0)
    one = open_clip.CLIP(**VIT).eval().visual
    two = copy.deepcopy(one)
    compute_one_token(two)
    two.set_grad_checkpointing()
    shapes: list[torch.Size] = []
    two.transformer.register_forward_hook(lambda layer, given, made: shapes.append(made.shape))
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    compare(one, two, lambda tower: tower(images))
    assert shapes == [torch.Size([3, 1, 24])]


@pytest.mark.parametrize(
    "change",
    [{"pool_type": "avg"}, {"attentional_pool": True, "attn_pooler_heads": 2}, {"output_tokens": True},
     {"block_type": "custom", "qk_norm": True}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_towers_that_read_more_than_one_token_are_left_alone(change: dict[str, Any]) -> None:
    visual = open_clip.CLIP(**{**VIT, "vision_cfg": {**VIT["vision_cfg"], **change}}).visual  # type: ignore[dict-item]
    compute_one_token(visual)
    assert not any("forward" in m.__dict__ for m in visual.modules())


@pytest.mark.parametrize("batch_first", [True, False])
def test_a_tower_that_holds_batches_second_is_left_alone(batch_first: bool) -> None:
    visual = in_order(open_clip.CLIP(**VIT).visual, batch_first)
    compute_one_token(visual)
    assert any("forward" in m.__dict__ for m in visual.modules()) == batch_first


def test_a_sibling_with_another_activation_reads_its_own_layers() -> None:
    torch.manual_seed(0)
    plain = open_clip.CLIP(**VIT).eval().visual
    asked = copy.deepcopy(plain)
    compute_one_token(asked)
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        wanted = reactivated(plain, quick=True)(images)
        torch.testing.assert_close(reactivated(asked, quick=True)(images), wanted, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(wanted, plain(images), atol=1e-4)


def randomise_biases(tower: nn.Module) -> None:
    """open_clip begins with zeros, which would hide one that is left out."""
    with torch.no_grad():
        for name, parameter in tower.named_parameters():
            if "bias" in name:
                parameter.normal_()
