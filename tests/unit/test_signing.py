"""Signing needs a package that is not always here; what happens without it is always checked."""

import base64
import json
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from pargate.errors import InputError, OperationalError
from pargate.files import SIGNATURE
from pargate.models import signing
from pargate.release import bundle


def files(place: Path) -> Path:
    folder = place / "release"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "weights").write_bytes(b"weights")
    (folder / bundle.REPORT).write_text("{}")
    (folder / bundle.SUMS).write_text(bundle.sums(bundle.read(folder).digests))
    return folder


def keys(place: Path) -> tuple[Path, Path]:
    """A private and a public key."""
    pytest.importorskip("model_signing", reason="NOT TESTED: signing; pip install 'pargate[sign]'")
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    place.mkdir(exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = place / "key.pem", place / "key.pub"
    private.write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo))
    return private, public


def test_without_the_package_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)  # type: ignore[arg-type]  # how Python marks what is not there
    with pytest.raises(OperationalError, match="missing package") as refused:
        signing.check_key(tmp_path / "key.pem")
    assert "pargate[sign]" in refused.value.hint


def test_a_key_that_is_not_there_is_found_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("model_signing", "model_signing.hashing", "model_signing.signing", "model_signing.verifying"):
        if name not in sys.modules:
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
    package = sys.modules["model_signing"]
    for part in ("hashing", "signing", "verifying"):
        monkeypatch.setattr(package, part, sys.modules[f"model_signing.{part}"], raising=False)
    with pytest.raises(InputError, match="cannot read the key"):
        signing.check_key(tmp_path / "nowhere.pem")


def test_a_signature_holds_until_something_changes(tmp_path: Path) -> None:
    private, public = keys(tmp_path)
    folder = files(tmp_path)
    signing.sign(folder, private)
    assert signing.problem(folder, public) is None
    signed = dict(bundle.read(folder).digests)
    assert SIGNATURE in signed
    (folder / "model" / "weights").write_bytes(b"weighty")
    assert "does not hold" in str(signing.problem(folder, public))


def test_files_that_are_added_and_other_keys_break_a_signature(tmp_path: Path) -> None:
    private, public = keys(tmp_path)
    folder = files(tmp_path)
    signing.sign(folder, private)
    _, other = keys(tmp_path / "others")
    assert signing.problem(folder, other) is not None
    (folder / "model" / "extra").write_bytes(b"")
    assert signing.problem(folder, public) is not None


def test_a_missing_signature_is_no_good_one(tmp_path: Path) -> None:
    _, public = keys(tmp_path)
    assert signing.problem(files(tmp_path), public) == "model.sig: missing"


def test_verifying_returns_what_was_signed(tmp_path: Path) -> None:
    private, public = keys(tmp_path)
    folder = files(tmp_path)
    signing.sign(folder, private)
    listed = signing.verify(folder, SIGNATURE, signing.KeySigner("us", public.read_bytes()))
    assert listed == {k: v for k, v in bundle.read(folder).digests.items() if k != SIGNATURE}


def test_only_the_fields_that_were_checked_are_verified(tmp_path: Path) -> None:
    private, public = keys(tmp_path)
    folder = files(tmp_path)
    signing.sign(folder, private)
    place = folder / SIGNATURE
    good = json.loads(place.read_bytes())
    payload = json.loads(base64.b64decode(good["dsseEnvelope"]["payload"]))
    payload["predicate"]["resources"] = []
    other = {**good["dsseEnvelope"], "payload": base64.b64encode(json.dumps(payload).encode()).decode()}
    for altered in ({"dsseEnvelope": other}, {"dsseEnvelope": other, "dsse_envelope": good["dsseEnvelope"]}):
        place.write_text(json.dumps({**good, **altered}))
        with pytest.raises(signing.Broken, match="does not hold under us"):
            signing.verify(folder, SIGNATURE, signing.KeySigner("us", public.read_bytes()))


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[" * 100_000, b'{"dsseEnvelope": {"payload": 1}}'])
def test_a_file_that_is_no_signature_is_a_broken_one(tmp_path: Path, content: bytes) -> None:
    _, public = keys(tmp_path)
    folder = files(tmp_path)
    (folder / SIGNATURE).write_bytes(content)
    assert signing.problem(folder, public) == "model.sig: not a signature of OpenSSF model signing, version 1"


def test_a_signature_that_lists_something_else_than_files_is_refused(tmp_path: Path) -> None:
    private, public = keys(tmp_path)
    from model_signing import hashing
    from model_signing import signing as library

    folder = files(tmp_path)
    shards = hashing.Config().use_shard_serialization().set_ignored_paths(paths=[folder / SIGNATURE])
    config = library.Config().use_elliptic_key_signer(private_key=private).set_hashing_config(shards)
    config.sign(folder, folder / SIGNATURE)
    assert "does not list the SHA-256 of each file" in str(signing.problem(folder, public))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="NOT TESTED: there are no pipes here")
def test_what_never_ends_is_not_read(tmp_path: Path) -> None:
    private, public = keys(tmp_path)
    folder = files(tmp_path)
    signing.sign(folder, private)
    with (folder / "huge").open("wb") as stream:
        stream.truncate(1 << 42)
    assert "huge cannot be read" in str(signing.problem(folder, public))
    (folder / "huge").unlink()
    os.mkfifo(folder / "pipe")
    assert signing.problem(folder, public) == "pipe cannot be read: not a regular file"


def test_a_key_does_not_verify_an_identity(tmp_path: Path) -> None:
    private, _ = keys(tmp_path)
    folder = files(tmp_path)
    signing.sign(folder, private)
    with pytest.raises(signing.Broken, match="signed with a key, and not by us"):
        signing.verify(folder, SIGNATURE, signing.SigstoreSigner("us", "us@example.org", "https://issuer.example"))


@pytest.mark.parametrize("root", [b"", b"[]", b"{}", b'{"mediaType": 1}'])
def test_a_root_of_trust_that_is_none_is_wrong_input(tmp_path: Path, root: bytes) -> None:
    keys(tmp_path)
    with pytest.raises(InputError, match="root of trust"):
        signing.verify(tmp_path, SIGNATURE, signing.SigstoreSigner("us", "us@example.org", "https://x.example", root))


def test_what_is_no_key_cannot_sign(tmp_path: Path) -> None:
    keys(tmp_path)
    (tmp_path / "none.pem").write_text("no key")
    with pytest.raises(InputError, match="cannot sign"):
        signing.check_key(tmp_path / "none.pem")
    with pytest.raises(InputError, match="not a public key"):
        signing.problem(files(tmp_path), tmp_path / "none.pem")
