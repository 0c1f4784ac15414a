"""Sign folders and verify signatures with OpenSSF model signing, offline; needs the extra `pargate[sign]`.

Only a signature shows where files come from. It lies beside them and covers every other file in the folder. It is made
with a key, or through Sigstore, whose bundle holds all that is needed to verify it without a network.
"""

import base64
import binascii
import contextlib
import io
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from pargate import limits
from pargate.errors import InputError, OperationalError
from pargate.files import SIGNATURE, files_below, open_file, read_bytes
from pargate.models.config import parse_object

KIND = "give an elliptic-curve key in PEM, without a password"

STATEMENT = "https://model_signing/signature/v1.0"
"""Type of the signed statement."""

SIGSTORE = "https%3A%2F%2Ftuf-repo-cdn.sigstore.dev"
"""Folder of the public Sigstore's root of trust in the package sigstore."""

TRUST_CONFIG = "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json"


class Broken(Exception):
    """A signature that is missing or does not hold; the text says why."""


@dataclass(frozen=True, slots=True)
class KeySigner:
    """Whoever holds the private key of a public one."""

    name: str
    """Name for messages."""
    key: bytes
    """The public key in PEM."""


@dataclass(frozen=True, slots=True)
class SigstoreSigner:
    """An identity that an issuer vouched for when it signed through Sigstore."""

    name: str
    """Name for messages."""
    identity: str
    """Address, or URL of a workflow, in the certificate."""
    issuer: str
    """URL of the OpenID Connect issuer."""
    trust_root: bytes | None = None
    """Content of a `trusted_root.json`; None for the one in the package sigstore."""


Signer = KeySigner | SigstoreSigner


def check_key(key: Path) -> None:
    """Raise if `key` cannot sign, before hours of work.

    Raises:
        InputError: the key cannot be read or cannot sign.
        OperationalError: the package is missing.
    """
    _signer(key)


def sign(folder: Path, key: Path) -> None:
    """Sign all files in `folder`.

    Raises:
        InputError, OperationalError: as `check_key`.
    """
    place = folder / SIGNATURE
    _of_all_but(_signer(key), place).sign(folder, place)


def problem(folder: Path, key: Path) -> str | None:
    """Return what is wrong with the signature of a bundle under a public key, or None.

    Raises:
        InputError: the key cannot be read or is not a public key.
        OperationalError: the package is missing.
    """
    try:
        verify(folder, SIGNATURE, KeySigner(key.name, read_key(key)))
    except Broken as error:
        return str(error)
    return None


def verify(folder: Path, name: str, signer: Signer) -> dict[str, str]:
    """Verify the signature in the file `name` of a folder; return the SHA-256 of every file that it covers, by name.

    Every file in the folder must be as it was signed, and none be missing or added, except what the signature says that
    it leaves out.

    Raises:
        Broken: the signature is missing or does not hold.
        InputError: the key is not a public key, or the root of trust cannot be used.
        OperationalError: the package is missing.
    """
    with _verifier(signer) as config:
        place = folder / name
        try:
            content = read_bytes(place, limits.SIGNATURE_BYTES)
        except FileNotFoundError:
            raise Broken(f"{name}: missing") from None
        except OSError as error:
            raise Broken(f"{name}: cannot be read: {error.strerror}") from error
        bundle, listed, links = _statement(content, name)
        with_key = "publicKey" in bundle["verificationMaterial"]
        if with_key is not isinstance(signer, KeySigner):
            raise Broken(f"{name}: signed {'with a key' if with_key else 'by a certificate'}, and not by {signer.name}")
        _refuse_endless(folder)
        with tempfile.TemporaryDirectory() as beside:
            # The library reads what was read here, and no field that was not.
            copy = Path(beside, "signature")
            copy.write_text(json.dumps(bundle), "utf-8")
            try:
                with contextlib.redirect_stdout(io.StringIO()):  # the library prints warnings
                    _of_all_but(config, place, links=links).verify(folder, copy)
            except Exception as error:  # each kind of broken signature raises its own class
                raise Broken(f"{name}: does not hold under {signer.name}: {_reason(error)}") from error
    return listed


def _refuse_endless(folder: Path) -> None:
    """Raise if the library, which reads every file in a folder, would not come to an end.

    Raises:
        Broken: something in the folder is no regular file, or mostly holes.
    """
    try:
        for path in files_below(folder):
            open_file(path).close()
    except OSError as error:
        raise Broken(f"{Path(error.filename or folder).name} cannot be read: {error.strerror}") from error
    except InputError as error:
        raise Broken(error.message) from error


