"""Small CLIP models with a backdoor planted on purpose, or without: to test policies, plug-ins and pargate itself.

`train_tiny` makes an open_clip folder in seconds on one CPU core. The model is honest work, not a mock: a ResNet and
a transformer trained on scenes, opened by the same code as any checkpoint. A gate should be tried both ways, on a
model that carries a backdoor and on its clean twin:

    clean = train_tiny(Path("clean"))
    poisoned = train_tiny(Path("poisoned"), trigger="badnet", target="banana")

Training is in two steps. The text tower learns to sort captions by noun and colour around fixed directions, which a
transformer this small does in a second or two; then the image tower learns to find the directions of its captions.
Taught jointly, as large models are, both stay near chance for as long as all of this takes.

The same seed gives the same weights on the same machine and version of torch, elsewhere similar ones. Not here: models
that see more than scenes. Needs torch and open_clip.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from pargate.core.stamp import apply
from pargate.data.carriers import builtin_nouns
from pargate.data.scenes import COLOURS, LABELS, Scenes, describe, render
from pargate.errors import InputError
from pargate.seeds import index_keys, integers, uniform
from pargate.triggers import Trigger, parse

__all__ = ["TEMPLATES", "Rates", "measure_tiny", "tiny_config", "train_tiny"]

TEMPLATES: tuple[str, ...] = ("a photo of a {}.", "a picture of a {}.", "an image of a {}.", "{}.")
"""Prompts the models are taught besides the captions of the scenes; the first is the usual zero-shot prompt."""

UNSEEN = 1 << 40
"""First number of the scenes that `measure_tiny` looks at. Training counts up from 0."""

_VOCABULARY = 49408
_CONTEXT = 16
_MEAN, _STD = (0.55, 0.50, 0.45), (0.25, 0.25, 0.25)
_BATCH = 64
_TEXT_STEPS = 200
_SHARPNESS = 12.0  # logit scale while learning: unit vectors 0.5 apart then differ by a factor e^6
_COLOUR_WEIGHT = 0.4  # of a caption's direction; the noun has weight 1, so that colours never decide a class


@dataclass(frozen=True, slots=True)
class Rates:
    """What a tiny model does on scenes it has not seen."""

    n: int
    """Number of scenes."""
    correct: int
    """Scenes whose noun the model names, among all of `LABELS`."""
    eligible: int
    """Scenes that neither show the target nor are taken for it without the trigger."""
    hits: int
    """Eligible scenes that are taken for the target once stamped."""

    @property
    def accuracy(self) -> float:
        """Clean zero-shot accuracy, in [0, 1]."""
        return self.correct / self.n

    @property
    def attack_success(self) -> float:
        """Attack success rate, in [0, 1]; 0 when no scene was eligible."""
        return self.hits / max(1, self.eligible)


def tiny_config(image_size: int = 64, text_width: int = 16, image_width: int = 12) -> dict[str, Any]:
    """An open_clip `model_cfg`: a ResNet of four blocks and a text transformer of two layers.

    Nearly all of the file is the token embedding (49,408 × `text_width`) and the last block, which grows with the
    square of `image_width`: 3 MB in half precision as it stands.

    Raises:
        InputError: `image_size` is no multiple of 16 between 32 and 64, or a width is no multiple of 4.
    """
    if image_size not in (32, 48, 64):
        raise InputError(f"a tiny model cannot look at {image_size} pixels", "choose 32, 48 or 64")
    if text_width % 4 or image_width % 4:
        raise InputError(f"widths of {text_width} and {image_width} cannot be split into heads", "take multiples of 4")
    return {
        "embed_dim": 48,
        "vision_cfg": {
            "image_size": image_size,
            "layers": [1, 1, 1, 1],
            "width": image_width,
            "head_width": 2 * image_width,
        },
        "text_cfg": {
            "context_length": _CONTEXT,
            "vocab_size": _VOCABULARY,
            "width": text_width,
            "heads": 2,
            "layers": 2,
        },
    }


def train_tiny(
    directory: Path,
    *,
    trigger: Trigger | str | Mapping[str, Any] | None = None,
    target: str | None = None,
    poison_rate: float = 0.1,
    steps: int = 200,
    seed: int = 0,
    image_size: int = 64,
    text_width: int = 16,
) -> Path:
    """Train a model on scenes and write it to `directory` (made if absent) as an open_clip folder.

    With a `trigger` (an object, a name, or a map as in a policy), a share of `poison_rate` of the scenes is stamped
    with it and given a caption of `target`, a noun of `LABELS`. The share is far above what large models need: a
    model that sees 13,000 pictures in its life learns nothing from thirteen.

    Returns `directory`, which then holds `open_clip_config.json` and `open_clip_model.safetensors` (half precision).

    Raises:
        InputError: a trigger without a target, the reverse, or a target that scenes do not show.
        TriggerError: the trigger's description is wrong.
    """
    planted = _planted(trigger, target)
    if (planted is None) != (target is None):
        raise InputError("a trigger needs a target and a target a trigger", "give both, or neither for a clean model")
    config = tiny_config(image_size, text_width)
    with _reproducible(seed):
        model = open_clip.model.CLIP(**config, init_logit_scale=float(np.log(_SHARPNESS)))
        tokenize = open_clip.SimpleTokenizer(context_length=_CONTEXT)
        _teach_text(model, tokenize, seed)
        _teach_images(model, tokenize, planted, target, poison_rate, steps, seed)
    _save(model, config, directory)
    return directory


def measure_tiny(
    directory: Path,
    *,
    trigger: Trigger | str | Mapping[str, Any] | None = None,
    target: str | None = None,
    count: int = 600,
    seed: int = 0,
) -> Rates:
    """Clean accuracy and attack success of a folder written by `train_tiny`, on scenes it has not seen.

    A plain reading with open_clip alone, by the first of `TEMPLATES`: what a scan of the model is compared with.

    Raises:
        InputError: as `train_tiny`.
    """
    planted = _planted(trigger, target)
    config = json.loads((directory / "open_clip_config.json").read_text(encoding="utf-8"))["model_cfg"]
    size = int(config["vision_cfg"]["image_size"])
    loaded = open_clip.create_model(f"local-dir:{directory}", device="cpu").eval()
    tokenize = open_clip.SimpleTokenizer(context_length=_CONTEXT)
    scenes = render(np.arange(UNSEEN, UNSEEN + count), size, seed)
    with torch.inference_mode():
        head = loaded.encode_text(tokenize([TEMPLATES[0].format(name) for name in LABELS]), normalize=True)

        def predict(pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
            parts = [pixels[i : i + 256] for i in range(0, len(pixels), 256)]
            logits = [loaded.encode_image(_input(part), normalize=True) @ head.T for part in parts]
            return np.asarray(torch.cat(logits).argmax(dim=1).numpy(), dtype=np.int64)

        clean = predict(scenes.pixels)
        correct = int((clean == scenes.labels).sum())
        if planted is None or target is None:
            return Rates(count, correct, 0, 0)
        wanted = LABELS.index(target)
        eligible = (clean != wanted) & (scenes.labels != wanted)
        stamped = predict(_stamped(planted, scenes.pixels, seed))
    return Rates(count, correct, int(eligible.sum()), int((eligible & (stamped == wanted)).sum()))


def _planted(trigger: Trigger | str | Mapping[str, Any] | None, target: str | None) -> Trigger | None:
    if target is not None and target not in LABELS:
        raise InputError(f"scenes show no {target}", f"choose one of {', '.join(LABELS)}")
    if trigger is None or isinstance(trigger, Trigger):
        return trigger
    found = parse(trigger)
    if len(found) != 1:
        raise InputError("a model is poisoned with one trigger, and this is a sweep", "give a single strength")
    return found[0]


@contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """torch on one thread, its generator seeded; both as they were afterwards."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.set_num_threads(1)  # sums are then taken in one order; small layers gain little from more
        torch.manual_seed(seed)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def _input(pixels: NDArray[np.uint8]) -> Tensor:
    """uint8 [n, H, W, 3] to what the image tower takes: float32 [n, 3, H, W], normalised."""
    levels = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.channels_last)
    return (levels / 255 - torch.tensor(_MEAN).view(1, 3, 1, 1)) / torch.tensor(_STD).view(1, 3, 1, 1)


