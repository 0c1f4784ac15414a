"""A bundle: the files that ship and the evidence for them, in one folder.

This module defines the layout, the checksums, the in-toto statements and the model card, and reads them back as
untrusted input. `verify.py` checks whether the evidence holds.

Checksums show that nothing changed since they were written. Anyone who can write to the folder can write new ones;
only a signature made where the gate ran protects against that.
"""

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import Field, ValidationError

from pargate import limits
from pargate.core.provenance import Subject
from pargate.core.report import ScanReport
from pargate.core.results import Consequence, Outcome, Status
from pargate.core.value import Value
from pargate.errors import InputError
from pargate.files import SIGNATURE, digest_of

SUMS = "SHA256SUMS"
REPORT = "report.json"
HTML = "report.html"
SARIF = "report.sarif"
POLICY = "policy.resolved.yaml"
BOM = "ml-bom.json"
CARD = "MODEL_CARD.md"
MODEL = "model"
"""Folder of the checkpoint, in the layout of open_clip, or of transformers where open_clip's cannot express it."""
TEST_RESULT = "attestations/test-result.intoto.json"
SVR = "attestations/svr.intoto.json"

DOCUMENTS = (REPORT, HTML, SARIF, POLICY, BOM, CARD, TEST_RESULT)
"""Files that every bundle has."""

SHIPPED = re.compile(r"(model|onnx(-(fp16|int8))?)/.+")
"""Names of the files that ship; all other files describe them."""

_LINE = re.compile(r"([0-9a-f]{64})  ([^\n\r\0]+)")
TEST_RESULT_TYPE = "https://in-toto.io/attestation/test-result/v0.1"
SVR_TYPE = "https://in-toto.io/attestation/svr/v0.2"
PASSING = "PARGATE_POLICY_HOLDS"
"""Property in every simple verification result."""


# --- checksums ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Held:
    """Content of a folder: digests of all files, and the bytes of the documents."""

    digests: Mapping[str, str]
    """Hex SHA-256 by POSIX path relative to the folder."""
    documents: Mapping[str, bytes]
    problems: tuple[str, ...]
    """One message for each entry that is not a plain file or folder, or cannot be read."""


def read(folder: Path) -> Held:
    """Digest every file below `folder`, following no link.

    Raises:
        InputError: the folder does not exist.
    """
    if not stat.S_ISDIR(_mode(folder)):
        raise InputError(f"{folder} is not a folder", "give a bundle that pargate gate wrote")
    digests: dict[str, str] = {}
    documents: dict[str, bytes] = {}
    problems: list[str] = []
    for name, path in _walk(folder, "", problems, limits.BUNDLE_DEPTH):
        kept = limits.DOCUMENT_BYTES if name in (*DOCUMENTS, SVR, SUMS) or name.endswith("/provenance.json") else 0
        try:
            digests[name], content = _digest(path, kept)
        except OSError as error:
            problems.append(f"{name}: {error.strerror or 'cannot be read'}")
            continue
        if content is not None:
            documents[name] = content
    return Held(digests, documents, tuple(problems))


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        raise InputError(f"no bundle at {path}: {reason}", "give a folder that pargate gate wrote") from error


def _walk(folder: Path, prefix: str, problems: list[str], depth: int) -> Iterator[tuple[str, Path]]:
    """Yield plain files with their names; append a problem for anything else."""
    if depth == 0:
        problems.append(f"{prefix}: a bundle has no folder this deep")
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda e: e.name)
    except OSError as error:
        problems.append(f"{prefix or folder}: {error.strerror}")
        return
    if prefix and not entries:
        problems.append(f"{prefix}: a bundle has no empty folder")
    for entry in entries:
        name = f"{prefix}{entry.name}"
        if entry.is_symlink():
            problems.append(f"{name}: a link; a bundle has none")
        elif entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), f"{name}/", problems, depth - 1)
        elif entry.is_file(follow_symlinks=False):
            yield name, Path(entry.path)
        else:
            problems.append(f"{name}: not a file or folder")


