"""Whether graphs are still those that were proven when they were exported: their digest against the proof's."""

from pathlib import Path

from pydantic import ValidationError

from pargate.core.model import Checkpoint
from pargate.export.parity import ParityReport
from pargate.files import read_bytes

PARITY = "parity.json"
"""What the proof is called, in the folder of the graphs."""

PARITY_BYTES = 1 << 20


def altered(checkpoint: Checkpoint) -> tuple[str, ...]:
    """What to say about graphs whose proof is of others, or unreadable; nothing about any other checkpoint."""
    if checkpoint.format != "onnx" or checkpoint.folder is None:
        return ()
    path = Path(checkpoint.folder) / PARITY
    if not path.is_file():
        return ("no proof lies beside the graphs: nothing says which checkpoint they are",)
    try:
        proven = ParityReport.model_validate_json(read_bytes(path, PARITY_BYTES))
    except OSError as error:
        return (f"{PARITY} cannot be read: {error.strerror}: nothing says which checkpoint the graphs are",)
    except ValidationError:
        return (f"{PARITY} cannot be read: nothing says which checkpoint the graphs are",)
    if proven.graphs != checkpoint.sha256:
        return (
            f"digest: the graphs were altered after export: {PARITY} is the proof of {proven.graphs[:12]}, "
            f"these are {checkpoint.sha256[:12]}",
        )
    return () if proven.passed else (f"{PARITY} says that the graphs are not the checkpoint: {proven.reasons[0]}",)


def made_from(checkpoint: Checkpoint) -> str:
    """First half of the SHA-256 of the weights that graphs were exported from, as their proof says; else empty."""
    if checkpoint.format != "onnx" or checkpoint.folder is None:
        return ""
    try:
        content = read_bytes(Path(checkpoint.folder) / PARITY, PARITY_BYTES)
        return ParityReport.model_validate_json(content).checkpoint[:32]
    except (OSError, ValidationError):
        return ""
