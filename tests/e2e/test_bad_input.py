import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from pargate.cli.app import run as run_here
from pargate.core.report import ScanReport
from pargate.errors import ExitCode, Terminated
from pargate.files import _beside as beside

MODELS = Path(__file__).parents[2] / "examples" / "models"
CLEAN = MODELS / "clean"
WEIGHTS = "open_clip_model.safetensors"
CONFIG = "open_clip_config.json"

RULE = "  - {id: a, probe: attack, triggers: [badnet], max: {excess: 30pp}}\n"
POLICY = "pargate: 1\nname: x\nrules:\n" + RULE
NEVER_DECIDED = (
    "pargate: 1\nname: x\nrules:\n"
    "  - {id: a, probe: attack, triggers: [badnet, blended, tone, wanet, bpp], max: {excess: 1pp}}\n"
)


def one_message(err: str) -> str:
    """The message of a failed command, which must be the only one."""
    assert "Traceback" not in err and "Error:" not in err
    assert err.startswith("pargate: "), err
    assert sum(line.startswith("pargate: ") for line in err.splitlines()) == 1, err
    assert err.endswith("\n") and not err.endswith("\n\n")
    return err


def picture(path: Path, seed: int = 0) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def folder_of(place: Path, names: list[str]) -> Path:
    folder = place / "images"
    folder.mkdir()
    for i, name in enumerate(names):
        picture(folder / name, i)
    return folder


# --- before torch is loaded: each builder fills the folder and returns arguments, exit code, and words ---

Case = tuple[list[str], int, list[str]]


def missing_path(place: Path) -> Case:
    return ["scan", "nowhere"], 2, ["no model at nowhere: No such file or directory", "open_clip folder"]


def empty_folder(place: Path) -> Case:
    (place / "model").mkdir()
    return ["scan", "model"], 2, ["model is empty", CONFIG]


def folder_of_pictures(place: Path) -> Case:
    folder_of(place, ["a.png"])
    return ["scan", "images"], 2, [f"images is not an open_clip folder: it holds no {CONFIG}"]


def folder_without_weights(place: Path) -> Case:
    (place / "model").mkdir()
    shutil.copy(CLEAN / CONFIG, place / "model")
    return ["scan", "model"], 2, ["model holds no weights file"]


def model_with(place: Path, content: bytes, name: str = WEIGHTS) -> Case:
    (place / "model").mkdir()
    shutil.copy(CLEAN / CONFIG, place / "model")
    (place / "model" / name).write_bytes(content)
    return ["scan", "model"], 2, [name]


def lfs_pointer(place: Path) -> Case:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 605143884\n"
    arguments, code, words = model_with(place, pointer)
    return arguments, code, [*words, "git-lfs pointer", "git lfs pull"]


def truncated_weights(place: Path) -> Case:
    arguments, code, words = model_with(place, (CLEAN / WEIGHTS).read_bytes()[:-1000])
    return arguments, code, [*words, "is cut short", "copy or download it again"]


def weights_cut_in_their_header(place: Path) -> Case:
    arguments, code, words = model_with(place, (CLEAN / WEIGHTS).read_bytes()[:500])
    return arguments, code, [*words, "is cut short within its header"]


def empty_weights(place: Path) -> Case:
    arguments, code, words = model_with(place, b"")
    return arguments, code, [*words, "is empty"]


def pickled_weights(place: Path) -> Case:
    arguments, _, words = model_with(place, b"\x80\x04\x95cos\nsystem\n.", "open_clip_pytorch_model.bin")
    return arguments, 1, [*words, "bare pickle", "can run any code"]


def broken_config(place: Path) -> Case:
    (place / "model").mkdir()
    shutil.copy(CLEAN / WEIGHTS, place / "model")
    (place / "model" / CONFIG).write_text('{"model_cfg": ')
    return ["scan", "model"], 2, [CONFIG, "is not valid JSON"]


def unknown_architecture(place: Path) -> Case:
    return (
        ["scan", str(CLEAN / WEIGHTS), "--arch", "ViT-B32"],
        2,
        ["unknown architecture 'ViT-B32'", "Did you mean 'ViT-B-32'?"],
    )


