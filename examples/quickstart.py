"""Put into README.md what `pargate init github` writes, as it writes it today.

python examples/quickstart.py
"""

import sys
import tempfile
from pathlib import Path

from pargate.github.scaffold import GATE, Options, contents

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- generated workflow -->\n", "<!-- end of generated workflow -->"
COMMIT = "0" * 40


def block() -> str:
    """Return the workflow of a repository with one model, as a block of Markdown."""
    options = Options(action=f"OWNER/pargate@{COMMIT}", branch="main", models=("model",))
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "model").mkdir()
        text = contents(Path(folder), options).texts[GATE].replace(COMMIT, "COMMIT")
    return f"```yaml\n{text}```\n"


def main() -> int:
    readme = ROOT / "README.md"
    head, rest = readme.read_text(encoding="utf-8").split(BEGIN)
    tail = rest.split(END)[1]
    readme.write_text(f"{head}{BEGIN}{block()}{END}{tail}", encoding="utf-8")
    print(f"wrote {readme}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
