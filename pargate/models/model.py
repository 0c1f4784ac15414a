"""An open model: its facts, and its bytes until they are used.

Files from outside are hostile. A file is opened once, read once into memory, hashed and checked there, so that the
checked bytes are the ones that are loaded, whatever happens to the file meanwhile. Nothing is unpickled or evaluated.
torch and ONNX Runtime are imported only when an encoder is opened.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from mmap import mmap
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pargate.core.choices import SavedLayout
from pargate.core.model import Activation, Checkpoint, Precision, TensorInfo
from pargate.core.provenance import Subject
from pargate.errors import InputError, UnsafeCheckpoint
from pargate.models import graphs, origins, shards, transformers_folder, two_towers, weights
from pargate.models.archive import StoredTensor
from pargate.models.config import WEIGHT_NAMES, config_digest, name_of
from pargate.models.located import Located, rules
from pargate.models.naming import Named, in_model
from pargate.models.save import changed, check_written, save_config

if TYPE_CHECKING:
    from pargate.models.onnx import OnnxEncoder
    from pargate.models.torch.build import Network
    from pargate.models.torch.encoder import OpenClipEncoder


@dataclass(slots=True)
class Model:
    """A checkpoint that was opened once: its facts, the places of its tensors, and its bytes until they are used."""

    checkpoint: Checkpoint
    """The facts: format, digests, architecture, preprocessing, tensors."""
    tensors: tuple[StoredTensor, ...] = field(repr=False)
    _content: mmap | None = field(repr=False)
    _kept: bool = field(repr=False)
    _graphs: graphs.GraphFolder | None = field(repr=False, default=None)
    _network: "Network | None" = field(repr=False, default=None)
    stored: tuple[StoredTensor, ...] = field(repr=False, default=())
    """The tensors by their names in the library that wrote them."""

    @property
    def dtypes(self) -> dict[str, str]:
        """The dtype of each tensor in the file, by its name in the model."""
        return {tensor.name: tensor.dtype for tensor in self.tensors}

    def take(self) -> mmap:
        """Return the checked bytes of the weights file; the caller may change them.

        A second call reads the file again.

        Raises:
            InputError: the file changed before a second call.
            RuntimeError: the model was closed, or opened for inspection only.
        """
        if not self._kept:
            raise RuntimeError("the checkpoint's bytes were not kept")
        content, self._content = self._content, None
        if content is None:
            again = shards.read(Path(self.checkpoint.weights), self.checkpoint.source, keep=True)
            if again.sha256 != self.checkpoint.sha256 or again.content is None:
                raise changed(self.checkpoint.weights)
            content = again.content
        return content

    def network(self) -> "Network":
        """Return the network on the CPU, in float32 and evaluation mode; the caller may change it.

        The first call after `save` returns the network that `save` built; every other call builds a new one.

        Raises:
            InputError, OperationalError: as `pargate.models.torch.build.load`.
        """
        from pargate.models.torch.build import load

        network, self._network = self._network, None
        return load(self.checkpoint, self.tensors, self.take) if network is None else network

    def encoder(
        self, *, device: str = "auto", precision: Precision = "fp32", activation: Activation | None = None
    ) -> "OpenClipEncoder":
        """Return the encoder on `device`: `auto`, `cpu`, `cuda` or `cuda:N`.

        `precision` is that of the image tower. `activation` overrides the configuration, for weights that may have been
        trained with QuickGELU or not (`Checkpoint.activation_known`).

        Raises:
            InputError: weights and configuration do not belong together, or the tokenizer is missing.
            OperationalError: no such device, out of memory, or a package is missing.
        """
        from pargate.models.torch import encoder as openclip

        return openclip.open_encoder(
            self.checkpoint, self.network, device=device, precision=precision, activation=activation
        )

    def graph_encoder(self, *, device: str = "auto", threads: int = 0) -> "OnnxEncoder":
        """Return the encoder of a folder of graphs (`Checkpoint.format` is `onnx`), on `device`, also `tensorrt`.

        `threads` is the number of CPU threads for one operation; 0 leaves it to ONNX Runtime.

        Raises:
            InputError: an unknown device, or ONNX Runtime refuses the graphs.
            OperationalError: no such device, out of memory, or a package is missing.
        """
        from pargate.models import onnx

        return onnx.open_encoder(self.take_graphs(), device=device, threads=threads)

    def take_graphs(self) -> graphs.GraphFolder:
        """Return the checked graphs of a folder of graphs.

        Raises:
            RuntimeError: the model was closed, opened for inspection only, or holds no graphs.
        """
        if self._graphs is None:
            raise RuntimeError("the checkpoint's graphs were not kept")
        return self._graphs

    def save(
        self, folder: Path, trained: "Network | None" = None, layout: SavedLayout | None = None
    ) -> tuple[Subject, ...]:
        """Write an open_clip folder, or one in the layout that the model came in; return each file with its digest.

        The same tensors always give the same bytes. The network is kept for the next `network` or `encoder`.

        Args:
            folder: an empty folder.
            trained: the network whose weights are written; the model's own by default.
            layout: `keep` for that of the model; by default open_clip's, if it can express the model.

        Raises:
            InputError: as `network`, or the tokenizer's files changed since the model was opened.
            OperationalError: a weight does not fit into its dtype, or the disk is full.
        """
        from pargate.models.torch.save import save_weights, stored_types

        network = self.network() if trained is None else trained
        types, state = stored_types(network, self.dtypes), network.state_dict()
        written: tuple[Subject, ...]
        apart = self.checkpoint.layout == two_towers.LAYOUT
        if transformers_folder.is_kept(self.checkpoint, layout) or (apart and layout == "keep"):
            settings = (two_towers if apart else transformers_folder).save_settings
            config, name = self.checkpoint.config, folder / transformers_folder.WEIGHTS[0]
            weights_file = save_weights(
                name, origins.split(state, config), origins.split_types(types, config), {"format": "pt"}
            )
            written = (weights_file, *settings(folder, self.checkpoint))
        else:
            written = (
                save_weights(folder / WEIGHT_NAMES[0], state, types), *save_config(folder, self.checkpoint)
            )  # fmt: skip
        if trained is None:
            self._network = network
        return written

    def moved(self, folder: Path) -> "Model":
        """Return this model as `save` wrote it to `folder`, if the weights are the same bytes; pass its network on."""
        place, weights_file = str(folder), str(folder / saved_weights(self.checkpoint))
        network, self._network = self._network, None
        checkpoint = replace(self.checkpoint, source=place, weights=weights_file, folder=place)
        return Model(checkpoint, self.tensors, None, self._kept, None, network)

    def release(self) -> None:
        """Free the bytes and the network; they are read again when needed."""
        self._content = self._network = None

    def close(self) -> None:
        """Free everything except the facts."""
        self.release()
        self._kept, self._graphs = False, None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def saved_weights(checkpoint: Checkpoint) -> str:
    """Return the name of the weights file that `Model.save` writes by default."""
    return (transformers_folder.WEIGHTS if transformers_folder.is_kept(checkpoint) else WEIGHT_NAMES)[0]


def check_saved(written: Sequence[Subject], parent: Checkpoint) -> None:
    """Raise if the configuration or tokenizer that `Model.save` wrote by default differs from that of `parent`.

    Raises:
        ValueError: one of them differs.
    """
    check = transformers_folder.check_settings if transformers_folder.is_kept(parent) else check_written
    check(written, parent)


def read_located(source: str, found: Located, keep: bool) -> Model:
    """Read and check a model whose files were located; keep its bytes in memory if `keep`.

    Raises:
        InputError: the configuration cannot be used, or the weights cannot be read.
        UnsafeCheckpoint: the weights could run code, or other loaders would read another model.
        OperationalError: the weights do not fit into memory.
    """
    rule, tokenizer = rules(found)
    file, model = _read(source, found, keep)
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
        tensors=tuple(TensorInfo(t.name, t.dtype, t.shape) for t in model.tensors),
        activation_known=found.activation_known,
        preprocess_from=found.preprocess_from,
        preprocess_known=None not in (found.preprocess_cfg.get("mean"), found.preprocess_cfg.get("std")),
        folder=str(found.folder) if found.folder else None,
        layout=found.layout,
        notes=(*found.notes, *file.notes, *model.notes),
    )
    return Model(checkpoint, model.tensors, file.content, keep, stored=model.stored)


def _read(source: str, found: Located, keep: bool) -> tuple[weights.WeightsFile, Named]:
    """Return the weights and their tensors in the model; raise if other weights beside them are different."""

    def label(path: Path) -> str:
        return source if path.name in source else f"{source} ({path.name})"

    file = shards.read(found.weights, label(found.weights), keep=keep or bool(found.beside))
    model = in_model(file.tensors, found.model_cfg, source)
    for path in found.beside:
        advice = f"remove it, or name the file: {found.weights}"
        try:
            other = shards.read(path, label(path), keep=True)
            theirs = in_model(other.tensors, found.model_cfg, label(path))
        except InputError as error:
            raise InputError(
                f"{source} holds {path.name} beside {found.weights.name}, which cannot be compared: {error.message}",
                advice,
            ) from error
        if not weights.same_tensors((file, model.tensors), (other, theirs.tensors)):
            raise UnsafeCheckpoint(
                f"{source} means different models to different readers: {path.name} beside {found.weights.name} "
                "holds other tensors",
                advice,
            )
    return (file if keep else replace(file, content=None)), model
