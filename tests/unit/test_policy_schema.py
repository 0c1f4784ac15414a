import re
from pathlib import Path

import pytest

from pargate.core.results import Metric, Severity
from pargate.errors import PolicyError
from pargate.policy.layers import shipped
from pargate.policy.resolve import DEFAULT, WORKING_FILE, read, refuse_pairs, resolve
from pargate.policy.schema import Policy

ROOT = Path(__file__).parents[2]

HEAD = "pargate: 1\nname: x\n"
RULE = "{id: a, probe: attack, triggers: [badnet], max: {excess: 30pp}}"


def policy(*rules: str, more: str = "") -> Policy:
    return read(HEAD + more + "rules:\n" + "".join(f"  - {rule}\n" for rule in rules), "p.yaml", Path()).policy


def refusal(*rules: str, more: str = "") -> str:
    """The message with which a policy is refused."""
    with pytest.raises(PolicyError) as caught:
        policy(*rules, more=more)
    return caught.value.message


def problems(message: str) -> list[str]:
    """The first lines of a message's problems: place and words, without the source and the caret."""
    return [line for line in message.splitlines() if line.startswith("p.yaml:")]


# --- limits ---


@pytest.mark.parametrize(
    ("text", "value"), [("5%", 0.05), ("30pp", 0.3), ("0%", 0.0), ("100%", 1.0), ("2.5 %", 0.025), ("0pp", 0.0)]
)
def test_a_percentage_is_a_fraction_and_keeps_its_text(text: str, value: float) -> None:
    limit = policy(f"{{id: a, probe: attack, triggers: [badnet], max: {{excess: {text}}}}}").rules[0].max[Metric.EXCESS]
    assert (limit.value, limit.text, limit.of_chance) == (pytest.approx(value), text, False)


@pytest.mark.parametrize(("text", "value"), [("5x chance", 5.0), ("0.5x chance", 0.5)])
def test_a_limit_can_be_a_multiple_of_chance(text: str, value: float) -> None:
    limit = policy(f"{{id: a, probe: utility, min: {{accuracy: {text}}}}}").rules[0].min[Metric.ACCURACY]
    assert (limit.value, limit.text, limit.of_chance) == (value, text, True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("5", "a limit needs its unit: did you mean 5%?"),
        ("0.05", "a limit needs its unit: did you mean 5%?"),
        ("30", "did you mean 30%?"),
        ("101%", "101% is more than 100%"),
        ("250pp", "250pp is more than 100%"),
        ("-5%", "'-5%' is not a limit; write a percentage such as 5%"),
        ("five%", "'five%' is not a limit"),
        ("1_0%", "'1_0%' is not a limit"),
        ("1e1%", "'1e1%' is not a limit"),
        ("nan%", "'nan%' is not a limit"),
        ("'%'", "'%' is not a limit"),
        ("5x", "'5x' is not a limit"),
        ("~", "this is not a limit"),
        ("[5%]", "this is not a limit"),
        ("{text: 5%, value: 0.99}", "this is not a limit"),
        ("{text: 5%, value: 0.99, of_chance: true}", "this is not a limit"),
    ],
)
def test_what_is_no_limit_is_refused_with_what_was_likely_meant(text: str, words: str) -> None:
    message = refusal(f"{{id: a, probe: attack, triggers: [badnet], max: {{excess: {text}}}}}")
    assert len(problems(message)) == 1
    assert words in message
    assert message.startswith("p.yaml:4:54: ")


# --- other values ---


@pytest.mark.parametrize(("text", "value"), [("99%", 0.99), ("99.9%", 0.999), ("95 %", 0.95), ("50.5%", 0.505)])
def test_the_confidence_is_a_percentage(text: str, value: float) -> None:
    assert policy(RULE, more=f"confidence: {text}\n").confidence == pytest.approx(value, abs=1e-15)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("99", "did you mean 99%?"),
        ("0.99", "did you mean 99%?"),
        ("0.999", "did you mean 99.9%?"),
        ("100%", "write a confidence above 50% and below 100%, not 100%"),
        ("50%", "write a confidence above 50% and below 100%, not 50%"),
        ("high%", "write the confidence as a percentage such as 99%"),
        ("9_9%", "write the confidence as a percentage such as 99%"),
        ("nan%", "write the confidence as a percentage such as 99%"),
        ("99pp", "write the confidence as a percentage such as 99%"),
        ("", "write the confidence as a percentage such as 99%"),
    ],
)
def test_what_is_no_confidence_is_refused_with_what_was_likely_meant(text: str, words: str) -> None:
    message = refusal(RULE, more=f"confidence: {text}\n")
    assert words in message
    assert message.startswith("p.yaml:3:1: ")
    assert len(problems(message)) == 1