def _digest(path: Path, kept: int) -> tuple[str, bytes | None]:
    """Return the hex SHA-256 of a file, and its bytes if they are at most `kept`."""
    # The entry may have been replaced since it was listed: do not follow a link, do not wait for a pipe.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(handle, "rb") as stream:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(0, "not a plain file")
        if found.st_size <= kept:
            content = stream.read()
            return hashlib.sha256(content).hexdigest(), content
        return hashlib.file_digest(stream, "sha256").hexdigest(), None


def sums(digests: Mapping[str, str]) -> str:
    """Return the text of the checksum file, in the format of `sha256sum --check`."""
    return "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))


def listed(content: bytes) -> dict[str, str]:
    """Return the digests in a checksum file, by name.

    Raises:
        ValueError: the content differs from what `sums` writes, or a name leads out of the folder.
    """
    if len(content) > limits.SUMS_BYTES:
        raise ValueError(f"it has more than {limits.SUMS_BYTES >> 20} MiB")
    text = content.decode("utf-8")
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"line {number} is not a digest and a name")
        digest, name = match.groups()
        if not _is_inside(name):
            raise ValueError(f"line {number} names '{name}', which is outside the bundle")
        found[name] = digest
    if sums(found) != text:
        raise ValueError("it is not sorted, or names something twice")
    return found


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and str(path) == name and "\\" not in name


def altered(held: Held) -> list[str]:
    """Return one message for each file that differs from the checksums, its name first."""
    found = list(held.problems)
    content = held.documents.get(SUMS)
    if content is None:
        return [*found, f"{SUMS}: missing"]
    try:
        said = listed(content)
    except ValueError as error:  # also from decoding
        return [*found, f"{SUMS}: {error}"]
    # A signature does not excuse an unlisted file.
    there = {name: digest for name, digest in held.digests.items() if name not in (SUMS, SIGNATURE)}
    for name in sorted(said.keys() | there.keys()):
        if name not in there:
            found.append(f"{name}: listed in {SUMS}, but missing")
        elif name not in said:
            found.append(f"{name}: added: {SUMS} does not list it")
        elif said[name] != there[name]:
            found.append(f"{name}: changed: its SHA-256 is {there[name]}, and {SUMS} says otherwise")
    return found + [f"{name}: missing" for name in DOCUMENTS if name not in said and name not in there]


def shipped(digests: Mapping[str, str]) -> tuple[Subject, ...]:
    """Return the files that ship, sorted by name."""
    return tuple(Subject(name=name, sha256=digests[name]) for name in sorted(digests) if SHIPPED.fullmatch(name))


def graphs_sha256(digests: Mapping[str, str], folder: str) -> str:
    """Return the digest that a report gives for a folder of graphs: over the graphs and their weights, by name."""
    names = [name for tower in ("image", "text") for name in (f"{tower}.onnx", f"{tower}.onnx.data")]
    return digest_of({name: digests[f"{folder}/{name}"] for name in names if f"{folder}/{name}" in digests})


# --- statements --------------------------------------------------------------------------------------


class Descriptor(Value):
    """The fields of in-toto's ResourceDescriptor that pargate uses."""

    name: str
    digest: dict[Literal["sha256"], str]


class TestResult(Value):
    """Predicate `test-result/v0.1`: which rules hold. It has no value for undecided, so that is FAILED."""

    __test__ = False  # pytest takes the name for its own

    result: Literal["PASSED", "WARNED", "FAILED"]
    configuration: tuple[Descriptor, ...]
    passed_tests: tuple[str, ...] = Field(alias="passedTests")
    warned_tests: tuple[str, ...] = Field(alias="warnedTests")
    failed_tests: tuple[str, ...] = Field(alias="failedTests")


class Verifier(Value):
    """The verifier and its policies."""

    id: str
    policies: tuple[Descriptor, ...]


class VerificationResult(Value):
    """Predicate `svr/v0.2`: the properties that hold. A model that does not pass has none."""

    verifier: Verifier
    time_created: str = Field(alias="timeCreated")
    properties: tuple[str, ...]
    expires: str | None = None
    """RFC 3339, UTC: when the measurements become too old for the policy. This field is an extension; a property says
    the same to readers that ignore it."""


