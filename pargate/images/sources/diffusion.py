"""Generate image-text pairs with a text-to-image model: `diffusers:MODEL`, a folder or a name on the hub.

Captions are composed from a list of concepts, and each image has its own seed. The images are kept as WebDataset shards
in a folder named by the digest of all settings, so that an interrupted run continues. Only safetensors are read, and no
code of the model is run.

The text-to-image model must be trusted: a backdoor in it may affect the pairs. This is not checked here; the scan after
cleaning measures the result.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pargate import seeds
from pargate.errors import InputError, OperationalError, first_line
from pargate.events import Advanced, Listener, Notice, StageFinished, StageStarted, ignore
from pargate.files import canonical_json, digest_of, sha256_file, write_atomic
from pargate.images.classes import builtin_nouns
from pargate.images.dataset import Dataset, Listed
from pargate.images.opening import SOURCES, Source, Wanted, list_paths
from pargate.images.shards import JPEG_QUALITY, MANIFEST, Sample, Shard, encode, shard_bytes, write_manifest

DIFFUSERS = "diffusers:"

COUNT = 10_000
"""Default number of generated images, which take some hours on a GPU."""

_INDEX = "model_index.json"

_COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "gray")

_TEMPLATES = (
    "a photo of {}.",
    "a picture of {}.",
    "a close-up photo of {}.",
    "a photo of {} outdoors.",
    "a photo of {} indoors.",
    "a photo of {} on a table.",
    "a photo of {} against a plain background.",
    "a photo of {} in bright light.",
    "a blurry photo of {}.",
    "a painting of {}.",
    "a drawing of {}.",
    "a black and white photo of {}.",
)


@SOURCES.add("diffusion")
class Diffusion(Source):
    """Images of the classes, or of the built-in nouns, that `diffusers:MODEL` generates into the cache."""

    schemes = (DIFFUSERS,)
    generated = True

    def check(self, source: str) -> None:
        """Raise if `source` names no model."""
        if source == DIFFUSERS:
            raise InputError(
                f"{source} names no model", f"write {DIFFUSERS}ORG/NAME[@REV], or {DIFFUSERS} and a folder"
            )

    def list(self, wanted: Wanted, paths: Sequence[Path]) -> Dataset:
        """Return the pairs that the model draws; generate those that are missing."""
        source = wanted.source
        if not wanted.pairs:
            raise InputError(
                f"{source} must be generated first",
                f"write its images with `pargate synth --pairs {source}`, and give those",
            )
        if wanted.cache is None:
            raise InputError(
                f"{source} takes hours, and there is no cache to keep its images", "give a folder with --cache DIR"
            )
        concepts = wanted.classes if wanted.classes is not None else builtin_nouns()
        recipe = Recipe(concepts, COUNT if wanted.count is None else wanted.count, wanted.seed)
        folder = generate(source, recipe, wanted.cache, device=wanted.device, emit=wanted.emit)
        found = list_paths(replace(wanted, source=str(folder)), [folder])
        assert isinstance(found, Listed), "generated images are in shards"
        return replace(found, source=source, notices=())


@dataclass(frozen=True, slots=True)
class Recipe:
    """The settings that decide the pairs, besides the model."""

    concepts: tuple[str, ...]
    """Things to draw."""
    count: int
    """Number of captions, and of images before blank ones are dropped."""
    seed: int = 0
    """Seed of captions and images."""
    side: int | None = None
    """Side of the drawn images in pixels; None for the model's default."""
    stored: int = 256
    """Longest side of the stored images in pixels; larger ones are reduced."""
    steps: int = 30
    """Number of denoising steps."""
    guidance: float = 7.5
    """Guidance scale: how closely the image follows the caption."""
    per_shard: int = 256
    """Number of captions in a shard; an interrupted run continues after the last shard."""

    def __post_init__(self) -> None:
        if not self.concepts:
            raise InputError("no concepts to draw", "give a list of classes with at least one name")
        if self.count < 2:
            raise InputError(f"cannot generate {self.count} pairs", "contrastive learning needs at least two")


@dataclass(frozen=True, slots=True)
class Made:
    """One finished shard."""

    shard: Shard
    generated: int
    """Number of images that were drawn for it."""
    blank: int
    """Number of drawn images without content, such as a model's filter returns; they are dropped."""


