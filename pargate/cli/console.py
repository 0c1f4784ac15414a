"""The console: progress, tables and the verdict on a terminal, plain lines elsewhere.

Messages go to stderr; stdout gets only what `-o FORMAT` asks for.
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console as RichConsole
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from pargate import events
from pargate.errors import visible, visible_json
from pargate.files import write_atomic
from pargate.report.text import about, acceptance, by_id, compared_with, next_steps, plural, stages

if TYPE_CHECKING:
    from rich.style import Style

    from pargate.cli.options import Output
    from pargate.core.model import Checkpoint
    from pargate.core.provenance import ProvenanceRecord
    from pargate.core.report import ScanReport
    from pargate.core.results import Bound, Finding, Measurement, Verdict
    from pargate.doctor.checks import Diagnosis
    from pargate.release.verify import Verified
    from pargate.triggers import Trigger

PLAIN_EVERY_S = 10.0
"""Seconds between progress lines without a terminal."""

LOG_WIDTH = 240

WORDS = {
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

STYLES = {"breach": "bold red", "open": "yellow", "waived": "cyan", "met": "green"}
MARKS = {"breach": "✗ breach", "open": "? open", "waived": "○ waived", "met": "✓ met"}
CONDITIONS = {
    "good": ("✓", "green"),
    "notice": ("○", "cyan"),
    "warning": ("!", "yellow"),
    "broken": ("✗", "bold red"),
}
VERDICTS = {
    "pass": "bold white on green",
    "remediated": "bold white on green",
    "fail": "bold white on red",
    "inconclusive": "bold black on yellow",
}

SHOWN = 12
"""Maximum number of met rows without --verbose; other rows are always shown."""


class Shown(Text):
    """One line of text that is safe for a terminal and a log."""

    def __init__(self, text: str = "", style: str = "", **options: Any) -> None:
        """Escape `text` and make it one line."""
        super().__init__(visible(text), style, **options)

    def append(self, text: "Text | str", style: "str | Style | None" = None) -> "Shown":
        """Append text, escaped as well."""
        super().append(visible(text) if isinstance(text, str) else text, style)
        return self


class _Rich(RichConsole):
    def on_broken_pipe(self) -> None:
        """Print nothing more once the reader has ended; rich would end the process with 1."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


