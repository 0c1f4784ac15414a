"""Ways to a pass that is an accident: of spelling, of lost data, of an empty comparison. Each ends otherwise."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pargate.core.report import ScanReport
from pargate.scenes import render as scenes

MODELS = Path(__file__).parents[2] / "examples" / "models"
CLEAN, POISONED = MODELS / "clean", MODELS / "poisoned"
WEIGHTS, CONFIG = "open_clip_model.safetensors", "open_clip_config.json"

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n"

POLICY = """\
pargate: 1
name: small
images: {{source: ./val}}
classes: {{names: ./classes.txt, templates: ['a photo of a {{}}.']}}
confidence: 99%
rules:
  - {{id: known, probe: attack, triggers: [{trigger}], target: '{target}', max: {{excess: 30pp}}}}
"""
TRIANGLES = "{kind: triangles, scale: proportional}"

Command = Callable[..., Any]


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 pictures in class folders, and the list of their classes."""
    folder: Path = tmp_path_factory.mktemp("drawn")
    numbers = np.arange(1 << 41, (1 << 41) + 200)
    for number, pixels, label in zip(
        numbers, scenes.render(numbers, 64, 0).pixels, scenes.describe(numbers, 0).labels, strict=True
    ):
        place = folder / "val" / scenes.LABELS[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number}.png")
    (folder / "classes.txt").write_text("\n".join(scenes.LABELS) + "\n")
    return folder


@pytest.fixture
def pictures(drawn: Path, place: Path) -> Path:
    shutil.copytree(drawn, place, dirs_exist_ok=True)
    policy(place)
    return place / "val"


def policy(place: Path, target: str = "banana", trigger: str = TRIANGLES) -> None:
    (place / "p.yaml").write_text(POLICY.format(target=target, trigger=trigger), encoding="utf-8")


