"""Judging saved measurements under another policy, or on another day, without model, images and torch."""

from pargate.core.names import class_key
from pargate.core.report import ScanReport
from pargate.core.results import UNSAFE_FILE, Measurement, Outcome
from pargate.errors import InputError
from pargate.judge import judge as measured
from pargate.judge.judging import Judging
from pargate.policy.schema import Comparison, Policy
from pargate.probes.base import CLEAN, UNKNOWN


def judge(report: ScanReport, asked: Judging, *, read_files: bool = True) -> ScanReport:
    """Return the report with a new verdict on the same measurements.

    A comparison without a measurement of the same trigger stays open. A file that was refused as unsafe fails under
    every policy.

    Args:
        report: the saved report.
        asked: the policy to judge by, the day, and the last release.
        read_files: whether to read the image files of triggers; else their digests in the policy identify them.

    Raises:
        InputError: the report is about other images or prompts than the policy names, holds a measurement twice, or is
            compared with itself; or the file of a trigger cannot be read.
    """
    policy, previous = asked.policy, asked.previous
    if previous is not None and previous.run.id == report.run.id:
        raise InputError(
            "the previous report is the report itself: nothing can have become worse", "give the last release's report"
        )
    if any(finding.rule == UNSAFE_FILE for finding in report.findings):
        verdict = report.verdict.model_copy(update={"status": Outcome.FAIL})
        return report.model_copy(update={"verdict": verdict, "policy": policy.info()})
    _refuse_other_images(report, policy.policy)
    asked_policy = policy.policy.read(policy.folder) if read_files else policy.policy
    ids = [m.id for m in report.measurements]
    if len(set(ids)) < len(ids):
        raise InputError(
            f"the report of {report.model.source} holds a measurement twice", "give the report as pargate wrote it"
        )
    comparisons = {comparison.id: comparison for comparison in asked_policy.comparisons}
    usable = [m for m in report.measurements if _answers(m, comparisons.get(m.id))]
    findings, verdict, remarks = measured.judge(
        policy.policy,
        usable,
        complete=report.run.complete,
        context=asked.context(report.model.sha256),
        strict=asked.strict,
    )
    return report.model_copy(
        update={
            "findings": tuple(findings),
            "verdict": verdict,
            "remarks": (*policy.overrides, *remarks),
            "policy": policy.info(),
        }
    )


def _answers(measurement: Measurement, comparison: Comparison | None) -> bool:
    """Return whether a measurement has the probe, trigger and target of a comparison, and not only its id."""
    if measurement.id == CLEAN:
        return measurement.probe == "utility" and measurement.trigger is None
    if comparison is None or measurement.probe != comparison.rule.probe:
        return False
    digest = comparison.trigger.digest if comparison.trigger else None
    # A search finds its trigger anew in every scan.
    if not comparison.rule.families and (measurement.trigger and measurement.trigger.digest) != digest:
        return False
    rank, table = measurement.searched and measurement.searched.ranked, comparison.rule.calibration
    if rank and table and (rank.table, rank.families) != (table.digest, comparison.rule.families):
        return False
    target, named = measurement.target, comparison.target != UNKNOWN
    if target is None:
        return True  # no target was found
    return target.given == named and (not named or class_key(target.name) == class_key(comparison.target))


def _refuse_other_images(report: ScanReport, policy: Policy) -> None:
    """Refuse a report on images or prompts that a scan under this policy would refuse."""
    images = report.images
    if images.listed < policy.images.min:
        raise InputError(
            f"the report is about {images.listed} images, the policy {policy.name} asks for {policy.images.min}",
            "scan again with more images",
        )
    if policy.images.digest is not None and policy.images.digest != f"sha256:{images.source_digest}":
        raise InputError(
            f"the report does not show that its images are those of the policy {policy.name}",
            "scan again under this policy",
        )
    if policy.classes.templates is not None and policy.classes.templates != report.classes.templates:
        raise InputError(
            f"the report's prompts are not those of the policy {policy.name}", "scan again under this policy"
        )
