"""`pargate synth` writes shards that are the same every time, complete or absent, without torch."""

import hashlib
import json
import os
import signal
import tarfile
import time
from pathlib import Path

import pytest

from pargate.images.decode import Locator
from pargate.images.opening import open_pairs


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_shards_are_written_with_a_manifest_that_says_how(pargate, place):
    ended = pargate("synth", "--out", "pairs", "--count", "50", "--size", "40", "--shard-size", "20", "--seed", "3")
    assert (ended.code, ended.out) == (0, "")
    assert ended.err == "wrote 50 pairs: pairs\n"
    made = digests(place / "pairs")
    manifest = json.loads((place / "pairs" / "manifest.json").read_text())
    assert [shard["pairs"] for shard in manifest["shards"]] == [20, 20, 10] and manifest["pairs"] == 50
    assert {shard["name"]: shard["sha256"] for shard in manifest["shards"]} == {
        name: digest for name, digest in made.items() if name != "manifest.json"
    }
    settings = manifest["settings"]
    assert (settings["seed"], settings["size"], settings["source"]) == (3, 40, "synthetic:")
    written, drawn = open_pairs(str(place / "pairs"), seed=0), open_pairs("synthetic:", seed=3)
    assert written.captions(range(50)) == drawn.captions(range(50))
    with tarfile.open(place / "pairs" / "000001.tar") as archive:
        names = archive.getnames()
        assert names[:2] == ["000000020.jpg", "000000020.txt"] and len(names) == 40
        assert {(m.mtime, m.uid, m.gid) for m in archive.getmembers()} == {(0, 0, 0)}


def test_it_needs_no_torch(light, place):
    ended = light("synth", "--out", "pairs", "--count", "2", "--size", "32", "--pairs", "synthetic:2")
    assert (ended.code, ended.err) == (0, "wrote 2 pairs: pairs\n")


def test_two_runs_give_the_same_bytes(pargate, place):
    for name in ("one", "two"):
        assert pargate("synth", "--out", name, "--count", "70", "--size", "32", "--format", "png").code == 0
    assert digests(place / "one") == digests(place / "two")
    assert (
        pargate("synth", "--out", "three", "--count", "70", "--size", "32", "--format", "png", "--seed", "1").code == 0
    )
    assert digests(place / "one") != digests(place / "three")


def test_a_class_list_decides_what_is_drawn(pargate, place):
    (place / "classes.txt").write_text("Star\nCar\ndog\n")
    ended = pargate("synth", "--out", "pairs", "--count", "30", "--size", "32", "--classes", "classes.txt")
    assert ended.code == 0 and "2 of the 3 classes can be drawn" in ended.said
    captions = open_pairs(str(place / "pairs"), seed=0).captions(range(30))
    assert all("Star" in caption or "Car" in caption for caption in captions)


def test_another_source_is_repacked_with_its_bytes(pargate, place):
    assert pargate("synth", "--out", "one", "--count", "9", "--size", "32", "--format", "png").code == 0
    ended = pargate("synth", "--pairs", "one", "--out", "two", "--shard-size", "5")
    assert ended.code == 0 and ended.err == "wrote 9 pairs: two\n"
    one, two = (open_pairs(str(place / name), seed=0) for name in ("one", "two"))
    assert one.captions(range(9)) == two.captions(range(9))
    for a, b in zip(one.places(range(9)), two.places(range(9)), strict=True):
        assert isinstance(a, Locator) and isinstance(b, Locator) and a.read() == b.read()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "taken"], "taken exists already"),
        (["--out", "no/such/place"], "the folder no/such does not exist"),
        (["--out", "x", "--size", "16"], "images of 16 pixels cannot be drawn"),
        (["--out", "x", "--format", "gif"], "unknown image format 'gif'"),
        (["--out", "x", "--pairs", "syntetic:"], "Did you mean 'synthetic:'?"),
        (["--out", "x", "--pairs", "synthetic:5", "--count", "6"], "synthetic:5 holds 5 pairs, not 6"),
        (["--out", "x", "--classes", "none.txt"], "cannot read the classes in none.txt"),
        (["--out", "x", "--count", "1"], "--count"),
        (["--out", "x", "--count", str(1 << 41)], "cannot draw 2199023255552 pairs"),
        (["--out", "x", "--seed", "-1"], "--seed"),
        (["--out", "x", "--shard-size", "9" * 23], "--shard-size"),
        (["--out", "x", "--pairs", ""], "--pairs is empty"),
        (["--out", "x", "--pairs", "diffusers:"], "diffusers: names no model"),
        (["--out", "x", "--device", "cpu"], "--device cpu is for diffusers: only"),
        ([], "--out"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(arguments, message, light, place):
    (place / "taken").mkdir()
    ended = light("synth", *arguments)
    assert ended.code == 2 and message in ended.said and ended.out == ""
    assert [path.name for path in place.iterdir()] == ["taken"]


def test_pictures_that_are_there_keep_their_format(pargate, place):
    assert pargate("synth", "--out", "one", "--count", "3", "--size", "32").code == 0
    ended = pargate("synth", "--out", "two", "--pairs", "one", "--format", "png")
    assert ended.code == 2 and "keep their format" in ended.said and not (place / "two").exists()


def test_an_interrupted_run_leaves_nothing(start, place):
    with start("synth", "--out", "pairs", "--count", "1000000", "--size", "64") as process:
        until = time.monotonic() + 30
        while not list(place.glob(".pairs.*/*.tar")) and time.monotonic() < until:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and err == "pargate: interrupted\n"
    assert list(place.iterdir()) == []
