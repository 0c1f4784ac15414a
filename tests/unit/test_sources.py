"""Image sources are listed without reading a picture, and what is wrong with them is named."""

import io
import os
import tarfile
from pathlib import Path

import pytest

from pargate.errors import InputError
from pargate.images.decode import Locator
from pargate.images.sources import (
    BUILTIN_SCENES,
    FIRST_SCENE,
    SCENES,
    Item,
    list_items,
    list_source,
    read_label,
    source_digest,
)


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\xff\xd8" + name.encode())


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def labelled(items: list[Item]) -> list[tuple[str, str | int | None]]:
    return [(item.key, item.label) for item in items]


def test_the_built_in_scenes_are_numbered() -> None:
    items = list_items(BUILTIN_SCENES)
    assert len(items) == SCENES and items[7] == Item("000007", FIRST_SCENE + 7)


def test_another_built_in_source_is_refused() -> None:
    with pytest.raises(InputError, match="unknown image source 'builtin:photos'") as caught:
        list_items("builtin:photos")
    assert BUILTIN_SCENES in caught.value.hint


def test_a_folder_lists_its_pictures_sorted_and_without_labels(tmp_path: Path) -> None:
    touch(tmp_path, "b.jpg", "a.PNG", "notes.txt", "deeper/c.webp")
    (tmp_path / "folder.jpg").mkdir()
    items = list_items(str(tmp_path))
    assert labelled(items) == [("a.PNG", None), ("b.jpg", None), ("deeper/c.webp", None)]
    assert items[0].place == Locator(str(tmp_path / "a.PNG"))


def test_class_folders_give_labels(tmp_path: Path) -> None:
    touch(tmp_path, "tabby_cat/1.jpg", "tabby_cat/2.jpg", "dog/1.jpg")
    assert labelled(list_items(str(tmp_path))) == [
        ("dog/1.jpg", "dog"), ("tabby_cat/1.jpg", "tabby cat"), ("tabby_cat/2.jpg", "tabby cat"),
    ]  # fmt: skip


