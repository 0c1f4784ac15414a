"""Say which tensor of a base each tensor of a LoRA adapter changes, and how.

A layer's weight W becomes W + s·BA, with s = alpha/r (Hu et al. 2022), or alpha/√r if it is rank-stabilised
(Kalajdzievski 2023). What PEFT would ignore, fill in or compute otherwise is refused, so that what is measured is what
PEFT makes of base and adapter.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from pargate.errors import InputError
from pargate.models.adapter_config import Modules, Settings, by_peft
from pargate.models.archive import StoredTensor
from pargate.models.shapes import FLOATS, refuse
from pargate.models.sources import ADAPTER_CONFIG
from pargate.models.weights import WIDTHS

PREFIX = "base_model.model."
"""Beginning of the names of an adapter's tensors."""

WRAPPER = "base_layer"
"""Part of their names that PEFT inserts before a module that it wraps."""

FACTORS = ("lora_A", "lora_B")
FACTOR = re.compile(r"(.+)\.lora_([AB])\.weight")
OTHER_KINDS = ("lora_", "hada_", "lokr_", "ia3_", "oft_", "vera_")
"""Beginnings of parts of the names of other adapters."""

OUTPUT_TIMES = 2
OUTPUT_NOTE = "the change of out_proj counts twice where an attention is adapted as a whole, as in PEFT 0.15 to 0.21"
"""PEFT adds the product to `out_proj`, and the layer around it adds it again (`MultiheadAttention.merge`), in training
and in what it merges."""

OTHER_BASE = "give the base that the adapter was trained on, and the adapter as PEFT saved it"
SAVE_BASE = "save the base again, each tensor on its own"


@dataclass(frozen=True, slots=True)
class Product:
    """s·BA, which is added to a tensor of the base."""

    base: StoredTensor
    a: StoredTensor
    b: StoredTensor
    module: str
    rank: int
    alpha: float
    scaling: float
    unread: bool
    """Whether PEFT adds it only when it merges, since the model reads this weight without the module around it."""


@dataclass(frozen=True, slots=True)
class Replacement:
    """A tensor of the adapter in the place of one of the base."""

    base: StoredTensor
    value: StoredTensor


@dataclass(frozen=True, slots=True)
class Plan:
    """What an adapter does to its base."""

    products: tuple[Product, ...]
    replacements: tuple[Replacement, ...]
    notes: tuple[str, ...]
    """Sentences on what is unusual in it."""


def plan(given: Settings, held: Sequence[StoredTensor], base: Sequence[StoredTensor], label: str) -> Plan:
    """Return what an adapter's tensors do to those of its base.

    Args:
        given: the settings.
        held: the adapter's tensors.
        base: those of the base, by their names in the library that wrote it.
        label: name of the adapter in messages.

    Raises:
        InputError: a tensor has no place, or is missing, of another shape, or not merged exactly.
    """
    places = {tensor.name: tensor for tensor in base}
    factors, values = _sorted(held, label)
    owners = sorted({name.rpartition(".")[0] for name in places} - {""})
    where = f"{label}/{ADAPTER_CONFIG}"
    modules = Modules(given, owners, where)
    attentions = {name for name in modules.adapted if f"{name}.in_proj_weight" in places}
    # PEFT adapts the output of an attention of torch together with its inputs, with the same settings.
    outputs = {f"{name}.out_proj": name for name in attentions}
    wanted = modules.adapted | outputs.keys()
    refuse(
        sorted(factors.keys() - wanted),
        label,
        f"adapts modules that are not in the base, or that {where} does not name",
        OTHER_BASE,
    )
    refuse(sorted(wanted - factors.keys()), label, f"lacks the tensors of modules that {where} names", OTHER_BASE)
    if both := sorted(modules.adapted & outputs.keys()):
        raise InputError(f"{where} names {both[0]} and the attention around it", by_peft(label))
    if attentions and given.fan_in_fan_out:
        raise InputError(f"{where} sets fan_in_fan_out, which PEFT applies to one half of an attention", by_peft(label))
    products = []
    for name in sorted(wanted):
        rank, alpha = modules.settings(outputs.get(name, name))
        weight, a, b = _checked(name, factors[name], places, rank, label)
        for half, tensor in (("A", a), ("B", b)):
            _refuse_misnamed(tensor, f"{name}.lora_{half}.weight", wanted, label)
        unread = name not in outputs and _is_unread(name, places)
        scaling = given.scaling(alpha, rank) * (OUTPUT_TIMES if name in outputs else 1)
        products.append(Product(weight, a, b, name, rank, alpha, scaling, unread))
    replacements = tuple(_replacements(given, values, places, wanted, label))
    _refuse_shared([*(one.base for one in products), *(one.base for one in replacements)], base, label)
    return Plan(tuple(products), replacements, (OUTPUT_NOTE,) if outputs else ())


Factors = dict[str, dict[str, StoredTensor]]


def _sorted(held: Sequence[StoredTensor], label: str) -> tuple[Factors, dict[str, StoredTensor]]:
    """Return the factors A and B by the module's name, and the other tensors by theirs, as the base names them."""
    factors: Factors = {}
    values: dict[str, StoredTensor] = {}
    for tensor in held:
        name = ".".join(part for part in tensor.name.removeprefix(PREFIX).split(".") if part != WRAPPER)
        found = FACTOR.fullmatch(name)
        if not tensor.name.startswith(PREFIX) or (
            not found and any(part.startswith(OTHER_KINDS) for part in name.split("."))
        ):
            raise InputError(f"{label} holds {tensor.name}, which is no weight of a LoRA layer", by_peft(label))
        place, key = (factors.setdefault(found[1], {}), found[2]) if found else (values, name)
        if key in place:
            raise InputError(f"{label} holds {name} twice", "save the adapter again")
        place[key] = tensor
    halves = [name for name, pair in factors.items() if len(pair) != 2]
    refuse(halves, label, "holds one factor alone of modules", OTHER_BASE)
    return factors, values


