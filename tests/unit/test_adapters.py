"""Adapters of PEFT on a base: what they compute, how they are named, and what is refused."""

import copy
import json
import math
import mmap
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import adapters
import foreign_layouts as layouts
import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load as tensors_of
from safetensors.torch import save_file
from test_foreign_layouts import compare
from transformers import CLIPModel

from pargate import limits
from pargate.audit.inventory import load
from pargate.cli.app import run
from pargate.core.model import unit
from pargate.errors import InputError, UnsafeCheckpoint
from pargate.models import lora, merging, origins
from pargate.models.adapter_config import settings
from pargate.models.archive import StoredTensor
from pargate.models.merging import Adapter
from pargate.models.open import inspect, open_model
from pargate.models.sources import divided, parts, portable_name
from pargate.policy.resolve import resolve

NAMES = ["vision_model.encoder.layers.0.self_attn.q_proj", "text_model.encoder.layers.1.mlp.fc1"]
"""Modules of the base that most adapters here change."""

MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 64, "layers": 2},
    "text_cfg": {"context_length": 77, "vocab_size": 400, "width": 32, "heads": 2, "layers": 1},
}

Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def clip() -> CLIPModel:
    return layouts.clip_model()


@pytest.fixture(scope="module")
def weights(clip: CLIPModel) -> Weights:
    return dict(clip.state_dict())


@pytest.fixture(scope="module")
def base(clip: CLIPModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of transformers; tests must not change it."""
    return layouts.transformers_folder(clip, tmp_path_factory.mktemp("base"), tokenizer=False)


@pytest.fixture(scope="module")
def ours() -> Weights:
    """Weights of a small open_clip model."""
    torch.manual_seed(1)
    return {name: weight.clone() for name, weight in open_clip.CLIP(**MODEL).state_dict().items()}


@pytest.fixture(scope="module")
def open_base(ours: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of open_clip; tests must not change it."""
    folder = tmp_path_factory.mktemp("open")
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": MODEL, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}})
    )
    save_file(ours, folder / "open_clip_model.safetensors")
    return folder


def adapter(weights: Weights, folder: Path, **changes: Any) -> Path:
    """An adapter of two modules, one of each tower; `changes` are other settings."""
    return adapters.write(folder, adapters.factors(weights, NAMES), target_modules=NAMES, **changes)


def state(source: str) -> Weights:
    with open_model(source) as model:
        return dict(model.network().state_dict())


def expect(source: str, wanted: Weights) -> None:
    """Raise unless a model of open_clip has these weights, to the rounding of one sum."""
    found = state(source)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert (found[name] - value).abs().max() <= 1e-6, name


# --- the sum -----------------------------------------------------------------------------------------


def stored(name: str, values: torch.Tensor, content: bytearray) -> StoredTensor:
    """A tensor at the end of `content`."""
    kind = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64"}[values.dtype]
    made = StoredTensor(name, kind, tuple(values.shape), len(content), tuple(values.stride()))
    content += values.contiguous().view(torch.uint8).numpy().tobytes()
    return made


def mapped(content: bytes | bytearray) -> mmap.mmap:
    memory = mmap.mmap(-1, max(1, len(content)))
    memory[: len(content)] = bytes(content)
    return memory


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_product_is_added_where_the_weight_lies(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "BLOCK", 4)  # two rows at a time
    before, held = bytearray(b"\0" * 6), bytearray()  # unaligned, as a header of any length leaves it
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], dtype=dtype)
    place = stored("w", weight, before)
    rest = stored("other", torch.tensor([7.0]), before)
    a = stored("a", torch.tensor([[1.0, -1.0]]), held)
    b = stored("b", torch.tensor([[1.0], [2.0], [0.25]], dtype=torch.bfloat16), held)
    plan = lora.Plan((lora.Product(place, a, b, "m", 1, 2.0, 2.0, False),), (), ())
    after = Adapter("x", plan, mapped(held)).merge(mapped(before))
    found = torch.frombuffer(bytearray(after[place.offset : rest.offset]), dtype=dtype).reshape(3, 2)
    assert found.tolist() == [[3, 0], [7, 0], [5.5, 5.5]]
    assert after[: place.offset] == bytes(6)
    assert np.frombuffer(after[rest.offset : rest.offset + 4], "<f4") == 7


def test_values_are_rounded_once_and_to_nearest() -> None:
    draw = np.random.default_rng(0)
    values = np.concatenate([draw.normal(size=2000) * 10.0 ** draw.integers(-8, 4, 2000), [0.0, -0.0, 1 + 2**-8]])
    found = merging._values(merging._stored(values, "BF16"), "BF16")
    assert np.array_equal(found, torch.from_numpy(values).float().bfloat16().double().numpy())


