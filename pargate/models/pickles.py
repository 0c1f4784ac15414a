"""A checkpoint's pickle, interpreted over plain values: nothing is looked up, called or built.

A pickle is a program for a stack machine whose opcodes can import and call anything. This machine knows
only those that describe dicts, lists, plain values and tensors; a global is its name, and there is no way from
here to a class or function of the process. The names that torch's weights-only reader permits fall in three: those
that tensors need are understood, those that make plain values (a size, a dtype, a set) stand for themselves and are
left alone, and other kinds of tensors are refused as not read. Every other name could run code.
"""

import io
import pickletools
import struct
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

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
"""torch's storage classes, and what safetensors calls the dtype."""

WIDTHS = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Bytes of one value."""

ORDERED_DICT = "collections.OrderedDict"
REBUILD_TENSOR = "torch._utils._rebuild_tensor_v2"
REBUILD_PARAMETER = "torch._utils._rebuild_parameter"
READ = {ORDERED_DICT, REBUILD_TENSOR, REBUILD_PARAMETER, *(f"torch.{name}" for name in STORAGES)}
"""The globals that the state dict of a checkpoint needs."""

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
"""What torch's weights-only reader makes besides tensors. None of it changes what it is given, so it is left alone."""

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
"""Other tensors that torch's weights-only reader makes. Some of them change a tensor that was made before."""

KNOWN = READ | PLAIN | UNREAD
"""Every global that does not run code: the list of torch's weights-only reader, from 2.11 to 2.15."""

PROTOCOL = 5
"""The newest protocol of pickles."""

PICKLES = 5
"""How many pickles a checkpoint of torch before 1.6 begins with."""

OPERATIONS = 500_000
"""Bound on the operations that are looked at: 20,000 tensors take as many, the largest CLIPs have three thousand."""

CONVERT = (
    "if you trust where the file comes from, convert it once, on a machine that may be lost: "
    'python -c "import sys, torch; from safetensors.torch import save_file; '
    "d = torch.load(sys.argv[1], map_location='cpu', weights_only=False); d = d.get('state_dict', d); "
    'save_file({k: v.contiguous().clone() for k, v in d.items()}, sys.argv[2])" OLD NEW.safetensors'
)
"""What to do with a pickle that would run code."""

SAVE_AGAIN = "save the weights again, best as safetensors"
"""What to do with a file that two readers could read differently."""


@dataclass(frozen=True, slots=True)
class _Global:
    """A name that the pickle mentions; it stands for nothing."""

    name: str


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of values in the archive."""

    key: str
    """Name of its member under `data/`."""
    dtype: str
    values: int
    """How many there are."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor as the pickle describes it: a view of a storage."""

    storage: Storage
    first: int
    """Its first value, counted in values of the storage."""
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """Steps along each axis, in values."""


@dataclass(frozen=True, slots=True, eq=False)
class Opaque:
    """A value that the pickle describes and nothing here makes, or the key of a dict that is no text.

    As a key it differs from every other: keys are not hashed by their value, since the hash of a tuple in a tuple
    in a tuple … can take the process down.
    """

    name: str
    """What it is, for messages."""


class Ordered(dict[Any, Any]):
    """An `OrderedDict`, which unlike a dict may carry attributes."""


@dataclass(frozen=True, slots=True)
class Described:
    """What a pickle describes."""

    value: Any
    """Dicts, lists, tuples, plain values, `Opaque` and `Tensor`."""
    storages: dict[str, Storage]
    """Every storage that it names, by key."""


RANK = 64
"""Bound on the sides of a tensor."""

KEY_LENGTH = 1024
"""Bound on the name of a storage, which every tensor in it is looked up by."""

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
"""Text without an encoding: torch reads it as UTF-8, others as Latin-1, ASCII or bytes."""

_CALLS = {"REDUCE", "BUILD", "NEWOBJ", "NEWOBJ_EX", "OBJ", "INST"}
_STORES = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_FETCHES = {"GET", "BINGET", "LONG_BINGET"}


def interpret(content: bytes, name: str) -> Described:
    """What a pickle describes; `name` is its file.

    Raises:
        UnsafeCheckpoint: it names, calls or builds what could run code, or two readers could read it differently.
        InputError: it is damaged, or holds what pargate does not read.
    """
    try:
        return _Machine(content, name).run()
    except InputError:
        if (found := search(content)).name is not None:
            raise _unsafe(name, f"its pickle names {shown(found.name)}") from None
        raise


@dataclass(frozen=True, slots=True)
class Found:
    """What a search for code found."""

    name: str | None
    """The first global that could run code."""
    called: bool
    """Whether a call follows it."""
    complete: bool
    """Whether every pickle was seen to its end."""


def search(content: bytes, pickles: int = 1) -> Found:
    """Search the `pickles` that `content` begins with for globals that could run code, whatever else is in them."""
    name, called, left, ended = None, False, OPERATIONS, 0
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
                    return Found(name, called, complete=False)
                marked |= operation.name == "MARK"
                named = _named(operation.name, argument, pushed)
                if named is not None and (operation.name != "INST" or marked):
                    name = name or (named if named not in KNOWN else None)
                called |= name is not None and operation.name in _CALLS
                if operation.name in _STORES:
                    memo[len(memo) if argument is None else int(argument)] = pushed[-1]
                elif operation.stack_after:
                    text = memo.get(int(argument)) if operation.name in _FETCHES else argument
                    pushed = [pushed[-1], text if isinstance(text, str) else None]
            ended += 1
    except (ValueError, IndexError, KeyError, struct.error, UnicodeError, OverflowError):
        return Found(name, called, complete=False)
    return Found(name, called, complete=True)


