import hashlib
import subprocess
from pathlib import Path

import pytest
from example_policies import DIGEST

from pargate.errors import PolicyError
from pargate.limits import EXTENDED as DEPTH
from pargate.policy.layers import from_git, shipped
from pargate.policy.print import listed
from pargate.policy.resolve import Resolved, read, resolve

PARENT = """\
pargate: 1
name: org
description: for all of us
images: {source: ./val, min: 300}
classes: {names: ./classes.txt}
confidence: 99%
reference: ./trusted
clean: {pairs: ./pairs}
rules:
  - id: patches
    probe: attack
    triggers: [badnet, {kind: file, path: ./sticker.png}]
    max: {excess: 30pp}
    severity: critical
    why: A patch must not steer.
  - {id: useful, probe: utility, min: {accuracy: 50%}}
"""

HEAD = "pargate: 1\nname: team\nextends: org.yaml\n"


def resolved(folder: Path, child: str = HEAD, parent: str = PARENT) -> Resolved:
    """A child in `folder`, beside its parent."""
    (folder / "org.yaml").write_text(parent)
    (folder / "p.yaml").write_text(child)
    return resolve(str(folder / "p.yaml"))


def refusal(folder: Path, child: str, parent: str = PARENT) -> str:
    with pytest.raises(PolicyError) as caught:
        resolved(folder, child, parent)
    return caught.value.message.replace(f"{folder}/", "")


def rules(*lines: str) -> str:
    return HEAD + "rules:\n" + "".join(f"  - {line}\n" for line in lines)


# --- what is passed on ---


def test_a_child_has_everything_of_its_parent_but_what_names_it(tmp_path: Path) -> None:
    policy = resolved(tmp_path).policy
    assert (policy.name, policy.description, policy.images.min) == ("team", "", 300)
    assert [rule.id for rule in policy.rules] == ["patches", "useful"]


@pytest.mark.parametrize("missing", ["pargate", "name"])
def test_what_names_a_policy_is_said_by_each(missing: str, tmp_path: Path) -> None:
    child = "".join(line for line in HEAD.splitlines(keepends=True) if not line.startswith(missing))
    assert refusal(tmp_path, child).startswith(f"p.yaml:1:1: the key '{missing}' is missing")


def test_a_rule_of_the_same_id_changes_what_it_names_and_any_other_is_added(tmp_path: Path) -> None:
    found = resolved(
        tmp_path, rules("{id: patches, max: {excess: 20pp}}", "{id: recall, probe: utility, min: {recall: 9%}}")
    )
    patches, _, recall = found.policy.rules
    assert (patches.probe, patches.severity, patches.why) == ("attack", "critical", "A patch must not steer.")
    assert [limit.text for limit in patches.max.values()] == ["20pp"]
    assert recall.id == "recall"


def test_sections_are_laid_over_each_other_and_limits_too(tmp_path: Path) -> None:
    found = resolved(tmp_path, rules("{id: patches, max: {attack_success: 80%}}") + "images: {min: 400}\n")
    assert (found.policy.images.source, found.policy.images.min) == ("./val", 400)
    assert {metric: limit.text for metric, limit in found.policy.rules[0].max.items()} == {
        "excess": "30pp", "attack_success": "80%",
    }  # fmt: skip


def test_a_chain_of_policies_is_followed_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "team.yaml").write_text(HEAD + "confidence: 99.5%\n")
    (tmp_path / "p.yaml").write_text("pargate: 1\nname: mine\nextends: {file: team.yaml}\nimages: {min: 500}\n")
    (tmp_path / "org.yaml").write_text(PARENT)
    policy = resolve(str(tmp_path / "p.yaml")).policy
    assert (policy.name, policy.confidence, policy.images.min, len(policy.rules)) == ("mine", 0.995, 500, 2)


