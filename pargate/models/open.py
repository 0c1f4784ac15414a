"""One door to models: a source is opened once, judged without being loaded, and then used.

Files from outside are hostile. The format follows from the bytes, and the name must promise it; a file is opened
once, read once into memory, digested on the way and judged there, so that the bytes that were judged are the very bytes
that are loaded, whatever happens to the file meanwhile. Nothing is unpickled or evaluated. torch and ONNX Runtime are
imported once an encoder is asked for.
"""

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from mmap import mmap
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pargate.core.model import Activation, Checkpoint, Precision, TensorInfo
from pargate.core.provenance import Subject
from pargate.errors import InputError, UnsafeCheckpoint
from pargate.files import leads_to_hub_blob
from pargate.models import graphs, weights
from pargate.models.archive import StoredTensor
from pargate.models.config import (
    CONFIG_NAME,
    architecture,
    check,
    config_digest,
    differences,
    load_json,
    name_of,
    preprocess,
    says_activation,
    tokenizer_files,
)
from pargate.models.preprocessing import (
    PREPROCESSOR_NAME,
    named,
    of_processor,
    quick_gelu,
    refuse_contradiction,
    undecided,
    ways,
)
from pargate.models.save import changed, save_config
from pargate.models.shapes import plain_names

if TYPE_CHECKING:
    from pargate.models.onnx import OnnxEncoder
    from pargate.models.torch.build import Network
    from pargate.models.torch.encoder import OpenClipEncoder

HUB_PREFIXES = ("hf-hub:", "open_clip:")

WEIGHT_NAMES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
"""The names that open_clip 3.3 prefers in a folder (`_find_checkpoint_in_dir`), in its order."""

FOUND_SUFFIXES = (".safetensors", ".bin", ".pth")
"""Other files of a folder that it takes, the first kind first, each kind by name."""

WEIGHT_SUFFIXES = (*FOUND_SUFFIXES, ".pt", ".ckpt")
"""Files that hold weights; open_clip takes the last two only where they are named."""

TRAINING = (
    "training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.bin", "scheduler.pt", "scaler.pt", "rng_state.pth",
)  # fmt: skip
"""What training loops leave beside weights: no loader takes it for a model."""

DEFAULTS = "the defaults of open_clip"
"""What says how pictures are prepared where nothing else does."""

DIFFERENCES = 4
"""How many contradictions a message names."""


