"""The commands `init github` and `init gitlab`; only the scan at their end needs torch."""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pargate.cli import complete
from pargate.cli.help import examples, group_examples
from pargate.cli.options import NoColorOption, cache_folder
from pargate.errors import InputError, PargateError
from pargate.version import __version__

if TYPE_CHECKING:
    from pargate.cli.console import Console
    from pargate.github.scaffold import Options, Plan

app = typer.Typer(
    help="Add the gate to a repository.",
    no_args_is_help=True,
    rich_markup_mode=None,
    **group_examples("pargate init github --images val/ --classes classes.txt", "pargate init gitlab"),
)


FolderArgument = Annotated[Path, typer.Argument(metavar="[DIR]", help="The root of the repository.")]
ModelOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="A path, glob, hf-hub:… or open_clip:…. Repeatable; default: all open_clip folders here.",
    ),
]
PolicyOption = Annotated[
    str | None,
    typer.Option(
        "--policy",
        "-p",
        metavar="POLICY",
        autocompletion=complete.policies,
        help="An existing policy; default: pargate.yaml is written.",
    ),
]
ImagesOption = Annotated[
    str | None, typer.Option("--images", metavar="SOURCE", help="Images to scan with; default: the policy's.")
]
ClassesOption = Annotated[
    str | None, typer.Option("--classes", metavar="FILE", help="Class names, one per line; default: the policy's.")
]
GpuLabelsOption = Annotated[
    str | None,
    typer.Option("--gpu-labels", metavar="LABELS", help="Labels of a GPU runner that cleans, such as self-hosted,gpu."),
]
ScheduleOption = Annotated[
    str | None, typer.Option("--schedule", metavar="CRON", help="When to audit, in UTC; default: Mondays at 04:17.")
]
BranchOption = Annotated[
    str | None,
    typer.Option("--branch", metavar="NAME", help="The default branch; default: the repository's."),
]
ActionOption = Annotated[
    str | None,
    typer.Option(
        "--action", metavar="OWNER/REPO@COMMIT", help="The pargate to run there; default: the installed commit."
    ),
]
CommentOption = Annotated[
    bool | None,
    typer.Option("--comment/--no-comment", help="Comment on pull requests, not from forks; pushes update the comment."),
]
ShardsOption = Annotated[
    int | None,
    typer.Option("--audit-shards", min=1, max=64, help="Jobs that measure a part of the models of an audit each."),
]
ResetOption = Annotated[bool, typer.Option("--reset", help="Keep no option of the last run.")]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Replace an edited inventory or workflow; the old text stays as .bak.")
]
ReplacePolicyOption = Annotated[
    bool, typer.Option("--replace-policy", help="Replace an existing pargate.yaml; the old text stays as .bak.")
]
ScanOption = Annotated[bool, typer.Option("--scan/--no-scan", help="Scan the first model at the end.")]
YesOption = Annotated[
    bool, typer.Option("--yes", "-y", help="Do not ask for images and classes; use the options and the defaults.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print what would be written, and stop.")]


@app.command(**examples("pargate init github --images val/ --classes classes.txt"))
def github(
    folder: FolderArgument = Path(),
    model: ModelOption = None,
    policy: PolicyOption = None,
    images: ImagesOption = None,
    classes: ClassesOption = None,
    gpu_labels: GpuLabelsOption = None,
    schedule: ScheduleOption = None,
    branch: BranchOption = None,
    action: ActionOption = None,
    comment: CommentOption = None,
    audit_shards: ShardsOption = None,
    force: ForceOption = False,
    replace_policy: ReplacePolicyOption = False,
    reset: ResetOption = False,
    scan: ScanOption = True,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    no_color: NoColorOption = False,
) -> None:
    """Write a policy, an inventory and workflows for GitHub Actions.

    What to set there is printed, and a first verdict. Files that pargate wrote and nobody edited are brought up to
    date, with the options of the last run that are not given again. An existing policy and an edited inventory are
    kept. If a workflow was edited, nothing is written and the exit code is 2. The verdict does not change the code. At
    a terminal, pargate asks for the images and classes that neither the options nor the policy name.
    """
    from pargate.github.repository import default_branch
    from pargate.github.scaffold import GATE, Plan, plan, steps

    labels = tuple(label.strip() for label in gpu_labels.split(",")) if gpu_labels is not None else None
    given = {
        "models": tuple(model or ()) or None, "policy": policy, "images": images, "classes": classes, "labels": labels,
        "schedule": schedule, "comment": comment, "shards": audit_shards, "action": action, "branch": branch,
    }  # fmt: skip
    options = _merged(folder, GATE, given, default_branch(folder), reset=reset)

    def planned(options: "Options") -> Plan:
        return plan(folder, options, force=force, replace_policy=replace_policy)

    made, options = _completed(folder, planned, options, ask=not yes and not dry_run)
    _finish(made, options, steps(folder, options, made.policy), dry_run=dry_run, scan=scan, color=not no_color)


