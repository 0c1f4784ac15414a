"""The questions of `pargate doctor` that need heavy libraries, each answered in a process of its own.

    python -P -m pargate.doctor.libraries torch|open_clip|onnxruntime

The answer is one JSON object on the last line of stdout. A library that is broken can end its process in any way, and
takes nothing else along.
"""

import contextlib
import io
import json
import sys
from typing import Any


def torch() -> dict[str, Any]:
    """Version, what it was built for, and the devices on which it can add two numbers."""
    import torch

    answer: dict[str, Any] = {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "devices": [],
    }
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(number)
            device = {"name": about.name, "memory_bytes": about.total_memory, "error": ""}
            try:
                # A device can be listed for which this build has no kernels.
                total = float(torch.ones(2, device=f"cuda:{number}").sum())
                device["error"] = "" if total == 2 else f"one and one is {total} there"
            except RuntimeError as error:
                device["error"] = str(error).splitlines()[0]
            answer["devices"].append(device)
    return answer


def open_clip() -> dict[str, Any]:
    """Whether all that a scan imports can be imported."""
    import open_clip

    import pargate.models.torch.encoder
    import pargate.scanning.run  # noqa: F401 - importing is the question

    return {"version": open_clip.__version__}


def onnxruntime() -> dict[str, Any]:
    """The providers that are built in, and of each whether a graph really runs on it."""
    import numpy as np
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    one = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    two = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "twice", [one], [two])
    # Versions that every runtime we allow reads, rather than the newest that this `onnx` writes.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    content = model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # the answer says what did not work
    available = onnxruntime.get_available_providers()
    onnxruntime.set_default_logger_severity(4)
    with contextlib.redirect_stdout(io.StringIO()):
        if "CUDAExecutionProvider" in available:
            onnxruntime.preload_dlls()
        running = {}
        for provider in available:
            try:
                session = onnxruntime.InferenceSession(content, options, providers=[provider])
                (doubled,) = session.run(None, {"x": np.ones(2, dtype=np.float32)})
                # What is listed as available falls back to the processor without a word.
                running[provider] = session.get_providers()[0] == provider and doubled.tolist() == [2.0, 2.0]
            except Exception:  # the runtime's exceptions have no common base
                running[provider] = False
    try:
        from onnxruntime.capi import build_and_package_info as built

        cuda = getattr(built, "cuda_version", "")
    except ImportError:
        cuda = ""
    return {"version": onnxruntime.__version__, "onnx": onnx.__version__, "cuda": cuda, "providers": running}


QUESTIONS = {"torch": torch, "open_clip": open_clip, "onnxruntime": onnxruntime}


def main(question: str) -> None:
    """Answer one; an error of whichever kind is an answer too."""
    try:
        answer = QUESTIONS[question]()
    except BaseException as error:
        lines = str(error).splitlines() or [""]
        answer = {"error": f"{type(error).__name__}: {lines[0]}"}
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
