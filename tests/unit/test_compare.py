from pathlib import Path

import pytest
from example_policies import DIGEST
from hypothesis import given
from hypothesis import strategies as st

from pargate.policy.compare import Change, changes
from pargate.policy.layers import shipped
from pargate.policy.resolve import read, resolve
from pargate.policy.schema import Policy

HEAD = "pargate: 1\nname: x\n"
ATTACK = "{id: a, probe: attack, triggers: [badnet, sig], max: {excess: 30pp}}"
UTILITY = "{id: u, probe: utility, min: {accuracy: 50%}}"
FILE = "{id: f, probe: file, allow: {formats: [safetensors]}}"
WAIVER = f"waivers: [{{rule: a, model: '{DIGEST}', reason: accepted-risk, approved_by: me, expires: 2027-01-31}}]\n"


def policy(*rules: str, more: str = "") -> Policy:
    return read(HEAD + more + "rules:\n" + "".join(f"  - {rule}\n" for rule in rules), "p.yaml", Path()).policy


def found(old: Policy, new: Policy) -> list[tuple[str, str]]:
    return [(change.name, change.direction) for change in changes(old, new)]


@pytest.mark.parametrize("name", sorted(shipped()))
def test_a_policy_does_not_differ_from_itself(name: str) -> None:
    assert changes(resolve(name).policy, resolve(name).policy) == []


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_to_lower_a_maximum_is_tighter_and_to_raise_it_looser(old: int, new: int) -> None:
    before, after = (policy(ATTACK.replace("30pp", f"{value / 10:g}pp")) for value in (old, new))
    assert changes(before, before) == []
    expected = [] if old == new else [("rules.a.max.excess", "tighter" if new < old else "looser")]
    assert found(before, after) == expected


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_to_raise_a_minimum_is_tighter_and_to_lower_it_looser(old: int, new: int) -> None:
    before, after = (policy(UTILITY.replace("50%", f"{value / 10:g}%")) for value in (old, new))
    expected = [] if old == new else [("rules.u.min.accuracy", "tighter" if new > old else "looser")]
    assert found(before, after) == expected


OPPOSITE = {"tighter": "looser", "looser": "tighter"}


@pytest.mark.parametrize(
    ("loose", "tight", "key"),
    [
        ("", "confidence: 99.9%\n", "confidence"),
        ("", "images: {min: 5}\n", "images.min"),
        ("", f"images: {{digest: '{DIGEST}'}}\n", "images.digest"),
        ("", "on_inconclusive: fail\n", "on_inconclusive"),
        ("enforce: {high: warn, critical: fail}\n", "", "enforce.high"),
        ("", "waiver_days: 30\n", "waiver_days"),
        ("", "valid_until: 2027-01-31\n", "valid_until"),
        ("valid_until: 2027-01-31\n", "valid_until: 2027-01-30\n", "valid_until"),
        ("clean: {when: fail}\n", "clean: {when: never}\n", "clean.when"),
        ("", "clean: {budget: {accuracy_drop: 3pp}}\n", "clean.budget.accuracy_drop"),
        ("", "clean: {require: cuda}\n", "clean.require"),
        ("", "export: {parity: {min_cosine: 0.99999}}\n", "export.parity.min_cosine"),
        ("", "export: {parity: {top1_agreement: 100%}}\n", "export.parity.top1_agreement"),
        ("", "export: {parity: {samples: 1000}}\n", "export.parity.samples"),
        ("export: {rescan: false}\n", "", "export.rescan"),
        ("", "evidence: {attest: [svr]}\n", "evidence.attest"),
        ("", "evidence: {sbom: cyclonedx-1.6}\n", "evidence.sbom"),
        ("evidence: {max_age: 30d}\n", "evidence: {max_age: 9d}\n", "evidence.max_age"),
        (WAIVER, "", "waivers.0"),
    ],
)
def test_each_setting_has_a_direction_and_the_way_back_is_the_opposite(loose: str, tight: str, key: str) -> None:
    rules = (ATTACK, ATTACK.replace("id: a", "id: b, severity: critical"))
    before, after = policy(*rules, more=loose), policy(*rules, more=tight)
    assert found(before, after) == [(key, "tighter")]
    assert found(after, before) == [(key, "looser")]


@pytest.mark.parametrize(
    ("loose", "tight", "key"),
    [
        (ATTACK, ATTACK.replace("sig", "sig, tone"), "rules.a.triggers"),
        (ATTACK, ATTACK.replace("max:", "target: [unknown, banana], max:"), "rules.a.target"),
        (ATTACK, ATTACK.replace("30pp", "30pp, attack_success: 10%"), "rules.a.max.attack_success"),
        (ATTACK, ATTACK.replace("max:", "worsening: {excess: 2pp}, max:"), "rules.a.worsening.excess"),
        (ATTACK, ATTACK.replace("max:", "severity: critical, max:"), "rules.a.severity"),
        (ATTACK, ATTACK.replace("max:", "waivable: false, max:"), "rules.a.waivable"),
        (FILE.replace("safetensors", "safetensors, onnx"), FILE, "rules.f.allow.formats"),
        (FILE.replace("allow: {", "allow: {pickle: true, "), FILE, "rules.f.allow.pickle"),
        (UTILITY.replace("50%", "5x chance"), UTILITY, "rules.u.min.accuracy"),
    ],
)
def test_each_part_of_a_rule_has_a_direction_and_the_way_back_is_the_opposite(loose: str, tight: str, key: str) -> None:
    assert found(policy(loose), policy(tight)) == [(key, "tighter")]
    assert found(policy(tight), policy(loose)) == [(key, "looser")]


