import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pargate.core.splits import least, sizes, total
from pargate.images.opening import open_images, open_pairs
from pargate.images.sources.scenes import BUILTIN_SCENES
from pargate.images.splits import divide, shared

NAMES = ("scan", "pick", "certify")


def pictures(folder: Path, count: int, first: int = 0) -> Path:
    """A folder of pictures that all differ, each with a caption."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + count):
        pixels = np.full((8, 8, 3), i % 256, dtype=np.uint8)
        pixels[0, 0] = (i // 256, i % 7, i % 11)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"picture {i}")
    return folder


def digests(folder: Path, keys: frozenset[str]) -> set[str]:
    return {hashlib.sha256((folder / key).read_bytes()).hexdigest() for key in keys}


def test_parts_are_disjoint_whole_and_of_one_size(tmp_path: Path) -> None:
    source = pictures(tmp_path / "images", 31)
    parts = divide(open_images(str(source)), NAMES)
    keys = [part.keys or frozenset() for part in parts]
    assert sorted(map(len, keys)) == [10, 10, 11]
    assert frozenset.union(*keys) == {item.key for item in open_images(str(source)).items()}
    assert len({part.digest for part in parts}) == 3


@pytest.mark.parametrize(
    ("images", "splits", "expected"),
    [
        (31, 3, [10, 10, 11]),
        (1500, 3, [500, 500, 500]),
        (2000, 3, [512, 512, 976]),
        (4000, 3, [1000, 1000, 2000]),
        (2001, 2, [1000, 1001]),
    ],
)
def test_what_certifies_gets_all_that_the_others_do_not_need(images: int, splits: int, expected: list[int]) -> None:
    assert sizes(images, splits) == expected


@pytest.mark.parametrize("images", [1, 200, 512, 513, 1000, 1024, 1025, 9999])
def test_the_images_that_a_gate_needs_are_enough_and_hardly_more(images: int) -> None:
    fewest = next(count for count in range(4 * images) if sizes(count, 3)[-1] >= images)
    assert sizes(total(images), 3)[-1] >= images and fewest <= total(images) <= fewest + 5


@pytest.mark.parametrize("splits", [2, 3])
@pytest.mark.parametrize("each", [1, 200, 512, 513, 2000])
def test_the_least_number_of_images_gives_every_split_enough(each: int, splits: int) -> None:
    assert least(each, splits) == next(count for count in range(9 * each) if min(sizes(count, splits)) >= each)


def test_the_same_picture_under_two_names_is_in_one_part(tmp_path: Path) -> None:
    source = pictures(tmp_path / "images", 12)
    for path in list(source.glob("*.png")):
        (source / f"copy-{path.name}").write_bytes(path.read_bytes())
    found = [digests(source, part.keys or frozenset()) for part in divide(open_images(str(source)), NAMES)]
    assert not (found[0] & found[1] or found[0] & found[2] or found[1] & found[2])


def test_names_do_not_decide(tmp_path: Path) -> None:
    first = pictures(tmp_path / "first", 15)
    second = tmp_path / "second"
    second.mkdir()
    for path in first.glob("*.png"):
        (second / f"other-{path.name}").write_bytes(path.read_bytes())
    assert [p.digest for p in divide(open_images(str(first)), NAMES)] == [
        p.digest for p in divide(open_images(str(second)), NAMES)
    ]


def test_a_picture_that_cannot_be_read_is_left_to_the_scan(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    pictures(tmp_path, 4)
    table.write_text("image,label\n" + "".join(f"{i}.png,a\n" for i in range(4)) + "gone.png,a\n")
    assert sum(len(part.keys or ()) for part in divide(open_images(str(table)), NAMES)) == 5


def test_scenes_are_divided_by_their_numbers() -> None:
    parts = divide(open_images(BUILTIN_SCENES), NAMES)
    scenes = open_images(BUILTIN_SCENES)
    places = [{item.place for item in scenes.take(part).items()} for part in parts]
    assert all(len(numbers) == len(places[0]) for numbers in places)
    assert not (places[0] & places[1] or places[0] & places[2] or places[1] & places[2])
    assert places[0] == {item.place for item in scenes.items()}, "the first part is what `scan` looks at"


def test_a_picture_that_is_both_pair_and_carrier_is_found(tmp_path: Path) -> None:
    carriers, training = pictures(tmp_path / "carriers", 9), pictures(tmp_path / "pairs", 9, first=9)
    assert shared(open_images(str(carriers)), open_pairs(str(training), seed=0)) is None
    (training / "stolen.png").write_bytes((carriers / "3.png").read_bytes())
    (training / "stolen.txt").write_text("a carrier under another name")
    assert str(shared(open_images(str(carriers)), open_pairs(str(training), seed=0))).endswith("stolen.png")


@pytest.mark.parametrize("source", ["synthetic:", "synthetic:1000"])
def test_drawn_pairs_never_meet_carriers(tmp_path: Path, source: str) -> None:
    assert shared(open_images(str(pictures(tmp_path / "carriers", 3))), open_pairs(source, seed=0)) is None
    assert shared(open_images(BUILTIN_SCENES), open_pairs(source, seed=0)) is None
