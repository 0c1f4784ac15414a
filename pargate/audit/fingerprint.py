"""What a model's measurements depend on, said in digests before anything is measured; without torch.

Two audits that find the same digests would measure the same, so the second need not. Everything counts that a scan
reads: the checkpoint with its configuration, the policy with all it extends, pictures that triggers are made of,
carriers, classes, the reference, the seed, pargate and the libraries that compute.
"""

from dataclasses import dataclass, field
from datetime import date

from pargate.audit.inventory import Kept
from pargate.core.environment import versions
from pargate.errors import UnsafeCheckpoint
from pargate.files import digest_of
from pargate.images.classes import builtin_nouns
from pargate.images.sources import source_digest
from pargate.models.model import Model
from pargate.models.open import inspect
from pargate.policy.resolve import Resolved, refuse_expired, resolve
from pargate.scanning.run import ScanRequest, class_names
from pargate.triggers import build
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
            self._known[source] = source_digest(source)
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
    inputs["triggers"] = digest_of(
        [
            trigger.digest
            for rule in policy.policy.rules
            for spec in rule.triggers
            for trigger in build(spec, policy.folder)
        ]
    )
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