def test_a_rule_more_is_tighter_and_one_less_looser() -> None:
    assert changes(policy(ATTACK), policy(ATTACK, UTILITY)) == [
        Change(("rules", "u"), "", "utility: accuracy ≥ 50%", "tighter")
    ]
    assert found(policy(ATTACK, UTILITY), policy(ATTACK)) == [("rules.u", "looser")]


def test_to_exchange_something_that_is_asked_is_looser_both_ways() -> None:
    other = policy(ATTACK.replace("sig", "tone"))
    (change,) = changes(policy(ATTACK), other)
    # Only what differs is shown.
    assert (change.old, change.new, change.direction) == ("sig", "tone", "looser")
    assert found(other, policy(ATTACK)) == [("rules.a.triggers", "looser")]


def test_triggers_are_told_apart_by_what_they_do_and_not_by_how_they_are_written() -> None:
    spelled = ATTACK.replace("badnet", "{kind: badnet, size: 16/224}")
    assert changes(policy(ATTACK), policy(spelled)) == []
    assert changes(policy(ATTACK), policy(ATTACK.replace("badnet, sig", "sig, badnet"))) == []
    renamed = ATTACK.replace("sig", "{kind: sig, delta: 0.001, name: sig}")
    assert found(policy(ATTACK), policy(renamed)) == [("rules.a.triggers", "looser")]


def test_a_share_too_low_for_ten_classes_is_looser_than_a_multiple_of_chance() -> None:
    assert found(policy(UTILITY.replace("50%", "5x chance")), policy(UTILITY.replace("50%", "49%"))) == [
        ("rules.u.min.accuracy", "looser")
    ]


def test_a_reference_is_looser_because_it_may_have_the_same_backdoor() -> None:
    bare, referred = policy(ATTACK), policy(ATTACK, more="reference: ./parent\n")
    assert found(bare, referred) == [("reference", "looser")]
    assert found(policy(ATTACK, more="reference: ./other\n"), referred) == [("reference", "looser")]
    assert found(referred, bare) == [("reference", "looser")]


def test_a_severity_that_the_table_makes_harmless_is_looser_however_high() -> None:
    raised = policy(ATTACK.replace("id: a", "id: a, severity: critical"), FILE, more="enforce: {critical: note}\n")
    assert ("rules.a.consequence", "looser") in found(policy(ATTACK, FILE), raised)


def test_pictures_that_were_not_read_yet_are_told_apart_by_their_paths() -> None:
    secret = ATTACK.replace("sig", "{kind: file, path: secret.png}")
    blank = ATTACK.replace("sig", "{kind: file, path: blank.png}")
    assert found(policy(secret), policy(blank)) == [("rules.a.triggers", "looser")]


def test_cleaning_is_looser_only_than_a_policy_that_says_it_wants_none() -> None:
    cleaning = policy(ATTACK, more="clean: {when: fail}\n")
    assert found(policy(ATTACK), cleaning) == [("clean.when", "other")]
    assert found(policy(ATTACK, more="clean: {when: never}\n"), cleaning) == [("clean.when", "looser")]


def test_a_table_of_consequences_is_looser_only_where_a_rule_has_that_severity() -> None:
    table = policy(ATTACK, more="enforce: {medium: warn}\n")
    assert found(policy(ATTACK), table) == [("enforce.medium", "other")]
    medium = ATTACK.replace("id: a", "id: b, severity: medium")
    before, after = policy(ATTACK, medium), policy(ATTACK, medium, more="enforce: {medium: warn}\n")
    assert found(before, after) == [("enforce.medium", "looser")]
    assert found(policy(ATTACK, more="enforce: {medium: fail}\n"), table) == [("enforce.medium", "looser")]


def test_what_has_no_direction_is_other() -> None:
    more = "images: {source: ./val}\nclasses: {names: [a, b], templates: ['{}']}\nbudget: {images: 5}\n"
    new = policy(ATTACK, more=more)
    assert {direction for _, direction in found(policy(ATTACK), new)} == {"other"}


def test_words_for_people_are_no_difference() -> None:
    talkative = ATTACK.replace("max:", "why: because, help: there, max:")
    assert changes(policy(ATTACK), policy(talkative, more="owners: me\nlabels: {a: b}\n")) == []


def test_a_smaller_rate_of_false_positives_and_other_trusted_pairs_are_looser() -> None:
    def screen(rate: str, trusted: str) -> Policy:
        return policy(f"{{id: s, probe: screen, false_positives: {rate}, {trusted} max: {{suspects: 1%}}}}")

    one, other = screen("0.5%", "trusted: ./a,"), screen("0.4%", "trusted: ./b,")
    assert found(one, other) == [("rules.s.false_positives", "looser"), ("rules.s.trusted", "looser")]
    assert found(screen("0.4%", ""), one) == [("rules.s.false_positives", "tighter"), ("rules.s.trusted", "tighter")]
