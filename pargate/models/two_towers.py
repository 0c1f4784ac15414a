"""Find the two towers of a CLIP that transformers saved apart, and read them as one `CLIPModel`.

Pipelines of diffusers keep a `CLIPVisionModelWithProjection` and a `CLIPTextModelWithProjection` in folders of their
own, beside those of their tokenizer and image processor. Their tensors have the names of a `CLIPModel`; it also has a
logit scale, for which CLIP's trained value stands.
"""

import contextlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pargate import limits
from pargate.core.model import Checkpoint
from pargate.core.provenance import Subject
from pargate.errors import InputError
from pargate.files import read_bytes
from pargate.models import hugging_face, transformers_folder
from pargate.models.config import TOKENIZER_FILES, VOCABULARY_FILES, load_json, preprocess
from pargate.models.located import DEFAULTS, Located, names_in, processor, stay_inside
from pargate.models.preprocessing import of_processor
from pargate.models.save import changed, written
from pargate.models.sources import refuse_adapter
from pargate.models.transformers_folder import SETTINGS

LAYOUT = "towers"

WEIGHTS, INDEXES = transformers_folder.WEIGHTS[::2], transformers_folder.WEIGHTS[1::2]
"""Files of which transformers reads the first that exists in a tower's folder, and those that name several, which are
refused."""

VISION, TEXT = "CLIPVisionModelWithProjection", "CLIPTextModelWithProjection"
"""Classes of the towers, as a `config.json` names them."""

KINDS = {VISION: "clip_vision_model", TEXT: "clip_text_model"}
"""Their `model_type`."""

WHOLE = ("vision_config", "text_config")
"""Sections of the `config.json` of a whole model, of which transformers takes one for a tower."""

NAMES = (("vision_model.", "visual_projection."), ("text_model.", "text_projection."))
"""Beginnings of the names of the tensors of the image tower and of the text tower."""

SCALE = math.log(100)
"""Logarithm of the logit scale of every CLIP of OpenAI, which its training limited to 100 (Radford et al. 2021)."""

PROCESSORS = ("feature_extractor", "image_processor")
"""Folders of a pipeline that say how images are prepared."""


@dataclass(frozen=True, slots=True)
class Towers:
    """The folders of the towers, and their configurations."""

    vision: Path
    text: Path
    settings: dict[str, Any]
    """The `config.json` of the `CLIPModel` that they are."""


def kinds_in(folder: Path) -> dict[str, list[Path]]:
    """Return the folders in a folder that hold a tower with its projection, by class.

    Raises:
        InputError: the folder cannot be read.
    """
    found: dict[str, list[Path]] = {}
    for place in [folder / name for name in names_in(folder)][: limits.TOWER_FOLDERS]:
        with contextlib.suppress(InputError):  # the configuration of something else
            named = load_json(place / SETTINGS).get("architectures")
            if named in ([VISION], [TEXT]):
                found.setdefault(named[0], []).append(place)
    return found


def towers(folder: Path) -> Towers:
    """Return the towers in a folder.

    Raises:
        InputError: there is not one of each kind, or they do not belong together.
    """
    found = kinds_in(folder)
    for kind in (VISION, TEXT):
        places = found.get(kind, [])
        if len(places) != 1:
            here = ", ".join(f"{place.name}/" for place in places)
            raise InputError(
                f"{folder} holds {f'several towers of the class {kind}: {here}' if places else f'no {kind}'}",
                "give a folder with one of each: the image tower and the text tower of one CLIP",
            )
    (vision,), (text,) = found[VISION], found[TEXT]
    documents = {kind: load_json(place / SETTINGS) for kind, place in ((VISION, vision), (TEXT, text))}
    for place, (kind, document) in zip((vision, text), documents.items(), strict=True):
        path = place / SETTINGS
        stay_inside(folder, path)
        hugging_face.refuse_code(document, str(path))
        if (said := document.get("model_type")) != KINDS[kind]:
            raise InputError(
                f"{path}: model_type is {str(said)[:40]!r}, and that of a {kind} is {KINDS[kind]!r}",
                "restore the file",
            )
        if section := next((key for key in WHOLE if key in document), None):
            raise InputError(
                f"{path} means different towers to different readers: transformers reads {section} in it",
                f"write what {section} holds as the whole file",
            )
    image, caption = (
        document.get("projection_dim", hugging_face.PROJECTION["clip"]) for document in documents.values()
    )
    if image != caption:
        raise InputError(
            f"{folder}: embeddings have the length {str(image)[:20]} in {vision.name}/ and {str(caption)[:20]} in "
            f"{text.name}/: the towers are not of one CLIP",
            "give the two towers of one CLIP",
        )
    whole = {
        "architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": image,
        "vision_config": documents[VISION], "text_config": documents[TEXT],
    }  # fmt: skip
    return Towers(vision, text, whole)


