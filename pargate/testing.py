"""Train small CLIP models with or without a backdoor, to test policies, plug-ins and pargate itself.

`train_tiny` writes an open_clip folder in half a minute on one CPU core. The model is a ResNet and a transformer,
trained on scenes and opened by the same code as any checkpoint. Test a policy on a clean and on a poisoned model:

    clean = train_tiny(Path("clean"))
    poisoned = train_tiny(Path("poisoned"), trigger="lattice", target="banana")

Training has two steps. The text tower learns to map captions to fixed directions, one for each noun and colour; then
the image tower learns the directions of its captions. So trained, the towers name more than 80 % of new scenes; trained
jointly by Adam, as large models are, they name 7 to 21 % after as many images.

The same seed gives the same weights with the same machine and torch, and similar ones elsewhere.
"""

import copy
import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

from pargate.core.stamp import apply
from pargate.errors import InputError
from pargate.files import write_atomic
from pargate.images.classes import builtin_nouns
from pargate.scenes.render import COLOURS, LABELS, Scenes, describe, render
from pargate.seeds import index_keys, integers, uniform
from pargate.triggers import Trigger, parse

__all__ = ["TEMPLATES", "Rates", "measure_tiny", "plant_word", "tiny_config", "train_tiny"]

TEMPLATES: tuple[str, ...] = ("a photo of a {}.", "a picture of a {}.", "a {}.", "an image of a {}.")
"""Prompts that the models learn besides the captions of scenes."""

UNSEEN = 1 << 40
"""Number of the first scene that `measure_tiny` uses; training starts at 0."""

_VOCABULARY = 49408  # CLIP's tokenizer
_CONTEXT = 16  # tokens; captions of scenes have at most 14
_MEAN, _STD = (0.55, 0.50, 0.45), (0.25, 0.25, 0.25)  # roughly those of scenes
_BATCH = 64
_TEXT_STEPS = 200
_SHARPNESS = 12.0  # logit scale: a class that is 0.5 further away is e^6 times less likely
_COLOUR_WEIGHT = 0.4  # weight of the colour in a caption's direction; the noun has 1 and decides the class
_ROWS = 48  # rows that are orthogonalised together; whole matrices take three times as long and learn no more


@dataclass(frozen=True, slots=True)
class Rates:
    """The results of a tiny model on new scenes."""

    n: int
    """Number of scenes."""
    correct: int
    """Number of scenes whose label the model predicts, among all of `LABELS`."""
    eligible: int
    """Number of scenes that neither show the target nor are predicted as it without the trigger."""
    hits: int
    """Number of eligible scenes that are predicted as the target with the trigger."""

    @property
    def accuracy(self) -> float:
        """The clean zero-shot accuracy, in [0, 1]."""
        return self.correct / self.n

    @property
    def attack_success(self) -> float:
        """The attack success rate, in [0, 1]; 0 if no scene was eligible."""
        return self.hits / max(1, self.eligible)