@pytest.mark.parametrize("name", ["builtin:baseline", "baseline"])
def test_a_built_in_policy_can_be_extended_by_its_name(name: str, tmp_path: Path) -> None:
    found = read(f"pargate: 1\nname: x\nextends: {name}\n", str(tmp_path / "p.yaml"), tmp_path)
    assert found.policy.rules == resolve("builtin:baseline").policy.rules


def test_paths_of_a_parent_elsewhere_still_lead_to_the_same_files(tmp_path: Path) -> None:
    (tmp_path / "org").mkdir()
    (tmp_path / "team").mkdir()
    (tmp_path / "org" / "org.yaml").write_text(PARENT)
    child = tmp_path / "team" / "p.yaml"
    child.write_text("pargate: 1\nname: x\nextends: ../org/org.yaml\n")
    policy = resolve(str(child)).policy
    assert (policy.images.source, policy.classes.names) == ("../org/val", "../org/classes.txt")
    assert policy.reference == "../org/trusted"
    assert policy.rules[0].triggers[1] == {"kind": "file", "path": "../org/sticker.png"}
    assert policy.clean.pairs is not None and policy.clean.pairs.source == "../org/pairs"


# --- what is refused ---


def test_a_circle_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, HEAD, PARENT + "extends: p.yaml\n")
    assert message.startswith("org.yaml:17:1: a circle: ")
    assert "extends this policy" in message


def test_a_policy_that_extends_itself_is_refused(tmp_path: Path) -> None:
    assert "a circle" in refusal(tmp_path, HEAD.replace("org.yaml", "./p.yaml"))


def test_a_chain_may_be_so_long_and_no_longer(tmp_path: Path) -> None:
    (tmp_path / "0.yaml").write_text(PARENT)
    for number in range(1, DEPTH + 1):
        (tmp_path / f"{number}.yaml").write_text(f"pargate: 1\nname: n{number}\nextends: {number - 1}.yaml\n")
    assert resolve(str(tmp_path / f"{DEPTH - 1}.yaml")).policy.name == f"n{DEPTH - 1}"
    with pytest.raises(PolicyError, match=f"more than {DEPTH} policies extend each other"):
        resolve(str(tmp_path / f"{DEPTH}.yaml"))


def test_a_parent_can_be_nailed_down_by_its_digest(tmp_path: Path) -> None:
    digest = f"sha256:{hashlib.sha256(PARENT.encode()).hexdigest()}"
    named = HEAD.replace("org.yaml", "{file: org.yaml, digest: '%s'}")
    assert resolved(tmp_path, named % digest).policy.name == "team"
    message = refusal(tmp_path, named % DIGEST)
    assert message.startswith("p.yaml:3:27: ")
    assert f"org.yaml has another digest: {digest}" in message


@pytest.mark.parametrize(
    ("extends", "words"),
    [
        ("nowhere.yaml", "no such policy: "),
        ("builtin:basline", "Did you mean 'baseline'?"),
        ("[a]", "name the policy to extend"),
        ("{digest: a}", "name the policy to extend"),
    ],
)
def test_a_parent_that_is_not_there_is_refused_where_it_is_named(extends: str, words: str, tmp_path: Path) -> None:
    message = refusal(tmp_path, HEAD.replace("org.yaml", extends))
    assert message.startswith("p.yaml:3:1: ")
    assert words in message


def test_to_loosen_is_refused_with_the_value_of_the_parent_where_the_child_says_it(tmp_path: Path) -> None:
    message = refusal(tmp_path, rules("{id: patches, max: {excess: 40pp}}") + "confidence: 98%\n")
    first, second = [line for line in message.splitlines() if line.startswith("p.yaml:")]
    assert first.startswith("p.yaml:5:25: rules.patches.max.excess is 40pp here, and 30pp in org.yaml: ")
    assert second.startswith("p.yaml:6:1: confidence is 98% here, and 99% in org.yaml: ")
    assert "a policy may only tighten what it extends" in first


def test_to_tighten_needs_no_reason(tmp_path: Path) -> None:
    assert resolved(tmp_path, rules("{id: patches, max: {excess: 10pp}}")).overrides == ()


