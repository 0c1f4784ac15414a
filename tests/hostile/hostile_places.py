"""Things that are no files, at every place where the command reads one; and names that steer."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from made import CONFIG, POLICY, WEIGHTS, Case, images, model

THINGS: dict[str, Callable[[Path], None]] = {
    "a pipe": lambda path: os.mkfifo(path),
    "zeros": lambda path: path.symlink_to("/dev/zero"),
    "random bytes": lambda path: path.symlink_to("/dev/urandom"),
    "a terminal": lambda path: path.symlink_to("/dev/tty"),
    "memory": lambda path: path.symlink_to("/proc/self/mem"),
    "the kernel's messages": lambda path: path.symlink_to("/proc/kmsg"),
    "standard input": lambda path: path.symlink_to("/proc/self/fd/0"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nothing": lambda path: path.symlink_to("absent"),
    "a folder": lambda path: path.mkdir(),
    "a socket": lambda path: _socket(path),
    "a link through a loop": lambda path: _loop(path),
}


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket has at most 100 letters
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def _loop(path: Path) -> None:
    (path.parent / "loop").symlink_to("loop")
    path.symlink_to("loop/x")


def _scan(place: Path, *more: str) -> list[str]:
    model(place)
    images(place)
    (place / "p.yaml").write_text(POLICY)
    return ["scan", "model", "-p", "p.yaml", "--images", "pictures", "--dry-run", *more]


def _instead(place: Path, name: str, arguments: list[str], make: Callable[[Path], None]) -> list[str]:
    path = place / name
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    make(path)
    return arguments


Build = Callable[[Path, Callable[[Path], None]], list[str]]

PLACES: dict[str, tuple[Build, tuple[int, ...]]] = {
    "model": (lambda p, m: _instead(p, "x.pt", ["inspect", "x.pt"], m), (2,)),
    "model with an architecture": (
        lambda p, m: _instead(p, "x.pt", ["inspect", "x.pt", "--arch", "RN50-gelu"], m), (2,)),
    "weights": (lambda p, m: _instead(p, f"model/{WEIGHTS}", (model(p), ["inspect", "model"])[1], m), (2,)),
    "configuration": (lambda p, m: _instead(p, f"model/{CONFIG}", (model(p), ["inspect", "model"])[1], m), (2,)),
    "preprocessor": (
        lambda p, m: _instead(p, "model/preprocessor_config.json", (model(p), ["inspect", "model"])[1], m), (0, 2)),
    "weights beside": (lambda p, m: _instead(p, "model/model.bin", (model(p), ["inspect", "model"])[1], m), (2,)),
    "graph": (lambda p, m: _instead(p, "onnx/image.onnx", ["inspect", "onnx"], m), (1, 2)),
    "policy": (lambda p, m: _instead(p, "p.yaml", _scan(p), m), (4,)),
    "policy to check": (lambda p, m: _instead(p, "p.yaml", ["policy", "check", "p.yaml"], m), (4,)),
    "classes": (lambda p, m: _instead(p, "c.txt", _scan(p, "--classes", "c.txt"), m), (2,)),
    "table": (lambda p, m: _instead(p, "t.csv", _scan(p, "--images", "t.csv"), m), (2,)),
    "tar": (lambda p, m: _instead(p, "t.tar", _scan(p, "--images", "t.tar"), m), (2,)),
    "parquet": (lambda p, m: _instead(p, "t.parquet", _scan(p, "--images", "t.parquet"), m), (2,)),
    "previous report": (lambda p, m: _instead(p, "r.json", _scan(p, "--previous", "r.json"), m), (0, 2)),
    "reference": (lambda p, m: _instead(p, "r.pt", _scan(p, "--reference", "r.pt"), m), (0, 2)),
    "saved report": (lambda p, m: _instead(p, "r.json", ["report", "r.json"], m), (2,)),
    "bundle": (lambda p, m: _instead(p, "b", ["verify", "b"], m), (1, 2)),
    "checksums": (lambda p, m: _instead(p, "b/SHA256SUMS", ["verify", "b"], m), (1, 2)),
    "pack": (lambda p, m: _instead(p, "k/pack.json", ["pack", "show", "k"], m), (2,)),
    "inventory": (lambda p, m: _instead(p, "i.yaml", ["audit", "run", "i.yaml", "--out", "out"], m), (2,)),
    "ledger": (lambda p, m: _instead(p, "a/ledger.jsonl", ["audit", "verify", "a"], m), (1, 2)),
    "trigger": (
        lambda p, m: _instead(
            p, "t.png", (_scan(p), _write(p, POLICY.replace("[badnet]", "[{kind: file, path: t.png}]")))[0], m
        ), (2, 4)),
}  # fmt: skip


def _write(place: Path, text: str) -> None:
    (place / "p.yaml").write_text(text)


NAMES = (
    "::error::x", "\n::error::x", "##[error]x", "##vso[task.complete]", "\x1b[2J", "\x1b]0;x\x07", "a\u202eb", "a\u2028b",
    "[red]x[end]", "%0A::error::x", "\udcff\udcfe", "\u0085x", "a\rb", "\t\x0b\x0c", "-x", "--", "~", "*", "'; touch ran;'", "$(touch ran)",
    "`touch ran`", "<script>x<script>", "x" * 200, "y" * 300, "日本", "\u200b", "\ufeff",
)  # fmt: skip


def name_case(name: str, kind: str) -> Case:
    def build(place: Path) -> list[str]:
        if kind == "absent":
            return ["inspect", "--", name]
        if kind == "a pickle" and len(name) < 256:
            (place / name).write_bytes(b"\x80\x02cos\nsystem\n(X\x09\0\0\0touch rantR.")
        elif kind == "a folder" and len(name) < 256:
            (place / name).mkdir()
            (place / name / name).write_bytes(b"x")
        return ["inspect", "--", name]

    codes = {"absent": (2,), "a pickle": (1, 2), "a folder": (2,)}[kind]
    return Case(f"name: {name[:40].encode('unicode_escape', 'surrogatepass').decode()}, {kind}", build, codes)


def member(name: str) -> Case:
    """A file of that name among images."""

    def build(place: Path) -> list[str]:
        arguments = _scan(place)
        if len(name) < 250:
            (place / "pictures" / "cat" / f"{name}.png").write_bytes(b"no picture")
            (place / "pictures" / name).mkdir()
            (place / "pictures" / name / "a.png").write_bytes(b"no picture")
        return arguments

    return Case(f"image name: {name[:40].encode('unicode_escape', 'surrogatepass').decode()}", build, (0, 2, 3))


def cases() -> Iterator[Case]:
    for place, (build, codes) in PLACES.items():
        for thing, make in THINGS.items():
            if (place, thing) in (("bundle", "a folder"),):
                continue
            right = codes
            if thing in ("a link to nothing", "a folder") and place in ("weights beside", "preprocessor"):
                right = (0, 2)
            yield Case(f"{place}: {thing}", lambda p, b=build, m=make: b(p, m), right)
    for name in NAMES:
        for kind in ("absent", "a pickle", "a folder"):
            yield name_case(name, kind)
        yield member(name)
    yield Case("model: a processor's memory", lambda place: ["inspect", "/proc/self/mem", "--arch", "RN50-gelu"], (2,))
    yield Case("model: a list of mounts", lambda place: ["inspect", "/proc/self/mounts", "--arch", "RN50-gelu"], (2,))
    yield Case("model: the environment", lambda place: ["inspect", "/proc/self/environ"], (2,))
    yield Case("model: all processes", lambda place: ["inspect", "/proc"], (2,))
    yield Case("images: all processes", lambda place: [*_scan(place), "--images", "/proc/self"], (2, 3))
    yield Case("images: devices", lambda place: [*_scan(place), "--images", "/dev"], (2, 3))