def _named(operation: str, argument: Any, pushed: list[str | None]) -> str | None:
    """The global that an operation names, if it names any."""
    if operation in ("GLOBAL", "INST"):
        return str(argument).replace(" ", ".", 1)
    if operation == "STACK_GLOBAL":
        return ".".join("?" if text is None else text for text in pushed)
    return f"extension {argument}" if operation in ("EXT1", "EXT2", "EXT4") else None


def _unsafe(name: str, why: str) -> UnsafeCheckpoint:
    return UnsafeCheckpoint(f"{name} could run code when it is loaded: {why}", CONVERT)


class _Machine:
    """Interprets one pickle over plain values, with a stack and a memo and no way out of them."""

    def __init__(self, content: bytes, name: str) -> None:
        self.content = content
        self.name = name
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def run(self) -> Described:
        """What the pickle describes."""
        try:
            for number, (operation, argument, position) in enumerate(pickletools.genops(io.BytesIO(self.content))):
                if number == OPERATIONS:
                    raise InputError(f"{self.name}: its data.pkl goes on and on", "save the tensors alone")
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
        """One operation. Those that are not here could only serve to build or call something else."""
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
            # As it is written: pickletools would resolve escapes, which torch does not.
            middle = self.content.index(b"\n", position)
            module = self.content[position + 1 : middle].decode("ascii")
            qualified = self.content[middle + 1 : self.content.index(b"\n", middle + 1)].decode("ascii")
            self.stack.append(self.known(f"{module}.{qualified}"))
        elif operation == "STACK_GLOBAL":
            module, qualified = self.last(2)
            if not isinstance(module, str) or not isinstance(qualified, str):
                raise TypeError  # nor is it written out, which for lists of lists of lists … may never end
            self.stack.append(self.known(f"{module}.{qualified}"))
        elif operation == "BINPERSID":
            self.stack.append(self.storage(*self.last(1)))
        elif operation == "REDUCE" or (operation == "NEWOBJ" and self.makes_plain()):
            self.stack.append(self.call(*self.last(2)))
        elif operation == "BUILD":
            (state,) = self.last(1)
            self.filled(Ordered)
            # An ordered dict carries `_metadata`, the versions of torch's modules; nothing here reads them.
            if not isinstance(state, dict) or any(type(k) is not str or hasattr(OrderedDict, k) for k in state):
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
        """The topmost `count` values, taken off the stack."""
        if len(self.stack) < count:
            raise IndexError
        values = tuple(self.stack[-count:])
        if any(value is _MARK for value in values):
            raise ValueError
        del self.stack[-count:]
        return values

    def marked(self) -> tuple[Any, ...]:
        """The values above the topmost mark, taken off the stack together with it."""
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise IndexError
        values = tuple(self.stack[at + 1 :])
        del self.stack[at:]
        return values

    def top(self) -> Any:
        """The topmost value, which stays."""
        if self.stack[-1] is _MARK:
            raise ValueError
        return self.stack[-1]

    def makes_plain(self) -> bool:
        """Whether NEWOBJ, whose class and arguments are on the stack, makes a value that is left alone."""
        kind = self.stack[-2] if len(self.stack) > 1 else None
        return isinstance(kind, _Global) and kind.name in PLAIN | UNREAD

    def filled(self, *kinds: type) -> Any:
        """The topmost value, which must be of one of `kinds`: filling anything else would be a call in disguise."""
        if isinstance(self.stack[-1], Opaque):
            self.unread(f"its pickle fills in {self.stack[-1].name}")
        if type(self.stack[-1]) not in kinds:
            self.differs("its pickle fills in something else than a dict or list")
        return self.stack[-1]

    def known(self, name: str) -> _Global:
        if name not in KNOWN:
            self.unsafe(f"its pickle names {shown(name)}")
        return _Global(name)

    def storage(self, identity: Any) -> Storage:
        match identity:
            case ("storage", _Global(name), str(key), str(), values) if type(values) is int and values >= 0:
                if len(key) > KEY_LENGTH:
                    raise ValueError
                kind = STORAGES.get(name.removeprefix("torch."))
                if kind is None:
                    self.unread(f"it holds values of {name.removeprefix('torch.')}")
                found = Storage(key, kind, values)
                if self.storages.setdefault(key, found) != found:
                    self.differs(f"its pickle gives the storage {shown(key)} two dtypes or two sizes")
                return found
        return self.differs("its pickle refers to something else than a storage")

    def call(self, function: Any, arguments: Any) -> Any:
        """What a call of an allowed global with these arguments would have made, as a plain value."""
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
            case _Global(name), tuple() if name in PLAIN:
                return Opaque(name)
            case _Global(name), _ if name in UNREAD:
                self.unread(f"it holds a kind of tensor that {name} makes")
        return self.differs("its pickle calls something with arguments that torch would not write")

    def unsafe(self, why: str) -> NoReturn:
        """Refuse the file: loading it in the usual way could run code."""
        raise _unsafe(self.name, why)

    def differs(self, why: str) -> NoReturn:
        """Refuse the file: what one reader takes from it, another does not."""
        raise UnsafeCheckpoint(f"{self.name} means different models to different readers: {why}", SAVE_AGAIN)

    def unread(self, why: str) -> NoReturn:
        """Refuse the file: nothing in it runs code, and pargate does not read all of it."""
        raise InputError(f"{self.name} is not read: {why}", "save model.state_dict() in float32 or float16")


def is_shape(sides: Sequence[int]) -> bool:
    """Whether torch could hold these sides: few, and their product, zeros left out, below 2 ** 63."""
    product = 1
    for side in sides[:RANK]:
        product *= side or 1
        if product >> 63:
            return False
    return len(sides) <= RANK


def shown(text: str) -> str:
    """Return the beginning of foreign text, for a message."""
    return visible(text[:80])
