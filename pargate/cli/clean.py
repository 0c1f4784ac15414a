"""The command `clean`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pargate.clean import ranks
from pargate.cli import complete
from pargate.cli.options import (
    ArchOption,
    CacheOption,
    DeviceOption,
    ModelArgument,
    NoColorOption,
    PrecisionOption,
    QuietOption,
    VerboseOption,
    cache_folder,
    refuse_empty,
    refuse_without_driver,
)
from pargate.core.choices import Preset, RequiredDevice, SavedLayout, Towers
from pargate.errors import ExitCode, InputError, explain, nearest

if TYPE_CHECKING:
    from pargate.clean.request import CleanRequest
    from pargate.cli.console import Console
    from pargate.triggers import Trigger

SWEPT = {"tau": float, "lr": float, "steps": int, "batch-size": int}
"""Settings that a sweep can vary, with the types of their values."""


PairsOption = Annotated[
    str,
    typer.Option(
        "--pairs",
        metavar="SOURCE",
        help="Image-text pairs: CSV, folder, WebDataset tars, Parquet, hf:DATASET, synthetic:, diffusers:MODEL.",
    ),
]
OutOption = Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder for the cleaned model.")]
MethodOption = Annotated[
    str,
    typer.Option(
        "--method",
        metavar="METHOD",
        autocompletion=complete.methods,
        help="par, par-plus, cleanclip, finetune, or that of a plug-in.",
    ),
]
PresetOption = Annotated[
    Preset, typer.Option("--preset", help="Learning rate, batch and steps by size, or as published.")
]
TauOption = Annotated[
    float | None, typer.Option("--tau", help="How far PAR pushes embeddings away, from 0 to 4; published 2.15.")
]
LrOption = Annotated[float | None, typer.Option("--lr", help="Highest learning rate.")]
StepsOption = Annotated[int | None, typer.Option("--steps", help="Steps to take.")]
BatchSizeOption = Annotated[int | None, typer.Option("--batch-size", help="Pairs in the loss of one step.")]
MicroBatchOption = Annotated[
    int | None, typer.Option("--micro-batch", help="Pairs in one forward pass: changes memory, not the result.")
]
TowersOption = Annotated[
    Towers | None, typer.Option("--towers", help="Towers to train; par-plus: image, others: both.")
]
ViewsOption = Annotated[
    int | None, typer.Option("--views", help="Augmentations of an image; default: a new one each time.")
]
CheckpointingOption = Annotated[
    bool, typer.Option("--checkpointing", help="Recompute activations: less memory, a third slower.")
]
CompileTowersOption = Annotated[bool, typer.Option("--compile", help="Let torch compile the image tower.")]
UnlearnOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--unlearn",
        metavar="TRIGGER",
        help="Unlearn this trigger: a picture, a folder of `scan --found`, or a pack; repeatable. Cleaning is then not "
        "blind.",
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of the order of pairs and of augmentations.")]
ClassesOption = Annotated[
    Path | None, typer.Option("--classes", metavar="FILE", help="Class names of drawn pairs, one per line.")
]
RequireOption = Annotated[RequiredDevice | None, typer.Option("--require", help="Exit with 5 without this device.")]
SaveEveryOption = Annotated[
    int | None, typer.Option("--save-every", help="Steps between two states that --resume can continue.")
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run with the same --out.")]
SweepOption = Annotated[
    str | None,
    typer.Option("--sweep", metavar="NAME=A,B,…", help="Clean and scan once for each value; draw the curve."),
]
PolicyOption = Annotated[
    str | None,
    typer.Option(
        "--policy", "-p", metavar="POLICY", autocompletion=complete.policies, help="Policy of the scans of a sweep."
    ),
]
ImagesOption = Annotated[str | None, typer.Option("--images", metavar="SOURCE", help="Images of the scans of a sweep.")]
FormatOption = Annotated[
    SavedLayout | None,
    typer.Option(
        "--format", help="Layout of the result; default: open_clip, or that of MODEL where it cannot express it."
    ),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print the plan, and stop.")]


def clean(
    model: ModelArgument,
    pairs: PairsOption,
    out: OutOption,
    method: MethodOption = "par",
    preset: PresetOption = "sized",
    tau: TauOption = None,
    lr: LrOption = None,
    steps: StepsOption = None,
    batch_size: BatchSizeOption = None,
    micro_batch: MicroBatchOption = None,
    precision: PrecisionOption = "auto",
    towers: TowersOption = None,
    views: ViewsOption = None,
    checkpointing: CheckpointingOption = False,
    compile_towers: CompileTowersOption = False,
    unlearn: UnlearnOption = None,
    seed: SeedOption = 0,
    classes: ClassesOption = None,
    layout: FormatOption = None,
    arch: ArchOption = None,
    device: DeviceOption = "auto",
    require: RequireOption = None,
    save_every: SaveEveryOption = None,
    resume: ResumeOption = False,
    sweep: SweepOption = None,
    policy: PolicyOption = None,
    images: ImagesOption = None,
    cache: CacheOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    no_color: NoColorOption = False,
    dry_run: DryRunOption = False,
) -> int:
    """Remove backdoors from MODEL by training on image-text pairs.

    A new model is written. Cleaning uses no trigger except those of --unlearn, so scan the result. On several devices:
    torchrun --nproc-per-node N -m pargate clean …
    """
    import os
    from datetime import UTC, datetime

    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # no C++ stack if another process has ended

    from pargate.clean.methods.base import METHODS
    from pargate.clean.request import CleanRequest
    from pargate.clean.run import plan
    from pargate.cli.console import Console

    if method not in METHODS:
        known = list(METHODS)
        raise InputError(f"--method: unknown method '{method}'.{nearest(method, known)}", f"one of {', '.join(known)}")
    speaks = ranks.here().rank == 0
    console = Console(quiet=quiet or not speaks, verbose=verbose, color=not no_color)
    overrides: dict[str, Any] = {
        "tau": tau, "lr": lr, "steps": steps, "batch_size": batch_size, "micro_batch": micro_batch,
        "precision": None if precision == "auto" else precision,
        "towers": towers,
        "views": views, "checkpointing": checkpointing or None, "compile": compile_towers or None, "seed": seed or None,
        "save_every": save_every,
    }  # fmt: skip
    shown: tuple[Trigger, ...] = ()
    if unlearn:
        from pargate.release.packs import to_unlearn

        with ranks.told_by_one():
            shown = tuple(trigger for source in unlearn for trigger in to_unlearn(source))
    request = CleanRequest(
        model=model, pairs=pairs, out=out, started=datetime.now(UTC).isoformat(timespec="seconds"), arch=arch,
        method=method, preset=preset, overrides=overrides, classes=classes, device=device, require=require,
        resume=resume, cache=cache_folder(cache), unlearn=shown, layout=layout,
    )  # fmt: skip
    with ranks.told_by_one():
        refuse_empty({"MODEL": model, "--pairs": pairs, "--arch": arch})
        if require == "cuda" and device != "cpu":
            refuse_without_driver("cuda", "use a machine with one, or omit --require")
        if sweep is not None and layout == "keep":
            raise InputError("--format keep does not go with --sweep", "clean once more with the value that you choose")
        if sweep is not None:
            return _sweep(request, *_swept(sweep), policy, images, console, dry_run)
        for name, given in (("--policy", policy), ("--images", images)):
            if given is not None:
                raise InputError(
                    f"{name} needs --sweep", "leave it out: cleaning does not use the scan; scan the result"
                )
        if dry_run:
            planned = plan(request)
            if speaks:
                console.lines(planned)
            return ExitCode.OK
    return _cleaned(request, console, speaks)


def _cleaned(request: "CleanRequest", console: "Console", speaks: bool) -> int:
    """Clean, and print the result in the process that `speaks`."""
    from pargate.clean.run import clean as run_clean

    try:
        with console.progress() as listener:
            made = run_clean(request, listener)
    except KeyboardInterrupt as stop:
        if speaks:
            raise
        return explain(stop).exit_code
    if made is not None:
        console.cleaned(made.folder, made.record, made.late, made.pairs_per_second)
    return ExitCode.OK


def _swept(text: str) -> tuple[str, list[Any]]:
    """Return the setting and the values of a text such as `tau=1,2`."""
    name, _, listed = text.partition("=")
    if name not in SWEPT:
        raise InputError(
            f"--sweep {text}: unknown setting '{name}'.{nearest(name, list(SWEPT))}",
            f"one of {', '.join(SWEPT)}, as in tau=1,1.5,2.15",
        )
    try:
        values = [SWEPT[name](value) for value in listed.split(",")]
    except ValueError as error:
        raise InputError(f"--sweep {text}: {error}", f"write {name}=A,B,C") from error
    if len(set(values)) < len(values):
        raise InputError(f"--sweep {text}: a value is repeated", "give each value once")
    return name, values


def _sweep(
    request: "CleanRequest",
    name: str,
    values: list[Any],
    policy: str | None,
    images: str | None,
    console: "Console",
    dry_run: bool,
) -> int:
    from datetime import UTC, datetime

    from pargate.cli.reports import open_policy
    from pargate.release.sweep import SweepRequest, planned, sweep

    if ranks.here().world > 1:
        raise InputError("--sweep runs in one process", "start it without torchrun, or clean each value yourself")
    resolved, _ = open_policy(policy, None, datetime.now(UTC).date(), console)
    asked = SweepRequest(request, name.replace("-", "_"), tuple(values), resolved, images)
    if dry_run:
        console.lines(planned(asked))
        return ExitCode.OK
    with console.progress() as listener:
        swept = sweep(asked, listener)
    console.lines(
        f"{point.label:16} accuracy {point.accuracy:6.1%}   attack success {point.success:6.1%} "
        f"[{point.low:.1%}, {point.high:.1%}]"
        for point in swept.points
    )
    console.note(f"the curve: {swept.chart}")
    return ExitCode.OK
