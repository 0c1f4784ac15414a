"""The law of a rank p-value: among models that are alike, a share of at most a has one of at most a."""

from hypothesis import given
from hypothesis import strategies as st

from pargate.core.calibration import Calibration, Conditions, Trusted, TrustedModel, digest_of_shapes
from pargate.core.found import PASSES, Family
from pargate.core.model import Checkpoint, Preprocess
from pargate.judge.bounds import at_most
from pargate.probes.search import _ranked

FAMILIES: tuple[Family, ...] = ("patch", "blend")
SHIFTS = st.tuples(*(st.integers(0, 4) for _ in FAMILIES))
"""Few values, so that ties are frequent."""


def checkpoint(number: int) -> Checkpoint:
    rule = Preprocess((8, 8), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return Checkpoint("m", "m", f"{number:064x}", "0" * 64, 1, "safetensors", "toy", {}, rule, ())


@given(st.lists(SHIFTS, min_size=2, max_size=25), st.integers(1, 99))
def test_of_alike_models_at_most_a_share_of_the_limit_breaks_it(shifts: list[tuple[int, ...]], percent: int) -> None:
    """Whichever of n + 1 models is scanned by a table of the others: exact for every set of them, so for any law."""
    models = [
        TrustedModel(
            name=f"m{number}", sha256=f"{number:064x}", architecture="toy", shapes=digest_of_shapes(checkpoint(0)),
            shifts=dict(zip(FAMILIES, found, strict=True)),
        )
        for number, found in enumerate(shifts)
    ]  # fmt: skip
    table = Calibration(
        conditions=Conditions(pargate="1", seed=0, precision="fp32", images="0" * 64),
        image_source="images",
        passes={family: PASSES[family] for family in FAMILIES},
        models=tuple(models),
    )
    broken = 0
    for number, model in enumerate(models):
        # The model is in the table, and is left out of its own trusted ones.
        trusted = Trusted("", FAMILIES, table.largest(checkpoint(number), FAMILIES))
        assert len(trusted.largest) == len(models) - 1
        ranks = [_ranked(trusted, model.shifts[family]) for family in FAMILIES]
        broken += any(at_most(rank.p_value, percent / 100) for rank in ranks)
        assert min(rank.p_value for rank in ranks) >= ranks[0].smallest
    assert broken <= percent / 100 * len(models) + 1e-9