class Console:
    """The output of a command for people."""

    def __init__(self, *, quiet: bool, verbose: bool, color: bool) -> None:
        """Choose colours and width; colours are off under NO_COLOR, TERM=dumb, a pipe, or `color=False`."""
        plain = not color or bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
        self._quiet = quiet
        self._verbose = verbose
        # A pipe or a log has no width, so rows stay on one line.
        width = None if sys.stderr.isatty() else LOG_WIDTH
        # `no_color` alone leaves bold and dim.
        terminal = False if plain else None
        self._rich = _Rich(stderr=True, no_color=plain, force_terminal=terminal, highlight=False, width=width)
        self._live = sys.stderr.isatty() and not os.environ.get("CI") and not plain and not quiet

    def _print(self, text: str, style: str = "") -> None:
        self._rich.print(Shown(text, style=style))

    def note(self, text: str) -> None:
        """Print a line that -q leaves out."""
        if not self._quiet:
            self._print(text)

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
        return bool(targets)

    def answer(self, lines: Iterable[str]) -> None:
        """Print lines of text to stdout."""
        self.to_stdout("".join(f"{visible(line)}\n" for line in lines))

    @contextlib.contextmanager
    def progress(self) -> Iterator[events.Listener]:
        """Yield a listener that draws a bar on a terminal, and prints a line every ten seconds elsewhere."""
        if self._quiet:
            yield events.ignore
            return
        if not self._live:
            yield self._plain_listener()
            return
        columns = (
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(), TextColumn("{task.fields[bound]}"), TimeRemainingColumn(),
        )  # fmt: skip
        with Progress(*columns, console=self._rich, transient=True) as bar:
            task = bar.add_task("starting", total=None, note="", bound="")

            def listen(event: events.Event) -> None:
                match event:
                    case events.StageStarted(stage, detail):
                        bar.update(task, description=f"{WORDS.get(stage, stage)} {escape(visible(detail))}")
                    case events.Advanced(done, total, note):
                        bar.update(task, completed=done, total=total, note=escape(visible(note)), bound="at most")
                    case events.TrainStep(done, total):
                        bar.update(task, completed=done, total=total, note=_training(event), bound="")
                    case events.Notice(message):
                        bar.console.print(Shown(message))

            yield listen

    def _plain_listener(self) -> events.Listener:
        last = [time.monotonic()]

        def listen(event: events.Event) -> None:
            match event:
                case events.StageStarted(stage, detail) if self._verbose:
                    self._print(f"{WORDS.get(stage, stage)} {detail}")
                case events.Advanced(done, total, note, unit):
                    if time.monotonic() - last[0] >= PLAIN_EVERY_S:
                        last[0] = time.monotonic()
                        self._print(f"{unit} {done} of at most {total}: {note}")
                case events.TrainStep(done, total):
                    if time.monotonic() - last[0] >= PLAIN_EVERY_S or done == total:
                        last[0] = time.monotonic()
                        self._print(f"step {done} of {total}: {_training(event)}")
                case events.Notice(message):
                    self._print(message)

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

    def report(self, report: "ScanReport") -> None:
        """Print the table, the summary and the next steps of a report."""
        if not self._quiet:
            for line in _subject(report):
                self._print(line, style="dim")
            self._rich.print(self._table(report))
            for notice in report.notices:
                self._print(f"note: {notice}", style="yellow")
            for remark in report.remarks:
                self._print(f"{remark.id}: {remark.message}", style="yellow")
            for finding in report.findings:
                if finding.waiver is not None:
                    self._print(f"waived: {finding.rule}: {acceptance(finding)}", style="cyan")
        self._rich.print(_verdict(report.verdict).append(f" {report.verdict.summary}"))
        if not self._quiet:
            for step in next_steps(report):
                self._print(f"  → {step}")

    def gated(self, report: "ScanReport", folder: Path | None) -> None:
        """Print the stages of a gate and the folder of the bundle."""
        if not self._quiet:
            for stage, said in stages(report):
                self._rich.print(Shown(f"{stage:>12}  ", style="dim").append(said, style="default"))
        if folder is None:
            self._print("no bundle was written")
        else:
            self._print(f"bundle: {folder}")
            if not self._quiet:
                self._print(f"  → pargate verify {folder}")

    def verified(self, found: "Verified", key: Path | None = None) -> None:
        """Print the result of verifying a bundle; `key` is the public key that its signature was checked with."""
        for problem in found.problems:
            self._rich.print(Shown("✗ ", style=STYLES["breach"]).append(problem, style="default"))
        line = Shown()
        if found.problems:
            line.append(" REFUSED ", style=VERDICTS["fail"])
            line.append(f" {found.folder}: {plural(len(found.problems), 'problem')}.")
        elif found.verdict is not None:
            line = _verdict(found.verdict)
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
            ("sha256", checkpoint.sha256),
            ("format", f"{checkpoint.format}, {checkpoint.size_bytes / 1e6:.1f} MB"),
            ("architecture", checkpoint.architecture),
            ("tensors", f"{len(checkpoint.tensors)} ({', '.join(dtypes)})"),
            ("parameters", f"{checkpoint.parameters / 1e6:.2f} M"),
            ("embedding", f"{checkpoint.dim} values"),
            ("activation", checkpoint.activation or "gelu or quick_gelu: the checkpoint does not say"),
            ("images", str(checkpoint.preprocess)),
            ("given by", checkpoint.preprocess_from),
            ("captions", f"{checkpoint.context_length} tokens, tokenizer {checkpoint.tokenizer}"),
        ):
            self._rich.print(Shown(f"{name:>12}  ", style="dim").append(value, style="default"))

    def diagnosis(self, found: "Diagnosis") -> None:
        """Print what the machine has, and what works on it."""
        width = max(len(fact.subject) for fact in found.facts)
        for fact in found.facts:
            mark, style = CONDITIONS[fact.condition]
            line = Shown(f"{mark} ", style=style).append(f"{fact.subject:<{width}}  ", style="dim")
            self._rich.print(line.append(fact.message, style="default"))
            if fact.hint:
                self._print(f"  {'':<{width}}  → {fact.hint}")
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

    def _table(self, report: "ScanReport") -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name, justify in (
            ("", "left"), ("rule", "left"), ("trigger → target", "left"), ("measured", "left"),
            ("interval", "right"), ("limit", "right"), ("n", "right"),
        ):  # fmt: skip
            table.add_column(name, justify=justify)  # type: ignore[arg-type]  # one of rich's literals
        measurements = by_id(report)
        met = 0
        for finding in report.findings:
            if finding.status == "met":
                met += 1
                if met > SHOWN and not self._verbose:
                    continue
            for row in _rows(finding, measurements):
                table.add_row(Shown(MARKS[finding.status], style=STYLES[finding.status]), *map(Shown, row))
        if met > SHOWN and not self._verbose:
            table.add_row("", Shown(f"and {met - SHOWN} more met; -v lists them", style="dim"))
        return table


