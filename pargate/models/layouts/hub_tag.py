"""`open_clip:ARCH/TAG`: weights that open_clip has published."""

from pargate.errors import InputError
from pargate.models.layouts import LAYOUTS
from pargate.models.located import OPEN_CLIP
from pargate.models.model import Model, read_located


@LAYOUTS.add("hub_tag")
class HubTag:
    """Weights on the Hugging Face hub, by open_clip's name for them."""

    pickle = False
    graph = False

    @staticmethod
    def match(source: str) -> bool:
        """Return whether `source` begins with `open_clip:`."""
        return source.startswith(OPEN_CLIP)

    @staticmethod
    def open(source: str, arch: str | None, keep: bool) -> Model:
        """Download the model and check it."""
        if arch:
            raise InputError(f"--arch {arch} does not go with {source}", "drop it: the tag names the architecture")
        from pargate.models import hub  # imported late: its libraries take 0.2 s

        return read_located(source, hub.published(source), keep)
