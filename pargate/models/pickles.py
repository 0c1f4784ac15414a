"""Interpret a checkpoint's pickle over plain values: nothing is imported, called or built.

A pickle is a program for a stack machine whose opcodes can import and call anything. This interpreter supports only the
opcodes for dicts, lists, plain values and tensors, and represents a global by its name. The names that torch's
weights-only reader allows are of three kinds: those of tensors are interpreted, those of plain values (a size, a dtype,
a set) are kept as `Opaque`, and those of other kinds of tensors are refused as not read. Settings that training code
saves beside the weights (`SKIPPED`, `RANDOM`) are kept as `Opaque` too. Every other name could run code.
"""

import io
import pickletools
import struct
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from pargate import limits
from pargate.errors import InputError, UnsafeCheckpoint, visible

STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}
"""Dtypes in safetensors' names, by torch's storage class."""

WIDTHS = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Bytes of one value, by dtype."""

ORDERED_DICT = "collections.OrderedDict"
REBUILD_TENSOR = "torch._utils._rebuild_tensor_v2"
REBUILD_PARAMETER = "torch._utils._rebuild_parameter"
READ = {ORDERED_DICT, REBUILD_TENSOR, REBUILD_PARAMETER, *(f"torch.{name}" for name in STORAGES)}
"""Globals in the state dict of a checkpoint."""

_PLAIN_DTYPES = {
    "float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz",
    "float8_e8m0fnu", "float4_e2m1fn_x2", "complex128", "complex64", "complex32", "bcomplex32", "bool", "bits1x8",
    "bits2x4", "bits4x2", "bits8", "bits16", "int1", "int2", "int3", "int4", "int5", "int6", "int7", "int8", "int16",
    "int32", "int64", "uint1", "uint2", "uint3", "uint4", "uint5", "uint6", "uint7", "uint8", "uint16", "uint32",
    "uint64", "qint8", "qint32", "quint8", "quint2x4", "quint4x2", "per_channel_affine",
    "per_channel_affine_float_qparams", "per_channel_symmetric", "per_tensor_affine", "per_tensor_symmetric",
}  # fmt: skip

PLAIN = {
    "_codecs.encode",  # bytes
    *(f"{module}.{kind}" for module in ("builtins", "__builtin__") for kind in ("bytearray", "complex", "set")),
    "collections.Counter",
    "torch.Size",
    "torch.device",
    "torch.serialization._get_layout",
    *(f"torch.{dtype}" for dtype in _PLAIN_DTYPES),
}
"""Globals for plain values in torch's weights-only reader; none of them changes its arguments."""

_ELEMENTS = {"BFloat16", "Byte", "Char", "Double", "Float", "Half", "Int", "Long", "Short"}

UNREAD = {
    "torch.Tensor",
    "torch._tensor._rebuild_from_type_v2",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor",
    "torch._utils._rebuild_device_tensor_from_numpy",
    "torch._utils._rebuild_meta_tensor_no_storage",
    "torch._utils._rebuild_nested_tensor",
    "torch._utils._rebuild_parameter_with_state",
    "torch._utils._rebuild_qtensor",
    "torch._utils._rebuild_sparse_tensor",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_wrapper_subclass",
    "torch.nn.parameter.Parameter",
    "torch.storage.TypedStorage",
    "torch.storage.UntypedStorage",
    *(f"torch.{kind}Storage" for kind in ("QInt8", "QInt32", "QUInt8", "QUInt2x4", "QUInt4x2")),
    *(f"torch.{place}{kind}Tensor" for place in ("", "cuda.", "sparse.", "cuda.sparse.") for kind in _ELEMENTS),
    *(f"torch.{place}BoolTensor" for place in ("", "cuda.")),
    *(
        f"torch.{place}{kind}Storage"
        for place in ("", "cuda.")
        for kind in (*_ELEMENTS, "Bool", "ComplexDouble", "ComplexFloat")
    ),
} - READ
"""Globals for other kinds of tensors in torch's weights-only reader; some change a tensor that was built before."""

