"""Towers of a few thousand weights, and pairs for them: a training step takes milliseconds."""

import copy
import dataclasses
import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from torch import Tensor, nn

from pargate import events
from pargate.clean.config import CleanConfig
from pargate.clean.request import GivenTrigger
from pargate.clean.train.distributed import Group
from pargate.clean.train.loop import Trained, train
from pargate.clean.train.state import StateStore
from pargate.clean.train.towers import Towers
from pargate.clean.train.views import Viewer
from pargate.core.model import Preprocess
from pargate.images.dataset import Dataset
from pargate.images.opening import open_pairs
from pargate.images.prefetch import BatchOrder, PairLoader
from pargate.models.torch import encoder as openclip

RULE = Preprocess((32, 32), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
CONTEXT, WORDS = 12, 60
TEXT = {"context_length": CONTEXT, "vocab_size": WORDS, "width": 16, "heads": 2, "layers": 1}
VIT = {"image_size": 32, "patch_size": 16, "layers": 1, "width": 24, "head_width": 12}
RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 4, "head_width": 8}


def tokenize(captions: Sequence[str]) -> Tensor:
    """A number for each word, then the end: the largest, where the tower reads its answer."""
    rows = torch.zeros(len(captions), CONTEXT, dtype=torch.int64)
    for row, caption in zip(rows, captions, strict=True):
        numbers = [1 + hashlib.sha256(word.encode()).digest()[0] % (WORDS - 2) for word in caption.split()]
        numbers = [*numbers[: CONTEXT - 1], WORDS - 1]
        row[: len(numbers)] = torch.tensor(numbers)
    return rows


def model(kind: str = "vit", seed: int = 0) -> Towers:
    """A CLIP of a ViT or a ResNet, with statistics of batch normalisation that are not those of a new one."""
    torch.manual_seed(seed)
    vision = VIT if kind == "vit" else RESNET
    clip = open_clip.CLIP(embed_dim=8, vision_cfg=vision, text_cfg=TEXT)
    for module in clip.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = 0.1 * torch.randn(module.num_features)
            module.running_var = 1 + 0.2 * torch.rand(module.num_features)
            nn.init.ones_(module.weight)
    return Towers(clip.visual, openclip.text_tower(clip), openclip.embed)


def pairs(source: str = "synthetic:24") -> Dataset:
    return open_pairs(source, seed=0)


def config(**settings: Any) -> CleanConfig:
    """PAR on batches of eight, unless `settings` say otherwise."""
    plain = {"method": "par", "steps": 3, "batch_size": 8, "micro_batch": 8, "lr": 1e-3, "tau": 2.15,
             "perturbation": 1.0, **settings}  # fmt: skip
    return CleanConfig.model_validate(plain)


def viewer(settings: CleanConfig, some: Dataset, towers: Towers, given: tuple[GivenTrigger, ...] = ()) -> Viewer:
    steps = None if some.count is None else some.count // settings.batch_size
    text = towers.text
    return Viewer(settings, RULE, tokenize, lambda t: openclip.needed(text, t), torch.device("cpu"), steps, given)


@dataclasses.dataclass
class Run:
    """What became of a run."""

    towers: Towers
    log_scale: nn.Parameter
    trained: Trained

    @property
    def weights(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.towers.state_dict().items()}


def run(
    settings: CleanConfig,
    folder: Path,
    *,
    towers: Towers | None = None,
    some: Dataset | None = None,
    group: Group | None = None,
    resume: bool = False,
    captions: Sequence[str] = (),
    emit: events.Listener = events.ignore,
    log_scale: float = 2.0,
    watch: Callable[[PairLoader], Any] = lambda loader: loader,
    given: tuple[GivenTrigger, ...] = (),
) -> Run:
    """Train small towers by the real loop."""
    group, some = group or Group(), some or pairs()
    towers = copy.deepcopy(towers) if towers is not None else model()
    scale = nn.Parameter(torch.tensor(log_scale))
    folder.mkdir(exist_ok=True)
    store = StateStore(folder / "state.pt", "one and the same", group, resume)
    with PairLoader(
        some, RULE, BatchOrder(some.count, settings.seed, settings.batch_size // group.world, group.world),
        range(settings.steps), rank=group.rank, workers=0,
    ) as loader:  # fmt: skip
        trained = train(towers, scale, watch(loader), viewer(settings, some, towers, given),
                        group=group, store=store, captions=captions, emit=emit)  # fmt: skip
    return Run(towers, scale, trained)


def same_bits(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    def content(state: dict[str, Tensor]) -> bytes:
        stream = io.BytesIO()
        for name in sorted(state):
            stream.write(np.ascontiguousarray(state[name].detach().numpy()).tobytes())
        return stream.getvalue()

    return list(one) == list(two) and content(one) == content(two)
