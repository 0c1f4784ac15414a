"""Packs of triggers in a policy: `pack:NAME` and `pack:NAME/ITEM` in a rule stand for the triggers or texts themselves.

They are replaced before validation, so that everything behind it sees triggers with the digests of their pictures.
"""

from pathlib import Path
from typing import Any

from pargate.errors import InputError, PolicyError, nearest
from pargate.policy.layers import Layered, Reader
from pargate.policy.yaml import Path as KeyPath
from pargate.triggers.pack import PREFIX, Pack, PackedText, read_listing


def name_of(use: dict[str, Any]) -> str:
    """Return the name of a pack in a policy: its `name`, or the last part of its path."""
    return str(use.get("name") or Path(str(use.get("path"))).name)


def unpacked(merged: Layered, folder: Path, reader: Reader) -> Layered:
    """Return a policy with the triggers and texts of its packs in place of their names; paths are relative to `folder`.

    Raises:
        PolicyError: a pack cannot be read, has another digest, or has no such trigger or text.
    """
    uses, rules = merged.data.get("packs"), merged.data.get("rules")
    if not isinstance(uses, list) or not isinstance(rules, list):
        return merged
    found = merged.copy()
    packs: dict[str, tuple[str, Pack]] = {}
    for number, use in enumerate(uses):
        if not isinstance(use, dict) or not all(isinstance(use.get(key), str) for key in ("path", "digest")):
            continue  # validation says what is wrong
        name = name_of(use)
        if name in packs:
            raise _wrong(
                merged, ("packs", number), f"two packs have the name '{name}'; give one of them another `name`"
            )
        try:
            packs[name] = use["path"], read_listing(folder / use["path"], use["digest"], reader)
        except InputError as error:
            raise _wrong(merged, ("packs", number), error.message, error.hint) from error
    for number, rule in enumerate(rules):
        for key in ("triggers", "phrases"):
            specs = rule.get(key) if isinstance(rule, dict) else None
            if isinstance(specs, list) and any(_is_use(spec) for spec in specs):
                _replace(found, merged, ("rules", number, key), specs, packs)
    return found


def _is_use(spec: Any) -> bool:
    return isinstance(spec, str) and spec.startswith(PREFIX)


def _replace(
    found: Layered, merged: Layered, path: KeyPath, specs: list[Any], packs: dict[str, tuple[str, Pack]]
) -> None:
    """Write the triggers or texts of a rule anew, each at the place where it, or the name of its pack, is written."""
    whole = merged.find(path)
    assert whole is not None, "a list is written somewhere"
    found.put(path, [], *whole)
    count = 0
    for number, spec in enumerate(specs):
        at = (*path, number)
        written = merged.find(at)
        assert written is not None, "so is each of its items"
        for made in _items(merged, at, spec, packs) if _is_use(spec) else [spec]:
            found.put((*path, count), made, *written)
            count += 1


def _items(merged: Layered, at: KeyPath, spec: str, packs: dict[str, tuple[str, Pack]]) -> list[dict[str, Any] | str]:
    """Return the triggers or, among phrases, the texts that `pack:NAME` or `pack:NAME/ITEM` stands for."""
    name, _, one = spec.removeprefix(PREFIX).partition("/")
    if name not in packs:
        raise _wrong(merged, at, f"no pack '{name}' in `packs`.{nearest(name, list(packs))}")
    folder, pack = packs[name]
    texts = "phrases" in at
    items = pack.texts if texts else pack.triggers
    kind, only = ("text", "no texts") if texts else ("trigger", "no pictures or parameters, only texts")
    wanted = [item for item in items if one in ("", item.name)]
    if not wanted:
        what = f"no {kind} '{one}'.{nearest(one, [item.name for item in items])}" if one else only
        raise _wrong(merged, at, f"the pack '{name}' has {what}")
    return [item.text if isinstance(item, PackedText) else item.spec(name, folder) for item in wanted]


def _wrong(merged: Layered, at: KeyPath, message: str, hint: str = "") -> PolicyError:
    written = merged.find(at)
    return PolicyError(written[0].complaint(written[1], message) if written else message, hint)
