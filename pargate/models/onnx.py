"""Run graphs as encoders with ONNX Runtime, without torch.

numpy stamps and normalises the pixels; tests hold the torch encoder to the same bits. ONNX Runtime silently falls back
to the CPU if a GPU's libraries are missing, so the provider that really runs is read from the session and reported.
"""

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from pargate.core import stamp as reference
from pargate.core.model import EncoderSpec, Pixels, Precision, Vectors, unit
from pargate.core.stamp import Stamp, of_images
from pargate.errors import InputError, OperationalError, is_out_of_memory, nearest
from pargate.models import tokenizer as tokens
from pargate.models import trial
from pargate.models.graphs import Description, Ends, Graph, GraphFolder, Kind

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
"""Names of the execution providers in ONNX Runtime."""

CPU_PIXELS = 64 * 224 * 224
"""Largest number of pixels in one batch on the CPU: 64 images of 224 px, fewer of larger ones."""

AT_A_TIME = {"cpu": 64, "cuda": 256, "tensorrt": 256}
"""Largest number of images or captions in one batch."""

SILENT = 4
"""Log level at which ONNX Runtime prints fatal errors only."""

WARNINGS = 2
"""Default log level of ONNX Runtime."""


@dataclass(frozen=True, slots=True)
class OnnxEncoder:
    """Two graphs, open on one device; made by `open_encoder`."""

    spec: EncoderSpec
    provider: str
    """Provider that runs the graphs: `cpu`, `cuda` or `tensorrt`."""
    note: str
    """Note on a provider that could not run, or empty."""
    _image: "_Tower"
    _text: "_Tower"
    _tokenize: tokens.Tokenize

    def put(self, pixels: Pixels) -> Pixels:
        """Return the batch of uint8 [n, H, W, 3] RGB pixels; H and W are those of `spec.preprocess.size`.

        The array must not change while the batch is used.

        Raises:
            ValueError: another dtype or shape.
        """
        size = self.spec.preprocess.size
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (*size, 3):
            raise ValueError(f"pixels must be uint8 [n, {size[0]}, {size[1]}, 3], not {pixels.dtype} {pixels.shape}")
        return pixels

    def encode_images(self, batch: Pixels, stamp: Stamp | None = None) -> Vectors:
        """Return the unit vectors of a batch from `put`, with or without a stamp: float32 [n, d].

        Raises:
            OperationalError: memory ran out.
        """
        found = np.empty((len(batch), self.spec.dim), dtype=np.float32)
        step = self._images_at_a_time()
        for first in range(0, len(batch), step):
            part = slice(first, first + step)
            pixels = batch[part] if stamp is None else reference.apply(of_images(stamp, part), batch[part])
            found[part] = _run(self._image, normalised(pixels, self.spec))
        return unit(found)

    def _images_at_a_time(self) -> int:
        if self._image.ends.single:
            return 1
        most = AT_A_TIME[self.provider]
        height, width = self.spec.preprocess.size
        return most if self.provider != "cpu" else max(1, min(most, CPU_PIXELS // (height * width)))

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Return the unit vectors of texts, in their order: float32 [m, d].

        Raises:
            InputError: the tokenizer belongs to another model.
            OperationalError: memory ran out.
        """
        return self.encode_tokens(self._tokenize(list(texts)))

    def encode_tokens(self, ids: tokens.Tokens) -> Vectors:
        """Return the unit vectors of token ids, int64 [m, context]: float32 [m, d]."""
        found = np.empty((len(ids), self.spec.dim), dtype=np.float32)
        step = 1 if self._text.ends.single else AT_A_TIME[self.provider]
        for first in range(0, len(ids), step):
            found[first : first + step] = _run(self._text, ids[first : first + step])
        # Equal tokens must give equal vectors, although 8-bit arithmetic depends on the rest of the batch.
        _, earliest, same = np.unique(ids, axis=0, return_index=True, return_inverse=True)
        return unit(found)[earliest[same.reshape(-1)]]

    def tokenize(self, texts: Sequence[str]) -> tokens.Tokens:
        """Return the token ids of captions: int64 [m, context]."""
        return self._tokenize(texts)

    @property
    def vocabulary(self) -> int:
        """The number of tokens of CLIP's own vocabulary."""
        return tokens.VOCABULARY

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids of CLIP's own vocabulary; a space follows the end of a word."""
        assert isinstance(self._tokenize, tokens.BytePairs), "only its own vocabulary is decoded"
        return self._tokenize.decode(ids)

    def into_precision(self, precision: Precision) -> "OnnxEncoder":
        """Return this encoder, since graphs have one precision.

        Raises:
            InputError: `precision` is another one.
        """
        if precision != self.spec.precision:
            raise InputError(
                f"the graphs are in {self.spec.precision}, and cannot run in {precision}",
                "leave --precision out, or export the model again with it",
            )
        return self


@dataclass(frozen=True, slots=True)
class _Tower:
    """A graph that is open."""

    kind: Kind
    session: Any
    ends: Ends


def normalised(pixels: Pixels, spec: EncoderSpec) -> NDArray[np.float32]:
    """Return the graph input [n, 3, H, W] of uint8 [n, H, W, 3], bit for bit the input of the torch encoder's tower."""
    values = pixels.astype(np.float32)
    values /= np.float32(255)
    values -= np.array(spec.preprocess.mean, dtype=np.float32)
    values /= np.array(spec.preprocess.std, dtype=np.float32)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))


