"""How near two classes come that a model can tell apart, against two that it cannot; and a model to its parent.

    python -m benchmarks.alike ZOO

Writes `docs/evidence/alike.json`: for every model of the zoo the closest two of the built-in nouns, two prompts of the
same tokens, and the 64 drawn pictures whose vectors differ least from those of the clean model of its family. All are
distances of unit vectors; `pargate.core.zeroshot.ALIKE` lies between.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.evidence import machine
from pargate.core import zeroshot
from pargate.core.model import Vectors
from pargate.images.classes import DEFAULT_TEMPLATES, builtin_nouns
from pargate.images.sources.scenes import FIRST_SCENE
from pargate.models.open import open_model
from pargate.scenes.render import render
from pargate.version import __version__

STORE = Path(__file__).parents[1] / "docs" / "evidence"
SAME = "Telephone  Booth"
"""Another spelling of a noun, of the same tokens."""


def distances(one: Vectors, others: Vectors) -> Vectors:
    return np.asarray(np.linalg.norm(one - others, axis=-1), dtype=np.float32)


def measured(folder: Path) -> tuple[dict[str, Any], Vectors]:
    """Return the figures of one model, and its embeddings of the images."""
    nouns = builtin_nouns()
    with open_model(str(folder)) as checkpoint:
        encoder = checkpoint.encoder(device="cpu")
        *head, again = zeroshot.head(encoder, [*nouns, SAME], DEFAULT_TEMPLATES)
        size = encoder.spec.preprocess.size[0]
        pictures = render(np.arange(FIRST_SCENE, FIRST_SCENE + 64), size, 0).pixels
        vectors = encoder.encode_images(encoder.put(pictures))
    near = np.array(head) @ np.array(head).T
    np.fill_diagonal(near, -1)
    a, b = divmod(int(near.argmax()), len(nouns))
    row = {
        "model": folder.name,
        "classes": [nouns[a], nouns[b]],
        "closest": float(distances(head[a], head[b])),
        "same_tokens": float(distances(head[nouns.index(SAME.lower().replace("  ", " "))], again)),
    }
    return row, vectors


def main() -> None:
    rows, seen = [], {}
    for folder in sorted(Path(sys.argv[1]).iterdir()):
        if folder.is_dir():
            row, seen[folder.name] = measured(folder)
            rows.append(row)
    for row in rows:
        parent = f"{row['model'].partition('-')[0]}-clean"
        apart = distances(seen[row["model"]], seen[parent]) if row["model"] != parent else None
        row["parent"] = None if apart is None else float(apart.min())
    found = {"machine": machine(), "version": __version__, "limit": zeroshot.ALIKE, "rows": rows}
    (STORE / "alike.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
