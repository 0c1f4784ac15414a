"""`pargate calibrate`, and rules that rank a model by its table, by the real command."""

import hashlib
import json
from pathlib import Path

import pytest
from conftest import MODELS, Command, Ended

RULE = """
pargate: 1
name: ranked
budget: {images: 256}
rules:
  - id: hidden
    probe: search
    families: [blend]
    calibration: {path: t.json, digest: 'sha256:DIGEST'}
    max: {excess: 30pp}
    min: {p_value: 5%}
"""


def one_message(ended: Ended, code: int, *words: str) -> None:
    assert ended.code == code, ended.err
    assert ended.err.count("pargate: ") == 1 and "Traceback" not in ended.err, ended.err
    for word in words:
        assert word in ended.err


def pinned(place: Path) -> None:
    (place / "p.yaml").write_text(RULE.replace("DIGEST", hashlib.sha256((place / "t.json").read_bytes()).hexdigest()))


@pytest.mark.nightly
def test_a_planted_model_is_ranked_among_too_few_and_not_decided(place: Path, warm: Command) -> None:
    made = warm("calibrate", MODELS / "clean", "--families", "blend", "--out", "t.json")
    assert made.code == 0, made.err
    assert "1 model, the smallest p-value is 50.0%" in made.err
    table = json.loads((place / "t.json").read_text())
    pinned(place)
    digest = hashlib.sha256((place / "t.json").read_bytes()).hexdigest()
    assert f"calibration: {{path: t.json, digest: 'sha256:{digest}'}}" in made.err
    ended = warm("scan", MODELS / "poisoned", "-p", "p.yaml", "-o", "json=r.json")
    assert ended.code == 3, ended.err
    report = json.loads((place / "r.json").read_text())
    (finding,) = report["findings"]
    assert finding["status"] == "open" and "which needs 19 of them" in finding["message"]
    found = report["measurements"][1]["searched"]
    (trusted,) = table["models"]
    assert found["images"] == table["conditions"]["images"]
    assert found["ranked"]["as_high"] == int(trusted["shifts"]["blend"] >= found["shift"])
    one_message(warm("scan", MODELS / "poisoned", "-p", "p.yaml", "--seed", "1"), 2, "made with seed 0 instead of 1")
    (place / "t.json").write_text(json.dumps(table))
    one_message(warm("scan", MODELS / "poisoned", "-p", "p.yaml"), 2, "was altered or is another one", "restore it")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--families", "blnd"], "Did you mean 'blend'?"),
        (["--families", "blend,blend"], "is named twice"),
        (["--families", ""], "--families is empty"),
        ([MODELS / "clean", "--families", "blend"], "have the same weights"),
        (["--out", "no/such/t.json"], "no/such"),
    ],
)
def test_wrong_input_is_one_message(light: Command, arguments: list[str], said: str) -> None:
    one_message(light("calibrate", MODELS / "clean", "--out", "t.json", *arguments), 2, said)
