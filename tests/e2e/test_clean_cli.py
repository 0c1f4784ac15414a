"""`pargate clean`, the command: what it writes, what it refuses, and what is left when it is killed."""

import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from conftest import MODELS, Command, Ended, Nursery, surroundings
from PIL import Image

from pargate.core.provenance import ProvenanceRecord, broken_link
from pargate.files import locked

POISONED, CLEAN = MODELS / "poisoned", MODELS / "clean"
WEIGHTS = "open_clip_model.safetensors"
SHARED = Path(__file__).parents[3] / "shared"

SMALL = ["--batch-size", "8", "--precision", "fp32", "--save-every", "2"]

Begin = Callable[..., "subprocess.Popen[str]"]


def asked(*more: str | Path, pairs: str = "synthetic:40", steps: int = 8, out: str = "out") -> list[str | Path]:
    return ["clean", POISONED, "--pairs", pairs, "--steps", str(steps), *SMALL, "--out", out, *more]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def record(folder: Path) -> ProvenanceRecord:
    return ProvenanceRecord.model_validate_json((folder / "provenance.json").read_bytes())


def one_message(ended: Ended, code: int, *words: str) -> None:
    """The command failed with one message, which says these things, and nothing on stdout."""
    assert ended.code == code, ended.err
    assert ended.out == "" and "Traceback" not in ended.said
    assert sum(line.startswith("pargate: ") for line in ended.said.splitlines()) == 1, ended.err
    message = ended.err[ended.err.index("pargate: ") :]
    for word in words:
        assert word in message, message


# ---- what is written


@pytest.fixture(scope="module")
def cleaned(warm_nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """A folder in which a model was cleaned to its end without interruption."""
    home = tmp_path_factory.mktemp("cleaned")
    for name in ("tmp", "here"):
        (home / name).mkdir()
    warm_nursery.begin(home / "here", tuple(asked(steps=14)), {}, {})
    return home / "here", warm_nursery.end()


def test_the_command_ends_well_and_says_what_became_of_the_model(cleaned: tuple[Path, Ended]) -> None:
    _, ended = cleaned
    assert ended.code == 0
    for words in ("steps        14  (asked for)", "step 14 of 14: loss", "image tower  trained", "text tower  trained",
                  "out: all 14 steps were taken", "scan the model: pargate scan out"):  # fmt: skip
        assert words in ended.said
    assert "Warning" not in ended.said


def test_the_folder_holds_a_model_its_record_and_its_curves_and_nothing_else(cleaned: tuple[Path, Ended]) -> None:
    place, _ = cleaned
    assert [path.name for path in place.iterdir()] == ["out"]
    assert sorted(path.name for path in (place / "out").iterdir()) == [
        "open_clip_config.json", WEIGHTS, "provenance.json", "training.svg",
    ]  # fmt: skip
    drawn = ElementTree.parse(place / "out" / "training.svg").getroot()
    assert drawn.tag == "{http://www.w3.org/2000/svg}svg" and "squared distance" in "".join(drawn.itertext())
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in (place / "out").iterdir())


def test_the_record_says_what_was_made_from_what_and_how(cleaned: tuple[Path, Ended]) -> None:
    place, ended = cleaned
    made = record(place / "out")
    assert [notice for notice in made.notices if notice.startswith("drawn pairs alone: par cost")]
    assert ended.err.count("note: drawn pairs alone: par cost") == 1
    text = (place / "out" / "provenance.json").read_text()
    assert ProvenanceRecord.model_validate_json(made.model_dump_json(by_alias=True)) == made
    assert json.loads(text)["schema"] == "pargate/provenance/1"
    assert made.parent_sha256 == digest(POISONED / WEIGHTS)
    assert made.inputs[0].size_bytes == (POISONED / WEIGHTS).stat().st_size
    assert made.inputs[1].name == "synthetic:40" and len(made.inputs[1].sha256) == 64
    assert {s.name: s.sha256 for s in made.outputs} == {
        name: digest(place / "out" / name) for name in (WEIGHTS, "open_clip_config.json")
    }
    assert made.outputs[0].name == WEIGHTS
    settings = made.configuration
    assert (settings["method"], settings["steps"], settings["batch_size"], settings["tau"]) == ("par", 14, 8, 2.15)
    assert (settings["precision"], settings["batch_norm"], settings["seed"]) == ("fp32", "eval", 0)
    assert made.reasons["steps"] == "asked for" and "1.4 M parameters" in made.reasons["lr"]
    assert {"pargate", "torch", "numpy"} <= set(made.tool) and all(made.tool.values())
    assert made.log.steps == tuple(range(14))
    assert set(made.log.values) == {"learning_rate", "loss", "contrastive", "image_shift", "text_shift"}
    assert made.stopped == "all 14 steps were taken"
    assert all(tower.trained and 0 < tower.embedding_shift < 4 for tower in made.moved.values())
    assert os.uname().nodename not in text, "no names of machines"


