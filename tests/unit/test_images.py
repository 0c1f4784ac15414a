"""Pictures become model input exactly as open_clip would have it, and hostile ones are reported."""

import hashlib
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from open_clip.transform import image_transform
from PIL import Image

from pargate import limits
from pargate.core.model import Preprocess
from pargate.images.decode import Locator, decode, decode_many, fit

SIZES = [  # width, height of the picture
    (64, 64), (65, 64), (64, 65), (63, 63), (224, 224), (100, 37), (37, 100), (640, 480), (333, 500), (1, 1), (2, 50),
    (7, 200), (129, 97), (31, 30),
]  # fmt: skip


def rule(size: tuple[int, int] = (64, 64), **settings: Any) -> Preprocess:
    return Preprocess(size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), **settings)


def picture(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    width, height = size
    noise = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def theirs(image: Image.Image, wanted: Preprocess) -> NDArray[np.uint8]:
    """open_clip's evaluation transform, up to the tensor."""
    transform = image_transform(
        wanted.size,
        is_train=False,
        resize_mode=wanted.resize,
        interpolation=wanted.interpolation,
        fill_color=wanted.fill,
    )
    for step in transform.transforms[:-2]:
        image = step(image)
    return np.asarray(image)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("target", [(64, 64), (48, 80), (77, 33)])
def test_a_picture_fits_as_open_clip_fits_it(target: tuple[int, int], resize: str, interpolation: str) -> None:
    wanted = rule(target, resize=resize, interpolation=interpolation, fill=128)
    for size in SIZES:
        if resize == "longest" and min(size) / max(size) < 0.02:
            continue
        expected = theirs(picture(size), wanted)
        assert expected.shape == (*target, 3)
        assert np.array_equal(fit(picture(size), wanted), expected), size


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "YCbCr"])
def test_pictures_of_other_modes_become_rgb(mode: str) -> None:
    image = picture((64, 64), mode)
    assert np.array_equal(fit(image, rule()), theirs(image, rule()))


def test_a_palette_is_resolved_before_resizing() -> None:
    image = picture((100, 100)).convert("P")
    assert np.array_equal(fit(image, rule()), fit(image.convert("RGB"), rule()))


@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "RGBA"), ("PNG", "I;16"), ("JPEG", "CMYK"), ("GIF", "P"), ("WEBP", "RGB")]
)
def test_common_formats_are_read(kind: str, mode: str) -> None:
    image = Image.new("I;16", (80, 60), 300) if mode == "I;16" else picture((80, 60), mode)
    content = encoded(image, kind)
    found = decode(content, rule())
    assert found.problem == "" and found.pixels is not None
    assert found.pixels.shape == (64, 64, 3) and found.pixels.dtype == np.uint8
    assert found.digest == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_of_grey_become_eight_and_no_white_page(kind: str) -> None:
    ramp = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    pixels = decode(encoded(Image.fromarray(ramp), kind), rule()).pixels
    assert pixels is not None and (pixels == (ramp >> 8).astype(np.uint8)[..., None]).all()


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_grey_without_a_known_white_is_not_guessed(dtype: type) -> None:
    found = decode(encoded(Image.fromarray(np.ones((64, 64), dtype)), "TIFF"), rule())
    assert found.pixels is None and found.problem == "32-bit grey without a defined white"


def test_nothing_is_started_to_draw_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would run Ghostscript for a page of PostScript, whatever the file is called."""
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n", rule())
    assert found.problem == "cannot identify the image format" and not (tmp_path / "started").exists()


def test_an_animation_shows_its_first_picture() -> None:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    found = decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), rule())
    assert found.pixels is not None and (found.pixels == (255, 0, 0)).all()


def claiming(width: int, height: int) -> bytes:
    """A small PNG that says it is a huge picture."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\x00" * 100)
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, data, b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


HOSTILE = [
    (b"", "cannot identify"),
    (b"not a picture at all", "cannot identify"),
    (b"\xff\xd8\xff" + b"\0" * 100, ""),
    (half(encoded(picture((300, 300)), "JPEG")), "truncated"),
    (half(encoded(picture((300, 300)), "PNG")), "truncated"),
    (claiming(64, 64), ""),
    (claiming(9000, 9000), "9000×9000 pixels is too large"),
    (claiming(60_000, 60_000), "decompression bomb"),
    (claiming(0, 64), ""),
    (encoded(Image.new("L", (1, 200_000))), "1×200000 pixels is too elongated"),
    (encoded(Image.new("L", (200_000, 1))), "200000×1 pixels is too elongated"),
    (b"P6 99999999999999 1 255 ", ""),
]


@pytest.mark.parametrize(("content", "reason"), HOSTILE, ids=range(len(HOSTILE)))
def test_a_picture_that_cannot_be_read_is_reported_and_not_raised(content: bytes, reason: str) -> None:
    found = decode(content, rule())
    assert found.pixels is None
    assert found.problem and reason in found.problem
    assert found.digest == hashlib.sha256(content).hexdigest()


def test_a_picture_without_room_in_memory_is_not_called_unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image, "open", full)
    with pytest.raises(MemoryError):
        decode(b"", rule())


def test_a_line_too_thin_to_be_scaled_down_is_reported() -> None:
    found = decode(encoded(Image.new("L", (1, 3000))), rule(resize="longest"))
    assert found.pixels is None and found.problem


def test_a_long_picture_that_can_be_scaled_is_read() -> None:
    found = decode(encoded(Image.new("RGB", (10, 10_000), "red")), rule())
    assert limits.PIXELS > 64 * 64_000
    assert found.pixels is not None and (found.pixels == (255, 0, 0)).all()


def test_a_picture_is_read_from_its_place_in_a_larger_file(tmp_path: Path) -> None:
    content = encoded(picture((64, 64)))
    (tmp_path / "shard").write_bytes(b"before" + content + b"after")
    (found,) = decode_many([Locator(str(tmp_path / "shard"), 6, len(content))], rule())
    assert found.pixels is not None and found.digest == hashlib.sha256(content).hexdigest()


def test_places_that_cannot_be_read_do_not_stop_the_others(tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(encoded(picture((64, 64))))
    places = ["missing.png", ".", "bad\0name.png", "good.png"]
    missing, folder, null, good = decode_many([Locator(f"{tmp_path}/{place}") for place in places], rule())
    assert [found.problem for found in (missing, folder)] == ["No such file or directory", "Is a directory"]
    assert "null" in null.problem and null.pixels is None
    assert good.problem == "" and good.pixels is not None
