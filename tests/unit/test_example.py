"""The example that lies beside the graphs: alone, without torch, and with the scanner's own pixels."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from graph_models import NAMES, TEMPLATES, exported, opened
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pargate.core import zeroshot
from pargate.core.model import Preprocess
from pargate.export import example
from pargate.images.decode import fit
from pargate.models.graphs import ImageRule

# Everything but the standard library and the four packages that the example names raises, and loudly.
ALONE = """
import importlib.abc, importlib.machinery, runpy, sys
ALLOWED = {"onnxruntime", "PIL", "numpy", "tokenizers", *sys.stdlib_module_names}
OPTIONAL = {"defusedxml"}  # of Pillow 11.0, which does without where it is missing
class Refusing(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        installed = importlib.machinery.PathFinder.find_spec(name, path) is not None
        refused = installed and name.partition(".")[0] not in ALLOWED
        return importlib.machinery.ModuleSpec(name, self) if refused else None
    def exec_module(self, module):
        raise (ImportError if module.__name__ in OPTIONAL else RuntimeError)(f"{module.__name__} was imported")
sys.meta_path.insert(0, Refusing())
for name in ("torch", "open_clip", "pargate", "ftfy"):
    try:
        __import__(name)
    except RuntimeError:
        pass
    else:
        raise SystemExit("nothing is refused")
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def picture(folder: Path) -> Path:
    pixels = np.random.default_rng(3).integers(0, 256, (70, 41, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "picture.png")
    return folder / "picture.png"


def test_it_runs_where_neither_torch_nor_open_clip_nor_pargate_is(tmp_path):
    shown = picture(tmp_path)
    arguments = [sys.executable, "-I", "-c", ALONE, str(exported("vit") / "example.py"), str(shown)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line.strip().split("%  ") for line in done.stdout.splitlines()]
    encoder, _ = opened("vit")
    with Image.open(shown) as image:
        pixels = fit(image, encoder.spec.preprocess)[None]
    cosines = encoder.encode_images(encoder.put(pixels)) @ zeroshot.head(encoder, NAMES, TEMPLATES).T
    shares = np.exp(encoder.spec.logit_scale * cosines[0])
    shares /= shares.sum()
    assert [name for _, name in lines] == [NAMES[i] for i in np.argsort(-shares)]
    np.testing.assert_allclose([float(share) for share, _ in lines], 100 * np.sort(shares)[::-1], atol=0.02)


def test_classes_may_be_given(tmp_path, capsys):
    found = example.probabilities(picture(tmp_path), ["dog", "cat"], exported("vit"))
    assert found.shape == (2,) and found.sum() == pytest.approx(1)
    assert example.main([]) == 2 and "IMAGE" in capsys.readouterr().err


RULES = st.builds(
    Preprocess,
    st.tuples(st.integers(8, 40), st.integers(8, 40)) | st.sampled_from([(32, 32), (24, 24)]),
    st.just((0.4814, 0.4578, 0.4082)),
    st.just((0.2686, 0.2613, 0.2757)),
    st.sampled_from(["bicubic", "bilinear"]),
    st.sampled_from(["shortest", "longest", "squash"]),
    st.integers(0, 255),
)


@settings(max_examples=150, deadline=None)
@given(RULES, st.integers(1, 90), st.integers(1, 90), st.sampled_from(["RGB", "L", "RGBA", "P", "CMYK", "I;16"]))
def test_its_pixels_are_the_scanners_bit_for_bit(rule, width, height, mode):
    noise = np.random.default_rng(width * 97 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    deep = noise[..., 0].astype(np.uint16) * 257
    image = Image.fromarray(deep) if mode == "I;16" else Image.fromarray(noise).convert(mode)
    described = ImageRule(
        size=rule.size, mean=rule.mean, std=rule.std, interpolation=rule.interpolation, resize=rule.resize,
        fill=rule.fill,
    ).model_dump(mode="json")  # fmt: skip
    try:
        wanted = fit(image, rule)
    except ValueError:  # so thin that a side becomes zero
        with pytest.raises(ValueError, match=r".+"):
            example.pixels_of(image, described)
        return
    found = example.pixels_of(image, described)
    np.testing.assert_array_equal(found, wanted)


def test_its_input_is_the_scanners_bit_for_bit():
    encoder, _ = opened("vit")
    every = np.arange(256, dtype=np.uint8).repeat(12).reshape(1, 32, 32, 3)
    rule = encoder.spec.preprocess
    fed = example.pixel_values(every, {"mean": list(rule.mean), "std": list(rule.std)})
    np.testing.assert_array_equal(fed, encoder._normalised(encoder.put(every)).numpy())
