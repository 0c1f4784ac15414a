"""From a suspect checkpoint to a release bundle, or to a clear no: the real command on the toy models."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from conftest import MODELS, ROOT, Command, Ended, surroundings

from pargate.core.report import ScanReport
from pargate.errors import OperationalError
from pargate.judge.judging import Judging
from pargate.policy.resolve import resolve
from pargate.release import bundle
from pargate.release.gate import plan
from pargate.release.stages import GateRequest
from pargate.release.verify import Verified, verify
from pargate.scanning.request import ScanRequest, ScanSettings

TODAY = date(2027, 1, 10)

POLICY = """
pargate: 1
name: toy
images: {source: 'builtin:scenes'}
classes:
  names: [airplane, apple, banana, butterfly, cactus, car, carrot, cloud, crown, cup, fish, flower,
          guitar, heart, house, key, leaf, moon, mushroom, rocket, sailboat, star, tree, umbrella]
  templates: ['a photo of a {}.']
rules:
  - {id: patterns, probe: attack, triggers: [{kind: triangles, scale: proportional}, badnet], max: {excess: 40pp}}
  - {id: useful, probe: utility, min: {accuracy: 5x chance}}
export: {onnx: true, parity: {samples: 64}}
evidence: {max_age: 30d}
clean:
  when: fail
  method: METHOD
  pairs: 'synthetic:'
  attempts: ATTEMPTS
  budget: {accuracy_drop: 25pp}
  settings: {steps: STEPS, batch_size: 64}
"""


def written(place: Path, *, steps: int = 100, attempts: int = 1, method: str = "par-plus") -> Path:
    """A policy that cleans toy models."""
    text = POLICY.replace("METHOD", method).replace("STEPS", str(steps)).replace("ATTEMPTS", str(attempts))
    (place / "policy.yaml").write_text(text)
    return place / "policy.yaml"


def command(*arguments: str | Path, folder: Path) -> Ended:
    done = subprocess.run(
        [sys.executable, "-m", "pargate", *map(str, arguments)], cwd=folder, env=surroundings(folder.parent),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, encoding="utf-8", check=False, timeout=900,
    )  # fmt: skip
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def passed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of the clean toy."""
    place = tmp_path_factory.mktemp("passed") / "here"
    place.mkdir()
    done = command("gate", MODELS / "clean", "-p", written(place), "--out", "release", "--device", "cpu", folder=place)
    assert done.code == 0, done.err
    assert sorted(p.name for p in place.iterdir()) == ["policy.yaml", "release"], "nothing else stays"
    return place / "release"


@pytest.fixture
def copied(passed: Path, tmp_path: Path) -> Path:
    """A copy of it to be tampered with."""
    shutil.copytree(passed, tmp_path / "release")
    return tmp_path / "release"


def checked(folder: Path) -> Verified:
    started = json.loads((folder / bundle.REPORT).read_bytes())["run"]["started"]
    return verify(folder, today=date.fromisoformat(started[:10]))


def resummed(folder: Path) -> None:
    """Checksums that whoever changed a file has made again."""
    (folder / bundle.SUMS).unlink()
    (folder / bundle.SUMS).write_text(bundle.sums(bundle.read(folder).digests))


# --- a model that passes -----------------------------------------------------------------------------


def test_a_bundle_holds_what_it_should(passed: Path) -> None:
    names = {p.relative_to(passed).as_posix() for p in passed.rglob("*") if p.is_file()}
    graphs = {f"onnx/{name}" for name in ("image.onnx", "text.onnx", "preprocess.json", "classes.txt", "example.py")}
    model = {"model/open_clip_config.json", "model/open_clip_model.safetensors", "model/provenance.json"}
    assert {*bundle.DOCUMENTS, bundle.SUMS, bundle.SVR, *graphs, *model} <= names
    weights = "open_clip_model.safetensors"
    assert (passed / "model" / weights).read_bytes() == (MODELS / "clean" / weights).read_bytes()
    report = ScanReport.from_json((passed / bundle.REPORT).read_bytes())
    assert [stage.name for stage in report.stages] == ["scan", "convert", "export", "rescan"]
    assert report.model.format == "onnx" and report.model.source == "release/onnx"
    assert report.images.part == "certify" and report.stages[0].examined.images.part == "scan"  # type: ignore[union-attr]
    assert report.run.seed != report.stages[0].examined.run.seed  # type: ignore[union-attr]
    assert all(m.pairs is not None for m in report.measurements if m.trigger is not None), "every control is measured"


