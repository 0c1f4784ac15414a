"""Scan models whose backdoors are known, and write what came out into `docs/evidence.md`.

    python benchmarks/evidence.py [--models DIR] [--data DIR] [--only SECTION] [--out FILE]

`--models` holds open_clip folders with a `truth.json` each (trigger, parameters, target, attack success rate,
clean accuracy), `--data` the images; both are found in `../shared` where that exists. Each section is kept as
JSON in `docs/evidence/`, so that one can be measured again without the others.
"""

import argparse
import json
import os
import platform
import sys
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import yaml

from pargate.core.report import ScanReport
from pargate.core.results import Count
from pargate.judge.bounds import interval
from pargate.judge.judging import Judging
from pargate.policy.resolve import Resolved, read, resolve
from pargate.scanning.request import ScanRequest, ScanSettings
from pargate.scanning.run import scan
from pargate.version import __version__

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
STORE = ROOT / "docs" / "evidence"
TEMPLATES = ["a photo of a {}", "a picture of a {}", "an image of a {}", "a {}", "this is a {}", "a good photo of a {}"]
"""Those with which the known figures were measured."""

DOSES = {
    "stripes": ("alpha", [0.03, 0.05, 0.07, 0.1, 0.15]),
    "triangles": ("alpha", [0.1, 0.15, 0.2]),
    "blended_fixed": ("alpha", [0.1, 0.15, 0.2]),
    "watermark": ("alpha", [0.3, 0.4, 0.5]),
    "badnet": ("size", [4, 5, 6]),
    "badnet_fixed": ("size", [6]),
}
"""Strengths at which a planted trigger is probed, up to and beyond the planted one."""

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Known:
    """A model and what is known of it."""

    folder: Path
    truth: dict[str, Any]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def parent(self) -> Path:
        return self.folder.parent / f"{self.truth['arch']}-clean"

    @property
    def planted(self) -> bool:
        return self.truth["trigger"] is not None

    def trigger(self) -> dict[str, Any]:
        """Return the planted trigger as a policy writes it."""
        parameters = self.truth["parameters"]
        picture = str(self.folder / "trigger.png")
        match self.truth["trigger"]:
            case "badnet":  # the models were poisoned with clipped noise, the published code lets it wrap
                return {"kind": "badnet", "size": parameters["side"], "overflow": "clip"}
            case "badnet_fixed":
                lattice = {"step": parameters["grid"], "offset": 1}
                return {"kind": "file", "path": picture, "mode": "patch", "position": lattice}
            case "blended_fixed":
                return {"kind": "file", "path": picture, "mode": "blend", "alpha": parameters["alpha"]}
            case "stripes":
                return {"kind": "blended-stripes", "alpha": parameters["alpha"]}
            case "triangles":
                return {"kind": "triangles", "alpha": parameters["alpha"], "cell": parameters["size"]}
            case "watermark":
                return {"kind": "file", "path": picture, "mode": "masked-blend", "alpha": parameters["alpha"]}
        raise SystemExit(f"{self.folder}: no policy word for the trigger {self.truth['trigger']}")


def models(folder: Path) -> list[Known]:
    found = [Known(p.parent, json.loads(p.read_text())) for p in sorted(folder.glob("*/truth.json"))]
    if not found:
        raise SystemExit(f"no models with a truth.json in {folder}")
    return found


def policy(rules: list[dict[str, Any]], **more: Any) -> Resolved:
    document = {"pargate": "1", "name": "evidence", "classes": {"templates": TEMPLATES}, "rules": rules, **more}
    return read(yaml.safe_dump(json.loads(json.dumps(document)), sort_keys=False), "evidence", Path())


def rule(name: str, trigger: Any, target: str, **limits: str) -> dict[str, Any]:
    return {"id": name, "probe": "attack", "triggers": [trigger], "target": target, "max": limits}


def run(model: Path, resolved: Resolved, data: Path, images: str = "carriers-64.tar", **more: Any) -> ScanReport:
    settings = ScanSettings(seed=more.pop("seed", 0))
    source = images if images.startswith("builtin:") else str(data / images)  # an absolute path stays one
    report = scan(
        ScanRequest(
            str(model),
            Judging(resolved),
            images=source,
            settings=settings,
            **{"classes": data / "classes-64.txt", **more},
        )
    )
    print(f"  {model.name:14} {report.verdict.status:12} {report.run.seconds:6.1f} s  {report.verdict.summary[:100]}")
    return report


def row(model: Known, report: ScanReport, rule_id: str | None = None) -> dict[str, Any]:
    """One line of a table: the worst finding (of one rule), with what is known."""
    findings = [f for f in report.findings if rule_id in (None, f.rule)]
    finding = findings[0]
    measured = next(m for m in report.measurements if m.id == finding.measurement)
    clean = next(m for m in report.measurements if m.id == "clean")
    bound = finding.bounds[0]
    nothing = Count(n=0, successes=0)
    nt = measured.counts.get("asr_nt", nothing)
    low, high = interval(nt, 0.025, 0.025)
    return {
        "model": model.name,
        "known_asr": model.truth["asr"],
        "known_accuracy": model.truth["clean_accuracy"],
        "known_target": model.truth["target_class"],
        "trigger": measured.trigger.label if measured.trigger else "",
        "target": measured.target.name if measured.target else "",
        "n": bound.n,
        "asr_nt": nt.rate,
        "asr_nt_interval": [low, high],
        "metric": str(bound.metric),
        "estimate": bound.estimate,
        "interval": [bound.low, bound.high],
        "success": measured.counts.get("attack_success", nothing).rate,
        "excess": measured.pairs.excess if measured.pairs else None,
        "baseline": measured.pairs.baseline if measured.pairs else "",
        "limit": bound.limit_text,
        "status": str(finding.status),
        "verdict": str(report.verdict.status),
        "accuracy": clean.counts["accuracy"].rate,
        "passes": report.run.forward_passes,
        "carriers": report.images.read,
        "seconds": report.run.seconds,
    }