@dataclass(slots=True)
class Model:
    """A checkpoint, opened once: what it is, where its tensors lie, and its bytes until they are used up."""

    checkpoint: Checkpoint
    """The facts: format, digests, architecture, preprocessing, tensors."""
    tensors: tuple[StoredTensor, ...] = field(repr=False)
    _content: mmap | None = field(repr=False)
    _kept: bool = field(repr=False)
    _graphs: graphs.GraphFolder | None = field(repr=False, default=None)
    _network: "Network | None" = field(repr=False, default=None)

    @property
    def dtypes(self) -> dict[str, str]:
        """The dtype of each tensor in the file, by its name in the model."""
        return {name: tensor.dtype for name, tensor in plain_names(self.tensors, self.checkpoint.source).items()}

    def take(self) -> mmap:
        """Return the bytes of the weights file, exactly those that were judged; the caller may change them.

        They are handed over once. Another call reads the file again.

        Raises:
            InputError: another call, and the file is no longer the one that was judged.
            RuntimeError: the model was closed, or opened for inspection only.
        """
        if not self._kept:
            raise RuntimeError("the checkpoint's bytes were not kept")
        content, self._content = self._content, None
        if content is None:
            again = weights.read(Path(self.checkpoint.weights), self.checkpoint.source, keep=True)
            if again.sha256 != self.checkpoint.sha256 or again.content is None:
                raise changed(self.checkpoint.weights)
            content = again.content
        return content

    def network(self) -> "Network":
        """Return the model on the CPU, in float32 and evaluation mode; the caller may change it.

        The one that `save` made is handed over once. Another call fills a new one with the bytes of `take`.

        Raises:
            InputError, OperationalError: as `pargate.models.torch.build.load`.
        """
        from pargate.models.torch.build import load

        network, self._network = self._network, None
        return load(self.checkpoint, self.tensors, self.take) if network is None else network

    def encoder(
        self, *, device: str = "auto", precision: Precision = "fp32", activation: Activation | None = None
    ) -> "OpenClipEncoder":
        """Return the encoder, on `device`: `auto`, `cpu`, `cuda` or `cuda:N`.

        `precision` is that of the image tower. `activation` overrides the configuration, for weights of which nobody
        knows whether they were trained with QuickGELU (`Checkpoint.activation_known`).

        Raises:
            InputError: weights and configuration do not belong together, or the tokenizer is missing.
            OperationalError: no such device, out of memory, or a package is missing.
        """
        from pargate.models.torch import encoder as openclip

        return openclip.open_encoder(
            self.checkpoint, self.network, device=device, precision=precision, activation=activation
        )

    def graph_encoder(self, *, device: str = "auto", threads: int = 0) -> "OnnxEncoder":
        """Return the encoder of a folder of graphs (`Checkpoint.format` is `onnx`), on `device`: also `tensorrt`.

        Precision and activation are those that the graphs were written with. `threads` of the processor for one
        operation, 0 for as many as ONNX Runtime thinks best.

        Raises:
            InputError: an unknown device, or ONNX Runtime refuses the graphs.
            OperationalError: no such device, out of memory, or a package is missing.
        """
        from pargate.models import onnx

        return onnx.open_encoder(self.take_graphs(), device=device, threads=threads)

    def take_graphs(self) -> graphs.GraphFolder:
        """Return the graphs of a folder of graphs, exactly those that were judged.

        Raises:
            RuntimeError: the model was closed, opened for inspection only, or holds no graphs.
        """
        if self._graphs is None:
            raise RuntimeError("the checkpoint's graphs were not kept")
        return self._graphs

    def save(self, folder: Path, trained: "Network | None" = None) -> tuple[Subject, ...]:
        """Write an open_clip folder; return each file with the digest and the size of what was written.

        Nothing of the original's layout stays, in which another loader could find another model. The same tensors
        always give the same bytes. The network is kept for the next `network` or `encoder`.

        Args:
            folder: an empty folder.
            trained: the network whose weights are written; this model's own by default.

        Raises:
            InputError: as `network`, or the tokenizer's files changed since the model was opened.
            OperationalError: a weight does not fit into its dtype, or the disk is full.
        """
        from pargate.models.torch.save import save_weights

        network = self.network() if trained is None else trained
        written = (save_weights(folder / WEIGHT_NAMES[0], network, self.dtypes), *save_config(folder, self.checkpoint))
        if trained is None:
            self._network = network
        return written

    def moved(self, folder: Path) -> "Model":
        """Return this model as `save` wrote it to `folder`, where the weights are the same bytes; with its network."""
        place, weights_file = str(folder), str(folder / WEIGHT_NAMES[0])
        network, self._network = self._network, None
        checkpoint = replace(self.checkpoint, source=place, weights=weights_file, folder=place)
        return Model(checkpoint, self.tensors, None, self._kept, None, network)

    def release(self) -> None:
        """Free the bytes and the network; the file is read again where they are needed."""
        self._content = self._network = None

    def close(self) -> None:
        """Free everything; the facts stay."""
        self.release()
        self._kept, self._graphs = False, None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def inspect(source: str | Model, *, arch: str | None = None) -> Checkpoint:
    """Return what a model is; where `source` names it, its bytes are read once and not kept.

    Raises:
        InputError: nothing there, or nothing that can be read as a CLIP model.
        UnsafeCheckpoint: the weights file could run code when loaded in the usual way, or other loaders would get
            another model.
        OperationalError: the machine, or a hub, did not play along.
    """
    return source.checkpoint if isinstance(source, Model) else open_model(source, arch=arch, keep=False).checkpoint