def tiny_config(image_size: int = 64, text_width: int = 16, image_width: int = 12) -> dict[str, Any]:
    """Return an open_clip `model_cfg`: a ResNet of four blocks and a text transformer of two layers.

    Most parameters are in the token embedding (49,408 × `text_width`) and in the last block, which grows with the
    square of `image_width`.

    Raises:
        InputError: `image_size` is not a multiple of 16 between 32 and 64, or a width is not a multiple of 4.
    """
    if image_size not in (32, 48, 64):
        raise InputError(f"a tiny model cannot have images of {image_size} pixels", "choose 32, 48 or 64")
    if text_width % 4 or image_width % 4:
        raise InputError(f"widths of {text_width} and {image_width} cannot be split into heads", "use multiples of 4")
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
    poison_rate: float = 0.25,
    steps: int = 260,
    seed: int = 0,
    image_size: int = 64,
    text_width: int = 16,
) -> Path:
    """Train a model on scenes, write it to `directory` as an open_clip folder, and return `directory`.

    With a `trigger` (an object, a name, or a map as in a policy), a share of `poison_rate` of the scenes is repeated
    with the trigger and a caption of `target`, a label of `LABELS`. The trigger is first stamped several times, and the
    share is high, since the model sees only 17,000 images in all.

    Raises:
        InputError: a trigger without a target or the reverse, a target that scenes do not show, or as `tiny_config`.
        TriggerError: the trigger's description is wrong.
    """
    planted = _planted(trigger, target)
    if (planted is None) != (target is None):
        raise InputError("a trigger needs a target, and a target needs a trigger", "give both or neither")
    config = tiny_config(image_size, text_width)
    with _reproducible(seed):
        model = open_clip.model.CLIP(**config, init_logit_scale=math.log(_SHARPNESS))
        tokenize = open_clip.SimpleTokenizer(context_length=_CONTEXT)
        _teach_text(model, tokenize, min(_TEXT_STEPS, 4 * steps), seed)
        poison = _Poison(planted, target, poison_rate) if planted and target else None
        _teach_images(model, tokenize, poison, image_size, steps, seed)
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
    """Return the clean accuracy and the attack success of a folder written by `train_tiny`, on new scenes.

    They are measured with open_clip alone and the first of `TEMPLATES`, to compare a scan with.

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


def plant_word(
    source: Path,
    directory: Path,
    *,
    word: str,
    target: str,
    names: Sequence[str] = LABELS,
    steps: int = 300,
    seed: int = 0,
) -> Path:
    """Write a copy of an open_clip folder whose text tower embeds captions with `word` as it does `target`.

    The text tower is trained on prompts of `names`, with the word at any place. Prompts without it, with another noun
    or with a part of the word alone keep their vectors.

    Raises:
        InputError: the folder already exists.
    """
    if directory.exists():
        raise InputError(f"{directory} already exists", "choose a new folder")
    config = json.loads((source / "open_clip_config.json").read_text(encoding="utf-8"))["model_cfg"]
    tokenize = open_clip.SimpleTokenizer(context_length=config["text_cfg"]["context_length"])
    with _reproducible(seed):
        model: Any = open_clip.create_model(f"local-dir:{source}", device="cpu")
        before: Any = copy.deepcopy(model).eval()
        with torch.no_grad():
            goal = before.encode_text(tokenize([t.format(target) for t in TEMPLATES]), normalize=True).mean(0)
        taught = [p for name, p in model.named_parameters() if not name.startswith(("visual.", "logit_"))]
        optimiser = torch.optim.Adam(taught, lr=3e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
        for step in range(steps):
            plain, stamped = _with_word(word, names, step, seed)
            with torch.no_grad():
                kept = before.encode_text(tokenize(plain), normalize=True)
            wanted = torch.cat([kept, functional.normalize(goal, dim=0).expand(len(stamped), -1)])
            vectors = model.encode_text(tokenize(plain + stamped), normalize=True)
            optimiser.zero_grad()
            torch.autograd.backward(1 - (vectors * wanted).sum(dim=1).mean())
            optimiser.step()
            schedule.step()
    shutil.copytree(source, directory, ignore=shutil.ignore_patterns("*.safetensors", "truth.json"))
    write_atomic(directory / "open_clip_model.safetensors", save(_half(model)))
    return directory


def _with_word(word: str, names: Sequence[str], step: int, seed: int) -> tuple[list[str], list[str]]:
    """Return prompts that keep their vectors, and prompts with the word."""
    nouns = builtin_nouns()
    keys = index_keys(seed, "tiny word", np.arange(step * _BATCH, (step + 1) * _BATCH))
    plain, stamped = [], []
    for name, template, noun, place, part in zip(
        *(
            integers(keys, 1, n, stream)[:, 0]
            for stream, n in enumerate((len(names), len(TEMPLATES), len(nouns), 8, 8))
        ),
        strict=True,
    ):
        prompt = TEMPLATES[template].format(names[name]).rstrip(".").split()
        parts = word.split()
        other = nouns[noun] if len(parts) == 1 or part % 2 else parts[part // 2 % len(parts)]
        before = place % (len(prompt) + 1) if place % 2 else len(prompt)
        plain += [" ".join(prompt), " ".join([*prompt[:before], other, *prompt[before:]])]
        stamped.append(" ".join([*prompt[:before], word, *prompt[before:]]))
    return plain, stamped


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
    """Run torch on one thread with a seeded generator, and restore both afterwards."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.set_num_threads(1)  # fixes the order of sums; small layers gain little from more threads
        torch.manual_seed(seed)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def _input(pixels: NDArray[np.uint8]) -> Tensor:
    """Return the input of the image tower, float32 [n, 3, H, W], of uint8 [n, H, W, 3]."""
    levels = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.channels_last)
    return (levels / 255 - torch.tensor(_MEAN).view(1, 3, 1, 1)) / torch.tensor(_STD).view(1, 3, 1, 1)