@pytest.mark.parametrize(
    ("changes", "scaling"),
    [
        ({}, 8 / 4),
        ({"lora_alpha": 3}, 3 / 4),
        ({"lora_alpha": 1.5}, 1.5 / 4),
        ({"lora_alpha": None}, 8 / 4),  # PEFT's default
        ({"use_rslora": True}, 8 / math.sqrt(4)),
        ({"fan_in_fan_out": True}, 8 / 4),  # PEFT turns it off for linear layers
    ],
)
def test_the_scaling_follows_from_alpha_and_rank(
    changes: dict[str, Any], scaling: float, weights: Weights, clip: CLIPModel, base: Path, tmp_path: Path
) -> None:
    place = adapter(weights, tmp_path / "a", **changes)
    whole = CLIPModel(clip.config)
    whole.load_state_dict(adapters.plus(weights, adapters.factors(weights, NAMES), scaling))
    expect(f"{base}+{place}", state(str(layouts.transformers_folder(whole, tmp_path / "whole", tokenizer=False))))


@pytest.mark.parametrize("pickled", [False, True])
def test_vectors_are_those_of_transformers_with_the_sum(
    pickled: bool, clip: CLIPModel, weights: Weights, base: Path, tmp_path: Path
) -> None:
    layers = ("_proj", "fc1", "fc2", "patch_embedding", "projection")
    names = [name.removesuffix(".weight") for name in weights if name.removesuffix(".weight").endswith(layers)]
    given = adapters.factors(weights, names)
    whole = CLIPModel(clip.config).eval()
    whole.load_state_dict(adapters.plus(weights, given, 2))
    compare(Path(f"{base}+{adapters.write(tmp_path / 'a', given, pickled=pickled)}"), whole)


def test_a_siglip_is_a_base(tmp_path: Path) -> None:
    siglip = layouts.siglip_model(size=35)
    before = dict(siglip.state_dict())
    given = adapters.factors(before, ["vision_model.head.mlp.fc1", "text_model.encoder.layers.0.self_attn.v_proj"])
    place = adapters.write(tmp_path / "a", given, target_modules=list(given))
    source = layouts.siglip_folder(siglip, tmp_path / "base")
    siglip.load_state_dict(adapters.plus(before, given, 2))
    expect(f"{source}+{place}", state(str(layouts.siglip_folder(siglip, tmp_path / "whole"))))


def test_a_shard_and_a_training_checkpoint_are_bases(
    clip: CLIPModel, weights: Weights, ours: Weights, open_base: Path, tmp_path: Path
) -> None:
    place = adapter(weights, tmp_path / "a")
    source = layouts.sharded(clip, tmp_path / "shards")
    expect(
        f"{source}+{place}", state(f"{layouts.transformers_folder(clip, tmp_path / 'one', tokenizer=False)}+{place}")
    )
    given = adapters.factors(ours, ["visual.transformer.resblocks.0.mlp.c_fc"])
    settings = (open_base / "open_clip_config.json").read_bytes()
    wrapped = layouts.beside_config(settings, layouts.training(ours), tmp_path / "training")
    other = adapters.write(tmp_path / "b", given, target_modules=list(given))
    expect(f"{wrapped}#epoch_latest.pt+{other}", adapters.plus(ours, given, 2))


def test_types_of_the_base_stay(clip: CLIPModel, weights: Weights, tmp_path: Path) -> None:
    half = CLIPModel(clip.config).eval()
    half.load_state_dict(weights)
    source = layouts.transformers_folder(half.half(), tmp_path / "base", tokenizer=False)
    place = adapter(weights, tmp_path / "a")
    name = "visual.transformer.resblocks.0.attn.in_proj_weight"
    with open_model(f"{source}+{place}") as model:
        assert {tensor.dtype for tensor in model.checkpoint.tensors} == {"F16"}
        query = model.network().state_dict()[name][:64]
    whole = adapters.plus(half.float().state_dict(), adapters.factors(weights, NAMES), 2)[f"{NAMES[0]}.weight"]
    assert torch.equal(query, whole.half().float())


@pytest.mark.parametrize("word", [0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0x7F7FFFFF])
def test_no_bits_become_a_number_by_rounding(word: int) -> None:
    with np.errstate(all="ignore"):
        values = np.array([word], "<u4").view("<f4").astype(np.float64)
        assert not merging._is_finite(values, merging._stored(values, "BF16"), "BF16")


