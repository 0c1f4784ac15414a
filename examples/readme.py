"""Make the README's console run and screenshot again, from a real scan of the poisoned toy model.

    python examples/readme.py

The run replaces the block between the marks in README.md; the image, `docs/images/report.png`, needs Chromium.
"""

import contextlib
import os
import pty
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMMAND = ["scan", "examples/models/poisoned", "--policy", "examples/policy.yaml"]
BEGIN, END = "<!-- console run -->\n", "<!-- end of console run -->"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
COLUMNS = 100
SIZE = (1280, 1580)


def on_terminal(command: list[str], folder: Path, environment: dict[str, str], columns: int) -> tuple[int, str]:
    """Return exit code and screen of a command on a terminal, without colour and progress bar: stdout and stderr."""
    environment = {**environment, "COLUMNS": str(columns), "TERM": "xterm", "NO_COLOR": "1", "CI": "1"}
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        screen = b""
        with contextlib.suppress(OSError), os.fdopen(ours, "rb", buffering=0) as terminal:  # an error at its end
            while part := terminal.read(4096):
                screen += part
    return process.returncode, "\n".join(line.rstrip() for line in screen.decode().splitlines())


def main() -> int:
    page = Path(tempfile.mkdtemp()) / "report.html"
    command = [sys.executable, "-m", "pargate", *COMMAND, "-o", f"html={page}", "--cache", "off"]
    code, shown = on_terminal(command, ROOT, dict(os.environ), COLUMNS)
    if code != 1:
        print(f"the poisoned model should fail, but the command ended with {code}:\n{shown}")
        return 1
    shown = shown.replace(str(page), "report.html")
    readme = ROOT / "README.md"
    head, rest = readme.read_text(encoding="utf-8").split(BEGIN)
    tail = rest.split(END)[1]
    block = f"```console\n$ pargate {' '.join(COMMAND)} -o html=report.html\n{shown}\n```\n"
    readme.write_text(f"{head}{BEGIN}{block}{END}{tail}", encoding="utf-8")
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        print(f"no image: none of {', '.join(BROWSERS)} is here")
        return 0
    image = ROOT / "docs" / "images" / "report.png"
    image.parent.mkdir(exist_ok=True)
    options = ["--headless=new", "--no-sandbox", "--hide-scrollbars", f"--window-size={SIZE[0]},{SIZE[1]}"]
    subprocess.run([browser, *options, f"--screenshot={image}", page.as_uri()], check=True, capture_output=True)
    print(f"wrote {readme} and {image}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
