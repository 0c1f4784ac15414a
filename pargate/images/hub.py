"""Download data sets from a hub, and translate the errors of downloads.

huggingface_hub does the downloads, with its cache and its environment variables: HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN,
HF_HOME and the proxy variables.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError: of httpx, or httpx2
    GatedRepoError,
    HFValidationError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from pargate.errors import InputError, OperationalError, first_line

SCHEME = "hf:"

PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")


def endpoint() -> str | None:
    """Return the hub that the environment names, or None for the default."""
    return os.environ.get("HF_ENDPOINT") or None


def address() -> str:
    """Return the address of the hub."""
    return (endpoint() or constants.ENDPOINT).rstrip("/")


@contextlib.contextmanager
def translated(source: str, name: str, revision: str | None, what: str, form: str) -> Iterator[None]:
    """Translate the hub's errors about fetching `what` from the repository `name`; `form` is the syntax of `source`.

    Raises:
        InputError: no such repository or revision, or access is not granted.
        OperationalError: the hub cannot be reached, or the files cannot be stored.
    """
    try:
        yield
    except GatedRepoError as error:
        raise InputError(
            f"{source}: the repository {name} is gated",
            "accept its terms on its page, and set HF_TOKEN to a token of that account",
        ) from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"{source}: there is no repository {name} at {address()}, or it is private",
            "check the name, or set HF_TOKEN to a token that may read it",
        ) from error
    except RevisionNotFoundError as error:
        raise InputError(f"{source}: the repository {name} has no revision {revision}", "check it") from error
    except HFValidationError as error:
        raise InputError(f"{source} names no repository", f"write {form}") from error
    except (HTTPError, OSError) as error:
        raise unreachable(source, name, what, error) from error


def unreachable(source: str, name: str, what: str, error: BaseException) -> OperationalError:
    """Return the error for a failed download, with the settings that it used."""
    proxies = [variable for variable in PROXIES if os.environ.get(variable)]
    via = f"through the proxy of {', '.join(proxies)}" if proxies else "without a proxy"
    # huggingface_hub wraps the network error, which names the cause.
    cause = error.__cause__ or error
    reason = first_line(cause) or type(cause).__name__
    return OperationalError(
        f"{source}: cannot fetch {what} of {name} from {address()}, {via}: {reason}",
        "check the network, HTTPS_PROXY and HF_ENDPOINT, or download it elsewhere and name its folder",
    )


def fetch_dataset(source: str, parts: Sequence[str]) -> list[Path]:
    """Return the Parquet files or tars of the data set `hf:ORG/NAME[@REV]`, in the local cache, sorted.

    Only files with the first of `parts` that occurs in a path are used, or all files if none occurs.

    Raises:
        InputError: no such data set or revision, no access, or it holds neither Parquet nor tars.
        OperationalError: the hub cannot be reached.
    """
    name, _, revision = source.removeprefix(SCHEME).partition("@")
    for part in (*parts, ""):
        patterns = [f"*{part}*{suffix}" for suffix in (".parquet", ".tar")]
        with translated(source, name, revision or None, "the files", f"{SCHEME}ORG/NAME[@REV]"):
            folder = Path(
                snapshot_download(
                    name,
                    repo_type="dataset",
                    revision=revision or None,
                    allow_patterns=patterns,
                    endpoint=endpoint(),
                )
            )
        for pattern in patterns:
            # The hub also matches patterns against the whole path, across slashes.
            found = sorted(p for p in folder.rglob("*") if fnmatch(p.relative_to(folder).as_posix(), pattern))
            if found:
                return found
    raise InputError(
        f"{source}: the data set holds neither Parquet files nor tars",
        "download it, write a CSV with the header image,caption or image,label, and give that",
    )
