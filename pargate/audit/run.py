"""An audit: every model of an inventory judged as of today, and the result added to a ledger.

A model is measured only where something that it depends on changed; otherwise its saved measurements are judged again,
since waivers end. What cannot be judged is an error of that model alone. Saved measurements are believed because the
ledger holds their digest, and the ledger because its chain is whole.

One entry goes into the ledger for each model as soon as it is judged, and one at the end. Only an audit that has this
last entry is compared with: what an interrupted one found is kept and reused, but never makes a regression look old.
"""

import hashlib
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from pathlib import Path

from pargate import events
from pargate.audit import ledger
from pargate.audit import processes as children
from pargate.audit.fingerprint import Sources, Subject, examine, saved
from pargate.audit.history import Outcome, entry_of, state_of
from pargate.audit.inventory import Inventory, Kept
from pargate.audit.processes import Child
from pargate.core.audit import AuditEntry, AuditIndex, Linked, ModelEntry, ModelState
from pargate.core.choices import FailOn
from pargate.core.environment import versions
from pargate.errors import ExitCode, InputError, OperationalError, PargateError, explain
from pargate.files import digest_of, locked, write_atomic
from pargate.report import FORMATS, audit_html, audit_markdown
from pargate.scanning.report import unsafe_report
from pargate.version import __version__

POLL_S = 0.05

WORST = (ExitCode.FAIL, ExitCode.BUG, ExitCode.OPERATIONAL, ExitCode.POLICY, ExitCode.INPUT, ExitCode.INCONCLUSIVE)
"""Codes of an audit, the worst first: what was shown, then what could not be judged, then what is not decided."""


@dataclass(frozen=True, slots=True)
class AuditRequest:
    """Everything an audit depends on."""

    inventory: Inventory
    out: Path
    ledger: Path
    started: datetime
    """In UTC: the clock is read by the caller."""
    today: date
    """For waivers and ages."""
    now: Callable[[], datetime]
    """The clock, for the entries of the ledger."""
    jobs: int = 1
    fail_on: FailOn = FailOn.ANY
    seed: int = 0
    device: str = "auto"
    cache: Path | None = None
    """Of vectors, by which a scan that was killed resumes."""
    processors: int = 1

    @property
    def id(self) -> str:
        """Names this audit in the ledger."""
        return digest_of([self.started.isoformat(), self.inventory.sha256, str(self.out)])[:16]

    def link(self, sequence: int, previous: str) -> Linked:
        """The place of a new entry in the ledger."""
        return Linked(
            sequence=sequence,
            previous=previous,
            audit=self.id,
            time=self.now().isoformat(timespec="seconds"),
            as_of=self.today.isoformat(),
        )


@dataclass(slots=True)
class _Course:
    """An audit under way."""

    request: AuditRequest
    emit: events.Listener
    entries: tuple[ledger.Record, ...]
    states: dict[str, ModelState] = field(default_factory=dict)
    running: dict[str, tuple[Child, Subject, str]] = field(default_factory=dict)
    complete: bool = False

    @property
    def finished(self) -> list[ModelEntry]:
        """Entries of audits that went through their inventory."""
        done = {entry.audit for entry in self.entries if isinstance(entry, AuditEntry)}
        return [e for e in self.entries if isinstance(e, ModelEntry) and e.audit in done]


def audit(
    request: AuditRequest,
    emit: events.Listener = events.ignore,
    on_interrupt: Callable[[KeyboardInterrupt], None] | None = None,
) -> AuditIndex:
    """Judge every model, write the pages into `request.out` and the entries into the ledger.

    A KeyboardInterrupt is handed to `on_interrupt`, and the index of what was judged until then comes back, marked as
    not complete; without `on_interrupt` it is raised. No scan goes on after either.

    Raises:
        InputError: the ledger is not as it was written.
        OperationalError: a folder cannot be written, or another audit is writing to it.
    """
    began = time.monotonic()
    try:
        for folder in (request.out / "models", request.out / "reports", request.ledger):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OperationalError(f"cannot make {error.filename}: {error.strerror}", "choose another --out") from error
    with locked(request.out / ".lock", wait=False):
        if note := ledger.mend(request.ledger):
            emit(events.Notice(note, "warning"))
        course = _Course(request, emit, ledger.sound(request.ledger).entries)
        try:
            _go_through(course)
            course.complete = True
        except KeyboardInterrupt as signal:
            if on_interrupt is None:
                raise
            on_interrupt(signal)
        finally:
            children.stop([child for child, _, _ in course.running.values()])
            shutil.rmtree(_work(request).parent, ignore_errors=True)
        return _conclude(course, time.monotonic() - began)