def test_sha256sum_agrees(passed: Path) -> None:
    if shutil.which("sha256sum") is None:
        pytest.skip("there is no sha256sum here")
    done = subprocess.run(["sha256sum", "--check", "--strict", "--quiet", bundle.SUMS], cwd=passed, check=False)
    assert done.returncode == 0


def test_verify_needs_no_torch(passed: Path, light: Command) -> None:
    done = light("verify", passed)
    assert done.code == 0, done.err
    assert "PASS" in done.said and "valid until" in done.out and done.err == ""


def test_a_file_that_another_laid_out_ships_as_a_file_of_ours_that_was_scanned(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    place, weights = tmp_path / "here", "open_clip_model.safetensors"
    shutil.copytree(MODELS / "clean", place / "model")
    tensors = load_file(MODELS / "clean" / weights)
    save_file({f"module.{name}": value for name, value in tensors.items()}, place / "model" / weights, {"note": "x"})
    text = POLICY[: POLICY.index("export:")].replace("[{kind: triangles, scale: proportional}, badnet]", "[badnet]")
    (place / "policy.yaml").write_text(text)
    done = command("gate", "model", "-p", "policy.yaml", "--out", "release", "--device", "cpu", folder=place)
    assert done.code == 0, done.err
    shipped = place / "release" / "model" / weights
    assert shipped.read_bytes() == (MODELS / "clean" / weights).read_bytes() != (place / "model" / weights).read_bytes()
    report = ScanReport.from_json((place / "release" / bundle.REPORT).read_bytes())
    assert [stage.name for stage in report.stages] == ["scan", "convert", "certify"]
    assert report.model.sha256 == bundle.read(place / "release").digests[f"model/{weights}"]
    assert not [said for said in report.coverage.limits if "the verdict is about" in said], "it is not the user's file"
    assert checked(place / "release").problems == ()


def test_a_flipped_byte_in_any_file_is_found_and_the_file_named(copied: Path) -> None:
    assert checked(copied).problems == ()
    for path in sorted(p for p in copied.rglob("*") if p.is_file()):
        name, content = path.relative_to(copied).as_posix(), path.read_bytes()
        # The first, the last, and one in between; the whole of what may be short.
        for at in {0, len(content) // 2, len(content) - 1} if len(content) > 64 else range(len(content)):
            path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
            assert any(name in problem for problem in checked_quickly(copied)), (name, at)
        path.write_bytes(content)
    assert checked(copied).problems == ()


def checked_quickly(folder: Path) -> tuple[str, ...]:
    return verify(folder, today=TODAY).problems


def test_verify_names_what_is_altered_missing_or_added(copied: Path, light: Command) -> None:
    (copied / "onnx" / "classes.txt").write_text("other\nclasses\n")
    (copied / bundle.CARD).unlink()
    (copied / "model" / "extra.bin").write_text("")
    done = light("verify", copied)
    assert done.code == 1
    for name, word in (("onnx/classes.txt", "changed"), (bundle.CARD, "missing"), ("model/extra.bin", "added")):
        assert any(name in line and word in line for line in done.said.splitlines()), done.err


def test_links_are_refused_and_hostile_lists_too(copied: Path, light: Command) -> None:
    (copied / bundle.CARD).unlink()
    (copied / bundle.CARD).symlink_to("/etc/hostname")
    assert "MODEL_CARD.md: a link" in light("verify", copied).said
    (copied / bundle.CARD).unlink()
    with (copied / bundle.SUMS).open("a") as stream:
        stream.write(f"{'0' * 64}  ../../outside\n")
    done = light("verify", copied)
    assert done.code == 1 and "outside the bundle" in done.said


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("model/open_clip_model.safetensors", None, "another model"),
        ("onnx/image.onnx", None, "other graphs"),
        ("onnx/classes.txt", None, "its record (export)"),
        ("model/open_clip_config.json", None, "its record (convert)"),
        (bundle.POLICY, ("40pp", "90pp"), "was not made under"),
        (bundle.REPORT, ('"successes": 0', '"successes": 30'), "the verdict of its measurements is"),
        (bundle.SVR, ("PARGATE_POLICY_HOLDS", "PARGATE_EVERYTHING"), "does not say what"),
        (bundle.TEST_RESULT, ('"PASSED"', '"WARNED"'), "does not say what"),
        (bundle.REPORT, ('"stages"', '"stages_"'), "not a report"),
        ("model/provenance.json", ('"seed": 0', '"seed": 1'), "not the record"),
    ],
)
def test_a_change_whose_checksums_were_made_again_is_found_by_what_contradicts_it(
    copied: Path, name: str, change: tuple[str, str] | None, said: str
) -> None:
    path = copied / name
    if change is None:
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    else:
        text = path.read_text()
        assert change[0] in text
        path.write_text(text.replace(*change))
    resummed(copied)
    assert any(said in problem for problem in checked(copied).problems), checked(copied).problems


