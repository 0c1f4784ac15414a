"""Everything a cleaning run depends on besides weights and pairs, and how its defaults follow from their sizes.

Light: no torch. The published settings of PAR are for batches of 2,048 pairs and towers of a hundred million
parameters; `propose` scales rate, batch and steps to what is at hand, and nothing else.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError

from pargate.clean.methods.base import METHODS, PUBLISHED_BATCH, PUBLISHED_LR, SMALL_BATCH, Settings, Sizes
from pargate.core.choices import Precision, Preset, Towers
from pargate.core.value import Value
from pargate.errors import InputError, nearest
from pargate.files import digest_of

PUBLISHED_PARAMETERS = 151_000_000
"""Of ViT-B/32, for which the published rate is."""

RATE_POWER = 0.75
"""The rate grows with so great a power of how many times fewer parameters a model has. PAR needs τ to be reached within
a few hundred steps; at the published rate a model of 3 M parameters moves by a fiftieth of that."""

BATCH_NORM_RATE_POWER = 0.92
"""The same of models with batch normalisation and with real pairs: with the power above neither tower came to τ, and
more of a backdoor stayed than had to."""

STEPS = 240
"""Enough to reach τ in the first quarter, and to recover."""

HIGHEST_LR = 1e-2
"""Beyond this no transformer of any size has been fine-tuned with AdamW and lived."""


def _offered(value: Any) -> Any:
    if value not in METHODS:
        raise ValueError(f"unknown cleaning method {value!r}.{nearest(str(value), list(METHODS))}")
    return value


MethodName = Annotated[str, BeforeValidator(_offered)]
"""Name of a cleaning method."""


class CleanConfig(Value):
    """One cleaning run; with equal pairs, weights and machine it gives equal results."""

    method: MethodName
    steps: int = Field(ge=1, le=1_000_000)
    batch_size: int = Field(ge=2, le=1 << 20)
    """Pairs of one step over all devices: each is told apart from all others."""
    micro_batch: int = Field(ge=1)
    """Pairs that one device forwards at a time. It changes memory and speed, not the loss."""
    lr: float = Field(gt=0, le=HIGHEST_LR)
    """Highest learning rate of the schedule."""
    schedule: Literal["par", "cosine"] = "par"
    warmup_steps: int = Field(default=0, ge=0)
    """Of the schedule `cosine`."""
    betas: tuple[float, float] = (0.9, 0.98)
    epsilon: float = 1e-8
    weight_decay: float = Field(default=1e-4, ge=0)
    """On tensors of two or more dimensions that are no bias and no norm's."""
    contrastive: float = Field(default=1.0, ge=0)
    """Weight of the contrastive loss."""
    perturbation: float = Field(default=0.0, ge=0)
    """Weight of PAR's term, which pushes embeddings away from the frozen model's."""
    distillation: float = Field(default=0.0, ge=0)
    """Weight of what keeps pictures apart as the frozen model tells them apart."""
    unlearning: float = Field(default=0.0, ge=0)
    """Weight of the shifts that universal pictures give to all that they are mixed into."""
    anchor: float = Field(default=0.0, ge=0)
    """Weight of what keeps pictures without any of them where the frozen model has them."""
    universal: int = Field(default=0, ge=0, le=256)
    """How many pictures look for a backdoor while the model unlearns what they find; half blended, half in windows."""
    averaging: float = Field(default=0.0, ge=0, lt=1)
    """Decay of a running mean of the weights, which is what is kept; 0 keeps the last ones."""
    tau: float | None = Field(default=None, ge=0, le=4)
    """PAR: squared distance beyond which embeddings are no longer pushed away; 4 is the largest there is."""
    towers: Towers = "both"
    """Which towers are trained."""
    augmentation: Literal["par", "strong", "none"] = "par"
    views: int | None = Field(default=None, ge=1)
    """How many different augmentations a picture can get; None draws a new one each time, as published. With few,
    the frozen model's embeddings are computed once and kept."""
    batch_norm: Literal["eval", "train"] = "eval"
    """`eval` keeps the stored statistics, which is what PAR's code does in all but its first step of an epoch."""
    train_logit_scale: bool = False
    precision: Precision = "fp32"
    """Arithmetic inside the towers while they are trained; weights and losses are in fp32 always."""
    checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more work."""
    compile: bool = False
    """Let torch compile the towers: minutes at the start, faster steps on a GPU."""
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    save_every: int = Field(default=50, ge=1)
    """Steps between two states from which an interrupted run goes on."""

    @property
    def digest(self) -> str:
        """Identity of all that can change the result by more than rounding: a run goes on with less memory, too."""
        return digest_of(self.model_dump(mode="json", exclude={"save_every", "micro_batch", "checkpointing"}))


@dataclass(frozen=True, slots=True)
class Proposal:
    """A configuration, and where its derived values come from."""

    config: CleanConfig
    reasons: Mapping[str, str]
    """Sentence for each setting that was derived or changed from the published one."""


def propose(
    method: str,
    sizes: Sizes,
    *,
    preset: Preset = "sized",
    overrides: Mapping[str, Any] | None = None,
) -> Proposal:
    """The settings of `method` for a model and data of these sizes, `overrides` (by field name) on top.

    `paper` takes rate, batch and steps as published, whatever the sizes.

    Raises:
        InputError: an override is out of range or does not go with the method.
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
            "--views does not go with pairs without end", "no picture comes again; give a source that ends"
        )
    settings |= given
    settings["micro_batch"] = min(settings["micro_batch"], max(1, settings["batch_size"]))
    try:
        config = CleanConfig(**settings)
    except ValidationError as error:
        raise InputError("; ".join(_said(problem) for problem in error.errors()), "see pargate clean --help") from error
    if sizes.pairs is not None and config.batch_size > sizes.pairs:
        raise InputError(
            f"a batch of {config.batch_size} needs as many pairs, and there are {sizes.pairs}",
            f"use --batch-size {sizes.pairs} or fewer, or more pairs",
        )
    return Proposal(config, reasons)


def _said(problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"]).replace("_", "-")
    return f"--{name} is {problem['input']}: {problem['msg'][:1].lower()}{problem['msg'][1:]}"


def _sized(method: str, sizes: Sizes) -> Settings:
    """Return rate, batch and steps by size, each with its reason.

    On a GPU all methods but par-plus get the same, so that they can be compared.
    """
    share = PUBLISHED_BATCH if sizes.pairs is None else 1 << int(math.log2(max(2, sizes.pairs / 20)))
    affordable = SMALL_BATCH if sizes.drawn else METHODS[method].processor_batch
    batch = max(2, min(PUBLISHED_BATCH if sizes.device == "cuda" else affordable, share))
    faster = sizes.batch_norm and not sizes.drawn  # drawn pairs cost such a model enough as it is
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
    """Pairs at a time: what keeps activations near 2 GB for a ViT-B/32, by the square of the image's side."""
    room = (256 if sizes.device == "cuda" else 64) * (224 / sizes.image_side) ** 2
    return max(1, min(batch, 1 << int(math.log2(max(1, room)))))
