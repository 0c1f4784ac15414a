"""Verify that a bundle is unchanged, that its evidence holds, and that it holds today.

The check is offline and needs no torch: bytes against checksums, statements against bytes, the chain of records from
the original to the graphs, and the verdict from the stored measurements. It cannot detect a bundle that was forged as
a whole; only a signature shows that.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from pargate.core.provenance import ProvenanceRecord, broken_link
from pargate.core.report import Examined, ScanReport, Stage
from pargate.core.results import Verdict
from pargate.errors import InputError, PargateError, PolicyError
from pargate.files import SIGNATURE
from pargate.judge import rejudge
from pargate.judge.judging import Judging
from pargate.judge.release import conclude
from pargate.policy.resolve import Resolved
from pargate.policy.resolve import read as read_policy
from pargate.release import bundle
from pargate.release.bundle import Held

RECORD = "provenance.json"
"""Record of the stage that wrote `model/`, in that folder."""

BESIDE = (RECORD, "training.svg")
"""Files in `model/` that are not outputs of that stage."""

WEIGHTS = tuple(f"{bundle.MODEL}/{name}" for name in ("open_clip_model.safetensors", "model.safetensors"))
"""Names of the weights file, in the layout of open_clip and in that of transformers."""


@dataclass(frozen=True, slots=True)
class Verified:
    """The result of verifying a bundle."""

    folder: Path
    files: int
    problems: tuple[str, ...]
    """One message each, the file's name first."""
    report: ScanReport | None = None
    """The bundle's report; None if it cannot be read."""
    verdict: Verdict | None = None
    """Verdict from the stored measurements under the requested policy; None if nothing could be judged."""
    expires: str | None = None
    """When the measurements become too old, RFC 3339 in UTC."""
    signed: bool = False
    """Whether the bundle has a signature. `verify` does not check it."""


def verify(folder: Path, *, today: date, policy: Resolved | None = None) -> Verified:
    """Check a bundle; `today`, in UTC, decides on expiry and waivers.

    With `policy`, the returned verdict is that of `policy` on the same measurements.

    Raises:
        InputError: the folder is not a bundle.
        PolicyError: `policy` names files that cannot be read.
    """
    held = bundle.read(folder)
    if not held.digests.keys() & {bundle.SUMS, bundle.REPORT}:
        raise InputError(
            f"{folder} is not a bundle: it has neither {bundle.SUMS} nor {bundle.REPORT}",
            "give a folder that pargate gate wrote",
        )
    problems = bundle.altered(held)
    signed = SIGNATURE in held.digests
    if problems:  # the documents of a changed bundle prove nothing
        return Verified(folder, len(held.digests), tuple(problems), signed=signed)
    read, problems = _documents(held, folder)
    if read is None:
        return Verified(folder, len(held.digests), tuple(problems), signed=signed)
    report, own = read
    problems = [*_chain(held, report), *_scans(held, report), *_statements(held, report, own)]
    problems += _expired(report, own, today)
    verdict, others = _again(report, own, today, read_files=False)
    problems += others
    if verdict is not None and verdict.status is not report.verdict.status:
        problems.append(
            f"{bundle.REPORT}: says {report.verdict.status}, but on {today} the verdict of its measurements is "
            f"{verdict.status}: {verdict.summary}"
        )
    if policy is not None:
        verdict, others = _again(report, policy, today, read_files=True)
        problems += [*others, *_too_old(report, policy, today)]
    days = own.policy.evidence.max_age_days
    return Verified(
        folder, len(held.digests), tuple(dict.fromkeys(problems)), report, verdict,
        None if days is None else bundle.last_moment(report, days), signed,
    )  # fmt: skip


# --- documents ---------------------------------------------------------------------------------------


class _Read(NamedTuple):
    report: ScanReport
    policy: Resolved