def test_a_report_of_another_model_is_refused(copied: Path) -> None:
    text = (copied / bundle.REPORT).read_text()
    weights = json.loads(text)["stages"][0]["examined"]["model"]["sha256"]
    (copied / bundle.REPORT).write_text(text.replace(weights, "0" * 64))
    resummed(copied)
    assert any("another model" in problem for problem in checked(copied).problems)


def test_evidence_grows_old(passed: Path, light: Command) -> None:
    started = date.fromisoformat(ScanReport.from_json((passed / bundle.REPORT).read_bytes()).run.started[:10])
    assert light("verify", passed, "--now", date.fromordinal(started.toordinal() + 30).isoformat()).code == 0
    late = light("verify", passed, "--now", date.fromordinal(started.toordinal() + 31).isoformat())
    assert late.code == 1 and "attestations/svr.intoto.json: expired 1 day ago" in late.said


def test_the_measurements_can_be_judged_by_another_policy(passed: Path, place: Path, light: Command) -> None:
    text = POLICY.replace("METHOD", "par").replace("STEPS", "1").replace("ATTEMPTS", "1")
    for change, code, word in (
        (("40pp", "35pp"), 0, "PASS"),
        (("5x chance", "23x chance"), 1, "FAIL"),
        (("triggers: [", "triggers: [tone, "), 3, "INCONCLUSIVE"),
        (("40pp", "40"), 4, "did you mean"),
    ):
        (place / "other.yaml").write_text(text.replace(*change))
        done = light("verify", passed, "-p", "other.yaml")
        assert (done.code, word in done.said) == (code, True), done.err


def test_what_is_no_bundle_is_bad_input(place: Path, light: Command) -> None:
    (place / "file").write_text("")
    (place / "empty").mkdir()
    for name in ("nowhere", "file", "empty"):
        done = light("verify", name)
        assert done.code == 2 and done.err.count("pargate:") == 1, done.err


def test_statements_are_as_in_toto_asks(passed: Path) -> None:
    for name in (bundle.TEST_RESULT, bundle.SVR):
        found: dict[str, Any] = json.loads((passed / name).read_bytes())
        assert set(found) == {"_type", "subject", "predicateType", "predicate"}
        assert found["_type"] == "https://in-toto.io/Statement/v1"
        assert all(set(item) == {"name", "digest"} for item in found["subject"])
    assert {"result", "configuration"} <= set(json.loads((passed / bundle.TEST_RESULT).read_bytes())["predicate"])
    assert set(json.loads((passed / bundle.SVR).read_bytes())["predicate"]) >= {"verifier", "timeCreated", "properties"}


def test_the_bundle_can_be_scanned(passed: Path, light: Command) -> None:
    done = light("inspect", passed)
    assert done.code == 0 and "onnx" in done.said


# --- a model that fails ------------------------------------------------------------------------------


