"""The command `screen`."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pargate.cli import complete
from pargate.cli.options import (
    ArchOption,
    CacheOption,
    DeviceOption,
    ExecutorOption,
    NoColorOption,
    PrecisionOption,
    QuietOption,
    RayAddressOption,
    cache_folder,
    check_executor,
    read_outputs,
    read_shard,
    refuse_empty,
)
from pargate.core.choices import Executor
from pargate.errors import ExitCode, InputError, PolicyError, Undecided

if TYPE_CHECKING:
    from pargate.core.screen import JudgedBy
    from pargate.policy.resolve import Resolved
    from pargate.policy.schema import Rule

PairsArgument = Annotated[
    str,
    typer.Argument(
        metavar="PAIRS",
        help="Image-text pairs: CSV, folder, WebDataset tars, Parquet, or hf:DATASET.",
        show_default=False,
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="MODEL", help="The model that was trained on them, or a trusted one; as of `scan`."
    ),
]
PolicyOption = Annotated[
    str | None,
    typer.Option(
        "--policy",
        "-p",
        metavar="POLICY",
        autocompletion=complete.policies,
        help="A policy with a rule of the probe screen, which sets --max-suspects and --false-positives.",
    ),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Folder of the report, the contact sheet and the lists.")
]
TrustedOption = Annotated[
    str | None,
    typer.Option(
        "--trusted", metavar="SOURCE", help="Honest pairs like these: they give the threshold of --false-positives."
    ),
]
FoundOption = Annotated[
    Path | None,
    typer.Option(
        "--found",
        metavar="SOURCE",
        help="Triggers that a scan found: its JSON report, the folder of `scan --found`, or a pack.",
    ),
]
FalsePositivesOption = Annotated[
    str | None,
    typer.Option(
        "--false-positives",
        metavar="SHARE",
        help="Largest expected share of suspects among honest pairs; without --trusted, the share of PAIRS to list. "
        "Default: 1%.",
    ),
]
MaxSuspectsOption = Annotated[
    str | None,
    typer.Option(
        "--max-suspects", metavar="SHARE", help="Exit with 1 if more of the set is suspicious; needs --trusted."
    ),
]
ReviewOption = Annotated[
    Path | None,
    typer.Option("--review", metavar="FILE", help="Marks that the contact sheet saved: write the lists again by them."),
]
BatchOption = Annotated[
    int,
    typer.Option("--batch", min=64, help="Pairs of a random batch; covers poisoned shares up to 16 / batch."),
]
RoundsOption = Annotated[
    int, typer.Option("--rounds", min=1, max=64, help="Random batches that scores are means over.")
]
ShownOption = Annotated[int, typer.Option("--show", min=0, max=2000, help="Most suspects on the contact sheet.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of the random batches.")]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Only embed each Nth file of vectors, from the Ith on, into --cache; without --out. Screen later.",
    ),
]
FormsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FORMAT[=PATH]",
        autocompletion=complete.only("json", "markdown", "github"),
        help="Write it as json, markdown or github: json=PATH to a file, json or json=- to stdout. Repeatable.",
    ),
]


def screen(
    pairs: PairsArgument,
    out: OutOption = None,
    model: ModelOption = None,
    policy: PolicyOption = None,
    trusted: TrustedOption = None,
    known: FoundOption = None,
    false_positives: FalsePositivesOption = None,
    max_suspects: MaxSuspectsOption = None,
    review: ReviewOption = None,
    batch: BatchOption = 1024,
    rounds: RoundsOption = 4,
    show: ShownOption = 200,
    arch: ArchOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    seed: SeedOption = 0,
    output: FormsOption = None,
    cache: CacheOption = None,
    executor: ExecutorOption = Executor.LOCAL,
    ray_address: RayAddressOption = None,
    shard: ShardOption = None,
    quiet: QuietOption = False,
    no_color: NoColorOption = False,
) -> int:
    """Find suspicious pairs in a training set, and list what is left.

    A person marks them on a contact sheet. PAIRS stay as they are: `clean --pairs DIR/left.pairs` trains on what is
    left.
    """
    from collections import Counter

    from pargate.cli.console import Console
    from pargate.core.results import Metric
    from pargate.core.screen import ScreenReport
    from pargate.files import write_atomic
    from pargate.release.packs import to_recognise
    from pargate.report.screen_pages import contact_sheet, github, lines, markdown
    from pargate.report.text import plural
    from pargate.screening.run import ScreenRequest, fill
    from pargate.screening.run import review as take_marks
    from pargate.screening.run import screen as run_screen
    from pargate.screening.scores import Sampling

    refuse_empty({"PAIRS": pairs, "--model": model, "--policy": policy, "--trusted": trusted, "--arch": arch})
    check_executor(executor, ray_address)
    outputs = read_outputs(output, ["json", "markdown", "github"])
    console = Console(quiet=quiet, verbose=False, color=not no_color, outputs=outputs)
    part = None if shard is None else read_shard(shard)
    if part is None and out is None:
        raise InputError("--out is missing", "give --out DIR, or --shard I/N to embed a part of the pairs alone")
    if part is not None and (out or review or outputs):
        raise InputError(
            "--shard makes no report", "leave --out, --review and -o out; screen once all shards are there"
        )
    if model is None and review is None:
        raise InputError("--model is missing", "name the model that was trained on the pairs, or a trusted one")
    largest = None if max_suspects is None else _share("--max-suspects", max_suspects)
    rate = 0.01 if false_positives is None else _share("--false-positives", false_positives)
    resolved, judged_by = None, None
    if policy is not None:
        if max_suspects is not None or false_positives is not None:
            raise InputError("--policy sets --max-suspects and --false-positives", "leave these out")
        resolved, rule, judged_by = _judging(policy)
        trusted = trusted or resolved.beside(rule.trusted)
        largest, rate = rule.max[Metric.SUSPECTS].value, rule.false_positives.value if rule.false_positives else rate
    request = ScreenRequest(
        pairs, model or "", out or Path(), arch, trusted, Sampling(batch, rounds, seed, rate), largest, judged_by,
        tuple(to_recognise(known)) if known else (), show, device, precision, cache_folder(cache),
        executor, ray_address,
    )  # fmt: skip
    if out is None:
        with console.progress() as listener:
            places = Counter(path.parent for path in fill(request, part or (1, 1), listener))
        made = [f"{plural(count, 'file')} of vectors in {folder}" for folder, count in places.items()]
        console.lines(made or [f"There is no file {shard}: the pairs need fewer."])
        return ExitCode.OK
    if review is not None:
        report = take_marks(request, review)
    else:
        try:
            with console.progress() as listener:
                screened = run_screen(request, listener)
        except Undecided as undecided:
            if resolved is not None and resolved.policy.on_inconclusive == "fail":
                undecided.exit_code = ExitCode.FAIL
            raise
        report = screened.report
        write_atomic(out / "screen.html", contact_sheet(report, screened.pictures).encode())
    for target in outputs:
        text = {"json": ScreenReport.to_json, "markdown": markdown, "github": github}[target.format](report)
        if target.path is None:
            console.to_stdout(text)
        else:
            write_atomic(target.path, text.encode())
    console.lines(lines(report))
    if review is None:
        console.note(f"contact sheet: {out / 'screen.html'}")
    console.note(f"what is left: {out / 'left.pairs'}")
    return ExitCode.OK if report.passed else ExitCode.FAIL


def _judging(name: str) -> "tuple[Resolved, Rule, JudgedBy]":
    """Return a policy about pairs, its rule, and both as a report holds them.

    Raises:
        PolicyError: the policy is invalid, no longer valid, or about models.
    """
    from pargate.core.results import Metric
    from pargate.core.screen import JudgedBy
    from pargate.policy.resolve import refuse_expired, resolve

    resolved = resolve(name)
    refuse_expired(resolved, datetime.now(UTC).date())
    policy, rule = resolved.policy, resolved.policy.pairs_rule
    if rule is None or Metric.SUSPECTS not in rule.max:
        raise PolicyError(
            f"the policy {policy.name} is about models: it has no rule of the probe screen",
            "write a policy about pairs: docs/screening.md shows one",
        )
    judged_by = JudgedBy(
        policy=policy.name, policy_sha256=resolved.sha256, rule=rule.id, help=rule.help, owners=policy.owners,
        overrides=tuple(remark.message for remark in resolved.overrides),
    )  # fmt: skip
    return resolved, rule, judged_by


def _share(name: str, text: str) -> float:
    """Return a share such as `0.1%`.

    Raises:
        InputError: it is no percentage above 0 and below 100.
    """
    number = text.strip().removesuffix("%")
    try:
        value = float(number) / 100 if text.strip().endswith("%") else -1.0
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise InputError(f"{name} {text[:40]} is no share", "write a percentage above 0% and below 100%, such as 0.1%")
    return value
