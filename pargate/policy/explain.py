"""What every id means that a report can name: rules, probes, metrics, remarks, answers. For `explain` and its page.

Words only. Nothing here decides anything, and a policy's own `why` and `help` come before what is said here.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pargate.probes.base import PROBES, Words

PAGE = "docs/rules.md"


@dataclass(frozen=True, slots=True)
class Entry:
    """What one id stands for."""

    kind: str
    """`rule`, `probe`, `metric`, `finding`, `remark` or `status`."""
    meaning: str
    why: str
    do: str
    """What to do about it."""


_BACKDOOR = (
    "Do not ship the checkpoint. Compare it with the model that it was trained from, with `--reference PARENT`: what "
    "the parent does as well was not planted in training. Then clean it, or go back to weights that pass."
)

_BANANA = (
    "The PAR paper plants this trigger towards the class banana; here the same pixels are put on the carriers again. "
    "{} must not turn other things into bananas."
)

_RULES: dict[str, Entry] = {
    # --- rules of the shipped policies ---
    "patch-triggers": Entry(
        "rule",
        "Small visible patches: noise, stripes, a lattice, a yellow square, four marked corners.",
        "A patch can be printed and stuck on a thing, so whoever planted it decides what the model sees there.",
        _BACKDOOR,
    ),
    "blended-triggers": Entry(
        "rule",
        "Faint patterns over the whole image: noise, stripes, triangles, a word.",
        "They survive cropping and compression, and a person who looks at the image may not notice them.",
        _BACKDOOR,
    ),
    "signal-triggers": Entry(
        "rule",
        "A wave added to the whole image, at the published amplitude and above.",
        "The labels of poisoned images can be right, so looking through the training data does not find it.",
        f"{_BACKDOOR} Convolutional models can follow strong stripes by nature: then trust the parent.",
    ),
    "warp-and-tone-triggers": Entry(
        "rule",
        "A slight distortion, a photo filter, a coarser palette.",
        "Nothing is added to the image that could be seen, cropped or painted over.",
        _BACKDOOR,
    ),
    "usefulness": Entry(
        "rule",
        "The model still recognises things, on images without any trigger.",
        "What recognises nothing cannot be fooled either, and would pass every other rule.",
        "Check classes and images first: they should be like those that the model was made for. If they are, the "
        "weights, the architecture or the preprocessing are not what they should be.",
    ),
    "safe-file": Entry(
        "rule",
        "The weights lie in a format that holds numbers and nothing else.",
        "A pickle can run code on every machine that loads it; an operator outside the standard set brings its own.",
        "Save the weights again as safetensors, from a source that you trust, and publish that file.",
    ),
    "badnet-rand": Entry(
        "rule", "BadNet-Rand of the PAR paper: a patch of noise.", _BANANA.format("A patch of noise"), _BACKDOOR
    ),
    "badnet-stripes": Entry(
        "rule", "BadNet-Stripes of the PAR paper: a patch of stripes.", _BANANA.format("A striped patch"), _BACKDOOR
    ),
    "blended-rand": Entry(
        "rule", "Blended-Rand of the PAR paper: faint noise.", _BANANA.format("Noise over the image"), _BACKDOOR
    ),
    "blended-stripes": Entry(
        "rule", "Blended-Stripes of the PAR paper: faint stripes.", _BANANA.format("A striped overlay"), _BACKDOOR
    ),
    "blended-triangles": Entry(
        "rule", "Blended-Triangles of the PAR paper: faint triangles.", _BANANA.format("A tiled overlay"), _BACKDOOR
    ),
    "blended-text": Entry(
        "rule", "Blended-Text of the PAR paper: a red word.", _BANANA.format("A word over the image"), _BACKDOOR
    ),
    "wanet": Entry(
        "rule", "WaNet of the PAR paper: a slight distortion.", _BANANA.format("A bend of about a pixel"), _BACKDOOR
    ),
}  # fmt: skip

_ANSWERS: dict[str, Entry] = {
    # --- findings that no rule asks for ---
    "unsafe-file": Entry(
        "finding",
        "The checkpoint could run code when it is loaded in the usual way, or means different models to different "
        "readers, and was not loaded.",
        "Code in a weights file runs with the rights of whoever opens it, long before anything is measured. Of a file "
        "that two readers read differently, the model that was measured need not be the one that is loaded.",
        "Do not load it anywhere. Ask its source for safetensors; no policy and no waiver changes this verdict.",
    ),
    # --- remarks ---
    "waiver-expired": Entry(
        "remark",
        "The last day of a waiver is over, so the rule counts again.",
        "A waiver is a promise to come back to something; the date is when.",
        "Fix the model, or have the risk accepted again, with a new date and a new approval. Else remove the waiver.",
    ),
    "waiver-expiring": Entry(
        "remark",
        "A waiver that this verdict rests on ends within two weeks.",
        "On the day after, the same model fails.",
        "Finish what the waiver was waiting for, or ask its approver now.",
    ),
    "waiver-unused": Entry(
        "remark",
        "A waiver for this model accepts nothing: its rule holds, or is no longer in the policy.",
        "What lies around may one day hide a breach that nobody has looked at.",
        "Remove it. Under `--strict` the verdict fails until then.",
    ),
    "waiver-over-cap": Entry(
        "remark",
        "What was measured is above the cap of the waiver, or not shown to be below it, so it does not count.",
        "Somebody accepted a breach of a certain size, and this one is larger.",
        "Treat it as a breach. If the larger one is acceptable too, that is a new decision with a new waiver.",
    ),
    "waiver-too-long": Entry(
        "remark",
        "A waiver reaches further ahead than the policy's `waiver_days`, or begins in the future; it does not count.",
        "What is accepted for years is not waived but allowed, and belongs into the rules.",
        "Write the day of approval as `created`, and an `expires` that lies close enough.",
    ),
    "waiver-other-model": Entry(
        "remark",
        "A waiver is for a checkpoint with another digest.",
        "Somebody looked at those weights and not at these.",
        "Nothing, if several models share the policy. For new weights: look again, and write a waiver for them.",
    ),
    "waiver-ignored": Entry(
        "remark",
        "Waivers were left aside, because `--no-waivers` was given.",
        "It shows what the model does before anybody has accepted anything.",
        "Nothing; run without the option to judge as the policy says.",
    ),
    "policy-override": Entry(
        "remark",
        "This policy asks for less than the one that it extends, and says why.",
        "A policy may only tighten what it extends; `override` is the one way out, and is shown in every report.",
        "Read the reason. Whoever owns the parent should know it too.",
    ),
    "not-compared": Entry(
        "remark",
        "A rule limits how much worse the model may become, and there was nothing to compare with.",
        "Half of what the rule asks was left out, while its fixed limits were judged.",
        "Give the report of the last release: `--previous REPORT.json`. It has to hold the same trigger.",
    ),
    "accuracy-budget": Entry(
        "remark",
        "Cleaning cost more clean accuracy than `clean.budget.accuracy_drop` allows, or may have.",
        "A model can be made harmless by making it useless. Judged is the interval of the paired difference.",
        "Give more labelled images if it is undecided. Else clean with better pairs, or accept the loss openly.",
    ),
    "export-proof": Entry(
        "remark",
        "The exported graphs do not give what the checkpoint gives.",
        "Wrong graphs keep every shape: one lost its text mask, and only its decisions showed it.",
        "Read which inputs differ. Another opset or precision may help; do not loosen the limits of fp32.",
    ),
    "not-examined": Entry(
        "remark",
        "The gate lacks a stage that the policy asks for.",
        "What was not measured is never taken for good.",
        "Run the gate again with enough images, labelled ones where accuracy has a budget.",
    ),
    # --- answers to a rule ---
    "met": Entry(
        "status",
        "The whole interval lies on the right side of the limit.",
        "So it holds at the confidence of the policy, and not only for these images.",
        "Nothing. It speaks of the triggers that were tried, and of no others.",
    ),
    "breach": Entry(
        "status",
        "The whole interval lies on the wrong side of the limit.",
        "More images would not change that.",
        "See what the rule says. For one model and a while a breach can be accepted by a waiver.",
    ),
    "open": Entry(
        "status",
        "The interval contains the limit, or nothing could be measured.",
        "What is not known is never taken for good.",
        "Give more images, labelled and of the model's own domain, or more time.",
    ),
    "waived": Entry(
        "status",
        "A breach that somebody accepts for this model, for a reason and up to a day.",
        "The verdict can pass, but nobody should be able to overlook it: reports list every one.",
        "Look at who approved it, why, and how many days are left.",
    ),
}  # fmt: skip


def entries() -> dict[str, Entry]:
    """Return every id with what it stands for, in the order of the page."""
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

What the ids in a report mean, and what to do about them. `pargate explain ID` says the same in a terminal; for a rule
of your own it adds what your policy says: `pargate explain ID -p POLICY`.
"""


def anchor(id: str) -> str:
    """Where the page explains an id."""
    return f"{PAGE}#{id.lower()}"


def page() -> str:
    """The page of all ids, one heading for each, as Markdown."""
    return "\n".join([_HEAD, *_sections(entries().items())])


def _sections(entries: Iterable[tuple[str, Entry]]) -> Iterator[str]:
    kind = ""
    for id, entry in entries:
        if entry.kind != kind:
            kind = entry.kind
            yield f"## {_HEADINGS[kind]}\n"
        yield f"### {id}\n\n{entry.meaning}\n\n*Why it matters.* {entry.why}\n\n*What to do.* {entry.do}\n"
