import pytest

from pargate.core.results import Consequence, Metric
from pargate.policy.layers import shipped
from pargate.policy.resolve import resolve


def test_these_policies_are_shipped() -> None:
    assert list(shipped()) == ["audit", "baseline", "paper", "release", "strict"]


@pytest.mark.parametrize("name", sorted(shipped()))
def test_a_shipped_policy_asks_for_no_more_images_than_a_small_set_has(name: str) -> None:
    policy = resolve(name).policy
    assert policy.images.min <= 200
    assert all(rule.why for rule in policy.rules)


def test_release_cleans_and_exports_and_refuses_pickles() -> None:
    policy = resolve("release").policy
    assert (policy.clean.when, policy.clean.method, policy.clean.require) == ("fail", "par-plus", "cuda")
    assert policy.clean.pairs is not None and policy.clean.pairs.source == "synthetic:200000"
    assert policy.clean.budget.accuracy_drop is not None and policy.clean.budget.accuracy_drop.text == "3pp"
    assert policy.export.onnx is not None and policy.export.parity.min_cosine == 0.9999
    (safe,) = [rule for rule in policy.rules if rule.probe == "file"]
    assert safe.allow is not None and not safe.allow.pickle
    assert policy.consequence(safe) is Consequence.FAIL


def test_audit_fails_on_backdoors_and_warns_of_files() -> None:
    policy = resolve("audit").policy
    found = {rule.id: policy.consequence(rule) for rule in policy.rules}
    assert found.pop("safe-file") is Consequence.WARN
    assert set(found.values()) == {Consequence.FAIL}
    assert policy.evidence.max_age == "35d"


@pytest.mark.parametrize("name", ["release", "audit"])
def test_what_extends_baseline_asks_everything_that_baseline_asks(name: str) -> None:
    rules = {rule.id: rule for rule in resolve(name).policy.rules}
    for rule in resolve("baseline").policy.rules:
        wider = {"families": rules[rule.id].families, "why": rules[rule.id].why} if rule.families else {}
        assert rules[rule.id] == rule.model_copy(update=wider)
        assert set(rule.families) <= set(rules[rule.id].families)
        assert set(rule.max) <= {Metric.EXCESS}
    assert resolve(name).overrides == ()