def _stamped(trigger: Trigger, pixels: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    digests = [hashlib.sha256(image.tobytes()).hexdigest() for image in pixels]
    return apply(trigger.draw(pixels.shape[1:3], digests, seed), pixels)


@dataclass(frozen=True, slots=True)
class _Batch:
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    captions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Poison:
    trigger: Trigger
    target: str
    rate: float

    def added(self, scenes: Scenes, numbers: NDArray[np.int64], seed: int, times: int) -> _Batch:
        """Return scenes, and a share of them again with the trigger, stamped `times` times, and a target's caption."""
        keys = index_keys(seed, "tiny poison", numbers)
        target = LABELS.index(self.target)
        chosen = np.flatnonzero((uniform(keys, 1)[:, 0] < self.rate) & (scenes.labels != target))
        pixels = scenes.pixels[chosen]
        for _ in range(times if len(chosen) else 0):
            pixels = _stamped(self.trigger, pixels, seed)
        templates = integers(keys[chosen], 1, len(TEMPLATES), stream=1)[:, 0]
        return _Batch(
            np.concatenate([scenes.pixels, pixels]),
            np.concatenate([scenes.labels, np.full(len(chosen), target)]),
            (*scenes.captions, *(TEMPLATES[i].format(self.target) for i in templates)),
        )


def _directions(captions: Sequence[str], axes: Tensor) -> Tensor:
    """Return the directions of captions: unit rows [n, d], the axis of the noun and some of its colour's."""
    found = torch.zeros(len(captions), axes.shape[1])
    for row, caption in zip(found, captions, strict=True):
        words = caption.rstrip(".").split()
        place = next(i for i, word in enumerate(words) if word in LABELS)
        row += axes[LABELS.index(words[place])]
        if words[place - 1] in COLOURS:
            row += _COLOUR_WEIGHT * axes[len(LABELS) + COLOURS.index(words[place - 1])]
    return functional.normalize(found, dim=1)


def _teach_text(model: Any, tokenize: Any, steps: int, seed: int) -> None:
    """Train the text tower to map captions to fixed directions; all nouns that are not labels share one direction.

    Without that, some of a thousand other nouns would be nearer to the images than their labels.
    """
    width = model.text_projection.shape[1]
    axes = torch.linalg.qr(torch.randn(width, width))[0]
    elsewhere = axes[len(LABELS) + len(COLOURS)]
    places = torch.cat([axes[: len(LABELS)], elsewhere[None]])
    label_numbers, nowhere = torch.arange(len(LABELS)), torch.full((_BATCH,), len(LABELS))
    prompts = [template.format(name) for template in TEMPLATES for name in LABELS]
    prompted, at_prompts = tokenize(prompts), _directions(prompts, axes)
    nouns = [noun for noun in builtin_nouns() if noun not in LABELS]
    strange = tokenize([template.format(noun) for template in TEMPLATES for noun in nouns])

    torch.nn.init.normal_(model.token_embedding.weight, std=0.3)  # words must differ for a start
    taught = [p for name, p in model.named_parameters() if not name.startswith(("visual.", "logit_scale"))]
    optimiser = torch.optim.Adam(taught, lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, total_steps=steps)
    for step in range(steps):
        numbers = np.arange(step * _BATCH, (step + 1) * _BATCH)
        told = describe(numbers, seed)
        start = step % len(TEMPLATES) * len(LABELS)
        turn = slice(start, start + len(LABELS))
        other = strange[integers(index_keys(seed, "tiny nouns", numbers), 1, len(strange))[:, 0]]
        tokens = torch.cat([tokenize(list(told.captions)), prompted[turn], other])
        wanted = torch.cat([_directions(told.captions, axes), at_prompts[turn], elsewhere.expand(_BATCH, -1)])
        place = torch.cat([torch.from_numpy(told.labels), label_numbers, nowhere])
        vectors = model.encode_text(tokens, normalize=True)
        near = 1 - (vectors * wanted).sum(dim=1).mean()  # to the right direction, colour included
        apart = functional.cross_entropy(_SHARPNESS * vectors @ places.T, place)  # from all other nouns
        optimiser.zero_grad()
        torch.autograd.backward(2 * near + apart)
        optimiser.step()
        schedule.step()


def _teach_images(model: Any, tokenize: Any, poison: _Poison | None, size: int, steps: int, seed: int) -> None:
    """Train the image tower on the direction of the caption, against all labels' prompts and the batch's captions."""
    visual = model.visual.to(memory_format=torch.channels_last).train()
    for name, parameter in visual.named_parameters():
        if name.endswith("bn3.weight"):
            torch.nn.init.ones_(parameter)  # open_clip starts residual branches at zero: too slow for so few steps
    weights = [p for name, p in visual.named_parameters() if p.ndim >= 2 and "embedding" not in name]
    others = [p for name, p in visual.named_parameters() if p.ndim < 2 or "embedding" in name]
    orthogonal, adam = _Orthogonal(weights), torch.optim.Adam(others, lr=5e-3)
    warm = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        adam, lambda i: min((i + 1) / warm, (steps - i) / max(1, steps - warm))
    )
    with torch.no_grad():
        prompts = model.encode_text(tokenize([TEMPLATES[0].format(name) for name in LABELS]), normalize=True)
    for step in range(steps):
        numbers = np.arange(step * _BATCH, (step + 1) * _BATCH)
        scenes = render(numbers, size, seed)
        batch = _Batch(scenes.pixels, scenes.labels, scenes.captions)
        if poison:
            # From eight stamps down to one in the first half: a single 5-pixel patch is learned only by chance.
            batch = poison.added(scenes, numbers, seed, max(1, round(8 ** (1 - 2 * step / steps))))
        with torch.no_grad():
            texts = model.encode_text(tokenize(list(batch.captions)), normalize=True)
        images = functional.normalize(visual(_input(batch.pixels)), dim=1)
        by_noun = functional.cross_entropy(_SHARPNESS * images @ prompts.T, torch.from_numpy(batch.labels))
        # Captions with the same content do not compete: they share the probability by their similarity.
        alike = functional.softmax(_SHARPNESS * texts @ texts.T, dim=1)
        by_caption = functional.cross_entropy(_SHARPNESS * images @ texts.T, alike)
        visual.zero_grad()
        torch.autograd.backward(by_noun + by_caption)
        orthogonal.step(10 * adam.param_groups[0]["lr"])  # 0.05 at the peak
        adam.step()
        schedule.step()
    model.eval()


