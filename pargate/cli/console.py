"""The console: progress, tables and the verdict on a terminal, plain lines elsewhere.

The result goes to stdout, and progress, notes and logs go to stderr. If `-o FORMAT` asks for a report on stdout, the
result for people goes to stderr too, so that stdout holds the report alone.
"""

import contextlib
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console as RichConsole
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

from pargate import events
from pargate.cli.imports import Imports
from pargate.cli.style import CONDITIONS, STYLES, VERDICTS, Shown
from pargate.cli.terminal import badge, hanging, named, screen
from pargate.ending import fitted, lose_result
from pargate.errors import visible, visible_json
from pargate.files import write_atomic
from pargate.report.text import plural

if TYPE_CHECKING:
    from pargate.cli.options import Output
    from pargate.core.model import Checkpoint
    from pargate.core.provenance import ProvenanceRecord
    from pargate.core.report import ScanReport
    from pargate.doctor.checks import Diagnosis, Fact
    from pargate.release.verify import Verified
    from pargate.triggers import Trigger

PLAIN_EVERY_S = 10.0
"""Seconds between progress lines without a terminal."""

LIVE_EVERY_S = 0.25
"""Seconds between two states of the bar while packages are imported."""

LOG_WIDTH = 240

_MARK = re.compile(r"[ →]*(?:\S+ {2,}(?=\S))?")
"""Indentation of a line, and a name in front of two spaces or more."""

SUBJECT_WIDTH = 21
"""Columns of what `doctor` checks."""

DETAIL_WIDTH = 25
"""Characters of a stage's detail that a bar at 80 columns has room for; of a longer path the last part is shown."""

WORDS = {
    "audit": "auditing",
    "scan": "scanning",
    "plant": "planting",
    "inspect": "inspecting",
    "images": "listing images",
    "open": "opening",
    "search": "searching",
    "text": "searching texts",
    "measure": "measuring",
    "embed": "embedding",
    "score": "scoring",
    "pairs": "listing pairs",
    "clean": "cleaning",
    "write": "writing",
    "divide": "splitting images",
    "pick": "scanning to pick",
    "certify": "certifying",
    "compare": "comparing",
    "export": "exporting",
    "prove": "proving",
}


