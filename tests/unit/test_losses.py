"""The losses, against numbers worked out by hand and against the published definition, written out once more."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from pargate.clean.config import CleanConfig
from pargate.clean.train import losses, objectives
from pargate.clean.train.objectives import Embedded
from pargate.core.choices import Method

Rows = NDArray[np.float64]


def tensor(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def unit_rows(*shape: int, seed: int = 0) -> Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(drawn, dim=-1)


# ---- by hand


def test_the_contrastive_loss_is_the_one_on_paper() -> None:
    # Logits (2, 0), (1.2, 1.6): rows give ln(1 + e^-2) and ln(1 + e^-0.4), columns ln(1 + e^-0.8) and ln(1 + e^-1.6).
    images, texts = tensor([1, 0], [0.6, 0.8]), tensor([1, 0], [0, 1])
    paper = (math.log1p(math.exp(-2)) + math.log1p(math.exp(-0.4))) / 4
    paper += (math.log1p(math.exp(-0.8)) + math.log1p(math.exp(-1.6))) / 4
    assert losses.clip(images, texts, torch.tensor(2.0)).item() == pytest.approx(paper, abs=1e-12)


def test_embeddings_that_say_nothing_cost_as_much_as_guessing() -> None:
    same = tensor([1, 0]).expand(7, 2)
    assert losses.clip(same, same, torch.tensor(50.0)).item() == pytest.approx(math.log(7), abs=1e-12)


def test_a_shift_is_the_mean_squared_distance_summed_over_dimensions() -> None:
    old = tensor([1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0])
    new = tensor([1, 0, 0], [0, 1, 0], [-1, 0, 0], [0.6, 0, 0.8])
    assert losses.shift(new, old).item() == pytest.approx((0 + 2 + 4 + 0.8) / 4, abs=1e-12)


@pytest.mark.parametrize(
    ("image_shift", "text_shift", "expected"),
    [(1.0, 0.5, 0.75), (2.5, 0.5, 0.25), (1.0, 3.0, 0.5), (2.5, 3.0, 0.0), (2.15, 2.15, 2.15), (0.0, 0.0, 0.0)],
)
def test_perturbation_counts_each_tower_up_to_tau(image_shift: float, text_shift: float, expected: float) -> None:
    found = losses.perturbation(torch.tensor(image_shift), torch.tensor(text_shift), 2.15)
    assert found.item() == pytest.approx(expected, abs=1e-7)


def test_beyond_tau_a_tower_has_no_gradient_and_at_tau_it_still_has_one() -> None:
    below, at, beyond = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (1.0, 2.0, 2.0001))
    gradients = torch.autograd.grad(losses.perturbation(below, at, 2.0) + losses.perturbation(at, beyond, 2.0),
                                    (below, at, beyond))  # fmt: skip
    assert [g.item() for g in gradients] == [0.5, 1.0, 0.0]


def test_self_supervision_finds_the_other_view_in_one_direction() -> None:
    images, other_images = tensor([1, 0], [0, 1]), tensor([1, 0], [1, 0])
    texts, other_texts = tensor([1, 0], [0, 1]), tensor([1, 0], [0, 1])
    pictures = math.log(2)  # both rows see two candidates alike
    captions = math.log1p(math.exp(-3))
    found = losses.self_supervision(images, other_images, texts, other_texts, torch.tensor(3.0))
    assert found.item() == pytest.approx((pictures + captions) / 2, abs=1e-7)
    # The other direction would differ: from the other views, picture 0 is the best for both.
    back = losses.self_supervision(other_images, images, other_texts, texts, torch.tensor(3.0))
    assert abs(back.item() - found.item()) > 0.1


# ---- the published definition once more, in numpy, with gradients derived by hand


def softmax(logits: Rows) -> Rows:
    exact = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exact / exact.sum(axis=1, keepdims=True))


def published(x: Rows, c: Rows, x_old: Rows, c_old: Rows, scale: float, tau: float) -> tuple[float, Rows, Rows]:
    """L_PAR of arXiv 2412.00727, with its gradients on the embeddings of pictures `x` and captions `c`."""
    n = len(x)
    forth, back = softmax(scale * x @ c.T), softmax(scale * c @ x.T)
    loss = -(np.log(np.diag(forth)).sum() + np.log(np.diag(back)).sum()) / (2 * n)
    on_logits = (forth - np.eye(n) + (back - np.eye(n)).T) / (2 * n)
    on_x, on_c = scale * on_logits @ c, scale * on_logits.T @ x
    for now, old, gradient in ((x, x_old, on_x), (c, c_old, on_c)):
        moved = sum(((a - b) ** 2).sum() for a, b in zip(now, old, strict=True)) / n
        if not moved > tau:  # the code's strict inequality: exactly τ is on
            loss -= moved / 2
            gradient -= (now - old) / n
    return float(loss), on_x, on_c


def ours(x: Tensor, c: Tensor, x_old: Tensor, c_old: Tensor, scale: float, tau: float) -> tuple[float, Rows, Rows]:
    views = torch.stack([x, c])[:, None].requires_grad_()
    seen = Embedded(views, torch.stack([x_old, c_old]), None, None, torch.tensor(scale, dtype=torch.float64))
    loss, _ = objectives.loss(config("par", perturbation=1.0, tau=tau), seen)
    (gradient,) = torch.autograd.grad(loss, views)
    return loss.item(), gradient[0, 0].numpy(), gradient[1, 0].numpy()


SITUATIONS: dict[str, Callable[[Tensor], tuple[Tensor, float]]] = {
    "both terms on": lambda rows: (unit_rows(2, 12, 8, seed=1), 2.6),
    "pictures beyond": lambda rows: (torch.stack([-rows[0], rows[1] * 0.8 + unit_rows(12, 8, seed=2) * 0.1]), 2.15),
    "captions beyond": lambda rows: (torch.stack([rows[0] * 0.9, -rows[1]]), 2.15),
    "both beyond": lambda rows: (unit_rows(2, 12, 8, seed=3), 0.7),
    "identical": lambda rows: (rows.clone(), 2.15),
    "identical at zero": lambda rows: (rows.clone(), 0.0),
    "antipodal": lambda rows: (-rows, 2.15),
    "antipodal at four": lambda rows: (-rows, 4.0),
}


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
def test_par_is_the_published_loss_in_value_and_gradient(situation: str, scale: float) -> None:
    rows = unit_rows(2, 12, 8)
    old, tau = SITUATIONS[situation](rows)
    old = torch.nn.functional.normalize(old, dim=-1)
    shifts = [losses.shift(a, b).item() for a, b in zip(rows, old, strict=True)]
    on = {"both terms on": [True, True], "pictures beyond": [False, True], "captions beyond": [True, False]}
    if situation in on:
        assert [shift <= tau for shift in shifts] == on[situation]
    value, on_x, on_c = published(*rows.numpy(), *old.numpy(), scale, tau)  # type: ignore[call-arg,arg-type]
    found, found_x, found_c = ours(*rows, *old, scale, tau)  # type: ignore[call-arg,arg-type]
    assert found == pytest.approx(value, abs=1e-9)
    np.testing.assert_allclose(found_x, on_x, atol=1e-9)
    np.testing.assert_allclose(found_c, on_c, atol=1e-9)


def test_a_shift_of_exactly_tau_is_pushed_on() -> None:
    # Two of four pictures turned round: S = 2 without rounding.
    now = torch.eye(4, dtype=torch.float64)
    old = now * torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)[:, None]
    value, on_x, _ = published(now.numpy(), now.numpy(), old.numpy(), now.numpy(), 1.0, 2.0)
    found, found_x, _ = ours(now, now, old, now, 1.0, 2.0)
    off, off_x, _ = ours(now, now, old, now, 1.0, np.nextafter(2.0, 0))
    assert found == pytest.approx(value, abs=1e-12) and found == pytest.approx(off - 1.0, abs=1e-12)
    np.testing.assert_allclose(found_x, on_x, atol=1e-12)
    assert not np.allclose(found_x, off_x)


# ---- objectives


def config(method: Method, **settings: object) -> CleanConfig:
    return CleanConfig.model_validate({"method": method, "steps": 1, "batch_size": 2, "micro_batch": 2, "lr": 1e-4,
                                       **settings})  # fmt: skip


def test_par_logs_its_terms_and_its_loss_is_their_difference() -> None:
    seen = Embedded(unit_rows(2, 1, 6, 4, seed=4), unit_rows(2, 6, 4, seed=5), None, None, torch.tensor(10.0))
    asked = config("par", perturbation=1.0, tau=4.0)
    loss, terms = objectives.loss(asked, seen)
    assert objectives.views(asked) == 1 and objectives.needs_reference(asked)
    assert list(terms) == ["contrastive", "image_shift", "text_shift"]
    assert loss.item() == pytest.approx(
        terms["contrastive"].item() - (terms["image_shift"] + terms["text_shift"]).item() / 2
    )


def test_a_tau_of_zero_is_fine_tuning_once_anything_has_moved() -> None:
    seen = Embedded(unit_rows(2, 1, 6, 4, seed=4), unit_rows(2, 6, 4, seed=5), None, None, torch.tensor(10.0))
    tuned = config("finetune")
    assert not objectives.needs_reference(tuned)
    assert objectives.loss(config("par", perturbation=1.0, tau=0.0), seen)[0] == objectives.loss(tuned, seen)[0]


def test_cleanclip_adds_its_second_term_on_two_views() -> None:
    asked = config("cleanclip")
    views = unit_rows(2, 2, 6, 4, seed=6)
    loss, terms = objectives.loss(asked, Embedded(views, None, None, None, torch.tensor(5.0)))
    (x, x_other), (c, c_other) = views
    assert objectives.views(asked) == 2 and not objectives.needs_reference(asked)
    assert terms["contrastive"] == losses.clip(x, c, torch.tensor(5.0))
    assert loss == terms["contrastive"] + losses.self_supervision(x, x_other, c, c_other, torch.tensor(5.0))


def test_what_a_universal_picture_does_to_all_alike_is_its_common_shift() -> None:
    reference = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    images = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    # Picture 0 carries its two rows opposite ways, (-1, 1) and (1, -1), which cancel out.
    apart = losses.common_shift(images, reference, torch.tensor([0, 0, -1, -1]))
    assert apart.item() == 0
    # Picture 4 carries its rows by (-1, 1) and (-1, -1): their mean (-1, 0) has length 1.
    assert losses.common_shift(images, reference, torch.tensor([-1, -1, 4, 4])).item() == 1
    # One row alone says nothing of what a picture does to all.
    assert losses.common_shift(images, reference, torch.tensor([-1, 7, 4, 4])).item() == 1
    # The mean over the pictures, whatever their numbers.
    assert losses.common_shift(images, reference, torch.tensor([0, 0, 4, 4])).item() == pytest.approx(0.5)
    assert losses.common_shift(images, reference, torch.full((4,), -1)).item() == 0


@given(st.integers(2, 12), st.integers(0, 100))
def test_a_common_shift_is_at_most_the_mean_shift_and_reaches_it_when_all_go_alike(n: int, seed: int) -> None:
    images, reference = unit_rows(n, 4, seed=seed), unit_rows(n, 4, seed=seed + 1)
    all_of_one = torch.zeros(n, dtype=torch.int64)
    common = losses.common_shift(images, reference, all_of_one).item()
    assert -1e-6 <= common <= losses.shift(images, reference).item() + 1e-6
    same, before = images[:1].expand(n, 4), reference[:1].expand(n, 4)
    assert losses.common_shift(same, before, all_of_one).item() == pytest.approx(
        losses.shift(same, before).item(), abs=1e-6
    )


def test_the_common_shift_and_the_anchor_have_weights_of_their_own() -> None:
    mixed = torch.tensor([-1, 0, 1, 1, -1, 0])
    views, frozen = unit_rows(2, 1, 6, 4, seed=4), unit_rows(2, 6, 4, seed=5)
    asked = config("par-plus", contrastive=0.5, unlearning=3.0, anchor=2.0)
    loss, terms = objectives.loss(asked, Embedded(views, frozen, None, mixed, torch.tensor(10.0)))
    assert objectives.needs_reference(asked) and list(terms) == ["contrastive", "common_shift", "plain_shift"]
    images, plain = views[0, 0], mixed < 0
    assert terms["common_shift"] == losses.common_shift(images, frozen[0], mixed)
    assert terms["plain_shift"] == losses.shift(images[plain], frozen[0][plain])
    weighed = 0.5 * terms["contrastive"] + 3 * terms["common_shift"] + 2 * terms["plain_shift"]
    assert loss.item() == pytest.approx(weighed.item(), rel=1e-6)


def test_par_plus_without_plain_rows_or_without_universal_pictures_has_the_other_term_alone() -> None:
    views, frozen = unit_rows(2, 1, 4, 4, seed=4), unit_rows(2, 4, 4, seed=5)
    asked = config("par-plus", unlearning=1.0, anchor=1.0)
    _, all_mixed = objectives.loss(
        asked, Embedded(views, frozen, None, torch.zeros(4, dtype=torch.int64), torch.tensor(1.0))
    )
    assert all_mixed["plain_shift"].item() == 0 and all_mixed["common_shift"].item() > 0
    _, none_mixed = objectives.loss(asked, Embedded(views, frozen, None, None, torch.tensor(1.0)))
    assert none_mixed["common_shift"].item() == 0
    assert none_mixed["plain_shift"] == losses.shift(views[0, 0], frozen[0])


def test_distillation_is_the_divergence_of_what_pictures_are_told_apart_by() -> None:
    images, trusted, captions = (unit_rows(n, 4, seed=n) for n in (3, 4, 5))
    trusted = trusted[:3]
    wanted, found = (torch.softmax(7.0 * rows @ captions.T, dim=1) for rows in (trusted, images))
    expected = (wanted * (wanted / found).log()).sum(dim=1).mean()
    assert losses.distillation(images, trusted, captions, torch.tensor(7.0)).item() == pytest.approx(expected.item())
    assert losses.distillation(trusted, trusted, captions, torch.tensor(7.0)).item() == pytest.approx(0.0, abs=1e-6)


def test_par_plus_weighs_the_contrastive_loss_against_distillation() -> None:
    seen = Embedded(
        unit_rows(2, 1, 6, 4, seed=4), unit_rows(2, 6, 4, seed=5), unit_rows(9, 4, seed=6), None, torch.tensor(10.0)
    )
    loss, terms = objectives.loss(config("par-plus", contrastive=0.5, distillation=2.0), seen)
    assert loss.item() == pytest.approx(0.5 * terms["contrastive"].item() + 2 * terms["distillation"].item(), rel=1e-6)
