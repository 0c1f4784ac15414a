"""Download models from a hub: `hf-hub:ORG/NAME[@REV]` and `open_clip:ARCH/TAG`.

Only a configuration, one weights file and a tokenizer's files are fetched; `model.py` checks their content. Only a tag
needs open_clip, and with it torch, for its table of published weights.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError: of httpx, or httpx2
    EntryNotFoundError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
)

from pargate.errors import InputError, OperationalError
from pargate.images.hub import address, endpoint, translated
from pargate.models import config, shards, transformers_folder, two_towers
from pargate.models.located import HUGGING_FACE, OPEN_CLIP, Located, configured, said_by
from pargate.models.preprocessing import PREPROCESSOR_NAME, PROCESSOR_NAME
from pargate.models.sources import ADAPTER_CONFIG

WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""Files of a repository of which open_clip 3.3 downloads the first that exists (`download_pretrained_from_hf`)."""

FROM_FOLDER = "open_clip_pytorch_model.safetensors"
"""File that open_clip prefers to the second of them where the repository lies in a folder."""

TOWERS = ("image_encoder", "text_encoder")
"""Folders in which pipelines of diffusers keep the towers of a CLIP."""

PREPROCESS = ("mean", "std", "interpolation", "resize_mode")
"""Preprocessing fields of open_clip's table of tags."""


def repository(source: str) -> Located:
    """Return the files of a model named `hf-hub:ORG/NAME[@REV]`, in the local cache.

    Raises:
        InputError: no such repository, revision or file, or access is not granted.
        OperationalError: the hub cannot be reached, or the files cannot be stored.
    """
    place, _, file = source.removeprefix(HUGGING_FACE).partition("#")
    name, _, revision = place.partition("@")
    settings = _present(source, name, config.CONFIG_NAME, revision or None)
    if settings is None:
        return _transformers(source, name, revision or None)
    model, overlay, by = configured(settings, source)
    # Weights of the same commit as the configuration, even if the branch moves meanwhile.
    commit = _commit(settings.parent, revision or None)
    weights = _first(source, name, (file,) if file else WEIGHTS, commit)
    processor = _present(source, name, PREPROCESSOR_NAME, commit)
    other = _present(source, name, FROM_FOLDER, commit) if weights.name == WEIGHTS[1] else None
    tokenizer = _tokenizer(source, model, (name, commit))
    beside = (other,) if other else ()
    return Located(weights, model, overlay, source, by, folder=tokenizer, processor=processor, beside=beside)


def _transformers(source: str, name: str, revision: str | None) -> Located:
    """Return the files of a repository of transformers, or of sentence-transformers, which keeps it in a folder."""
    places = ["", *(f"{folder}/" for folder in transformers_folder.NESTED)]
    wanted = [f"{place}{transformers_folder.SETTINGS}" for place in places]
    settings = next((path for file in wanted if (path := _present(source, name, file, revision))), None)
    if settings is None and (towers := _towers(source, name, revision)):
        return two_towers.located(towers)
    if settings is None:
        settings = _first(source, name, (config.CONFIG_NAME,), revision)  # an error that names it
    transformers_folder.model_config(settings)  # refused before the weights are fetched
    folder = settings.parent
    place = next((place for place in places[1:] if folder.name == place.rstrip("/")), "")
    commit = _commit(folder.parent if place else folder, revision)
    for file in (PREPROCESSOR_NAME, PROCESSOR_NAME, *config.TOKENIZER_FILES, *config.UNREAD, ADAPTER_CONFIG):
        _present(source, name, f"{place}{file}", commit)
    weights = _first(source, name, [f"{place}{file}" for file in transformers_folder.WEIGHTS], commit)
    if weights.name.endswith(shards.INDEX):
        for file in sorted(set(shards.index(weights).values())):
            _first(source, name, (f"{place}{file}",), commit)
    return transformers_folder.located(folder)


def _towers(source: str, name: str, revision: str | None) -> Path | None:
    """Return the folder of a pipeline of diffusers that holds both towers of a CLIP, or None if there is none."""
    settings = [_present(source, name, f"{place}/{transformers_folder.SETTINGS}", revision) for place in TOWERS]
    if settings[0] is None or settings[1] is None:
        return None
    folder = settings[0].parent.parent
    two_towers.towers(folder)  # refused before the weights are fetched
    commit = _commit(folder, revision)
    for place in two_towers.PROCESSORS:
        _present(source, name, f"{place}/{PREPROCESSOR_NAME}", commit)
    for file in (*config.TOKENIZER_FILES, *config.UNREAD):
        _present(source, name, f"tokenizer/{file}", commit)
    for place in TOWERS:
        for file in (ADAPTER_CONFIG, *two_towers.INDEXES):  # refused
            _present(source, name, f"{place}/{file}", commit)
        _first(source, name, [f"{place}/{file}" for file in two_towers.WEIGHTS], commit)
    return folder


