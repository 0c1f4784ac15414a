"""Pairs are listed from every kind of source, and what is wrong with one is said in one message."""

import errno
import io
import json
import os
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from pargate.errors import InputError, OperationalError
from pargate.images.dataset import Dataset, check_unchanged
from pargate.images.decode import Locator
from pargate.images.opening import open_pairs
from pargate.images.prefetch import BatchOrder
from pargate.images.sources.scenes import BUILTIN_SCENES, FIRST_SCENE
from pargate.images.workers import Scene
from pargate.scenes import render as scenes

SHARD = Path(__file__).parents[3] / "shared" / "data" / "pairs-64.tar"


def picture(shade: int = 0, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (12, 10), (shade, 0, 0)).save(buffer, kind)
    return buffer.getvalue()


def files(folder: Path, contents: dict[str, bytes | str]) -> Path:
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def tar(path: Path, members: dict[str, bytes | str]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            content = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def opened(source: object, **options: Any) -> Dataset:
    return open_pairs(str(source), seed=0, **options)


def contents(pairs: Dataset) -> list[bytes]:
    places = pairs.places(range(pairs.count or 0))
    return [place.read() for place in places if isinstance(place, Locator)]


def refused(source: object, message: str, **options: Any) -> InputError:
    with pytest.raises(InputError, match=message) as caught:
        opened(source, **options)
    return caught.value


# ---- folders


def test_a_folder_pairs_pictures_with_the_texts_beside_them(tmp_path: Path) -> None:
    files(tmp_path, {"b.png": b"2", "b.txt": "a dog\n", "a.JPG": b"1", "a.txt": " a\ncat ", "deep/c.webp": b"3",
                     "deep/c.TXT": "a bird", "manifest.json": "{}"})  # fmt: skip
    pairs = opened(tmp_path)
    assert pairs.count == 3 and contents(pairs) == [b"1", b"2", b"3"]
    assert pairs.captions([0, 1, 2]) == ["a cat", "a dog", "a bird"] and pairs.captions([2, 0]) == ["a bird", "a cat"]


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({}, "no images in"),
        ({"a.png": b"", "b.png": b""}, "has 2 images and no captions"),
        ({"a.png": b"", "a.txt": "a", "b.png": b"", "c.png": b"", "x.txt": "x"},
         r"2 images without a caption \(b\.png, c\.png\) and 1 caption without an image \(x\.txt\)"),
        ({"a.txt": "a", "b.txt": "b", "c.txt": "c", "d.txt": "d"},
         r"4 captions without an image \(a\.txt, b\.txt, c\.txt, …\)"),
        ({"a.png": b"", "a.txt": " \n", "b.png": b"", "b.txt": "b"}, r"1 caption empty: a\.txt"),
        ({"a.png": b"", "a.txt": b"\xff\xfe", "b.png": b"", "b.txt": "b"}, r"a\.txt is not text"),
        ({"a.png": b"", "a.jpg": b"", "a.txt": "a"}, "several images share one caption: a"),
        ({"a.png": b"", "a.txt": "a"}, "holds one pair"),
    ],
)  # fmt: skip
def test_a_folder_that_does_not_pair_is_refused(contents: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert refused(files(tmp_path, contents), message).hint


def test_two_texts_of_one_picture_are_refused(tmp_path: Path) -> None:
    refused(files(tmp_path, {"a.png": picture(), "a.txt": "one", "a.TXT": "two"}), "are captions of one image")


@pytest.mark.parametrize("stray", ["old.tar", "part.parquet"])
def test_shards_among_pictures_are_not_taken_for_all_of_them(stray: str, tmp_path: Path) -> None:
    files(tmp_path, {"a.png": picture(), "a.txt": "one", "b.png": picture(1), "b.txt": "two", stray: b"what"})
    assert "{000..007}" in refused(tmp_path, rf"holds {stray} and a\.png: shards, or images\?").hint


@pytest.mark.parametrize("kind", ["folder", "table", "tar"])
def test_pictures_that_are_changed_after_they_were_listed_are_noticed(kind: str, tmp_path: Path) -> None:
    members: dict[str, bytes | str] = {"a.png": picture(), "a.txt": "one", "b.png": picture(1), "b.txt": "two"}
    source, file = {
        "folder": lambda: (files(tmp_path, members), tmp_path / "a.png"),
        "table": lambda: (
            files(tmp_path, {**members, "p.csv": "image,caption\na.png,a\nb.png,b\n"}) / "p.csv",
            tmp_path / "a.png",
        ),
        "tar": lambda: (tar(tmp_path / "0.tar", members), tmp_path / "0.tar"),
    }[kind]()
    pairs = opened(source)
    check_unchanged(pairs)
    changed = bytearray(file.read_bytes())
    changed[-1] ^= 1
    file.write_bytes(changed)
    with pytest.raises(InputError, match=rf"{file.name} changed while it was in use"):
        check_unchanged(pairs)
    file.unlink()
    with pytest.raises(InputError, match=rf"{file.name} changed"):
        check_unchanged(pairs)
    check_unchanged(opened("synthetic:5"))


def test_the_digest_follows_names_and_bytes_and_not_the_place(tmp_path: Path) -> None:
    whole = {"a.png": b"1", "a.txt": "a", "b.png": b"2", "b.txt": "b"}
    first = opened(files(tmp_path / "1", whole)).digest
    assert opened(files(tmp_path / "2", whole)).digest == first
    for change in ({"a.txt": "another"}, {"a.png": b"3"}, {"c.png": b"1", "c.txt": "a"}):
        changed = files(tmp_path / str(change), {**whole, **change})
        assert opened(changed).digest != first


# ---- tables


def test_a_table_names_pictures_relative_to_itself(tmp_path: Path) -> None:
    files(tmp_path, {"a.png": b"1", "sub/b.png": b"2",
                     "pairs.csv": 'image,caption\na.png,"a cat, asleep"\nsub/b.png,b\n',
                     "pairs.tsv": "caption\timage\tid\nb\tsub/b.png\t1\na cat\ta.png\t2\n"})  # fmt: skip
    pairs = opened(tmp_path / "pairs.csv")
    assert pairs.captions([0, 1]) == ["a cat, asleep", "b"] and contents(pairs) == [b"1", b"2"]
    pairs = opened(tmp_path / "pairs.tsv")
    assert pairs.captions([0, 1]) == ["b", "a cat"] and contents(pairs) == [b"2", b"1"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", "the header is empty"),
        ("image,label\na.png,cat\n", "the header is image, label"),
        ("caption\na\n", "the header is caption"),
        ("image,caption\na.png,\nb.png,b\n", "1 caption empty: line 2"),
        ("image,caption\na.png\nb.png,b\n", "1 caption empty: line 2"),
        ("image,caption\n,a\nb.png,b\n", "1 row without an image: line 2"),
        ("image,caption\na.png,a\nc.png,c\nd.png,d\n",
         r"2 captions without an image \(line 3: c\.png, line 4: d\.png\)"),
        ("image,caption\na.png,a\n", "holds one pair"),
        (b"image,caption\n\xff,a\n", "not a table of text"),
    ],
)  # fmt: skip
def test_a_wrong_table_is_refused(table: str | bytes, message: str, tmp_path: Path) -> None:
    files(tmp_path, {"a.png": b"1", "b.png": b"2", "pairs.csv": table})
    assert refused(tmp_path / "pairs.csv", message).hint


