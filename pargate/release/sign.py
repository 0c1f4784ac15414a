"""Sign a bundle with OpenSSF model signing and a key; needs the extra `pargate[sign]`.

Only a signature shows where a bundle comes from. It lies beside the checksums and covers every other file.
"""

from pathlib import Path
from typing import Any

from pargate.errors import InputError, OperationalError
from pargate.files import SIGNATURE, open_file

KIND = "give an elliptic-curve key in PEM, without a password"


def _package() -> tuple[Any, Any, Any]:
    try:
        from model_signing import hashing, signing, verifying
    except ImportError as error:
        raise OperationalError(
            f"signing needs a missing package: {error}", "pip install 'pargate[sign]', or leave --sign-key out"
        ) from error
    return hashing, signing, verifying


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
    _, _, verifying = _package()
    _refuse_unreadable(key)
    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=key)
    except (TypeError, ValueError) as error:
        raise InputError(f"{key} is not a public key: {error}", KIND) from error
    place = folder / SIGNATURE
    if not place.is_file():
        return f"{SIGNATURE}: missing"
    try:
        _of_all_but(config, place).verify(folder, place)
    except Exception as error:  # each kind of broken signature raises its own class
        return f"{SIGNATURE}: does not hold under {key.name}: {' '.join(str(error).split())[:200]}"
    return None


def _signer(key: Path) -> Any:
    _, signing, _ = _package()
    _refuse_unreadable(key)
    try:
        return signing.Config().use_elliptic_key_signer(private_key=key)
    except (TypeError, ValueError) as error:
        raise InputError(f"{key} cannot sign: {error}", KIND) from error


def _of_all_but(config: Any, place: Path) -> Any:
    """Return `config` set to cover every file except the signature at `place`."""
    hashing, _, _ = _package()
    return config.set_hashing_config(hashing.Config().set_ignored_paths(paths=[place], ignore_git_paths=False))


def _refuse_unreadable(key: Path) -> None:
    try:
        with open_file(key) as stream:
            stream.read(1)
    except OSError as error:
        raise InputError(f"cannot read the key {key}: {error.strerror}", KIND) from error
