"""Signing a bundle as a whole, with OpenSSF model signing and a key: the one thing that shows who made it.

An extra, `pargate[sign]`: without the package nothing else changes. The signature lies beside the checksums and covers
every other file.
"""

from pathlib import Path
from typing import Any

from pargate.errors import InputError, OperationalError
from pargate.export.bundle import SIGNATURE


def _package() -> tuple[Any, Any, Any]:
    try:
        from model_signing import hashing, signing, verifying
    except ImportError as error:
        raise OperationalError(
            f"signing needs a package that is not here: {error}", "pip install 'pargate[sign]', or leave --sign-key out"
        ) from error
    return hashing, signing, verifying


def check_key(key: Path) -> None:
    """Fail now, before hours of work, if nothing could be signed at the end.

    Raises:
        InputError: the key cannot be read.
        OperationalError: the package is missing.
    """
    _package()
    try:
        with key.open("rb") as stream:
            stream.read(1)
    except OSError as error:
        raise InputError(f"cannot read the key {key}: {error.strerror}", "give an elliptic-curve key in PEM") from error


def sign(folder: Path, key: Path) -> None:
    """Write the signature of everything in `folder`.

    Raises:
        InputError: the key is none that can sign.
        OperationalError: the package is missing.
    """
    hashing, signing, _ = _package()
    place = folder / SIGNATURE
    config = signing.Config().use_elliptic_key_signer(private_key=key)
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=[place], ignore_git_paths=False))
    try:
        config.sign(folder, place)
    except ValueError as error:
        raise InputError(f"{key} cannot sign: {error}", "give an elliptic-curve key in PEM") from error


def problem(folder: Path, key: Path) -> str | None:
    """What is wrong with the signature of a bundle under a public key; None where it holds.

    Raises:
        InputError: the key cannot be read.
        OperationalError: the package is missing.
    """
    check_key(key)
    hashing, _, verifying = _package()
    place = folder / SIGNATURE
    if not place.is_file():
        return f"{SIGNATURE}: missing"
    config = verifying.Config().use_elliptic_key_verifier(public_key=key)
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=[place], ignore_git_paths=False))
    try:
        config.verify(folder, place)
    except Exception as error:  # each kind of broken signature raises something of its own, and all mean the same
        return f"{SIGNATURE}: does not hold under {key.name}: {' '.join(str(error).split())[:200]}"
    return None
