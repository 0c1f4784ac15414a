import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

Command = Callable[..., Any]


def test_the_machine_of_the_tests_can_scan(pargate: Command) -> None:
    ended = pargate("doctor", "-o", "json")
    assert ended.code == 0
    assert json.loads(ended.out)["ready"] is True
    assert "\nscan: yes\n" in ended.said


def test_a_broken_torch_is_a_finding_with_an_exit_code_of_its_own(place: Path, light: Command) -> None:
    (place.parent / "broken").mkdir()
    for name in ("torch", "open_clip", "onnxruntime"):
        (place.parent / "broken" / f"{name}.py").write_text("raise ImportError('broken on purpose')")
    ended = light("doctor", PYTHONPATH=f"{place.parent / 'broken'}:{ROOT}")
    assert ended.code == 5
    assert "cannot be used: ImportError: broken on purpose" in ended.said
    assert "scan: no, ImportError: broken on purpose" in ended.said
    assert "Traceback" not in ended.said


def test_a_fork_on_a_runner_of_ones_own_is_refused(place: Path, light: Command) -> None:
    (place.parent / "broken").mkdir()
    for name in ("torch", "open_clip", "onnxruntime"):
        (place.parent / "broken" / f"{name}.py").write_text("raise ImportError('not asked here')")
    event = place.parent / "event.json"
    repositories = {"head": {"repo": {"id": 2}}, "base": {"repo": {"id": 1}}}
    event.write_text(json.dumps({"pull_request": repositories}))
    ended = light(
        "doctor", "--ci",
        PYTHONPATH=f"{place.parent / 'broken'}:{ROOT}", GITHUB_ACTIONS="true", GITHUB_EVENT_NAME="pull_request",
        GITHUB_EVENT_PATH=str(event), RUNNER_ENVIRONMENT="self-hosted",
    )  # fmt: skip
    assert ended.code == 5
    assert "comes from a fork" in ended.said