def test_columns_that_are_not_read_do_not_matter(tmp_path: Path) -> None:
    files(
        tmp_path,
        {"a.png": picture(), "b.png": picture(1), "p.csv": "image,caption,tag,tag,,\na.png,a,1,2\nb.png,b,,,,\n"},
    )
    assert opened(tmp_path / "p.csv").captions([0, 1]) == ["a", "b"]


def test_a_table_without_rows_is_refused(tmp_path: Path) -> None:
    refused(files(tmp_path, {"pairs.csv": "image,caption\n"}) / "pairs.csv", "no images in")


# ---- tars


def test_tars_pair_members_that_share_a_name(tmp_path: Path) -> None:
    tar(tmp_path / "0.tar", {"000.jpg": b"1", "000.txt": "one", "000.json": "{}", "001.txt": "two", "001.png": b"2"})
    tar(tmp_path / "1.tar", {"x/000.jpg": b"3", "x/000.txt": "three\n"})
    one = opened(tmp_path / "0.tar")
    assert one.captions([1, 0]) == ["two", "one"] and contents(one) == [b"1", b"2"]
    for source in (tmp_path / "{0..1}.tar", tmp_path):
        both = opened(source)
        assert both.captions([0, 1, 2]) == ["one", "two", "three"] and contents(both) == [b"1", b"2", b"3"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"0.json": "{}"}, "no images in"),
        ({"0.jpg": b"1", "1.jpg": b"2"}, "has 2 images and no captions"),
        ({"0.jpg": b"1", "0.txt": "a", "1.jpg": b"2"}, r"1 image without a caption \(1\)"),
        ({"0.jpg": b"1", "0.txt": "a", "1.txt": "b"}, r"1 caption without an image \(1\.txt\)"),
        ({"0.jpg": b"1", "0.txt": "", "1.jpg": b"2", "1.txt": "b"}, "1 caption empty: 0"),
        ({"0.jpg": b"1", "0.txt": "a"}, "holds one pair"),
        ({"0.jpg": b"1", "0.png": b"2", "0.txt": "a"}, "sample 0 holds 2 images"),
        ({"0.jpg": b"1", "0.txt": "a", "./0.JPG": b"2", "1.txt": "b"}, r"holds \./0\.JPG twice"),
    ],
)
def test_a_tar_that_does_not_pair_is_refused(members: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert refused(tar(tmp_path / "0.tar", members), message).hint


def test_a_shard_that_ends_early_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    whole = tar(tmp_path / "0.tar", {f"{i}.{kind}": b"x" * 600 for i in range(2) for kind in ("jpg", "txt")})
    complete = whole.read_bytes()
    assert opened(whole).count == 2
    for kept in range(512, 4 * (512 + 1024) + 1, 256):
        whole.write_bytes(complete[:kept])
        refused(whole, "is not a complete tar|is cut short at or after")


def test_a_shard_that_goes_on_behind_its_end_is_refused(tmp_path: Path) -> None:
    whole = tar(tmp_path / "0.tar", {f"{i}.{kind}": b"x" for i in range(3) for kind in ("jpg", "txt")})
    complete = whole.read_bytes()
    whole.write_bytes(complete + complete)
    refused(whole, r"data follows its end after 2\.txt")
    whole.write_bytes(complete[:4096] + bytes(512) + complete[4096 + 512 :])
    refused(whole, r"is damaged, .* after 1\.txt")
    whole.write_bytes(complete + bytes(3 << 20))
    assert opened(whole).count == 3


# ---- Parquet


def test_parquet_is_unpacked_once_and_keeps_every_byte(tmp_path: Path) -> None:
    pictures = [picture(1), picture(2, "JPEG"), picture(3, "WEBP"), b"what is this"]
    table = pa.table({"jpg": pa.array(pictures, pa.binary()), "text": ["one", "two ", "three", "four"]})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=3)
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        pairs = opened(tmp_path / "a.parquet", cache=cache)
        assert contents(pairs) == pictures and pairs.captions(range(4)) == ["one", "two", "three", "four"]
        assert pairs.notices == ()
    (made,) = (tmp_path / "cache" / "pairs").iterdir()
    with tarfile.open(made / "000000.tar") as archive:
        assert [name[9:] for name in archive.getnames()[::2]] == [".png", ".jpg", ".webp", ".jpg"]


