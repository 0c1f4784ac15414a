"""Lists of the pairs that a screening leaves, for `clean --pairs` and for other training code. No pair is deleted."""

import csv
import io
import json
from pathlib import Path

from pargate.core.screen import ScreenReport
from pargate.files import write_atomic
from pargate.images.dataset import Listed
from pargate.images.opening import kind_of
from pargate.images.sources.left import LeftPairs

LEFT_NAME = "left.pairs"
KEYS_NAME = "left.txt"
TABLE_NAME = "left.csv"


def write_left(report: ScreenReport, pairs: Listed, folder: Path) -> tuple[str, ...]:
    """Write the lists of the pairs that are left; return the names of the files.

    `left.pairs` is the source and what is left out, `left.txt` the name of each pair that is left, one a line, and
    `left.csv`, where each image is a file of its own, a table with the header `image,caption`.

    Raises:
        OperationalError: the disk is full.
    """
    source = pairs.source if kind_of(pairs.source) else str(Path(pairs.source).absolute())
    without = set(report.left_out)
    left = LeftPairs(
        schema="pargate/left/1", source=source, sha256=pairs.digest, without=tuple(sorted(without))
    )  # fmt: skip
    document = json.dumps(left.model_dump(by_alias=True), indent=1) + "\n"
    write_atomic(folder / LEFT_NAME, document.encode())
    rows = [row for row, key in enumerate(pairs.keys) if key not in without]
    keys = "".join(f"{pairs.keys[row]}\n" for row in rows)
    write_atomic(folder / KEYS_NAME, keys.encode())
    if (pairs.size >= 0).any():
        return LEFT_NAME, KEYS_NAME
    table = io.StringIO()
    lines = csv.writer(table, lineterminator="\n")
    lines.writerow(("image", "caption"))
    for row in rows:
        lines.writerow((str(Path(pairs.paths[pairs.file[row]]).absolute()), pairs.texts[row]))
    write_atomic(folder / TABLE_NAME, table.getvalue().encode())
    return LEFT_NAME, KEYS_NAME, TABLE_NAME
