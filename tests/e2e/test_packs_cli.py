"""`pargate pack`, packs in policies and `clean --unlearn`, by the real command."""

import hashlib
import json
import re
import shutil
from pathlib import Path

from conftest import MODELS, Command, Ended
from PIL import Image

from pargate.core.provenance import ProvenanceRecord, Subject

FOUND = """
pargate: 1
name: found
rules:
  - id: found
    probe: attack
    triggers: [{kind: file, path: 1-patch.png, position: [0, 0]}]
    max: {excess: 30pp}
"""


def found(place: Path) -> Path:
    folder = place / "found"
    folder.mkdir()
    Image.new("RGB", (8, 8), (200, 10, 10)).save(folder / "1-patch.png")
    (folder / "found.yaml").write_text(FOUND)
    return folder


def one_message(ended: Ended, code: int, *words: str) -> None:
    assert ended.code == code, ended.err
    assert ended.err.count("pargate: ") == 1 and "Traceback" not in ended.said and "\x1b" not in ended.said, ended.err
    for word in words:
        assert word in ended.said


def test_a_found_trigger_becomes_a_pack_that_a_policy_pins(place: Path, light: Command) -> None:
    found(place)
    made = light("pack", "create", "found", "--suffix", "\u200bcf", "--license", "CC0-1.0", "--out", "mine",
                 "--model", MODELS / "poisoned")  # fmt: skip
    assert made.code == 0 and "\\u200bcf" in made.out, made.err
    digest = re.search(r"sha256:[0-9a-f]{64}", made.out)
    assert digest is not None
    assert light("pack", "show", "mine", "--digest", digest[0]).out == made.out
    listing = json.loads((place / "mine" / "pack.json").read_text())
    assert len(listing["triggers"][0]["provenance"]["model"]) == 64
    rule = "{id: known, probe: attack, triggers: [pack:mine], max: {excess: 30pp}}"
    policy = f"pargate: 1\nname: p\npacks: [{{path: mine, digest: '{digest[0]}'}}]\nrules: [{rule}]\n"
    (place / "p.yaml").write_text(policy)
    (place / "without.yaml").write_text(policy.replace("pack:mine", "badnet").replace("packs:", "x-packs:"))
    assert light("policy", "check", "p.yaml").code == 0
    shown = light("policy", "show", "--resolved", "p.yaml").out
    assert "mine/1-patch.png" in shown and "name: mine/1-patch" in shown
    loosened = light("policy", "diff", "p.yaml", "without.yaml")
    assert loosened.code == 1 and "looser   packs" in loosened.out and "mine/1-patch" in loosened.out
    assert "mine/1-patch" in light("explain", "known", "-p", "p.yaml").out
    assert light("triggers", "--pack", "mine", "--preview", "sheet.png", "--size", "64").code == 0
    with Image.open(place / "sheet.png") as sheet:
        assert sheet.width > 64
    # Something is added: the policy is as it was, but no scan begins.
    (place / "mine" / "more").write_text("")
    one_message(light("pack", "show", "mine"), 2, "more was added")
    scanned = light("scan", MODELS / "clean", "-p", "p.yaml", "--device", "cpu")
    one_message(scanned, 2, "more was added")
    (place / "mine" / "pack.json").write_text(json.dumps({**listing, "license": "MIT"}))
    one_message(light("policy", "check", "p.yaml"), 4, "p.yaml:3:9", "its digest is")


def test_bad_input_to_pack_gets_one_message_and_nothing_is_written(place: Path, light: Command) -> None:
    found(place)
    for arguments, word in (
        ((), "nothing to pack"),
        (("gone.json",), "gone.json is not a report"),
        (("found", "--license", ""), "--license is empty"),
        (("found", "--license", "\x1b[31m"), "cannot be printed"),
        (("found", "--suffix", ""), "at least 1 character"),
        (("found", "--model", "gone"), "gone"),
    ):
        license = () if "--license" in arguments else ("--license", "MIT")
        one_message(light("pack", "create", *arguments, *license, "--out", "mine"), 2, word)
        assert not (place / "mine").exists()
    one_message(light("pack", "show", "gone"), 2, "no pack in gone")
    one_message(light("triggers", "--pack", "mine"), 2, "--pack needs --preview")


def test_cleaning_is_given_triggers_to_unlearn_by_picture_folder_or_pack(place: Path, light: Command) -> None:
    found(place)
    assert light("pack", "create", "found", "--license", "MIT", "--out", "mine").code == 0
    asked = ("clean", MODELS / "poisoned", "--pairs", "synthetic:40", "--batch-size", "8", "--device", "cpu",
             "--precision", "fp32", "--out", "out", "--dry-run")  # fmt: skip
    named = {"found": "file 1-patch.png (patch)", "found/1-patch.png": "file 1-patch.png", "mine": "mine/1-patch"}
    for given, word in named.items():
        planned = light(*asked, "--unlearn", given)
        assert planned.code == 0 and f"unlearn {word}" in planned.said + planned.out, planned.err
    one_message(light(*asked, "--unlearn", "gone.png"), 2, "gone.png")
    one_message(light(*asked, "--unlearn", place), 2, "holds no triggers")


def test_a_gate_refuses_to_certify_by_the_family_that_was_unlearned(place: Path, light: Command) -> None:
    shutil.copytree(MODELS / "clean", place / "model")
    sha256 = hashlib.sha256((place / "model" / "open_clip_model.safetensors").read_bytes()).hexdigest()
    made = Subject(name="open_clip_model.safetensors", sha256=sha256)
    record = ProvenanceRecord(
        activity="clean", inputs=(made,), outputs=(made,), configuration={"unlearned": [{"family": "patch"}]},
        configuration_sha256="0" * 64, seed=0, tool={}, environment={}, started="2026-01-31T00:00:00+00:00",
        finished="2026-01-31T00:00:00+00:00", seconds=1.0, stopped="all steps were taken",
    )  # fmt: skip
    (place / "model" / "provenance.json").write_text(record.model_dump_json(by_alias=True))
    for triggers, code in (("badnet", 2), ("badnet, wanet", 0)):
        rules = f"[{{id: a, probe: attack, triggers: [{triggers}], max: {{excess: 40pp}}}}]"
        (place / "p.yaml").write_text(f"pargate: 1\nname: p\nimages: {{source: 'builtin:scenes'}}\nrules: {rules}\n")
        done = light("gate", "model", "-p", "p.yaml", "--device", "cpu", "--out", "release", "--dry-run")
        assert done.code == code, done.err
        if code:
            one_message(
                done, 2, "cleaned with --unlearn and shown triggers (patch)", "the policy p measures no other family"
            )
    # Without the record, nobody knows.
    (place / "model" / "provenance.json").unlink()
    rules = "[{id: a, probe: attack, triggers: [badnet], max: {excess: 40pp}}]"
    (place / "p.yaml").write_text(f"pargate: 1\nname: p\nimages: {{source: 'builtin:scenes'}}\nrules: {rules}\n")
    assert light("gate", "model", "-p", "p.yaml", "--device", "cpu", "--out", "release", "--dry-run").code == 0
