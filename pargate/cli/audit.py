"""The command `audit` with its subcommands; torch is not imported, since scans run in their own processes.

In `pargate audit WORD`, a word that is not a subcommand is an inventory.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pargate.cli.help import Group, examples
from pargate.cli.options import (
    DeviceOption,
    ExecutorOption,
    JsonOption,
    NoColorOption,
    NowOption,
    RayAddressOption,
    SeedOption,
    cache_folder,
    check_executor,
    read_outputs,
    read_shard,
)
from pargate.core.choices import Executor, FailOn
from pargate.errors import ExitCode, InputError, explain

if TYPE_CHECKING:
    from pargate.audit.ledger import Chain
    from pargate.cli.console import Console
    from pargate.core.audit import AuditIndex
    from pargate.events import Listener


class _InventoryFirst(Group):
    """A group whose first word is an inventory unless it names a command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read `audit INVENTORY …` as `audit run INVENTORY …`."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_InventoryFirst,
    no_args_is_help=True,
    rich_markup_mode=None,
    subcommand_metavar="INVENTORY.yaml --out DIR | COMMAND ...",
    help="Judge all models of an inventory, or show past audits.",
    epilog="pargate audit pargate-inventory.yaml --out audit\npargate audit trend audit",
)

FolderArgument = Annotated[
    Path, typer.Argument(metavar="DIR", help="The --out of an audit, or a folder with a ledger.", show_default=False)
]
LedgerOption = Annotated[
    Path | None,
    typer.Option(
        "--ledger",
        metavar="FOLDER",
        help="The folder of the ledger, if not DIR; such as a git branch.",
    ),
]
ModelOption = Annotated[str | None, typer.Option("--model", metavar="NAME", help="Only this model.")]


@app.command(
    **examples(
        "pargate audit pargate-inventory.yaml --out audit",
        "pargate audit pargate-inventory.yaml --out audit --fail-on new",
    )
)
def run(
    inventory: Annotated[
        Path,
        typer.Argument(metavar="INVENTORY.yaml", help="The models, as in docs/audit.md.", show_default=False),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Pages, reports and ledger; kept from one audit to the next.")
    ],
    ledger: LedgerOption = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, max=64, help="Scans at a time.")] = 1,
    fail_on: Annotated[
        FailOn,
        typer.Option("--fail-on", help="any: a model does not pass; new: a model is worse than in the last audit."),
    ] = FailOn.ANY,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    cache: Annotated[
        str | None,
        typer.Option(
            "--cache",
            envvar="PARGATE_CACHE",
            metavar="DIR|off",
            help="Folder of cached vectors; killed scans resume.",
        ),
    ] = None,
    executor: ExecutorOption = Executor.LOCAL,
    ray_address: RayAddressOption = None,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard", metavar="I/N", help="Judge each Nth model alone, from the Ith on; merge the shards later."
        ),
    ] = None,
    merge: Annotated[
        list[Path] | None,
        typer.Option(
            "--merge", metavar="DIR", help="Use the measurements of this audit, such as that of a shard; repeatable."
        ),
    ] = None,
    now: NowOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only models that do not pass, and errors.")] = False,
    no_color: NoColorOption = False,
) -> int:
    """Judge every model of INVENTORY; measure only the changed ones. The word `run` is optional.

    The exit code is that of the worst model: 1 if one fails; else 70, 5, 4 or 2 if one could not be judged; else 3 if
    one is inconclusive.
    """
    import os

    from pargate.audit.inventory import load
    from pargate.audit.run import AuditRequest, audit
    from pargate.cli.console import Console

    if str(inventory) in ("", "."):
        raise InputError("no inventory is given", "pargate audit INVENTORY.yaml --out DIR")
    check_executor(executor, ray_address)
    console = Console(quiet=quiet, verbose=False, color=not no_color)
    started = datetime.now(UTC)
    request = AuditRequest(
        inventory=load(inventory),
        out=out,
        ledger=ledger or out,
        started=started,
        today=now.date() if now else started.date(),
        now=lambda: datetime.now(UTC),
        jobs=jobs,
        fail_on=fail_on,
        seed=seed,
        device=device,
        cache=cache_folder(cache),
        processors=os.cpu_count() or 1,
        executor=executor,
        ray_address=ray_address,
        shard=read_shard(shard or "1/1"),
        parts=tuple(merge or ()),
    )
    signalled: list[ExitCode] = []
    with console.progress() as progress:
        listener = _listener(console, progress)
        index = audit(request, listener, on_interrupt=lambda signal: signalled.append(explain(signal).exit_code))
    _tell(index, console, out, quiet=quiet)
    return signalled[0] if signalled else ExitCode(index.exit_code)


def _listener(console: "Console", progress: "Listener") -> "Listener":
    """Return a listener that prints the scanned models, each verdict as it falls, the notices and the progress."""
    from pargate import events
    from pargate.report.text import plain

    progress(events.StageStarted("audit"))

    def listen(event: events.Event) -> None:
        match event:
            case events.StageStarted("scan", detail):
                console.note(f"scanning {plain(detail, 300)}")
            case events.Advanced():
                progress(event)
            case events.StageFinished("judge", detail):
                console.note(f"judged {plain(detail, 300)}")
            case events.Notice(message):
                console.say(plain(message))

    return listen


