"""Check the signature of a model that a policy asks for, before the model is loaded.

The folder must be as it was signed, and each file that was read must be among the signed ones, with the bytes that were
read: a signature may leave files out.
"""

import hashlib
import os
from pathlib import Path

from pargate.core.model import Checkpoint
from pargate.core.results import Signature
from pargate.errors import InputError
from pargate.files import read_bytes
from pargate.limits import SIGNATURE_BYTES
from pargate.models.signing import Broken, KeySigner, Signer, SigstoreSigner, verify
from pargate.policy.resolve import Resolved
from pargate.policy.schema import SignedBy


def check(policy: Resolved, checkpoint: Checkpoint) -> Signature | None:
    """Return the result for the signer that a policy asks for; None if it asks for none.

    Raises:
        InputError: the key or the root of trust is missing, is another one than its digest says, or cannot be used.
        OperationalError: the package that verifies is missing.
    """
    asked = policy.policy.signed_by
    if asked is None:
        return None
    signer = signer_of(asked, policy.folder)
    try:
        if not checkpoint.files:
            raise Broken("the model was not read from a folder")
        folder = Path(checkpoint.source if Path(checkpoint.source).is_dir() else Path(checkpoint.weights).parent)
        listed = verify(folder, asked.signature, signer)
        _refuse_others(checkpoint, folder, listed)
    except Broken as error:
        return Signature(signer=asked.signer, problem=str(error))
    return Signature(signer=asked.signer, files=len(listed))


def signer_of(asked: SignedBy, folder: Path) -> Signer:
    """Return the signer that a policy in `folder` names, with the content of its files.

    Raises:
        InputError: a file is missing, or is another one than its digest says.
    """
    content = None
    if asked.file is not None:
        path = folder / asked.file
        try:
            content = read_bytes(path, SIGNATURE_BYTES)
        except OSError as error:
            raise InputError(
                f"cannot read {path}, which the policy's `signed_by` names: {error.strerror}", "restore the file"
            ) from error
        found = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if found != asked.digest:
            raise InputError(
                f"{path} is another file than the policy's `signed_by` names: its digest is {found}",
                "restore the file, or review it and write its digest into the policy",
            )
    if asked.identity is not None and asked.issuer is not None:
        return SigstoreSigner(asked.brief, asked.identity, asked.issuer, content)
    assert content is not None  # the schema asks for a key where there is no identity
    return KeySigner(asked.brief, content)


def _refuse_others(checkpoint: Checkpoint, folder: Path, listed: dict[str, str]) -> None:
    """Raise unless a signature lists every file that was read, with the bytes that were read.

    Raises:
        Broken: as above.
    """
    root = os.path.abspath(folder)  # noqa: PTH100 - as the files were recorded
    for path, sha256 in checkpoint.files.items():
        name = Path(os.path.relpath(path, root)).as_posix()
        if name not in listed:
            raise Broken(f"{name} was read, and the signature does not cover it")
        if sha256 not in ("", listed[name]):
            raise Broken(f"{name} has other bytes than when it was signed")
