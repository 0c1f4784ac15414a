"""The commands `policy check`, `show`, `init`, `schema`, `diff` and `test`, and `explain`; they need no torch."""

import os
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pargate.cli import complete
from pargate.cli.help import examples, group_examples
from pargate.cli.options import NoColorOption, NowOption, PolicyRefOption
from pargate.cli.reports import reader_at
from pargate.errors import ExitCode, InputError, PolicyError, nearest, together, visible

if TYPE_CHECKING:
    from pargate.cli.console import Console
    from pargate.core.report import ScanReport
    from pargate.policy.explain import Entry
    from pargate.policy.resolve import Resolved
    from pargate.policy.schema import Expected, Policy, Rule

app = typer.Typer(
    help="Write, review and test policies.",
    no_args_is_help=True,
    rich_markup_mode=None,
    **group_examples("pargate policy init", "pargate policy check", "pargate policy show --resolved strict"),
)

PolicyArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[POLICY]",
        autocompletion=complete.policies,
        help="A YAML file or a built-in name. Default: pargate.yaml here or above in the repository, else baseline.",
        show_default=False,
    ),
]


@app.command(**examples("pargate policy check", "pargate policy check pargate.yaml other.yaml"))
def check(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE]...", autocompletion=complete.policies, help="Policies. Default: that of a scan here."
        ),
    ] = None,
    now: NowOption = None,
    policy_ref: PolicyRefOption = None,
    no_color: NoColorOption = False,
) -> None:
    """List all problems of policies.

    The exit code is 4 if any of them is invalid or no longer valid.
    """
    from pargate.policy.resolve import refuse_expired, resolve

    console = _console(no_color)
    today = _today(now)
    reader = reader_at(policy_ref)
    problems = []
    names: list[str | None] = [*files] if files else [None]
    for name in names:
        try:
            resolved = resolve(name, reader)
            refuse_expired(resolved, today)
        except PolicyError as error:
            problems.append(error)
        else:
            console.lines([_summary(resolved, today)])
    if problems:
        raise together(problems)


def _summary(resolved: "Resolved", today: date) -> str:
    from pargate.report.text import plural

    policy = resolved.policy
    expired = sum(today > waiver.expires for waiver in policy.waivers)
    counts = [
        plural(len(policy.rules), "rule"),
        plural(len(policy.comparisons), "comparison"),
        plural(len(policy.waivers), "waiver") + (f" ({expired} expired)" if expired else ""),
    ]
    if resolved.overrides:
        counts.append(plural(len(resolved.overrides), "override"))
    return f"✓ {resolved.source}: {policy.name}, {', '.join(counts)}"


@app.command(**examples("pargate policy show strict", "pargate policy show --resolved pargate.yaml"))
def show(
    policy: PolicyArgument = None,
    resolved: Annotated[
        bool,
        typer.Option("--resolved", help="With extended policies, defaults and the origin of each value."),
    ] = False,
    policy_ref: PolicyRefOption = None,
    no_color: NoColorOption = False,
) -> None:
    """Print a policy, as written or resolved."""
    from pargate.policy.layers import decode, locate
    from pargate.policy.print import listed
    from pargate.policy.resolve import resolve

    reader = reader_at(policy_ref)
    found = resolve(policy, reader)
    if resolved:
        text = listed(found)
    else:
        source, content, _ = locate(found.source, reader)
        text = decode(content, source)
    _console(no_color).answer(text.splitlines())


