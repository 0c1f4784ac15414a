"""Settings follow from sizes, say why, and refuse what makes no sense in words of the command line."""

import math
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from pargate.clean.config import CleanConfig, propose
from pargate.clean.methods.base import METHODS, Sizes
from pargate.errors import InputError

SMALL = Sizes(parameters=3_000_000, image_side=64, pairs=20_000, device="cpu")
LARGE = Sizes(parameters=151_000_000, image_side=224, pairs=250_000, device="cuda")


def refusal(method: str = "par", sizes: Sizes = SMALL, **overrides: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        propose(method, sizes, overrides=overrides)
    return caught.value


# ---- by size


def test_a_small_model_on_a_processor_gets_a_higher_rate_and_a_smaller_batch() -> None:
    config = propose("par", SMALL).config
    assert (config.steps, config.batch_size, config.tau) == (240, 256, 2.15)
    assert config.lr == pytest.approx(3e-5 * (151 / 3) ** 0.75, rel=0.02)
    assert (config.schedule, config.betas, config.epsilon, config.weight_decay) == ("par", (0.9, 0.98), 1e-8, 1e-4)
    assert (config.augmentation, config.towers, config.batch_norm) == ("par", "both", "eval")
    assert not config.train_logit_scale and config.views is None


def test_a_full_size_model_on_a_gpu_gets_the_published_rate_and_batch() -> None:
    config = propose("par", LARGE).config
    assert (config.lr, config.batch_size, config.micro_batch) == (3e-5, 2048, 256)


def test_a_larger_model_never_gets_less_than_the_published_rate_nor_a_tiny_one_more_than_1e_3() -> None:
    assert propose("par", Sizes(10**10, 224, None, "cuda")).config.lr == 3e-5
    assert propose("par", Sizes(1000, 32, None, "cpu")).config.lr == 1e-3


def test_a_model_with_batch_normalisation_gets_a_higher_rate_with_real_pairs() -> None:
    normed = replace(SMALL, parameters=4_000_000, batch_norm=True)
    proposal = propose("par", normed)
    assert proposal.config.lr == pytest.approx(3e-5 * (151 / 4) ** 0.92, abs=1e-5)
    assert "4.0 M parameters with batch normalisation" in proposal.reasons["lr"]
    assert propose("par-plus", normed).config.lr == pytest.approx(0.8 * 3e-5 * (151 / 4) ** 0.92, abs=1e-5)
    assert propose("par", replace(normed, drawn=True)) == propose("par", replace(normed, drawn=True, batch_norm=False))
    assert propose("par", replace(LARGE, batch_norm=True)).config.lr == 3e-5


def test_few_pairs_make_small_batches_so_that_there_are_twenty_to_an_epoch() -> None:
    batches = {n: propose("par", Sizes(10**6, 64, n, "cpu")).config.batch_size for n in (2, 40, 400, 1000, 10**6, None)}
    assert batches == {2: 2, 40: 2, 400: 16, 1000: 32, 10**6: 256, None: 256}


def test_on_processors_methods_get_what_they_need_and_drawn_pairs_the_least() -> None:
    def batches(sizes: Sizes) -> list[int]:
        return [propose(method, sizes).config.batch_size for method in ("par", "finetune", "par-plus", "cleanclip")]

    many = Sizes(3_000_000, 64, 10**6, "cpu")
    assert batches(many) == [256, 256, 64, 64]
    assert batches(replace(many, drawn=True)) == [64, 64, 64, 64]
    assert batches(replace(many, device="cuda")) == [2048, 2048, 2048, 2048]


def test_pairs_at_a_time_shrink_with_the_square_of_the_picture() -> None:
    found = [
        propose("par", Sizes(10**8, side, None, "cuda"), overrides={"batch_size": 2048}).config.micro_batch
        for side in (112, 224, 448, 4000)
    ]
    assert found == [1024, 256, 64, 1]


@pytest.mark.parametrize("sizes", [SMALL, LARGE])
@pytest.mark.parametrize("method", METHODS)
def test_what_was_derived_has_a_reason(method: str, sizes: Sizes) -> None:
    reasons = propose(method, sizes).reasons
    assert {"lr", "batch_size", "steps"} <= set(reasons) and all(reasons.values())


def test_what_was_asked_for_says_so_and_the_rest_stays() -> None:
    plain = propose("par", SMALL)
    proposal = propose("par", SMALL, overrides={"lr": 1e-4, "batch_size": 16, "tau": None, "seed": 3})
    changed = {name: value for name, value in proposal.config if value != getattr(plain.config, name)}
    assert changed == {"lr": 1e-4, "batch_size": 16, "micro_batch": 16, "seed": 3}
    assert {n for n, reason in proposal.reasons.items() if reason == "asked for"} == {"lr", "batch_size", "seed"}


def test_the_preset_paper_takes_the_published_settings_whatever_the_sizes() -> None:
    proposal = propose("par", Sizes(1000, 32, None, "cpu"), preset="paper")
    config = proposal.config
    assert (config.lr, config.batch_size, config.steps, config.tau) == (3e-5, 2048, 244, 2.15)
    assert not proposal.reasons


def test_cleanclip_has_settings_of_its_own() -> None:
    config = propose("cleanclip", LARGE, preset="paper").config
    assert (config.lr, config.batch_size, config.steps) == (1e-5, 64, 15_620)
    assert (config.schedule, config.warmup_steps) == ("cosine", 50)
    assert (config.betas, config.weight_decay, config.augmentation) == ((0.9, 0.999), 0.1, "none")
    assert config.train_logit_scale and config.tau is None


def test_fine_tuning_has_no_tau() -> None:
    assert propose("finetune", SMALL).config.tau is None


def test_with_drawn_pairs_par_plus_learns_nothing_of_their_captions() -> None:
    drawn, real = (Sizes(3_000_000, 64, 6000, "cpu", drawn=drawn) for drawn in (True, False))
    proposal, usual = propose("par-plus", drawn), propose("par-plus", real).config
    assert (usual.contrastive, usual.distillation, usual.unlearning, usual.anchor, usual.universal) == (
        1,
        1,
        1.5,
        2,
        12,
    )
    changed = {name: value for name, value in proposal.config if value != getattr(usual, name)}
    assert changed == {
        "contrastive": 0.0, "distillation": 0.0, "unlearning": 4.0, "universal": 8, "augmentation": "strong",
        "towers": "image",
    }  # fmt: skip
    assert all(proposal.reasons[name] for name in changed)
    on_gpu = replace(drawn, device="cuda")
    assert propose("par", on_gpu).config == propose("par", replace(real, device="cuda")).config
    assert [propose(method, on_gpu).config.batch_size for method in ("par-plus", "par")] == [64, 256]


# ---- refusals


def test_views_take_pairs_that_come_again() -> None:
    assert "give a source that ends" in refusal(sizes=Sizes(10**6, 64, None, "cpu"), views=2).hint
    assert "--seed is 9223372036854775808" in refusal(seed=1 << 63).message


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("tau", -0.1, "--tau is -0.1: input should be greater than or equal to 0"),
        ("tau", 4.01, "--tau is 4.01: input should be less than or equal to 4"),
        ("tau", math.nan, "--tau is nan: input should be a finite number"),
        ("tau", math.inf, "--tau is inf: input should be"),
        ("lr", 0.0, "--lr is 0.0: input should be greater than 0"),
        ("lr", -1e-5, "--lr is -1e-05: input should be greater than 0"),
        ("lr", 0.011, "--lr is 0.011: input should be less than or equal to 0.01"),
        ("lr", math.nan, "--lr is nan: input should be a finite number"),
        ("steps", 0, "--steps is 0: input should be greater than or equal to 1"),
        ("steps", 1_000_001, "--steps is 1000001: input should be less than or equal to 1000000"),
        ("batch_size", 1, "--batch-size is 1: input should be greater than or equal to 2"),
        ("batch_size", 0, "--batch-size is 0: input should be greater than or equal to 2"),
        ("batch_size", -8, "--batch-size is -8: input should be greater than or equal to 2"),
        ("micro_batch", 0, "--micro-batch is 0: input should be greater than or equal to 1"),
        ("views", 0, "--views is 0: input should be greater than or equal to 1"),
        ("seed", -1, "--seed is -1: input should be greater than or equal to 0"),
        ("save_every", 0, "--save-every is 0: input should be greater than or equal to 1"),
        ("precision", "fp8", "--precision is fp8: input should be"),
        ("towers", "none", "--towers is none: input should be"),
    ],
)
def test_a_value_out_of_range_is_refused_by_the_name_of_its_flag(name: str, value: object, words: str) -> None:
    error = refusal(**{name: value})
    assert error.message.startswith(words)
    assert error.message.count("--") == 1, "one message for one mistake"
    assert error.hint == "see pargate clean --help"


