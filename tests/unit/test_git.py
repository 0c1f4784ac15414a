import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pargate import git
from pargate.errors import InputError, OperationalError, PolicyError
from pargate.github import inputs as action_inputs
from pargate.github.changes import changed_models
from pargate.policy.layers import from_git

IDENTITY = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")


def run(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *IDENTITY, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two commits that hold a policy and a model."""
    folder = tmp_path / "repo"
    (folder / "model").mkdir(parents=True)
    (folder / "p.yaml").write_text("pargate: 1\n")
    (folder / "model" / "weights").write_text("x")
    run(folder, "init", "-q", "-b", "main")
    run(folder, "add", "-A")
    for message in ("one", "two"):
        run(folder, "commit", "-q", "--allow-empty", "-m", message)
    return folder


def read_policy(folder: Path, monkeypatch: pytest.MonkeyPatch, ref: str = "HEAD~1") -> PolicyError:
    """What a policy that cannot be read from `ref` is refused with."""
    monkeypatch.chdir(folder)
    with pytest.raises(PolicyError) as refused:
        from_git(ref)(Path("p.yaml"))
    return refused.value


def why_all(folder: Path, base: str) -> str:
    """Why `changed-only` judges all models."""
    found = action_inputs.read({f"{action_inputs.PREFIX}MODEL": "model", f"{action_inputs.PREFIX}BASE": base}, folder)
    models, why = changed_models(found, {}, folder)
    assert models == ("model",)
    return why


def distrusted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # git's own way to test this without a second user.
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")


def without_git(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(folder / "model"))


def no_repository(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / ".git").rename(folder.parent / "elsewhere")


def slow(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "model" / "git").write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    (folder / "model" / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder / "model"))
    monkeypatch.setattr(git, "PATIENCE_S", 0.2)


def no_working_tree(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(folder, "config", "core.bare", "true")


Trouble = Callable[[Path, pytest.MonkeyPatch], None]


@pytest.mark.parametrize(
    ("trouble", "cause", "advice"),
    [
        (distrusted, "git does not trust {folder}", "git config --global --add safe.directory {folder}"),
        (without_git, "git is not installed", "install git"),
        (no_repository, "{folder} is not in a git repository", "clone"),
        (slow, "git did not answer within 0.2 s", "try again"),
        (no_working_tree, "git finds no working tree at {folder}: fatal: this operation", "check out"),
    ],
)
def test_the_true_cause_is_named_wherever_git_is_asked(
    trouble: Trouble, cause: str, advice: str, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = run(repository, "rev-parse", "HEAD~1")
    trouble(repository, monkeypatch)
    cause, advice = cause.format(folder=repository), advice.format(folder=repository)
    refused = read_policy(repository, monkeypatch)
    why = why_all(repository, base)
    assert refused.message.startswith(cause) and advice in refused.hint
    assert why.startswith(f"all models are judged: {cause}") and advice in why
    assert "fetch" not in f"{refused.message} {refused.hint} {why}" and "no git ref" not in refused.message


def test_a_clone_without_history_is_told_from_a_ref_that_nobody_made(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = run(repository, "rev-parse", "HEAD~1")
    shallow = tmp_path / "shallow"
    run(tmp_path, "clone", "-q", "--depth", "1", f"file://{repository}", str(shallow))
    refused = read_policy(shallow, monkeypatch)
    assert refused.message == "there is no git ref 'HEAD~1' here, in a shallow clone"
    assert "--unshallow" in refused.hint and "fetch-depth: 0" in why_all(shallow, base)
    refused = read_policy(repository, monkeypatch, "mian")
    assert refused.message == "there is no git ref 'mian' here" and "fetch-depth" not in refused.hint
    assert "fetch-depth" not in why_all(repository, "1" * 40)


def test_a_file_that_the_clone_did_not_fetch_is_not_called_missing(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(repository, "config", "uploadpack.allowFilter", "true")
    partial = tmp_path / "partial"
    run(tmp_path, "clone", "-q", "--no-checkout", "--filter=blob:none", f"file://{repository}", str(partial))
    repository.rename(tmp_path / "gone")
    refused = read_policy(partial, monkeypatch, "HEAD")
    assert refused.message.startswith("git cannot read p.yaml in HEAD: fatal: ")


def test_the_reasons_have_the_codes_of_their_kind(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError):
        git.commit_of("mian", repository)
    distrusted(repository, monkeypatch)
    with pytest.raises(OperationalError):
        git.root_of(repository)
