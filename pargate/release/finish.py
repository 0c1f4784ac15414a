"""The end of a gate: one report of all its stages, and the bundle."""

import shutil
from pathlib import Path

from pargate.core.report import Examined, ScanReport, Stage
from pargate.core.results import Outcome
from pargate.errors import OperationalError
from pargate.files import atomic_folder, files_below, sha256_file, write_atomic
from pargate.judge.release import conclude
from pargate.policy.print import listed
from pargate.policy.resolve import Resolved
from pargate.release import bundle
from pargate.release.stages import GateRequest
from pargate.report import FORMATS


def report_of(policy: Resolved, stages: list[Stage], reports: list[ScanReport], name: str) -> ScanReport:
    """The report of the whole gate: the last scan's, with all stages and the verdict on them."""
    scans = [i for i, stage in enumerate(stages) if stage.examined is not None]
    rescans = [i for i in scans if stages[i].name == "rescan"]
    # Of several sets of graphs the first is the exact one.
    chosen = rescans[0] if rescans and all(_passed(stages[i]) for i in rescans) else scans[-1]
    own = reports[scans.index(chosen)]
    found = conclude(policy.policy, stages, own.examined)
    sources = {"certify": f"{name}/{bundle.MODEL}", "pick": "the cleaned model"}

    def placed(stage: Stage) -> Stage:
        if stage.examined is None or stage.name not in (*sources, "rescan"):
            return stage
        source = sources.get(stage.name) or f"{name}/{Path(stage.examined.model.source).name}"
        model = stage.examined.model.model_copy(update={"source": source})
        return stage.model_copy(update={"examined": stage.examined.model_copy(update={"model": model})})

    shown = [placed(stage) for stage in stages]
    last = shown[chosen].examined
    assert last is not None  # it was chosen for that
    shown[chosen] = shown[chosen].model_copy(update={"examined": None})
    return own.model_copy(
        update={
            "subject": reports[0].subject,
            "model": last.model,
            "verdict": found.verdict,
            "remarks": (*own.remarks, *found.remarks),
            "stages": tuple(shown),
        }
    )


def _passed(stage: Stage) -> bool:
    examined: Examined | None = stage.examined
    return examined is not None and examined.verdict.status is Outcome.PASS


def write(request: GateRequest, policy: Resolved, report: ScanReport, candidate: Path, exported: Path | None) -> None:
    """The bundle, complete or absent."""
    age = policy.policy.evidence.max_age
    days = None if age is None else int(age.removesuffix("d"))
    with atomic_folder(request.out) as folder:
        try:
            _copy(candidate, folder / bundle.MODEL)
            for graphs in sorted(exported.iterdir()) if exported is not None else ():
                _copy(graphs, folder / graphs.name)
            (folder / "attestations").mkdir()
        except OSError as error:
            raise OperationalError(f"cannot write {request.out}: {error}", "free space, and run again") from error
        subjects = bundle.shipped(bundle.read(folder).digests)
        text = listed(policy)
        sha256 = _save(folder / bundle.POLICY, text)
        tested = bundle.test_result(report, subjects, sha256)
        _save(folder / bundle.TEST_RESULT, tested.to_json())
        _save(folder / bundle.SVR, bundle.verification_result(report, subjects, sha256, days).to_json())
        for name, kind in (
            (bundle.REPORT, "json"),
            (bundle.HTML, "html"),
            (bundle.SARIF, "sarif"),
            (bundle.BOM, "ml-bom"),
        ):
            _save(folder / name, FORMATS[kind].render(report))
        _save(folder / bundle.CARD, bundle.card(report, subjects, days))
        _save(folder / bundle.SUMS, bundle.sums(bundle.read(folder).digests))
        if request.key is not None:
            from pargate.release.sign import sign

            sign(folder, request.key)


def _copy(source: Path, folder: Path) -> None:
    """Copy all files below `source`; not their modes, which some file systems refuse to take."""
    for path in files_below(source):
        place = folder / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)


def _save(path: Path, text: str) -> str:
    """Write a document of the bundle; its SHA-256. The folder as a whole is flushed when it gets its name."""
    write_atomic(path, text.encode(), durable=False)
    return sha256_file(path)
