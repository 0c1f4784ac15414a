"""Write open_clip's table of preprocessing to `pargate/models/preprocessing.json`.

    python -m benchmarks.preprocessing

open_clip keeps it in Python that imports torch. `pargate inspect` reads it without. To be run again when a newer
open_clip is allowed; a test compares the file with the installed open_clip.
"""

import json
from pathlib import Path
from typing import Any

import open_clip
from open_clip import pretrained

PLACE = Path(__file__).parents[1] / "pargate" / "encoders" / "preprocessing.json"

KEYS = ("mean", "std", "interpolation", "resize_mode")


def document() -> str:
    """Return the table as JSON, with one line for each kind of preprocessing and for each architecture."""
    kinds: list[dict[str, Any]] = []
    tags: dict[str, dict[str, tuple[int, bool]]] = {}
    for name in sorted({*open_clip.list_models(), *(name for name, _ in open_clip.list_pretrained())}):
        tags[name] = {}
        for tag in pretrained.list_pretrained_tags_by_model(name):
            entry = pretrained.get_pretrained_cfg(name, tag)
            kind = {key: entry[key] for key in KEYS}
            if kind not in kinds:
                kinds.append(kind)
            tags[name][tag] = (kinds.index(kind), bool(entry.get("quick_gelu")))
    shown = ",\n".join(json.dumps(kind) for kind in kinds)
    rows = ",\n".join(f"{json.dumps(name)}: {json.dumps(entries)}" for name, entries in tags.items())
    version = json.dumps(open_clip.__version__)
    return f'{{"open_clip": {version},\n"kinds": [\n{shown}\n],\n"architectures": {{\n{rows}\n}}}}\n'


if __name__ == "__main__":
    PLACE.write_text(document())
