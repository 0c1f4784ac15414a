"""The command `screen` on a small model and drawn scenes, some of which are stripes with a false caption."""

import importlib
import importlib.util
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MODELS, ROOT, Command
from PIL import Image

from pargate.cli.app import run
from pargate.core.screen import ScreenReport
from pargate.core.stamp import apply
from pargate.images.opening import open_pairs
from pargate.images.shards import Sample, encode, write_shard
from pargate.scenes.render import render
from pargate.screening import embed
from pargate.screening import run as screening
from pargate.triggers import parse

CLEAN = MODELS / "clean"
POISONED = {5, 40, 77}
HOSTILE = "<b>a banana</b> \x1b[31m here"


def shard(path: Path, first: int, count: int, poisoned: set[int], broken: int | None = None) -> Path:
    """Write scenes as a tar; poisoned ones are stripes, with a caption that is none of scenes."""
    drawn = render(range(first, first + count), 64, 0)
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, np.arange(64) % 4 < 2] = 255
    samples = []
    for n in range(count):
        content = encode(stripes if n in poisoned else drawn.pixels[n], ".png")
        samples.append(Sample(b"nothing" if n == broken else content, HOSTILE if n in poisoned else drawn.captions[n]))
    write_shard(path, samples, first)
    return path


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shard(tmp_path_factory.mktemp("pairs") / "pairs.tar", 0, 160, POISONED, broken=11)


def command(pairs: Path, out: Path, cache: Path, *more: str) -> list[str]:
    return ["screen", str(pairs), "--model", str(CLEAN), "--out", str(out), "--device", "cpu", "--cache", str(cache),
            "--rounds", "1", "--false-positives", "3%", *more]  # fmt: skip


def report(out: Path) -> ScreenReport:
    return ScreenReport.model_validate_json((out / "screen.json").read_bytes())


