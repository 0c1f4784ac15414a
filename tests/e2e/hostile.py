"""Inputs that cost memory, time or disk out of all proportion, or that no library expects; a builder for each.

A builder fills an empty folder and returns the arguments of the command that is to refuse it.
"""

import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLEAN = Path(__file__).parents[2] / "examples" / "models" / "clean"
WEIGHTS = "open_clip_model.safetensors"
PICKLED = "open_clip_pytorch_model.bin"
CONFIG = "open_clip_config.json"
POLICY = "pargate: 1\nname: x\nrules:\n  - {id: a, probe: attack, triggers: [badnet], max: {excess: 30pp}}\n"

Build = Callable[[Path], list[str]]


def _inspect(model: str = "model") -> list[str]:
    return ["inspect", model]


def _scan(*more: str) -> list[str]:
    return ["scan", "model", "-p", "policy.yaml", "--images", "pictures", *more]


def _model(place: Path, content: bytes | None = None, name: str = WEIGHTS, **changes: dict[str, Any]) -> Path:
    """A copy of the example model with other weights, or with other fields in parts of its configuration."""
    folder = place / "model"
    folder.mkdir()
    config = json.loads((CLEAN / CONFIG).read_bytes())
    for part, fields in changes.items():
        config["model_cfg"][part] = fields if "timm_model_name" in fields else config["model_cfg"][part] | fields
    (folder / CONFIG).write_text(json.dumps(config))
    (folder / name).write_bytes((CLEAN / WEIGHTS).read_bytes() if content is None else content)
    return folder


def _pictures(place: Path, count: int = 200) -> Path:
    """A policy, and pictures of one class beside another."""
    (place / "policy.yaml").write_text(POLICY)
    folder = place / "pictures"
    for number in range(count):
        path = folder / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((24, 24, 3), number, np.uint8)).save(path)
    return folder


# --- pickles -----------------------------------------------------------------------------------------