OURS, THEIRS = "open_clip", "transformers"


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (THEIRS, {"target_modules": ["q_proj", "v_proj", "fc1"], "use_rslora": True}),
        (THEIRS, {"target_modules": "all-linear", "lora_alpha": 3}),
        (THEIRS, {"target_modules": r".*vision_model.*\.(q_proj|fc2)", "fan_in_fan_out": True}),
        (THEIRS, {"target_modules": ["patch_embedding", "q_proj"], "exclude_modules": r"text_model.*"}),
        (THEIRS, {"target_modules": ["q_proj", "fc1"], "layers_to_transform": [0], "layers_pattern": "layers",
                  "rank_pattern": {"fc1": 2}, "alpha_pattern": {r".*layers\.0\.self_attn\.q_proj": 3}}),
        (THEIRS, {"target_modules": ["q_proj"], "modules_to_save": ["visual_projection", "post_layernorm"]}),
        (OURS, {"target_modules": ["attn", "c_fc"], "bias": "all", "rank_pattern": {"resblocks.0.attn": 3}}),
        (OURS, {"target_modules": ["attn", "conv1"], "bias": "lora_only"}),
        (OURS, {"target_modules": ["c_fc"], "modules_to_save": ["ln_final", "conv1"]}),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to True:UserWarning")
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT asks transformers by an old name
def test_adapters_are_those_of_peft(
    kind: str, changes: dict[str, Any], clip: CLIPModel, ours: Weights, base: Path, open_base: Path, tmp_path: Path
) -> None:
    import peft

    network: Any = clip if kind == THEIRS else layouts.ordinary(MODEL, ours)
    torch.manual_seed(2)
    model = peft.get_peft_model(copy.deepcopy(network), peft.LoraConfig(**changes))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += 0.1 * torch.randn_like(weight)
    model.save_pretrained(tmp_path / "a")
    source = f"{base if kind == THEIRS else open_base}+{tmp_path / 'a'}"
    again = peft.PeftModel.from_pretrained(copy.deepcopy(network), tmp_path / "a").eval()
    with open_model(source) as opened, torch.inference_mode():
        pixels = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        ids = torch.randint(1, 399, (8, 77), generator=torch.Generator().manual_seed(0))
        ids[:, 20] = 49407 if kind == THEIRS else 399  # the end of each caption
        run = (again.get_image_features, again.get_text_features) if kind == THEIRS else (
            again.encode_image, again.encode_text
        )  # fmt: skip
        theirs = [unit(getattr(found, "pooler_output", found).numpy()) for found in (run[0](pixels), run[1](ids))]
        found = opened.network()
        assert isinstance(found, open_clip.CLIP)
        mine = [unit(found.encode_image(pixels).numpy()), unit(found.encode_text(ids).numpy())]
    assert all(np.abs(one - other).max() <= 1e-5 for one, other in zip(mine, theirs, strict=True))
    merged = again.merge_and_unload().state_dict()
    state_of = found.state_dict()
    names = origins.split(state_of, opened.checkpoint.config) if kind == THEIRS else state_of
    assert names.keys() == merged.keys()
    assert all((merged[name] - value).abs().max() <= 1e-6 for name, value in names.items())


# --- attention, convolutions, biases, whole modules --------------------------------------------------

ATTENTION = "visual.transformer.resblocks.1.attn"


def of_attention(ours: Weights) -> tuple[adapters.Factors, Weights]:
    """Factors for an attention of torch, as PEFT names them, and the weights that it makes of the base."""
    shapes = {"a.weight": ours[f"{ATTENTION}.in_proj_weight"], "b.weight": ours[f"{ATTENTION}.out_proj.weight"]}
    both = adapters.factors(shapes, ["a", "b"])
    # PEFT adds the second product twice: `MultiheadAttention.merge` and the layer in it both do.
    merged = {
        **ours,
        f"{ATTENTION}.in_proj_weight": ours[f"{ATTENTION}.in_proj_weight"] + 2 * adapters.product(*both["a"]),
        f"{ATTENTION}.out_proj.weight": ours[f"{ATTENTION}.out_proj.weight"] + 4 * adapters.product(*both["b"]),
    }
    return {ATTENTION: both["a"], f"{ATTENTION}.base_layer.out_proj": both["b"]}, merged


def test_an_attention_is_adapted_as_peft_does_it(ours: Weights, open_base: Path, tmp_path: Path) -> None:
    given, merged = of_attention(ours)
    place = adapters.write(tmp_path / "a", given, target_modules=[ATTENTION])
    expect(f"{open_base}+{place}", merged)
    assert lora.OUTPUT_NOTE in inspect(f"{open_base}+{place}").notes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_modules": [ATTENTION], "fan_in_fan_out": True}, "one half of an attention"),
        ({"target_modules": [ATTENTION, "1.attn.out_proj"]}, "and the attention around it"),
        ({"target_modules": ["visual.transformer.resblocks.0.attn"]}, "adapts modules that .* does not name"),
    ],
)
def test_an_attention_that_peft_would_treat_otherwise_is_refused(
    changes: dict[str, Any], message: str, ours: Weights, open_base: Path, tmp_path: Path
) -> None:
    place = adapters.write(tmp_path / "a", of_attention(ours)[0], **changes)
    with pytest.raises(InputError, match=message):
        inspect(f"{open_base}+{place}")


