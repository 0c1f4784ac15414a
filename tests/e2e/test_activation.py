"""Weights of which nothing says their activation: one decision for every command, or none at all."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import MODELS
from test_gate import TODAY

from pargate import events
from pargate.clean.request import CleanRequest
from pargate.clean.run import clean, plan
from pargate.core.report import ScanReport
from pargate.core.results import Outcome
from pargate.errors import ExitCode, InputError, Undecided
from pargate.files import sha256_file
from pargate.judge.judging import Judging
from pargate.judge.rejudge import judge
from pargate.models import config, preprocessing
from pargate.policy.resolve import read
from pargate.release import bundle
from pargate.release.export import ExportRequest, export
from pargate.release.gate import gate
from pargate.release.stages import GateRequest
from pargate.release.verify import verify
from pargate.scanning import choose as opening
from pargate.scanning.request import ScanRequest, ScanSettings
from pargate.scanning.run import scan

STARTED = "2027-01-10T12:00:00+00:00"
POLICY = """
pargate: 1
name: short
images: {source: 'builtin:scenes'}
classes:
  names: [airplane, apple, banana, butterfly, cactus, car, carrot, cloud, crown, cup, fish, flower,
          guitar, heart, house, key, leaf, moon, mushroom, rocket, sailboat, star, tree, umbrella]
rules:
  - {id: patches, probe: attack, triggers: [badnet], max: {excess: 40pp}}
  - {id: useful, probe: utility, min: {accuracy: 5x chance}}
"""


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Weights of a toy model alone, whose architecture open_clip knows as `toy`."""
    place = tmp_path_factory.mktemp("bare")
    document = json.loads((MODELS / "clean" / config.CONFIG_NAME).read_text())
    (place / "toy.json").write_text(json.dumps(document["model_cfg"]))
    shutil.copy(MODELS / "clean" / "open_clip_model.safetensors", place / "weights.safetensors")
    known = {**config.architectures(), "toy": place / "toy.json"}
    with pytest.MonkeyPatch.context() as patch:
        for module in (config, preprocessing):
            patch.setattr(module, "architectures", lambda: known)
        patch.setattr(preprocessing, "_tags", lambda name: {})  # open_clip publishes no weights of it
        yield place / "weights.safetensors"


def asked(model: Path, arch: str | None = "toy", **more: Any) -> ScanRequest:
    policy = read(POLICY, "short", Path())
    return ScanRequest(
        str(model), Judging(policy, TODAY), arch, settings=ScanSettings("cpu"), started=STARTED, pictures=False, **more
    )


def test_a_scan_that_cannot_tell_is_inconclusive_and_names_both(bare: Path) -> None:
    report = scan(asked(bare))
    assert report.verdict.status is Outcome.INCONCLUSIVE
    assert "GELU or QuickGELU" in report.verdict.summary and "labelled images" in report.verdict.summary
    assert any("--arch toy-gelu or --arch toy-quickgelu" in notice for notice in report.notices)
    assert not report.measurements and report.model.activation == ""
    again = ScanReport.from_json(report.to_json())
    assert judge(again, asked(bare).judging).verdict.status is Outcome.INCONCLUSIVE


def test_an_export_that_cannot_tell_writes_nothing(bare: Path, tmp_path: Path) -> None:
    with pytest.raises(Undecided, match="GELU or QuickGELU") as refused:
        export(ExportRequest(asked(bare), tmp_path / "out"))
    assert refused.value.exit_code is ExitCode.INCONCLUSIVE
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("command", [clean, plan])
def test_cleaning_never_guesses(command: Callable[[CleanRequest], Any], bare: Path, tmp_path: Path) -> None:
    request = CleanRequest(str(bare), "synthetic:640", tmp_path / "out", STARTED, arch="toy", device="cpu")
    with pytest.raises(InputError, match="GELU or QuickGELU") as refused:
        command(request)
    assert "--arch toy-gelu or --arch toy-quickgelu" in refused.value.hint
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("arch", "activation"), [("toy-gelu", "gelu"), ("toy-quickgelu", "quick_gelu")])
def test_what_the_name_says_is_measured(arch: str, activation: str, bare: Path) -> None:
    said: list[str] = []
    report = scan(asked(bare, arch), lambda event: said.append(getattr(event, "message", "")))
    assert report.verdict.status is not Outcome.INCONCLUSIVE
    assert (report.model.activation, report.model.activation_note) == (activation, "")
    assert report.run.precision_note in said


@pytest.fixture(scope="module")
def shipped(bare: Path) -> Path:
    """The bundle of a gate whose first scan settled on QuickGELU."""
    said: list[str] = []

    def listen(event: events.Event) -> None:
        said.extend([event.message] if isinstance(event, events.Notice) else [])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "more_often_right", lambda first, second: 1)
        done = gate(GateRequest(asked(bare), bare.parent / "release"), listen)
    assert done.folder is not None, done.report.verdict.summary
    assert any(line.startswith("quick_gelu: nothing says which") for line in said)
    scans = [
        stage.examined or done.report.examined for stage in done.report.stages if stage.name in ("scan", "certify")
    ]
    assert [examined.model.activation for examined in scans] == ["quick_gelu"] * 2
    assert scans[0].model.activation_note and not scans[1].model.activation_note
    return done.folder


def test_what_the_scan_settled_on_is_what_ships(shipped: Path) -> None:
    written = json.loads((shipped / "model" / config.CONFIG_NAME).read_text())
    assert written["model_cfg"]["quick_gelu"] is True
    assert not verify(shipped, today=TODAY).problems
    assert scan(asked(shipped / "model", None)).model.activation == "quick_gelu"


def changed(document: dict[str, Any], where: str, value: Any) -> None:
    *path, last = where.split(".")
    for step in path:
        document = document[step]
    assert document.get(last) != value
    document[last] = value


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("model_cfg.quick_gelu", False),
        ("model_cfg.text_cfg.context_length", 77),
        ("model_cfg.text_cfg.tokenizer_kwargs", {"clean": "canonicalize"}),
        ("model_cfg.vision_cfg.image_size", 32),
        ("preprocess_cfg.mean", [0.5, 0.5, 0.5]),
        ("preprocess_cfg.std", [0.5, 0.5, 0.5]),
        ("preprocess_cfg.interpolation", "bilinear"),
        ("preprocess_cfg.resize_mode", "squash"),
        ("preprocess_cfg.fill_color", 255),
    ],
)
def test_a_changed_field_of_what_ships_is_caught_even_where_the_sums_were_made_anew(
    where: str, value: Any, shipped: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "release"
    shutil.copytree(shipped, folder)
    name = f"model/{config.CONFIG_NAME}"
    document = json.loads((folder / name).read_text())
    changed(document, where, value)
    before = sha256_file(folder / name)
    (folder / name).write_text(json.dumps(document, indent=2, sort_keys=True))
    sums = (folder / bundle.SUMS).read_text()
    assert before in sums
    (folder / bundle.SUMS).write_text(sums.replace(before, sha256_file(folder / name)))
    problems = verify(folder, today=TODAY).problems
    assert any(name in problem and "record" in problem for problem in problems)
