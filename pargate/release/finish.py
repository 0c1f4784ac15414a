"""The end of a gate: the report of all stages, and the bundle."""

import hashlib
from pathlib import Path

from pargate.clean.request import CURVES_NAME, RECORD_NAME
from pargate.core.report import Examined, ScanReport, Stage
from pargate.core.results import Outcome
from pargate.errors import OperationalError
from pargate.files import atomic_folder, copy_hashed, files_below, write_atomic
from pargate.judge.release import conclude
from pargate.models.save import changed
from pargate.policy.print import listed
from pargate.policy.resolve import Resolved
from pargate.release import bundle
from pargate.release.card import card
from pargate.release.convert import Candidate
from pargate.release.stages import GateRequest
from pargate.report import FORMATS


def report_of(policy: Resolved, stages: list[Stage], reports: list[ScanReport], name: str) -> ScanReport:
    """Return the report of the gate: that of the last scan, with all stages and their verdict."""
    scans = [i for i, stage in enumerate(stages) if stage.examined is not None]
    rescans = [i for i in scans if stages[i].name == "rescan"]
    # Of several precisions the first is the exact one.
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
    assert last is not None  # only stages with a scan are chosen
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


def write(
    request: GateRequest, policy: Resolved, report: ScanReport, candidate: Candidate, exported: Path | None
) -> None:
    """Write the bundle, complete or absent.

    Raises:
        InputError: a file changed since it was judged.
        OperationalError: the disk is full.
    """
    records = [stage.record for stage in report.stages if stage.name == "export" and stage.record is not None]
    judged = {f"{bundle.MODEL}/{made.name}": made.sha256 for made in candidate.record.outputs}
    judged |= {made.name: made.sha256 for record in records for made in record.outputs}
    days = policy.policy.evidence.max_age_days
    with atomic_folder(request.out) as folder:
        try:
            digests = _copy(candidate.folder, folder, bundle.MODEL)
            for graphs in sorted(exported.iterdir()) if exported is not None else ():
                digests |= _copy(graphs, folder, graphs.name)
            (folder / "attestations").mkdir()
        except OSError as error:
            raise OperationalError(f"cannot write {request.out}: {error}", "free space, and run again") from error
        _refuse_others(digests, judged, report, request.state)
        subjects = bundle.shipped(digests)

        def save(name: str, text: str) -> str:
            # The folder as a whole is flushed when it gets its name.
            write_atomic(folder / name, text.encode(), durable=False)
            digests[name] = hashlib.sha256(text.encode()).hexdigest()
            return digests[name]

        sha256 = save(bundle.POLICY, listed(policy))
        save(bundle.TEST_RESULT, bundle.test_result(report, subjects, sha256).to_json())
        save(bundle.SVR, bundle.verification_result(report, subjects, sha256, days).to_json())
        for name, kind in (
            (bundle.REPORT, "json"),
            (bundle.HTML, "html"),
            (bundle.SARIF, "sarif"),
            (bundle.BOM, "ml-bom"),
        ):
            save(name, FORMATS[kind].render(report))
        save(bundle.CARD, card(report, subjects, days))
        save(bundle.SUMS, bundle.sums(digests))
        if request.key is not None:
            from pargate.models.signing import sign

            sign(folder, request.key)


def _refuse_others(digests: dict[str, str], judged: dict[str, str], report: ScanReport, state: Path) -> None:
    """Raise unless the copied files are exactly the judged ones, scanned graphs included."""
    beside = {f"{bundle.MODEL}/{name}" for name in (RECORD_NAME, CURVES_NAME)}
    wrong = [name for name in {*digests, *judged} - beside if digests.get(name) != judged.get(name)]
    scanned = {(s.examined or report.examined).model.sha256 for s in report.stages if s.name == "rescan"}
    folders = {name.split("/")[0] for name in digests} - {bundle.MODEL}
    wrong += [folder for folder in folders if scanned and bundle.graphs_sha256(digests, folder) not in scanned]
    if wrong:
        raise changed(f"{min(wrong)} in {state}")


def _copy(source: Path, bundle_folder: Path, name: str) -> dict[str, str]:
    """Copy all files below `source` into the folder `name` of a bundle; return their digests by name.

    File modes are not copied, because some file systems refuse to change them.
    """
    digests = {}
    for path in files_below(source):
        place = bundle_folder / name / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        digests[place.relative_to(bundle_folder).as_posix()] = copy_hashed(path, place)
    return digests