@pytest.mark.parametrize("text", ["99%", "99.9%", "57%", "99.9999%", "99.999999%"])
def test_a_confidence_survives_being_written_and_read_again(text: str) -> None:
    before = policy(RULE, more=f"confidence: {text}\n")
    assert before.model_dump(mode="json")["confidence"] == text
    assert Policy.model_validate(before.model_dump(mode="json")).confidence == before.confidence


def test_words_that_other_readers_turn_into_something_else_stay_words() -> None:
    found = policy("{id: a, probe: attack, triggers: [badnet], target: [no, yes, 010, 12:30], max: {excess: 5%}}")
    assert found.rules[0].target == ("no", "yes", "010", "12:30")


def test_a_target_may_be_one_word_or_a_list_and_is_unknown_if_absent() -> None:
    one = policy("{id: a, probe: attack, triggers: [badnet], target: school bus, max: {attack_success: 5%}}")
    assert one.rules[0].target == ("school bus",)
    assert policy(RULE).rules[0].target == ("unknown",)


@pytest.mark.parametrize(
    ("written", "words"), [("[]", "at least one"), ("''", "at least one letter"), ("{}", "a list")]
)
def test_a_rule_cannot_lose_its_comparisons_through_an_empty_target(written: str, words: str) -> None:
    # Without a target it would ask nothing, and a policy that asks nothing must not pass.
    assert words in refusal(f"{{id: a, probe: attack, triggers: [badnet], target: {written}, max: {{excess: 5%}}}}")


def test_notes_that_begin_with_x_are_left_alone() -> None:
    found = policy(
        "{id: a, x-owner: me, probe: attack, triggers: [badnet], max: {excess: 30pp}}",
        more="x-team: {a: [1, 2]}\nimages: {min: 5, x-why: small}\n",
    )
    assert found == policy(RULE, more="images: {min: 5}\n")


def test_severity_is_high_unless_said_otherwise() -> None:
    assert policy(RULE).rules[0].severity is Severity.HIGH
    assert "'critical', 'high', 'medium' or 'low'" in refusal(RULE.replace("max:", "severity: grave, max:"))


# --- what does not fit ---


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("{id: a, probe: utility, max: {accuracy: 5%}}", "the probe utility has no maximum of accuracy"),
        ("{id: a, probe: utility, min: {excess: 5%}}", "the probe utility has no minimum of excess"),
        ("{id: a, probe: utility, max: {excess: 5%}}", "the probe utility has no maximum of excess"),
        ("{id: a, probe: attack, triggers: [badnet], min: {attack_success: 5%}}", "has no minimum of attack_success"),
        ("{id: a, probe: attack, triggers: [badnet], max: {recall: 5%}}", "the probe attack has no maximum of recall"),
        ("{id: a, probe: retrieval, triggers: [badnet], min: {recall: 5%}}", "retrieval has no minimum of recall"),
        ("{id: a, probe: attack, triggers: [badnet], max: {excess: 5x chance}}", "only accuracy has a chance level"),
        ("{id: a, probe: utility, min: {recall: 5x chance}}", "only accuracy has a chance level, recall has none"),
        ("{id: a, probe: attack, triggers: [badnet]}", "a rule needs a limit: max or min"),
        ("{id: a, probe: attack, triggers: [badnet], max: {}}", "a rule needs a limit: max or min"),
        ("{id: a, probe: utility, triggers: [badnet], min: {accuracy: 5%}}", "uses no triggers"),
        ("{id: a, probe: attack, max: {excess: 5%}}", "the probe attack needs `triggers`"),
        ("{id: a, probe: attack, triggers: [], max: {excess: 5%}}", "the probe attack needs `triggers`"),
        ("{id: a, probe: retrieval, max: {excess: 5%}}", "the probe retrieval needs `triggers`"),
    ],
)
def test_a_rule_that_does_not_fit_its_probe_is_refused(rule: str, words: str) -> None:
    message = refusal(rule)
    assert words in message
    assert len(problems(message)) == 1
    assert message.startswith("p.yaml:4:5: ")


