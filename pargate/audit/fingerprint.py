"""The fingerprint of a model's measurements: digests of all their inputs, taken without torch.

Two audits with the same fingerprint would measure the same, so the second reuses the saved measurements. The inputs
are the checkpoint with its configuration, the resolved policy, triggers, images, classes, the reference, the seed,
pargate, its plug-ins and the libraries that compute. Saved measurements that are missing, changed, incomplete, too old
for the policy or about other inputs are not used.
"""

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path

from pydantic import ValidationError

from pargate.audit.inventory import Entry
from pargate.audit.ledger import report_path
from pargate.core.environment import versions
from pargate.core.model import Checkpoint
from pargate.core.report import ScanReport
from pargate.errors import InputError, UnsafeCheckpoint
from pargate.files import digest_of, read_bytes
from pargate.images.classes import builtin_nouns
from pargate.images.opening import open_images
from pargate.judge.judging import Judging
from pargate.judge.rejudge import judge
from pargate.models.open import inspect
from pargate.policy.resolve import Resolved, refuse_expired, refuse_pairs, resolve
from pargate.scanning.images import class_names
from pargate.scanning.request import ScanRequest, ScanSettings
from pargate.scanning.signature import check as check_signature
from pargate.version import __version__


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The inputs of a model's measurements; `unsafe` if the checkpoint is refused."""

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
        """The policy that judges the model."""
        return self.request.policy


@dataclass(slots=True)
class Sources:
    """Digests of image sources, each computed once in an audit."""

    _known: dict[str, str] = field(default_factory=dict)

    def digest(self, source: str) -> str:
        """Return the hex SHA-256 of the images in `source`.

        Raises:
            InputError: the source is missing, or cannot be read.
        """
        if source not in self._known:
            self._known[source] = open_images(source).digest
        return self._known[source]


def examine(item: Entry, sources: Sources, *, today: date, started: str, seed: int) -> Fingerprint:
    """Return the fingerprint of a model's measurements.

    Raises:
        InputError, PolicyError, OperationalError: as `scan`.
    """
    policy = resolve(item.policy)
    refuse_expired(policy, today)
    refuse_pairs(policy)
    request = ScanRequest(
        item.source, Judging(policy, today), item.arch, item.images, item.classes, item.reference,
        settings=ScanSettings(seed=seed), started=started,
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
        inputs["reference"] = _identity(inspect(request.reference_source, arch=item.arch))
    try:
        model = inspect(item.source, arch=item.arch)
    except UnsafeCheckpoint as unsafe:
        return Fingerprint(request, inputs, "", unsafe)
    inputs["model"] = _identity(model)
    if (signature := check_signature(policy, model)) is not None:
        inputs["signature"] = digest_of(signature.model_dump())
    return Fingerprint(request, inputs, digest_of(inputs))


def _identity(found: Checkpoint) -> str:
    """Return the digests of weights and configuration."""
    return f"{found.sha256} {found.config_sha256}"


def saved(out: Path, fingerprint: Fingerprint, digest: str, today: date) -> ScanReport | str:
    """Return the saved report judged as of today, or why it is not used."""
    path = report_path(out, digest)
    try:
        content = read_bytes(path)
    except OSError:
        return "the saved report is missing"
    if hashlib.sha256(content).hexdigest() != digest:
        return "the saved report was changed"
    try:
        report = ScanReport.from_json(content)
    except ValidationError:
        return "the saved report cannot be read by this pargate"
    if not report.run.complete or any(m.stopped == "budget" for m in report.measurements):
        return "the saved run is incomplete"
    if report.model.sha256 != fingerprint.model or report.policy.sha256 != fingerprint.policy.sha256:
        return "the saved report has other inputs"
    age = age_of(report, today)
    most = fingerprint.policy.policy.evidence.max_age_days
    if age is None or age < -1:
        return "the saved report has no date, or one in the future"
    if most is not None and age > most:
        return f"the saved measurements are {age} days old, and the policy allows {most}"
    try:
        return judge(report, Judging(fingerprint.policy, today))
    except InputError as error:
        return error.message


def age_of(report: ScanReport, today: date) -> int | None:
    """Return the days since the run began, negative if it is in the future; None without a date."""
    try:
        moment = datetime.fromisoformat(report.run.started)
    except ValueError:
        return None
    return (today - (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).date()).days
