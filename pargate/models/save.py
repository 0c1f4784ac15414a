"""Write a checkpoint's configuration and tokenizer beside its weights, in open_clip's own format."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from pargate.core.model import Checkpoint
from pargate.core.provenance import Subject
from pargate.files import sha256_file
from pargate.models.config import CONFIG_NAME, tokenizer_files


def subject(folder: Path, name: str) -> Subject:
    """A file that was made, with its digest."""
    path = folder / name
    return Subject(name=name, sha256=sha256_file(path), size_bytes=path.stat().st_size)


def save_config(folder: Path, checkpoint: Checkpoint) -> None:
    """The configuration that the weights are read by."""
    (folder / CONFIG_NAME).write_bytes(config_bytes(checkpoint))


def config_bytes(checkpoint: Checkpoint) -> bytes:
    """open_clip's configuration of a model, as it is written."""
    rule = checkpoint.preprocess
    preprocess = {
        "mean": list(rule.mean), "std": list(rule.std), "interpolation": rule.interpolation,
        "resize_mode": rule.resize, "fill_color": rule.fill,
    }  # fmt: skip
    document = {"model_cfg": checkpoint.config, "preprocess_cfg": preprocess}
    return json.dumps(document, indent=2, sort_keys=True).encode() + b"\n"


def copy_tokenizer(checkpoint: Checkpoint, folder: Path) -> Iterator[str]:
    """Copy the files that the tokenizer needs; gives back their names."""
    home = Path(checkpoint.folder) if checkpoint.folder else None
    for name in tokenizer_files(checkpoint.config, home, checkpoint.source):
        if home is not None:
            shutil.copyfile(home / name, folder / name)
            yield name