def open_encoder(folder: GraphFolder, *, device: str = "auto", threads: int = 0) -> OnnxEncoder:
    """Open the encoder of a folder of graphs on `device`: `auto`, `cpu`, `cuda[:N]` or `tensorrt[:N]`.

    `auto` uses CUDA where it runs. `threads` is the number of CPU threads; 0 leaves it to ONNX Runtime.

    Raises:
        InputError: an unknown device, or graphs that ONNX Runtime refuses.
        OperationalError: no such device, or out of memory.
    """
    kind, number = _device(device)
    description = folder.description
    tokenize = tokens.tokenizer(description.text, folder.tokenizer, tokens.FILES[description.text.tokenizer])
    level = "ORT_ENABLE_EXTENDED" if description.precision == "fp16" else "ORT_ENABLE_ALL"
    for graph in folder.graphs.values():
        where, data = f"{folder.checkpoint.weights}/{graph.file}", (graph.data_file, graph.data or b"")
        trial.refuse_endless(where, folder.checkpoint.digest, graph.content, data, level, _tried(graph, description))
    image, text = (
        _Tower(name, _session(folder, graph, kind, number, threads), graph.ends)
        for name, graph in folder.graphs.items()
    )
    provider = _runs(image.session, text.session)
    wanted = "cuda" if kind == "auto" else kind
    if kind != "auto" and provider != kind:
        raise OperationalError(
            f"device '{device}' was asked for, but ONNX Runtime fell back from {PROVIDERS[kind]} to "
            f"{PROVIDERS[provider]}",
            "check that its version, the driver and CUDA fit together, or use --device cpu",
        )
    note = f"{PROVIDERS[wanted]} fell back to {PROVIDERS[provider]}" if _fell_back(kind, provider) else ""
    spec = EncoderSpec(
        backend=f"onnxruntime {onnxruntime.__version__}, {PROVIDERS[provider]}",
        architecture=description.architecture,
        preprocess=folder.checkpoint.preprocess,
        dim=description.dim,
        logit_scale=description.logit_scale,
        precision=description.precision,
        device="cpu" if provider == "cpu" else f"{provider}:{number}",
        activation=description.activation,
        logit_bias=description.logit_bias,
        threads=threads,
    )
    return OnnxEncoder(spec, provider, note, image, text, tokenize)


def _tried(graph: Graph, description: Description) -> trial.Run:
    """Return what a graph is tried on."""
    ends, context = graph.ends, description.text.context_length
    shape = (3, *description.image.size) if ends.dtype.startswith("float") else (context,)
    inputs = ((ends.given, ends.dtype, shape), *([(ends.mask, ends.mask_dtype, (context,))] if ends.mask else []))
    return trial.Run(inputs, ends.wanted, description.dim, (1,) if ends.single else (1, 2))


def _device(device: str) -> tuple[str, int]:
    """Return the provider, or `auto`, and the number of the GPU."""
    kind, colon, number = device.partition(":")
    if kind not in ("auto", *PROVIDERS) or (colon and (kind in ("auto", "cpu") or not number.isdecimal())):
        known = ["auto", "cpu", "cuda", "tensorrt"]
        raise InputError(
            f"unknown device '{device}'.{nearest(device, known)}", "use auto, cpu, cuda, cuda:N, tensorrt or tensorrt:N"
        )
    return kind, int(number or 0)


