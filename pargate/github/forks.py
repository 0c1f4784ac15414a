"""The refusal of a fork's change on a self-hosted runner.

A pull request from a fork can change everything that the job runs, the workflow included. GitHub discards its own
runners after a job; a self-hosted one stays, inside a private network. If the event does not name the origin, the
change counts as a fork's.

The check reads the event file of GitHub, which the change cannot alter. It does not cover comments: their event does
not name the origin of the change.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pargate import limits

HOSTED = "github-hosted"
"""Value of `RUNNER_ENVIRONMENT` on GitHub's own runners."""


def refused_fork(environ: Mapping[str, str]) -> str | None:
    """Return why a job with this environment must not continue, or None.

    The events `pull_request…` and `workflow_run` are refused on a self-hosted runner, unless the change comes from the
    same repository.
    """
    event = environ.get("GITHUB_EVENT_NAME", "")
    if environ.get("GITHUB_ACTIONS") != "true" or environ.get("RUNNER_ENVIRONMENT") == HOSTED:
        return None
    if not event.startswith("pull_request") and event != "workflow_run":
        return None
    origin = _origin(environ.get("GITHUB_EVENT_PATH", ""), event)
    if origin is None:
        return None
    return (
        f"this change comes from {origin} and must not run on a self-hosted runner; run pull requests from forks on "
        "GitHub's own runners"
    )


def _origin(path: str, event: str) -> str | None:
    """Return a text for the origin of the change; None for the same repository."""
    try:
        with Path(path).open("rb") as stream:
            payload = json.loads(stream.read(limits.EVENT_BYTES))
        if event == "workflow_run":
            head, base = payload["workflow_run"]["head_repository"], payload["repository"]
        else:
            head, base = payload["pull_request"]["head"]["repo"], payload["pull_request"]["base"]["repo"]
        return None if _identity(head) == _identity(base) else "a fork"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        # A deleted fork is `null`.
        return "an unknown repository"


def _identity(repository: Any) -> int:
    """Return the number of a repository, which does not change with its name."""
    number = repository["id"]
    if type(number) is not int:
        raise TypeError(number)
    return number