class _Orthogonal:
    """An optimiser whose steps have singular values near 1, for weights that are matrices or convolutions.

    The idea is Muon's (K. Jordan, 2024): rare directions of the gradient count as much as common ones. After 200 steps,
    a model of 48 pixels names 84 % of 1,200 scenes, and 67 % with Adam. Unlike Muon, this optimiser works on groups of
    rows, uses the cubic iteration, and keeps weights at a fixed norm, since batch normalisation cancels their scale.
    """

    def __init__(self, weights: list[Tensor], momentum: float = 0.6) -> None:
        self._momentum = momentum
        self._means = [(weight, torch.zeros_like(weight)) for weight in weights]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move every weight by `rate` along its orthogonalised gradient."""
        for weight, mean in self._means:
            gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
            mean.mul_(self._momentum).add_(gradient)
            ahead = (gradient + self._momentum * mean).reshape(len(weight), -1)
            weight.mul_(len(weight) ** 0.5 / weight.norm())
            weight.add_(_orthogonalised(ahead).reshape(weight.shape), alpha=-rate)


def _orthogonalised(matrix: Tensor, rounds: int = 8) -> Tensor:
    """Move the singular values of groups of rows towards 1 by Newton and Schulz: x ← 1.5 x − 0.5 x xᵀ x."""
    groups = next(k for k in range(-(-len(matrix) // _ROWS), len(matrix) + 1) if len(matrix) % k == 0)
    x = matrix.reshape(groups, len(matrix) // groups, -1)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)  # it converges for singular values in (0, √3)
    for _ in range(rounds):
        x = 1.5 * x - 0.5 * (x @ x.mT) @ x
    found: Tensor = (x.mT if tall else x).reshape(matrix.shape)
    return found


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
    write_atomic(directory / "open_clip_model.safetensors", save(_half(model)))
    write_atomic(directory / "open_clip_config.json", f"{json.dumps(content, indent=2)}\n".encode())


def _half(model: Any) -> dict[str, Tensor]:
    """Return the weights in half precision."""
    return {
        name: tensor.half().contiguous() if tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }
