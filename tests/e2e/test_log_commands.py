"""Names in files that a runner's log would obey, each kind of source through the real command."""

import io
import json
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import MODELS, Command
from onnx import helper
from PIL import Image

EVIL = "x\n::error::owned\r##[error]owned ##vso[task.complete]\u2028::error::owned\x1b[31m\u202e"
SHOWN = r"x\n: :error: :owned\r# #[error]owned # #vso[task.complete]\u2028: :error: :owned\x1b[31m\u202e"
NAME = EVIL.replace("/", "")
GOLDEN = Path(__file__).parents[1] / "golden" / "reports"


def assert_harmless(text: str) -> None:
    assert not re.search(r"^\s*::|##\w*\[", text, re.MULTILINE)
    assert not [c for c in text if not c.isprintable() and c not in "\n\u00a0"]


def picture() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def tar_member(place: Path) -> list[str]:
    with tarfile.open(place / "a.tar", "w") as archive:
        for name, content in ((f"{NAME}.png", b"no picture"), ("b.png", picture()), (f"{NAME}.cls", b"99999")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return ["scan", str(MODELS / "clean"), "--images", "a.tar", "--dry-run"]


def csv_header(place: Path) -> list[str]:
    (place / "a.csv").write_text(f'"{NAME}",label\nb.png,1\n', newline="")
    return ["scan", str(MODELS / "clean"), "--images", "a.csv", "--dry-run"]


def file_in_a_model_folder(place: Path) -> list[str]:
    (place / "model").mkdir()
    for file in (MODELS / "clean").iterdir():
        (place / "model" / file.name).write_bytes(file.read_bytes())
    (place / "model" / f"{NAME}.bin").write_bytes(b"other weights")
    return ["inspect", "model"]


def global_of_a_pickle(place: Path) -> list[str]:
    module, name = (b"X" + len(text).to_bytes(4, "little") + text for text in (b"os", NAME.encode()))
    with zipfile.ZipFile(place / "a.pt", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x04" + module + name + b"\x93.")
        archive.writestr("a/version", b"3\n")
    return ["inspect", "a.pt", "--arch", "RN50"]


def operator_of_a_graph(place: Path) -> list[str]:
    (place / "onnx").mkdir()
    given = helper.make_tensor_value_info("pixel_values", onnx.TensorProto.FLOAT, ["batch", 3, 8, 8])
    wanted = helper.make_tensor_value_info("image_embeds", onnx.TensorProto.FLOAT, ["batch", 5])
    graph = helper.make_graph([helper.make_node(NAME, [given.name], [wanted.name])], "main", [given], [wanted])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    for name in ("image", "text"):
        onnx.save(made, place / "onnx" / f"{name}.onnx")
    (place / "onnx" / "bpe_simple_vocab_16e6.txt.gz").write_bytes(b"words")
    image = {"size": [8, 8], "mean": [0.5] * 3, "std": [0.5] * 3}
    image |= {"interpolation": "bicubic", "resize": "shortest", "fill": 0}
    description = {
        "schema": "pargate/onnx/1", "architecture": "tiny", "checkpoint": "0" * 64, "precision": "fp32", "opset": 18,
        "dim": 5, "logit_scale": 100.0, "logit_bias": None, "activation": "gelu", "image": image,
        "text": {"context_length": 4, "tokenizer": "bpe", "clean": "lower", "zeroed": None}, "templates": ["a {}"],
    }  # fmt: skip
    (place / "onnx" / "preprocess.json").write_text(json.dumps(description))
    return ["inspect", "onnx"]


def key_of_a_policy(place: Path) -> list[str]:
    (place / "p.yaml").write_text(f"pargate: 1\n{json.dumps(NAME)}: 1\n")
    return ["policy", "check", "p.yaml"]


def name_of_a_model(place: Path) -> list[str]:
    return ["inspect", NAME, "--arch", "RN50"]


def git_ref(place: Path) -> list[str]:
    return ["policy", "show", "--policy-ref", NAME]


@pytest.mark.parametrize(
    "source",
    [csv_header, file_in_a_model_folder, global_of_a_pickle, operator_of_a_graph, key_of_a_policy,
     name_of_a_model, git_ref],
)  # fmt: skip
def test_a_refusal_names_what_it_found_and_no_log_obeys_it(
    source: Callable[[Path], list[str]], place: Path, light: Command
) -> None:
    ended = light(*source(place))
    assert ended.code in (1, 2, 4), ended.err
    assert_harmless(ended.out + ended.err)
    assert "error" in ended.said, "the name is shown, so that it can be found"
    assert ended.err.startswith("pargate: ")
    # The places in the policy, and the hint: nothing foreign made another line.
    own = ("    ", "  → ", "p.yaml:")
    assert all(line.startswith(own) for line in ended.said.splitlines()[1:]), ended.err


def test_a_member_of_a_tar_is_harmless_too(place: Path, light: Command) -> None:
    ended = light(*tar_member(place))
    assert_harmless(ended.out + ended.err)


@pytest.mark.parametrize(
    "options", [[], ["-v"], ["-q"], *(["-o", name] for name in ("json", "sarif", "markdown", "html"))]
)
def test_a_saved_report_is_shown_and_not_obeyed(options: list[str], place: Path, light: Command) -> None:
    document = json.loads((GOLDEN / "failing.json").read_text(encoding="utf-8"))
    for finding in document["findings"]:
        finding["rule"] = finding["message"] = EVIL
        for bound in finding["bounds"]:
            bound["limit_text"] = EVIL
    for measurement in document["measurements"]:
        if measurement.get("target"):
            measurement["target"]["name"] = EVIL
        if measurement.get("trigger"):
            measurement["trigger"]["label"] = EVIL
    document["run"]["precision"] = document["model"]["source"] = document["policy"]["name"] = EVIL
    document["verdict"]["summary"] = document["images"]["source"] = EVIL
    document["notices"] = [EVIL]
    (place / "r.json").write_text(json.dumps(document), encoding="utf-8")
    ended = light("report", "r.json", *options)
    assert ended.code == 0, ended.err
    assert_harmless(ended.out + ended.err)
    assert "owned" in ended.out + ended.err
    if options in ([], ["-q"], ["-v"]):
        assert SHOWN in ended.said, "written out in full"


def test_a_policy_is_printed_line_by_line_and_not_obeyed(place: Path, light: Command) -> None:
    text = 'pargate: 1\n# ## a heading of ours\nname: |\n  ::error::owned\ndescription: "##[error]owned"\n'
    (place / "p.yaml").write_text(text + "rules: [{id: a, probe: utility, min: {accuracy: 5x chance}}]\n")
    ended = light("policy", "show", "p.yaml")
    assert ended.code == 0 and len(ended.out.splitlines()) == 6
    assert_harmless(ended.out + ended.err)
    assert "# ## a heading of ours\n" in ended.out
    resolved = light("policy", "show", "--resolved", "p.yaml")
    assert resolved.code == 0, resolved.err
    assert_harmless(resolved.out + resolved.err)
