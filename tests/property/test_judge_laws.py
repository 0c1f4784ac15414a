from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pargate.core.report import (
    ClassesInfo,
    Coverage,
    ImagesInfo,
    ModelInfo,
    PolicyInfo,
    Run,
    ScanReport,
    Tool,
)
from pargate.core.results import (
    UNFIT_IMAGES,
    Count,
    Finding,
    Measurement,
    Outcome,
    PairedCounts,
    Status,
    Target,
    TriggerInfo,
    Verdict,
)
from pargate.judge.bounds import FLOOR
from pargate.judge.judge import judge
from pargate.policy.schema import Policy
from pargate.probes.base import CLEAN
from pargate.triggers import parse

RANK = {Status.BREACH: 0, Status.OPEN: 1, Status.MET: 2}
OUTCOMES = {Outcome.FAIL: 0, Outcome.INCONCLUSIVE: 1, Outcome.PASS: 2}
SPECS: tuple[Any, ...] = ("badnet", "tone", {"kind": "sig", "delta": ["12", "24"]})
INFO = {}
for spec in SPECS:
    for trigger in parse(spec):
        INFO[trigger.label] = TriggerInfo(
            label=trigger.label, kind=trigger.kind, parameters=trigger.parameters, digest=trigger.digest
        )


@dataclass(frozen=True)
class Case:
    """A policy as it is written, and measurements of it; some are missing."""

    document: dict[str, Any]
    measurements: list[Measurement]
    complete: bool

    @property
    def policy(self) -> Policy:
        return Policy.model_validate(self.document)

    def judged(self, document: dict[str, Any] | None = None) -> tuple[list[Finding], Verdict]:
        found = judge(Policy.model_validate(document or self.document), self.measurements, complete=self.complete)
        return found.findings, found.verdict


def percent(least: int, most: int) -> st.SearchStrategy[str]:
    return st.integers(least, most).map(lambda n: f"{n}%")


@st.composite
def rules(draw: st.DrawFn, number: int, kind: bool) -> dict[str, Any]:
    """`kind`: with limits that a good model holds."""
    probe = draw(st.sampled_from(["attack", "attack", "retrieval", "utility"]))
    found: dict[str, Any] = {"id": f"r{number}", "probe": probe, "severity": draw(st.sampled_from(["low", "critical"]))}
    if probe == "utility":
        share = percent(0, 30 if kind else 100)
        limits = {"accuracy": share | st.integers(0, 4 if kind else 9).map(lambda n: f"{n}x chance"), "recall": share}
    else:
        found["triggers"] = draw(st.lists(st.sampled_from(SPECS), min_size=1, max_size=2))
        found["target"] = draw(st.sampled_from(["unknown", ["banana"], ["banana", "unknown"]]))
        limits = dict.fromkeys(("attack_success", "excess"), percent(15 if kind else 0, 100))
    asked = draw(st.lists(st.sampled_from(sorted(limits)), min_size=1, max_size=2, unique=True))
    found["min" if probe == "utility" else "max"] = {metric: draw(limits[metric]) for metric in asked}
    return found


@st.composite
def counts(draw: st.DrawFn, kind: bool) -> Count:
    if kind:
        return Count(n=draw(st.integers(200, 600)), successes=draw(st.integers(0, 20)))
    n = draw(st.sampled_from([0, 1, FLOOR - 1, FLOOR, 100, 400]) | st.integers(0, 600))
    return Count(n=n, successes=draw(st.sampled_from([0, n]) | st.integers(0, n)))


@st.composite
def pairs(draw: st.DrawFn) -> PairedCounts:
    parts = draw(st.tuples(*[st.integers(0, 150) | st.just(0)] * 4))
    both, trigger_only, baseline_only, _ = parts
    return PairedCounts(
        baseline=draw(st.sampled_from(["control:flat", "reference"])), target="pipe", n=sum(parts),
        both=both, trigger_only=trigger_only, baseline_only=baseline_only,
    )  # fmt: skip


