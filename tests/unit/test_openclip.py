"""open_clip models as encoders: the same vectors as open_clip's own, and no value that nobody trained."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from pargate.core import stamp as reference
from pargate.core.stamp import Mix
from pargate.errors import InputError, OperationalError
from pargate.models.open import open_model
from pargate.models.torch import build as towers
from pargate.models.torch import encoder as openclip
from pargate.triggers import TRIGGERS

ZOO = Path(__file__).parents[3] / "shared" / "zoo" / "dev"

VISION: dict[str, Any] = {"image_size": 32, "patch_size": 16, "width": 16, "layers": 2, "head_width": 8}
TEXT: dict[str, Any] = {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
RESNET: dict[str, Any] = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8}

MODELS: dict[str, dict[str, Any]] = {
    "clip": {"embed_dim": 8, "vision_cfg": VISION, "text_cfg": TEXT},
    "quick": {"embed_dim": 8, "quick_gelu": True, "vision_cfg": VISION, "text_cfg": TEXT},
    "resnet": {"embed_dim": 8, "vision_cfg": RESNET, "text_cfg": TEXT},
    "custom": {"embed_dim": 8, "custom_text": True, "vision_cfg": VISION, "text_cfg": TEXT},
    "eos": {
        "embed_dim": 8,
        "custom_text": True,
        "vision_cfg": VISION,
        "text_cfg": {**TEXT, "pool_type": "eos", "eos_id": 49407, "proj_bias": True},
    },
    "clip-eos": {"embed_dim": 8, "vision_cfg": VISION, "text_cfg": {**TEXT, "pool_type": "eos", "eos_id": 49407}},
    "last": {
        "embed_dim": 8,
        "custom_text": True,
        "init_logit_bias": -10,
        "vision_cfg": VISION,
        "text_cfg": {**TEXT, "pool_type": "last", "no_causal_mask": True},
    },
    "normed": {"embed_dim": 8, "vision_cfg": {**VISION, "qk_norm": True}, "text_cfg": {**TEXT, "qk_norm": True}},
    "coca": {
        "embed_dim": 8,
        "custom_text": True,
        "vision_cfg": {**VISION, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {"context_length": 24, "width": 16, "heads": 2, "layers": 1},
    },
    "timm": {
        "embed_dim": 8,
        "custom_text": True,
        "vision_cfg": {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear"},
        "text_cfg": TEXT,
    },
}

CAPTIONS = ["a photo of a dog", "a", "", "one two three four", "a very long caption " * 9, "<end_of_text> x"] * 3


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Models this small are slower on several threads, and far slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def torch_model(name: str) -> nn.Module:
    """A random model with every value drawn, those that start at zero or one too."""
    torch.manual_seed(0)
    config = copy.deepcopy(MODELS[name])
    custom = config.pop("custom_text", False)
    kind = open_clip.CLIP if not custom else open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP
    model = kind(**config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim:  # some are left as allocated: open_clip means them to be loaded
                parameter.nan_to_num_(0, 0, 0).clamp_(-1, 1).add_(torch.randn_like(parameter) * 0.1)
        for key, buffer in model.named_buffers():
            if key.endswith(("running_mean", "running_var")):
                buffer.add_(torch.rand_like(buffer))
    return model.eval()


def folder(path: Path, name: str, state: dict[str, Any] | None = None, config: dict[str, Any] | None = None) -> str:
    path.mkdir(exist_ok=True)
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config or MODELS[name]}))
    state = torch_model(name).state_dict() if state is None else state
    save_file({key: value.contiguous().clone() for key, value in state.items()}, path / "open_clip_model.safetensors")
    return str(path)


def opened(path: str, **options: Any) -> openclip.OpenClipEncoder:
    with open_model(path) as checkpoint:
        return checkpoint.encoder(device="cpu", **options)


def pictures(encoder: openclip.OpenClipEncoder, n: int = 5) -> np.ndarray:
    size = encoder.spec.preprocess.size
    return np.random.default_rng(0).integers(0, 256, (n, *size, 3), dtype=np.uint8)


def seen(encoder: openclip.OpenClipEncoder) -> np.ndarray:
    return encoder.encode_images(encoder.put(pictures(encoder)))


def expected_images(model: nn.Module, pixels: np.ndarray) -> np.ndarray:
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN)[:, None, None]
    std = torch.tensor(open_clip.OPENAI_DATASET_STD)[:, None, None]
    batch = ((torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255) - mean) / std
    with torch.no_grad():
        return functional.normalize(model.encode_image(batch), dim=-1).numpy()


def expected_texts(model: nn.Module, texts: list[str]) -> np.ndarray:
    tokens = open_clip.SimpleTokenizer(context_length=TEXT["context_length"])(texts)
    with torch.no_grad():
        return functional.normalize(model.encode_text(tokens), dim=-1).numpy()


# --- the same vectors ---


@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_model_gives_open_clips_own_vectors(tmp_path, name):
    model = torch_model(name)
    encoder = opened(folder(tmp_path, name, model.state_dict()))
    images, texts = seen(encoder), encoder.encode_texts(CAPTIONS)
    for vectors in (images, texts):
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(images, expected_images(model, pictures(encoder)), atol=1e-6)
    np.testing.assert_allclose(texts, expected_texts(model, CAPTIONS), atol=1e-6)
    assert encoder.spec.dim == images.shape[1] == 8
    assert encoder.spec.activation == ("quick_gelu" if name == "quick" else "gelu")
    assert encoder.spec.logit_scale == pytest.approx(model.logit_scale.detach().exp().item())


@pytest.mark.parametrize("name", ["clip", "clip-eos", "custom", "eos"])
def test_short_captions_run_short_and_give_the_vectors_of_full_length(tmp_path, name, monkeypatch):
    encoder = opened(folder(tmp_path, name))
    lengths: list[int] = []
    embed = openclip.embed

    def watched(tower: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
        lengths.append(tokens.shape[1])
        return embed(tower, tokens)

    monkeypatch.setattr(openclip, "embed", watched)
    short = encoder.encode_texts(["a dog", "a"])
    assert lengths == [4]
    monkeypatch.setattr(openclip, "needed", lambda tower, tokens: torch.full((len(tokens),), tokens.shape[1]))
    np.testing.assert_allclose(short, encoder.encode_texts(["a dog", "a"]), atol=1e-6)
    assert lengths == [4, TEXT["context_length"]]


@pytest.mark.parametrize("name", ["last", "coca"])
def test_a_tower_that_looks_at_every_token_runs_in_full(tmp_path, name):
    encoder = opened(folder(tmp_path, name))
    tokens = encoder._tokenize(["a dog"])
    assert openclip.needed(encoder._text, tokens).tolist() == [TEXT["context_length"]]


def test_captions_come_back_in_their_order_however_many(tmp_path, monkeypatch):
    encoder = opened(folder(tmp_path, "clip"))
    texts = [" ".join(["word"] * (i * 7 % 20)) for i in range(23)]
    whole = encoder.encode_texts(texts)
    monkeypatch.setitem(openclip.CAPTIONS, "cpu", 4)
    np.testing.assert_allclose(encoder.encode_texts(texts), whole, atol=1e-6)
    np.testing.assert_allclose(encoder.encode_texts(texts[3:4])[0], whole[3], atol=1e-6)


def test_no_captions_and_no_images_give_no_vectors(tmp_path):
    encoder = opened(folder(tmp_path, "clip"))
    assert encoder.encode_texts([]).shape == (0, 8)
    assert encoder.encode_images(encoder.put(pictures(encoder, 0))).shape == (0, 8)


def test_a_stamped_batch_is_encoded_as_the_stamped_pictures_would_be(tmp_path):
    encoder = opened(folder(tmp_path, "clip"))
    pixels = pictures(encoder)
    stamp = TRIGGERS["blended"]().draw((32, 32), [f"{i:064x}" for i in range(5)], 0)
    batch = encoder.put(pixels)
    stamped = encoder.encode_images(batch, stamp)
    np.testing.assert_array_equal(stamped, encoder.encode_images(encoder.put(reference.apply(stamp, pixels))))
    np.testing.assert_array_equal(encoder.encode_images(batch), expected_images_of(encoder, pixels))


def expected_images_of(encoder: openclip.OpenClipEncoder, pixels: np.ndarray) -> np.ndarray:
    return encoder.encode_images(encoder.put(pixels.copy()))


def test_read_only_pictures_are_taken_and_others_refused(tmp_path):
    encoder = opened(folder(tmp_path, "clip"))
    pixels = pictures(encoder)
    fixed = pixels.copy()
    fixed.flags.writeable = False
    np.testing.assert_array_equal(encoder.encode_images(encoder.put(fixed)), seen(encoder))
    for wrong in (pixels.astype(np.float32), pixels[0], pixels[:, :16], pixels[..., :2]):
        with pytest.raises(ValueError, match="uint8"):
            encoder.put(wrong)


@pytest.mark.parametrize("name", ["vit-clean", "rn-clean"])
def test_the_models_of_the_zoo_give_open_clips_own_vectors(name):
    path = ZOO / name
    if not path.is_dir():
        pytest.skip(f"no model at {path}")
    encoder = opened(str(path))
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{path}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{path}")
    pixels, texts = pictures(encoder, 16), ["a photo of a dog", "x", "", "a dog and a cat " * 10]
    with torch.no_grad():
        batch = torch.stack([transform(Image.fromarray(picture)) for picture in pixels])
        images = model.eval().encode_image(batch, normalize=True).numpy()
        captions = model.encode_text(tokenizer(texts), normalize=True).numpy()
    np.testing.assert_allclose(encoder.encode_images(encoder.put(pixels)), images, atol=1e-6)
    np.testing.assert_allclose(encoder.encode_texts(texts), captions, atol=1e-6)


# --- checkpoints as they come ---


@pytest.mark.parametrize("name", ["clip", "resnet"])
def test_a_half_precision_checkpoint_is_computed_in_float32(tmp_path, name):
    half = {k: v.half() if v.is_floating_point() else v for k, v in torch_model(name).state_dict().items()}
    model = torch_model(name)
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in half.items()})
    encoder = opened(folder(tmp_path, name, half))
    np.testing.assert_allclose(seen(encoder), expected_images(model, pictures(encoder)), atol=1e-6)
    assert {p.dtype for t in (encoder._visual, encoder._text) for p in t.parameters()} == {torch.float32}


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_training_checkpoint_is_unwrapped(tmp_path, prefix, wrapped):
    expected = opened(folder(tmp_path, "clip"))
    (tmp_path / "open_clip_model.safetensors").unlink()
    state = {prefix + key: value for key, value in torch_model("clip").state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3} if wrapped else state, tmp_path / "epoch_3.pt")
    np.testing.assert_array_equal(seen(opened(str(tmp_path))), seen(expected))


def test_tensors_that_start_at_odd_bytes_are_read(tmp_path):
    path = folder(tmp_path, "clip")
    expected = seen(opened(path))
    file = tmp_path / "open_clip_model.safetensors"
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    file.write_bytes((length + 3).to_bytes(8, "little") + content[8 : 8 + length] + b"   " + content[8 + length :])
    np.testing.assert_array_equal(seen(opened(path)), expected)


def test_tensors_that_share_bytes_are_both_read_before_the_bytes_are_given_back(tmp_path):
    model = torch_model("clip")
    blocks = [block.mlp.c_fc for block in model.transformer.resblocks]
    big = torch.randn(1 + blocks[0].weight.numel())
    state = model.state_dict()
    # The second begins within the first: what ends the first must outlive it.
    for number in (0, 1):
        shifted = big[number : number + blocks[0].weight.numel()].view_as(blocks[0].weight)
        state[f"transformer.resblocks.{number}.mlp.c_fc.weight"] = shifted
    path = folder(tmp_path, "clip")
    (tmp_path / "open_clip_model.safetensors").unlink()
    torch.save(state, tmp_path / "model.pt")
    text = opened(path)._text
    for number in (0, 1):
        name = f"transformer.resblocks.{number}.mlp.c_fc.weight"
        torch.testing.assert_close(text.get_parameter(name), state[name], rtol=0, atol=0)


def test_a_checkpoint_can_be_opened_again(tmp_path):
    with open_model(folder(tmp_path, "clip")) as checkpoint:
        first, second = (checkpoint.encoder(device="cpu") for _ in range(2))
    np.testing.assert_array_equal(
        seen(first.into_precision("bf16").into_precision("bf16")), seen(second.into_precision("bf16"))
    )


def test_images_forwarded_a_few_at_a_time_are_stamped_as_if_together(tmp_path, monkeypatch):
    encoder = opened(folder(tmp_path, "clip"))
    pixels = pictures(encoder)
    rng = np.random.default_rng(0)
    offset = rng.integers(-(90 << 16), 90 << 16, (len(pixels), *pixels.shape[1:]), dtype=np.int32)
    stamp = Mix(np.full((1, 1, 1, 1), 1 << 16, np.int32), offset, "clip")
    whole = encoder.encode_images(encoder.put(pixels), stamp)
    monkeypatch.setattr(openclip, "CPU_BYTES", 1)
    np.testing.assert_allclose(encoder.encode_images(encoder.put(pixels), stamp), whole, atol=1e-6)


def test_opening_draws_from_no_random_stream_of_the_process(tmp_path):
    path = folder(tmp_path, "clip")
    state = torch.get_rng_state()
    opened(path)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_missing_batch_count_changes_nothing(tmp_path):
    state = torch_model("resnet").state_dict()
    expected = seen(opened(folder(tmp_path, "resnet", state)))
    counted = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    assert len(counted) < len(state)
    np.testing.assert_array_equal(seen(opened(folder(tmp_path, "resnet", counted))), expected)


def test_a_scale_may_be_a_scalar_or_a_vector_of_one(tmp_path):
    state = torch_model("clip").state_dict()
    scale = opened(folder(tmp_path, "clip", state)).spec.logit_scale
    state["logit_scale"] = state["logit_scale"].reshape(1)
    assert opened(folder(tmp_path, "clip", state)).spec.logit_scale == scale


# --- checkpoints that are refused ---


def refusal(path: str) -> str:
    with pytest.raises(InputError) as caught:
        opened(path)
    assert caught.value.hint
    return caught.value.message


def test_missing_tensors_are_named_and_counted(tmp_path):
    state = {k: v for k, v in torch_model("clip").state_dict().items() if ".resblocks.1." not in k}
    message = refusal(folder(tmp_path, "clip", state))
    assert "lacks tensors" in message
    assert "visual.transformer.resblocks.1.ln_1.weight" in message
    assert "24 in all" in message
    assert "20 more" in message


def test_left_over_tensors_are_named(tmp_path):
    state = {**torch_model("clip").state_dict(), "hidden.weight": torch.ones(3)}
    assert "hidden.weight" in refusal(folder(tmp_path, "clip", state))


def test_a_positional_embedding_of_another_size_is_not_interpolated(tmp_path):
    state = torch_model("clip").state_dict()
    state["positional_embedding"] = state["positional_embedding"][:16]
    message = refusal(folder(tmp_path, "clip", state))
    assert "positional_embedding [16, 16] where the model has [24, 16]" in message


def test_a_missing_logit_bias_is_zero_as_open_clip_makes_it(tmp_path):
    state = torch_model("last").state_dict()
    del state["logit_bias"]
    assert opened(folder(tmp_path, "last", state)).spec.logit_bias == 0.0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("half", [True, False])
def test_a_weight_that_is_not_finite_is_named(tmp_path, value, half):
    state = torch_model("clip").state_dict()
    state["ln_final.bias"] = torch.full((16,), value)[:].contiguous()
    if half:
        state = {k: v.half() for k, v in state.items()}
    message = refusal(folder(tmp_path, "clip", state))
    assert "not finite" in message
    assert "ln_final.bias" in message


def test_a_tensor_twice_under_two_prefixes_is_refused(tmp_path):
    state = torch_model("clip").state_dict()
    state["module.ln_final.bias"] = state["ln_final.bias"] + 1
    assert "ln_final.bias twice" in refusal(folder(tmp_path, "clip", state))


def test_integers_where_weights_should_be_are_refused(tmp_path):
    state = torch_model("clip").state_dict()
    state["ln_final.bias"] = torch.ones(16, dtype=torch.int64)
    assert "ln_final.bias is stored as I64" in refusal(folder(tmp_path, "clip", state))


def test_weights_of_eight_bit_floats_are_refused(tmp_path):
    state = torch_model("clip").state_dict()
    state["ln_final.bias"] = state["ln_final.bias"].to(torch.float8_e4m3fn)
    assert "F8_E4M3" in refusal(folder(tmp_path, "clip", state))


def test_a_configuration_larger_than_its_checkpoint_is_refused_before_it_takes_memory(tmp_path, monkeypatch):
    build, built = towers._build, []

    def noted(checkpoint):
        built.append(build(checkpoint))
        return built[-1]

    monkeypatch.setattr(towers, "_build", noted)
    huge = {**MODELS["clip"], "text_cfg": {**TEXT, "width": 16384, "layers": 40}}
    assert "lacks tensors of the model" in refusal(folder(tmp_path, "clip", config=huge))
    assert {value.device.type for model in built for value in model.parameters()} == {"meta"}


@pytest.mark.parametrize(
    ("section", "change", "named"),
    [
        ("text_cfg", {"hidden_size": 3}, "hidden_size"),
        ("vision_cfg", {"image_sise": 3}, "'image_size'"),
        ("vision_cfg", {"pool_type": "other"}, "AssertionError"),
        ("vision_cfg", {"head_width": 5}, "can build"),
        ("vision_cfg", {"timm_model_name": "no_such_model"}, "can build"),
        ("text_cfg", {"act_kwargs": {"nope": 1}}, "can build"),
    ],
)
def test_a_configuration_that_describes_no_model_is_refused(tmp_path, section, change, named):
    config = {**MODELS["clip"], section: {**MODELS["clip"][section], **change}}
    assert named in refusal(folder(tmp_path, "clip", config=config))


def test_an_unknown_setting_at_the_top_is_refused(tmp_path):
    assert "can build" in refusal(folder(tmp_path, "clip", config={**MODELS["clip"], "colour": 1}))


def test_a_tokenizer_with_more_words_than_the_tower_is_refused(tmp_path):
    config = {**MODELS["clip"], "text_cfg": {**TEXT, "vocab_size": 1000}}
    state = torch_model("clip").state_dict()
    state["token_embedding.weight"] = state["token_embedding.weight"][:1000]
    encoder = opened(folder(tmp_path, "clip", state, config))
    with pytest.raises(InputError, match="49407"):
        encoder.encode_texts(["a"])


# --- siblings ---


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", ["clip", "resnet", "coca", "timm", "normed"])
def test_another_precision_converts_the_image_tower_and_leaves_the_text_alone(tmp_path, name, precision):
    encoder = opened(folder(tmp_path, name))
    vectors, captions = seen(encoder), encoder.encode_texts(CAPTIONS)
    assert encoder.into_precision("fp32") is encoder
    sibling = encoder.into_precision(precision)
    assert sibling.spec.precision == precision
    assert {p.dtype for p in sibling._visual.parameters()} == {openclip.PRECISIONS[precision]}
    assert (seen(sibling) * vectors).sum(axis=1).min() > 0.99
    assert (seen(sibling) != vectors).any()
    np.testing.assert_array_equal(sibling.encode_texts(CAPTIONS), captions)
    with pytest.raises(ValueError, match="cannot become fp32"):
        sibling.into_precision("fp32")
    direct = opened(str(tmp_path), precision=precision)
    np.testing.assert_array_equal(seen(direct), seen(sibling))
    assert direct.spec == sibling.spec


@pytest.mark.parametrize("name", ["clip", "custom", "coca", "timm"])
def test_another_activation_reads_the_same_weights_as_a_model_built_so(tmp_path, name):
    gelu = opened(folder(tmp_path, name))
    quick = opened(folder(tmp_path, name, config={**MODELS[name], "quick_gelu": True}))
    sibling = gelu.with_activation("quick_gelu")
    assert sibling.spec == quick.spec
    np.testing.assert_array_equal(seen(sibling), seen(quick))
    np.testing.assert_array_equal(sibling.encode_texts(CAPTIONS), quick.encode_texts(CAPTIONS))
    assert (sibling.encode_texts(CAPTIONS) != gelu.encode_texts(CAPTIONS)).any()
    np.testing.assert_array_equal(seen(sibling.with_activation("gelu")), seen(gelu))
    for ours, its in ((sibling._visual, gelu._visual), (sibling._text, gelu._text)):
        assert all(a is b for a, b in zip(ours.parameters(), its.parameters(), strict=True)), "weights are shared"
        assert sum(isinstance(m, QuickGELU) for m in its.modules()) == 0
    asked = open_model(str(tmp_path)).encoder(device="cpu", activation="gelu")
    assert asked.spec == gelu.spec


def test_an_activation_that_the_configuration_fixes_is_not_replaced(tmp_path):
    config = {**MODELS["clip"], "text_cfg": {**TEXT, "act_kwargs": {"approximate": "tanh"}}}
    encoder = opened(folder(tmp_path, "clip", config=config))
    with pytest.raises(InputError, match="tanh"):
        encoder.with_activation("quick_gelu")


# --- the machine ---


def test_devices_are_resolved_by_name():
    assert openclip.resolve("cpu") == torch.device("cpu")
    assert openclip.resolve("auto").type in ("cpu", "cuda")
    for word in ("gpu", "cuda:x", "cuda:", "cpu:0", "", "cuda:-1"):
        with pytest.raises(InputError, match="unknown device"):
            openclip.resolve(word)


def test_a_device_that_is_not_there_is_an_operational_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert openclip.resolve("auto") == torch.device("cpu")
    with pytest.raises(OperationalError, match="cuda"):
        openclip.resolve("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert openclip.resolve("cuda:1") == torch.device("cuda:1")
    with pytest.raises(OperationalError, match="there are 2"):
        openclip.resolve("cuda:2")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_running_out_of_memory_says_what_was_done_and_what_to_change(tmp_path, error):
    encoder = opened(folder(tmp_path, "clip"))

    def full(*_: object) -> None:
        raise error

    encoder._visual.forward = full
    with pytest.raises(OperationalError, match="5 images at once") as caught:
        seen(encoder)
    assert "smaller batch" in caught.value.hint


def test_another_error_stays_what_it_is(tmp_path):
    encoder = opened(folder(tmp_path, "clip"))

    def broken(*_: object) -> None:
        raise RuntimeError("something else")

    encoder._visual.forward = broken
    with pytest.raises(RuntimeError, match="something else"):
        seen(encoder)


def test_vectors_do_not_depend_on_what_the_process_has_switched_off(tmp_path):
    encoder = opened(folder(tmp_path, "clip"), precision="bf16")
    expected = seen(encoder)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        np.testing.assert_array_equal(seen(encoder), expected)
        assert not torch.backends.mha.get_fastpath_enabled()
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def test_a_hugging_face_tokenizer_needs_its_package(tmp_path, monkeypatch):
    config = {**MODELS["clip"], "text_cfg": {**TEXT, "hf_tokenizer_name": "a/b"}}
    path = folder(tmp_path, "clip", config=config)
    whole = {"model": {"type": "WordLevel", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"}, "added_tokens": []}
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
    (tmp_path / "config.json").write_text('{"model_type": "bert", "num_labels": 1000000000}')
    given: dict[str, Any] = {}

    def hugging(name: str, **options: Any) -> Any:
        given.update(options, files={file.name: json.loads(file.read_text()) for file in Path(name).iterdir()})
        return open_clip.SimpleTokenizer(context_length=options["context_length"])

    monkeypatch.setattr(openclip, "HFTokenizer", hugging)
    assert opened(path).encode_texts(["a"]).shape == (1, 8)
    assert given["files"] == {"tokenizer.json": whole, "config.json": {"model_type": "bert"}}
    assert given["local_files_only"] is True
    assert given["trust_remote_code"] is False

    def missing(name: str, **options: Any) -> Any:
        raise ModuleNotFoundError("transformers")

    monkeypatch.setattr(openclip, "HFTokenizer", missing)
    with pytest.raises(OperationalError, match="transformers"):
        opened(path)

    def damaged(name: str, **options: Any) -> Any:
        raise ValueError("no tokenizer here")

    monkeypatch.setattr(openclip, "HFTokenizer", damaged)
    with pytest.raises(InputError, match="no tokenizer here"):
        opened(path)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["clip", "resnet", "coca"])
def test_a_gpu_gives_the_vectors_of_the_cpu(tmp_path, name):
    path = folder(tmp_path, name)
    there, here = open_model(path).encoder(device="cuda"), opened(path)
    np.testing.assert_allclose(seen(there), seen(here), atol=1e-4)
    np.testing.assert_allclose(there.encode_texts(CAPTIONS), here.encode_texts(CAPTIONS), atol=1e-4)
    assert (seen(there.into_precision("bf16")) * seen(here)).sum(axis=1).min() > 0.99
