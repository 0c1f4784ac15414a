import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import surroundings

ROOT = Path(__file__).parents[2]
ACTION = "someone/pargate@0123456789abcdef0123456789abcdef01234567"
WORKFLOW = ".github/workflows/pargate.yml"

Command = Callable[..., Any]


@pytest.fixture
def repository(place: Path) -> Path:
    """A git repository with one model, where commands run."""
    subprocess.run(["git", "init", "--quiet", "--initial-branch", "main", str(place)], check=True)
    shutil.copytree(ROOT / "examples" / "models" / "clean", place / "model")
    for name in ("cat", "dog"):
        (place / "photos" / name).mkdir(parents=True)
        shutil.copy(ROOT / "docs" / "images" / "report.png", place / "photos" / name / "1.png")
    return place


def test_a_repository_is_ready_after_one_command(repository: Path, light: Command) -> None:
    ended = light("init", "github", "--no-scan", "--action", ACTION)
    assert (ended.code, ended.err) == (0, "")
    assert "written: .github/workflows/pargate.yml" in ended.said
    assert "status check `pargate`" in ended.said
    assert light("policy", "check").code == 0
    again = light("init", "github", "--no-scan", "--action", ACTION)
    assert (again.code, "nothing to do" in again.said) == (0, True)


def test_a_second_run_keeps_the_options_of_the_first(repository: Path, light: Command) -> None:
    (repository / "names.txt").write_text("cat\ndog\n")
    assert light("policy", "init", "--yes").code == 0
    own = ("--action", ACTION, "--images", "photos", "--classes", "names.txt", "--comment", "--gpu-labels", "gpu")
    assert light("init", "github", "--no-scan", *own).code == 0
    written = {name: (repository / name).read_text() for name in (WORKFLOW, "pargate-inventory.yaml")}
    again = light("init", "github", "--no-scan")
    said = "kept from the last run (--reset keeps nothing): "
    assert (again.code, "nothing to do" in again.said) == (0, True)
    assert f"{said}--action {ACTION} --images photos --classes names.txt --gpu-labels gpu --comment" in again.err
    assert {name: (repository / name).read_text() for name in written} == written
    assert light("init", "github", "--no-scan", "--no-comment").code == 0
    assert "pull-requests: write" not in (repository / WORKFLOW).read_text()
    ended = light("init", "github", "--no-scan", "--action", ACTION, "--reset")
    assert (ended.code, "kept from" in ended.said) == (0, False)
    assert not {"photos", "gpu"} & set((repository / WORKFLOW).read_text().split())

    assert light("init", "gitlab", "--no-scan", *own[:6]).code == 0
    job = (repository / ".gitlab" / "pargate.yml").read_text()
    assert "PARGATE_IMAGES: photos" in job
    assert light("init", "gitlab", "--no-scan").code == 0
    assert (repository / ".gitlab" / "pargate.yml").read_text() == job


@pytest.mark.parametrize("where", ["github", "gitlab"])
@pytest.mark.parametrize("more", [("--model", "nosuch"), ("--images", "nosuch/"), ("--classes", "nosuch.txt")])
def test_what_is_not_there_is_refused_before_anything_is_written(
    repository: Path, light: Command, where: str, more: tuple[str, ...]
) -> None:
    ended = light("init", where, "--no-scan", "--action", ACTION, *more)
    assert (ended.code, more[1] in ended.err) == (2, True)
    assert not (repository / "pargate.yaml").exists()


def test_a_dry_run_writes_nothing(repository: Path, light: Command) -> None:
    ended = light("init", "github", "--no-scan", "--action", ACTION, "--dry-run")
    assert (ended.code, "would be written: pargate.yaml" in ended.said) == (0, True)
    assert not (repository / "pargate.yaml").exists()
    assert not (repository / ".github").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
