"""An installed package adds one part of each kind, and every command takes its names."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pargate.scenes.render import LABELS, render

ROOT = Path(__file__).parents[2]
CLEAN = ROOT / "examples" / "models" / "clean"

POLICY = """
pargate: 1
name: plugged
images: {source: 'builtin:scenes'}
classes: {names: [banana, car, house, tree, bird, fish]}
budget: {images: 128}
rules:
  - {id: frame, probe: attack, triggers: [{kind: border, width: 3}], max: {excess: 40pp}}
  - {id: clear, probe: margin, min: {margin: 5%}}
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the example plug-in is installed to."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*command, "--target", str(target), str(ROOT / "tests" / "plugin")], check=True)
    return target


def run(installed: Path, folder: Path, *arguments: str) -> tuple[int, str, str]:
    path = os.pathsep.join([str(installed), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "pargate", *arguments], cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": path, "PARGATE_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def version(installed: Path, number: str) -> None:
    """Make the plug-in another version of itself."""
    (info,) = installed.glob("pargate_example-*.dist-info")
    lines = (info / "METADATA").read_text().splitlines()
    (info / "METADATA").write_text("\n".join(f"Version: {number}" if x.startswith("Version:") else x for x in lines))


def test_a_scan_uses_a_trigger_a_probe_and_a_format_of_a_plug_in(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(POLICY)
    asked = ("scan", str(CLEAN), "-p", "p.yaml", "-o", "json=r.json", "-o", "csv=r.csv", "--exit-zero")
    code, _, err = run(installed, tmp_path, *asked)
    assert code == 0, err
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["tool"]["libraries"]["pargate-example"] == "1.2"
    measured = {m["rule"]: m for m in report["measurements"]}
    assert measured["frame"]["trigger"]["kind"] == "border"
    assert measured["clear"]["counts"]["margin"]["n"] >= 64
    assert {f["rule"] for f in report["findings"]} == {"frame", "clear"}
    lines = (tmp_path / "r.csv").read_text().splitlines()
    assert lines[0] == "rule,status,message" and {line.split(",")[0] for line in lines[1:]} == {"frame", "clear"}
    # Its vectors are not used again once another version of it is installed.
    again = json.loads((tmp_path / "r.json").read_text())["run"]["cache"]
    run(installed, tmp_path, *asked)
    kept = json.loads((tmp_path / "r.json").read_text())["run"]["cache"]
    version(installed, "1.3")
    run(installed, tmp_path, *asked)
    renewed = json.loads((tmp_path / "r.json").read_text())
    version(installed, "1.2")
    assert kept != again and renewed["run"]["cache"] != kept
    assert renewed["tool"]["libraries"]["pargate-example"] == "1.3"


def test_a_scan_uses_a_layout_and_a_source_of_a_plug_in(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(POLICY.replace("images: {source: 'builtin:scenes'}\n", ""))
    shutil.copytree(CLEAN, tmp_path / "model")
    (tmp_path / "m.pointer").write_text("model\n")
    scenes = render(np.arange(128), 64, 5)
    names = [f"{number}.png" for number in range(128)]
    for name, pixels in zip(names, scenes.pixels, strict=True):
        Image.fromarray(pixels).save(tmp_path / name)
    labels = [LABELS[label] for label in scenes.labels]
    (tmp_path / "images.list").write_text("\n".join(f"{n}: {x}" for n, x in zip(names, labels, strict=True)))
    (tmp_path / "classes.txt").write_text("\n".join(LABELS))
    asked = ("scan", "m.pointer", "-p", "p.yaml", "--images", "images.list", "--classes", "classes.txt")
    code, _, err = run(installed, tmp_path, *asked, "-o", "json=r.json", "--exit-zero")
    assert code == 0, err
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["model"]["source"] == "m.pointer" and report["model"]["parameters"] > 1_000_000
    assert (report["images"]["listed"], report["images"]["labelled"]) == (128, 128)
    right = report["measurements"][0]["counts"]["accuracy"]
    assert right["successes"] > right["n"] / 2
    # The same source gives image-text pairs.
    (tmp_path / "pairs.list").write_text("\n".join(f"{n}: {x}" for n, x in zip(names, scenes.captions, strict=True)))
    asked = ("clean", "m.pointer", "--pairs", "pairs.list", "--out", "out", "--steps", "2", "--batch-size", "8")
    code, _, err = run(installed, tmp_path, *asked)
    assert code == 0, err
    # Without the plug-in neither is known.
    code, _, err = run(Path(), tmp_path, "inspect", "m.pointer")
    assert code == 2 and "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (("triggers",), "border"),
        (("explain", "margin"), "ahead of the second"),
        (("policy", "schema"), '"border"'),
        (("policy", "schema"), '"margin"'),
        (("policy", "schema"), '"par-gentle"'),
        (("policy", "check", "p.yaml"), "2 comparisons"),
    ],
)
def test_every_list_names_the_parts_of_a_plug_in(
    arguments: tuple[str, ...], shown: str, installed: Path, tmp_path: Path
) -> None:
    (tmp_path / "p.yaml").write_text(POLICY)
    code, out, err = run(installed, tmp_path, *arguments)
    assert code == 0, err
    assert shown in out + err


def test_the_previews_show_a_trigger_of_a_plug_in(installed: Path, tmp_path: Path) -> None:
    assert run(installed, tmp_path, "triggers", "--preview", "with.png", "--size", "32")[0] == 0
    assert run(Path(), tmp_path, "triggers", "--preview", "without.png", "--size", "32")[0] == 0
    assert (tmp_path / "with.png").read_bytes() != (tmp_path / "without.png").read_bytes()


def test_a_model_is_cleaned_with_a_method_of_a_plug_in(installed: Path, tmp_path: Path) -> None:
    asked = ("clean", str(CLEAN), "--pairs", "synthetic:64", "--out", "out", "--steps", "2", "--batch-size", "8")
    code, _, err = run(installed, tmp_path, *asked, "--method", "par-gentle")
    assert code == 0, err
    made = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert (made["configuration"]["method"], made["configuration"]["tau"]) == ("par-gentle", 1.0)
    assert made["tool"]["pargate-example"] == "1.2"


def test_without_the_plug_in_its_names_are_unknown(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(POLICY)
    code, _, err = run(Path(), tmp_path, "policy", "check", "p.yaml")
    assert code == 4 and "unknown trigger 'border'" in err and "unknown probe 'margin'" in err


def test_a_plug_in_that_cannot_be_loaded_is_named(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(POLICY)
    module = installed / "pargate_example" / "trigger.py"
    content = module.read_text()
    try:
        module.write_text("raise RuntimeError('gone')\n")
        code, _, err = run(installed, tmp_path, "policy", "check", "p.yaml")
    finally:
        module.write_text(content)
    assert code == 5, err
    assert "the trigger 'border' of pargate-example 1.2 cannot be loaded: gone" in err and "Traceback" not in err
