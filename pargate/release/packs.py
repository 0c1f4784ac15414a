"""Make packs of triggers (docs/packs.md), and find the triggers that a cleaning is given to unlearn."""

import base64
import hashlib
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pargate.core.report import ScanReport
from pargate.core.results import Status
from pargate.errors import InputError
from pargate.files import atomic_folder, check_new_folder, read_bytes
from pargate.models.open import inspect
from pargate.models.signing import check_key, sign
from pargate.policy.resolve import resolve
from pargate.probes.text import AddedText
from pargate.report.text import started
from pargate.scanning.found import POLICY
from pargate.triggers import Trigger, parse
from pargate.triggers.file import FileTrigger
from pargate.triggers.pack import (
    LISTING,
    Pack,
    PackedText,
    PackedTrigger,
    Provenance,
    as_png,
    read_pack,
)
from pargate.triggers.pack import triggers as triggers_of
from pargate.version import __version__

TOOL = f"pargate {__version__}"

_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True)
class PackRequest:
    """The inputs of a pack."""

    sources: Sequence[Path]
    """Saved reports, policies, and folders of found triggers."""
    out: Path
    """New folder of the pack."""
    license: str
    how: str = ""
    """Way in which the triggers of policies, and the texts, were found."""
    model: str | None = None
    """Model in which the triggers of policies, and the texts, were found."""
    texts: Sequence[tuple[str, str]] = ()
    """Text triggers: `prefix` or `suffix`, and the text."""
    key: Path | None = None
    """Private key that signs the pack."""


@dataclass(slots=True)
class _Draft:
    """A pack in the making."""

    triggers: list[PackedTrigger] = field(default_factory=list)
    texts: list[PackedText] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)

    def name(self, wanted: str) -> str:
        """Return a free name like `wanted`."""
        base = _UNSAFE.sub("-", wanted).strip("-.")[:56] or "trigger"
        taken = {item.name.casefold() for item in self.triggers} | {item.name.casefold() for item in self.texts}
        names = (f"{base}-{number}" if number > 1 else base for number in range(1, len(taken) + 2))
        return next(name for name in names if name.casefold() not in taken)

    def add(self, wanted: str, parameters: dict[str, Any], provenance: Provenance, png: bytes | None = None) -> None:
        """Add a trigger, unless the pack has it already."""
        given = {key: value for key, value in parameters.items() if key not in ("name", "path") and value is not None}
        if png is not None:
            given["sha256"] = hashlib.sha256(png).hexdigest()
        if any(item.parameters == given for item in self.triggers):
            return
        made = PackedTrigger(name=self.name(wanted), parameters=given, provenance=provenance)
        self.triggers.append(made)
        if png is not None:
            self.pictures[made.picture] = png

    def add_text(self, wanted: str, text: str, place: str, provenance: Provenance) -> None:
        """Add a text, unless the pack has it already."""
        if not any((item.text, item.place) == (text, place) for item in self.texts):
            facts = {"name": self.name(wanted), "text": text, "place": place, "provenance": provenance}
            self.texts.append(PackedText.model_validate(facts))


def create(request: PackRequest) -> Pack:
    """Write a pack into a new folder, complete or not at all, and return it.

    Raises:
        InputError: a source cannot be read or holds no trigger, or the folder exists.
        PolicyError: a policy is invalid.
        OperationalError: the disk is full, or signing needs a missing package.
    """
    check_new_folder(request.out)
    if request.key is not None:
        check_key(request.key)
    model = inspect(request.model).sha256 if request.model else ""
    draft = _Draft()
    try:
        today = datetime.now(UTC).date()
        told = Provenance(how=request.how or "given by hand", tool=TOOL, date=today, model=model)
        for source in request.sources:
            if not _add(draft, source, request.how, told):
                raise InputError(f"{source} has no trigger for a pack", "leave it out, or give another source")
        for place, text in request.texts:
            draft.add_text(place, text, place, told)
        pack = Pack(license=request.license, triggers=tuple(draft.triggers), texts=tuple(draft.texts))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where, said = ".".join(map(str, first["loc"])), str(first["msg"]).removeprefix("Value error, ")
        raise InputError(f"these make no pack: {where + ': ' if where else ''}{said}", "see docs/packs.md") from error
    with atomic_folder(request.out) as folder:
        for name, png in draft.pictures.items():
            (folder / name).write_bytes(png)
        (folder / LISTING).write_bytes(pack.to_json().encode())
        read_pack(folder, pack.digest)  # what pargate writes, it reads
        if request.key is not None:
            sign(folder, request.key)
    return pack


def _add(draft: _Draft, source: Path, how: str, told: Provenance) -> int:
    """Add the triggers of a saved report, a folder of found triggers or a policy; return their number."""
    if source.suffix.lower() == ".json":
        found = list(_reported(source))
        for family, parameters, png, own in found:
            if parameters.get("kind") == AddedText.kind:
                draft.add_text(family, *_text(source, parameters), own)
            else:
                draft.add(family, parameters, own, png)
        return len(found)
    place = source / POLICY if source.is_dir() else source
    if source.is_dir() and not place.is_file():
        raise InputError(f"the folder {source} holds no {POLICY}", "give a folder that `pargate scan --found` wrote")
    said = "found by pargate scan --found" if source.is_dir() else f"given by the policy {place.name}"
    own = told.model_copy(update={"how": how or said})
    triggers = _read(place)
    for trigger in triggers:
        if isinstance(trigger, FileTrigger):
            png = as_png(read_bytes(trigger.path), trigger.picture)
            draft.add(trigger.path.stem, trigger.parameters, own, png)
        else:
            draft.add(trigger.kind, trigger.parameters, own)
    return len(triggers)


