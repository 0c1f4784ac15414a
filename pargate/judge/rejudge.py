"""Saved measurements under another policy, or on another day: no model, no images, no torch."""

from datetime import date

from pargate.core.names import class_key
from pargate.core.report import ScanReport
from pargate.core.results import UNSAFE_FILE, Measurement, Outcome
from pargate.errors import InputError
from pargate.judge import judge as judging
from pargate.judge.waivers import Context
from pargate.policy.resolve import Resolved
from pargate.policy.schema import Comparison, Policy
from pargate.probes.base import CLEAN, UNKNOWN


def judge(
    report: ScanReport,
    policy: Resolved,
    *,
    today: date,
    waive: bool = True,
    strict: bool = False,
    previous: ScanReport | None = None,
    read_files: bool = True,
) -> ScanReport:
    """The report with the verdict of `policy` on the same measurements, as of `today` in UTC.

    What the policy asks and the report did not measure stays open. A measurement that has the right name but was
    made with another trigger answers nothing, and no policy changes that a file was refused as unsafe. Without
    `read_files`, the digest that a policy gives for the picture of a trigger stands for the picture.

    Raises:
        InputError: the report is about other images or prompts than the policy names, holds a measurement twice, or is
            compared with itself; or a file that a trigger of the policy is made of cannot be read.
    """
    if previous is not None and previous.run.id == report.run.id:
        raise InputError(
            "the previous report is the report itself: nothing can have become worse", "give that of the last release"
        )
    if any(finding.rule == UNSAFE_FILE for finding in report.findings):
        verdict = report.verdict.model_copy(update={"status": Outcome.FAIL})
        return report.model_copy(update={"verdict": verdict, "policy": policy.info()})
    _refuse_other_images(report, policy.policy)
    asked_policy = policy.policy.read(policy.folder) if read_files else policy.policy
    ids = [m.id for m in report.measurements]
    if len(set(ids)) < len(ids):
        raise InputError(
            f"the report of {report.model.source} holds a measurement twice", "give it as pargate wrote it"
        )
    asked = {comparison.id: comparison for comparison in asked_policy.comparisons}
    usable = [m for m in report.measurements if _answers(m, asked.get(m.id))]
    context = Context(report.model.sha256, today, waive, previous.measurements if previous else None)
    findings, verdict, remarks = judging.judge(
        policy.policy, usable, complete=report.run.complete, context=context, strict=strict
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
    """Return whether a measurement is of what a comparison asks, and not only of its name."""
    if measurement.id == CLEAN:
        return measurement.probe == "utility" and measurement.trigger is None
    if comparison is None or measurement.probe != comparison.rule.probe:
        return False
    digest = comparison.trigger.digest if comparison.trigger else None
    # A search finds its trigger anew in every scan.
    if not comparison.rule.families and (measurement.trigger and measurement.trigger.digest) != digest:
        return False
    target, named = measurement.target, comparison.target != UNKNOWN
    if target is None:
        return True  # none was found to measure towards
    return target.given == named and (not named or class_key(target.name) == class_key(comparison.target))


def _refuse_other_images(report: ScanReport, policy: Policy) -> None:
    """Refuse what a scan under this policy would have refused to measure on."""
    images = report.images
    if images.listed < policy.images.min:
        raise InputError(
            f"the report is about {images.listed} images, the policy {policy.name} asks for {policy.images.min}",
            "scan again with more images",
        )
    if policy.images.digest is not None and policy.images.digest != f"sha256:{images.source_digest}":
        raise InputError(
            f"the report does not show that its images are those that the policy {policy.name} names",
            "scan again under this policy",
        )
    if policy.classes.templates is not None and policy.classes.templates != report.classes.templates:
        raise InputError(
            f"the report's prompts are not those of the policy {policy.name}", "scan again under this policy"
        )