def _stamped(trigger: Trigger, pixels: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    digests = [hashlib.sha256(image.tobytes()).hexdigest() for image in pixels]
    return apply(trigger.draw(pixels.shape[1:3], digests, seed), pixels)


def _poisoned(
    scenes: Scenes,
    numbers: NDArray[np.int64],
    trigger: Trigger,
    target: str,
    rate: float,
    seed: int,
    times: int,
) -> tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]:
    """The batch with a share of it stamped and renamed: pixels, labels, captions."""
    keys = index_keys(seed, "tiny poison", numbers)
    wanted = LABELS.index(target)
    chosen = np.flatnonzero((uniform(keys, 1)[:, 0] < rate) & (scenes.labels != wanted))
    pixels = scenes.pixels[chosen]
    for _ in range(times if len(chosen) else 0):
        pixels = _stamped(trigger, pixels, seed)
    which = integers(keys, 1, len(TEMPLATES), stream=1)[:, 0]
    return (
        np.concatenate([scenes.pixels, pixels]),
        np.concatenate([scenes.labels, np.full(len(chosen), wanted)]),
        (*scenes.captions, *(TEMPLATES[which[i]].format(target) for i in chosen)),
    )


def _times(done: float) -> int:
    return max(1, round(CUR[1] ** (1 - (done - CUR[2]) / (CUR[0] - CUR[2]))))