_BUILTINS = ("bool", "dict", "float", "frozenset", "int", "list", "range", "slice", "str", "tuple", "xrange")
_PATHS = ("PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath")
_ATTRIBUTES = ("lightning_fabric.utilities.data", "lightning.fabric.utilities.data",
               "pytorch_lightning.utilities.parsing", "lightning.pytorch.utilities.parsing")  # fmt: skip
_NODES = ("AnyNode", "BooleanNode", "BytesNode", "FloatNode", "IntegerNode", "PathNode", "StringNode")

SKIPPED = {
    "argparse.Namespace",
    "types.SimpleNamespace",
    "collections.defaultdict",
    "collections.deque",
    "decimal.Decimal",
    "fractions.Fraction",
    "uuid.UUID",
    "typing.Any",
    "torch.torch_version.TorchVersion",
    "numpy.ndarray",
    "numpy.dtype",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")),
    *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in _BUILTINS),
    *(f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in _PATHS),
    *(f"{module}.AttributeDict" for module in _ATTRIBUTES),
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    *(f"omegaconf.nodes.{name}" for name in _NODES),
}
"""Globals for the settings and states that training code saves beside the weights. Making and filling them runs nothing
that a file could choose, and changes none of their arguments. They are skipped."""

_NUMPY = "numpy.random._pickle.__bit_generator_ctor"
_SEED = "numpy.random.bit_generator.SeedSequence"
_BIT_GENERATORS = {
    "numpy.random._mt19937.MT19937", "numpy.random._pcg64.PCG64", "numpy.random._pcg64.PCG64DXSM",
    "numpy.random._philox.Philox", "numpy.random._sfc64.SFC64",
}  # fmt: skip
_GENERATORS = {f"numpy.random._pickle.__{kind}_ctor" for kind in ("generator", "randomstate")}
_OLD = {"random.Random", "numpy.random.__RandomState_ctor"}

RANDOM = {
    *_GENERATORS, *_BIT_GENERATORS, *_OLD, _NUMPY, _SEED, "numpy.random.bit_generator.__pyx_unpickle_SeedSequence",
    "torch._C.Generator",
}  # fmt: skip
"""Globals for the states of random generators. Some call or make what they are given, so that they may be called only
with the arguments that numpy, torch and `random` write (`_is_random_state`). They are skipped like `SKIPPED`."""

KNOWN = READ | PLAIN | UNREAD
"""Globals that do not run code: the list of torch's weights-only reader, from 2.11 to 2.15."""

CLASSES = "__torch__."
"""Beginning of the names of a TorchScript archive's own classes, which exist in its program alone."""

TYPED = {
    *(f"torch.jit._pickle.build_{kind}" for kind in ("boollist", "doublelist", "intlist", "tensorlist")),
    "torch.jit._pickle.build_tensor_from_id",
    "torch.jit._pickle.restore_type_tag",
}
"""Globals for lists and dicts with the type of their items, in a TorchScript archive; they change nothing."""

PROTOCOL = 5
"""Newest protocol of pickles."""

PICKLES = 5
"""Number of pickles at the beginning of a checkpoint of torch before 1.6."""

CONVERT = (
    "if you trust where the file comes from, convert it once, on a machine that may be lost: "
    'python -c "import sys, torch; from safetensors.torch import save_file; '
    "d = torch.load(sys.argv[1], map_location='cpu', weights_only=False); d = d.get('state_dict', d); "
    'save_file({k: v.contiguous().clone() for k, v in d.items()}, sys.argv[2])" OLD NEW.safetensors'
)
"""Advice for a pickle that would run code."""

SAVE_AGAIN = "save the weights again, best as safetensors"
"""Advice for a file that two readers could read differently."""


@dataclass(frozen=True, slots=True)
class _Global:
    """A global of the pickle, of which only the name is used."""

    name: str


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of values in the archive."""

    key: str
    """Name of its member under `data/`."""
    dtype: str
    values: int
    """Number of values."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of the pickle: a view of a storage."""

    storage: Storage
    first: int
    """Index of its first value in the storage."""
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """Strides along each axis, in values."""