def test_the_input_is_not_touched(cleaned: tuple[Path, Ended], tmp_path: Path) -> None:
    assert set(contents(POISONED)) == {"open_clip_config.json", WEIGHTS, "truth.json"}
    assert digest(POISONED / WEIGHTS) == record(cleaned[0] / "out").parent_sha256
    assert digest(cleaned[0] / "out" / WEIGHTS) != digest(POISONED / WEIGHTS)


def test_the_result_can_be_inspected_and_scanned(
    cleaned: tuple[Path, Ended], light: Command, warm: Command, place: Path
) -> None:
    out = cleaned[0] / "out"
    assert light("inspect", out).code == 0
    (place / "policy.yaml").write_text(POLICY)
    ended = warm("scan", out, "-p", "policy.yaml", "--precision", "fp32", "-o", "json", "-q")
    assert ended.code in (0, 1, 3), ended.err
    assert json.loads(ended.out)["model"]["sha256"] == digest(out / WEIGHTS)


def test_a_cleaned_model_can_be_cleaned_again_and_the_records_chain(
    cleaned: tuple[Path, Ended], warm: Command, place: Path
) -> None:
    first = cleaned[0] / "out"
    again = asked("--method", "finetune", "--towers", "image", steps=2)
    ended = warm("clean", first, *again[2:])
    assert ended.code == 0, ended.err
    records = [record(first), record(place / "out")]
    assert broken_link(records) is None and broken_link(records[::-1]) == 1
    assert not records[1].moved["text"].trained and records[1].moved["text"].weight_change == 0


@pytest.mark.parametrize(
    "more",
    [["--method", "cleanclip", "--micro-batch", "3"], ["--method", "par-plus"], ["--checkpointing"]],
    ids=str,
)
def test_every_method_makes_a_model(more: list[str], warm: Command, place: Path) -> None:
    ended = warm(*asked(*more, steps=2, pairs="synthetic:"))
    assert ended.code == 0, ended.err
    assert all(abs(value) < 100 for values in record(place / "out").log.values.values() for value in values)


# ---- killed, and gone on


def begun(warm_nursery: Nursery, place: Path, arguments: list[str | Path], until: Callable[[], bool]) -> int:
    """Start a cleaning and wait until something is so; its process number."""
    number = warm_nursery.begin(place, tuple(arguments), {}, {})
    deadline = time.monotonic() + 90
    while not until():
        assert time.monotonic() < deadline, "nothing happened for 90 seconds"
        time.sleep(0.005)
    return number


def steps_saved(place: Path) -> int:
    """How often the state was written, by its inode: every save is a new file."""
    state = place / "out.unfinished" / "state.pt"
    return state.stat().st_ino if state.exists() else 0


def test_a_run_that_was_killed_at_any_step_goes_on_to_the_same_bits(
    cleaned: tuple[Path, Ended], warm: Command, warm_nursery: Nursery, place: Path
) -> None:
    whole = cleaned[0] / "out"
    chance = random.Random(os.urandom(8))
    for more in ([], ["--resume"], ["--resume"]):
        before = steps_saved(place)
        number = begun(warm_nursery, place, asked(*more, steps=14), lambda old=before: steps_saved(place) != old)
        time.sleep(chance.uniform(0, 0.2))
        os.kill(number, signal.SIGKILL)
        ended = warm_nursery.end()
        assert not (place / "out").exists(), f"too late to kill: {ended}"
        assert ended.code == -signal.SIGKILL and steps_saved(place)
    ended = warm(*asked("--resume", steps=14))
    assert ended.code == 0, ended.err
    assert digest(place / "out" / WEIGHTS) == digest(whole / WEIGHTS)
    assert record(place / "out").log == record(whole).log and record(place / "out").moved == record(whole).moved
    assert [path.name for path in place.iterdir() if "unfinished" in path.name] == []