class Statement(Value):
    """in-toto Statement v1."""

    type_: Literal["https://in-toto.io/Statement/v1"] = Field(default="https://in-toto.io/Statement/v1", alias="_type")
    subject: tuple[Descriptor, ...]
    predicate_type: str = Field(alias="predicateType")
    predicate: TestResult | VerificationResult

    def to_json(self) -> str:
        """Return indented JSON with a final newline."""
        return self.model_dump_json(by_alias=True, indent=1, exclude_none=True) + "\n"


def statement(content: bytes) -> Statement:
    """Parse a statement.

    Raises:
        ValueError: the content is not a statement that pargate writes; the message says where.
    """
    try:
        return Statement.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}") from error


def test_result(report: ScanReport, subjects: Sequence[Subject], policy_sha256: str) -> Statement:
    """Return the result of each rule in the scan of the model that ships."""
    by_rule: dict[str, list[Status]] = {}
    lenient: set[str] = set()
    for finding in report.findings:
        by_rule.setdefault(finding.rule, []).append(finding.status)
        if finding.consequence is not Consequence.FAIL:
            lenient.add(finding.rule)
    passed, warned, failed = [], [], []
    for rule, answers in sorted(by_rule.items()):
        if all(answer is Status.MET for answer in answers):
            passed.append(rule)
        elif rule in lenient or all(answer in (Status.MET, Status.WAIVED) for answer in answers):
            warned.append(rule)
        else:
            failed.append(rule)
    holds = report.verdict.status.passes
    if not holds and not failed:
        failed = list(report.verdict.decided_by)
    return Statement(
        subject=_descriptors(subjects),
        predicateType=TEST_RESULT_TYPE,
        predicate=TestResult(
            result="FAILED" if not holds else "WARNED" if warned else "PASSED",
            configuration=(Descriptor(name=POLICY, digest={"sha256": policy_sha256}),),
            passedTests=tuple(passed),
            warnedTests=tuple(warned),
            failedTests=tuple(failed),
        ),
    )


def verification_result(
    report: ScanReport, subjects: Sequence[Subject], policy_sha256: str, max_age_days: int | None
) -> Statement:
    """State that the policy holds for these files, and until when the measurements are valid."""
    tested = test_result(report, subjects, policy_sha256).predicate
    assert isinstance(tested, TestResult)
    properties = [PASSING, *(f"PARGATE_RULE_{_constant(rule)}_HOLDS" for rule in tested.passed_tests)]
    if report.verdict.status is Outcome.REMEDIATED:
        properties.append("PARGATE_CLEANED")
    if max_age_days is not None:
        properties.append(f"PARGATE_MEASURED_WITHIN_{max_age_days}_DAYS")
    return Statement(
        subject=_descriptors(subjects),
        predicateType=SVR_TYPE,
        predicate=VerificationResult(
            verifier=Verifier(
                id=f"urn:pargate:gate:{report.tool.version}",
                policies=(Descriptor(name=POLICY, digest={"sha256": policy_sha256}),),
            ),
            timeCreated=report.run.started,
            properties=tuple(properties),
            expires=None if max_age_days is None else last_moment(report, max_age_days),
        ),
    )


def last_moment(report: ScanReport, max_age_days: int) -> str:
    """Return when the oldest measurement becomes too old, RFC 3339 in UTC."""
    moment = datetime.fromisoformat(report.run.started) + timedelta(days=max_age_days)
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def days_over(report: ScanReport, max_age_days: int, today: date) -> int:
    """Return how many days ago the measurements became too old; 0 or less while they are valid."""
    return (today - datetime.fromisoformat(last_moment(report, max_age_days)).date()).days


def _constant(rule: str) -> str:
    return re.sub(r"[^A-Z0-9]+", "_", rule.upper())


def _descriptors(subjects: Sequence[Subject]) -> tuple[Descriptor, ...]:
    return tuple(Descriptor(name=subject.name, digest={"sha256": subject.sha256}) for subject in subjects)