@pytest.mark.parametrize(
    ("triggers", "there", "words"),
    [
        ("[badnett]", "badnett]", "unknown trigger 'badnett'. Did you mean 'badnet'?"),
        ("[badnet, stripes]", "stripes]", "unknown trigger 'stripes'. Did you mean"),
        ("[{kind: sig, dleta: 3}]", "dleta", "sig has no parameter 'dleta'. Did you mean 'delta'?"),
        ("[{kind: badnet, size: 0}]", "size", "badnet: size: "),
        ("[badnet, {size: 16}]", "{size", "a trigger needs a `kind`"),
        ("[{kind: sig, delta: []}]", "delta", "sig: an empty list for delta"),
        ("[[badnet]]", "[badnet]]", "a trigger is a name, or a map with `kind` and parameters"),
        ("[~]", "~]", "a trigger is a name, or a map with `kind` and parameters"),
        ("badnet", "triggers", "a list is needed here"),
        ("{kind: badnet}", "triggers", "a list is needed here"),
    ],
)
def test_a_trigger_that_does_not_exist_is_refused_where_it_stands(triggers: str, there: str, words: str) -> None:
    message = refusal(f"{{id: a, probe: attack, triggers: {triggers}, max: {{excess: 30pp}}}}")
    assert len(problems(message)) == 1
    first, source, caret = message.splitlines()
    assert words in first
    assert source[caret.index("^") :].startswith(there)


def test_two_rules_of_one_id_are_refused() -> None:
    assert "two rules have the id 'a'" in refusal(RULE, RULE)


@pytest.mark.parametrize("id", ["a b", "-a", "a/b", "''", "é", "a\\nb"])
def test_an_id_that_could_not_stand_in_a_path_is_refused(id: str) -> None:
    assert "an id begins with a letter or digit" in refusal(RULE.replace("id: a,", f'id: "{id.strip(chr(39))}",'))


def test_a_policy_without_rules_is_refused() -> None:
    for text in (HEAD, HEAD + "rules: []\n", HEAD + "rules:\n"):
        with pytest.raises(PolicyError, match="rules"):
            read(text, "p.yaml", Path())


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("clases: {names: c.txt}\n", "unknown key 'clases'. Did you mean 'classes'?"),
        ("images: {sorce: val}\n", "unknown key 'sorce'. Did you mean 'source'?"),
        ("images: val\n", "a mapping of keys is needed here"),
        ("images: {min: many}\n", "valid integer"),
        ("images: {min: -1}\n", "greater than or equal to 0"),
        ("budget: {minutes: 0}\n", "greater than 0"),
        ("budget: {images: 12:30}\n", "valid integer"),
        ("on_inconclusive: pass\n", "'inconclusive' or 'fail'"),
        ("classes: {templates: ['a photo']}\n", "the template 'a photo' needs {} once"),
        ("classes: {templates: ['{} and {}']}\n", "the template '{} and {}' needs {} once"),
        ("classes: {templates: 'a {}'}\n", "a list is needed here"),
        ("classes: {names: [dog, cat, Dog]}\n", "the class 'Dog' is here twice"),
        ("classes: {names: [dog]}\n", "at least two classes"),
        ("classes: {names: [dog, ' ']}\n", "at least two classes, each with a name"),
    ],
)
def test_a_wrong_value_is_refused_on_its_own_line(more: str, words: str) -> None:
    message = refusal(RULE, more=more)
    assert words in message
    assert message.startswith("p.yaml:3:")


def test_unknown_keys_of_a_rule_are_answered_with_the_closest() -> None:
    message = refusal("{id: a, prob: attack, triggers: [badnet], max: {excess: 30pp}}")
    assert "p.yaml:4:13: unknown key 'prob'. Did you mean 'probe'?" in message
    assert "p.yaml:4:5: the key 'probe' is missing" in message


@pytest.mark.parametrize("version", ["2", "0", "one", "1.0", "true", "~", "[1]"])
def test_another_schema_version_is_refused(version: str) -> None:
    with pytest.raises(PolicyError, match=r"p\.yaml:1:1: "):
        read(f"pargate: {version}\nname: x\nrules: [{RULE}]\n", "p.yaml", Path())


