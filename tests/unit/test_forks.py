"""A stranger's change does not run on a machine of one's own."""

import json
from pathlib import Path
from typing import Any

import pytest

from pargate.github.forks import refused_fork

HERE, THERE = {"id": 1, "full_name": "owner/models"}, {"id": 2, "full_name": "stranger/models"}


def pull_request(head: Any) -> dict[str, Any]:
    return {"repository": HERE, "pull_request": {"head": {"repo": head}, "base": {"repo": HERE}}}


def environ(tmp_path: Path, event: str, payload: Any, runner: str = "self-hosted") -> dict[str, str]:
    path = tmp_path / "event.json"
    path.write_text(payload if isinstance(payload, str) else json.dumps(payload))
    return {
        "GITHUB_ACTIONS": "true",
        "GITHUB_EVENT_NAME": event,
        "GITHUB_EVENT_PATH": str(path),
        "RUNNER_ENVIRONMENT": runner,
    }


@pytest.mark.parametrize("event", ["pull_request", "pull_request_target", "pull_request_review"])
def test_a_pull_request_from_a_fork_is_refused_on_a_runner_of_ones_own(tmp_path: Path, event: str) -> None:
    said = refused_fork(environ(tmp_path, event, pull_request(THERE)))
    assert said is not None and "from a fork" in said
    assert refused_fork(environ(tmp_path, event, pull_request(THERE), "github-hosted")) is None


def test_a_pull_request_of_the_same_repository_is_not(tmp_path: Path) -> None:
    assert refused_fork(environ(tmp_path, "pull_request", pull_request(HERE))) is None


def test_a_run_that_follows_one_of_a_fork_is_refused(tmp_path: Path) -> None:
    def after(repository: Any) -> dict[str, Any]:
        return {"repository": HERE, "workflow_run": {"head_repository": repository}}

    assert refused_fork(environ(tmp_path, "workflow_run", after(THERE))) is not None
    assert refused_fork(environ(tmp_path, "workflow_run", after(HERE))) is None


@pytest.mark.parametrize(
    "payload",
    [
        pull_request(None),
        pull_request({}),
        pull_request({"id": "1"}),
        pull_request({"id": True}),
        {},
        [],
        "",
        "{",
        "[" * 100_000,
    ],
    ids=["deleted", "unnamed", "text", "truth", "empty", "list", "nothing", "half", "deep"],
)
def test_what_the_event_does_not_say_counts_as_a_fork(tmp_path: Path, payload: Any) -> None:
    assert refused_fork(environ(tmp_path, "pull_request", payload)) is not None


def test_an_event_that_is_missing_counts_as_a_fork(tmp_path: Path) -> None:
    found = environ(tmp_path, "pull_request", pull_request(HERE))
    assert refused_fork({**found, "GITHUB_EVENT_PATH": str(tmp_path / "none")}) is not None
    assert refused_fork({**found, "GITHUB_EVENT_PATH": ""}) is not None


def test_a_runner_that_does_not_say_what_it_is_counts_as_ones_own(tmp_path: Path) -> None:
    found = environ(tmp_path, "pull_request", pull_request(THERE))
    del found["RUNNER_ENVIRONMENT"]
    assert refused_fork(found) is not None


def test_other_events_and_other_places_are_none_of_its_business(tmp_path: Path) -> None:
    for event in ("push", "schedule", "workflow_dispatch", "release", "merge_group"):
        assert refused_fork(environ(tmp_path, event, {})) is None
    assert refused_fork({}) is None
    assert refused_fork({**environ(tmp_path, "pull_request", {}), "GITHUB_ACTIONS": ""}) is None
