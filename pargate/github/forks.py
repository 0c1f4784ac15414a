"""Whether this job would run a stranger's change on a machine of one's own.

A pull request from a fork can change everything that the job runs, the workflow included. GitHub's own runners are
thrown away afterwards; one's own are not, and a GPU machine sits in a network that is worth reaching. What the event
does not say counts as a fork: in doubt the answer is no.

It looks at what GitHub wrote about the event, which the change itself cannot alter. It does not look at who commented
on a pull request: the event of a comment does not say where the change comes from.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HOSTED = "github-hosted"
"""What `RUNNER_ENVIRONMENT` says on a machine of GitHub's."""

_MOST_BYTES = 32 << 20
"""Of an event; GitHub's own limit for a payload is 25 MB."""


def refused_fork(environ: Mapping[str, str]) -> str | None:
    """Why a job with this environment must not go on, in one sentence; None where it may.

    Refused are the events `pull_request…` and `workflow_run` on any runner that is not GitHub's own, unless the event
    says that the change comes from the same repository. Outside GitHub Actions nothing is.
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
        f"this change comes from {origin}, and this runner is not one of GitHub's own: a stranger's change must not "
        "run on it; let pull requests from forks run on GitHub's runners"
    )


def _origin(path: str, event: str) -> str | None:
    """Where the change comes from, in words; None where it is the same repository."""
    try:
        with Path(path).open("rb") as stream:
            payload = json.loads(stream.read(_MOST_BYTES))
        if event == "workflow_run":
            head, base = payload["workflow_run"]["head_repository"], payload["repository"]
        else:
            head, base = payload["pull_request"]["head"]["repo"], payload["pull_request"]["base"]["repo"]
        return None if _identity(head) == _identity(base) else "a fork"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        # A fork that was deleted is `null`.
        return "somewhere that the event does not name"


def _identity(repository: Any) -> int:
    """The number of a repository, which stays when it is renamed."""
    number = repository["id"]
    if type(number) is not int:
        raise TypeError(number)
    return number
