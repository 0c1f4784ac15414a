"""What a model on disk is, seen without loading it: form, format, digest, tensors, configuration.

Files from outside are hostile. The format follows from the bytes, never from the name; a file is opened
once, read once into memory, digested on the way and judged there, so that the bytes that were judged are
the very bytes that are loaded, whatever happens to the file meanwhile. Nothing here imports torch, and
nothing is unpickled, evaluated or downloaded: sources on a hub go through the `fetch` that the caller gives.
"""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from mmap import mmap
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pargate.core.model import Checkpoint, TensorInfo
from pargate.encoders import graphs, weights
from pargate.encoders.archive import StoredTensor
from pargate.encoders.config import (
    CONFIG_NAME,
    architecture,
    check,
    load_json,
    name_of,
    preprocess,
    tokenizer_files,
)
from pargate.errors import InputError
from pargate.files import digest_of

HUB_PREFIXES = ("hf-hub:", "open_clip:")

WEIGHT_NAMES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pt",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pt",
    "pytorch_model.pth",
    "model.pth",
    "model.pt",
)
"""Names that open_clip and its users give to weights, in open_clip's order of preference."""

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True, slots=True)
class Fetched:
    """A model that a hub keeps, once its files are here."""

    weights: Path
    model_cfg: dict[str, Any]
    preprocess_cfg: dict[str, Any]
    architecture: str | None
    """Its name, where the source says one."""
    tokenizer: Path | None
    """Folder of the tokenizer's files, where the configuration names one."""


Fetch = Callable[[str], Fetched]
"""Brings `hf-hub:ORG/NAME[@REV]` or `open_clip:ARCH/TAG` here."""


@dataclass(slots=True)
class OpenCheckpoint:
    """A checkpoint, where its tensors lie, and its bytes until they are taken: what `open_encoder` loads."""

    checkpoint: Checkpoint
    tensors: tuple[StoredTensor, ...] = field(repr=False)
    _content: mmap | None = field(repr=False)
    _kept: bool = field(repr=False)
    _graphs: graphs.GraphFolder | None = field(repr=False, default=None)

    def take(self) -> mmap:
        """The bytes of the weights file, exactly those that were digested and judged; the caller may use them up.

        They are given once. Another call reads the file again.

        Raises:
            InputError: another call, and the file is no longer the one that was judged.
            RuntimeError: it was closed, or opened for inspection only.
        """
        if not self._kept:
            raise RuntimeError("the checkpoint's bytes were not kept")
        content, self._content = self._content, None
        if content is None:
            again = weights.read(Path(self.checkpoint.weights), self.checkpoint.source, keep=True)
            if again.sha256 != self.checkpoint.sha256 or again.content is None:
                raise InputError(
                    f"{self.checkpoint.weights} changed while pargate ran", "try again once nothing writes to it"
                )
            content = again.content
        return content

    def take_graphs(self) -> graphs.GraphFolder:
        """The graphs of a folder of graphs (`checkpoint.format` is `onnx`), exactly those that were judged.

        Raises:
            RuntimeError: it was closed, opened for inspection only, or holds no graphs.
        """
        if self._graphs is None:
            raise RuntimeError("the checkpoint's graphs were not kept")
        return self._graphs

    def close(self) -> None:
        """Let go of the bytes."""
        self._content, self._kept, self._graphs = None, False, None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def inspect(source: str, *, arch: str | None = None, fetch: Fetch | None = None) -> Checkpoint:
    """What the model named by `source` is; its bytes are read once and not kept.

    Raises:
        InputError: nothing there, or nothing that can be read as a CLIP model.
        UnsafeCheckpoint: the weights file could run code when loaded in the usual way.
        OperationalError: the machine, or a hub, did not play along.
    """
    return open_checkpoint(source, arch=arch, fetch=fetch, keep=False).checkpoint