def architecture_for_a_folder(place: Path) -> Case:
    return ["scan", str(CLEAN), "--arch", "RN50"], 2, ["--arch RN50 does not go with the folder"]


def missing_reference(place: Path) -> Case:
    return ["scan", str(CLEAN), "--reference", "parent"], 2, ["no model at parent"]


def reference_of_another_size(place: Path) -> Case:
    shutil.copytree(CLEAN, place / "parent")
    config = json.loads((CLEAN / CONFIG).read_text())
    config["model_cfg"]["vision_cfg"]["image_size"] = 32
    (place / "parent" / CONFIG).write_text(json.dumps(config))
    return ["scan", str(CLEAN), "--reference", "parent"], 2, ["the reference parent prepares images in another way"]


def one_image(place: Path) -> Case:
    folder_of(place, ["a.png"])
    return (
        ["scan", str(CLEAN), "--images", "images"],
        2,
        ["images holds 1 image: ", "needs at least 200", "give at least 200 images"],
    )


def one_image_where_the_policy_asks_for_no_number(place: Path) -> Case:
    folder_of(place, ["a.png"])
    (place / "p.yaml").write_text(POLICY)
    return ["scan", str(CLEAN), "--images", "images", "-p", "p.yaml"], 2, ["cannot show that excess is below 30pp"]


def two_classes(place: Path) -> Case:
    for name in ("cat", "dog"):
        (place / "images" / name).mkdir(parents=True)
        for i in range(100):
            picture(place / "images" / name / f"{i}.png")
    return ["scan", str(CLEAN), "--images", "images"], 2, ["5x chance among 2 classes is 250% (rule usefulness)"]


def missing_images(place: Path) -> Case:
    folder_of(place, [])
    return ["scan", str(CLEAN), "--images", "image"], 2, ["no such file or folder: image", "Did you mean 'images'?"]


def no_images(place: Path) -> Case:
    folder_of(place, [])
    (place / "images" / "notes.txt").write_text("hello")
    return ["scan", str(CLEAN), "--images", "images"], 2, ["no images in images", ".jpeg"]


def images_of_an_unset_variable(place: Path) -> Case:
    return ["scan", str(CLEAN), "--images", ""], 2, ["--images is empty", "check that the variable is set"]


def reference_of_an_unset_variable(place: Path) -> Case:
    return ["scan", str(CLEAN), "--reference", ""], 2, ["--reference is empty"]


def images_with_an_endless_name(place: Path) -> Case:
    return ["scan", str(CLEAN), "--images", "a" * 300], 2, ["File name too long"]


def corrupt_tar(place: Path) -> Case:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        for i in range(3):
            header = tarfile.TarInfo(f"{i}.png")
            header.size = 5000
            archive.addfile(header, io.BytesIO(bytes(5000)))
    (place / "val.tar").write_bytes(whole.getvalue()[:9000])
    return ["scan", str(CLEAN), "--images", "val.tar"], 2, ["val.tar is", "copy or make it again"]


def no_tar_at_all(place: Path) -> Case:
    (place / "val.tar").write_bytes(b"<html>not found</html>" * 100)
    return ["scan", str(CLEAN), "--images", "val.tar"], 2, ["val.tar is not a complete tar"]


def table_without_its_header(place: Path) -> Case:
    (place / "val.csv").write_text("a.png,cat\nb.png,dog\n")
    return ["scan", str(CLEAN), "--images", "val.csv"], 2, ["val.csv: the header is a.png, cat", "`label`"]


def classes_with_duplicates(place: Path) -> Case:
    (place / "c.txt").write_text("cat\ndog\nCat\n")
    return ["scan", str(CLEAN), "--classes", "c.txt"], 2, ["c.txt:3: 'Cat' is already line 1"]


def one_class(place: Path) -> Case:
    (place / "c.txt").write_text("cat\n")
    return ["scan", str(CLEAN), "--classes", "c.txt"], 2, ["c.txt names one class", "at least two"]


def missing_classes(place: Path) -> Case:
    return ["scan", str(CLEAN), "--classes", "c.txt"], 2, ["cannot read the classes in c.txt"]


def policy_with(place: Path, text: str) -> list[str]:
    (place / "p.yaml").write_text(text)
    return ["scan", str(CLEAN), "-p", "p.yaml"]