def test_a_weight_that_is_read_past_the_layer_counts_only_if_nothing_is_added(
    ours: Weights, open_base: Path, tmp_path: Path
) -> None:
    name = f"{ATTENTION}.out_proj"
    given = adapters.factors(ours, [name])
    place = adapters.write(tmp_path / "a", given, target_modules=["1.attn.out_proj"])
    with pytest.raises(InputError, match="PEFT ignores this part as it runs, and uses it when it merges"):
        state(f"{open_base}+{place}")
    untrained = {name: (given[name][0], torch.zeros_like(given[name][1]))}
    expect(f"{open_base}+{adapters.write(tmp_path / 'b', untrained, target_modules=['1.attn.out_proj'])}", ours)


def test_convolutions_are_adapted(ours: Weights, open_base: Path, tmp_path: Path) -> None:
    given = adapters.factors(ours, ["visual.conv1"])
    place = adapters.write(tmp_path / "a", given, target_modules=["conv1"])
    merged = adapters.plus(ours, given, 2)
    expect(f"{open_base}+{place}", merged)
    # By its definition: the second convolution of the first, for each input and place.
    a, b = given["visual.conv1"]
    change = torch.nn.functional.conv2d(a.transpose(0, 1), b).transpose(0, 1)
    assert torch.allclose(merged["visual.conv1.weight"], ours["visual.conv1.weight"] + 2 * change, atol=1e-6)


@pytest.mark.parametrize("kind", ["all", "lora_only", "modules_to_save"])
def test_tensors_of_the_base_are_replaced(kind: str, ours: Weights, open_base: Path, tmp_path: Path) -> None:
    name = "visual.transformer.resblocks.0.mlp.c_fc"
    given = adapters.factors(ours, [name])
    found = {
        "all": [key for key in ours if key.endswith(".bias")],
        "lora_only": [f"{name}.bias"],
        "modules_to_save": ["ln_final.weight", "ln_final.bias", "visual.conv1.weight"],
    }[kind]
    new = {key: ours[key] + 1 for key in found}
    # The bias of a module that is wrapped has the wrapper in its name.
    written = {key.replace("c_fc.bias", "c_fc.base_layer.bias") if name in key else key: new[key] for key in new}
    changes: dict[str, Any] = (
        {"modules_to_save": ["ln_final", "conv1"]} if kind == "modules_to_save" else {"bias": kind}
    )
    place = adapters.write(tmp_path / "a", given, written, target_modules=[name], **changes)
    expect(f"{open_base}+{place}", {**adapters.plus(ours, given, 2), **new})
    facts = inspect(f"{open_base}+{place}").adapter
    assert facts is not None and set(facts.replaced) == new.keys()
    for missing in list(written)[:1]:
        rest = {key: value for key, value in written.items() if key != missing}
        other = adapters.write(tmp_path / "b", given, rest, target_modules=[name], **changes)
        with pytest.raises(InputError, match=r"lacks tensors that .* says it replaces"):
            inspect(f"{open_base}+{other}")


# --- names and patterns ------------------------------------------------------------------------------


def planned(weights: Weights, folder: Path, base: Path, **changes: Any) -> dict[str, tuple[int, float]]:
    """The rank and scaling of each module of an adapter in the MLPs of the image tower."""
    names = [name.removesuffix(".weight") for name in weights
             if name.startswith("vision_model.encoder") and name.endswith(("fc1.weight", "fc2.weight"))]  # fmt: skip
    ranks = changes.pop("ranks", {})
    given = {name: adapters.factors(weights, [name], ranks.get(name, 4))[name] for name in changes.pop("only", names)}
    with open_model(f"{base}+{adapters.write(folder, given, **changes)}") as model:
        assert isinstance(model, merging.AdaptedModel) and model.adapter is not None
        return {product.module: (product.rank, product.scaling) for product in model.adapter.plan.products}


