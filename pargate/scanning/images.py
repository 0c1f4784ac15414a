"""The images of a scan: listed, labelled, and refused where they cannot answer the policy."""

import numpy as np

from pargate.core.names import tidy
from pargate.core.results import NO_REFERENCE, Metric
from pargate.errors import InputError
from pargate.images.classes import BUILTIN_NOUNS, DEFAULT_TEMPLATES, read_classes
from pargate.images.labelled import SELECTION, LabelledImages, label_images
from pargate.images.opening import open_images
from pargate.images.sources.scenes import BUILTIN_SCENES
from pargate.judge import judge
from pargate.probes.base import PROBES, UNKNOWN
from pargate.scanning.request import ScanRequest

SEARCHED = 128
"""Number of images that triggers are searched on, where there are four times as many."""

FOUND_KINDS = ("file", "curves")
"""Kinds of triggers that a search gives. Such a trigger may have been searched on these very images, so they measure
no more of it than they do of a trigger that the scan finds itself."""


def read_images(request: ScanRequest) -> tuple[LabelledImages, tuple[str, ...]]:
    """Return the images with their classes, among them each class that a rule names, and notices about them.

    Raises:
        InputError: the images are other ones than the policy names, too few, or without the captions that it needs.
    """
    policy = request.policy.policy
    names, source = class_names(request)
    asked = [t for rule in policy.rules if PROBES[rule.probe].targets_classes for t in rule.target if t != UNKNOWN]
    wanted = policy.images.digest
    dataset = open_images(request.image_source, seed=request.settings.seed, cache=request.settings.cache)
    if wanted is not None and (found_digest := f"sha256:{dataset.digest}") != wanted:
        raise InputError(
            f"{request.image_source} holds other images than the policy {policy.name} names: {found_digest}",
            "give those images, or change the policy",
        )
    searching = any(
        (rule.probe == "search" and not request.leaves_out(rule)) or any(t.kind in FOUND_KINDS for t in rule.parsed)
        for rule in policy.rules
    )
    dataset = dataset if request.split is None else dataset.take(request.split)
    images = label_images(
        dataset,
        source,
        names,
        asked,
        policy.classes.templates or DEFAULT_TEMPLATES,
        request.settings.seed,
        SEARCHED if searching else SELECTION,
    )
    known = images.labels[images.labels >= 0]
    wanting = [rule.probe for rule in policy.rules if "captions" in PROBES[rule.probe].needs]
    if wanting and not any(item.caption for item in images.items):
        raise InputError(
            f"{images.source} has no captions, which the probe {wanting[0]} needs",
            f"give a CSV with the column caption, tars with .txt, or {BUILTIN_SCENES}",
        )
    total, labelled = len(images.items), len(known)
    where = f"the split `{request.split.name}` of {images.source}" if request.split else images.source
    if total < policy.images.min:
        raise InputError(
            f"{where} holds {total} images, and the policy {policy.name} needs at least {policy.images.min}",
            "give more images with --images, or another policy with --policy",
        )
    problem = judge.best_case(policy, total, images.selection, labelled, len(np.unique(known)))
    if problem:
        raise InputError(
            f"{where} holds {total} images: {problem}",
            "give more images with --images, or another policy with --policy",
        )
    notices = list(images.notices)
    if said := unlabelled(images):
        notices.append(said)
    for rule in policy.rules:
        if request.leaves_out(rule) == NO_REFERENCE:
            notices.append(
                f"rule {rule.id} was left out: a search for triggers that nobody named needs --reference, a trusted "
                "model such as the parent" + (", or --tuned" if rule.probe == "search" else "")
            )
        if Metric.ATTACK_SUCCESS in rule.max and UNKNOWN in rule.target:
            notices.append(
                f"rule {rule.id} limits the attack success towards an unknown target: natural pull is not subtracted; "
                "a limit on the excess does that"
            )
    return images, tuple(notices)


def unlabelled(images: LabelledImages) -> str:
    """Return what labels of less than two classes leave undecided, in a sentence; empty if there are more."""
    known = np.unique(images.labels[images.labels >= 0])
    if len(known) >= 2:
        return ""
    captions = any(item.caption for item in images.items)
    return (
        f"{images.source} has no {'labels of two classes' if len(known) else 'labels'}, so usefulness cannot be decided"
        + ("" if captions else ", and no captions, so nothing can pass, and only a broken rule decides")
        + f": give class folders, a CSV with the column label, tars with .cls, or {BUILTIN_SCENES}"
    )


def class_names(request: ScanRequest) -> tuple[tuple[str, ...] | None, str]:
    """Return the names of the classes and their source; no names where neither user nor policy gives them."""
    given = request.policy.policy.classes.names
    if request.classes is not None:
        return read_classes(request.classes), str(request.classes)
    if given is None or given == BUILTIN_NOUNS:
        return None, BUILTIN_NOUNS
    if isinstance(given, str):
        return read_classes(request.policy.folder / given), given
    return tuple(map(tidy, given)), f"policy {request.policy.policy.name}"