def open_checkpoint(
    source: str, *, arch: str | None = None, fetch: Fetch | None = None, keep: bool = True
) -> OpenCheckpoint:
    """The model named by `source`, judged and ready to be loaded, its bytes in memory if `keep`.

    `source` is an open_clip folder, a weights file (with `arch`, or with its configuration beside it), a folder
    of graphs that `pargate export` wrote or a bundle that holds one, or a hub's
    `hf-hub:ORG/NAME[@REV]` or `open_clip:ARCH/TAG`, which `fetch` brings here.

    Raises:
        InputError, UnsafeCheckpoint, OperationalError: as `inspect`.
    """
    folder = _graph_folder(source)
    if folder is not None:
        if arch:
            raise InputError(
                f"--arch {arch} does not go with the graphs in {source}", "drop it: they say what they are"
            )
        read = graphs.read(folder, source)
        return OpenCheckpoint(read.checkpoint, (), None, keep, read if keep else None)
    found = _locate(source, arch, fetch)
    label = f"{source} ({found.weights.name})" if found.weights.name not in source else source
    check(found.model_cfg, found.config_name)
    rule = preprocess(found.model_cfg, found.preprocess_cfg, found.config_name)
    tokenizer = tokenizer_files(found.model_cfg, found.folder, found.config_name)
    file = weights.read(found.weights, label, keep=keep)
    checkpoint = Checkpoint(
        source=source,
        weights=str(found.weights),
        sha256=file.sha256,
        config_sha256=digest_of({"model_cfg": found.model_cfg, "preprocess": _plain(rule), "tokenizer": tokenizer}),
        size_bytes=file.size_bytes,
        format=file.format,
        architecture=found.architecture or name_of(found.model_cfg),
        config=found.model_cfg,
        preprocess=rule,
        tensors=tuple(TensorInfo(t.name, t.dtype, t.shape) for t in file.tensors),
        activation_known=found.activation_known,
        folder=str(found.folder) if found.folder else None,
    )
    return OpenCheckpoint(checkpoint, file.tensors, file.content, keep)


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


def _plain(rule: Any) -> dict[str, Any]:
    return {name: getattr(rule, name) for name in rule.__slots__}


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


def _locate(source: str, arch: str | None, fetch: Fetch | None) -> _Located:
    if source.startswith(HUB_PREFIXES):
        return _on_hub(source, arch, fetch)
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
        return _in_folder(path, _only_weights(path))
    if arch:
        config = architecture(arch)
        known = "quick_gelu" in config or arch.endswith("-quickgelu")
        return _Located(path, config, {}, f"architecture {arch}", arch.replace("/", "-"), path.parent, known)
    if (path.parent / CONFIG_NAME).is_file():
        return _in_folder(path.parent, path)
    raise InputError(
        f"{source} does not say which architecture it is, and no {CONFIG_NAME} lies beside it",
        "give its name, such as --arch ViT-B-32 (add -quickgelu if it was trained with QuickGELU)",
    )


def _on_hub(source: str, arch: str | None, fetch: Fetch | None) -> _Located:
    if arch:
        raise InputError(f"--arch {arch} does not go with {source}", "drop it: the hub says the architecture")
    if fetch is None:
        raise InputError(f"{source} lies on a hub, and this command does not download", "download it first")
    there = fetch(source)
    return _Located(
        there.weights,
        there.model_cfg,
        there.preprocess_cfg,
        source,
        there.architecture,
        there.tokenizer,
        True,
    )


def _in_folder(folder: Path, weights: Path) -> _Located:
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise InputError(f"{folder} holds no {CONFIG_NAME}", "give an open_clip folder, or a file with --arch")
    for part in (path, weights):
        _stay_inside(folder, part)
    document = load_json(path)
    model, overlay = document.get("model_cfg"), document.get("preprocess_cfg") or {}
    if not isinstance(model, dict) or not isinstance(overlay, dict):
        raise InputError(f"{path} has no model_cfg: not an open_clip configuration", "restore the file")
    return _Located(weights, model, overlay, str(path), None, folder, True)


def _only_weights(folder: Path) -> Path:
    """The one weights file of a folder."""
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror}", "check its permissions") from error
    if CONFIG_NAME not in names:
        raise InputError(
            f"{folder} is {'empty' if not names else f'not an open_clip folder: it holds no {CONFIG_NAME}'}",
            f"give a folder with {CONFIG_NAME} and one weights file such as {WEIGHT_NAMES[0]}",
        )
    found = [name for name in WEIGHT_NAMES if name in names]
    found = found or [name for name in names if name.endswith(WEIGHT_SUFFIXES)]
    if not found:
        sharded = next((name for name in names if name.endswith(".index.json")), None)
        raise InputError(
            f"{folder} holds no weights file"
            + (f"; {sharded} says that they are in parts, which pargate does not read" if sharded else ""),
            "save them as one file" if sharded else f"looked for {', '.join(WEIGHT_NAMES[:4])} and the like",
        )
    if len(found) > 1:
        raise InputError(f"{folder} holds several weights files: {', '.join(found)}", f"name one: {folder / found[0]}")
    return folder / found[0]


def _stay_inside(folder: Path, path: Path) -> None:
    """Refuse a link out of a model's folder, except into the blobs of the hub's cache that it belongs to."""
    real, home = Path(os.path.realpath(path)), Path(os.path.realpath(folder))  # `resolve` fails at a link to itself
    allowed = [home]
    if home.parent.name == "snapshots":
        allowed.append(home.parent.parent / "blobs")
    if not any(real.is_relative_to(place) for place in allowed):
        raise InputError(f"{path} is a link out of its folder, to {real}", "put the file itself there")