def _documents(held: Held, folder: Path) -> tuple[_Read | None, list[str]]:
    """Return the report and its policy, or why they cannot be used."""
    try:
        report = ScanReport.from_json(held.documents[bundle.REPORT])
    except KeyError:
        return None, [f"{bundle.REPORT}: larger than any report"]
    except ValidationError as error:
        first = error.errors()[0]
        return None, [f"{bundle.REPORT}: not a report that this pargate reads: {first['loc']}: {first['msg']}"]
    try:
        text = held.documents[bundle.POLICY].decode()
        policy = read_policy(text, bundle.POLICY, folder)
    except (KeyError, UnicodeDecodeError) as error:
        return None, [f"{bundle.POLICY}: cannot be read: {error}"]
    except PolicyError as error:
        return None, [f"{bundle.POLICY}: {error.message}"]
    if policy.sha256 != report.policy.sha256 or policy.policy.model_dump(mode="json") != report.policy.document:
        return None, [f"{bundle.REPORT}: was not made under {bundle.POLICY}"]
    if not report.stages or sum(_scans_itself(stage) for stage in report.stages) != 1:
        return None, [f"{bundle.REPORT}: not the report of a gate"]
    if not report.verdict.status.passes:
        return None, [f"{bundle.REPORT}: says {report.verdict.status}, and such a model does not ship"]
    return _Read(report, policy), []


def _scans_itself(stage: Stage) -> bool:
    return stage.name in ("scan", "pick", "certify", "rescan") and stage.examined is None


def _named(report: ScanReport, *names: str) -> list[tuple[Stage, Examined]]:
    """Return the scans of the stages with these names, in order."""
    return [(stage, stage.examined or report.examined) for stage in report.stages if stage.name in names]


# --- the chain ---------------------------------------------------------------------------------------


def _chain(held: Held, report: ScanReport) -> Iterator[str]:
    """Yield a problem for each break in the chain of original, checkpoint, graphs and the files in the bundle."""
    made = [s.record for s in report.stages if s.name in ("clean", "convert") and s.record is not None]
    weights = held.digests.get(_weights(held))  # of several attempts any may ship
    made = [record for record in made if weights in {file.sha256 for file in record.outputs}][-1:] or made[-1:]
    records = [*made, *(s.record for s in report.stages if s.name == "export" and s.record is not None)]
    first = _named(report, "scan")
    if not made:
        yield f"{bundle.REPORT}: does not say what {bundle.MODEL}/ was made from"
        return
    if not first or records[0].parent_sha256 != first[0][1].model.sha256:
        yield f"{bundle.REPORT}: {bundle.MODEL}/ was not made from the model that was scanned first"
    if broken_link(records) is not None:
        yield f"{bundle.REPORT}: the graphs were not made from {bundle.MODEL}/"
    yield from _outputs(held, made[0], f"{bundle.MODEL}/", BESIDE)
    graphs = {name for name in held.digests if bundle.SHIPPED.fullmatch(name) and not name.startswith(bundle.MODEL)}
    for record in records[1:]:
        yield from _outputs(held, record, "", ())
        graphs -= {made.name for made in record.outputs}
    yield from (f"{name}: no stage wrote this file" for name in sorted(graphs))
    beside = held.documents.get(f"{bundle.MODEL}/{RECORD}")
    if beside is None or not _is_record(beside, made[0]):
        yield f"{bundle.MODEL}/{RECORD}: not the record in {bundle.REPORT}"


def _weights(held: Held) -> str:
    """Return the name of the weights file in the bundle."""
    return next((name for name in WEIGHTS if name in held.digests), WEIGHTS[0])


def _outputs(held: Held, record: ProvenanceRecord, prefix: str, beside: Sequence[str]) -> Iterator[str]:
    """Yield a problem for each difference between the outputs of a stage and the files in the bundle."""
    said = {f"{prefix}{made.name}": made.sha256 for made in record.outputs}
    for name, sha256 in said.items():
        if held.digests.get(name) != sha256:
            yield f"{name}: not the file in its record ({record.activity})"
    if prefix:
        there = {name for name in held.digests if name.startswith(prefix)} - {f"{prefix}{name}" for name in beside}
        yield from (f"{name}: no stage wrote this file" for name in sorted(there - said.keys()))