def listed(place: Path, **renamed: str) -> list[str]:
    """Rewrite the list of classes with other names; the names it then holds."""
    names = [renamed.get(name, name) for name in scenes.LABELS]
    (place / "classes.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    return names


def notices(place: Path) -> tuple[str, ...]:
    return ScanReport.from_json((place / "r.json").read_bytes()).notices


def table(place: Path, label: Callable[[str, int], Any], name: str = "t.csv") -> str:
    rows = sorted((place / "val").rglob("*.png"))
    text = "".join(f"{path.relative_to(place)},{label(path.parent.name, n)}\n" for n, path in enumerate(rows))
    (place / name).write_text("image,label\n" + text)
    return name


# --- spelling ---


def test_a_folder_that_is_spelled_as_the_list_is_the_class_of_the_list(
    place: Path, pictures: Path, warm: Command
) -> None:
    (pictures / "banana").rename(pictures / "yellow_banana")
    listed(place, banana="yellow_banana")
    policy(place, target="Yellow Banana")
    ended = warm("scan", POISONED, "-p", "p.yaml", "-o", "json=r.json")
    assert ended.code == 1 and "→ yellow_banana, excess" in ended.said
    report = ScanReport.from_json((place / "r.json").read_bytes())
    assert report.classes.count == len(scenes.LABELS)
    assert any(": 1, such as 'yellow banana' for 'yellow_banana'" in said for said in report.notices)


@pytest.mark.parametrize(
    ("listed_as", "target"),
    [("banana's", "banana\u2019s"), ("banana caf\u00e9", "banana cafe\u0301"), ("banana", "banana ")],
)
def test_a_target_that_the_tokenizer_reads_as_a_class_is_that_class(
    listed_as: str, target: str, place: Path, pictures: Path, light: Command
) -> None:
    shutil.move(pictures / "banana", pictures / listed_as)
    listed(place, banana=listed_as)
    policy(place, target=target)
    ended = light("scan", POISONED, "-p", "p.yaml", "--dry-run")
    assert ended.code == 0 and f"classes   ./classes.txt: {len(scenes.LABELS)}\n" in ended.said


def test_two_names_that_are_cut_to_the_same_tokens_are_refused_where_a_rule_is_about_one(
    place: Path, pictures: Path, warm: Command
) -> None:
    shutil.rmtree(pictures / "banana")
    long = "very " * 80
    names = [name for name in listed(place) if name != "banana"]
    (place / "classes.txt").write_text("\n".join([*names, f"{long}ripe banana", f"{long}green banana"]) + "\n")
    policy(place, target=f"{long}green banana")
    ended = warm("scan", POISONED, "-p", "p.yaml")
    assert ended.code == 2 and "cannot tell the classes" in ended.said
    assert "ripe banana' and '" in ended.said and "green banana' apart" in ended.said
    policy(place, target="car", trigger="badnet")
    ended = warm("scan", CLEAN, "-p", "p.yaml", "-o", "json=r.json")
    assert ended.code == 0 and any("cannot tell apart, so they count as one" in said for said in notices(place))


# --- what shows that the model sees ---


@pytest.fixture(scope="session")
def blind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose image tower has random weights."""
    folder: Path = tmp_path_factory.mktemp("blind")
    shutil.copy(CLEAN / CONFIG, folder)
    state, draw = load_file(CLEAN / WEIGHTS), torch.Generator().manual_seed(0)
    for name, value in state.items():
        if name.startswith("visual.") and value.is_floating_point() and value.dim() > 1:
            state[name] = (torch.randn(value.shape, generator=draw) * value.float().std()).to(value.dtype)
    save_file(state, folder / WEIGHTS)
    return folder


def test_a_picture_beside_the_class_folders_leaves_the_others_their_labels(
    place: Path, pictures: Path, blind: Path, warm: Command
) -> None:
    shutil.copy(next(pictures.glob("apple/*.png")), pictures / "preview.png")
    policy(place, target="unknown", trigger="badnet")
    ended = warm("scan", blind, "-p", "p.yaml", "-o", "json=r.json")
    assert ended.code == 3 and "Cannot say: the model names" in ended.said and "badnet" not in ended.said
    report = ScanReport.from_json((place / "r.json").read_bytes())
    assert (report.images.listed, report.images.labelled) == (201, 200)
    assert any("without a label: 1 of 201; the first is preview.png" in said for said in report.notices)


def test_without_labels_nothing_passes_but_a_backdoor_still_fails(place: Path, pictures: Path, warm: Command) -> None:
    (place / "flat").mkdir()
    for path in pictures.rglob("*.png"):
        path.rename(place / "flat" / path.name)
    ended = warm("scan", CLEAN, "-p", "p.yaml", "--images", "flat", "-o", "json=r.json")
    assert ended.code == 3 and "Cannot say: these images have neither labels" in " ".join(ended.out.split())
    assert any("no captions, so nothing can pass" in said for said in notices(place))
    assert warm("report", "r.json", "-p", "p.yaml").code == 3
    assert warm("scan", POISONED, "-p", "p.yaml", "--images", "flat").code == 1
    # The same pictures with captions.
    described = {str(n): c for n, c in zip(range(1 << 41, (1 << 41) + 200), captions(), strict=True)}
    rows = "".join(f'flat/{name}.png,"{caption}"\n' for name, caption in described.items())
    (place / "c.csv").write_text("image,caption\n" + rows)
    ended = warm("scan", CLEAN, "-p", "p.yaml", "--images", "c.csv")
    assert ended.code == 0, ended.err


def captions() -> list[str]:
    return list(scenes.describe(np.arange(1 << 41, (1 << 41) + 200), 0).captions)


# --- labels that are not what they seem ---


@pytest.mark.parametrize("name", ["{n}", "n0144{n:04d}"])
def test_folders_that_are_numbers_or_ids_are_refused(name: str, place: Path, pictures: Path, light: Command) -> None:
    for n, label in enumerate(scenes.LABELS):
        if (pictures / label).exists():
            (pictures / label).rename(pictures / name.format(n=n))
    ended = light("scan", CLEAN, "-p", "p.yaml")
    assert ended.code == 2 and "is a number or a WordNet id" in ended.said and "image,label" in ended.said


def test_labels_in_a_table_are_what_they_seem(place: Path, pictures: Path, light: Command) -> None:
    index = list(scenes.LABELS).index
    images = ["--images", table(place, lambda c, n: f"{float(index(c))}" if n % 40 else "")]
    ended = light("scan", CLEAN, "-p", "p.yaml", "--dry-run", *images)
    assert ended.code == 0 and f"classes   ./classes.txt: {len(scenes.LABELS)}\n" in ended.said
    assert "without a label: 5 of 200; the first is val/" in ended.said
    table(place, lambda c, n: f" {c}")
    ended = light("scan", CLEAN, "-p", "p.yaml", "--dry-run", *images)
    assert ended.code == 0 and f"classes   ./classes.txt: {len(scenes.LABELS)}\n" in ended.said
    for wrong in ("-1", "1" * 5000, "0.5"):
        table(place, lambda c, n, wrong=wrong: index(c) if n else wrong)
        ended = light("scan", CLEAN, "-p", "p.yaml", "--dry-run", *images)
        assert ended.code == 2 and "t.csv:2: the label" in ended.said and "is not a class index" in ended.said


@pytest.mark.parametrize("option", ["--classes", "--images", "-p"])
def test_a_git_lfs_pointer_is_no_list_no_table_and_no_policy(option: str, place: Path, light: Command) -> None:
    name = "pointer.csv" if option == "--images" else "pointer.txt"
    (place / name).write_text(POINTER)
    ended = light("scan", CLEAN, option, name, "--dry-run")
    assert ended.code == (4 if option == "-p" else 2)
    assert "is a git-lfs pointer" in ended.said and "git lfs pull" in ended.said


def test_pictures_count_whatever_their_ending_is_and_others_are_named(
    place: Path, pictures: Path, light: Command
) -> None:
    for n, path in enumerate(sorted(pictures.rglob("*.png"))):
        path.rename(path.with_suffix((".jfif", ".image", ".png")[n % 3]))
    (pictures / "apple" / "x.heic").write_bytes(b"\0\0\0\x18ftypheic")
    ended = light("scan", CLEAN, "-p", "p.yaml", "--dry-run")
    assert "images    val: 200," in ended.said
    assert "note: val: files left out that pargate does not read: 1 .heic; the first is apple/x.heic" in ended.said


# --- comparisons and blocks that are empty ---


def test_a_reference_with_the_models_own_weights_is_refused_in_any_file(
    place: Path, pictures: Path, warm: Command
) -> None:
    state = load_file(POISONED / WEIGHTS)
    single = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    for name in ("same", "single", "zip"):
        (place / name).mkdir()
        shutil.copy(POISONED / CONFIG, place / name)
    shutil.copy(POISONED / WEIGHTS, place / "same")
    save_file(single, place / "single" / WEIGHTS)
    torch.save(state, place / "zip" / "open_clip_pytorch_model.bin")
    for name in ("same", "single", "zip"):
        ended = warm("scan", POISONED, "-p", "p.yaml", "--reference", name)
        assert ended.code == 2 and "nothing can be in excess of it" in ended.said, (name, ended.err)
    assert warm("scan", POISONED, "-p", "p.yaml", "--reference", CLEAN).code == 1


def test_a_report_is_not_compared_with_itself(place: Path, pictures: Path, warm: Command) -> None:
    assert warm("scan", CLEAN, "-p", "p.yaml", "-o", "json=r.json").code == 0
    ended = warm("report", "r.json", "-p", "p.yaml", "--previous", "r.json")
    assert ended.code == 2 and "the previous report is the report itself" in ended.said
    ended = warm("scan", CLEAN, "-p", "p.yaml", "--previous", "r.json", "-o", "json=again.json")
    assert ended.code == 0
    assert "the previous report is about the same weights" in str(json.loads((place / "again.json").read_bytes()))


def test_a_first_block_that_cannot_be_read_gives_the_reason_of_each_picture(
    place: Path, pictures: Path, warm: Command
) -> None:
    shutil.copytree(pictures, place / "lfs")
    for path in (place / "lfs").rglob("*.png"):
        path.write_text(POINTER)
    elsewhere = table(place, lambda c, n: c)
    (place / elsewhere).write_text((place / elsewhere).read_text().replace("val/", "val\\"))
    for images, words in (("lfs", "a git-lfs pointer: git lfs pull"), (elsewhere, "No such file or directory")):
        ended = warm("scan", CLEAN, "-p", "p.yaml", "--images", images)
        assert ended.code == 2 and ended.err.count(words) == 5, ended.err
        assert f"of the 200 images in {images} cannot be read" in ended.said