def _fell_back(kind: str, provider: str) -> bool:
    """Return whether `auto` ended on the CPU although the runtime was built for CUDA."""
    return kind == "auto" and provider == "cpu" and PROVIDERS["cuda"] in onnxruntime.get_available_providers()


def _session(folder: GraphFolder, graph: Graph, provider: str, number: int, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    # Every setting that affects the order of additions is fixed, so that a second run gives the same bits.
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    level = onnxruntime.GraphOptimizationLevel
    # The last level only rearranges convolutions for the CPU, and aborts the process on some fp16 graphs (1.31).
    half = folder.description.precision == "fp16"
    options.graph_optimization_level = level.ORT_ENABLE_EXTENDED if half else level.ORT_ENABLE_ALL
    options.log_severity_level = SILENT
    # Spinning threads would take the CPU from the workers that decode images.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if graph.data is not None:
        content = bytes(graph.data)
        options.add_external_initializers_from_files_in_memory([graph.data_file], [content], [len(content)])
    try:
        with _quietly(provider):
            return onnxruntime.InferenceSession(graph.content, options, providers=_providers(provider, number))
    except Exception as error:  # the runtime's exceptions have no common base
        if is_out_of_memory(error):
            raise OperationalError(f"out of memory while opening {graph.file}", "use a larger machine") from error
        raise InputError(
            f"ONNX Runtime cannot open {folder.checkpoint.weights}/{graph.file}: {_line(error)}",
            "export the model again",
        ) from error


def _providers(provider: str, number: int) -> list[Any]:
    """Return the providers to try, best first, without TensorFloat-32 and without kernels chosen by timing."""
    available = onnxruntime.get_available_providers()
    gpu = {"device_id": number}
    tried: list[Any] = []
    if provider == "tensorrt" and PROVIDERS["tensorrt"] in available:
        tried.append((PROVIDERS["tensorrt"], {**gpu, "trt_fp16_enable": False}))
    if provider != "cpu" and PROVIDERS["cuda"] in available:
        tried.append((PROVIDERS["cuda"], {**gpu, "use_tf32": 0, "cudnn_conv_algo_search": "HEURISTIC"}))
    return [*tried, PROVIDERS["cpu"]]


def _runs(*sessions: Any) -> str:
    """Return the provider that really runs all sessions: the first that each lists."""
    firsts = [session.get_providers()[0] for session in sessions]
    names = {name: kind for kind, name in PROVIDERS.items()}
    found = {names.get(first, "cpu") for first in firsts}
    return found.pop() if len(found) == 1 else "cpu"


@contextlib.contextmanager
def _quietly(provider: str) -> Iterator[None]:
    """Load a GPU's libraries from torch's or NVIDIA's packages, and silence the runtime."""
    onnxruntime.set_default_logger_severity(SILENT)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints there which libraries it lacks
            if provider != "cpu" and PROVIDERS["cuda"] in onnxruntime.get_available_providers():
                onnxruntime.preload_dlls()
            yield
    finally:
        onnxruntime.set_default_logger_severity(WARNINGS)


def _run(tower: _Tower, values: NDArray[Any]) -> Vectors:
    kind, ends = tower.kind, tower.ends
    feeds = {ends.given: values.astype(ends.dtype, copy=False)}
    if ends.mask:
        # As transformers does: the tokens up to the end of a caption, which has the largest id.
        last = values.argmax(axis=1)[:, None]
        feeds[ends.mask] = (np.arange(values.shape[1]) <= last).astype(ends.mask_dtype)
    try:
        return np.asarray(tower.session.run([ends.wanted], feeds)[0], dtype=np.float32)
    except Exception as error:  # as above
        if is_out_of_memory(error):
            raise OperationalError(
                f"out of memory while encoding {len(values)} {kind}s", "use a larger machine"
            ) from error
        if kind == "text":
            raise InputError(
                f"the text graph refuses its tokens: {_line(error)}",
                "the tokenizer and the graphs do not belong together",
            ) from error
        raise InputError(f"the image graph cannot run: {_line(error)}", "export the model again") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def accelerators() -> list[str]:
    """Return the GPU providers that ONNX Runtime was built with; they may still fail to start."""
    return [kind for kind in ("cuda", "tensorrt") if PROVIDERS[kind] in onnxruntime.get_available_providers()]