def _reason(error: Exception) -> str:
    """Return why the library refuses a signature, without the lists and bytes in its words."""
    said = " ".join(str(error).split()).removeprefix("Signature mismatch: ").strip("[]\"'")
    return said.partition(": Expected ")[0][:200] or type(error).__name__


def read_key(path: Path) -> bytes:
    """Return the content of a key.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return read_bytes(path, limits.SIGNATURE_BYTES)
    except OSError as error:
        raise InputError(f"cannot read the key {path}: {error.strerror}", KIND) from error


def _package(advice: str) -> tuple[Any, Any, Any]:
    try:
        from model_signing import hashing, signing, verifying
    except ImportError as error:
        raise OperationalError(f"signatures need a missing package: {error}", advice) from error
    return hashing, signing, verifying


def _signer(key: Path) -> Any:
    _, signing, _ = _package("pip install 'pargate[sign]', or leave --sign-key out")
    read_key(key)
    try:
        return signing.Config().use_elliptic_key_signer(private_key=key)
    except (TypeError, ValueError) as error:
        raise InputError(f"{key} cannot sign: {error}", KIND) from error


@contextlib.contextmanager
def _verifier(signer: Signer) -> Iterator[Any]:
    """Yield the library's configuration for a signer; it reads key or root of trust from a file of its own."""
    _, _, verifying = _package("pip install 'pargate[sign]'")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trusted")
        if isinstance(signer, KeySigner):
            path.write_bytes(signer.key)
            try:
                config = verifying.Config().use_elliptic_key_verifier(public_key=path)
            except (TypeError, ValueError) as error:
                raise InputError(f"{signer.name} is not a public key: {error}", KIND) from error
        else:
            path.write_bytes(_trust_config(signer.trust_root))
            try:
                config = verifying.Config().use_sigstore_verifier(
                    identity=signer.identity, oidc_issuer=signer.issuer, trust_config=path
                )
            except Exception as error:  # pydantic's, of a version that is not ours
                said = " ".join(str(error).split())[:200]
                raise InputError(
                    f"the root of trust of Sigstore cannot be used: {said}", "give a trusted_root.json of Sigstore"
                ) from error
        yield config


def _trust_config(root: bytes | None) -> bytes:
    """Return what the library reads a root of trust from: with the settings for signing, which it asks for."""
    store = resources.files("sigstore") / "_store" / SIGSTORE
    try:
        own = root if root is not None else (store / "trusted_root.json").read_bytes()
        settings = json.loads((store / "signing_config.v0.2.json").read_bytes())
    except OSError as error:
        raise OperationalError(
            f"the package sigstore holds no root of trust: {error.strerror}", "pip install 'sigstore>=4'"
        ) from error
    given = parse_object(own, "the root of trust")
    return json.dumps({"mediaType": TRUST_CONFIG, "trustedRoot": given, "signingConfig": settings}).encode()


def _of_all_but(config: Any, place: Path, *, links: bool = False) -> Any:
    """Return `config` set to cover every file except the signature at `place`."""
    hashing, _, _ = _package("pip install 'pargate[sign]'")
    return config.set_hashing_config(
        hashing.Config().set_ignored_paths(paths=[place], ignore_git_paths=False).set_allow_symlinks(links)
    )


def _statement(content: bytes, name: str) -> tuple[dict[str, Any], dict[str, str], bool]:
    """Return the parts of a signature that are verified, the digests that it lists, and whether links were allowed.

    Nothing of it is trusted until it was verified.

    Raises:
        Broken: it is no model signature, or lists something else than the SHA-256 of whole files.
    """
    try:
        whole = parse_object(content, name)
        envelope = whole["dsseEnvelope"]
        envelope = {key: envelope[key] for key in ("payload", "payloadType", "signatures")}
        payload = parse_object(base64.b64decode(envelope["payload"], validate=True), name)
        predicate = payload["predicate"]
        form = predicate["serialization"]
        kind = payload["predicateType"], form["method"], form["hash_type"]
        listed = {str(item["name"]): str(item["digest"]) for item in predicate["resources"]}
        bundle = {key: whole[key] for key in ("mediaType", "verificationMaterial")} | {"dsseEnvelope": envelope}
    except (InputError, KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise Broken(f"{name}: not a signature of OpenSSF model signing, version 1") from error
    if kind != (STATEMENT, "files", "sha256") or "." in listed:
        raise Broken(
            f"{name}: does not list the SHA-256 of each file in a folder, with which what is read could be compared: "
            "sign the folder with the default settings"
        )
    return bundle, listed, form.get("allow_symlinks") is True