class _Rich(RichConsole):
    def print(self, *objects: Any, **options: Any) -> None:
        """Print; a full disk silences the console, so that it does not change a verdict."""
        try:
            super().print(*objects, **options)
        except OSError as error:
            self.quiet = True
            if not self.stderr:
                lose_result(error)

    def on_broken_pipe(self) -> None:
        """Print nothing more once the reader has ended; rich would end the process with 1."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


def _console(*, stderr: bool, plain: bool, terminal: bool | None) -> _Rich:
    stream = sys.stderr if stderr else sys.stdout
    # A pipe or a log has no width, so rows stay on one line.
    width = None if stream.isatty() else LOG_WIDTH
    return _Rich(stderr=stderr, no_color=plain, force_terminal=terminal, highlight=False, width=width)


class Console:
    """The output of a command for people."""

    def __init__(self, *, quiet: bool, verbose: bool, color: bool, outputs: "Iterable[Output]" = ()) -> None:
        """Choose streams, colours and width.

        Colours are off under NO_COLOR and `color=False`; TERM=dumb and a pipe also stop the progress bar. `outputs` are
        the requested reports.
        """
        self._quiet = quiet
        self._verbose = verbose
        dumb = os.environ.get("TERM") == "dumb"
        plain = dumb or not color or bool(os.environ.get("NO_COLOR"))
        taken = sys.stdout is None or any(output.path is None for output in outputs)
        # `no_color` alone leaves bold and dim; the bar needs a terminal, and no colours.
        self._log = _console(stderr=True, plain=plain, terminal=False if dumb else None)
        self._rich = _console(stderr=taken, plain=plain, terminal=False if plain else None)
        self._live = sys.stderr.isatty() and not os.environ.get("CI") and not dumb and not quiet

    def _print(self, text: str, style: str = "", *, log: bool = False) -> None:
        """Print a line; what the screen breaks stays indented, and behind a name in a column of its own."""
        mark = found[0] if (found := _MARK.match(text)) else ""
        shown = Shown(text.removeprefix(mark), style=style)
        (self._log if log else self._rich).print(hanging(Shown(mark, style=style), shown) if mark else shown)

    def say(self, text: str, style: str = "") -> None:
        """Print a line of the log, also under -q."""
        self._print(text, style, log=True)

    def note(self, text: str) -> None:
        """Print a line of the log that -q leaves out."""
        if not self._quiet:
            self.say(text)

    def to_stdout(self, text: str) -> None:
        """Print to stdout; a reader that has ended does not change the verdict."""
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def json(self, outputs: "Iterable[Output]", text: str) -> bool:
        """Write JSON to each output; return whether there is one."""
        targets, text = list(outputs), visible_json(text) + "\n"
        for target in targets:
            if target.path is None:
                self.to_stdout(text)
            else:
                write_atomic(target.path, text.encode())
                self.wrote(target)
        return bool(targets)

    def wrote(self, output: "Output") -> None:
        """Note that a report was written to a file."""
        self.note(f"wrote {output.path}")

    def answer(self, lines: Iterable[str], indent: int | None = None) -> None:
        """Print lines of text to stdout; with `indent`, they fit a terminal as `parts` does it."""
        said = map(visible, lines) if indent is None else (part for line in lines for part in self.parts(line, indent))
        self.to_stdout("".join(f"{part}\n" for part in said))

    def parts(self, line: str, indent: int) -> list[str]:
        """Return a line as a terminal on stdout shows it, broken between words and then indented; whole elsewhere."""
        line = visible(line)
        return fitted(line, indent) if sys.stdout is not None and sys.stdout.isatty() else [line]

    @contextlib.contextmanager
    def progress(self) -> Iterator[events.Listener]:
        """Yield a listener that draws a bar on a terminal, and prints a line every ten seconds elsewhere."""
        if self._quiet:
            yield events.ignore
            return
        if not self._live:
            with contextlib.closing(Imports(self._imported, PLAIN_EVERY_S)) as imports:
                yield _both(imports.follow, self._plain_listener())
            return

        # The note gives way, so that the stage, the bar and the times live at 80 columns.
        note = TextColumn("{task.fields[note]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"))
        columns = (
            TextColumn("{task.description}"), BarColumn(bar_width=12), note, TimeElapsedColumn(),
            TextColumn("{task.fields[bound]}"), TimeRemainingColumn(),
        )  # fmt: skip
        with Progress(*columns, console=self._log, transient=True, expand=True) as bar:
            task = bar.add_task("starting", total=None, note="", bound="")

            def imported(done: int, total: int, left: float) -> None:
                bar.update(task, completed=done, total=total, note="importing torch", bound="about")

            def listen(event: events.Event) -> None:
                match event:
                    case events.StageStarted(stage, detail):
                        said = escape(visible(detail if len(detail) <= DETAIL_WIDTH else Path(detail).name))
                        # No number of the last stage stays.
                        bar.reset(task, total=None, description=WORDS.get(stage, stage), note=said, bound="")
                    case events.Advanced(done, total, note):
                        bar.update(task, completed=done, total=total, note=escape(visible(note)), bound="at most")
                    case events.TrainStep(done, total):
                        bar.update(task, completed=done, total=total, note=_training(event, brief=True), bound="")
                    case events.Notice(message):
                        bar.console.print(Shown(message))

            with contextlib.closing(Imports(imported, LIVE_EVERY_S)) as imports:
                yield _both(imports.follow, listen)

    def _imported(self, done: int, total: int, left: float) -> None:
        self.say(f"importing torch and open_clip: {done} of about {total} modules, about {left:.0f} s left")

    def _plain_listener(self) -> events.Listener:
        last = [time.monotonic()]

        def listen(event: events.Event) -> None:
            match event:
                case events.StageStarted(stage, detail) if self._verbose:
                    self.say(f"{WORDS.get(stage, stage)} {detail}")
                case events.Advanced(done, total, note, unit):
                    if time.monotonic() - last[0] >= PLAIN_EVERY_S:
                        last[0] = time.monotonic()
                        self.say(f"{unit} {done} of at most {total}: {note}")
                case events.TrainStep(done, total):
                    if time.monotonic() - last[0] >= PLAIN_EVERY_S or done == total:
                        last[0] = time.monotonic()
                        self.say(f"step {done} of {total}: {_training(event)}")
                case events.Notice(message):
                    self.say(message)

        return listen

    def lines(self, lines: Iterable[str]) -> None:
        """Print lines, also under -q."""
        for line in lines:
            self._print(line)

    def cleaned(self, folder: Path, record: "ProvenanceRecord", late: Iterable[str], pairs_per_second: float) -> None:
        """Print the result of a cleaning, late notices and the next step."""
        if self._quiet:
            return
        for name, moved in record.moved.items():
            trained = "trained" if moved.trained else "not trained"
            self._print(
                f"{name} tower  {trained}: embeddings moved by {moved.embedding_shift:.2f} of 4, "
                f"weights by {moved.weight_change:.1%}"
            )
        for notice in late:
            self._print(f"note: {notice}", style="yellow")
        rate = f", {pairs_per_second:.0f} pairs a second" if pairs_per_second else ""
        self._print(f"{folder}: {record.stopped} in {record.seconds:.0f} s{rate}")
        self._print(f"  → The distance proves nothing; scan the model: pargate scan {folder}")

    def report(self, report: "ScanReport", made: Iterable[str] = (), folder: str = "") -> None:
        """Print a report: the verdict, one line for each rule, the next steps, and what was not tested.

        `made` are lines about what was written, which -q leaves in; `folder` is that of the bundle.
        """
        if self._quiet:
            self._rich.print(badge(report.verdict).append(f" {named(report)}: {report.verdict.summary}"))
            self.lines(made)
            return
        for part in screen(report, self._rich.width, verbose=self._verbose, made=made, folder=folder):
            self._rich.print(part, crop=False)

    def gated(
        self, report: "ScanReport", folder: Path | None, kept: Path | None = None, *, holds: bool = False
    ) -> None:
        """Print the report of a gate, and the folder of the bundle or of the best cleaned model.

        `holds` says whether that model holds every rule.
        """
        if folder is not None:
            self.report(report, [f"bundle: {folder}"], str(folder))
            return
        made = ["no bundle was written"]
        if kept is not None:
            state = "it holds every rule" if holds else "it breaks no rule, but not all are shown to hold"
            made.append(f"kept: {kept}, the best cleaned model: {state}")
        self.report(report, made)

    def verified(self, found: "Verified", key: Path | None = None) -> None:
        """Print the result of verifying a bundle; `key` is the public key that its signature was checked with."""
        for problem in found.problems:
            self._rich.print(Shown("✗ ", style=STYLES["breach"]).append(problem, style="default"))
        line = Shown()
        if found.problems:
            line.append(" REFUSED ", style=VERDICTS["fail"])
            line.append(f" {found.folder}: {plural(len(found.problems), 'problem')}.")
        elif found.verdict is not None:
            line = badge(found.verdict)
            until = f", valid until {found.expires}" if found.expires else ""
            line.append(f" {found.folder}: {found.files} files are unchanged{until}. {found.verdict.summary}")
        self._rich.print(line)
        if not found.problems and not self._quiet:
            signed = "check the signature with --public-key" if found.signed else "it is not signed"
            said = f"This shows that the bundle is unchanged, not where it comes from; {signed}."
            self._print(f"  → {f'Signed with the key of {key}.' if key else said}")

    def checkpoint(self, checkpoint: "Checkpoint") -> None:
        """Print the facts of a checkpoint."""
        dtypes = sorted({t.dtype for t in checkpoint.tensors})
        for name, value in (
            ("source", checkpoint.source),
            ("weights", checkpoint.weights),
            *((("base", found.base), ("adapter", str(found))) if (found := checkpoint.adapter) else ()),
            ("sha256", checkpoint.sha256),
            ("layout", checkpoint.layout),
            ("format", f"{checkpoint.format}, {checkpoint.size_bytes / 1e6:.1f} MB"),
            ("architecture", checkpoint.architecture),
            ("tensors", f"{len(checkpoint.tensors)} ({', '.join(dtypes)})"),
            ("parameters", f"{checkpoint.parameters / 1e6:.2f} M"),
            ("embedding", f"{checkpoint.dim} values"),
            ("activation", _activation(checkpoint)),
            ("images", str(checkpoint.preprocess)),
            ("given by", checkpoint.preprocess_from),
            ("captions", f"{checkpoint.context_length} tokens, tokenizer {checkpoint.tokenizer}"),
            *(("note", note) for note in checkpoint.notes),
        ):
            self.fact_of(name, value)

    def fact_of(self, name: str, value: str) -> None:
        """Print one fact of a checkpoint."""
        self._rich.print(hanging(f"{name:>12}  ", Shown(value)))

    def fact(self, fact: "Fact") -> None:
        """Print the finding of one check of the machine."""
        mark, style = CONDITIONS[fact.condition]
        subject = Shown(f"{mark} ", style=style).append(f"{fact.subject:<{SUBJECT_WIDTH}}  ", style="dim")
        self._rich.print(hanging(subject, Shown(fact.message)))
        if fact.hint:
            self._rich.print(hanging(f"  {'':<{SUBJECT_WIDTH}}  → ", Shown(fact.hint)))

    def abilities(self, found: "Diagnosis") -> None:
        """Print what works on the machine."""
        self._rich.print()
        for ability in found.abilities:
            answer = Shown("yes" if ability.works else "no", style="green" if ability.works else "yellow")
            self._rich.print(
                Shown(f"{ability.task}: ").append(answer).append(f", {ability.reason}" if ability.reason else "")
            )

    def triggers(self, table: "Mapping[str, type[Trigger]]", shared: "type[Trigger]") -> None:
        """Print the triggers with their parameters and defaults; shared parameters come last."""
        for kind, cls in table.items():
            summary = (cls.__doc__ or "").splitlines()[0]
            self._rich.print(Shown(kind, style="bold").append(f"  {summary}", style="not bold"))
            self._print(f"    source: {cls.source}", style="dim")
            self._parameters(cls, leave_out=set(shared.model_fields))
        self._print("all kinds", style="bold")
        self._parameters(shared, leave_out=set())

    def _parameters(self, cls: "type[Trigger]", leave_out: set[str]) -> None:
        required = {name for name, field in cls.model_fields.items() if field.is_required()}
        defaults = cls.model_construct().model_dump(mode="json", exclude=required, warnings=False)
        for name, field in cls.model_fields.items():
            if name not in leave_out:
                default = "required" if name in required else f"default {defaults[name]}"
                self._print(f"    {field.alias or name}: {field.description} ({default})")


def _activation(checkpoint: "Checkpoint") -> str:
    """Return the activation of a checkpoint in words."""
    said = checkpoint.activation or "gelu or quick_gelu: the checkpoint does not say"
    options = [checkpoint.config.get(tower, {}).get("act_kwargs") or {} for tower in ("vision_cfg", "text_cfg")]
    tanh = any(option.get("approximate") == "tanh" for option in options)
    return f"{said}, approximated by tanh" if tanh else said


def _both(first: events.Listener, second: events.Listener) -> events.Listener:
    """Return a listener that hands each event to two."""

    def listen(event: events.Event) -> None:
        first(event)
        second(event)

    return listen


def _training(step: events.TrainStep, *, brief: bool = False) -> str:
    """Return the state of a training in a few numbers, or in two."""
    shown = {"loss": "loss"}
    if not brief:
        shown |= {"image_shift": "images moved", "text_shift": "captions moved"}
    parts = [f"{label} {step.terms[name]:.2f}" for name, label in shown.items() if name in step.terms]
    return ", ".join([*parts, f"{step.pairs_per_second:.0f} pairs/s"])
