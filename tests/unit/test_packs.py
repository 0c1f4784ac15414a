"""Packs of triggers: the format, what is refused, and what a policy makes of them."""

import base64
import hashlib
import io
import json
import os
import struct
import zlib
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sample_reports import failing, passing
from test_signing import keys

from pargate import limits
from pargate.core.found import CaptionVectors, FoundText
from pargate.core.report import ScanReport
from pargate.core.results import TriggerInfo
from pargate.errors import InputError, PargateError, PolicyError
from pargate.models import signing
from pargate.policy.compare import changes
from pargate.policy.print import listed
from pargate.policy.resolve import Resolved, read, resolve
from pargate.probes.text import AddedText
from pargate.release import packs
from pargate.triggers import pack as form
from pargate.triggers import parse
from pargate.triggers.pack import LISTING, Pack, PackedText, Provenance, read_listing, read_pack, triggers

NO_CAPTIONS = CaptionVectors(np.empty((0, 2)), np.empty((0, 2)), None, None, ())

TOLD = {"how": "drawn by hand", "tool": "pargate 1", "date": "2026-01-31"}


def png(side: int = 4, level: int = 200) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), level, dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def sticker(content: bytes, name: str = "sticker", **more: Any) -> dict[str, Any]:
    sha256 = hashlib.sha256(content).hexdigest()
    return {"name": name, "parameters": {"kind": "file", "sha256": sha256, **more}, "provenance": TOLD}


def document(content: bytes, **more: Any) -> dict[str, Any]:
    """A listing with a picture, a kind with a parameter, and a text."""
    return {
        "schema": "pargate/pack/1",
        "license": "CC0-1.0",
        "triggers": [
            sticker(content, position=[0, 1]),
            {"name": "waves", "parameters": {"kind": "sig", "delta": 20}, "provenance": TOLD},
        ],
        "texts": [{"name": "hidden", "text": "\u200bcf", "place": "suffix", "provenance": TOLD}],
        **more,
    }


def lay(folder: Path, content: bytes | None = None, **more: Any) -> str:
    """Write a pack; return its digest."""
    folder.mkdir(parents=True)
    content = content or png()
    (folder / "sticker.png").write_bytes(content)
    listing = json.dumps(document(content, **more)).encode()
    (folder / LISTING).write_bytes(listing)
    return "sha256:" + hashlib.sha256(listing).hexdigest()


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(PargateError) as caught:
        call()
    assert len(caught.value.lines) == 1 or isinstance(caught.value, PolicyError)
    assert caught.value.hint or isinstance(caught.value, PolicyError)
    return caught.value.message


# --- the format ---


def test_the_committed_schema_is_what_the_models_say_and_a_pack_fits_it() -> None:
    # After a change: write `form.schema()` as JSON with an indent of 1 and a final newline.
    committed = (Path(form.__file__).parent / form.SCHEMA_FILE).read_text()
    assert committed == json.dumps(form.schema(), indent=1) + "\n"
    jsonschema.Draft202012Validator.check_schema(form.schema())
    jsonschema.validate(document(png()), form.schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**document(png()), "license": ""}, form.schema())


def test_a_pack_gives_its_triggers_with_their_pictures_and_its_texts(tmp_path: Path) -> None:
    digest = lay(tmp_path / "mine")
    pack = read_pack(tmp_path / "mine", digest)
    found = triggers(pack, tmp_path / "mine")
    assert [(t.label, t.kind) for t in found] == [("mine/sticker", "file"), ("mine/waves", "sig")]
    alone = parse({"kind": "file", "path": str(tmp_path / "mine" / "sticker.png"), "position": [0, 1]})[0].read(
        tmp_path
    )
    assert found[0].id == alone.id  # the same pixels, by whatever way
    assert [(text.text, text.place) for text in pack.texts] == [("\u200bcf", "suffix")]


@given(
    st.text(min_size=1, max_size=50).filter(lambda text: text.isprintable()), st.text("ab\u200b\u202e\x1b", min_size=1)
)
def test_a_listing_is_ascii_and_reads_back_as_it_was(license: str, text: str) -> None:
    told = Provenance(how="x", tool="t", date=date(2026, 1, 31))
    pack = Pack(license=license, texts=(PackedText(name="a", text=text, place="prefix", provenance=told),))
    assert pack.to_json().isascii() and "\x1b" not in pack.to_json()
    assert Pack.model_validate_json(pack.to_json()) == pack