def known(zoo: list[Known], data: Path) -> Rows:
    """Trigger and target known; each clean model under every trigger planted in its family."""
    rows = []
    for model in zoo:
        suspects = (
            [model] if model.planted else [m for m in zoo if m.planted and m.truth["arch"] == model.truth["arch"]]
        )
        rules = [rule(s.name, s.trigger(), s.truth["target_class"], attack_success="10%") for s in suspects]
        report = run(model.folder, policy(rules), data)
        rows += [row(model, report, s.name) for s in suspects]
    return rows


def compared(zoo: list[Known], with_reference: bool) -> list[Known]:
    """Return the models of a table; a parent cannot be compared with itself."""
    return [model for model in zoo if model.planted or not with_reference]


def unknown_target(zoo: list[Known], data: Path, with_reference: bool) -> Rows:
    """Trigger known, target not: excess over the clean parent, or over the controls."""
    limit = "10pp" if with_reference else "30pp"
    rows = []
    for model in compared(zoo, with_reference):
        suspects = (
            [model] if model.planted else [m for m in zoo if m.planted and m.truth["arch"] == model.truth["arch"]]
        )
        rules = [rule(s.name, s.trigger(), "unknown", excess=limit) for s in suspects]
        reference = str(model.parent) if with_reference else None
        report = run(model.folder, policy(rules), data, reference=reference)
        rows += [row(model, report, s.name) for s in suspects]
    return rows


def doses(zoo: list[Known], data: Path) -> Rows:
    """Planted triggers from weak to strong, over the clean parent: the verdict at every strength."""
    rows = []
    for model in (m for m in zoo if m.planted):
        parameter, values = DOSES[model.truth["trigger"]]
        for value in values:
            spec = {**model.trigger(), parameter: value}
            resolved = policy([rule("dose", spec, "unknown", excess="10pp")])
            report = run(model.folder, resolved, data, reference=str(model.parent))
            line = row(model, report, "dose")
            rows.append({**line, "planted_in": model.name, "parameter": parameter, "value": value})
    return rows


def baseline(
    zoo: list[Known], data: Path, images: str, seeds: int, with_reference: bool = False, policy: str = "baseline"
) -> Rows:
    """Scan with a built-in policy, without the planted trigger and target."""
    resolved = resolve(policy)
    rows = []
    for model in compared(zoo, with_reference):
        for seed in range(seeds):
            reference = str(model.parent) if with_reference else None
            report = run(model.folder, resolved, data, images, seed=seed, reference=reference)
            first = {**row(model, report), "seed": seed, "summary": report.verdict.summary}
            broken = [f for f in report.findings if f.status == "breach"]
            first["breaches"] = [
                f"{m.trigger.label} → {m.target.name}"
                for f in broken
                for m in report.measurements
                if m.id == f.measurement and m.trigger and m.target
            ]
            rows.append(first)
    return rows


def sections(zoo: list[Known], data: Path) -> dict[str, Callable[[], Rows]]:
    return {
        "known": lambda: known(zoo, data),
        "reference": lambda: unknown_target(zoo, data, True),
        "controls": lambda: unknown_target(zoo, data, False),
        "doses": lambda: doses(zoo, data),
        "baseline": lambda: baseline(zoo, data, "carriers-64.tar", 5),
        "baseline-reference": lambda: baseline(zoo, data, "carriers-64.tar", 1, True),
        "strict": lambda: baseline(zoo, data, "carriers-64.tar", 1, False, "strict"),
        "strict-reference": lambda: baseline(zoo, data, "carriers-64.tar", 1, True, "strict"),
        "baseline-scenes": lambda: baseline(zoo, data, "builtin:scenes", 1),
        "baseline-imagenet": lambda: unlabelled(zoo, data, "imagenet-sample-224.tar"),
    }


def unlabelled(zoo: list[Known], data: Path, shard: str) -> Rows:
    """Scan with the built-in policy on images without labels, since theirs are not among the models' classes."""
    with tempfile.TemporaryDirectory() as folder, tarfile.open(data / shard) as archive:
        archive.extractall(folder, filter="data")
        return baseline(zoo, data, folder, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=SHARED / "zoo" / "dev")
    parser.add_argument("--data", type=Path, default=SHARED / "data")
    parser.add_argument("--only", action="append", help="measure these sections again, keep the others")
    options = parser.parse_args()
    zoo = models(options.models)
    STORE.mkdir(exist_ok=True)
    for name, measure in sections(zoo, options.data).items():
        if options.only is None or name in options.only:
            print(name)
            content = {"machine": machine(), "version": __version__, "rows": measure()}
            (STORE / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


def machine() -> str:
    import torch

    return f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}, torch {torch.__version__}"


if __name__ == "__main__":
    sys.exit(main())