LAYER = "vision_model.encoder.layers.{}.mlp.{}"


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"target_modules": r"vision_model\..*\.fc[12]"}, {}),
        ({"target_modules": ["fc1", "fc2"], "exclude_modules": "text_model.*"}, {}),
        ({"target_modules": ["fc1", "fc2"], "exclude_modules": [LAYER.format(0, "fc1")],
          "only": [LAYER.format(0, "fc2"), LAYER.format(1, "fc1"), LAYER.format(1, "fc2")]}, None),
        # A full name needs no layer.
        ({"target_modules": ["mlp.fc1", LAYER.format(0, "fc2")], "layers_to_transform": [1],
          "exclude_modules": "text.*", "only": [LAYER.format(1, "fc1"), LAYER.format(0, "fc2")]}, {}),
        ({"target_modules": ["fc1"], "layers_to_transform": 0, "layers_pattern": "layers", "exclude_modules": "text.*",
          "only": [LAYER.format(0, "fc1")]}, {}),
        # The first pattern that fits decides, and a dot is any letter, as in PEFT.
        ({"target_modules": r"vision.*fc\d", "alpha_pattern": {"fc1": 4, r"layers.1.mlp.fc\d": 2}},
         {LAYER.format(0, "fc1"): (4, 1.0), LAYER.format(1, "fc1"): (4, 1.0), LAYER.format(1, "fc2"): (4, 0.5)}),
        ({"target_modules": r"vision.*fc\d", "rank_pattern": {"1.mlp.fc1": 2}, "ranks": {LAYER.format(1, "fc1"): 2}},
         {LAYER.format(1, "fc1"): (2, 4.0)}),
    ],
)  # fmt: skip
def test_patterns_are_read_as_peft_reads_them(
    changes: dict[str, Any], wanted: dict[str, Any] | None, weights: Weights, base: Path, tmp_path: Path
) -> None:
    if wanted is None:  # the list leaves the text tower in, for which there are no tensors
        with pytest.raises(InputError, match=r"lacks the tensors of modules that .* names .4 in all.: text_model"):
            planned(weights, tmp_path / "a", base, **changes)
        return
    found = planned(weights, tmp_path / "a", base, **changes)
    assert {name: found[name] for name in wanted} == wanted
    assert all(value == (4, 2.0) for name, value in found.items() if name not in wanted)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (r"(\w+\.?)+\.self_attn\.q_proj!", "they take more than 1 seconds"),
        (r"(vision", "missing \\)"),
        (r"(?P<a>x)(?P<a>y)", "redefinition"),
        ("(" * 5000, "recursion|nested|missing|group"),
    ],
)
def test_patterns_from_outside_are_bounded(
    pattern: str, message: str, weights: Weights, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PATTERN_SECONDS", 1)
    place = adapters.write(tmp_path / "a", adapters.factors(weights, NAMES), target_modules=pattern)
    began = time.monotonic()
    with pytest.raises(InputError, match=message):
        inspect(f"{base}+{place}")
    assert time.monotonic() - began < 30


# --- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "LOHA"}, "an adapter of type 'LOHA'"),
        ({"peft_type": None}, "of type None"),
        ({"use_dora": True}, r"sets use_dora \(True\), which pargate does not merge"),
        ({"lora_bias": True}, "sets lora_bias"),
        ({"layer_replication": [[0, 2]]}, r"sets layer_replication \(a list\)"),
        ({"target_parameters": ["visual_projection.weight"]}, "sets target_parameters"),
        ({"trainable_token_indices": [1]}, "sets trainable_token_indices"),
        ({"use_qalora": True}, "sets use_qalora"),
        ({"loftq_config": {"loftq_bits": 4}}, "sets loftq_config"),
        ({"a_setting_to_come": 1}, "sets a_setting_to_come"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights 'pissa_niter_4', for which PEFT changes the base"),
        ({"init_lora_weights": "olora"}, "for which PEFT changes the base first"),
        ({"r": 10**9}, "r: Input should be less than or equal to 4096"),
        ({"r": 0}, "r: Input should be greater"),
        ({"r": True}, "r: Input should be a valid integer"),
        ({"lora_alpha": 1e300}, "lora_alpha: Input should be less"),
        ({"rank_pattern": {"q_proj": 10**9}}, "rank_pattern: Input should be less"),
        ({"bias": "some"}, "bias: Input should be 'none', 'all' or 'lora_only'"),
        ({"target_modules": None}, "target_modules: Field required"),
        ({"target_modules": []}, "adapts modules that .* does not name"),
        ({"target_modules": ["x"] * 2000}, "target_modules: List should have at most 1024"),
        ({"target_modules": [["x"]]}, "target_modules"),
        ({"layers_pattern": ["(a+)+"]}, "layers_pattern: String should match pattern"),
        ({"use_rslora": "yes"}, "use_rslora: Input should be a valid boolean"),
        ({"base_model_name_or_path": ["x"]}, "base_model_name_or_path: Input should be a valid string"),
    ],
)
def test_settings_that_are_not_merged_exactly_are_refused(
    changes: dict[str, Any], message: str, weights: Weights, base: Path, tmp_path: Path
) -> None:
    place = adapters.write(tmp_path / "a", adapters.factors(weights, NAMES), **changes)
    with pytest.raises(InputError, match=message):
        inspect(f"{base}+{place}")


def edited(change: Callable[[Weights], Any]) -> Callable[[Path], None]:
    """A change of the tensors of an adapter."""

    def edit(place: Path) -> None:
        held = tensors_of((place / "adapter_model.safetensors").read_bytes())
        change(held)
        save_file(
            {name: tensor.clone().contiguous() for name, tensor in held.items()}, place / "adapter_model.safetensors"
        )

    return edit


