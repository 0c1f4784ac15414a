"""Write a model's configuration and tokenizer beside its weights in open_clip's format, with their digests."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from pargate import limits
from pargate.core.model import Checkpoint
from pargate.core.provenance import Subject
from pargate.errors import InputError
from pargate.files import read_bytes
from pargate.models.config import CONFIG_NAME, config_digest, tokenizer_files


def save_config(folder: Path, checkpoint: Checkpoint) -> Iterator[Subject]:
    """Write the configuration and the tokenizer's files; yield each file that was written.

    Raises:
        InputError: the tokenizer's files changed since the checkpoint was opened.
    """
    yield written(folder, CONFIG_NAME, config_bytes(checkpoint))
    home = Path(checkpoint.folder) if checkpoint.folder else None
    digests = {}
    for name in tokenizer_files(checkpoint.config, home, checkpoint.source):
        assert home is not None  # the files were found there
        made = written(folder, name, read_bytes(home / name, limits.TOKENIZER_BYTES))
        digests[name] = made.sha256
        yield made
    if config_digest(checkpoint.config, checkpoint.preprocess, digests) != checkpoint.config_sha256:
        raise changed(f"the tokenizer in {home}")


def written(folder: Path, name: str, content: bytes) -> Subject:
    """Write a file; return it with its digest and size."""
    (folder / name).write_bytes(content)
    return Subject(name=name, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))


def config_bytes(checkpoint: Checkpoint) -> bytes:
    """Return the content of a model's open_clip configuration."""
    rule = checkpoint.preprocess
    preprocess = {
        "mean": list(rule.mean), "std": list(rule.std), "interpolation": rule.interpolation,
        "resize_mode": rule.resize, "fill_color": rule.fill,
    }  # fmt: skip
    document = {"model_cfg": checkpoint.config, "preprocess_cfg": preprocess}
    return json.dumps(document, indent=2, sort_keys=True).encode() + b"\n"


def check_written(written: Sequence[Subject], parent: Checkpoint) -> None:
    """Raise if the configuration or tokenizer that `save_config` wrote differs from that of `parent`.

    Raises:
        ValueError: one of them differs.
    """
    _, config, *tokenizer = written
    made = config_digest(parent.config, parent.preprocess, {file.name: file.sha256 for file in tokenizer})
    if config.sha256 != hashlib.sha256(config_bytes(parent)).hexdigest() or made != parent.config_sha256:
        raise ValueError("another configuration")


def changed(what: str) -> InputError:
    """Return the error for files that changed since they were checked."""
    return InputError(f"{what} changed while pargate ran", "try again once nothing writes to it")
