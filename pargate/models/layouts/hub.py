"""`hf-hub:ORG/NAME[@REV]`: an open_clip model on the Hugging Face hub."""

from pargate.errors import InputError
from pargate.models.layouts import LAYOUTS
from pargate.models.located import HUGGING_FACE
from pargate.models.model import Model, read_located


@LAYOUTS.add("hub")
class Hub:
    """A repository of the Hugging Face hub."""

    pickle = False
    graph = False

    @staticmethod
    def match(source: str) -> bool:
        """Return whether `source` begins with `hf-hub:`."""
        return source.startswith(HUGGING_FACE)

    @staticmethod
    def open(source: str, arch: str | None, keep: bool) -> Model:
        """Download the model and check it."""
        if arch:
            raise InputError(f"--arch {arch} does not go with {source}", "drop it: the hub names the architecture")
        from pargate.models import hub  # imported late: its libraries take 0.2 s

        return read_located(source, hub.repository(source), keep)