def files(folder: Path) -> list[list[Path]]:
    """Return the weights files of each tower: the one that transformers reads, and others beside it.

    Raises:
        InputError: as `towers`, or a tower has no weights.
        UnsafeCheckpoint: an adapter lies beside them.
    """
    found = towers(folder)
    listed = []
    for place in (found.vision, found.text):
        refuse_adapter(place, "merge it into the tower with PEFT (merge_and_unload), or take it away")
        if index := next((place / name for name in INDEXES if (place / name).is_file()), None):
            raise InputError(
                f"{index}: a tower in several files is not read",
                "save the tower in one file: save_pretrained with a larger max_shard_size; or remove the index",
            )
        here = [place / name for name in WEIGHTS if (place / name).is_file()]
        if not here:
            raise InputError(
                f"{place} holds no {' and no '.join(WEIGHTS)}",
                "save the tower with save_pretrained",
            )
        for path in here:
            stay_inside(folder, path)
        listed.append(here)
    return listed


def located(folder: Path) -> Located:
    """Return the files of the towers in a folder, with their configuration as open_clip's.

    Raises:
        InputError: as `towers`, or as `transformers_folder.located`.
    """
    found = towers(folder)
    files(folder)  # refused before anything is read
    model = hugging_face.model_config(found.settings, str(folder))
    home, said = _tokenizer_folder(folder, found), _processor(folder, found)
    tokenizer, note = transformers_folder.tokenizer(home, model)
    return Located(
        folder,
        {**model, "text_cfg": model["text_cfg"] | tokenizer},
        of_processor(said) if said else {},
        str(folder),
        str(said) if said else f"{DEFAULTS}, since no file in {folder} says how images are prepared",
        folder=home,
        layout=LAYOUT,
        notes=(
            f"image tower: {found.vision.name}/, text tower: {found.text.name}/",
            f"captions: {note}",
            "logit scale: 100, as CLIP's training ended with, since towers apart have none",
            "--format keep writes both towers as one CLIPModel of transformers",
        ),
    )


def _tokenizer_folder(folder: Path, found: Towers) -> Path:
    """Return the folder with the tokenizer of the text tower: its own, or the one beside it in a pipeline."""
    beside = folder / f"tokenizer{found.text.name.removeprefix('text_encoder')}"
    for place in (found.text, beside, folder / "tokenizer"):
        here = [place / name for name in VOCABULARY_FILES if (place / name).is_file()]
        for path in here:
            stay_inside(folder, path)
        if here:
            return place
    return found.text


def _processor(folder: Path, found: Towers) -> Path | None:
    """Return the file that says how images are prepared; that of the image tower before those of a pipeline.

    Raises:
        InputError: a pipeline has two.
    """
    if own := processor(found.vision):
        return own
    said = [path for name in PROCESSORS if (path := processor(folder / name))]
    for path in said:
        stay_inside(folder, path)
    if len(said) > 1:
        raise InputError(
            f"{folder}: {' and '.join(map(str, said))} may each say how images are prepared",
            f"copy the right one into {found.vision}",
        )
    return said[0] if said else None


def save_settings(folder: Path, checkpoint: Checkpoint) -> Iterator[Subject]:
    """Write the settings of both towers as those of a `CLIPModel`, beside its weights; yield each file.

    Raises:
        InputError: they changed since the checkpoint was opened.
    """
    home = Path(checkpoint.weights)
    found = towers(home)
    yield written(folder, SETTINGS, json.dumps(found.settings, indent=2).encode() + b"\n")
    if said := _processor(home, found):
        yield written(folder, said.name, read_bytes(said, limits.CONFIG_BYTES))
    for name in TOKENIZER_FILES:
        path = _tokenizer_folder(home, found) / name
        if name != SETTINGS and path.is_file():
            yield written(folder, name, read_bytes(path, limits.TOKENIZER_BYTES))
    # What was written is read again, as the next command will.
    made = transformers_folder.located(folder)
    rule = preprocess(made.model_cfg, made.preprocess_cfg, made.preprocess_from)
    if (made.model_cfg, rule) != (checkpoint.config, checkpoint.preprocess):
        raise changed(f"a file in {home}")
