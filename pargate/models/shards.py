"""Read weights that lie in one file or, by an index, in several, or in the folders of two towers."""

import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pargate import limits
from pargate.errors import InputError, UnsafeCheckpoint
from pargate.files import digest_of
from pargate.models import two_towers, weights
from pargate.models.archive import StoredTensor
from pargate.models.config import load_json
from pargate.models.located import stay_inside
from pargate.models.origins import SAVED_CONSTANTS
from pargate.models.pickles import shown
from pargate.models.weights import WeightsFile

INDEX = ".index.json"
"""End of the name of an index, which says in which file each tensor lies."""

ALIGNED = 64
"""The content of each file begins at a multiple of this, so that its tensors stay aligned."""


def read(path: Path, label: str, *, keep: bool) -> WeightsFile:
    """Read, hash and check the weights at `path`: a weights file, the index of several, or a folder with two towers.

    The digest of several is that of their names and digests.

    Raises:
        InputError, UnsafeCheckpoint, OperationalError: as `weights.read`; or the index does not fit its files.
    """
    if path.is_dir():
        return _towers(path, label, keep=keep)
    if not path.name.endswith(INDEX):
        return weights.read(path, label, keep=keep)
    placed = index(path)
    names = sorted(set(placed.values()))
    files = []
    for name in names:
        stay_inside(path.parent, path.parent / name)
        files.append(weights.read(path.parent / name, f"{label} ({name})", keep=keep))
    return _joined(names, files, placed, label)


def index(path: Path) -> dict[str, str]:
    """Return the file name of each tensor, from an index.

    Raises:
        InputError: the file is no index, or names files outside its folder.
    """
    placed = load_json(path).get("weight_map")
    if not isinstance(placed, dict) or not placed or not all(isinstance(name, str) for name in placed.values()):
        raise InputError(f"{path} has no weight_map: not an index of weights", "restore the file")
    files = set(placed.values())
    if foreign := next((name for name in files if Path(name).name != name or name.startswith(".")), None):
        raise InputError(f"{path} names {shown(foreign)}, which is not a file beside it", "restore the file")
    if len(files) > limits.SHARDS:
        raise InputError(f"{path} names {len(files)} files, more than any CLIP", "save the weights as one file")
    return placed


def _joined(names: list[str], files: list[WeightsFile], placed: dict[str, str], label: str) -> WeightsFile:
    """Return several files as one; raise unless each tensor lies in the file that the index names."""
    wrong = [
        tensor.name for name, file in zip(names, files, strict=True) for tensor in file.tensors
        if placed.get(tensor.name) != name
    ]  # fmt: skip
    count = sum(len(file.tensors) for file in files)
    if wrong or count != len(placed):
        what = (
            f"{shown(wrong[0])} does not lie where it says" if wrong else f"it names {len(placed)} tensors of {count}"
        )
        raise InputError(f"{label}: the index and its files do not belong together: {what}", "download them again")
    return _as_one(names, files)


def _towers(folder: Path, label: str, *, keep: bool) -> WeightsFile:
    """Return the weights of two towers as one file, with the logit scale that neither has."""
    names, files = [], []
    for (chosen, *beside), begin in zip(two_towers.files(folder), two_towers.NAMES, strict=True):
        name = f"{chosen.parent.name}/{chosen.name}"
        file = weights.read(chosen, f"{label} ({name})", keep=keep or bool(beside))
        if foreign := next((tensor.name for tensor in file.tensors if not tensor.name.startswith(begin)), None):
            raise InputError(f"{label} ({name}) holds {shown(foreign)}, which is not of its tower", "restore the file")
        for path in beside:
            other = weights.read(path, f"{label} ({chosen.parent.name}/{path.name})", keep=True)
            if not weights.same_tensors((file, _trained(file)), (other, _trained(other))):
                raise UnsafeCheckpoint(
                    f"{label} means different models to different readers: {path.name} beside {name} holds other "
                    "tensors",
                    f"remove {path} or {chosen}",
                )
        names.append(name)
        files.append(file if keep else replace(file, content=None))
    scale = struct.pack("<f", two_towers.SCALE)
    whole = _as_one(names, files, scale)
    place = sum(_aligned(file.size_bytes) for file in files)
    return replace(whole, tensors=(*whole.tensors, StoredTensor("logit_scale", "F32", (), place, ())))


def _trained(file: WeightsFile) -> list[StoredTensor]:
    """Return the tensors of a file without the constants that older versions of transformers saved."""
    return [tensor for tensor in file.tensors if not tensor.name.endswith(SAVED_CONSTANTS)]


def _aligned(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED


def _as_one(names: Sequence[str], files: Sequence[WeightsFile], more: bytes = b"") -> WeightsFile:
    """Return several files as one, with `more` behind their bytes."""
    starts, end = [], 0
    for file in files:
        starts.append(end)
        end += _aligned(file.size_bytes)
    content = None
    if all(file.content is not None for file in files):
        content = weights.memory(end + len(more))
        content[end:] = more
        for start, file in zip(starts, files, strict=True):
            assert file.content is not None
            with memoryview(file.content) as part:
                content[start : start + file.size_bytes] = part
            file.content.close()
    tensors = (
        replace(tensor, offset=start + tensor.offset)
        for start, file in zip(starts, files, strict=True) for tensor in file.tensors
    )  # fmt: skip
    return WeightsFile(
        files[0].format,
        digest_of({name: file.sha256 for name, file in zip(names, files, strict=True)}),
        sum(file.size_bytes for file in files),
        tuple(tensors),
        content,
        tuple(dict.fromkeys(note for file in files for note in file.notes)),
    )
