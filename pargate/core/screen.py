"""The report of a screening, and the marks that a person gives to suspects."""

from typing import Annotated, Literal

from pydantic import Field

from pargate.core.results import Count
from pargate.core.value import Value
from pargate.errors import visible_json

SCHEMA = "pargate/screen/1"
MARKS_SCHEMA = "pargate/marks/1"

Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Mark = Literal["poisoned", "fine"]


def refused(largest: float, rate: float) -> str:
    """Return why a limit on the share of suspects says nothing at a rate of false positives; empty if it does."""
    if largest > rate:
        return ""
    return (
        f"{100 * largest:.4g}% is not above the false positives of {100 * rate:.4g}%, so that an honest set would fail"
    )


class JudgedBy(Value):
    """The rule of a policy that judges a screening."""

    policy: str
    """Name of the policy."""
    policy_sha256: Hex
    """Digest of the resolved policy."""
    rule: str
    """Id of the rule."""
    help: str = ""
    """Advice of the rule to the reader of a breach."""
    owners: tuple[str, ...] = ()
    """Contacts of the policy."""
    overrides: tuple[str, ...] = ()
    """Values that are looser than in an extended policy, with the reasons given."""


class Suspect(Value):
    """One suspicious pair."""

    number: int
    """Number of the pair in its source, from 0."""
    key: str
    """Name of the pair within its source."""
    caption: str
    """The caption, cut where it is long."""
    score: float
    """The combined score, from 0 to 1."""
    ranks: dict[str, float]
    """Share of the population that each detector finds less suspicious, by the detector's name."""
    group: int | None
    """Index in `groups` of the report."""


class SuspectGroup(Value):
    """Suspects that share something."""

    shares: Literal["words", "image"]
    """What they share: words of the caption, or images that the model finds nearly the same."""
    name: str
    """The shared words, or a description of the images."""
    size: int
    """Number of suspects in the group."""
    captions: Count | None
    """All pairs of the set, and those whose captions have the words; None for groups by image."""


class ScreenReport(Value):
    """One screening: how the pairs were scored, the suspects, worst first, and the groups that they form."""

    schema_: Literal["pargate/screen/1"] = Field(alias="schema")
    pargate: str
    libraries: dict[str, str]
    started: str
    """Start of the run, RFC 3339, UTC."""
    pairs: str
    pairs_sha256: Hex
    count: int
    """Number of pairs in the set."""
    unreadable: tuple[tuple[str, str], ...]
    """Key and reason of each pair whose image cannot be read; they were not scored."""
    model: str
    model_sha256: Hex
    precision: str
    """Precision of the image tower, with the reason."""
    recognised: Count
    """Pairs of a sample whose image is nearer to its own caption than to that of another pair."""
    trusted: str | None
    """Source of trusted pairs, which are the population of ranks and threshold; None for the set itself."""
    trusted_sha256: Hex | None
    calibration: int
    """Number of pairs of the population; of trusted pairs, those that are no neighbours."""
    neighbours: int
    """Number of neighbours, k."""
    batch: int
    """Number of pairs in a random batch, among which neighbours are searched."""
    rounds: int
    """Number of random batches; scores are means over them."""
    recall: float | None
    """Share of the true neighbours that an approximate search found; None for an exact search."""
    seed: int
    false_positives: float
    """Largest expected share of suspects among honest pairs like the trusted ones; without such pairs, the share of the
    set that is listed."""
    largest: float | None
    """Largest accepted share of suspects and unreadable pairs; None without a gate."""
    judged_by: JudgedBy | None = None
    """The rule that sets this limit; None if the user gave it."""
    found: tuple[str, ...] = ()
    """Labels of the recovered triggers that pairs were compared with."""
    suspects: tuple[Suspect, ...]
    groups: tuple[SuspectGroup, ...]
    reviewed: dict[str, Mark] = Field(default_factory=dict)
    """Marks of a person, by key; empty before a review."""
    words: tuple[str, ...] = ()
    """Names of the groups of which a person left out all pairs, suspects or not, whose captions have the words."""
    with_words: tuple[str, ...] = ()
    """Keys of these pairs."""

    @property
    def left_out(self) -> list[str]:
        """Keys of the pairs that the lists of what is left omit, each once.

        These are unreadable ones, and suspects and pairs with left-out words unless marked as fine.
        """
        unusual = (*(suspect.key for suspect in self.suspects), *self.with_words)
        keys = (*(key for key, _ in self.unreadable), *(key for key in unusual if self.reviewed.get(key) != "fine"))
        return list(dict.fromkeys(keys))

    @property
    def share(self) -> float:
        """Share of the set that is left out."""
        return len(self.left_out) / self.count

    @property
    def passed(self) -> bool:
        """Whether no gate was asked for, or the share of suspects is within it."""
        return self.largest is None or self.share <= self.largest

    def to_json(self) -> str:
        """Return indented JSON text with a final newline."""
        return visible_json(self.model_dump_json(by_alias=True, indent=1)) + "\n"


class Marks(Value):
    """The marks of a review, as the contact sheet saves them."""

    schema_: Literal["pargate/marks/1"] = Field(alias="schema")
    pairs_sha256: Hex
    """Digest of the pairs that were reviewed."""
    marks: dict[str, Mark]
    """Marks by key; a suspect without one stays a suspect."""
    words: tuple[str, ...] = ()
    """Names of groups of which all pairs, suspects or not, are left out."""