def test_an_override_is_the_one_way_out_and_is_told_in_every_report(tmp_path: Path) -> None:
    found = resolved(tmp_path, rules("{id: patches, max: {excess: 40pp}, override: convolutional}"))
    (remark,) = found.overrides
    assert (remark.id, remark.level, remark.key) == ("policy-override", "warn", "rules.patches.max.excess")
    for words in ("40pp here", "30pp in", "org.yaml", "the reason given is: convolutional"):
        assert words in remark.message


def test_an_override_reaches_no_further_than_the_rule_or_the_rest_that_it_is_written_in(tmp_path: Path) -> None:
    rule = "{id: patches, max: {excess: 40pp}, override: because}"
    assert "confidence is 98%" in refusal(tmp_path, rules(rule) + "confidence: 98%\n")
    assert "rules.patches.max" in refusal(tmp_path, rules(rule.replace(", override: because", "")) + "override: x\n")
    whole = resolved(tmp_path, HEAD + "confidence: 98%\noverride: small models\n")
    assert [remark.key for remark in whole.overrides] == ["confidence"]


def test_an_override_does_not_pass_to_those_that_extend_in_turn(tmp_path: Path) -> None:
    (tmp_path / "org.yaml").write_text(PARENT)
    (tmp_path / "team.yaml").write_text(rules("{id: patches, max: {excess: 40pp}, override: because}"))
    (tmp_path / "p.yaml").write_text(
        "pargate: 1\nname: x\nextends: team.yaml\nrules: [{id: patches, max: {excess: 50pp}}]\n"
    )
    with pytest.raises(PolicyError, match=r"is 50pp here, and 40pp in .*team\.yaml"):
        resolve(str(tmp_path / "p.yaml"))


# --- waivers in a file of their own ---

WAIVER = f"""\
waivers:
  - rule: patches
    model: {DIGEST}
    reason: accepted-risk
    approved_by: me
    expires: 2027-01-31
"""


def test_waivers_may_live_in_a_file_with_owners_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(WAIVER)
    found = resolved(tmp_path, HEAD + "waivers_file: w.yaml\n")
    assert [waiver.rule for waiver in found.policy.waivers] == ["patches"]
    place = found.origins["waivers.0.expires"]
    assert (place.file, place.line, place.column) == (str(tmp_path / "w.yaml"), 6, 5)