@app.command(**examples("pargate init gitlab --images val/ --classes classes.txt"))
def gitlab(
    folder: FolderArgument = Path(),
    model: ModelOption = None,
    policy: PolicyOption = None,
    images: ImagesOption = None,
    classes: ClassesOption = None,
    action: ActionOption = None,
    force: ForceOption = False,
    replace_policy: ReplacePolicyOption = False,
    reset: ResetOption = False,
    scan: ScanOption = True,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    no_color: NoColorOption = False,
) -> None:
    """Write a policy and a job for GitLab CI; print a first verdict.

    The job has JUnit and code quality reports. Existing files are treated as by `init github`. An existing
    .gitlab-ci.yml is not changed; what to add is printed.
    """
    from pargate.github.scaffold import GITLAB, Plan, contents_of_gitlab, plan, steps_of_gitlab

    models = tuple(model or ()) or None
    given = {"models": models, "policy": policy, "images": images, "classes": classes, "action": action}
    options = _merged(folder, GITLAB, given, "main", reset=reset)

    def planned(options: "Options") -> Plan:
        return plan(folder, options, force=force, replace_policy=replace_policy, made=contents_of_gitlab)

    made, options = _completed(folder, planned, options, ask=not yes and not dry_run)
    todo = steps_of_gitlab(folder, options, made.policy)
    _finish(made, options, todo, dry_run=dry_run, scan=scan, color=not no_color)


def _pinned(action: str | None) -> str:
    """Return OWNER/REPO@COMMIT of the pargate to run: as given, or that of this installation."""
    from pargate.github.actions import own

    pinned = action if action is not None else own()
    if pinned is None:
        raise InputError(
            "the commit of the installed pargate is not known, and workflows must name one",
            f"write --action OWNER/REPO@COMMIT, with the 40 digits of the commit of version {__version__}: "
            f"git ls-remote https://github.com/OWNER/REPO v{__version__}",
        )
    return pinned


def _merged(folder: Path, workflow: str, given: dict[str, Any], branch: str, *, reset: bool) -> "Options":
    """Return the options as given, those that the workflow keeps, and the defaults; say which are kept."""
    from pargate.cli.console import Console
    from pargate.github.scaffold import Options, earlier, spelled

    given = {name: value for name, value in given.items() if value is not None}
    kept = {} if reset else {n: value for n, value in earlier(folder, workflow).items() if n not in given}
    if kept:
        console = Console(quiet=False, verbose=False, color=False)
        console.note(f"kept from the last run (--reset keeps nothing): {spelled(kept)}")
    merged = {"branch": branch, **kept, **given}
    return Options(**{**merged, "action": _pinned(merged.get("action"))})


def _completed(
    folder: Path, planned: "Callable[[Options], Plan]", options: "Options", *, ask: bool
) -> tuple["Plan", "Options"]:
    """Return the plan and its options, after asking a person at a terminal for the images that nothing names."""
    from pargate.github.scaffold import lacks_images

    made = planned(options)
    asked = ask and options.images is None and sys.stdin.isatty() and sys.stderr.isatty()
    if not asked or not lacks_images(folder, options, made.policy):
        return made, options
    images = typer.prompt("Labelled images of the models' own domain (empty: drawn scenes)", default="", err=True)
    classes = options.classes or typer.prompt("File of class names (empty: common nouns)", default="", err=True)
    options = replace(options, images=images.strip() or None, classes=classes.strip() or None)
    return planned(options), options


def _finish(made: "Plan", options: "Options", steps: list[str], *, dry_run: bool, scan: bool, color: bool) -> None:
    """Write the files, print what was done and what is left to do, and scan the first model."""
    from pargate.cli.console import Console

    if not dry_run:
        made.write()
    would = "would be " if dry_run else ""
    lines = [f"{would}written: {name}" for name in made.new]
    lines += [f"{would}replaced: {name}" for name in made.changed]
    lines += [f"{would}kept as {backup}: the old {name}" for name, backup in made.backups.items()]
    lines += [f"unchanged: {name}" for name in made.same]
    lines += [f"kept as it is: {name}" for name in made.kept]
    if not made.new and not made.changed:
        lines.append("nothing to do: all files exist already")
    lines.append("What only you can do:")
    lines += [f"  {number}. {step}" for number, step in enumerate(steps, start=1)]
    console = Console(quiet=False, verbose=False, color=color)
    console.lines(lines)
    if scan and not dry_run:
        _first_scan(console, made, options)


def _first_scan(console: "Console", made: "Plan", options: "Options") -> None:
    """Scan the first model as the workflows will, and print the verdict; a scan that cannot run is one message."""
    from pargate.cli.reports import day
    from pargate.judge.judging import Judging
    from pargate.scanning.request import ScanRequest, ScanSettings
    from pargate.scanning.run import scan

    model = made.models[0]
    if model.startswith("./"):
        model = str(made.root / model)
    console.lines([f"A first scan, of {model} (--no-scan leaves it out):"])
    beside = made.root / (options.images or "")
    images = str(beside) if options.images and beside.exists() else options.images
    classes = made.root / options.classes if options.classes else None
    request = ScanRequest(
        model, Judging(made.policy, day(None)), None, images, classes,
        settings=ScanSettings(cache=cache_folder(os.environ.get("PARGATE_CACHE"))), pictures=False,
    )  # fmt: skip
    try:
        with console.progress() as listener:
            report = scan(request, listener)
    except PargateError as error:
        console.lines(["it could not be done:", *error.told()])
        return
    console.report(report)
