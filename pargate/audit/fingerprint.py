"""What a model's measurements depend on, as digests taken before anything is measured; without torch.

Two audits that find the same digests would measure the same, so the second takes the saved measurements. Everything
counts that a scan reads: the checkpoint with its configuration, the policy with all it extends, the pictures of
triggers, carriers, classes, the reference, the seed, pargate and the libraries that compute. Measurements are taken
only where the very bytes that the ledger names are still there; whatever is missing, changed, cut short, too old for
the policy or about something else is measured again.
"""

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path

from pydantic import ValidationError

from pargate.audit.inventory import Kept
from pargate.audit.ledger import report_path
from pargate.core.environment import versions
from pargate.core.report import ScanReport
from pargate.errors import InputError, UnsafeCheckpoint
from pargate.files import digest_of, read_bytes
from pargate.images.classes import builtin_nouns
from pargate.images.opening import open_images
from pargate.judge.rejudge import judge
from pargate.models.model import Model
from pargate.models.open import inspect
from pargate.policy.resolve import Resolved, refuse_expired, resolve
from pargate.scanning.run import ScanRequest, class_names
from pargate.version import __version__


@dataclass(frozen=True, slots=True)
class Subject:
    """A model ready to be measured, or refused as unsafe."""

    request: ScanRequest
    inputs: dict[str, str]
    key: str
    unsafe: UnsafeCheckpoint | None = None

    @property
    def model(self) -> str:
        """SHA-256 of the weights."""
        return self.inputs["model"].split()[0]

    @property
    def policy(self) -> Resolved:
        """What it is judged under."""
        return self.request.policy


@dataclass(slots=True)
class Sources:
    """Digests of image sources, each taken once an audit."""

    _known: dict[str, str] = field(default_factory=dict)

    def digest(self, source: str) -> str:
        """Hex SHA-256 of all that a scan reads from `source`.

        Raises:
            InputError: nothing is there, or it cannot be read.
        """
        if source not in self._known:
            self._known[source] = open_images(source).digest
        return self._known[source]


def examine(kept: Kept, sources: Sources, *, today: date, started: str, seed: int) -> Subject:
    """Everything that measuring the model depends on.

    Raises:
        InputError, PolicyError, OperationalError: as a scan would.
    """
    policy = resolve(kept.policy)
    refuse_expired(policy, today)
    request = ScanRequest(
        model=kept.source, policy=policy, started=started, arch=kept.arch, images=kept.images, classes=kept.classes,
        reference=kept.reference, seed=seed, today=today,
    )  # fmt: skip
    inputs = {"pargate": __version__, "seed": str(seed), "policy": policy.sha256}
    inputs |= {f"library {name}": number for name, number in versions().items()}
    triggers = [trigger for rule in policy.policy.read(policy.folder).rules for trigger in rule.parsed]
    inputs["triggers"] = digest_of([trigger.digest for trigger in triggers])
    inputs |= {f"plug-in {plugin.group} {plugin.name}": plugin.key for plugin in policy.policy.plugins}
    names, _ = class_names(request)
    inputs["classes"] = digest_of(names or builtin_nouns())
    inputs["images"] = sources.digest(request.image_source)
    if request.reference_source:
        inputs["reference"] = _identity(request.reference_source, kept.arch)
    try:
        inputs["model"] = _identity(kept.source, kept.arch)
    except UnsafeCheckpoint as unsafe:
        return Subject(request, inputs, "", unsafe)
    return Subject(request, inputs, digest_of(inputs))


def _identity(source: str | Model, arch: str | None) -> str:
    """Digests of weights and configuration, both in full."""
    found = inspect(source, arch=arch)
    return f"{found.sha256} {found.config_sha256}"


def saved(out: Path, subject: Subject, digest: str, today: date) -> ScanReport | str:
    """Saved measurements judged as of today, or why they are not used."""
    path = report_path(out, digest)
    try:
        content = read_bytes(path)
    except OSError:
        return "the saved report is not there"
    if hashlib.sha256(content).hexdigest() != digest:
        return "the saved report is not as it was written"
    try:
        report = ScanReport.from_json(content)
    except ValidationError:
        return "the saved report cannot be read by this pargate"
    if not report.run.complete or any(m.stopped == "budget" for m in report.measurements):
        return "the saved run was cut short"
    if report.model.sha256 != subject.model or report.policy.sha256 != subject.policy.sha256:
        return "the saved report is about something else"
    age = age_of(report, today)
    most = subject.policy.policy.evidence.max_age
    if age is None or age < -1:
        return "the saved report is not dated, or from the future"
    if most is not None and age > int(most.removesuffix("d")):
        return f"the saved measurements are {age} days old, and the policy lets them become {most}"
    try:
        return judge(report, subject.policy, today=today)
    except InputError as error:
        return error.message


def age_of(report: ScanReport, today: date) -> int | None:
    """Days since the measuring run began; negative for one in the future."""
    try:
        moment = datetime.fromisoformat(report.run.started)
    except ValueError:
        return None
    return (today - (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).date()).days
