"""Run open_clip models as encoders: pixels and captions in, unit vectors out.

The text tower always runs in float32: prompts are few, and a zero-shot head must not depend on the precision of the
image tower. Nothing is random, and nothing is downloaded.
"""

import contextlib
import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import open_clip
import torch
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from pargate import memory
from pargate.core.model import Activation, Checkpoint, EncoderSpec, Pixels, Precision, Vectors
from pargate.core.stamp import Stamp, of_images
from pargate.errors import InputError, OperationalError, nearest
from pargate.models import tokenizer as tokens
from pargate.models.hugging_face import has_bert, is_siglip
from pargate.models.torch import build as towers
from pargate.models.torch import stamp as on_device
from pargate.models.torch.bert import BertTower, captions
from pargate.models.torch.siglip import Captions

Tokenize = Callable[[Sequence[str]], Tensor]
"""Function from captions to token ids, int64 [n, context]."""

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

CPU_BYTES = 10 << 20
"""Largest activation of one batch on the CPU: 4 images of RN50 in bf16, 32 of ViT-B-32. More are hardly faster, since
they exceed the cache."""

CAPTIONS = {"cpu": 64, "cuda": 256}
"""Number of captions per batch: enough to fill a device, with little memory at 77 tokens."""


@dataclass(frozen=True, slots=True)
class OpenClipEncoder:
    """An open_clip model on one device; made by `open_encoder`."""

    spec: EncoderSpec
    _visual: nn.Module
    """Image tower on the device, in the precision of `spec`."""
    _text: nn.Module
    """Text tower on the device, in float32."""
    _tokenize: Tokenize
    _device: torch.device
    _activation: int
    """Number of values in the largest activation of one image."""

    @property
    def device(self) -> torch.device:
        """The device of the towers."""
        return self._device

    @property
    def visual(self) -> nn.Module:
        """The image tower."""
        return self._visual

    @property
    def text(self) -> nn.Module:
        """The text tower; for a plain CLIP the model itself without its image tower."""
        return self._text

    @property
    def tokenize(self) -> Tokenize:
        """The function from captions to token ids, int64 [n, context]."""
        return self._tokenize

    @property
    def vocabulary(self) -> int:
        """The number of tokens that the text tower knows."""
        return len(self._text.get_parameter("token_embedding.weight"))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids of CLIP's own vocabulary; a space follows the end of a word."""
        return str(open_clip.decode(torch.tensor(ids)))

    @property
    def context(self) -> int:
        """The number of token ids of a caption, with padding."""
        return len(self._tokenize([""])[0])

    def put(self, pixels: Pixels) -> Tensor:
        """Move uint8 [n, H, W, 3], RGB, to the device; H and W are those of `spec.preprocess.size`.

        On the CPU the array itself is used: it must not change while the batch is used.

        Raises:
            ValueError: another dtype or shape.
        """
        size = self.spec.preprocess.size
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (*size, 3):
            raise ValueError(f"pixels must be uint8 [n, {size[0]}, {size[1]}, 3], not {pixels.dtype} {pixels.shape}")
        pixels = np.ascontiguousarray(pixels)
        # torch warns about read-only arrays, since it could write to them.
        batch = torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())
        return batch.to(self._device, non_blocking=True)

    def encode_images(self, batch: Tensor, stamp: Stamp | None = None) -> Vectors:
        """Return the unit vectors of a batch from `put`, with or without a stamp: float32 [n, d].

        Raises:
            OperationalError: memory ran out.
        """
        return self._encoded(batch, stamp, _unit)

    def image_features(self, batch: Tensor) -> Vectors:
        """Return the vectors of a batch from `put` as the image tower gives them, of any norm: float32 [n, d].

        Raises:
            OperationalError: memory ran out.
        """
        return self._encoded(batch, None, _plain)

    def _encoded(self, batch: Tensor, stamp: Stamp | None, finish: "Callable[[_Given], Vectors]") -> Vectors:
        if not len(batch):
            return np.empty((0, self.spec.dim), dtype=np.float32)
        doing, advice = f"encoding {len(batch)} images at once", "use a smaller batch, or --precision bf16"
        with memory.guard(doing, advice), torch.inference_mode(), towers.exact_arithmetic():
            step = self._at_a_time(len(batch))
            if step < len(batch):
                memory.give_back()  # undoes the fragmentation of the last batch, which matters for large models
            parts = (slice(first, first + step) for first in range(0, len(batch), step))
            return np.concatenate([finish(self._visual(self._seen(batch, part, stamp))) for part in parts])

    def _seen(self, batch: Tensor, part: slice, stamp: Stamp | None) -> Tensor:
        """Return the model input of some images of a batch."""
        pixels = batch[part]
        return self._normalised(pixels if stamp is None else on_device.apply(of_images(stamp, part), pixels))

    def _at_a_time(self, count: int) -> int:
        """Return the number of images per forward pass: all, but on the CPU a power of two within `CPU_BYTES`."""
        if self._device.type != "cpu":
            return count
        room = max(1, CPU_BYTES // (self._activation * PRECISIONS[self.spec.precision].itemsize))
        return int(1 << (room.bit_length() - 1))

    def _normalised(self, pixels: Tensor) -> Tensor:
        """Return the model input [n, 3, H, W] of uint8 [n, H, W, 3], by the steps of torchvision's transforms."""
        rule = self.spec.preprocess
        mean = torch.tensor(rule.mean, device=pixels.device)
        std = torch.tensor(rule.std, device=pixels.device)
        values = pixels.to(torch.float32).div_(255).sub_(mean).div_(std)
        # Channels stay last in memory: a view is free, and convolutions are faster.
        return values.permute(0, 3, 1, 2).to(PRECISIONS[self.spec.precision])

    def embed_values(self, values: Tensor) -> Tensor:
        """Return unit vectors, float32 [n, d], of float32 [n, H, W, 3] in [0, 1]; gradients reach `values` alone."""
        rule = self.spec.preprocess
        mean, std = (torch.tensor(numbers, device=values.device) for numbers in (rule.mean, rule.std))
        batch = ((values - mean) / std).permute(0, 3, 1, 2).to(PRECISIONS[self.spec.precision])
        weights = {name: weight.detach() for name, weight in self._visual.named_parameters()}
        # On the CPU the backward pass of the fused attention takes longer than all others together.
        kernel = sdpa_kernel(SDPBackend.MATH) if values.device.type == "cpu" else contextlib.nullcontext()
        with towers.exact_arithmetic(), kernel:
            vectors = torch.func.functional_call(self._visual, weights, (batch,))
        pooled = vectors[0] if isinstance(vectors, tuple) else vectors
        return functional.normalize(pooled.float(), dim=-1)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Return the unit vectors of texts, in their order: float32 [m, d].

        Raises:
            InputError: the tokenizer belongs to another model.
            OperationalError: memory ran out.
        """
        if not texts:
            return np.empty((0, self.spec.dim), dtype=np.float32)
        with tokens.usable(f"of {self.spec.architecture}"):
            ids = self._tokenize(list(texts))
        return self.encode_tokens(ids.numpy())

    def encode_tokens(self, rows_of_ids: tokens.Tokens) -> Vectors:
        """Return the unit vectors of token ids, int64 [m, context]: float32 [m, d].

        Raises:
            InputError: the text tower lacks a token.
            OperationalError: memory ran out.
        """
        ids = torch.from_numpy(rows_of_ids)
        found = np.empty((len(ids), self.spec.dim), dtype=np.float32)
        if int(ids.max()) >= self.vocabulary:
            raise InputError(
                f"{self.spec.architecture}: its tokenizer gives the token {int(ids.max())}, "
                f"its text tower knows {self.vocabulary}",
                "the tokenizer and the weights do not belong together",
            )
        lengths = needed(self._text, ids)
        # Captions of similar length share a batch, since a batch is as long as its longest caption.
        order = torch.argsort(lengths, stable=True)
        at_a_time = CAPTIONS[self._device.type]
        doing, advice = f"encoding {at_a_time} captions at once", "use a device with more memory"
        with memory.guard(doing, advice), torch.inference_mode(), towers.exact_arithmetic():
            for rows in torch.split(order, at_a_time):
                part = ids[rows, : int(lengths[rows].max())].to(self._device)
                found[rows.numpy()] = _unit(embed(self._text, part))
        memory.give_back()
        return found

    def into_precision(self, precision: Precision) -> "OpenClipEncoder":
        """Return the model with its image tower converted in place; this encoder can no longer be used.

        Raises:
            OperationalError: memory ran out.
            ValueError: the tower is not in float32, and conversion would not restore the lost bits.
        """
        if precision == self.spec.precision:
            return self
        if self.spec.precision != "fp32":
            raise ValueError(f"{self.spec.precision} cannot become {precision}")
        advice = "use a device with more memory"
        with memory.guard(f"converting {self.spec.architecture} to {precision}", advice):
            # `nn.Module.to` converts weight by weight, so that the tower is never in memory twice.
            self._visual.to(PRECISIONS[precision])
        memory.give_back()
        return replace(self, spec=replace(self.spec, precision=precision))

    def with_activation(self, activation: Activation) -> "OpenClipEncoder":
        """Return an encoder with the same, shared weights and another activation."""
        if activation == self.spec.activation:
            return self
        quick = activation == "quick_gelu"
        return replace(
            self,
            spec=replace(self.spec, activation=activation),
            _visual=towers.reactivated(self._visual, quick),
            _text=towers.reactivated(self._text, quick),
        )


def open_encoder(
    checkpoint: Checkpoint,
    load: Callable[[], nn.Module],
    *,
    device: str = "auto",
    precision: Precision = "fp32",
    activation: Activation | None = None,
) -> OpenClipEncoder:
    """Return an encoder as `Model.encoder` does; `load` returns the network, which the encoder then owns."""
    place = resolve(device)
    tokenize = tokenizer(checkpoint)
    model = load()
    scale = float(model.get_parameter("logit_scale").exp())
    if not math.isfinite(scale):
        raise InputError(f"{checkpoint.source}: exp(logit_scale) is {scale}", "restore the weights")
    told: Activation = "quick_gelu" if checkpoint.config.get("quick_gelu") else "gelu"
    bias = getattr(model, "logit_bias", None)
    instructions = torch.backends.cpu.get_cpu_capability()
    further = f"transformers {version('transformers')}, " if has_bert(checkpoint.config) else ""
    spec = EncoderSpec(
        backend=f"open_clip {open_clip.__version__}, torch {torch.__version__}, {further}{instructions}",
        architecture=checkpoint.architecture,
        preprocess=checkpoint.preprocess,
        dim=int(checkpoint.config["embed_dim"]),
        logit_scale=scale,
        precision=precision,
        device=_name(place),
        activation=told,
        logit_bias=None if bias is None else float(bias),
        threads=torch.get_num_threads(),
    )
    advice = "use --device cpu, or a device with more memory"
    with memory.guard(f"moving {spec.architecture} to {place}", advice):
        # Weights in the memory order of the pixels: otherwise a convolution reorders them for every batch.
        visual = model.get_submodule("visual").to(place, PRECISIONS[precision])
        visual = visual.to(memory_format=torch.channels_last)
        text = text_tower(model).to(place)
        image = torch.zeros(1, 3, *spec.preprocess.size, device=place, dtype=PRECISIONS[precision])
        largest = towers.largest_activation(visual, image)
    return OpenClipEncoder(spec, visual, text, tokenize, place, largest).with_activation(activation or told)


def text_tower(model: nn.Module) -> nn.Module:
    """Return the module that embeds captions: `text`, or for a plain CLIP the model without its image tower."""
    tower = getattr(model, "text", None)
    if isinstance(tower, nn.Module):
        return tower
    kept: dict[int, object] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    visual = model.get_submodule("visual")
    kept[id(visual)] = nn.Identity()
    return copy.deepcopy(model, kept)


# --- devices -----------------------------------------------------------------------------------------


def resolve(device: str) -> torch.device:
    """Return the torch device of `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        InputError: an unknown device.
        OperationalError: the CUDA device does not exist.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = device.partition(":")
    if device != "cpu" and (kind != "cuda" or (":" in device and not number.isdecimal())):
        raise InputError(
            f"unknown device '{device}'.{nearest(device, ['auto', 'cpu', 'cuda'])}", "use auto, cpu, cuda or cuda:N"
        )
    if kind == "cuda" and not torch.cuda.is_available():
        built = "finds no CUDA device" if torch.version.cuda else "was built without CUDA"
        raise OperationalError(f"device '{device}' was asked for, but torch {built}", "use --device cpu or auto")
    if number and int(number) >= torch.cuda.device_count():
        raise OperationalError(
            f"device '{device}' was asked for, but there are {torch.cuda.device_count()}", "count from cuda:0"
        )
    return torch.device(device)


def _name(device: torch.device) -> str:
    if device.type == "cpu":
        return "cpu"
    return f"{device} ({torch.cuda.get_device_name(device)})"


def bf16_is_faster(device: torch.device) -> tuple[bool, str]:
    """Return whether image towers run faster in bf16 on `device`, and the reason; nothing is timed.

    Every measured tower was faster on CPUs with matrix units (AMX), and slower with AVX-512 alone (docs/measuring.md).
    Other CPUs were not measured and use float32.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        return native, "this GPU computes in it" if native else "this GPU does not compute in bf16"
    if cast(Any, torch.backends.mkldnn).is_available() and torch.cpu.get_capabilities().get("amx_bf16", False):
        return True, "this processor has matrix units for it (AMX)"
    return False, "this processor has no matrix units for bf16 (AMX)"


# --- captions ----------------------------------------------------------------------------------------


def tokenizer(checkpoint: Checkpoint) -> Tokenize:
    """Return the tokenizer that the configuration names; Hugging Face's are read from the checkpoint's folder.

    Raises:
        InputError: the tokenizer's files cannot be read.
        OperationalError: `transformers` is needed and not installed.
    """
    text = checkpoint.config["text_cfg"]
    context = checkpoint.context_length
    options = dict(text.get("tokenizer_kwargs") or {})
    if not text.get("hf_tokenizer_name"):
        clean = options.get("clean", "lower")
        # open_clip keeps one of these, of some 25 MB, already.
        simple: Callable[..., Tensor] = open_clip.tokenize if clean == "lower" else SimpleTokenizer(clean=clean)
        return partial(simple, context_length=context)
    folder = Path(str(checkpoint.folder))
    whole = folder / tokens.FILES["huggingface"]
    if whole.is_file():
        tokens.refuse_unusable(whole.read_bytes(), str(whole))
    try:
        # Read from the inspected folder, never by name; its files are part of the digest.
        with tokens.usable(f"in {folder}"):
            if is_siglip(checkpoint.config):
                return Captions(folder, context)
            if has_bert(checkpoint.config):
                return captions(folder, checkpoint.config)
            with tokens.alone(folder) as place:
                hugging: Tokenize = HFTokenizer(
                    str(place),
                    context_length=context,
                    tokenizer_mode=text.get("tokenizer_mode"),
                    local_files_only=True,
                    trust_remote_code=False,
                    **options,
                )
    except ImportError as error:
        raise OperationalError(
            f"{checkpoint.source} uses a Hugging Face tokenizer, which needs the package transformers",
            "pip install 'pargate[transformers]'",
        ) from error
    return hugging


def needed(tower: nn.Module, tokens: Tensor) -> Tensor:
    """Return the number of tokens of each caption that affect its vector: int64 [n].

    A causal tower that pools at the end of the text ignores later tokens, and a BERT masks padding.
    """
    if isinstance(tower, BertTower):
        return tower.lengths(tokens).clamp(min=1)
    if not pools_at_the_end(tower):
        return torch.full((len(tokens),), tokens.shape[1])
    if _pooling(tower) == "argmax":
        return tokens.argmax(dim=-1) + 1
    # A plain CLIP stores its text tower's settings under other names.
    end = int(getattr(tower, "text_eos_id" if hasattr(tower, "text_pool_type") else "eos_id"))
    return tokens.eq(end).int().argmax(dim=-1) + 1


def pools_at_the_end(tower: nn.Module) -> bool:
    """Return whether a tower is causal and takes the vector of the end token, so that later tokens count nothing."""
    causal = getattr(tower, "attn_mask", None) is not None and getattr(tower, "cls_emb", None) is None
    return causal and _pooling(tower) in ("argmax", "eos")


def _pooling(tower: nn.Module) -> str | None:
    return getattr(tower, "text_pool_type", None) or getattr(tower, "pool_type", None)


def embed(tower: nn.Module, tokens: Tensor, lent: Mapping[str, Tensor] = MappingProxyType({})) -> Tensor:
    """Return the vectors, of any norm, of token ids [n, at most the context]: [n, d]; padding is not needed.

    Weights and buffers in `lent`, by name, stand in for the tower's own.
    """
    length = tokens.shape[1]
    mask = getattr(tower, "attn_mask", None)
    # A tower with a class token puts it behind the last token, so its input is never shortened.
    if not lent and isinstance(mask, Tensor) and length < len(mask) and getattr(tower, "cls_emb", None) is None:
        places = tower.get_parameter("positional_embedding")
        lent = {"positional_embedding": places[:length], "attn_mask": mask[:length, :length]}
    # A plain CLIP takes images and captions and returns vectors of both; a text tower takes captions only.
    plain = hasattr(tower, "visual")
    positional, named = ((), {"text": tokens}) if plain else ((tokens,), {})
    given: Any = torch.func.functional_call(tower, dict(lent), positional, named)
    if isinstance(given, dict):
        given = given["text_features"]
    elif isinstance(given, tuple):
        given = given[1 if plain else 0]
    return cast(Tensor, given)


_Given = Tensor | tuple[Tensor, ...]
"""A tower's output, which may also hold tokens."""


def _pooled(given: _Given) -> Tensor:
    return (given[0] if isinstance(given, tuple) else given).float()


def _plain(given: _Given) -> Vectors:
    """Return the vectors of a tower's output: float32 [n, d]."""
    return np.asarray(_pooled(given).cpu().numpy())


def _unit(given: _Given) -> Vectors:
    """Return the unit vectors of a tower's output: float32 [n, d]."""
    return np.asarray(functional.normalize(_pooled(given), dim=-1).cpu().numpy())
