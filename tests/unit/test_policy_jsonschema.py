import re
from pathlib import Path
from typing import Any, ClassVar

import jsonschema
import pytest
import yaml
from example_policies import EXAMPLES, WAIVERS, lay_out

from pargate.errors import PolicyError
from pargate.policy import jsonschema as ours
from pargate.policy.layers import shipped
from pargate.policy.resolve import read, resolve

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "policies" / ours.NAME

VALIDATOR = jsonschema.Draft202012Validator(ours.schema())


class EditorLoader(yaml.SafeLoader):
    """YAML 1.2's core schema, which editors use: `true` and numbers are values, dates and `no` are text."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


for tag, pattern, first in (
    ("bool", r"^(true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    ("float", r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$", "-+.0123456789"),
    ("null", r"^(~|null|Null|NULL|)$", ["~", "n", "N", ""]),
):
    EditorLoader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(pattern), list(first))


def refusals(text: str) -> list[str]:
    """What an editor would underline."""
    return [error.message for error in VALIDATOR.iter_errors(yaml.load(text, EditorLoader))]


RULE = "{id: a, probe: attack, triggers: [badnet], max: {excess: 30pp}}"
SMALL = f"pargate: 1\nname: x\nrules: [{RULE}]\n"


def test_the_committed_schema_is_what_the_models_say() -> None:
    # After a change: pargate policy schema > policies/pargate-policy-1.schema.json
    assert COMMITTED.read_text(encoding="utf-8") == ours.text()


def test_the_schema_is_valid_itself_and_lies_beside_the_policies_without_being_one() -> None:
    jsonschema.Draft202012Validator.check_schema(ours.schema())
    assert not any("schema" in name for name in shipped())


@pytest.mark.parametrize("name", sorted(shipped()))
def test_every_shipped_policy_points_to_the_schema_and_fits_it(name: str) -> None:
    first = shipped()[name].splitlines()[0]
    assert first == f"# yaml-language-server: $schema=./{ours.NAME}"
    assert refusals(shipped()[name]) == []


@pytest.mark.parametrize(
    "path",
    sorted([ROOT / "examples" / "policy.yaml", *(ROOT / "examples" / "policies").glob("*.yaml")]),
    ids=lambda path: path.name,
)
def test_every_example_in_the_repository_fits_the_schema(path: Path) -> None:
    assert refusals(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_the_policies_that_show_the_whole_language_fit_the_schema_and_load(name: str, tmp_path: Path) -> None:
    assert refusals(EXAMPLES[name]) == []
    found = resolve(str(lay_out(tmp_path)[name]))
    assert found.policy.name == "release"
    assert found.overrides == ()
    assert {rule.id for rule in found.policy.rules} >= {"patch-triggers", "patch-backdoors", "usefulness"}


def test_waivers_from_a_file_of_their_own_join_those_in_the_policy(tmp_path: Path) -> None:
    found = resolve(str(lay_out(tmp_path)["full"]))
    assert [waiver.rule for waiver in found.policy.waivers] == ["blended", "usefulness"]
    assert found.origins["waivers.1.rule"].file == str(tmp_path / "pargate.waivers.yaml")
    assert found.origins["waivers.1.rule"].line == WAIVERS.splitlines().index("  - rule: usefulness") + 1


@pytest.mark.parametrize(
    "text",
    [
        SMALL,
        SMALL + "x-note: {any: thing}\nimages: {min: 5, x-why: small}\n",
        SMALL + "on_inconclusive: fail\nvalid_until: 2027-01-31\nwaiver_days: 30\n",
        SMALL + "classes: {names: [no, 7, true], templates: ['a {}.']}\n",
        SMALL + "owners: a@example.org\nlabels: {a: b, c: [d, 1]}\n",
        SMALL + "export: {onnx: false, rescan: true}\nclean: {pairs: ./pairs}\n",
        "pargate: 1\nname: x\nextends: builtin:baseline\n",
        "pargate: 1\nname: x\nextends: {file: ./org.yaml}\nrules: [{id: usefulness, min: {accuracy: 55%}}]\n",
    ],
)
def test_what_a_policy_may_say_is_not_underlined(text: str) -> None:
    assert refusals(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "name: x\nextends: builtin:baseline\n",
        "pargate: 1\nname: x\n",
        "pargate: 2\nname: x\nextends: builtin:baseline\n",
        SMALL + "imagse: {}\n",
        SMALL + "images: {sorce: a}\n",
        SMALL + "confidence: 99\n",
        SMALL + "images: {digest: sha256:abc}\n",
        SMALL + "budget: {minutes: 0}\n",
        SMALL + "enforce: {grave: fail}\n",
        SMALL + "enforce: {high: ignore}\n",
        SMALL.replace("30pp", "30"),
        SMALL.replace("30pp", "0.3"),
        SMALL.replace("excess", "exces"),
        SMALL.replace("[badnet]", "[badnett]"),
        SMALL.replace("[badnet]", "[{kind: badnett}]"),
        SMALL.replace("[badnet]", "[{kind: badnet, sise: 3}]"),
        SMALL.replace("[badnet]", "[{size: 3}]"),
        SMALL.replace("probe: attack, ", ""),
        SMALL.replace("id: a", "id: a b"),
        SMALL.replace("max:", "waivable: no, max:"),
    ],
)
def test_what_an_editor_underlines_the_command_refuses_too(text: str) -> None:
    assert refusals(text) != []
    with pytest.raises(PolicyError):
        read(text, "p.yaml", Path())


def test_fields_are_explained_where_one_types() -> None:
    properties = ours.schema()["properties"]
    assert properties["valid_until"]["description"].startswith("Last day on which the policy may be used")
    assert "previous report" in ours.schema()["$defs"]["Rule"]["properties"]["worsening"]["description"]