@dataclass(frozen=True, slots=True, eq=False)
class Opaque:
    """A value that is not built here, or a dict key that is not text.

    As a key it differs from every other. Keys are not hashed by their value, since hashing deeply nested tuples can
    crash the process.
    """

    name: str
    """Description for messages."""


@dataclass(slots=True, eq=False)
class Module:
    """An object of a TorchScript class: its attributes, as data."""

    attributes: dict[str, Any] | None = None
    """The attributes by name, or None until they are set."""


class Ordered(dict[Any, Any]):
    """An `OrderedDict`, which unlike a dict may have attributes."""


@dataclass(frozen=True, slots=True)
class Described:
    """The result of interpreting a pickle."""

    value: Any
    """Value of the pickle: dicts, lists, tuples, plain values, `Opaque` and `Tensor`."""
    storages: dict[str, Storage]
    """Storages that the pickle names, by key."""


_MARK = object()

_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": lambda: Opaque("a set"),
    "MARK": lambda: _MARK,
}

_LITERALS = {
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINBYTES",
    "SHORT_BINBYTES",
}  # fmt: skip

_STRINGS = {"STRING", "BINSTRING", "SHORT_BINSTRING"}
"""Operations for text without an encoding, which torch reads as UTF-8, others as Latin-1, ASCII or bytes."""

_CALLS = {"REDUCE", "BUILD", "NEWOBJ", "NEWOBJ_EX", "OBJ", "INST"}
_STORES = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_FETCHES = {"GET", "BINGET", "LONG_BINGET"}


def interpret(content: bytes, name: str, *, modules: bool = False) -> Described:
    """Return the content of a pickle; `name` is its file's, for messages.

    With `modules`, objects of a TorchScript archive's own classes are kept as their attributes.

    Raises:
        UnsafeCheckpoint: the pickle could run code, or two readers could read it differently.
        InputError: the pickle is damaged, or holds something that pargate does not read.
    """
    try:
        return _Machine(content, name, modules).run()
    except InputError:
        if (found := search(content, scripted=modules)).names:
            raise _unsafe(name, f"its pickle {found}") from None
        raise


