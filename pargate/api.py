"""The Python API: scan a model, stamp a trigger, count attack success, and run PAR. docs/python.md shows each.

Nothing here loads torch before a model is opened or trained.
"""

import hashlib
import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from pargate import events
from pargate.core import stamp as stamps
from pargate.core.model import Pixels, Precision
from pargate.core.report import ScanReport
from pargate.core.results import Count
from pargate.errors import InputError
from pargate.files import digest_of
from pargate.judge.bounds import interval
from pargate.judge.judging import Judging
from pargate.judge.rejudge import judge
from pargate.models.model import Model
from pargate.policy.resolve import Resolved, read, refuse_expired, refuse_pairs, resolve
from pargate.probes.base import PROBES
from pargate.scanning.request import ScanRequest, ScanSettings
from pargate.scanning.run import scan as run_scan
from pargate.triggers import Trigger, TriggerError, parse

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Rate", "Report", "attack_success", "par", "rejudge", "scan", "stamp"]

Policy = str | Path | Mapping[str, Any]
"""Name of a built-in policy, path of a file, or the content of one."""


class Report(ScanReport):
    """A report that notebooks show as an HTML page."""

    def _repr_html_(self) -> str:
        from pargate.report import FORMATS

        page = html.escape(FORMATS["html"].render(self), quote=True)
        return f'<iframe srcdoc="{page}" style="width: 100%; height: 40em; border: 0"></iframe>'


class Settings(TypedDict, total=False):
    """Further settings of a scan."""

    tuned: str | Path | None
    """The model after a short fine-tuning on clean pairs, in place of a reference."""
    arch: str | None
    """Name of open_clip's architecture, for a file without a configuration."""
    device: str
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    precision: Literal["auto"] | Precision
    """Arithmetic of the image tower; `auto` by default."""
    seed: int
    """Root seed of all random numbers; 0 by default."""
    max_minutes: float | None
    """Time limit; undecided comparisons stay open then."""
    cache: Path | None
    """Folder for embeddings, which makes the next scan of the same model fast."""
    progress: events.Listener
    """Function that is called with each event."""


def scan(
    model: Any,
    policy: Policy = "baseline",
    *,
    preprocess: Any = None,
    tokenizer: "Callable[[Sequence[str]], Tensor] | None" = None,
    images: str | Path | None = None,
    classes: str | Path | Sequence[str] | None = None,
    reference: str | Path | None = None,
    **settings: Unpack[Settings],
) -> Report:
    """Scan a model under a policy, as `pargate scan` does.

    Args:
        model: a file, a folder, a source such as `hf-hub:ORG/NAME`, or a model in memory: one of open_clip, or any
            object with `encode_image` and `encode_text`, in evaluation mode. Rules about the weights file are left
            out for a model in memory.
        preprocess: preprocessing for a model in memory: a transform, or a mapping with size, mean and std; an open_clip
            model's own by default.
        tokenizer: token ids of captions for a model in memory; open_clip's by default.
        policy: name of a built-in policy, path of a policy file, or its content as a mapping.
        images: folder, table, tar or another source of images; the policy's own by default.
        classes: file with one class per line, or the classes; the policy's own by default.
        reference: trusted model of the same family, such as the parent.
        settings: further settings, see `Settings`.

    Raises:
        InputError, UnsafeCheckpoint, PolicyError, OperationalError: see `pargate.errors`.
    """
    for name, given in (("reference", reference), ("tuned", settings.get("tuned")), ("images", images)):
        if given == "":
            raise InputError(f"{name} is empty", "give a value, or leave it out")
    if unknown := sorted(settings.keys() - Settings.__annotations__):
        raise InputError(f"scan has no setting '{unknown[0]}'", f"one of {', '.join(Settings.__annotations__)}")
    today = datetime.now(UTC).date()
    resolved = _policy(policy, classes)
    refuse_expired(resolved, today)
    source: str | Model = str(model)
    if not isinstance(model, str | Path):
        from pargate.models.inmemory import of_network

        source = opened = of_network(model, preprocess, tokenizer)
        resolved = _without_file(resolved)
        if settings.get("precision", "auto") == "auto":
            settings["precision"] = "fp32"
        if not opened.checkpoint.sha256:
            settings["cache"] = None
    elif preprocess is not None or tokenizer is not None:
        raise InputError("preprocess and tokenizer go with a model in memory", "leave them out for a path")
    report = run_scan(
        ScanRequest(
            source,
            Judging(resolved, today),
            arch=settings.get("arch"),
            images=None if images is None else str(images),
            classes=Path(classes) if isinstance(classes, str | Path) else None,
            reference=None if reference is None else str(reference),
            tuned=str(settings["tuned"]) if settings.get("tuned") else None,
            settings=ScanSettings(
                settings.get("device", "auto"),
                settings.get("precision", "auto"),
                settings.get("seed", 0),
                settings.get("max_minutes"),
                settings.get("cache"),
            ),
        ),
        settings.get("progress", events.ignore),
    )
    return Report.model_construct(**dict(report))


