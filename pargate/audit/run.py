"""An audit: judge every model of an inventory as of today, and add the results to a ledger.

A model is measured again only if one of its inputs changed; otherwise its saved measurements are judged again, since
waivers end. A model that cannot be judged does not stop the others. The ledger holds the digest of each saved report,
and its chain shows that the digest did not change.

The ledger gets an entry for each model as soon as it is judged, and one at the end of the audit. Regressions are
relative to the last audit that reached its end; results of an interrupted audit are reused for measurements alone.
"""

import contextlib
import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from pathlib import Path

from pargate import events
from pargate.audit import ledger, processes
from pargate.audit.fingerprint import Fingerprint, Sources, examine, saved
from pargate.audit.history import ModelResult, entry_of, state_of
from pargate.audit.inventory import Entry, Inventory
from pargate.audit.processes import Child, Starter
from pargate.core.audit import AuditEntry, AuditIndex, Linked, ModelEntry, ModelState
from pargate.core.choices import Executor, FailOn
from pargate.core.environment import versions
from pargate.errors import ExitCode, InputError, OperationalError, PargateError, explain
from pargate.files import digest_of, locked, write_atomic
from pargate.report import FORMATS, audit_html, audit_markdown
from pargate.scanning.report import unsafe_report
from pargate.version import __version__

POLL_S = 0.05

TELL_S = 1.0
"""Seconds between two looks at what the running scan says."""

WORST = (ExitCode.FAIL, ExitCode.BUG, ExitCode.OPERATIONAL, ExitCode.POLICY, ExitCode.INPUT, ExitCode.INCONCLUSIVE)
"""Exit codes of an audit, the worst first."""


@dataclass(frozen=True, slots=True)
class AuditRequest:
    """The inputs of an audit."""

    inventory: Inventory
    out: Path
    ledger: Path
    started: datetime
    """Start of the audit, in UTC."""
    today: date
    """Date for waivers and ages."""
    now: Callable[[], datetime]
    """Clock for the entries of the ledger."""
    jobs: int = 1
    fail_on: FailOn = FailOn.ANY
    seed: int = 0
    device: str = "auto"
    cache: Path | None = None
    """Folder of cached vectors; a killed scan resumes from them."""
    processors: int = 1
    shard: tuple[int, int] = (1, 1)
    """Number of this shard, from 1, and of all shards; every shard judges some of the models."""
    executor: Executor = Executor.LOCAL
    ray_address: str | None = None
    """Address of a Ray cluster; None for a local one."""
    parts: tuple[Path, ...] = ()
    """Folders of audits of the same inventory, such as the shards, whose measurements count as this audit's."""

    @property
    def models(self) -> tuple[Entry, ...]:
        """The models that this audit judges."""
        number, shards = self.shard
        return self.inventory.models[number - 1 :: shards]

    @property
    def id(self) -> str:
        """Identifier of this audit in the ledger."""
        return digest_of([self.started.isoformat(), self.inventory.sha256, str(self.out), *self.shard])[:16]

    def link(self, sequence: int, previous: str) -> Linked:
        """Return the fields that link a new entry to the ledger."""
        return Linked(
            sequence=sequence,
            previous=previous,
            audit=self.id,
            time=self.now().isoformat(timespec="seconds"),
            as_of=self.today.isoformat(),
        )


@dataclass(slots=True)
class _Context:
    """The state of an audit in progress."""

    request: AuditRequest
    emit: events.Listener
    entries: tuple[ledger.Record, ...]
    parts: tuple[tuple[Path, tuple[ledger.Record, ...]], ...] = ()
    """Folders of other audits, and the entries of their ledgers."""
    states: dict[str, ModelState] = field(default_factory=dict)
    running: dict[str, tuple[Child, Fingerprint, str]] = field(default_factory=dict)
    complete: bool = False

    @property
    def finished(self) -> list[ModelEntry]:
        """Entries of complete audits."""
        done = {entry.audit for entry in self.entries if isinstance(entry, AuditEntry)}
        return [e for e in self.entries if isinstance(e, ModelEntry) and e.audit in done]


def audit(
    request: AuditRequest,
    emit: events.Listener = events.ignore,
    on_interrupt: Callable[[KeyboardInterrupt], None] | None = None,
) -> AuditIndex:
    """Judge every model; write the pages into `request.out` and the entries into the ledger.

    A KeyboardInterrupt goes to `on_interrupt`, and the index of the models judged so far is returned, marked as not
    complete; without `on_interrupt` it is raised. Running scans are ended in both cases.

    Raises:
        InputError: a ledger was changed, or a part has none.
        OperationalError: a folder cannot be written, or another audit writes to it.
    """
    began = time.monotonic()
    parts = tuple((part, _entries(part)) for part in request.parts)
    try:
        for folder in (request.out / "models", request.out / "reports", request.ledger):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OperationalError(f"cannot create {error.filename}: {error.strerror}", "choose another --out") from error
    with locked(request.out / ".lock", wait=False):
        if note := ledger.mend(request.ledger):
            emit(events.Notice(note, "warning"))
        context = _Context(request, emit, ledger.sound(request.ledger).entries, parts)
        try:
            _judge_all(context)
            context.complete = True
        except KeyboardInterrupt as signal:
            if on_interrupt is None:
                raise
            on_interrupt(signal)
        finally:
            processes.stop([child for child, _, _ in context.running.values()])
            shutil.rmtree(_work(request).parent, ignore_errors=True)
        return _conclude(context, time.monotonic() - began)


