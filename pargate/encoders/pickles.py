"""A checkpoint's pickle, interpreted over plain values: nothing is looked up, called or built.

A pickle is a program for a stack machine whose opcodes can import and call anything. This machine knows
only those that describe dicts, lists, plain values and tensors; a global is its name, and the handful that
tensors need are known by exact name. There is no way from here to a class or function of the process.
"""

import io
import pickletools
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from pargate.errors import InputError, UnsafeCheckpoint

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
ALLOWED = {ORDERED_DICT, REBUILD_TENSOR, REBUILD_PARAMETER, *(f"torch.{name}" for name in STORAGES)}
"""Every global that a pickle may name."""

CONVERT = (
    "if you trust where the file comes from, convert it once, on a machine that may be lost: "
    'python -c "import sys, torch; from safetensors.torch import save_file; '
    "d = torch.load(sys.argv[1], map_location='cpu', weights_only=False); d = d.get('state_dict', d); "
    'save_file({k: v.contiguous().clone() for k, v in d.items()}, sys.argv[2])" OLD NEW.safetensors'
)
"""What to do with a pickle that would run code."""


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


RANK = 64
"""Bound on the sides of a tensor."""

OPERATIONS = 500_000
"""Bound on the operations of a pickle: 20,000 tensors take as many, the largest CLIPs have three thousand."""

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
    "MARK": lambda: _MARK,
}

_LITERALS = {
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINBYTES",
    "SHORT_BINBYTES", "BINSTRING", "SHORT_BINSTRING",
}  # fmt: skip

_IGNORED = {"PROTO", "FRAME"}


def interpret(content: bytes, name: str) -> Any:
    """The value that a pickle describes: dicts, lists, tuples, plain values and `Tensor`; `name` is its file.

    Raises:
        UnsafeCheckpoint: it names, calls or builds anything else.
        InputError: it is damaged.
    """
    return _Machine(name).run(content)


class _Machine:
    """Interprets one pickle over plain values, with a stack and a memo and no way out of them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, content: bytes) -> Any:
        """The value that the pickle describes: dicts, lists, tuples, plain values and `Tensor`."""
        try:
            for number, (operation, argument, position) in enumerate(pickletools.genops(io.BytesIO(content))):
                if number == OPERATIONS:
                    raise InputError(f"{self.name}: its data.pkl goes on and on", "save the tensors alone")
                if operation.name == "STOP":
                    if position != len(content) - 1:
                        self.unsafe("a second pickle follows")
                    return self.stack.pop()
                self.step(operation.name, argument)
        except (ValueError, IndexError, TypeError, KeyError, struct.error, UnicodeError) as error:
            raise InputError(
                f"{self.name}: its data.pkl is damaged ({type(error).__name__})", "copy or download it again"
            ) from error
        raise InputError(f"{self.name}: its data.pkl has no end", "copy or download it again")

    def step(self, operation: str, argument: Any) -> None:
        """One operation. Those that are not here could only serve to build or call something else."""
        if operation in _LITERALS:
            self.stack.append(argument)
        elif operation in _CONSTANTS:
            self.stack.append(_CONSTANTS[operation]())
        elif operation in ("BINPUT", "LONG_BINPUT"):
            self.memo[int(argument)] = self.stack[-1]
        elif operation == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif operation in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[int(argument)])
        elif operation in ("TUPLE1", "TUPLE2", "TUPLE3"):
            self.stack.append(self.last(int(operation[-1])))
        elif operation == "TUPLE":
            self.stack.append(self.marked())
        elif operation in ("APPEND", "APPENDS"):
            items = self.marked() if operation == "APPENDS" else self.last(1)
            self.top(list).extend(items)
        elif operation in ("SETITEM", "SETITEMS"):
            items = self.marked() if operation == "SETITEMS" else self.last(2)
            # Keys are hashed, and the hash of a tuple in a tuple in a tuple … can take the process down.
            if not all(isinstance(key, str | int) for key in items[::2]):
                self.unsafe("its pickle has a dict with keys other than names and numbers")
            if any(isinstance(key, int) and abs(key) >= sys.hash_info.modulus for key in items[::2]):
                raise ValueError  # such numbers can all have one hash
            self.top(dict).update(zip(items[::2], items[1::2], strict=True))
        elif operation == "GLOBAL":
            self.stack.append(self.known(str(argument).replace(" ", ".", 1)))
        elif operation == "STACK_GLOBAL":
            module, qualified = self.last(2)
            if not (isinstance(module, str) and isinstance(qualified, str)):
                raise TypeError  # nor is it written out, which for lists of lists of lists … may never end
            self.stack.append(self.known(f"{module}.{qualified}"))
        elif operation == "BINPERSID":
            self.stack.append(self.storage(self.stack.pop()))
        elif operation == "REDUCE":
            function, arguments = self.last(2)
            self.stack.append(self.call(function, arguments))
        elif operation == "BUILD":
            # An ordered dict carries `_metadata`, the versions of torch's modules; nothing here reads them.
            self.stack.pop()
            self.top(dict)
        elif operation not in _IGNORED:
            self.unsafe(f"its pickle uses {operation}")

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

    def top(self, kind: type) -> Any:
        """The topmost value, which must be of `kind`: filling anything else would be a call in disguise."""
        if type(self.stack[-1]) is not kind:
            self.unsafe("its pickle fills in something else than a dict or list")
        return self.stack[-1]

    def known(self, name: str) -> _Global:
        if name not in ALLOWED:
            self.unsafe(f"its pickle names {shown(name)}")
        return _Global(name)

    def storage(self, identity: Any) -> Storage:
        match identity:
            case ("storage", _Global(name), str(key), str(), int(values)):
                if len(key) > KEY_LENGTH:
                    raise ValueError
                if kind := STORAGES.get(name.removeprefix("torch.")):
                    return Storage(key, kind, values)
        return self.unsafe("its pickle refers to something else than a storage")

    def call(self, function: Any, arguments: Any) -> Any:
        """What a call of an allowed global with these arguments would have made, as a plain value."""
        match function, arguments:
            case _Global(name), () if name == ORDERED_DICT:
                return {}
            case _Global(name), (
                Storage() as storage,
                int(first),
                tuple(shape),
                tuple(strides),
                bool(),
                dict(),
                *_,
            ) if name == REBUILD_TENSOR:
                counts = (first, *shape, *strides)
                if len(shape) != len(strides) or not all(type(v) is int and 0 <= v < 1 << 63 for v in counts):
                    raise ValueError
                if not is_shape(shape):
                    raise ValueError
                return Tensor(storage, first, shape, strides)
            case _Global(name), (Tensor() as tensor, bool(), dict()) if name == REBUILD_PARAMETER:
                return tensor
        return self.unsafe("its pickle calls something with arguments that torch would not write")

    def unsafe(self, why: str) -> NoReturn:
        """Refuse the file: loading it in the usual way could run code."""
        raise UnsafeCheckpoint(f"{self.name} could run code when it is loaded: {why}", CONVERT)


def is_shape(sides: Sequence[int]) -> bool:
    """Whether torch could hold these sides: few, and their product, zeros left out, below 2 ** 63."""
    product = 1
    for side in sides[:RANK]:
        product *= side or 1
        if product >> 63:
            return False
    return len(sides) <= RANK


def shown(text: str) -> str:
    """Foreign text for a message: one line, of bounded length."""
    return "".join(c if c.isprintable() else "?" for c in text[:80])