def _zip(data: bytes, values: int = 1) -> bytes:
    """A torch archive with `data.pkl` and one storage of float32."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        made.writestr(zipfile.ZipInfo("archive/data.pkl"), data)
        made.writestr(zipfile.ZipInfo("archive/data/0"), bytes(4 * values))
        made.writestr(zipfile.ZipInfo("archive/version"), b"3\n")
    return buffer.getvalue()


STORAGE = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x01tQ"


def _tensor(shape: bytes, strides: bytes) -> bytes:
    """Opcodes of a tensor whose shape and strides other opcodes make."""
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + STORAGE
        + b"K\0"
        + shape
        + strides
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )


def _word(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def _number(value: int) -> bytes:
    content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(content)]) + content


def _state(entries: bytes) -> bytes:
    return b"\x80\x02}(" + entries + b"u."


def _pickled(place: Path, data: bytes) -> list[str]:
    _model(place, _zip(data), PICKLED)
    return _inspect()


def shape_of_large_numbers(place: Path) -> list[str]:
    big = _number(2**2030)
    shape = b"(" + big + b"q\x01" + b"h\x01" * 4999 + b"t"
    return _pickled(place, _state(_word("w") + _tensor(shape, b"(" + b"K\0" * 5000 + b"t")))


def shape_of_many_sides(place: Path) -> list[str]:
    sides = b"(" + b"K\x02" * 1_000_000 + b"t"
    return _pickled(place, _state(_word("w") + _tensor(sides, sides)))


def keys_that_collide(place: Path) -> list[str]:
    keys = b"".join(_number(i * (2**61 - 1)) + b"N" for i in range(1, 100_001))
    return _pickled(place, _state(keys))


def nested_lists(place: Path) -> list[str]:
    count = 1 << 20
    return _pickled(place, b"\x80\x02" + b"]" * count + b"a" * (count - 1) + b".")


def doubling_tuples_as_a_name(place: Path) -> list[str]:
    doubled = b"".join(b"h" + bytes([n]) + b"h" + bytes([n]) + b"\x86q" + bytes([n + 1]) for n in range(1, 60))
    return _pickled(place, b"\x80\x04]q\x01" + doubled + b"X\x01\0\0\0x\x93.")


def a_million_tensors(place: Path) -> list[str]:
    first = (
        b"ctorch._utils\n_rebuild_tensor_v2\nq\x01("
        + STORAGE
        + b"q\x02K\0K\x01\x85q\x03h\x03\x89ccollections\nOrderedDict\n)Rq\x04tR"
    )
    again = b"h\x01(h\x02K\0h\x03h\x03\x89h\x04tR"
    return _pickled(place, _state(_word("w") + first + b"".join(_word(f"{i:x}") + again for i in range(100_000))))


def one_tensor_under_many_names(place: Path) -> list[str]:
    first = _tensor(b"K\x01\x85", b"K\x01\x85") + b"q\x09"
    return _pickled(place, _state(_word("w") + first + b"".join(_word(f"{i:x}") + b"h\x09" for i in range(300_000))))


def many_names_for_one_tensor_to_load(place: Path) -> list[str]:
    _pictures(place)
    first = _tensor(b"K\x01\x85", b"K\x01\x85") + b"q\x09"
    _pickled(place, _state(_word("w") + first + b"".join(_word(f"{i:x}") + b"h\x09" for i in range(300_000))))
    return _scan()


def a_long_storage_key(place: Path) -> list[str]:
    storage = STORAGE.replace(b"X\x01\0\0\x000", _word("k" * (8 << 20)))
    first = _tensor(b"K\x01\x85", b"K\x01\x85").replace(STORAGE, storage) + b"q\x09"
    return _pickled(place, _state(_word("w") + first + b"".join(_word(f"{i:x}") + b"h\x09" for i in range(100_000))))


def short_zip64_field(place: Path) -> list[str]:
    content = bytearray(_zip(_state(b"")))
    directory = content.rindex(b"PK\x05\x06")
    start = struct.unpack_from("<I", content, directory + 16)[0]
    extra = struct.pack("<HH", 1, 16)
    struct.pack_into("<H", content, start + 30, len(extra))
    name = struct.unpack_from("<H", content, start + 28)[0]
    content[start + 46 + name : start + 46 + name] = extra
    length = struct.unpack_from("<I", content, directory + len(extra) + 12)[0]
    struct.pack_into("<I", content, directory + len(extra) + 12, length + len(extra))
    _model(place, bytes(content), PICKLED)
    return _inspect()


def zip_with_a_vast_directory(place: Path) -> list[str]:
    folder = _model(place, b"PK\x03\x04", PICKLED)
    size = 3 << 30
    with (folder / PICKLED).open("r+b") as stream:
        stream.seek(size)
        stream.write(b"PK\x05\x06" + struct.pack("<4H2IH", 0, 0, 1, 1, size - 4, 4, 0))
    return _inspect()


# --- safetensors -------------------------------------------------------------------------------------


def _header(entries: dict[str, Any] | bytes, data: bytes = b"") -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


def sparse_weights(place: Path) -> list[str]:
    size = 200 << 30
    entry = {"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    folder = _model(place, _header(entry))
    with (folder / WEIGHTS).open("r+b") as stream:
        stream.truncate(len(_header(entry)) + size)
    return _inspect()


def sparse_weights_to_load(place: Path) -> list[str]:
    _pictures(place)
    sparse_weights(place)
    return _scan()


def header_of_many_tensors(place: Path) -> list[str]:
    entry = b'":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    _model(place, _header(b"{" + b",".join(b'"%x' % i + entry for i in range(280_000)) + b"}"))
    return _inspect()


def header_of_many_notes(place: Path) -> list[str]:
    notes = b",".join(b'"%x":""' % i for i in range(1_000_000))
    _model(place, _header(b'{"__metadata__":{' + notes + b'},"w":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'))
    return _inspect()


def side_beyond_64_bits(place: Path) -> list[str]:
    _model(place, _header({"w": {"dtype": "F32", "shape": [0, 10**30], "data_offsets": [0, 0]}}))
    return _inspect()


def side_beyond_64_bits_to_load(place: Path) -> list[str]:
    _pictures(place)
    side_beyond_64_bits(place)
    return _scan()


# --- configurations ----------------------------------------------------------------------------------


def timm_of_seven_billion(place: Path) -> list[str]:
    _pictures(place)
    _model(place, vision_cfg={"timm_model_name": "vit_7b_patch16_dinov3", "image_size": 256})
    return _scan()


def patches_of_one_pixel(place: Path) -> list[str]:
    _pictures(place)
    _model(place, vision_cfg={"image_size": 4096, "patch_size": 1, "layers": 1, "width": 64, "head_width": 64})
    return _scan()


def many_wide_layers(place: Path) -> list[str]:
    _pictures(place)
    _model(place, vision_cfg={"image_size": 64, "patch_size": 16, "layers": 256, "width": 16384, "head_width": 64})
    return _scan()


def wide_resnet(place: Path) -> list[str]:
    _pictures(place)
    _model(place, vision_cfg={"layers": [200, 200, 200, 200], "width": 1024})
    return _scan()


def heads_that_do_not_fit(place: Path) -> list[str]:
    _pictures(place)
    _model(place, vision_cfg={"head_width": 7})
    return _scan()


def heads_too_wide(place: Path) -> list[str]:
    _pictures(place)
    _model(place, vision_cfg={"head_width": 16384})
    return _scan()


def pooling_left_out(place: Path) -> list[str]:
    _pictures(place)
    _model(place, vision_cfg={"pool_type": "none"}, text_cfg={"pool_type": "none"})
    return _scan()


# --- tokenizers --------------------------------------------------------------------------------------


def _tokenizer(place: Path, content: Any, **files: Any) -> list[str]:
    _pictures(place)
    folder = _model(place, text_cfg={"hf_tokenizer_name": "a/b"})
    for name, value in {"tokenizer.json": content, **files}.items():
        if value is not None:
            (folder / name).write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
    return _scan()


def _words(**more: Any) -> dict[str, Any]:
    """A tokenizer of whole words."""
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "[PAD]": 1, "a": 2}, "unk_token": "[UNK]"}, **more,
    }  # fmt: skip


SETTINGS = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "[UNK]"}


def tokenizer_without_tokens(place: Path) -> list[str]:
    return _tokenizer(place, {})


def tokenizer_of_100_megabytes(place: Path) -> list[str]:
    whole = json.dumps(_words()).encode() + b" " * (100 << 20)
    return _tokenizer(place, whole, **{"tokenizer_config.json": SETTINGS})


def tokenizer_without_added_tokens(place: Path) -> list[str]:
    whole = _words()
    del whole["added_tokens"]
    return _tokenizer(place, whole, **{"tokenizer_config.json": SETTINGS})


def tokenizer_that_doubles_its_text(place: Path) -> list[str]:
    double = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    whole = _words(normalizer={"type": "Sequence", "normalizers": [double] * 64})
    return _tokenizer(place, whole, **{"tokenizer_config.json": SETTINGS})


def tokenizer_of_another_class(place: Path) -> list[str]:
    return _tokenizer(place, _words(), **{"tokenizer_config.json": {**SETTINGS, "tokenizer_class": 7}})


def tokenizer_with_a_list_for_a_map(place: Path) -> list[str]:
    return _tokenizer(place, _words(), **{"tokenizer_config.json": SETTINGS, "special_tokens_map.json": [1, 2]})


def garbage_sentence_pieces(place: Path) -> list[str]:
    return _tokenizer(
        place,
        None,
        **{"tokenizer_config.json": {"tokenizer_class": "T5Tokenizer"}, "spiece.model": b"\xff\x00garbage" * 40},
    )


def _padded(place: Path, length: int) -> list[str]:
    padding = {
        "strategy": {"Fixed": length}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 1,
        "pad_type_id": 0, "pad_token": "[PAD]",
    }  # fmt: skip
    return _graphs(place, "huggingface", "tokenizer.json", json.dumps(_words(padding=padding)).encode())


def tokenizer_whose_padding_panics(place: Path) -> list[str]:
    return _padded(place, 2**62)


def tokenizer_whose_padding_aborts(place: Path) -> list[str]:
    return _padded(place, 2**36)


def damaged_vocabulary(place: Path) -> list[str]:
    whole = bytearray(zlib.compress(b"a b\n" * 60_000, wbits=31))
    whole[20:40] = b"\xff" * 20
    return _graphs(place, "bpe", "bpe_simple_vocab_16e6.txt.gz", bytes(whole))


def _graphs(place: Path, kind: str, name: str, content: bytes) -> list[str]:
    """A folder of graphs that give a constant, with a tokenizer of its own."""
    import onnx
    from onnx import TensorProto, helper

    _pictures(place)
    folder = place / "model"
    folder.mkdir()
    about = {
        "schema": "pargate/onnx/1", "architecture": "x", "checkpoint": "0" * 64, "precision": "fp32",
        "opset": 18, "dim": 4,
        "logit_scale": 100.0, "activation": "gelu",
        "image": {"size": [8, 8], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize": "shortest",
                  "fill": 0},
        "text": {"context_length": 16, "tokenizer": kind, "clean": "lower"}, "templates": ["a {}"],
    }  # fmt: skip
    (folder / "preprocess.json").write_text(json.dumps(about))
    (folder / name).write_bytes(content)
    for graph, given, wanted, dtype, shape in (
        ("image", "pixel_values", "image_embeds", TensorProto.FLOAT, [3, 8, 8]),
        ("text", "input_ids", "text_embeds", TensorProto.INT64, [16]),
    ):
        last = len(shape)
        nodes = [
            helper.make_node("Cast", [given], ["f"], to=TensorProto.FLOAT),
            helper.make_node("ReduceSum", ["f", "axes"], ["s"], keepdims=0),
            helper.make_node("Unsqueeze", ["s", "one"], ["u"]),
            helper.make_node("Mul", ["u", "row"], [wanted]),
        ]
        initial = [
            helper.make_tensor("axes", TensorProto.INT64, [last], list(range(1, last + 1))),
            helper.make_tensor("one", TensorProto.INT64, [1], [1]),
            helper.make_tensor("row", TensorProto.FLOAT, [1, 4], [1.0, 2.0, 3.0, 4.0]),
        ]
        made = helper.make_graph(
            nodes, graph,
            [helper.make_tensor_value_info(given, dtype, ["batch", *shape])],
            [helper.make_tensor_value_info(wanted, TensorProto.FLOAT, ["batch", 4])],
            initial,
        )  # fmt: skip
        model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.save(model, folder / f"{graph}.onnx")
    return _scan()


# --- pictures and where they come from ---------------------------------------------------------------


def _tar(place: Path, content: bytes) -> list[str]:
    _pictures(place)
    _model(place)
    (place / "set.tar").write_bytes(content)
    return ["scan", "model", "-p", "policy.yaml", "--images", "set.tar"]


def _block(name: bytes, kind: bytes, size: bytes, content: bytes = b"", magic: bytes = b"ustar\x0000") -> bytes:
    """One member of a tar, whatever its fields say."""
    head = bytearray(512)
    head[:100] = name.ljust(100, b"\0")
    head[100:108] = b"0000644\0"
    head[124:136] = size.ljust(12, b"\0")
    head[156:157] = kind
    head[257:265] = magic
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + content + bytes(-len(content) % 512)


def _octal(size: int) -> bytes:
    return b"%011o\0" % size


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


PICTURE = _png()
MEMBER = _block(b"a.png", b"0", _octal(len(PICTURE)), PICTURE)
END = bytes(1024)


def _pax(*records: tuple[bytes, bytes]) -> bytes:
    text = b""
    for key, value in records:
        length = len(key) + len(value) + 3
        length += len(str(length + len(str(length))))
        text += b"%d %s=%s\n" % (length, key, value)
    return _block(b"h", b"x", _octal(len(text)), text)


def _negative(size: int) -> bytes:
    return b"\xff" + size.to_bytes(11, "big", signed=True)


TARS = {
    "pax size huge": _pax((b"size", b"9" * 30)) + MEMBER + END,
    "pax size negative": _pax((b"size", b"-512")) + MEMBER + END,
    "pax size no number": _pax((b"size", b"abc")) + MEMBER + END,
    "pax charset unknown": _pax((b"hdrcharset", b"nonsense"), (b"path", b"\xff")) + MEMBER + END,
    "pax length zero": _block(b"h", b"x", _octal(12), b"0 path=abc\n\n") + MEMBER + END,
    "sparse map of words": _pax((b"GNU.sparse.major", b"0"), (b"GNU.sparse.map", b"abc")) + MEMBER + END,
    "sparse size negative": _pax(
        (b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"-1")
    ) + MEMBER + END,
    "long name negative": _block(b"././@LongLink", b"L", _negative(-512), magic=b"ustar  \0") + MEMBER + END,
    "long name beyond the end": _block(b"././@LongLink", b"L", _octal(2**32), magic=b"ustar  \0") + MEMBER + END,
    "2,000 pax headers in a row": _pax((b"comment", b"x")) * 2000 + MEMBER + END,
    "2,000 long names in a row": _block(b"././@LongLink", b"L", _octal(2), b"a\0", b"ustar  \0") * 2000 + MEMBER + END,
    "a name that is not UTF-8": _block(b"\xff\xfe.png", b"0", _octal(len(PICTURE)), PICTURE) + MEMBER + END,
    "global header of a negative size": _block(b"h", b"g", _negative(-1024)) + MEMBER + END,
    "size negative": _block(b"b.png", b"0", _negative(-1), PICTURE) + MEMBER + END,
}  # fmt: skip
"""Tars that Python's reader fails at in ways of its own."""


