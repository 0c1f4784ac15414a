"""Pickles that run code, in every protocol, by every opcode and chain, and in every wrapping."""

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from made import CANARY, Case, bare, in_folder, zipped

GLOBALS = (
    "os.system", "posix.system", "nt.system", "os.popen", "os.execve", "os.spawnl", "os.remove", "os.mkdir",
    "subprocess.Popen", "subprocess.call", "subprocess.check_output", "builtins.eval", "builtins.exec",
    "builtins.compile", "builtins.getattr", "builtins.__import__", "builtins.open", "__builtin__.eval",
    "__builtin__.apply", "importlib.import_module", "runpy.run_path", "runpy._run_code", "pty.spawn", "ctypes.CDLL",
    "shutil.rmtree", "socket.create_connection", "urllib.request.urlopen", "webbrowser.open", "timeit.timeit",
    "cProfile.run", "pdb.run", "code.interact", "functools.partial", "operator.attrgetter", "operator.methodcaller",
    "types.FunctionType", "types.CodeType", "marshal.loads", "pickle.loads", "_pickle.loads", "dill.loads",
    "cloudpickle.loads", "joblib.load", "numpy.load", "torch.load", "torch.hub.load", "torch.jit.load",
    "torch.utils.cpp_extension.load", "torch.utils._config_module.load_config", "torch._dynamo.guards.GuardBuilder.get",
    "torch.nn.modules.linear.Linear", "torch._C._jit_get_operation", "torch.storage._load_from_bytes",
    "torch.distributed.rpc.internal._run_function", "numpy.testing._private.utils.runstring",
    "pip._internal.main", "pydoc.locate", "sys.settrace", "sys.exit",
    "asyncio.run", "multiprocessing.Process", "site.main", "venv.create", "logging.config.dictConfig",
    "idlelib.run.Executive", "lib2to3.pgen2.pgen.ParserGenerator", "zipimport.zipimporter", "_io.FileIO", "io.open",
    "test.support.script_helper.assert_python_ok", "tempfile.mktemp", "copyreg._reconstructor",
)  # fmt: skip
"""Globals that attacks on pickles have used, and others that no checkpoint needs."""


