"""Damaged copies of valid files of every kind: each is refused by one of pargate's own errors, or read as another file."""

import io
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile_graphs
import hostile_images
import hostile_zips
import pytest
from made import CLEAN, CONFIG, POLICY, WEIGHTS
from PIL import Image
from pydantic import ValidationError

from pargate.core.model import Preprocess
from pargate.core.report import ScanReport
from pargate.errors import ExitCode, PargateError
from pargate.images.decode import decode
from pargate.images.sources.table import read_table
from pargate.images.sources.tar import _samples
from pargate.models import graphs, weights
from pargate.models.config import check, parse_object, preprocess
from pargate.policy.resolve import read as read_policy
from pargate.release import bundle

GOLDEN = Path(__file__).parents[1] / "golden" / "reports" / "failing.json"
CLEAN_CODES = {ExitCode.FAIL, ExitCode.INPUT, ExitCode.POLICY}
NUMBERS = (b"0", b"-1", b"1e999", b"NaN", b"4294967295", b"18446744073709551616", b"9" * 400)
PIECES = (
    b"\0" * 8,
    b"\xff" * 8,
    b"PK\1\2",
    b"PK\5\6",
    b"\x80\x02",
    b"cos\nsystem\n",
    b'"',
    b"[" * 50,
    b"\xed\xa0\x80",
    b"\n",
)


def damaged(draw: random.Random, content: bytes) -> bytes:
    """A copy with one to four changes."""
    made = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 4))):
        at = draw.randrange(len(made) + 1) if draw.random() < 0.5 else draw.randrange(min(len(made), 600) + 1)
        match draw.randrange(8):
            case 0:
                made[at : at + 1] = bytes([draw.randrange(256)])
            case 1:
                made[at : at + 1] = bytes([(made[at] if at < len(made) else 0) ^ 1 << draw.randrange(8)])
            case 2:
                del made[at : at + draw.choice((1, 4, 100))]
            case 3:
                made[at:at] = draw.choice(PIECES)
            case 4:
                made[at:at] = made[at : at + draw.choice((1, 16, 300))]
            case 5:
                del made[at:]
            case 6:
                made[at : at + 4] = draw.randrange(1 << 32).to_bytes(4, "little")
            case _:
                digits = [i for i, byte in enumerate(made[:5000]) if 48 <= byte < 58]
                place = draw.choice(digits) if digits else at
                made[place : place + 1] = draw.choice(NUMBERS)
    return bytes(made)


def picture(form: str) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((40, 30), 60).convert("RGB").save(buffer, form)
    return buffer.getvalue()


RULE = Preprocess((32, 32), (0.5,) * 3, (0.5,) * 3, "bicubic", "shortest", 0)


def read_picture(content: bytes, place: Path) -> Any:
    found = decode(content, RULE)
    assert (found.pixels is None) == bool(found.problem)
    return found.digest


def of_file(name: str, read: Callable[[Path], Any]) -> Callable[[bytes, Path], Any]:
    def from_bytes(content: bytes, place: Path) -> Any:
        (place / name).write_bytes(content)
        return read(place / name)

    return from_bytes


def read_weights(path: Path) -> str:
    return weights.read(path, path.name, keep=False).sha256


def read_config(content: bytes, place: Path) -> Any:
    found = parse_object(content, "x")
    cfg = found.get("model_cfg")
    if isinstance(cfg, dict):
        check(cfg, "x")
        preprocess(cfg, {}, "x")
    return found


def read_graph(content: bytes, place: Path) -> Any:
    folder = place / "onnx"
    if not folder.exists():
        hostile_graphs.folder(place, hostile_graphs.GOOD["image"], hostile_graphs.GOOD["text"], {})
    (folder / "image.onnx").write_bytes(content)
    return graphs.read(folder, "onnx").checkpoint.sha256


def read_description(content: bytes, place: Path) -> Any:
    folder = place / "onnx"
    if not folder.exists():
        hostile_graphs.folder(place, hostile_graphs.GOOD["image"], hostile_graphs.GOOD["text"], {})
    (folder / "preprocess.json").write_bytes(content)
    return graphs.read(folder, "onnx").checkpoint.config_sha256