def _reported(path: Path) -> Iterator[tuple[str, dict[str, Any], bytes | None, Provenance]]:
    """Yield family, parameters, picture and origin of each trigger that a scan found, unless it holds its rule."""
    try:
        report = ScanReport.from_json(read_bytes(path))
    except (OSError, ValidationError) as error:
        raise InputError(f"{path} is not a report of pargate", "give a report that -o json wrote") from error
    met = {finding.measurement for finding in report.findings if finding.status is Status.MET}
    for measured in report.measurements:
        trigger = measured.trigger
        if trigger is None or measured.probe not in ("search", "text") or measured.id in met:
            continue
        family = measured.id.rsplit("/", 1)[-1]
        # The same text may have other tokens elsewhere in a word.
        ids = f", token ids {trigger.parameters.get('ids')}" if measured.probe == "text" else ""
        found = Provenance(
            how=f"found by the probe {measured.probe}: {family}{ids}",
            tool=f"pargate {report.tool.version}",
            date=started(report).date(),
            model=report.model.sha256,
            target=measured.target.name if measured.target else "",
        )
        try:
            png = base64.b64decode(trigger.picture, validate=True)
        except ValueError as error:
            raise InputError(f"{path}: the picture of {measured.id} is no base64", "scan again") from error
        yield family, trigger.parameters, png or None, found


def _text(path: Path, parameters: dict[str, Any]) -> tuple[str, str]:
    """Return a text that a scan found, and its place in a pack."""
    try:
        text = str(parameters["text"]).encode("ascii").decode("unicode_escape")
        return text, {"beginning": "prefix", "end": "suffix"}[parameters["place"]]
    except (KeyError, TypeError, UnicodeError) as error:
        raise InputError(f"{path}: a text that was found lacks its characters or its place", "scan again") from error


def _read(policy: Path) -> list[Trigger]:
    """Return the triggers of a policy, with their pictures read."""
    resolved = resolve(str(policy))
    return [trigger for rule in resolved.policy.read(resolved.folder).rules for trigger in rule.parsed]


def to_unlearn(source: Path) -> list[Trigger]:
    """Return the triggers that a cleaning is given: of a pack, of a folder of found triggers, or one picture.

    A picture beside `pack.json` or `found.yaml` has the place and the mode that they give it. Any other one is pasted
    at random places.

    Raises:
        InputError: there is no such pack or picture, or it cannot be read.
    """
    if (source / LISTING).is_file():
        found = list(triggers_of(read_pack(source), source))
    elif source.is_dir():
        if not (source / POLICY).is_file():
            raise InputError(f"{source} holds no triggers: neither {LISTING} nor {POLICY}", "give a pack or a picture")
        found = _read(source / POLICY)
    else:
        alone = parse({"kind": "file", "path": str(source)})[0].read(Path())
        beside = to_unlearn(source.parent) if _has_triggers(source.parent) else []
        found = [trigger for trigger in beside if trigger.pin == alone.pin] or [alone]
    if not found:
        raise InputError(f"{source} holds no pictures and no parameters, only texts", "give another pack")
    return found


def to_recognise(source: Path) -> list[tuple[Trigger, str]]:
    """Return the triggers of a report, a folder of found triggers, a policy or a pack, and the target of each.

    The target is empty where the source does not name it.

    Raises:
        InputError, PolicyError: there is no trigger, or it cannot be read.
    """
    if not source.exists():
        raise InputError(f"there is no {source}", "give a report, a folder of found triggers, a policy or a pack")
    with tempfile.TemporaryDirectory(prefix="pargate-") as place:
        folder = source
        if not (source / LISTING).is_file():
            folder = Path(place, "found")
            create(PackRequest((source,), folder, "none"))
        pack = read_pack(folder)
        return list(zip(triggers_of(pack, folder), (one.provenance.target for one in pack.triggers), strict=True))


def _has_triggers(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (LISTING, POLICY))


def listed(pack: Pack, folder: Path) -> list[str]:
    """Return a pack for people, line by line."""
    lines = [f"{folder.absolute().name}  {pack.digest}", f"licence {pack.license}"]
    for trigger in pack.triggers:
        shown = ", ".join(f"{key} {json.dumps(value)}" for key, value in trigger.parameters.items() if key != "sha256")
        lines += [f"{trigger.name}  {shown}", *_origin(trigger.provenance)]
    for text in pack.texts:
        # As escaped code points: many characters look alike, or like nothing.
        lines += [f"{text.name}  {text.place} {json.dumps(text.text)}", *_origin(text.provenance)]
    return lines


def _origin(told: Provenance) -> Iterator[str]:
    target = f" → {told.target}" if told.target else ""
    where = f" in the model {told.model[:12]}" if told.model else ""
    yield f"    {told.how}{target}{where}, {told.date}, {told.tool}"