def test_ctrl_c_ends_with_130_and_the_run_can_go_on(
    cleaned: tuple[Path, Ended], warm: Command, warm_nursery: Nursery, place: Path
) -> None:
    number = begun(warm_nursery, place, asked(steps=14), lambda: steps_saved(place) != 0)
    os.kill(number, signal.SIGINT)
    ended = warm_nursery.end()
    one_message(ended, 130, "interrupted")
    state = place / "out.unfinished" / "state.pt"
    assert not (place / "out").exists() and state.exists()

    one_message(warm(*asked(steps=14)), 2, "out.unfinished holds the state of an interrupted run", "--resume")
    before = contents(state.parent)
    for other in (["--lr", "1e-4"], ["--seed", "1"], ["--method", "finetune"], ["--precision", "bf16"]):
        one_message(warm(*asked("--resume", *other, steps=14)), 2, "with another model, pairs or settings", "remove it")
    other = ["clean", CLEAN, *asked("--resume", steps=14)[2:]]
    one_message(warm(*other), 2, "with another model, pairs or settings")
    one_message(warm(*asked("--resume", steps=14, pairs="synthetic:41")), 2, "another model, pairs or settings")
    assert contents(state.parent) == before, "a refusal leaves what is kept alone"

    # Fewer pairs at a time is no other run: memory may be what it ended for.
    ended = warm(*asked("--resume", "--micro-batch", "3", steps=14))
    assert ended.code == 0, ended.err
    assert record(place / "out").configuration_sha256 == record(cleaned[0] / "out").configuration_sha256


def test_a_result_that_could_not_be_written_is_not_trained_again(
    cleaned: tuple[Path, Ended], warm: Command, warm_nursery: Nursery, place: Path
) -> None:
    begun(warm_nursery, place, asked(steps=14), lambda: steps_saved(place) != 0)
    (place / "out").mkdir()
    one_message(warm_nursery.end(), 2, "out exists already", "the training is kept, and --resume writes its result")
    (place / "out").rmdir()
    ended = warm(*asked("--resume", steps=14))
    assert ended.code == 0 and "step 14" not in ended.said and "pairs a second" not in ended.said, ended.err
    assert digest(place / "out" / WEIGHTS) == digest(cleaned[0] / "out" / WEIGHTS)


def test_a_run_that_was_ended_before_its_first_state_begins_anew_either_way(
    warm: Command, warm_nursery: Nursery, place: Path
) -> None:
    number = begun(
        warm_nursery, place, asked("--save-every", "500"), lambda: (place / "out.unfinished" / "run.json").exists()
    )
    os.kill(number, signal.SIGKILL)
    warm_nursery.end()
    copied = place / "copy.unfinished"
    shutil.copytree(place / "out.unfinished", copied)
    assert warm(*asked(steps=1)).code == 0
    assert warm(*asked("--resume", steps=1, out="copy")).code == 0


# ---- places


