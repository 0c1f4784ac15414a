"""A policy that asks for a signature: what is read must be what was signed, and nothing is loaded before."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from pargate import events, files
from pargate.core.report import ScanReport
from pargate.core.results import FileFacts, Finding, Measurement, Outcome, Signature, Status
from pargate.errors import InputError, PolicyError
from pargate.judge import judge
from pargate.judge.judging import Judging
from pargate.judge.release import may_be_cleaned
from pargate.models import signing
from pargate.models.open import inspect
from pargate.policy.compare import changes
from pargate.policy.resolve import Resolved, read
from pargate.probes.base import FILE
from pargate.scanning import signature
from pargate.scanning.request import ScanRequest
from pargate.scanning.run import scan
from tests.unit.test_inspect import folder

ZOO = Path(__file__).parents[3] / "shared" / "zoo" / "dev"

PEM = b"-----BEGIN PUBLIC KEY-----\n"
DIGEST = f"sha256:{hashlib.sha256(PEM).hexdigest()}"
BY_KEY = f"signed_by: {{key: keys/a.pub, digest: '{DIGEST}'}}"
BY_NAME = "signed_by: {identity: us@example.org, issuer: 'https://issuer.example'}"
ATTACK = "  - {id: b, probe: attack, triggers: [badnet], max: {excess: 30pp}}\n"


def policy(signed: str = BY_KEY, place: Path = Path(), more: str = "") -> Resolved:
    return read(f"pargate: 1\nname: x\n{more}rules:\n  - {{id: a, probe: file, {signed}}}\n{ATTACK}", "p.yaml", place)


def keyed(place: Path) -> Resolved:
    """A policy in a folder that holds its key."""
    (place / "keys").mkdir()
    (place / "keys" / "a.pub").write_bytes(PEM)
    return policy(place=place)


def listing(monkeypatch: pytest.MonkeyPatch, listed: Callable[[Path], dict[str, str]]) -> None:
    """Let signatures be verified without the library; `listed` gives what they cover."""
    monkeypatch.setattr(signature, "verify", lambda folder, name, signer: listed(folder))


def digests(place: Path) -> dict[str, str]:
    return {path.name: files.sha256_file(path) for path in place.iterdir()}


# --- what is read is what was signed ---


def test_every_file_that_is_read_must_be_signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, model = keyed(tmp_path), folder(tmp_path / "m")
    (model / "README.md").write_text("read by nobody")
    listing(monkeypatch, digests)
    found = signature.check(asked, inspect(str(model)))
    assert found == Signature(signer=f"the key {DIGEST}", files=3)
    for missing in ("open_clip_config.json", "open_clip_model.safetensors"):
        listing(monkeypatch, lambda place, missing=missing: {k: v for k, v in digests(place).items() if k != missing})
        found = signature.check(asked, inspect(str(model)))
        assert found is not None and found.problem == f"{missing} was read, and the signature does not cover it"
    listing(monkeypatch, lambda place: {k: v for k, v in digests(place).items() if k != "README.md"})
    found = signature.check(asked, inspect(str(model)))
    assert found is not None and not found.problem


def test_bytes_that_change_between_reading_and_checking_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, model = keyed(tmp_path), folder(tmp_path / "m")
    read_before = inspect(str(model))
    weights = model / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    listing(monkeypatch, digests)  # the folder is as it was signed, but was not when it was read
    found = signature.check(asked, read_before)
    assert found is not None and found.problem == f"{weights.name} has other bytes than when it was signed"


def test_a_model_that_was_not_read_from_files_is_not_signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, model = keyed(tmp_path), folder(tmp_path / "m")
    listing(monkeypatch, digests)
    found = signature.check(asked, replace(inspect(str(model)), files={}))
    assert found is not None and found.problem == "the model was not read from a folder"


def test_a_weights_file_is_compared_within_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, model = keyed(tmp_path), folder(tmp_path / "m")
    listing(monkeypatch, digests)
    for source in (f"{model}#open_clip_model.safetensors", str(model / "open_clip_model.safetensors"), f"{model}/../m"):
        found = signature.check(asked, inspect(source))
        assert found is not None and not found.problem, source


def test_reading_is_recorded(tmp_path: Path) -> None:
    whole, part, twice = (tmp_path / name for name in ("whole", "part", "twice"))
    for path in (whole, part, twice):
        path.write_bytes(b"one")
    with files.recorded() as found:
        files.read_bytes(whole)
        with files.open_file(part) as stream:
            stream.read(1)
        files.sha256_file(twice)
        files.sha256_file(twice)
        assert found[str(twice)] == hashlib.sha256(b"one").hexdigest()
        twice.write_bytes(b"two")
        files.sha256_file(twice)
    files.read_bytes(part)
    assert found == {str(whole): hashlib.sha256(b"one").hexdigest(), str(part): "", str(twice): "changed"}


def test_the_key_must_be_the_one_that_the_policy_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, model = keyed(tmp_path), inspect(str(folder(tmp_path / "m")))
    listing(monkeypatch, digests)
    (tmp_path / "keys" / "a.pub").write_bytes(PEM + b"\n")
    with pytest.raises(InputError, match=r"a\.pub is another file than .* digest is sha256:"):
        signature.check(asked, model)
    (tmp_path / "keys" / "a.pub").unlink()
    with pytest.raises(InputError, match=r"cannot read .*a\.pub"):
        signature.check(asked, model)


# --- the rule ---


def answer(found: Signature | None) -> Finding:
    facts = FileFacts(format="safetensors", pickle=False, custom_ops=False, signature=found)
    measured = Measurement(id=FILE, rule="a", probe="file", facts=facts)
    (finding,) = (f for f in judge.judge(policy().policy, [measured]).findings if f.rule == "a")
    return finding


def test_only_a_signature_that_was_checked_decides() -> None:
    signer = f"the key {DIGEST}"
    assert answer(Signature(signer=signer, files=3)).status is Status.MET
    assert "keys/a.pub, and its 3 files" in answer(Signature(signer=signer, files=3)).message
    broken = answer(Signature(signer=signer, problem="model.sig: missing"))
    assert (broken.status, broken.message) == (
        Status.BREACH,
        "The model is not signed as the policy asks: model.sig: missing.",
    )
    for unchecked in (None, Signature(signer="the key sha256:other", files=3)):
        assert answer(unchecked).status is Status.OPEN


def test_a_report_without_a_signature_has_no_field_for_it() -> None:
    assert "signature" not in FileFacts(format="onnx", pickle=False, custom_ops=False).model_dump()
    assert "signed_by" not in policy("allow: {}").policy.rules[0].model_dump()


@pytest.mark.parametrize(
    ("signed", "words"),
    [
        ("signed_by: {}", "write `key` with its `digest`, or `identity` with its `issuer`"),
        ("signed_by: {key: a.pub}", "needs its `digest`"),
        (f"signed_by: {{digest: '{DIGEST}', identity: a, issuer: b}}", "only these have one"),
        ("signed_by: {identity: us@example.org}", "`identity` and `issuer` need each other"),
        (f"signed_by: {{key: a, digest: '{DIGEST}', issuer: b}}", "`identity` and `issuer` need each other"),
        (f"signed_by: {{key: a, digest: '{DIGEST}', identity: a, issuer: b}}", "write `key`"),
        (f"signed_by: {{key: a, digest: '{DIGEST}', trust_root: b}}", "`trust_root` belongs to an identity"),
        ("signed_by: {identity: a, issuer: b, trust_root: c}", "needs its `digest`"),
        ("severity: low", "the probe file needs `allow`"),
    ],
)
def test_a_signer_is_named_in_one_way(signed: str, words: str) -> None:
    with pytest.raises(PolicyError, match=words):
        policy(signed)


def test_a_signature_belongs_to_one_rule_about_the_file() -> None:
    with pytest.raises(PolicyError, match="only one rule may have `signed_by`"):
        read(f"pargate: 1\nname: x\nrules:\n  - {{id: a, probe: file, {BY_KEY}}}\n"
             f"  - {{id: b, probe: file, {BY_NAME}}}\n", "p.yaml", Path())  # fmt: skip
    with pytest.raises(PolicyError, match="`signed_by` belongs to the probe file, not to utility"):
        read(f"pargate: 1\nname: x\nrules:\n  - {{id: a, probe: utility, min: {{accuracy: 5%}}, {BY_NAME}}}\n",
             "p.yaml", Path())  # fmt: skip


def test_another_signer_is_looser_than_the_one_that_was_asked_for() -> None:
    allow, key, name = (policy(s).policy for s in ("allow: {}", f"allow: {{}}, {BY_KEY}", f"allow: {{}}, {BY_NAME}"))
    moved = policy(f"allow: {{}}, {BY_KEY}".replace("keys/a.pub", "b.pub")).policy
    found = {
        label: [(change.name, change.direction) for change in changes(old, new)]
        for label, (old, new) in {
            "added": (allow, key), "removed": (key, allow), "exchanged": (key, name), "moved": (key, moved),
        }.items()
    }  # fmt: skip
    at = "rules.a.signed_by"
    assert found == {
        "added": [(at, "tighter")],
        "removed": [(at, "looser")],
        "exchanged": [(at, "looser")],
        "moved": [],
    }
    assert [c.direction for c in changes(key, policy(BY_KEY).policy)] == ["looser"]  # `allow` is gone


def test_the_key_of_a_policy_that_is_extended_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "base.yaml").write_text(
        f"pargate: 1\nname: base\nrules:\n  - {{id: a, probe: file, {BY_KEY}}}\n{ATTACK}"
    )
    found = read("pargate: 1\nname: x\nextends: org/base.yaml\n", "p.yaml", tmp_path)
    signer = found.policy.signed_by
    assert signer is not None and signer.key == "org/keys/a.pub"


# --- a scan ---


class _Loading(Exception):
    """The scan went on to the images."""


def scanned(place: Path, monkeypatch: pytest.MonkeyPatch, signed: str = BY_KEY, more: str = "") -> ScanReport:
    """The report of a scan of a model without a signature.

    Raises:
        _Loading: as above.
    """
    if not ZOO.is_dir():
        pytest.skip(f"NOT TESTED: no sample models in {ZOO}")

    def missing(folder: Path, name: str, signer: object) -> dict[str, str]:
        raise signing.Broken(f"{name}: missing")

    monkeypatch.setattr(signature, "verify", missing)

    def stop(event: object) -> None:
        if isinstance(event, events.StageStarted) and event.stage == "images":
            raise _Loading

    keyed(place)
    asked = policy(signed, place, more)
    return scan(ScanRequest(str(ZOO / "vit-clean"), Judging(asked, date(2026, 1, 1))), stop)


def test_an_unsigned_model_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = scanned(tmp_path, monkeypatch)
    assert (report.verdict.status, report.verdict.decided_by) == (Outcome.FAIL, ("a",))
    assert [m.id for m in report.measurements] == [FILE]
    assert report.signature == Signature(signer=f"the key {DIGEST}", problem="model.sig: missing")
    assert ScanReport.from_json(report.to_json()).signature == report.signature
    cleans = policy(more="clean: {when: fail}\n").policy
    assert not may_be_cleaned(cleans, report.examined), "a cleaned model would have no signature either"


def test_a_rule_that_only_warns_lets_the_scan_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(_Loading):
        scanned(tmp_path, monkeypatch, f"{BY_KEY}, severity: low", "enforce: {low: warn}\n")