@contextlib.contextmanager
def opened(source: str | Model, *, arch: str | None = None) -> Iterator[Model]:
    """Open a model for a while; one that is open already stays open.

    Raises:
        InputError, UnsafeCheckpoint, OperationalError: as `inspect`.
    """
    if isinstance(source, Model):
        yield source
        return
    with open_model(source, arch=arch) as model:
        yield model


def source_of(source: str | Model) -> str:
    """Return what the user called a model."""
    return source.checkpoint.source if isinstance(source, Model) else source


def open_model(source: str, *, arch: str | None = None, keep: bool = True, digest: str | None = None) -> Model:
    """Return the model named by `source`, judged and ready to be loaded, its bytes in memory if `keep`.

    Args:
        source: an open_clip folder, a weights file (with `arch`, or with its configuration beside it), a folder of
            graphs that `pargate export` wrote or a bundle that holds one, or a hub's `hf-hub:ORG/NAME[@REV]` or
            `open_clip:ARCH/TAG`, which is downloaded.
        arch: open_clip's name of the architecture, for a file without a configuration.
        keep: False for the facts alone.
        digest: what `Checkpoint.digest` must be, where that is known.

    Raises:
        InputError, UnsafeCheckpoint, OperationalError: as `inspect`; or it is not the one that `digest` says.
    """
    model = _opened(source, arch, keep)
    if digest not in (None, model.checkpoint.digest):
        raise changed(source)
    return model


def _opened(source: str, arch: str | None, keep: bool) -> Model:
    folder = _graph_folder(source)
    if folder is not None:
        if arch:
            raise InputError(
                f"--arch {arch} does not go with the graphs in {source}", "drop it: they say what they are"
            )
        read = graphs.read(folder, source)
        return Model(read.checkpoint, (), None, keep, read if keep else None)
    try:
        found = _locate(source, arch)
        check(found.model_cfg, found.config_name)
        rule = preprocess(found.model_cfg, found.preprocess_cfg, found.preprocess_from)
        if found.processor is not None:
            name = str(found.processor)
            refuse_contradiction(rule, found.preprocess_from, found.model_cfg, of_processor(found.processor), name)
        tokenizer = tokenizer_files(found.model_cfg, found.folder, found.config_name)
    except InputError:
        _refuse_code(source)
        raise
    file = _read(source, found, keep)
    checkpoint = Checkpoint(
        source=source,
        weights=str(found.weights),
        sha256=file.sha256,
        config_sha256=config_digest(found.model_cfg, rule, tokenizer),
        size_bytes=file.size_bytes,
        format=file.format,
        architecture=found.architecture or name_of(found.model_cfg),
        config=found.model_cfg,
        preprocess=rule,
        tensors=tuple(TensorInfo(t.name, t.dtype, t.shape) for t in file.tensors),
        activation_known=found.activation_known,
        preprocess_from=found.preprocess_from,
        preprocess_known=None not in (found.preprocess_cfg.get("mean"), found.preprocess_cfg.get("std")),
        folder=str(found.folder) if found.folder else None,
    )
    return Model(checkpoint, file.tensors, file.content, keep)


def _read(source: str, found: "_Located", keep: bool) -> weights.WeightsFile:
    """The weights, once those beside them are known to be the same."""

    def label(path: Path) -> str:
        return source if path.name in source else f"{source} ({path.name})"

    file = weights.read(found.weights, label(found.weights), keep=keep or bool(found.beside))
    for path in found.beside:
        advice = f"remove it, or name the file: {found.weights}"
        try:
            other = weights.read(path, label(path), keep=True)
        except InputError as error:
            raise InputError(
                f"{source} holds {path.name} beside {found.weights.name}, which cannot be compared: {error.message}",
                advice,
            ) from error
        if not weights.same_tensors(file, other):
            raise UnsafeCheckpoint(
                f"{source} means different models to different readers: {path.name} beside {found.weights.name} "
                "holds other tensors",
                advice,
            )
    return file if keep else replace(file, content=None)


