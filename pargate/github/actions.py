"""The commits of all actions in pargate's own workflows and in those of `pargate init github`.

A tag can be moved to other code; a commit cannot. A test compares each `uses:` with this table.
"""

import json
import re
from importlib.metadata import PackageNotFoundError, distribution
from typing import NamedTuple


class Pin(NamedTuple):
    """One release of an action."""

    commit: str
    """Full SHA-1, 40 hexadecimal digits."""
    version: str
    """Name of the release, for the comment behind the commit."""


PINS = {
    "actions/attest": Pin("1e69f48acb82d1966a394da916b4c1698aa569d6", "v4.2.2"),
    "actions/cache": Pin("0057852bfaa89a56745cba8c7296529d2fc39830", "v4.3.0"),
    "actions/checkout": Pin("11bd71901bbe5b1630ceea73d27597364c9af683", "v4.2.2"),
    "actions/download-artifact": Pin("d3f86a106a0bac45b974a628896c90dbdf5c8093", "v4.3.0"),
    "actions/setup-python": Pin("a26af69be951a213d495a4c3e4e4022e16d87065", "v5.6.0"),
    "actions/upload-artifact": Pin("ea165f8d65b6e75b540449e92b4886f43607fa02", "v4.6.2"),
    "github/codeql-action": Pin("5d4e8d1aca955e8d8589aabd499c5cae939e33c7", "v4.31.9"),
}


def use(name: str) -> str:
    """Return the text after `uses:` for an action, which may lie in a folder of its repository."""
    pin = PINS["/".join(name.split("/")[:2])]
    return f"{name}@{pin.commit} # {pin.version}"


def own() -> str | None:
    """Return the OWNER/REPO@COMMIT that this pargate was installed from, or None.

    Installers record it (PEP 610) after `pip install git+https://github.com/…`.
    """
    try:
        text = distribution("pargate").read_text("direct_url.json")
    except PackageNotFoundError:
        return None
    return pinned(text) if text else None


def pinned(direct_url: str) -> str | None:
    """Return the OWNER/REPO@COMMIT on GitHub in a `direct_url.json`, or None."""
    try:
        said = json.loads(direct_url)
        url, commit = said["url"], said["vcs_info"]["commit_id"]
        found = re.fullmatch(
            r"(?:https|ssh)://(?:[^/@]+@)?github\.com/([A-Za-z0-9-]+/[A-Za-z0-9._-]+?)(?:\.git)?/?", url
        )
    except (ValueError, KeyError, TypeError):
        return None
    if found is None or not isinstance(commit, str) or not re.fullmatch("[0-9a-f]{40}", commit):
        return None
    return f"{found[1]}@{commit}"