def _work(request: AuditRequest) -> Path:
    # One for each audit: a scan that a killed audit left behind must not write into this one.
    return request.out / ".work" / request.id


def _go_through(course: _Course) -> None:
    request = course.request
    shutil.rmtree(_work(request).parent, ignore_errors=True)  # of an audit that was killed
    _work(request).mkdir(parents=True)
    waiting: list[tuple[Kept, Subject, str]] = []
    sources = Sources()
    for kept in request.inventory.models:
        course.emit(events.StageStarted("look", kept.name))
        found = _without_measuring(course, kept, sources)
        if isinstance(found, Outcome):
            _record(course, found)
        else:
            waiting.append((kept, *found))
    _measure(course, waiting)


def _without_measuring(course: _Course, kept: Kept, sources: Sources) -> Outcome | tuple[Subject, str]:
    """The outcome where nothing needs to be measured; otherwise what to measure, and why not what is saved."""
    request = course.request
    try:
        subject = _examined(request, kept, sources)
    except PargateError as error:
        return Outcome(kept, None, error=error)
    if subject.unsafe is not None:
        report = unsafe_report(subject.policy, subject.unsafe, kept.source, subject.request.started, request.seed)
        content = report.to_json().encode()
        return Outcome(kept, subject, report, content)
    why = ""
    for entry in reversed(course.entries):
        if (
            isinstance(entry, ModelEntry)
            and entry.key == subject.key
            and entry.measured
            and entry.source == kept.source
        ):
            found = saved(request.out, subject, entry.measured, request.today)
            if not isinstance(found, str):
                content = found.to_json().encode()
                return Outcome(kept, subject, found, content, entry.measured, reused=True)
            why = why or found
    return subject, why