def unknown_trigger(place: Path) -> Case:
    text = POLICY.replace("[badnet]", "[badnett]")
    return policy_with(place, text), 4, ["p.yaml:4:39: unknown trigger 'badnett'", "Did you mean 'badnet'?", "^"]


def limit_without_unit(place: Path) -> Case:
    return policy_with(place, POLICY.replace("30pp", "5")), 4, ["p.yaml:4:54: a limit needs its unit: did you mean 5%?"]


def policy_that_is_no_yaml(place: Path) -> Case:
    return policy_with(place, "pargate: [1\n"), 4, ["p.yaml:1:10: not valid YAML", "→ docs/policy.md"]


def empty_policy(place: Path) -> Case:
    return policy_with(place, ""), 4, ["p.yaml:1:1: no policy: it is empty", "start with `pargate: 1`"]


def policy_with_a_trigger_file_that_is_missing(place: Path) -> Case:
    text = POLICY.replace("[badnet]", "[{kind: file, path: t.png}]")
    return policy_with(place, text), 2, ["cannot read the trigger file", "t.png"]


def unknown_policy(place: Path) -> Case:
    return ["scan", str(CLEAN), "-p", "baselin"], 4, ["no such policy: baselin", "Did you mean 'baseline'?"]


def text_of_a_policy_for_its_path(place: Path) -> Case:
    return ["scan", str(CLEAN), "-p", POLICY + "#" * 5000], 4, ["cannot read the policy", "File name too long"]


def output_in_a_missing_folder(place: Path) -> Case:
    return ["scan", str(CLEAN), "-o", "json=out/r.json"], 2, ["cannot write out/r.json: the folder out does not exist"]


def output_that_is_a_folder(place: Path) -> Case:
    (place / "out").mkdir()
    return ["scan", str(CLEAN), "-o", "json=out"], 2, ["cannot write out: it is a folder"]


def output_below_a_file(place: Path) -> Case:
    (place / "out").write_text("")
    return ["scan", str(CLEAN), "-o", "json=out/r.json"], 2, ["cannot write out/r.json"]


def output_without_a_name(place: Path) -> Case:
    return ["scan", str(CLEAN), "-o", "json="], 2, ["-o json=: the path is empty", "write -o json=PATH"]


def unknown_format(place: Path) -> Case:
    return ["scan", str(CLEAN), "-o", "jsn=r.json"], 2, ["unknown report format 'jsn'", "Did you mean 'json'?"]


def two_reports_for_stdout(place: Path) -> Case:
    return ["scan", str(CLEAN), "-o", "json", "-o", "json"], 2, ["two reports for stdout"]


def no_time_at_all(place: Path) -> Case:
    return ["scan", str(CLEAN), "--max-minutes", "0"], 2, ["--max-minutes must be more than 0"]


def unknown_precision(place: Path) -> Case:
    return ["scan", str(CLEAN), "--precision", "fp8"], 2, ["'fp8' is not one of"]


def no_model(place: Path) -> Case:
    return ["scan"], 2, ["Missing argument 'MODEL'"]


def two_models(place: Path) -> Case:
    return ["scan", str(CLEAN), str(CLEAN)], 2, ["unexpected extra argument"]


def unknown_option(place: Path) -> Case:
    return ["scan", str(CLEAN), "--polcy", "x"], 2, ["No such option: --polcy", "--policy"]


def unknown_command(place: Path) -> Case:
    return ["scam", str(CLEAN)], 2, ["No such command 'scam'", "scan"]


def preview_in_a_missing_folder(place: Path) -> Case:
    return ["triggers", "--preview", "out/sheet.png"], 2, ["cannot write out/sheet.png"]


def preview_on_something_else(place: Path) -> Case:
    (place / "a.png").write_text("hello")
    return ["triggers", "--preview", "sheet.png", "--on", "a.png"], 2, ["a.png is not an image"]


def preview_of_nothing(place: Path) -> Case:
    return ["triggers", "--on", "a.png"], 2, ["--on needs --preview"]


