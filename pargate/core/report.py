"""The report: one JSON document per run, and the only input of renderers."""

from typing import Any, Literal

from pydantic import Field

from pargate.core.provenance import ProvenanceRecord
from pargate.core.results import Finding, Measurement, PairedCounts, Remark, Signature, Status, Verdict
from pargate.core.value import Value
from pargate.errors import visible_json

SCHEMA = "pargate/report/1"


class Tool(Value):
    """The tool that made the report."""

    name: Literal["pargate"] = "pargate"
    version: str
    libraries: dict[str, str] = Field(default_factory=dict)


class Run(Value):
    """Time, machine and settings of a run."""

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
    """Images that went through an image tower; cached blocks do not count."""
    cache: str = "off"
    """`off`, or the number of blocks of embeddings from the cache; write access to a cache allows forging them."""


class ModelInfo(Value):
    """The checkpoint that was judged; most fields are empty if it was refused as unsafe."""

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
    """The images that were scanned."""

    source: str
    listed: int
    read: int
    labelled: int
    captioned: int
    unreadable: tuple[tuple[str, str], ...] = ()
    """Key and reason."""
    duplicates: int = 0
    digest: str = ""
    """SHA-256 over the digests of the images that were read, in order."""
    source_digest: str = ""
    """SHA-256 over everything in the source, if the policy names a digest."""
    part: str = ""
    """Name of the split of the source, if it was split; `listed` counts the images of the split."""


class ClassesInfo(Value):
    """The classes of the zero-shot head."""

    source: str
    count: int
    templates: tuple[str, ...]
    digest: str


class SourceSpan(Value):
    """Place of a value in the text of a policy; lines and columns count from 1."""

    file: str
    """Path, or `builtin:NAME`."""
    line: int
    column: int
    end_column: int


class PolicyInfo(Value):
    """The policy as it was applied."""

    name: str
    source: str
    place: str = ""
    """Source in the form of `files.portable`."""
    sha256: str
    document: dict[str, Any]
    """The policy with all defaults filled in, for judging the report again."""
    origins: dict[str, SourceSpan] = {}
    """Place of each value, by its path: `confidence`, `rules.RULE`, `rules.RULE.max.excess`, `waivers.0`. Defaults
    have none."""


class Picture(Value):
    """An image without and with a trigger, and the model's predictions."""

    measurement: str
    """Id of the measurement that the image is an example of."""
    digest: str
    """SHA-256 of the image's encoded bytes."""
    label: str
    """True class; empty if unknown."""
    clean: str
    """PNG as base64, drawn from the decoded pixels, at most 128 px wide."""
    stamped: str
    clean_prediction: str
    stamped_prediction: str


class Coverage(Value):
    """Triggers that were probed, and what the scan cannot show."""

    probed: tuple[str, ...]
    limits: tuple[str, ...]


class Examined(Value):
    """One scan of a gate: everything that judging it again needs besides the policy."""

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
        """Return this scan as a report of its own; `report` gives the fields that all scans share."""
        own = {name: getattr(self, name) for name in Examined.model_fields}
        return report.model_copy(update={**own, "stages": (), "pictures": (), "remarks": ()})


class AccuracyDrop(Value):
    """Loss of clean accuracy through cleaning, on the same labelled images before and after."""

    pairs: PairedCounts
    """Correct predictions before cleaning (as the trigger's hits) and after (as the baseline's)."""
    limit: float
    limit_text: str
    """Limit as the policy writes it."""
    low: float
    high: float
    method: str
    status: Status


class Proof(Value):
    """Agreement of an exported graph with the checkpoint."""

    precision: str
    min_cosine: float
    """Lowest cosine over all compared inputs."""
    top1_same: int
    """Inputs to which both give the same class; ties count as the same."""
    top1_of: int
    passed: bool
    summary: str
    """One sentence."""


class Stage(Value):
    """One stage of a gate."""

    name: Literal["scan", "clean", "pick", "convert", "certify", "export", "rescan"]
    """Kind of stage: `scan` examines the original, `pick` a cleaned candidate, `certify` the checkpoint that ships,
    `rescan` its graphs."""
    attempt: int = 0
    """Step of the escalation, from 1; 0 for a stage that runs once."""
    seconds: float
    summary: str
    """One sentence."""
    examined: Examined | None = None
    """Scan of the stage; absent if the report itself holds it."""
    drop: AccuracyDrop | None = None
    record: ProvenanceRecord | None = None
    """Provenance, for a stage that made files."""
    proof: Proof | None = None


class ScanReport(Value):
    """Everything that rendering or judging again needs."""

    schema_: Literal["pargate/report/1"] = Field(alias="schema")
    tool: Tool
    run: Run
    subject: str = ""
    """Model that the command named, in the form of `files.portable`. In a gate, `model` is the model that ships."""
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
    """Sentences about the run."""
    remarks: tuple[Remark, ...] = ()
    """Remarks about the policy and its waivers."""
    pictures: tuple[Picture, ...] = ()
    """Example images for the worst triggers."""
    stages: tuple[Stage, ...] = ()
    """Stages of a gate, in order; the rest of the report is then its last scan, and the verdict covers all stages."""

    @property
    def signature(self) -> Signature | None:
        """Result of checking the signature of the model; None if no rule asks for one."""
        return next((m.facts.signature for m in self.measurements if m.facts is not None), None)

    @property
    def examined(self) -> Examined:
        """The scan that the report describes."""
        return Examined(**{name: getattr(self, name) for name in Examined.model_fields})

    def __repr__(self) -> str:
        """Return one line for notebooks and logs."""
        broken = sum(finding.status is Status.BREACH for finding in self.findings)
        return (
            f"<{type(self).__name__} {self.verdict.status}: {self.model.source} under {self.policy.name}, "
            f"{broken} of {len(self.findings)} comparisons broken, {self.images.read} images>"
        )

    __str__ = __repr__

    def to_json(self) -> str:
        """Return indented JSON text with a final newline; reading it gives an equal report."""
        return visible_json(self.model_dump_json(by_alias=True, indent=1)) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> "ScanReport":
        """Read a saved report.

        Raises:
            pydantic.ValidationError: the text is not a report, or its version is unknown.
        """
        return cls.model_validate_json(text)