def test_all_problems_are_said_at_once_in_the_order_of_the_text() -> None:
    text = (
        "pargate: 1\n"
        "nam: x\n"
        "confidence: 99\n"
        "rules:\n"
        "  - {id: a b, probe: atack, triggers: [badnt], max: {exces: 5}}\n"
        "  - {id: q, prob: utility}\n"
        "budget: {images: none}\n"
    )
    with pytest.raises(PolicyError) as caught:
        read(text, "p.yaml", Path())
    found = problems(caught.value.message)
    places = [tuple(map(int, line.split(":")[1:3])) for line in found]
    assert places == sorted(places)
    for words in (
        "1:1: the key 'name' is missing",
        "2:1: unknown key 'nam'. Did you mean 'name'?",
        "3:1: write the confidence with a percent sign: did you mean 99%?",
        "5:6: an id begins with",
        "5:15: ",
        "5:40: unknown trigger 'badnt'",
        "5:54: a limit needs its unit",
        "6:5: the key 'probe' is missing",
        "6:13: unknown key 'prob'",
        "7:10: ",
    ):
        assert any(line.startswith(f"p.yaml:{words}") for line in found), words
    # A list whose items are refused is not told that it is too short as well.
    assert not any(line.startswith("p.yaml:4:") for line in found)


def test_each_problem_shows_its_line_with_a_caret_under_it() -> None:
    message = refusal(RULE, more="confidence: 99\n")
    assert message.splitlines()[1:] == ["    confidence: 99", "    ^"]


# --- policies that exist ---


def test_there_are_built_in_policies() -> None:
    assert DEFAULT in shipped()
    assert set(shipped()) >= {"baseline", "strict", "paper"}


@pytest.mark.parametrize("name", sorted(shipped()))
def test_every_built_in_policy_loads_and_survives_being_written(name: str) -> None:
    found = resolve(name)
    assert found.policy.name == name
    assert found.source == f"builtin:{name}"
    assert resolve(f"builtin:{name}") == found
    again = Policy.model_validate(found.policy.model_dump(mode="json"))
    assert again == found.policy


@pytest.mark.parametrize(
    "path",
    sorted([ROOT / "examples" / "policy.yaml", *(ROOT / "examples" / "policies").glob("*.yaml")]),
    ids=lambda path: path.name,
)
def test_every_example_policy_loads(path: Path) -> None:
    found = resolve(str(path))
    assert found.policy.rules
    assert found.folder == path.parent