def _refuse_code(source: str) -> None:
    """Refuse files that could run code, also where something else is wrong with the source."""
    path = Path(source)
    if source.startswith(HUB_PREFIXES):
        return
    try:
        files = [path] if path.is_file() else [path / name for name in _names(path) if _is_weights(name)]
    except (InputError, OSError, ValueError):
        return
    for file in files:
        with contextlib.suppress(InputError):
            weights.read(file, str(file), keep=False)


def _graph_folder(source: str) -> Path | None:
    """The folder of graphs that `source` names, unless it names something else besides."""
    path = Path(source)
    if source.startswith(HUB_PREFIXES) or not _is_folder(path) or (path / CONFIG_NAME).is_file():
        return None
    return graphs.folder_of(path)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long
        return False


# --- which files -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Located:
    weights: Path
    model_cfg: dict[str, Any]
    preprocess_cfg: dict[str, Any]
    config_name: str
    """What messages call the configuration."""
    architecture: str | None
    folder: Path | None
    activation_known: bool
    preprocess_from: str
    """What says how pictures are prepared."""
    processor: Path | None
    """A `preprocessor_config.json` that must not contradict it."""
    beside: tuple[Path, ...] = ()
    """Other weights that a loader could take."""


def _locate(source: str, arch: str | None) -> _Located:
    if source.startswith(HUB_PREFIXES):
        return _on_hub(source, arch)
    path = Path(source)
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a valid path"
        raise InputError(
            f"no model at {source}: {reason}",
            "give an open_clip folder, a checkpoint file with --arch, hf-hub:ORG/NAME, open_clip:ARCH/TAG, or a "
            "folder that pargate export wrote",
        ) from error
    if stat.S_ISDIR(mode):
        if arch:
            raise InputError(
                f"--arch {arch} does not go with the folder {source}",
                "drop it, or name the weights file in it",
            )
        chosen, *beside = _weights_of(path)
        return _in_folder(path, chosen, tuple(beside))
    if arch:
        return _by_name(path, arch)
    if (path.parent / CONFIG_NAME).is_file():
        return _in_folder(path.parent, path)
    raise InputError(
        f"{source} does not say which architecture it is, and no {CONFIG_NAME} lies beside it",
        "give its name, such as --arch ViT-B-32 (ending in -quickgelu or -gelu where you know its activation)",
    )


def _on_hub(source: str, arch: str | None) -> _Located:
    if arch:
        raise InputError(f"--arch {arch} does not go with {source}", "drop it: the hub says the architecture")
    from pargate.models.hub import fetch  # whose libraries take a fifth of a second

    there = fetch(source)
    return _Located(
        there.weights,
        there.model_cfg,
        there.preprocess_cfg,
        source,
        there.architecture,
        there.tokenizer,
        True,
        source if there.preprocess_cfg else f"{DEFAULTS}, since {source} has no preprocess_cfg",
        there.processor,
        there.beside,
    )


def _by_name(path: Path, arch: str) -> _Located:
    """A file with `--arch`, which must not contradict a configuration beside it."""
    name, tag = named(arch)
    model = architecture(name)
    known = says_activation(model)
    if tag is not None:
        known, model = True, {**model, **({"quick_gelu": True} if quick_gelu(name, tag) else {})}
    found = ways(name, tag)
    if (path.parent / CONFIG_NAME).is_file():
        beside = _in_folder(path.parent, path)
        compared = model if known else {**model, "quick_gelu": beside.model_cfg.get("quick_gelu")}
        if differ := differences(compared, beside.model_cfg):
            raise InputError(
                f"--arch {arch} and {beside.config_name} contradict each other: {'; '.join(differ[:DIFFERENCES])}",
                f"drop --arch if the configuration is right, or move {path.name} away from it",
            )
        if len(found) == 1:
            rule = preprocess(beside.model_cfg, beside.preprocess_cfg, beside.config_name)
            refuse_contradiction(rule, beside.config_name, model, found[0].preprocess_cfg, f"--arch {arch}")
        return replace(beside, architecture=name)
    processor = _processor(path.parent)
    if len(found) == 1:
        overlay, said_by = found[0].preprocess_cfg, f"open_clip's table, for {', '.join(found[0].tags)} of {name}"
    elif processor is not None and (said := of_processor(processor)):
        overlay, said_by = said, str(processor)
    elif found:
        raise undecided(name, model, found)
    else:
        overlay, said_by = {}, f"{DEFAULTS}, which publishes no weights of {name}"
    return _Located(path, model, overlay, f"architecture {arch}", name, path.parent, known, said_by, processor)


