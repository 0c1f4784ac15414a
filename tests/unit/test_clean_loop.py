"""The training loop, on towers of a few thousand weights: what it learns from, keeps, moves and refuses."""

import contextlib
import copy
import io
import math
import os
import resource
import socket
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_towers import RULE, Run, config, model, pairs, run, same_bits, tokenize, viewer
from torch import Tensor, nn
from torch.nn import functional

from pargate import events
from pargate.clean.config import CleanConfig
from pargate.clean.train import augment, loop, objectives, state
from pargate.clean.train.distributed import Group
from pargate.clean.train.reference import Reference
from pargate.clean.train.state import Running
from pargate.clean.train.towers import Towers
from pargate.clean.train.universal import Universal
from pargate.clean.train.views import recalled, remembering
from pargate.errors import InputError, OperationalError
from pargate.images.prefetch import BatchOrder, PairLoader

METHODS: dict[str, dict[str, Any]] = {
    "par": {},
    "finetune": {"method": "finetune", "perturbation": 0.0},
    "cleanclip": {"method": "cleanclip", "perturbation": 0.0, "augmentation": "none", "train_logit_scale": True},
    "par-plus": {"method": "par-plus", "perturbation": 0.0, "augmentation": "none", "distillation": 1.0,
                 "universal": 4, "averaging": 0.9},
    "par-plus, drawn": {"method": "par-plus", "perturbation": 0.0, "augmentation": "strong", "unlearning": 1.5,
                        "anchor": 2.0, "universal": 4, "averaging": 0.9},
}  # fmt: skip
TOLD = ["a red car", "a star", "a blue fish on grey"]


# ---- one step, against autograd on the whole batch


def gradients(settings: CleanConfig, kind: str = "vit") -> tuple[dict[str, Tensor], dict[str, float]]:
    """Gradients of the first step by the loop's own function."""
    towers, some = model(kind), pairs()
    towers.train_only(settings.towers)
    low = torch.autocast("cpu", enabled=False)
    before = copy.deepcopy(towers)
    view = viewer(settings, some, towers)
    reference = Reference(before, view, low)
    scale = nn.Parameter(torch.tensor(2.0), requires_grad=settings.train_logit_scale)
    universal = Universal.drawn(settings.universal, RULE.size, 0, torch.device("cpu")) if settings.universal else None
    # Something that has moved: at the very start all distances from the reference are 0.
    for parameter, other in zip(towers.parameters(), model(kind, seed=1).parameters(), strict=True):
        parameter.data.lerp_(other.data, 0.3)
    running = Running(
        towers,
        scale,
        torch.optim.SGD(towers.parameters(), 0.0),
        torch.amp.GradScaler(enabled=False),
        universal,
        reference,
    )
    told = reference.captions(TOLD) if settings.distillation else None
    with PairLoader(some, RULE, BatchOrder(some.count, 0, 8), range(1), workers=0) as loader:
        batch = loader.batch(0)
    terms = loop._gradients(running, towers, batch, view.keys(batch.numbers, 0), view, told, Group(), low)
    found = {name: p.grad.clone() for name, p in towers.named_parameters() if p.grad is not None}
    for name, extra in (("scale", scale), ("universal", None if universal is None else universal.perturbations)):
        if extra is not None and extra.grad is not None:
            found[name] = extra.grad.clone()
    return found, terms


def compare(one: dict[str, Tensor], two: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    assert one.keys() == two.keys()
    for name, gradient in one.items():
        limit = tolerance * max(1.0, gradient.abs().max().item())
        torch.testing.assert_close(two[name], gradient, atol=limit, rtol=1e-3, msg=name)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["vit", "rn"])
def test_pairs_taken_a_few_at_a_time_are_told_apart_from_the_whole_batch(method: str, kind: str) -> None:
    whole, terms = gradients(config(**METHODS[method]), kind)
    assert max(g.abs().max().item() for g in whole.values()) > 1e-3
    for size in (3, 2) if kind == "vit" else (3,):
        parts, parts_terms = gradients(config(**METHODS[method], micro_batch=size), kind)
        compare(whole, parts)
        assert parts_terms == pytest.approx(terms, rel=1e-5, abs=1e-6)


