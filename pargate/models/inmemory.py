"""A model that the caller has in memory already, as one that scans take."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.transformer import QuickGELU
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from pargate import memory
from pargate.core.model import Activation, Checkpoint, EncoderSpec, Precision, Preprocess, TensorInfo, Vectors
from pargate.errors import InputError
from pargate.files import digest_of
from pargate.images.decode import fit
from pargate.models import config
from pargate.models.model import Model
from pargate.models.torch.build import largest_activation
from pargate.models.torch.encoder import CAPTIONS, OpenClipEncoder

FORMAT = "memory"
"""What `Checkpoint.format` says of such a model."""

CLOSE = 0.02
"""Largest difference between model inputs that the caller's transform and the rule read from it may make."""

Tokenize = Callable[[Sequence[str]], Tensor]


class _Images(nn.Module):
    """The image half of a model, as one module."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        vectors: Tensor = self.network.encode_image(images)
        return vectors


class NetworkEncoder(OpenClipEncoder):
    """A model with `encode_image` and `encode_text`; it stays where it is, in float32."""

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Return float32 [m, d], unit rows."""
        found = np.empty((len(texts), self.spec.dim), dtype=np.float32)
        encode: Any = getattr(self._text, "encode_text")  # noqa: B009 - nn.Module types it as a tensor
        step = CAPTIONS[self._device.type]
        with memory.guard("encoding captions", "use a device with more memory"), torch.inference_mode():
            for first in range(0, len(texts), step):
                ids = self._tokenize(list(texts[first : first + step])).to(self._device)
                found[first : first + step] = functional.normalize(encode(ids).float(), dim=-1).cpu().numpy()
        return found

    def into_precision(self, precision: Precision) -> "NetworkEncoder":
        """Return this encoder.

        Raises:
            InputError: another precision than float32, which would change the caller's model.
        """
        if precision != "fp32":
            raise InputError(f"a model in memory cannot be scanned in {precision}", "use precision='fp32'")
        return self


@dataclass(slots=True)
class NetworkModel(Model):
    """A `Model` around the caller's network."""

    given: NetworkEncoder | None = None

    def encoder(
        self, *, device: str = "auto", precision: Precision = "fp32", activation: Activation | None = None
    ) -> OpenClipEncoder:
        """Return the encoder; the network stays on its device."""
        assert self.given is not None, "made by `of_network`"
        return self.given.into_precision(precision)


def of_network(network: Any, preprocess: Any = None, tokenizer: Tokenize | None = None) -> NetworkModel:
    """Return a model in memory as one that scans take.

    Args:
        network: an open_clip model, or an object with `encode_image` and `encode_text`, in evaluation mode. One that is
            no torch module has no SHA-256, and its vectors must not be kept.
        preprocess: a transform of open_clip, a mapping such as `open_clip_config.json` has, or a `Preprocess`; of an
            open_clip model its own by default.
        tokenizer: from a list of captions to token ids, int64 [n, context]; open_clip's by default.

    Raises:
        InputError: it has no such methods, is being trained, or nothing says how images are prepared.
    """
    missing = [name for name in ("encode_image", "encode_text") if not callable(getattr(network, name, None))]
    if missing:
        raise InputError(
            f"{type(network).__name__} has no {' and no '.join(missing)}",
            "give the path of a model, an open_clip model, or an object with encode_image and encode_text",
        )
    if getattr(network, "training", False):
        raise InputError("the model is in training mode", "call model.eval() first")
    rule = rule_of(network, preprocess)
    tokenize: Tokenize = tokenizer or _own_tokenizer(network)
    state = network.state_dict() if isinstance(network, nn.Module) else {}
    weights = {name: tensor.detach() for name, tensor in state.items()}
    device = next((tensor.device for tensor in weights.values()), torch.device("cpu"))
    images = _Images(network)
    with torch.inference_mode():
        dim = network.encode_image(torch.zeros(1, 3, *rule.size, device=device)).shape[-1]
    scale = getattr(network, "logit_scale", None)
    bias = getattr(network, "logit_bias", None)
    ids = tokenize(["a photo of a cat."])
    spec = EncoderSpec(
        backend=f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}",
        architecture=type(network).__name__,
        preprocess=rule,
        dim=int(dim),
        logit_scale=float(scale.detach().exp()) if isinstance(scale, Tensor) else 1.0,
        precision="fp32",
        device=str(device),
        activation="quick_gelu" if any(isinstance(m, QuickGELU) for m in images.modules()) else "gelu",
        logit_bias=float(bias) if isinstance(bias, Tensor) else None,
        threads=torch.get_num_threads(),
    )
    largest = largest_activation(images, torch.zeros(1, 3, *rule.size, device=device))
    checkpoint = Checkpoint(
        source=FORMAT,
        weights=FORMAT,
        sha256=_digest(weights) if weights else "",
        config_sha256=digest_of({"preprocess": asdict(rule), "ids": ids.tolist(), "class": type(network).__name__}),
        size_bytes=sum(tensor.nbytes for tensor in weights.values()),
        format=FORMAT,
        architecture=type(network).__name__,
        config={"embed_dim": int(dim), "text_cfg": {"context_length": int(ids.shape[1])}},
        preprocess=rule,
        tensors=tuple(TensorInfo(name, _kind(tensor), tuple(tensor.shape)) for name, tensor in weights.items()),
        preprocess_from="the caller",
    )
    encoder = NetworkEncoder(spec, images, network, tokenize, device, largest)
    return NetworkModel(checkpoint, (), None, True, given=encoder)


