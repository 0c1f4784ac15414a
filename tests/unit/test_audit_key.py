"""What a measurement depends on: whatever a scan would read changes the key, and nothing else does."""

import json
import shutil
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import pytest

from pargate.audit.fingerprint import Fingerprint, Sources, age_of, examine, saved
from pargate.audit.history import ModelResult, entry_of
from pargate.audit.inventory import Entry, load
from pargate.core.audit import Linked, Standing
from pargate.core.report import ScanReport
from pargate.errors import InputError, PolicyError
from pargate.files import canonical_json

ROOT = Path(__file__).parents[2]
CLEAN = ROOT / "examples" / "models" / "clean"
REPORTS = ROOT / "tests" / "golden" / "reports"
TODAY = date(2026, 11, 25)
POLICY = """
pargate: 1
name: p
evidence: {max_age: 35d}
rules:
  - {id: a, probe: attack, triggers: [{kind: file, path: t.png, mode: patch}], max: {excess: 30pp}}
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A model with everything that its measurement depends on as files."""
    from PIL import Image

    shutil.copytree(CLEAN, tmp_path / "model")
    shutil.copytree(CLEAN, tmp_path / "parent")
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "t.png")
    Image.new("RGB", (64, 64), (0, 0, 255)).save(tmp_path / "a.png")
    (tmp_path / "carriers.csv").write_text("image,label\na.png,sea\nmissing.png,sky\n")
    (tmp_path / "classes.txt").write_text("sea\nsky\n")
    (tmp_path / "p.yaml").write_text(POLICY)
    model = {
        "name": "a", "model": "model", "policy": "p.yaml", "images": "carriers.csv", "classes": "classes.txt",
        "reference": "parent",
    }  # fmt: skip
    (tmp_path / "inventory.yaml").write_text(json.dumps({"inventory": "1", "models": [model]}))
    return tmp_path


def kept(folder: Path) -> Entry:
    return load(folder / "inventory.yaml").models[0]


def key(folder: Path, seed: int = 0) -> Fingerprint:
    return examine(kept(folder), Sources(), today=TODAY, started="2026-11-25T00:00:00+00:00", seed=seed)


def test_the_key_is_the_same_twice_and_another_for_another_seed(place: Path) -> None:
    assert key(place).key == key(place).key != key(place, seed=1).key


def painted(name: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        from PIL import Image

        Image.new("RGB", (8, 8), (1, 2, 3)).save(folder / name)

    return change


def edited(name: str, old: str, new: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return change


def flipped(name: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / name / "open_clip_model.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)

    return change


@pytest.mark.parametrize(
    ("change", "inputs"),
    [
        (flipped("model"), {"model"}),
        (flipped("parent"), {"reference"}),
        (edited("p.yaml", "30pp", "31pp"), {"policy"}),
        (painted("t.png"), {"triggers"}),
        (painted("a.png"), {"images"}),
        (painted("missing.png"), {"images"}),
        (edited("carriers.csv", "sky", "land"), {"images"}),
        (edited("classes.txt", "sky", "land"), {"classes"}),
    ],
    ids=["weights", "reference", "limit", "picture of a trigger", "carrier", "missing carrier", "table", "classes"],
)
def test_whatever_a_scan_reads_changes_its_own_part_of_the_key(
    change: Callable[[Path], object], inputs: set[str], place: Path
) -> None:
    before = key(place)
    change(place)
    after = key(place)
    assert after.key != before.key
    assert {name for name in after.inputs if after.inputs[name] != before.inputs[name]} == inputs


def test_a_file_that_nothing_reads_changes_nothing(place: Path) -> None:
    before = key(place).key
    (place / "model" / "notes.txt").write_text("x")
    (place / "b.png").write_bytes(b"")
    assert key(place).key == before


def test_an_expired_policy_is_an_error(place: Path) -> None:
    edited("p.yaml", "name: p", "name: p\nvalid_until: 2026-11-24")(place)
    with pytest.raises(PolicyError, match="was valid until"):
        key(place)


def test_carriers_that_are_gone_are_an_error(place: Path) -> None:
    (place / "carriers.csv").unlink()
    with pytest.raises(InputError, match="no such file or folder"):
        key(place)


# --- what is saved -----------------------------------------------------------------------------------


def test_saved_measurements_count_for_as_long_as_the_policy_lets_them(place: Path) -> None:
    import hashlib

    subject = key(place)
    report = ScanReport.from_json((REPORTS / "passing.json").read_bytes())
    model = report.model.model_copy(update={"sha256": subject.model})
    policy = report.policy.model_copy(update={"sha256": subject.policy.sha256})
    content = report.model_copy(update={"model": model, "policy": policy}).to_json().encode()
    digest = hashlib.sha256(content).hexdigest()
    (place / "reports").mkdir()
    (place / "reports" / f"{digest}.json").write_bytes(content)
    day = TODAY - timedelta(days=age_of(report, TODAY) or 0)
    assert isinstance(saved(place, subject, digest, day + timedelta(days=35)), ScanReport)
    assert "36 days old" in str(saved(place, subject, digest, day + timedelta(days=36)))
    assert "in the future" in str(saved(place, subject, digest, day - timedelta(days=2)))
    (place / "reports" / f"{digest}.json").write_bytes(content + b" ")
    assert saved(place, subject, digest, day) == "the saved report was changed"
    (place / "reports" / f"{digest}.json").unlink()
    assert saved(place, subject, digest, day) == "the saved report is missing"


@pytest.mark.parametrize("spoil", ["incomplete", "budget", "model", "policy"])
def test_a_saved_run_that_shows_less_is_not_reused(spoil: str, place: Path) -> None:
    import hashlib

    subject = key(place)
    data = json.loads((REPORTS / "passing.json").read_text())
    data["model"]["sha256"] = subject.model if spoil != "model" else "0" * 64
    data["policy"]["sha256"] = subject.policy.sha256 if spoil != "policy" else "0" * 64
    data["run"]["complete"] = spoil != "incomplete"
    if spoil == "budget":
        data["measurements"][-1]["stopped"] = "budget"
    content = json.dumps(data).encode()
    digest = hashlib.sha256(content).hexdigest()
    (place / "reports").mkdir()
    (place / "reports" / f"{digest}.json").write_bytes(content)
    day = date.fromisoformat(data["run"]["started"][:10])
    assert saved(place, subject, digest, day) in (
        "the saved run is incomplete",
        "the saved report has other inputs",
    )


# --- what cannot be judged ---------------------------------------------------------------------------


def test_an_error_with_names_that_are_no_text_still_fits_into_the_ledger(place: Path) -> None:
    error = InputError("no file \udcff" + "x" * 100_000)
    link = Linked(sequence=1, previous="0" * 64, audit="a", time="2026-11-25T00:00:00+00:00", as_of="2026-11-25")
    entry = entry_of(ModelResult(kept(place), None, error=error), "", link)
    assert (entry.standing, entry.exit_code) == (Standing.ERROR, 2)
    assert len(canonical_json(entry.model_dump(mode="json"))) < 10_000