@st.composite
def cases(draw: st.DrawFn) -> Case:
    kind = draw(st.booleans())  # else passes would be rare
    document = {
        "pargate": "1",
        "name": "x",
        "confidence": draw(st.sampled_from(["90%", "99%", "99.9%"])),
        "rules": [draw(rules(i, kind)) for i in range(draw(st.integers(1, 3)))],
        "on_inconclusive": draw(st.sampled_from(["inconclusive", "inconclusive", "fail"])),
    }
    measurements = []
    if kind or draw(st.integers(0, 5)):
        n = 500 if kind else draw(st.sampled_from([0, 40, 500]))
        names = ("accuracy", "top_class", "recall")
        measurements.append(
            Measurement(
                id=CLEAN, rule="", probe="utility", chance=draw(st.sampled_from([0.001, 0.1, None, 0.5])),
                counts={name: Count(n=n, successes=draw(st.integers(400 if kind else 0, n))) for name in names},
            )
        )  # fmt: skip
    for comparison in Policy.model_validate(document).comparisons:
        if comparison.trigger is None or not (kind or draw(st.integers(0, 5))):
            continue
        measurements.append(
            Measurement(
                id=comparison.id, rule=comparison.rule.id, probe=comparison.rule.probe,
                trigger=INFO[comparison.id.split("/")[1]],
                target=Target(name="banana", given=comparison.target == "banana"),
                counts={"attack_success": draw(counts(kind))} if kind or draw(st.integers(0, 9)) else {},
                pairs=None if kind else draw(st.none() | pairs()),
                excluded={} if kind else draw(st.sampled_from([{}, {}, {}, {"vector not finite": 1}])),
            )
        )  # fmt: skip
    return Case(document, measurements, kind or draw(st.booleans()))


@st.composite
def looser(draw: st.DrawFn, document: dict[str, Any]) -> dict[str, Any]:
    """The same policy with some limits further out."""
    found = {**document, "rules": [dict(rule) for rule in document["rules"]]}
    for rule in found["rules"]:
        for side in ("max", "min"):
            if side in rule:
                rule[side] = {metric: draw(_looser_limit(text, side)) for metric, text in rule[side].items()}
    return found


def _looser_limit(text: str, side: str) -> st.SearchStrategy[str]:
    number, unit = (int(text[:-1]), "%") if text.endswith("%") else (int(text[0]), "x chance")
    span = st.integers(number, 100) if side == "max" else st.integers(0, number)
    return span.map(lambda n: f"{n}{unit}")


def by_place(document: dict[str, Any], findings: list[Finding]) -> list[Status]:
    """Status of every comparison, in the policy's order."""
    found: dict[tuple[str, str | None], list[Status]] = {}
    for finding in findings:
        found.setdefault((finding.rule, finding.measurement), []).append(finding.status)
    places = [(c.rule.id, c.id) for c in Policy.model_validate(document).comparisons]
    return [found[place].pop() if place in found else found[place[0], None].pop() for place in places]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_loosening_a_limit_never_makes_anything_worse(data: st.DataObject) -> None:
    case = data.draw(cases())
    loosened = data.draw(looser(case.document))
    findings, verdict = case.judged()
    after_findings, after = case.judged(loosened)
    pairs_of_status = zip(by_place(case.document, findings), by_place(loosened, after_findings), strict=True)
    assert all(RANK[new] >= RANK[old] for old, new in pairs_of_status)
    assert OUTCOMES[after.status] >= OUTCOMES[verdict.status]


@settings(max_examples=100, deadline=None)
@given(cases(), st.sampled_from(["95%", "99.9%", "99.9999%"]))
def test_more_confidence_never_decides_more(case: Case, higher: str) -> None:
    document = {**case.document, "confidence": "90%", "on_inconclusive": "inconclusive"}
    careful = {**document, "confidence": higher}
    findings, verdict = case.judged(document)
    careful_findings, careful_verdict = case.judged(careful)
    for before, after in zip(by_place(document, findings), by_place(careful, careful_findings), strict=True):
        if after is Status.BREACH:
            assert before is Status.BREACH
        if after is Status.MET:
            assert before is not Status.OPEN
    if careful_verdict.status is Outcome.FAIL:
        assert verdict.status is Outcome.FAIL
    if careful_verdict.status is Outcome.PASS:
        assert verdict.status is not Outcome.INCONCLUSIVE


@settings(max_examples=100, deadline=None)
@given(cases())
def test_an_empty_set_of_measurements_never_passes(case: Case) -> None:
    findings, verdict, _ = judge(case.policy, [], complete=case.complete)
    assert findings and all(f.status is Status.OPEN for f in findings)
    wanted = Outcome.FAIL if case.document["on_inconclusive"] == "fail" else Outcome.INCONCLUSIVE
    assert verdict.status is wanted


@settings(max_examples=100, deadline=None)
@given(cases(), st.data())
def test_dropping_a_measurement_never_helps(case: Case, data: st.DataObject) -> None:
    if not case.measurements:
        return
    dropped = data.draw(st.integers(0, len(case.measurements) - 1))
    findings, _ = case.judged()
    rest = case.measurements[:dropped] + case.measurements[dropped + 1 :]
    after_findings, after, _ = judge(case.policy, rest, complete=case.complete)
    assert after.status is not Outcome.PASS
    for old, new in zip(by_place(case.document, findings), by_place(case.document, after_findings), strict=True):
        assert new in (old, Status.OPEN)