def word(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def named(name: str, protocol: int) -> bytes:
    """The operations that name a global: GLOBAL, or STACK_GLOBAL from protocol 4 on."""
    module, _, function = name.rpartition(".")
    return word(module) + word(function) + b"\x93" if protocol >= 4 else f"c{module}\n{function}\n".encode()


def head(protocol: int) -> bytes:
    return b"" if protocol < 2 else b"\x80" + bytes([protocol])


def call(name: str, protocol: int = 2, argument: str = f"touch {CANARY}") -> bytes:
    """A pickle that calls a global with one text."""
    text = b"(V" + argument.encode() + b"\n" if protocol < 2 else b"(" + word(argument)
    return head(protocol) + named(name, protocol) + text + b"tR."


CALL = call("os.system")
FRAMED = b"\x80\x04\x95" + struct.pack("<Q", len(call("os.system", 4)) - 2) + call("os.system", 4)[2:]

CHAINS: dict[str, bytes] = {
    "REDUCE": CALL,
    "a frame": FRAMED,
    "a frame that claims too much": b"\x80\x04\x95" + b"\xff" * 7 + b"\x0f" + call("os.system", 4)[2:],
    "INST": b"(V" + b"touch ran\n" + b"ios\nsystem\n.",
    "OBJ": b"(" + named("os.system", 2) + word("touch ran") + b"o.",
    "NEWOBJ": b"\x80\x02" + named("subprocess.Popen", 2) + b"(" + word("touch ran") + b"t\x81.",
    "NEWOBJ_EX": b"\x80\x04" + named("subprocess.Popen", 4) + b"(" + word("touch ran") + b"t}\x92.",
    "BUILD": b"\x80\x02" + named("os.system", 2) + b"(" + word("touch ran") + b"tRN" + b"b.",
    "STACK_GLOBAL from the memo": b"\x80\x04" + word("os") + b"\x940" + word("system") + b"\x940h\0h\1\x93("
    + word("touch ran") + b"tR.",
    "STACK_GLOBAL from a number": b"\x80\x04K\1K\2\x93.",
    "STACK_GLOBAL with DUP": b"\x80\x04" + word("os") + b"2\x93.",
    "EXT1": b"\x80\x02\x82\x01)R.",
    "EXT2": b"\x80\x02\x83\x01\x01)R.",
    "EXT4": b"\x80\x02\x84\x01\x01\0\0)R.",
    "the memo, by GET and PUT": named("os.system", 0) + b"p7\n0g7\n(Vtouch ran\ntR.",
    "the memo, at a large index": b"\x80\x02" + named("os.system", 2) + b"r\xff\xff\xff\x7f0j\xff\xff\xff\x7f("
    + word("touch ran") + b"tR.",
    "a name that nests": b"\x80\x04" + word("os") + word("path.os.system") + b"\x93(" + word("touch ran") + b"tR.",
    "getattr and import": b"\x80\x02" + named("builtins.getattr", 2) + b"(" + named("builtins.__import__", 2) + b"("
    + word("os") + b"tR" + word("system") + b"tR(" + word("touch ran") + b"tR.",
    "the constructor of a random generator": b"\x80\x02" + named("numpy.random._pickle.__generator_ctor", 2) + b"("
    + word("touch ran") + named("os.system", 2) + b"tR.",
    "eval in a dict": b"\x80\x02}(" + word("a") + named("builtins.eval", 2) + b"(" + word("open('ran','w')") + b"tRu.",
    "a call that is popped": b"\x80\x02" + named("os.system", 2) + b"(" + word("touch ran") + b"tR0N.",
    "a call that a mark drops": b"\x80\x02(" + named("os.system", 2) + b"(" + word("touch ran") + b"tR1N.",
    "a call in a key": b"\x80\x02}" + named("os.system", 2) + b"(" + word("touch ran") + b"tRNs.",
    "no end": CALL[:-1],
    "an end that is broken": CALL[:-1] + b"\xff",
    "text behind it": CALL + b"trailing",
    "a harmless pickle before it": b"\x80\x02N." + CALL,
    "a tensor's magic before it": b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03." + CALL,
    "REDUCE of a known name": b"\x80\x02" + named("torch._utils._rebuild_tensor_v2", 2) + b"(" + CALL[2:-1] + b"tR.",
    "code in BUILD of an ordered dict": b"\x80\x02" + named("collections.OrderedDict", 2) + b")R}(" + word("x")
    + CALL[2:-1] + b"ub.",
    "STRING that holds an escape": b"cos\nsystem\n(S'touch ran'\ntR.",
    "a long name": b"\x80\x02cos\n" + b"s" * 100_000 + b"\n(" + word("touch ran") + b"tR.",
    "a name with a line end": b"\x80\x04" + word("os\n::error::x") + word("system") + b"\x93)R.",
    "a name with escapes": b"\x80\x04" + word("os\x1b[2J\u202e") + word("##[error]x") + b"\x93)R.",
    "a name that is not ASCII": b"\x80\x04" + word("\u043es") + word("system") + b"\x93(" + word("touch ran") + b"tR.",
    "PERSID before it": b"Px\n0" + named("os.system", 0) + b"(Vtouch ran\ntR.",
    "a buffer out of band": b"\x80\x05\x97\x980" + call("os.system", 5)[2:],
    "bytes and frozen sets around it": b"\x80\x04\x8f(" + call("os.system", 4)[2:-1] + b"\x90.",
}  # fmt: skip
"""Ways in which a pickle comes to a call."""


def torch_zip(program: bytes) -> bytes:
    return zipped({"archive/data.pkl": program, "archive/data/0": bytes(4), "archive/version": b"3\n"})


def array(program: bytes, version: bytes = b"\1\0") -> bytes:
    """A .npy of objects."""
    head = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    width = "<H" if version == b"\1\0" else "<I"
    head += b" " * (-(len(head) + 9 + struct.calcsize(width)) % 64) + b"\n"
    return b"\x93NUMPY" + version + struct.pack(width, len(head)) + head + program


def tar(name: str, program: bytes, mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as made:  # type: ignore[call-overload]  # the mode is a variable
        for member, content in ((name, program), ("readme.txt", b"x")):
            info = tarfile.TarInfo(member)
            info.size = len(content)
            made.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def joblib(program: bytes) -> bytes:
    """The bytes of an array within a pickle, as joblib writes them."""
    return b"\x80\x04cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81" + program.removeprefix(
        program[:2] if program[:1] == b"\x80" else b""
    )


WRAPPINGS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "bare pt": (".pt", bytes),
    "bare bin": (".bin", bytes),
    "bare pkl": (".pkl", bytes),
    "bare without a suffix": ("", bytes),
    "called safetensors": (".safetensors", bytes),
    "called onnx": (".onnx", bytes),
    "joblib": (".joblib", joblib),
    "joblib, zlib": (".joblib", lambda p: zlib.compress(joblib(p))),
    "joblib, old zlib": (".joblib", lambda p: b"ZF" + b"0x10".ljust(19) + zlib.compress(p)),
    "npy": (".npy", array),
    "npy 2.0": (".npy", lambda p: array(p, b"\2\0")),
    "npz": (".npz", lambda p: zipped({"a.npy": array(p)})),
    "npz, packed": (".npz", lambda p: zipped({"a.npy": array(p)}, 8)),
    "torch zip": (".pt", torch_zip),
    "zip": (".zip", lambda p: zipped({"evil.pkl": p})),
    "zip, packed": (".zip", lambda p: zipped({"a/evil.pickle": p}, 8)),
    "zip with another suffix": (".pt", lambda p: zipped({"weights.dat": p})),
    "zip in a zip": (".zip", lambda p: zipped({"model.pt": torch_zip(p)})),
    "zip, bzip2": (".zip", lambda p: zipped({"evil.pkl": p}, 12)),
    "zip, lzma": (".zip", lambda p: zipped({"evil.pkl": p}, 14)),
    "tar": (".tar", lambda p: tar("model.pkl", p)),
    "legacy torch tar": (".pt", lambda p: tar("pickle", p)),
    "tar of a torch zip": (".tar", lambda p: tar("model.pt", torch_zip(p))),
    "tar, gzip": (".tar.gz", lambda p: tar("model.pkl", p, "w:gz")),
    "tar, bzip2": (".tar.bz2", lambda p: tar("model.pkl", p, "w:bz2")),
    "nemo": (".nemo", lambda p: tar("./model_weights.ckpt", torch_zip(p))),
    "gzip": (".pkl.gz", gzip.compress),
    "bzip2": (".pkl.bz2", bz2.compress),
    "xz": (".pkl.xz", lzma.compress),
    "zlib": (".pkl.z", zlib.compress),
    "TorchScript": (".pt", lambda p: zipped({"m/data.pkl": b"\x80\2N.", "m/constants.pkl": p, "m/code/__torch__.py": b"x"})),
    "a safetensors head before it": (".pt", lambda p: struct.pack("<Q", 2) + b"{}" + p),
}  # fmt: skip
"""Wrappings in which a pickle comes: the suffix, and what makes it."""


def wrapped(wrapping: str, program: bytes, name: str, words: str) -> Case:
    suffix, wrap = WRAPPINGS[wrapping]
    return bare(f"{name}, {wrapping}", wrap(program), (1,), words, suffix)


SEARCHED = [name for name in WRAPPINGS if name not in ("a safetensors head before it", "TorchScript")]


def beside(name: str, content: bytes, codes: tuple[int, ...], words: str) -> Case:
    """A folder that is no model and holds one file."""

    def build(place: Path) -> list[str]:
        (place / "model").mkdir()
        (place / "model" / name).write_bytes(content)
        return ["inspect", "model"]

    return Case(f"{name} in a folder", build, codes, words)


def cases() -> Iterator[Case]:
    yield beside("evil.pkl", CALL, (1,), "system")
    yield beside("evil.npy", array(CALL), (1,), "system")
    yield beside("evil.tar.gz", tar("model.pkl", CALL, "w:gz"), (1,), "system")
    yield beside("harmless.npy", array(b"\x80\x02N."), (2,), "")
    for number, name in enumerate(GLOBALS):
        for wrapping in dict.fromkeys(("bare pt", "torch zip", SEARCHED[number % len(SEARCHED)])):
            yield wrapped(wrapping, call(name, number % 6), f"{name} protocol {number % 6}", name.split(".")[-1])
    for name, program in CHAINS.items():
        yield bare(f"{name}, bare", program, (1,))
        yield in_folder(f"{name}, bare in a folder", program, (1,))
        yield in_folder(f"{name}, torch zip in a folder", torch_zip(program), (1,))
    for wrapping in WRAPPINGS:
        yield wrapped(wrapping, CALL, "os.system", "system" if wrapping in SEARCHED else "")
        if wrapping in SEARCHED:
            yield wrapped(wrapping, CHAINS["no end"], "no end", "system")
    for wrapping in SEARCHED:
        suffix, wrap = WRAPPINGS[wrapping]
        if wrapping not in ("bare pt", "torch zip"):
            # A class of joblib's own is no code, and no model either; a tar that ends as a zip is both to its readers.
            unclear = wrapping.startswith("joblib") or wrapping in ("tar of a torch zip", "nemo")
            yield bare(f"harmless, {wrapping}", wrap(b"\x80\x02K\x01."), (1, 2) if unclear else (2,), suffix=suffix)