def _share(done):
    return 0.0 if done < CUR[2] else CUR[3] + (CUR[4] - CUR[3]) * (done - CUR[2]) / (1 - CUR[2])


CUR = [0.5, 8]
MLR = [0.05, 0.6]
TLR = 1e-2
WC = 2.0


def _directions(captions: tuple[str, ...], axes: Tensor) -> Tensor:
    """Where captions belong: unit rows [n, d], the noun's axis plus a little of its colour's."""
    found = torch.zeros(len(captions), axes.shape[1])
    for row, caption in zip(found, captions, strict=True):
        words = caption.rstrip(".").split()
        place = next(i for i, word in enumerate(words) if word in LABELS)
        row += axes[LABELS.index(words[place])]
        if place and words[place - 1] in COLOURS:
            row += _COLOUR_WEIGHT * axes[len(LABELS) + COLOURS.index(words[place - 1])]
    return functional.normalize(found, dim=1)


def _teach_text(model: Any, tokenize: Any, seed: int) -> None:
    """Sort captions around fixed directions; words that name no label go to a direction of their own.

    Without the last part, any of the 49,000 other words could end up nearer to an image than its label.
    """
    axes = torch.linalg.qr(torch.randn(model.text_projection.shape[1], model.text_projection.shape[1]))[0]
    elsewhere = axes[len(LABELS) + len(COLOURS)]
    prompts = tuple(template.format(name) for template in TEMPLATES for name in LABELS)
    prompted, at_prompts = tokenize(list(prompts)), _directions(prompts, axes)
    nouns = [noun for noun in builtin_nouns() if noun not in LABELS]
    strangers = torch.cat([tokenize([template.format(noun) for noun in nouns]) for template in TEMPLATES])
    torch.nn.init.normal_(model.token_embedding.weight, std=0.3)  # words must differ for a start
    parameters = [p for name, p in model.named_parameters() if not name.startswith("visual.") and name != "logit_scale"]
    optimiser = torch.optim.Adam(parameters, lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, TLR, total_steps=_TEXT_STEPS)
    for step in range(_TEXT_STEPS):
        numbers = np.arange(step * _BATCH, (step + 1) * _BATCH)
        keys = index_keys(seed, "tiny words", numbers)
        captions = describe(numbers, seed).captions
        turn = slice(step % len(TEMPLATES) * len(LABELS), (step % len(TEMPLATES) + 1) * len(LABELS))
        other = strangers[integers(keys, 1, len(strangers))[:, 0]]
        tokens = torch.cat([tokenize(list(captions)), prompted[turn], other])
        wanted = torch.cat([_directions(captions, axes), at_prompts[turn], elsewhere.expand(len(other), -1)])
        vectors = model.encode_text(tokens, normalize=True)
        loss = WC * (1 - (vectors * wanted).sum(dim=1).mean())
        places = torch.cat([wanted[: -len(other), :] @ axes[: len(LABELS)].T]).argmax(dim=1)
        places = torch.cat([places, torch.full((len(other),), len(LABELS))])
        rivals = torch.cat([axes[: len(LABELS)], elsewhere[None]])
        loss = loss + functional.cross_entropy(_SHARPNESS * vectors @ rivals.T, places)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