def _tell(index: "AuditIndex", console: "Console", out: Path, *, quiet: bool) -> None:
    from pargate.report.audit_html import conclusion
    from pargate.report.text import plain

    for state in index.models:
        if quiet and not state.exit_code:
            continue
        reused = " (nothing changed)" if state.reused else ""
        new = " [new]" if state.regression else ""
        console.lines([f"{state.standing:>12}  {plain(state.name, 100)}{reused}{new}: {plain(state.message, 400)}"])
        if state.hint:
            console.lines([f"              → {plain(state.hint, 400)}"])
        if state.overdue:
            console.lines([f"              overdue: {state.overdue}"])
    for name in index.gone:
        console.lines([f"        gone  {plain(name, 100)}: in the last audit, but not in the inventory"])
    console.lines([conclusion(index)])
    console.note(f"pages: {out / 'index.html'}; head of the ledger: {index.ledger_head}")


@app.command(**examples("pargate audit history audit --model my-clip"))
def history(
    folder: FolderArgument,
    ledger: LedgerOption = None,
    model: ModelOption = None,
    output: JsonOption = None,
    no_color: NoColorOption = False,
) -> None:
    """Print the entries of the ledger, oldest first."""
    from pargate.cli.console import Console
    from pargate.core.audit import ModelEntry
    from pargate.report.text import plain

    console = Console(quiet=False, verbose=False, color=not no_color)
    outputs = read_outputs(output, ["json"])
    entries = [e for e in _whole(ledger or folder).entries if model is None or getattr(e, "model", None) == model]
    if console.json(outputs, _text([entry.model_dump(mode="json") for entry in entries])):
        return
    for entry in entries:
        if isinstance(entry, ModelEntry):
            what = f"{entry.standing:<12}  {plain(entry.model, 100)}: {plain(entry.message, 300)}"
        else:
            counts = ", ".join(f"{n} {name}" for name, n in sorted(entry.standings.items()))
            what = f"{'audit ended':<12}  {counts}; exit code {entry.exit_code}"
        console.answer([f"{entry.sequence:>5}  {entry.time}  {what}"], 7)


@app.command(**examples("pargate audit trend audit -o json=trend.json"))
def trend(
    folder: FolderArgument,
    ledger: LedgerOption = None,
    model: ModelOption = None,
    output: JsonOption = None,
    no_color: NoColorOption = False,
) -> None:
    """Print verdicts, attack success and accuracy over the audits."""
    from pargate.cli.console import Console
    from pargate.core.audit import ModelEntry
    from pargate.report.audit_html import said
    from pargate.report.text import plain

    console = Console(quiet=False, verbose=False, color=not no_color)
    outputs = read_outputs(output, ["json"])
    by_name: dict[str, list[ModelEntry]] = {}
    for entry in _whole(ledger or folder).entries:
        if isinstance(entry, ModelEntry) and model in (None, entry.model):
            by_name.setdefault(entry.model, []).append(entry)
    fields = {"time", "standing", "attack", "accuracy"}
    shown = {name: [e.model_dump(mode="json", include=fields) for e in found] for name, found in by_name.items()}
    if console.json(outputs, _text(shown)):
        return
    for name, found in by_name.items():
        console.answer([plain(name, 100)], 2)
        for entry in found:
            about = f" by {plain(entry.attack.subject, 100)}" if entry.attack else ""
            numbers = f"attack success {said(entry.attack)}{about}; accuracy {said(entry.accuracy)}"
            console.answer([f"  {entry.time[:10]}  {entry.standing:<12}  {numbers}"], 14)


@app.command(**examples("pargate audit verify audit --head HASH"))
def verify(
    folder: FolderArgument,
    ledger: LedgerOption = None,
    head: Annotated[
        str | None,
        typer.Option(
            "--head", metavar="HASH", help="Digest of a line that you kept elsewhere; the line must still exist."
        ),
    ] = None,
    no_color: NoColorOption = False,
) -> int:
    """Check the ledger line by line, and the reports against it. The exit code is 1 if anything was changed."""
    import re

    from pargate.audit.ledger import unfitting
    from pargate.cli.console import Console
    from pargate.report.text import plain, plural

    if head is not None and not re.fullmatch(r"(sha256:)?[0-9a-f]{64}", head):
        raise InputError(
            f"--head {head[:80]} is not a SHA-256", "give the 64 hexadecimal digits that an audit prints at its end"
        )
    console = Console(quiet=False, verbose=False, color=not no_color)
    chain = _found(ledger or folder, head)
    kept = (folder / "reports").is_dir()
    flaws = [*chain.flaws, *(unfitting(folder, chain.entries) if kept else ())]
    console.lines(plain(f"✗ {flaw}", 600) for flaw in flaws)
    lines = plural(len(chain.digests), "line")
    if flaws:
        console.lines([f"{ledger or folder}: {plural(len(flaws), 'problem')} in {lines}."])
        return ExitCode.FAIL
    reports = "every report is unchanged" if kept else "there are no reports, so only the chain was checked"
    console.lines([f"{ledger or folder}: {lines}, the chain is intact; {reports}. Head: {chain.head}"])
    if head is None:
        console.note("  → A new chain can replace the ledger: keep the head elsewhere, and give it with --head")
    return ExitCode.OK


def _found(folder: Path, head: str | None = None) -> "Chain":
    """Return the ledger of a folder with its flaws."""
    from pargate.audit.ledger import HEAD, LEDGER, read

    if not (folder / LEDGER).exists() and not (folder / HEAD).exists():
        raise InputError(f"there is no ledger in {folder}", "give the --out or the --ledger of an audit")
    return read(folder, head=head)


def _whole(folder: Path) -> "Chain":
    from pargate.audit.ledger import sound

    _found(folder)
    return sound(folder)


def _text(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False)
