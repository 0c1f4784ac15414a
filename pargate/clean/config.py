"""The settings of a cleaning run, and their defaults by the sizes of model and data.

The published settings of PAR are for batches of 2,048 pairs and towers of a hundred million parameters; `propose` only
scales the rate, the batch and the number of steps.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from pargate.clean.methods.base import METHODS, PUBLISHED_BATCH, PUBLISHED_LR, SMALL_BATCH, Settings, Sizes
from pargate.core.choices import Precision, Preset, Towers
from pargate.core.value import Value
from pargate.errors import InputError, nearest
from pargate.files import digest_of

PUBLISHED_PARAMETERS = 151_000_000
"""Number of parameters of ViT-B/32, for which the rate was published."""

RATE_POWER = 0.75
"""Power of the ratio of parameters with which the rate grows for smaller models. PAR must reach τ within a few hundred
steps; at the published rate, a model of 3 M parameters moves by a fiftieth of that."""

BATCH_NORM_RATE_POWER = 0.92
"""The same power for models with batch normalisation on real pairs: with the one above, neither tower reached τ, and
more of a backdoor stayed."""

STEPS = 240
"""Default number of steps: enough to reach τ in the first quarter, and to recover."""

HIGHEST_LR = 1e-2
"""Highest learning rate; above it, fine-tuning transformers with AdamW diverges."""


def _offered(value: Any) -> Any:
    if value not in METHODS:
        raise ValueError(f"unknown cleaning method {value!r}.{nearest(str(value), list(METHODS))}")
    return value


MethodName = Annotated[str, BeforeValidator(_offered)]
"""Name of a cleaning method."""


class CleanConfig(Value):
    """The settings of a cleaning run; with the same pairs, weights and machine they give the same result."""

    method: MethodName
    steps: int = Field(ge=1, le=1_000_000)
    batch_size: int = Field(ge=2, le=1 << 20)
    """Number of pairs per step over all devices; the loss compares each with all others."""
    micro_batch: int = Field(ge=1)
    """Number of pairs per forward pass on one device; it affects memory and speed, not the loss."""
    lr: float = Field(gt=0, le=HIGHEST_LR)
    """Highest learning rate of the schedule."""
    schedule: Literal["par", "cosine"] = "par"
    warmup_steps: int = Field(default=0, ge=0)
    """Number of warm-up steps of the schedule `cosine`."""
    betas: tuple[float, float] = (0.9, 0.98)
    epsilon: float = 1e-8
    weight_decay: float = Field(default=1e-4, ge=0)
    """Weight decay of tensors of two or more dimensions that are not of a bias or norm."""
    contrastive: float = Field(default=1.0, ge=0)
    """Weight of the contrastive loss."""
    perturbation: float = Field(default=0.0, ge=0)
    """Weight of PAR's term, which pushes embeddings away from the frozen model's."""
    distillation: float = Field(default=0.0, ge=0)
    """Weight of the distillation term, which keeps the frozen model's similarities between images and captions."""
    unlearning: float = Field(default=0.0, ge=0)
    """Weight of the common shifts that universal perturbations cause."""
    anchor: float = Field(default=0.0, ge=0)
    """Weight of the anchor term, which keeps the embeddings of images without a perturbation."""
    universal: int = Field(default=0, ge=0, le=256)
    """Number of universal perturbations that search for a backdoor; half are blended, half shown in windows."""
    averaging: float = Field(default=0.0, ge=0, lt=1)
    """Decay of a running mean of the weights, which is the result; with 0, the last weights are."""
    tau: float | None = Field(default=None, ge=0, le=4)
    """PAR's τ: squared distance, at most 4, from which embeddings are no longer pushed away."""
    towers: Towers = "both"
    """Towers that are trained."""
    augmentation: Literal["par", "strong", "none"] = "par"
    views: int | None = Field(default=None, ge=1)
    """Number of different augmentations of an image; None draws a new one each time, as published. With few, the frozen
    model's embeddings are computed once and kept."""
    batch_norm: Literal["eval", "train"] = "eval"
    """Mode of batch normalisation; `eval` keeps the stored statistics, as PAR's code does except in an epoch's first
    step."""
    train_logit_scale: bool = False
    precision: Precision = "fp32"
    """Precision inside the towers during training; weights and losses are always in fp32."""
    checkpointing: bool = False
    """Whether activations are recomputed in the backward pass: less memory, a third more time."""
    compile: bool = False
    """Whether torch compiles the towers: minutes at the start, then faster steps on a GPU."""
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    save_every: int = Field(default=50, ge=1)
    """Number of steps between two saved states."""
    unlearned: tuple[dict[str, Any], ...] = ()
    """Family and parameters of each trigger that the user gave to unlearn; left out where there are none."""

    @model_serializer(mode="wrap")
    def _without_no_trigger(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what only `--unlearn` has, so that other records stay the same to the last byte."""
        found: dict[str, Any] = handler(self)
        if not self.unlearned:
            found.pop("unlearned", None)
        return found

    @property
    def digest(self) -> str:
        """The digest of all settings that affect the result by more than rounding, so not of those about memory."""
        return digest_of(self.model_dump(mode="json", exclude={"save_every", "micro_batch", "checkpointing"}))


@dataclass(frozen=True, slots=True)
class Proposal:
    """A configuration, and the reasons for its derived values."""

    config: CleanConfig
    reasons: Mapping[str, str]
    """Reason for each setting that differs from the published one, by name."""


def propose(
    method: str,
    sizes: Sizes,
    *,
    preset: Preset = "sized",
    overrides: Mapping[str, Any] | None = None,
) -> Proposal:
    """Return the settings of `method` for a model and data of these sizes, with `overrides` by field name.

    The preset `paper` uses rate, batch and steps as published, for all sizes.

    Raises:
        InputError: an override is out of range, or does not go with the method.
    """
    given = {name: value for name, value in (overrides or {}).items() if value is not None}
    reasons: dict[str, str] = {name: "asked for" for name in given}
    settings: dict[str, Any] = {"method": method, **METHODS[method].published}
    if preset == "sized":
        for name, (value, reason) in _sized(method, sizes).items():
            settings[name] = value
            reasons.setdefault(name, reason)
    settings["micro_batch"] = _micro_batch(sizes, int(given.get("batch_size", settings["batch_size"])))
    for other, cls in METHODS.items():
        if other != method and (foreign := sorted(cls.own & given.keys())):
            raise InputError(f"--{foreign[0]} does not go with {method}", f"it is a setting of {other}")
    if "views" in given and sizes.pairs is None:
        raise InputError(
            "--views does not go with an endless source of pairs", "give a source that ends: no image is repeated"
        )
    settings |= given
    settings["micro_batch"] = min(settings["micro_batch"], max(1, settings["batch_size"]))
    try:
        config = CleanConfig(**settings)
    except ValidationError as error:
        raise InputError("; ".join(_said(problem) for problem in error.errors()), "see pargate clean --help") from error
    if sizes.pairs is not None and config.batch_size > sizes.pairs:
        raise InputError(
            f"a batch of {config.batch_size} is more than the {sizes.pairs} pairs of the source",
            f"use --batch-size {sizes.pairs} or fewer, or more pairs",
        )
    return Proposal(config, reasons)


def _said(problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"]).replace("_", "-")
    return f"--{name} is {problem['input']}: {problem['msg'][:1].lower()}{problem['msg'][1:]}"


def _sized(method: str, sizes: Sizes) -> Settings:
    """Return rate, batch and steps by size, each with its reason.

    On a GPU, all methods except par-plus get the same values, so that they can be compared.
    """
    share = PUBLISHED_BATCH if sizes.pairs is None else 1 << int(math.log2(max(2, sizes.pairs / 20)))
    affordable = SMALL_BATCH if sizes.drawn else METHODS[method].processor_batch
    batch = max(2, min(PUBLISHED_BATCH if sizes.device == "cuda" else affordable, share))
    faster = sizes.batch_norm and not sizes.drawn  # drawn pairs already cost such a model much accuracy
    power = BATCH_NORM_RATE_POWER if faster else RATE_POWER
    rate = PUBLISHED_LR * max(1.0, PUBLISHED_PARAMETERS / max(1, sizes.parameters)) ** power
    kind = " with batch normalisation" if faster else ""
    because = f"published {PUBLISHED_LR:g}, more for {sizes.parameters / 1e6:.1f} M parameters{kind}"
    found = METHODS[method].sized(
        sizes,
        {
            "batch_size": (batch, f"{PUBLISHED_BATCH} as published, as far as {sizes.device} and the pairs allow"),
            "lr": (rate, because),
            "steps": (STEPS, "enough to move as far as it should and to recover"),
        },
    )
    rate, because = found["lr"]
    return {**found, "lr": (min(1e-3, float(f"{rate:.2g}")), because)}


def _micro_batch(sizes: Sizes, batch: int) -> int:
    """Return the micro-batch that keeps activations near 2 GB for a ViT-B/32, by the square of the image's side."""
    room = (256 if sizes.device == "cuda" else 64) * (224 / sizes.image_side) ** 2
    return max(1, min(batch, 1 << int(math.log2(max(1, room)))))