def test_parquet_as_the_hub_writes_it(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for part in range(2):
        cells = [{"bytes": picture(10 * part + i), "path": f"{i}.png"} for i in range(2)]
        table = pa.table({"image": pa.array(cells, kind), "caption": pa.array([[f"{part}{i}", "b"] for i in range(2)])})
        parquet.write_table(table, tmp_path / f"train-{part}.parquet")
    for source in (tmp_path, tmp_path / "train-{0..1}.parquet"):
        pairs = opened(source)
        assert pairs.captions(range(4)) == ["00", "01", "10", "11"]
        assert contents(pairs) == [picture(shade) for shade in (0, 1, 10, 11)]


def test_a_temporary_folder_goes_with_its_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    table = pa.table({"jpg": [picture(1), picture(2)], "text": ["one", "two"]})
    parquet.write_table(table, tmp_path / "a.parquet")
    pairs = opened(tmp_path / "a.parquet")
    assert len(list((tmp_path / "tmp").iterdir())) == 1 and pairs.count == 2
    del pairs
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_few_rows_of_parquet_may_be_incomplete(tmp_path: Path) -> None:
    captions: list[str | None] = [f"caption {i}" for i in range(200)]
    captions[7], captions[90] = None, " "
    parquet.write_table(
        pa.table({"image": [picture(i) for i in range(200)], "caption": captions}), tmp_path / "a.parquet"
    )
    for _ in range(2):
        pairs = opened(tmp_path / "a.parquet", cache=tmp_path / "cache")
        assert pairs.count == 198 and pairs.captions([7]) == ["caption 8"]
        assert "2 rows" in pairs.notices[0]
    captions[3] = None
    parquet.write_table(
        pa.table({"image": [picture(i) for i in range(200)], "caption": captions}), tmp_path / "a.parquet"
    )
    refused(tmp_path / "a.parquet", r"3 of 200 rows have no image or no caption, such as row 4 of a\.parquet")
    assert len(list((tmp_path / "cache" / "pairs").iterdir())) == 1


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": [b"1"], "label": [3]}, "no column with a caption among image, label"),
        ({"id": [1]}, "no column with an image and none with a caption among id"),
        ({"image": ["http://a/b.jpg"], "text": ["a"]}, "the column image holds addresses, not images"),
        ({"image": [[1, 2]], "text": ["a"]}, "the column image holds list"),
        ({"image": [b"1"], "text": ["a"]}, "holds one pair"),
        ({"image": pa.array([], pa.binary()), "text": pa.array([], pa.string())}, "0 of 0 rows"),
    ],
)
def test_parquet_without_what_is_needed_is_refused(columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert refused(tmp_path / "a.parquet", message).hint


def test_pictures_of_parquet_may_be_kept_by_dictionary(tmp_path: Path) -> None:
    cells = pa.array([picture(1), picture(2), picture(1)]).dictionary_encode()
    parquet.write_table(pa.table({"image": cells, "caption": ["a", "b", "c"]}), tmp_path / "a.parquet")
    assert contents(opened(tmp_path / "a.parquet")) == [picture(1), picture(2), picture(1)]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "000000.tar").write_bytes(b"x" * 20_000),
        lambda folder: (folder / "000000.tar").unlink(),
        lambda folder: (folder / "manifest.json").write_text("{oops"),
        lambda folder: (folder / "manifest.json").write_text("{}"),
        lambda folder: (folder / "manifest.json").write_text('{"settings": {"rows_left_out": 0}, "shards": []}'),
        lambda folder: tar(folder / "000000.tar", {f"{i}.{k}": b"1" for i in range(3) for k in ("png", "txt")}),
    ],
    ids=["other bytes", "no shard", "no JSON", "nothing", "no shards", "another tar"],
)
def test_what_was_unpacked_is_taken_byte_for_byte_or_not_at_all(spoil: Any, tmp_path: Path) -> None:
    parquet.write_table(pa.table({"image": [picture(1), picture(2)], "caption": ["a", "b"]}), tmp_path / "a.parquet")
    assert opened(tmp_path / "a.parquet", cache=tmp_path).count == 2
    (folder,) = (tmp_path / "pairs").iterdir()
    spoil(folder)
    with pytest.raises(OperationalError, match="changed since it was unpacked") as caught:
        opened(tmp_path / "a.parquet", cache=tmp_path)
    assert str(folder) in caught.value.message and "remove this folder" in caught.value.hint


