"""Image sources are listed without reading a picture, and what is wrong with them is named."""

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from pargate import registry
from pargate.errors import InputError
from pargate.images.dataset import Item
from pargate.images.decode import Locator
from pargate.images.listing import read_label
from pargate.images.opening import SOURCES, open_images, open_pairs
from pargate.images.sources.scenes import BUILTIN_SCENES, FIRST_SCENE, SCENES
from pargate.images.workers import Scene


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
    items = open_images(BUILTIN_SCENES).items()
    assert len(items) == SCENES and items[7].key == "000007" and items[7].place == Scene(FIRST_SCENE + 7, 0)


def test_another_built_in_source_is_refused() -> None:
    with pytest.raises(InputError, match="unknown image source 'builtin:photos'") as caught:
        open_images("builtin:photos").items()
    assert BUILTIN_SCENES in caught.value.hint


def test_a_folder_lists_its_pictures_sorted_and_without_labels(tmp_path: Path) -> None:
    touch(tmp_path, "b.jpg", "a.PNG", "notes.txt", "deeper/c.webp")
    (tmp_path / "folder.jpg").mkdir()
    items = open_images(str(tmp_path)).items()
    assert labelled(items) == [("a.PNG", None), ("b.jpg", None), ("deeper/c.webp", None)]
    assert items[0].place == Locator(str(tmp_path / "a.PNG"))


def test_class_folders_give_labels(tmp_path: Path) -> None:
    touch(tmp_path, "tabby_cat/1.jpg", "tabby_cat/2.jpg", "dog/1.jpg")
    assert labelled(open_images(str(tmp_path)).items()) == [
        ("dog/1.jpg", "dog"), ("tabby_cat/1.jpg", "tabby cat"), ("tabby_cat/2.jpg", "tabby cat"),
    ]  # fmt: skip


