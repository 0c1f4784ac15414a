"""The report: one JSON document per run, and the only thing that renderers read."""

from typing import Any, Literal

from pydantic import Field

from pargate.core.provenance import ProvenanceRecord
from pargate.core.results import Finding, Measurement, Pairs, Remark, Status, Verdict
from pargate.core.value import Value
from pargate.errors import visible_json

SCHEMA = "pargate/report/1"


class Tool(Value):
    """What made the report."""

    name: Literal["pargate"] = "pargate"
    version: str
    libraries: dict[str, str] = Field(default_factory=dict)


class Run(Value):
    """When, where and how it ran."""

    id: str
    started: str
    """RFC 3339, UTC."""
    seconds: float
    host: str
    """Kind of machine: system, architecture, processors; no name."""
    device: str
    precision: str
    precision_note: str = ""
    threads: int
    seed: int
    complete: bool = True
    """False for the report of a run that was interrupted."""
    forward_passes: int = 0
    """Images that went through an image tower, cached blocks not counted."""
    cache: str = "off"
    """`off`, or how many blocks of vectors came from it; whoever can write to a cache can forge them."""


class ModelInfo(Value):
    """The checkpoint that was judged; of one that was refused as unsafe little more than the source is known."""

    source: str
    sha256: str
    format: str
    architecture: str = ""
    parameters: int = 0
    size_bytes: int
    image_size: tuple[int, int] = (0, 0)
    preprocessing: dict[str, Any] = {}
    activation: str = ""
    activation_note: str = ""
    backend: str = ""


class ImagesInfo(Value):
    """The carriers."""

    source: str
    listed: int
    read: int
    labelled: int
    captioned: int
    unreadable: tuple[tuple[str, str], ...] = ()
    """Key and reason."""
    duplicates: int = 0
    digest: str = ""
    """SHA-256 over the digests of the pictures that were read, in order."""
    source_digest: str = ""
    """SHA-256 over everything in the source, where the policy names one."""
    part: str = ""
    """Which of the disjoint parts of the source these are, where it was divided; `listed` is of the part."""


class ClassesInfo(Value):
    """The classes of the zero-shot head."""

    source: str
    count: int
    templates: tuple[str, ...]
    digest: str


class Place(Value):
    """Where a value of the policy was written; lines and columns count from 1."""

    file: str
    """As it was found: a path, or `builtin:NAME`."""
    line: int
    column: int
    end_column: int


class PolicyInfo(Value):
    """The policy as it was applied."""

    name: str
    source: str
    place: str = ""
    """The source as `files.portable` writes it."""
    sha256: str
    document: dict[str, Any]
    """With all defaults filled in: what a later judge reads."""
    origins: dict[str, Place] = {}
    """Where each value was written, by its path: `confidence`, `rules.RULE`, `rules.RULE.max.excess`,
    `waivers.0`. A value without one is a default."""


class Picture(Value):
    """A carrier without and with a trigger, and what the model took it for."""

    measurement: str
    """Id of the measurement that it is an example of."""
    digest: str
    """SHA-256 of the carrier's encoded bytes."""
    label: str
    """Its true class, empty where that is not known."""
    clean: str
    """PNG as base64, drawn again from the decoded pixels, at most 128 px wide."""
    stamped: str
    clean_prediction: str
    stamped_prediction: str


class Coverage(Value):
    """What was probed, and what this scan cannot show."""

    probed: tuple[str, ...]
    limits: tuple[str, ...]


class Examined(Value):
    """One scan of a gate: all that a later judge needs besides the policy."""

    run: Run
    model: ModelInfo
    reference: ModelInfo | None = None
    images: ImagesInfo
    classes: ClassesInfo
    measurements: tuple[Measurement, ...]
    findings: tuple[Finding, ...]
    verdict: Verdict
    notices: tuple[str, ...] = ()

    def within(self, report: "ScanReport") -> "ScanReport":
        """This scan as a report of its own; what is the same for all scans is taken from `report`."""
        own = {name: getattr(self, name) for name in Examined.model_fields}
        return report.model_copy(update={**own, "stages": (), "pictures": (), "remarks": ()})


class AccuracyDrop(Value):
    """What cleaning cost, on the same labelled carriers before and after."""

    pairs: Pairs
    """Right before (in the place of the trigger's hits) and right after (of the baseline's)."""
    limit: float
    limit_text: str
    """As the policy writes it."""
    low: float
    high: float
    method: str
    status: Status


class Proof(Value):
    """How alike an exported graph and the checkpoint are."""

    precision: str
    min_cosine: float
    """Over all compared inputs."""
    top1_same: int
    """Inputs that both see as the same class, those that are a tie counted as the same."""
    top1_of: int
    passed: bool
    summary: str
    """One sentence."""


class Stage(Value):
    """One step of a gate, in the order in which they were taken."""

    name: Literal["scan", "clean", "pick", "convert", "certify", "export", "rescan"]
    """`scan` is of the original, `pick` of a cleaned candidate, `certify` of the checkpoint that ships, `rescan` of
    its graphs."""
    attempt: int = 0
    """Which rung of the ladder, from 1; 0 for what happens once."""
    seconds: float
    summary: str
    """One sentence."""
    examined: Examined | None = None
    """Of a scan; absent for the one that the report itself is of."""
    drop: AccuracyDrop | None = None
    record: ProvenanceRecord | None = None
    """Of a step that made files."""
    proof: Proof | None = None


class ScanReport(Value):
    """Everything a renderer or a later judge needs."""

    schema_: Literal["pargate/report/1"] = Field(alias="schema")
    tool: Tool
    run: Run
    subject: str = ""
    """The model that the command names, as `files.portable` writes it. Of a gate `model` is what was made of it."""
    model: ModelInfo
    reference: ModelInfo | None = None
    images: ImagesInfo
    classes: ClassesInfo
    policy: PolicyInfo
    measurements: tuple[Measurement, ...]
    findings: tuple[Finding, ...]
    verdict: Verdict
    coverage: Coverage
    notices: tuple[str, ...] = ()
    """About the run."""
    remarks: tuple[Remark, ...] = ()
    """About the policy and its waivers."""
    pictures: tuple[Picture, ...] = ()
    """Examples of what the worst triggers do."""
    stages: tuple[Stage, ...] = ()
    """Of a gate; the rest of the report is then of its last scan, and the verdict of all of them."""

    @property
    def examined(self) -> Examined:
        """The scan that the report is of."""
        return Examined(**{name: getattr(self, name) for name in Examined.model_fields})

    def __repr__(self) -> str:
        """One line: what a notebook or a log shows."""
        broken = sum(finding.status is Status.BREACH for finding in self.findings)
        return (
            f"<{type(self).__name__} {self.verdict.status}: {self.model.source} under {self.policy.name}, "
            f"{broken} of {len(self.findings)} comparisons broken, {self.images.read} images>"
        )

    __str__ = __repr__

    def to_json(self) -> str:
        """Indented JSON text with a final newline; reading it back gives an equal report."""
        return visible_json(self.model_dump_json(by_alias=True, indent=1)) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> "ScanReport":
        """Read a saved report.

        Raises:
            pydantic.ValidationError: the text is no report of a version that this pargate reads.
        """
        return cls.model_validate_json(text)