# --- what is refused ---


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that claims `side` × `side` pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def spoil(folder: Path, how: str) -> None:
    picture = folder / "sticker.png"
    match how:
        case "changed":
            picture.write_bytes(png(level=10))
        case "missing":
            picture.unlink()
        case "added":
            (folder / "more.txt").write_text("")
        case "link":
            picture.rename(folder.parent / "elsewhere.png")
            picture.symlink_to(folder.parent / "elsewhere.png")
        case "pipe":
            picture.unlink()
            os.mkfifo(picture)
        case "folder":
            (folder / "deep").mkdir()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("changed", "sticker.png was changed"),
        ("missing", "sticker.png is missing"),
        ("added", "more.txt was added"),
        ("link", "sticker.png is a link"),
        ("pipe", "no plain file"),
        ("folder", "deep is a link, a folder or no plain file"),
    ],
)
def test_an_altered_pack_is_refused_with_the_name_of_the_file(tmp_path: Path, how: str, said: str) -> None:
    lay(tmp_path / "mine")
    spoil(tmp_path / "mine", how)
    message = refusal(lambda: read_pack(tmp_path / "mine"))
    assert "was altered" in message and said in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (bomb(5_000), "more than 4194304 pixels"),
        (bomb(50_000), "more than 4194304 pixels"),
        (png()[:50], "not a complete PNG"),
        (b"GIF89a" + bytes(20), "not a complete PNG"),
        (png() + bytes(limits.PICTURE_BYTES), "larger than 4 MiB"),
    ],
)
def test_a_picture_that_is_a_bomb_or_no_png_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    lay(tmp_path / "mine", content)
    assert said in refusal(lambda: read_pack(tmp_path / "mine"))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"triggers": [sticker(png(), name="../up")]}, "triggers.0.name"),
        ({"triggers": [sticker(png(), name="a\x1b[31m")]}, "triggers.0.name"),
        ({"triggers": [sticker(png(), path="/etc/passwd")]}, "no `path`"),
        ({"triggers": [sticker(png()), sticker(png(), name="STICKER")]}, "the same name"),
        ({"triggers": [sticker(png(), mode="glue")]}, "mode"),
        ({"triggers": [{"name": "a", "parameters": {"kind": "file"}, "provenance": TOLD}]}, "`sha256`"),
        ({"triggers": [{"name": "a", "parameters": {"kind": "none"}, "provenance": TOLD}]}, "none"),
        (
            {"triggers": [{"name": "a", "parameters": {"kind": "sig", "delta": [1, 2]}, "provenance": TOLD}]},
            "one value",
        ),
        ({"triggers": [{"name": "a", "parameters": {"kind": "wanet", "k": 10**6}, "provenance": TOLD}]}, "wanet: k"),
        ({"triggers": [], "texts": []}, "no trigger and no text"),
        ({"license": "\x1b]0;x\x07"}, "cannot be printed"),
        ({"license": ""}, "license"),
        ({"later": 1}, "later"),
        ({"schema": "pargate/pack/2"}, "schema"),
        ({"texts": [{"name": "a", "text": "x", "place": "middle", "provenance": TOLD}]}, "place"),
    ],
)
def test_a_wrong_listing_is_refused_with_the_place(tmp_path: Path, more: dict[str, Any], said: str) -> None:
    lay(tmp_path / "mine", **more)
    message = refusal(lambda: read_pack(tmp_path / "mine"))
    assert said in message


def test_another_digest_a_missing_pack_and_a_listing_that_is_no_file_are_refused(tmp_path: Path) -> None:
    lay(tmp_path / "mine")
    assert "its digest is" in refusal(lambda: read_pack(tmp_path / "mine", "sha256:" + "0" * 64))
    assert "cannot read pack.json" in refusal(lambda: read_pack(tmp_path / "none"))
    (tmp_path / "piped").mkdir()
    os.mkfifo(tmp_path / "piped" / LISTING)
    assert "not a regular file" in refusal(lambda: read_pack(tmp_path / "piped"))
    (tmp_path / "mine" / LISTING).write_bytes(b" " * (limits.LISTING_BYTES + 1))
    assert "more than 1 MiB" in refusal(lambda: read_listing(tmp_path / "mine"))