def _is_record(content: bytes, record: ProvenanceRecord) -> bool:
    try:
        return ProvenanceRecord.model_validate_json(content) == record
    except ValidationError:
        return False


def _scans(held: Held, report: ScanReport) -> Iterator[str]:
    """Yield a problem for each scan of other files than those in the bundle."""
    scans = _named(report, "certify") or _named(report, "scan")
    weights = _weights(held)
    if scans[-1][1].model.sha256 != held.digests.get(weights):
        yield f"{bundle.REPORT}: the report of another model than {weights}"
    exported = [stage for stage in report.stages if stage.name == "export" and stage.proof is not None]
    rescanned = {examined.model.sha256 for _, examined in _named(report, "rescan")}
    for stage in exported:
        precision = stage.proof.precision if stage.proof else ""
        folder = "onnx" if precision == "fp32" else f"onnx-{precision}"
        if rescanned and bundle.graphs_sha256(held.digests, folder) not in rescanned:
            yield f"{bundle.REPORT}: the report of other graphs than those in {folder}/"


# --- statements, age ---------------------------------------------------------------------------------


def _statements(held: Held, report: ScanReport, policy: Resolved) -> Iterator[str]:
    subjects = bundle.shipped(held.digests)
    sha256 = held.digests[bundle.POLICY]
    wanted = {
        bundle.TEST_RESULT: bundle.test_result(report, subjects, sha256),
        bundle.SVR: bundle.verification_result(report, subjects, sha256, policy.policy.evidence.max_age_days),
    }
    for name, expected in wanted.items():
        content = held.documents.get(name)
        if content is None:
            yield f"{name}: missing"
            continue
        try:
            found = bundle.statement(content)
        except ValueError as error:
            yield f"{name}: not a statement that pargate writes: {error}"
            continue
        said = {item.name: item.digest["sha256"] for item in found.subject}
        other = [s.name for s in subjects if said.get(s.name) != s.sha256] + sorted(said.keys() - held.digests.keys())
        if other:
            yield f"{name}: about other files than those here, such as {other[0]}"
        elif found != expected:
            yield f"{name}: does not say what {bundle.REPORT} says"


def _expired(report: ScanReport, policy: Resolved, today: date) -> Iterator[str]:
    if policy.policy.expired(today):
        yield f"{bundle.POLICY}: the policy was valid until {policy.policy.valid_until}"
    yield from _too_old(report, policy, today)


def _too_old(report: ScanReport, policy: Resolved, today: date) -> Iterator[str]:
    days = policy.policy.evidence.max_age_days
    try:
        over = 0 if days is None else bundle.days_over(report, days, today)
    except (ValueError, OverflowError):
        yield f"{bundle.REPORT}: does not say when it was measured"
        return
    if over > 0:
        yield (
            f"{bundle.SVR}: expired {over} day{'' if over == 1 else 's'} ago: measured {report.run.started}, and "
            f"the policy {policy.policy.name} relies on measurements for {days} days"
        )


# --- the verdict -------------------------------------------------------------------------------------


def _again(report: ScanReport, policy: Resolved, today: date, *, read_files: bool) -> tuple[Verdict | None, list[str]]:
    """Return the verdict of a policy on all scans, from their measurements alone."""
    try:
        stages = [
            stage
            if stage.examined is None
            else stage.model_copy(update={"examined": judged(stage.examined, report, policy, today, read_files)})
            for stage in report.stages
        ]
        last = judged(report.examined, report, policy, today, read_files)
    except PolicyError:
        raise
    except PargateError as error:
        return None, [f"{bundle.REPORT}: cannot be judged again: {error.message}"]
    return conclude(policy.policy, stages, last).verdict, []


def judged(examined: Examined, report: ScanReport, policy: Resolved, today: date, read_files: bool) -> Examined:
    """Return a scan judged under a policy, as of a day."""
    return rejudge.judge(examined.within(report), Judging(policy, today), read_files=read_files).examined