def test_the_gradients_are_those_of_the_loss_written_out() -> None:
    """No accumulation, cache or leaf: one forward pass of everything, and PAR's formula."""
    settings = config()
    found, terms = gradients(settings)
    towers, some = model(), pairs()
    before = copy.deepcopy(towers)
    for parameter, other in zip(towers.parameters(), model(seed=1).parameters(), strict=True):
        parameter.data.lerp_(other.data, 0.3)
    view = viewer(settings, some, towers)
    with PairLoader(some, RULE, BatchOrder(some.count, 0, 8), range(1), workers=0) as loader:
        batch = loader.batch(0)
    images = augment.normalised(view.pixels(batch, slice(0, 8), view.keys(batch.numbers, 0)), RULE)
    tokens = view.tokenize(batch.captions)  # at full length
    x, c = towers(images, tokens)
    with torch.no_grad():
        x_old, c_old = before(images, tokens)
    logits = math.exp(2.0) * x @ c.T
    numbers = torch.arange(8)
    contrastive = (functional.cross_entropy(logits, numbers) + functional.cross_entropy(logits.T, numbers)) / 2
    s_x, s_c = 2 - 2 * (x * x_old).sum(dim=1).mean(), 2 - 2 * (c * c_old).sum(dim=1).mean()
    assert 0.01 < s_x < 2.15 and 0.01 < s_c < 2.15
    total = contrastive - (s_x + s_c) / 2
    assert terms == pytest.approx(
        {"loss": total.item(), "contrastive": contrastive.item(), "image_shift": s_x.item(), "text_shift": s_c.item()},
        rel=1e-4,
    )
    towers.zero_grad()
    total.backward()
    # The model's own scale lies in the text tower, and is no part of an embedding.
    expected = {n: p.grad for n, p in towers.named_parameters() if p.grad is not None and n != "text.logit_scale"}
    compare({name: g for name, g in expected.items() if g is not None}, found)


# ---- what is moved


def weights_of(towers: Towers) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in towers.state_dict().items()}


def moved(before: Towers, after: Run) -> set[str]:
    """Towers of which something moved."""
    old = weights_of(before)
    return {name.split(".")[0] for name, value in after.weights.items() if not torch.equal(value, old[name])}


@pytest.mark.parametrize(
    ("trained", "expected"), [("both", {"visual", "text"}), ("image", {"visual"}), ("text", {"text"})]
)
@pytest.mark.parametrize("method", METHODS)
def test_only_the_towers_asked_for_move(method: str, trained: str, expected: set[str], tmp_path: Path) -> None:
    towers = model()
    done = run(config(**METHODS[method], towers=trained), tmp_path, towers=towers, captions=TOLD)
    assert moved(towers, done) == expected
    movement = done.trained.moved
    for part, name in (("image", "visual"), ("text", "text")):
        is_trained = name in expected
        assert movement[part].trained == is_trained
        assert (movement[part].weight_change > 1e-4) == is_trained
        assert (movement[part].embedding_shift > 1e-6) == is_trained


def test_strong_views_mix_neighbours_whichever_part_of_a_batch_is_forwarded_and_on_how_many_ranks() -> None:
    settings, some = config(augmentation="strong"), pairs()
    view = viewer(settings, some, model())
    with PairLoader(some, RULE, BatchOrder(some.count, 0, 8), range(1), workers=0) as loader:
        batch = loader.batch(0)
    keys = view.keys(batch.numbers, 0)
    whole = view.pixels(batch, slice(0, 8), keys)
    parts = [view.pixels(batch, slice(i, i + 3), keys) for i in (0, 3, 6)]
    assert torch.equal(torch.cat(parts), whole)
    for rank in range(2):
        with PairLoader(some, RULE, BatchOrder(some.count, 0, 4, 2), range(1), rank=rank, workers=0) as loader:
            own = loader.batch(0)
        assert torch.equal(view.pixels(own, slice(0, 4), view.keys(own.numbers, 0)), whole[4 * rank : 4 * rank + 4])


def test_strong_views_are_never_taken_from_what_was_kept_of_another_neighbour() -> None:
    some = pairs()
    repeats = {
        (augmentation, views): viewer(config(augmentation=augmentation, views=views), some, model()).repeats
        for augmentation in ("par", "strong", "none")
        for views in (None, 2)
    }
    assert {asked for asked, again in repeats.items() if again} == {("par", 2), ("none", None), ("none", 2)}


@pytest.mark.parametrize("method", METHODS)
def test_the_logit_scale_moves_for_cleanclip_alone(method: str, tmp_path: Path) -> None:
    done = run(config(**METHODS[method]), tmp_path, captions=TOLD)
    assert (done.log_scale.item() != 2.0) == (method == "cleanclip")
    assert done.towers.text.get_parameter("logit_scale").item() == pytest.approx(math.log(1 / 0.07))


def test_a_logit_scale_that_is_trained_stays_below_a_hundred(tmp_path: Path) -> None:
    done = run(config(**METHODS["cleanclip"]), tmp_path, log_scale=math.log(100.0) + 0.5)
    assert done.log_scale.item() <= math.log(100.0) + 1e-6


