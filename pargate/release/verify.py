"""Verify: is a bundle what a gate wrote, does its evidence hold, and does it hold today?

Offline, without torch, and without trust: bytes against checksums, statements against bytes, the chain of records from
the original to the graphs, and the verdict, which is derived again from the measurements that are stored. What this
cannot see is a bundle that was forged as a whole; only a signature shows that.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from pargate.core.provenance import ProvenanceRecord, broken_link
from pargate.core.report import Examined, ScanReport, Stage
from pargate.core.results import Outcome, Verdict
from pargate.errors import InputError, PargateError, PolicyError
from pargate.judge import rejudge
from pargate.judge.release import conclude
from pargate.policy.resolve import Resolved
from pargate.policy.resolve import read as read_policy
from pargate.release import bundle
from pargate.release.bundle import Held

RECORD = "provenance.json"
"""Of the step that made `model/`, beside it."""

BESIDE = (RECORD, "training.svg")
"""What may lie in `model/` without being an output of that step."""

WEIGHTS = f"{bundle.MODEL}/open_clip_model.safetensors"


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found out about a bundle."""

    folder: Path
    files: int
    problems: tuple[str, ...]
    """One sentence each, the file's name first; none where all is as it should be."""
    report: ScanReport | None = None
    """As it was written; None where it cannot be read."""
    verdict: Verdict | None = None
    """Derived again, under the policy that was asked for; None where nothing could be judged."""
    expires: str | None = None
    """RFC 3339, UTC."""
    signed: bool = False
    """Whether a signature lies there, which is not checked here."""


def verify(folder: Path, *, today: date, policy: Resolved | None = None) -> Verified:
    """Check everything that a bundle says. `today`, in UTC, decides on expiry and waivers.

    `policy` is asked besides the bundle's own: its verdict on the same measurements comes back.

    Raises:
        InputError: there is no bundle at all.
        PolicyError: `policy` names files that cannot be read.
    """
    held = bundle.read(folder)
    if not held.digests.keys() & {bundle.SUMS, bundle.REPORT}:
        raise InputError(
            f"{folder} is no bundle: it holds neither {bundle.SUMS} nor {bundle.REPORT}",
            "name a folder that pargate gate wrote",
        )
    problems = bundle.altered(held)
    signed = bundle.SIGNATURE in held.digests
    if problems:  # nothing that such a folder says is worth reading
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
            f"{bundle.REPORT}: says {report.verdict.status}, but on {today} its measurements amount to "
            f"{verdict.status}: {verdict.summary}"
        )
    if policy is not None:
        verdict, others = _again(report, policy, today, read_files=True)
        problems += [*others, *_too_old(report, policy, today)]
    days = _days(own)
    return Verified(
        folder, len(held.digests), tuple(dict.fromkeys(problems)), report, verdict,
        None if days is None else bundle.last_moment(report, days), signed,
    )  # fmt: skip


# --- what it says ------------------------------------------------------------------------------------


class _Read(NamedTuple):
    report: ScanReport
    policy: Resolved


def _documents(held: Held, folder: Path) -> tuple[_Read | None, list[str]]:
    """The report and the policy, and that they belong together."""
    try:
        report = ScanReport.from_json(held.documents[bundle.REPORT])
    except KeyError:
        return None, [f"{bundle.REPORT}: larger than any report"]
    except ValidationError as error:
        first = error.errors()[0]
        return None, [f"{bundle.REPORT}: no report that this pargate reads: {first['loc']}: {first['msg']}"]
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
    if report.verdict.status not in (Outcome.PASS, Outcome.REMEDIATED):
        return None, [f"{bundle.REPORT}: says {report.verdict.status}, with which nothing ships"]
    return _Read(report, policy), []


def _scans_itself(stage: Stage) -> bool:
    return stage.name in ("scan", "pick", "certify", "rescan") and stage.examined is None


def _named(report: ScanReport, *names: str) -> list[tuple[Stage, Examined]]:
    """Scans by the name of their stage, in order."""
    return [(stage, stage.examined or report.examined) for stage in report.stages if stage.name in names]


# --- the chain ---------------------------------------------------------------------------------------


def _chain(held: Held, report: ScanReport) -> Iterator[str]:
    """Original, checkpoint, graphs: each made from the one before, and the files there are what was made."""
    made = [s.record for s in report.stages if s.name in ("clean", "convert") and s.record is not None][-1:]
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
    yield from (f"{name}: no step says that it made this file" for name in sorted(graphs))
    beside = held.documents.get(f"{bundle.MODEL}/{RECORD}")
    if beside is None or not _is_record(beside, made[0]):
        yield f"{bundle.MODEL}/{RECORD}: not the record that {bundle.REPORT} holds"


def _outputs(held: Held, record: ProvenanceRecord, prefix: str, beside: Sequence[str]) -> Iterator[str]:
    """What differs between the outputs of a step and the files there."""
    said = {f"{prefix}{made.name}": made.sha256 for made in record.outputs}
    for name, sha256 in said.items():
        if held.digests.get(name) != sha256:
            yield f"{name}: not the file that its record ({record.activity}) says was made"
    if prefix:
        there = {name for name in held.digests if name.startswith(prefix)} - {f"{prefix}{name}" for name in beside}
        yield from (f"{name}: no step says that it made this file" for name in sorted(there - said.keys()))


def _is_record(content: bytes, record: ProvenanceRecord) -> bool:
    try:
        return ProvenanceRecord.model_validate_json(content) == record
    except ValidationError:
        return False


def _scans(held: Held, report: ScanReport) -> Iterator[str]:
    """Whether the scans were of the files there."""
    scans = _named(report, "certify") or _named(report, "scan")
    if scans[-1][1].model.sha256 != held.digests.get(WEIGHTS):
        yield f"{bundle.REPORT}: the report of another model than {WEIGHTS}"
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
        bundle.SVR: bundle.verification_result(report, subjects, sha256, _days(policy)),
    }
    for name, expected in wanted.items():
        content = held.documents.get(name)
        if content is None:
            yield f"{name}: missing"
            continue
        try:
            found = bundle.statement(content)
        except ValueError as error:
            yield f"{name}: no statement of ours: {error}"
            continue
        said = {item.name: item.digest["sha256"] for item in found.subject}
        other = [s.name for s in subjects if said.get(s.name) != s.sha256] + sorted(said.keys() - held.digests.keys())
        if other:
            yield f"{name}: about other files than those here, such as {other[0]}"
        elif found != expected:
            yield f"{name}: does not say what {bundle.REPORT} says"


def _days(policy: Resolved) -> int | None:
    age = policy.policy.evidence.max_age
    return None if age is None else int(age.removesuffix("d"))


def _expired(report: ScanReport, policy: Resolved, today: date) -> Iterator[str]:
    if policy.policy.expired(today):
        yield f"{bundle.POLICY}: the policy was valid until {policy.policy.valid_until}"
    yield from _too_old(report, policy, today)


def _too_old(report: ScanReport, policy: Resolved, today: date) -> Iterator[str]:
    days = _days(policy)
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
    """The verdict of a policy on all scans, from their measurements alone."""
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
    """A scan under a policy, as of a day."""
    return rejudge.judge(examined.within(report), policy, today=today, read_files=read_files).examined