def test_a_column_of_nothing_is_said_so(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"image": [None, None], "caption": ["a", "b"]}), tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", "holds no images: the column image is empty")


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    columns = [pa.array([picture(1)]), pa.array([picture(2)]), pa.array(["a"])]
    parquet.write_table(pa.Table.from_arrays(columns, ["image", "image", "caption"]), tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", "several columns are named image")


@pytest.mark.parametrize("cached", [True, False])
def test_a_disk_that_is_full_is_no_fault_of_parquet(
    cached: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    parquet.write_table(pa.table({"image": [picture(1), picture(2)], "caption": ["a", "b"]}), tmp_path / "a.parquet")
    monkeypatch.setattr("pargate.images.sources.parquet.write_shards", full)
    with pytest.raises(OperationalError, match="No space left") as caught:
        opened(tmp_path / "a.parquet", cache=tmp_path / "cache" if cached else None)
    assert "free space" in caught.value.hint


@pytest.mark.parametrize("kept", [0, 3, 200, -1000, -10])
def test_damaged_parquet_is_refused(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"image": [os.urandom(500) for _ in range(9)], "caption": ["a"] * 9}), path)
    path.write_bytes(path.read_bytes()[:kept])
    refused(path, "is not a complete Parquet file")
    path.write_bytes(b"PAR1" + os.urandom(800) + b"PAR1")
    refused(path, "is not a complete Parquet file")