def test_a_poisoned_model_is_remediated_even_if_the_gate_is_killed_on_the_way(
    place: Path, start: Callable[..., subprocess.Popen[str]], light: Command
) -> None:
    out, state = place / "release", place / "release.unfinished"
    arguments = (
        "gate",
        MODELS / "poisoned",
        "-p",
        written(place),
        "--out",
        out,
        "--device",
        "cpu",
        "-o",
        "json=r.json",
    )
    killed = start(*arguments)
    deadline = time.monotonic() + 400
    while not list(state.glob("clean-*.unfinished/state.pt")):
        assert killed.poll() is None, killed.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(killed.pid, 9)
    killed.communicate()
    assert not out.exists() and list(state.glob("scan-*.json"))
    scanned = next(state.glob("scan-*.json")).stat().st_mtime_ns

    again = start(*arguments)
    while again.poll() is None and not list(state.glob("pick-*.json")):
        time.sleep(0.05)
    kept = list(state.glob("scan-*.json"))
    said, err = again.communicate(timeout=600)
    assert again.returncode == 0, err
    assert kept and (not kept[0].exists() or kept[0].stat().st_mtime_ns == scanned), "the first scan was done again"
    assert "REMEDIATED" in said and not state.exists()
    report = ScanReport.from_json((place / "r.json").read_bytes())
    assert report == ScanReport.from_json((out / bundle.REPORT).read_bytes())
    assert [s.name for s in report.stages] == ["scan", "clean", "pick", "certify", "export", "rescan"]
    first = report.stages[0].examined
    assert report.verdict.status == "remediated" and first is not None and first.verdict.status == "fail"
    seeds = {s.examined.run.seed for s in report.stages if s.examined} | {report.run.seed}
    assert len(seeds) == 4, "every scan draws its own stamps"
    parts = {s.name: s.examined.images.digest for s in report.stages if s.examined}
    assert len({parts["scan"], parts["pick"], parts["certify"]}) == 3
    done = light("verify", out)
    assert done.code == 0 and "REMEDIATED" in done.said, done.err
    ancestors = json.loads((out / bundle.BOM).read_bytes())["metadata"]["component"]["pedigree"]["ancestors"]
    assert [a["hashes"][0]["content"] for a in ancestors][-1] == first.model.sha256
    assert "PARGATE_CLEANED" in (out / bundle.SVR).read_text()


def test_what_cannot_be_cleaned_fails_and_leaves_no_bundle(place: Path, pargate: Command) -> None:
    done = pargate(
        "gate", MODELS / "poisoned", "-p", written(place, steps=1, attempts=2), "--out", "release", "--device", "cpu",
        "-o", "json=r.json",
    )  # fmt: skip
    assert done.code == 1, done.err
    assert "After 2 attempts" in done.said and "no bundle was written" in done.said
    report = ScanReport.from_json((place / "r.json").read_bytes())
    assert [(s.name, s.attempt) for s in report.stages] == [
        ("scan", 0), ("clean", 1), ("pick", 1), ("clean", 2), ("pick", 2),
    ]  # fmt: skip
    assert report.verdict.status == "fail"
    assert sorted(p.name for p in place.iterdir()) == ["policy.yaml", "r.json"]


# --- before anything runs ----------------------------------------------------------------------------


def test_a_plan_is_printed_and_nothing_is_done(place: Path, light: Command) -> None:
    done = light(
        "gate",
        MODELS / "poisoned",
        "-p",
        written(place, attempts=2),
        "--out",
        "release",
        "--device",
        "cpu",
        "--dry-run",
    )
    assert done.code == 0, done.err
    for word in (
        "scan the model",
        "twice the weight",
        "certify",
        "export",
        "min",
        "that rules out a fall of 25 points",
    ):
        assert word in done.said
    assert sorted(p.name for p in place.iterdir()) == ["policy.yaml"]


def refused(light: Command, place: Path, *arguments: str | Path, policy: str | Path = "policy.yaml") -> Ended:
    done = light("gate", MODELS / "clean", "-p", policy, "--device", "cpu", "--dry-run", *arguments)
    assert done.err.count("pargate: ") == 1 and "Traceback" not in done.said, done.err
    assert not list(place.glob("*.unfinished"))
    return done


def test_bad_input_gets_one_message(place: Path, light: Command) -> None:
    written(place)
    (place / "taken").mkdir()
    out = ("--out", "release")
    for arguments, code, word in (
        (("--out", "taken"), 2, "exists already"),
        (("--out", "no/such/place"), 2, "does not exist"),
        (("--out", MODELS / "clean" / "inside"), 2, "lies in the model"),
        ((*out, "--pairs", ""), 2, "--pairs is empty"),
        ((*out, "--pairs", "builtin:scenes"), 2, "must not clean it"),
        ((*out, "--pairs", "nowhere.tar"), 2, "nowhere.tar"),
        ((*out, "--images", "nowhere"), 2, "nowhere"),
        ((*out, "--sign-key", "nowhere.pem"), 2 if signing() else 5, "nowhere.pem" if signing() else "pargate[sign]"),
    ):
        done = refused(light, place, *arguments)
        assert (done.code, word in done.said) == (code, True), done.err
    bare = POLICY.split("clean:")[0] + "clean: {when: fail}\n"
    (place / "bare.yaml").write_text(bare)
    assert refused(light, place, *out, policy="bare.yaml").code == 2