def _checked(
    name: str, pair: Mapping[str, StoredTensor], places: Mapping[str, StoredTensor], r: int, label: str
) -> tuple[StoredTensor, StoredTensor, StoredTensor]:
    """Return a module's weight and its factors A and B, which must fit each other."""
    weight = places.get(f"{name}.in_proj_weight") or places.get(f"{name}.weight")
    if weight is None or len(weight.shape) not in (2, 4) or (name.endswith("embedding") and len(weight.shape) == 2):
        raise InputError(f"{label} adapts {name}, which is no linear layer, convolution or attention", by_peft(label))
    out, *inside = weight.shape
    ones = [1] * (len(inside) - 1)
    for tensor, shape in ((pair["A"], [r, *inside]), (pair["B"], [out, r, *ones])):
        if list(tensor.shape) != shape:
            raise InputError(
                f"{label}: {tensor.name} is {list(tensor.shape)}, where rank {r} and the base need {shape}",
                OTHER_BASE,
            )
    _refuse_types((weight, *pair.values()), label)
    return weight, pair["A"], pair["B"]


def _is_unread(name: str, places: Mapping[str, StoredTensor]) -> bool:
    """Return whether the model passes a module's weight to a function instead of calling the module.

    So do the attentions of torch, and the pooling of CLIP's ResNets.
    """
    parent, _, last = name.rpartition(".")
    if last == "out_proj":
        return f"{parent}.in_proj_weight" in places
    return f"{parent}.positional_embedding" in places and f"{parent}.q_proj.weight" in places


def _replacements(
    given: Settings, values: Mapping[str, StoredTensor], places: Mapping[str, StoredTensor], adapted: Set[str],
    label: str,
) -> Iterator[Replacement]:  # fmt: skip
    """Yield the tensors of replaced modules and biases."""
    where = f"{label}/{ADAPTER_CONFIG}"
    wanted = {name for name in places if _is_below(name, tuple(given.modules_to_save))}
    optional = set[str]()
    if given.bias == "all":
        wanted |= {name for name in places if name.endswith(".bias")}
        optional = {name for name in places if "bias" in name.rpartition(".")[2]}  # as older versions of PEFT
    elif given.bias == "lora_only":
        wanted |= {f"{name}.bias" for name in adapted} & places.keys()
    refuse(sorted(wanted - values.keys()), label, f"lacks tensors that {where} says it replaces", OTHER_BASE)
    refuse(sorted(values.keys() - wanted - optional), label, "holds tensors that have no place in the base", OTHER_BASE)
    for name, value in values.items():
        if value.shape != places[name].shape:
            raise InputError(
                f"{label}: {value.name} is {list(value.shape)}, in the base {list(places[name].shape)}",
                OTHER_BASE,
            )
        _refuse_types((places[name], value), label)
        _refuse_misnamed(value, name, adapted, label)
        yield Replacement(places[name], value)


def _is_below(name: str, ends: tuple[str, ...]) -> bool:
    """Return whether a tensor lies in a module whose name ends in one of `ends`, also within a word, as in PEFT."""
    parts = name.split(".")[:-1]
    return bool(ends) and any(".".join(parts[: at + 1]).endswith(ends) for at in range(len(parts)))


def _refuse_misnamed(tensor: StoredTensor, name: str, adapted: Set[str], label: str) -> None:
    """Raise if PEFT would not find a tensor, which it looks for inside the layers that it puts around modules."""
    parts = name.split(".")
    wrapped = [f"{WRAPPER}.{part}" if ".".join(parts[:at]) in adapted else part for at, part in enumerate(parts)]
    # What it adds to a layer lies beside the module that it wraps.
    wanted = ".".join(part.removeprefix(f"{WRAPPER}.") if part.endswith(FACTORS) else part for part in wrapped)
    if tensor.name != f"{PREFIX}{wanted}":
        raise InputError(
            f"{label} holds {tensor.name}, which PEFT would ignore: it looks for {PREFIX}{wanted}",
            "save the adapter again with this version of PEFT",
        )


def _refuse_types(tensors: Sequence[StoredTensor], label: str) -> None:
    for tensor in tensors:
        if tensor.dtype not in FLOATS:
            raise InputError(f"{label}: {tensor.name} is stored as {tensor.dtype}", by_peft(label))


def _refuse_shared(changed: Sequence[StoredTensor], base: Sequence[StoredTensor], label: str) -> None:
    """Raise if a tensor that is changed shares bytes with another, or repeats its own."""
    names = {tensor.name for tensor in changed}
    for tensor in changed:
        if _reach(tensor) != math.prod(tensor.shape):
            raise InputError(f"{label} changes {tensor.name}, which the base does not store densely", SAVE_BASE)
    last: StoredTensor | None = None
    end = 0
    for tensor in sorted(base, key=lambda tensor: tensor.offset):
        if last is not None and tensor.offset < end and names & {tensor.name, last.name}:
            raise InputError(f"{label} changes bytes that {last.name} and {tensor.name} share in the base", SAVE_BASE)
        if (own := tensor.offset + _reach(tensor) * WIDTHS[tensor.dtype]) > end:
            last, end = tensor, own


def _reach(tensor: StoredTensor) -> int:
    """Return the number of values from a tensor's first to its last in the file."""
    if 0 in tensor.shape:
        return 0
    return 1 + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True))