def _measure(course: _Course, waiting: Sequence[tuple[Kept, Subject, str]]) -> None:
    """Scan in processes of their own, so many at a time."""
    request = course.request
    left = list(reversed(waiting))
    kept_by_name = {kept.name: kept for kept, _, _ in waiting}
    # By the inventory, not by what is left to measure: sums of a model must not depend on what else changed.
    threads = max(1, request.processors // max(1, min(request.jobs, len(request.inventory.models))))
    while left or course.running:
        while left and len(course.running) < request.jobs:
            kept, subject, why = left.pop()
            course.emit(events.StageStarted("scan", f"{kept.name}{f' ({why})' if why else ''}"))
            try:
                scan = replace(subject.request, device=request.device)
                child = children.start(scan, _work(request), kept.slug, cache=request.cache, threads=threads)
            except OperationalError as error:
                _record(course, Outcome(kept, subject, remeasured=why, error=error))
                continue
            course.running[kept.name] = (child, subject, why)
        for name, (child, subject, why) in list(course.running.items()):
            if child.process.poll() is not None:
                del course.running[name]
                _record(course, _measured(request, kept_by_name[name], subject, child, why))
        time.sleep(POLL_S)


def _measured(request: AuditRequest, kept: Kept, subject: Subject, child: Child, why: str) -> Outcome:
    try:
        report, content = children.result(child)
        # The key is worth no more than that nothing moved between taking it and measuring.
        if _examined(request, kept, Sources()).key != subject.key or report.model.sha256 != subject.model:
            raise InputError("what is measured changed while it was audited", "audit again once nothing writes to it")
    except PargateError as error:
        return Outcome(kept, subject, remeasured=why, error=error)
    return Outcome(kept, subject, report, content, hashlib.sha256(content).hexdigest(), remeasured=why)


def _examined(request: AuditRequest, kept: Kept, sources: Sources) -> Subject:
    """What the model's measurements depend on.

    Raises:
        PargateError: it cannot be said, for whatever reason: one model must not stop the others.
    """
    started = request.started.isoformat(timespec="seconds")
    try:
        return examine(kept, sources, today=request.today, started=started, seed=request.seed)
    except Exception as error:
        raise explain(error) from error


# --- one model ---------------------------------------------------------------------------------------


def _record(course: _Course, outcome: Outcome) -> None:
    """Write the report of a model, its entry in the ledger, and its state for the pages, in this order."""
    request, kept = course.request, outcome.kept
    folder = request.out / "models" / kept.slug
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OperationalError(f"cannot make {folder}: {error.strerror}", "choose another --out") from error
    digest = ""
    if outcome.report is not None:
        digest = hashlib.sha256(outcome.content).hexdigest()
        write_atomic(ledger.report_path(request.out, digest), outcome.content)
        for name, form in (("report.html", "html"), ("report.md", "markdown")):
            write_atomic(folder / name, FORMATS[form].render(outcome.report).encode())
        write_atomic(folder / "report.json", outcome.content)
    else:
        for name in ("report.html", "report.md", "report.json"):
            (folder / name).unlink(missing_ok=True)  # a pass of an earlier audit must not stand for this one
    entry, note = ledger.append_entry(
        request.ledger, lambda sequence, previous: entry_of(outcome, digest, request.link(sequence, previous))
    )
    if note:
        course.emit(events.Notice(note, "warning"))
    assert isinstance(entry, ModelEntry)
    past = [e for e in course.finished if e.model == kept.name]
    course.states[kept.name] = state_of(outcome, entry, past, request.out, request.today)
    course.emit(events.StageFinished("judge", kept.name))


# --- the whole ---------------------------------------------------------------------------------------


def exit_code(states: Sequence[ModelState], fail_on: FailOn) -> ExitCode:
    """The worst of the codes that count."""
    counted = {s.exit_code for s in states if fail_on is FailOn.ANY or s.regression}
    return next((code for code in WORST if code in counted), ExitCode.BUG if counted - {ExitCode.OK} else ExitCode.OK)


def _conclude(course: _Course, seconds: float) -> AuditIndex:
    """The last entry of a complete audit, and all pages."""
    request = course.request
    states = [course.states[kept.name] for kept in request.inventory.models if kept.name in course.states]
    code = exit_code(states, request.fail_on)
    if course.complete:
        standings: dict[str, int] = {}
        for state in states:
            standings[str(state.standing)] = standings.get(str(state.standing), 0) + 1
        ledger.append_entry(
            request.ledger,
            lambda sequence, previous: AuditEntry(
                **request.link(sequence, previous).model_dump(),
                inventory=request.inventory.sha256,
                fail_on=request.fail_on,
                standings=standings,
                exit_code=code,
            ),
        )
    chain = ledger.sound(request.ledger)
    audits = [e for e in course.entries if isinstance(e, AuditEntry)]
    known = {kept.name for kept in request.inventory.models}
    last = audits[-1].audit if audits else ""
    index = AuditIndex(
        schema="pargate/audit/1",
        audit=request.id,
        pargate=__version__,
        libraries=versions(),
        started=request.started.isoformat(timespec="seconds"),
        as_of=request.today.isoformat(),
        seconds=round(seconds, 3),
        complete=course.complete,
        inventory=request.inventory.source,
        inventory_sha256=request.inventory.sha256,
        fail_on=request.fail_on,
        exit_code=code,
        ledger_lines=len(chain.digests),
        ledger_head=chain.head,
        models=tuple(states),
        gone=tuple(sorted({e.model for e in course.finished if e.audit == last} - known)),
    )
    for state in states:
        folder = request.out / "models" / state.slug
        write_atomic(folder / "index.html", audit_html.model(index, state).encode())
        write_atomic(folder / "index.md", audit_markdown.model(index, state).encode())
    write_atomic(request.out / "index.json", index.to_json().encode())
    write_atomic(request.out / "index.md", audit_markdown.index(index).encode())
    write_atomic(request.out / "index.html", audit_html.index(index).encode())
    return index
