"""The commands `inspect`, `triggers` and `verify`, which need no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from pargate.cli import complete
from pargate.cli.options import (
    ArchOption,
    JsonOption,
    NoColorOption,
    NowOption,
    QuietOption,
    read_outputs,
    refuse_empty,
)
from pargate.errors import ExitCode, InputError, PargateError, UnsafeCheckpoint, together

DERIVED = ("parameters", "activation", "dim", "context_length", "tokenizer")
"""Properties of a checkpoint in the JSON of `inspect`, besides its fields."""


def inspect(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="Models, as for `scan`.", show_default=False),
    ],
    arch: ArchOption = None,
    second_opinion: Annotated[
        bool,
        typer.Option(
            "--second-opinion",
            help="Also ask picklescan, fickling and modelscan, those that are installed; a disagreement is a finding.",
        ),
    ] = False,
    output: JsonOption = None,
    no_color: NoColorOption = False,
) -> None:
    """Show what a checkpoint is, without loading or executing it.

    Tensors that do not fit the architecture are refused. All models are inspected. The exit code is 1 if any of them
    could run code, or another scanner disagrees.
    """
    import json
    from dataclasses import asdict

    from pargate.cli.console import Console
    from pargate.models import scanners
    from pargate.models.open import inspect as look
    from pargate.models.shapes import check
    from pargate.models.sources import parts

    for model in models:
        refuse_empty({"MODEL": model})
    outputs = read_outputs(output, ["json"])
    if outputs and len(models) > 1:
        raise InputError("-o is for one model", "inspect them one at a time")
    console = Console(quiet=False, verbose=False, color=not no_color, outputs=outputs)
    problems: list[PargateError] = []
    asked = scanners.installed() if second_opinion else []

    def ask(model: str, places: Sequence[str], unsafe: bool) -> list[scanners.Opinion]:
        """Print what the other scanners say; a contradiction becomes a problem."""
        found = scanners.opinions(asked, [file for place in places for file in scanners.files_of(place)])
        for opinion in found:
            console.fact_of(opinion.scanner, f"{opinion.version}: {opinion.answer} ({opinion.file})")
        differ = sorted({opinion.scanner for opinion in found if opinion.differs(unsafe)})
        if differ:
            ours, theirs = ("unsafe", "safe") if unsafe else ("safe", "unsafe")
            problems.append(
                UnsafeCheckpoint(
                    f"{model}: pargate finds it {ours}, {' and '.join(differ)} {theirs}",
                    "find out why before you load it; docs/threat-model.md says what each scanner misses",
                )
            )
        elif second_opinion and not any(opinion.answer != "not read" for opinion in found):
            console.note(f"{model}: no other scanner read it")
        return found

    for model in models:
        try:
            checkpoint = look(model, arch=arch)
            if not check(checkpoint):
                # Only building shows the shapes of towers that are not open_clip's own.
                from pargate.models.torch.build import check as build

                build(checkpoint)
        except PargateError as error:
            problems.append(error)
            if isinstance(error, UnsafeCheckpoint):
                ask(model, (model,), unsafe=True)
            continue
        derived = {name: getattr(checkpoint, name) for name in DERIVED}
        console.checkpoint(checkpoint)
        said = ask(model, (checkpoint.weights, *parts(checkpoint.source)[1:]), unsafe=False)
        opinions = {"second_opinion": [asdict(opinion) for opinion in said]} if second_opinion else {}
        console.json(outputs, json.dumps({**asdict(checkpoint), **derived, **opinions}, indent=1))
    if problems:
        # A file that could run code decides the exit code.
        raise together(sorted(problems, key=lambda problem: isinstance(problem, UnsafeCheckpoint)))


def triggers(
    preview: Annotated[
        Path | None,
        typer.Option("--preview", metavar="OUT.png", help="Draw a contact sheet of all triggers."),
    ] = None,
    on: Annotated[
        Path | None,
        typer.Option("--on", metavar="IMAGE", help="The image to stamp; default: a drawn scene."),
    ] = None,
    pack: Annotated[
        Path | None, typer.Option("--pack", metavar="PACK", help="Draw the triggers of this pack instead of all kinds.")
    ] = None,
    size: Annotated[int, typer.Option("--size", min=32, max=512, help="Width and height in pixels.")] = 224,
    no_color: NoColorOption = False,
) -> None:
    """List the triggers with their parameters, or draw them."""
    from pargate.cli.console import Console
    from pargate.files import check_writable, write_atomic
    from pargate.scanning.preview import contact_sheet
    from pargate.triggers import TRIGGERS, Trigger

    console = Console(quiet=False, verbose=False, color=not no_color)
    if preview is None:
        if on is not None:
            raise InputError("--on needs --preview", "add --preview OUT.png")
        if pack is not None:
            raise InputError("--pack needs --preview", "add --preview OUT.png, or list them: pargate pack show PACK")
        console.triggers(TRIGGERS, Trigger)
        return
    check_writable(preview)
    shown = None
    if pack is not None:
        from pargate.triggers.pack import read_pack
        from pargate.triggers.pack import triggers as triggers_of

        shown = triggers_of(read_pack(pack), pack)
    write_atomic(preview, contact_sheet(on, size, shown=shown))
    console.note(f"wrote every trigger beside its control: {preview}")


def verify(
    folder: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A folder that `gate` wrote.", show_default=False)],
    policy: Annotated[
        str | None,
        typer.Option(
            "--policy",
            "-p",
            metavar="POLICY",
            autocompletion=complete.policies,
            help="Also judge the measurements under this policy.",
        ),
    ] = None,
    now: NowOption = None,
    public_key: Annotated[
        Path | None,
        typer.Option("--public-key", metavar="PEM", help="Also check the signature; needs pargate[sign]."),
    ] = None,
    quiet: QuietOption = False,
    no_color: NoColorOption = False,
) -> int:
    """Check a bundle offline, from its bytes to its verdict.

    It checks bytes, statements, chain, expiry, and the verdict from the stored measurements. The exit code is 0 if
    all holds, 1 if anything is changed, missing, added or expired, and under --policy that of the new verdict.
    """
    from datetime import UTC, datetime

    from pargate.cli.console import Console
    from pargate.cli.reports import exit_code, open_policy
    from pargate.release.verify import verify as check

    console = Console(quiet=quiet, verbose=False, color=not no_color)
    today = now.date() if now else datetime.now(UTC).date()
    resolved = open_policy(policy, None, today, console)[0] if policy is not None else None
    found = check(folder, today=today, policy=resolved)
    if public_key is not None:
        from dataclasses import replace

        from pargate.models.signing import problem

        wrong = problem(folder, public_key)
        found = replace(found, problems=(*found.problems, wrong) if wrong else found.problems)
    console.verified(found, public_key)
    if found.problems or found.verdict is None:
        return ExitCode.FAIL
    return exit_code(found.verdict)
