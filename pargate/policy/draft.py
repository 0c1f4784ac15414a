"""The text of a first policy: short, with likely next steps as comments."""

from pargate.policy.print import scalar

_TEXT = """\
# Limits that a model must keep. `pargate scan MODEL` finds this file from any folder of the repository.
# For completion in an editor: `pargate policy schema > pargate-policy-1.schema.json`, and this as the first line:
#   yaml-language-server: $schema=./pargate-policy-1.schema.json
pargate: 1
name: {name}
# owners: [ml-security@example.org]    # shown when a model fails

# All values of that policy apply here too, and may only be tightened: `pargate policy show --resolved` lists them.
extends: {extends}
{images}{classes}
# Your own rules. A rule with the id of an inherited rule changes it; any other rule is added.
# rules:
#   - id: patch-triggers
#     max: {{excess: 20pp}}

# An accepted breach, for one model and a limited time:
# waivers:
#   - rule: patch-triggers
#     model: sha256:...                # `pargate inspect MODEL` shows it
#     reason: accepted-risk
#     approved_by: security@example.org
#     expires: 2027-01-31
"""


def draft(name: str, extends: str, images: str | None, classes: str | None) -> str:
    """Return the text of a new policy; without `images` and `classes`, those of the extended policy apply."""
    own = f"\nimages: {{source: {scalar(images)}}}\n" if images else "\n# images: {source: ./val}\n"
    named = f"classes: {{names: {scalar(classes)}}}\n" if classes else "# classes: {names: ./classes.txt}\n"
    return _TEXT.format(name=scalar(name), extends=scalar(extends), images=own, classes=named)