def fenced_policies() -> list[tuple[str, str]]:
    """Every block of YAML in the documentation that is a whole policy."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [
        (f"{page.name} {number}", block)
        for page in pages
        for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
        if block.startswith("pargate:")
    ]


def test_the_readme_shows_a_policy() -> None:
    assert any(name.startswith("README.md") for name, _ in fenced_policies())


@pytest.mark.parametrize(("name", "text"), fenced_policies(), ids=[name for name, _ in fenced_policies()])
def test_every_policy_in_the_documentation_loads(name: str, text: str) -> None:
    assert read(text, name, Path()).policy.rules


# --- where policies come from ---


def test_a_policy_is_read_from_a_path(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + f"{HEAD}rules: [{RULE}]\n".encode())  # with a byte order mark
    found = resolve(str(path))
    assert (found.policy.name, found.source, found.folder) == ("x", str(path), tmp_path)


def test_a_policy_in_this_folder_is_taken_before_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve(None).policy.name == DEFAULT
    Path(WORKING_FILE).write_text(f"{HEAD}rules: [{RULE}]\n")
    assert resolve(None).policy.name == "x"


def test_a_file_never_takes_the_place_of_a_built_in_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("strict").write_text(f"{HEAD}rules: [{RULE}]\n")
    assert resolve("strict").policy.name == resolve("builtin:strict").policy.name == "strict"
    assert resolve("./strict").policy.name == "x"


def test_a_policy_here_that_cannot_be_read_is_no_reason_to_take_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve(None).policy.name == "baseline"
    Path(WORKING_FILE).symlink_to("nowhere.yaml")
    with pytest.raises(PolicyError, match="no such policy: pargate"):
        resolve(None)
    Path(WORKING_FILE).unlink()
    Path(WORKING_FILE).mkdir()
    with pytest.raises(PolicyError, match="cannot read the policy"):
        resolve(None)


def test_an_unknown_policy_is_answered_with_the_closest() -> None:
    with pytest.raises(PolicyError, match=r"no such policy: baselin\. Did you mean 'baseline'\?"):
        resolve("baselin")


@pytest.mark.parametrize("name", ["", ".", "a" * 5000])
def test_a_policy_that_cannot_be_read_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(PolicyError, match="cannot read the policy") as caught:
        resolve(name)
    assert "\n" not in caught.value.message and len(caught.value.message) < 200
    assert "Errno" not in caught.value.message


def test_a_policy_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes(b"pargate: 1\nname: \xff\xfe\n")
    with pytest.raises(PolicyError, match="not UTF-8 text"):
        resolve(str(path))


def test_the_digest_is_that_of_the_policy_and_not_of_its_layout() -> None:
    one = read(f"{HEAD}rules: [{RULE}]\n", "a", Path())
    other = read(f"# a comment\nrules:\n  - {RULE}\nname: x\npargate: 1\nconfidence: 99%\n", "b", Path())
    looser = read(f"{HEAD}rules: [{RULE.replace('30pp', '31pp')}]\n", "a", Path())
    assert one.sha256 == other.sha256
    assert one.sha256 != looser.sha256


# --- policies about pairs ---

SCREEN = "{id: set, probe: screen, false_positives: 0.05%, max: {suspects: 0.1%}}"


def test_a_policy_about_pairs_has_one_rule_with_a_limit_a_rate_and_trusted_pairs() -> None:
    rule = policy(SCREEN.replace("0.05%", "0.05%, trusted: ./honest.tar")).pairs_rule
    assert rule is not None and rule.false_positives is not None
    assert (rule.max["suspects"].value, rule.false_positives.value, rule.trusted) == (0.001, 0.0005, "./honest.tar")
    assert policy(RULE).pairs_rule is None


@pytest.mark.parametrize(
    ("rules", "more", "words"),
    [
        (("{id: a, probe: screen, max: {suspects: 1%}}",), "", "needs `false_positives`, a share of suspects"),
        ((SCREEN.replace("0.05%", "0%"),), "", "needs `false_positives`, a share of suspects"),
        ((SCREEN.replace("0.05%", "0.1%"),), "", "0.1% is not above the false positives of 0.1%"),
        (("{id: a, probe: screen, false_positives: 1%}",), "", "a rule needs a limit"),
        ((SCREEN.replace("probe", "target: cat, probe"),), "", "has no `target` and no `worsening`"),
        ((SCREEN, RULE), "", "the rule 'set' is about pairs and is the only one of its policy"),
        ((SCREEN,), "reference: ./parent\n", "`reference` is about models"),
        ((SCREEN,), "images: {source: ./val}\n", "`images` is about models"),
        (("{id: a, probe: utility, trusted: x, min: {recall: 5%}}",), "", "`trusted` belongs to the probe screen"),
    ],
)
def test_a_rule_about_pairs_that_cannot_be_judged_is_refused(rules: tuple[str, ...], more: str, words: str) -> None:
    assert words in refusal(*rules, more=more)


def test_a_policy_about_pairs_is_refused_where_a_model_is_judged() -> None:
    refuse_pairs(read(f"{HEAD}rules: [{RULE}]\n", "p.yaml", Path()))
    with pytest.raises(PolicyError, match=r"x is about training pairs \(rule set\)") as caught:
        refuse_pairs(read(f"{HEAD}rules: [{SCREEN}]\n", "p.yaml", Path()))
    assert "pargate screen PAIRS --model MODEL --policy p.yaml" in caught.value.hint


def test_trusted_pairs_of_an_extended_policy_lie_beside_that_policy(tmp_path: Path) -> None:
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "pairs.yaml").write_text(
        f"{HEAD}rules:\n  - {SCREEN.replace('max', 'trusted: ./t.tar, max')}\n"
    )
    child = read("pargate: 1\nname: y\nextends: ./org/pairs.yaml\n", str(tmp_path / "p.yaml"), tmp_path)
    rule = child.policy.pairs_rule
    assert rule is not None and child.beside(rule.trusted) == str(tmp_path / "org" / "t.tar")