LIGHT = [
    missing_path, empty_folder, folder_of_pictures, folder_without_weights, lfs_pointer, truncated_weights,
    weights_cut_in_their_header, empty_weights, broken_config, unknown_architecture,
    architecture_for_a_folder, missing_reference, reference_of_another_size, one_image,
    one_image_where_the_policy_asks_for_no_number, two_classes, missing_images, no_images, images_of_an_unset_variable,
    reference_of_an_unset_variable, images_with_an_endless_name, corrupt_tar, no_tar_at_all, table_without_its_header,
    classes_with_duplicates, one_class, missing_classes, unknown_trigger, limit_without_unit, policy_that_is_no_yaml,
    empty_policy, policy_with_a_trigger_file_that_is_missing, unknown_policy, text_of_a_policy_for_its_path,
    output_in_a_missing_folder, output_that_is_a_folder, output_below_a_file, output_without_a_name, unknown_format,
    two_reports_for_stdout, no_time_at_all, unknown_precision, no_model, two_models, unknown_option, unknown_command,
    preview_in_a_missing_folder, preview_on_something_else, preview_of_nothing,
]  # fmt: skip


@pytest.mark.parametrize("build", LIGHT, ids=lambda build: build.__name__)
def test_what_can_be_refused_is_refused_before_torch_is_loaded_in_one_message(
    build: Callable[[Path], Case], place: Path, light: Callable[..., Any]
) -> None:
    arguments, code, words = build(place)
    before = sorted(place.rglob("*"))
    ended = light(*arguments)
    message = one_message(ended.err)
    for word in words:
        assert word in message
    assert ended.code == code
    assert ended.out == ""
    assert sorted(place.rglob("*")) == before
    assert not list((place.parent / "tmp").iterdir())


def test_a_checkpoint_that_could_run_code_fails_with_a_report_and_without_torch(
    place: Path, light: Callable[..., Any]
) -> None:
    arguments, code, words = pickled_weights(place)
    ended = light(*arguments, "-o", "json=r.json")
    assert ended.code == code == ExitCode.FAIL
    for word in words:
        assert word in ended.said
    report = ScanReport.from_json((place / "r.json").read_bytes())
    assert (report.verdict.status, report.verdict.decided_by) == ("fail", ("unsafe-file",))
    assert not report.measurements
    again = light("report", "r.json", "-p", "baseline")
    assert again.code == ExitCode.FAIL, "no policy makes such a file safe"


def test_a_folder_that_may_not_be_written_is_refused_before_measuring(place: Path, light: Callable[..., Any]) -> None:
    folder = place / "out"
    folder.mkdir(mode=0o555)
    if os.access(folder, os.W_OK):  # root may write anywhere but among the kernel's own files
        folder = Path("/proc")
        if not folder.is_dir():
            pytest.skip("root may write anywhere here")
    ended = light("scan", CLEAN, "-o", f"json={folder / 'r.json'}")
    assert ended.code == 2
    assert f"cannot write {folder / 'r.json'}: " in one_message(ended.err)
    assert "choose another place" in ended.said


# --- once torch is loaded ---