def _verdict(verdict: "Verdict") -> Shown:
    return Shown().append(f" {verdict.status.upper()} ", style=VERDICTS[verdict.status])


def _subject(report: "ScanReport") -> Iterator[str]:
    model, run = report.model, report.run
    if not report.measurements:
        yield model.source
        yield f"policy {report.policy.name}; nothing was loaded or measured"
        return
    reference = f", {compared_with(report)} {report.reference.source}" if report.reference else ""
    yield f"{model.source}  {model.architecture}, {model.parameters / 1e6:.1f} M parameters, sha256 {model.sha256[:12]}"
    yield (
        f"policy {report.policy.name} ({report.policy.source}){reference}; "
        f"{report.images.read} of {report.images.listed} images from "
        f"{report.images.source}, {report.classes.count} classes; {run.forward_passes} forward passes in "
        f"{run.seconds:.1f} s ({run.device}, {run.precision})"
    )


def _rows(finding: "Finding", measurements: "dict[str, Measurement]") -> Iterator[tuple[str, ...]]:
    measurement = measurements.get(finding.measurement or "")
    if not finding.bounds:
        yield finding.rule, finding.message, "", "", "", ""
    for bound in finding.bounds:
        yield (
            finding.rule, about(finding, measurements), _measured(bound, measurement), _interval(bound),
            f"{'≤' if bound.upper else '≥'} {bound.limit_text}", str(bound.n),
        )  # fmt: skip


def _measured(bound: "Bound", measurement: "Measurement | None") -> str:
    name = bound.metric.replace("_", " ")
    if bound.estimate is not None:
        text = f"{name} {bound.estimate:.1%}"
        if bound.metric == "excess" and measurement is not None and measurement.pairs is not None:
            text += f" (success {measurement.counts['attack_success'].rate or 0.0:.1%})"
        return text
    success = measurement.counts.get("attack_success") if measurement is not None else None
    rate = success.rate if success is not None else None
    return f"{name} below success {rate:.1%}" if rate is not None else f"{name} not measured"


def _interval(bound: "Bound") -> str:
    low = "" if bound.estimate is None else f"{bound.low:.1%}"
    return f"{low} … {bound.high:.1%}"


def _training(step: events.TrainStep) -> str:
    """Return the state of a training in a few numbers."""
    shown = {"loss": "loss", "image_shift": "images moved", "text_shift": "captions moved"}
    parts = [f"{label} {step.terms[name]:.2f}" for name, label in shown.items() if name in step.terms]
    return ", ".join([*parts, f"{step.pairs_per_second:.0f} pairs/s"])