def _without_file(resolved: Resolved) -> Resolved:
    """Return a policy without the rules about the weights file, which a model in memory does not have.

    Raises:
        InputError: all rules are about the file.
    """
    policy = resolved.policy
    rules = tuple(rule for rule in policy.rules if "file" not in PROBES[rule.probe].needs)
    if not rules:
        raise InputError(f"all rules of {policy.name} are about the weights file", "scan the file")
    left_out = [rule.id for rule in policy.rules if rule not in rules]
    if not left_out:
        return resolved
    policy = policy.model_copy(update={"rules": rules})
    said = f"the model was given in memory, so rules about its file were left out: {', '.join(left_out)}"
    return replace(resolved, policy=policy, sha256=digest_of(policy.model_dump(mode="json")), remark=said)


def rejudge(report: ScanReport, policy: Policy, *, today: date | None = None) -> Report:
    """Judge a saved report under another policy, or on another day, without model and images.

    Args:
        report: report of a scan, or `pargate.Report.from_json(text)`.
        policy: as for `scan`.
        today: day on which waivers are judged; today by default.

    Raises:
        InputError, PolicyError: the report cannot answer the policy.
    """
    judged = judge(report, Judging(_policy(policy, None), today or datetime.now(UTC).date()))
    return Report.model_construct(**dict(judged))


def _policy(policy: Policy, classes: str | Path | Sequence[str] | None) -> Resolved:
    """Return the policy; a list of classes replaces the policy's own."""
    import yaml

    given = None if classes is None or isinstance(classes, str | Path) else list(classes)
    document: dict[str, Any] = {"pargate": 1, "name": "python"}
    document |= policy if isinstance(policy, Mapping) else {"extends": _extended(str(policy))}
    if given is not None:
        document["classes"] = {**document.get("classes", {}), "names": given}
    if isinstance(policy, Mapping) or given is not None:
        resolved = read(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), "python", Path())
    else:
        resolved = resolve(str(policy))
    refuse_pairs(resolved)
    return resolved


def _extended(name: str) -> str:
    """Return the `extends` entry for a policy name or path."""
    return name if Path(name).exists() or ":" in name else f"builtin:{name}"


def stamp(trigger: str | Mapping[str, Any] | Trigger, images: Pixels, *, seed: int = 0) -> Pixels:
    """Put a trigger on images.

    Args:
        trigger: name of a trigger, or a mapping with `kind` and parameters, as in a policy.
        images: uint8 [n, height, width, 3] or [height, width, 3], RGB.
        seed: root seed; equal images get equal stamps.

    Returns:
        The stamped images, uint8, in the shape of `images`.

    Raises:
        InputError: the trigger is unknown or a sweep, or the array has another shape or type.
    """
    pixels = np.asarray(images)
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or pixels.shape[-1] != 3:
        raise InputError(f"images are {pixels.dtype} {list(pixels.shape)}", "give uint8 [n, height, width, 3], RGB")
    batch = np.ascontiguousarray(pixels[None] if pixels.ndim == 3 else pixels)
    digests = [hashlib.sha256(one.tobytes()).hexdigest() for one in batch]
    height, width = batch.shape[1:3]
    stamped = stamps.apply(_trigger(trigger).draw((height, width), digests, seed), batch)
    return stamped[0] if pixels.ndim == 3 else stamped


