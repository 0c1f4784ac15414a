"""open_clip models as encoders: pixels and captions in, unit vectors out.

Owns the arithmetic of one open model: normalisation of pixels, precision of the image tower, tokens and
length of captions. Batching and progress belong to the caller. It owns no randomness, and downloads nothing.

The text tower runs in float32 always: prompts are few, and a zero-shot head must not depend on the
precision at which images were encoded.
"""

import contextlib
import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
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
from pargate.errors import InputError, OperationalError
from pargate.models import tokenizer as tokens
from pargate.models.torch import build as towers
from pargate.models.torch import stamp as on_device

Tokenize = Callable[[Sequence[str]], Tensor]
"""Captions to token ids, int64 [n, context]."""

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

CPU_BYTES = 10 << 20
"""Bound of the largest activation of the images that go through a tower at a time on the CPU: 4 images of RN50 in bf16,
32 of ViT-B-32. More are hardly faster, since they leave the processor's cache, and every activation is memory."""

CAPTIONS = {"cpu": 64, "cuda": 256}
"""Captions at a time: enough to fill a device, and little memory at 77 tokens."""


@dataclass(frozen=True, slots=True)
class OpenClipEncoder:
    """An open_clip model, open on one device. Made by `open_encoder`."""

    spec: EncoderSpec
    _visual: nn.Module
    """The image tower on the device, in the precision asked for."""
    _text: nn.Module
    """The text tower on the device, in float32."""
    _tokenize: Tokenize
    _device: torch.device
    _activation: int
    """Values of the largest activation of one image."""

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
        """The text tower; of a plain CLIP the model itself, its image tower left out."""
        return self._text

    @property
    def tokenize(self) -> Tokenize:
        """Captions to token ids, int64 [n, context]."""
        return self._tokenize

    @property
    def context(self) -> int:
        """Token ids of a caption, padding included."""
        return len(self._tokenize([""])[0])

    def put(self, pixels: Pixels) -> Tensor:
        """Move uint8 [n, H, W, 3], RGB, to the device; H and W are those of `spec.preprocess.size`.

        On the CPU the array itself is used: it must not change while the batch is.

        Raises:
            ValueError: another dtype or shape.
        """
        size = self.spec.preprocess.size
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (*size, 3):
            raise ValueError(f"pixels must be uint8 [n, {size[0]}, {size[1]}, 3], not {pixels.dtype} {pixels.shape}")
        pixels = np.ascontiguousarray(pixels)
        # torch cannot promise to leave a read-only array alone, and warns; a copy is cheaper than an image.
        batch = torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())
        return batch.to(self._device, non_blocking=True)

    def encode_images(self, batch: Tensor, stamp: Stamp | None = None) -> Vectors:
        """float32 [n, d], unit rows, of a batch that `put` gave, with or without a stamp on it.

        Raises:
            OperationalError: memory ran out.
        """
        if not len(batch):
            return np.empty((0, self.spec.dim), dtype=np.float32)
        doing, advice = f"encoding {len(batch)} images at once", "use a smaller batch, or --precision bf16"
        with memory.guard(doing, advice), torch.inference_mode(), towers.exact_arithmetic():
            step = self._at_a_time(len(batch))
            if step < len(batch):
                memory.give_back()  # of a large model: what the last batch fragmented is whole again
            parts = (slice(first, first + step) for first in range(0, len(batch), step))
            return np.concatenate([_unit(self._visual(self._seen(batch, part, stamp))) for part in parts])

    def _seen(self, batch: Tensor, part: slice, stamp: Stamp | None) -> Tensor:
        """Model input of some images of a batch."""
        pixels = batch[part]
        return self._normalised(pixels if stamp is None else on_device.apply(of_images(stamp, part), pixels))

    def _at_a_time(self, count: int) -> int:
        """Images to forward together: all of them, but on the CPU a power of two within `CPU_BYTES`."""
        if self._device.type != "cpu":
            return count
        room = max(1, CPU_BYTES // (self._activation * PRECISIONS[self.spec.precision].itemsize))
        return int(1 << (room.bit_length() - 1))

    def _normalised(self, pixels: Tensor) -> Tensor:
        """Model input [n, 3, H, W] of uint8 [n, H, W, 3], step by step as torchvision's transforms do it."""
        rule = self.spec.preprocess
        mean = torch.tensor(rule.mean, device=pixels.device)
        std = torch.tensor(rule.std, device=pixels.device)
        values = pixels.to(torch.float32).div_(255).sub_(mean).div_(std)
        # Channels stay last in memory, where they are: a view costs nothing, and convolutions prefer it.
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
        """float32 [m, d], unit rows, in the order of `texts`.

        Raises:
            InputError: the tokenizer is of another model.
            OperationalError: memory ran out.
        """
        found = np.empty((len(texts), self.spec.dim), dtype=np.float32)
        if not texts:
            return found
        with tokens.usable(f"of {self.spec.architecture}"):
            ids = self._tokenize(list(texts))
        vocabulary = len(self._text.get_parameter("token_embedding.weight"))
        if int(ids.max()) >= vocabulary:
            raise InputError(
                f"{self.spec.architecture}: its tokenizer gives the token {int(ids.max())}, "
                f"its text tower knows {vocabulary}",
                "the tokenizer and the weights do not belong together",
            )
        lengths = needed(self._text, ids)
        # Captions of like length share a batch, since a batch is as long as its longest.
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
        """The model with its image tower in another precision, converted in place: this encoder can no longer be used.

        Raises:
            OperationalError: memory ran out.
            ValueError: this one is not in float32; what a lower precision left out does not come back.
        """
        if precision == self.spec.precision:
            return self
        if self.spec.precision != "fp32":
            raise ValueError(f"{self.spec.precision} cannot become {precision}")
        advice = "use a device with more memory"
        with memory.guard(f"converting {self.spec.architecture} to {precision}", advice):
            # One weight after the other, so that the tower is never in memory twice.
            self._visual.to(PRECISIONS[precision])
        memory.give_back()
        return replace(self, spec=replace(self.spec, precision=precision))

    def with_activation(self, activation: Activation) -> "OpenClipEncoder":
        """The same weights, shared, read with another activation."""
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
    """Return an encoder as `Model.encoder` does; `load` gives the network, which this encoder then owns."""
    place = resolve(device)
    tokenize = tokenizer(checkpoint)
    model = load()
    scale = float(model.get_parameter("logit_scale").exp())
    if not math.isfinite(scale):
        raise InputError(
            f"{checkpoint.source}: its logit_scale is {scale} once its power is taken", "restore the weights"
        )
    told: Activation = "quick_gelu" if checkpoint.config.get("quick_gelu") else "gelu"
    bias = getattr(model, "logit_bias", None)
    instructions = torch.backends.cpu.get_cpu_capability()
    spec = EncoderSpec(
        backend=f"open_clip {open_clip.__version__}, torch {torch.__version__}, {instructions}",
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
        # Weights in the order of the pixels: a convolution would else reorder them for every batch.
        visual = model.get_submodule("visual").to(place, PRECISIONS[precision])
        visual = visual.to(memory_format=torch.channels_last)
        text = text_tower(model).to(place)
        image = torch.zeros(1, 3, *spec.preprocess.size, device=place, dtype=PRECISIONS[precision])
        largest = towers.largest_activation(visual, image)
    return OpenClipEncoder(spec, visual, text, tokenize, place, largest).with_activation(activation or told)


def text_tower(model: nn.Module) -> nn.Module:
    """The module that embeds captions: `text`, or for plain CLIP the model itself without its image tower."""
    tower = getattr(model, "text", None)
    if isinstance(tower, nn.Module):
        return tower
    kept: dict[int, object] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    visual = model.get_submodule("visual")
    kept[id(visual)] = nn.Identity()
    return copy.deepcopy(model, kept)


# --- devices -----------------------------------------------------------------------------------------


def resolve(device: str) -> torch.device:
    """The torch device of `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        InputError: another word.
        OperationalError: a CUDA device that is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = device.partition(":")
    if device != "cpu" and (kind != "cuda" or (":" in device and not number.isdecimal())):
        raise InputError(f"unknown device '{device}'", "use auto, cpu, cuda or cuda:N")
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
    """Whether image towers run faster in bf16 on `device`, and why: by what it is made of, never by the clock.

    On processors with matrix units (AMX) every tower that was measured gained; with AVX-512 alone each lost, whether
    it has instructions for bf16 or not (docs/measuring.md). Others were not measured, and stay exact.
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
    """The tokenizer that the configuration asks for; Hugging Face's are read from the checkpoint's folder.

    Raises:
        InputError: its files cannot be read.
        OperationalError: `transformers` is needed and not installed.
    """
    text = checkpoint.config["text_cfg"]
    context = checkpoint.context_length
    options = dict(text.get("tokenizer_kwargs") or {})
    if not text.get("hf_tokenizer_name"):
        clean = options.get("clean", "lower")
        # open_clip has one already, of some 25 MB.
        simple: Callable[..., Tensor] = open_clip.tokenize if clean == "lower" else SimpleTokenizer(clean=clean)
        return partial(simple, context_length=context)
    whole = Path(str(checkpoint.folder), tokens.FILES["huggingface"])
    if whole.is_file():
        tokens.refuse_unusable(whole.read_bytes(), str(whole))
    try:
        # Nothing is looked up by name: the folder was inspected, and its files are part of the digest.
        with tokens.usable(f"in {checkpoint.folder}"):
            hugging: Tokenize = HFTokenizer(
                str(checkpoint.folder),
                context_length=context,
                tokenizer_mode=text.get("tokenizer_mode"),
                local_files_only=True,
                trust_remote_code=False,
                **options,
            )
    except ImportError as error:
        raise OperationalError(
            f"{checkpoint.source} uses a Hugging Face tokenizer, which needs the package transformers",
            "pip install transformers",
        ) from error
    return hugging


def needed(tower: nn.Module, tokens: Tensor) -> Tensor:
    """How many tokens of each caption decide its vector: int64 [n].

    In a causal tower that reads its answer at the end of the text, no later token is ever looked at.
    """
    full = torch.full((len(tokens),), tokens.shape[1])
    if getattr(tower, "attn_mask", None) is None or getattr(tower, "cls_emb", None) is not None:
        return full
    # A plain CLIP has its text tower's settings under names of its own.
    plain = hasattr(tower, "text_pool_type")
    match getattr(tower, "text_pool_type" if plain else "pool_type", None):
        case "argmax":
            return tokens.argmax(dim=-1) + 1
        case "eos":
            end = int(getattr(tower, "text_eos_id" if plain else "eos_id"))
            return tokens.eq(end).int().argmax(dim=-1) + 1
    return full


def embed(tower: nn.Module, tokens: Tensor) -> Tensor:
    """[n, d], of any length, of token ids [n, at most the context]: shorter ones are as if padded."""
    length = tokens.shape[1]
    mask, places = getattr(tower, "attn_mask", None), tower.get_parameter("positional_embedding")
    lent: dict[str, Tensor] = {}
    # A class token, where there is one, is put behind the last token: such a tower never runs short.
    if isinstance(mask, Tensor) and length < len(mask) and getattr(tower, "cls_emb", None) is None:
        lent = {"positional_embedding": places[:length], "attn_mask": mask[:length, :length]}
    # A plain CLIP takes captions beside images, and gives back both; a text tower knows nothing else.
    plain = hasattr(tower, "visual")
    given: Any = torch.func.functional_call(tower, lent, () if plain else (tokens,), {"text": tokens} if plain else {})
    if isinstance(given, dict):
        given = given["text_features"]
    elif isinstance(given, tuple):
        given = given[1 if plain else 0]
    return cast(Tensor, given)


def _unit(vectors: Tensor | tuple[Tensor, ...]) -> Vectors:
    """float32 [n, d], unit rows, of a tower's output; some towers give their tokens besides."""
    pooled = vectors[0] if isinstance(vectors, tuple) else vectors
    return np.asarray(functional.normalize(pooled.float(), dim=-1).cpu().numpy())