NAMED = 4
"""Largest number of globals that a message names."""


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a search for code."""

    names: tuple[str, ...]
    """Names of the first globals that could run code."""
    call: str
    """First operation that calls something after such a name, or empty."""
    complete: bool
    """Whether every pickle was read to its end."""

    def __str__(self) -> str:
        called = f", and calls by {self.call}" if self.call else ""
        return f"names {', '.join(shown(name) for name in self.names)}{called}"


def is_marked(content: bytes) -> bool:
    """Return whether content begins as pickles do from protocol 2 on."""
    return content[:1] == b"\x80" and content[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")


def search(content: bytes, pickles: int = 1, *, scripted: bool = False) -> Found:
    """Search the first `pickles` pickles of `content` for globals that could run code.

    In a TorchScript archive (`scripted`), the names of its own classes could not.
    """
    names: dict[str, None] = {}
    call, left, ended = "", limits.OPERATIONS, 0
    stream = io.BytesIO(content)
    try:
        while ended < pickles and stream.tell() < len(content):
            pushed: list[str | None] = [None, None]
            memo: dict[int, str | None] = {}
            marked = False
            argument: Any
            for operation, argument, _ in pickletools.genops(stream):
                left -= 1
                if not left:
                    return Found(tuple(names)[:NAMED], call, complete=False)
                marked |= operation.name == "MARK"
                named = _named(operation.name, argument, pushed)
                if named is not None and (operation.name != "INST" or marked):
                    names |= {} if _harmless(named, scripted) else {named: None}
                if names and operation.name in _CALLS:
                    call = call or operation.name
                if operation.name in _STORES:
                    memo[len(memo) if argument is None else int(argument)] = pushed[-1]
                elif operation.stack_after:
                    text = memo.get(int(argument)) if operation.name in _FETCHES else argument
                    pushed = [pushed[-1], text if isinstance(text, str) else None]
            ended += 1
    except (ValueError, IndexError, KeyError, struct.error, UnicodeError, OverflowError, Warning):
        # pickletools warns of odd escapes, which is an error where warnings are errors.
        return Found(tuple(names)[:NAMED], call, complete=False)
    return Found(tuple(names)[:NAMED], call, complete=True)


def _named(operation: str, argument: Any, pushed: list[str | None]) -> str | None:
    """Return the global that an operation names, or None."""
    if operation in ("GLOBAL", "INST"):
        return str(argument).replace(" ", ".", 1)
    if operation == "STACK_GLOBAL":
        return ".".join("?" if text is None else text for text in pushed)
    return f"extension {argument}" if operation in ("EXT1", "EXT2", "EXT4") else None


def _harmless(name: str, scripted: bool) -> bool:
    """Return whether a global could not run code, in a checkpoint or in a TorchScript archive (`scripted`)."""
    return name in KNOWN | SKIPPED | RANDOM or (scripted and (name in TYPED or name.startswith(CLASSES)))


def _unsafe(name: str, why: str) -> UnsafeCheckpoint:
    return UnsafeCheckpoint(f"{name} could run code when it is loaded: {why}", CONVERT)


class _Machine:
    """The interpreter of one pickle, with a stack and a memo of plain values."""

    def __init__(self, content: bytes, name: str, modules: bool) -> None:
        self.content = content
        self.name = name
        self.modules = modules
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}
        self.attributes = 0

    def run(self) -> Described:
        """Return the content of the pickle."""
        try:
            for number, (operation, argument, position) in enumerate(pickletools.genops(io.BytesIO(self.content))):
                if number == limits.OPERATIONS:
                    raise InputError(f"{self.name}: its data.pkl has too many operations", "save the tensors alone")
                if operation.name == "STOP":
                    if position != len(self.content) - 1:
                        self.differs("a second pickle follows")
                    return Described(self.last(1)[0], self.storages)
                self.step(operation.name, argument, position or 0)
        except (ValueError, IndexError, TypeError, KeyError, struct.error, UnicodeError) as error:
            raise InputError(
                f"{self.name}: its data.pkl is damaged ({type(error).__name__})", "copy or download it again"
            ) from error
        raise InputError(f"{self.name}: its data.pkl has no end", "copy or download it again")

    def step(self, operation: str, argument: Any, position: int) -> None:
        """Execute one operation; raise for those that a checkpoint of tensors does not need."""
        if operation in _LITERALS:
            self.stack.append(argument)
        elif operation in _CONSTANTS:
            self.stack.append(_CONSTANTS[operation]())
        elif operation in ("BINPUT", "LONG_BINPUT"):
            self.memo[int(argument)] = self.top()
        elif operation == "MEMOIZE":
            self.memo[len(self.memo)] = self.top()
        elif operation in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[int(argument)])
        elif operation in ("TUPLE1", "TUPLE2", "TUPLE3"):
            self.stack.append(self.last(int(operation[-1])))
        elif operation == "TUPLE":
            self.stack.append(self.marked())
        elif operation in ("APPEND", "APPENDS"):
            items = self.marked() if operation == "APPENDS" else self.last(1)
            self.filled(list).extend(items)
        elif operation in ("SETITEM", "SETITEMS"):
            items = self.marked() if operation == "SETITEMS" else self.last(2)
            keys = (key if type(key) is str else Opaque(f"a key of type {type(key).__name__}") for key in items[::2])
            self.filled(dict, Ordered).update(zip(keys, items[1::2], strict=True))
        elif operation == "GLOBAL":
            # Taken from the bytes: pickletools would resolve escapes, and torch does not.
            middle = self.content.index(b"\n", position)
            module = self.content[position + 1 : middle].decode("ascii")
            qualified = self.content[middle + 1 : self.content.index(b"\n", middle + 1)].decode("ascii")
            self.stack.append(self.known(f"{module}.{qualified}"))
        elif operation == "STACK_GLOBAL":
            module, qualified = self.last(2)
            if not isinstance(module, str) or not isinstance(qualified, str):
                raise TypeError  # without the value, since printing deeply nested lists may never end
            self.stack.append(self.known(f"{module}.{qualified}"))
        elif operation == "BINPERSID":
            self.stack.append(self.storage(*self.last(1)))
        elif operation == "NEWOBJ" and self.makes_module():
            self.last(2)
            self.stack.append(Module())
        elif operation == "BUILD" and len(self.stack) > 1 and isinstance(self.stack[-2], Module):
            (state,) = self.last(1)
            self.set_up(self.stack[-1], state)
        elif operation == "REDUCE" or (operation == "NEWOBJ" and self.makes_plain()):
            self.stack.append(self.call(*self.last(2)))
        elif operation == "BUILD":
            (state,) = self.last(1)
            target = self.filled(Ordered)
            # An ordered dict has `_metadata`, the versions of torch's modules, which are not read here.
            if target is self.stack[-1] and (
                not isinstance(state, dict) or any(type(k) is not str or hasattr(OrderedDict, k) for k in state)
            ):
                self.differs("its pickle replaces the methods of a dict")
        elif operation in _STRINGS:
            self.differs(f"its pickle uses {operation}, text that names no encoding")
        elif operation in _CALLS or operation.startswith(("EXT", "PERSID")):
            self.unsafe(f"its pickle uses {operation}")
        elif operation == "PROTO":
            if argument > PROTOCOL:
                raise ValueError
        elif operation == "FRAME":
            if position + 9 + argument > len(self.content):
                raise ValueError
        else:
            self.unread(f"its pickle uses {operation}")

    def last(self, count: int) -> tuple[Any, ...]:
        """Pop the topmost `count` values."""
        if len(self.stack) < count:
            raise IndexError
        values = tuple(self.stack[-count:])
        if any(value is _MARK for value in values):
            raise ValueError
        del self.stack[-count:]
        return values

    def marked(self) -> tuple[Any, ...]:
        """Pop the topmost mark, and return the values above it."""
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise IndexError
        values = tuple(self.stack[at + 1 :])
        del self.stack[at:]
        return values

    def top(self) -> Any:
        """Return the topmost value and leave it on the stack."""
        if self.stack[-1] is _MARK:
            raise ValueError
        return self.stack[-1]

    def made(self) -> str:
        """Return the name of the class of NEWOBJ, which is on the stack below the arguments, or an empty text."""
        kind = self.stack[-2] if len(self.stack) > 1 else None
        return kind.name if isinstance(kind, _Global) else ""

    def makes_plain(self) -> bool:
        """Return whether NEWOBJ makes a value that is not interpreted."""
        return self.made() in PLAIN | UNREAD | SKIPPED

    def makes_module(self) -> bool:
        """Return whether NEWOBJ makes an object of a TorchScript class."""
        return self.made().startswith(CLASSES) and self.stack[-1] == ()

    def set_up(self, module: Module, state: Any) -> None:
        """Give a module its attributes."""
        if not isinstance(state, dict) or any(
            type(key) is not str or "." in key or len(key) > limits.TENSOR_NAME for key in state
        ):
            self.unread("a module in it has a state of its own form")
        if module.attributes is not None:
            self.differs("its pickle sets the attributes of a module twice")
        self.attributes += len(state)  # of a dict that many modules may share
        if self.attributes > limits.OPERATIONS:
            self.unread("its modules have more attributes than any CLIP")
        module.attributes = dict(state)

    def filled(self, *kinds: type) -> Any:
        """Return the topmost value, which must be of one of `kinds`: filling another object could call its methods."""
        if isinstance(self.stack[-1], Opaque) and self.stack[-1].name in SKIPPED | RANDOM:
            return kinds[0]()  # forgotten at once
        if isinstance(self.stack[-1], Opaque):
            self.unread(f"its pickle fills in {self.stack[-1].name}")
        if type(self.stack[-1]) not in kinds:
            self.differs("its pickle fills in something other than a dict or list")
        return self.stack[-1]

    def known(self, name: str) -> _Global:
        if not _harmless(name, self.modules):
            self.unsafe(f"its pickle names {shown(name)}")
        return _Global(name)

    def storage(self, identity: Any) -> Storage:
        match identity:
            case ("storage", _Global(name), str(key), str(), values) if type(values) is int and values >= 0:
                if len(key) > limits.KEY_LENGTH:
                    raise ValueError
                kind = STORAGES.get(name.removeprefix("torch."))
                if kind is None:
                    self.unread(f"it holds values of {name.removeprefix('torch.')}")
                found = Storage(key, kind, values)
                if self.storages.setdefault(key, found) != found:
                    self.differs(f"its pickle gives the storage {shown(key)} two dtypes or two sizes")
                return found
        return self.differs("its pickle refers to something other than a storage")

    def call(self, function: Any, arguments: Any) -> Any:
        """Return the result of calling an allowed global with these arguments, as a plain value."""
        match function, arguments:
            case _Global(name), () if name == ORDERED_DICT:
                return Ordered()
            case _Global(name), (
                Storage() as storage,
                int(first),
                tuple(shape),
                tuple(strides),
                bool(),
                dict(),
                *metadata,
            ) if name == REBUILD_TENSOR:
                if any(metadata) or len(metadata) > 1:
                    self.differs("its pickle marks a tensor as negated, or in another way that changes it")
                counts = (first, *shape, *strides)
                if len(shape) != len(strides) or not all(type(v) is int and 0 <= v < 1 << 63 for v in counts):
                    raise ValueError
                if not is_shape(shape):
                    raise ValueError
                last = first + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
                if 0 not in shape and last >= storage.values:
                    raise InputError(
                        f"{self.name} is damaged: a tensor leaves its storage", "copy or download it again"
                    )
                return Tensor(storage, first, shape, strides)
            case _Global(name), (Tensor() as tensor, bool(), dict()) if name == REBUILD_PARAMETER:
                return tensor
            case _Global(name), tuple() if name in PLAIN | SKIPPED | TYPED:
                return Opaque(name)
            case _Global(name), tuple() if _is_random_state(name, arguments):
                return Opaque(name)
            case _Global(name), _ if name in UNREAD:
                self.unread(f"it holds a kind of tensor that {name} makes")
        return self.differs("its pickle calls something with arguments that torch would not write")

    def unsafe(self, why: str) -> NoReturn:
        """Raise the error for a file that could run code when it is loaded in the usual way."""
        raise _unsafe(self.name, why)

    def differs(self, why: str) -> NoReturn:
        """Raise the error for a file that two readers could read differently."""
        raise UnsafeCheckpoint(f"{self.name} means different models to different readers: {why}", SAVE_AGAIN)

    def unread(self, why: str) -> NoReturn:
        """Raise the error for a harmless file that pargate does not read."""
        raise InputError(f"{self.name} is not read: {why}", "save model.state_dict() in float32 or float16")


def _is_random_state(name: str, arguments: tuple[Any, ...]) -> bool:
    """Return whether a global of `RANDOM` is called as its library writes it: nothing that a file chooses is called."""
    match arguments:
        case ():
            return name in _OLD
        case (str(),):  # numpy before 1.24
            return name in _GENERATORS | {_NUMPY}
        case (_Global(kind),):
            return name == _NUMPY and kind in _BIT_GENERATORS
        case (Opaque(kind),):
            return (name, kind) == ("torch._C.Generator", "torch.device") or (name in _GENERATORS and kind == _NUMPY)
        case (str(), _Global(kind)):  # numpy 1.24 to 1.26
            return name in _GENERATORS and kind == _NUMPY
        case (_Global(kind), int(), tuple() | None):
            return name == "numpy.random.bit_generator.__pyx_unpickle_SeedSequence" and kind == _SEED
    return False


def is_shape(sides: Sequence[int]) -> bool:
    """Return whether torch supports a shape: few sides, whose product without zeros is below 2 ** 63."""
    product = 1
    for side in sides[: limits.RANK]:
        product *= side or 1
        if product >> 63:
            return False
    return len(sides) <= limits.RANK


def shown(text: str) -> str:
    """Return the beginning of untrusted text, for a message."""
    return visible(text[:80])
