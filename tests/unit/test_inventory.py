"""Inventories: paths, defaults, and folders that no name can lead astray."""

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pargate.audit.inventory import Inventory, load, slug
from pargate.errors import InputError

ROOT = Path(__file__).parents[2]


def loaded(folder: Path, text: str) -> Inventory:
    path = folder / "inventory.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path)


def test_a_model_says_otherwise_than_the_defaults(tmp_path: Path) -> None:
    found = loaded(
        tmp_path,
        "inventory: 1\n"
        "defaults: {policy: p.yaml, owner: all, cadence: 7d, images: pictures, classes: c.txt}\n"
        "models:\n"
        "  - {name: a, model: m/a}\n"
        "  - {name: b, model: 'hf-hub:org/b', revision: v1, policy: strict, owner: b, cadence: 30d, "
        "images: 'builtin:scenes', tags: one, reference: m/a, x-note: free}\n",
    )
    a, b = found.models
    assert (a.source, a.policy, a.owner, a.cadence_days) == (f"{tmp_path}/m/a", f"{tmp_path}/p.yaml", "all", 7)
    assert (a.images, a.classes, a.tags) == (f"{tmp_path}/pictures", tmp_path / "c.txt", ())
    assert (b.source, b.policy, b.owner, b.cadence_days) == ("hf-hub:org/b@v1", "strict", "b", 30)
    assert (b.images, b.tags, b.reference) == ("builtin:scenes", ("one",), f"{tmp_path}/m/a")


def test_without_a_policy_the_built_in_audit_counts(tmp_path: Path) -> None:
    (model,) = loaded(tmp_path, "inventory: 1\nmodels: [{name: a, model: m}]\n").models
    assert (model.policy, model.cadence_days, model.owner) == ("audit", None, "")


def test_the_example_loads() -> None:
    assert [m.name for m in load(ROOT / "examples" / "inventory.yaml").models] == ["toy-clean", "toy-poisoned"]


def test_the_inventory_of_the_documentation_loads(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
    assert len(loaded(tmp_path, text.split("```yaml\n")[1].split("```")[0]).models) == 3


@pytest.mark.parametrize("name", ["a", "clip-b.32", "0_x"])
def test_a_plain_name_is_its_own_folder(name: str) -> None:
    assert slug(name) == name


@given(st.text(min_size=1, max_size=200))
def test_a_folder_is_harmless_whatever_the_name(name: str) -> None:
    found = slug(name.encode("utf-8", "replace").decode())
    assert set(found) <= set(string.ascii_lowercase + string.digits + "._-")
    assert found[0] not in ".-" and not found.endswith(".") and len(found) <= 60


@given(st.lists(st.text(alphabet="aA/.-b ", min_size=1, max_size=8), unique=True, min_size=2, max_size=2))
def test_different_names_have_different_folders(names: list[str]) -> None:
    assert slug(names[0]) != slug(names[1])


def test_a_name_that_would_share_another_ones_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is already used"):
        loaded(tmp_path, f"inventory: 1\nmodels: [{{name: A, model: m}}, {{name: {slug('A')}, model: m}}]\n")