@pytest.mark.parametrize("size", [8, 3])
def test_batch_normalisation_keeps_its_statistics_to_the_bit(size: int, tmp_path: Path) -> None:
    towers = model("rn")
    done = run(config(micro_batch=size), tmp_path, towers=towers)
    assert moved(towers, done) == {"visual", "text"}
    old = weights_of(towers)
    statistics = [n for n in old if n.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    assert len(statistics) > 20 and all(torch.equal(done.weights[name], old[name]) for name in statistics)


@pytest.mark.parametrize("size", [8, 4])
def test_batch_normalisation_that_is_trained_counts_each_pair_once(size: int, tmp_path: Path) -> None:
    towers = model("rn")
    done = run(config(micro_batch=size, batch_norm="train", steps=1), tmp_path, towers=towers)
    name = "visual.bn1.running_mean"
    assert not torch.equal(done.weights[name], weights_of(towers)[name])
    # Momentum 0.1 a pass: one pass over the whole batch, or one for each part, never two.
    passes = 8 // size
    images = captured(config(micro_batch=size, batch_norm="train", steps=1), towers)
    expected = weights_of(towers)[name].clone()
    for part in images.split(size):
        expected = 0.9 * expected + 0.1 * towers.visual.get_submodule("conv1")(part).mean(dim=(0, 2, 3)).detach()
    assert passes in (1, 2)
    torch.testing.assert_close(done.weights[name], expected, atol=1e-5, rtol=1e-4)
    assert not any(m.training for m in done.towers.modules())


def captured(settings: CleanConfig, towers: Towers) -> Tensor:
    """The images of the first step."""
    some = pairs()
    view = viewer(settings, some, towers)
    with PairLoader(some, RULE, BatchOrder(some.count, 0, 8), range(1), workers=0) as loader:
        batch = loader.batch(0)
    return augment.normalised(view.pixels(batch, slice(0, 8), view.keys(batch.numbers, 0)), RULE)


def test_weight_decay_spares_vectors_biases_and_norms(tmp_path: Path) -> None:
    towers = model("rn")
    optimiser = loop.optimiser(towers, [], config(weight_decay=0.3, betas=(0.7, 0.8)))
    names = {id(p): name for name, p in towers.named_parameters()}
    decayed, spared = ({names[id(p)] for p in group["params"]} for group in optimiser.param_groups)
    assert [group["weight_decay"] for group in optimiser.param_groups] == [0.3, 0.0]
    assert all(group["betas"] == (0.7, 0.8) and group["eps"] == 1e-8 for group in optimiser.param_groups)
    assert decayed | spared == {name for name, p in towers.named_parameters() if p.requires_grad}
    assert "visual.conv1.weight" in decayed and "text.token_embedding.weight" in decayed
    assert all(towers.get_parameter(name).ndim < 2 for name in spared)
    assert not any(".bn" in name or "ln_" in name or name.endswith("bias") for name in decayed)


def test_the_same_run_twice_gives_the_same_bits_and_another_seed_does_not(tmp_path: Path) -> None:
    one, two = (run(config(), tmp_path / name, captions=TOLD) for name in ("a", "b"))
    assert same_bits(one.weights, two.weights) and one.trained.log == two.trained.log
    assert not same_bits(one.weights, run(config(seed=1), tmp_path / "c").weights)


def test_a_run_learns(tmp_path: Path) -> None:
    done = run(config(**METHODS["finetune"], steps=60, lr=5e-3, augmentation="none"), tmp_path)
    losses = done.trained.log.values["contrastive"]
    assert np.mean(losses[-6:]) < 0.8 * np.mean(losses[:6])


def test_par_moves_embeddings_to_tau_and_no_further(tmp_path: Path) -> None:
    """With a scale that leaves the contrastive loss nothing to say."""
    settings = {"steps": 60, "lr": 3e-4, "schedule": "cosine", "augmentation": "none", "towers": "image"}
    near, far = (
        run(config(**settings, tau=tau), tmp_path, log_scale=-9.0).trained.log.values["image_shift"]
        for tau in (0.5, 2.15)
    )
    assert near[0] == pytest.approx(0, abs=1e-6)
    assert max(near) < 1.3 and np.mean(near[-20:]) < 1.1
    assert np.mean(far[-20:]) > 2.0


# ---- the log


def test_every_step_is_logged_and_told(tmp_path: Path) -> None:
    heard: list[events.Event] = []
    done = run(config(steps=5), tmp_path, emit=heard.append)
    log = done.trained.log
    assert log.steps == (0, 1, 2, 3, 4)
    assert set(log.values) == {"learning_rate", "loss", "contrastive", "image_shift", "text_shift"}
    from pargate.clean.train.schedule import learning_rate

    assert log.values["learning_rate"] == tuple(learning_rate(config(steps=5), i) for i in range(5))
    steps = [event for event in heard if isinstance(event, events.TrainStep)]
    assert [(event.done, event.total) for event in steps] == [(i, 5) for i in range(1, 6)]
    assert [event.terms["loss"] for event in steps] == list(log.values["loss"])
    assert done.trained.stopped == "all 5 steps were taken" and done.trained.images == 40


# ---- the frozen twin


class Counted:
    """How often a frozen tower was asked for what."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.images: list[bytes] = []
        self.texts: list[tuple[int, ...]] = []
        made = Reference.__init__

        def counting(reference: Reference, towers: Towers, *rest: Any) -> None:
            made(reference, towers, *rest)
            towers.visual.register_forward_pre_hook(
                lambda _, given: self.images.extend(i.numpy().tobytes() for i in given[0])
            )
            embed = towers.embed_texts

            def embedded(tokens: Tensor) -> Tensor:
                self.texts += [tuple(int(t) for t in row if t) for row in tokens]
                return embed(tokens)

            towers.embed_texts = embedded  # type: ignore[method-assign]

        monkeypatch.setattr(Reference, "__init__", counting)


def epochs(steps: int, **settings: Any) -> CleanConfig:
    return config(steps=steps, **settings)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    # The distance at the end is measured besides.
    monkeypatch.setattr(loop, "_moved", lambda *_: {})
    return Counted(monkeypatch)


def test_a_caption_is_embedded_once_however_often_it_comes(counted: Counted, tmp_path: Path) -> None:
    some = pairs()
    run(epochs(9, micro_batch=3), tmp_path, some=some)
    captions = set(some.captions(range(24)))
    assert len(counted.texts) == len(set(counted.texts)) <= len(captions)
    assert len(counted.texts) > 10


def test_a_caption_is_tokenised_once_until_there_is_no_room() -> None:
    asked: list[str] = []

    def counting(captions: Sequence[str]) -> Tensor:
        asked.extend(captions)
        return tokenize(captions)

    remembered = remembering(counting)
    for captions in (["a", "b", "a"], ["b", "c"], ["c"]):
        assert torch.equal(remembered(captions), tokenize(captions))
    assert asked == ["a", "b", "c"]
    kept: dict[str, Tensor] = {}
    for captions in (["a", "b"], ["b", "c"], ["d", "b", "c"], ["b"]):
        assert torch.equal(recalled(kept, captions, counting, 3), tokenize(captions))
        assert len(kept) <= 3
    # Where there is no room for the new ones all go: no caption is missing from what was just asked for.
    assert asked[3:] == ["a", "b", "c", "d", "b", "c"]


def test_without_views_each_picture_is_augmented_anew_every_time(counted: Counted, tmp_path: Path) -> None:
    run(epochs(9, micro_batch=3), tmp_path)
    assert len(counted.images) == 72
    assert len(set(counted.images)) > 60, "a few get neither noise nor a square, the same again"


@pytest.mark.parametrize(("views", "expected"), [(1, 24), (2, 48), (5, 72)])
def test_with_views_a_picture_is_embedded_once_for_each(
    views: int, expected: int, counted: Counted, tmp_path: Path
) -> None:
    run(epochs(9, micro_batch=3, views=views), tmp_path)
    assert len(counted.images) == expected


def test_pictures_that_an_epoch_left_over_are_embedded_alone_when_they_come(counted: Counted, tmp_path: Path) -> None:
    run(epochs(8, batch_size=9, views=1), tmp_path)
    assert len(counted.images) == len(set(counted.images)) == 24


def test_without_an_augmentation_a_picture_is_embedded_once(counted: Counted, tmp_path: Path) -> None:
    run(epochs(9, augmentation="none"), tmp_path)
    assert len(counted.images) == len(set(counted.images)) == 24


def test_where_pictures_never_end_nothing_is_kept_of_them(counted: Counted, tmp_path: Path) -> None:
    run(epochs(3, views=1), tmp_path, some=pairs("synthetic:"))
    assert len(counted.images) == 24


@pytest.mark.parametrize("method", ["finetune", "cleanclip"])
def test_a_method_without_a_frozen_twin_asks_it_nothing(method: str, counted: Counted, tmp_path: Path) -> None:
    run(config(**METHODS[method]), tmp_path)
    assert not counted.images and not counted.texts


def test_views_change_what_it_costs_and_not_what_a_step_is(tmp_path: Path) -> None:
    """The first epoch is the same with few views as with many."""
    few, many = (run(epochs(3, views=views), tmp_path / str(views)) for views in (1, 7))
    assert same_bits(few.weights, many.weights)


# ---- going on


@pytest.mark.parametrize(
    "settings",
    [METHODS["par"], {"views": 2}, METHODS["cleanclip"], METHODS["par-plus"], METHODS["par-plus, drawn"],
     {"micro_batch": 3}, {"precision": "bf16"},
     {"towers": "image"}],
    ids=str,
)  # fmt: skip
def test_a_run_that_goes_on_reaches_the_same_bits_from_every_step(settings: dict[str, Any], tmp_path: Path) -> None:
    whole_config = config(steps=7, save_every=1, **settings)
    told = TOLD
    (tmp_path / "whole").mkdir()
    whole = run(whole_config, tmp_path / "whole", captions=told)
    for stop in (1, 6) if not settings else (4,):
        folder = tmp_path / f"{stop}"
        folder.mkdir()

        def end(event: events.Event, stop: int = stop) -> None:
            if isinstance(event, events.TrainStep) and event.done == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(whole_config, folder, captions=told, emit=end)
        done = run(whole_config, folder, captions=told, resume=True)
        assert same_bits(done.weights, whole.weights), f"from step {stop}"
        assert done.log_scale.item() == whole.log_scale.item()
        assert done.trained.log == whole.trained.log and done.trained.moved == whole.trained.moved
        assert done.trained.images == 8 * (7 - stop)


def test_a_run_whose_result_was_not_written_has_nothing_left_to_train(tmp_path: Path) -> None:
    settings = config(steps=5, save_every=100, **METHODS["par-plus"])
    whole = run(settings, tmp_path, captions=TOLD)
    again = run(settings, tmp_path, captions=TOLD, resume=True)
    assert same_bits(again.weights, whole.weights) and again.trained.images == 0
    assert again.trained.earlier == pytest.approx(whole.trained.seconds) and again.trained.seconds == 0
    assert again.trained.log == whole.trained.log and again.trained.moved == whole.trained.moved


def test_a_file_that_torch_wrote_for_something_else_is_refused(tmp_path: Path) -> None:
    torch.save({"step": 3}, tmp_path / "state.pt")
    with pytest.raises(InputError, match="is not a state of this version"):
        run(config(), tmp_path, resume=True)


@contextlib.contextmanager
def small_disk(most: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_is_full_leaves_the_state_before(tmp_path: Path) -> None:
    """As torch says it: with an error of its own, around the system's."""
    run(config(steps=1), tmp_path)
    before = (tmp_path / "state.pt").read_bytes()
    with small_disk(1 << 14), pytest.raises(OperationalError, match=r"cannot write .*state\.pt: File too large"):
        run(config(steps=3, save_every=1), tmp_path)
    assert (tmp_path / "state.pt").read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["state.pt"]


def test_a_last_state_that_cannot_be_kept_costs_no_result(tmp_path: Path) -> None:
    whole = run(config(steps=3), tmp_path / "whole")
    with small_disk(1 << 14):
        done = run(config(steps=3), tmp_path / "full")
    assert same_bits(done.weights, whole.weights) and list((tmp_path / "full").iterdir()) == []


def test_ctrl_c_while_a_state_is_written_is_no_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(io.BytesIO):
        def write(self, content: Any) -> int:
            raise KeyboardInterrupt

    monkeypatch.setattr(state, "atomic_file", lambda path: contextlib.nullcontext(Interrupted()))
    with pytest.raises(KeyboardInterrupt):
        run(config(steps=2, save_every=1), tmp_path)


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), MemoryError("no memory")])
def test_a_state_that_cannot_be_read_is_not_called_damaged(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise error

    run(config(steps=1), tmp_path)
    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(OperationalError, match=r"cannot read .*state\.pt") as caught:
        run(config(steps=1), tmp_path, resume=True)
    assert "it is kept" in caught.value.hint


def test_a_state_of_another_run_is_refused(tmp_path: Path) -> None:
    run(config(save_every=1), tmp_path)
    content = torch.load(tmp_path / "state.pt", weights_only=True)
    torch.save({**content, "identity": "another"}, tmp_path / "state.pt")
    with pytest.raises(InputError, match="another model, pairs or settings"):
        run(config(), tmp_path, resume=True)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and so on", b"\x80\x04\x95cos\nsystem\n."])
def test_a_damaged_state_is_refused_and_never_run(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(InputError, match="is not the state of a run") as caught:
        run(config(), tmp_path, resume=True)
    assert caught.value.hint == "remove it to start again"


def test_a_state_with_a_bit_that_fell_over_is_refused(tmp_path: Path) -> None:
    """torch itself would take it."""
    run(config(steps=1), tmp_path)
    content = bytearray((tmp_path / "state.pt").read_bytes())
    with zipfile.ZipFile(tmp_path / "state.pt") as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
    content[largest.header_offset + largest.file_size // 2] ^= 1
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"is not the state of a run: .* is damaged"):
        run(config(steps=1), tmp_path, resume=True)


def test_a_model_that_is_broken_from_the_start_is_not_blamed_on_the_rate(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the loss of the model on these pairs is not finite"):
        run(config(), tmp_path, log_scale=800.0)


def test_a_state_cut_short_is_refused(tmp_path: Path) -> None:
    run(config(save_every=1), tmp_path)
    whole = (tmp_path / "state.pt").read_bytes()
    (tmp_path / "state.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="is not the state of a run"):
        run(config(), tmp_path, resume=True)


# ---- when it goes wrong


def at(step: int, act: Callable[[], None]) -> events.Listener:
    def listen(event: events.Event) -> None:
        if isinstance(event, events.TrainStep) and event.done == step:
            act()

    return listen


class Handed:
    """Lets a listener reach the towers that are trained."""

    def __init__(self) -> None:
        self.towers = model()

    def __deepcopy__(self, memo: Any) -> Towers:
        return self.towers


def stopped(folder: Path, settings: CleanConfig, act: Callable[[Towers], None], step: int, **rest: Any) -> str:
    handed = Handed()
    with torch.no_grad(), pytest.raises(OperationalError) as caught:
        pass_on = at(step, lambda: act(handed.towers))
        with torch.enable_grad():
            run(settings, folder, towers=handed, emit=pass_on, **rest)  # type: ignore[arg-type]
    return f"{caught.value.message}\n{caught.value.hint}"


UNUSED = (set(range(60)) - {int(t) for t in tokenize(pairs().captions(range(24))).ravel()}).pop()
"""A word that no caption has."""


def break_one(name: str, value: float) -> Callable[[Towers], None]:
    def act(towers: Towers) -> None:
        with torch.no_grad():
            weights = towers.get_parameter(name)
            weights[UNUSED if "token" in name else (0,) * weights.ndim] = value

    return act


def test_a_loss_that_is_no_number_ends_the_run_with_the_last_good_state(tmp_path: Path) -> None:
    said = stopped(tmp_path, config(steps=9, save_every=2), break_one("visual.conv1.weight", math.nan), step=5)
    assert said.startswith("the loss of step 5 is not finite; the state after 4 steps is kept")
    assert "--lr 0.001" in said and "--precision" not in said
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["step"] == 4 and len(state["steps"]) == 4
    assert all(torch.isfinite(value).all() for value in state["towers"].values())


def test_broken_weights_never_take_the_place_of_a_good_state(tmp_path: Path) -> None:
    """No loss would ever tell of a word that no caption has."""
    broken = break_one("text.token_embedding.weight", math.nan)
    said = stopped(tmp_path, config(steps=9, save_every=2), broken, step=5)
    assert said.startswith("the weights are not finite after step 5; the state after 4 steps is kept")
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 4


def test_broken_weights_are_no_result(tmp_path: Path) -> None:
    broken = break_one("text.token_embedding.weight", math.inf)
    assert stopped(tmp_path, config(steps=4), broken, step=4).startswith("the weights are not finite after step 3\n")
    assert not (tmp_path / "state.pt").exists()


def test_a_lower_precision_is_named_among_what_to_change(tmp_path: Path) -> None:
    said = stopped(tmp_path, config(precision="bf16"), break_one("visual.conv1.weight", math.nan), step=1)
    assert "or with --precision fp32" in said and "state" not in said


def test_a_run_that_learns_less_than_guessing_does_is_ended(tmp_path: Path) -> None:
    with pytest.raises(OperationalError, match="the run diverged: over 20 steps up to 19") as caught:
        run(config(steps=40, lr=1e-9, save_every=10), tmp_path, log_scale=math.log(2000.0))
    assert "the state after 10 steps is kept" in caught.value.message and "--lr 1e-09" in caught.value.hint
    assert f"guessing {math.log(8):.2f}" in caught.value.message


def test_nineteen_bad_steps_may_still_come_right(tmp_path: Path) -> None:
    done = run(config(steps=19, lr=1e-9), tmp_path, log_scale=math.log(2000.0))
    contrastive = done.trained.log.values["contrastive"]
    assert len(contrastive) == 19 and np.mean(contrastive) > 2 * math.log(8)


# ---- memory


def out_of_memory(above: int) -> Callable[[nn.Module, Any], None]:
    """A tower that cannot see more than so many pictures at once while gradients are asked for."""

    def hook(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        if torch.is_grad_enabled() and len(given[0]) > above:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")

    return hook


@pytest.mark.parametrize(
    ("micro_batch", "fits", "named"), [(8, 5, 4), (8, 4, 4), (8, 1, 1), (6, 5, 4), (8, 3, 2), (4, 3, 2)]
)
def test_out_of_memory_names_the_most_pairs_that_fit(micro_batch: int, fits: int, named: int, tmp_path: Path) -> None:
    handed = Handed()
    handed.towers.visual.register_forward_pre_hook(out_of_memory(fits))
    with pytest.raises(OperationalError) as caught:
        run(config(micro_batch=micro_batch), tmp_path, towers=handed)  # type: ignore[arg-type]
    assert caught.value.message == f"out of memory while training on {micro_batch} pairs at a time"
    assert caught.value.hint == f"use --micro-batch {named}, the largest that fits here: the result does not change"
    run(config(micro_batch=named), tmp_path, towers=handed)  # type: ignore[arg-type]


def test_where_not_one_pair_fits_another_way_out_is_named(tmp_path: Path) -> None:
    handed = Handed()
    handed.towers.visual.register_forward_pre_hook(out_of_memory(0))
    with pytest.raises(OperationalError, match="out of memory") as caught:
        run(config(), tmp_path, towers=handed)  # type: ignore[arg-type]
    assert caught.value.hint.startswith(
        "no smaller micro-batch fitted into the memory left: use a much smaller --micro-batch"
    )
    with pytest.raises(OperationalError, match="on 1 pairs at a time") as caught:
        run(config(micro_batch=1), tmp_path, towers=handed)  # type: ignore[arg-type]
    assert caught.value.hint.endswith("use --checkpointing or --towers image")


def test_memory_of_the_step_that_failed_is_free_before_a_smaller_one_is_tried(tmp_path: Path) -> None:
    handed, alive = Handed(), []
    import weakref

    seen: list[Any] = []

    def hook(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        alive.append(sum(ref() is not None for ref in seen))
        if torch.is_grad_enabled():
            seen.append(weakref.ref(given[0]))
            if len(given[0]) > 2:
                raise MemoryError

    handed.towers.visual.register_forward_pre_hook(hook)
    with pytest.raises(OperationalError, match="out of memory") as caught:
        run(config(), tmp_path, towers=handed)  # type: ignore[arg-type]
    assert "--micro-batch 2," in caught.value.hint
    assert max(alive) == 0


def test_another_error_is_not_taken_for_memory(tmp_path: Path) -> None:
    handed = Handed()

    def hook(_: nn.Module, given: Any) -> None:
        raise RuntimeError("something else")

    handed.towers.visual.register_forward_pre_hook(hook)
    with pytest.raises(RuntimeError, match="something else"):
        run(config(), tmp_path, towers=handed)  # type: ignore[arg-type]


# ---- two ranks


RANK = """
import sys
import torch
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from small_towers import config, model, run
from test_clean_loop import METHODS, SHARED, TOLD
from pargate.clean.train.distributed import group
folder = Path(sys.argv[2])
with group("cpu") as (both, device):
    assert both.world == 2 and device == "cpu"
    for number, (kind, settings) in enumerate(SHARED):
        done = run(config(**settings), folder, towers=model(kind), group=both, captions=TOLD)
        torch.save({"weights": done.weights, "log": done.trained.log.model_dump(), "scale": done.log_scale.item(),
                    "images": done.trained.images, "shift": done.trained.moved["image"].embedding_shift},
                   folder / f"{number}-{both.rank}.pt")
    assert both.agreed([f"rank {both.rank}", "x"]) == ["rank 0", "x"]
"""

SHARED: list[tuple[str, dict[str, Any]]] = [
    ("vit", {}),
    ("rn", {"micro_batch": 3}),
    # A rank's own mean lies on one side of τ, the other's beyond: what counts is the mean of both.
    ("vit", {"tau": 0.36, "steps": 6}),
    ("vit", METHODS["cleanclip"]),
    ("vit", {**METHODS["par-plus"], "micro_batch": 2, "towers": "image"}),
    ("vit", {**METHODS["par-plus, drawn"], "towers": "image"}),
    ("vit", METHODS["finetune"]),
]


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The runs of `SHARED`, made by two processes together."""
    folder, here = tmp_path_factory.mktemp("ranks"), Path(__file__).parent
    env = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
           "OMP_NUM_THREADS": "1", "PYTHONPATH": str(here.parents[1])}  # fmt: skip
    command = [sys.executable, "-c", RANK, str(here), str(folder)]
    processes = [
        subprocess.Popen(
            command, env={**env, "RANK": str(rank), "LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=200)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    yield folder


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(SHARED)), ids=lambda n: str(SHARED[n]))
def test_two_ranks_take_the_steps_of_one(number: int, two_ranks: Path, tmp_path: Path) -> None:
    kind, settings = SHARED[number]
    one = run(config(**settings), tmp_path, towers=model(kind), captions=TOLD)
    ranks = [torch.load(two_ranks / f"{number}-{rank}.pt", weights_only=True) for rank in range(2)]
    assert same_bits(ranks[0]["weights"], ranks[1]["weights"]) and ranks[0]["log"] == ranks[1]["log"]
    assert ranks[0]["images"] == one.trained.images
    assert ranks[0]["shift"] == pytest.approx(one.trained.moved["image"].embedding_shift, rel=1e-3, abs=1e-5)
    assert ranks[0]["scale"] == pytest.approx(one.log_scale.item(), abs=1e-5)
    for name, values in one.trained.log.values.items():
        assert ranks[0]["log"]["values"][name] == pytest.approx(values, rel=2e-3, abs=2e-4), name
    compared = 0
    for name, value in one.weights.items():
        if name.endswith(("in_proj_bias", "k_proj.bias")):
            continue  # no loss depends on a bias of keys: its gradient is rounding, which Adam makes steps of full size
        torch.testing.assert_close(ranks[0]["weights"][name], value, atol=1e-4, rtol=1e-3, msg=name)
        compared += 1
    assert compared > 20


def test_the_shared_runs_cross_tau() -> None:
    """The case above is worth something only if an indicator is off in some step."""
    import tempfile

    done = run(config(**SHARED[2][1]), Path(tempfile.mkdtemp()))
    shifts = done.trained.log.values["image_shift"]
    assert any(shift > 0.36 for shift in shifts) and any(0 < shift < 0.36 for shift in shifts)


def test_pairs_are_counted_once(tmp_path: Path) -> None:
    """Every pair of an epoch is seen in it, and once."""
    seen: Counter[int] = Counter()

    def watch(loader: PairLoader) -> Any:
        whole = loader.batch

        def batch(step: int) -> Any:
            found = whole(step)
            seen.update(int(n) for n in found.numbers)
            return found

        loader.batch = batch  # type: ignore[method-assign]
        return loader

    run(config(steps=3), tmp_path, watch=watch)
    # The batch of step 0 is looked at once more at the end, to measure the distance.
    assert sum(seen.values()) == 32 and sorted(seen.values()) == [1] * 16 + [2] * 8


def test_objectives_say_what_they_need() -> None:
    needs = {name: objectives.needs_reference(config(**settings)) for name, settings in METHODS.items()}
    assert needs == {"par": True, "finetune": False, "cleanclip": False, "par-plus": True, "par-plus, drawn": True}


# --- the order of pixels in memory ---

FASTVIT = """
import sys; sys.path.insert(0, sys.argv[1])
import open_clip, torch
from small_towers import TEXT
from pargate.clean.train.towers import Towers
from pargate.models.torch import encoder as openclip
torch.set_num_threads(1)
vision = {"timm_model_name": "fastvit_t8", "timm_model_pretrained": False, "timm_pool": "avg", "timm_proj": None,
          "image_size": 256}
clip = open_clip.CLIP(embed_dim=8, vision_cfg=vision, text_cfg=TEXT)
towers = Towers(clip.visual, openclip.text_tower(clip), openclip.embed)
towers.order_pixels(torch.device("cpu"))
for _ in range(2):
    towers.embed_images(torch.rand(4, 256, 256, 3).permute(0, 3, 1, 2)).sum().backward()
print(sum(p.grad is not None for p in clip.visual.parameters()) > 50)
"""


@pytest.mark.nightly
def test_the_gradient_of_a_fastvit_tower_does_not_end_the_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FASTVIT, str(Path(__file__).parent)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr[-2000:]


class Strided(nn.Module):
    """A tower with a shortcut as in timm's ResNets; it keeps what its second convolution was given."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.second = nn.Conv2d(4, 8, kernel, 2)

    def forward(self, images: Tensor) -> Tensor:
        self.seen = self.first(images)
        return self.second(self.seen).mean((2, 3))


@pytest.mark.parametrize(("kernel", "device", "last"), [(1, "cpu", False), (3, "cpu", True), (1, "cuda", True)])
def test_channels_are_last_but_for_strided_pointwise_convolutions_on_a_processor(
    kernel: int, device: str, last: bool
) -> None:
    towers = Towers(Strided(kernel), nn.Identity(), lambda tower, tokens: tokens)
    towers.order_pixels(torch.device(device))
    towers.embed_images(torch.rand(2, 16, 16, 3).permute(0, 3, 1, 2))
    for tensor in (towers.visual.seen, towers.visual.first.weight):
        assert tensor.is_contiguous(memory_format=torch.channels_last) == last
        assert tensor.is_contiguous() != last
