"""Try graphs in a process of their own, with limits on memory and time, before they run in this one.

A graph of a few kilobytes can ask for any amount of both, also while the runtime only opens it. Two things make one
trial enough: no size may depend on the values of an image or a caption, and the trial runs the bytes that run later.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from mmap import mmap
from pathlib import Path
from typing import TYPE_CHECKING

from pargate import limits
from pargate.errors import InputError, OperationalError

if TYPE_CHECKING:
    import onnx

SIZING = {
    "AffineGrid": (1,), "BlackmanWindow": (0,), "CenterCropPad": (1,), "ConstantOfShape": (0,), "DFT": (1,),
    "Expand": (1,), "HammingWindow": (0,), "HannWindow": (0,), "MaxUnpool": (2,), "MelWeightMatrix": (0, 1, 2, 3, 4),
    "NonZero": (0,), "OneHot": (1,), "Pad": (1,), "Range": (0, 1, 2), "Reshape": (1,), "Resize": (1, 2, 3),
    "STFT": (1, 3), "Tile": (1,), "Upsample": (1,),
}  # fmt: skip
"""Operators whose output can be larger than their inputs, with the inputs that decide its size."""

MEASURING = ("Shape", "Size")
"""Operators whose output depends on the size of their input alone."""

PROGRAM = """
import json, sys
import numpy, onnxruntime
source = sys.stdin.buffer
told = json.loads(source.readline())
try:
    import resource
except ImportError:  # on Windows time alone is bounded
    pass
else:
    if sys.platform == "linux":
        most = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + told["bytes"]
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (told["seconds"], told["seconds"]))
graph = source.read(told["graph"])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.log_severity_level = 4
options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, told["level"])
if told["data"]:
    data = source.read(told["data"])
    options.add_external_initializers_from_files_in_memory([told["name"]], [data], [len(data)])
session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
for count in told["counts"]:
    feeds = {name: numpy.ones((count, *shape), kind) for name, kind, shape in told["inputs"]}
    (found,) = session.run([told["output"]], feeds)
    if found.shape != (count, told["dim"]):
        sys.exit(f"{told['output']} has the shape {list(found.shape)}, not {[count, told['dim']]}")
"""


@dataclass(frozen=True, slots=True)
class Run:
    """What a graph is run on, and what must come out."""

    inputs: tuple[tuple[str, str, tuple[int, ...]], ...]
    """Name, numpy's name of the type, and shape of one entry, of each input."""
    output: str
    dim: int
    """Length of a row of the output."""
    counts: tuple[int, ...]
    """Numbers of entries in a batch."""


_passed: set[tuple[str, str, Run]] = set()
"""Graphs that passed in this process, by their name, the digest of their folder, and what they were run on."""


def refuse_endless(where: str, digest: str, graph: bytes, data: tuple[str, bytes | mmap], level: str, run: Run) -> None:
    """Raise if a graph cannot be opened and run on two inputs within the limits of `limits`.

    Args:
        where: the path of the graph, for messages.
        digest: the digest of its folder; what passed once is not tried again.
        graph: the serialised graph.
        data: the name and content of the weights that lay beside it, or nothing.
        level: the runtime's name for the level of optimisation.
        run: what it is run on.

    Raises:
        InputError: the graph needs more memory or time, or the runtime refuses it.
        OperationalError: no process could be started.
    """
    if (where, digest, run) in _passed:
        return
    size = len(graph) + len(data[1])
    seconds = limits.GRAPH_SECONDS + size // limits.GRAPH_RATE
    told = {
        "graph": len(graph), "data": len(data[1]), "name": data[0], "level": level, "seconds": seconds,
        "bytes": limits.GRAPH_MEMORY + 4 * size, **asdict(run),
    }  # fmt: skip
    try:
        with subprocess.Popen(
            [sys.executable, "-P", "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        ) as child:  # fmt: skip
            try:
                _, said = child.communicate(b"".join((json.dumps(told).encode(), b"\n", graph, data[1])), 6 * seconds)
            except subprocess.TimeoutExpired as error:
                child.kill()
                raise _refused(where, "it does not end") from error
            except BaseException:
                child.kill()
                raise
    except OSError as error:
        raise OperationalError(f"cannot try {where}: {error.strerror}", "free memory or processes") from error
    if child.returncode:
        last = said.decode(errors="replace").strip().rpartition("\n")[2]
        why = last[:200] or "it does not end"
        if child.returncode == -getattr(signal, "SIGXCPU", 0):
            why = f"it takes more than {seconds} seconds"
        elif "alloc" in last or "MemoryError" in last:
            why = f"it needs more than {(limits.GRAPH_MEMORY + 4 * size) >> 20} MiB"
        raise _refused(where, why)
    _passed.add((where, digest, run))


def _refused(where: str, why: str) -> InputError:
    return InputError(f"{where} cannot be run on two inputs: {why}", "export the model again")


def refuse_sizes_from_values(graph: "onnx.GraphProto", path: Path) -> None:
    """Raise if the size of a tensor can depend on the values of the graph's input, so that no trial would show it.

    Raises:
        InputError: it can.
    """
    values = {value.name for value in graph.input}
    for node in graph.node:
        given: Iterable[int] = SIZING.get(node.op_type, ())
        if any(number < len(node.input) and node.input[number] in values for number in given):
            raise InputError(
                f"{path}: a {node.op_type} makes a tensor whose size depends on the values of an image or a caption",
                "export the model again",
            )
        if node.op_type not in MEASURING and values.intersection(node.input):
            values.update(filter(None, node.output))
