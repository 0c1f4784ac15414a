"""What a checkpoint is on disk, and what an encoder promises once it is open."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from pargate.core.choices import GraphPrecision as GraphPrecision
from pargate.core.choices import Precision as Precision
from pargate.core.stamp import Stamp

Activation = Literal["gelu", "quick_gelu"]

CONTEXT_LENGTH = 77
"""Tokens of a caption where a configuration leaves it out (`CLIPTextCfg`)."""

Vectors = NDArray[np.float32]
Pixels = NDArray[np.uint8]


def unit(vectors: Vectors) -> Vectors:
    """Return rows scaled to length 1; a zero row stays zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, 1e-12), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor as the file's header describes it."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How a picture becomes model input, as the model's own configuration says.

    `resize` is one of `shortest` (scale the short side, crop the centre), `longest` (scale the long side,
    pad with `fill`) or `squash` (ignore the aspect ratio).
    """

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    resize: str = "shortest"
    fill: int = 0

    def __str__(self) -> str:
        height, width = self.size
        filled = f", filled with {self.fill}" if self.resize == "longest" else ""
        return f"{height}×{width} px, {self.resize}{filled}, {self.interpolation}, mean {self.mean}, std {self.std}"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model on disk, as inspection saw it: nothing was executed or loaded."""

    source: str
    """What the user named."""
    weights: str
    """Path of the weights file."""
    sha256: str
    """Digest of the weights file."""
    config_sha256: str
    """Digest of the model configuration's canonical JSON."""
    size_bytes: int
    format: str
    """`safetensors`, `torch-zip` or `onnx`."""
    architecture: str
    """Name of the architecture, or a description of the configuration where it has no name."""
    config: dict[str, Any] = field(repr=False)
    """open_clip's `model_cfg`."""
    preprocess: Preprocess
    tensors: tuple[TensorInfo, ...] = field(repr=False)
    activation_known: bool = True
    """False where nothing says whether the weights were trained with QuickGELU."""
    preprocess_from: str = ""
    """What says how pictures are prepared."""
    preprocess_known: bool = True
    """False where nothing says mean and deviation, and open_clip's are taken."""
    folder: str | None = None
    """The folder that also holds tokenizer files, where there is one."""
    custom_ops: bool = False
    """Whether a graph names operators that are not of ONNX's standard set."""

    @property
    def parameters(self) -> int:
        """Number of values over all floating-point tensors."""
        return sum(t.elements for t in self.tensors if t.dtype.startswith(("F", "BF")))

    @property
    def activation(self) -> Activation | None:
        """The activation that the configuration says; None where nothing does."""
        if self.format == "onnx":
            return cast(Activation, self.config["activation"])
        return ("quick_gelu" if self.config.get("quick_gelu") else "gelu") if self.activation_known else None

    @property
    def assumption(self) -> str:
        """What is assumed where nothing says how pictures are normalised, as a sentence."""
        return (
            f"nothing says the mean and deviation that {self.source} was trained with: used are {self.preprocess}, "
            f"from {self.preprocess_from}"
        )

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return int(self.config["dim" if self.format == "onnx" else "embed_dim"])

    @property
    def context_length(self) -> int:
        """Tokens of a caption, padding included."""
        text = self.config["text" if self.format == "onnx" else "text_cfg"]
        return int(text.get("context_length") or CONTEXT_LENGTH)

    @property
    def tokenizer(self) -> str:
        """What makes tokens of captions: open_clip's own, or the name of another."""
        text = self.config["text" if self.format == "onnx" else "text_cfg"]
        return str(text.get("tokenizer") or text.get("hf_tokenizer_name") or "bpe")

    @property
    def batch_norm(self) -> bool:
        """Whether layers normalise by stored statistics, as those of CLIP's ResNets do."""
        return any(t.name.endswith(".running_mean") for t in self.tensors)

    @property
    def digest(self) -> str:
        """Identity of weights and configuration together: the same weights read otherwise differ."""
        return f"{self.sha256[:32]}{self.config_sha256[:32]}"


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """Everything about an open encoder that can change a vector."""

    backend: str
    """Libraries and versions, and what they run on."""
    architecture: str
    preprocess: Preprocess
    dim: int
    """Length of an embedding."""
    logit_scale: float
    precision: Precision | GraphPrecision
    """Arithmetic of the image tower. Text always runs in fp32, but for graphs, where it is that of both."""
    device: str
    activation: Activation
    logit_bias: float | None = None
    """What is added to the scaled cosine, in models that were trained with a sigmoid."""
    threads: int = 1
    """Threads of the processor that one operation may use: they share its sums."""


class Encoder(Protocol):
    """An open model: pixels and texts in, unit vectors out.

    Normalisation, tokenising and stamping happen inside, on the device; batching, caching and progress
    outside. Nothing above `encoders/` can tell one backend from another.
    """

    @property
    def spec(self) -> EncoderSpec:
        """What determines the vectors."""
        ...

    def put(self, pixels: Pixels) -> Any:
        """Move uint8 [n, H, W, 3] to the device once; the handle is passed to `encode_images`."""
        ...

    def encode_images(self, batch: Any, stamp: Stamp | None = None) -> Vectors:
        """float32 [n, d], unit rows, of a batch with or without a stamp on it."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """float32 [m, d], unit rows."""
        ...