@app.command(
    **examples("pargate policy init", "pargate policy init --yes --extends strict --images val/ --classes classes.txt")
)
def init(
    path: Annotated[Path, typer.Argument(metavar="[PATH]", help="The file to write.")] = Path("pargate.yaml"),
    name: Annotated[str | None, typer.Option("--name", help="Name of the policy; default: that of the folder.")] = None,
    extends: Annotated[
        str | None,
        typer.Option(
            "--extends",
            metavar="POLICY",
            autocompletion=complete.policies,
            help="The policy to extend: a built-in name or a path.",
        ),
    ] = None,
    images: Annotated[
        str | None, typer.Option("--images", metavar="SOURCE", help="Images; default: those of the extended policy.")
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option("--classes", metavar="FILE", help="Class names, one per line; default as for --images."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; use the options and the defaults.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    no_color: NoColorOption = False,
) -> None:
    """Write a first policy. On a terminal it asks for missing options, unless --yes is given."""
    from pargate.files import check_writable, write_atomic
    from pargate.policy.draft import draft
    from pargate.policy.layers import BUILTIN, shipped
    from pargate.policy.resolve import DEFAULT, WORKING_FILES, read

    if path.name in WORKING_FILES:
        for other in (path.with_name(name) for name in WORKING_FILES if name != path.name):
            if other.exists():
                raise InputError(f"{other} exists, and a folder may have one policy only", "change that one")
    if path.exists() and not force:
        raise InputError(f"{path} exists already", "choose another name, or replace it with --force")
    check_writable(path)
    own = path.absolute().parent.name or "model"
    if not yes and sys.stdin.isatty() and sys.stderr.isatty():
        name = name or typer.prompt("Name of the policy", default=own, err=True)
        extends = extends or typer.prompt(f"Extend which policy ({', '.join(shipped())})", default=DEFAULT, err=True)
        images = images or typer.prompt("Images, labelled if possible (empty: drawn scenes)", default="", err=True)
        classes = classes or typer.prompt("File of class names (empty: common nouns)", default="", err=True)
    parent = extends or DEFAULT
    parent = f"{BUILTIN}{parent}" if parent in shipped() else _moved(parent, path)
    text = draft(name or own, parent, images and _moved(images, path), classes and _moved(classes, path))
    read(text, str(path), path.parent)
    write_atomic(path, text.encode())
    console = _console(no_color)
    for source in (images, classes):
        if source and _is_absent(source):
            console.note(f"note: {source} is not here yet; a scan needs it")
    console.note(f"wrote {path}; try: pargate policy show --resolved {path}")


def _is_absent(source: str) -> bool:
    """Return whether a source of images or classes is a path that does not exist."""
    from pargate.images.paths import expand

    try:
        return ":" not in source and not expand(source)
    except InputError:
        return True


def _moved(value: str, path: Path) -> str:
    """Return a path relative to the policy at `path`; names such as builtin:scenes stay."""
    if ":" in value or Path(value).is_absolute():
        return value
    return Path(os.path.relpath(value, path.parent)).as_posix()


@app.command(**examples("pargate policy schema > pargate-policy-1.schema.json"))
def schema(no_color: NoColorOption = False) -> None:
    """Print the JSON Schema of policies, for editors."""
    from pargate.policy.jsonschema import text

    _console(no_color).to_stdout(text())


@app.command(
    **examples(
        "pargate policy diff baseline pargate.yaml", "pargate policy diff pargate.yaml pargate.yaml --policy-ref main"
    )
)
def diff(
    old: Annotated[
        str, typer.Argument(metavar="OLD", autocompletion=complete.policies, help="A YAML file or a built-in name.")
    ],
    new: Annotated[
        str, typer.Argument(metavar="NEW", autocompletion=complete.policies, help="The policy to compare it with.")
    ],
    policy_ref: Annotated[
        str | None, typer.Option("--policy-ref", metavar="GITREF", help="Read OLD from this git ref.")
    ] = None,
    no_color: NoColorOption = False,
) -> ExitCode:
    """Show what in NEW is tighter, looser or otherwise different.

    Both are resolved before they are compared. The exit code is 1 if anything is looser.
    """
    from pargate.policy.compare import changes
    from pargate.policy.resolve import resolve

    console = _console(no_color)
    found = changes(resolve(old, reader_at(policy_ref)).policy, resolve(new).policy)
    found.sort(key=lambda change: ("looser", "tighter", "other").index(change.direction))
    colour = {"looser": "red", "tighter": "green", "other": "yellow"}
    plain = no_color or bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    coloured = not plain and sys.stdout is not None and sys.stdout.isatty()
    width = max((len(change.name) for change in found), default=0)
    for change in found:
        values = f"{change.old or 'not set'} → {change.new or 'gone'}"
        first, *others = console.parts(f"{change.direction:<7}  {change.name:<{width}}  {values}", 11)
        if others:  # the values that the terminal would break begin on a line of their own
            first, others = visible(f"{change.direction:<7}  {change.name}"), console.parts(f"{'':11}{values}", 11)
        if coloured:
            first = typer.style(first[:7], fg=colour[change.direction]) + first[7:]
        console.to_stdout("".join(f"{part}\n" for part in (first, *others)))
    if not found:
        console.note("no difference affects a verdict")
    return ExitCode.FAIL if any(change.direction == "looser" for change in found) else ExitCode.OK


# --- tests of policies -------------------------------------------------------------------------------


@app.command(**examples("pargate policy test pargate.yaml"))
def test(
    policy: PolicyArgument = None,
    now: NowOption = None,
    policy_ref: PolicyRefOption = None,
    no_color: NoColorOption = False,
) -> ExitCode:
    """Run a policy's own tests.

    Each stored report under `tests` is judged again and compared with the expected verdict. The exit code is 1 if any
    test fails, and 2 if there are none.
    """
    from pargate.cli.reports import load_report, open_policy
    from pargate.judge.judging import Judging
    from pargate.judge.rejudge import judge
    from pargate.report.text import plural, started

    console = _console(no_color)
    resolved, reader = open_policy(policy, policy_ref, _today(now), console)
    if not resolved.policy.tests:
        raise InputError(
            f"the policy {resolved.policy.name} has no tests",
            "list stored reports under `tests`, each with its expected verdict",
        )
    failed = 0
    for case in resolved.policy.tests:
        saved = load_report(resolved.folder / case.report, reader)
        day = case.now or started(saved).date()
        judged = judge(saved, Judging(resolved, day))
        wrong = list(_mismatches(judged, case.expect, resolved.policy))
        failed += bool(wrong)
        console.lines([f"{'✗' if wrong else '✓'} {case.report} as of {day}: {judged.verdict.status}", *wrong])
    console.lines(
        [f"{len(resolved.policy.tests) - failed} of {plural(len(resolved.policy.tests), 'test')} as expected"]
    )
    return ExitCode.FAIL if failed else ExitCode.OK


def _mismatches(judged: "ScanReport", expected: "Expected", policy: "Policy") -> list[str]:
    """Return the differences from the expected results, one line each."""
    found = []
    if expected.verdict and judged.verdict.status != expected.verdict:
        found.append(f"    verdict: expected {expected.verdict}, got {judged.verdict.status}")
    known = [rule.id for rule in policy.rules]
    for rule, wanted in expected.rules.items():
        if rule not in known:
            found.append(f"    {rule}: expected {wanted}, but there is no such rule.{nearest(rule, known)}")
            continue
        status, message = _rule_status(judged, rule)
        if status != wanted:
            found.append(f"    {rule}: expected {wanted}, got {status}. {message}")
    return found


def _rule_status(judged: "ScanReport", rule: str) -> tuple[str, str]:
    """Return the result of a rule as a whole, and the message of the deciding finding."""
    from pargate.core.results import Status

    words = {Status.BREACH: "fail", Status.OPEN: "inconclusive", Status.WAIVED: "waived", Status.MET: "pass"}
    own = [finding for finding in judged.findings if finding.rule == rule]
    for status, word in words.items():
        for finding in own:
            if finding.status is status:
                return word, finding.message
    return "inconclusive", "The report has no such rule."


# --- explain -----------------------------------------------------------------------------------------


def explain(
    rule: Annotated[str, typer.Argument(metavar="ID", help="A rule, or any other id in a report.")],
    policy: Annotated[
        str | None,
        typer.Option(
            "--policy",
            "-p",
            metavar="POLICY",
            autocompletion=complete.policies,
            help="The policy of the rule. Default: as for scan.",
        ),
    ] = None,
    no_color: NoColorOption = False,
) -> None:
    """Explain what a rule or finding means, and what to do."""
    from pargate.policy.explain import entries
    from pargate.policy.resolve import resolve

    known = entries()
    rules: dict[str, Rule] = {}
    try:
        rules = {found.id: found for found in resolve(policy).policy.rules}
    except PolicyError:
        # A broken pargate.yaml must not stop the explanation of a remark.
        if policy is not None or rule not in known:
            raise
    if rule in rules:
        lines = _explained(rules[rule], known.get(rule) if policy is None else None)
    elif rule in known:
        entry = known[rule]
        lines = [f"{rule} ({entry.kind})", *_entry(rule, entry)]
    else:
        raise InputError(
            f"unknown id '{rule[:80]}'.{nearest(rule, [*rules, *known])}",
            "for a rule of your own: pargate explain ID -p POLICY",
        )
    _console(no_color).answer(lines, 2)


def _explained(rule: "Rule", entry: "Entry | None") -> list[str]:
    """Return a rule in the words of its policy, then the explanation of the shipped rule or of its probe."""
    from pargate.policy.explain import entries
    from pargate.report.text import plain

    lines = [f"{rule.id} (rule, {rule.severity})"]
    lines += [f"why: {plain(rule.why)}"] if rule.why else []
    # One line for each trigger, since a pack can bring many.
    lines += [f"puts on the images: {plain(trigger.label, 200)}" for trigger in rule.parsed]
    lines += [f"holds if {metric.replace('_', ' ')} is at most {limit.text}" for metric, limit in rule.max.items()]
    lines += [f"holds if {metric.replace('_', ' ')} is at least {limit.text}" for metric, limit in rule.min.items()]
    lines += [
        f"holds if {metric.replace('_', ' ')} is at most {limit.text} worse than before"
        for metric, limit in rule.worsening.items()
    ]
    if rule.allow is not None:
        extra = [name for name in ("pickle", "custom_ops") if getattr(rule.allow, name)]
        lines.append(f"allows {', '.join((*rule.allow.formats, *extra))}")
    lines += [f"holds if the model is signed by {plain(rule.signed_by.brief)}"] if rule.signed_by is not None else []
    lines += [] if rule.waivable else ["may not be waived"]
    lines += [f"help: {plain(rule.help)}"] if rule.help else []
    if entry is not None:
        return [*lines, *_entry(rule.id, entry)]
    return [*lines, "", f"{rule.probe} (probe)", *_entry(rule.probe, entries()[rule.probe])]


def _entry(id: str, entry: "Entry") -> list[str]:
    from pargate.github.actions import own
    from pargate.policy.explain import anchor

    repository, _, commit = (own() or "").partition("@")
    page = (
        f"https://github.com/{repository}/blob/{commit}/{anchor(id)}"
        if commit
        else f"{anchor(id)} of pargate's sources"
    )
    return [entry.meaning, "", f"Why it matters: {entry.why}", f"What to do: {entry.do}", "", page]


# --- shared ------------------------------------------------------------------------------------------


def _console(no_color: bool) -> "Console":
    from pargate.cli.console import Console

    return Console(quiet=False, verbose=False, color=not no_color)


def _today(now: datetime | None) -> date:
    return now.date() if now else datetime.now(UTC).date()
