"""A checkpoint on disk, and the interface of an open encoder."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pargate.core.choices import GraphPrecision as GraphPrecision
from pargate.core.choices import Precision as Precision
from pargate.core.stamp import Stamp

Activation = Literal["gelu", "quick_gelu"]

CONTEXT_LENGTH = 77
"""Tokens of a caption if a configuration does not say (`CLIPTextCfg`)."""

Vectors = NDArray[np.float32]
Pixels = NDArray[np.uint8]


def unit(vectors: Vectors) -> Vectors:
    """Return rows scaled to length 1; a zero row stays zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, 1e-12), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor, as the header of the file describes it."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How an image becomes model input, by the model's own configuration.

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
class AdapterFacts:
    """An adapter that is merged into a model as it is loaded."""

    source: str
    """Path of its folder."""
    base: str
    """Name of the model that it is merged into."""
    base_sha256: str
    """Digest of the weights of that model."""
    sha256: str
    """Digest of its weights file."""
    ranks: tuple[int, ...]
    alphas: tuple[float, ...]
    """Different values among the adapted modules."""
    targets: tuple[str, ...]
    """Names of the adapted modules."""
    replaced: tuple[str, ...]
    """Names of tensors of the base that the adapter replaces."""

    def __str__(self) -> str:
        def listed(values: Iterable[object]) -> str:
            return ", ".join(map(str, values))

        kinds = dict.fromkeys(name.rpartition(".")[2] for name in self.targets)
        replaced = f"; tensors of the base replaced: {len(self.replaced)}" if self.replaced else ""
        alphas = listed(f"{alpha:g}" for alpha in self.alphas)
        return (
            f"{self.source}: LoRA of rank {listed(self.ranks)}, alpha {alphas}, modules adapted: "
            f"{len(self.targets)} ({listed(kinds)}){replaced}"
        )


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model on disk, as inspection found it: nothing was executed or loaded."""

    source: str
    """Name that the user gave."""
    weights: str
    """Path of the weights file, or of the folder that holds graphs or two towers."""
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
    """False if no configuration says whether the weights were trained with QuickGELU."""
    preprocess_from: str = ""
    """Source of the preprocessing."""
    preprocess_known: bool = True
    """False if no configuration gives mean and deviation; open_clip's defaults are used then."""
    folder: str | None = None
    """Folder that also holds tokenizer files, if any."""
    custom_ops: bool = False
    """Whether a graph uses operators outside ONNX's standard set."""
    layout: str = "open_clip"
    """Name of the layout in which it was found."""
    notes: tuple[str, ...] = ()
    """Sentences on what was left out, renamed, chosen among several files, or inferred."""
    adapter: AdapterFacts | None = None
    """The adapter that is merged into the weights, if any; the digest of the weights covers both."""
    files: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """SHA-256 of each file that was read, by its absolute path; see `files.recorded`."""

    @property
    def parameters(self) -> int:
        """Number of values over all floating-point tensors."""
        return sum(t.elements for t in self.tensors if t.dtype.startswith(("F", "BF")))

    @property
    def activation(self) -> Activation | None:
        """Activation in the configuration; None if the configuration does not say."""
        if not self.activation_known:
            return None
        if self.format == "onnx":
            return cast(Activation, self.config["activation"])
        return "quick_gelu" if self.config.get("quick_gelu") else "gelu"

    @property
    def assumption(self) -> str:
        """Sentence about the preprocessing that is assumed if no configuration gives it."""
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
        """Name of the tokenizer; `bpe` is open_clip's own."""
        text = self.config["text" if self.format == "onnx" else "text_cfg"]
        return str(text.get("tokenizer") or text.get("hf_tokenizer_name") or "bpe")

    @property
    def batch_norm(self) -> bool:
        """Whether layers normalise by stored statistics, as in CLIP's ResNets."""
        return any(t.name.endswith(".running_mean") for t in self.tensors)

    @property
    def digest(self) -> str:
        """Identity of weights and configuration together: other settings make another model of the same weights."""
        return f"{self.sha256[:32]}{self.config_sha256[:32]}"


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """Everything about an open encoder that can change an embedding."""

    backend: str
    """Libraries and versions, and the hardware they run on."""
    architecture: str
    preprocess: Preprocess
    dim: int
    """Length of an embedding."""
    logit_scale: float
    precision: Precision | GraphPrecision
    """Arithmetic of the image tower; in graphs, of both towers. Otherwise the text tower always runs in fp32."""
    device: str
    activation: Activation
    logit_bias: float | None = None
    """Number added to the scaled cosine, in models trained with a sigmoid loss."""
    threads: int = 1
    """Processor threads that one operation may use: their number decides the order of its sums."""


class Encoder(Protocol):
    """An open model: pixels and texts in, unit vectors out.

    An encoder normalises, tokenises and stamps on the device. Its caller batches, caches and reports progress.
    """

    @property
    def spec(self) -> EncoderSpec:
        """Everything that can change an embedding."""
        ...

    def put(self, pixels: Pixels) -> Any:
        """Move uint8 [n, H, W, 3] to the device, and return the handle that `encode_images` takes."""
        ...

    def encode_images(self, batch: Any, stamp: Stamp | None = None) -> Vectors:
        """Return the embeddings of a batch, with or without a stamp: float32 [n, d], unit rows."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Return the embeddings of texts: float32 [m, d], unit rows."""
        ...


@runtime_checkable
class TokenEncoder(Encoder, Protocol):
    """An encoder that also takes token ids, of CLIP's own vocabulary."""

    @property
    def vocabulary(self) -> int:
        """The number of tokens."""
        ...

    @property
    def tokenize(self) -> Callable[[Sequence[str]], Any]:
        """The function from captions to token ids, integers [n, context]."""
        ...

    def encode_tokens(self, ids: NDArray[np.int64], /) -> Vectors:
        """Return the embeddings of token ids, int64 [m, context]: float32 [m, d], unit rows."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids; a space follows the end of a word."""
        ...