def _own_tokenizer(network: Any) -> Tokenize:
    """Return open_clip's tokenizer with the context of the network."""
    length = int(getattr(network, "context_length", 77))
    return lambda texts: open_clip.tokenize(list(texts), context_length=length)


def _digest(weights: Mapping[str, Tensor]) -> str:
    """Return hex SHA-256 over names, types, shapes and bytes of all weights."""
    state = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        state.update(json.dumps([name, _kind(tensor), list(tensor.shape)]).encode())
        state.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


def _kind(tensor: Tensor) -> str:
    """Return a dtype as safetensors calls it, such as F32."""
    bits = 8 * tensor.element_size()
    if tensor.dtype == torch.bfloat16:
        return "BF16"
    return f"F{bits}" if tensor.is_floating_point() else f"I{bits}"


# --- preprocessing -----------------------------------------------------------------------------------


def rule_of(network: Any, given: Any) -> Preprocess:
    """Return the preprocessing that the caller means.

    A transform is not read but tried: mean and deviation follow from a black and a white image, and how it resizes from
    a textured one.

    Raises:
        InputError: there is none, or a transform does more than to resize, crop and normalise.
    """
    if isinstance(given, Preprocess):
        return given
    own = getattr(getattr(network, "visual", None), "preprocess_cfg", None)
    if given is None and isinstance(own, Mapping):
        given = own
    if isinstance(given, Mapping):
        size = given.get("size")
        return config.preprocess({"vision_cfg": {"image_size": size}}, dict(given), "preprocess")
    if not callable(given):
        raise InputError(
            "nothing says how images are prepared for the model",
            "give preprocess: the transform, or a mapping with size, mean and std",
        )
    black, white = (_tried(given, np.full((61, 97, 3), level, np.uint8)) for level in (0, 255))
    height, width = black.shape[1:]
    middle = (slice(None), height // 2, width // 2)
    std = 1 / (white[middle] - black[middle])
    mean = -black[middle] * std
    mean, std = mean.round(6), std.round(6)  # they were float32
    texture = np.random.default_rng(0).integers(0, 256, (61, 97, 3), dtype=np.uint8)
    found = _tried(given, texture)
    channels = [(float(values[0]), float(values[1]), float(values[2])) for values in (mean, std)]
    for resize in ("shortest", "longest", "squash"):
        for interpolation in ("bicubic", "bilinear"):
            rule = Preprocess((height, width), channels[0], channels[1], interpolation, resize)
            ours = (fit(Image.fromarray(texture), rule) / 255 - mean) / std
            if np.abs(ours.transpose(2, 0, 1) - found).max() <= CLOSE:
                return rule
    raise InputError(
        "preprocess does more than to resize, crop and normalise",
        "give a mapping with size, mean, std, interpolation and resize_mode",
    )


def _tried(transform: Callable[[Image.Image], Tensor], pixels: Any) -> Any:
    """Return what a transform makes of an image: float64 [3, H, W].

    Raises:
        InputError: no such array.
    """
    try:
        made = np.asarray(transform(Image.fromarray(pixels)), dtype=np.float64)
    except Exception as error:
        raise InputError(
            f"preprocess cannot be used: {error}", "give a transform from a PIL image to a tensor"
        ) from error
    if made.ndim != 3 or made.shape[0] != 3:
        raise InputError(f"preprocess gives {list(made.shape)}", "give a transform to a tensor [3, height, width]")
    return made