def _processor(folder: Path) -> Path | None:
    """The folder's `preprocessor_config.json`, where it has one."""
    path = folder / PREPROCESSOR_NAME
    if not path.is_file():
        return None
    _stay_inside(folder, path)
    return path


def _in_folder(folder: Path, weights: Path, beside: tuple[Path, ...] = ()) -> _Located:
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise InputError(f"{folder} holds no {CONFIG_NAME}", "give an open_clip folder, or a file with --arch")
    for part in (path, weights, *beside):
        _stay_inside(folder, part)
    document = load_json(path)
    model, overlay = document.get("model_cfg"), document.get("preprocess_cfg") or {}
    if not isinstance(model, dict) or not isinstance(overlay, dict):
        raise InputError(f"{path} has no model_cfg: not an open_clip configuration", "restore the file")
    said_by = str(path) if overlay else f"{DEFAULTS}, since {path} has no preprocess_cfg"
    return _Located(weights, model, overlay, str(path), None, folder, True, said_by, _processor(folder), beside)


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror}", "check its permissions") from error


def _is_weights(name: str) -> bool:
    return name.casefold().endswith(WEIGHT_SUFFIXES)


def _weights_of(folder: Path) -> list[Path]:
    """The weights file of a folder that open_clip would take, and others that another loader could take."""
    names = _names(folder)
    if CONFIG_NAME not in names:
        raise InputError(
            f"{folder} is {'empty' if not names else f'not an open_clip folder: it holds no {CONFIG_NAME}'}",
            f"give a folder with {CONFIG_NAME} and one weights file such as {WEIGHT_NAMES[0]}",
        )
    found = sorted((name for name in names if name.endswith(FOUND_SUFFIXES)), key=_preference)
    others = [name for name in names if _is_weights(name) and name not in TRAINING]
    chosen = found[0] if found else others[0] if len(others) == 1 else None
    sharded = next((name for name in names if name.endswith(".index.json")), None)
    if not others:
        raise InputError(
            f"{folder} holds no weights file"
            + (f"; {sharded} says that they are in parts, which pargate does not read" if sharded else ""),
            "save them as one file" if sharded else f"looked for {', '.join(WEIGHT_NAMES[:4])} and the like",
        )
    if chosen is None or chosen in TRAINING:
        raise InputError(
            f"{folder} holds several weights files: {', '.join(others)}", f"name one: {folder / others[0]}"
        )
    if re.search(r"-\d{5}-of-\d{5}\.", chosen):
        raise InputError(
            f"{folder}: {chosen} is one part of its weights, which pargate does not read", "save them as one file"
        )
    return [folder / name for name in (chosen, *(name for name in others if name != chosen))]


def _preference(name: str) -> tuple[int, bool, str]:
    """Where open_clip ranks a file of a folder: by its list, then safetensors, then the name."""
    rank = WEIGHT_NAMES.index(name) if name in WEIGHT_NAMES else len(WEIGHT_NAMES)
    return rank, not name.endswith(FOUND_SUFFIXES[0]), name


def _stay_inside(folder: Path, path: Path) -> None:
    """Refuse a link out of a model's folder, except into the blobs of the hub's cache that it belongs to."""
    real = Path(os.path.realpath(path))  # which takes a circle of links, too
    if not real.is_relative_to(os.path.realpath(folder)) and not leads_to_hub_blob(path):
        raise InputError(f"{path} is a link out of its folder, to {real}", "put the file itself there")