def tars(name: str) -> Build:
    """The builder of one of `TARS`."""

    def build(place: Path) -> list[str]:
        return _tar(place, TARS[name])

    build.__name__ = name
    return build


def sparse_long_name(place: Path) -> list[str]:
    size = 4 << 30
    arguments = _tar(place, _block(b"././@LongLink", b"L", _octal(size), magic=b"ustar  \0"))
    with (place / "set.tar").open("r+b") as stream:
        stream.seek(512 + size)
        stream.write(MEMBER + END)
    return arguments


def _many(place: Path, content: bytes, suffix: str) -> list[str]:
    folder = _pictures(place)
    for number in range(256):
        (folder / "cat" / f"x{number:03}{suffix}").write_bytes(content)
    _model(place)
    return _scan()


def _flat_png(width: int, height: int) -> bytes:
    """A white picture, one bit a pixel, without holding it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer, row = zlib.compressobj(1), b"\0" + b"\xff" * (-(-width // 8))
    at_once = min(height, 1_000_000)
    rows = b"".join(packer.compress(row * at_once) for _ in range(height // at_once)) + packer.flush()
    head = struct.pack(">2I5B", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def large_webps(place: Path) -> list[str]:
    buffer = io.BytesIO()
    Image.new("RGB", (4096, 4096)).save(buffer, "WEBP", lossless=True, quality=0, method=0)
    return _many(place, buffer.getvalue(), ".webp")


def animated_webps(place: Path) -> list[str]:
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (2100, 2100), (n, 0, 0)) for n in range(2)]
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], lossless=True, quality=0, method=0)
    return _many(place, buffer.getvalue(), ".webp")


def pictures_of_one_column(place: Path) -> list[str]:
    return _many(place, _flat_png(1, 8_000_000), ".png")


def lines_for_pictures(place: Path) -> list[str]:
    return _many(place, _flat_png(1_000_000, 1), ".png")


def picture_of_ten_gigabytes(place: Path) -> list[str]:
    folder = _pictures(place)
    _model(place)
    for number in range(8):
        with (folder / "cat" / f"{number}.bmp").open("wb") as stream:
            stream.truncate(10 << 30)
    return _scan()


def pictures_in_parquet(place: Path) -> list[str]:
    import pyarrow as pa
    from pyarrow import parquet

    picture = io.BytesIO()
    Image.new("RGB", (512, 512)).save(picture, "PNG")
    count = 4_000_000
    image = pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(count, np.int32)), pa.array([picture.getvalue()], pa.binary())
    )
    text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array(["a picture"]))
    parquet.write_table(pa.table({"image": image, "caption": text}), place / "pairs.parquet", row_group_size=count)
    return ["synth", "--pairs", "pairs.parquet", "--out", "out", "--cache", "off"]


def a_large_picture_in_parquet(place: Path) -> list[str]:
    import pyarrow as pa
    from pyarrow import parquet

    image = pa.DictionaryArray.from_arrays(pa.array(np.zeros(256, np.int32)), pa.array([bytes(200 << 20)], pa.binary()))
    table = pa.table({"image": image, "caption": pa.array(["a"] * 256)})
    parquet.write_table(table, place / "pairs.parquet", compression="zstd", dictionary_pagesize_limit=1 << 30)
    return ["synth", "--pairs", "pairs.parquet", "--out", "out", "--cache", "off"]


def parquet_with_unreadable_names(place: Path) -> list[str]:
    import pyarrow as pa
    from pyarrow import parquet

    path = place / "pairs.parquet"
    parquet.write_table(pa.table({"image": pa.array([b"x"]), "caption": pa.array(["a"])}), path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"caption", b"\xff\xfe\xfdtion"))
    return ["synth", "--pairs", "pairs.parquet", "--out", "out", "--cache", "off"]


# --- what is no file, and texts ----------------------------------------------------------------------


def pipe_for_classes(place: Path) -> list[str]:
    _pictures(place)
    _model(place)
    os.mkfifo(place / "classes.txt")
    return _scan("--classes", "classes.txt")


def zeros_for_classes(place: Path) -> list[str]:
    _pictures(place)
    _model(place)
    return _scan("--classes", "/dev/zero")


def zeros_for_a_policy(place: Path) -> list[str]:
    _model(place)
    return ["scan", "model", "-p", "/dev/zero"]


def pipe_for_a_policy(place: Path) -> list[str]:
    os.mkfifo(place / "policy.yaml")
    _model(place)
    return ["scan", "model", "-p", "policy.yaml"]


def pipe_for_the_policy_of_a_folder(place: Path) -> list[str]:
    os.mkfifo(place / "pargate.yaml")
    _model(place)
    return ["scan", "model"]


def pipe_that_a_policy_extends(place: Path) -> list[str]:
    (place / "policy.yaml").write_text("pargate: 1\nname: x\nextends: other.yaml\n")
    os.mkfifo(place / "other.yaml")
    _model(place)
    return ["scan", "model", "-p", "policy.yaml"]


def pipe_for_a_trigger(place: Path) -> list[str]:
    _pictures(place)
    _model(place)
    text = POLICY.replace("[badnet]", "[{kind: file, path: trigger.png}]")
    (place / "policy.yaml").write_text(text)
    os.mkfifo(place / "trigger.png")
    return _scan()


def pipe_for_the_names_of_a_policy(place: Path) -> list[str]:
    _pictures(place)
    _model(place)
    (place / "policy.yaml").write_text(POLICY + "classes: {names: names.txt}\n")
    os.mkfifo(place / "names.txt")
    return _scan()


def pipe_for_a_picture(place: Path) -> list[str]:
    return _table(place, lambda path: os.mkfifo(path))


def zeros_for_a_picture(place: Path) -> list[str]:
    return _table(place, lambda path: path.symlink_to("/dev/zero"))


def _table(place: Path, make: Callable[[Path], None]) -> list[str]:
    _pictures(place)
    _model(place)
    for number in range(200):
        make(place / f"{number}.png")
    rows = "".join(f"{number}.png,{('cat', 'dog')[number % 2]}\n" for number in range(200))
    (place / "pictures.csv").write_text("image,label\n" + rows)
    return ["scan", "model", "-p", "policy.yaml", "--images", "pictures.csv", "--precision", "fp32"]


def pipe_for_a_table(place: Path) -> list[str]:
    _pictures(place)
    _model(place)
    os.mkfifo(place / "pictures.csv")
    return ["scan", "model", "-p", "policy.yaml", "--images", "pictures.csv"]


def pipe_for_a_tar(place: Path) -> list[str]:
    _pictures(place)
    _model(place)
    os.mkfifo(place / "pictures.tar")
    return ["scan", "model", "-p", "policy.yaml", "--images", "pictures.tar"]


def pipe_for_a_report(place: Path) -> list[str]:
    os.mkfifo(place / "report.json")
    return ["report", "report.json"]


def zeros_for_a_report(place: Path) -> list[str]:
    return ["report", "/dev/zero"]


def pipe_for_an_inventory(place: Path) -> list[str]:
    os.mkfifo(place / "inventory.yaml")
    return ["audit", "run", "inventory.yaml", "--out", "out"]


def pipe_for_a_configuration(place: Path) -> list[str]:
    folder = _model(place)
    (folder / CONFIG).unlink()
    os.mkfifo(folder / CONFIG)
    return _inspect()


def memory_for_a_model(place: Path) -> list[str]:
    return ["inspect", "/proc/self/mem", "--arch", "RN50"]


def memory_for_classes(place: Path) -> list[str]:
    _pictures(place)
    _model(place)
    return _scan("--classes", "/proc/self/mem")


def model_that_links_to_itself(place: Path) -> list[str]:
    (place / "model").symlink_to("model")
    return _inspect()


def weights_that_link_to_themselves(place: Path) -> list[str]:
    folder = _model(place)
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to(WEIGHTS)
    return _inspect()


def pictures_that_link_to_themselves(place: Path) -> list[str]:
    folder = _pictures(place)
    _model(place)
    (folder / "cat" / "x.png").symlink_to("x.png")
    return _scan()


def classes_that_link_to_themselves(place: Path) -> list[str]:
    _pictures(place)
    _model(place)
    (place / "classes.txt").symlink_to("classes.txt")
    return _scan("--classes", "classes.txt")


def a_long_name_for_a_model(place: Path) -> list[str]:
    return _inspect("m" * 300)


def _classes(place: Path, lines: str) -> list[str]:
    _pictures(place)
    _model(place)
    (place / "classes.txt").write_text(lines)
    return _scan("--classes", "classes.txt")


def classes_of_100_megabytes(place: Path) -> list[str]:
    return _classes(place, "\n".join(f"class {i} " + "x" * 900 for i in range(110_000)))


def a_million_classes(place: Path) -> list[str]:
    return _classes(place, "\n".join(f"{i}" for i in range(1_000_000)))


def classes_of_60_000_letters(place: Path) -> list[str]:
    return _classes(place, "\n".join(f"{i}" + "x" * 60_000 for i in range(16)))


def a_policy_of_90_000_keys(place: Path) -> list[str]:
    (place / "policy.yaml").write_text(POLICY + "".join(f"k{i}: 1\n" for i in range(90_000)))
    _model(place)
    return ["scan", "model", "-p", "policy.yaml"]


def scale_beyond_floats(place: Path) -> list[str]:
    return _scaled(place, 1e30)


def _scaled(place: Path, value: float) -> list[str]:
    from safetensors.numpy import load_file, save_file

    _pictures(place)
    folder = _model(place)
    save_file(load_file(CLEAN / WEIGHTS) | {"logit_scale": np.array(value, np.float32)}, folder / WEIGHTS)
    return _scan()


@dataclass(frozen=True)
class Hostile:
    """One input that is to be refused."""

    build: Build
    words: str
    """What the message holds: the cause."""
    code: int = 2

    @property
    def name(self) -> str:
        """The builder's name in words."""
        return self.build.__name__.replace("_", " ")


