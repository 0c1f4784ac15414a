"""Files of which two readers get two models, and files that run code: the real command ends with 1."""

import importlib
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import MODELS, ROOT, Command

CLEAN = MODELS / "clean"


def test_every_form_of_two_models_ends_with_1(light: Command, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    readers = importlib.import_module("benchmarks.readers")
    clean, poisoned = ({"a": np.full((16, 8), value, np.float32)} for value in (1, 2))
    for form, files in readers.forms(clean, poisoned, "ran").items():
        folder = place / form.replace(" ", "-")
        folder.mkdir()
        shutil.copy(CLEAN / "open_clip_config.json", folder)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        ended = light("inspect", folder.name)
        assert ended.code == 1, form
        assert ended.err.startswith(f"pargate: {folder.name}") and "Traceback" not in ended.said
    assert not (place / "ran").exists()


@pytest.mark.parametrize("kind", ["a checkpoint", "protocol 0", "protocol 4", "a pickle in a zip"])
def test_inspect_finds_code_whatever_the_other_arguments(light: Command, place: Path, kind: str) -> None:
    program = b"cos\nsystem\n(S'touch ran'\ntR."
    if kind in ("a checkpoint", "a pickle in a zip"):
        with zipfile.ZipFile(place / "bare.pt", "w") as archive:
            archive.writestr("model/data.pkl" if kind == "a checkpoint" else "evil.pkl", program)
    else:
        (place / "bare.pt").write_bytes(program if kind == "protocol 0" else b"\x80\x04" + program)
    for arguments in (
        ["bare.pt"], [CLEAN, "bare.pt"], ["bare.pt", CLEAN / "open_clip_model.safetensors", "absent"],
        ["--arch", "ViT-B-32", "bare.pt"], ["--arch", "none", "bare.pt"],
    ):  # fmt: skip
        ended = light("inspect", *arguments)
        assert ended.code == 1, ended.err
        assert "os.system" in ended.said
    assert not (place / "ran").exists()