@settings(max_examples=100, deadline=None)
@given(cases())
def test_an_interruption_never_helps(case: Case) -> None:
    findings, verdict, _ = judge(case.policy, case.measurements)
    cut_findings, cut, _ = judge(case.policy, case.measurements, complete=False)
    assert cut_findings == findings
    assert cut.status is not Outcome.PASS
    assert OUTCOMES[cut.status] <= OUTCOMES[verdict.status]


@settings(max_examples=100, deadline=None)
@given(cases(), st.randoms(use_true_random=False))
def test_judging_is_pure_and_does_not_depend_on_the_order_of_the_measurements(case: Case, random: Any) -> None:
    policy, before = case.policy, [m.model_dump_json() for m in case.measurements]
    first = judge(policy, case.measurements, complete=case.complete)
    assert [m.model_dump_json() for m in case.measurements] == before
    assert policy == case.policy
    shuffled = list(case.measurements)
    random.shuffle(shuffled)
    assert judge(policy, shuffled, complete=case.complete) == first


@settings(max_examples=100, deadline=None)
@given(cases())
def test_a_verdict_says_why(case: Case) -> None:
    findings, verdict = case.judged()
    breached = {f.rule for f in findings if f.status is Status.BREACH}
    undecided = {f.rule for f in findings if f.status is Status.OPEN}
    if verdict.status is Outcome.PASS:
        assert not breached and not undecided and case.complete
        assert verdict.decided_by == ()
    elif breached:
        assert verdict.status is Outcome.FAIL
        assert set(verdict.decided_by) == breached
    elif verdict.decided_by == (UNFIT_IMAGES,):
        assert undecided and case.complete
    else:
        assert set(verdict.decided_by) == undecided
    assert verdict.summary.endswith(".") and "\n" not in verdict.summary
    assert len(findings) == len(case.policy.comparisons)
    assert [RANK[f.status] for f in findings] == sorted(RANK[f.status] for f in findings)


@settings(max_examples=100, deadline=None)
@given(cases())
def test_a_status_agrees_with_the_interval_beside_it(case: Case) -> None:
    for finding in case.judged()[0]:
        for bound in finding.bounds:
            right_side = bound.high <= bound.limit if bound.upper else bound.low >= bound.limit
            wrong_side = bound.low > bound.limit if bound.upper else bound.high < bound.limit
            if bound.status is Status.MET:
                assert right_side and bound.n >= FLOOR
            elif bound.status is Status.BREACH:
                assert wrong_side and bound.n >= FLOOR


words = st.text(max_size=12)


@st.composite
def reports(draw: st.DrawFn) -> ScanReport:
    case = draw(cases())
    policy = case.policy
    findings, verdict, _ = judge(policy, case.measurements, complete=case.complete)
    model = ModelInfo(
        source=draw(words), sha256="0" * 64, format="safetensors", architecture=draw(words),
        parameters=draw(st.integers(0, 10**12)), size_bytes=1, image_size=(224, draw(st.integers(1, 999))),
        preprocessing=draw(st.dictionaries(words, st.integers(-9, 9) | words | st.booleans() | st.none(), max_size=3)),
        activation="gelu", backend=draw(words),
    )  # fmt: skip
    return ScanReport(
        schema="pargate/report/1",
        tool=Tool(version=draw(words), libraries=draw(st.dictionaries(words, words, max_size=2))),
        run=Run(
            id=draw(words), started=draw(words), seconds=draw(st.floats(0, 1e9)), host=draw(words), device="cpu",
            precision="fp32", threads=1, seed=draw(st.integers(0, 2**63)), complete=case.complete,
        ),
        model=model,
        reference=draw(st.none() | st.just(model)),
        images=ImagesInfo(
            source=draw(words), listed=1, read=1, labelled=0, captioned=0,
            unreadable=tuple(draw(st.lists(st.tuples(words, words), max_size=3))),
        ),
        classes=ClassesInfo(source="x", count=2, templates=tuple(draw(st.lists(words, max_size=3))), digest=""),
        policy=PolicyInfo(name=draw(words), source="x", sha256="", document=policy.model_dump(mode="json")),
        measurements=tuple(case.measurements),
        findings=tuple(findings),
        verdict=verdict,
        coverage=Coverage(probed=tuple(draw(st.lists(words, max_size=3))), limits=()),
        notices=tuple(draw(st.lists(words, max_size=2))),
    )  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(reports())
def test_every_report_survives_being_written_read_and_judged_again(before: ScanReport) -> None:
    after = ScanReport.from_json(before.to_json())
    assert after == before
    policy = Policy.model_validate(after.policy.document)
    findings, verdict, _ = judge(policy, after.measurements, complete=after.run.complete)
    assert (tuple(findings), verdict) == (before.findings, before.verdict)