A, B = (f"{adapters.PREFIX}{NAMES[0]}.lora_{letter}.weight" for letter in "AB")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda held: held.pop(A), "holds one factor alone of modules"),
        (lambda held: (held.pop(A), held.pop(B)), "lacks the tensors of modules that .* names"),
        (lambda held: held.update({A: held[A][:2]}), "where rank 4 and the base need"),
        (lambda held: held.update({B: held[B].t()}), "where rank 4 and the base need"),
        (lambda held: held.update({A: held[A].int()}), "is stored as I32"),
        (lambda held: held.update({A.replace("self_attn.", "self_attn.base_layer."): held[A]}), "twice"),
        (lambda held: held.update(other=torch.zeros(2)), "holds other, which is no weight of a LoRA layer"),
        (lambda held: held.update({A.replace("attn.", "attn.base_layer."): held.pop(A)}), "PEFT would ignore"),
        (lambda held: held.update({A.replace("A.weight", "A.default.weight"): held[A]}), "no weight of a LoRA layer"),
        (lambda held: held.update({A.replace("lora_A.weight", "lora_magnitude"): held[A]}), "no weight of a LoRA"),
        (lambda held: held.update({f"{adapters.PREFIX}logit_scale": held[A]}), "have no place in the base"),
    ],
)  # fmt: skip
def test_every_tensor_of_an_adapter_is_used_once(
    change: Callable[[Weights], Any], message: str, weights: Weights, base: Path, tmp_path: Path
) -> None:
    place = adapter(weights, tmp_path / "a")
    edited(change)(place)
    with pytest.raises(InputError, match=message):
        inspect(f"{base}+{place}")


SIGNALLING = np.array([0x7F800001], "<u4").view("<f4")
"""A NaN that numpy warns of when it is converted."""


@pytest.mark.parametrize("number", [math.nan, math.inf, 3e38, SIGNALLING])
def test_what_is_not_finite_is_refused(number: Any, weights: Weights, base: Path, tmp_path: Path) -> None:
    place = adapter(weights, tmp_path / "a")
    edited(lambda held: held[B].copy_(torch.as_tensor(number)))(place)
    with pytest.raises(InputError, match=r"q_proj\.weight is not finite once the adapter is merged"):
        state(f"{base}+{place}")


@pytest.mark.parametrize("target", ["text_model.embeddings.token_embedding", "vision_model.post_layernorm"])
def test_other_layers_are_refused(target: str, weights: Weights, base: Path, tmp_path: Path) -> None:
    a = torch.zeros(4, weights[f"{target}.weight"].shape[-1])
    given = {target: (a, torch.zeros(len(weights[f"{target}.weight"]), 4))}
    place = adapters.write(tmp_path / "a", given, target_modules=[target])
    with pytest.raises(InputError, match="no linear layer, convolution or attention"):
        inspect(f"{base}+{place}")


def test_another_base_is_refused(weights: Weights, base: Path, open_base: Path, tmp_path: Path) -> None:
    place = adapter(weights, tmp_path / "a")
    hint = "give the base that the adapter was trained on, and the adapter as PEFT saved it"
    with pytest.raises(InputError, match=r"adapts modules that .* does not name") as caught:
        inspect(f"{open_base}+{place}")
    assert caught.value.hint == hint
    narrow = layouts.transformers_folder(layouts.clip_model(hidden_size=32), tmp_path / "narrow", False)
    with pytest.raises(InputError, match="where rank 4 and the base need") as caught:
        inspect(f"{narrow}+{place}")
    assert caught.value.hint == hint


def test_bytes_that_two_tensors_share_are_not_changed(ours: Weights, open_base: Path, tmp_path: Path) -> None:
    one, other = (f"visual.transformer.resblocks.{n}.mlp.c_fc" for n in (0, 1))
    settings = (open_base / "open_clip_config.json").read_bytes()
    tied = layouts.beside_config(settings, {**ours, f"{other}.weight": ours[f"{one}.weight"]}, tmp_path / "tied")
    place = adapters.write(tmp_path / "a", adapters.factors(ours, [one]), target_modules=[one])
    with pytest.raises(InputError, match=r"changes bytes that .* share in the base"):
        inspect(f"{tied}+{place}")
    free = adapters.factors(ours, ["visual.conv1"])
    assert inspect(f"{tied}+{adapters.write(tmp_path / 'b', free)}")


