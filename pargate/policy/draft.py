"""The first policy of somebody who has none yet: short, with what is likely wanted next as remarks."""

from pargate.policy.print import scalar

_TEXT = """\
# What a model must show before it is used. `pargate scan MODEL` finds this file from any folder of the repository.
# For help while typing: `pargate policy schema > pargate-policy-1.schema.json`, and this as the first line:
#   yaml-language-server: $schema=./pargate-policy-1.schema.json
pargate: 1
name: {name}
# owners: [ml-security@example.org]    # shown when a model fails

# Everything from there holds here too, and may only be tightened: `pargate policy show --resolved` lists it.
extends: {extends}
{images}{classes}
# Rules of your own. One with the id of a rule above changes that rule; any other is added.
# rules:
#   - id: patch-triggers
#     max: {{excess: 20pp}}

# A breach that somebody accepts for a while, for one model:
# waivers:
#   - rule: patch-triggers
#     model: sha256:...                # `pargate inspect MODEL` shows it
#     reason: accepted-risk
#     approved_by: security@example.org
#     expires: 2027-01-31
"""


def draft(name: str, extends: str, images: str | None, classes: str | None) -> str:
    """The text of a new policy; without `images` and `classes` those of the policy that it extends are used."""
    own = f"\nimages: {{source: {scalar(images)}}}\n" if images else "\n# images: {source: ./val}\n"
    named = f"classes: {{names: {scalar(classes)}}}\n" if classes else "# classes: {names: ./classes.txt}\n"
    return _TEXT.format(name=scalar(name), extends=scalar(extends), images=own, classes=named)