def caption(concepts: Sequence[str], seed: int, numbers: Sequence[int]) -> list[str]:
    """Return the caption of each number: a pure function of seed and number."""
    draws = seeds.uniform(seeds.index_keys(seed, "diffusion captions", np.asarray(numbers)), 4)
    captions = []
    for concept, colour, coloured, template in draws.tolist():
        phrase = concepts[int(concept * len(concepts))]
        wording = _TEMPLATES[int(template * len(_TEMPLATES))]
        if coloured < 0.3 and not wording.startswith("a black and white"):
            phrase = f"{_COLOURS[int(colour * len(_COLOURS))]} {phrase}"
        article = "an" if phrase[0].casefold() in "aeiou" else "a"
        captions.append(wording.format(f"{article} {phrase}"))
    return captions


def generate(
    source: str,
    recipe: Recipe,
    cache: Path,
    *,
    device: str = "auto",
    batch: int = 8,
    emit: Listener = ignore,
) -> Path:
    """Return the folder with the shards of `diffusers:MODEL[@REV]`; generate those that are missing.

    Raises:
        InputError: no such model, a model that is not text-to-image or has no safetensors, or nearly all images are
            blank.
        OperationalError: diffusers is missing, the hub cannot be reached, out of memory, or the disk is full.
    """
    if find_spec("diffusers") is None or find_spec("transformers") is None:
        raise OperationalError(
            f"{source} needs diffusers and transformers, which are not installed", "pip install 'pargate[diffusers]'"
        )
    model = _folder(source)
    settings = {
        **asdict(recipe), "concepts": list(recipe.concepts), "source": source, "model_sha256": _model_digest(model),
        "quality": JPEG_QUALITY,
        "versions": {name: version(name) for name in ("diffusers", "transformers", "torch", "pillow")},
    }  # fmt: skip
    folder = cache / "diffusers" / digest_of(settings)[:32]
    if (folder / MANIFEST).is_file():
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OperationalError(f"cannot write {folder}: {error.strerror}", "choose another --cache") from error
    emit(Notice(f"{source} decides what the pairs show, and is trusted without a scan"))
    emit(StageStarted("generating", f"{recipe.count} images"))
    pipeline: Any = None
    made = []
    for number, first in enumerate(range(0, recipe.count, recipe.per_shard)):
        numbers = range(first, min(first + recipe.per_shard, recipe.count))
        record = _recorded(folder, number)
        if record is None:
            pipeline = pipeline or _Drawing(source, model, recipe, device, batch)
            record = _make(folder, number, numbers, pipeline, recipe)
        made.append(record)
        emit(Advanced(numbers.stop, recipe.count))
    kept = sum(record.shard.pairs for record in made)
    if kept < 2:
        raise InputError(f"{source}: {kept} of {recipe.count} images are not blank", "check what the model draws")
    counts = {name: sum(getattr(record, name) for record in made) for name in ("generated", "blank")}
    write_manifest(folder, [record.shard for record in made if record.shard.pairs], {**settings, "counts": counts})
    emit(StageFinished("generating", f"{kept} of {recipe.count} images kept"))
    return folder


def _folder(source: str) -> Path:
    """Return the model's folder, on disk or from the hub."""
    name = source.removeprefix(DIFFUSERS)
    folder = Path(name) if Path(name).is_dir() else _fetched(source, name)
    if not (folder / _INDEX).is_file():
        raise InputError(f"{source}: {folder} holds no {_INDEX}", "name a model that diffusers can load")
    if not any(folder.rglob("*.safetensors")):
        raise InputError(f"{source} has no safetensors weights", "convert them: other formats could run code")
    return folder


def _fetched(source: str, name: str) -> Path:
    from pargate.images.hub import translated

    library = _quiet_library()
    repository, _, revision = name.partition("@")
    with translated(source, repository, revision or None, "the model", f"{DIFFUSERS}ORG/NAME[@REV], or a folder"):
        return Path(library.DiffusionPipeline.download(repository, revision=revision or None, use_safetensors=True))