def altered_model(place: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    shutil.copytree(CLEAN, place / "model")
    tensors = load_file(place / "model" / WEIGHTS)
    change(tensors)
    save_file(tensors, place / "model" / WEIGHTS)
    return place / "model"


def test_weights_that_are_not_numbers_are_refused_by_name(place: Path, pargate: Callable[..., Any]) -> None:
    def spoil(tensors: dict[str, Any]) -> None:
        tensors["visual.conv1.weight"][0, 0, 0, 0] = np.nan

    ended = pargate("scan", altered_model(place, spoil), "-o", "json=r.json")
    assert ended.code == 2
    message = one_message(ended.err)
    assert "not finite" in message and ": visual.conv1.weight\n" in message
    assert not (place / "r.json").exists()


def test_weights_of_another_architecture_are_refused_with_the_tensors_that_are_missing(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def lose(tensors: dict[str, Any]) -> None:
        del tensors["text_projection"]
        tensors["visual.conv9.weight"] = np.zeros((2, 2), np.float16)

    assert run_here(["scan", str(altered_model(place, lose)), "--cache", "off"]) == 2
    message = one_message(capsys.readouterr().err)
    assert "lacks" in message and ": text_projection\n" in message


def test_too_many_unreadable_pictures_are_named_and_nothing_is_judged(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(place, [f"{i:03d}.png" for i in range(300)])
    for i in range(8):
        (folder / f"{i:03d}.png").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    monkeypatch.chdir(place)
    (place / "p.yaml").write_text(POLICY)
    given = ["--images", "images", "-p", "p.yaml", "--cache", "off", "-o", "json=r.json"]
    code = run_here(["scan", str(CLEAN), "--quiet", *given])  # without the note that the pictures have no labels
    message = one_message(capsys.readouterr().err)
    assert code == ExitCode.INPUT
    assert re.search(r"\d of the 300 images in images cannot be read, more than 1%: 00\d\.png: a git-lfs", message)
    assert not (place / "r.json").exists()


def test_a_device_that_is_not_there_is_trouble_with_the_machine(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    monkeypatch.chdir(place)
    code = run_here(["scan", str(CLEAN), "--device", "cuda", "--cache", "off"])
    assert code == ExitCode.OPERATIONAL
    assert "'cuda' was asked for" in one_message(capsys.readouterr().err)


# --- trouble with the machine ---


def test_a_full_disk_under_the_cache_says_so_and_leaves_no_report(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> Path:
        if path.suffix == ".blk":
            raise OSError(errno.ENOSPC, "No space left on device")
        return beside(path)

    monkeypatch.chdir(place)
    (place / "p.yaml").write_text(POLICY)
    monkeypatch.setattr("pargate.files._beside", full)
    code = run_here(["scan", str(CLEAN), "-p", "p.yaml", "--cache", "cache", "-o", "json=r.json"])
    message = one_message(capsys.readouterr().err)
    assert code == ExitCode.OPERATIONAL
    assert "No space left on device" in message and "cache" in message
    assert not (place / "r.json").exists()
    assert not [p for p in (place / "cache").rglob("*") if p.is_file()]


def test_a_full_disk_anywhere_else_is_no_bug(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device", "somewhere")

    monkeypatch.setattr("pargate.models.open.inspect", full)
    assert run_here(["inspect", str(CLEAN)]) == ExitCode.OPERATIONAL
    assert one_message(capsys.readouterr().err).startswith("pargate: No space left on device: somewhere")


def test_a_cache_that_cannot_be_written_says_what_to_do(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    (place / "file").write_text("")
    (place / "p.yaml").write_text(POLICY)
    code = run_here(["scan", str(CLEAN), "-p", "p.yaml", "--cache", "file"])
    assert code == ExitCode.OPERATIONAL
    assert "--cache DIR, or --cache off" in one_message(capsys.readouterr().err)


def wait_for(what: Callable[[], Any], process: subprocess.Popen[str], seconds: float = 120) -> Any:
    until = time.monotonic() + seconds
    while not (found := what()):
        assert process.poll() is None, "it ended too early"
        assert time.monotonic() < until, "it did not come in time"
        time.sleep(0.02)
    return found


def decoding(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """The processes that decode pictures for a command."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if any("spawn_main" in part for part in child.cmdline())]


def test_a_decoding_process_that_is_killed_is_trouble_with_the_machine(
    place: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    (place / "p.yaml").write_text(NEVER_DECIDED)
    process = start("scan", CLEAN, "-p", "p.yaml", "-o", "json=r.json")

    with process:
        for worker in wait_for(lambda: decoding(process), process):
            worker.kill()
        _, err = process.communicate(timeout=120)
    assert process.returncode == ExitCode.OPERATIONAL
    assert "a process that decodes images was killed" in one_message(err)
    assert not (place / "r.json").exists()


def test_a_bug_ends_with_its_own_code_and_its_traceback_in_a_file(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str | None, *rest: Any) -> Any:
        raise ZeroDivisionError("that should not happen")

    monkeypatch.setattr("pargate.policy.resolve.resolve", broken)
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    assert run_here(["scan", str(CLEAN)]) == ExitCode.BUG
    err = capsys.readouterr().err
    assert err.startswith("pargate: a bug in pargate: ZeroDivisionError: that should not happen\n")
    assert "Traceback" not in err
    (log,) = place.glob("pargate-*.log")
    assert str(log) in err
    text = log.read_text()
    assert "Traceback (most recent call last)" in text and "in broken" in text


def test_a_bug_is_reported_even_where_no_log_can_be_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str | None) -> Any:
        raise ZeroDivisionError("that should not happen")

    monkeypatch.setattr("pargate.policy.resolve.resolve", broken)
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    assert run_here(["scan", str(CLEAN)]) == ExitCode.BUG
    assert capsys.readouterr().err.endswith("  → please report it\n")


def test_a_broken_pipe_within_a_scan_is_never_taken_for_a_pass(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str | None) -> Any:
        raise BrokenPipeError

    monkeypatch.setattr("pargate.policy.resolve.resolve", broken)
    monkeypatch.setattr("pargate.ending.os.dup2", lambda *_: None)
    assert run_here(["scan", str(CLEAN)]) not in (ExitCode.OK, ExitCode.FAIL, ExitCode.INCONCLUSIVE)


# --- signals ---


# Ctrl-C reaches the whole group, decoding processes included; so does SIGTERM of `timeout`, systemd and Slurm, and
# `kill` reaches one process.
@pytest.mark.parametrize(
    ("number", "send", "code"),
    [
        pytest.param(signal.SIGINT, os.killpg, 130, id="ctrl-c"),
        pytest.param(signal.SIGTERM, os.killpg, 143, id="group", marks=pytest.mark.nightly),
        pytest.param(signal.SIGTERM, os.kill, 143, id="alone"),
    ],
)
def test_a_signal_while_measuring_leaves_a_partial_report(
    number: signal.Signals,
    send: Callable[[int, int], None],
    code: int,
    place: Path,
    start: Callable[..., subprocess.Popen[str]],
) -> None:
    (place / "p.yaml").write_text(NEVER_DECIDED)
    process = start("scan", CLEAN, "-p", "p.yaml", "-o", "json=r.json", "--cache", "cache")
    with process:
        wait_for(lambda: len(list(place.glob("cache/*/*.blk"))) > 12, process)
        send(process.pid, number)
        began = time.monotonic()
        out, err = process.communicate(timeout=60)
        assert time.monotonic() - began < 20
    assert process.returncode == code
    report = json.loads((place / "r.json").read_text())
    assert report["run"]["complete"] is False
    assert report["verdict"]["status"] != "pass"
    assert {m["stopped"] for m in report["measurements"]} <= {"", "decided", "interrupted"}
    assert " INCONCLUSIVE " in out and "The run was interrupted" in out
    assert "Traceback" not in err
    assert "interrupted" in err
    assert not list(place.glob(".r.json*"))


@pytest.mark.skipif(not Path("/proc/self/wchan").exists(), reason="no /proc that says what a process waits for")
@pytest.mark.parametrize("code", [ExitCode.SIGTERM, ExitCode.OPERATIONAL], ids=["group", "worker"])
def test_a_death_while_pictures_are_handed_over_ends_the_scan_at_once(
    code: ExitCode, place: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    (place / "p.yaml").write_text(NEVER_DECIDED)
    process = start("scan", CLEAN, "-p", "p.yaml", "--cache", "cache")
    with process:
        wait_for(lambda: list(place.glob("cache/*/*.blk")), process)
        (worker, *_) = decoding(process)

        def handing_over() -> bool:
            """Whether the worker has more to say than a pipe holds, and a stopped parent does not listen."""
            process.send_signal(signal.SIGSTOP)
            for _ in range(20):
                time.sleep(0.02)
                if "pipe_write" in Path(f"/proc/{worker.pid}/wchan").read_text():
                    return True
            process.send_signal(signal.SIGCONT)
            time.sleep(0.03)
            return False

        wait_for(handing_over, process)
        if code is ExitCode.SIGTERM:
            os.killpg(process.pid, signal.SIGTERM)
        else:
            worker.kill()
        process.send_signal(signal.SIGCONT)
        began = time.monotonic()
        process.communicate(timeout=60)
        assert time.monotonic() - began < 20
    assert process.returncode == code
    assert not worker.is_running()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_before_measuring_ends_at_once_without_a_report(
    number: signal.Signals, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> Any:
        raise Terminated if number is signal.SIGTERM else KeyboardInterrupt

    monkeypatch.setattr("pargate.models.open.inspect", stop)
    assert run_here(["inspect", str(CLEAN)]) == code
    wanted = "terminated" if number is signal.SIGTERM else "interrupted"
    assert capsys.readouterr().err == f"pargate: {wanted}\n"