def _commit(snapshot: Path, revision: str | None) -> str | None:
    """Return the commit that the name of a folder in the cache says, or else the revision."""
    return snapshot.name if re.fullmatch("[0-9a-f]{40}", snapshot.name) else revision


def published(source: str) -> Located:
    """Return the files of a model named `open_clip:ARCH/TAG`, in the local cache.

    Raises:
        InputError: no such architecture or tag, or its weights are on no hub.
        OperationalError: as `repository`.
    """
    from pargate.models.torch import pretrained

    arch, _, tag = source.removeprefix(OPEN_CLIP).rpartition("/")
    entry = pretrained.published(arch, tag)
    model = config.architecture(arch)
    if entry.get("quick_gelu"):
        # The tag decides on the activation, whichever name of the architecture was given.
        model = {**model, "quick_gelu": True}
    place = str(entry.get("hf_hub") or "")
    name, _, file = place.rpartition("/")
    if not name:
        raise InputError(f"{source} is on no hub", f"download {entry.get('url')} and give --arch {arch}")
    weights = _first(source, name, _alternatives(file), None)
    overlay = {key: _plain(entry[key]) for key in PREPROCESS if key in entry}
    tokenizer = _tokenizer(source, model, (name, None))
    return Located(weights, model, overlay, source, said_by(overlay, source), architecture=arch, folder=tokenizer)


def _alternatives(file: str) -> tuple[str, ...]:
    """Return the files that open_clip tries for the one that a tag names (`_get_safe_alternatives`)."""
    if file in ("", WEIGHTS[1]):
        return WEIGHTS
    # Some entries name a pickle although the repository has a safetensors file by now.
    return (f"{file[:-4]}.safetensors", file) if file.endswith((".bin", ".pth")) else (file,)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _tokenizer(source: str, model: dict[str, Any], own: tuple[str, str | None]) -> Path | None:
    """Return the folder of the tokenizer's files, from the repository that the configuration names."""
    text = model.get("text_cfg")
    wanted = text.get("hf_tokenizer_name") if isinstance(text, dict) else None
    if not wanted:
        return None
    name, revision = own if wanted == own[0] else (str(wanted), None)
    folder = None
    for file in config.TOKENIZER_FILES:
        path = _present(source, name, file, revision)
        if path is not None and folder is None:
            # As for the weights, all files come from the commit of the first.
            folder, revision = path.parent, path.parent.name
    return folder


def _first(source: str, name: str, files: Iterable[str], revision: str | None) -> Path:
    """Return the path of the first of `files` that the repository holds."""
    for file in files:
        if path := _present(source, name, file, revision):
            return path
    listed = ", ".join(files)
    if constants.HF_HUB_OFFLINE:
        raise OperationalError(
            f"{source}: {listed} is not in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE is set",
            "unset HF_HUB_OFFLINE, or download the model where there is a network",
        )
    raise InputError(
        f"{source}: the repository {name} at {address()} holds no {listed}: not an open_clip model",
        "name a repository with open_clip weights, or download its files and give --arch",
    )


def _present(source: str, name: str, file: str, revision: str | None) -> Path | None:
    """Return the path of a repository's file in the local cache, or None if there is none (offline: in the cache)."""
    with translated(source, name, revision, file, f"{HUGGING_FACE}ORG/NAME[@REV]"):
        failure = _unanswered(name, file, revision)
        try:
            return Path(
                hf_hub_download(
                    name, file, revision=revision, endpoint=endpoint(), local_files_only=failure is not None
                )
            )
        except LocalEntryNotFoundError:
            # A subclass of EntryNotFoundError, but it means that the hub could not be asked.
            if constants.HF_HUB_OFFLINE:
                return None
            if failure is not None:
                raise failure from None
            raise
        except EntryNotFoundError:
            return None


_ANSWERED = set[str]()
"""Addresses of hubs that have answered this process."""


def _unanswered(name: str, file: str, revision: str | None) -> Exception | None:
    """Return why the hub cannot be reached, or None if it answers.

    It is asked once, since a download repeats the question for half a minute, with a line each time.
    """
    if constants.HF_HUB_OFFLINE or address() in _ANSWERED:
        return None
    try:
        get_hf_file_metadata(
            hf_hub_url(name, file, revision=revision, endpoint=endpoint()),
            timeout=constants.HF_HUB_ETAG_TIMEOUT,
            endpoint=endpoint(),
        )
    except HfHubHTTPError as error:
        if error.response.status_code >= 500:
            return error
        # An answer, which the download translates.
    except (HTTPError, OSError) as error:
        return error
    _ANSWERED.add(address())
    return None