CASES = (
    Hostile(shape_of_large_numbers, "is damaged"),
    Hostile(shape_of_many_sides, "has too many operations"),
    Hostile(keys_that_collide, "no state dict of tensors"),
    Hostile(nested_lists, "has too many operations"),
    Hostile(doubling_tuples_as_a_name, "could run code", 1),
    Hostile(a_million_tensors, "has too many operations"),
    Hostile(one_tensor_under_many_names, "has too many operations"),
    Hostile(many_names_for_one_tensor_to_load, "has too many operations"),
    Hostile(a_long_storage_key, "is damaged"),
    Hostile(short_zip64_field, "its large-file field is damaged", 1),
    Hostile(zip_with_a_vast_directory, "never written"),
    Hostile(sparse_weights, "never written"),
    Hostile(sparse_weights_to_load, "never written"),
    Hostile(header_of_many_tensors, "has a header of"),
    Hostile(header_of_many_notes, "has a header of"),
    Hostile(side_beyond_64_bits, "does not fit its bytes"),
    Hostile(side_beyond_64_bits_to_load, "does not fit its bytes"),
    Hostile(timm_of_seven_billion, "lacks tensors of the model"),
    Hostile(patches_of_one_pixel, "image_size"),
    Hostile(many_wide_layers, "lacks tensors of the model"),
    Hostile(wide_resnet, "adds up to 800"),
    Hostile(heads_that_do_not_fit, "describes no model"),
    Hostile(heads_too_wide, "describes no model"),
    Hostile(pooling_left_out, "describes no model"),
    Hostile(tokenizer_without_tokens, "cannot use the tokenizer"),
    Hostile(tokenizer_of_100_megabytes, "larger than 64 MiB"),
    Hostile(tokenizer_without_added_tokens, "'added_tokens'"),
    Hostile(tokenizer_that_doubles_its_text, "does not finish"),
    Hostile(tokenizer_of_another_class, "cannot use the tokenizer"),
    Hostile(tokenizer_with_a_list_for_a_map, "cannot use the tokenizer"),
    Hostile(garbage_sentence_pieces, "cannot use the tokenizer"),
    Hostile(tokenizer_whose_padding_panics, "PanicException: capacity overflow"),
    Hostile(tokenizer_whose_padding_aborts, "memory allocation of"),
    Hostile(damaged_vocabulary, "cannot read the vocabulary"),
    Hostile(sparse_long_name, "never written"),
    Hostile(large_webps, "4096×4096 pixels in 34 bytes"),
    Hostile(animated_webps, "2100×2100 pixels in"),
    Hostile(pictures_of_one_column, "is too elongated"),
    Hostile(lines_for_pictures, "is too elongated"),
    Hostile(picture_of_ten_gigabytes, "never written"),
    Hostile(pictures_in_parquet, "16 times the bytes"),
    Hostile(a_large_picture_in_parquet, "would unpack into"),
    Hostile(parquet_with_unreadable_names, "is not a complete Parquet file"),
    Hostile(pipe_for_classes, "not a regular file"),
    Hostile(zeros_for_classes, "not a regular file"),
    Hostile(zeros_for_a_policy, "not a regular file", 4),
    Hostile(pipe_for_a_policy, "not a regular file", 4),
    Hostile(pipe_for_the_policy_of_a_folder, "not a regular file", 4),
    Hostile(pipe_that_a_policy_extends, "not a regular file", 4),
    Hostile(pipe_for_a_trigger, "not a regular file"),
    Hostile(pipe_for_the_names_of_a_policy, "not a regular file"),
    Hostile(pipe_for_a_picture, "not a regular file"),
    Hostile(zeros_for_a_picture, "not a regular file"),
    Hostile(pipe_for_a_table, "not a regular file"),
    Hostile(pipe_for_a_tar, "not a regular file"),
    Hostile(pipe_for_a_report, "not a regular file"),
    Hostile(zeros_for_a_report, "not a regular file"),
    Hostile(pipe_for_an_inventory, "not a regular file"),
    Hostile(pipe_for_a_configuration, "holds no open_clip_config.json"),
    Hostile(memory_for_a_model, "Input/output error"),
    Hostile(memory_for_classes, "Input/output error"),
    Hostile(model_that_links_to_itself, "Too many levels"),
    Hostile(weights_that_link_to_themselves, "Too many levels"),
    Hostile(pictures_that_link_to_themselves, "is a broken link"),
    Hostile(classes_that_link_to_themselves, "Too many levels"),
    Hostile(a_long_name_for_a_model, "File name too long"),
    Hostile(classes_of_100_megabytes, "larger than 16 MiB"),
    Hostile(a_million_classes, "1000000 lines"),
    Hostile(classes_of_60_000_letters, "60001 letters"),
    Hostile(a_policy_of_90_000_keys, "keys and values", 4),
    Hostile(scale_beyond_floats, "exp(logit_scale) is inf"),
    *(Hostile(tars(name), "set.tar") for name in TARS),
)