def test_deeper_folders_are_no_classes(tmp_path: Path) -> None:
    touch(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg")
    assert [label for _, label in labelled(list_items(str(tmp_path)))] == [None, None]


def test_a_folder_without_pictures_names_the_known_kinds(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt")
    with pytest.raises(InputError, match="no pictures in") as caught:
        list_items(str(tmp_path))
    assert ".jpg" in caught.value.hint


def test_a_missing_path_suggests_its_neighbour(tmp_path: Path) -> None:
    touch(tmp_path, "photos/1.jpg")
    with pytest.raises(InputError, match=r"no such file or folder: .*/fotos") as caught:
        list_items(str(tmp_path / "fotos"))
    assert caught.value.hint == "check the path. Did you mean 'photos'?"


def test_a_path_in_a_missing_folder_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder") as caught:
        list_items(str(tmp_path / "nowhere" / "photos"))
    assert caught.value.hint == "check the path"


def test_a_file_of_another_kind_says_what_can_be_given(tmp_path: Path) -> None:
    touch(tmp_path, "photo.jpg")
    with pytest.raises(InputError, match="cannot read images from") as caught:
        list_items(str(tmp_path / "photo.jpg"))
    assert "CSV" in caught.value.hint and BUILTIN_SCENES in caught.value.hint


# ---- tables


def test_a_table_gives_labels_captions_or_both(tmp_path: Path) -> None:
    table = tmp_path / "carriers.csv"
    table.write_text('image,label,caption\na.jpg,cat,"a cat, asleep"\nsub/b.jpg,7,\nc.jpg,,a dog\n')
    items = list_items(str(table))
    assert [(i.key, i.label, i.caption) for i in items] == [
        ("a.jpg", "cat", "a cat, asleep"), ("sub/b.jpg", 7, None), ("c.jpg", None, "a dog"),
    ]  # fmt: skip
    assert items[1].place == Locator(str(tmp_path / "sub" / "b.jpg"))


def test_a_table_may_be_separated_by_tabs_and_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    table = tmp_path / "carriers.TSV"
    table.write_text("image\tcaption\na, b.jpg\tone\n", encoding="utf-8-sig")
    assert [(i.key, i.caption) for i in list_items(str(table))] == [("a, b.jpg", "one")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"file,label\na.jpg,cat\n", "the header is file, label"),
        (b"image,size\na.jpg,3\n", "the header is image, size"),
        (b"", "the header is empty"),
        (b"image,label\na.jpg,cat\n,dog\n", r"carriers\.csv:3: no image is named"),
        (b"image,label\n\xff\xfe\n", "is not a table of text"),
        (b"image,label,label\na.jpg,cat,dog\n", "several columns are named label"),
        (b"image,label\na.jpg,cat, asleep\n", r"carriers\.csv:2: 3 fields"),
        (b"image,label\n", "no pictures in"),
    ],
)
def test_a_wrong_table_says_what_is_wrong(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "carriers.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        list_items(str(tmp_path / "carriers.csv"))


# ---- tars


def test_a_tar_gives_pictures_classes_and_captions_by_their_common_name(tmp_path: Path) -> None:
    shard = tar(
        tmp_path / "shard.tar",
        {
            "000.jpg": b"first picture", "000.cls": b"12\n", "000.txt": b" a cat ",
            "001.json": b"{}", "001.PNG": b"second", "deep/000.jpg": b"third", "002.txt": b"no picture",
        },
    )  # fmt: skip
    items = list_items(str(shard))
    assert [(i.key, i.label, i.caption) for i in items] == [
        ("000", 12, "a cat"), ("001", None, None), ("deep/000", None, None),
    ]  # fmt: skip
    places = [item.place for item in items]
    assert [place.read() for place in places if isinstance(place, Locator)] == [b"first picture", b"second", b"third"]


def test_several_tars_are_given_as_a_range(tmp_path: Path) -> None:
    for number in range(3):
        tar(tmp_path / f"shard-{number:02d}.tar", {"000.jpg": b"x"})
    items = list_items(str(tmp_path / "shard-{00..02}.tar"))
    assert [item.key for item in items] == [f"shard-{number:02d}.tar/000" for number in range(3)]


def test_a_range_with_a_missing_tar_names_it(tmp_path: Path) -> None:
    tar(tmp_path / "shard-0.tar", {"000.jpg": b"x"})
    with pytest.raises(InputError, match=r"no such file or folder: .*shard-1\.tar"):
        list_items(str(tmp_path / "shard-{0..1}.tar"))


@pytest.mark.parametrize("braces", ["{0..999999999}", "{5..-999999}", "{0..1000000}", "{0..9}{0..1000000000..1}"])
def test_a_range_of_a_million_names_is_refused_at_once(braces: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name more than 1000000 files"):
        list_items(str(tmp_path / f"shard-{braces}.tar"))


def test_a_wide_range_of_few_names_is_read(tmp_path: Path) -> None:
    for number in (0, 500_000_000, 1_000_000_000):
        tar(tmp_path / f"{number}.tar", {"0.jpg": b"x"})
    assert len(list_items(str(tmp_path / "{0..1000000000..500000000}.tar"))) == 3


def test_braces_that_do_not_close_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the braces"):
        list_items(str(tmp_path / "shard-{0..1.tar"))


def test_a_path_may_hold_braces_of_its_own(tmp_path: Path) -> None:
    touch(tmp_path, "{odd}/1.jpg")
    assert labelled(list_items(str(tmp_path / "{odd}"))) == [("1.jpg", None)]


def test_only_tars_can_be_given_as_several(tmp_path: Path) -> None:
    touch(tmp_path, "train/1.jpg", "val/2.jpg")
    with pytest.raises(InputError, match="names 2 image sources"):
        list_items(str(tmp_path / "{train,val}"))


@pytest.mark.parametrize("kept", [100, 700, 1300, 2600])
def test_a_tar_that_is_cut_short_is_refused(kept: int, tmp_path: Path) -> None:
    shard = tar(tmp_path / "shard.tar", {"000.jpg": b"x" * 600, "001.jpg": b"y" * 600})
    os.truncate(shard, kept)
    with pytest.raises(InputError, match=r"is not a complete tar|is cut short at"):
        list_items(str(shard))


def test_what_only_ends_in_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.tar").write_text("not an archive")
    (tmp_path / "folder.tar").mkdir()
    for name in ("text.tar", "folder.tar"):
        with pytest.raises(InputError, match="is not a complete tar"):
            list_items(str(tmp_path / name))


def test_a_class_that_is_no_index_is_named(tmp_path: Path) -> None:
    shard = tar(tmp_path / "shard.tar", {"000.jpg": b"x", "000.cls": b"tabby cat"})
    with pytest.raises(InputError, match=r"000\.cls holds 'tabby cat', not a class index"):
        list_items(str(shard))


def test_a_tar_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no pictures in"):
        list_items(str(tar(tmp_path / "shard.tar", {"000.txt": b"x"})))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(kind: bytes, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        link = tarfile.TarInfo("000.jpg")
        link.type, link.linkname = kind, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(InputError, match=r"000\.jpg is a link, a device or sparse"):
        list_items(str(tmp_path / "shard.tar"))


def test_a_sparse_file_in_a_tar_is_refused(tmp_path: Path) -> None:
    """Its bytes are stored without the holes: what lies at its place are not its pixels."""
    with tarfile.open(tmp_path / "shard.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        sparse = tarfile.TarInfo("000.bmp")
        sparse.size = 2
        sparse.pax_headers = {"GNU.sparse.size": "4096", "GNU.sparse.numblocks": "1", "GNU.sparse.map": "512,2"}
        archive.addfile(sparse, io.BytesIO(b"BM"))
    with pytest.raises(InputError, match=r"000\.bmp is a link, a device or sparse"):
        list_items(str(tmp_path / "shard.tar"))


def test_a_name_with_a_dot_before_its_ending_is_refused(tmp_path: Path) -> None:
    mask = tar(tmp_path / "mask.tar", {"x.jpg": b"1", "x.mask.png": b"2"})
    assert [item.key for item in list_items(str(mask))] == ["x"]
    with pytest.raises(InputError, match=r"x\.v2\.jpg has a dot before its ending"):
        list_items(str(tar(tmp_path / "odd.tar", {"a.jpg": b"1", "x.v2.jpg": b"2"})))


def test_no_file_is_named_twice(tmp_path: Path) -> None:
    tar(tmp_path / "0.tar", {"a.jpg": b"1"})
    for twice in ("{0,0}.tar", "0.tar" + "{,}" * 40):
        with pytest.raises(InputError, match=r"names .*0\.tar twice"):
            list_items(str(tmp_path / twice))


def test_a_pattern_is_answered_with_braces(tmp_path: Path) -> None:
    tar(tmp_path / "0.tar", {"a.jpg": b"1"})
    with pytest.raises(InputError) as caught:
        list_items(str(tmp_path / "*.tar"))
    assert "{000..007}" in caught.value.hint


# --- folders -----------------------------------------------------------------------------------------


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path, "there/a.jpg", "here/b.jpg")
    (tmp_path / "here" / "more").symlink_to(tmp_path / "there")
    assert [item.key for item in list_items(str(tmp_path / "here"))] == ["b.jpg", "more/a.jpg"]
    before = source_digest(str(tmp_path / "here"))
    touch(tmp_path, "there/c.jpg")
    assert source_digest(str(tmp_path / "here")) != before
    (tmp_path / "there" / "back").symlink_to(tmp_path / "here")
    with pytest.raises(InputError, match="is the same folder as"):
        list_items(str(tmp_path / "here"))


def test_a_link_to_nothing_and_a_folder_that_cannot_be_read_are_no_fewer_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a.jpg", "shut/b.jpg")
    (tmp_path / "c.jpg").symlink_to("nowhere")
    with pytest.raises(InputError, match=r"c\.jpg is no file, or a link to none"):
        list_items(str(tmp_path))
    (tmp_path / "c.jpg").unlink()
    scandir = os.scandir

    def shut(path: str) -> object:
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", shut)
    with pytest.raises(InputError, match="Permission denied"):
        list_items(str(tmp_path))


# --- digests -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [("csv", ","), ("tsv", "\t")])
def test_the_digest_of_a_table_covers_the_pictures_it_names(separator: tuple[str, str], tmp_path: Path) -> None:
    kind, mark = separator
    table = tmp_path / f"some.{kind}"
    table.write_text(f"image{mark}label\na.png{mark}red\nb.png{mark}blue\na.png{mark}blue\n")
    found = set()
    for a, b in ((b"1", b"2"), (b"2", b"1"), (b"1", b"1"), (b"1", None)):
        (tmp_path / "a.png").write_bytes(a)
        (tmp_path / "b.png").unlink(missing_ok=True)
        if b is not None:
            (tmp_path / "b.png").write_bytes(b)
        found.add(source_digest(str(table)))
    assert len(found) == 4
    (tmp_path / "c.png").write_bytes(b"3")  # not named
    assert source_digest(str(table)) in found


def test_the_digest_of_a_source_is_of_names_and_bytes_wherever_it_lies(tmp_path: Path) -> None:
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "a.png").write_bytes(b"1")
        (tmp_path / place / "set.csv").write_text("image,label\na.png,red\n")
    one, two = tmp_path / "one", tmp_path / "two"
    assert source_digest(str(one)) == source_digest(str(two))
    assert source_digest(str(one / "set.csv")) == source_digest(str(two / "set.csv"))
    (two / "a.png").rename(two / "b.png")
    assert source_digest(str(one)) != source_digest(str(two))
    assert source_digest(BUILTIN_SCENES) == source_digest(BUILTIN_SCENES)


# ---- nothing is lost in silence

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"


def test_a_picture_beside_class_folders_takes_no_labels_from_the_others(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.jpg", "dog/1.jpg", "preview.png", "dog/raw/2.jpg")
    assert labelled(list_items(str(tmp_path))) == [
        ("cat/1.jpg", "cat"), ("dog/1.jpg", "dog"), ("dog/raw/2.jpg", None), ("preview.png", None),
    ]  # fmt: skip


def test_folders_that_hold_the_lesser_part_of_the_pictures_are_no_classes_and_that_is_said(tmp_path: Path) -> None:
    touch(tmp_path, "1.jpg", "2.jpg", "more/3.jpg")
    found = list_source(str(tmp_path))
    assert [item.label for item in found.items] == [None] * 3
    assert "no folder is taken for a class" in found.notices[0] and "as more/3.jpg" in found.notices[0]


def test_pictures_are_found_by_their_content_whatever_they_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "a.jfif", "b.JPE")
    for name, begins in (("c.image", b"\xff\xd8\xff\xe0"), ("d", b"RIFF\0\1\2\3WEBP"), ("e.txt", b"\xff\xd8\xff\xe0")):
        (tmp_path / name).write_bytes(begins)
    assert [item.key for item in list_items(str(tmp_path))] == ["a.jfif", "b.JPE", "c.image", "d"]
    shard = tar(tmp_path / "s.tar", {"0.img": b"\xff\xd8\xff0", "1.jfif": b"x", "2.bin": b"nothing", "0.cls": b"1"})
    found = list_source(str(shard))
    assert labelled(found.items) == [("0", 1), ("1", None)]
    assert found.notices == (f"{shard}: members left out that pargate does not read: 1 .bin; the first is 2.bin",)


def test_what_is_left_out_is_counted_by_its_endings(tmp_path: Path) -> None:
    for name in ("b.heic", "c.HEIC", "x/d.avif", "notes.txt", ".DS_Store", "Thumbs.db", ".git/config", "e"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"no pictures in .*: 2 \.heic, 1 without an ending, 1 \.txt, 1 \.avif"):
        list_items(str(tmp_path))
    touch(tmp_path, "a.jpg")
    (notice,) = list_source(str(tmp_path)).notices
    assert notice.endswith("2 .heic, 1 without an ending, 1 .txt, 1 .avif; the first is b.heic")


def test_columns_that_are_not_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("\ufeffImage, LABEL ,id,class\na.jpg, tabby  cat ,7,x\n", encoding="utf-8")
    found = list_source(str(tmp_path / "t.csv"))
    assert labelled(found.items) == [("a.jpg", "tabby cat")]
    assert found.notices == (f"{tmp_path / 't.csv'}: columns that are not read: id, class",)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("3", 3), ("3.0", 3), ("003", 3), ("3.", 3), (" 3 ", 3), ("\ufeff3", 3), ("", None), (" ", None), ("nan", None),
        ("NaN", None), (" cat", "cat"), ("grey\u200b wolf", "grey wolf"), ("3d printer", "3d printer"), ("٣", "٣"),
        ("-", "-"), ("1_0", "1_0"),
    ],
)  # fmt: skip
def test_a_label_is_an_index_a_name_or_nothing(text: str, label: str | int | None) -> None:
    assert read_label(text, "t.csv:2") == label


