"""The hooks for pre-commit: which files they take, and what they say when called as pre-commit calls them."""

import os
import pickle
import re
import shlex
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
HOOKS = {hook["id"]: hook for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))}

Command = Callable[..., Any]


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch x",)


def called(light: Command, hook: str, *names: str) -> Any:
    """As pre-commit does: the entry, split as a shell would, and all names at once."""
    program, *arguments = shlex.split(HOOKS[hook]["entry"])
    assert program == "pargate"
    return light(*arguments, *names)


@pytest.fixture
def staged(place: Path) -> Path:
    shutil.copytree(ROOT / "examples" / "models" / "clean", place / "a model")
    with zipfile.ZipFile(place / "evil.pt", "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps(Evil(), 2))
    return place


@pytest.mark.parametrize(
    ("hook", "taken", "left"),
    [
        (
            "pargate-policy",
            ["pargate.yaml", "a/pargate.yml", "policies/x.yaml"],
            ["pargate-inventory.yaml", "x/policies/y.yaml"],
        ),
        (
            "pargate-inspect",
            ["m/open_clip_model.safetensors", "open_clip_pytorch_model.bin", "a.pt", "b/c.ckpt"],
            ["tokenizer.bin", "adapter.safetensors", "a.pty", "open_clip_config.json"],
        ),
    ],
)  # fmt: skip
def test_a_hook_takes_the_files_that_it_is_for(hook: str, taken: list[str], left: list[str]) -> None:
    pattern = re.compile(HOOKS[hook]["files"])
    assert [name for name in taken if not pattern.search(name)] == []
    assert [name for name in left if pattern.search(name)] == []
    assert HOOKS[hook]["require_serial"] is True


def test_honest_checkpoints_may_be_committed(staged: Path, light: Command) -> None:
    name = "a model/open_clip_model.safetensors"
    ended = called(light, "pargate-inspect", name, name)
    assert ended.code == 0
    assert ended.out.count("architecture") == 2


def test_one_checkpoint_that_could_run_code_is_enough(staged: Path, light: Command) -> None:
    ended = called(light, "pargate-inspect", "--arch", "ViT-B-32", "evil.pt", "missing.pt")
    assert ended.code == 1
    assert "could run code" in ended.said and "missing.pt" in ended.said
    assert not (staged / "x").exists()


def test_the_other_checkpoints_are_looked_at_all_the_same(staged: Path, light: Command) -> None:
    ended = called(light, "pargate-inspect", "missing.pt", "a model/open_clip_model.safetensors")
    assert ended.code == 2
    assert "architecture" in ended.said and "missing.pt" in ended.said


def test_a_policy_with_a_mistake_may_not(staged: Path, light: Command) -> None:
    (staged / "pargate.yaml").write_text("pargate: 1\nname: x\nextends: builtin:baseline\n")
    (staged / "other.yaml").write_text("pargate: 1\nname: x\nruls: []\n")
    assert called(light, "pargate-policy", "pargate.yaml").code == 0
    ended = called(light, "pargate-policy", "pargate.yaml", "other.yaml")
    assert ended.code == 4
    assert "rules" in ended.said


def test_one_file_of_json_cannot_hold_two_models(staged: Path, light: Command) -> None:
    ended = light("inspect", "a model", "a model", "-o", "json")
    assert (ended.code, ended.out) == (2, "")


def test_contributors_run_the_ruff_of_the_lock() -> None:
    (ours,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert f"\nruff=={ours['rev'].removeprefix('v')} " in (ROOT / "requirements.lock").read_text(encoding="utf-8")