class Call:
    """What runs a command when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._place),)


def test_nothing_in_an_adapter_is_executed(weights: Weights, base: Path, tmp_path: Path) -> None:
    place, ran = adapter(weights, tmp_path / "a"), tmp_path / "ran"
    (place / "adapter_model.safetensors").unlink()
    torch.save({"x": Call(ran)}, place / "adapter_model.bin")
    for source in (f"{base}+{place}", str(place)):
        with pytest.raises(UnsafeCheckpoint, match="could run code"):
            inspect(source)
    # Also where the settings are refused first.
    (place / "adapter_config.json").write_text(json.dumps(adapters.settings(use_dora=True)))
    with pytest.raises(UnsafeCheckpoint, match="could run code"):
        inspect(f"{base}+{place}")
    assert run(["inspect", f"{base}+{place}"]) == 1
    assert not ran.exists()


def test_two_files_of_weights_must_agree(weights: Weights, base: Path, tmp_path: Path) -> None:
    place = adapter(weights, tmp_path / "a")
    held = tensors_of((place / "adapter_model.safetensors").read_bytes())
    torch.save(held, place / "adapter_model.bin")
    expect(f"{base}+{place}", state(f"{base}+{adapter(weights, tmp_path / 'b')}"))
    torch.save({**held, A: held[A] + 1}, place / "adapter_model.bin")
    with pytest.raises(UnsafeCheckpoint, match=r"adapter_model\.bin beside .* holds other tensors"):
        inspect(f"{base}+{place}")


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_links_out_of_an_adapter_are_refused(name: str, weights: Weights, base: Path, tmp_path: Path) -> None:
    place = adapter(weights, tmp_path / "a")
    (place / name).rename(tmp_path / name)
    (place / name).symlink_to(tmp_path / name)
    with pytest.raises(InputError, match="is a link out of its folder"):
        inspect(f"{base}+{place}")


def test_an_adapter_beside_the_weights_means_two_models(clip: CLIPModel, weights: Weights, tmp_path: Path) -> None:
    place = layouts.transformers_folder(clip, tmp_path / "base", tokenizer=False)
    adapter(weights, place)
    with pytest.raises(UnsafeCheckpoint, match="makes transformers load the base that it names"):
        inspect(str(place))


def test_graphs_are_no_base(weights: Weights, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = inspect(str(base))
    with open_model(str(base)) as model:
        model.checkpoint = replace(found, format="onnx")
        place = adapter(weights, tmp_path / "a")
        with pytest.raises(InputError, match="holds graphs, which no adapter is merged into"):
            merging.adapted(model, place, settings(place / "adapter_config.json"), True)


# --- the name ----------------------------------------------------------------------------------------


def test_paths_may_hold_the_separator(
    weights: Weights, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(base, "my+base")
    adapter(weights, Path("my+lora"))
    found = inspect("my+base+my+lora")
    assert (found.source, found.weights) == ("my+base+my+lora", "my+base/model.safetensors")
    assert divided("my+base+my+lora") == ("my+base", "my+lora")
    assert divided("my+base") is None and divided("x+y") is None and divided("+") is None
    adapter(weights, Path("lora"))  # now `my+base+my` and `lora` are a way too, but no such base exists
    assert divided("my+base+my+lora") == ("my+base", "my+lora")
    shutil.copytree(base, "my+base+my")
    with pytest.raises(InputError, match="in several ways"):
        inspect("my+base+my+lora")
    assert parts("hf-hub:a/b@c+lora") == ["hf-hub:a/b@c", "lora"]
    with pytest.raises(InputError, match="more than 8 adapters"):
        inspect("base" + 5000 * "+lora")
    assert run(["inspect", "my+base+nothing"]) == 2
    assert divided("+lora") is None and run(["inspect", "+lora"]) == 2


def test_adapters_can_be_stacked(weights: Weights, base: Path, tmp_path: Path) -> None:
    one = adapter(weights, tmp_path / "one")
    given = adapters.factors(weights, ["visual_projection", NAMES[0]])
    two = adapters.write(tmp_path / "two", given, target_modules=list(given), lora_alpha=4)
    both = f"{base}+{one}+{two}"
    before, after, last = (state(source) for source in (f"{base}+{one}", both, f"{base}+{two}"))
    start = state(str(base))
    for name, value in after.items():
        assert (value - (before[name] + last[name] - start[name])).abs().max() <= 1e-6
    assert parts(both) == [str(base), str(one), str(two)]
    assert len({inspect(source).digest for source in (f"{base}+{one}", both, f"{base}+{two}", str(base))}) == 4


def test_the_digest_covers_base_adapter_and_settings(
    clip: CLIPModel, weights: Weights, base: Path, tmp_path: Path
) -> None:
    first = adapter(weights, tmp_path / "a")
    moved = {name: weight + 1e-3 for name, weight in weights.items()}
    other = CLIPModel(clip.config)
    other.load_state_dict(moved)
    sources = [
        str(base),
        f"{base}+{first}",
        f"{layouts.transformers_folder(other, tmp_path / 'other', tokenizer=False)}+{first}",
        f"{base}+{adapter(moved, tmp_path / 'b', lora_alpha=9)}",
        f"{base}+{adapter(weights, tmp_path / 'c', use_rslora=True)}",
    ]
    again = adapter(weights, tmp_path / "d", base_model_name_or_path="elsewhere")
    edited(lambda held: held[B].mul_(2))(adapter(weights, tmp_path / "e"))
    digests = [inspect(source).digest for source in [*sources, f"{base}+{tmp_path / 'e'}"]]
    assert len(set(digests)) == len(digests)
    assert inspect(f"{base}+{again}").digest == digests[1]  # the same weights, settings and base
    files = inspect(f"{base}+{first}").files
    read = ("model.safetensors", "config.json", "adapter_model.safetensors", "adapter_config.json")
    assert {Path(path).name for path in files} >= set(read)


def test_an_adapter_may_name_a_local_base(
    weights: Weights, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    place = adapter(weights, tmp_path / "a", base_model_name_or_path=str(base))
    found = inspect(str(place))
    assert (found.source, found.digest) == (f"{base}+{place}", inspect(f"{base}+{place}").digest)
    for name, revision, advice in [
        ("openai/clip-vit-base-patch32", None, f"hf-hub:openai/clip-vit-base-patch32+{place} downloads it"),
        ("openai/clip-vit-base-patch32", "main", f"hf-hub:openai/clip-vit-base-patch32@main+{place} downloads it"),
        (f"//{tmp_path}", None, "BASE+"),  # a network share on Windows
        (f"{base}\0", None, "BASE+"),
        ("x" * 5000, None, "BASE+"),
        (None, None, f"as BASE+{place}"),
    ]:
        adapter(weights, place, base_model_name_or_path=name, revision=revision)
        with pytest.raises(InputError, match="is an adapter of PEFT") as caught:
            inspect(str(place))
        assert advice in caught.value.hint


def test_an_adapter_is_no_base_that_a_file_may_name(weights: Weights, tmp_path: Path) -> None:
    place = adapter(weights, tmp_path / "a", base_model_name_or_path=str(tmp_path / "a"))
    with pytest.raises(InputError, match="which is an adapter or holds one"):
        inspect(str(place))


def test_names_are_resolved_where_they_are_written(
    weights: Weights, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(base, tmp_path / "sub" / "base")
    adapter(weights, tmp_path / "sub" / "lora")
    (tmp_path / "sub" / "models.yaml").write_text(
        "inventory: 1\nmodels:\n- {name: a, model: base+lora, reference: base}\n- {name: b, model: 'hf-hub:o/n+lora'}\n"
    )
    listed = load(tmp_path / "sub" / "models.yaml").models
    sub = tmp_path / "sub"
    assert [item.source for item in listed] == [f"{sub / 'base'}+{sub / 'lora'}", f"hf-hub:o/n+{sub / 'lora'}"]
    (sub / "p.yaml").write_text("pargate: '1'\nname: p\nrules: [{id: c, probe: utility, min: {accuracy: 10%}}]\n")
    assert resolve(str(sub / "p.yaml")).beside("base+lora") == f"{sub / 'base'}+{sub / 'lora'}"
    monkeypatch.chdir(tmp_path)
    assert portable_name(f"sub/base+{sub / 'lora'}") == "sub/base+sub/lora"


# --- through the commands ----------------------------------------------------------------------------


def test_inspect_shows_base_and_adapter(
    weights: Weights, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = adapter(weights, tmp_path / "a")
    assert run(["inspect", f"{base}+{place}", "-o", "json"]) == 0
    told = capsys.readouterr()
    facts = json.loads(told.out)["adapter"]
    assert (facts["base"], facts["ranks"], facts["alphas"]) == (str(base), [4], [8.0])
    assert sorted(facts["targets"]) == sorted(NAMES)
    found = inspect(f"{base}+{place}")
    assert str(found.adapter) == f"{place}: LoRA of rank 4, alpha 8, modules adapted: 2 (fc1, q_proj)"
    assert json.loads(told.out)["adapter"] == json.loads(json.dumps(asdict(found)["adapter"]))


def test_a_merged_model_is_written_in_the_layout_of_its_base(
    clip: CLIPModel, weights: Weights, base: Path, tmp_path: Path
) -> None:
    source = f"{base}+{adapter(weights, tmp_path / 'a')}"
    (tmp_path / "keep").mkdir()
    with open_model(source) as model:
        model.save(tmp_path / "keep", layout="keep")
        model.release()
        again = model.network().state_dict()  # base and adapter are read and merged once more
        assert all(torch.equal(value, again[name]) for name, value in state(source).items())
    theirs = CLIPModel.from_pretrained(tmp_path / "keep").state_dict()
    wanted = adapters.plus(weights, adapters.factors(weights, NAMES), 2)
    assert all((theirs[name] - value).abs().max() <= 1e-6 for name, value in wanted.items())


def test_an_adapter_that_changed_is_not_merged_unseen(clip: CLIPModel, weights: Weights, tmp_path: Path) -> None:
    source = layouts.transformers_folder(clip, tmp_path / "base", tokenizer=False)
    place = adapter(weights, tmp_path / "a")
    with open_model(f"{source}+{place}") as model:
        wanted = model.network().state_dict()
        edited(lambda held: held[B].mul_(9))(place)  # the bytes that were checked are the ones that count
        model.release()
        assert all(torch.equal(value, wanted[name]) for name, value in model.network().state_dict().items())
        model.release()
        (source / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes()[:-4] + b"\0\0\0\0")
        with pytest.raises(InputError, match="changed while pargate ran"):
            model.network()
    with pytest.raises(RuntimeError, match="bytes were not kept"):
        model.take()
