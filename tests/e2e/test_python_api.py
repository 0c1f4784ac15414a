"""The page about the Python API is true: its examples run, one after another, in a plain script."""

import json
import re
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pargate
from pargate import api
from pargate.errors import InputError
from pargate.triggers import parse

ROOT = Path(__file__).parents[2]
POISONED = ROOT / "examples" / "models" / "poisoned"


def test_the_examples_of_the_page_run_from_standard_input() -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    assert code.count("pargate.") >= 5
    done = subprocess.run(
        [sys.executable, "-"], input=code, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout.startswith("<Report pass: examples/models/clean under python, 0 of 1 comparisons broken")


def test_a_poisoned_model_fails_and_the_report_is_one_line_and_a_page() -> None:
    triangles = {"kind": "triangles", "scale": "proportional"}
    rules = [{"id": "overlay", "probe": "attack", "triggers": [triangles], "max": {"excess": "30pp"}}]
    report = pargate.scan(POISONED, {"rules": rules})
    assert report.verdict.status == "fail"
    assert repr(report) == str(report) and "\n" not in repr(report) and len(repr(report)) < 200
    assert "<iframe srcdoc=" in report._repr_html_() and "&lt;html" in report._repr_html_()
    read = pargate.Report.from_json(report.to_json())
    assert read.to_json() == report.to_json()
    lenient = {"rules": [{**rules[0], "max": {"excess": "100pp"}}]}
    assert pargate.rejudge(read, lenient, today=date(2030, 1, 1)).verdict.status == "pass"


def test_a_policy_has_a_name_a_path_or_a_content(tmp_path: Path) -> None:
    named = api._policy("baseline", None)
    (tmp_path / "p.yaml").write_text("pargate: 1\nname: mine\nextends: builtin:baseline\n")
    assert api._policy(tmp_path / "p.yaml", None).policy.rules == named.policy.rules
    listed = api._policy("baseline", ["cat", "dog"])
    assert listed.policy.classes.names == ("cat", "dog") and listed.policy.rules == named.policy.rules


def test_a_stamp_is_that_of_the_trigger_and_the_same_for_the_same_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    one = pargate.stamp("yellow-patch", image)
    assert one.shape == image.shape and (one != image).any()
    assert (pargate.stamp(parse("yellow-patch")[0], np.stack([image, image])) == one).all()


@pytest.mark.parametrize(
    ("trigger", "images", "said"),
    [
        ("bagnet", np.zeros((4, 4, 3), np.uint8), "unknown trigger 'bagnet'. Did you mean 'badnet'?"),
        ({"kind": "sig", "delta": [1, 2]}, np.zeros((4, 4, 3), np.uint8), "is 2 triggers"),
        ("badnet", np.zeros((4, 4, 3)), "images are float64 [4, 4, 3]"),
        ("badnet", np.zeros((4, 4), np.uint8), "images are uint8 [4, 4]"),
    ],
)
def test_what_cannot_be_stamped_is_refused(trigger: object, images: np.ndarray, said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        pargate.stamp(trigger, images)  # type: ignore[arg-type]  # on purpose


def test_attack_success_counts_eligible_images_alone() -> None:
    # Shows the target; is taken for it anyway; moved; not moved; moved, unlabelled.
    found = pargate.attack_success([1, 1, 1, 0, 1], 1, clean=[0, 1, 0, 0, 2], labels=[1, 0, 0, 0, -1])
    assert (found.successes, found.n) == (2, 3) and found.low <= 2 / 3 <= found.high
    assert pargate.attack_success([], 1, clean=[]).rate is None
    with pytest.raises(InputError, match="predictions of"):
        pargate.attack_success([1, 2], 1, clean=[1])
    with pytest.raises(InputError, match="confidence"):
        pargate.attack_success([1], 1, clean=[0], confidence=99)


def network() -> tuple[Any, dict[str, Any]]:
    """The poisoned sample model, built by open_clip, and its configuration."""
    import open_clip
    from safetensors.torch import load_file

    document = json.loads((POISONED / "open_clip_config.json").read_text())
    found = open_clip.CLIP(**document["model_cfg"]).eval()
    found.load_state_dict(load_file(POISONED / "open_clip_model.safetensors"))
    return found, document["preprocess_cfg"]


class Wrapped:
    """No torch module, only the two methods."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def encode_image(self, images: Any) -> Any:
        return self._inner.encode_image(images)

    def encode_text(self, tokens: Any) -> Any:
        return self._inner.encode_text(tokens)


def test_a_model_in_memory_is_measured_as_its_file_is() -> None:
    import open_clip
    from open_clip.transform import image_transform

    found, given = network()
    rules = [
        {"id": "overlay", "probe": "attack", "triggers": [{"kind": "triangles", "scale": "proportional"}],
         "max": {"excess": "30pp"}},
        {"id": "format", "probe": "file", "allow": {"formats": "safetensors"}},
    ]  # fmt: skip
    from_file = pargate.scan(POISONED, {"rules": rules}, precision="fp32")
    transform = image_transform((64, 64), is_train=False, mean=given["mean"], std=given["std"])
    length = int(found.context_length)
    for model, preprocess in ((found, transform), (found, {"size": 64, **given}), (Wrapped(found), transform)):
        report = pargate.scan(
            model, {"rules": rules}, preprocess=preprocess,
            tokenizer=lambda texts: open_clip.tokenize(texts, context_length=length),
        )  # fmt: skip
        assert report.verdict.status == "fail" and {f.rule for f in report.findings} == {"overlay"}
        assert [m.counts for m in report.measurements] == [m.counts for m in from_file.measurements if m.counts]
        assert any("rules about its file were left out: format" in notice for notice in report.notices)


def test_a_model_in_memory_that_cannot_be_meant_is_refused() -> None:
    found, given = network()
    rule = {"size": 64, **given}
    with pytest.raises(InputError, match="has no encode_image and no encode_text"):
        pargate.scan(object(), "baseline")
    with pytest.raises(InputError, match="nothing says how images are prepared"):
        pargate.scan(found, "baseline")
    with pytest.raises(InputError, match="preprocess does more than"):
        pargate.scan(
            found, "baseline", preprocess=lambda image: np.asarray(image.resize((64, 64))).transpose(2, 0, 1) ** 2
        )
    with pytest.raises(InputError, match="go with a model in memory"):
        pargate.scan(POISONED, "baseline", preprocess=rule)
    with pytest.raises(InputError, match="cannot be scanned in bf16"):
        pargate.scan(found, "baseline", preprocess=rule, precision="bf16")
    with pytest.raises(InputError, match="about the weights file"):
        only = {"rules": [{"id": "format", "probe": "file", "allow": {"formats": "safetensors"}}]}
        pargate.scan(found, only, preprocess=rule)
    with pytest.raises(InputError, match="in training mode"):
        pargate.scan(found.train(), "baseline", preprocess=rule)