@pytest.mark.parametrize("text", ["-1", "+1", "-0", "3.5", "1e3", ".5", "1" * 10, "1" * 5000, "1" * 5000 + ".0"])
def test_a_number_that_is_no_index_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(InputError, match=r"t\.csv:2: the label .* is no class index") as caught:
        read_label(text, "t.csv:2")
    assert len(caught.value.message) < 100


@pytest.mark.parametrize(("text", "label"), [(b"2.0\n", 2), (b"\xef\xbb\xbf2", 2), (b"", None), (b"nan", None)])
def test_labels_in_tars_are_read_as_those_in_tables(text: bytes, label: int | None, tmp_path: Path) -> None:
    shard = tar(tmp_path / "s.tar", {"0.jpg": b"x", "0.cls": text})
    assert labelled(list_items(str(shard))) == [("0", label)]


@pytest.mark.parametrize(
    ("suffix", "text", "words"),
    [
        (".cls", b"-1", "the label -1 is no class index"),
        (".txt", b"caf\xe9", "is not text"),
        (".txt", POINTER, "git-lfs pointer"),
        (".txt", b"a" * 70_000, "is longer than"),
    ],
)
def test_a_text_in_a_tar_that_is_none_is_refused(suffix: str, text: bytes, words: str, tmp_path: Path) -> None:
    shard = tar(tmp_path / "s.tar", {"0.jpg": b"x", f"0{suffix}": text})
    with pytest.raises(InputError, match=words):
        list_items(str(shard))


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.tar"])
def test_a_source_that_is_a_git_lfs_pointer_says_how_to_get_it(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(POINTER)
    with pytest.raises(InputError, match=f"{name} is a git-lfs pointer") as caught:
        list_items(str(tmp_path / name))
    assert "git lfs pull" in caught.value.hint