def read_report(content: bytes, place: Path) -> Any:
    try:
        return ScanReport.from_json(content).to_json()
    except ValidationError:
        return None


def read_text(content: bytes, place: Path) -> Any:
    return read_policy(content.decode("utf-8", "replace"), "p", place)


def read_sums(content: bytes, place: Path) -> Any:
    """A bundle of one report and its checksums, of which either is damaged."""
    folder = place / "bundle"
    folder.mkdir(exist_ok=True)
    shutil.copy(GOLDEN, folder / bundle.REPORT)
    (folder / bundle.SUMS).write_bytes(content)
    from datetime import date

    from pargate.release.verify import verify

    found = verify(folder, today=date(2030, 1, 1))
    assert found.problems, "it lacks most of what a bundle holds"


SAFETENSORS = (CLEAN / WEIGHTS).read_bytes()
SMALL = SAFETENSORS[: 8 + int.from_bytes(SAFETENSORS[:8], "little")]

KINDS: dict[str, tuple[Callable[[], bytes], Callable[[bytes, Path], Any]]] = {
    "torch archive": (lambda: hostile_zips.GOOD, of_file("x.pt", read_weights)),
    "pickle": (lambda: hostile_zips.PROGRAM, of_file("x.bin", read_weights)),
    "pickle in its archive": (
        lambda: hostile_zips.PROGRAM,
        lambda content, place: of_file("x.pt", read_weights)(
            hostile_zips.zipped({**hostile_zips.MEMBERS, "a/data.pkl": content}), place
        ),
    ),
    "safetensors header": (
        lambda: SMALL, lambda content, place: of_file("x.safetensors", read_weights)(content + SAFETENSORS[len(SMALL) :], place)),
    "configuration": (lambda: (CLEAN / CONFIG).read_bytes(), read_config),
    "graph": (lambda: hostile_graphs.GOOD["image"], read_graph),
    "description of graphs": (lambda: json.dumps(hostile_graphs.ABOUT).encode(), read_description),
    "tar": (lambda: hostile_images.GOOD + hostile_images.END, of_file("x.tar", _samples)),
    "table": (
        lambda: b"image,label\n" + b"".join(b'"a%d.png",%d\n' % (i, i) for i in range(40)),
        of_file("x.csv", lambda path: read_table(path, lambda header: None)),
    ),
    "policy": (POLICY.encode, read_text),
    "report": (GOLDEN.read_bytes, read_report),
    "bundle": (lambda: b"".join(b"%064x  file%d\n" % (i, i) for i in range(20)), read_sums),
    **{form: (lambda form=form: picture(form), read_picture) for form in ("PNG", "JPEG", "WEBP", "GIF", "TIFF")},
}  # fmt: skip
"""Valid files, and what reads them."""

DAY, NIGHT = 130, 700


def test_there_are_enough() -> None:
    assert len(KINDS) * DAY >= 2000 and len(KINDS) * NIGHT >= 10_000


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")  # of decoders
def test_a_damaged_file_is_refused_cleanly(kind: str, tmp_path: Path) -> None:
    make, read = KINDS[kind]
    valid = make()
    seed = os.environ.get("PARGATE_TEST_NIGHTLY") and random.randrange(1 << 32)
    for number in range(NIGHT if seed else DAY):
        content = damaged(random.Random(f"{kind} {seed} {number}"), valid)
        try:
            read(content, tmp_path)
        except PargateError as error:
            assert error.exit_code in CLEAN_CODES, (kind, seed, number, error.message)
        except Exception as error:
            raise AssertionError(f"{kind}, seed {seed}, number {number}: {error!r}") from error


@pytest.mark.parametrize("kind", ["torch archive", "safetensors header"])
def test_what_is_accepted_is_another_file(kind: str, tmp_path: Path) -> None:
    make, read = KINDS[kind]
    valid = make()
    digest = read(valid, tmp_path)
    for number in range(DAY):
        content = damaged(random.Random(f"{kind} {number}"), valid)
        try:
            assert (read(content, tmp_path) == digest) == (content == valid)
        except PargateError:
            assert content != valid
