from pathlib import Path

import pytest
from example_policies import DIGEST

from pargate.errors import PolicyError
from pargate.policy.resolve import read
from pargate.policy.schema import Policy

HEAD = "pargate: 1\nname: x\nrules: [{id: a, probe: attack, triggers: [badnet], max: {excess: 30pp}}]\n"


def policy(more: str) -> Policy:
    return read(HEAD + more, "p.yaml", Path()).policy


def refusal(more: str) -> str:
    with pytest.raises(PolicyError) as caught:
        policy(more)
    assert caught.value.message.startswith("p.yaml:4:")
    return caught.value.message


def test_a_day_is_read_as_it_is_written() -> None:
    assert policy("valid_until: 2027-01-31\n").valid_until.isoformat() == "2027-01-31"
    assert policy("valid_until: '2028-02-29'\n").valid_until.isoformat() == "2028-02-29"


@pytest.mark.parametrize(
    "text", ["1800000000", "2027-1-31", "31.01.2027", "2027-01-31T00:00:00Z", "20270131", "soon", "[2027-01-31]"]
)
def test_what_is_no_day_is_refused_with_the_right_form(text: str) -> None:
    # A number would otherwise be seconds since 1970: a waiver without an end.
    assert "write a date as 2027-01-31" in refusal(f"valid_until: {text}\n")


def test_a_day_that_no_calendar_has_is_refused() -> None:
    assert "2027-02-30 is not a date" in refusal("valid_until: 2027-02-30\n")


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False), ("'true'", True)])
def test_true_and_false_are_what_they_say(text: str, value: bool) -> None:
    assert policy(f"export: {{rescan: {text}}}\n").export.rescan is value


@pytest.mark.parametrize("text", ["yes", "no", "on", "off", "True", "1", "0", "~", "[]"])
def test_other_words_for_true_and_false_are_refused(text: str) -> None:
    assert "write true or false, not" in refusal(f"export: {{rescan: {text}}}\n")


def test_a_digest_is_written_in_full() -> None:
    assert policy(f"images: {{digest: '{DIGEST}'}}\n").images.digest == DIGEST


@pytest.mark.parametrize(
    "text",
    [DIGEST[:20], DIGEST.upper(), DIGEST.removeprefix("sha256:"), DIGEST + "0", f"{DIGEST} ", "sha256:*", "'*'"],
)
def test_a_digest_that_fits_several_things_or_none_is_refused(text: str) -> None:
    quoted = text if text.startswith("'") else f"'{text}'"
    assert "write a digest in full" in refusal(f"images: {{digest: {quoted}}}\n")


@pytest.mark.parametrize(("text", "value"), [("a", ("a",)), ("[a, b]", ("a", "b")), ("no", ("no",)), ("[]", ())])
def test_one_word_stands_for_a_list_of_one(text: str, value: tuple[str, ...]) -> None:
    assert policy(f"owners: {text}\n").owners == value


@pytest.mark.parametrize("text", ["5x chance", "5"])
def test_a_share_is_a_percentage_and_no_multiple_of_chance(text: str) -> None:
    message = refusal(f"export: {{parity: {{top1_agreement: {text}}}}}\n")
    assert "a percentage such as 3pp is needed here" in message or "did you mean 5%?" in message


@pytest.mark.parametrize("text", ["30", "d30", "1 month", "-3d", "1.5d"])
def test_an_age_is_a_number_of_days(text: str) -> None:
    assert "write a number of days, such as 30d" in refusal(f"evidence: {{max_age: {text}}}\n")


def test_a_waiver_needs_an_end_and_an_approver() -> None:
    message = refusal(f"waivers: [{{rule: a, model: '{DIGEST}', reason: accepted-risk}}]\n")
    assert "the key 'expires' is missing" in message
    assert "the key 'approved_by' is missing" in message
