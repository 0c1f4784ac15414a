"""The images of a scan: listed, labelled, and refused where they cannot answer the policy."""

from bisect import bisect_left

import numpy as np

from pargate.core.names import tidy
from pargate.core.results import NO_REFERENCE, Metric
from pargate.errors import InputError
from pargate.images.classes import BUILTIN_NOUNS, DEFAULT_TEMPLATES, read_classes
from pargate.images.labelled import SELECTION, LabelledImages, choosing, label_images
from pargate.images.opening import open_images
from pargate.images.sources.scenes import BUILTIN_SCENES
from pargate.judge import judge
from pargate.probes.base import PROBES, UNKNOWN
from pargate.report.text import plural
from pargate.scanning.request import ScanRequest

SEARCHED = 128
"""Number of images that triggers are searched on, where there are four times as many."""

MOST = 100_000
"""Number of images up to which the number that a policy needs is looked for."""

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
    selection = _selection(request)
    dataset = dataset if request.split is None else dataset.take(request.split)
    images = label_images(
        dataset,
        source,
        names,
        asked,
        policy.classes.templates or DEFAULT_TEMPLATES,
        request.settings.seed,
        selection,
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
    problem = judge.best_case(policy, total, images.selection, labelled, len(np.unique(known)))
    if total < policy.images.min:
        problem = f"the policy {policy.name} needs at least {policy.images.min}"
    if problem:
        needed = least_images(request)
        more = f"at least {needed:,} images" if total < needed else "more images"
        raise InputError(
            f"{where} holds {plural(total, 'image')}: {problem}",
            f"give {more} with --images, or another policy with --policy",
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


def _selection(request: ScanRequest) -> int:
    """Return how many images the policy's rules choose unknown targets on, if there are enough."""
    searching = any(
        (rule.probe == "search" and not request.leaves_out(rule)) or any(t.kind in FOUND_KINDS for t in rule.parsed)
        for rule in request.policy.policy.rules
    )
    return SEARCHED if searching else SELECTION


def least_images(request: ScanRequest) -> int:
    """Return the smallest number of labelled images on which every rule can be decided in the best case."""
    policy, selection = request.policy.policy, _selection(request)

    def decides(images: int) -> bool:
        return not judge.best_case(policy, images, choosing(images, selection), images)

    first = max(policy.images.min, 1)
    return first + bisect_left(range(first, MOST), True, key=decides)


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