def test_pages_of_parquet_that_are_damaged_are_found(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(
        pa.table({"image": [os.urandom(900) for _ in range(9)], "caption": [f"{i}" for i in range(9)]}), path
    )
    content = bytearray(path.read_bytes())
    content[4:40] = b"\xff" * 36
    path.write_bytes(content)
    refused(path, "is not a complete Parquet file", cache=tmp_path / "cache")
    assert list((tmp_path / "cache" / "pairs").iterdir()) == []


def test_without_pyarrow_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(OperationalError, match="pyarrow is not installed") as caught:
        opened(tmp_path / "a.parquet")
    assert caught.value.hint == "pip install 'pargate[parquet]'"


# ---- drawn pairs


def test_synthetic_pairs_are_scenes_from_zero_on() -> None:
    endless, two = opened("synthetic:"), opened("synthetic:2")
    assert endless.count is None and two.count == 2
    assert endless.places([0, 7]) == [Scene(0, 0), Scene(7, 0)]
    assert endless.captions([5, 3]) == list(scenes.describe([5, 3], 0).captions)
    assert endless.captions([FIRST_SCENE - 1])


def test_the_digest_of_synthetic_pairs_is_that_of_their_settings() -> None:
    digests = [
        opened("synthetic:").digest, opened("synthetic:9").digest, open_pairs("synthetic:", seed=1).digest,
        opened("synthetic:", classes=["star"]).digest, opened("synthetic:", classes=["Star"]).digest,
    ]  # fmt: skip
    assert len(set(digests)) == 5
    assert opened("synthetic:", classes=["dog"]).digest == digests[0]


def test_classes_restrict_what_is_drawn_and_how_it_is_spelled() -> None:
    pairs = opened("synthetic:", classes=["dog", "STAR", "Airplane", "golden retriever"])
    captions = pairs.captions(range(200))
    assert all(("STAR" in caption) != ("Airplane" in caption) for caption in captions)
    assert sum("STAR" in caption for caption in captions) == 100
    numbers = [place.number for place in pairs.places(range(200)) if isinstance(place, Scene)]
    assert len(set(numbers)) == 200 and numbers == sorted(set(numbers), key=numbers.index)
    told = scenes.describe(numbers, 0)
    assert [c.casefold() for c in told.captions] == [c.casefold() for c in captions]
    assert pairs.places([150, 3]) == [pairs.places(range(200))[150], pairs.places(range(200))[3]]
    assert "2 of the 4 classes can be drawn" in pairs.notices[0] and "Airplane, STAR" in pairs.notices[0]


def test_classes_that_cannot_be_drawn_are_said_so() -> None:
    pairs = opened("synthetic:", classes=["dog", "cat"])
    assert pairs.captions(range(9)) == opened("synthetic:").captions(range(9))
    assert "none of the 2 classes can be drawn" in pairs.notices[0]


@pytest.mark.parametrize("text", ["0", "1", "-3", "many", "1e3", "²", str(FIRST_SCENE)])
def test_a_count_that_cannot_be_drawn_is_refused(text: str) -> None:
    refused(f"synthetic:{text}", "cannot draw")


# ---- other names


@pytest.mark.parametrize(
    ("source", "message", "hint"),
    [
        (BUILTIN_SCENES, "is for scanning a model", "synthetic:"),
        ("builtin:pairs", "is for scanning", "synthetic:"),
        ("syntetic:", "unknown pair source 'syntetic:'. Did you mean 'synthetic:'?", "hf:DATASET"),
        ("difusers:x/y", "Did you mean 'diffusers:'?", "hf:DATASET"),
        ("s3:x/y", "unknown pair source", "WebDataset"),
        ("diffusers:x/y", "there is no cache to keep its images", "--cache"),
        ("nowhere.csv", "no such file or folder", "check the path"),
        (__file__, "cannot read pairs from", "CSV or TSV"),
    ],
)
def test_what_is_no_source_is_refused(source: str, message: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        opened(source)
    assert message in caught.value.message and hint in caught.value.hint


def test_a_file_may_be_named_like_a_scheme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files(tmp_path / "odd:", {"a.png": b"", "a.txt": "a", "b.png": b"", "b.txt": "b"})
    monkeypatch.chdir(tmp_path)
    assert opened("odd:").count == 2


# ---- batches


@pytest.mark.parametrize(
    ("count", "batch", "world", "message", "hint"),
    [
        (10, 11, 1, "a batch of 11 is more than the 10 pairs", "the largest that works is 10"),
        (10, 4, 3, "a batch of 4 on each of 3 processes, 12 in all, is more than", "the largest that works is 3"),
        (10, 1, 11, "11 in all", "give more pairs"),
        (10, 1, 1, "a batch of 1 pairs", "at least two"),
        (None, 0, 4, "a batch of 0 pairs", "at least two"),
    ],
)
def test_a_batch_that_cannot_be_is_refused(count: int | None, batch: int, world: int, message: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        BatchOrder(count, 0, batch, world)
    assert message in caught.value.message and hint in caught.value.hint


def test_a_source_without_end_is_taken_in_its_order() -> None:
    split = BatchOrder(None, 0, 4, 2)
    assert split.steps_per_epoch is None
    assert split.numbers(3, 0).tolist() == [24, 25, 26, 27] and split.numbers(3, 1).tolist() == [28, 29, 30, 31]


def test_epochs_differ_and_seeds_differ() -> None:
    orders = [BatchOrder(100, seed, 100).numbers(step).tolist() for seed in (0, 1) for step in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4 and all(sorted(order) == list(range(100)) for order in orders)


def test_the_manifest_of_unpacked_pairs_names_their_source(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"image": [picture(1), picture(2)], "caption": ["a", "b"]}), tmp_path / "a.parquet")
    pairs = opened(tmp_path / "a.parquet", cache=tmp_path)
    (manifest,) = tmp_path.glob("pairs/*/manifest.json")
    assert json.loads(manifest.read_text())["settings"]["source_sha256"] == pairs.digest


@pytest.mark.skipif(not SHARD.exists(), reason=f"no {SHARD}: the real pairs are not part of the repository")
def test_real_pairs_are_listed() -> None:
    pairs = opened(SHARD)
    assert pairs.count == 5999
    assert pairs.captions([0, 1, 5998]) == [
        "a photo of my lobster",
        "one rickshaw seen from the side",
        "a close-up of a lifeboat",
    ]
    decoded = Image.open(io.BytesIO(contents(pairs)[17]))
    assert decoded.size == (64, 64) and np.asarray(decoded).std() > 0