def test_deeper_folders_are_no_classes(tmp_path: Path) -> None:
    touch(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg")
    assert [label for _, label in labelled(open_images(str(tmp_path)).items())] == [None, None]


def test_a_folder_without_pictures_names_the_known_kinds(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt")
    with pytest.raises(InputError, match="no images in") as caught:
        open_images(str(tmp_path)).items()
    assert ".jpg" in caught.value.hint


def test_a_missing_path_suggests_its_neighbour(tmp_path: Path) -> None:
    touch(tmp_path, "photos/1.jpg")
    with pytest.raises(InputError, match=r"no such file or folder: .*/fotos") as caught:
        open_images(str(tmp_path / "fotos")).items()
    assert caught.value.hint == "check the path. Did you mean 'photos'?"


def test_a_path_in_a_missing_folder_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder") as caught:
        open_images(str(tmp_path / "nowhere" / "photos")).items()
    assert caught.value.hint == "check the path"


def test_a_file_of_another_kind_says_what_can_be_given(tmp_path: Path) -> None:
    touch(tmp_path, "photo.jpg")
    with pytest.raises(InputError, match="cannot read images from") as caught:
        open_images(str(tmp_path / "photo.jpg")).items()
    assert "CSV" in caught.value.hint and BUILTIN_SCENES in caught.value.hint


# ---- tables


def test_a_table_gives_labels_captions_or_both(tmp_path: Path) -> None:
    table = tmp_path / "carriers.csv"
    table.write_text('image,label,caption\na.jpg,cat,"a cat, asleep"\nsub/b.jpg,7,\nc.jpg,,a dog\n')
    items = open_images(str(table)).items()
    assert [(i.key, i.label, i.caption) for i in items] == [
        ("a.jpg", "cat", "a cat, asleep"), ("sub/b.jpg", 7, None), ("c.jpg", None, "a dog"),
    ]  # fmt: skip
    assert items[1].place == Locator(str(tmp_path / "sub" / "b.jpg"))


def test_a_table_may_be_separated_by_tabs_and_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    table = tmp_path / "carriers.TSV"
    table.write_text("image\tcaption\na, b.jpg\tone\n", encoding="utf-8-sig")
    assert [(i.key, i.caption) for i in open_images(str(table)).items()] == [("a, b.jpg", "one")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"file,label\na.jpg,cat\n", "the header is file, label"),
        (b"image,size\na.jpg,3\n", "the header is image, size"),
        (b"", "the header is empty"),
        (b"image,label\na.jpg,cat\n,dog\n", r"carriers\.csv: 1 row without an image: line 3"),
        (b"image,label\n\xff\xfe\n", "is not a table of text"),
        (b"image,label,label\na.jpg,cat,dog\n", "several columns are named label"),
        (b"image,label\na.jpg,cat, asleep\n", r"carriers\.csv:2: 3 fields"),
        (b"image,label\n", "no images in"),
    ],
)
def test_a_wrong_table_says_what_is_wrong(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "carriers.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_images(str(tmp_path / "carriers.csv")).items()


# ---- tars


def test_a_tar_gives_pictures_classes_and_captions_by_their_common_name(tmp_path: Path) -> None:
    shard = tar(
        tmp_path / "shard.tar",
        {
            "000.jpg": b"first picture", "000.cls": b"12\n", "000.txt": b" a cat ",
            "001.json": b"{}", "001.PNG": b"second", "deep/000.jpg": b"third", "002.txt": b"no picture",
        },
    )  # fmt: skip
    items = open_images(str(shard)).items()
    assert [(i.key, i.label, i.caption) for i in items] == [
        ("000", 12, "a cat"), ("001", None, None), ("deep/000", None, None),
    ]  # fmt: skip
    places = [item.place for item in items]
    assert [place.read() for place in places if isinstance(place, Locator)] == [b"first picture", b"second", b"third"]


def test_several_tars_are_given_as_a_range(tmp_path: Path) -> None:
    for number in range(3):
        tar(tmp_path / f"shard-{number:02d}.tar", {"000.jpg": b"x"})
    items = open_images(str(tmp_path / "shard-{00..02}.tar")).items()
    assert [item.key for item in items] == [f"shard-{number:02d}.tar/000" for number in range(3)]


def test_a_range_with_a_missing_tar_names_it(tmp_path: Path) -> None:
    tar(tmp_path / "shard-0.tar", {"000.jpg": b"x"})
    with pytest.raises(InputError, match=r"no such file or folder: .*shard-1\.tar"):
        open_images(str(tmp_path / "shard-{0..1}.tar")).items()


@pytest.mark.parametrize("braces", ["{0..999999999}", "{5..-999999}", "{0..1000000}", "{0..9}{0..1000000000..1}"])
def test_a_range_of_a_million_names_is_refused_at_once(braces: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name more than 1000000 files"):
        open_images(str(tmp_path / f"shard-{braces}.tar")).items()


def test_a_wide_range_of_few_names_is_read(tmp_path: Path) -> None:
    for number in (0, 500_000_000, 1_000_000_000):
        tar(tmp_path / f"{number}.tar", {"0.jpg": b"x"})
    assert len(open_images(str(tmp_path / "{0..1000000000..500000000}.tar")).items()) == 3


def test_braces_that_do_not_close_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the braces"):
        open_images(str(tmp_path / "shard-{0..1.tar")).items()


def test_a_path_may_hold_braces_of_its_own(tmp_path: Path) -> None:
    touch(tmp_path, "{odd}/1.jpg")
    assert labelled(open_images(str(tmp_path / "{odd}")).items()) == [("1.jpg", None)]


def test_only_tars_can_be_given_as_several(tmp_path: Path) -> None:
    touch(tmp_path, "train/1.jpg", "val/2.jpg")
    with pytest.raises(InputError, match="names 2 image sources"):
        open_images(str(tmp_path / "{train,val}")).items()


@pytest.mark.parametrize("kept", [100, 700, 1300, 2600])
def test_a_tar_that_is_cut_short_is_refused(kept: int, tmp_path: Path) -> None:
    shard = tar(tmp_path / "shard.tar", {"000.jpg": b"x" * 600, "001.jpg": b"y" * 600})
    os.truncate(shard, kept)
    with pytest.raises(InputError, match=r"is not a complete tar|is cut short at"):
        open_images(str(shard)).items()


def test_what_only_ends_in_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.tar").write_text("not an archive")
    (tmp_path / "folder.tar").mkdir()
    for name in ("text.tar", "folder.tar"):
        with pytest.raises(InputError, match="is not a complete tar"):
            open_images(str(tmp_path / name)).items()


def test_a_class_that_is_no_index_is_named(tmp_path: Path) -> None:
    shard = tar(tmp_path / "shard.tar", {"000.jpg": b"x", "000.cls": b"tabby cat"})
    with pytest.raises(InputError, match=r"000\.cls holds 'tabby cat', not a class index"):
        open_images(str(shard)).items()


def test_a_tar_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images in"):
        open_images(str(tar(tmp_path / "shard.tar", {"000.txt": b"x"}))).items()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(kind: bytes, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        link = tarfile.TarInfo("000.jpg")
        link.type, link.linkname = kind, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(InputError, match=r"000\.jpg is a link, a device or sparse"):
        open_images(str(tmp_path / "shard.tar")).items()


def test_a_sparse_file_in_a_tar_is_refused(tmp_path: Path) -> None:
    """Its bytes are stored without the holes: what lies at its place are not its pixels."""
    with tarfile.open(tmp_path / "shard.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        sparse = tarfile.TarInfo("000.bmp")
        sparse.size = 2
        sparse.pax_headers = {"GNU.sparse.size": "4096", "GNU.sparse.numblocks": "1", "GNU.sparse.map": "512,2"}
        archive.addfile(sparse, io.BytesIO(b"BM"))
    with pytest.raises(InputError, match=r"000\.bmp is a link, a device or sparse"):
        open_images(str(tmp_path / "shard.tar")).items()


def test_a_name_with_a_dot_before_its_ending_is_refused(tmp_path: Path) -> None:
    mask = tar(tmp_path / "mask.tar", {"x.jpg": b"1", "x.mask.png": b"2"})
    assert [item.key for item in open_images(str(mask)).items()] == ["x"]
    with pytest.raises(InputError, match=r"x\.v2\.jpg has a dot before its suffix"):
        open_images(str(tar(tmp_path / "odd.tar", {"a.jpg": b"1", "x.v2.jpg": b"2"}))).items()


def test_no_file_is_named_twice(tmp_path: Path) -> None:
    tar(tmp_path / "0.tar", {"a.jpg": b"1"})
    for twice in ("{0,0}.tar", "0.tar" + "{,}" * 40):
        with pytest.raises(InputError, match=r"names .*0\.tar twice"):
            open_images(str(tmp_path / twice)).items()


def test_a_pattern_is_answered_with_braces(tmp_path: Path) -> None:
    tar(tmp_path / "0.tar", {"a.jpg": b"1"})
    with pytest.raises(InputError) as caught:
        open_images(str(tmp_path / "*.tar")).items()
    assert "{000..007}" in caught.value.hint


# --- Parquet -----------------------------------------------------------------------------------------


def rows(path: Path, **columns: object) -> str:
    parquet.write_table(pa.table(columns), path)
    return str(path)


def test_parquet_gives_labels_captions_or_neither(tmp_path: Path) -> None:
    images = [b"\x89PNG1", b"\xff\xd82", b"3"]
    source = rows(tmp_path / "a.parquet", image=images, label=["tabby cat", None, "3"], caption=["one", "", None])
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        found = open_images(source, cache=cache)
        assert [(i.label, i.caption) for i in found.items()] == [("tabby cat", "one"), (None, None), (3, None)]
        assert [i.place.read() for i in found.items() if isinstance(i.place, Locator)] == images
        assert found.notices == () and len({i.key for i in found.items()}) == 3
    assert len(list((tmp_path / "cache" / "images").iterdir())) == 1
    (tmp_path / "more").mkdir()
    rows(tmp_path / "more" / "0.parquet", jpg=images, cls=[0, 1, -1])
    rows(tmp_path / "more" / "1.parquet", jpg=images[:1])
    assert [i.label for i in open_images(str(tmp_path / "more")).items()] == [0, 1, None, None]


def test_the_digest_of_parquet_is_that_of_its_files(tmp_path: Path) -> None:
    source = rows(tmp_path / "a.parquet", image=[b"1", b"2"], label=[0, 1])
    first = open_images(source).digest
    assert open_images(source, cache=tmp_path / "cache").digest == first
    rows(tmp_path / "a.parquet", image=[b"1", b"2"], label=[1, 0])
    assert open_images(source).digest != first


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": [1], "label": [3]}, "no column with an image among id, label"),
        ({"image": [b"1"], "label": [-3]}, r"a\.parquet: row 1: the label -3 is not a class index"),
        ({"image": [b"1"] + [None] * 9, "label": [3] * 10}, "9 of 10 rows have no image, such as row 2"),
    ],
)
def test_parquet_that_is_no_set_of_images_is_refused(
    columns: dict[str, list[Any]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        open_images(rows(tmp_path / "a.parquet", **columns))


def test_rows_of_parquet_without_an_image_are_counted(tmp_path: Path) -> None:
    source = rows(tmp_path / "a.parquet", image=[b"1"] * 199 + [None], label=[0] * 200)
    found = open_images(source)
    assert found.count == 199 and found.notices == (f"{source}: 1 rows have no image and are left out",)


def test_shards_among_images_are_left_out_and_named(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    tar(tmp_path / "old.tar", {"0.jpg": b"x"})
    found = open_images(str(tmp_path))
    assert labelled(found.items()) == [("a.jpg", None)] and "1 .tar" in found.notices[0]
    (tmp_path / "a.jpg").unlink()
    assert labelled(open_images(str(tmp_path)).items()) == [("0", None)]


# --- what is to train with, and plug-ins -------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "message", "hint"),
    [
        ("synthetic:", "is for cleaning a model, and must not scan it", BUILTIN_SCENES),
        ("diffusers:some/model", "must be generated first", "pargate synth --pairs diffusers:some/model"),
        ("sintetic:9", r"unknown image source 'sintetic:9'\. Did you mean 'synthetic:'", "Parquet"),
    ],
)
def test_what_is_to_train_with_does_not_judge(source: str, message: str, hint: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        open_images(source)
    assert hint in caught.value.hint


PLUGIN = """
from pathlib import Path
from pargate.images.listing import Listing
from pargate.images.opening import Source

class Shelf(Source):
    schemes = ("shelf:",)
    def list(self, wanted, paths):
        file = Path(__file__)
        listing = Listing(wanted, files=[(file.name, file)])
        for number in range(2):
            listing.add(f"{number}", listing.hold(file), caption=f"book {number}")
        return listing.dataset()
"""


def test_a_source_of_another_package_serves_scans_and_cleaning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shelf.py").write_text(PLUGIN)
    (tmp_path / "shelf-1.0.dist-info").mkdir()
    (tmp_path / "shelf-1.0.dist-info" / "METADATA").write_text("Name: shelf\nVersion: 1.0\n")
    (tmp_path / "shelf-1.0.dist-info" / "entry_points.txt").write_text("[pargate.sources]\nshelf = shelf:Shelf\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry._entry_points.cache_clear()
    try:
        assert [item.caption for item in open_images("shelf:").items()] == ["book 0", "book 1"]
        assert open_pairs("shelf:", seed=0).captions([1]) == ["book 1"]
        assert SOURCES.plugin("shelf") == registry.Plugin("pargate.sources", "shelf", "shelf", "1.0")
    finally:
        registry._entry_points.cache_clear()
        SOURCES._loaded.pop("shelf", None)


# --- folders -----------------------------------------------------------------------------------------


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path, "there/a.jpg", "here/b.jpg")
    (tmp_path / "here" / "more").symlink_to(tmp_path / "there")
    assert [item.key for item in open_images(str(tmp_path / "here")).items()] == ["b.jpg", "more/a.jpg"]
    before = open_images(str(tmp_path / "here")).digest
    touch(tmp_path, "there/c.jpg")
    assert open_images(str(tmp_path / "here")).digest != before
    (tmp_path / "there" / "back").symlink_to(tmp_path / "here")
    with pytest.raises(InputError, match="is the same folder as"):
        open_images(str(tmp_path / "here")).items()


def test_a_link_to_nothing_and_a_folder_that_cannot_be_read_are_no_fewer_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a.jpg", "shut/b.jpg")
    (tmp_path / "c.jpg").symlink_to("nowhere")
    with pytest.raises(InputError, match=r"c\.jpg is not a file, or is a broken link"):
        open_images(str(tmp_path)).items()
    (tmp_path / "c.jpg").unlink()
    scandir = os.scandir

    def shut(path: str) -> object:
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", shut)
    with pytest.raises(InputError, match="Permission denied"):
        open_images(str(tmp_path)).items()


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
        found.add(open_images(str(table)).digest)
    assert len(found) == 4
    (tmp_path / "c.png").write_bytes(b"3")  # not named
    assert open_images(str(table)).digest in found


def test_the_digest_of_a_source_is_of_names_and_bytes_wherever_it_lies(tmp_path: Path) -> None:
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "a.png").write_bytes(b"1")
        (tmp_path / place / "set.csv").write_text("image,label\na.png,red\n")
    one, two = tmp_path / "one", tmp_path / "two"
    assert open_images(str(one)).digest == open_images(str(two)).digest
    assert open_images(str(one / "set.csv")).digest == open_images(str(two / "set.csv")).digest
    (two / "a.png").rename(two / "b.png")
    assert open_images(str(one)).digest != open_images(str(two)).digest
    assert open_images(BUILTIN_SCENES).digest == open_images(BUILTIN_SCENES).digest


# ---- nothing is lost in silence

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"


def test_a_picture_beside_class_folders_takes_no_labels_from_the_others(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.jpg", "dog/1.jpg", "preview.png", "dog/raw/2.jpg")
    assert labelled(open_images(str(tmp_path)).items()) == [
        ("cat/1.jpg", "cat"), ("dog/1.jpg", "dog"), ("dog/raw/2.jpg", None), ("preview.png", None),
    ]  # fmt: skip


def test_folders_that_hold_the_lesser_part_of_the_pictures_are_no_classes_and_that_is_said(tmp_path: Path) -> None:
    touch(tmp_path, "1.jpg", "2.jpg", "more/3.jpg")
    found = open_images(str(tmp_path))
    assert [item.label for item in found.items()] == [None] * 3
    assert "no folder is used as a class" in found.notices[0] and "as more/3.jpg" in found.notices[0]


def test_pictures_are_found_by_their_content_whatever_they_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "a.jfif", "b.JPE")
    for name, begins in (("c.image", b"\xff\xd8\xff\xe0"), ("d", b"RIFF\0\1\2\3WEBP"), ("e.txt", b"\xff\xd8\xff\xe0")):
        (tmp_path / name).write_bytes(begins)
    assert [item.key for item in open_images(str(tmp_path)).items()] == ["a.jfif", "b.JPE", "c.image", "d"]
    shard = tar(tmp_path / "s.tar", {"0.img": b"\xff\xd8\xff0", "1.jfif": b"x", "2.bin": b"nothing", "0.cls": b"1"})
    found = open_images(str(shard))
    assert labelled(found.items()) == [("0", 1), ("1", None)]
    assert found.notices == (f"{shard}: members left out that pargate does not read: 1 .bin; the first is 2.bin",)


def test_what_is_left_out_is_counted_by_its_endings(tmp_path: Path) -> None:
    for name in ("b.heic", "c.HEIC", "x/d.avif", "notes.txt", ".DS_Store", "Thumbs.db", ".git/config", "e"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"no images in .*: 2 \.heic, 1 without a suffix, 1 \.txt, 1 \.avif"):
        open_images(str(tmp_path)).items()
    touch(tmp_path, "a.jpg")
    (notice,) = open_images(str(tmp_path)).notices
    assert notice.endswith("2 .heic, 1 without a suffix, 1 .txt, 1 .avif; the first is b.heic")


def test_columns_that_are_not_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("\ufeffImage, LABEL ,id,class\na.jpg, tabby  cat ,7,x\n", encoding="utf-8")
    found = open_images(str(tmp_path / "t.csv"))
    assert labelled(found.items()) == [("a.jpg", "tabby cat")]
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
    with pytest.raises(InputError, match=r"t\.csv:2: the label .* is not a class index") as caught:
        read_label(text, "t.csv:2")
    assert len(caught.value.message) < 100


@pytest.mark.parametrize(("text", "label"), [(b"2.0\n", 2), (b"\xef\xbb\xbf2", 2), (b"", None), (b"nan", None)])
def test_labels_in_tars_are_read_as_those_in_tables(text: bytes, label: int | None, tmp_path: Path) -> None:
    shard = tar(tmp_path / "s.tar", {"0.jpg": b"x", "0.cls": text})
    assert labelled(open_images(str(shard)).items()) == [("0", label)]


@pytest.mark.parametrize(
    ("suffix", "text", "words"),
    [
        (".cls", b"-1", "the label -1 is not a class index"),
        (".txt", b"caf\xe9", "is not text"),
        (".txt", POINTER, "git-lfs pointer"),
        (".txt", b"a" * (1 << 21), "is longer than"),
    ],
)
def test_a_text_in_a_tar_that_is_none_is_refused(suffix: str, text: bytes, words: str, tmp_path: Path) -> None:
    shard = tar(tmp_path / "s.tar", {"0.jpg": b"x", f"0{suffix}": text})
    with pytest.raises(InputError, match=words):
        open_images(str(shard)).items()


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.tar"])
def test_a_source_that_is_a_git_lfs_pointer_says_how_to_get_it(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(POINTER)
    with pytest.raises(InputError, match=f"{name} is a git-lfs pointer") as caught:
        open_images(str(tmp_path / name)).items()
    assert "git lfs pull" in caught.value.hint