def _trigger(given: str | Mapping[str, Any] | Trigger) -> Trigger:
    if isinstance(given, Trigger):
        return given
    try:
        found = parse(given)
    except TriggerError as error:
        raise InputError(str(error), "see pargate triggers") from error
    if len(found) > 1:
        raise InputError(f"{given} is {len(found)} triggers", "give one value for each parameter")
    return found[0].read(Path())


@dataclass(frozen=True, slots=True)
class Rate:
    """A share with its interval."""

    successes: int
    n: int
    low: float
    high: float
    confidence: float

    @property
    def rate(self) -> float | None:
        """Successes / n; None if n is 0."""
        return self.successes / self.n if self.n else None

    def __str__(self) -> str:
        shown = "nothing counted" if self.rate is None else f"{self.rate:.1%} ({self.successes} of {self.n})"
        return f"{shown}, {self.confidence:g} interval {self.low:.1%} to {self.high:.1%}"


def attack_success(
    stamped: Sequence[int] | NDArray[np.int64],
    target: int,
    *,
    clean: Sequence[int] | NDArray[np.int64],
    labels: Sequence[int] | NDArray[np.int64] | None = None,
    confidence: float = 0.99,
) -> Rate:
    """Return the share of eligible images that a trigger sends to one class, as a rule of the probe `attack` counts it.

    An image is eligible if it does not show the target and is not predicted as the target without the trigger. The
    interval is anytime-valid: it may be inspected after every batch.

    Args:
        stamped: int [n], predicted classes of the images with the trigger.
        target: the attacker's class.
        clean: int [n], predicted classes of the same images without the trigger.
        labels: int [n], true classes, −1 where unknown.
        confidence: confidence of the interval, between 0 and 1.

    Raises:
        InputError: the arrays differ in length, or the confidence is out of range.
    """
    with_trigger, without = np.asarray(stamped), np.asarray(clean)
    truth = np.full(len(without), -1) if labels is None else np.asarray(labels)
    if not with_trigger.shape == without.shape == truth.shape or with_trigger.ndim != 1:
        raise InputError(
            f"predictions of {with_trigger.shape}, {without.shape} and {truth.shape}", "give arrays of one length"
        )
    if not 0 < confidence < 1:
        raise InputError(f"a confidence of {confidence}", "give a number between 0 and 1, such as 0.99")
    eligible = (truth != target) & (without != target)
    count = Count(n=int(eligible.sum()), successes=int((eligible & (with_trigger == target)).sum()))
    low, high = interval(count, (1 - confidence) / 2, (1 - confidence) / 2)
    return Rate(count.successes, count.n, low, high, confidence)


def par(
    model: "nn.Module",
    loader: "Iterable[tuple[Tensor, Tensor]]",
    *,
    tau: float = 2.15,
    lr: float | None = None,
    steps: int | None = None,
    progress: events.Listener = events.ignore,
) -> list[dict[str, float]]:
    """Train a model in place with PAR, Perturb and Recover (arXiv 2412.00727).

    Args:
        model: an open_clip model, or any module with `encode_image`, `encode_text` and `logit_scale`.
        loader: batches of normalised images, float [n, 3, height, width], and token ids, int64 [n, length]; the
            loader is iterated again until `steps` are taken.
        tau: squared distance from the frozen model beyond which embeddings are no longer pushed away.
        lr: highest learning rate; by default the published one, scaled to the model's size.
        steps: optimiser steps; by default 240, or one pass over a loader that has a length and is longer.
        progress: function that is called with each step.

    Returns:
        The terms of the loss of each step.

    Raises:
        InputError: the model has no such methods, a setting is out of range, or the loader gives nothing.
        OperationalError: the loss is not finite.
    """
    from pargate.clean.train.inmemory import train_par

    return train_par(model, loader, tau=tau, lr=lr, steps=steps, emit=progress)