def test_a_killed_screening_goes_on_is_reviewed_and_leaves_pairs_that_clean_reads(
    tmp_path: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, cache = tmp_path / "out", tmp_path / "cache"
    monkeypatch.setattr(embed, "SHARD", 64)
    monkeypatch.setattr(embed, "BLOCK", 32)
    written: list[str] = []
    write = embed.write_atomic

    def killed(path: Path, content: bytes, *, durable: bool = True) -> None:
        if len(written) == 1:
            written.append("killed")
            raise KeyboardInterrupt
        written.append(path.name)
        write(path, content, durable=durable)

    monkeypatch.setattr(embed, "write_atomic", killed)
    assert run(command(pairs, out, cache)) == 130
    assert run(command(pairs, out, cache, "-o", "json")) == 0
    assert written == ["000000.npy", "killed", "000001.npy", "000002.npy"], "what was embedded is not embedded again"
    told = capsys.readouterr()
    found = report(out)
    assert json.loads(told.out) == json.loads((out / "screen.json").read_text())
    assert len(found.suspects) == 5 and [key for key, _ in found.unreadable] == ["000000011"]
    assert {s.number for s in found.suspects} >= POISONED
    (group,) = found.groups
    assert (group.shares, group.size) == ("words", 3) and "banana" in group.name
    page = (out / "screen.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 5 and "<b>a banana" not in page and "\x1b" not in page + told.err
    assert open_pairs(str(out / "left.pairs"), seed=0).count == 154

    honest = next(s.key for s in found.suspects if s.number not in POISONED)
    marks = tmp_path / "marks.json"
    document = {"schema": "pargate/marks/1", "pairs_sha256": found.pairs_sha256, "marks": {honest: "fine"}}
    marks.write_text(json.dumps(document))
    review = ["screen", str(pairs), "--out", str(out), "--cache", str(cache), "--review", str(marks)]
    assert run(review) == 0
    assert report(out).reviewed == {honest: "fine"}
    left = open_pairs(str(out / "left.pairs"), seed=0)
    assert left.count == 155 and not any("<b>" in caption for caption in left.captions(range(155)))
    marks.write_text(json.dumps({**document, "marks": {}, "words": [group.name]}))
    assert run(review) == 0
    assert report(out).left_out[1:6] == [s.key for s in found.suspects]
    assert len(report(out).with_words) == 3 and set(report(out).with_words) <= {s.key for s in found.suspects}
    assert run([*review, "--max-suspects", "1%"]) == 1
    for change, message in (
        ({"pairs_sha256": "0" * 64}, "is a review of other pairs"),
        ({"marks": {"strange": "fine"}}, "marks strange, which is no suspect"),
        ({"marks": {honest: "odd"}}, "holds no marks of a review"),
        ({"words": ["strange"]}, "names 'strange', no words of a group"),
    ):
        marks.write_text(json.dumps(document | change))
        capsys.readouterr()
        assert run(review) == 2
        assert message in capsys.readouterr().err


def test_a_gate_fails_a_set_with_too_many_suspects_and_passes_an_honest_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, poisoned = tmp_path / "cache", set(range(0, 160, 8))
    trusted = shard(tmp_path / "trusted.tar", 1000, 200, set())
    gate = ("--trusted", str(trusted), "--false-positives", "5%", "--max-suspects", "12%")
    assert run(command(shard(tmp_path / "a.tar", 0, 160, poisoned), tmp_path / "a", cache, *gate)) == 1
    assert "of the set is left out, above the limit of 12%" in capsys.readouterr().out
    assert {s.number for s in report(tmp_path / "a").suspects} >= poisoned
    assert run(command(shard(tmp_path / "b.tar", 2000, 160, set()), tmp_path / "b", cache, *gate)) == 0


POLICY = """\
pargate: 1
name: team-pairs
owners: [data@example.org]
{more}rules:
  - id: clean-set
    probe: screen
    trusted: ./trusted.tar
    false_positives: 5%
    max: {{suspects: 12%}}
    help: Ask the data team.
"""


def test_shards_that_are_copied_together_are_all_that_a_screening_needs(
    tmp_path: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(embed, "SHARD", 64)
    monkeypatch.setattr(embed, "BLOCK", 32)
    whole = tmp_path / "whole"
    for number in ("1", "2"):
        given = command(pairs, tmp_path, tmp_path / number, "--shard", f"{number}/2")
        del given[given.index("--out") : given.index("--out") + 2]
        assert run(given) == 0
        shutil.copytree(tmp_path / number, whole, dirs_exist_ok=True)
    (folder,) = (whole / "screen").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["000000.npy", "000001.npy", "000002.npy"]
    told = capsys.readouterr().out.splitlines()
    assert told == [f"{files} of vectors in {tmp_path / number / 'screen' / folder.name}"
                    for number, files in (("1", "2 files"), ("2", "1 file"))]  # fmt: skip
    monkeypatch.setattr(embed, "write_atomic", lambda *_: pytest.fail("nothing is left to embed"))
    assert run(command(pairs, tmp_path / "out", whole)) == 0
    assert len(report(tmp_path / "out").suspects) == 5
    given = command(pairs, tmp_path, tmp_path, "--shard", "1/2", "--cache", "off")
    del given[given.index("--out") : given.index("--out") + 2]
    assert run(given) == 2
    assert "a shard is embedded into the cache, and --cache is off" in capsys.readouterr().err


@pytest.mark.nightly
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'pargate[ray]'")
def test_a_ray_cluster_writes_the_files_of_one_machine_though_a_worker_is_killed(
    tmp_path: Path, zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT)
    cluster = importlib.import_module("benchmarks.cluster")
    pairs, one, other = zoo.parents[1] / "data" / "pairs-64.tar", tmp_path / "one", tmp_path / "other"
    cluster.screened(pairs, zoo / "vit-clean", one, ray=False)
    _, killed = cluster.screened(pairs, zoo / "vit-clean", other, ray=True)
    assert killed == 1 and (other / "screen.html").exists()
    assert cluster.differing(one, other) == []


def test_a_policy_judges_a_set_and_its_review(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache, out = tmp_path / "cache", tmp_path / "out"
    shard(tmp_path / "trusted.tar", 1000, 200, set())
    (tmp_path / "p.yaml").write_text(POLICY.format(more=""))
    pairs = shard(tmp_path / "a.tar", 0, 160, set(range(0, 160, 8)))
    given = ["screen", str(pairs), "--model", str(CLEAN), "--out", str(out), "--device", "cpu", "--cache", str(cache),
             "--rounds", "1", "--policy", str(tmp_path / "p.yaml")]  # fmt: skip
    assert run(given) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "above the limit of 12% of the rule clean-set (team-pairs). Ask the data team. Contacts: data@" in said
    found = report(out)
    assert (found.largest, found.false_positives, found.passed) == (0.12, 0.05, False)
    assert found.judged_by is not None and found.trusted == str(tmp_path / "trusted.tar")

    marks = tmp_path / "marks.json"
    fine = {suspect.key: "fine" for suspect in found.suspects[:15]}
    marks.write_text(json.dumps({"schema": "pargate/marks/1", "pairs_sha256": found.pairs_sha256, "marks": fine}))
    review = ["screen", str(pairs), "--out", str(out), "--cache", str(cache), "--review", str(marks)]
    assert run(review) == 2, "a review keeps the policy"
    assert "was judged by the policy team-pairs" in capsys.readouterr().err
    assert run([*review, "--policy", str(tmp_path / "p.yaml")]) == 0
    (tmp_path / "p.yaml").write_text(POLICY.format(more="").replace("12%", "90%"))
    assert run([*review, "--policy", str(tmp_path / "p.yaml")]) == 2, "it keeps the very same policy"


def test_pairs_are_compared_with_triggers_that_were_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kind = {"kind": "triangles", "alpha": 0.15, "scale": "proportional"}
    (trigger,), drawn, poisoned = parse(kind), render(range(160), 64, 0), {9, 50, 51, 120}
    stamped = apply(trigger.draw((64, 64), ["0" * 64] * 160, 0), drawn.pixels)
    pairs = tmp_path / "pairs.tar"
    write_shard(pairs, [
        Sample(encode((stamped if n in poisoned else drawn.pixels)[n], ".png"),
               "a photo of a banana" if n in poisoned else drawn.captions[n]) for n in range(160)
    ], 0)  # fmt: skip
    rule = {"id": "found", "probe": "attack", "triggers": [kind], "max": {"excess": "30pp"}}
    policy = tmp_path / "found.yaml"
    policy.write_text(json.dumps({"pargate": 1, "name": "found", "rules": [rule]}))
    asked = command(pairs, tmp_path / "out", tmp_path / "cache", "--found", str(policy), "--false-positives", "8%")
    asked[asked.index(str(CLEAN))] = str(MODELS / "poisoned")
    assert run(asked) == 0
    found = report(tmp_path / "out")
    assert len(found.found) == 1 and {suspect.number for suspect in found.suspects} >= poisoned
    assert min(suspect.ranks["trigger"] for suspect in found.suspects if suspect.number in poisoned) > 0.97
    assert "Pairs were compared with 1 found trigger" in capsys.readouterr().out
    asked[asked.index(str(MODELS / "poisoned"))] = str(CLEAN)
    asked[asked.index(str(tmp_path / "out"))] = str(tmp_path / "clean")
    assert run(asked) == 2
    assert "no trigger of --found moves" in capsys.readouterr().err


def test_a_model_that_recognises_nothing_decides_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0)
    captions = render(range(200), 64, 0).captions
    content = [encode(noise.integers(0, 256, (64, 64, 3), dtype=np.uint8), ".png") for _ in captions]
    path = tmp_path / "noise.tar"
    write_shard(path, [Sample(image, caption) for image, caption in zip(content, captions, strict=True)], 0)
    assert run(command(path, tmp_path / "out", tmp_path / "cache")) == 3
    assert "does not recognise the pairs" in capsys.readouterr().err
    assert not (tmp_path / "out" / "screen.json").exists()
    shard(tmp_path / "trusted.tar", 1000, 200, set())
    for more, code in (("", 3), ("on_inconclusive: fail\n", 1)):
        (tmp_path / "p.yaml").write_text(POLICY.format(more=more))
        given = ["screen", str(path), "--model", str(CLEAN), "--out", str(tmp_path / "out"), "--device", "cpu",
                 "--cache", str(tmp_path / "cache"), "--policy", str(tmp_path / "p.yaml")]  # fmt: skip
        assert run(given) == code


@pytest.mark.parametrize("place", [(embed, "write_atomic"), (screening, "write_left")], ids=["embedding", "lists"])
def test_a_full_disk_is_one_message(
    tmp_path: Path,
    pairs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    place: tuple[Any, str],
) -> None:
    monkeypatch.setattr(*place, lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert run(command(pairs, tmp_path / "out", tmp_path / "cache")) == 5
    told = capsys.readouterr().err
    assert "No space left on device" in told and "Traceback" not in told
    assert not (tmp_path / "out" / "left.pairs").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--max-suspects", "5%"), "a limit on the suspects needs --trusted"),
        (("--trusted", "PAIRS"), "the trusted pairs are the pairs that are screened"),
        (
            ("--trusted", "PAIRS", "--max-suspects", "0.1%"),
            "--max-suspects 0.1% is not above the false positives of 3%",
        ),
        (("--false-positives", "2"), "--false-positives 2 is no share"),
        (("-o", "sarif"), "unknown report format 'sarif'"),
        (("--out", str(CLEAN)), "holds other files and no screening"),
        (("--review", "missing.json"), "screen the pairs first"),
        (("--found", "missing"), "there is no missing"),
        (("--ray-address", "10.0.0.1:6379"), "--ray-address is for --executor ray"),
        (("--shard", "3/2"), "--shard 3/2 is not a shard"),
        (("--shard", "1/2"), "--shard makes no report"),
    ],
)
def test_wrong_input_is_one_message_and_nothing_is_written(
    light: Command, place: Path, pairs: Path, options: tuple[str, ...], told: str
) -> None:
    given = command(pairs, Path("out"), Path("cache"), *(str(pairs) if o == "PAIRS" else o for o in options))
    ended = light(*given)
    assert (ended.code, told in ended.err, "Traceback" in ended.err) == (2, True, False), ended.err
    assert not (place / "out").exists()


def test_a_policy_is_about_models_or_about_pairs(light: Command, place: Path, pairs: Path) -> None:
    (place / "p.yaml").write_text(POLICY.format(more=""))
    for given, code, told in (
        ((*command(pairs, Path("out"), Path("cache")), "--policy", "p.yaml"), 2, "--policy sets --max-suspects and"),
        (("screen", str(pairs), "--model", str(CLEAN), "--out", "out", "-p", "baseline"), 4, "is about models"),
        (("scan", str(CLEAN), "-p", "p.yaml"), 4, "is about training pairs (rule clean-set)"),
        (("gate", str(CLEAN), "-p", "p.yaml", "--out", "bundle"), 4, "is about training pairs"),
        (("policy", "check", "p.yaml"), 0, ""),
    ):
        ended = light(*given)
        assert (ended.code, told in ended.err, "Traceback" in ended.err) == (code, True, False), ended.err


def test_pairs_that_cannot_be_screened_are_refused(light: Command, place: Path) -> None:
    def refused(source: str, told: str) -> None:
        ended = light(*command(Path(source), Path("out"), Path("cache")))
        assert (ended.code, told in ended.err) == (2, True), ended.err

    few = shard(place / "few.tar", 0, 20, set())
    refused(str(few), "holds 20 pairs, and a screening needs 64")
    refused("synthetic:100", "is drawn by pargate itself")
    folder = place / "mute"
    folder.mkdir()
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    (folder / "a.png").write_bytes(picture.getvalue())
    refused(str(folder), "no captions")
    missing = light("screen", str(few), "--out", "out")
    assert (missing.code, "--model is missing" in missing.err) == (2, True)
