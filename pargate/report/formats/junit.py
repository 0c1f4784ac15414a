"""A report as JUnit XML: one suite for the model, one case for each rule.

The document satisfies both Jenkins and the stricter Ant schema. A breach is a failure and an undecided rule an error,
so that no reader takes either for a pass; where the policy only warns, or the scan left the rule out, the case is
skipped. The file is red exactly where the verdict is: a verdict that no rule decides has a case of its own. The suite
has the time of the run, and each case has 0.
"""

import io
from collections.abc import Iterable, Iterator, Sequence

from junitparser import Attr, Error, Failure, JUnitXml, Skipped, SystemErr, SystemOut, TestCase, TestSuite
from junitparser.junitparser import FinalResult

from pargate.core.report import ScanReport
from pargate.core.results import Consequence, Finding, Outcome, Status
from pargate.report import text as texts
from pargate.report.formats.base import FORMATS, Format
from pargate.report.steps import next_steps


class ModelSuite(TestSuite):
    """A suite with the attributes that the Ant schema requires."""

    id = Attr()
    package = Attr()


def render(report: ScanReport) -> str:
    """Return JUnit XML with its UTF-8 declaration.

    Raises:
        InputError: the start of the run is not a time.
    """
    suite = ModelSuite(texts.model_name(report))
    suite.id, suite.package = "0", "pargate"
    # The Ant schema allows no time zone, and requires this name if the host is not known.
    suite.timestamp, suite.hostname = f"{texts.started(report):%Y-%m-%dT%H:%M:%S}", "localhost"
    for name, value in _properties(report).items():
        suite.add_property(name, texts.plain(value))
    suite.add_testcases([*_cases(report)])
    suite.time = round(report.run.seconds, 3)
    said = [*(r.message for r in report.remarks), *report.notices]
    streams = (SystemOut(_lines([report.verdict.summary, *next_steps(report)])), SystemErr(_lines(said)))
    for stream in streams:
        suite.append(stream)  # type: ignore[no-untyped-call]  # typed in part
    xml = JUnitXml()
    xml.add_testsuite(suite)
    buffer = io.BytesIO()
    xml.write(buffer, pretty=True)
    return buffer.getvalue().decode()


def _properties(report: ScanReport) -> dict[str, str]:
    return {
        "pargate.version": report.tool.version,
        "pargate.run": report.run.id,
        "pargate.verdict": report.verdict.status,
        "pargate.model.sha256": report.model.sha256,
        "pargate.policy": report.policy.name,
        "pargate.policy.sha256": report.policy.sha256,
    }


def _rules(report: ScanReport) -> list[tuple[str, str, list[Finding]]]:
    """Return id, probe and findings of each rule: those of the policy in order, then others."""
    probes = {id: str(rule.get("probe", "")) for id, rule in texts.rules(report).items()}
    found: dict[str, list[Finding]] = {id: [] for id in probes}
    for finding in texts.worst_first(report):
        found.setdefault(finding.rule, []).append(finding)
    return [(id, probes.get(id, "file"), findings) for id, findings in found.items()]


def _cases(report: ScanReport) -> Iterator[TestCase]:
    """Yield the case of each rule, and one of the verdict if no rule says why it does not pass."""
    cases = [_case(*rule, report) for rule in _rules(report)]
    yield from cases
    verdict = report.verdict
    if verdict.status.passes or any(case.is_failure or case.is_error for case in cases):
        return
    whole = TestCase(name=texts.plain(next(iter(verdict.decided_by), "verdict")), classname="verdict", time=0.0)
    message = texts.plain(verdict.summary)
    whole.result = Failure(message, "fail") if verdict.status is Outcome.FAIL else Error(message, "open")
    yield whole


def _case(rule: str, probe: str, findings: Sequence[Finding], report: ScanReport) -> TestCase:
    case = TestCase(name=texts.plain(rule), classname=texts.plain(probe), time=0.0)
    answer = _answer(rule, findings, report)
    if isinstance(answer, Error) and texts.unfit(report):
        answer = Error(texts.plain(report.verdict.summary), "open")
    if answer is not None:
        case.result = answer
    return case


def _answer(rule: str, findings: Sequence[Finding], report: ScanReport) -> FinalResult | None:
    """Return the worst finding, with all of its status in the text; None if the rule holds."""
    if not findings:
        why = texts.left_out(report).get(rule)
        return Skipped(f"Left out: {why}.") if why else Error("Not measured.", "open")
    worst = findings[0]
    alike = [f for f in findings if f.status is worst.status]
    message = texts.alone(report, worst)
    answer: FinalResult
    match worst.status:
        case Status.MET:
            return None
        case Status.BREACH if worst.consequence is Consequence.FAIL:
            answer = Failure(message, "breach")
        case Status.OPEN if worst.consequence is Consequence.FAIL:
            answer = Error(message, "open")
        case Status.BREACH | Status.OPEN:
            # It does not fail the verdict, so it must not fail a build that reads this file.
            answer = Skipped(f"{message} The policy only warns of it.")
        case Status.WAIVED:
            answer = Skipped(f"{message} Accepted: {texts.acceptance(worst)}")
    measured = texts.by_id(report)
    answer.text = _lines(
        f"{f.message} {texts.recipe(measured.get(f.measurement or ''))} {texts.acceptance(f)}" for f in alike
    )
    return answer


def _lines(parts: Iterable[str]) -> str:
    # The file may be printed to a log, where a line that begins with two colons is a command.
    return "\n".join(f"- {texts.plain(part)}" for part in parts)


FORMATS.add("junit")(Format(render, "report.xml", "application/xml"))
