"""The checks of `pargate doctor` that import heavy libraries, each in its own process.

    python -P -m pargate.doctor.libraries torch|open_clip|onnxruntime

The answer is one JSON object on the last line of stdout.
"""

import contextlib
import io
import json
import sys
from typing import Any


def torch() -> dict[str, Any]:
    """Return the version, the CUDA version and the devices of torch; each device is tried."""
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
                # torch may list a device for which it has no kernels.
                total = float(torch.ones(2, device=f"cuda:{number}").sum())
                device["error"] = "" if total == 2 else f"it computes 1 + 1 = {total}"
            except RuntimeError as error:
                device["error"] = str(error).splitlines()[0]
            answer["devices"].append(device)
    return answer


def open_clip() -> dict[str, Any]:
    """Return the version of open_clip, once everything that a scan imports is imported."""
    import open_clip

    import pargate.models.torch.encoder
    import pargate.scanning.run  # noqa: F401 - importing is the check

    return {"version": open_clip.__version__}


def onnxruntime() -> dict[str, Any]:
    """Return the version and the providers of ONNX Runtime; a graph is run on each provider."""
    import numpy as np
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    one = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    two = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "twice", [one], [two])
    # Versions that every allowed runtime reads.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    content = model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # the answer reports failures
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
                # An available provider may fall back to the CPU without a message.
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
    """Print the answer to one check; any error is an answer too."""
    try:
        answer = QUESTIONS[question]()
    except BaseException as error:
        lines = str(error).splitlines() or [""]
        answer = {"error": f"{type(error).__name__}: {lines[0]}"}
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
