"""Explanations of all ids in a report, for `pargate explain` and docs/rules.md.

A policy's own `why` and `help` take precedence over these texts.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pargate.probes.base import BACKDOOR, PROBES, Words

PAGE = "docs/rules.md"


@dataclass(frozen=True, slots=True)
class Entry:
    """The explanation of one id."""

    kind: str
    """`rule`, `probe`, `metric`, `finding`, `remark` or `status`."""
    meaning: str
    why: str
    do: str
    """Advice to the reader."""


_BANANA = (
    "The PAR paper plants this trigger towards the class banana; this rule puts the same pixels on the images. "
    "{} must not turn other things into bananas."
)

_RULES: dict[str, Entry] = {
    # --- rules of the shipped policies ---
    "patch-triggers": Entry(
        "rule",
        "Small visible patches: noise, stripes, a lattice, a yellow square, four marked corners.",
        "A patch can be printed and stuck on an object. The attacker then decides what the model predicts there.",
        BACKDOOR,
    ),
    "blended-triggers": Entry(
        "rule",
        "Faint patterns over the whole image: noise, stripes, triangles, a word.",
        "These patterns survive cropping and compression, and people may not notice them.",
        BACKDOOR,
    ),
    "signal-triggers": Entry(
        "rule",
        "A wave added to the whole image, at the published amplitude and above.",
        "Poisoned images can have correct labels, so a review of the training data does not find them.",
        f"{BACKDOOR} Convolutional models can follow strong stripes by nature: the parent then shows the same pull.",
    ),
    "warp-and-tone-triggers": Entry(
        "rule",
        "A slight distortion, a photo filter, a coarser palette.",
        "These triggers add nothing to the image that could be seen, cropped or painted over.",
        BACKDOOR,
    ),
    "hidden-triggers": Entry(
        "rule",
        "Patterns that a search found on this very model: patches, faint pictures, lines, tiles, smooth fields, waves.",
        "An attacker chooses the pattern, and no catalogue contains a secret one.",
        f"{BACKDOOR} Keep the found trigger with `--found DIR`, and share it.",
    ),
    "hidden-colours": Entry(
        "rule",
        "Mild colour curves that a search found on this very model.",
        "A photo filter is not noticed as a trigger. Honest models follow some curves too, so the limit is higher.",
        f"{BACKDOOR} Without a trusted reference the rule stays open where a found curve works.",
    ),
    "usefulness": Entry(
        "rule",
        "The model still recognises things, on images without a trigger.",
        "A model that recognises nothing cannot be fooled, and would pass every other rule.",
        "First check that classes and images are like those that the model was made for. If they are, the weights, the "
        "architecture or the preprocessing are wrong.",
    ),
    "safe-file": Entry(
        "rule",
        "The file format of the weights holds only numbers.",
        "A pickle can run code on every machine that loads it; an operator outside the standard set needs extra code.",
        "Save the weights as safetensors, from a source that you trust, and publish that file.",
    ),
    "badnet-rand": Entry(
        "rule", "BadNet-Rand of the PAR paper: a patch of noise.", _BANANA.format("A patch of noise"), BACKDOOR
    ),
    "badnet-stripes": Entry(
        "rule", "BadNet-Stripes of the PAR paper: a patch of stripes.", _BANANA.format("A striped patch"), BACKDOOR
    ),
    "blended-rand": Entry(
        "rule", "Blended-Rand of the PAR paper: faint noise.", _BANANA.format("Noise over the image"), BACKDOOR
    ),
    "blended-stripes": Entry(
        "rule", "Blended-Stripes of the PAR paper: faint stripes.", _BANANA.format("A striped overlay"), BACKDOOR
    ),
    "blended-triangles": Entry(
        "rule", "Blended-Triangles of the PAR paper: faint triangles.", _BANANA.format("A tiled overlay"), BACKDOOR
    ),
    "blended-text": Entry(
        "rule", "Blended-Text of the PAR paper: a red word.", _BANANA.format("A word over the image"), BACKDOOR
    ),
    "wanet": Entry(
        "rule", "WaNet of the PAR paper: a slight distortion.", _BANANA.format("A bend of about a pixel"), BACKDOOR
    ),
}  # fmt: skip

_ANSWERS: dict[str, Entry] = {
    # --- findings that no rule asks for ---
    "unsafe-file": Entry(
        "finding",
        "The checkpoint could run code when it is loaded in the usual way, or different readers get different models "
        "from it. It was not loaded.",
        "Code in a weights file runs with the rights of the user who opens it, before anything is measured. If two "
        "readers get different models from a file, the measured model may not be the one that is loaded.",
        "Do not load it anywhere. Ask its source for safetensors. No policy and no waiver changes this verdict.",
    ),
    "unfit-images": Entry(
        "finding",
        "The model is not shown to recognise the images: it is right no more often than by guessing, or the images "
        "have neither labels nor captions.",
        "A model cannot be fooled on images that it does not recognise, so nothing follows from any rule about them.",
        "Give labelled images of the model's own domain, and its classes. If these are such images, the classes, the "
        "architecture or the preprocessing is wrong.",
    ),
    # --- remarks ---
    "waiver-expired": Entry(
        "remark",
        "A waiver has expired, so the rule counts again.",
        "A waiver accepts a risk up to a date, and no longer.",
        "Fix the model and remove the waiver, or have the risk accepted again, with a new date and a new approval.",
    ),
    "waiver-expiring": Entry(
        "remark",
        "A waiver that this verdict depends on ends within two weeks.",
        "The same model fails from the day after that date.",
        "Finish the fix, or ask the approver for a new waiver now.",
    ),
    "waiver-unused": Entry(
        "remark",
        "A waiver for this model accepts nothing: its rule holds, or is no longer in the policy.",
        "An unused waiver may later hide a breach that nobody has reviewed.",
        "Remove it. Under `--strict` the verdict fails until then.",
    ),
    "waiver-over-cap": Entry(
        "remark",
        "The breach is above the cap of the waiver, or not shown to be below it, so the waiver does not count.",
        "The waiver accepts a breach of a certain size, and this one is larger.",
        "Treat it as a breach. To accept it, decide again and write a new waiver.",
    ),
    "waiver-too-long": Entry(
        "remark",
        "A waiver lasts longer than the policy's `waiver_days`, or begins in the future; it does not count.",
        "A risk that is accepted for years belongs in the rules.",
        "Write the day of approval as `created`, and an earlier `expires`.",
    ),
    "waiver-other-model": Entry(
        "remark",
        "A waiver is for a checkpoint with another digest.",
        "The approver reviewed those weights, not these.",
        "Do nothing if several models share the policy. For new weights: review them, and write a new waiver.",
    ),
    "waiver-ignored": Entry(
        "remark",
        "Waivers were ignored, because `--no-waivers` was given.",
        "The verdict ignores accepted risks.",
        "Do nothing, or run without the option to apply the waivers.",
    ),
    "policy-override": Entry(
        "remark",
        "This policy is looser than the one that it extends, and gives a reason.",
        "A policy may only tighten what it extends; `override` is the only exception, and every report shows it.",
        "Read the reason. Tell the owner of the extended policy.",
    ),
    "unlearned-trigger": Entry(
        "remark",
        "The model was cleaned with `--unlearn`, which showed it these triggers beside true captions.",
        "Rules about the same triggers no longer test it. A gate asks for rules about other families of triggers.",
        "Read the results of the other rules. A search, and a catalogue such as `baseline`, are such rules.",
    ),
    "not-compared": Entry(
        "remark",
        "A rule limits how much worse the model may become, and there was no report to compare with.",
        "Only the fixed limits of the rule were judged.",
        "Give the report of the last release: `--previous REPORT.json`. It must hold the same trigger.",
    ),
    "previous-unused": Entry(
        "remark",
        "A previous report was given, and no rule of the policy compares with it.",
        "The verdict is the same as without the report.",
        "Leave `--previous` out, or add limits of `worsening` to a rule: `pargate policy schema` describes them.",
    ),
    "accuracy-budget": Entry(
        "remark",
        "Cleaning cost more clean accuracy than `clean.budget.accuracy_drop` allows, or this is undecided.",
        "A useless model passes every limit on attack success. An exact test of the paired answers decides.",
        "If it is undecided, give more labelled images, or allow it with `clean.budget.undecided: warn`. Otherwise "
        "clean with better pairs, or raise the budget openly.",
    ),
    "export-proof": Entry(
        "remark",
        "The exported graphs and the checkpoint give different results.",
        "A wrong graph can have correct shapes: one without its text mask differed only in its predictions.",
        "Read which inputs differ. Another opset or precision may help; do not loosen the limits of fp32.",
    ),
    "not-examined": Entry(
        "remark",
        "The gate lacks a stage that the policy requires.",
        "Missing evidence never counts as a pass.",
        "Run the gate again with enough images, and with labelled images if accuracy has a budget.",
    ),
    # --- answers to a rule ---
    "met": Entry(
        "status",
        "The whole interval lies on the right side of the limit.",
        "The rule holds at the confidence of the policy, and not only for these images.",
        "Do nothing. The answer covers the probed triggers only.",
    ),
    "breach": Entry(
        "status",
        "The whole interval lies on the wrong side of the limit.",
        "More images would not change that.",
        "Read the explanation of the rule. A waiver can accept a breach for one model and a limited time.",
    ),
    "open": Entry(
        "status",
        "The interval contains the limit, or nothing could be measured.",
        "An undecided rule never counts as met.",
        "Give more images, labelled and of the model's own domain, or more time.",
    ),
    "waived": Entry(
        "status",
        "A breach that a waiver accepts for this model, for a reason and up to a day.",
        "The verdict can pass; reports list every waiver, so that none is overlooked.",
        "Check the approver, the reason, and the days that are left.",
    ),
}  # fmt: skip


def entries() -> dict[str, Entry]:
    """Return the explanation of every id, in the order of the page."""
    probes = {name: _entry("probe", probe.about) for name, probe in PROBES.items()}
    metrics = {name: _entry("metric", words) for probe in PROBES.values() for name, words in probe.metrics().items()}
    return {**_RULES, **probes, **metrics, **_ANSWERS}


def _entry(kind: str, words: Words) -> Entry:
    return Entry(kind, words.meaning, words.why, words.do)


_HEADINGS = {
    "rule": "Rules of the shipped policies",
    "probe": "Probes",
    "metric": "Metrics",
    "finding": "Findings without a rule",
    "remark": "Remarks",
    "status": "Answers to a rule",
}

_HEAD = """\
# Rules and findings

The meaning of each id in a report, and advice. `pargate explain ID` prints the same text; with `-p POLICY` it adds what
your policy says about its own rules.
"""


def anchor(id: str) -> str:
    """Return the link to the explanation of an id."""
    return f"{PAGE}#{id.lower()}"


def page() -> str:
    """Return the page of all ids as Markdown, one heading for each."""
    return "\n".join([_HEAD, *_sections(entries().items())])


def _sections(entries: Iterable[tuple[str, Entry]]) -> Iterator[str]:
    kind = ""
    for id, entry in entries:
        if entry.kind != kind:
            kind = entry.kind
            yield f"## {_HEADINGS[kind]}\n"
        yield f"### {id}\n\n{entry.meaning}\n\n*Why it matters.* {entry.why}\n\n*What to do.* {entry.do}\n"
