"""Merge a LoRA adapter into the bytes of its base, so that every later step sees one model.

The values are changed where they lie, some rows at a time, and rounded once to the base's own type: what is measured is
what a merged model that is saved in this type holds, and the memory of loading stays that of the base.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pargate.core.model import AdapterFacts
from pargate.errors import InputError, UnsafeCheckpoint
from pargate.files import digest_of
from pargate.models import adapter_config, lora, weights
from pargate.models.archive import StoredTensor
from pargate.models.located import stay_inside
from pargate.models.model import Model
from pargate.models.sources import SEPARATOR
from pargate.models.weights import WeightsFile

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
"""Files of which PEFT reads the first that exists."""

TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
"""numpy's names of the types; a bfloat16 is the upper half of a float32."""

BLOCK = 1 << 16
"""Values that are changed at a time, few enough to stay in the processor's cache."""

Changed = Callable[[NDArray[Any], int], NDArray[np.float64]]
"""Function that returns new values of some rows, from their stored values and the number of the first."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter of PEFT that was read, with what it does to the base that it was checked against."""

    label: str
    """Name of the adapter in messages."""
    plan: lora.Plan
    content: mmap | None
    """Content of its weights file, if it was kept."""

    @np.errstate(over="ignore", invalid="ignore")  # such values are refused by name
    def merge(self, content: mmap) -> mmap:
        """Change the weights of the base in `content`, and return it.

        Raises:
            InputError: a value is not finite, or an adapted weight is one that PEFT itself would not use.
            RuntimeError: the bytes of the adapter were not kept.
        """
        if self.content is None:
            raise RuntimeError("the adapter's bytes were not kept")
        for product in self.plan.products:
            a, b = (_values(_view(factor, self.content), factor.dtype) for factor in (product.a, product.b))
            if product.unread and b.any():
                raise InputError(
                    f"{self.label} adapts {product.base.name}, which the model reads without PEFT's layer around it: "
                    "PEFT ignores this part as it runs, and uses it when it merges",
                    adapter_config.by_peft(self.label),
                )
            self._change(product.base, content, partial(_sum, a.reshape(len(a), -1), b.reshape(len(b), -1), product))
        for replaced in self.plan.replacements:
            self._change(replaced.base, content, partial(_part, _view(replaced.value, self.content), replaced))
        return content

    def _change(self, tensor: StoredTensor, content: mmap, changed: Changed) -> None:
        """Write what `changed` makes of some rows of a tensor, rounded once to its type."""
        place = np.atleast_1d(_view(tensor, content))
        step = max(1, BLOCK * len(place) // max(1, place.size))
        for begin in range(0, len(place), step):
            rows = place[begin : begin + step]
            values = changed(rows, begin)
            stored = _stored(values, tensor.dtype)
            if not _is_finite(values, stored, tensor.dtype):
                raise InputError(
                    f"{self.label}: {tensor.name} is not finite once the adapter is merged (NaN or infinity)",
                    "check that adapter and base belong together",
                )
            rows[...] = stored


def _sum(
    a: NDArray[np.float64], b: NDArray[np.float64], product: lora.Product, rows: NDArray[Any], begin: int
) -> NDArray[np.float64]:
    change = product.scaling * (b[begin : begin + len(rows)] @ a)
    return _values(rows, product.base.dtype) + change.reshape(rows.shape)


def _part(value: NDArray[Any], replaced: lora.Replacement, rows: NDArray[Any], begin: int) -> NDArray[np.float64]:
    return _values(np.atleast_1d(value)[begin : begin + len(rows)], replaced.value.dtype)


def _view(tensor: StoredTensor, content: mmap) -> NDArray[Any]:
    """Return a tensor's values where they lie."""
    kind = np.dtype(TYPES[tensor.dtype])
    steps = [step * kind.itemsize for step in tensor.strides]
    return np.ndarray(tensor.shape, kind, content, tensor.offset, steps)


def _values(stored: NDArray[Any], dtype: str) -> NDArray[np.float64]:
    if dtype == "BF16":
        return (stored.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return stored.astype(np.float64)


def _stored(values: NDArray[np.float64], dtype: str) -> NDArray[Any]:
    """Return values in a type, rounded to the nearest; those that are too large become infinite."""
    if dtype != "BF16":
        return values.astype(TYPES[dtype])
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _is_finite(values: NDArray[np.float64], stored: NDArray[Any], dtype: str) -> bool:
    """Return whether values and what is stored of them are finite."""
    if dtype != "BF16":
        return bool(np.isfinite(stored).all())
    # Rounding the bits of a NaN can give a number, and the largest exponent means infinity.
    return bool(np.isfinite(values).all() and ((stored & 0x7F80) != 0x7F80).all())


# --- reading -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class AdaptedModel(Model):
    """A base and an adapter, as one model."""

    base: Model | None = None
    adapter: Adapter | None = None

    def take(self) -> mmap:
        """Return the bytes of the base's weights with the adapter merged; the caller may change them."""
        assert self.base is not None and self.adapter is not None, "made by `adapted`"
        return self.adapter.merge(self.base.take())

    def release(self) -> None:
        """Free the bytes of the base and the network; they are read again when needed."""
        assert self.base is not None, "made by `adapted`"
        Model.release(self)
        self.base.release()

    def close(self) -> None:
        """Free everything except the facts."""
        assert self.base is not None, "made by `adapted`"
        Model.close(self)
        self.base.close()


def adapted(base: Model, folder: Path, given: adapter_config.Settings, keep: bool) -> AdaptedModel:
    """Return the model that the adapter in `folder` makes of its base, which was opened.

    Raises:
        InputError: the adapter does not belong to the base, or cannot be read or merged exactly.
        UnsafeCheckpoint: its weights could run code, or two files of them hold different tensors.
        OperationalError: it does not fit into memory.
    """
    parent, label = base.checkpoint, str(folder)
    if parent.format == "onnx":
        raise InputError(f"{parent.source} holds graphs, which no adapter is merged into", "give the checkpoint")
    file = _read(folder, keep)
    plan = lora.plan(given, file.tensors, base.stored, label)
    effect = json.dumps(given.model_dump(exclude={"base_model_name_or_path", "revision"}), sort_keys=True)
    facts = AdapterFacts(
        label, parent.source, parent.sha256, file.sha256, tuple(sorted({product.rank for product in plan.products})),
        tuple(sorted({product.alpha for product in plan.products})), tuple(p.module for p in plan.products),
        tuple(change.base.name for change in plan.replacements),
    )  # fmt: skip
    checkpoint = replace(
        parent,
        source=f"{parent.source}{SEPARATOR}{folder}",
        sha256=digest_of({"base": parent.sha256, "adapter": file.sha256, "settings": effect}),
        size_bytes=parent.size_bytes + file.size_bytes,
        # What a policy asks of the format holds for both files.
        format=parent.format if file.format == "safetensors" else file.format,
        notes=(*parent.notes, *file.notes, *plan.notes),
        adapter=facts,
    )
    merged = Adapter(label, plan, file.content)
    return AdaptedModel(checkpoint, base.tensors, None, keep, stored=base.stored, base=base, adapter=merged)


def _read(folder: Path, keep: bool) -> WeightsFile:
    """Return the weights that PEFT would read; others beside them must hold the same tensors."""
    paths = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    if not paths:
        raise InputError(f"{folder} holds no {' and no '.join(WEIGHTS)}", "save the adapter again")
    for path in paths:
        stay_inside(folder, path)
    file, *others = (weights.read(path, str(path), keep=keep or len(paths) > 1) for path in paths)
    for other in others:
        if not weights.same_tensors((file, file.tensors), (other, other.tensors)):
            raise UnsafeCheckpoint(
                f"{folder} means different models to different readers: {WEIGHTS[1]} beside {WEIGHTS[0]} holds other "
                "tensors",
                f"remove {WEIGHTS[1]}",
            )
    return file if keep else replace(file, content=None)