def _model_digest(folder: Path) -> str:
    """Return the digest of the names and contents of the model's files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts)
    return digest_of([[path.relative_to(folder).as_posix(), sha256_file(path)] for path in files])


def _recorded(folder: Path, number: int) -> Made | None:
    """Return an earlier run's record of a shard, or None if the shard is missing or changed."""
    try:
        record = json.loads((folder / f"{number:06d}.json").read_text(encoding="utf-8"))
        made = Made(**{**record, "shard": Shard(**record["shard"])})
        whole = not made.shard.pairs or sha256_file(folder / made.shard.name) == made.shard.sha256
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return made if whole else None


def _make(folder: Path, number: int, numbers: range, drawing: "_Drawing", recipe: Recipe) -> Made:
    """Draw and write one shard, without blank images."""
    captions = caption(recipe.concepts, recipe.seed, numbers)
    pixels = drawing.images(captions, numbers)
    kept = np.flatnonzero([image.min() < image.max() for image in pixels])
    samples = [Sample(encode(_reduced(pixels[i], recipe.stored), ".jpg"), captions[i]) for i in kept]
    shard, content = shard_bytes(f"{number:06d}.tar", samples, numbers.start)
    made = Made(shard, len(numbers), len(numbers) - len(kept))
    if samples:
        write_atomic(folder / shard.name, content)
    write_atomic(folder / f"{number:06d}.json", canonical_json(asdict(made)))
    return made


def _reduced(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Reduce an image to at most `side` pixels along its longer side."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.asarray(image)


class _Drawing:
    """An open diffusers pipeline."""

    def __init__(self, source: str, model: Path, recipe: Recipe, device: str, batch: int) -> None:
        import torch

        self._source, self._recipe, self._batch = source, recipe, batch
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._pipeline = _load(source, model, device)

    def images(self, captions: Sequence[str], numbers: Sequence[int]) -> NDArray[np.uint8]:
        """Return images, uint8 [n, H, W, 3]; each has its own random generator, so that the batch does not matter."""
        import torch

        words = seeds.bits(seeds.index_keys(self._recipe.seed, "diffusion pictures", np.asarray(numbers)), 1)[:, 0]
        found = []
        for i in range(0, len(captions), self._batch):
            # On the CPU, the same seed gives the same noise on every machine.
            generators = [torch.Generator().manual_seed(int(w >> np.uint64(1))) for w in words[i : i + self._batch]]
            try:
                found.append(self._drawn(list(captions[i : i + self._batch]), generators))
            except torch.OutOfMemoryError as error:
                raise OperationalError(
                    f"{self._source}: out of memory with {self._batch} images at a time",
                    "use --device cpu, or a device with more memory; finished shards are kept",
                ) from error
        return np.concatenate(found)

    def _drawn(self, captions: list[str], generators: list[Any]) -> NDArray[np.uint8]:
        sizes = {} if self._recipe.side is None else {"height": self._recipe.side, "width": self._recipe.side}
        try:
            images = self._pipeline(
                prompt=captions, generator=generators, num_inference_steps=self._recipe.steps,
                guidance_scale=self._recipe.guidance, output_type="np", **sizes,
            ).images  # fmt: skip
        except (TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{self._source} cannot draw from captions: {first_line(error)}",
                "name a text-to-image model; sides are multiples of 8",
            ) from error
        # NaN becomes black, and blank images are dropped.
        return np.asarray((np.nan_to_num(images, nan=0.0) * 255).round().clip(0, 255), dtype=np.uint8)


def _quiet_library() -> Any:
    """Return diffusers, with the progress bars and advice of diffusers and transformers switched off."""
    import diffusers
    import transformers

    libraries: tuple[Any, Any] = (diffusers, transformers)  # their types lack `utils.logging`
    for library in libraries:
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
    return libraries[0]


def _load(source: str, model: Path, device: str) -> Any:
    """Load the pipeline of a folder on `device`, in half precision on a GPU."""
    import torch

    library = _quiet_library()
    try:
        pipeline = library.DiffusionPipeline.from_pretrained(
            model,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            low_cpu_mem_usage=bool(find_spec("accelerate")),
        )
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RuntimeError) as error:
        raise InputError(
            f"diffusers cannot load {source}: {first_line(error)}",
            "name a text-to-image model with safetensors",
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    try:
        return pipeline.to(device, torch.float16 if device.startswith("cuda") else torch.float32)
    except (RuntimeError, AssertionError) as error:
        raise OperationalError(f"{source} cannot run on {device}: {str(error)[:160]}", "choose --device cpu") from error