# --- in a policy ---

RULE = "  - {id: known, probe: attack, triggers: [%s], max: {excess: 30pp}}\n"


def policy(folder: Path, digest: str, used: str = "badnet, pack:mine", more: str = "", path: str = "mine") -> Resolved:
    text = f"pargate: 1\nname: p\npacks: [{{path: {path}, digest: '{digest}'}}]\nrules:\n" + RULE % used + more
    return read(text, "p.yaml", folder)


def test_the_triggers_of_a_pack_stand_in_the_resolved_policy_with_their_digests(tmp_path: Path) -> None:
    digest = lay(tmp_path / "mine")
    found = policy(tmp_path, digest)
    assert [t.label for t in found.policy.rules[0].parsed] == ["badnet", "mine/sticker", "mine/waves"]
    one = policy(tmp_path, digest, "pack:mine/waves")
    assert [t.label for t in one.policy.rules[0].parsed] == ["mine/waves"]
    text = listed(found)
    assert f"# packs: mine {digest}" in text and hashlib.sha256(png()).hexdigest() in text
    again = read(text, "again.yaml", tmp_path).policy
    assert again.rules == found.policy.rules
    # Both stand where the name of the pack does.
    assert [found.origins[f"rules.known.triggers.{n}"].column for n in range(3)] == [43, 51, 51]


def test_the_pack_decides_the_digest_of_a_policy_and_a_scan_reads_it_whole(tmp_path: Path) -> None:
    digest = lay(tmp_path / "mine")
    found = policy(tmp_path, digest)
    other = lay(tmp_path / "other" / "mine", png(level=10))
    assert found.sha256 != policy(tmp_path / "other", other).sha256
    assert found.policy.read(tmp_path).rules[0].parsed[1].pin == {"sha256": hashlib.sha256(png()).hexdigest()}
    (tmp_path / "mine" / "more.txt").write_text("")
    assert "more.txt was added" in refusal(lambda: found.policy.read(tmp_path))


def test_a_wrong_use_of_a_pack_is_shown_at_its_place(tmp_path: Path) -> None:
    digest = lay(tmp_path / "mine")
    assert "no pack 'mein' in `packs`. Did you mean 'mine'?" in refusal(lambda: policy(tmp_path, digest, "pack:mein"))
    said = refusal(lambda: policy(tmp_path, digest, "pack:mine/wave"))
    assert "no trigger 'wave'. Did you mean 'waves'?" in said and said.startswith("p.yaml:5:43: ")
    assert "its digest is" in refusal(lambda: policy(tmp_path, "sha256:" + "0" * 64))
    assert "not abc" in refusal(lambda: policy(tmp_path, "abc"))
    assert "cannot read pack.json" in refusal(lambda: policy(tmp_path, digest, path="gone"))
    twice = f"[{{path: mine, digest: '{digest}'}}, {{path: ./mine, digest: '{digest}'}}]"
    text = f"pargate: 1\nname: p\npacks: {twice}\nrules:\n" + RULE % "badnet"
    assert "two packs have the name 'mine'" in refusal(lambda: read(text, "p.yaml", tmp_path))
    assert "needs a list `packs`" in refusal(
        lambda: read("pargate: 1\nname: p\nrules:\n" + RULE % "pack:mine", "p.yaml", tmp_path)
    )


def test_a_pack_moves_with_the_policy_that_is_extended(tmp_path: Path) -> None:
    digest = lay(tmp_path / "org" / "mine")
    parent = f"pargate: 1\nname: org\npacks: [{{path: mine, digest: '{digest}'}}]\nrules:\n" + RULE % "pack:mine"
    (tmp_path / "org" / "org.yaml").write_text(parent)
    (tmp_path / "team").mkdir()
    child = "pargate: 1\nname: team\nextends: ../org/org.yaml\nrules:\n  - {id: more, probe: attack, triggers: [pack:mine/waves], max: {excess: 9pp}}\n"  # fmt: skip  # noqa: E501
    found = read(child, str(tmp_path / "team" / "p.yaml"), tmp_path / "team")
    assert found.policy.packs[0].path == "../org/mine"
    read_rules = found.policy.read(found.folder).rules
    assert [[t.label for t in rule.parsed] for rule in read_rules] == [["mine/sticker", "mine/waves"], ["mine/waves"]]
    fewer = child.replace("id: more", "id: known").replace("9pp", "30pp")
    with pytest.raises(PolicyError, match="may only tighten"):
        read(fewer, str(tmp_path / "team" / "p.yaml"), tmp_path / "team")


def test_a_removed_or_exchanged_pack_is_looser_and_a_moved_one_is_the_same(tmp_path: Path) -> None:
    digest = lay(tmp_path / "mine")
    lay(tmp_path / "moved" / "mine")
    other = lay(tmp_path / "other" / "mine", png(level=10))

    def ways(old: Resolved, new: Resolved) -> set[tuple[str, str]]:
        return {(change.name, change.direction) for change in changes(old.policy, new.policy)}

    whole, plain = policy(tmp_path, digest), policy(tmp_path, digest, "badnet")
    assert ways(whole, plain) == {("rules.known.triggers", "looser")}
    assert ways(plain, whole) == {("rules.known.triggers", "tighter")}
    exchanged = policy(tmp_path, other, path="other/mine")
    assert ways(whole, exchanged) == {("packs", "looser"), ("rules.known.triggers", "looser")}
    assert ways(whole, policy(tmp_path, digest, path="moved/mine")) == set()


# --- making ---


def found_report(tmp_path: Path) -> Path:
    """A report of a scan that found one trigger by itself, beyond its limit."""
    report: ScanReport = failing()
    content = png(8)
    parameters = {"kind": "file", "sha256": hashlib.sha256(content).hexdigest(), "mode": "patch", "position": [0, 0]}
    first = next(m for m in report.measurements if m.trigger is not None and _fails(report, m.id))
    info = TriggerInfo(
        label="found", kind="file", parameters=parameters, digest="0" * 64,
        picture=base64.b64encode(content).decode(),
    )  # fmt: skip
    found = {"trigger": info, "probe": "search"}
    changed = [m.model_copy(update=found) if m.id == first.id else m for m in report.measurements]
    path = tmp_path / "report.json"
    path.write_text(report.model_copy(update={"measurements": tuple(changed)}).to_json())
    return path


def _fails(report: ScanReport, id: str) -> bool:
    return any(f.measurement == id and f.status == "breach" for f in report.findings)


def test_a_report_becomes_a_pack_with_the_origin_of_each_trigger(tmp_path: Path) -> None:
    report = found_report(tmp_path)
    made = packs.create(packs.PackRequest([report], tmp_path / "made", "CC0-1.0", texts=[("suffix", "\u200b")]))
    assert read_pack(tmp_path / "made", made.digest) == made
    (trigger,) = made.triggers
    saved = ScanReport.from_json(report.read_bytes())
    assert trigger.provenance.model == saved.model.sha256
    assert str(trigger.provenance.date) == saved.run.started[:10]
    assert (tmp_path / "made" / trigger.picture).read_bytes() == png(8)
    assert any("\\u200b" in line for line in packs.listed(made, tmp_path / "made"))
    # The same again gives the same pack.
    again = packs.create(
        packs.PackRequest([report, report], tmp_path / "again", "CC0-1.0", texts=[("suffix", "\u200b")])
    )
    assert again.triggers == made.triggers


def test_a_found_text_becomes_a_text_of_a_pack_and_a_phrase_of_a_policy(tmp_path: Path) -> None:
    report: ScanReport = failing()
    first = next(m for m in report.measurements if m.trigger is not None and _fails(report, m.id))
    added = AddedText.of(FoundText("\u200bcf ", (7, 8), "end", frozenset(), NO_CAPTIONS, NO_CAPTIONS))
    info = TriggerInfo(label=added.label, kind="text", parameters=added.parameters, digest=added.digest)
    changed = {"trigger": info, "probe": "text", "id": "words/unknown/tokens"}
    measured = [m.model_copy(update=changed) if m.id == first.id else m for m in report.measurements]
    path = tmp_path / "report.json"
    path.write_text(report.model_copy(update={"measurements": tuple(measured)}).to_json())
    made = packs.create(packs.PackRequest([path, path], tmp_path / "mine", "CC0-1.0"))
    assert not made.triggers and [(t.name, t.text, t.place) for t in made.texts] == [("tokens", "\u200bcf", "suffix")]
    assert made.texts[0].provenance.how == "found by the probe text: tokens, token ids [7, 8]"
    words = "{id: words, probe: text, families: [phrases], phrases: [quokka, %s], max: {excess: 50pp}}"
    text = f"pargate: 1\nname: p\npacks: [{{path: mine, digest: '{made.digest}'}}]\nrules:\n  - {words}\n"
    for used in ("pack:mine", "pack:mine/tokens"):
        assert read(text % used, "p.yaml", tmp_path).policy.rules[0].phrases == ("quokka", "\u200bcf")
    assert "has no text 'token'. Did you mean 'tokens'?" in refusal(
        lambda: read(text % "pack:mine/token", "p.yaml", tmp_path)
    )
    assert "needs a list `packs`" in refusal(lambda: read(text.replace("packs", "#") % "pack:mine", "p.yaml", tmp_path))
    info = info.model_copy(update={"parameters": {**added.parameters, "place": "middle"}})
    measured = [
        m.model_copy(update=changed | {"trigger": info}) if m.id == first.id else m for m in report.measurements
    ]
    path.write_text(report.model_copy(update={"measurements": tuple(measured)}).to_json())
    with pytest.raises(InputError, match="lacks its characters or its place"):
        packs.create(packs.PackRequest([path], tmp_path / "other", "CC0-1.0"))


def test_a_pack_without_texts_gives_no_phrases(tmp_path: Path) -> None:
    digest = lay(tmp_path / "mine", png(), texts=[])
    words = "{id: words, probe: text, families: [phrases], phrases: [pack:mine], max: {excess: 50pp}}"
    text = f"pargate: 1\nname: p\npacks: [{{path: mine, digest: '{digest}'}}]\nrules:\n  - {words}\n"
    assert "the pack 'mine' has no texts" in refusal(lambda: read(text, "p.yaml", tmp_path))


def test_triggers_to_recognise_come_with_the_target_of_their_report_or_pack(tmp_path: Path) -> None:
    report = found_report(tmp_path)
    saved = ScanReport.from_json(report.read_bytes())
    target = next(m.target.name for m in saved.measurements if m.probe == "search" and m.target)
    packs.create(packs.PackRequest([report], tmp_path / "pack", "CC0-1.0"))
    for source in (report, tmp_path / "pack"):
        ((trigger, named),) = packs.to_recognise(source)
        assert named == target and trigger.draw((64, 64), ["0" * 64], 0) is not None, "its picture is read"
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty holds no"):
        packs.to_recognise(tmp_path / "empty")


def test_found_colour_curves_become_a_trigger_without_a_picture(tmp_path: Path) -> None:
    path = found_report(tmp_path)
    report = ScanReport.from_json(path.read_bytes())
    curves = parse({"kind": "curves", "red": [0, 20, 0]})[0]
    info = TriggerInfo(label="found", kind="curves", parameters=curves.parameters, digest=curves.digest)
    measured = [m.model_copy(update={"trigger": info}) if m.probe == "search" else m for m in report.measurements]
    path.write_text(report.model_copy(update={"measurements": tuple(measured)}).to_json())
    made = packs.create(packs.PackRequest([path], tmp_path / "made", "CC0-1.0"))
    (trigger,) = read_pack(tmp_path / "made", made.digest).triggers
    assert trigger.parameters["red"] == [0, 20, 0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["run"].update(started="yesterday"), "not a time: 'yesterday'"),
        (
            lambda d: [m["trigger"].update(picture="%") for m in d["measurements"] if m["probe"] == "search"],
            "no base64",
        ),
    ],
)
def test_a_tampered_report_makes_no_pack(tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str) -> None:
    path = found_report(tmp_path)
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=said):
        packs.create(packs.PackRequest([path], tmp_path / "made", "CC0-1.0"))
    assert not (tmp_path / "made").exists()


def test_a_folder_without_found_triggers_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no found\.yaml"):
        packs.create(packs.PackRequest([tmp_path], tmp_path / "made", "CC0-1.0"))


def found_folder(place: Path) -> Path:
    place.mkdir()
    (place / "1-patch.png").write_bytes(png(8))
    spec = f"{{kind: file, path: 1-patch.png, position: [2, 3], sha256: {hashlib.sha256(png(8)).hexdigest()}}}"
    (place / "found.yaml").write_text("pargate: 1\nname: found\nrules:\n" + RULE % spec)
    return place


def test_a_folder_of_found_triggers_and_a_policy_become_a_pack(tmp_path: Path) -> None:
    folder = found_folder(tmp_path / "found")
    (tmp_path / "p.yaml").write_text("pargate: 1\nname: p\nrules:\n" + RULE % "{kind: sig, delta: 20}")
    made = packs.create(packs.PackRequest([folder, tmp_path / "p.yaml"], tmp_path / "made", "MIT"))
    assert [(t.name, t.parameters["kind"]) for t in made.triggers] == [("1-patch", "file"), ("sig", "sig")]
    assert [t.provenance.how for t in made.triggers] == ["found by pargate scan --found", "given by the policy p.yaml"]
    text = f"pargate: 1\nname: p\npacks: [{{path: made, digest: '{made.digest}'}}]\nrules:\n" + RULE % "pack:made"
    assert resolve_text(text, tmp_path).read(tmp_path).rules[0].parsed[0].id == packs.to_unlearn(folder)[0].id


def resolve_text(text: str, folder: Path) -> Any:
    (folder / "use.yaml").write_text(text)
    return resolve(str(folder / "use.yaml")).policy


def test_nothing_is_written_where_a_source_is_wrong(tmp_path: Path) -> None:
    def made(*sources: Path, license: str = "MIT") -> Callable[[], Any]:
        return lambda: packs.create(packs.PackRequest(sources, tmp_path / "made", license))

    (tmp_path / "report.json").write_text("{}")
    assert "not a report" in refusal(made(tmp_path / "report.json"))
    (tmp_path / "none.json").write_text(passing().to_json())
    assert "has no trigger for a pack" in refusal(made(tmp_path / "none.json"))
    assert "no such policy" in refusal(made(tmp_path / "gone.yaml"))
    assert "cannot be printed" in refusal(made(found_folder(tmp_path / "found"), license="\x1b[31m"))
    assert not (tmp_path / "made").exists()
    (tmp_path / "made").mkdir()
    assert "exists already" in refusal(made(tmp_path / "found"))


def test_a_signed_pack_holds_until_something_changes(tmp_path: Path) -> None:
    private, public = keys(tmp_path)
    made = packs.create(packs.PackRequest([found_folder(tmp_path / "found")], tmp_path / "made", "MIT", key=private))
    assert read_pack(tmp_path / "made", made.digest) == made
    assert signing.problem(tmp_path / "made", public) is None
    (tmp_path / "made" / "1-patch.png").write_bytes(png(8, level=1))
    assert signing.problem(tmp_path / "made", public) is not None


def test_a_picture_to_unlearn_has_the_place_that_its_folder_gives_it(tmp_path: Path) -> None:
    folder = found_folder(tmp_path / "found")
    (one,) = packs.to_unlearn(folder / "1-patch.png")
    assert one.parameters["position"] == [2, 3]
    (tmp_path / "alone.png").write_bytes(png(8))
    (alone,) = packs.to_unlearn(tmp_path / "alone.png")
    assert alone.parameters["position"] == "random"
    lay(tmp_path / "mine")
    assert [t.label for t in packs.to_unlearn(tmp_path / "mine")] == ["mine/sticker", "mine/waves"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no triggers"):
        packs.to_unlearn(tmp_path / "empty")
    with pytest.raises(InputError, match="cannot read the trigger file"):
        packs.to_unlearn(tmp_path / "gone.png")