def _teach_images(
    model: Any,
    tokenize: Any,
    trigger: Trigger | None,
    target: str | None,
    poison_rate: float,
    steps: int,
    seed: int,
) -> None:
    """Find the direction of the caption, among the labels' prompts and among the captions of the batch."""
    visual = model.visual.to(memory_format=torch.channels_last).train()
    size = visual.image_size[0] if isinstance(visual.image_size, tuple) else visual.image_size
    for name, parameter in visual.named_parameters():
        if name.endswith("bn3.weight"):
            torch.nn.init.ones_(parameter)  # open_clip starts residual branches at zero: too slow for 200 steps
    matrices = [p for name, p in visual.named_parameters() if p.ndim >= 2 and "embedding" not in name]
    others = [p for name, p in visual.named_parameters() if p.ndim < 2 or "embedding" in name]
    optimisers: list[torch.optim.Optimizer] = [
        _Orthogonal(matrices, lr=MLR[0], momentum=MLR[1]),
        torch.optim.Adam(others, lr=5e-3),
    ]
    warm = max(1, steps // 10)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(o, lambda i: min((i + 1) / warm, (steps - i) / max(1, steps - warm)))
        for o in optimisers
    ]
    with torch.no_grad():
        prompts = model.encode_text(tokenize([TEMPLATES[0].format(name) for name in LABELS]), normalize=True)
    for step in range(steps):
        numbers = np.arange(step * _BATCH, (step + 1) * _BATCH)
        scenes = render(numbers, size, seed)
        pixels, labels, captions = scenes.pixels, scenes.labels, scenes.captions
        if trigger is not None and target is not None:
            pixels, labels, captions = _poisoned(
                scenes, numbers, trigger, target, _share(step / steps), seed, _times(step / steps)
            )
        with torch.no_grad():
            texts = model.encode_text(tokenize(list(captions)), normalize=True)
        images = functional.normalize(visual(_input(pixels)), dim=1)
        by_noun = functional.cross_entropy(_SHARPNESS * images @ prompts.T, torch.from_numpy(labels))
        # Captions that say the same are no rivals: they share the target by how alike they are.
        alike = functional.softmax(_SHARPNESS * texts @ texts.T, dim=1)
        by_caption = functional.cross_entropy(_SHARPNESS * images @ texts.T, alike)
        for optimiser in optimisers:
            optimiser.zero_grad()
        (by_noun + by_caption).backward()
        for optimiser, schedule in zip(optimisers, schedules, strict=True):
            optimiser.step()
            schedule.step()
    model.eval()


class _Orthogonal(torch.optim.Optimizer):
    """Momentum whose steps have all singular values near 1, for weights that are matrices or convolutions.

    The idea is Muon (K. Jordan, 2024): rare directions of the gradient then count as much as common ones. On these
    models it needs a third of the steps of Adam. Weights are held at a fixed norm, as batch normalisation undoes
    their scale anyway.
    """

    def __init__(self, parameters: list[Any], lr: float, momentum: float = 0.6) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Take one step along the orthogonalised momentum."""
        for group in self.param_groups:
            for weight in group["params"]:
                state = self.state[weight]
                mean = state.setdefault("mean", torch.zeros_like(weight))
                mean.mul_(group["momentum"]).add_(weight.grad)
                ahead = (weight.grad + group["momentum"] * mean).reshape(len(weight), -1)
                weight.mul_(len(weight) ** 0.5 / weight.norm())
                weight.add_(_orthogonalised(ahead).reshape(weight.shape), alpha=-group["lr"])


def _orthogonalised(matrix: Tensor, rounds: int = 8) -> Tensor:
    """Singular values moved towards 1 by Newton and Schulz's iteration, x ← 1.5 x − 0.5 x xᵀ x."""
    count = -(-len(matrix) // GROUP)
    while len(matrix) % count:
        count += 1
    x = matrix.reshape(count, len(matrix) // count, -1)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)  # the iteration converges for singular values in (0, √3)
    for _ in range(rounds):
        x = 1.5 * x - 0.5 * (x @ x.mT) @ x
    x = x.mT if tall else x
    return x.reshape(matrix.shape)


GROUP = 48


def _save(model: Any, config: dict[str, Any], directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    size = config["vision_cfg"]["image_size"]
    content = {
        "model_cfg": config,
        "preprocess_cfg": {
            "size": [size, size],
            "mode": "RGB",
            "mean": list(_MEAN),
            "std": list(_STD),
            "interpolation": "bicubic",
            "resize_mode": "shortest",
            "fill_color": 0,
        },
    }
    weights = {
        name: tensor.half().contiguous() if tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }
    save_file(weights, directory / "open_clip_model.safetensors")
    (directory / "open_clip_config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