@pytest.mark.parametrize("command", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("taken", "taken exists already"),
        ("file", "file exists already"),
        ("model", "model is the model itself"),
        ("model/inside", "model/inside is the model itself"),
        ("model/../model/deep/er", "is the model itself"),
        ("no/such/place", "the folder no/such does not exist"),
        (".", "--out . cannot be a new folder"),
        ("", "cannot be a new folder"),
        ("/", "--out / cannot be a new folder"),
        ("a" * 250, "File name too long"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_at_once(
    out: str, words: str, command: list[str], light: Command, place: Path
) -> None:
    shutil.copytree(POISONED, place / "model")
    (place / "taken").mkdir()
    (place / "file").write_text("")
    before = contents(place)
    arguments = ["clean", "model", "--pairs", "synthetic:40", "--out", out, *command]
    one_message(light(*arguments), 2, words)
    assert contents(place) == before and not (place / "model" / "inside").exists()


def test_a_model_that_bears_the_name_of_the_state_is_refused(light: Command, place: Path) -> None:
    shutil.copytree(POISONED, place / "model.unfinished")
    before = contents(place)
    arguments = ["clean", "model.unfinished", "--pairs", "synthetic:40", "--out", "model"]
    one_message(light(*arguments), 2, "is the model itself", "the input is never changed")
    assert contents(place) == before


def test_resume_without_anything_to_go_on_from_is_refused(light: Command) -> None:
    one_message(light(*asked("--resume")), 2, "--resume: there is no out.unfinished", "omit --resume")


def test_two_runs_never_share_one_output(warm: Command, place: Path) -> None:
    folder = place / "out.unfinished"
    folder.mkdir()
    with locked(folder / ".lock"):
        one_message(warm(*asked()), 5, "another process holds out.unfinished", "wait until it has ended")
        assert folder.exists() and not (place / "out").exists()
    assert warm(*asked()).code == 0
    assert (place / "out").exists() and not folder.exists()


def test_a_folder_of_that_name_keeps_what_is_not_of_a_run(warm: Command, place: Path) -> None:
    folder = place / "out.unfinished"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    assert warm(*asked()).code == 0
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_a_model_without_a_name_is_refused(light: Command, place: Path) -> None:
    one_message(light("clean", "", *asked()[2:]), 2, "MODEL is empty", "check that the variable is set")


def test_a_device_that_must_be_there_is_not_talked_away(warm: Command, place: Path) -> None:
    ended = warm(*asked("--require", "cuda"), CUDA_VISIBLE_DEVICES="")
    one_message(ended, 5, "device 'cuda' was asked for", "use a machine with one, or omit --require")


def test_names_do_not_steer_the_terminal(warm: Command, place: Path) -> None:
    ended = warm(*asked("--dry-run", out="a\x1b[31mb"))
    assert ended.code == 0 and "\x1b" not in ended.said and r"a\x1b[31mb" in ended.said


@pytest.mark.nightly
def test_what_cannot_be_compiled_here_is_said(start: Begin, place: Path) -> None:
    env = {"CXX": "/no/compiler", "TORCHINDUCTOR_CACHE_DIR": str(place / "compiled")}
    (ended,) = both_ended([start(*asked("--compile", steps=2), **env)])
    one_message(ended, 5, "torch cannot compile the image tower here: ", "omit --compile")


# ---- pairs


def table(place: Path, rows: list[tuple[str, str]], header: str = "image,caption") -> str:
    for number, (name, _) in enumerate(rows):
        if name.endswith(".png"):
            Image.new("RGB", (40, 40), (number, 0, 0)).save(place / name)
    lines = [header, *(f"{name},{caption}" for name, caption in rows)]
    (place / "pairs.csv").write_text("\n".join(lines) + "\n")
    return "pairs.csv"


def without_captions(place: Path) -> tuple[str, list[str]]:
    return table(place, [("a.png", ""), ("b.png", "")], "image,label"), ["pairs.csv", "caption"]


def one_pair(place: Path) -> tuple[str, list[str]]:
    return table(place, [("a.png", "a star")]), ["pairs.csv holds one pair", "contrastive learning compares pairs"]


def empty_captions(place: Path) -> tuple[str, list[str]]:
    return table(place, [("a.png", "a star"), ("b.png", " ")]), ["pairs.csv", "caption"]


def a_missing_picture(place: Path) -> tuple[str, list[str]]:
    return table(place, [("a.png", "a star"), ("b.jpg", "a car")]), ["b.jpg"]


def a_shard_cut_short(place: Path) -> tuple[str, list[str]]:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for number in range(4):
            picture = io.BytesIO()
            Image.effect_noise((40, 40), 80).convert("RGB").save(picture, "png")
            for suffix, content in (("png", picture.getvalue()), ("txt", b"a star")):
                member = tarfile.TarInfo(f"{number:04d}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    (place / "shard.tar").write_bytes(stream.getvalue()[:5000])
    return "shard.tar", ["shard.tar"]


def nothing_there(place: Path) -> tuple[str, list[str]]:
    return "nowhere", ["nowhere"]


def carriers_as_pairs(place: Path) -> tuple[str, list[str]]:
    return "builtin:scenes", ["is for scanning a model, and must not clean it", "synthetic:"]


def too_few_for_a_batch(place: Path) -> tuple[str, list[str]]:
    return "synthetic:5", ["a batch of 8 is more than the 5 pairs of the source", "--batch-size 5"]


@pytest.mark.parametrize(
    "build",
    [without_captions, one_pair, empty_captions, a_missing_picture, a_shard_cut_short, nothing_there, carriers_as_pairs,
     too_few_for_a_batch],
    ids=lambda build: build.__name__,
)  # fmt: skip
def test_pairs_that_cannot_be_used_are_refused_before_torch_is_loaded(
    build: Callable[[Path], tuple[str, list[str]]], light: Command, place: Path
) -> None:
    pairs, words = build(place)
    one_message(light(*asked(pairs=pairs)), 2, *words)
    assert not list(place.glob("out*"))


def test_pictures_that_do_not_decode_are_counted_and_end_a_run(warm: Command, place: Path) -> None:
    rows = [(f"{number}.png", "a star") for number in range(8)]
    pairs = table(place, rows)
    (place / "5.png").write_bytes(b"not a picture")
    ended = warm(*asked(pairs=pairs, steps=1))
    one_message(ended, 2, "pairs.csv: 1 of 8 images cannot be decoded", "pair 5 ('a star')", "repair or remove")
    assert not list(place.glob("out*")), "nothing to go on from: nothing is left"


def test_what_did_not_decode_is_counted_over_all_parts_of_a_run(
    warm: Command, warm_nursery: Nursery, place: Path
) -> None:
    pairs = table(place, [(f"{number}.png", "a star") for number in range(120)])
    (place / "5.png").write_bytes(b"not a picture")
    begun(warm_nursery, place, asked(pairs=pairs, steps=15), lambda: steps_saved(place) != 0)
    (place / "out").mkdir()
    one_message(warm_nursery.end(), 2, "out exists already")
    (place / "out").rmdir()
    ended = warm(*asked("--resume", pairs=pairs, steps=15))
    assert ended.code == 0 and ended.said.count("note: 1 image could not be decoded") == 1, ended.said
    made = record(place / "out")
    assert "1 image could not be decoded; the next pair replaced each" in made.notices and made.seconds > 0.2


def test_pairs_that_change_under_a_run_end_it(warm_nursery: Nursery, place: Path) -> None:
    pairs = table(place, [(f"{number}.png", "a star") for number in range(16)])
    begun(warm_nursery, place, asked(pairs=pairs, steps=14), lambda: steps_saved(place) != 0)
    Image.new("RGB", (40, 40), (0, 200, 0)).save(place / "3.png")
    one_message(warm_nursery.end(), 2, "3.png changed while it was in use", "start again")
    assert not (place / "out").exists()


# ---- settings


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--tau", "4.5"], ["--tau is 4.5: input should be less than or equal to 4"]),
        (["--tau", "-1"], ["--tau is -1.0"]),
        (["--tau", "nan"], ["--tau is nan"]),
        (["--lr", "0"], ["--lr is 0.0: input should be greater than 0"]),
        (["--lr", "0.5"], ["--lr is 0.5: input should be less than or equal to 0.01"]),
        (["--steps", "0"], ["--steps is 0"]),
        (["--batch-size", "1"], ["--batch-size is 1"]),
        (["--micro-batch", "0"], ["--micro-batch is 0"]),
        (["--views", "0"], ["--views is 0"]),
        (["--save-every", "0"], ["--save-every is 0"]),
        (["--method", "finetune", "--tau", "1"], ["--tau does not go with finetune"]),
        (["--method", "magic"], ["unknown method 'magic'"]),
        (["--policy", "quick"], ["--policy needs --sweep"]),
        (["--images", "builtin:scenes"], ["--images needs --sweep"]),
        (["--preset", "paper"], ["is more than the 40 pairs of the source"]),
        (["--device", "cpu", "--require", "cuda"], ["--require cuda and --device cpu exclude each other"]),
        (["--sweep", "size=1,2"], ["unknown setting 'size'", "tau, lr, steps, batch-size"]),
        (["--sweep", "tau=1,x"], ["--sweep tau=1,x", "write tau=A,B,C"]),
        (["--sweep", "tau=1,1"], ["a value is repeated"]),
        (["--device", "cpu", "--sweep", "steps=" + "9" * 400], ["--steps is 9999"]),
        (["--pairs", "diffusers:", "--dry-run"], ["diffusers: names no model"]),
        (["--device", "cpu", "--sweep", "tau=1,9"], ["--tau is 9.0: input should be less than or equal to 4"]),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused_by_name_before_torch_is_loaded(
    more: list[str], words: list[str], light: Command, place: Path
) -> None:
    arguments = asked(*more)
    if "--preset" in more:
        arguments = ["clean", POISONED, "--pairs", "synthetic:40", "--out", "out", *more]
    one_message(light(*arguments), 2, *words)
    assert not list(place.glob("out*"))


def test_a_model_that_could_run_code_is_refused_as_a_finding(light: Command, place: Path) -> None:
    (place / "model").mkdir()
    shutil.copy(POISONED / "open_clip_config.json", place / "model")
    (place / "model" / "open_clip_pytorch_model.bin").write_bytes(b"\x80\x04\x95cos\nsystem\n.")
    ended = light("clean", "model", *asked()[2:])
    one_message(ended, 1, "open_clip_pytorch_model.bin", "can run any code")
    assert not list(place.glob("out*"))


def test_cuda_that_is_required_and_not_there_ends_with_5(warm: Command, place: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA: what happens without it cannot be seen here")
    one_message(warm(*asked("--require", "cuda")), 5, "device 'cuda' was asked for")
    one_message(warm(*asked("--device", "cuda:3")), 5, "device 'cuda:3' was asked for")
    assert not list(place.glob("out*"))


def test_a_dry_run_says_what_would_be_done_and_does_nothing(light: Command, place: Path) -> None:
    ended = light(*asked("--dry-run", "--device", "cpu"))
    assert ended.code == 0
    for words in ("poisoned: ", "1.4 M parameters", "pairs   synthetic:40: 40", "method  par", "steps        8  (asked",
                  "lr           0.001  (published 3e-05", "out     out"):  # fmt: skip
        assert words in ended.said, ended.err
    assert not list(place.iterdir())


# ---- the machine


def test_a_full_disk_leaves_nothing_half_written(warm: Command, place: Path) -> None:
    # Too small for the state of a run, and for the weights.
    ended = warm(*asked(steps=2), limits={"RLIMIT_FSIZE": 1_000_000})
    one_message(ended, 5, "cannot write", "free space or choose another place")
    assert not list(place.iterdir()), "neither a folder nor a part of one"
    ended = warm(*asked(steps=4), limits={"RLIMIT_FSIZE": 1_000_000})
    one_message(ended, 5, "cannot write", "state.pt")
    assert not list(place.iterdir())


@pytest.mark.skipif(
    version("torch").startswith("2.11."), reason="where a convolution gets no memory, torch 2.11 crashes inside oneDNN"
)
def test_out_of_memory_is_one_message_and_the_pairs_that_it_names_fit(warm: Command, place: Path) -> None:
    limits = {"RLIMIT_AS": 300 << 20}
    large = asked("--batch-size", "256", steps=1, pairs="synthetic:")
    ended = warm(*large, "--micro-batch", "256", limits=limits)
    one_message(ended, 5, "out of memory while training on 256 pairs at a time")
    assert not list(place.iterdir())
    # Which is said depends on how the allocator of this machine gives back what the first attempt took.
    named = re.search(r"use --micro-batch (\d+), the largest that fits", ended.err)
    assert named or "use a much smaller --micro-batch" in ended.said
    ended = warm(*large, "--micro-batch", named[1] if named else "16", limits=limits)
    assert ended.code == 0, ended.err


# ---- several processes


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def two(start: Begin, arguments: list[str | Path]) -> "list[subprocess.Popen[str]]":
    """Two processes as torchrun would start them."""
    env = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [start(*arguments, **env, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(2)]


def both_ended(processes: "list[subprocess.Popen[str]]") -> list[Ended]:
    found = []
    for process in processes:
        out, err = process.communicate(timeout=150)
        found.append(Ended(process.returncode, out, err))
    return found


@pytest.mark.nightly
def test_torchrun_gives_the_model_of_one_process_and_one_voice(warm: Command, place: Path) -> None:
    assert warm(*asked("--lr", "1e-4", steps=6, out="one")).code == 0
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        str(free_port()),
    ]
    ended = subprocess.run(
        [*command, "-m", "pargate", *map(str, asked("--lr", "1e-4", steps=6))],
        cwd=place, env=surroundings(place.parent / "tmp"),
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("step 6 of 6") == 1 and ended.stderr.count("method  par") == 1
    assert ended.stdout.count("out: all 6 steps were taken") == 1
    one, both = record(place / "one"), record(place / "out")
    assert both.configuration_sha256 == one.configuration_sha256
    for name, values in one.log.values.items():
        assert both.log.values[name] == pytest.approx(values, rel=1e-3, abs=1e-5), name
    for tower, moved in one.moved.items():
        assert both.moved[tower].embedding_shift == pytest.approx(moved.embedding_shift, rel=1e-2, abs=1e-5)
        assert both.moved[tower].weight_change == pytest.approx(moved.weight_change, rel=1e-3)
    assert sorted(path.name for path in place.iterdir()) == ["one", "out"]


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, pytest.param(1, marks=pytest.mark.nightly)])
def test_a_process_that_is_killed_ends_the_other_with_one_message(killed: int, start: Begin, place: Path) -> None:
    processes = two(start, asked("-q", "--steps", "5000"))
    deadline = time.monotonic() + 120
    while not steps_saved(place):
        assert all(process.poll() is None for process in processes), both_ended(processes)
        assert time.monotonic() < deadline
        time.sleep(0.05)
    processes[killed].kill()
    ended = both_ended(processes)
    one_message(ended[1 - killed], 5, "another process of this run ended", "--resume")
    assert "pargate: " not in ended[killed].err and not (place / "out").exists() and steps_saved(place)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (asked(pairs="nowhere.tar"), "no such file or folder: nowhere.tar"),
        *(
            pytest.param(*case, marks=pytest.mark.nightly)
            for case in (
                (["clean", POISONED, "--pairs", "synthetic:40"], "--out"),
                (asked("--images", "builtin:scenes"), "--images needs --sweep"),
                (asked("--pairs", ""), "--pairs is empty"),
                (asked("--micro-batch", "0"), "--micro-batch is 0"),
            )
        ),
    ],
)
def test_what_is_wrong_for_all_processes_is_said_once(wrong: list[Any], words: str, start: Begin, place: Path) -> None:
    began = time.monotonic()
    ended = both_ended(two(start, wrong))
    assert ended[1] == Ended(2, "", "")
    one_message(ended[0], 2, words)
    assert time.monotonic() - began < 60, "nobody waits for one that has ended"


@pytest.mark.slow
def test_what_only_the_first_process_sees_is_said_once(start: Begin, place: Path) -> None:
    (place / "taken").mkdir()
    ended = both_ended(two(start, asked(out="taken")))
    assert ended[1] == Ended(2, "", "")
    one_message(ended[0], 2, "taken exists already")
    (place / "held.unfinished").mkdir()
    with locked(place / "held.unfinished" / ".lock"):
        ended = both_ended(two(start, asked(out="held")))
    assert ended[1] == Ended(5, "", "")
    one_message(ended[0], 5, "another process holds held.unfinished")
    ended = both_ended(two(start, asked("--dry-run")))
    assert [one.code for one in ended] == [0, 0] and "method  par" in ended[0].said and not ended[1].said
    ended = both_ended(two(start, asked("--batch-size", "7")))
    assert [one.code for one in ended] == [2, 2]
    assert sum(one.err.count("a batch of 7 cannot be shared by 2 processes") for one in ended) == 1
    assert sum(one.err.count("pargate: ") for one in ended) == 1


# ---- a sweep


POLICY = """
pargate: 1
name: sweep
classes: {names: [apple, banana, car, fish, house, star, tree, key], templates: ['a photo of a {}.']}
budget: {images: 128}
rules:
  - id: planted
    probe: attack
    triggers: [badnet]
    target: banana
    max: {attack_success: 50%}
    why: A trigger that was planted must not be there any more.
"""


@pytest.mark.slow
def test_a_sweep_cleans_and_scans_for_each_value_and_draws_the_curve(warm: Command, place: Path) -> None:
    (place / "policy.yaml").write_text(POLICY)
    arguments = asked("--sweep", "tau=0.5,2", "-p", "policy.yaml", steps=2)
    planned = warm(*arguments, "--dry-run")
    assert planned.code == 0 and planned.said.count("method  par") == 2 and not (place / "out").exists(), planned.err
    ended = warm(*arguments)
    assert ended.code == 0, ended.err
    points: list[dict[str, Any]] = json.loads((place / "out" / "sweep.json").read_text())
    assert [point["label"] for point in points] == ["as it was", "tau 0.5", "tau 2"]
    assert all(0 <= point["low"] <= point["success"] <= point["high"] <= 1 for point in points)
    assert all(0 <= point["accuracy"] <= 1 for point in points)
    words = "".join(ElementTree.parse(place / "out" / "sweep.svg").getroot().itertext())
    assert "tau 0.5" in words and "clean accuracy" in words
    assert [record(place / "out" / f"tau={tau}").configuration["tau"] for tau in ("0.5", "2")] == [0.5, 2.0]
    assert "tau 2" in ended.said and "attack success" in ended.said

    # What is there is taken, if it is of this sweep.
    before = contents(place / "out")
    again = warm(*arguments)
    assert again.code == 0 and contents(place / "out") == before
    one_message(
        warm(*arguments, "--lr", "1e-4"),
        2,
        "out/tau=0.5 does not belong to this sweep: it was made with other settings",
        "another --out",
    )
    one_message(warm(*arguments, "--pairs", "synthetic:41"), 2, "it was made with other pairs")
    one_message(warm("clean", CLEAN, *arguments[2:]), 2, "it was made of another model")
    shutil.copytree(POISONED, place / "other")
    settings = json.loads((place / "other" / "open_clip_config.json").read_text())
    settings["preprocess_cfg"]["mean"] = [0.1, 0.2, 0.3]
    (place / "other" / "open_clip_config.json").write_text(json.dumps(settings))
    one_message(warm("clean", "other", *arguments[2:]), 2, "it was made of another model")
    with (place / "out" / "tau=2" / WEIGHTS).open("ab") as weights:
        weights.write(b"!")
    one_message(
        warm(*arguments, "--dry-run"),
        2,
        f"out/tau=2 does not belong to this sweep: {WEIGHTS} is not as it was written",
    )
    shutil.rmtree(place / "out" / "tau=2")
    (place / "out" / "tau=2").mkdir()
    one_message(warm(*arguments), 2, "out/tau=2 is not a model that pargate cleaned")


# ---- with trained models and real pairs


@pytest.mark.slow
def test_a_real_model_is_cleaned_on_real_pairs_for_a_few_steps(zoo: Path, warm: Command, place: Path) -> None:
    pairs = SHARED / "data" / "pairs-64.tar"
    if not pairs.exists():
        pytest.skip(f"the real pairs are not here: {pairs} does not exist")
    ended = warm(
        "clean", zoo / "vit-stripes", "--pairs", pairs, "--steps", "4", "--batch-size", "32", "--precision", "fp32",
        "--out", "out",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    made = record(place / "out")
    log = made.log.values
    assert log["image_shift"][0] == pytest.approx(0, abs=1e-5) and log["image_shift"][-1] > log["image_shift"][0]
    assert all(0 < value < 2 * 3.47 for value in log["contrastive"]), "better than twice as bad as guessing"
    assert log["loss"][0] == pytest.approx(log["contrastive"][0], abs=1e-4)
    assert not made.notices or all("could not be decoded" not in notice for notice in made.notices)
