"""Configurations, policies, reports, tokenizers and other documents that are bombs, lies or programs."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from made import CONFIG, POLICY, Case, images, model

GOLDEN = Path(__file__).parents[1] / "golden" / "reports" / "failing.json"
ACCENT = "\n::error::x\r##[error]x\x1b[2J\u202e"

FIELDS = {
    "vision_cfg": ("layers", "width", "head_width", "image_size", "patch_size", "mlp_ratio"),
    "text_cfg": ("context_length", "vocab_size", "width", "heads", "layers"),
}
VALUES: dict[str, Any] = {
    "a billion": 10**9, "10^30": 10**30, "negative": -1, "zero": 0, "a fraction": 0.5, "words": "64", "a truth": True,
    "a list": [10**9] * 3, "a long list": [1] * 100_000, "an object": {"a": 1}, "steering": ACCENT,
}  # fmt: skip

DOWNLOADS: dict[str, dict[str, Any]] = {
    "timm from the hub": {"vision_cfg": {"timm_model_name": "hf-hub:evil/model"}},
    "timm from a folder": {"vision_cfg": {"timm_model_name": "local-dir:/tmp"}},
    "timm by a path": {"vision_cfg": {"timm_model_name": "../../evil"}},
    "timm that is no text": {"vision_cfg": {"timm_model_name": 7}},
    "a text tower of the hub": {"text_cfg": {"hf_model_name": "evil/model"}},
    "a tokenizer of the hub": {"text_cfg": {"hf_tokenizer_name": "evil/model"}},
    "a tokenizer by a path": {"text_cfg": {"hf_tokenizer_name": "../evil"}},
    "code of the hub": {"vision_cfg": {"auto_map": {"AutoModel": "evil.Model"}}},
    "trust": {"text_cfg": {"trust_remote_code": True}},
    "trust in the tokenizer": {"text_cfg": {"tokenizer_kwargs": {"trust_remote_code": True}}},
    "settings of the tokenizer": {"text_cfg": {"tokenizer_kwargs": [1]}},
    "a mode of the tokenizer": {"text_cfg": {"tokenizer_mode": "evil"}},
    "arguments that nest": {"vision_cfg": {"act_kwargs": {"a": {"b": 1}}}},
    "arguments that are a list": {"vision_cfg": {"norm_kwargs": [1]}},
    "no vision": {"vision_cfg": None},
    "no text": {"text_cfg": 7},
    "an embedding of a billion": {"embed_dim": 10**9},
    "an embedding in words": {"embed_dim": "48"},
}

DOCUMENTS: dict[str, bytes] = {
    "empty": b"",
    "a list": b"[]",
    "null": b"null",
    "cut short": b'{"model_cfg": ',
    "100,000 brackets": b"[" * 100_000,
    "100,000 objects": b'{"a":' * 100_000,
    "a key twice": b'{"model_cfg": {}, "model_cfg": {}}',
    "not a number": b'{"model_cfg": NaN}',
    "a number of 100,000 digits": b'{"model_cfg": ' + b"9" * 100_000 + b"}",
    "bytes that are not UTF-8": b'{"\xff": 1}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "nulls": bytes(1000),
    "YAML": b"a: &x [1]\nb: *x\n",
    "a pickle": b"\x80\x04cos\nsystem\n(X\x09\0\0\0touch ran\x85R.",
    "a git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "a page": b"<!doctype html><script>alert(1)</script>",
    "a key that steers": json.dumps({ACCENT: ACCENT}).encode(),
    "2 MiB of spaces": b" " * (2 << 20) + b"{}",
    "a million keys": b"{" + b",".join(b'"%d":1' % i for i in range(1_000_000)) + b"}",
    "a line of 5 million letters": b'"' + b"x" * 5_000_000 + b'"',
}
"""Documents that are not what is asked for, whatever that is."""

POLICIES: dict[str, str] = {
    "a billion laughs": "a: &a [x,x]\n" + "".join(
        f"{c}: &{c} [*{p},*{p}]\n" for p, c in zip("abcdefghij", "bcdefghijk", strict=True)
    ),
    "an anchor": POLICY + "b: &x 1\n",
    "an alias": POLICY + "b: *x\n",
    "an object": POLICY + "b: !!python/object/apply:os.system ['touch ran']\n",
    "an object of a module": POLICY + "b: !!python/name:os.system\n",
    "a tag": POLICY + "b: !evil 1\n",
    "a merge": POLICY + "b: {<<: {a: 1}}\n",
    "a directive": "%YAML 9.9\n---\n" + POLICY,
    "two documents": POLICY + "---\n" + POLICY,
    "a name twice": POLICY + "name: y\n",
    "a key that is a list": POLICY + "? [a]\n: b\n",
    "1,000 brackets": POLICY + "b: " + "[" * 1000,
    "100,000 brackets in a row": "[" * 100_000,
    "100,000 dashes": "- " * 100_000,
    "100,000 question marks": "? " * 100_000,
    "100,000 keys": POLICY + "".join(f"k{i}: 1\n" for i in range(100_000)),
    "2 MiB": POLICY + "#" + "x" * (2 << 20),
    "a key of a megabyte": POLICY + "x" * 1_000_000 + ": 1\n",
    "tabs": POLICY + "\tb: 1\n",
    "a null": POLICY + 'b: "\\0"\n',
    "half a character": POLICY + 'b: "\\ud800"\n',
    "a key that commands": POLICY + '"\\n::error::x": 1\n',
    "a name that steers": POLICY.replace("name: x", 'name: "\\e[2J"') + "z: 1\n",
    "limits beyond floats": POLICY.replace("30pp", "1e999pp"),
    "a limit that is no number": POLICY.replace("30pp", "nanpp"),
    "a limit of 100,000 digits": POLICY.replace("30pp", "9" * 100_000 + "pp"),
    "a pattern that never ends": POLICY.replace("30pp", "1" * 50_000 + "x"),
    "it extends itself": POLICY + "extends: p.yaml\n",
    "it extends a device": POLICY + "extends: /dev/zero\n",
    "it extends an address": POLICY + "extends: https://example.org/p.yaml\n",
    "it extends a list of 10,000": POLICY + "extends: [" + "release," * 10_000 + "]\n",
    "a trigger of a billion pixels": POLICY.replace("[badnet]", "[{kind: badnet, size: 1000000000}]"),
    "a trigger from a device": POLICY.replace("[badnet]", "[{kind: file, path: /dev/zero}]"),
    "a trigger from memory": POLICY.replace("[badnet]", "[{kind: file, path: /proc/self/mem}]"),
    "a list for a policy": "- a\n- b\n",
    "a number for a policy": "7\n",
}  # fmt: skip


def config(name: str, content: Callable[[], bytes], codes: tuple[int, ...] = (2,)) -> Case:
    def build(place: Path) -> list[str]:
        folder = model(place)
        (folder / CONFIG).write_bytes(content())
        return ["inspect", "model"]

    return Case(f"configuration: {name}", build, codes)


def field(part: str, key: str, value: str) -> Case:
    def build(place: Path) -> list[str]:
        model(place, **{part: {key: VALUES[value]}})
        return ["inspect", "model"]

    return Case(f"configuration: {part}.{key} is {value}", build, (2,))


def download(name: str) -> Case:
    def build(place: Path) -> list[str]:
        model(place, **DOWNLOADS[name])
        return ["inspect", "model"]

    return Case(f"configuration: {name}", build, (2,))


def document(what: str, path: str, arguments: list[str], content: bytes, name: str, codes: tuple[int, ...]) -> Case:
    """A document at a place where the command reads one."""

    def build(place: Path) -> list[str]:
        if arguments[0] == "scan":
            model(place)
            images(place)
        (place / path).parent.mkdir(exist_ok=True)
        (place / path).write_bytes(content)
        return arguments

    return Case(f"{what}: {name}", build, codes)


def changed_report(name: str, change: Callable[[dict[str, Any]], None], codes: tuple[int, ...] = (2,)) -> Case:
    def build(place: Path) -> list[str]:
        whole = json.loads(GOLDEN.read_bytes())
        change(whole)
        (place / "report.json").write_text(json.dumps(whole))
        return ["report", "report.json", "-v"]

    return Case(f"report: {name}", build, codes)


def _set(*path: Any) -> Callable[[Any], Callable[[dict[str, Any]], None]]:
    def to(value: Any) -> Callable[[dict[str, Any]], None]:
        def change(whole: dict[str, Any]) -> None:
            part: Any = whole
            for key in path[:-1]:
                part = part[key]
            part[path[-1]] = value

        return change

    return to


def reports() -> Iterator[Case]:
    for path in (
        ("verdict",), ("run",), ("model",), ("policy",), ("images",), ("findings",), ("measurements",), ("classes",),
        ("run", "seconds"), ("model", "parameters"), ("images", "read"), ("schema",),
    ):  # fmt: skip
        for name, value in {"null": None, "a bomb": [[]] * 1000, "10^400": 10**400, "words": ACCENT}.items():
            yield changed_report(f"{'.'.join(path)} is {name}", _set(*path)(value))
    for path in (("verdict", "summary"), ("model", "source"), ("policy", "name"), ("run", "precision")):
        yield changed_report(f"{'.'.join(path)} steers", _set(*path)(ACCENT), (0,))
    yield changed_report("a summary of 10 MB", _set("verdict", "summary")("x" * 10_000_000), (0, 2))
    yield changed_report("a million notices", _set("notices")(["x"] * 1_000_000), (0, 2))


CLASS_LISTS: dict[str, bytes] = {
    "empty": b"",
    "blank lines": b"\n" * 100,
    "one class": b"cat\n",
    "the same class twice": b"cat\ncat\n",
    "bytes that are not UTF-8": b"cat\n\xff\xfe\n",
    "nulls": b"cat\0\ndog\n",
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "names that steer": f"cat\ncat{chr(0x1B)}[2J\n::error::x\n".encode(),
    "names that turn": "cat\ndog\u202egod\n".encode(),
    "a name of 60,000 letters": b"cat\n" + b"x" * 60_000 + b"\n",
    "200,000 classes": b"".join(b"c%d\n" % i for i in range(200_000)),
    "17 MiB": b"cat\n" * (17 << 18),
    "a git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
}

TABLES: dict[str, bytes] = {
    "empty": b"",
    "no rows": b"image,label\n",
    "no images": b"a,b\n1,2\n",
    "a row too short": b"image,label\na.png\n",
    "a quote without end": b'image,label\n"a.png,1\n' + b"x" * 200_000,
    "a column twice": b"image,image\na.png,b.png\n",
    "a field of 10 MB": b"image,label\n" + b"a" * 10_000_000 + b",1\n",
    "100,000 columns": b",".join([b"image"] * 100_000) + b"\n",
    "nulls": b"image,label\na\0.png,1\n",
    "a device": b"image,label\n/dev/zero,0\n/dev/zero,1\n",
    "memory": b"image,label\n/proc/self/mem,0\n/proc/self/mem,1\n",
    "a folder": b"image,label\npictures,0\npictures,1\n",
    "an address": b"image,label\nhttps://example.org/a.png,0\n",
    "a name that steers": b'image,label\n"\x1b[2J.png",0\n"\n::error::x.png",1\n',
    "bytes that are not UTF-8": b"image,label\n\xff\xfe.png,1\n",
    "UTF-16": "image,label\na.png,1\n".encode("utf-16"),
    "labels of 10^30": b"image,label\npictures/cat/0.png,1000000000000000000000000000000\n",
    "formulas": b"image,label\n=cmd|' /C calc'!A0,1\n",
}

TOKENIZERS: dict[str, Any] = {
    "empty": b"",
    "a list": b"[]",
    "an object": b"{}",
    "brackets": b"[" * 200_000,
    "settings that run code": {"auto_map": {"AutoTokenizer": "evil.Tokenizer"}},
}


def tokenizer(name: str) -> Case:
    def build(place: Path) -> list[str]:
        folder = model(place, text_cfg={"hf_tokenizer_name": "a/b"})
        content = TOKENIZERS[name]
        settings = isinstance(content, dict)
        (folder / "tokenizer.json").write_bytes(b"{}" if settings else content)
        (folder / "tokenizer_config.json").write_bytes(json.dumps(content).encode() if settings else content)
        return ["inspect", "model"]

    return Case(
        f"tokenizer: {name}", build, (2,) if "code" in name or name in ("brackets", "empty", "a list") else (0, 2)
    )


SCAN = ["scan", "model", "-p", "p.yaml", "--images", "pictures", "--dry-run"]


def cases() -> Iterator[Case]:
    for part, keys in FIELDS.items():
        for key in keys:
            for value in VALUES:
                if (key, value) not in (("mlp_ratio", "a fraction"),):
                    yield field(part, key, value)
    yield from map(download, DOWNLOADS)
    yield from map(tokenizer, TOKENIZERS)
    for name, content in DOCUMENTS.items():
        yield config(name, lambda content=content: content)
        yield document("policy", "p.yaml", ["policy", "check", "p.yaml"], content, name, (4,))
        yield document("report", "r.json", ["report", "r.json"], content, name, (2,))
        yield document("inventory", "i.yaml", ["audit", "run", "i.yaml", "--out", "out"], content, name, (2,))
        yield document("pack", "pack/pack.json", ["pack", "show", "pack"], content, name, (2,))
        yield document("bundle", "b/SHA256SUMS", ["verify", "b"], content, name, (1, 2))
        yield document(
            "ledger",
            "a/ledger.jsonl",
            ["audit", "verify", "a"],
            content,
            name,
            (0, 1, 2) if name == "empty" else (1, 2),
        )
    for name, text in POLICIES.items():
        right = (0, 4) if name.startswith("a trigger") else (4,)  # opened and drawn by a scan
        yield document("policy", "p.yaml", ["policy", "check", "p.yaml"], text.encode(), name, right)
    for name, content in CLASS_LISTS.items():
        yield document(
            "classes",
            "c.txt",
            ["scan", "model", "--images", "pictures", "--classes", "c.txt", "--dry-run"],
            content,
            name,
            (0, 2, 3),
        )
    for name, content in TABLES.items():
        yield document(
            "text of a table", "t.csv", ["scan", "model", "--images", "t.csv", "--dry-run"], content, name, (0, 2, 3)
        )
    yield from reports()