@pytest.mark.parametrize(
    ("typed", "more", "named"),
    [
        ("photos\nnames.txt\n", (), True),
        ("nosuch/\n\n", (), None),  # refused
        ("\n\n", (), False),
        ("", ("--yes",), False),
        ("", ("--dry-run",), None),
    ],
)
def test_a_person_at_a_terminal_is_asked_for_images_and_classes(
    repository: Path, typed: str, more: tuple[str, ...], named: bool | None
) -> None:
    import pty

    (repository / "names.txt").write_text("cat\ndog\n")
    ours, theirs = pty.openpty()
    os.write(ours, typed.encode())
    command = [sys.executable, "-m", "pargate", "init", "github", "--no-scan", "--action", ACTION, *more]
    ended = subprocess.run(
        command, cwd=repository, env=surroundings(repository.parent / "tmp"), stdin=theirs, stderr=theirs,
        stdout=subprocess.PIPE, text=True, check=False, timeout=60,
    )  # fmt: skip
    asked = os.read(ours, 65536).decode() if typed else ""
    os.close(ours)
    os.close(theirs)
    assert ended.returncode == (2 if "nosuch" in typed else 0)
    assert ("Labelled images" in asked, "File of class names" in asked) == (bool(typed), bool(typed))
    if ended.returncode:
        assert (ended.stdout.strip(), "no such file" in asked, (repository / "pargate.yaml").exists()) == (
            "",
            True,
            False,
        )
        return
    assert ("1. give labelled images" in ended.stdout) == (not named), "what was not answered is left to do"
    if named is not None:
        assert ("source: photos" in (repository / "pargate.yaml").read_text()) == named


def test_without_a_commit_it_says_how_to_find_one(repository: Path, light: Command) -> None:
    ended = light("init", "github", "--no-scan")
    assert ended.code == 2
    assert "--action OWNER/REPO@COMMIT" in ended.said
    assert not (repository / "pargate.yaml").exists()


def test_after_policy_init_it_uses_that_policy(repository: Path, light: Command) -> None:
    assert light("policy", "init", "--yes").code == 0
    text = (repository / "pargate.yaml").read_text()
    ended = light("init", "github", "--no-scan", "--action", ACTION)
    assert (ended.code, "kept as it is: pargate.yaml" in ended.said) == (0, True)
    assert (repository / "pargate.yaml").read_text() == text


def test_it_ends_with_the_verdict_of_a_first_scan(repository: Path, tmp_path: Path, warm: Command) -> None:
    (repository / "own.yaml").write_text(
        "pargate: 1\nname: own\nrules: [{id: useful, probe: utility, min: {accuracy: 5x chance}}]\n"
    )
    asked = ("init", "github", "--action", ACTION, "--policy", "own.yaml")
    ended = warm(*asked, PARGATE_CACHE=str(tmp_path / "cache"))
    assert (ended.code, "A first scan, of model" in ended.said, " PASS " in ended.said) == (0, True, True)
    assert any((tmp_path / "cache").iterdir()), "the scan keeps its vectors where it was told to"
    (repository / "model" / "open_clip_config.json").write_text("{}")
    ended = warm(*asked)
    assert (ended.code, "it could not be done" in ended.said, "unchanged: .github" in ended.said) == (0, True, True)


def test_a_runner_with_a_gpu_brings_a_protected_environment(repository: Path, light: Command) -> None:
    ended = light("init", "github", "--no-scan", "--action", ACTION, "--gpu-labels", "self-hosted, gpu")
    assert (ended.code, "environment `pargate-clean`" in ended.said) == (0, True)
    assert "runs-on: [self-hosted, gpu]" in (repository / ".github" / "workflows" / "pargate.yml").read_text()


@pytest.mark.parametrize("value", ["$(touch x)", '"; exit 0; "', "a\nb", "${{ github.token }}", "%0A::error::x"])
def test_hostile_values_touch_nothing(repository: Path, light: Command, value: str) -> None:
    ended = light("init", "github", "--no-scan", "--action", ACTION, "--images", value)
    assert ended.code in (0, 2)
    assert not (repository / "x").exists()
    if ended.code:
        assert not (repository / ".github").exists()


def test_the_workflows_find_no_fault_with_zizmor(repository: Path, light: Command) -> None:
    zizmor = shutil.which("zizmor", path=str(Path(sys.executable).parent)) or shutil.which("zizmor")
    if zizmor is None:
        pytest.skip("zizmor is not installed")
    light("init", "github", "--no-scan", "--action", ACTION, "--gpu-labels", "gpu", "--comment")
    done = subprocess.run(
        [zizmor, "--offline", "--persona=auditor", "--no-progress", str(repository)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
