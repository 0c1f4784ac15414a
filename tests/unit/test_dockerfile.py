"""The Dockerfile is not built here; what it promises is read from its text."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_the_base_is_named_by_digest_and_the_same_in_both_stages() -> None:
    assert re.search(r"^ARG PYTHON=python:3\.\d+-slim@sha256:[0-9a-f]{64}$", TEXT, re.MULTILINE)
    assert re.findall(r"^FROM (\S+)", TEXT, re.MULTILINE) == ["${PYTHON}", "${PYTHON}"]


def test_packages_come_from_the_lock_by_hash() -> None:
    assert "--require-hashes --only-binary :all: --requirement requirements-action.lock" in TEXT
    assert TEXT.count("pip --disable") == 1


def test_it_does_not_run_as_root_nor_import_from_the_working_folder() -> None:
    assert TEXT.index("USER 10001") < TEXT.index("ENTRYPOINT")
    assert 'ENTRYPOINT ["/opt/pargate/bin/python", "-P", "-m", "pargate"]' in TEXT


def test_all_that_it_copies_is_in_the_context() -> None:
    copied = [name for line in re.findall(r"^COPY (?!--from)(.+)$", TEXT, re.MULTILINE) for name in line.split()[:-1]]
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {f"!{name}" for name in copied} == {line for line in ignored if line.startswith("!")}
    assert all((ROOT / name).exists() for name in copied)