def _entries(part: Path) -> tuple[ledger.Record, ...]:
    """Return the entries of another audit.

    Raises:
        InputError: it has no ledger, or an altered one.
    """
    if not (part / ledger.LEDGER).is_file():
        raise InputError(f"there is no ledger in {part}", "give the --out of an audit")
    return ledger.sound(part).entries


def _work(request: AuditRequest) -> Path:
    # A folder for each audit: a scan that outlives a killed audit must not write into this one.
    return request.out / ".work" / request.id


def _judge_all(context: _Context) -> None:
    request = context.request
    shutil.rmtree(_work(request).parent, ignore_errors=True)  # left by a killed audit
    _work(request).mkdir(parents=True)
    waiting: list[tuple[Entry, Fingerprint, str]] = []
    sources = Sources()
    for item in request.models:
        context.emit(events.StageStarted("look", item.name))
        found = _reuse(context, item, sources)
        if isinstance(found, ModelResult):
            _record(context, found)
        else:
            waiting.append((item, *found))
    _measure(context, waiting)


def _reuse(context: _Context, item: Entry, sources: Sources) -> ModelResult | tuple[Fingerprint, str]:
    """Return the result if nothing needs to be measured; else the inputs, and why saved measurements are not used."""
    request = context.request
    try:
        fingerprint = _fingerprint(request, item, sources)
    except PargateError as error:
        return ModelResult(item, None, error=error)
    if fingerprint.unsafe is not None:
        report = unsafe_report(
            fingerprint.policy, fingerprint.unsafe, item.source, fingerprint.request.started, request.seed
        )
        content = report.to_json().encode()
        return ModelResult(item, fingerprint, report, content)
    why = ""
    for folder, digest in _measured(context, fingerprint.key, item.source):
        found = saved(folder, fingerprint, digest, request.today)
        if isinstance(found, str):
            why = why or found
            continue
        here = folder == request.out
        if not here:
            write_atomic(ledger.report_path(request.out, digest), ledger.report_path(folder, digest).read_bytes())
        return ModelResult(item, fingerprint, found, found.to_json().encode(), digest, reused=here)
    return fingerprint, why


def _measured(context: _Context, key: str, source: str) -> Iterator[tuple[Path, str]]:
    """Yield the folder and the digest of each saved report with these inputs: of the parts first, the newest first."""
    for folder, entries in (*context.parts, (context.request.out, context.entries)):
        for entry in reversed(entries):
            if isinstance(entry, ModelEntry) and entry.measured and (entry.key, entry.source) == (key, source):
                yield folder, entry.measured


def _measure(context: _Context, waiting: Sequence[tuple[Entry, Fingerprint, str]]) -> None:
    """Scan the waiting models, each in its own process."""
    if not waiting:
        return
    with _starter(context.request) as start:
        _scan_all(context, waiting, start)


@contextlib.contextmanager
def _starter(request: AuditRequest) -> Iterator[Starter]:
    """Yield what starts the scans.

    Raises:
        OperationalError: Ray is missing, or its cluster does not answer.
    """
    if request.executor is Executor.LOCAL:
        yield processes.start
    else:
        from pargate.audit import cluster

        with cluster.opened(request.ray_address, request.processors) as start:
            yield start