@pytest.mark.parametrize(("name", "value"), [("tau", 0.0), ("tau", 4.0), ("lr", 0.01), ("steps", 1), ("batch_size", 2)])
def test_the_ends_of_a_range_are_in_it(name: str, value: float) -> None:
    assert getattr(propose("par", SMALL, overrides={name: value}).config, name) == value


@pytest.mark.parametrize("method", ["cleanclip", "finetune"])
def test_tau_goes_with_par_alone(method: str) -> None:
    assert refusal(method, tau=2.0).message == f"--tau does not go with {method}"


def test_a_batch_larger_than_the_source_is_refused_with_the_largest_that_works() -> None:
    error = refusal(sizes=Sizes(10**6, 64, 50, "cpu"), batch_size=64)
    assert error.message == "a batch of 64 is more than the 50 pairs of the source"
    assert "--batch-size 50" in error.hint


def test_the_paper_on_few_pairs_is_refused_and_not_changed_in_silence() -> None:
    with pytest.raises(InputError, match="a batch of 2048 is more than the 50 pairs of the source"):
        propose("par", Sizes(10**6, 64, 50, "cpu"), preset="paper")


# ---- identity


def config(**settings: Any) -> CleanConfig:
    return CleanConfig(**{"method": "par", "steps": 5, "batch_size": 8, "micro_batch": 4, "lr": 1e-4, **settings})


@pytest.mark.parametrize(
    "changed",
    [{"method": "finetune"}, {"steps": 6}, {"batch_size": 16}, {"lr": 2e-4}, {"tau": 1.0}, {"seed": 1}, {"views": 2},
     {"precision": "bf16"}, {"towers": "image"}, {"augmentation": "none"}, {"batch_norm": "train"}],
)  # fmt: skip
def test_a_setting_that_changes_the_result_changes_the_digest(changed: dict[str, Any]) -> None:
    assert config(**changed).digest != config().digest


@pytest.mark.parametrize("changed", [{"save_every": 1}, {"micro_batch": 2}, {"checkpointing": True}])
def test_a_setting_that_only_costs_memory_or_time_does_not(changed: dict[str, Any]) -> None:
    # A run whose memory ran out goes on with fewer pairs at a time.
    assert config(**changed).digest == config().digest


def test_a_config_reads_back_equal_and_does_not_change() -> None:
    made = config(tau=1.5, betas=(0.8, 0.9))
    assert CleanConfig.model_validate_json(made.model_dump_json()) == made
    with pytest.raises(ValidationError, match="frozen"):
        made.lr = 1.0  # type: ignore[misc]
