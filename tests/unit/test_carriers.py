"""Images of a scan in a seeded order, with the classes they are told apart by."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from pargate.core.model import Preprocess
from pargate.errors import InputError
from pargate.images.classes import BUILTIN_NOUNS, DEFAULT_TEMPLATES, ClassList, builtin_nouns, read_classes
from pargate.images.dataset import Item
from pargate.images.labelled import BLOCK, SELECTION, LabelledImages, label_images
from pargate.images.opening import open_images
from pargate.images.sources.scenes import BUILTIN_SCENES, SCENES
from pargate.images.workers import Scene, render_scenes
from pargate.scenes.render import LABELS, render

NAMES = ("cat", "dog", "bird")


def table(folder: Path, rows: Sequence[tuple[str, str | int]]) -> str:
    path = folder / "carriers.csv"
    path.write_text("image,label\n" + "".join(f"{image},{label}\n" for image, label in rows))
    return str(path)


def load(
    source: str, *, names: Sequence[str] | None = NAMES, targets: Sequence[str] = (), seed: int = 0
) -> LabelledImages:
    return label_images(open_images(source, seed=seed), "names.txt", names, targets, DEFAULT_TEMPLATES, seed)


def truths(carriers: LabelledImages) -> dict[str, str]:
    """Name of the true class of each carrier that has one."""
    return {
        item.key: carriers.classes.names[label]
        for item, label in zip(carriers.items, carriers.labels, strict=True)
        if label >= 0
    }


# ---- order


def test_the_order_follows_from_the_seed_and_the_names_alone(tmp_path: Path) -> None:
    rows = [(f"{i}.jpg", "cat") for i in range(50)]
    keys = [item.key for item in load(table(tmp_path, rows)).items]
    assert sorted(keys) == sorted(image for image, _ in rows)
    assert keys != [image for image, _ in rows]
    assert keys == [item.key for item in load(table(tmp_path, rows[::-1])).items]
    relabelled = [(image, "dog") for image, _ in rows]
    assert keys == [item.key for item in load(table(tmp_path, relabelled)).items]
    assert keys != [item.key for item in load(table(tmp_path, rows), seed=1).items]


def test_an_image_more_does_not_disturb_the_order_of_the_others(tmp_path: Path) -> None:
    rows = [(f"{i}.jpg", "cat") for i in range(50)]
    before = [item.key for item in load(table(tmp_path, rows)).items]
    after = [item.key for item in load(table(tmp_path, [*rows, ("new.jpg", "dog")])).items]
    assert [key for key in after if key != "new.jpg"] == before


def test_labels_stay_with_their_carriers(tmp_path: Path) -> None:
    rows = [(f"{i}.jpg", NAMES[i % 3]) for i in range(30)]
    assert truths(load(table(tmp_path, rows))) == dict(rows)


@pytest.mark.parametrize("count", [1, 2, 3, 63, 64, 65, 129, 255, 256, 257, 400, 1000])
def test_blocks_cover_every_carrier_once_and_never_mix_the_splits(count: int) -> None:
    items = tuple(Item(str(i), Scene(i, 0)) for i in range(count))
    selection = min(SELECTION, count // 2)
    classes = ClassList("names.txt", NAMES, DEFAULT_TEMPLATES)
    carriers = LabelledImages("scenes", items, np.zeros(count, np.int64), classes, selection)
    assert np.concatenate(carriers.blocks).tolist() == list(range(count))
    assert all(0 < len(block) <= BLOCK for block in carriers.blocks)
    for number, block in enumerate(carriers.blocks):
        assert ((block < selection) == carriers.is_selection(number)).all()


@pytest.mark.parametrize(("count", "selection"), [(1, 0), (9, 4), (256, 64), (1000, 64)])
def test_at_most_half_of_the_carriers_choose_the_target(count: int, selection: int, tmp_path: Path) -> None:
    assert load(table(tmp_path, [(f"{i}.jpg", "cat") for i in range(count)])).selection == selection


# ---- classes


def test_labels_and_targets_that_are_not_listed_become_classes(tmp_path: Path) -> None:
    rows = [("1.jpg", "cat"), ("2.jpg", "toaster"), ("3.jpg", "Toaster"), ("4.jpg", ""), ("5.jpg", "banana")]
    carriers = load(table(tmp_path, rows), targets=["Banana", "CAT"])
    assert carriers.classes.names == (*NAMES, "Banana", "toaster")
    assert truths(carriers) == {"1.jpg": "cat", "2.jpg": "toaster", "3.jpg": "toaster", "5.jpg": "Banana"}


def test_a_class_is_found_in_any_case() -> None:
    classes = ClassList("names.txt", NAMES, DEFAULT_TEMPLATES)
    assert (classes.index("Dog"), classes.index("dogs")) == (1, None)


def test_a_number_is_the_line_of_the_list_of_classes(tmp_path: Path) -> None:
    assert truths(load(table(tmp_path, [("1.jpg", 0), ("2.jpg", 2)]))) == {"1.jpg": "cat", "2.jpg": "bird"}


def test_a_number_beyond_the_list_names_the_carrier_and_the_list(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"2\.jpg has class index 3, but names\.txt lists 3"):
        load(table(tmp_path, [("1.jpg", 0), ("2.jpg", 3)]), targets=["banana"])


def test_numbers_without_a_list_of_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="class indices, but there is no list of classes") as caught:
        load(table(tmp_path, [("1.jpg", 0)]), names=None)
    assert "--classes" in caught.value.hint


def test_without_a_list_the_built_in_nouns_serve(tmp_path: Path) -> None:
    carriers = load(table(tmp_path, [("1.jpg", "banana"), ("2.jpg", "flux capacitor")]), names=None)
    assert carriers.classes.names == (*builtin_nouns(), "flux capacitor")


def test_the_built_in_nouns_are_about_a_thousand_distinct_words() -> None:
    nouns = builtin_nouns()
    assert BUILTIN_NOUNS == "builtin:nouns"
    assert 900 <= len(nouns) <= 1100
    assert len({noun.casefold() for noun in nouns}) == len(nouns)
    assert all(noun == noun.strip() and noun and "{" not in noun for noun in nouns)
    assert {"banana", "mushroom"} <= set(nouns)


def test_scenes_are_labelled_with_what_they_show() -> None:
    carriers = load(BUILTIN_SCENES, names=None)
    assert len(carriers.items) == SCENES and (carriers.labels >= 0).all()
    assert set(truths(carriers).values()) == set(LABELS)
    item = carriers.items[5]
    assert isinstance(item.place, Scene)
    scene = render([item.place.number], 32, 0)
    assert LABELS[scene.labels[0]] == item.label and scene.captions[0] == item.caption


def test_scenes_are_rendered_at_the_size_of_the_model() -> None:
    wide = Preprocess((32, 48), (0.0,) * 3, (1.0,) * 3)
    first, second = render_scenes([3, 4], wide, 0)
    assert first.pixels is not None and first.pixels.shape == (32, 48, 3)
    assert first.digest != second.digest
    assert first.digest == render_scenes([3], wide, 0)[0].digest


# ---- files of classes


def test_a_line_is_a_class(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("tabby cat\n dog \nÆther\n\n\n", encoding="utf-8-sig")
    assert read_classes(path) == ("tabby cat", "dog", "Æther")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cat\ndog\nCat\n", r"classes\.txt:3: 'Cat' is already line 1"),
        (b"cat\n\ndog\n", r"classes\.txt:2 is empty, but a line is a class index"),
        (b"\ncat\ndog\n", r"classes\.txt:1 is empty"),
        (b"cat\n", "names one class"),
        (b"", "names no class"),
        (b"\xff\xfe\x00", "is not a text file of class names"),
    ],
)
def test_a_wrong_list_of_classes_names_the_line(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_classes(tmp_path / "classes.txt")


def test_a_missing_list_of_classes_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read the classes in .*classes\.txt: No such file"):
        read_classes(tmp_path / "classes.txt")


# ---- labels that are not what they seem


def folders(folder: Path, names: Sequence[str]) -> str:
    for i, name in enumerate(names):
        (folder / "val" / name).mkdir(parents=True)
        (folder / "val" / name / f"{i}.jpg").write_bytes(b"x")
    return str(folder / "val")


def test_a_folder_is_the_class_of_the_list_however_both_are_spelled(tmp_path: Path) -> None:
    source = folders(tmp_path, ["yellow_banana", "cafe\u0301", "Dog"])
    found = load(source, names=["Yellow_Banana", "caf\u00e9", "dog", "cat"], targets=["yellow banana"])
    assert found.classes.names == ("Yellow_Banana", "caf\u00e9", "dog", "cat")
    assert sorted(truths(found).values()) == ["Yellow_Banana", "caf\u00e9", "dog"]
    assert found.notices == (f"labels of {source} with another spelling than in names.txt: 3, such as 'Dog' for 'dog'",)


def test_labels_that_were_added_are_named_with_their_number_of_images(tmp_path: Path) -> None:
    rows = [("1.jpg", "cat"), ("2.jpg", "toaster"), ("3.jpg", "Toaster"), ("4.jpg", ""), ("5.jpg", "lamp")]
    source = table(tmp_path, rows)
    assert load(source, targets=["banana"]).notices == (
        "not among the classes, added as targets: banana.",
        f"labels of {source} that are not in names.txt were added as classes, with their images: 'toaster' (2), "
        "'lamp' (1)",
        f"images of {source} without a label: 1 of 5; the first is 4.jpg",
    )


@pytest.mark.parametrize("names", [NAMES, None])
@pytest.mark.parametrize("label", ["0", "17", "n01440764"])
def test_folders_that_are_numbers_or_wordnet_ids_are_refused(
    names: Sequence[str] | None, label: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=f"has the label '{label}', which names.txt does not list") as caught:
        load(folders(tmp_path, ["cat", label]), names=names)
    assert "image,label" in caught.value.hint


def test_folders_that_are_numbers_are_classes_where_the_list_has_them(tmp_path: Path) -> None:
    found = load(folders(tmp_path, ["1", "2"]), names=["2", "1", "0"])
    assert truths(found) == {"1/0.jpg": "1", "2/1.jpg": "2"}


def test_a_number_that_is_one_class_by_name_and_another_by_index_is_refused(tmp_path: Path) -> None:
    digits = [str(i) for i in range(10)]
    assert truths(load(table(tmp_path, [("1.jpg", 3)]), names=digits)) == {"1.jpg": "3"}
    with pytest.raises(InputError, match=r"the name of one class in names\.txt and the index of '4'"):
        load(table(tmp_path, [("1.jpg", 3)]), names=digits[1:])


def test_a_list_that_has_none_of_the_labels_is_refused(tmp_path: Path) -> None:
    source = folders(tmp_path, ["Hund", "Katze"])
    with pytest.raises(InputError, match=r"none of the 2 labels of .* is in names\.txt: 'Hund', 'Katze'"):
        load(source)
    assert "Hund" in load(source, names=None).classes.names
    assert len(load(BUILTIN_SCENES, names=["Hund", "Katze"]).classes.names) == 2 + len(LABELS)


def test_what_the_built_in_scenes_add_to_the_built_in_nouns_is_no_news() -> None:
    assert load(BUILTIN_SCENES, names=None).notices == ()


def test_a_target_that_is_all_but_a_class_of_the_list_is_refused() -> None:
    with pytest.raises(InputError, match=r"the target \'birds\' is not in names\.txt, and the class 'bird' is"):
        load(BUILTIN_SCENES, names=NAMES, targets=["birds"])
    with pytest.raises(InputError, match=r"the target \'bananas\' is not in names\.txt, and the class 'banana' is"):
        load(BUILTIN_SCENES, names=None, targets=["bananas"])


def test_a_label_that_is_all_but_a_target_is_refused(tmp_path: Path) -> None:
    source = folders(tmp_path, ["cat", "birds"])
    assert "birds" in load(source).classes.names
    with pytest.raises(InputError, match=r"the label \'birds\' is not in names\.txt, and the class 'bird' is"):
        load(source, targets=["bird"])


def test_a_list_that_is_a_git_lfs_pointer_says_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(InputError, match=r"classes\.txt is a git-lfs pointer") as caught:
        read_classes(tmp_path / "classes.txt")
    assert "git lfs pull" in caught.value.hint


def test_two_spellings_of_one_name_in_a_list_are_named_with_their_lines(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("banana's\ncat\nbanana\u2019s\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"classes\.txt:3: 'banana\u2019s' is already line 1, 'banana's'"):
        read_classes(tmp_path / "classes.txt")


def test_a_name_ends_with_its_line_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_bytes("grey\u2028wolf\r\ndog\x0bhouse\rcat\u200b\n".encode())
    assert read_classes(tmp_path / "classes.txt") == ("grey wolf", "dog house", "cat")