def _scan_all(context: _Context, waiting: Sequence[tuple[Entry, Fingerprint, str]], start: Starter) -> None:
    request = context.request
    left = list(reversed(waiting))
    by_name = {item.name: item for item, _, _ in waiting}
    # The count is that of the inventory: the floating-point sums of a model must not depend on which others changed.
    threads = max(1, request.processors // max(1, min(request.jobs, len(request.inventory.models))))
    tell = time.monotonic()
    while left or context.running:
        while left and len(context.running) < request.jobs:
            item, fingerprint, why = left.pop()
            context.emit(events.StageStarted("scan", f"{item.name}{f' ({why})' if why else ''}"))
            try:
                settings = replace(fingerprint.request.settings, device=request.device)
                scan = replace(fingerprint.request, settings=settings)
                child = start(scan, _work(request), item.slug, request.cache, threads)
            except OperationalError as error:
                _record(context, ModelResult(item, fingerprint, remeasured=why, error=error))
                continue
            context.running[item.name] = (child, fingerprint, why)
        for name, (child, fingerprint, why) in list(context.running.items()):
            if child.code() is not None:
                del context.running[name]
                _record(context, _result_of(request, by_name[name], fingerprint, child, why))
        if context.running and time.monotonic() >= tell:
            tell = time.monotonic() + TELL_S
            name, (child, _, _) = next(iter(context.running.items()))
            said = f"{name}: {processes.last_line(child) or 'starting'}"
            context.emit(events.Advanced(len(context.states), len(request.models), said, "model"))
        time.sleep(POLL_S)


def _result_of(request: AuditRequest, item: Entry, fingerprint: Fingerprint, child: Child, why: str) -> ModelResult:
    try:
        report, content = processes.result(child)
        # The fingerprint holds only if nothing changed between taking it and measuring.
        if _fingerprint(request, item, Sources()).key != fingerprint.key or report.model.sha256 != fingerprint.model:
            raise InputError("an input of the scan changed during the audit", "audit again once nothing writes to it")
    except PargateError as error:
        return ModelResult(item, fingerprint, remeasured=why, error=error)
    return ModelResult(item, fingerprint, report, content, hashlib.sha256(content).hexdigest(), remeasured=why)


def _fingerprint(request: AuditRequest, item: Entry, sources: Sources) -> Fingerprint:
    """Return the fingerprint of a model's measurements.

    Raises:
        PargateError: on any error, because one model must not stop the others.
    """
    started = request.started.isoformat(timespec="seconds")
    try:
        return examine(item, sources, today=request.today, started=started, seed=request.seed)
    except Exception as error:
        raise explain(error) from error


# --- one model ---------------------------------------------------------------------------------------


def _record(context: _Context, result: ModelResult) -> None:
    """Write the report of a model, then its entry in the ledger, then its state for the pages."""
    request, item = context.request, result.item
    folder = request.out / "models" / item.slug
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OperationalError(f"cannot create {folder}: {error.strerror}", "choose another --out") from error
    digest = ""
    if result.report is not None:
        digest = hashlib.sha256(result.content).hexdigest()
        write_atomic(ledger.report_path(request.out, digest), result.content)
        for name, form in (("report.html", "html"), ("report.md", "markdown")):
            write_atomic(folder / name, FORMATS[form].render(result.report).encode())
        write_atomic(folder / "report.json", result.content)
    else:
        for name in ("report.html", "report.md", "report.json"):
            (folder / name).unlink(missing_ok=True)  # a report of an earlier audit must not stay
    entry, note = ledger.append_entry(
        request.ledger, lambda sequence, previous: entry_of(result, digest, request.link(sequence, previous))
    )
    if note:
        context.emit(events.Notice(note, "warning"))
    assert isinstance(entry, ModelEntry)
    past = [e for e in context.finished if e.model == item.name]
    context.states[item.name] = state_of(result, entry, past, request.out, request.today)
    context.emit(events.StageFinished("judge", f"{item.name}: {context.states[item.name].standing}"))


# --- the index ---------------------------------------------------------------------------------------


def exit_code(states: Sequence[ModelState], fail_on: FailOn) -> ExitCode:
    """Return the worst exit code of the models that count under `fail_on`."""
    counted = {s.exit_code for s in states if fail_on is FailOn.ANY or s.regression}
    return next((code for code in WORST if code in counted), ExitCode.BUG if counted - {ExitCode.OK} else ExitCode.OK)


def _conclude(context: _Context, seconds: float) -> AuditIndex:
    """Write the last entry of a complete audit and all pages; return the index."""
    request = context.request
    states = [context.states[item.name] for item in request.models if item.name in context.states]
    code = exit_code(states, request.fail_on)
    if context.complete:
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
    audits = [e for e in context.entries if isinstance(e, AuditEntry)]
    known = {item.name for item in request.inventory.models}
    last = audits[-1].audit if audits else ""
    index = AuditIndex(
        schema="pargate/audit/1",
        audit=request.id,
        pargate=__version__,
        libraries=versions(),
        started=request.started.isoformat(timespec="seconds"),
        as_of=request.today.isoformat(),
        seconds=round(seconds, 3),
        complete=context.complete,
        inventory=request.inventory.source,
        inventory_sha256=request.inventory.sha256,
        fail_on=request.fail_on,
        exit_code=code,
        ledger_lines=len(chain.digests),
        ledger_head=chain.head,
        models=tuple(states),
        gone=tuple(sorted({e.model for e in context.finished if e.audit == last} - known)),
        shard="" if request.shard == (1, 1) else "{}/{}".format(*request.shard),
    )
    for state in states:
        folder = request.out / "models" / state.slug
        write_atomic(folder / "index.html", audit_html.model(index, state).encode())
        write_atomic(folder / "index.md", audit_markdown.model(index, state).encode())
    write_atomic(request.out / "index.json", index.to_json().encode())
    write_atomic(request.out / "index.md", audit_markdown.index(index).encode())
    write_atomic(request.out / "index.html", audit_html.index(index).encode())
    return index