def test_a_mistake_in_the_file_of_waivers_is_shown_there(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(WAIVER.replace("accepted-risk", "fine"))
    assert refusal(tmp_path, HEAD + "waivers_file: w.yaml\n").startswith("w.yaml:4:5: ")


@pytest.mark.parametrize("content", [None, "rules: []\n", "waivers: no\n", WAIVER + "rules: []\n"])
def test_a_file_of_waivers_holds_waivers_and_nothing_else(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "w.yaml").write_text(content)
    message = refusal(tmp_path, HEAD + "waivers_file: w.yaml\n")
    assert ("and no other key" if content else "p.yaml:4:1: cannot read the waivers") in message


# --- where values come from ---


def test_every_value_knows_the_line_that_holds_it(tmp_path: Path) -> None:
    found = resolved(tmp_path, rules("{id: patches, max: {excess: 20pp}}") + "images: {min: 400}\n")
    places = {key: (Path(place.file).name, place.line) for key, place in found.origins.items()}
    assert places["name"] == ("p.yaml", 2)
    assert places["images.min"] == ("p.yaml", 6)
    assert places["images.source"] == ("org.yaml", 4)
    assert places["rules.patches.max.excess"] == ("p.yaml", 5)
    assert places["rules.patches.severity"] == ("org.yaml", 14)
    assert places["rules.patches.triggers.1"] == ("org.yaml", 12)
    assert places["rules.useful.min.accuracy"] == ("org.yaml", 16)
    assert "description" not in places and "budget" not in places


def test_the_resolved_policy_is_listed_with_the_origin_of_each_value(tmp_path: Path) -> None:
    found = resolved(tmp_path, rules("{id: patches, max: {excess: 20pp}}"))
    lines = [line.strip() for line in listed(found).splitlines()]
    for line in (
        f"excess: 20pp  # {tmp_path / 'p.yaml'}:5",
        f"severity: critical  # {tmp_path / 'org.yaml'}:14",
        f"- {{kind: file, path: ./sticker.png}}  # {tmp_path / 'org.yaml'}:12",
        "on_inconclusive: inconclusive  # default",
        "waivable: true  # default",
    ):
        assert line in lines
    assert all("  # " in line or line.endswith(":") or line.startswith("#") for line in lines)


@pytest.mark.parametrize("name", sorted(shipped()))
def test_a_listed_policy_loads_again_and_asks_the_same(name: str) -> None:
    found = resolve(f"builtin:{name}")
    again = read(listed(found), "again.yaml", Path())
    assert again.policy == found.policy.model_copy(update={"extends": None})


def test_whatever_a_text_holds_the_listing_reads_back(tmp_path: Path) -> None:
    strange = r'"no: [\"q\"] # \n\t\e[31m {} 🙂 é \u2028"'
    child = HEAD + f"owners: [no, '12:30', '2027-01-31', ' a ', '', {strange}]\n".replace(" '',", "")
    found = resolved(tmp_path, child)
    text = listed(found)
    assert "\x1b" not in text and all(line.isprintable() for line in text.splitlines())
    assert read(text, "again.yaml", Path()).policy.owners == found.policy.owners


# --- from git ---


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository whose working tree is looser than what is committed."""
    commands: list[list[str]] = [
        ["init", "-q", "-b", "main"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false", "commit", "-qm", "one"],
    ]
    (tmp_path / "org.yaml").write_text(PARENT)
    (tmp_path / "p.yaml").write_text(HEAD)
    for command in commands:
        subprocess.run(["git", *command], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "org.yaml").write_text(PARENT.replace("30pp", "90pp"))
    return tmp_path


def test_a_ref_gives_the_policy_and_its_parents_as_they_were_committed(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    name = str(repository / "p.yaml")
    assert resolve(name).policy.rules[0].max["excess"].text == "90pp"  # type: ignore[index]
    assert resolve(name, from_git("main")).policy.rules[0].max["excess"].text == "30pp"  # type: ignore[index]


def test_a_ref_that_does_not_exist_is_no_reason_to_take_the_default(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    assert resolve(None, from_git("main")).policy.name == "baseline"
    with pytest.raises(PolicyError, match="there is no git ref 'mian' here"):
        resolve(None, from_git("mian"))


def test_a_link_in_the_working_tree_does_not_choose_what_a_ref_gives(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    (repository / "p.yaml").unlink()
    (repository / "lax").mkdir()
    (repository / "p.yaml").symlink_to("lax/p.yaml")
    assert resolve("p.yaml", from_git("main")).policy.rules[0].max["excess"].text == "30pp"  # type: ignore[index]
    with pytest.raises(PolicyError, match="it is not in main"):
        resolve(".", from_git("main"))


@pytest.mark.parametrize("ref", [":0", "main..main", "main:p.yaml"])
def test_only_a_commit_is_a_ref(ref: str, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    with pytest.raises(PolicyError, match="there is no git ref"):
        from_git(ref)


@pytest.mark.parametrize("ref", ["", "--help", "-n", "a\nb"])
def test_a_ref_that_could_be_something_else_is_refused(ref: str) -> None:
    with pytest.raises(PolicyError, match="is no git ref"):
        from_git(ref)


def test_a_file_beside_a_policy_never_takes_the_place_of_the_built_in_it_extends(tmp_path: Path) -> None:
    (tmp_path / "strict").write_text(PARENT)
    (tmp_path / "p.yaml").write_text("pargate: 1\nname: child\nextends: strict\n")
    assert "blended-triggers" in {rule.id for rule in resolve(str(tmp_path / "p.yaml")).policy.rules}