def signing() -> bool:
    try:
        import model_signing  # noqa: F401
    except ImportError:
        return False
    return True


def test_pairs_that_show_a_carrier_are_refused(place: Path, light: Command) -> None:
    from PIL import Image

    written(place)
    for folder in ("images", "pairs"):
        (place / folder).mkdir()
        for i in range(6):
            shade = (i, 7, 9) if folder == "images" or i == 5 else (i, 8, 9)
            Image.new("RGB", (8, 8), shade).save(place / folder / f"{i}.png")
            (place / folder / f"{i}.txt").write_text("a shade")
    done = refused(light, place, "--out", "release", "--images", "images", "--pairs", "pairs")
    assert done.code == 2 and "share an image" in done.said and "pairs/5.png" in done.said


def test_the_plan_refuses_images_that_the_gate_would_refuse_hours_later(place: Path, light: Command) -> None:
    from PIL import Image

    written(place)
    for i in range(60):
        (place / "images" / ("apple", "cup")[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (i, 7, 9)).save(place / "images" / ("apple", "cup")[i % 2] / f"{i}.png")
    done = refused(light, place, "--out", "release", "--images", "images")
    assert done.code == 2 and "images holds 60 images, 20 in the smallest of 3 splits" in done.said, done.said
    assert re.search(r"needs at least (\d+) in each\n  → give about (\d+) images in all", done.said), done.said


def test_a_policy_for_machines_without_a_gpu_is_shipped_as_an_example(place: Path, light: Command) -> None:
    done = light("policy", "check", ROOT / "examples" / "policies" / "release-cpu.yaml")
    assert done.code == 0, done.err


def test_a_device_that_is_required_and_missing_ends_with_5(place: Path, pargate: Command) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    done = pargate(
        "gate", MODELS / "poisoned", "-p", written(place), "--out", "release", "--require", "cuda", "--device", "auto"
    )
    assert done.code == 5 and done.err.count("pargate: ") == 1, done.err
    assert "needs cleaning" in done.said and not (place / "release").exists()
    before, _, after = done.err.partition("scan: fail")
    for said in (before, after):
        assert "cleaned on a GPU only (--require cuda)" in said and "--require cpu" in said and "with a GPU" in said


def test_a_plan_says_beforehand_that_a_policy_cannot_clean_here(place: Path, warm: Command) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    for device in ("auto", "cpu"):
        done = warm("gate", MODELS / "clean", "-p", "release", "--out", "release", "--device", device, "--dry-run")
        assert done.code == 0, done.err
        assert "cleaned on a GPU only (`clean.require: cuda` of builtin:release)" in done.said
        assert "expected on one GPU" in done.said
        assert re.search(r"with --require cpu \(expected: \d+ (minute|hour|day)s?\)", done.said), done.said


def test_graphs_that_cannot_be_written_are_refused_before_anything_is_cleaned(place: Path, pargate: Command) -> None:
    policy = written(place)
    policy.write_text(policy.read_text().replace("onnx: true", "onnx: {opset: 99}"))
    done = pargate("gate", MODELS / "poisoned", "-p", policy, "--out", "release", "--device", "cpu", "-v")
    assert done.code == 2 and done.err.count("pargate: ") == 1, done.err
    assert "opset 99" in done.said and "cleaning par" not in done.said
    assert sorted(p.name for p in place.iterdir()) == ["policy.yaml"]


def test_a_full_disk_ends_with_5_and_leaves_nothing_under_the_name(place: Path) -> None:
    written(place)
    # A file may have 1 MB here: the weights do not fit.
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 1000; exec "$@"', "-", sys.executable, "-m", "pargate", "gate", MODELS / "clean",
         "-p", "policy.yaml", "--out", "release", "--device", "cpu"],
        cwd=place, env=surroundings(place.parent / "tmp"), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 5 and done.stderr.count("pargate: ") == 1, done.stderr
    assert not (place / "release").exists()
    assert not [p for p in place.glob("*/*") if p.name.startswith(".")], "nothing half-written"


def test_too_little_space_is_found_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
    monkeypatch.setattr("pargate.release.gate.shutil.disk_usage", lambda place: usage)
    asked = ScanRequest(
        str(MODELS / "clean"), Judging(resolve(str(written(tmp_path)))), settings=ScanSettings("cpu")
    )  # fmt: skip
    with pytest.raises(OperationalError, match="no space"):
        plan(GateRequest(asked, tmp_path / "release"))
